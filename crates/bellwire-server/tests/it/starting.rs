//! Starting, refusing to start, and stopping.

use crate::program::{Program, bellwire, eventually, run};
use crate::receiver::Receiver;
use serde_json::json;

#[test]
fn a_setting_without_meaning_stops_the_start_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (name, value) in [
        ("SVIX_RETRY_SCHEDULE", "soon"),
        ("SVIX_WORKER_REQUEST_TIMEOUT", "-1"),
        ("SVIX_WHITELIST_SUBNETS", "[everything]"),
        ("SVIX_LISTEN_ADDRESS", "here"),
        ("BELLWIRE_DELIVERY_HEADERS", "none"),
        ("BELLWIRE_NO_SUCH_SETTING", "1"),
    ] {
        let output = bellwire(folder.path()).arg("serve").env(name, value).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(name), "{name}: {told}");
    }
}

#[test]
fn a_data_folder_has_one_server() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let second = run(folder.path(), &["serve", "--listen", "127.0.0.1:0"]);
    let told = String::from_utf8(second.stderr).unwrap();
    assert!(!second.status.success() && told.contains("in use"), "{told}");
    assert!(server.stop().success());
}

#[test]
fn without_an_allowed_network_no_private_address_is_reached() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_EGRESS_ALLOW", "203.0.113.7/32")]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    for url in
        ["http://127.0.0.1:9000/", "http://[::1]/", "http://0x7f.1/", "http://169.254.169.254/", "http://localhost/"]
    {
        let (status, answer) = server.call("POST", "/app/acme/endpoint", json!({"url": url}));
        assert_eq!(status, 422, "{url}: {answer}");
        assert_eq!(answer["detail"][0]["loc"], json!(["body", "url"]), "{url}: {answer}");
    }
}

#[test]
fn ambiguous_requests_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let ping =
        |rest: &str| server.raw(&format!("GET /api/v1/health/ping HTTP/1.1\r\nconnection: close\r\n{rest}\r\n")).0;
    assert_eq!(ping("host: a\r\n"), 204);
    for bad in
        ["", "host: a\r\nhost: b\r\n", "host: a\n", "host: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n"]
    {
        let status = ping(bad);
        assert!(status == 0 || status == 400, "{bad:?}: {status}");
    }
}

#[test]
fn metrics_ask_for_their_token_if_they_have_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_SERVER_METRICS_TOKEN", "let-me-see-the-metrics")]);
    let ask = |authorization: &str| {
        server.raw(&format!("GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{authorization}\r\n"))
    };
    let token = format!("authorization: Bearer {}\r\n", server.token);
    for wrong in ["", "authorization: Bearer let-me-see-the-metric\r\n", token.as_str()] {
        let (status, text) = ask(wrong);
        assert!(status == 401 && !text.contains("bellwire_"), "{status} {text}");
    }
    let (status, text) = ask("authorization: Bearer let-me-see-the-metrics\r\n");
    assert!(status == 200 && text.contains("bellwire_messages_accepted_total"));
}

#[test]
fn metrics_say_what_happened() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    assert_eq!(server.call("POST", "/app/acme/msg", json!({"eventType": "a", "payload": {}})).0, 202);
    let (status, text) = server.raw("GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert_eq!(status, 200);
    for line in
        ["bellwire_messages_accepted_total 1", "bellwire_commit_duration_seconds_count", "bellwire_lane_depth 0"]
    {
        assert!(text.contains(line), "{line} in {text}");
    }
}

/// A shard without applications once held the watermark of all back: recovery, retention and deletion then read the whole log.
#[test]
fn the_watermark_moves_although_a_shard_has_nothing_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_SERVER_SHARDS", "4")]);
    let receiver = Receiver::answering(&[200]);
    assert_eq!(server.call("POST", "/app", json!({"name": "A", "uid": "a"})).0, 201);
    assert_eq!(server.call("POST", "/app", json!({"name": "Nobody listens", "uid": "b"})).0, 201);
    assert_eq!(server.call("POST", "/app/a/endpoint", json!({"url": receiver.url()})).0, 201);
    let send = |app: &str| {
        let (status, message) =
            server.call("POST", &format!("/app/{app}/msg"), json!({"eventType": "a", "payload": {}}));
        assert_eq!(status, 202);
        message["id"].as_str().unwrap().parse::<bellwire_model::MessageId>().unwrap().sequence()
    };
    send("a");
    let last = send("b");
    receiver.next();
    let store = rusqlite::Connection::open(folder.path().join("bellwire.db")).unwrap();
    eventually("the watermark is above every message", || {
        // A watermark goes with a commit, and a commit needs something to write.
        let _ = server.call("PUT", "/app/c", json!({"name": "C"}));
        let watermark: i64 = store.query_row("SELECT watermark FROM meta", [], |row| row.get(0)).unwrap();
        (watermark > last.as_u64() as i64).then_some(())
    });
}
