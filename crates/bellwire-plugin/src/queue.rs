//! Queue: each message is published to NATS JetStream, a Redis stream, a queue of Amazon SQS, an exchange of AMQP or a topic of Kafka, and
//! delivered when that has it.
//!
//! The payload goes out byte for byte; message id, event type and content type go with it. Repetitions of a delivery carry the same
//! id, made of the message's and the endpoint's, by which JetStream and, with `dedupe_seconds`, Redis know them.

use crate::answer::{Answer, Ran};
use crate::event::{Event, Root};
use crate::settings::{self, Fault, Millis};
use crate::template::{Beside, Template};
use bellwire_egress::{Proxy, SendError};
use bellwire_model::{EndpointKey, FailureClass};
use bellwire_queue::{
    Broker, Credentials, Placed, Publication, PublishError, Publishers, Server, ServerFault, header, is_subject,
    is_topic,
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::num::NonZeroU64;
use std::time::Duration;

/// The setting that says which of the others there are.
const BROKER: &str = "broker";
/// No name in AMQP is longer.
const EXCHANGE_BYTES_MAX: usize = 255;
const DEDUPE_SECONDS_MAX: u64 = 7 * 24 * 3_600;

/// Settings of the kind `queue`, read.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Queue {
    server: Server,
    /// The subject, the stream's key, the group, the routing key, or the topic.
    to: Template,
    /// Of AMQP.
    exchange: String,
    /// Of Kafka: the record's key.
    key: Option<Template>,
    length_max: Option<NonZeroU64>,
    dedupe: Option<Duration>,
    timeout: Duration,
}

/// Settings with `"broker": "nats"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nats {
    url: String,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    /// A stream must take it.
    subject: Template,
    #[serde(default = "timeout_default")]
    timeout_ms: Timeout,
}

/// Settings with `"broker": "redis"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redis {
    url: String,
    user: Option<String>,
    password: Option<String>,
    /// The stream's key.
    stream: Template,
    /// About how many entries are kept.
    length_max: Option<NonZeroU64>,
    /// For how long a repetition is known; 0 for not at all.
    #[serde(default = "dedupe_default")]
    dedupe_seconds: u64,
    #[serde(default = "timeout_default")]
    timeout_ms: Timeout,
}

/// Settings with `"broker": "sqs"`. `user`, `password` and `token` are the access key's id, the secret access key and the session's token.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sqs {
    /// The queue's.
    url: String,
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    /// Absent: the one in the URL.
    region: Option<String>,
    /// In a FIFO queue: within which the order is kept.
    #[serde(default = "group_default")]
    group: Template,
    #[serde(default = "timeout_default")]
    timeout_ms: Timeout,
}

/// Settings with `"broker": "amqp"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Amqp {
    url: String,
    user: Option<String>,
    password: Option<String>,
    /// Absent: the one that every broker has, which brings a message to the queue that the routing key names.
    #[serde(default)]
    exchange: String,
    /// By which the exchange knows to which queues.
    routing_key: Template,
    #[serde(default = "timeout_default")]
    timeout_ms: Timeout,
}

/// Settings with `"broker": "kafka"`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kafka {
    /// One host and its port, or some with commas between them.
    url: String,
    user: Option<String>,
    password: Option<String>,
    /// How the user is let in, as SASL names it; PLAIN if absent.
    mechanism: Option<String>,
    topic: Template,
    /// What has the same key goes to the same partition, and keeps its order there.
    key: Option<Template>,
    #[serde(default = "timeout_default")]
    timeout_ms: Timeout,
}

/// One for all messages, so that the order of all of them is kept.
fn group_default() -> Template {
    Template::parse("bellwire").expect("a text without braces is a template")
}

type Timeout = Millis<10, 60_000>;

fn timeout_default() -> Timeout {
    Timeout::new(15_000)
}

/// As long as JetStream's streams know repetitions unless they are told otherwise.
fn dedupe_default() -> u64 {
    120
}

impl Queue {
    /// Reads settings.
    ///
    /// # Errors
    /// The first fault.
    pub(crate) fn read(settings: &Value) -> Result<Queue, Fault> {
        let name = settings.get(BROKER).and_then(Value::as_str).unwrap_or_default();
        let broker = Broker::parse(name).map_err(|text| Fault::new(&[BROKER], text))?;
        let mut others = settings.as_object().cloned().unwrap_or_default();
        others.remove(BROKER);
        let others = Value::Object(others);
        let queue = match broker {
            Broker::Nats => {
                let Nats { url, user, password, token, subject, timeout_ms } = settings::read(&others)?;
                let server = server(broker, &url, Credentials { user, password, token })?;
                Queue { timeout: timeout_ms.0, ..Queue::to(server, subject) }
            }
            Broker::Redis => {
                let Redis { url, user, password, stream, length_max, dedupe_seconds, timeout_ms } =
                    settings::read(&others)?;
                if dedupe_seconds > DEDUPE_SECONDS_MAX {
                    let text = format!("expected seconds from 0 to {DEDUPE_SECONDS_MAX}");
                    return Err(Fault::new(&["dedupe_seconds"], text));
                }
                let server = server(broker, &url, Credentials { user, password, token: None })?;
                let dedupe = Some(Duration::from_secs(dedupe_seconds)).filter(|window| !window.is_zero());
                Queue { length_max, dedupe, timeout: timeout_ms.0, ..Queue::to(server, stream) }
            }
            Broker::Sqs => {
                let Sqs { url, user, password, token, region, group, timeout_ms } = settings::read(&others)?;
                let mut server = server(broker, &url, Credentials { user, password, token })?;
                if let Some(region) = region {
                    server =
                        server.in_region(region).map_err(|ServerFault { field, text }| Fault::new(&[field], text))?;
                }
                Queue { timeout: timeout_ms.0, ..Queue::to(server, group) }
            }
            Broker::Amqp => {
                let Amqp { url, user, password, exchange, routing_key, timeout_ms } = settings::read(&others)?;
                let server = server(broker, &url, Credentials { user, password, token: None })?;
                if exchange.len() > EXCHANGE_BYTES_MAX {
                    let text = format!("must have at most {EXCHANGE_BYTES_MAX} bytes");
                    return Err(Fault::new(&["exchange"], text));
                }
                Queue { exchange, timeout: timeout_ms.0, ..Queue::to(server, routing_key) }
            }
            Broker::Kafka => {
                let Kafka { url, user, password, mechanism, topic, key, timeout_ms } = settings::read(&others)?;
                let mut server = server(broker, &url, Credentials { user, password, token: None })?;
                if let Some(mechanism) = mechanism {
                    let wrong = |ServerFault { field, text }| Fault::new(&[field], text);
                    server = server.by_mechanism(&mechanism).map_err(wrong)?;
                }
                Queue { key, timeout: timeout_ms.0, ..Queue::to(server, topic) }
            }
        };
        queue.check_template(broker, others.as_object())?;
        Ok(queue)
    }

    fn to(server: Server, to: Template) -> Queue {
        Queue {
            server,
            to,
            exchange: String::new(),
            key: None,
            length_max: None,
            dedupe: None,
            timeout: timeout_default().0,
        }
    }

    fn check_template(&self, broker: Broker, settings: Option<&Map<String, Value>>) -> Result<(), Fault> {
        let setting = match broker {
            Broker::Nats => "subject",
            Broker::Redis => "stream",
            Broker::Sqs => "group",
            Broker::Amqp => "routing_key",
            Broker::Kafka => "topic",
        };
        let others = [Root::Count, Root::List, Root::File];
        if let Some(key) = &self.key
            && others.into_iter().any(|root| key.names(root))
        {
            return Err(Fault::new(&["key"], "count, list and file are for other kinds of plugin"));
        }
        // What may be absent has a default that is right.
        let Some(text) = settings.and_then(|settings| settings.get(setting)?.as_str()) else { return Ok(()) };
        if others.into_iter().any(|root| self.to.names(root)) {
            return Err(Fault::new(&[setting], "count, list and file are for other kinds of plugin"));
        }
        // Exchanges that bring everything everywhere need none.
        if text.is_empty() && (broker != Broker::Amqp || self.exchange.is_empty()) {
            return Err(Fault::new(&[setting], "is empty"));
        }
        if broker == Broker::Nats && !text.contains("{{") && !is_subject(text) {
            let text = "expected words with full stops between them, without * and >, such as events.{{type}}";
            return Err(Fault::new(&[setting], text));
        }
        if broker == Broker::Kafka && !text.contains("{{") && !is_topic(text) {
            let text = "expected at most 249 letters, digits, full stops, _ and -, such as orders";
            return Err(Fault::new(&[setting], text));
        }
        Ok(())
    }

    /// What is wrong beyond the shape of the settings, where requests go by `proxy`.
    pub(crate) fn check(&self, proxy: Option<&Proxy>, faults: &mut Vec<Fault>) {
        let host = self.server.not_by_proxy().filter(|host| proxy.is_some_and(|proxy| proxy.covers(host)));
        if let Some(host) = host {
            let text = format!(
                "{host} is reached by the server's proxy only, and this queue's client cannot go by it; its operator can name it in egress.no_proxy"
            );
            faults.push(Fault::new(&["url"], text));
        }
    }

    /// Publishes one event.
    pub(crate) async fn run(&self, event: &Event<'_>, endpoint: EndpointKey, publishers: &Publishers) -> Ran {
        let publication = self.publication(event, endpoint);
        match publishers.publish(&self.server, &publication, self.timeout).await {
            Ok(Placed { place, duplicate: false }) => Ran::quiet(Answer::Said(place)),
            Ok(Placed { place, duplicate: true }) => {
                Ran::quiet(Answer::Said(format!("{place}, since an earlier attempt")))
            }
            Err(PublishError::Refused { text, forever: true }) => Ran::quiet(Answer::Fail(text)),
            Err(PublishError::Refused { text, forever: false }) => Ran::quiet(Answer::Retry(None, text)),
            Err(error) => Ran::broken(class_of(&error), error.to_string()),
        }
    }

    fn publication(&self, event: &Event<'_>, endpoint: EndpointKey) -> Publication {
        let mut headers = vec![
            (header::ID, event.id().to_owned()),
            (header::EVENT_TYPE, event.event_type().to_owned()),
            (header::CONTENT_TYPE, event.content_type().to_owned()),
        ];
        // What came in at a source may go on to another one; no circle of them is endless.
        headers.extend(event.hops().map(|hops| (header::HOPS, (u16::from(hops) + 1).to_string())));
        Publication {
            to: self.to.render(event, Beside::default()),
            exchange: self.exchange.clone(),
            key: self.key.as_ref().map(|key| key.render(event, Beside::default())),
            id: format!("{}.{}", event.id(), endpoint.0),
            headers,
            payload: event.payload_bytes(),
            length_max: self.length_max.map(NonZeroU64::get),
            dedupe: self.dedupe,
        }
    }
}

fn server(broker: Broker, url: &str, credentials: Credentials) -> Result<Server, Fault> {
    Server::parse(broker, url, credentials).map_err(|ServerFault { field, text }| Fault::new(&[field], text))
}

fn class_of(error: &PublishError) -> FailureClass {
    match error {
        PublishError::Unreachable(SendError::Forbidden(_)) => FailureClass::Forbidden,
        PublishError::Unreachable(SendError::Dns { .. }) => FailureClass::Dns,
        PublishError::Unreachable(SendError::Tls { .. }) => FailureClass::Tls,
        PublishError::Unreachable(SendError::Proxy(_)) => FailureClass::Proxy,
        PublishError::Unreachable(SendError::Timeout { .. }) | PublishError::Timeout(_) => FailureClass::Timeout,
        PublishError::Unreachable(_) | PublishError::Unconnected(_) => FailureClass::Connect,
        PublishError::Lost(_) => FailureClass::ResponseLost,
        PublishError::Refused { .. } => FailureClass::Plugin,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::message;
    use serde_json::json;

    fn built_in(broker: Broker) -> bool {
        broker.is_built_in()
    }

    #[test]
    fn a_queue_that_is_not_there_is_refused_by_name() {
        for (settings, text) in [
            (json!({}), "expected nats or redis"),
            (json!({ "broker": "rabbit" }), "expected nats or redis"),
            (json!({ "broker": 5 }), "expected nats or redis"),
        ] {
            let fault = Queue::read(&settings).expect_err("is refused");
            assert_eq!(fault.path, [BROKER]);
            assert!(fault.text.contains(text), "{fault:?}");
        }
        for broker in Broker::ALL.into_iter().filter(|broker| !built_in(*broker)) {
            let fault = Queue::read(&json!({ "broker": broker.name() })).expect_err("is not built in");
            assert!(fault.path == [BROKER] && fault.text.contains("--features"), "{fault:?}");
        }
    }

    #[test]
    fn mistakes_name_their_setting() {
        let nats = json!({ "broker": "nats", "url": "nats://h", "subject": "events" });
        let kafka = json!({ "broker": "kafka", "url": "kafka://h", "topic": "events" });
        let redis = json!({ "broker": "redis", "url": "redis://h", "stream": "events" });
        let amqp = json!({ "broker": "amqp", "url": "amqp://h", "routing_key": "events" });
        for (of, change, path, text) in [
            (&nats, json!({ "url": "http://h" }), "url", "nats://host:4222"),
            (&nats, json!({ "url": "nats://u:p@h" }), "url", "`user` and `password`"),
            (&nats, json!({ "user": "u" }), "password", "needs a `password`"),
            (&nats, json!({ "subject": "events.>" }), "subject", "without * and >"),
            (&nats, json!({ "subject": "{{list}}" }), "subject", "other kinds"),
            (&nats, json!({ "subject": "{{nothing}}" }), "subject", "no part of an event"),
            (&nats, json!({ "stream": "s" }), "stream", "unknown field"),
            (&nats, json!({ "timeout_ms": 0 }), "timeout_ms", "from 10"),
            (&redis, json!({ "stream": "" }), "stream", "is empty"),
            (&redis, json!({ "length_max": 0 }), "length_max", "nonzero"),
            (&redis, json!({ "dedupe_seconds": 9_999_999 }), "dedupe_seconds", "from 0 to"),
            (&redis, json!({ "token": "t" }), "token", "unknown field"),
            (&amqp, json!({ "url": "rabbit://h" }), "url", "amqp://host:5672"),
            (&amqp, json!({ "user": "u" }), "password", "needs a `password`"),
            (&amqp, json!({ "routing_key": "" }), "routing_key", "is empty"),
            (&amqp, json!({ "routing_key": "{{list}}" }), "routing_key", "other kinds"),
            (&amqp, json!({ "exchange": "x".repeat(256) }), "exchange", "at most 255"),
            (&amqp, json!({ "queue": "q" }), "queue", "unknown field"),
            (&amqp, json!({ "timeout_ms": 90_000 }), "timeout_ms", "from 10"),
            (&kafka, json!({ "url": "http://h" }), "url", "kafka://host:9092"),
            (&kafka, json!({ "topic": "a b" }), "topic", "full stops, _ and -"),
            (&kafka, json!({ "key": "{{count}}" }), "key", "other kinds"),
            (&kafka, json!({ "subject": "s" }), "subject", "unknown field"),
            (&kafka, json!({ "password": "p" }), "user", "needs a `user`"),
            (&kafka, json!({ "mechanism": "PLAIN" }), "mechanism", "there is none"),
            (&kafka, json!({ "user": "u", "password": "p", "mechanism": "GSSAPI" }), "mechanism", "SCRAM-SHA-512"),
        ] {
            let mut settings = of.clone();
            let members = settings.as_object_mut().expect("an object");
            members.extend(change.as_object().expect("an object").clone());
            if !Broker::ALL.into_iter().any(|broker| settings["broker"] == broker.name() && built_in(broker)) {
                continue;
            }
            let fault = Queue::read(&settings).expect_err(&settings.to_string());
            assert_eq!(fault.path, [path], "{fault:?}");
            assert!(fault.text.contains(text), "{fault:?}");
        }
    }

    #[test]
    fn a_message_is_published_as_it_is_with_what_names_it() {
        let message = message(r#"{"a":1.50}"#, "application/json");
        let server = Server::parse(Broker::Nats, "nats://h", Credentials::default()).expect("parses");
        let to = Template::parse("events.{{type}}").expect("parses");
        let key = Some(Template::parse("{{type}}").expect("parses"));
        let queue = Queue { key, ..Queue::to(server, to) };
        let event = Event::new(&message, 2);
        let endpoint = EndpointKey(9);
        let publication = queue.publication(&event, endpoint);
        assert_eq!(publication.to, format!("events.{}", message.event_type));
        assert_eq!(publication.key.as_deref(), Some(&*message.event_type));
        assert_eq!(publication.id, format!("{}.9", message.id));
        assert_eq!(&publication.payload[..], br#"{"a":1.50}"#);
        let header = |name| publication.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str());
        assert_eq!(header(header::ID), Some(message.id.to_string().as_str()));
        assert_eq!(header(header::EVENT_TYPE), Some(&*message.event_type));
        assert_eq!(header(header::CONTENT_TYPE), Some("application/json"));
    }
}
