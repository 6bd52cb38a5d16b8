//! Messages out of NATS JetStream, a Redis stream, a queue of Amazon SQS or AMQP, or a topic of Kafka: in their order, as far as they have one,
//! each exactly once.
//!
//! ```text
//! (room in the intake) → take → judge → Hand::bring → commit → acknowledge
//! ```
//!
//! (Kafka is told nothing: how far its topic was read is part of that commit, and what it is asked for the next time.)
//!
//! The queue is told that it need not give a message again when the commit that has it is durable. Who dies before that is given it once
//! more, and knows it by its key: its place in the queue, or what its sender named it. What cannot be a message (see
//! [`judge`]) is kept among the source's refused requests, in the same commit, and acknowledged like the others: it holds up nothing.

use super::hand::{Brought, Hand, Refused};
use crate::clock::wall;
use bellwire_api::backend::PluginFault;
use bellwire_body::without_mark;
use bellwire_egress::Proxy;
use bellwire_model::{ContentType, EventTypeFrom, HOPS_HEADER, HOPS_MAX, SecretText, Source};
use bellwire_queue::{
    Amiss, Broker, Consumer, Credentials, Server, ServerFault, Start, Subscription, Taken, consume, header, is_topic,
};
use bellwire_receiver::Outcome;
use http::StatusCode;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::time::Duration;

/// How long to wait when there is no room.
const ROOM_WAIT: Duration = Duration::from_millis(100);
/// Names of streams, groups, fields and headers are no longer.
const NAME_MAX: usize = 256;
const AMQP_NAME_MAX: usize = 255;
/// Where AMQP has a message's type.
const AMQP_TYPE: &str = "type";
const CONTENT_TYPE_MAX: usize = 256;

/// Settings, as the API has them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    broker: String,
    url: String,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    /// Of Kafka: how the user is let in, as SASL names it; PLAIN if absent.
    mechanism: Option<String>,
    /// Of SQS: the region, if it is not the one in the URL.
    region: Option<String>,
    /// The name of a JetStream stream, the key of a Redis stream, or a topic of Kafka. Of SQS, the URL says which queue.
    stream: Option<String>,
    /// The name of an AMQP queue.
    queue: Option<String>,
    /// Under which the queue keeps our place; one of the source's own if absent.
    group: Option<String>,
    /// Of NATS: only these subjects.
    subject: Option<String>,
    /// The oldest if absent.
    start: Option<WrittenStart>,
    /// Of Redis: the field that holds the payload.
    payload_field: Option<String>,
    /// Whose value makes two messages the same; their place in the queue if absent.
    dedupe_header: Option<String>,
    /// `header.NAME`, `subject` or `body.PATH`.
    event_type_from: Option<String>,
    #[serde(default)]
    expects: Expects,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum WrittenStart {
    Oldest,
    New,
}

/// What payloads may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Expects {
    #[default]
    Json,
    Any,
}

/// Where a message's event type stands.
#[derive(Clone, PartialEq, Eq, Debug)]
enum TypePlace {
    /// The header `webhook-event-type`, and without it the subject if it is NATS', the topic if it is Kafka's, or the property `type` if it is
    /// AMQP's.
    Usual,
    Header(String),
    Subject,
    /// Members, or places in arrays, one below another.
    Body(Vec<String>),
}

/// Settings, read.
#[derive(Debug)]
struct Settings {
    server: Server,
    subscription: Subscription,
    dedupe_header: Option<String>,
    event_type: TypePlace,
    expects: Expects,
}

/// What is wrong with the settings: the field, and what would be right.
type Fault = (Vec<String>, String);

pub(super) async fn run(hand: &Hand, text: &SecretText) -> anyhow::Result<Infallible> {
    let own_group = format!("bellwire-{}", hand.source().id);
    let settings = Settings::read(text, &own_group)
        .map_err(|(path, text)| anyhow::anyhow!("its setting {} cannot be used: {text}", path.join(".")))?;
    let mut intake = Intake { hand, settings: &settings, is_whole: true };
    let position = hand.position().await?;
    let from = (&settings.subscription, position.as_deref());
    let error = consume(hand.client(), || wall().as_seconds(), &settings.server, from, &mut intake).await;
    Err(anyhow::anyhow!("{error}"))
}

/// What is wrong with the settings, where requests go by `proxy`.
pub(super) fn check(text: &SecretText, proxy: Option<&Proxy>) -> Vec<PluginFault> {
    let fault = |(path, text): Fault| PluginFault { path: [vec!["queue".to_owned()], path].concat(), text };
    let settings = match Settings::read(text, "own") {
        Ok(settings) => settings,
        Err(wrong) => return vec![fault(wrong)],
    };
    let host = settings.server.not_by_proxy().filter(|host| proxy.is_some_and(|proxy| proxy.covers(host)));
    let by_proxy_only = |host| {
        let text = format!(
            "{host} is reached by the server's proxy only, and this queue's client cannot go by it; its operator can name it in egress.no_proxy"
        );
        fault((vec!["url".to_owned()], text))
    };
    host.map(by_proxy_only).into_iter().collect()
}

/// Takes what the queue gives into the server's intake.
struct Intake<'a> {
    hand: &'a Hand,
    settings: &'a Settings,
    /// Nothing of the queue is known to be unreadable.
    is_whole: bool,
}

impl Consumer for Intake<'_> {
    type Error = String;

    async fn ready(&mut self) {
        while self.hand.is_crowded() {
            tokio::time::sleep(ROOM_WAIT).await;
        }
    }

    async fn accept(&mut self, batch: Vec<Taken>, more: bool, position: Option<String>) -> Result<(), String> {
        let (hand, settings) = (self.hand, self.settings);
        let lag = match batch.first().and_then(|taken| taken.published) {
            Some(published) if more => age(published, hand.wall().as_millis()),
            _ => Duration::ZERO,
        };
        // Where the queue keeps our place, this one is for people only.
        let last = batch.last().map(|newest| json!({ "last": newest.place }).to_string());
        if let Some(position) = position.or(last) {
            let (mut page, mut refused) = (Vec::with_capacity(batch.len()), Vec::new());
            for taken in batch {
                match judge(taken, settings, hand.source(), hand.payload_bytes_max()) {
                    Ok(brought) => page.push(brought),
                    Err(wrong) => refused.push(*wrong),
                }
            }
            hand.bring_and_refuse(page, refused, Some(position)).await.map_err(|error| format!("{error:#}"))?;
        }
        match self.is_whole {
            true => hand.ran(None, Some(lag)),
            false => hand.ran_in_part(None, Some(lag)),
        }
        Ok(())
    }

    fn amiss(&mut self, Amiss { news, is_still }: Amiss) {
        self.is_whole = !is_still;
        if let Some(text) = news {
            self.hand.failed_in_part(text);
        }
    }
}

/// Since a time by the queue's clock, in Unix milliseconds. That clock may be ahead of ours.
fn age(published: i64, now: i64) -> Duration {
    Duration::from_millis(u64::try_from(now.saturating_sub(published)).unwrap_or(0))
}

/// A message of the queue as it is brought in; or, in this order, why it cannot be one: it goes in circles, is too large, is not what
/// is expected, or has no event type.
fn judge(taken: Taken, settings: &Settings, source: &Source, bytes_max: usize) -> Result<Brought, Box<Refused>> {
    let Settings { server, subscription, dedupe_header, event_type, expects } = settings;
    let key = match dedupe_header.as_deref().and_then(|name| taken.header(name)).filter(|id| !id.is_empty()) {
        Some(id) => id.to_owned(),
        // Another server's places may be the same.
        None => format!("{server} {}", taken.key(None)),
    };
    let hops = taken.header(HOPS_HEADER).map_or(0, |text| text.parse().unwrap_or(HOPS_MAX));
    let is_json = || serde_json::from_slice::<IgnoredAny>(without_mark(&taken.payload));
    let wrong = |outcome, status: StatusCode, reason: String| Some((outcome, status.as_u16(), reason));
    let (mut named, mut fault, mut content_type) = (None, None, ContentType::Json);
    if let Some(why) = taken.gone.clone() {
        fault = wrong(Outcome::Invalid, StatusCode::GONE, why);
    } else if hops >= HOPS_MAX {
        let reason = format!("the message has been passed on {HOPS_MAX} times; it seems to go in circles");
        fault = wrong(Outcome::Invalid, StatusCode::LOOP_DETECTED, reason);
    } else if taken.payload.len() > bytes_max {
        let reason = format!("it has {} bytes, and this server takes at most {bytes_max}", taken.payload.len());
        fault = wrong(Outcome::TooLarge, StatusCode::PAYLOAD_TOO_LARGE, reason);
    } else if *expects == Expects::Json
        && let Err(error) = is_json()
    {
        let reason = match (taken.payload.is_empty(), server.broker()) {
            (true, Broker::Redis) => format!("it has nothing in its field {}", subscription.payload_field),
            (true, _) => "it is empty, and JSON is expected".to_owned(),
            (false, _) => format!("it is not JSON, which is expected: {error}"),
        };
        fault = wrong(Outcome::Invalid, StatusCode::BAD_REQUEST, reason);
    } else {
        if *expects == Expects::Any {
            content_type = content_type_of(taken.header(header::CONTENT_TYPE), || is_json().is_ok());
        }
        named = event_type.find(&taken, server.broker());
        if named.is_none() && !matches!(source.event_type, EventTypeFrom::Fixed(_)) {
            let reason = format!("it has no event type: there is nothing at {}", event_type.described(server.broker()));
            fault = wrong(Outcome::Invalid, StatusCode::BAD_REQUEST, reason);
        }
    }
    let Taken { place, headers, payload, .. } = taken;
    let headers = bellwire_receiver::kept_headers(headers.iter().map(|(name, value)| (&**name, value.into())), &[]);
    // A client may have read it together with others, and what is kept here would hold on to all of them.
    let payload = bytes::Bytes::copy_from_slice(&payload);
    let brought = Brought { key, event_type: named, channels: Vec::new(), payload, content_type, place, headers, hops };
    match fault {
        None => Ok(brought),
        Some((outcome, status, reason)) => Err(Box::new(Refused { brought, outcome, status, reason })),
    }
}

/// What a header says, if it can be passed on; else by what it is.
fn content_type_of(given: Option<&str>, is_json: impl FnOnce() -> bool) -> ContentType {
    let plain = |text: &&str| {
        (1..=CONTENT_TYPE_MAX).contains(&text.len())
            && text.contains('/')
            && text.bytes().all(|b| matches!(b, 32..=126))
    };
    match given.filter(plain) {
        Some("application/json") => ContentType::Json,
        Some(text) => ContentType::Other(text.to_owned()),
        None if is_json() => ContentType::Json,
        None => ContentType::Other("application/octet-stream".to_owned()),
    }
}

impl TypePlace {
    fn parse(text: Option<&str>) -> Result<TypePlace, String> {
        let like = "expected header.NAME, subject, or body.PATH such as body.type";
        Ok(match text.map(|text| (text, text.split_once('.'))) {
            None => TypePlace::Usual,
            Some(("subject", _)) => TypePlace::Subject,
            Some((_, Some(("header", name)))) if !name.is_empty() => TypePlace::Header(name.to_ascii_lowercase()),
            Some((_, Some(("body", path)))) if path.split('.').all(|step| !step.is_empty()) => {
                TypePlace::Body(path.split('.').map(str::to_owned).collect())
            }
            Some(_) => return Err(like.to_owned()),
        })
    }

    fn find(&self, taken: &Taken, broker: Broker) -> Option<String> {
        let header = |name: &str| taken.header(name).map(str::to_owned);
        let subject = || Some(taken.subject.clone());
        let found = match self {
            TypePlace::Usual if matches!(broker, Broker::Nats | Broker::Kafka) => {
                header(header::EVENT_TYPE).or_else(subject)
            }
            TypePlace::Usual if broker == Broker::Amqp => header(header::EVENT_TYPE).or_else(|| header(AMQP_TYPE)),
            TypePlace::Usual => header(header::EVENT_TYPE),
            TypePlace::Header(name) => header(name),
            TypePlace::Subject => subject(),
            TypePlace::Body(path) => {
                let body: Value = serde_json::from_slice(without_mark(&taken.payload)).ok()?;
                let end = path.iter().try_fold(&body, |value, step| match value {
                    Value::Array(items) => items.get(step.parse::<usize>().ok()?),
                    value => value.get(step),
                });
                match end? {
                    Value::String(text) => Some(text.clone()),
                    Value::Number(number) => Some(number.to_string()),
                    _ => None,
                }
            }
        };
        found.filter(|text| !text.is_empty())
    }

    fn described(&self, broker: Broker) -> String {
        match self {
            TypePlace::Usual if broker == Broker::Redis => format!("its field {}", header::EVENT_TYPE),
            TypePlace::Usual if broker == Broker::Amqp => {
                format!("its header {} or its property {AMQP_TYPE}", header::EVENT_TYPE)
            }
            TypePlace::Usual => format!("its header {}", header::EVENT_TYPE),
            TypePlace::Header(name) => format!("header.{name}"),
            TypePlace::Subject => "subject".to_owned(),
            TypePlace::Body(path) => format!("body.{}", path.join(".")),
        }
    }
}

impl Settings {
    /// Reads settings. `own_group` is the group of a source that says nothing.
    fn read(text: &SecretText, own_group: &str) -> Result<Settings, Fault> {
        let fault = |field: &str, text: String| -> Fault { (vec![field.to_owned()], text) };
        let mut json = serde_json::Deserializer::from_str(text.reveal());
        let written: Written = serde_path_to_error::deserialize(&mut json).map_err(|error| {
            let path = error.path().iter().filter_map(|step| match step {
                serde_path_to_error::Segment::Map { key } => Some(key.clone()),
                _ => None,
            });
            // Without the place in a text that nobody sees.
            let text = error.inner().to_string();
            (path.collect(), text.split(" at line ").next().unwrap_or_default().to_owned())
        })?;
        let broker = Broker::parse(&written.broker).map_err(|text| fault("broker", text))?;
        let of = |broker: Broker| format!("is for {} only; leave it out", broker.name());
        let Written { url, user, password, token, mechanism, stream, queue, group, start, region, .. } = written;
        let wrong = |ServerFault { field, text }| fault(field, text);
        let mut server = Server::parse(broker, &url, Credentials { user, password, token }).map_err(wrong)?;
        if let Some(region) = region {
            if broker != Broker::Sqs {
                return Err(fault("region", of(Broker::Sqs)));
            }
            server = server.in_region(region).map_err(wrong)?;
        }
        if let Some(mechanism) = mechanism {
            if broker != Broker::Kafka {
                return Err(fault("mechanism", of(Broker::Kafka)));
            }
            server = server.by_mechanism(&mechanism).map_err(wrong)?;
        }
        let stream = match (stream, broker) {
            (None, Broker::Sqs) => server.queue_name().to_owned(),
            (Some(_), Broker::Sqs) => {
                return Err(fault("stream", "the URL says which queue; leave it out".to_owned()));
            }
            (Some(_), Broker::Amqp) => return Err(fault("stream", "of amqp, it is `queue`".to_owned())),
            (None, Broker::Amqp) => queue.clone().ok_or_else(|| fault("queue", "is required".to_owned()))?,
            (Some(stream), _) => stream,
            (None, _) => return Err(fault("stream", "is required".to_owned())),
        };
        if broker == Broker::Kafka {
            if !is_topic(&stream) {
                let text = "expected the name of a topic: at most 249 letters, digits, full stops, _ and -".to_owned();
                return Err(fault("stream", text));
            }
            if group.is_some() {
                return Err(fault(
                    "group",
                    "how far a topic was read is kept here, not by Kafka; leave it out".to_owned(),
                ));
            }
        }
        for (field, given) in [("group", group.is_some()), ("start", start.is_some())] {
            if given && matches!(broker, Broker::Sqs | Broker::Amqp) {
                return Err(fault(field, format!("{} has nothing of the kind; leave it out", broker.name())));
            }
        }
        if queue.is_some() && broker != Broker::Amqp {
            return Err(fault("queue", of(Broker::Amqp)));
        }
        let group = group.unwrap_or_else(|| own_group.to_owned());
        let of_stream = if broker == Broker::Amqp { "queue" } else { "stream" };
        for (field, name) in [(of_stream, &stream), ("group", &group)] {
            let of_nats = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '.' | '*' | '>' | '/' | '\\');
            let most = if broker == Broker::Amqp { AMQP_NAME_MAX } else { NAME_MAX };
            if name.is_empty() || name.len() > most {
                return Err(fault(field, format!("must have from 1 to {most} bytes")));
            }
            if broker == Broker::Nats && !name.chars().all(of_nats) {
                return Err(fault(field, "NATS has no such names: without space, . * > / and \\".to_owned()));
            }
        }
        if let Some(subject) = &written.subject {
            let word = |word: &str| !word.is_empty() && !word.chars().any(|c| c.is_whitespace() || c.is_control());
            if broker != Broker::Nats {
                return Err(fault("subject", of(Broker::Nats)));
            }
            if subject.len() > NAME_MAX || !subject.split('.').all(word) {
                return Err(fault(
                    "subject",
                    "expected words with full stops between them, such as orders.>".to_owned(),
                ));
            }
        }
        if written.payload_field.is_some() && broker != Broker::Redis {
            return Err(fault("payloadField", of(Broker::Redis)));
        }
        for (field, name) in [("payloadField", &written.payload_field), ("dedupeHeader", &written.dedupe_header)] {
            if name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_MAX) {
                return Err(fault(field, format!("must have from 1 to {NAME_MAX} bytes")));
            }
        }
        let event_type = TypePlace::parse(written.event_type_from.as_deref().map(cut))
            .map_err(|text| fault("eventTypeFrom", text))?;
        let start = match start {
            None | Some(WrittenStart::Oldest) => Start::Oldest,
            Some(WrittenStart::New) => Start::New,
        };
        let payload_field = written.payload_field.unwrap_or_else(|| header::PAYLOAD.to_owned());
        Ok(Settings {
            server,
            subscription: Subscription { stream, group, filter: written.subject, start, payload_field },
            dedupe_header: written.dedupe_header.map(|name| name.to_ascii_lowercase()),
            event_type,
            expects: written.expects,
        })
    }
}

/// No place is longer.
fn cut(text: &str) -> &str {
    if text.len() > NAME_MAX { "" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn taken(headers: &[(&str, &str)], payload: &str) -> Taken {
        Taken {
            place: "orders 7".to_owned(),
            stream: None,
            published: None,
            subject: "orders.new".to_owned(),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            payload: Bytes::copy_from_slice(payload.as_bytes()),
            gone: None,
        }
    }

    #[test]
    fn the_event_type_is_found_where_the_settings_say() {
        let message = taken(
            &[("webhook-event-type", "a.b"), ("x-kind", "k"), ("x-empty", "")],
            r#"{"type":"t","list":[{"n":1000}],"object":{},"empty":""}"#,
        );
        for (place, broker, expected) in [
            (None, Broker::Nats, Some("a.b")),
            (None, Broker::Redis, Some("a.b")),
            (None, Broker::Kafka, Some("a.b")),
            (Some("header.X-Kind"), Broker::Nats, Some("k")),
            (Some("header.x-empty"), Broker::Nats, None),
            (Some("subject"), Broker::Nats, Some("orders.new")),
            (Some("body.type"), Broker::Redis, Some("t")),
            (Some("body.list.0.n"), Broker::Redis, Some("1000")),
            (Some("body.object"), Broker::Redis, None),
            (Some("body.empty"), Broker::Redis, None),
            (Some("body.list.1"), Broker::Redis, None),
        ] {
            let parsed = TypePlace::parse(place).expect("parses");
            assert_eq!(parsed.find(&message, broker).as_deref(), expected, "{place:?}");
        }
        let bare = taken(&[], "{}");
        assert_eq!(TypePlace::Usual.find(&bare, Broker::Nats).as_deref(), Some("orders.new"));
        assert_eq!(TypePlace::Usual.find(&bare, Broker::Kafka).as_deref(), Some("orders.new"));
        assert_eq!(TypePlace::Usual.find(&bare, Broker::Redis), None);
        assert_eq!(TypePlace::Usual.find(&bare, Broker::Amqp), None);
        let typed = taken(&[("type", "order.placed")], "{}");
        assert_eq!(TypePlace::Usual.find(&typed, Broker::Amqp).as_deref(), Some("order.placed"));
        assert_eq!(TypePlace::Usual.find(&typed, Broker::Redis), None);
        for wrong in ["", "header.", "body.", "body", "body.a..b", "header", "topic"] {
            assert!(TypePlace::parse(Some(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[cfg(feature = "kafka")]
    #[test]
    fn a_mechanism_is_for_users_of_kafka() {
        let read = |settings: Value| Settings::read(&SecretText::new(settings.to_string()), "own").map(|_| ());
        let kafka = json!({ "broker": "kafka", "url": "kafka://h", "stream": "orders" });
        let with = |more: Value| {
            let mut settings = kafka.clone();
            let members = settings.as_object_mut().expect("an object");
            members.extend(more.as_object().expect("an object").clone());
            read(settings)
        };
        assert_eq!(with(json!({ "user": "u", "password": "p", "mechanism": "SCRAM-SHA-512" })), Ok(()));
        for (more, text) in [
            (json!({ "user": "u", "password": "p", "mechanism": "GSSAPI" }), "PLAIN or SCRAM-SHA-256"),
            (json!({ "mechanism": "PLAIN" }), "there is none"),
        ] {
            let (path, fault) = with(more).expect_err("is refused");
            assert_eq!(path, ["mechanism"]);
            assert!(fault.contains(text), "{fault}");
        }
    }

    #[test]
    fn a_content_type_is_what_the_header_says_or_what_the_payload_is() {
        for (given, is_json, expected) in [
            (Some("application/json"), false, "application/json"),
            (Some("text/csv; header=present"), false, "text/csv; header=present"),
            (Some("csv"), false, "application/octet-stream"),
            (Some("text/\n"), true, "application/json"),
            (None, true, "application/json"),
            (None, false, "application/octet-stream"),
        ] {
            assert_eq!(content_type_of(given, || is_json).as_str(), expected, "{given:?}");
        }
    }
}
