//! What waits for an endpoint: why, and how somebody takes it back.

use crate::program::{Program, eventually, ledger};
use crate::receiver::Receiver;
use serde_json::{Value, json};
use std::sync::mpsc::channel;

fn send(server: &Program, count: usize) {
    for n in 0..count {
        let message = json!({"eventType": "a.b", "payload": {"n": n}});
        assert_eq!(server.call("POST", "/app/acme/msg", message).0, 202);
    }
}

#[test]
fn what_is_cancelled_while_it_stands_in_a_queue_in_memory_is_not_sent() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let (release, released) = channel::<()>();
    // The first is on its way until this test has cancelled the others.
    let receiver = Receiver::saying(move |_| {
        let _ = released.recv();
        (200, String::new())
    });
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let endpoint = json!({"url": receiver.url(), "uid": "slow", "fifo": true});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    send(&server, 20);
    let cancel = json!({"createdBefore": "2100-01-01T00:00:00Z"});
    assert_eq!(server.call("POST", "/app/acme/endpoint/slow/cancel-msgs", cancel).0, 204);
    // Answered means that the engine has let go of them: whatever may start now does not.
    drop(release);
    let later = json!({"eventType": "a.b", "payload": {"n": "later"}});
    assert_eq!(server.call("POST", "/app/acme/msg", later).0, 202);
    assert_eq!(receiver.next().body, br#"{"n":0}"#, "what was on its way");
    assert_eq!(receiver.next().body, br#"{"n":"later"}"#, "and the next is what was sent afterwards");
    let sum: Value = eventually("all have ended", || {
        let sum = ledger(folder.path());
        (sum["pending"] == 0).then_some(sum)
    });
    // The first one's attempt is recorded whatever happens; whether it was delivered or cancelled is who was first.
    let cancelled = sum["ended"]["cancelled"].as_u64().unwrap();
    assert!(cancelled >= 19 && sum["delivered"] == 21 - cancelled, "{sum}");
    assert!(receiver.is_quiet());
}

#[test]
fn an_endpoint_says_whether_its_deliveries_wait_for_its_rate() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let receiver = Receiver::answering(&[200]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    for (uid, rate) in [("slow", json!(1)), ("free", json!(null))] {
        let endpoint = json!({"url": receiver.url(), "uid": uid, "throttleRate": rate});
        assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    }
    let status = |uid: &str| server.call("GET", &format!("/app/acme/endpoint/{uid}/rate-limit-status"), json!(null)).1;
    assert_eq!(status("slow"), json!({"status": "Ok", "throttledSince": null}));
    send(&server, 4);
    let limited = eventually("some wait for the rate", || {
        let status = status("slow");
        (status["status"] == "RateLimited").then_some(status)
    });
    let since = limited["throttledSince"].as_str().unwrap();
    let (_, page) = server.call("GET", "/app/acme/msg", json!(null));
    let mut accepted: Vec<_> =
        page["data"].as_array().unwrap().iter().map(|m| m["timestamp"].as_str().unwrap()).collect();
    accepted.sort_unstable();
    assert!((accepted[0]..=accepted[3]).contains(&since), "{since} of {accepted:?}");
    assert_eq!(status("free")["status"], "Ok");
    (0..8).for_each(|_| drop(receiver.next()));
    eventually("none waits any more", || (status("slow")["status"] == "Ok").then_some(()));
}
