//! Readers of pipes by each transport: what an endpoint's filter, script and format make of what they get, and what a slow one costs.

use crate::pipe::Channel;
use crate::program::{PATIENCE, Program, eventually};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Debug)]
enum Transport {
    Events,
    Lines,
    Channel,
}

const ALL: [Transport; 3] = [Transport::Events, Transport::Lines, Transport::Channel];

/// Somebody who reads an endpoint.
enum Reader {
    Stream { lines: BufReader<TcpStream>, id: String },
    Channel(Box<Channel>),
}

impl Reader {
    fn open(server: &Program, transport: Transport, endpoint: &str, query: &str) -> Reader {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // What the machine keeps for a reader should be little beside what the server could.
        socket2::SockRef::from(&stream).set_recv_buffer_size(64 << 10).unwrap();
        let media = match transport {
            Transport::Events => "text/event-stream",
            Transport::Lines => "application/x-ndjson",
            Transport::Channel => {
                let mut channel = Channel::over(stream, server, endpoint, query);
                channel.say(json!({"t": "credit", "n": 100_000}));
                return Reader::Channel(Box::new(channel));
            }
        };
        // A browser has no token, but a ticket.
        let token = match server.token.as_str() {
            "" => String::new(),
            token => format!("authorization: Bearer {token}\r\n"),
        };
        let head =
            format!("GET /api/v1{endpoint}/stream?{query} HTTP/1.1\r\nhost: x\r\n{token}accept: {media}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        Reader::Stream { lines: BufReader::new(stream), id: String::new() }
    }

    /// The next thing that is told: `message`, or `lag`, `error`, `reconnect`; and its data.
    fn next(&mut self) -> (String, Value) {
        let (lines, id) = match self {
            Reader::Channel(channel) => loop {
                let tungstenite::Message::Text(text) = channel.0.read().unwrap() else { continue };
                let frame: Value = serde_json::from_str(&text).unwrap();
                let kind = frame["t"].as_str().unwrap().replace("event", "message");
                return (kind, frame);
            },
            Reader::Stream { lines, id } => (lines, id),
        };
        let (mut event, mut line) = (String::new(), String::new());
        loop {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the stream goes on");
            if let Some(last) = line.strip_prefix("id: ") {
                last.trim().clone_into(id);
            }
            if let Some(name) = line.strip_prefix("event: ") {
                name.trim().clone_into(&mut event);
            }
            let Ok(data) = serde_json::from_str::<Value>(line.strip_prefix("data: ").unwrap_or(&line)) else {
                continue;
            };
            if !data.is_object() {
                // The length of a chunk.
                continue;
            }
            let told = ["lag", "error", "reconnect"].into_iter();
            // A line says what it is by its only member.
            return match told.clone().find(|name| event == *name) {
                Some(name) => (name.to_owned(), data),
                None => match told.into_iter().find(|name| event.is_empty() && data[*name].is_object()) {
                    Some(name) => (name.to_owned(), data[name].clone()),
                    None => ("message".to_owned(), data),
                },
            };
        }
    }

    /// Of the last event of a stream of events.
    fn last_id(&self) -> String {
        match self {
            Reader::Stream { id, .. } => id.clone(),
            Reader::Channel(_) => String::new(),
        }
    }

    #[track_caller]
    fn message(&mut self) -> Value {
        let (kind, data) = self.next();
        assert_eq!(kind, "message", "{data}");
        data
    }
}

fn application(server: &Program) {
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
}

fn send(server: &Program, payload: Value) {
    let (status, answer) = server.call("POST", "/app/acme/msg", json!({"eventType": "a.b", "payload": payload}));
    assert_eq!(status, 202, "{answer}");
}

#[test]
fn by_each_transport_a_filter_a_script_and_a_format_have_their_effect() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    application(&server);
    let code = "function handler(w) {
        if (w.payload.n === 5) throw new Error('not five')
        w.cancel = w.payload.n % 3 === 0
        w.payload = { seen: w.payload.n * 2 }
        w.headers = { 'x-kind': w.eventType }
        return w
    }";
    let modes = ["tap", "durable", "group"];
    let endpoint = |transport: Transport, mode: &str| format!("/app/acme/endpoint/{transport:?}-{mode}");
    for (transport, mode) in ALL.into_iter().flat_map(|transport| modes.map(|mode| (transport, mode))) {
        let uid = format!("{transport:?}-{mode}");
        let body = json!({"uid": uid, "kind": "pipe", "filter": "payload.n < 100"});
        let (status, answer) = server.call("POST", "/app/acme/endpoint", body);
        assert_eq!(status, 201, "{answer}");
        let path = format!("{}/transformation", endpoint(transport, mode));
        assert_eq!(server.call("PATCH", &path, json!({"code": code, "enabled": true})).0, 204);
    }
    // One is there before, and the others come while it reads.
    send(&server, json!({"n": 1, "secret": "s3cret"}));
    let mut readers: Vec<_> = ALL
        .into_iter()
        .flat_map(|transport| modes.map(|mode| (transport, mode)))
        .map(|(transport, mode)| {
            let consumer = if mode == "durable" { "&consumer=me" } else { "" };
            let query = format!("mode={mode}{consumer}");
            (transport, mode, Reader::open(&server, transport, &endpoint(transport, mode), &query))
        })
        .collect();
    for n in [2, 100, 3, 4, 5, 6, 7] {
        send(&server, json!({"n": n, "secret": "s3cret"}));
    }
    for (transport, mode, reader) in &mut readers {
        let mut expected =
            vec![json!({"seen": 2}), json!({"seen": 4}), json!({"seen": 8}), json!({}), json!({"seen": 14})];
        if *mode == "group" {
            // What failed is not handed out; it comes again by and by.
            expected.remove(3);
        }
        for payload in expected {
            let message = reader.message();
            assert_eq!(message["payload"], payload, "{transport:?} {mode}: {message}");
            let (kind, error) = (&message["headers"]["x-kind"], message["transformationError"].as_str());
            match payload == json!({}) {
                true => {
                    assert!(error.is_some_and(|error| error.contains("not five")), "{transport:?} {mode}: {message}")
                }
                false => assert_eq!((kind, error), (&json!("a.b"), None), "{transport:?} {mode}: {message}"),
            }
            assert!(!message.to_string().contains("s3cret"), "{transport:?} {mode}: {message}");
        }
    }
    // Who reads gets what is in force when it is read.
    for (transport, mode, _) in &readers {
        let path = endpoint(*transport, mode);
        let off = json!({"enabled": false});
        assert_eq!(server.call("PATCH", &format!("{path}/transformation"), off).0, 204);
        let shape = json!({"format": "xml", "contentType": "application/vnd.acme+xml"});
        assert_eq!(server.call("PATCH", &path, shape).0, 200);
    }
    send(&server, json!({"n": 8}));
    for (transport, mode, reader) in &mut readers {
        // The one that failed may come again before it, without a script.
        let message = loop {
            let message = reader.message();
            if message["attempt"].as_u64().unwrap_or(1) == 1 {
                break message;
            }
        };
        let xml = r#"<?xml version="1.0" encoding="UTF-8"?><payload><n>8</n></payload>"#;
        assert_eq!(message["payload"], json!({"rawPayload": xml}), "{transport:?} {mode}: {message}");
        assert_eq!(message["headers"]["content-type"], "application/vnd.acme+xml", "{transport:?} {mode}: {message}");
    }
}

#[test]
fn by_each_transport_a_reader_that_is_cut_off_a_hundred_times_misses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    application(&server);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"uid": "pipe", "kind": "pipe"})).0, 201);
    let endpoint = "/app/acme/endpoint/pipe";
    std::thread::scope(|scope| {
        // Some of it is live, and some was there before.
        scope.spawn(|| (0..250).for_each(|n| send(&server, json!({"n": n}))));
        for transport in ALL {
            let (mut query, mut seen) = ("from=earliest".to_owned(), 0);
            for cut in 0..100 {
                let mut reader = Reader::open(&server, transport, endpoint, &query);
                for _ in 0..1 + cut % 4 {
                    let message = reader.message();
                    assert_eq!(message["payload"]["n"], seen, "{transport:?} {cut}");
                    // What an event's `id` is in a stream of events stands in the others with the message.
                    let cursor = message["cursor"].as_str().map_or_else(|| reader.last_id(), str::to_owned);
                    (query, seen) = (format!("cursor={cursor}"), seen + 1);
                }
            }
            assert_eq!(seen, 250);
        }
    });
}

#[test]
fn by_each_transport_a_quiet_pipe_gives_signs_of_life() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    application(&server);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"uid": "pipe", "kind": "pipe"})).0, 201);
    let mut readers = ALL.map(|transport| Reader::open(&server, transport, "/app/acme/endpoint/pipe", ""));
    for (transport, reader) in ALL.into_iter().zip(&mut readers) {
        match reader {
            Reader::Channel(channel) => {
                let frame = channel.0.read().unwrap();
                assert!(matches!(frame, tungstenite::Message::Ping(_)), "{frame:?}");
            }
            Reader::Stream { lines, .. } => {
                // A line for itself; lines of the head and of chunks end otherwise.
                let beat = if transport == Transport::Events { ": \n" } else { "\n" };
                let opening = if transport == Transport::Events { 0 } else { 1 };
                let mut beats = 0;
                while beats <= opening {
                    let mut line = String::new();
                    assert!(lines.read_line(&mut line).unwrap() > 0, "the stream goes on");
                    assert!(!line.starts_with("data: ") && !line.starts_with('{'), "{line}");
                    beats += usize::from(line == beat);
                }
            }
        }
    }
    // And then it goes on.
    send(&server, json!({"n": 1}));
    for reader in &mut readers {
        assert_eq!(reader.message()["payload"]["n"], 1);
    }
}

#[test]
fn a_ticket_opens_a_channel_to_its_endpoint_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Program::start(folder.path(), &[]);
    application(&server);
    for uid in ["pipe", "other"] {
        assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"uid": uid, "kind": "pipe"})).0, 201);
    }
    let (status, out) = server.call("POST", "/app/acme/endpoint/pipe/ticket", json!({}));
    assert_eq!(status, 201, "{out}");
    let ticket = out["ticket"].as_str().unwrap();
    send(&server, json!({"n": 1}));
    server.token.clear();
    let query = format!("ticket={ticket}");
    for transport in ALL {
        let mut reader = Reader::open(&server, transport, "/app/acme/endpoint/pipe", &query);
        assert_eq!(reader.message()["payload"]["n"], 1, "{transport:?}");
    }
    for (endpoint, query) in [("other", query.as_str()), ("pipe", "ticket=x"), ("pipe", "")] {
        let (status, _) = server.raw(&format!(
            "GET /api/v1/app/acme/endpoint/{endpoint}/ws?{query} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, close\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ));
        assert!(matches!(status, 401 | 404), "{endpoint} {query}: {status}");
    }
}

/// So often a reader that is behind is told so.
const LAG_EVERY: Duration = Duration::from_secs(5);

#[test]
fn by_each_transport_a_slow_reader_costs_little_and_is_told_how_far_behind_it_is() {
    const COUNT: u64 = 200;
    const PAYLOAD_BYTES: usize = 200 << 10;
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    application(&server);
    for uid in ["slow", "quick"] {
        assert_eq!(
            server.call("POST", "/app/acme/endpoint", json!({"uid": uid, "kind": "pipe", "channels": [uid]})).0,
            201
        );
    }
    let text = "x".repeat(PAYLOAD_BYTES);
    for n in 0..COUNT {
        let body = json!({"eventType": "a.b", "channels": ["slow"], "payload": {"n": n, "text": text}});
        assert_eq!(server.call("POST", "/app/acme/msg", body).0, 202);
    }
    let before = server.resident_bytes();
    let opened = Instant::now();
    let mut slow = ALL.map(|transport| (transport, Reader::open(&server, transport, "/app/acme/endpoint/slow", "")));
    for (transport, reader) in &mut slow {
        assert_eq!(reader.message()["payload"]["n"], 0, "{transport:?}");
    }
    // They read no more for now. Who keeps up does not notice.
    let mut quick = ALL.map(|transport| Reader::open(&server, transport, "/app/acme/endpoint/quick", ""));
    let mut most = 0;
    let mut n = 0;
    while opened.elapsed() < LAG_EVERY {
        let body = json!({"eventType": "a.b", "channels": ["quick"], "payload": {"n": n}});
        assert_eq!(server.call("POST", "/app/acme/msg", body).0, 202);
        for reader in &mut quick {
            assert_eq!(reader.message()["payload"]["n"], n);
        }
        n += 1;
        most = most.max(server.resident_bytes());
    }
    let all = COUNT * PAYLOAD_BYTES as u64;
    let grown = most.saturating_sub(before);
    assert!(grown < all, "three readers could have {all} bytes each, and the server has {grown} more than before");
    // They go on where they were, and are told.
    for (transport, reader) in &mut slow {
        let (mut next, mut lag) = (1, None);
        while next < COUNT {
            match reader.next() {
                (kind, data) if kind == "lag" => lag = Some(data),
                (kind, data) => {
                    assert_eq!((kind.as_str(), &data["payload"]["n"]), ("message", &json!(next)), "{transport:?}");
                    next += 1;
                }
            }
        }
        let lag = lag.unwrap_or_else(|| panic!("{transport:?}: was never told"));
        assert!(lag["events"].as_u64().is_some_and(|count| count > 0 && count < COUNT), "{transport:?}: {lag}");
        assert!(lag["seconds"].as_f64().is_some_and(|age| age > 0.0), "{transport:?}: {lag}");
    }
    // And live again, all of them.
    send_slow(&server);
    for (transport, reader) in &mut slow {
        let message = eventually("the next one", || match reader.next() {
            (kind, data) if kind == "message" => Some(data),
            _ => None,
        });
        assert_eq!(message["payload"]["n"], "last", "{transport:?}");
    }
}

fn send_slow(server: &Program) {
    let body = json!({"eventType": "a.b", "channels": ["slow"], "payload": {"n": "last"}});
    assert_eq!(server.call("POST", "/app/acme/msg", body).0, 202);
}
