//! NATS JetStream.
//!
//! The client of NATS opens its own sockets: it gets addresses that the guard has seen, never a name, and does not follow
//! the cluster's word about others. When it loses its connection it is given up, so that the next one asks again.

use crate::consume::{BATCH_MAX, Feed, FeedError, Start, Subscription, Taken};
use crate::header;
use crate::publish::{Boxed, Connection, Placed, Publication, PublishError, is_subject};
use crate::server::{Credentials, Server};
use async_nats::connection::State;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{RawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context, Message};
use async_nats::{ConnectErrorKind, ConnectOptions, HeaderMap, ServerAddr};
use bellwire_egress::Client;
use bytes::Bytes;
use futures_util::StreamExt;
use std::ops::RangeInclusive;
use std::time::Duration;
use url::Host;

/// What was taken and not acknowledged is given again after this, if something is asked for.
const ACK_WAIT: Duration = Duration::from_secs(20);
/// So much can be taken and not acknowledged before the server gives nothing new: batches of processes that died one after another
/// within that time.
const UNSETTLED_MAX: usize = 4 * BATCH_MAX;

pub(crate) struct Publisher {
    client: async_nats::Client,
    context: Context,
}

impl Publisher {
    pub(crate) async fn open(client: &Client, server: &Server, limit: Duration) -> Result<Self, PublishError> {
        let client = connect(client, server, limit).await?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(limit);
        Ok(Publisher { client, context })
    }
}

impl Connection for Publisher {
    fn publish<'a>(&'a self, publication: &'a Publication) -> Boxed<'a, Result<Placed, PublishError>> {
        Box::pin(async move {
            let forever = |text: String| PublishError::Refused { text, forever: true };
            if !is_subject(&publication.to) {
                return Err(forever(format!("{:?} is not a subject that can be published to", publication.to)));
            }
            let mut headers = HeaderMap::new();
            headers.insert(header::NATS_ID, publication.id.as_str());
            for (name, value) in &publication.headers {
                // A header of NATS ends at the end of its line.
                let value = value.parse::<async_nats::HeaderValue>();
                headers.insert(*name, value.map_err(|_| forever(format!("{name} cannot stand in a header")))?);
            }
            let published =
                self.context.publish_with_headers(publication.to.clone(), headers, publication.payload.clone());
            let ack = published.await.map_err(refusal)?.await.map_err(refusal)?;
            Ok(Placed { place: format!("{} {}", ack.stream, ack.sequence), duplicate: ack.duplicate })
        })
    }

    fn is_open(&self) -> bool {
        self.client.connection_state() == State::Connected
    }
}

fn refusal(error: jetstream::context::PublishError) -> PublishError {
    let text = chain(&error);
    match error.kind() {
        PublishErrorKind::StreamNotFound => PublishError::Refused {
            text: "no stream takes this subject; create one with `nats stream add`".to_owned(),
            forever: false,
        },
        PublishErrorKind::MaxPayloadExceeded => PublishError::Refused { text, forever: true },
        PublishErrorKind::WrongLastMessageId | PublishErrorKind::WrongLastSequence | PublishErrorKind::Other => {
            PublishError::Refused { text, forever: false }
        }
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe | PublishErrorKind::MaxAckPending => {
            PublishError::Lost(text)
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) if !error.to_string().contains(&source.to_string()) => format!("{error}: {}", chain(source)),
        _ => error.to_string(),
    }
}

async fn connect(client: &Client, server: &Server, limit: Duration) -> Result<async_nats::Client, PublishError> {
    let addresses = client.peers(&server.host, server.port).await.map_err(PublishError::Unreachable)?;
    let Credentials { user, password, token } = &server.credentials;
    let mut options = ConnectOptions::new()
        .name("bellwire")
        .connection_timeout(limit)
        .max_reconnects(1)
        .ignore_discovered_servers()
        .retain_servers_order();
    if let (Some(user), Some(password)) = (user, password) {
        options = options.user_and_password(user.clone(), password.clone());
    }
    if let Some(token) = token {
        options = options.token(token.clone());
    }
    let tls = client.tls_as(&server.host).map_err(|error| PublishError::Unconnected(error.to_string()))?;
    let options = options.require_tls(server.tls).tls_client_config(tls);
    let servers: Result<Vec<ServerAddr>, _> = addresses
        .iter()
        .map(|address| {
            let host = match address.ip() {
                std::net::IpAddr::V4(ip) => Host::<String>::Ipv4(ip),
                std::net::IpAddr::V6(ip) => Host::Ipv6(ip),
            };
            format!("nats://{host}:{}", address.port()).parse()
        })
        .collect();
    let servers = servers.map_err(|error| PublishError::Unconnected(error.to_string()))?;
    options.connect(servers).await.map_err(|error| match error.kind() {
        ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication => {
            PublishError::Refused { text: format!("{server} does not let us in: {}", chain(&error)), forever: false }
        }
        _ => PublishError::Unconnected(format!("no connection to {server}: {}", chain(&error))),
    })
}

/// Takes from a stream, by a durable consumer.
pub(crate) struct Durable {
    client: async_nats::Client,
    consumer: PullConsumer,
    stream: Stream,
    filter: Option<String>,
    /// Sequences among which is what an earlier connection took and did not settle; given first.
    before: Option<RangeInclusive<u64>>,
    /// Of those, the sequences that were given now.
    given: Vec<u64>,
    /// Up to here nothing need be given, though the server may still repeat it.
    settled: u64,
    taken: Vec<Message>,
}

impl Durable {
    /// Takes up where the durable consumer stands: what was taken before and not acknowledged comes first.
    pub(crate) async fn open(
        client: &Client,
        server: &Server,
        subscription: &Subscription,
        limit: Duration,
    ) -> Result<Self, FeedError> {
        let client = connect(client, server, limit).await?;
        let context = jetstream::new(client.clone());
        let stream = context
            .get_stream(&subscription.stream)
            .await
            .map_err(|error| FeedError(format!("stream {}: {}", subscription.stream, chain(&error))))?;
        let told =
            |error: &dyn std::error::Error| FeedError(format!("consumer {}: {}", subscription.group, chain(error)));
        let config = pull::Config {
            durable_name: Some(subscription.group.clone()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            max_ack_pending: i64::try_from(UNSETTLED_MAX).unwrap_or(i64::MAX),
            filter_subject: subscription.filter.clone().unwrap_or_default(),
            deliver_policy: match subscription.start {
                Start::Oldest => DeliverPolicy::All,
                Start::New => DeliverPolicy::New,
            },
            ..pull::Config::default()
        };
        let opened = stream.get_or_create_consumer(&subscription.group, config).await;
        let consumer: PullConsumer = opened.map_err(|error| told(&error))?;
        let info = consumer.cached_info();
        if info.config.filter_subject != subscription.filter.as_deref().unwrap_or_default() {
            return Err(FeedError(format!(
                "consumer {} exists and filters {:?}; give the source another `group`",
                subscription.group, info.config.filter_subject
            )));
        }
        let unsettled = info.ack_floor.stream_sequence + 1..=info.delivered.stream_sequence;
        let before = Some(unsettled).filter(|_| info.num_ack_pending > 0);
        let filter = subscription.filter.clone();
        Ok(Durable { client, consumer, stream, filter, before, given: Vec::new(), settled: 0, taken: Vec::new() })
    }

    /// What was taken before and not acknowledged, in order. The server itself would give it only when its patience has ended, and behind
    /// newer ones; it will still do so, and then is told that it need not.
    async fn take_before(&mut self, most: usize) -> Result<Vec<Taken>, FeedError> {
        let mut found = Vec::new();
        while let Some(range) = &mut self.before
            && !range.is_empty()
            && found.len() < most
        {
            let filter = self.filter.as_deref().unwrap_or(">");
            let asked = self.stream.raw_message_builder().sequence(*range.start()).next_by_subject(filter).send();
            let message = match asked.await {
                Ok(message) if range.contains(&message.sequence) => message,
                Err(error) if error.kind() != RawMessageErrorKind::NoMessageFound => {
                    return Err(FeedError(chain(&error)));
                }
                _ => {
                    self.before = None;
                    break;
                }
            };
            *range = message.sequence + 1..=*range.end();
            let (sequence, published) = (message.sequence, millis(message.time.unix_timestamp_nanos()));
            let StreamMessage { subject, headers, payload, .. } = message;
            found.push(taken(&self.stream, sequence, published, &subject, Some(&headers), payload));
            self.given.push(sequence);
        }
        Ok(found)
    }
}

impl Feed for Durable {
    fn take(&mut self, most: usize, wait: Duration) -> Boxed<'_, Result<Vec<Taken>, FeedError>> {
        Box::pin(async move {
            if self.client.connection_state() != State::Connected {
                return Err(FeedError("the connection to the queue is lost".to_owned()));
            }
            self.taken.clear();
            self.given.clear();
            let before = self.take_before(most).await?;
            if !before.is_empty() {
                return Ok(before);
            }
            let failed = |error: &dyn std::error::Error| FeedError(chain(error));
            // What is there, at once; if there is nothing, the first that comes. A server that gives nothing because too much is not
            // acknowledged does not say so, but lets the time pass.
            let mut batch = self
                .consumer
                .fetch()
                .max_messages(most)
                .expires(wait)
                .messages()
                .await
                .map_err(|error| failed(&error))?;
            while let Some(message) = batch.next().await {
                self.taken.push(message.map_err(|error| failed(&*error))?);
            }
            if self.taken.is_empty() {
                let waiting = self.consumer.batch().max_messages(1).expires(wait).messages();
                let mut batch = waiting.await.map_err(|error| failed(&error))?;
                while let Some(message) = batch.next().await {
                    self.taken.push(message.map_err(|error| failed(&*error))?);
                }
            }
            let mut all = Vec::with_capacity(self.taken.len());
            for message in std::mem::take(&mut self.taken) {
                let info = message.info().map_err(|error| failed(&*error))?;
                let (sequence, published) = (info.stream_sequence, millis(info.published.unix_timestamp_nanos()));
                if sequence <= self.settled {
                    message.ack().await.map_err(|error| failed(&*error))?;
                    continue;
                }
                let payload = message.payload.clone();
                let headers = message.headers.as_ref();
                all.push(taken(&self.stream, sequence, published, &message.subject, headers, payload));
                self.taken.push(message);
            }
            Ok(all)
        })
    }

    fn settle(&mut self, count: usize) -> Boxed<'_, Result<(), FeedError>> {
        Box::pin(async move {
            if let Some(last) = self.given.drain(..count.min(self.given.len())).next_back() {
                self.settled = last;
                return Ok(());
            }
            for message in self.taken.drain(..count.min(self.taken.len())) {
                message.ack().await.map_err(|error| FeedError(chain(&*error)))?;
            }
            self.client.flush().await.map_err(|error| FeedError(chain(&error)))
        })
    }
}

fn taken(
    stream: &Stream,
    sequence: u64,
    published: i64,
    subject: &str,
    all: Option<&HeaderMap>,
    payload: Bytes,
) -> Taken {
    let mut headers = Vec::new();
    for (name, values) in all.into_iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        headers.extend(values.iter().map(|value| (name.to_ascii_lowercase(), value.as_str().to_owned())));
    }
    let info = stream.cached_info();
    Taken {
        place: format!("{} {sequence}", info.config.name),
        stream: Some(micros(info.created.unix_timestamp_nanos()).to_string()),
        published: Some(published),
        subject: subject.to_owned(),
        headers,
        payload,
        gone: None,
    }
}

fn micros(nanos: i128) -> i64 {
    i64::try_from(nanos / 1_000).unwrap_or(i64::MAX)
}

fn millis(nanos: i128) -> i64 {
    micros(nanos) / 1_000
}
