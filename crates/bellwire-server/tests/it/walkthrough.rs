//! The story of ARCHITECTURE.md, top to bottom: a message that is retried twice, a crash, and the sum that comes out.

use crate::program::{Program, eventually, ledger};
use crate::receiver::Receiver;
use serde_json::json;

#[test]
fn a_message_is_accepted_signed_retried_delivered_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);

    // An application is the customer on whose behalf we send; she has one endpoint, which fails twice before it works.
    let receiver = Receiver::answering(&[503, 500, 200]);
    let (status, application) = server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"}));
    assert_eq!((status, &application["uid"]), (201, &json!("acme")));
    let endpoint = json!({"url": receiver.url(), "uid": "hooks", "eventTypes": null});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    let key = server.key_of("/app/acme/endpoint/hooks");

    // 202 means: on disk, with everyone it is owed to.
    let message = json!({"eventType": "invoice.paid", "payload": {"id": 7, "amount": 1250}});
    let (status, message) = server.call("POST", "/app/acme/msg", message);
    assert_eq!(status, 202);
    let id = message["id"].as_str().unwrap();

    // Three attempts arrive, under one id, each with its own valid signature over the very bytes that were accepted.
    for _ in 0..3 {
        let arrival = receiver.next();
        arrival.verify(&key);
        assert_eq!(arrival.header("webhook-id"), id);
        assert_eq!(arrival.body, br#"{"id":7,"amount":1250}"#);
    }

    // Each attempt is in the log, newest first, with what the endpoint said.
    let attempts = eventually("the third attempt is recorded", || {
        let (_, page) = server.call("GET", &format!("/app/acme/attempt/msg/{id}"), json!(null));
        (page["data"].as_array()?.len() == 3).then(|| page["data"].clone())
    });
    let seen = |field: &str| attempts.as_array().unwrap().iter().map(|a| a[field].clone()).collect::<Vec<_>>();
    assert_eq!(seen("responseStatusCode"), [200, 500, 503]);
    assert_eq!(seen("status"), [0, 2, 2]);
    assert_eq!(seen("response"), ["hi", "hi", "hi"]);

    // The sum comes out while the server runs.
    let expected =
        json!({"accepted": 1, "matched": 1, "delivered": 1, "pending": 0, "ended": ledger(folder.path())["ended"]});
    assert_eq!(ledger(folder.path()), expected);
    assert!(expected["ended"].as_object().unwrap().values().all(|n| n == 0));
    assert!(server.stop().success());
}

#[test]
fn what_was_acknowledged_survives_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "300ms,300ms,300ms,300ms")]);

    // Nobody listens there yet.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let endpoint = json!({"url": format!("http://{closed}/"), "uid": "hooks"});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    let send = |n: u32| {
        server.call(
            "POST",
            "/app/acme/msg",
            json!({"eventType": "a.b", "eventId": format!("e{n}"), "payload": {"n": n}}),
        )
    };
    for n in 0..20 {
        assert_eq!(send(n).0, 202);
    }
    server.kill();

    // After the crash the endpoint moves to a receiver that works; everything arrives there, and nothing is made twice.
    let server = Program::start(folder.path(), &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "300ms,300ms,300ms,300ms")]);
    let receiver = Receiver::answering(&[200]);
    assert_eq!(server.call("PATCH", "/app/acme/endpoint/hooks", json!({"url": receiver.url()})).0, 200);
    let again = server.call("POST", "/app/acme/msg", json!({"eventType": "a.b", "eventId": "e7", "payload": {"n": 7}}));
    assert_eq!(again.0, 409, "the event id is known after the crash");
    let mut arrived: Vec<_> = (0..20).map(|_| receiver.next().body).collect();
    arrived.sort();
    let mut expected: Vec<_> = (0..20).map(|n| format!(r#"{{"n":{n}}}"#).into_bytes()).collect();
    expected.sort();
    assert_eq!(arrived, expected);
    let ledger = eventually("everything is recorded", || Some(ledger(folder.path())).filter(|l| l["pending"] == 0));
    assert_eq!((&ledger["accepted"], &ledger["delivered"]), (&json!(20), &json!(20)));
}
