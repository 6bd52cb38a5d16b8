//! Sources that take their messages off a queue: real queues, which die as well as we do. `scripts/test queues` runs what needs them.

use crate::program::{Program, eventually, run};
use crate::queues::real::Real;
use crate::sources::{messages, state};
use bellwire_queue::Broker;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

fn settings(broker: Broker, port: u16) -> Value {
    let url = format!("{}://127.0.0.1:{port}", broker.name());
    match broker {
        Broker::Amqp => json!({ "broker": broker.name(), "url": url, "queue": "events" }),
        _ => json!({ "broker": broker.name(), "url": url, "stream": "events", "group": "bellwire" }),
    }
}

fn source(queue: Value) -> Value {
    json!({ "uid": "orders", "appId": "acme", "queue": queue })
}

fn start(folder: &std::path::Path) -> Program {
    Program::start(folder, &[("BELLWIRE_SERVER_PAYLOAD_MAX", "100 KiB")])
}

fn publish(queue: &Real, numbers: std::ops::Range<usize>) {
    let headers: &[(&str, &str)] = &[("webhook-event-type", "order.placed")];
    queue.publish(numbers.map(|n| (headers, json!({ "n": n }).to_string().into_bytes())));
}

fn expected(count: usize) -> Vec<(String, Value)> {
    (0..count).map(|n| ("order.placed".to_owned(), json!({ "n": n }))).collect()
}

/// All of them, each once, in order, and the queue has nothing left for us.
fn all_arrive(server: &Program, queue: &Real, count: usize) {
    let all = eventually("every one is a message", || Some(messages(server)).filter(|all| all.len() >= count));
    assert!(all == expected(count), "in order, each once: {} messages for {count}", all.len());
    all_settled(queue);
    assert_eq!(messages(server).len(), count);
}

/// What NATS gave to one who was killed it gives again, and hears then that it need not: after twenty seconds.
fn all_settled(queue: &Real) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while queue.unsettled("bellwire") != (0, 0) {
        assert!(Instant::now() < deadline, "never acknowledged: {:?}", queue.unsettled("bellwire"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn what_is_in_the_queue_becomes_messages_once_whatever_dies(broker: Broker) {
    let folder = tempfile::tempdir().unwrap();
    let mut queue = Real::start(broker, &[]);
    queue.make_stream();
    publish(&queue, 0..100);
    let mut server = start(folder.path());
    // From the command line, with the settings in a file.
    let file = folder.path().join("orders.json");
    std::fs::write(&file, settings(broker, queue.port).to_string()).unwrap();
    let url = format!("http://{}", server.address);
    let told = |verb: &[&str]| {
        let output = run(folder.path(), &[&["source"], verb, &["--url", &url, "--api-token", &server.token]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let id = told(&["add", "orders", "--app", "acme", "--queue", file.to_str().unwrap()]);
    assert!(id.starts_with("src_"), "{id}");
    all_arrive(&server, &queue, 100);
    assert!(told(&["list"]).lines().any(|line| line.contains("queue") && line.contains("enabled")));
    assert!(told(&["state", "orders"]).contains("messageCount       100"));

    let mut count = 100;
    for round in 0..4 {
        let before = messages(&server).len();
        publish(&queue, count..count + 300);
        count += 300;
        // In the middle of it, as often as not.
        eventually("it has begun", || (messages(&server).len() > before).then_some(()));
        if round % 2 == 0 {
            server.kill();
            publish(&queue, count..count + 20);
            count += 20;
            queue.kill();
            server = start(folder.path());
            queue.start_again();
        } else {
            queue.kill();
            queue.start_again();
        }
    }
    all_arrive(&server, &queue, count);
    let seen = eventually("it has caught up", || {
        Some(state(&server, "orders"))
            .filter(|seen| (&seen["failureCount"], &seen["lagSeconds"]) == (&json!(0), &json!(0.0)))
    });
    assert!(seen["position"]["last"].as_str().unwrap().starts_with("events "), "{seen}");
    assert!(server.stop().success());
}

/// The numbers of AMQP's `basic.ack`, behind the length of its frame.
const AMQP_ACK: &[u8] = &[0, 0, 0, 13, 0, 60, 0, 80];

/// Between a server and a queue; what acknowledges goes nowhere while it is told to swallow it.
struct Between {
    port: u16,
    swallows: Arc<AtomicBool>,
    swallowed: Arc<AtomicUsize>,
}

impl Between {
    fn start(to: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let (swallows, swallowed) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (told, count) = (Arc::clone(&swallows), Arc::clone(&swallowed));
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).unwrap();
                let (back, forth) = (server.try_clone().unwrap(), client.try_clone().unwrap());
                let (told, count) = (Arc::clone(&told), Arc::clone(&count));
                std::thread::spawn(move || {
                    pass(client, server, |bytes| {
                        let acks = [&b"$JS.ACK."[..], b"XACK", AMQP_ACK]
                            .iter()
                            .any(|ack| bytes.windows(ack.len()).any(|window| window == *ack));
                        let swallow = acks && told.load(Ordering::SeqCst);
                        count.fetch_add(usize::from(swallow), Ordering::SeqCst);
                        !swallow
                    })
                });
                std::thread::spawn(move || pass(back, forth, |_| true));
            }
        });
        Between { port, swallows, swallowed }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, passes: impl Fn(&[u8]) -> bool) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if passes(&buffer[..count]) && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}

fn a_kill_between_commit_and_acknowledgement_makes_no_second_message(broker: Broker) {
    let folder = tempfile::tempdir().unwrap();
    let queue = Real::start(broker, &[]);
    queue.make_stream();
    let between = Between::start(queue.port);
    let server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    publish(&queue, 0..10);
    let (status, told) = server.call("POST", "/source", source(settings(broker, between.port)));
    assert_eq!(status, 201, "{told}");
    eventually("they are durable", || (messages(&server).len() == 10).then_some(()));
    eventually("it acknowledges", || (between.swallowed.load(Ordering::SeqCst) > 0).then_some(()));
    let (given, _) = queue.unsettled("bellwire");
    assert!(given > 0, "the queue has heard nothing");
    server.kill();
    between.swallows.store(false, Ordering::SeqCst);
    let server = start(folder.path());
    publish(&queue, 10..15);
    all_arrive(&server, &queue, 15);
    assert!(server.stop().success());
}

fn what_cannot_be_a_message_is_kept_with_the_reason_and_holds_up_nothing(broker: Broker) {
    let folder = tempfile::tempdir().unwrap();
    let queue = Real::start(broker, &[]);
    queue.make_stream();
    let server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let mut wanted = settings(broker, queue.port);
    wanted["dedupeHeader"] = json!("Order-Id");
    wanted["eventTypeFrom"] = json!("body.event.kind");
    let (status, told) = server.call("POST", "/source", source(wanted));
    assert_eq!(status, 201, "{told}");
    let body = |kind: &str| format!(r#"{{"event":{{"kind":"{kind}"}},"amount":1.50}}"#).into_bytes();
    let large = format!(r#"{{"event":{{"kind":"a"}},"x":"{}"}}"#, "x".repeat(100 << 10)).into_bytes();
    let none: &[(&str, &str)] = &[];
    queue.publish([
        (&[("order-id", "1")][..], body("placed")),
        (none, b"{\"event\":".to_vec()),
        (none, Vec::new()),
        (none, large),
        (none, b"{\"event\":{}}".to_vec()),
        (&[("bellwire-hops", "8")][..], body("round")),
        // The same by what its sender says, whatever is in it.
        (&[("order-id", "1")][..], body("again")),
        (&[("order-id", "2")][..], body("paid at last")),
    ]);
    let all = eventually("the good ones are messages", || Some(messages(&server)).filter(|all| all.len() >= 2));
    let types: Vec<&str> = all.iter().map(|(event_type, _)| event_type.as_str()).collect();
    assert_eq!(types, ["placed", "paid_at_last"]);
    all_settled(&queue);
    let (status, page) = server.call("GET", "/source/orders/request?outcome=refused", Value::Null);
    assert_eq!(status, 200, "{page}");
    let mut refused: Vec<(u64, String)> = Vec::new();
    for request in page["data"].as_array().unwrap() {
        refused.push((request["status"].as_u64().unwrap(), request["reason"].as_str().unwrap().to_owned()));
    }
    refused.reverse();
    let empty = if broker == Broker::Redis { "nothing in its field payload" } else { "it is empty" };
    for ((status, reason), (wanted, text)) in refused.iter().zip([
        (400, "not JSON"),
        (400, empty),
        (413, "at most 102400"),
        (400, "body.event.kind"),
        (508, "in circles"),
    ]) {
        assert!(*status == wanted && reason.contains(text), "{wanted} {text}: {status} {reason}");
    }
    assert_eq!(refused.len(), 5, "{page}");
    assert!(server.stop().success());
}

fn a_source_follows_its_settings_while_the_server_runs(broker: Broker) {
    let folder = tempfile::tempdir().unwrap();
    let queue = Real::start(broker, &["right"]);
    let server = start(folder.path());
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let mut wanted = settings(broker, queue.port);
    wanted["password"] = json!("wrong");
    if broker != Broker::Redis {
        wanted["user"] = json!("bell");
    }
    wanted["expects"] = json!("any");
    let (status, told) = server.call("POST", "/source", source(wanted.clone()));
    assert_eq!((status, &told["queue"]["password"]), (201, &json!("***")), "{told}");
    let error = || state(&server, "orders")["lastError"]["message"].as_str().map(str::to_owned);
    eventually("it is not let in", error);
    // Another queue that lets everybody in.
    let mut open = Real::start(broker, &[]);
    open.make_stream();
    let change = json!({ "queue": settings(broker, open.port) });
    assert_eq!(server.call("PATCH", "/source/orders", change).0, 200);
    publish(&open, 0..3);
    all_arrive(&server, &open, 3);
    // What is disabled takes nothing; what is enabled again goes on where it was.
    assert_eq!(server.call("PATCH", "/source/orders", json!({ "disabled": true })).0, 200);
    assert_eq!(state(&server, "orders")["running"], json!(false));
    publish(&open, 3..5);
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(messages(&server).len(), 3);
    assert_eq!(server.call("PATCH", "/source/orders", json!({ "disabled": false })).0, 200);
    all_arrive(&server, &open, 5);
    // One that is gone is said to be.
    open.kill();
    let told = eventually("it says that the queue is gone", error);
    assert!(!told.is_empty());
    open.start_again();
    publish(&open, 5..6);
    all_arrive(&server, &open, 6);
    assert!(server.stop().success());

    // Where the operator has not allowed the address, nobody gets there.
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_EGRESS_ALLOW", "")]);
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    assert_eq!(server.call("POST", "/source", source(settings(broker, open.port))).0, 201);
    let told =
        eventually("it is kept away", || state(&server, "orders")["lastError"]["message"].as_str().map(str::to_owned));
    assert!(told.contains("private, local or reserved"), "{told}");
    assert!(server.stop().success());
}

macro_rules! for_each_broker {
    ($($name:ident),*) => {$(
        mod $name {
            #[test]
            #[ignore = "needs nats-server: scripts/test queues"]
            fn nats() {
                super::$name(super::Broker::Nats);
            }

            #[test]
            #[ignore = "needs redis-server: scripts/test queues"]
            fn redis() {
                super::$name(super::Broker::Redis);
            }

            #[cfg(feature = "amqp")]
            #[test]
            #[ignore = "needs rabbitmq-server: scripts/test queues"]
            fn amqp() {
                super::$name(super::Broker::Amqp);
            }
        }
    )*};
}
for_each_broker!(
    what_is_in_the_queue_becomes_messages_once_whatever_dies,
    a_kill_between_commit_and_acknowledgement_makes_no_second_message,
    what_cannot_be_a_message_is_kept_with_the_reason_and_holds_up_nothing,
    a_source_follows_its_settings_while_the_server_runs
);
