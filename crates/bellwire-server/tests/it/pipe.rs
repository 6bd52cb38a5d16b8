//! Pipes over real sockets: a stream that is resumed after a crash, deliveries that come again, and `bellwire listen`.

use crate::program::{PATIENCE, Program, bellwire, eventually, ledger};
use crate::receiver::Receiver;
use bellwire_signature::VerifyKey;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::process::Stdio;
use std::time::{Duration, Instant};

const PIPE: &str = "/app/acme/endpoint/pipe";

fn start(data: &std::path::Path) -> Program {
    Program::start(data, &[])
}

fn prepare(server: &Program) {
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"uid": "pipe", "kind": "pipe"})).0, 201);
}

fn send(server: &Program, n: u32) {
    let body = json!({"eventType": "a.b", "payload": {"n": n}});
    assert_eq!(server.call("POST", "/app/acme/msg", body).0, 202);
}

/// An open stream of events.
struct Stream(BufReader<TcpStream>);

impl Stream {
    fn open(server: &Program, last: Option<&str>) -> Stream {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let resume = last.map_or_else(String::new, |last| format!("last-event-id: {last}\r\n"));
        let token = &server.token;
        let head = format!(
            "GET /api/v1{PIPE}/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\naccept: text/event-stream\r\n{resume}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        Stream(BufReader::new(stream))
    }

    /// The next message's cursor and number; `None` when the server is gone.
    fn next(&mut self) -> Option<(String, u64)> {
        let (mut id, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            if self.0.read_line(&mut line).unwrap_or(0) == 0 {
                return None;
            }
            if let Some(cursor) = line.strip_prefix("id: ") {
                cursor.trim().clone_into(&mut id);
            }
            let data = line.strip_prefix("data: ").and_then(|data| serde_json::from_str::<Value>(data).ok());
            if let Some(n) = data.and_then(|data| data["payload"]["n"].as_u64()) {
                return Some((id, n));
            }
        }
    }
}

#[test]
fn a_stream_is_resumed_after_a_crash_without_a_gap() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = start(folder.path());
    prepare(&server);
    let mut stream = Stream::open(&server, None);
    let (mut seen, mut last) = (Vec::new(), String::new());
    for crash in 0..3u32 {
        for n in crash * 20..crash * 20 + 20 {
            send(&server, n);
        }
        // Some of it arrives live, and then the server is gone in the middle.
        for _ in 0..7 {
            let (cursor, n) = stream.next().unwrap();
            seen.push(n);
            last = cursor;
        }
        server.kill();
        while let Some((cursor, n)) = stream.next() {
            seen.push(n);
            last = cursor;
        }
        server = start(folder.path());
        stream = Stream::open(&server, Some(&last));
    }
    while seen.len() < 60 {
        seen.push(stream.next().unwrap().1);
    }
    assert_eq!(seen, (0..60).collect::<Vec<_>>());
    // A stream ends when the server does, and does not hold it up.
    assert!(server.stop().success());
    assert_eq!(stream.next(), None);
}

#[test]
fn what_was_handed_out_comes_again_after_a_crash_and_is_counted_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    (0..5).for_each(|n| send(&server, n));
    let receive = |server: &Program| {
        let (status, out) = server.call("POST", &format!("{PIPE}/pull/receive"), json!({"wait": 5}));
        assert_eq!(status, 200);
        out["data"].as_array().unwrap().clone()
    };
    let mut taken = Vec::new();
    while taken.len() < 5 {
        taken.extend(receive(&server));
    }
    let receipts: Vec<_> = taken.iter().map(|one| one["receipt"].clone()).collect();
    let acked = server.call("POST", &format!("{PIPE}/pull/ack"), json!({"receipts": receipts[..2]}));
    assert_eq!(acked.0, 200);
    server.kill();
    let server = start(folder.path());
    let late = server.call("POST", &format!("{PIPE}/pull/ack"), json!({"receipts": receipts}));
    let statuses: Vec<_> = late.1["data"].as_array().unwrap().iter().map(|one| one["status"].clone()).collect();
    assert_eq!(statuses, [409; 5], "old receipts open nothing");
    let mut again = Vec::new();
    while again.len() < 3 {
        again.extend(receive(&server));
    }
    assert_eq!(again.iter().map(|one| one["payload"]["n"].clone()).collect::<Vec<_>>(), [2, 3, 4]);
    let receipts: Vec<_> = again.iter().map(|one| one["receipt"].clone()).collect();
    assert_eq!(server.call("POST", &format!("{PIPE}/pull/ack"), json!({"receipts": receipts})).0, 200);
    let sum = ledger(folder.path());
    assert_eq!((&sum["accepted"], &sum["delivered"], &sum["pending"]), (&json!(5), &json!(5), &json!(0)));
}

#[test]
fn an_endpoint_moves_from_push_to_pipe_and_back_without_losing_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    (0..4).for_each(|n| send(&server, n));
    let (_, out) = server.call("POST", &format!("{PIPE}/pull/receive"), json!({"limit": 1, "wait": 5}));
    let receipt = out["data"][0]["receipt"].clone();
    assert_eq!(server.call("POST", &format!("{PIPE}/pull/ack"), json!({"receipts": [receipt]})).0, 200);
    // Pushed to: what nobody took arrives.
    let receiver = Receiver::answering(&[200]);
    assert_eq!(server.call("PATCH", PIPE, json!({"kind": "push", "url": receiver.url()})).0, 200);
    let mut arrived: Vec<_> = (0..3).map(|_| receiver.next().body).collect();
    arrived.sort();
    assert_eq!(arrived, [1, 2, 3].map(|n| format!(r#"{{"n":{n}}}"#).into_bytes()));
    // A pipe again: what comes waits.
    assert_eq!(server.call("PATCH", PIPE, json!({"kind": "pipe"})).0, 200);
    send(&server, 9);
    let (_, out) = server.call("POST", &format!("{PIPE}/pull/receive"), json!({"wait": 5}));
    assert_eq!(out["data"][0]["payload"]["n"], 9);
    let sum = eventually("all is recorded", || Some(ledger(folder.path())).filter(|sum| sum["pending"] == 1));
    assert_eq!((&sum["delivered"], &sum["accepted"]), (&json!(4), &json!(5)));
}

#[test]
fn listen_brings_webhooks_here_and_tells_what_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    let key = server.key_of(PIPE);
    (0..2).for_each(|n| send(&server, n));
    let receiver = Receiver::answering(&[200, 500]);
    let mut listening = bellwire(folder.path())
        .args(["listen", "--application", "acme", "--endpoint", "pipe", "--count", "2", "--json"])
        .args(["--forward", &receiver.url(), "--url", &format!("http://{}", server.address), "--token", &server.token])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let arrival = receiver.next();
        arrival.verify(&key);
        ids.push(arrival.header("webhook-id").to_owned());
    }
    let lines: Vec<Value> = BufReader::new(listening.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert!(listening.wait().unwrap().success());
    let mut statuses: Vec<_> = lines.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 500]);
    // The server knows both answers.
    let mut recorded: Vec<_> = ids
        .iter()
        .map(|id| server.call("GET", &format!("/app/acme/attempt/msg/{id}"), json!(null)).1["data"][0].clone())
        .collect();
    recorded.sort_by_key(|attempt| attempt["responseStatusCode"].as_u64());
    let codes: Vec<_> = recorded.iter().map(|attempt| attempt["responseStatusCode"].clone()).collect();
    assert_eq!(codes, [200, 500]);
    assert!(recorded.iter().all(|attempt| attempt["response"] == "hi"), "{recorded:?}");
    let sum = ledger(folder.path());
    assert_eq!((&sum["delivered"], &sum["ended"]["exhausted"], &sum["pending"]), (&json!(1), &json!(1), &json!(0)));
}

#[test]
fn listen_goes_on_when_the_server_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    let local = Receiver::answering(&[200]);
    let mut listening = bellwire(folder.path())
        .args(["listen", "--application", "acme", "--endpoint", "pipe"])
        .args(["--forward", &local.url(), "--url", &format!("http://{}", server.address), "--token", &server.token])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    send(&server, 1);
    assert_eq!(local.next().body, br#"{"n":1}"#);
    let (address, token) = (server.address.to_string(), server.token.clone());
    server.kill();
    let mut notes = BufReader::new(listening.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(notes.any(|note| note.contains("the server cannot be reached, trying again")), "it says so");
    let mut command = bellwire(folder.path());
    command.args(["serve", "--listen", &address]).env("BELLWIRE_LOG_FORMAT", "json");
    let (server, _) = Program::launch(command, token);
    send(&server, 2);
    // What was answered just before the end may come again: nobody could be told any more.
    let second = std::iter::repeat_with(|| local.next().body).find(|body| body != br#"{"n":1}"#).unwrap();
    assert_eq!(second, br#"{"n":2}"#);
    assert!(notes.any(|note| note.contains("the server is back")), "it says so");
    listening.kill().unwrap();
    listening.wait().unwrap();
}

#[test]
fn listen_keeps_what_a_slow_local_program_has_and_waits_for_one_that_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    // So little that every mistake would end a delivery.
    assert_eq!(server.call("PATCH", PIPE, json!({"pipe": {"lease": 1, "maxAttempts": 1}})).0, 200);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let mut listening = bellwire(folder.path())
        .args(["listen", "--application", "acme", "--endpoint", "pipe", "--count", "1", "--json"])
        .args(["--forward", &format!("http://{address}")])
        .args(["--url", &format!("http://{}", server.address), "--token", &server.token])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    send(&server, 1);
    let mut notes = BufReader::new(listening.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(notes.any(|note| note.contains("nobody is there at")), "it says so");
    // Now somebody is, and thinks for longer than the pipe's lease.
    let local = std::net::TcpListener::bind(address).unwrap();
    let (mut stream, _) = local.accept().unwrap();
    let attempts = || server.call("GET", "/app/acme/attempt/endpoint/pipe", json!(null)).1["data"].clone();
    let out = server.call("POST", &format!("{PIPE}/pull/receive"), json!({"wait": 3})).1;
    assert_eq!(out["data"], json!([]), "it is at its reader's");
    assert_eq!(attempts(), json!([]));
    let mut head = [0; 4096];
    assert!(std::io::Read::read(&mut stream, &mut head).unwrap() > 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").unwrap();
    let output = listening.wait_with_output().unwrap();
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&line["status"], &line["attempt"], &line["error"]), (&json!(200), &json!(1), &json!(null)), "{line}");
    assert_eq!(attempts()[0]["responseStatusCode"], 200);
}

#[test]
fn listen_hands_back_what_it_has_when_it_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    send(&server, 1);
    let local = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut listening = bellwire(folder.path())
        .args(["listen", "--application", "acme", "--endpoint", "pipe"])
        .args(["--forward", &format!("http://{}", local.local_addr().unwrap())])
        .args(["--url", &format!("http://{}", server.address), "--token", &server.token])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (_never_answered, _) = local.accept().unwrap();
    let killed = std::process::Command::new("kill").args(["-TERM", &listening.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert!(listening.wait().unwrap().success());
    let out = server.call("POST", &format!("{PIPE}/pull/receive"), json!({})).1;
    assert_eq!((&out["data"][0]["payload"]["n"], &out["data"][0]["attempt"]), (&json!(1), &json!(2)), "{out}");
}

#[test]
fn listen_takes_its_endpoint_away_when_nobody_looks_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let all = || server.call("GET", "/app/acme/endpoint", json!(null)).1["data"].as_array().unwrap().clone();
    let endpoints = || all().len();
    let mut listening = bellwire(folder.path())
        .args(["listen", "--url", &format!("http://{}", server.address), "--token", &server.token])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("it listens", || (endpoints() == 1).then_some(()));
    assert_eq!(all()[0]["pipe"]["expiresAfter"], 86_400, "it does not stay for ever if the listener is killed");
    // As `| head -1` ends.
    drop(listening.stdout.take());
    send(&server, 1);
    assert!(listening.wait().unwrap().success());
    assert_eq!(endpoints(), 0, "its endpoint is gone");
}

#[test]
fn listen_says_what_a_filter_needs() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let output = bellwire(folder.path())
        .args(["listen", "--filter", "no.such"])
        .args(["--url", &format!("http://{}", server.address), "--token", &server.token])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("no.such") && said.contains("\nhint: a filter names"), "{said}");
}

#[test]
fn listen_makes_an_endpoint_of_its_own_replays_and_takes_it_away() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    assert_eq!(server.call("POST", "/event-type", json!({"name": "a.b", "description": ""})).0, 201);
    (0..3).for_each(|n| send(&server, n));
    let output = bellwire(folder.path())
        .args(["listen", "--count", "3", "--json", "--replay", "1h", "--filter", "a.b"])
        .args(["--url", &format!("http://{}", server.address), "--token", &server.token])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let mut numbers: Vec<_> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["payload"]["n"].as_u64().unwrap())
        .collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2]);
    let (_, endpoints) = server.call("GET", "/app/acme/endpoint", json!(null));
    assert_eq!(endpoints["data"], json!([]), "its endpoint is gone");
}

#[test]
fn listen_brings_a_source_s_webhooks_here() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    for uid in ["acme", "other"] {
        assert_eq!(server.call("POST", "/app", json!({"name": uid, "uid": uid})).0, 201);
        let source = json!({"uid": format!("at-{uid}"), "appId": uid, "preset": "none", "path": format!("/hooks/{uid}"), "eventType": "came"});
        let (status, made) = server.call("POST", "/source", source);
        assert_eq!(status, 201, "{made}");
    }
    let post = |path: &str, body: &str| {
        let (status, answer) = server.raw(&format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(status, 202, "{answer}");
    };
    let local = Receiver::answering(&[200]);
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let listening = bellwire(folder.path())
        .args([
            "listen",
            "--source",
            "at-acme",
            "--count",
            "2",
            "--json",
            "--forward",
            &local.url(),
            "--secret",
            secret,
        ])
        .args(["--url", &format!("http://{}", server.address), "--token", &server.token])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it listens", || {
        let (_, endpoints) = server.call("GET", "/app/acme/endpoint", json!(null));
        (endpoints["data"].as_array().is_some_and(|all| all.len() == 1)).then_some(())
    });
    post("/hooks/other", "not for us");
    post("/hooks/acme", "one");
    post("/hooks/acme", "two");
    let mut bodies = [(); 2].map(|()| {
        let arrival = local.next();
        arrival.verify(&VerifyKey::parse(secret).unwrap());
        String::from_utf8(arrival.body).unwrap()
    });
    bodies.sort();
    assert_eq!(bodies, ["one", "two"]);
    let output = listening.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let told: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(told.len(), 2, "{lines}");
    assert!(told.iter().all(|line| line["status"] == 200 && line["eventType"] == "came"), "{lines}");
    let (_, endpoints) = server.call("GET", "/app/acme/endpoint", json!(null));
    assert_eq!(endpoints["data"], json!([]), "its endpoint is gone");

    let unknown = bellwire(folder.path())
        .args([
            "listen",
            "--source",
            "at-nobody",
            "--url",
            &format!("http://{}", server.address),
            "--token",
            &server.token,
        ])
        .output()
        .unwrap();
    assert!(!unknown.status.success(), "{unknown:?}");
    let said = String::from_utf8(unknown.stderr).unwrap();
    assert!(said.starts_with("error: there is no source at-nobody\n") && said.contains("\nhint: "), "{said}");
}

#[test]
fn who_waits_for_a_delivery_gets_what_is_replayed_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    send(&server, 1);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"uid": "pipe", "kind": "pipe"})).0, 201);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.call("POST", &format!("{PIPE}/pull/receive"), json!({"wait": 20})));
        // It waits by now; where it does not yet, the test asks for less.
        std::thread::sleep(Duration::from_millis(500));
        let since = json!({"since": "2020-01-01T00:00:00Z"});
        assert_eq!(server.call("POST", &format!("{PIPE}/replay-missing"), since).0, 202);
        let (status, got) = waiting.join().unwrap();
        assert_eq!((status, &got["data"][0]["payload"]["n"]), (200, &json!(1)), "{got}");
    });
    assert!(begun.elapsed() < Duration::from_secs(15), "it was found when the wait was over, {:?}", begun.elapsed());
}

/// A channel that is open.
pub(crate) struct Channel(pub(crate) tungstenite::WebSocket<TcpStream>);

impl Channel {
    fn open(server: &Program, query: &str) -> Channel {
        let stream = TcpStream::connect(server.address).unwrap();
        Channel::over(stream, server, PIPE, query)
    }

    /// Over this connection, of this endpoint.
    pub(crate) fn over(stream: TcpStream, server: &Program, endpoint: &str, query: &str) -> Channel {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut request = tungstenite::http::Request::builder()
            .uri(format!("ws://x/api/v1{endpoint}/ws?{query}"))
            .header("host", "x");
        if !server.token.is_empty() {
            request = request.header("authorization", format!("Bearer {}", server.token));
        }
        let request = request
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", tungstenite::handshake::client::generate_key())
            .header("sec-websocket-protocol", "bellwire.pipe.v1")
            .body(())
            .unwrap();
        let (socket, answer) = tungstenite::client(request, stream).unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "bellwire.pipe.v1");
        Channel(socket)
    }

    pub(crate) fn say(&mut self, frame: Value) {
        self.0.send(tungstenite::Message::text(frame.to_string())).unwrap();
    }

    /// The next frame of this kind; no other may come before it.
    #[track_caller]
    fn expect(&mut self, kind: &str) -> Value {
        loop {
            if let tungstenite::Message::Text(text) = self.0.read().unwrap() {
                let frame: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(frame["t"], kind, "{frame}");
                return frame;
            }
        }
    }
}

#[test]
fn a_channel_gives_what_there_is_credit_for_and_takes_what_its_reader_says() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    (0..5).for_each(|n| send(&server, n));

    // A group: each delivery has a receipt, and nothing comes without credit.
    let mut group = Channel::open(&server, "mode=group");
    group.say(json!({"t": "nonsense"}));
    assert_eq!(group.expect("error")["code"], "invalid");
    group.say(json!({"t": "credit", "n": 2}));
    let taken: Vec<Value> = (0..2).map(|_| group.expect("event")).collect();
    assert_eq!(taken.iter().map(|one| one["payload"]["n"].clone()).collect::<Vec<_>>(), [0, 1]);
    group.say(json!({"t": "ack", "receipts": [taken[0]["receipt"]]}));
    assert_eq!(group.expect("acked")["data"][0]["status"], 200);
    let failed =
        json!({"t": "result", "receipts": [taken[1]["receipt"]], "status": 500, "body": "no", "durationMs": 3});
    group.say(failed);
    assert_eq!(group.expect("acked")["data"][0]["status"], 200);
    group.say(json!({"t": "credit", "n": 1}));
    assert_eq!(group.expect("event")["payload"]["n"], 2);

    // A durable reader commits its cursor, and another connection goes on from there, live.
    let mut durable = Channel::open(&server, "mode=durable&consumer=me");
    durable.say(json!({"t": "credit", "n": 5}));
    let events: Vec<Value> = (0..5).map(|_| durable.expect("event")).collect();
    durable.say(json!({"t": "ack", "cursor": events[3]["cursor"]}));
    assert_eq!(durable.expect("acked")["cursor"], events[3]["cursor"]);
    drop(durable);
    let mut durable = Channel::open(&server, "mode=durable&consumer=me");
    durable.say(json!({"t": "credit", "n": 100}));
    assert_eq!(durable.expect("event")["payload"]["n"], 4);
    send(&server, 5);
    assert_eq!(durable.expect("event")["payload"]["n"], 5);
    durable.say(json!({"t": "ack", "receipts": []}));
    assert_eq!(durable.expect("acked")["data"], json!([]));

    // Whoever may not read gets a status, and no channel.
    let (status, _) = server.call("GET", &format!("{PIPE}/ws"), json!(null));
    assert_eq!(status, 422);
    assert!(server.stop().success(), "channels do not hold the end up");
    durable.expect("reconnect");
    let sum = ledger(folder.path());
    assert_eq!((&sum["delivered"], &sum["pending"]), (&json!(4), &json!(2)));
}

#[test]
fn a_channel_is_closed_as_its_protocol_has_it_whoever_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    let closed = |channel: &mut Channel| loop {
        match channel.0.read() {
            Ok(tungstenite::Message::Close(frame)) => return frame.map(|frame| u16::from(frame.code)),
            Ok(_) => {}
            Err(error) => panic!("the connection ended without a word: {error}"),
        }
    };
    let mut by_reader = Channel::open(&server, "");
    let normal = tungstenite::protocol::frame::coding::CloseCode::Normal;
    by_reader.0.close(Some(tungstenite::protocol::CloseFrame { code: normal, reason: "".into() })).unwrap();
    assert_eq!(closed(&mut by_reader), Some(1000));

    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"uid": "short", "kind": "pipe"})).0, 201);
    let stream = TcpStream::connect(server.address).unwrap();
    let mut by_error = Channel::over(stream, &server, "/app/acme/endpoint/short", "");
    by_error.say(json!({"t": "credit", "n": 1}));
    // An answer says that the credit has been read.
    by_error.say(json!({"t": "nonsense"}));
    by_error.expect("error");
    assert_eq!(server.call("DELETE", "/app/acme/endpoint/short", json!(null)).0, 204);
    assert_eq!(by_error.expect("error")["code"], "not_found");
    assert_eq!(closed(&mut by_error), Some(1008));

    // Nor does one stay that gives no credit.
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"uid": "idle", "kind": "pipe"})).0, 201);
    let stream = TcpStream::connect(server.address).unwrap();
    let mut idle = Channel::over(stream, &server, "/app/acme/endpoint/idle", "");
    assert_eq!(server.call("DELETE", "/app/acme/endpoint/idle", json!(null)).0, 204);
    assert_eq!(idle.expect("error")["code"], "not_found");
    assert_eq!(closed(&mut idle), Some(1008));

    let mut by_server = Channel::open(&server, "");
    assert!(server.stop().success());
    by_server.expect("reconnect");
    assert_eq!(closed(&mut by_server), Some(1001));
}

#[test]
fn who_waits_hears_at_once_that_its_endpoint_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    let gone = |name: &str, read: &(dyn Fn() -> (u16, Value) + Sync)| {
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let begun = Instant::now();
                (read(), begun.elapsed())
            });
            // It waits by then; if it came later still, it would find no endpoint either.
            std::thread::sleep(Duration::from_millis(300));
            assert_eq!(server.call("DELETE", name, json!(null)).0, 204);
            let ((status, said), took) = reading.join().unwrap();
            assert_eq!((status, &said["code"]), (404, &json!("not_found")), "{name}: {said}");
            assert!(took < Duration::from_secs(10), "{name}: {took:?}");
        });
    };
    let endpoint = |name: &str| {
        assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"uid": name, "kind": "pipe"})).0, 201);
        format!("/app/acme/endpoint/{name}")
    };
    let pulled = endpoint("pulled");
    gone(&pulled, &|| server.call("GET", &format!("{pulled}/pull?from=now&wait=20"), json!(null)));
    let received = endpoint("received");
    gone(&received, &|| server.call("POST", &format!("{received}/pull/receive"), json!({"wait": 20})));
    gone("/app/acme", &|| server.call("GET", &format!("{PIPE}/pull?from=now&wait=20"), json!(null)));
}

#[test]
fn what_one_reader_refuses_comes_at_once_to_another_who_waits() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    assert_eq!(server.call("PATCH", PIPE, json!({"pipe": {"maxAttempts": 1000}})).0, 200);
    send(&server, 0);
    let receive = || {
        let began = Instant::now();
        let (_, out) = server.call("POST", &format!("{PIPE}/pull/receive"), json!({"wait": 20}));
        let receipt = out["data"][0]["receipt"].clone();
        assert!(receipt.is_string() && began.elapsed() < Duration::from_secs(10), "{:?}: {out}", began.elapsed());
        receipt
    };
    let mut receipt = receive();
    // It may look between the commit that puts the delivery back and the moment when it is no longer out.
    for _ in 0..100 {
        receipt = std::thread::scope(|threads| {
            let waiting = threads.spawn(receive);
            let refused = json!({"receipts": [receipt], "delay": 0});
            let (status, out) = server.call("POST", &format!("{PIPE}/pull/nack"), refused);
            assert_eq!((status, &out["data"][0]["status"]), (200, &json!(200)), "{out}");
            waiting.join().unwrap()
        });
    }
}

#[test]
fn an_endpoint_moves_between_push_pipe_and_pull_in_every_direction() {
    let folder = tempfile::tempdir().unwrap();
    let schedule = ["1"; 30].join(",");
    let server =
        Program::start(folder.path(), &[("BELLWIRE_EGRESS_ALLOW", "127.0.0.0/8"), ("SVIX_RETRY_SCHEDULE", &schedule)]);
    let receiver = Receiver::answering(&[200]);
    // Nobody listens there, and it is tried again every second.
    let nobody = format!("http://{}/", std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let endpoint = json!({"uid": "pipe", "url": nobody});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    let becomes = |change: Value| {
        let (status, answer) = server.call("PATCH", PIPE, change);
        assert_eq!(status, 200, "{answer}");
    };
    let pull = |count: usize| {
        let taken = eventually("they come", || {
            let (_, out) = server.call("POST", &format!("{PIPE}/pull/receive"), json!({"limit": count, "wait": 5}));
            Some(out["data"].as_array().unwrap().clone()).filter(|taken| !taken.is_empty())
        });
        taken.into_iter().map(|one| (one["payload"]["n"].as_u64().unwrap(), one["receipt"].clone())).collect::<Vec<_>>()
    };
    let says = |verb: &str, body: Value| {
        let (status, out) = server.call("POST", &format!("{PIPE}/pull/{verb}"), body);
        assert_eq!((status, &out["data"][0]["status"]), (200, &json!(200)), "{out}");
    };
    let arrives = |count: usize| {
        let mut arrived: Vec<_> = (0..count).map(|_| String::from_utf8(receiver.next().body).unwrap()).collect();
        arrived.sort();
        arrived
    };

    // From push to pull.
    (0..2).for_each(|n| send(&server, n));
    becomes(json!({"kind": "pipe"}));
    for _ in 0..2 {
        let taken = pull(1);
        assert!(taken[0].0 < 2, "{taken:?}");
        says("ack", json!({"receipts": [taken[0].1]}));
    }
    let (_, page) = server.call("GET", &format!("{PIPE}/pull?limit=2"), json!(null));
    let cursor = page["cursor"].as_str().unwrap().to_owned();

    // From pull to pipe: what was taken and refused comes by the channel, after what nobody took.
    (2..4).for_each(|n| send(&server, n));
    let taken = pull(1);
    assert_eq!(taken[0].0, 2);
    let mut channel = Channel::open(&server, "mode=group");
    channel.say(json!({"t": "credit", "n": 2}));
    let three = channel.expect("event");
    says("nack", json!({"receipts": [taken[0].1], "delay": 0}));
    let two = channel.expect("event");
    assert_eq!((&three["payload"]["n"], &two["payload"]["n"]), (&json!(3), &json!(2)));
    channel.say(json!({"t": "ack", "receipts": [three["receipt"], two["receipt"]]}));
    assert_eq!(channel.expect("acked")["data"][1]["status"], 200);

    // From pipe to push: what there was no credit for is pushed.
    (4..6).for_each(|n| send(&server, n));
    becomes(json!({"kind": "push", "url": receiver.url()}));
    drop(channel);
    assert_eq!(arrives(2), [r#"{"n":4}"#, r#"{"n":5}"#]);

    // From push to pipe.
    becomes(json!({"url": nobody}));
    (6..8).for_each(|n| send(&server, n));
    becomes(json!({"kind": "pipe"}));
    let mut channel = Channel::open(&server, "mode=group");
    channel.say(json!({"t": "credit", "n": 1}));
    let first = channel.expect("event");
    channel.say(json!({"t": "ack", "receipts": [first["receipt"]]}));
    assert_eq!(channel.expect("acked")["data"][0]["status"], 200);

    // From pipe to pull.
    let taken = pull(1);
    assert_eq!(first["payload"]["n"].as_u64().unwrap() + taken[0].0, 13, "the other one of the two");
    says("nack", json!({"receipts": [taken[0].1], "delay": 0}));

    // And from pull to push.
    becomes(json!({"kind": "push", "url": receiver.url()}));
    assert_eq!(arrives(1), [format!(r#"{{"n":{}}}"#, taken[0].0)]);
    let sum = eventually("all is recorded", || Some(ledger(folder.path())).filter(|sum| sum["pending"] == 0));
    assert_eq!((&sum["accepted"], &sum["delivered"]), (&json!(8), &json!(8)));
    assert!(receiver.is_quiet(), "nothing comes twice");
    // A reader's place is good through all of it.
    let (_, page) = server.call("GET", &format!("{PIPE}/pull?cursor={cursor}"), json!(null));
    let numbers: Vec<_> = page["data"].as_array().unwrap().iter().map(|one| one["payload"]["n"].clone()).collect();
    assert_eq!(numbers, (2..8).map(|n| json!(n)).collect::<Vec<_>>());
}

#[test]
fn a_producer_streams_messages_in_and_each_is_answered_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    prepare(&server);
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!(
        "POST /api/v1/app/acme/msg/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        server.token
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answers = BufReader::new(stream.try_clone().unwrap());
    let mut answer = || loop {
        let mut line = String::new();
        assert!(answers.read_line(&mut line).unwrap() > 0, "the connection stays");
        if line.starts_with('{') {
            return serde_json::from_str::<Value>(&line).unwrap();
        }
    };
    // Each is answered while the connection stays open for the next.
    for n in 0..20 {
        let line = format!("{{\"eventType\":\"a.b\",\"eventId\":\"e{n}\",\"payload\":{{\"n\":{n}}}}}\n");
        stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).unwrap();
        assert!(answer()["id"].as_str().unwrap().starts_with("msg_"));
    }
    // The server is killed: what was answered is there.
    server.kill();
    let server = start(folder.path());
    let (_, page) = server.call("GET", &format!("{PIPE}/pull?limit=100"), json!(null));
    let numbers: Vec<_> = page["data"].as_array().unwrap().iter().map(|one| one["payload"]["n"].clone()).collect();
    assert_eq!(numbers, (0..20).map(|n| json!(n)).collect::<Vec<_>>());
}
