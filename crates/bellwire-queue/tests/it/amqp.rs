//! What is AMQP's own.

use super::*;
use real::rabbit::Wire;
use std::collections::HashSet;
use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

fn publishers() -> Publishers {
    Publishers::new(client(TlsSettings::default()), wall)
}

fn to(exchange: &str, key: &str, number: usize) -> Publication {
    Publication { exchange: exchange.to_owned(), to: key.to_owned(), ..publication(number) }
}

fn of(queue: &str) -> Subscription {
    Subscription { stream: queue.to_owned(), ..subscription() }
}

/// Why nothing is taken.
async fn failure(server: &Server, subscription: &Subscription) -> String {
    let (enough, _has_enough) = watch::channel(false);
    let mut keeping = Keeping { kept: Vec::new(), count: 1, settles: true, enough };
    let client = client(TlsSettings::default());
    tokio::time::timeout(LIMIT, consume(&client, wall, server, (subscription, None), &mut keeping))
        .await
        .unwrap()
        .to_string()
}

#[tokio::test]
#[ignore = "needs rabbitmq-server: scripts/test queues"]
async fn amqp_keeps_what_it_confirmed_whatever_dies() {
    let mut real = Real::start(Broker::Amqp, &[]);
    let (publishers, server) = (publishers(), server(&real, Credentials::default()));
    for number in 0..20 {
        let placed = publishers.publish(&server, &publication(number), LIMIT).await.unwrap();
        assert_eq!((placed.place.as_str(), placed.duplicate), ("events", false));
    }
    real.kill();
    let error = publishers.publish(&server, &publication(20), Duration::from_secs(2)).await.unwrap_err();
    assert!(!matches!(error, PublishError::Refused { .. }), "{error:?}");
    real.start_again();
    let many = Publication {
        headers: vec![(header::CONTENT_TYPE, "application/json".to_owned()), (header::HOPS, "3".to_owned())],
        // In frames of its own, more than the client's buffers have room for.
        payload: vec![b'7'; 900 << 10].into(),
        ..to("orders", "placed.today", 20)
    };
    assert_eq!(publishers.publish(&server, &many, LIMIT).await.unwrap().place, "orders placed.today");

    let kept = take(&client(TlsSettings::default()), &server, 21, true).await;
    assert_eq!(keys(&kept[..20]), ids(20));
    let (plain, large) = (&kept[3], &kept[20]);
    assert_eq!(plain.payload, "payload 3 \u{e9}\0");
    for (name, value) in [(header::EVENT_TYPE, "invoice.paid"), ("type", "invoice.paid"), ("message-id", "id-3")] {
        assert_eq!(plain.header(name), Some(value));
    }
    assert_eq!((plain.place.as_str(), plain.subject.as_str()), ("events id-3", "events"));
    assert_eq!(plain.published, Some(wall() * 1_000));
    assert_eq!(large.payload, many.payload);
    assert_eq!((large.header(header::CONTENT_TYPE), large.header(header::HOPS)), (Some("application/json"), Some("3")));
    assert_eq!(large.subject, "placed.today");
}

#[tokio::test]
#[ignore = "needs rabbitmq-server: scripts/test queues"]
async fn amqp_says_of_each_publication_what_became_of_it() {
    let real = Real::start(Broker::Amqp, &[]);
    let (publishers, server) = (publishers(), server(&real, Credentials::default()));
    publishers.publish(&server, &to("", "full", 900), LIMIT).await.unwrap();
    let long = "k".repeat(256);
    let large = Publication { payload: vec![0; 2 << 20].into(), ..publication(901) };
    for (publication, text, is_forever) in [
        (to("", "nowhere", 902), "there is no queue \"nowhere\", and so the broker returned it: 312 NO_ROUTE", false),
        (to("orders", "cancelled", 903), "exchange \"orders\" leads \"cancelled\" to no queue", false),
        (to("nothing", "events", 904), "no exchange 'nothing' in vhost '/'", false),
        (to("", "full", 905), "the broker did not take it", false),
        (large, "larger than configured max size", true),
        (to("", &long, 906), "the routing key has 256 bytes", true),
        (to(&long, "", 907), "the exchange's name has 256 bytes", true),
    ] {
        let error = publishers.publish(&server, &publication, LIMIT).await.unwrap_err();
        let PublishError::Refused { text: told, forever } = &error else { panic!("{error:?}") };
        assert!(told.contains(text) && *forever == is_forever, "{error:?}");
    }
    // Many at once, good ones and bad ones of all kinds: each hears its own.
    let all: Vec<Publication> = (0..120)
        .map(|number| match number % 4 {
            0 | 1 => publication(number),
            2 => to("", "nowhere", number),
            _ => to("nothing", "events", number),
        })
        .collect();
    let publishing = all.iter().map(|publication| publishers.publish(&server, publication, LIMIT));
    let outcomes = futures_util::future::join_all(publishing).await;
    for (number, outcome) in outcomes.iter().enumerate() {
        match number % 4 {
            0 | 1 => assert!(outcome.is_ok(), "{number}: {outcome:?}"),
            2 => assert!(outcome.as_ref().unwrap_err().to_string().contains("NO_ROUTE"), "{number}: {outcome:?}"),
            _ => assert!(outcome.as_ref().unwrap_err().to_string().contains("no exchange"), "{number}: {outcome:?}"),
        }
    }
    let there: HashSet<String> = Wire::connect(real.port).drain().into_iter().map(|got| got.id).collect();
    let good: HashSet<String> = (0..120).filter(|number| number % 4 < 2).map(|number| format!("id-{number}")).collect();
    assert_eq!(there, good);
}

#[tokio::test]
#[ignore = "needs rabbitmq-server: scripts/test queues"]
async fn amqp_gives_no_more_than_the_next_batch() {
    let real = Real::start(Broker::Amqp, &[]);
    real.publish((0..600).map(|number| (&[][..], format!("{number}").into_bytes())));
    let (client, server) = (client(TlsSettings::default()), server(&real, Credentials::default()));
    let (enough, mut has_enough) = watch::channel(false);
    let mut keeping = Keeping { kept: Vec::new(), count: 1, settles: false, enough };
    let subscription = subscription();
    tokio::select! {
        error = consume(&client, wall, &server, (&subscription, None), &mut keeping) => panic!("{error}"),
        seen = async {
            has_enough.wait_for(|enough| *enough).await.unwrap();
            real.unsettled("")
        } => assert_eq!(seen, (16, 584)),
    }
    // Then more and more at a time, all of them in order, and nothing twice.
    let kept = take(&client, &server, 600, true).await;
    let numbers: Vec<usize> =
        kept.iter().map(|taken| str::from_utf8(&taken.payload).unwrap().parse().unwrap()).collect();
    assert_eq!(numbers, (0..600).collect::<Vec<usize>>());
}

#[tokio::test]
#[ignore = "needs rabbitmq-server: scripts/test queues"]
async fn amqp_gives_what_was_not_settled_again_under_its_id_if_it_has_one() {
    let real = Real::start(Broker::Amqp, &[]);
    let (client, server) = (client(TlsSettings::default()), server(&real, Credentials::default()));
    let mut wire = Wire::connect(real.port);
    wire.confirm();
    for id in ["first", "", "third"] {
        wire.publish(id, &[], b"{}");
    }
    let places = |taken: Vec<Taken>| -> Vec<String> { taken.iter().map(|taken| taken.key(None)).collect() };
    let mut once = Vec::new();
    while once.len() < 3 {
        once = places(take(&client, &server, 1, false).await);
    }
    let again = places(take(&client, &server, 3, true).await);
    for keys in [&once, &again] {
        assert_eq!((keys[0].as_str(), keys[2].as_str()), ("events first", "events third"));
        assert!(keys[1].starts_with("events amq.ctag-") && keys[1].ends_with(" 2"), "{keys:?}");
    }
    assert_ne!(once[1], again[1], "another message could have the same");
}

#[tokio::test]
#[ignore = "needs rabbitmq-server: scripts/test queues"]
async fn amqp_says_what_cannot_be_taken_from() {
    let real = Real::start(Broker::Amqp, &[]);
    let server = server(&real, Credentials::default());
    let told = failure(&server, &of("nowhere")).await;
    assert!(told.contains("no queue 'nowhere' in vhost '/'"), "{told}");
    let elsewhere = format!("amqp://127.0.0.1:{}/elsewhere", real.port);
    let elsewhere = Server::parse(Broker::Amqp, &elsewhere, Credentials::default()).unwrap();
    let told = failure(&elsewhere, &of("events")).await;
    assert!(told.contains("does not let us in") && told.contains("elsewhere"), "{told}");
    // A stream gives from now on, and only while somebody is there.
    let watching = tokio::spawn({
        let server = server.clone();
        async move { failure(&server, &of("log")).await }
    });
    let publishers = publishers();
    let mut number = 0;
    while !watching.is_finished() {
        publishers.publish(&server, &to("", "log", number), LIMIT).await.unwrap();
        number += 1;
    }
    let told = watching.await.unwrap();
    assert!(told.contains("queue log is a stream"), "{told}");
}

#[tokio::test]
#[ignore = "needs rabbitmq-server: scripts/test queues"]
async fn amqp_by_tls_must_be_who_the_url_says() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let real = Real::start_with_tls(Broker::Amqp, &made.cert.pem(), &made.signing_key.serialize_pem());
    let trusting = TlsSettings { extra_roots: vec![made.cert.der().clone()], ..TlsSettings::default() };
    let trusting = client(trusting);
    let at = |host: &str| {
        Server::parse(Broker::Amqp, &format!("amqps://{host}:{}", real.port), Credentials::default()).unwrap()
    };
    let publishing = Publishers::new(trusting.clone(), wall);
    publishing.publish(&at("localhost"), &publication(0), LIMIT).await.unwrap();
    assert_eq!(keys(&take(&trusting, &at("localhost"), 1, true).await), ids(1));
    for (publishers, host) in [(&publishing, "127.0.0.1"), (&publishers(), "localhost")] {
        let error = publishers.publish(&at(host), &publication(1), LIMIT).await.unwrap_err();
        let PublishError::Unreachable(error) = error else { panic!("{error:?}") };
        assert!(error.class().contains("tls"), "{}", error.class());
    }
}

/// Threads of the client.
fn threads() -> usize {
    let all = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path().join("comm"));
    all.filter(|name| std::fs::read_to_string(name).is_ok_and(|name| name.starts_with("lapin"))).count()
}

#[tokio::test]
async fn amqp_holds_no_thread_for_one_who_says_nothing() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("amqp://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let mute = Server::parse(Broker::Amqp, &url, Credentials::default()).unwrap();
    let publishers = publishers();
    for _ in 0..3 {
        let error = publishers.publish(&mute, &publication(0), Duration::from_millis(300)).await.unwrap_err();
        assert!(matches!(error, PublishError::Timeout(_)), "{error:?}");
    }
    assert!(threads() > 0, "the client has no threads of this name any more");
    let begun = Instant::now();
    while threads() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} threads are left", threads());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
