//! What the log says of deliveries that fail: enough to go on with the API, and nothing of what is delivered.

use crate::plugins::{event_types, install, send, start};
use crate::program::eventually;
use serde_json::{Value, json};

#[test]
fn a_failure_is_told_with_its_reason_and_the_ids_that_the_api_takes() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["closed", "throwing"]);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = json!({"url": format!("http://{closed}/"), "uid": "closed", "filterTypes": ["closed"]});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    let script = "export function handle(event) { throw new Error(event.payload.note) }";
    install(&server, "throwing", json!({"runs": "javascript", "script": script}));
    let messages = ["closed", "throwing"].map(|name| send(&server, name, json!({"note": "a private word"})));

    let lines = eventually("both deliveries ended", || {
        let lines: Vec<Value> = server.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let ended = lines.iter().filter(|line| line["message"] == "delivery ended undelivered").count();
        (ended == 2).then_some(lines)
    });
    for (uid, message, reason) in
        [("closed", &messages[0], json!("the connection was refused")), ("throwing", &messages[1], Value::Null)]
    {
        let (_, endpoint) = server.call("GET", &format!("/app/acme/endpoint/{uid}"), Value::Null);
        let said = |text: &str| {
            let about = |line: &&Value| {
                line["message"] == text && line["message.id"] == **message && line["endpoint.id"] == endpoint["id"]
            };
            lines.iter().filter(about).collect::<Vec<_>>()
        };
        let failed = said("attempt failed");
        assert!(failed.len() == 4 && failed.iter().all(|line| line["reason"] == reason), "{uid}: {lines:#?}");
        assert_eq!(said("delivery ended undelivered").len(), 1, "{uid}: {lines:#?}");
    }
    assert!(!server.log().contains("a private word"));
}
