//! A real Kafka. What brokers answer that no real one does is tried beside the code.

use crate::broker::{self, FETCH, LIST_OFFSETS, METADATA, PRODUCE};
use crate::cluster::{Cluster, Door};
use crate::{LIMIT, client, publication, wall};
use bellwire_egress::{Client, TlsSettings};
use bellwire_queue::{
    Amiss, Broker, Consumer, Credentials, Publication, PublishError, Publishers, Server, Start, Subscription, Taken,
    consume, header,
};
use futures_util::future::join_all;
use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;

pub(crate) fn server(scheme: &str, port: u16, password: Option<&str>) -> Server {
    let user = password.map(|_| "bell".to_owned());
    let credentials = Credentials { user, password: password.map(str::to_owned), token: None };
    Server::parse(Broker::Kafka, &format!("{scheme}://localhost:{port}"), credentials).unwrap()
}

pub(crate) fn plain() -> Client {
    client(TlsSettings::default())
}

/// What was taken, and the last position that came with it.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) all: Vec<Taken>,
    pub(crate) position: Option<String>,
    /// What was told to be wrong, while the rest was read; and what was wrong at last.
    pub(crate) amiss: Vec<String>,
    pub(crate) is_amiss: bool,
}

pub(crate) struct Keeping<'a> {
    pub(crate) kept: &'a mut Kept,
    pub(crate) enough: watch::Sender<usize>,
}

impl Consumer for Keeping<'_> {
    type Error = String;

    async fn ready(&mut self) {}

    async fn accept(&mut self, batch: Vec<Taken>, _: bool, position: Option<String>) -> Result<(), String> {
        assert!(batch.is_empty() || position.is_some(), "what is taken moves the position");
        self.kept.all.extend(batch);
        self.kept.position = position.or(self.kept.position.take());
        self.enough.send_replace(self.kept.all.len());
        Ok(())
    }

    fn amiss(&mut self, Amiss { news, is_still }: Amiss) {
        self.kept.amiss.extend(news);
        self.kept.is_amiss = is_still;
    }
}

pub(crate) fn subscription(start: Start) -> Subscription {
    let (stream, group) = ("events".to_owned(), "bellwire".to_owned());
    Subscription { stream, group, filter: None, start, payload_field: header::PAYLOAD.to_owned() }
}

/// Takes from where `kept` ends until it has `count`, and a position. As a source does, it begins again after a fault.
pub(crate) async fn take(server: &Server, start: Start, kept: &mut Kept, count: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
    let mut faults = Vec::new();
    while kept.all.len() < count || kept.position.is_none() {
        let from = kept.position.clone();
        let (enough, mut has_enough) = watch::channel(kept.all.len());
        let mut keeping = Keeping { kept, enough };
        let (client, subscription) = (plain(), subscription(start));
        tokio::select! {
            error = consume(&client, wall, server, (&subscription, from.as_deref()), &mut keeping) => {
                faults.push(error.to_string());
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            _ = async {
                has_enough.changed().await.unwrap();
                has_enough.wait_for(|has| *has >= count).await.map(|_| ())
            } => {}
            () = tokio::time::sleep_until(deadline) => panic!("{} of {count}: {faults:?}", kept.all.len()),
        }
    }
}

pub(crate) fn payloads(taken: &[Taken]) -> Vec<String> {
    taken.iter().map(|taken| String::from_utf8(taken.payload.to_vec()).unwrap()).collect()
}

pub(crate) fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn with_key(number: usize, key: Option<&str>) -> Publication {
    Publication { key: key.map(str::to_owned), dedupe: None, ..publication(number) }
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_has_what_was_published_whole_and_whatever_dies() {
    let mut real = Cluster::start(1, &Door::Plain);
    real.ask("topic events 3 1");
    let server = server("kafka", real.port(), None);
    let publishers = Publishers::new(plain(), wall);
    // Many at once, so that many go together.
    let keys: Vec<String> = (0..10).map(|key| format!("customer-{key}")).collect();
    let all: Vec<Publication> = (0..200).map(|number| with_key(number, Some(&keys[number % 10]))).collect();
    for placed in join_all(all.iter().map(|one| publishers.publish(&server, one, LIMIT))).await {
        assert!(!placed.unwrap().duplicate);
    }
    let read = real.read("events");
    assert_eq!(read.len(), 200);
    let mut ids: Vec<&str> = read.iter().map(|one| one.headers[header::ID].as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 200);
    let third = read.iter().find(|one| one.headers[header::ID] == "id-3").unwrap();
    assert_eq!((third.value.as_str(), third.key.as_deref()), ("payload 3 \u{e9}\0", Some("customer-3")));
    assert_eq!(third.headers[header::EVENT_TYPE], "invoice.paid");
    // Kafka's own client puts the same keys into the same partitions.
    real.ask("producer none");
    real.ask("topic others 3 1");
    for key in &keys {
        let key = crate::cluster::base64(key.as_bytes());
        real.ask(&format!("send others - {key} {key}"));
    }
    real.ask("flush");
    for other in real.read("others") {
        let own = read.iter().find(|one| one.key == other.key).unwrap();
        assert_eq!(own.partition, other.partition, "{other:?}");
    }

    real.kill(0);
    let error = publishers.publish(&server, &with_key(200, None), Duration::from_secs(2)).await.unwrap_err();
    assert!(!matches!(error, PublishError::Refused { .. }), "{error:?}");
    real.start_again(0);
    let mut last = None;
    for _ in 0..20 {
        last = Some(publishers.publish(&server, &with_key(201, None), LIMIT).await);
        if matches!(last, Some(Ok(_))) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    last.unwrap().unwrap();
    assert!(real.read("events").iter().any(|one| one.headers[header::ID] == "id-201"));

    // What can never be published is refused, and its neighbours are not.
    let large = Publication { payload: vec![b'x'; 2 << 20].into(), ..with_key(1, Some("a")) };
    let all = [with_key(300, Some("a")), large, with_key(301, Some("a"))];
    let outcomes = join_all(all.iter().map(|one| publishers.publish(&server, one, LIMIT))).await;
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(PublishError::Refused { forever: true, .. })), "{outcomes:?}");
    for (to, never, text) in [("a b", true, "cannot be the name"), ("nowhere", false, "there is no topic nowhere")] {
        let lost = Publication { to: to.to_owned(), ..with_key(1, None) };
        let error = publishers.publish(&server, &lost, LIMIT).await.unwrap_err();
        assert!(matches!(error, PublishError::Refused { forever, .. } if forever == never), "{error:?}");
        assert!(error.to_string().contains(text), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_is_read_in_order_however_it_is_packed_and_nothing_that_was_not_committed() {
    let mut real = Cluster::start(1, &Door::Plain);
    real.ask("topic events 2 1");
    let server = server("kafka", real.port(), None);
    let mut count = 0;
    for compression in ["none", "gzip", "snappy", "lz4", "zstd"] {
        real.ask(&format!("producer {compression}"));
        // More than one page, and blocks that are worth packing.
        real.send("events", Some(0), (count..count + 300).map(|number| format!("{number:>2000}")));
        count += 300;
    }
    let mut kept = Kept::default();
    take(&server, Start::Oldest, &mut kept, count).await;
    let trimmed: Vec<String> = payloads(&kept.all).iter().map(|text| text.trim().to_owned()).collect();
    assert_eq!(trimmed, numbers(0..count));
    assert_eq!((kept.all[7].place.as_str(), kept.all[7].subject.as_str()), ("events/0 7", "events"));
    assert!(kept.all[0].published.unwrap() > 1_750_000_000_000, "{:?}", kept.all[0].published);

    // Given up, committed, and neither.
    real.ask("producer zstd transfers");
    for (outcome, numbers) in [("abort", 0..50), ("commit", 50..100), ("abort", 100..150), ("commit", 150..200)] {
        real.ask("begin");
        real.send("events", Some(1), numbers.map(|number| format!("t{number}")));
        real.ask(outcome);
    }
    real.ask("begin");
    real.send("events", Some(1), ["open".to_owned()]);
    let before = kept.all.len();
    take(&server, Start::Oldest, &mut kept, before + 100).await;
    let expected: Vec<String> = (50..100).chain(150..200).map(|number| format!("t{number}")).collect();
    assert_eq!(payloads(&kept.all[before..]), expected);
    real.ask("commit");
    take(&server, Start::Oldest, &mut kept, before + 101).await;
    assert_eq!(payloads(&kept.all[before + 100..]), ["open"]);
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_is_read_on_from_where_the_position_says() {
    let mut real = Cluster::start(1, &Door::Plain);
    real.ask("topic events 1 1");
    real.ask("producer gzip");
    real.send("events", Some(0), numbers(0..10));
    let server = server("kafka", real.port(), None);
    // Who begins with what is new has a place at once.
    let mut kept = Kept::default();
    take(&server, Start::New, &mut kept, 0).await;
    assert!(kept.all.is_empty() && kept.position.is_some(), "{:?}", kept.position);
    real.send("events", Some(0), numbers(10..20));
    real.kill(0);
    real.start_again(0);
    take(&server, Start::New, &mut kept, 10).await;
    // Partitions that come later are read from their beginning.
    real.ask("grow events 2");
    real.send("events", Some(1), numbers(20..23));
    take(&server, Start::New, &mut kept, 13).await;
    assert_eq!(payloads(&kept.all), numbers(10..23));
    // In the middle of a batch that is packed.
    let mut again =
        Kept { position: kept.position.clone().map(|text| text.replace("[20,", "[15,")), ..Kept::default() };
    take(&server, Start::Oldest, &mut again, 5).await;
    assert_eq!(payloads(&again.all), numbers(15..20));
    // What is removed before it is taken is said to be.
    real.send("events", Some(0), numbers(30..40));
    real.ask("forget events 0 25");
    let mut late = Kept { position: kept.position.clone(), ..Kept::default() };
    take(&server, Start::Oldest, &mut late, 6).await;
    let gone = late.all[0].gone.as_deref().unwrap();
    assert!(gone.contains("records 20 to 24 were removed"), "{gone}");
    assert_eq!(payloads(&late.all[1..]), numbers(35..40));
    // A topic that is made anew is new, and no place in it is one that was there before.
    let keys = |taken: &[Taken]| taken.iter().map(|taken| taken.key(None)).collect::<Vec<_>>();
    let before = keys(&late.all);
    real.ask("delete events");
    real.ask("topic events 1 1");
    real.ask("producer none");
    real.send("events", Some(0), numbers(100..140));
    let mut anew = Kept { position: late.position, ..Kept::default() };
    take(&server, Start::New, &mut anew, 40).await;
    assert_eq!(payloads(&anew.all), numbers(100..140));
    assert!(keys(&anew.all).iter().all(|key| !before.contains(key)));
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_goes_on_when_a_leader_dies() {
    let mut real = Cluster::start(2, &Door::Plain);
    real.ask("topic events 4 2 min.insync.replicas=1");
    let server = server("kafka", real.port(), None);
    let publishers = Publishers::new(plain(), wall);
    let publish = async |number: usize| {
        for _ in 0..40 {
            match publishers.publish(&server, &with_key(number, Some(&number.to_string())), LIMIT).await {
                Ok(_) => return,
                Err(PublishError::Refused { text, forever: true }) => panic!("{text}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
        panic!("{number} is never published");
    };
    for number in 0..40 {
        publish(number).await;
    }
    let mut kept = Kept::default();
    take(&server, Start::Oldest, &mut kept, 40).await;
    real.kill(1);
    for number in 40..80 {
        publish(number).await;
    }
    take(&server, Start::Oldest, &mut kept, 80).await;
    real.start_again(1);
    for number in 80..100 {
        publish(number).await;
    }
    take(&server, Start::Oldest, &mut kept, 100).await;
    let mut ids: Vec<String> = kept.all.iter().map(|taken| taken.header(header::ID).unwrap().to_owned()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100, "all of them");
    let mut places: Vec<String> = kept.all.iter().map(|taken| taken.key(None)).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), kept.all.len(), "each place once");
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_lets_in_whom_it_knows_and_hears_who_it_is() {
    let mut real = Cluster::start(1, &Door::Sasl);
    real.ask("topic events 1 1");
    let publishers = Publishers::new(plain(), wall);
    let at = |password| server("kafka", real.port(), password);
    let error = publishers.publish(&at(None), &publication(0), LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("may want another user"), "{error:?}");
    let error = publishers.publish(&at(Some("wrong")), &publication(0), LIMIT).await.unwrap_err();
    assert!(matches!(error, PublishError::Refused { forever: false, .. }), "{error:?}");
    publishers.publish(&at(Some("right")), &publication(0), LIMIT).await.unwrap();
    for mechanism in ["SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let by = |password| at(Some(password)).by_mechanism(mechanism).unwrap();
        let error = publishers.publish(&by("wrong"), &publication(0), LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("does not let us in: SASL_AUTHENTICATION_FAILED"), "{error:?}");
        publishers.publish(&by("right"), &publication(0), LIMIT).await.unwrap();
    }
    let mut kept = Kept::default();
    take(&at(Some("right")).by_mechanism("SCRAM-SHA-512").unwrap(), Start::Oldest, &mut kept, 3).await;

    drop(real);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let pem = format!("{}{}", made.signing_key.serialize_pem(), made.cert.pem());
    let mut real = Cluster::start(1, &Door::Tls(pem));
    real.ask("topic events 1 1");
    let trusting = TlsSettings { extra_roots: vec![made.cert.der().clone()], ..TlsSettings::default() };
    let trusting = Publishers::new(client(trusting), wall);
    trusting.publish(&server("kafka+ssl", real.port(), None), &publication(0), LIMIT).await.unwrap();
    let error = publishers.publish(&server("kafka+ssl", real.port(), None), &publication(0), LIMIT).await.unwrap_err();
    assert!(matches!(error, PublishError::Unreachable(_)), "{error:?}");
    assert_eq!(real.read("events").len(), 1);
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_leads_nobody_inside_by_naming_brokers_there() {
    let mut real = Cluster::start(1, &Door::Elsewhere);
    real.ask("topic events 1 1");
    let server = server("kafka", real.port(), None);
    let error = Publishers::new(plain(), wall).publish(&server, &publication(0), LIMIT).await.unwrap_err();
    let PublishError::Unreachable(error) = error else { panic!("{error:?}") };
    assert_eq!(error.class(), "forbidden_address");
    let (enough, mut kept) = (watch::channel(0).0, Kept::default());
    let mut keeping = Keeping { kept: &mut kept, enough };
    let error = consume(&plain(), wall, &server, (&subscription(Start::Oldest), None), &mut keeping).await;
    assert!(error.to_string().contains("private, local or reserved"), "{error}");
}

/// Answers the first request of each connection with these bytes, and ends it.
fn answering(bytes: Vec<u8>) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut tcp in listener.incoming().map_while(Result::ok) {
            let _ = tcp.read(&mut [0; 1_024]);
            let _ = tcp.write_all(&bytes);
        }
    });
    port
}

#[tokio::test]
async fn what_is_no_kafka_or_claims_to_be_much_of_one_is_an_error() {
    // Frames: a length, the number of the first request, no error, and how many versions follow.
    let versions = |count: i32, follows: &[u8]| {
        let body = [&[0; 6][..], &count.to_be_bytes(), follows].concat();
        [&i32::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    };
    for (bytes, text) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "has 1213486160 bytes, and at most"),
        (i32::MAX.to_be_bytes().to_vec(), "has 2147483647 bytes, and at most"),
        ((-1_i32).to_be_bytes().to_vec(), "bytes, and at most"),
        (Vec::new(), "it ended the connection"),
        (versions(i32::MAX, &[0; 60]), "cut short"),
        // Fetch from 4 to 17, and nothing else.
        (versions(1, &[0, 1, 0, 4, 0, 17]), "does not speak version 7 of Produce"),
        (vec![0, 0, 0, 4, 0, 0, 0, 9], "to another question"),
        // As much as may be fetched is far more than what versions there are.
        ((5_i32 << 20).to_be_bytes().to_vec(), "has 5242880 bytes, and at most"),
    ] {
        let server = server("kafka", answering(bytes), None);
        let error = Publishers::new(plain(), wall).publish(&server, &publication(0), LIMIT).await.unwrap_err();
        assert!(error.to_string().contains(text), "{text}: {error}");
        let (enough, mut kept) = (watch::channel(0).0, Kept::default());
        let mut keeping = Keeping { kept: &mut kept, enough };
        let error = consume(&plain(), wall, &server, (&subscription(Start::Oldest), None), &mut keeping).await;
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
}

/// A broker that takes everything.
fn taking(api: i16, port: u16) -> broker::Said {
    match api {
        METADATA => broker::metadata(1, port),
        PRODUCE => broker::produced(0),
        _ => None,
    }
}

#[tokio::test]
async fn a_server_that_is_silent_does_not_hide_the_next_one_in_the_url() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (first, second) = (silent.local_addr().unwrap().port(), broker::Broker::start(taking).port);
    let url = format!("kafka://127.0.0.1:{first},127.0.0.1:{second}");
    let server = Server::parse(Broker::Kafka, &url, Credentials::default()).unwrap();
    let limit = Duration::from_secs(3);
    Publishers::new(plain(), wall).publish(&server, &publication(0), limit).await.unwrap();
}

#[tokio::test]
async fn a_leader_that_is_silent_is_asked_for_anew_after_the_first_that_waited_in_vain() {
    let silent = broker::Broker::start(|_, _| None);
    let leader = Arc::new(AtomicU16::new(0));
    let now = Arc::clone(&leader);
    let other = broker::Broker::start(move |api, port| match (api, now.load(Ordering::SeqCst)) {
        (METADATA, 0) => broker::metadata(2, port),
        (METADATA, elsewhere) => broker::metadata(1, elsewhere),
        (PRODUCE, elsewhere @ 1..) if elsewhere != port => broker::produced(6),
        _ => taking(api, port),
    });
    let server = server("kafka", other.port, None);
    let publishers = Publishers::new(plain(), wall);
    // How long a connection waits for an answer was said by who opened it.
    publishers.publish(&server, &publication(0), LIMIT).await.unwrap();
    leader.store(silent.port, Ordering::SeqCst);
    let limit = Duration::from_secs(2);
    let error = publishers.publish(&server, &publication(1), limit).await.unwrap_err();
    assert!(matches!(error, PublishError::Timeout(_)), "{error:?}");
    leader.store(0, Ordering::SeqCst);
    publishers.publish(&server, &publication(1), limit).await.unwrap();
}

#[tokio::test]
async fn a_broker_that_is_called_something_else_each_time_is_connected_to_once() {
    let asked = AtomicUsize::new(0);
    let broker = broker::Broker::start(move |api, port| match api {
        METADATA => broker::metadata(i32::try_from(asked.fetch_add(1, Ordering::SeqCst)).unwrap(), port),
        PRODUCE => broker::produced(6),
        _ => None,
    });
    let publishers = Publishers::new(plain(), wall);
    let error = publishers.publish(&server("kafka", broker.port, None), &publication(0), LIMIT).await.unwrap_err();
    assert!(error.to_string().contains("another leader"), "{error}");
    // One to ask who leads, one to the leader.
    assert_eq!(broker.opened.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_batch_that_never_comes_whole_is_an_error_and_not_asked_for_without_end() {
    // Less than a batch's head; and a head that says that more follows than does.
    let head = [&[0; 8][..], &[0, 0, 16, 0], &[0; 4], &[2], &[0; 50]].concat();
    for records in [vec![0; 20], head] {
        let broker = broker::Broker::start(move |api, port| match api {
            METADATA => broker::metadata(1, port),
            LIST_OFFSETS => broker::begins(),
            FETCH => broker::fetched(&records),
            _ => None,
        });
        let (enough, mut kept) = (watch::channel(0).0, Kept::default());
        let mut keeping = Keeping { kept: &mut kept, enough };
        let (client, server, subscription) = (plain(), server("kafka", broker.port, None), subscription(Start::Oldest));
        let consuming = consume(&client, wall, &server, (&subscription, None), &mut keeping);
        let error = tokio::time::timeout(Duration::from_secs(20), consuming).await.expect("it gives up");
        assert!(error.to_string().contains("a batch of events/0, at 0 or behind it, cannot be read"), "{error}");
    }
}
