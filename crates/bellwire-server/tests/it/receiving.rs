//! Other people's webhooks, from their request to our endpoint.

use crate::program::{PATIENCE, Program, eventually, ledger};
use crate::receiver::Receiver;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

const SECRET: &str = "It's a Secret to Everybody";

/// An answer: status, head in small letters, body.
struct Answered {
    status: u16,
    head: String,
    body: String,
}

/// The exact bytes of a request.
fn exchange(server: &Program, request: &[u8]) -> Answered {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // It may be answered before all of it was sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Answered { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

fn post(server: &Program, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answered {
    exchange(server, &request("POST", path, headers, body))
}

fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: hooks.example.com\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n", body.len()));
    [text.as_bytes(), body].concat()
}

fn hmac(secret: &str, parts: &[&[u8]]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As GitHub sends it.
fn github(server: &Program, path: &str, secret: &str, delivery: &str, body: &[u8]) -> Answered {
    let signature = format!("sha256={}", hmac(secret, &[body]));
    let headers = [
        ("content-type", "application/json"),
        ("x-github-event", "push"),
        ("x-github-delivery", delivery),
        ("x-hub-signature-256", &signature),
    ];
    post(server, path, &headers, body)
}

/// A server with an application and its source; answers the path of the listener URL.
fn start(data: &Path, source: Value) -> (Program, String) {
    let server = Program::start(data, &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let path = source_at(&server, source);
    (server, path)
}

fn source_at(server: &Program, mut source: Value) -> String {
    for (name, value) in [("uid", json!("git")), ("appId", json!("acme")), ("preset", json!("github"))] {
        if source.get(name).is_none() {
            source[name] = value;
        }
    }
    if source.get("secrets").is_none() {
        source["secrets"] = json!([SECRET]);
    }
    let (status, made) = server.call("POST", "/source", source);
    assert_eq!(status, 201, "{made}");
    let url = made["listenerUrl"].as_str().unwrap();
    url[url.find("/in/").unwrap()..].to_owned()
}

fn requests(server: &Program, outcome: &str) -> Vec<Value> {
    let (status, page) = server.call("GET", &format!("/source/git/request?outcome={outcome}"), json!(null));
    assert_eq!(status, 200, "{page}");
    page["data"].as_array().unwrap().clone()
}

#[test]
fn a_signed_webhook_becomes_a_message_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = start(folder.path(), json!({}));
    let receiver = Receiver::answering(&[200]);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"url": receiver.url()})).0, 201);
    // Spaces, a number that no double holds, a character as it was written: all of it arrives.
    let body = br#"{ "ref":"refs/heads/main",  "id": 12345678901234567890123, "name": "B\u00fcro" }"#;
    let answer = github(&server, &path, SECRET, "d-1", body);
    assert_eq!((answer.status, answer.body.as_str()), (202, ""));
    let arrival = receiver.next();
    assert_eq!((arrival.body.as_slice(), arrival.headers["content-type"].as_str()), (&body[..], "application/json"));
    let (_, messages) = server.call("GET", "/app/acme/msg", json!(null));
    assert_eq!(messages["data"][0]["eventType"], "push");

    // The same again is answered the same, and does nothing.
    let again = github(&server, &path, SECRET, "d-1", body);
    assert_eq!((again.status, again.head.contains("x-duplicate: 1")), (202, true), "{}", again.head);
    // With another body it is a conflict, which is noted.
    let conflict = github(&server, &path, SECRET, "d-1", b"{}");
    assert_eq!((conflict.status, conflict.head.contains("x-duplicate: 1")), (202, true));
    // What is forged is refused without a word; the owner is told why.
    for (secret, delivery) in [("another secret, not theirs", "d-1"), ("another secret, not theirs", "d-2")] {
        let forged = github(&server, &path, secret, delivery, body);
        assert_eq!((forged.status, forged.body.as_str()), (401, ""));
        assert!(!forged.head.contains("x-duplicate"), "nothing is told of what came before");
    }
    let unsigned = post(&server, &path, &[("x-github-delivery", "d-3")], body);
    assert_eq!((unsigned.status, unsigned.body.as_str()), (401, ""));

    let refused = eventually("the refusals are kept", || Some(requests(&server, "refused")).filter(|r| r.len() == 3));
    assert!(refused[0]["reason"].as_str().unwrap().contains("X-Hub-Signature-256"), "{}", refused[0]);
    assert!(refused[1]["reason"].as_str().unwrap().contains("none of the signatures fits"), "{}", refused[1]);
    let accepted = requests(&server, "accepted");
    assert_eq!((accepted.len(), &accepted[0]["dedupeKey"]), (1, &json!("d-1")));
    assert_eq!(accepted[0]["messageId"], messages["data"][0]["id"]);
    let duplicates = [requests(&server, "duplicate"), requests(&server, "conflict")].concat();
    assert!(duplicates.len() == 2 && duplicates.iter().all(|d| d["messageId"] == messages["data"][0]["id"]));
    let metrics = server.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").1;
    for (outcome, count) in [("accepted", 1), ("duplicate", 1), ("conflict", 1), ("unverified", 3)] {
        let line = format!("bellwire_source_requests_total{{outcome=\"{outcome}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    // The listener's token is in no log and in no list.
    let token = path.strip_prefix("/in/").unwrap();
    assert!(!server.log().contains(token));
    assert!(!server.call("GET", "/source/git/request", json!(null)).1.to_string().contains(token));
}

#[test]
fn what_failed_is_run_again_by_its_operator_and_not_by_its_sender() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = start(folder.path(), json!({}));
    let receiver = Receiver::answering(&[500, 200]);
    let endpoint = json!({"uid": "own", "url": receiver.url(), "retrySchedule": []});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    assert_eq!(github(&server, &path, SECRET, "d-1", b"{}").status, 202);
    let first = receiver.next();
    let message = first.header("webhook-id").to_owned();
    let attempts = |message: &str, count: usize| {
        eventually("the attempts are recorded", || {
            let (_, page) = server.call("GET", &format!("/app/acme/attempt/msg/{message}"), json!(null));
            Some(page["data"].as_array()?.len()).filter(|length| *length >= count)
        })
    };
    assert_eq!(attempts(&message, 1), 1);
    // Its sender may try as often as it likes.
    for _ in 0..3 {
        let again = github(&server, &path, SECRET, "d-1", b"{}");
        assert_eq!((again.status, again.head.contains("x-duplicate: 1")), (202, true), "{}", again.head);
    }
    assert_eq!(github(&server, &path, SECRET, "d-2", b"{}").status, 202);
    let second = receiver.next();
    assert_ne!(second.header("webhook-id"), message);
    assert_eq!((attempts(second.header("webhook-id"), 1), attempts(&message, 1)), (1, 1));
    let resend = format!("/app/acme/msg/{message}/endpoint/own/resend");
    assert_eq!(server.call("POST", &resend, json!({})).0, 202);
    assert_eq!(receiver.next().header("webhook-id"), message);
    assert_eq!(attempts(&message, 2), 2);
}

#[test]
fn two_hundred_posts_of_one_webhook_make_one_message() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = start(folder.path(), json!({}));
    let answers: Vec<_> = std::thread::scope(|scope| {
        let posts: Vec<_> = (0..20)
            .map(|_| {
                let (server, path) = (&server, &path);
                scope.spawn(move || (0..10).map(|_| github(server, path, SECRET, "same", b"{}")).collect::<Vec<_>>())
            })
            .collect();
        posts.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.len() == 200 && answers.iter().all(|answer| answer.status == 202));
    assert_eq!(answers.iter().filter(|answer| !answer.head.contains("x-duplicate")).count(), 1);
    assert_eq!(ledger(folder.path())["accepted"], 1);
}

#[test]
fn what_is_acknowledged_is_there_after_a_crash_and_still_known() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = start(folder.path(), json!({"path": "/hooks/git"}));
    assert_eq!(github(&server, &path, SECRET, "d-1", b"{}").status, 202);
    server.kill();
    let server = Program::start(folder.path(), &[]);
    let again = github(&server, "/hooks/git", SECRET, "d-1", b"{}");
    assert_eq!((again.status, again.head.contains("x-duplicate: 1")), (202, true));
    assert_eq!(requests(&server, "accepted").len(), 1);
    assert_eq!(ledger(folder.path())["accepted"], 1);
}

#[test]
fn who_sends_too_much_or_from_elsewhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = start(folder.path(), json!({"bodyBytesMax": 1000}));
    let large = vec![b'x'; 1001];
    assert_eq!(github(&server, &path, SECRET, "d", &large).status, 413);
    let mut chunked =
        format!("POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n");
    for _ in 0..11 {
        chunked.push_str(&format!("64\r\n{}\r\n", "y".repeat(100)));
    }
    chunked.push_str("0\r\n\r\n");
    assert_eq!(exchange(&server, chunked.as_bytes()).status, 413);
    let fits = &large[..1000];
    assert_eq!(github(&server, &path, SECRET, "fits", fits).status, 202);

    let refused = exchange(&server, &request("GET", &path, &[], b""));
    assert_eq!((refused.status, refused.head.contains("allow: post")), (405, true), "{}", refused.head);

    let patch = |change: Value| assert_eq!(server.call("PATCH", "/source/git", change).0, 200);
    patch(json!({"rate": 2}));
    let statuses: Vec<_> = (0..5).map(|n| github(&server, &path, SECRET, &format!("r{n}"), b"{}")).collect();
    let throttled = statuses.iter().find(|answer| answer.status == 429).expect("more than two in a second");
    assert!(throttled.head.contains("retry-after: 1"), "{}", throttled.head);
    assert!(statuses.iter().filter(|answer| answer.status == 202).count() >= 2);
    patch(json!({"rate": null}));
    // Refused for the rate, nothing was noted by which the same request would be a duplicate.
    let first = statuses.iter().position(|answer| answer.status == 429).unwrap();
    let repeated = github(&server, &path, SECRET, &format!("r{first}"), b"{}");
    assert_eq!((repeated.status, repeated.head.contains("x-duplicate")), (202, false));

    patch(json!({"allowedNetworks": ["192.0.2.0/24"]}));
    assert_eq!(github(&server, &path, SECRET, "n1", b"{}").status, 403);
    let forwarded = |delivery: &str| {
        let signature = format!("sha256={}", hmac(SECRET, &[b"{}"]));
        let headers =
            [("x-forwarded-for", "192.0.2.7"), ("x-github-delivery", delivery), ("x-hub-signature-256", &signature)];
        post(&server, &path, &headers, b"{}").status
    };
    assert_eq!(forwarded("n2"), 403, "anybody can write x-forwarded-for");
    patch(json!({"trustedProxies": ["127.0.0.1"]}));
    assert_eq!(forwarded("n3"), 202);

    patch(json!({"allowedNetworks": [], "disabled": true}));
    assert_eq!(github(&server, &path, SECRET, "n4", b"{}").status, 404);
    patch(json!({"disabled": false}));
    assert_eq!(github(&server, &path, SECRET, "n4", b"{}").status, 202);
    assert_eq!(post(&server, "/in/nobody", &[], b"{}").status, 404);
}

#[test]
fn secrets_and_urls_change_while_running() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = start(folder.path(), json!({}));
    let new = "the secret of after the change";
    let add = json!({"secret": new, "gracePeriodSeconds": 3600});
    assert_eq!(server.call("POST", "/source/git/secret", add).0, 204);
    assert_eq!(github(&server, &path, SECRET, "d-1", b"{}").status, 202, "the old one is good for a while");
    assert_eq!(github(&server, &path, new, "d-2", b"{}").status, 202);
    let (_, secrets) = server.call("GET", "/source/git/secret", json!(null));
    let old = secrets["secrets"][1]["fingerprint"].as_str().unwrap();
    assert_eq!(server.call("DELETE", &format!("/source/git/secret/{old}"), json!(null)).0, 204);
    assert_eq!(github(&server, &path, SECRET, "d-3", b"{}").status, 401);
    assert_eq!(github(&server, &path, new, "d-3", b"{}").status, 202);

    let (status, rotated) = server.call("POST", "/source/git/token/rotate", json!(null));
    assert_eq!(status, 200);
    assert_eq!(github(&server, &path, new, "d-4", b"{}").status, 404);
    let url = rotated["listenerUrl"].as_str().unwrap();
    let path = &url[url.find("/in/").unwrap()..];
    assert_eq!(github(&server, path, new, "d-4", b"{}").status, 202);

    // What makes no sense is refused when it is set up, with the place.
    let (status, told) = server.call("PATCH", "/source/git", json!({"preset": "gihub"}));
    assert_eq!((status, &told["detail"][0]["loc"]), (422, &json!(["body", "preset"])));
    let (status, told) = server.call("POST", "/source/git/secret", json!({"secret": "short"}));
    assert_eq!((status, &told["detail"][0]["loc"]), (422, &json!(["body", "secret"])), "{told}");
    let (status, told) = server.call("PATCH", "/source/git", json!({"eventTypeFrom": "nowhere"}));
    assert_eq!((status, &told["detail"][0]["loc"]), (422, &json!(["body", "eventTypeFrom"])), "{told}");
    let (status, told) = server.call("PATCH", "/source/git", json!({"bodyBytesMax": 60 << 20}));
    assert_eq!((status, &told["detail"][0]["loc"]), (422, &json!(["body", "bodyBytesMax"])), "{told}");

    assert_eq!(server.call("DELETE", "/source/git", json!(null)).0, 204);
    assert_eq!(github(&server, path, new, "d-5", b"{}").status, 404);
}

#[test]
fn a_key_with_another_body_can_be_refused_and_keys_can_be_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let dedupe = json!({"by": "places", "places": ["json:a", "json:b"], "conflict": "refuse"});
    let source = json!({"dedupe": dedupe, "eventTypeFrom": "json:kind", "answer": {"status": 200, "body": "thanks"}});
    let (server, path) = start(folder.path(), source);
    let send = |body: &str| github(&server, &path, SECRET, "always the same", body.as_bytes());
    let first = send(r#"{"a":"ab","b":"c","kind":"Über alles!"}"#);
    assert_eq!((first.status, first.body.as_str()), (200, "thanks"));
    assert!(first.head.contains("x-content-type-options: nosniff"), "{}", first.head);
    assert_eq!(send(r#"{"a":"a","b":"bc"}"#).status, 200, "parts do not run into each other");
    let again = send(r#"{"a":"ab","b":"c","kind":"Über alles!"}"#);
    assert_eq!((again.status, again.body.as_str(), again.head.contains("x-duplicate: 1")), (200, "thanks", true));
    assert_eq!(send(r#"{"a":"ab","b":"c","n":1}"#).status, 409);
    assert_eq!(send(r#"{"a":"ab"}"#).status, 200);
    assert!(!send(r#"{"a":"ab"}"#).head.contains("x-duplicate"), "what lacks a part is like no other");
    let (_, messages) = server.call("GET", "/app/acme/msg", json!(null));
    let types: Vec<_> = messages["data"].as_array().unwrap().iter().map(|m| m["eventType"].as_str().unwrap()).collect();
    assert_eq!(types, ["github", "github", "github", "ber_alles"]);
}

#[test]
fn questions_of_senders_are_answered_and_make_no_message() {
    let folder = tempfile::tempdir().unwrap();
    let (server, path) = start(folder.path(), json!({"preset": "slack"}));
    let ask = |secret: &str| {
        let body = br#"{"type":"url_verification","challenge":"3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}"#;
        let now = std::process::Command::new("date").arg("+%s").output().unwrap().stdout;
        let now = String::from_utf8(now).unwrap().trim().to_owned();
        let signature = format!("v0={}", hmac(secret, &[b"v0:", now.as_bytes(), b":", body]));
        let headers = [
            ("content-type", "application/json"),
            ("x-slack-request-timestamp", &now),
            ("x-slack-signature", &signature),
        ];
        post(&server, &path, &headers, body)
    };
    let answer = ask(SECRET);
    assert_eq!((answer.status, answer.body.as_str()), (200, "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"));
    assert!(answer.head.contains("content-type: text/plain"), "{}", answer.head);
    assert_eq!(ask("another secret, not theirs").status, 401);
    eventually("the question is noted", || Some(requests(&server, "handshake")).filter(|r| r.len() == 1));

    // One that comes by GET, although the source takes POST alone.
    let (status, told) = server.call("PATCH", "/source/git", json!({"preset": "dropbox"}));
    assert_eq!(status, 200, "{told}");
    let answer = exchange(&server, &request("GET", &format!("{path}?challenge=abc"), &[], b""));
    assert_eq!((answer.status, answer.body.as_str()), (200, "abc"));
    assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
    assert_eq!(exchange(&server, &request("GET", &path, &[], b"")).status, 405);
    assert_eq!(ledger(folder.path())["accepted"], 0);
}

#[test]
fn a_token_in_the_request_is_believed_and_never_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let token = "TKoijwefoijwefoijwefoijwef";
    let (server, path) = start(folder.path(), json!({"preset": "gitlab", "secrets": [token]}));
    let send = |token: &str, delivery: &str| {
        let headers = [("x-gitlab-token", token), ("x-gitlab-event", "Push Hook"), ("idempotency-key", delivery)];
        post(&server, &path, &headers, b"{}").status
    };
    assert_eq!((send(token, "1"), send("TKoijwefoijwefoijwefoijweg", "2")), (202, 401));
    eventually("the refusal is kept", || Some(requests(&server, "refused")).filter(|r| r.len() == 1));
    let shown = server.call("GET", "/source/git/request", json!(null)).1.to_string();
    assert!(!shown.contains("TKoijwef") && shown.contains("***"), "{shown}");
    assert!(!server.log().contains("TKoijwef"));
}

#[test]
fn who_must_give_user_and_password_is_asked_for_them_and_none_of_it_is_on_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_MAIN_SECRET", "canary-canary-canary-canary")]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let (password, token) = ("a:b and passé", "TKoijwefoijwefoijwefoijwef");
    let basic = source_at(&server, json!({"preset": "basic", "secrets": [format!("jo:{password}")]}));
    let in_url = source_at(&server, json!({"uid": "tk", "preset": "url-token", "secrets": [token]}));

    // `jo:a:b and passé` in base64, and the same with an e.
    let (right, wrong) = ("am86YTpiIGFuZCBwYXNzw6k=", "am86YTpiIGFuZCBwYXNzZQ==");
    for (authorization, status) in [
        (format!("Basic {right}"), 202),
        (format!("basic {right}"), 202),
        (format!("Basic {wrong}"), 401),
        (right.to_owned(), 401),
        (String::new(), 401),
    ] {
        let headers = [("authorization", authorization.as_str())];
        let headers = if authorization.is_empty() { &headers[1..] } else { &headers[..] };
        let answer = post(&server, &basic, headers, b"{}");
        assert_eq!(answer.status, status, "{authorization}: {}", answer.head);
        let asks = answer.head.contains("www-authenticate: basic realm=\"webhooks\", charset=\"utf-8\"");
        assert_eq!((asks, answer.body.is_empty()), (status == 401, true), "{authorization}: {}", answer.head);
    }
    assert_eq!(post(&server, &format!("{in_url}?auth={token}"), &[], b"{}").status, 202);
    let refused = post(&server, &format!("{in_url}?auth={token}x"), &[], b"{}");
    assert_eq!((refused.status, refused.head.contains("www-authenticate")), (401, false), "{}", refused.head);

    let log = server.log();
    assert!(server.stop().success());
    let written =
        std::fs::read_dir(folder.path()).unwrap().flatten().filter_map(|file| std::fs::read(file.path()).ok());
    for bytes in written.chain([log.into_bytes()]) {
        for secret in [password, token, right, wrong] {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret}");
        }
    }
}

#[test]
fn what_is_passed_on_in_a_circle_ends() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [(a, path_a), (b, path_b)] =
        [0, 1].map(|n: usize| start(folders[n].path(), json!({"preset": "none", "secrets": []})));
    // The endpoint of each posts to the source of the other. A server does not post to itself: its guard sees to that.
    for (server, to, path) in [(&a, &b, &path_b), (&b, &a, &path_a)] {
        let url = format!("http://{}{path}", to.address);
        assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"url": url})).0, 201);
    }
    let own = format!("http://{}{path_a}", a.address);
    assert_eq!(a.call("POST", "/app/acme/endpoint", json!({"url": own})).0, 422);
    assert_eq!(post(&a, &path_a, &[], b"{}").status, 202);
    let refused = eventually("the circle is noticed", || Some(requests(&a, "refused")).filter(|r| !r.is_empty()));
    assert_eq!(refused[0]["status"], 508);
    assert!(refused[0]["reason"].as_str().unwrap().contains("circles"), "{}", refused[0]);
    let accepted = [0, 1].map(|n: usize| ledger(folders[n].path())["accepted"].clone());
    assert_eq!(accepted, [4, 4], "passed on seven times, refused the eighth");
}

#[test]
fn the_command_line_adds_shows_rotates_and_removes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let url = format!("http://{}", server.address);
    let run = |arguments: &[&str]| {
        let output = crate::program::bellwire(folder.path())
            .arg("source")
            .args(arguments)
            .env("BELLWIRE_URL", &url)
            .env("BELLWIRE_TOKEN", &server.token)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    std::fs::write(folder.path().join("secret"), format!("{SECRET}\n")).unwrap();
    let add = ["add", "git", "--preset", "github", "--app", "acme", "--secret-file", "secret", "--path", "/hooks/git"];
    let (good, listener, told) = run(&add);
    assert!(good && listener.starts_with(&format!("{url}/in/")) && listener.lines().count() == 1, "{listener} {told}");
    let path = &listener.trim()[url.len()..];
    assert_eq!(github(&server, path, SECRET, "d-1", b"{}").status, 202);
    assert_eq!(github(&server, "/hooks/git", SECRET, "d-2", b"{}").status, 202);
    assert_eq!(github(&server, path, "another secret, not theirs", "d-3", b"{}").status, 401);
    let (_, listed, _) = run(&["list"]);
    assert!(listed.contains("git") && !listed.contains("/in/"), "{listed}");
    let (_, shown, _) = run(&["show", "git", "--json"]);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((shown["uid"].as_str(), shown["listenerUrl"].as_str()), (Some("git"), Some(listener.trim())));
    let requests =
        eventually("the refusal is kept", || Some(run(&["requests", "git"]).1).filter(|t| t.contains("refused")));
    assert!(requests.contains("none of the signatures fits"), "{requests}");
    std::fs::write(folder.path().join("secret"), "the secret of after the change").unwrap();
    assert!(run(&["rotate", "git", "--secret-file", "secret", "--grace", "0"]).0);
    assert_eq!(github(&server, path, "the secret of after the change", "d-4", b"{}").status, 202);
    let (good, rotated, _) = run(&["rotate", "git", "--token"]);
    assert!(good && rotated != listener && rotated.starts_with(&format!("{url}/in/")));
    assert!(run(&["remove", "git"]).0);
    let (good, _, told) = run(&["show", "git"]);
    assert!(!good && told.contains("error:"), "{told}");
    let bounded = "add sq --preset square --app acme --secret-file secret --method POST --method PUT --body-bytes-max 2000 --rate 5 \
                   --allow 192.0.2.0/24 --allow 127.0.0.1 --trusted-proxy 127.0.0.1 --public-url https://hooks.example.com/sq";
    assert!(run(&bounded.split_whitespace().collect::<Vec<_>>()).0);
    let shown: Value = serde_json::from_str(&run(&["show", "sq", "--json"]).1).unwrap();
    for (name, value) in [
        ("methods", json!(["POST", "PUT"])),
        ("bodyBytesMax", json!(2000)),
        ("rate", json!(5)),
        ("allowedNetworks", json!(["192.0.2.0/24", "127.0.0.1/32"])),
        ("trustedProxies", json!(["127.0.0.1/32"])),
        ("url", json!("https://hooks.example.com/sq")),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    let (good, _, told) = run(&["add", "x", "--preset", "githup", "--app", "acme"]);
    assert!(!good && told.contains("githup"), "{told}");
    assert!(run(&["presets"]).1.contains("stripe"));
}

#[test]
fn the_sender_gets_what_a_handler_responds_or_the_fallback() {
    let folder = tempfile::tempdir().unwrap();
    let answer = json!({"status": 200, "body": "later", "waitMs": 5000});
    let (server, path) = start(folder.path(), json!({"answer": answer}));
    let code = "const handle = (event, ctx) => { console.log('a secret of ours'); \
                return event.payload.ask ? ctx.respond({ status: 418, headers: { 'x-own': 'a', 'transfer-encoding': 'b' }, \
                body: { is: event.payload.ask } }) : ctx.ack() }";
    let plugin = json!({"uid": "answers", "plugin": {"runs": "javascript", "script": code}});
    let (status, told) = server.call("POST", "/app/acme/endpoint", plugin);
    assert_eq!(status, 201, "{told}");
    let asked = github(&server, &path, SECRET, "d-1", br#"{"ask":"tea"}"#);
    assert_eq!((asked.status, asked.body.as_str()), (418, r#"{"is":"tea"}"#), "{}", asked.head);
    assert!(asked.head.contains("x-own: a") && !asked.head.contains("transfer-encoding"), "{}", asked.head);
    // Nobody runs it again for the sender's repetition.
    let again = github(&server, &path, SECRET, "d-1", br#"{"ask":"tea"}"#);
    assert_eq!((again.status, again.body.as_str(), again.head.contains("x-duplicate")), (200, "later", true));
    // A handler that has nothing to say leaves the source's own answer, at once, and keeps its console to itself.
    let told = github(&server, &path, SECRET, "d-2", b"{}");
    assert_eq!((told.status, told.body.as_str()), (200, "later"));
    assert_eq!(ledger(folder.path())["accepted"], 2);
}

#[test]
fn a_subscription_at_a_hub_is_made_and_renewed_before_its_lease_ends() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let hub = Receiver::answering(&[202]);
    let settings = json!({"topic": "https://a.example/feed", "hub": hub.url(), "lease_seconds": "3600"});
    let mut source = json!({
        "uid": "feed", "name": "feed", "appId": "acme", "preset": "websub", "secrets": [SECRET], "path": "/feeds/a", "settings": settings,
    });
    let (status, refused) = server.call("POST", "/source", source.clone());
    assert_eq!((status, &refused["detail"][0]["loc"]), (422, &json!(["body", "url"])), "{refused}");
    source["url"] = "https://hooks.example.com/feeds/a".into();
    assert_eq!(server.call("POST", "/source", source).0, 201);

    let asked = |arrival: crate::receiver::Arrival| {
        let form = String::from_utf8(arrival.body).unwrap();
        assert!(form.contains("hub.mode=subscribe") && form.contains("hub.lease_seconds=3600"), "{form}");
        assert!(form.contains("hub.callback=https%3A%2F%2Fhooks.example.com%2Ffeeds%2Fa"), "{form}");
        assert!(form.contains("hub.secret=") && form.contains("hub.topic=https%3A%2F%2Fa.example%2Ffeed"), "{form}");
    };
    asked(hub.next());
    // The hub asks back, and gives less than was wanted.
    let question = |topic: &str| {
        let query = format!("hub.mode=subscribe&hub.topic={topic}&hub.challenge=c-1&hub.lease_seconds=3");
        exchange(&server, &request("GET", &format!("/feeds/a?{query}"), &[], b""))
    };
    assert_eq!(question("https%3A%2F%2Fb.example%2Ffeed").status, 404);
    let answer = question("https%3A%2F%2Fa.example%2Ffeed");
    assert_eq!((answer.status, answer.body.as_str()), (200, "c-1"));
    let state = || server.call("GET", "/source/feed/state", json!(null)).1;
    assert_eq!(state()["position"]["tries"], 0, "{}", state());
    asked(hub.next());
    eventually("what it asked is kept", || (state()["position"]["tries"] == 1).then_some(()));
    // Then it will have no more of it, and says so.
    let denied = "hub.mode=denied&hub.topic=https%3A%2F%2Fa.example%2Ffeed&hub.reason=not+here";
    assert_eq!(exchange(&server, &request("GET", &format!("/feeds/a?{denied}"), &[], b"")).status, 200);
    assert_eq!((&state()["position"]["denied"], &state()["position"]["until"]), (&json!("not here"), &json!(null)));
    eventually("its state says so", || {
        state().to_string().contains("has denied the subscription: not here").then_some(())
    });
    assert!(server.stop().success());
}
