//! A sender that waits for its endpoints' answer.

use crate::program::{Program, eventually, ledger};
use crate::receiver::Receiver;
use serde_json::{Value, json};

fn send(server: &Program, query: &str, event: &str) -> Value {
    let message = json!({"eventType": "order.placed", "eventId": event, "payload": {"sum": 7}});
    let (status, sent) = server.call("POST", &format!("/app/acme/msg?{query}"), message);
    assert_eq!(status, 202, "{sent}");
    sent["answer"].clone()
}

fn decision(answer: &Value) -> (&str, bool) {
    (answer["decision"].as_str().unwrap(), answer.get("fallback").is_some())
}

#[test]
fn a_sender_gets_what_its_endpoints_decide_or_its_own_fallback() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("SVIX_RETRY_SCHEDULE", "1")]);
    // Decides by the header of its own endpoint; the one that hangs never answers.
    let receiver = Receiver::saying(|arrival| match arrival.headers["x-answer"].as_str() {
        "allow" => (200, "fine".to_owned()),
        "deny" => (200, json!({"decision": "deny", "why": "too much"}).to_string()),
        "patch" => (200, json!({"decision": "patch", "patch": {"sum": 5}}).to_string()),
        "rubbish" => (200, json!({"decision": "perhaps"}).to_string()),
        _ => (500, "down".to_owned()),
    });
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let add = |uid: &str, url: String| {
        let endpoint = json!({"url": url, "uid": uid, "headers": {"x-answer": uid}});
        assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    };
    add("allow", receiver.url());
    add("patch", receiver.url());
    // Nobody objects, one wants a change.
    let answer = send(&server, "wait=10&fallback=deny", "1");
    assert_eq!((decision(&answer), &answer["patch"]), (("patch", false), &json!({"sum": 5})));
    assert_eq!(decision(&send(&server, "wait=10&wait_for=allow&fallback=deny", "2")), ("allow", false));
    add("deny", receiver.url());
    let answer = send(&server, "wait=10", "3");
    assert_eq!(decision(&answer), ("deny", false));
    assert!(answer["body"].as_str().unwrap().contains("too much"), "{answer}");
    // What is no answer is not taken for one, and costs no more than the deadline.
    add("rubbish", receiver.url());
    add("broken", receiver.url());
    add("silent", format!("http://{}/", silent.local_addr().unwrap()));
    for (only, why) in [("rubbish", "`decision`"), ("broken", "500"), ("silent", "within 0.3 s")] {
        let answer = send(&server, &format!("wait=0.3&wait_for={only}&fallback=deny"), only);
        assert_eq!(decision(&answer), ("deny", true));
        assert!(answer["fallback"].as_str().unwrap().contains(why), "{answer}");
    }
    // Without waiting there is no answer, and the message goes out all the same.
    assert_eq!(send(&server, "", "7"), Value::Null);
    for (query, field) in
        [("wait=31", "wait"), ("wait=0", "wait"), ("wait=1&wait_for=none", "wait_for"), ("fallback=deny", "fallback")]
    {
        let message = json!({"eventType": "a.b", "payload": {}});
        let (status, refused) = server.call("POST", &format!("/app/acme/msg?{query}"), message);
        assert_eq!((status, &refused["detail"][0]["loc"]), (422, &json!(["query", field])), "{refused}");
    }
    eventually("all that was sent is kept and owed", || {
        let sum = ledger(folder.path());
        (sum["accepted"] == 7 && sum["matched"] == 2 + 2 + 3 + 3 * 6 + 6).then_some(())
    });
}

#[test]
fn the_same_request_gets_the_answer_that_was_given_before() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let receiver = Receiver::saying(|_| (200, json!({"decision": "deny"}).to_string()));
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"url": receiver.url()})).0, 201);
    let send = || {
        let body = json!({"eventType": "a.b", "payload": {}}).to_string();
        let head = format!(
            "POST /api/v1/app/acme/msg?wait=10 HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\nidempotency-key: k\r\ncontent-length: {}\r\n\r\n{body}",
            server.token,
            body.len()
        );
        let (status, text) = server.raw(&head);
        assert_eq!(status, 202, "{text}");
        let sent: Value = serde_json::from_str(&text[text.find('{').unwrap()..]).unwrap();
        sent["answer"].clone()
    };
    let first = send();
    assert_eq!(decision(&first), ("deny", false));
    eventually("the attempt is in the log", || (ledger(folder.path())["delivered"] == 1).then_some(()));
    assert_eq!(send(), first);
    assert_eq!(receiver.next().body, b"{}");
}
