//! Against real servers, which these tests start themselves on free ports, kill and start again. `scripts/test queues` runs them,
//! after it has seen to it that `nats-server`, `redis-server` and Kafka's jars are there.
#![cfg(all(feature = "nats", feature = "redis"))]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[cfg(feature = "amqp")]
mod amqp;
mod real;
#[cfg(feature = "kafka")]
mod broker;
#[cfg(feature = "kafka")]
mod cluster;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_parts;

use async_nats::jetstream::{self, stream};
use async_nats::rustls::{ClientConfig, RootCertStore};
use bellwire_egress::{Client, Egress, Guard, Settings, TlsSettings};
use bellwire_queue::{
    Amiss, Broker, Consumer, Credentials, Publication, PublishError, Publishers, Server, Start, Subscription, Taken,
    consume, header,
};
use real::Real;
use std::time::Duration;
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(10);

/// Long ago: no server here looks at it.
fn wall() -> i64 {
    1_800_000_000
}

fn client(tls: TlsSettings) -> Client {
    let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Guard::default() };
    Egress::new(Settings { guard, tls, ..Settings::default() }).unwrap().client().unwrap()
}

fn server(real: &Real, credentials: Credentials) -> Server {
    let scheme = real.broker.name();
    Server::parse(real.broker, &format!("{scheme}://127.0.0.1:{}", real.port), credentials).unwrap()
}

fn publication(number: usize) -> Publication {
    Publication {
        to: "events".to_owned(),
        exchange: String::new(),
        key: None,
        id: format!("id-{number}"),
        headers: vec![(header::ID, format!("id-{number}")), (header::EVENT_TYPE, "invoice.paid".to_owned())],
        payload: format!("payload {number} \u{e9}\0").into(),
        length_max: None,
        dedupe: Some(Duration::from_secs(120)),
    }
}

fn subscription() -> Subscription {
    let (stream, group) = ("events".to_owned(), "bellwire".to_owned());
    Subscription { stream, group, filter: None, start: Start::Oldest, payload_field: header::PAYLOAD.to_owned() }
}

/// Keeps all it gets, and says when there are `count`.
struct Keeping {
    kept: Vec<Taken>,
    count: usize,
    settles: bool,
    enough: watch::Sender<bool>,
}

impl Consumer for Keeping {
    type Error = String;

    async fn ready(&mut self) {}

    async fn accept(&mut self, batch: Vec<Taken>, _: bool, _: Option<String>) -> Result<(), String> {
        self.kept.extend(batch);
        self.enough.send_replace(self.kept.len() >= self.count);
        match self.settles {
            true => Ok(()),
            false => std::future::pending().await,
        }
    }

    fn amiss(&mut self, amiss: Amiss) {
        assert_eq!(amiss, Amiss::default());
    }
}

/// Takes until there are `count`; if it does not settle, all that the first batch has.
async fn take(client: &Client, server: &Server, count: usize, settles: bool) -> Vec<Taken> {
    take_of(client, server, &subscription(), count, settles).await
}

async fn take_of(
    client: &Client,
    server: &Server,
    subscription: &Subscription,
    count: usize,
    settles: bool,
) -> Vec<Taken> {
    let (enough, mut has_enough) = watch::channel(false);
    let mut keeping = Keeping { kept: Vec::new(), count, settles, enough };
    let limit = Duration::from_secs(60);
    tokio::select! {
        error = consume(client, wall, server, (subscription, None), &mut keeping) => panic!("{error}"),
        done = tokio::time::timeout(limit, has_enough.wait_for(|enough| *enough)) => {
            done.unwrap().unwrap();
        }
    }
    keeping.kept
}

fn keys(taken: &[Taken]) -> Vec<String> {
    taken.iter().map(|taken| taken.key(Some(header::ID))).collect()
}

fn ids(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("id-{number}")).collect()
}

async fn published_is_there_once_whatever_dies(broker: Broker) {
    let mut real = Real::start(broker, &[]);
    real.make_stream();
    let (client, server) = (client(TlsSettings::default()), server(&real, Credentials::default()));
    let publishers = Publishers::new(client.clone(), wall);
    for number in 0..20 {
        assert!(!publishers.publish(&server, &publication(number), LIMIT).await.unwrap().duplicate);
    }
    let again = publishers.publish(&server, &publication(7), LIMIT).await.unwrap();
    assert!(again.duplicate, "{again:?}");

    real.kill();
    let error = publishers.publish(&server, &publication(20), Duration::from_secs(2)).await.unwrap_err();
    assert!(!matches!(error, PublishError::Refused { .. }), "{error:?}");
    real.start_again();
    for number in 10..30 {
        let placed = publishers.publish(&server, &publication(number), LIMIT).await.unwrap();
        assert_eq!(placed.duplicate, number < 20, "{number}: {placed:?}");
    }

    let kept = take(&client, &server, 30, true).await;
    assert_eq!(keys(&kept), ids(30));
    assert_eq!(kept[3].payload, "payload 3 \u{e9}\0");
    assert_eq!(kept[3].header(header::EVENT_TYPE), Some("invoice.paid"));
    // By the queue's clock, in milliseconds: it has not been asked before this was written.
    assert!(kept[0].published.unwrap() > 1_750_000_000_000 && kept[0].published <= kept[29].published, "{kept:?}");
}

async fn taken_is_given_again_in_order_until_it_is_settled(broker: Broker) {
    let mut real = Real::start(broker, &[]);
    real.make_stream();
    let (client, server) = (client(TlsSettings::default()), server(&real, Credentials::default()));
    let publishers = Publishers::new(client.clone(), wall);
    for number in 0..300 {
        publishers.publish(&server, &publication(number), LIMIT).await.unwrap();
    }
    // The first to take settles nothing and dies.
    let first = take(&client, &server, 1, false).await;
    assert_eq!(keys(&first)[..1], ids(1));
    // New ones come, and the queue itself dies as well.
    for number in 300..320 {
        publishers.publish(&server, &publication(number), LIMIT).await.unwrap();
    }
    real.kill();
    real.start_again();
    // The second is given it all, in order.
    assert_eq!(keys(&take(&client, &server, 320, true).await), ids(320));
}

async fn who_is_not_let_in_hears_it(broker: Broker) {
    let real = Real::start(broker, &["right"]);
    let publishers = Publishers::new(client(TlsSettings::default()), wall);
    let with = |password: &str| {
        let user = matches!(broker, Broker::Nats | Broker::Amqp).then(|| "bell".to_owned());
        Credentials { user, password: Some(password.to_owned()), token: None }
    };
    for wrong in [Credentials::default(), with("wrong")] {
        let error = publishers.publish(&server(&real, wrong), &publication(0), LIMIT).await.unwrap_err();
        assert!(matches!(error, PublishError::Refused { forever: false, .. }), "{error:?}");
    }
    let outcome = publishers.publish(&server(&real, with("right")), &publication(0), LIMIT).await;
    match broker {
        Broker::Redis | Broker::Sqs | Broker::Amqp | Broker::Kafka => assert!(!outcome.unwrap().duplicate),
        // Let in; but nobody has made a stream.
        Broker::Nats => {
            let error = outcome.unwrap_err();
            assert!(error.to_string().contains("no stream takes this subject"), "{error}");
        }
    }
}

macro_rules! for_each_broker {
    ($($name:ident),*) => {$(
        mod $name {
            #[tokio::test]
            #[ignore = "needs nats-server: scripts/test queues"]
            async fn nats() {
                super::$name(super::Broker::Nats).await;
            }

            #[tokio::test]
            #[ignore = "needs redis-server: scripts/test queues"]
            async fn redis() {
                super::$name(super::Broker::Redis).await;
            }
        }
    )*};
}
for_each_broker!(
    published_is_there_once_whatever_dies,
    taken_is_given_again_in_order_until_it_is_settled,
    who_is_not_let_in_hears_it
);

#[cfg(feature = "amqp")]
mod amqp_as_well {
    #[tokio::test]
    #[ignore = "needs rabbitmq-server: scripts/test queues"]
    async fn taken_is_given_again_in_order_until_it_is_settled() {
        super::taken_is_given_again_in_order_until_it_is_settled(super::Broker::Amqp).await;
    }

    #[tokio::test]
    #[ignore = "needs rabbitmq-server: scripts/test queues"]
    async fn who_is_not_let_in_hears_it() {
        super::who_is_not_let_in_hears_it(super::Broker::Amqp).await;
    }
}

#[tokio::test]
#[ignore = "needs nats-server: scripts/test queues"]
async fn nats_refuses_what_can_never_be_published() {
    let real = Real::start(Broker::Nats, &[]);
    real.make_stream();
    let publishers = Publishers::new(client(TlsSettings::default()), wall);
    let server = server(&real, Credentials::default());
    let wild = Publication { to: "events.*".to_owned(), ..publication(0) };
    let large = Publication { payload: vec![b'x'; 2 << 20].into(), ..publication(1) };
    for never in [wild, large] {
        let error = publishers.publish(&server, &never, LIMIT).await.unwrap_err();
        assert!(matches!(error, PublishError::Refused { forever: true, .. }), "{error:?}");
    }
    // And the connection is as good as before.
    assert!(!publishers.publish(&server, &publication(2), LIMIT).await.unwrap().duplicate);
}

#[tokio::test]
#[ignore = "needs nats-server: scripts/test queues"]
async fn nats_by_tls_must_be_who_the_url_says() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let real = Real::start_with_tls(Broker::Nats, &made.cert.pem(), &made.signing_key.serialize_pem());
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let own = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let options = async_nats::ConnectOptions::new().tls_client_config(own).require_tls(true);
    let nats = options.connect(format!("tls://localhost:{}", real.port)).await.unwrap();
    let events =
        stream::Config { name: "events".to_owned(), subjects: vec!["events".to_owned()], ..Default::default() };
    jetstream::new(nats).create_stream(events).await.unwrap();
    let trusting = TlsSettings { extra_roots: vec![made.cert.der().clone()], ..TlsSettings::default() };
    let publishers = Publishers::new(client(trusting), wall);
    let at = |host: &str| {
        Server::parse(Broker::Nats, &format!("tls://{host}:{}", real.port), Credentials::default()).unwrap()
    };
    assert!(!publishers.publish(&at("localhost"), &publication(0), LIMIT).await.unwrap().duplicate);
    // The same server by another name, and one whom we do not trust.
    let error = publishers.publish(&at("127.0.0.1"), &publication(1), LIMIT).await.unwrap_err();
    assert!(matches!(error, PublishError::Unconnected(_)), "{error:?}");
    let distrusting = Publishers::new(client(TlsSettings::default()), wall);
    let error = distrusting.publish(&at("localhost"), &publication(1), LIMIT).await.unwrap_err();
    assert!(matches!(error, PublishError::Unconnected(_)), "{error:?}");
}

#[tokio::test]
async fn no_queue_is_reached_inside() {
    let closed = Egress::new(Settings::default()).unwrap().client().unwrap();
    let publishers = Publishers::new(closed, wall);
    for broker in Broker::ALL.into_iter().filter(|broker| broker.is_built_in()) {
        for host in ["127.0.0.1", "10.1.2.3", "localhost", "169.254.169.254"] {
            let (url, credentials) = match broker {
                Broker::Sqs => {
                    let key = Some("key".to_owned());
                    (format!("https://{host}/1/q"), Credentials { user: key.clone(), password: key, token: None })
                }
                broker => (format!("{}://{host}", broker.name()), Credentials::default()),
            };
            let server = Server::parse(broker, &url, credentials).unwrap();
            let plain = Publication { payload: "{}".into(), ..publication(0) };
            let error = publishers.publish(&server, &plain, LIMIT).await.unwrap_err();
            let PublishError::Unreachable(error) = error else { panic!("{url}: {error:?}") };
            assert_eq!(error.class(), "forbidden_address", "{url}");
        }
    }
}
