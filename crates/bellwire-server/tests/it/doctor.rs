//! `bellwire doctor` against receivers that do it right and that do it wrong, and `bellwire explain` against a server.

use crate::program::{Program, eventually, run};
use crate::receiver::Receiver;
use bellwire_signature::{SignedHeaders, TOLERANCE_DEFAULT, VerifyKey, verify};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

struct Request {
    method: String,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// A receiver that answers as `judge` says, and keeps connections open if it may.
fn receiver(keep_alive: bool, judge: impl Fn(&Request) -> u16 + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hooks?token=hunter2", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let judge = judge.clone();
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream.unwrap());
                while let Some(request) = read(&mut stream) {
                    let connection = if keep_alive { "keep-alive" } else { "close" };
                    let status = judge(&request);
                    let answer = format!(
                        "HTTP/1.1 {status} X\r\nlocation: https://elsewhere.example/\r\nconnection: {connection}\r\ncontent-length: 2\r\n\r\nhi"
                    );
                    if stream.get_mut().write_all(answer.as_bytes()).is_err() || !keep_alive {
                        return;
                    }
                }
            });
        }
    });
    url
}

fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|n| *n > 0)?;
    let method = line.split(' ').next()?.to_owned();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        if stream.read_line(&mut line).ok()? <= 2 {
            break;
        }
        let (name, value) = line.trim_end().split_once(": ")?;
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = vec![0; headers.get("content-length").map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).ok()?;
    Some(Request { method, headers, body })
}

/// What a receiver should do.
#[expect(clippy::disallowed_methods, reason = "a receiver's own clock")]
fn careful(request: &Request) -> u16 {
    if request.method != "POST" {
        return 405;
    }
    let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
    let signed = SignedHeaders {
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    match verify(&[VerifyKey::parse(SECRET).unwrap()], &signed, &request.body, now, TOLERANCE_DEFAULT) {
        Ok(_) => 200,
        Err(_) => 401,
    }
}

/// The exit code, and each check with its result.
fn doctor(arguments: &[&str]) -> (i32, HashMap<String, String>, Value) {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &[&["doctor", "--json"], arguments].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    let out: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(!text.contains("hunter2"), "what is secret in a URL is not shown: {text}");
    let checks = out["checks"].as_array().unwrap().iter();
    let checks = checks.map(|c| (c["check"].as_str().unwrap().to_owned(), c["result"].as_str().unwrap().to_owned()));
    (output.status.code().unwrap(), checks.collect(), out)
}

fn expect(checks: &HashMap<String, String>, expected: &[(&str, &str)]) {
    for (check, result) in expected {
        assert_eq!(checks.get(*check).map(String::as_str), Some(*result), "{check}: {checks:?}");
    }
}

#[test]
fn a_careful_receiver_has_nothing_to_fix() {
    let url = receiver(true, careful);
    let (code, checks, out) = doctor(&[&url, "--allow-private", "--secret", SECRET]);
    assert_eq!((code, &out["healthy"]), (0, &json!(true)), "{out}");
    let all = ["address", "connection", "accepts", "speed", "keep-alive", "again", "signature", "unsigned", "altered"];
    let all = all.into_iter().chain(["old", "future", "big", "method"]).map(|check| (check, "ok")).collect::<Vec<_>>();
    expect(&checks, &all);
    expect(&checks, &[("tls", "warn")]);
}

#[test]
fn one_that_accepts_anything_is_told_what_to_verify() {
    let url = receiver(false, |_| 200);
    let (code, checks, out) = doctor(&[&url, "--allow-private", "--secret", SECRET]);
    assert_eq!(code, 1);
    let forged = ["signature", "unsigned", "altered", "old", "future"].map(|check| (check, "fail"));
    expect(&checks, &forged);
    expect(&checks, &[("accepts", "ok"), ("keep-alive", "warn")]);
    for finding in out["checks"].as_array().unwrap().iter().filter(|finding| finding["result"] == "fail") {
        assert!(finding["hint"].is_string(), "{finding}");
    }
    // Also without the secret the worst is found.
    let (code, checks, _) = doctor(&[&url, "--allow-private"]);
    assert_eq!(code, 1);
    expect(&checks, &[("accepts", "skip"), ("signature", "fail"), ("unsigned", "fail")]);
}

#[test]
fn one_that_forgets_the_clock_is_told_so() {
    let url = receiver(true, |request| {
        let header = |name: &str| request.headers.get(name).map_or("", String::as_str);
        let signed = SignedHeaders {
            id: header("svix-id"),
            timestamp: header("svix-timestamp"),
            signature: header("svix-signature"),
        };
        let then = header("svix-timestamp").parse().unwrap_or(0);
        let key = VerifyKey::parse(SECRET).unwrap();
        if verify(&[key], &signed, &request.body, then, TOLERANCE_DEFAULT).is_ok() { 200 } else { 500 }
    });
    let (code, checks, _) = doctor(&[&url, "--allow-private", "--secret", SECRET]);
    assert_eq!(code, 1);
    expect(&checks, &[("old", "fail"), ("future", "fail"), ("signature", "warn"), ("unsigned", "warn")]);
}

#[test]
fn what_is_wrong_is_named_and_what_follows_from_it_is_left_out() {
    let check = |status: u16, hint: &str| {
        let url = receiver(true, move |_| status);
        let (code, checks, out) = doctor(&[&url, "--allow-private", "--secret", SECRET]);
        assert_eq!(code, 1);
        expect(&checks, &[("accepts", "fail"), ("refuses", "skip")]);
        assert!(!checks.contains_key("signature"));
        let all = out["checks"].as_array().unwrap();
        let accepts = all.iter().find(|finding| finding["check"] == "accepts").unwrap();
        assert!(accepts["hint"].as_str().unwrap().contains(hint), "{accepts}");
    };
    check(301, "register https://elsewhere.example/");
    check(401, "raw bytes");
    check(405, "POST");
    check(500, "only 2xx");

    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, checks, _) = doctor(&[&format!("http://{closed}/"), "--allow-private"]);
    assert_eq!((code, checks.len()), (1, 2));
    expect(&checks, &[("connection", "fail")]);
    let (code, checks, out) = doctor(&[&format!("http://{closed}/")]);
    assert_eq!((code, checks.len()), (1, 1));
    expect(&checks, &[("address", "fail")]);
    assert!(out["checks"][0]["hint"].as_str().unwrap().contains("--allow-private"));
    let (code, checks, _) =
        doctor(&[&format!("https://{}/", receiver(true, careful).split('/').nth(2).unwrap()), "--allow-private"]);
    assert_eq!(code, 1);
    expect(&checks, &[("tls", "fail")]);
}

#[test]
fn a_delivery_is_explained_without_its_application() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "100ms,1h")]);
    let receiver = Receiver::answering(&[503]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    assert_eq!(server.call("POST", "/event-type", json!({"name": "other", "description": ""})).0, 201);
    for (uid, types) in [("tries", json!(null)), ("idle", json!(["other"]))] {
        let endpoint = json!({"url": receiver.url(), "uid": uid, "eventTypes": types});
        assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    }
    let message = json!({"eventType": "invoice.paid", "payload": {}, "eventId": "order-7"});
    let (_, message) = server.call("POST", "/app/acme/msg", message);
    let id = message["id"].as_str().unwrap();
    let explain = |arguments: &[&str]| {
        let url = format!("http://{}", server.address);
        let output = run(folder.path(), &[&["explain", "--url", &url], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text =
        eventually("two attempts are told", || Some(explain(&[id])).filter(|text| text.contains("Attempt 3 is due")));
    let expected = [
        "of type invoice.paid was accepted at ",
        "It is owed to 1 of 2 endpoints: 0 delivered, 1 pending, 0 ended undelivered.",
        "(tries) is at http://127.0.0.1:",
        "  Attempt 1 at ",
        "was answered 503 after ",
        "DNS 0.0 ms, connection ",
        "  Attempt 3 is due at ",
        "(idle) is at ",
        "  It does not take the type invoice.paid, only other.",
    ];
    for part in expected {
        assert!(text.contains(part), "{part}: {text}");
    }
    // An hour, and what jitter adds to it.
    let minutes = text.split("in about ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).unwrap_or(0);
    assert!((59..=72).contains(&minutes), "{text}");
    // Of the attempts, one opened the connection and tells its phases.
    let out: Value = serde_json::from_str(&explain(&["order-7", "--json"])).unwrap();
    assert_eq!(out["messageId"], id);
    let phases = &out["endpoints"][0]["attempts"][0]["phases"];
    assert!(phases["connectUs"].is_u64() && phases["firstByteUs"].as_u64() <= phases["totalUs"].as_u64(), "{out}");
    assert!(phases.get("tlsUs").is_none(), "{out}");
    assert!(server.stop().success());
}
