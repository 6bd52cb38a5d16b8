//! Services played by real sockets.

use super::*;
use crate::answer::Answer;
use crate::event::tests::received;
use bellwire_egress::{Egress, Guard, Settings};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};

fn client() -> Client {
    let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().expect("a network")], ..Guard::default() };
    Egress::new(Settings { guard, ..Settings::default() }).expect("egress").client().expect("a client")
}

/// An HTTP service that answers so; what it got is path, authorization and body.
fn service(status: &'static str) -> (String, Receiver<(String, String, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = BufReader::new(stream.expect("a connection"));
            let (mut path, mut authorization, mut length) = (String::new(), String::new(), 0);
            loop {
                let mut line = String::new();
                stream.read_line(&mut line).expect("a line");
                match line.trim_end().split_once(": ") {
                    Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                        authorization = value.to_owned()
                    }
                    Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                        length = value.parse().expect("a number")
                    }
                    Some(_) => {}
                    None if line.trim_end().is_empty() => break,
                    None => path = line.split(' ').nth(1).unwrap_or_default().to_owned(),
                }
            }
            let mut body = vec![0; length];
            stream.read_exact(&mut body).expect("a body");
            let answer =
                format!("HTTP/1.1 {status}\r\nretry-after: 7\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
            // Before it is answered: whoever has been answered finds it here.
            if sender.send((path, authorization, serde_json::from_slice(&body).expect("JSON"))).is_err() {
                return;
            }
            stream.get_mut().write_all(answer.as_bytes()).expect("it takes it");
        }
    });
    (url, receiver)
}

fn faults(settings: Value) -> Vec<Fault> {
    let mut faults = Vec::new();
    match Notify::read(&settings) {
        Ok(notify) => notify.check(&Mail::default(), &mut faults),
        Err(fault) => faults.push(fault),
    }
    faults
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn run(settings: Value, mail: &Mail) -> Ran {
    run_on(r#"{"name":"Ada","n":1.50}"#, settings, mail)
}

fn run_on(payload: &str, settings: Value, mail: &Mail) -> Ran {
    let notify = Notify::read(&settings).unwrap_or_else(|fault| panic!("{settings}: {fault:?}"));
    let message = received(payload);
    block_on(notify.run(
        &Event::new(&message, 1),
        EndpointKey(1),
        &Bursts::default(),
        Way { mail, client: &client() },
        &(),
    ))
}

#[test]
fn each_service_gets_what_it_wants() {
    let check = |settings: Value, path: &str, authorization: &str, body: Value| {
        let (url, got) = service("200 OK");
        let mut settings = settings;
        for name in ["webhook_url", "server"] {
            if let Some(Value::String(place)) = settings.get_mut(name) {
                *place = format!("{url}{place}");
            }
        }
        settings["text"] = "{{payload.name}} has {{payload.n}}".into();
        let ran = run(settings.clone(), &Mail::default());
        assert_eq!(ran.answer, Answer::Said("ok".into()), "{settings}");
        assert_eq!(got.recv().expect("a request"), (path.to_owned(), authorization.to_owned(), body), "{settings}");
    };
    let text = "Ada has 1.50";
    check(json!({ "via": "slack", "webhook_url": "/services/T/B/x" }), "/services/T/B/x", "", json!({ "text": text }));
    check(
        json!({ "via": "discord", "webhook_url": "/api" }),
        "/api",
        "",
        json!({ "content": text, "allowed_mentions": { "parse": [] } }),
    );
    check(
        json!({ "via": "telegram", "server": "", "bot_token": "1:a_b", "chat_id": "-{{payload.n}}" }),
        "/bot1:a_b/sendMessage",
        "",
        json!({ "chat_id": "-1.50", "text": text, "link_preview_options": { "is_disabled": true } }),
    );
    check(
        json!({ "via": "ntfy", "server": "", "topic": "boss", "title": "{{type}}", "priority": 4, "access_token": "tk" }),
        "/",
        "Bearer tk",
        json!({ "topic": "boss", "title": "push", "message": text, "priority": 4 }),
    );
    let (url, got) = service("202 Accepted");
    run(json!({ "via": "teams", "webhook_url": url, "text": "hello" }), &Mail::default());
    let (_, _, body) = got.recv().expect("a request");
    assert_eq!(body["attachments"][0]["content"]["body"][0]["text"], "hello");
}

const MARKUP: &str = r#"{"name":"<!channel> & <a href='x'>\"y\"</a>","list":["<b>"]}"#;

#[test]
fn what_an_event_holds_does_not_become_markup_of_slack() {
    let (url, got) = service("200 OK");
    let text = "<https://example.com|*{{payload.name}}*> {{payload.list}} {{payload.gone ?? \"<none>\"}}";
    let digest = json!({ "window_ms": 100, "at_most": 1, "text": "{{list}}" });
    let settings = json!({ "via": "slack", "webhook_url": url, "text": text, "digest": digest });
    let notify = Notify::read(&settings).expect("settings");
    let (bursts, client, mail, message) = (Bursts::default(), client(), Mail::default(), received(MARKUP));
    let event = Event::new(&message, 1);
    let run = || notify.run(&event, EndpointKey(1), &bursts, Way { mail: &mail, client: &client }, &());
    block_on(async { futures_util::join!(run(), run()) });
    let expected =
        "<https://example.com|*&lt;!channel&gt; &amp; &lt;a href='x'&gt;\"y\"&lt;/a&gt;*> [\"&lt;b&gt;\"] <none>";
    // The note by itself, and the sum, which has its line.
    for (_, _, body) in got.iter().take(2) {
        assert_eq!(body["text"], expected);
    }
}

#[test]
fn what_an_event_holds_does_not_become_markup_of_discord_or_teams() {
    let payload = r#"{"name":"[x](https://evil.example) @everyone **b**","sha":"a_b"}"#;
    let text = "**{{payload.name}}** `{{payload.sha}}` [open](https://example.com/{{payload.sha | url}})";
    let value = r"\[x\]\(https://evil.example%29 \@everyone \*\*b\*\*";
    for (via, sha) in [("discord", "a_b"), ("teams", r"a\_b")] {
        let (url, got) = service("200 OK");
        run_on(payload, json!({ "via": via, "webhook_url": url, "text": text }), &Mail::default());
        let (_, _, body) = got.recv().expect("a request");
        let said =
            if via == "teams" { &body["attachments"][0]["content"]["body"][0]["text"] } else { &body["content"] };
        assert_eq!(*said, json!(format!("**{value}** `{sha}` [open](https://example.com/a%5Fb)")));
    }
}

#[test]
fn a_service_that_does_not_take_it_decides_what_follows() {
    let check = |status: &'static str, expected: fn(&Answer) -> bool| {
        let (url, _got) = service(status);
        let ran = run(json!({ "via": "slack", "webhook_url": url, "text": "x" }), &Mail::default());
        assert!(expected(&ran.answer), "{status}: {:?}", ran.answer);
    };
    check("429 Slow", |answer| matches!(answer, Answer::Retry(Some(wait), _) if wait.as_secs() == 7));
    check("400 Bad", |answer| matches!(answer, Answer::Fail(_)));
    check("404 Gone", |answer| matches!(answer, Answer::Broken(..)));
    let ran = run(json!({ "via": "slack", "webhook_url": "http://10.1.2.3/x", "text": "x" }), &Mail::default());
    assert!(matches!(ran.answer, Answer::Broken(FailureClass::Forbidden, _)));
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let check = |settings: Value, place: &[&str], text: &str| {
        let found = faults(settings.clone());
        assert!(found.iter().any(|fault| fault.path == place && fault.text.contains(text)), "{settings}: {found:?}");
    };
    check(json!({ "via": "pigeon", "text": "x" }), &["via"], "expected slack");
    check(json!({ "via": "slack", "webhook_url": "hidden", "text": "x" }), &["webhook_url"], "expected an http");
    check(
        json!({ "via": "slack", "webhook_url": "http://x", "channel": "#a", "text": "x" }),
        &["channel"],
        "unknown field",
    );
    check(json!({ "via": "slack", "webhook_url": "http://x" }), &[], "missing field `text`");
    check(json!({ "via": "slack", "webhook_url": "http://x", "text": "{{count}}" }), &["text"], "digest.text");
    check(json!({ "via": "ntfy", "topic": "a b", "text": "x" }), &["topic"], "letters");
    check(json!({ "via": "ntfy", "topic": "a", "priority": 9, "text": "x" }), &["priority"], "from 1 to 5");
    check(json!({ "via": "telegram", "bot_token": "1/../x", "chat_id": "1", "text": "x" }), &["bot_token"], "letters");
    let mail = json!({ "via": "email", "from": "x", "to": ["a@example.com"], "subject": "s", "text": "x" });
    check(mail.clone(), &["from"], "expected an address");
    let half = json!({ "host": "mail.example.com", "user": "u" });
    let half = json!({ "via": "email", "smtp": half, "from": "a@b.c", "to": ["a@b.c"], "subject": "s", "text": "x" });
    check(half, &["smtp", "password"], "both");
    check(mail, &["smtp"], "plugins.smtp");
    check(
        json!({ "via": "slack", "webhook_url": "http://x", "text": "x", "digest": { "window_ms": 1, "at_most": 1 } }),
        &["digest", "window_ms"],
        "from 100",
    );
    check(
        json!({ "via": "slack", "webhook_url": "http://x", "text": "x", "digest": { "window_ms": 100, "at_most": 0 } }),
        &["digest", "at_most"],
        "from 1",
    );
}

#[test]
fn a_burst_is_a_few_notes_and_a_sum() {
    let (url, got) = service("200 OK");
    let settings = json!({
        "via": "slack", "webhook_url": url, "text": "note\nsecond line",
        "digest": { "window_ms": 400, "at_most": 3, "text": "{{count}} more: {{list}}" },
    });
    let notify = Notify::read(&settings).expect("settings");
    let (bursts, client, mail, message) = (Bursts::default(), client(), Mail::default(), received("{}"));
    let event = Event::new(&message, 1);
    let all = block_on(futures_util::future::join_all(
        (0..100).map(|_| notify.run(&event, EndpointKey(1), &bursts, Way { mail: &mail, client: &client }, &())),
    ));
    assert!(all.iter().all(|ran| ran.answer == Answer::Said("ok".into())), "{all:?}");
    let texts: Vec<String> =
        got.try_iter().map(|(_, _, body)| body["text"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(texts.len(), 4, "{texts:?}");
    assert_eq!(texts.iter().filter(|text| *text == "note\nsecond line").count(), 3);
    let sum = texts.iter().find(|text| text.starts_with("97 more: note\nnote")).expect("the sum");
    assert!(sum.ends_with("… and 47 more"), "{sum}");
}

/// Counts those that rest.
#[derive(Default)]
struct Resting(std::cell::Cell<usize>);

impl InFlight for Resting {
    fn rests(&self) {
        self.0.set(self.0.get() + 1);
    }

    fn goes_on(&self) {
        self.0.set(self.0.get() - 1);
    }
}

#[test]
fn what_waits_for_a_sum_rests_and_who_makes_it_goes_on() {
    let (url, got) = service("200 OK");
    let digest = json!({ "window_ms": 300, "at_most": 3 });
    let settings = json!({ "via": "slack", "webhook_url": url, "text": "note", "digest": digest });
    let notify = Notify::read(&settings).expect("settings");
    let (bursts, client, mail, message) = (Bursts::default(), client(), Mail::default(), received("{}"));
    let (event, way, resting) = (Event::new(&message, 1), Way { mail: &mail, client: &client }, Resting::default());
    let all =
        futures_util::future::join_all((0..100).map(|_| notify.run(&event, EndpointKey(1), &bursts, way, &resting)));
    let meanwhile = async {
        tokio::time::sleep(std::time::Duration::from_millis(150)).await;
        assert_eq!(resting.0.get(), 97);
    };
    block_on(async { futures_util::join!(all, meanwhile) });
    assert_eq!((resting.0.get(), got.try_iter().count()), (96, 4));
}

#[test]
fn a_sum_does_not_hold_up_a_server_that_stops() {
    let (url, got) = service("200 OK");
    let digest = json!({ "window_ms": 60_000, "at_most": 1 });
    let settings = json!({ "via": "slack", "webhook_url": url, "text": "note", "digest": digest });
    let notify = Notify::read(&settings).expect("settings");
    let (bursts, client, mail, message) = (Bursts::default(), client(), Mail::default(), received("{}"));
    let (event, way) = (Event::new(&message, 1), Way { mail: &mail, client: &client });
    let run = || notify.run(&event, EndpointKey(1), &bursts, way, &());
    let begun = std::time::Instant::now();
    block_on(async {
        let stop = async { bursts.hurry() };
        futures_util::join!(run(), run(), run(), stop);
        // One that comes to it after.
        run().await
    });
    assert!(begun.elapsed().as_secs() < 30);
    let texts: Vec<Value> = got.try_iter().map(|(_, _, body)| body["text"].clone()).collect();
    assert_eq!(texts, ["note", "2 more:\nnote\nnote", "1 more:\nnote"]);
}

/// A mail server that takes one mail, or refuses its recipients; answers what it was told.
fn mail_server(recipient: &'static str) -> (SocketAddr, Receiver<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().expect("a connection");
        let mut writer = stream.try_clone().expect("a second handle");
        let mut say = |line: &str| writer.write_all(format!("{line}\r\n").as_bytes()).unwrap_or(());
        say("220 mail.example.com");
        let (mut told, mut in_mail) = (Vec::new(), false);
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            told.push(line.clone());
            match line.split(' ').next().unwrap_or_default() {
                "." => {
                    in_mail = false;
                    say("250 taken");
                }
                _ if in_mail => {}
                "EHLO" => say("250-mail.example.com\r\n250 AUTH PLAIN"),
                "RCPT" => say(recipient),
                "DATA" => {
                    in_mail = true;
                    say("354 go on");
                }
                "QUIT" => say("221 bye"),
                "AUTH" => say("235 welcome"),
                _ => say("250 fine"),
            }
        }
        let _ = sender.send(told);
    });
    (address, receiver)
}

#[test]
fn an_email_arrives() {
    let (address, got) = mail_server("250 fine");
    let settings = json!({
        "via": "email",
        "smtp": { "host": "127.0.0.1", "port": address.port(), "security": "none", "user": "u", "password": "p" },
        "from": "Bell <bell@example.com>", "to": ["{{payload.name}} <ada@example.com>", "bob@example.com"],
        "subject": "{{type}}\r\nBcc: evil@example.com", "text": "Dear {{payload.name}}", "html": "<b>{{payload.name}}</b>",
    });
    assert_eq!(faults(settings.clone()), []);
    assert_eq!(run(settings, &Mail::default()).answer, Answer::Said("sent to 2".into()));
    let told = got.recv().expect("a mail");
    let has = |line: &str| assert!(told.iter().any(|told| told == line), "{line}: {told:#?}");
    has("RCPT TO:<ada@example.com>");
    has("RCPT TO:<bob@example.com>");
    has("Dear Ada");
    has("<b>Ada</b>");
    has("Subject: push  Bcc: evil@example.com");
    assert!(told.iter().any(|line| line.starts_with("AUTH PLAIN")));
    assert!(!told.iter().any(|line| line.starts_with("Bcc:") || line.contains("RCPT TO:<evil")));
}

#[test]
fn what_an_event_holds_does_not_become_markup_of_a_mail() {
    let (address, got) = mail_server("250 fine");
    let settings = json!({
        "via": "email", "smtp": { "host": "127.0.0.1", "port": address.port(), "security": "none" },
        "from": "bell@example.com", "to": ["ada@example.com"], "subject": "s", "text": "{{payload.name}}", "html": "<p>{{payload.name}}</p>",
    });
    assert_eq!(run_on(MARKUP, settings, &Mail::default()).answer, Answer::Said("sent to 1".into()));
    let told = got.recv().expect("a mail");
    let has = |line: &str| assert!(told.iter().any(|told| told == line), "{line}: {told:#?}");
    has("<!channel> & <a href='x'>\"y\"</a>");
    // In quoted-printable, whose lines are short.
    let all = told.join("\r\n").replace("=\r\n", "");
    let html = "<p>&lt;!channel&gt; &amp; &lt;a href=3D&#39;x&#39;&gt;&quot;y&quot;&lt;/a&gt;</p>";
    assert!(all.contains(html), "{told:#?}");
}

#[test]
fn a_sum_by_mail_is_no_single_events_html() {
    let (address, got) = mail_server("250 fine");
    let (other, _first) = mail_server("250 fine");
    let settings = |port: u16| {
        json!({
            "via": "email", "smtp": { "host": "127.0.0.1", "port": port, "security": "none" },
            "from": "bell@example.com", "to": ["ada@example.com"], "subject": "s", "text": "one", "html": "<p>one</p>",
            "digest": { "window_ms": 100, "at_most": 1, "text": "{{count}} more" },
        })
    };
    let read = |port| Notify::read(&settings(port)).expect("settings");
    let (alone, summed) = (read(other.port()), read(address.port()));
    let (bursts, client, mail, message) = (Bursts::default(), client(), Mail::default(), received("{}"));
    let event = Event::new(&message, 1);
    block_on(async {
        alone.run(&event, EndpointKey(1), &bursts, Way { mail: &mail, client: &client }, &()).await;
        summed.run(&event, EndpointKey(1), &bursts, Way { mail: &mail, client: &client }, &()).await
    });
    let told = got.recv().expect("a mail");
    assert!(told.iter().any(|line| line == "1 more"), "{told:#?}");
    assert!(!told.iter().any(|line| line.contains("<p>")), "{told:#?}");
}

#[test]
fn a_mail_server_decides_what_follows() {
    let check = |answer: &'static str, expected: fn(&Answer) -> bool| {
        let (address, _got) = mail_server(answer);
        let server = super::email::Server::parse(&format!("smtp://{address}")).expect("a server");
        let mail = Mail::new(Some(server), Vec::new());
        let settings =
            json!({ "via": "email", "from": "a@example.com", "to": ["b@example.com"], "subject": "s", "text": "x" });
        let ran = run(settings, &mail);
        assert!(expected(&ran.answer), "{answer}: {:?}", ran.answer);
    };
    check("450 later", |answer| matches!(answer, Answer::Broken(..)));
    check("550 nobody of that name", |answer| matches!(answer, Answer::Fail(why) if why.contains("nobody")));
    let gone = json!({
        "via": "email", "smtp": { "host": "10.1.2.3" }, "from": "a@example.com", "to": ["b@example.com"], "subject": "s", "text": "x",
    });
    assert!(matches!(run(gone, &Mail::default()).answer, Answer::Broken(FailureClass::Forbidden, _)));
}
