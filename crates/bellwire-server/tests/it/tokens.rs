//! Tokens that are registered, used, listed and taken back, by the command line and the API, over a crash.

use crate::program::{Program, run};
use serde_json::{Value, json};
use std::path::Path;

/// Runs `bellwire token …` against the server; answers stdout.
fn token(data: &Path, server: &Program, arguments: &[&str]) -> String {
    let url = format!("http://{}", server.address);
    let output = run(data, &[&["token"], arguments, &["--url", &url]].concat());
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The status of a request with another token than the operator's.
fn status(server: &Program, token: &str, method: &str, path: &str, body: &Value) -> u16 {
    let body = body.to_string();
    let request = format!(
        "{method} /api/v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    server.raw(&request).0
}

#[test]
fn a_token_is_registered_used_and_taken_back_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let server = Program::start(data, &[]);
    let (created, _) = server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" }));
    assert_eq!(created, 201);
    let sender = token(data, &server, &["create", "--name", "billing", "--scope", "send-only"]);
    assert_eq!(sender.lines().count(), 1, "the token and nothing else: {sender}");
    let made =
        token(data, &server, &["create", "--name", "support", "--application", "acme", "--expires-in", "1h", "--json"]);
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(made["scopes"], json!(["full"]));
    let support = made["token"].as_str().unwrap();
    let (_, portal) = server.call("POST", "/auth/app-portal-access/acme", json!({}));
    let portal = portal["token"].as_str().unwrap();

    let message = json!({ "eventType": "a", "payload": {} });
    assert_eq!(status(&server, &sender, "POST", "/app/acme/msg", &message), 202);
    assert_eq!(status(&server, &sender, "GET", "/app/acme", &json!({})), 403);
    assert_eq!(status(&server, support, "GET", "/app/acme", &json!({})), 200);
    assert_eq!(status(&server, portal, "GET", "/app/acme", &json!({})), 200);

    let list: Value = serde_json::from_str(&token(data, &server, &["list", "--json"])).unwrap();
    let listed: Vec<_> = list.as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap()).collect();
    assert_eq!(listed, ["support", "billing"]);
    assert!(list[1]["lastUsedAt"].is_string(), "{list}");
    assert!(token(data, &server, &["list"]).contains("send-only"));
    token(data, &server, &["expire", list[1]["id"].as_str().unwrap()]);
    assert_eq!(status(&server, portal, "POST", "/auth/logout", &json!({})), 204);
    let refused = |server: &Program| {
        assert_eq!(status(server, &sender, "POST", "/app/acme/msg", &message), 401);
        assert_eq!(status(server, portal, "GET", "/app/acme", &json!({})), 401);
        assert_eq!(status(server, support, "GET", "/app/acme", &json!({})), 200);
    };
    refused(&server);
    // What was answered is durable.
    server.kill();
    let server = Program::start(data, &[]);
    refused(&server);
    let (expired, _) = server.call("POST", "/auth/app/acme/expire-all", json!({}));
    assert_eq!(expired, 204);
    server.kill();
    let server = Program::start(data, &[]);
    assert_eq!(status(&server, support, "GET", "/app/acme", &json!({})), 401);
    assert!(server.stop().success());
}

#[test]
fn a_use_is_written_down_at_the_latest_when_the_server_stops() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let server = Program::start(data, &[]);
    let reader = token(data, &server, &["create", "--name", "r", "--scope", "read-only"]);
    assert_eq!(status(&server, &reader, "GET", "/app", &json!({})), 200);
    assert!(server.stop().success());
    let server = Program::start(data, &[]);
    let list: Value = serde_json::from_str(&token(data, &server, &["list", "--json"])).unwrap();
    assert!(list[0]["lastUsedAt"].is_string(), "{list}");
    assert!(server.stop().success());
}

#[test]
fn a_secret_of_before_still_signs_and_too_many_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let first = Program::start(data, &[]);
    let of_before = first.token.clone();
    assert!(first.stop().success());
    let secret = std::fs::read_to_string(data.join("jwt_secret")).unwrap();
    let server = Program::start(
        data,
        &[
            ("BELLWIRE_JWT_SECRET", "another secret of more than thirty-two bytes"),
            ("BELLWIRE_AUTH_OLD_JWT_SECRETS", secret.trim()),
            ("BELLWIRE_LIMITS_REQUESTS_PER_SECOND", "1"),
            ("BELLWIRE_LIMITS_REQUESTS_BURST", "5"),
        ],
    );
    let statuses: Vec<_> = (0..30).map(|_| status(&server, &of_before, "GET", "/app", &json!({}))).collect();
    assert_eq!(statuses[..5], [200; 5]);
    assert!(statuses.contains(&429), "{statuses:?}");
    assert_eq!(status(&server, "x", "GET", "/app", &json!({})), 401);
    assert!(server.stop().success());
}
