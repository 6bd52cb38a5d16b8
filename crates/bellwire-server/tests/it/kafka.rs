//! Topics of Kafka as a source, and as where endpoints publish: a real Kafka, which dies as well as we do. `scripts/test queues` runs these.

#[path = "../../../bellwire-queue/tests/it/cluster.rs"]
mod cluster;

use crate::program::{Program, ledger};
use crate::sources::{messages, state};
use cluster::{Cluster, Door};
use serde_json::{Value, json};
use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Kafka takes a while to begin, and a source that failed meanwhile waits for a while as well.
fn at_last<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn url(kafka: &Cluster) -> String {
    format!("kafka://127.0.0.1:{}", kafka.port())
}

fn bodies(numbers: std::ops::Range<usize>) -> impl Iterator<Item = String> {
    numbers.map(|n| json!({ "n": n }).to_string())
}

#[test]
#[ignore = "needs Kafka: scripts/test queues"]
fn kafka_each_record_becomes_a_message_once_whatever_dies() {
    let folder = tempfile::tempdir().unwrap();
    let mut kafka = Cluster::start(1, &Door::Plain);
    kafka.ask("topic orders 3 1");
    kafka.ask("producer lz4");
    let mut server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let queue = json!({ "broker": "kafka", "url": url(&kafka), "stream": "orders" });
    let source = json!({ "uid": "orders", "appId": "acme", "queue": queue });
    let (status, told) = server.call("POST", "/source", source);
    assert_eq!(status, 201, "{told}");
    let mut count = 0;
    for round in 0..4 {
        for partition in 0..3 {
            kafka.send("orders", Some(partition), bodies(count..count + 150));
            count += 150;
        }
        // In the middle of it, as often as not.
        let before = messages(&server).len();
        at_last("it has begun", || (messages(&server).len() > before.min(count - 1)).then_some(()));
        if round % 2 == 0 {
            server.kill();
            server = Program::start(folder.path(), &[]);
        } else {
            kafka.kill(0);
            kafka.start_again(0);
        }
    }
    let all = at_last("every one is a message", || Some(messages(&server)).filter(|all| all.len() >= count));
    let numbers: Vec<u64> = all.iter().map(|(_, body)| body["n"].as_u64().unwrap()).collect();
    assert_eq!((numbers.len(), numbers.iter().collect::<HashSet<_>>().len()), (count, count), "each once");
    // Each partition's in its order: it got blocks of 150 in turn.
    let mut last: HashMap<u64, u64> = HashMap::new();
    for n in numbers {
        let before = last.insert(n / 150 % 3, n);
        assert!(before < Some(n), "{before:?} before {n}");
    }
    assert!(all.iter().all(|(event_type, _)| event_type == "orders"));
    // Killed while it has nothing to do: nothing comes again.
    server.kill();
    let server = Program::start(folder.path(), &[]);
    kafka.send("orders", Some(0), bodies(count..count + 1));
    at_last("the last one is a message", || (messages(&server).len() == count + 1).then_some(()));
    let seen = state(&server, "orders");
    let next: Vec<u64> =
        seen["position"]["next"].as_array().unwrap().iter().map(|next| next.as_u64().unwrap()).collect();
    assert_eq!(next, [601, 600, 600], "{seen}");

    // A batch that cannot be read is an error that is seen, and is not passed over.
    kafka.ask("producer gzip");
    kafka.ask("zeros orders 70000000");
    kafka.ask("flush");
    kafka.send("orders", Some(0), bodies(count + 1..count + 2));
    let error = at_last("it is told", || {
        state(&server, "orders")["lastError"]["message"]
            .as_str()
            .filter(|text| text.contains("cannot be read"))
            .map(str::to_owned)
    });
    assert!(error.contains("orders/0, at 601") && error.contains("more than 67108864 bytes"), "{error}");
    assert_eq!(state(&server, "orders")["position"]["next"][0], json!(601));
    assert_eq!(messages(&server).len(), count + 1);
    // Somebody removes it, and what is gone is told; what is behind it comes.
    kafka.ask("forget orders 0 602");
    at_last("the next one is a message", || (messages(&server).len() == count + 2).then_some(()));
    let (_, page) = server.call("GET", "/source/orders/request?outcome=refused", Value::Null);
    assert_eq!(page["data"][0]["status"], json!(410), "{page}");
    assert!(page["data"][0]["reason"].as_str().unwrap().contains("records 601 to 601 were removed"), "{page}");
    assert!(server.stop().success());
}

#[test]
#[ignore = "needs Kafka: scripts/test queues"]
fn kafka_has_what_was_accepted_whatever_dies() {
    let folder = tempfile::tempdir().unwrap();
    let mut kafka = Cluster::start(1, &Door::Plain);
    kafka.ask("topic invoice.paid 2 1");
    let schedule = vec!["500ms"; 60].join(",");
    let serve = || Program::start(folder.path(), &[("BELLWIRE_DELIVERY_RETRY_SCHEDULE", &schedule)]);
    let mut server = serve();
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let settings = json!({ "runs": "queue", "broker": "kafka", "url": url(&kafka), "topic": "{{type}}", "key": "{{payload.customer}}" });
    let endpoint = json!({ "uid": "queue", "kind": "plugin", "plugin": settings });
    let (status, body) = server.call("POST", "/app/acme/endpoint", endpoint);
    assert_eq!(status, 201, "{body}");
    let mut ids = HashSet::new();
    let mut send = |server: &Program, count: usize| {
        for n in 0..count {
            let message = json!({ "eventType": "invoice.paid", "payload": { "customer": format!("c{}", n % 5) } });
            let (status, told) = server.call("POST", "/app/acme/msg", message);
            assert_eq!(status, 202, "{told}");
            ids.insert(told["id"].as_str().unwrap().to_owned());
        }
    };
    for _ in 0..2 {
        send(&server, 30);
        // In the midst of publishing.
        kafka.kill(0);
        send(&server, 10);
        kafka.start_again(0);
        send(&server, 10);
        server.kill();
        server = serve();
    }
    at_last("everything is published", || (ledger(folder.path())["pending"] == 0).then_some(()));
    let ledger = ledger(folder.path());
    assert_eq!((&ledger["matched"], &ledger["delivered"]), (&json!(100), &json!(100)), "{ledger}");
    let read = kafka.read("invoice.paid");
    let there: HashSet<String> = read.iter().map(|one| one.headers["webhook-id"].clone()).collect();
    assert_eq!(there, ids);
    let mut of: HashMap<&str, usize> = HashMap::new();
    for one in &read {
        let key = one.key.as_deref().unwrap();
        assert_eq!(json!({ "customer": key }).to_string(), one.value);
        assert_eq!(*of.entry(key).or_insert(one.partition), one.partition);
    }
    // What Kafka said is in the log.
    let (_, page) = server.call("GET", "/app/acme/attempt/endpoint/queue?status=0&limit=1", json!(null));
    assert!(page["data"][0]["response"].as_str().unwrap().starts_with("invoice.paid/"), "{page}");
    assert!(server.stop().success());
}
