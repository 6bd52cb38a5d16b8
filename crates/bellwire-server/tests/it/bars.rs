//! Bars of `docs/security-bars.md` that only the whole program can show, each by its number; and that the page is true.

use crate::program::{PATIENCE, Program, bellwire, eventually, run};
use crate::receiver::Receiver;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

const JWT: &str = "canary-jwt-0123456789012345678901234567890";
const MAIN: &str = "canary-main-01234567890123456789";

/// A secret for an endpoint, and the bytes in it.
const ENDPOINT: &str = "whsec_Y2FuYXJ5LWVuZHBvaW50LXNlY3JldC1vZi0zMi1ieXQ=";

#[test]
fn s03_s15_secrets_come_out_only_where_they_are_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [("BELLWIRE_JWT_SECRET", JWT), ("BELLWIRE_MAIN_SECRET", MAIN), ("BELLWIRE_LOG_LEVEL", "trace")];
    let mut server = Program::start(folder.path(), &settings);
    let token = bellwire(folder.path()).arg("token").env("BELLWIRE_JWT_SECRET", JWT).output().unwrap();
    server.token = String::from_utf8(token.stdout).unwrap().trim().to_owned();
    let receiver = Receiver::answering(&[500, 200]);
    let url = receiver.url().replace("http://", "http://user:canary-userinfo@") + "?token=canary-query";
    assert_eq!(server.call("POST", "/app", json!({"name": "A", "uid": "a"})).0, 201);
    let endpoint = json!({
        "url": url, "uid": "e", "secret": ENDPOINT, "headers": {"authorization": "canary-header", "x-plain": "shown"},
    });
    let (status, made) = server.call("POST", "/app/a/endpoint", endpoint);
    assert_eq!(status, 201, "{made}");
    let (status, sent) =
        server.call("POST", "/app/a/msg", json!({"eventType": "t", "payload": {"card": "canary-payload"}}));
    assert_eq!(status, 202);
    receiver.next();
    receiver.next();
    let id = sent["id"].as_str().unwrap();
    let mut told = made.to_string();
    for path in [
        "/app",
        "/app/a",
        "/app/a/endpoint",
        "/app/a/endpoint/e",
        "/app/a/endpoint/e/headers",
        "/app/a/endpoint/e/stats",
        "/app/a/attempt/endpoint/e",
        &format!("/app/a/attempt/msg/{id}"),
        "/app/a/msg?with_content=false",
        "/event-type",
        "/app/nobody",
        "/health",
        "/nowhere",
    ] {
        told += &server.call("GET", path, Value::Null).1.to_string();
    }
    let (_, metrics) = server.raw("GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    told += &metrics;
    let asked_for = server.call("GET", "/app/a/endpoint/e/secret", Value::Null).1;
    assert_eq!(asked_for["key"], ENDPOINT);
    // The owner of an endpoint reads the URL that she has set, whatever stands in it.
    let told = told.replace(&url, "");
    eventually("the attempts are logged", || server.log().contains("delivered").then_some(()));
    let log = server.log();
    assert!(server.stop().success());
    let mut disk = Vec::new();
    for file in std::fs::read_dir(folder.path()).unwrap().flatten() {
        let _ = File::open(file.path()).unwrap().read_to_end(&mut disk);
    }
    let disk = String::from_utf8_lossy(&disk);
    for canary in [JWT, MAIN, ENDPOINT, "Y2FuYXJ5", "canary-endpoint", "canary-header"] {
        assert!(!told.contains(canary), "{canary} in the API: {told}");
    }
    for canary in ["canary", "Y2FuYXJ5", "v1,"] {
        assert!(!log.contains(canary), "{canary} in the log: {log}");
    }
    for canary in [JWT, MAIN, "Y2FuYXJ5", "canary-endpoint"] {
        assert!(!disk.contains(canary), "{canary} on disk");
    }
}

/// A receiver that answers every request with the same bytes.
fn answering(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut seen = Vec::new();
            let mut part = [0; 4096];
            while !seen.ends_with(b"}") {
                match stream.read(&mut part) {
                    Ok(n) if n > 0 => seen.extend_from_slice(&part[..n]),
                    _ => break,
                }
            }
            let _ = stream.write_all(answer);
        }
    });
    url
}

/// A process that ends with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server that logs text into a file; answers it and the file.
fn with_text_log(folder: &Path) -> (Killed, String, PathBuf) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let log = folder.join("log");
    let server = bellwire(folder)
        .args(["serve", "--listen", &address.to_string()])
        .env("BELLWIRE_LOG_LEVEL", "trace")
        .env("BELLWIRE_EGRESS_ALLOW", "127.0.0.0/8")
        .stdin(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let server = Killed(server);
    eventually("it is ready", || TcpStream::connect(address).ok());
    (server, format!("http://{address}"), log)
}

#[test]
fn s10_s18_what_strangers_write_is_data_and_makes_no_log_line() {
    const ANSWER: &[u8] = b"HTTP/1.1 500 gone\r\nx-evil: <script>\r\nset-cookie: a=b\r\ncontent-type: text/html\r\n\
        content-encoding: gzip\r\nconnection: close\r\n\r\n<script>alert(1)</script>\x1b[2J\n2026-01-01T00:00:00Z ERROR forged\0";
    let folder = tempfile::tempdir().unwrap();
    let (server, url, log) = with_text_log(folder.path());
    let token = String::from_utf8(run(folder.path(), &["token"]).stdout).unwrap().trim().to_owned();
    let evil = "\u{1b}[2J\n2026-01-01T00:00:00Z ERROR forged <script>alert(1)</script>";
    let address = url.strip_prefix("http://").unwrap();
    let call = |method: &str, path: &str, body: Value| {
        let body = body.to_string();
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
             user-agent: \u{9b}2J\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(
        call("POST", "/app", json!({"name": evil, "uid": "a", "metadata": {"k": evil}})).starts_with("HTTP/1.1 201")
    );
    let endpoint = json!({"url": answering(ANSWER), "uid": "e", "description": evil, "retrySchedule": []});
    assert!(call("POST", "/app/a/endpoint", endpoint).starts_with("HTTP/1.1 201"));
    assert!(call("POST", "/app/a/msg", json!({"eventType": evil, "payload": {}})).starts_with("HTTP/1.1 422"));
    assert!(call("POST", "/app/a/msg", json!({"eventType": "t", "payload": {"a": evil}})).starts_with("HTTP/1.1 202"));
    let shown = eventually("the attempt is recorded", || {
        let answer = call("GET", "/app/a/attempt/endpoint/e", Value::Null);
        answer.contains("alert(1)").then_some(answer)
    });
    let (head, body) = shown.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("content-type: application/json"), "{head}");
    assert!(!head.contains("evil") && !head.contains("cookie"), "{head}");
    assert!(!body.bytes().any(|byte| byte < b' '), "control characters are escaped: {body}");
    // Not expanded: it says gzip and is none, and is kept as it came.
    let attempts: Value = serde_json::from_str(body).unwrap();
    assert!(attempts["data"][0]["response"].as_str().unwrap().starts_with("<script>"), "{attempts}");

    drop(server);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.lines().count() > 3, "{log}");
    for line in log.lines() {
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert!(
            line.starts_with("20") && !line.contains("T00:00:00Z ERROR forged") || line.find("forged") > Some(40),
            "{line:?}"
        );
    }
}

#[test]
fn s20_there_is_no_session_to_ride_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let raw = |request: &str| {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    // What a page elsewhere can make a browser send without asking: a form, with whatever cookies there are.
    let form = "POST /api/v1/app HTTP/1.1\r\nhost: x\r\norigin: https://evil.example\r\nconnection: close\r\n";
    let body = "content-type: text/plain\r\ncontent-length: 12\r\n\r\n{\"name\":\"A\"}";
    for credentials in [String::new(), format!("cookie: token={0}; Authorization={0}\r\n", server.token)] {
        let answer = raw(&format!("{form}{credentials}{body}"));
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    let token = &server.token;
    let answer = raw(&format!("{form}authorization: Bearer {token}\r\n{body}"));
    assert!(!answer.to_lowercase().contains("set-cookie"), "{answer}");
    assert!(!answer.to_lowercase().contains("access-control-allow-credentials"), "{answer}");
    // The token is all it takes, so a page that has it may read the answer.
    assert!(answer.to_lowercase().contains("access-control-allow-origin: *"), "{answer}");
}

#[test]
fn s22_one_client_has_no_more_connections_than_it_may() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_LIMITS_CONNECTIONS_PER_CLIENT_MAX", "3")]);
    let ping = b"GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n";
    let open = || {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let answered = stream.write_all(ping).is_ok() && stream.read_exact(&mut [0; 12]).is_ok();
        answered.then_some(stream)
    };
    let held: Vec<_> = (0..3).map(|_| eventually("the first ones have left", open)).collect();
    assert!(open().is_none(), "a fourth is closed");
    drop(held);
    eventually("a place is free again", open);
}

#[test]
fn s23_a_compressed_body_is_refused_and_not_expanded() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "A", "uid": "a"})).0, 201);
    // {"eventType":"a","payload":{}}, stored in gzip without compression.
    let plain = br#"{"eventType":"a","payload":{}}"#;
    let mut body = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1, plain.len() as u8, 0, !(plain.len() as u8), 0xff];
    body.extend_from_slice(plain);
    for encoding in ["gzip", "deflate", "br", "identity, gzip"] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "POST /api/v1/app/a/msg HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-encoding: {encoding}\r\ncontent-length: {}\r\n\r\n",
            server.token,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 4"), "{encoding}: {}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(crate::program::ledger(folder.path())["accepted"], 0);
}

#[test]
fn s30_quotes_and_wildcards_are_text() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let evil = [
        "'",
        "\"",
        "';DROP TABLE message;--",
        "' OR '1'='1",
        "%",
        "_",
        "\\",
        "1); DELETE FROM meta; --",
        "x'00'",
        "\u{0}",
    ];
    assert_eq!(server.call("POST", "/app", json!({"name": "A", "uid": "a"})).0, 201);
    assert_eq!(server.call("POST", "/app/a/msg", json!({"eventType": "t", "payload": {}, "tags": ["x"]})).0, 202);
    for text in evil {
        let quoted: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
        for (method, path, body) in [
            ("POST", "/app".to_owned(), json!({"name": text, "metadata": {"k": text}})),
            ("POST", "/app".to_owned(), json!({"name": "B", "uid": text})),
            (
                "POST",
                "/app/a/msg".to_owned(),
                json!({"eventType": "t", "eventId": text, "tags": [text], "channels": [text], "payload": {"a": text}}),
            ),
            ("POST", "/event-type".to_owned(), json!({"name": text, "description": text})),
            ("GET", format!("/app/{quoted}"), Value::Null),
            ("GET", format!("/app/a/msg?tag={quoted}"), Value::Null),
            ("GET", format!("/app/a/msg?channel={quoted}&event_types={quoted}"), Value::Null),
            ("GET", format!("/app/a/msg?iterator={quoted}"), Value::Null),
            ("GET", format!("/app?order={quoted}&limit={quoted}"), Value::Null),
            ("GET", format!("/app/a/msg/{quoted}"), Value::Null),
        ] {
            let (status, answer) = server.call(method, &path, body);
            assert!((200..500).contains(&status), "{method} {path} with {text:?}: {status} {answer}");
            // A wildcard finds what bears its name, and nothing else.
            if path.contains("tag=") && status == 200 {
                let tagged = answer["data"].as_array().unwrap();
                assert!(tagged.iter().all(|message| message["tags"] == json!([text])), "{path}: {answer}");
            }
        }
    }
    let check = run(folder.path(), &["check"]);
    assert!(check.status.success(), "{check:?}");
    assert!(crate::program::ledger(folder.path())["accepted"].as_u64() >= Some(1));
}

#[test]
fn s31_a_folder_with_an_evil_name_is_a_folder() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("; touch pwned; $(touch pwned) `touch pwned` -x\n");
    std::fs::create_dir(&folder).unwrap();
    let server = Program::start(&folder, &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "A"})).0, 201);
    for arguments in [
        &["ledger"][..],
        &["check"],
        &["backup", "--", "-rf; touch pwned"],
        &["send", "http://127.0.0.1:1/;touch pwned", "--secret", ENDPOINT, "--payload", "@;touch pwned"],
    ] {
        let output = run(&folder, arguments);
        assert!(output.status.code().is_some(), "{arguments:?}");
    }
    assert!(folder.join("-rf; touch pwned").join("bellwire.db").exists());
    assert!(server.stop().success());
    for place in [outer.path(), &folder] {
        assert!(!place.join("pwned").exists());
    }
}

#[test]
fn s33_a_customer_reads_no_address_and_nothing_of_ours() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(server.call("POST", "/app", json!({"name": "A", "uid": "a"})).0, 201);
    for (uid, url) in
        [("refused", format!("http://localhost:{port}/")), ("hidden", "http://metadata.invalid/".to_owned())]
    {
        let endpoint = json!({"url": url, "uid": uid, "retrySchedule": []});
        assert_eq!(server.call("POST", "/app/a/endpoint", endpoint).0, 201, "{uid}");
    }
    assert_eq!(server.call("POST", "/app/a/msg", json!({"eventType": "t", "payload": {}})).0, 202);
    for uid in ["refused", "hidden"] {
        let told = eventually("the attempt is recorded", || {
            let (_, answer) = server.call("GET", &format!("/app/a/attempt/endpoint/{uid}"), Value::Null);
            (!answer["data"].as_array()?.is_empty()).then(|| answer["data"][0]["response"].to_string())
        });
        for inner in ["127.0.0.1", "::1", "os error", "resolv", ".rs", "panicked", "Os {"] {
            assert!(!told.contains(inner), "{uid}: {told}");
        }
        assert!(told.len() > 10, "{uid}: it says something: {told}");
    }
}

#[test]
fn s34_dependencies_come_from_one_registry_and_there_is_one_tls() {
    let lock = include_str!("../../../../Cargo.lock");
    let packages: Vec<&str> = lock.split("[[package]]").skip(1).collect();
    assert!(packages.len() > 100);
    let field = |package: &str, name: &str| {
        let line = package.lines().find(|line| line.starts_with(&format!("{name} = ")))?;
        Some(line.split('"').nth(1)?.to_owned())
    };
    let mut tls = 0;
    for package in packages {
        let name = field(package, "name").unwrap();
        match field(package, "source") {
            None => assert!(name.starts_with("bellwire-"), "{name} comes from nowhere"),
            Some(source) => {
                assert!(source.starts_with("registry+") && source.ends_with("/crates.io-index"), "{name}: {source}");
                assert!(field(package, "checksum").is_some(), "{name} has no checksum");
            }
        }
        assert!(!["openssl", "openssl-sys", "native-tls", "boring"].contains(&name.as_str()), "{name}");
        tls += usize::from(name == "rustls");
    }
    assert_eq!(tls, 1);
}

/// The page names for each bar what proves it; what it names must be there.
#[test]
fn the_page_of_the_bars_names_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/security-bars.md")).unwrap();
    let mut rows: BTreeMap<String, usize> = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| S")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (number, proof) = (cells[1], cells[3]);
        *rows.entry(number.to_owned()).or_default() += 1;
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        assert!(!named.is_empty() || proof.starts_with("nothing to test:"), "{number} names no test: {proof}");
        for name in named {
            let (file, function) =
                name.split_once("::").map_or((name, None), |(file, function)| (file, Some(function)));
            let text =
                std::fs::read_to_string(root.join(file)).unwrap_or_else(|_| panic!("{number}: there is no {file}"));
            if let Some(function) = function {
                let at = text
                    .find(&format!("fn {function}("))
                    .unwrap_or_else(|| panic!("{number}: no {function} in {file}"));
                let before = &text[..at];
                let is_test = before.trim_end().lines().rev().take(4).any(|line| line.contains("test]"));
                assert!(is_test || text.contains("proptest!"), "{number}: {function} in {file} is no test");
            }
        }
    }
    let all: BTreeMap<String, usize> = (1..=36).map(|n| (format!("S{n:02}"), 1)).collect();
    assert_eq!(rows, all, "each bar has one row");
}

/// The operator's page explains each metric, and none that is not there.
#[test]
fn the_operators_page_names_every_metric() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let (_, text) = server.raw("GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let there: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(there.len() > 10, "{text}");
    let page = include_str!("../../../../docs/operating.md");
    let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let named: Vec<&str> = page.split(word).filter(|word| word.starts_with("bellwire_")).collect();
    let named: Vec<&str> = named.iter().map(|name| name.strip_suffix("_total").unwrap_or(name)).collect();
    for name in &there {
        assert!(named.contains(name), "{name} is not explained in docs/operating.md");
    }
    // A family of which nothing has happened yet is not shown: the source has it.
    let source = include_str!("../../../bellwire-node/src/observe.rs");
    for name in named {
        let bare = name.trim_start_matches("bellwire_").trim_end_matches("_seconds").trim_end_matches("_bytes");
        assert!(there.contains(&name) || source.contains(&format!("\"{bare}\"")), "there is no {name}");
    }
}
