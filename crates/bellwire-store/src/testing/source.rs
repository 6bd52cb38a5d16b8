//! Sources and requests for the checks: every setting at least once.

use bellwire_model::{
    ApplicationKey, Conflict, Cron, Database, Dedupe, DedupeFrom, EndedSubscription, Ending, EventTypeFrom,
    KeptRequest, Ksuid, MessageId, Missed, Networks, OrganisationId, Outbox, OutboxColumns, Received, Recipe,
    RequestId, RequestOutcome, SecretText, Sequence, Source, SourceAnswer, SourceId, SourceKey, SourceSecret,
    Subscription, SubscriptionKey, Then, Timestamp, Way,
};
use bytes::Bytes;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

fn source(n: u32, application: u32) -> Source {
    Source {
        name: format!("source {n}"),
        updated_at: Timestamp::from_seconds(1_800_000_001),
        ..Source::new(
            SourceKey(100 + n),
            SourceId(Ksuid::from_bytes([n as u8; 20])),
            OrganisationId::parse("org_x").expect("an organisation"),
            ApplicationKey(application),
            SecretText::new(format!("token-{n}")),
            Recipe::Preset("github".into()),
            Timestamp::from_seconds(1_800_000_000),
        )
    }
}

/// Two of the first application, then others, some of the second.
pub(super) fn every_source() -> Vec<Source> {
    let secret = |text: &str, end: Option<i64>| SourceSecret {
        text: SecretText::new(text),
        expires_at: end.map(Timestamp::from_seconds),
    };
    let dedupe = |key| Dedupe { key, window: Duration::from_micros(3_600_000_001), conflict: Conflict::Refuse };
    let full = Source {
        uid: Some("git".into()),
        path: Some("/hooks/git".into()),
        methods: vec!["POST".into(), "PUT".into()],
        recipe: Recipe::Own("algorithm = \"hmac-sha256\"\n".into()),
        settings: [("topic".to_owned(), "a\"b".to_owned())].into(),
        secrets: vec![secret("geheim ☂", None), secret("old", Some(1_800_000_900))],
        content_type: Some("application/json".into()),
        body_bytes_max: 77,
        rate: NonZeroU32::new(50),
        networks: Networks {
            allowed: vec!["192.0.2.0/24".parse().expect("a network"), "2001:db8::/32".parse().expect("a network")],
            proxies: vec!["10.0.0.1/32".parse().expect("a network")],
        },
        dedupe: dedupe(DedupeFrom::Places(vec!["header.x-a".into(), "body.id".into()])),
        event_type: EventTypeFrom::Fixed("git.push".into()),
        url: Some("https://hooks.example.com/git".into()),
        answer: SourceAnswer {
            status: 200,
            body: "thanks".into(),
            headers: vec![("x-a".into(), "b".into())],
            wait: Some(Duration::from_millis(1_500)),
        },
        disabled: true,
        metadata: [("team".to_owned(), "blue".to_owned())].into(),
        ..source(3, 2)
    };
    let body = Source {
        dedupe: dedupe(DedupeFrom::Body),
        event_type: EventTypeFrom::Place("body.type".into()),
        ..source(4, 1)
    };
    let off = Source { dedupe: dedupe(DedupeFrom::Off), ..source(5, 1) };
    let mut all = vec![source(1, 1), source(2, 1), full, body, off];
    all.extend((6..).zip(every_way()).map(|(n, way)| Source { way, ..source(n, 1) }));
    all
}

fn every_way() -> Vec<Way> {
    let cron = |missed, payload: Option<&str>| {
        Way::Cron(Cron {
            schedule: "0 18 L * *".into(),
            zone: "Europe/Berlin".into(),
            payload: payload.map(str::to_owned),
            missed,
            since: Timestamp::from_micros(1_800_000_000_000_001),
        })
    };
    let columns = |optional: bool| OutboxColumns {
        id: "nr".into(),
        event_type: "kind".into(),
        payload: "body".into(),
        channels: optional.then(|| "to".to_owned()),
        created_at: optional.then(|| "at".to_owned()),
        processed_at: "done".into(),
    };
    let outbox = |database, then, optional: bool| {
        Way::Outbox(Outbox {
            database,
            table: "app.outbox".into(),
            columns: columns(optional),
            then,
            poll: Duration::from_micros(1_000_001),
            settle: Duration::from_secs(7),
            notify: optional.then(|| "wake".to_owned()),
        })
    };
    let dsn = || Database::Dsn(SecretText::new("postgres://u:geheim@db/app"));
    vec![
        cron(Missed::Skip, None),
        cron(Missed::One, Some("{\"at\":\"{{time}}\"}")),
        cron(Missed::All(9), None),
        outbox(Database::Named("app".into()), Then::Remember, false),
        outbox(dsn(), Then::Mark, true),
        outbox(dsn(), Then::Delete, false),
        Way::Queue(SecretText::new("{\"nats\":\"nats://u:geheim@q\"}")),
    ]
}

pub(super) fn received(n: u8) -> Received {
    Received {
        source: SourceId(Ksuid::from_bytes([n; 20])),
        method: "POST".into(),
        path: "/in/…".into(),
        query: n.is_multiple_of(2).then(|| "a=b&c".to_owned()),
        headers: [("content-type", "application/json"), ("x-n", &format!("ü{n}"))].into_iter().collect(),
        remote: if n.is_multiple_of(2) { None } else { Some([192, 0, 2, n].into()) },
        hops: n,
        dedupe: (n % 2 == 1).then(|| format!("delivery-{n}")),
    }
}

pub(super) fn kept_request(source: SourceKey, sequence: Sequence, n: usize, body: Vec<u8>) -> KeptRequest {
    let message = MessageId::from_parts(Sequence::from_u64(n as u64), [5; 12]);
    let outcome = match n % 4 {
        0 => RequestOutcome::Refused { reason: format!("the signature is not right, {n}") },
        1 => RequestOutcome::Duplicate { message: Some(message), conflict: true },
        2 => RequestOutcome::Duplicate { message: None, conflict: false },
        _ => RequestOutcome::Handshake,
    };
    KeptRequest {
        id: RequestId::from_parts(sequence, [9; 12]),
        source,
        outcome,
        status: 200 + n as u16,
        received: Arc::new(received(n as u8)),
        body: Bytes::from(body),
    }
}

pub(super) fn ended_subscription(source: &Source, key: u32) -> EndedSubscription {
    EndedSubscription {
        key: SubscriptionKey(key),
        source: source.id,
        organisation: source.organisation.clone(),
        application: source.application,
        paths: vec![format!("/in/{}", source.token.reveal()), "/feeds/ü".into()],
        subscription: Subscription {
            hub: "https://hub.example/?a=b".into(),
            topic: "https://a.example/feed \"x\"".into(),
            callback: format!("https://hooks.example.com/in/{}", source.token.reveal()),
        },
        ended_at: Timestamp::from_micros(1_800_000_000_000_001),
        until: Timestamp::from_seconds(1_800_604_800),
        state: Ending::Untold { tries: key, due: Timestamp::from_micros(1_800_000_060_000_001) },
    }
}
