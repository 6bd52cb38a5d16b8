//! Endpoints that want more than a signature, seen from them and from those who give tokens for them.

use crate::program::{Program, eventually, ledger};
use crate::receiver::Receiver;
use serde_json::json;
use std::sync::mpsc::channel;
use std::time::Duration;

/// A token endpoint that takes each refresh token once, and gives the next with every access token: `r1` gives `t2` and `r2`.
fn issuer() -> Receiver {
    let mut newest = 1;
    Receiver::saying(move |asked| {
        let body = String::from_utf8(asked.body.clone()).unwrap();
        if !body.contains(&format!("grant_type=refresh_token&refresh_token=r{newest}&")) {
            return (400, json!({"error": "invalid_grant"}).to_string());
        }
        newest += 1;
        let answer =
            json!({"access_token": format!("t{newest}"), "expires_in": 60, "refresh_token": format!("r{newest}")});
        (200, answer.to_string())
    })
}

/// The endpoint `hooks` of the application `acme`, whose tokens come from `issuer`.
fn configure(server: &Program, receiver: &Receiver, issuer: &Receiver) {
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let endpoint = json!({"url": receiver.url(), "uid": "hooks"});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    let oauth = json!({
        "grantType": "refreshToken", "authMethod": "clientSecretPost", "clientId": "bell", "clientSecret": "s",
        "refreshToken": "r1", "tokenUrl": issuer.url(), "scopes": ["hooks"],
    });
    assert_eq!(server.call("PUT", "/app/acme/endpoint/hooks/oauth", oauth).0, 204);
}

#[test]
fn a_refresh_token_that_was_replaced_is_known_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let (issuer, receiver) = (issuer(), Receiver::answering(&[200]));
    let server = Program::start(folder.path(), &[]);
    configure(&server, &receiver, &issuer);
    let delivered = |server: &Program, count: u64, token: &str| {
        let message = json!({"eventType": "a.b", "payload": {}});
        assert_eq!(server.call("POST", "/app/acme/msg", message).0, 202);
        assert_eq!(receiver.next().headers["authorization"], format!("Bearer {token}"));
        eventually("it is recorded", || (ledger(folder.path())["delivered"] == count).then_some(()));
    };
    delivered(&server, 1, "t2");
    server.kill();
    let server = Program::start(folder.path(), &[]);
    delivered(&server, 2, "t3");
    server.kill();
    let server = Program::start(folder.path(), &[]);
    delivered(&server, 3, "t4");
}

#[test]
fn a_refresh_token_is_durable_before_its_access_token_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let (here, arrived) = channel();
    let mut waits = true;
    let receiver = Receiver::saying(move |arrival| {
        here.send(arrival.headers["authorization"].clone()).unwrap();
        if std::mem::take(&mut waits) {
            std::thread::sleep(Duration::from_secs(2));
        }
        (200, String::new())
    });
    let issuer = issuer();
    let server = Program::start(folder.path(), &[]);
    configure(&server, &receiver, &issuer);
    assert_eq!(server.call("POST", "/app/acme/msg", json!({"eventType": "a.b", "payload": {}})).0, 202);
    assert_eq!(arrived.recv_timeout(crate::program::PATIENCE).unwrap(), "Bearer t2");
    // The first attempt with it has not ended.
    server.kill();
    let _server = Program::start(folder.path(), &[]);
    assert_eq!(arrived.recv_timeout(crate::program::PATIENCE).unwrap(), "Bearer t3");
}
