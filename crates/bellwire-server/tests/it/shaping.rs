//! What an endpoint makes of a message, seen from the receiver.

use crate::program::{Program, eventually, ledger};
use crate::receiver::Receiver;
use serde_json::json;

#[test]
fn an_endpoint_gets_only_what_its_filter_takes_and_the_ledger_knows() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let (rich, all) = (Receiver::answering(&[200]), Receiver::answering(&[200]));
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let endpoint = json!({"url": rich.url(), "uid": "rich", "filter": "payload.amount > 1000"});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"url": all.url(), "uid": "all"})).0, 201);
    let send = |server: &Program, payload| {
        let message = json!({"eventType": "invoice.paid", "payload": payload});
        assert_eq!(server.call("POST", "/app/acme/msg", message).0, 202);
    };
    // The second has no amount: the filter cannot say, which means no, and is counted.
    for payload in [json!({"amount": 1}), json!({"id": 2}), json!({"amount": 1001})] {
        send(&server, payload);
    }
    assert_eq!(rich.next().body, br#"{"amount":1001}"#);
    let metrics = server.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").1;
    assert!(metrics.contains("bellwire_filters_failed_total 1"), "{metrics}");
    eventually("all four are recorded", || {
        let sum = ledger(folder.path());
        (sum["accepted"] == 3 && sum["matched"] == 4 && sum["delivered"] == 4).then_some(())
    });
    // A crash forgets what was compiled, not what was written.
    server.kill();
    let server = Program::start(folder.path(), &[]);
    for payload in [json!({"amount": 2}), json!({"amount": 1002})] {
        send(&server, payload);
    }
    assert_eq!(rich.next().body, br#"{"amount":1002}"#);
}
