//! AMQP 0-9-1, as RabbitMQ speaks it.
//!
//! A publication has a channel to itself until the broker has confirmed it: so what comes back unroutable, or ends the channel, is that one
//! and no other. What is taken comes by one subscription, for which the broker keeps no more out than the next batch may have.

mod line;

use crate::Wall;
use crate::consume::{Feed, FeedError, Subscription, Taken};
use crate::header;
use crate::publish::{Boxed, Connection, Placed, Publication, PublishError};
use crate::server::Server;
use bellwire_egress::Client;
use futures_util::{FutureExt, StreamExt};
use lapin::message::{BasicReturnMessage, Delivery};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Consumer, ErrorKind};
use line::Line;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::Semaphore;

/// So many publications are on their way over one connection; more wait.
const CHANNELS_MAX: usize = 256;
/// Messages with this mode are kept on disk by queues that are durable.
const PERSISTENT: u8 = 2;
/// In a message that comes from a stream: where in it.
const STREAM_OFFSET: &str = "x-stream-offset";

pub(crate) struct Publisher {
    line: Line,
    wall: Wall,
    room: Semaphore,
    /// Channels of which nothing is expected any more.
    idle: Mutex<Vec<Channel>>,
}

impl Publisher {
    pub(crate) async fn open(
        client: &Client,
        server: &Server,
        wall: Wall,
        limit: Duration,
    ) -> Result<Self, PublishError> {
        let line = Line::open(client, server, limit).await?;
        Ok(Publisher { line, wall, room: Semaphore::new(CHANNELS_MAX), idle: Mutex::default() })
    }

    async fn channel(&self) -> Result<Channel, PublishError> {
        if let Some(channel) = self.idle.lock().pop().filter(|channel| channel.status().connected()) {
            return Ok(channel);
        }
        let channel = self.line.connection().create_channel().await.map_err(refusal)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(refusal)?;
        Ok(channel)
    }
}

impl Connection for Publisher {
    fn publish<'a>(&'a self, publication: &'a Publication) -> Boxed<'a, Result<Placed, PublishError>> {
        Box::pin(async move {
            let forever = |text: String| PublishError::Refused { text, forever: true };
            let Publication { exchange, to, payload, .. } = publication;
            let named = |what, name: &String| {
                short(name).ok_or_else(|| forever(format!("the {what} has {} bytes, and AMQP has 255", name.len())))
            };
            let (through, key) = (named("exchange's name", exchange)?, named("routing key", to)?);
            let properties = properties(publication, (self.wall)()).map_err(forever)?;
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };

            let _room = self.room.acquire().await.map_err(|error| PublishError::Lost(error.to_string()))?;
            let channel = self.channel().await?;
            let publishing = channel.basic_publish(through, key, options, payload, properties).await;
            let confirmation = publishing.map_err(refusal)?.await.map_err(refusal)?;
            self.idle.lock().push(channel);
            let refused = |text| Err(PublishError::Refused { text, forever: false });
            match confirmation {
                Confirmation::Ack(None) => {
                    let place = if exchange.is_empty() { to.clone() } else { format!("{exchange} {to}") };
                    Ok(Placed { place, duplicate: false })
                }
                Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                    refused(unroutable(publication, &returned))
                }
                Confirmation::Nack(None) => refused("the broker did not take it, as when a queue is full".to_owned()),
                Confirmation::NotRequested => refused("the broker confirms nothing".to_owned()),
            }
        })
    }

    fn is_open(&self) -> bool {
        self.line.connection().status().connected()
    }
}

fn unroutable(Publication { exchange, to, .. }: &Publication, returned: &BasicReturnMessage) -> String {
    let why = format!("{} {}", returned.reply_code, returned.reply_text);
    match exchange.as_str() {
        "" => format!("there is no queue {to:?}, and so the broker returned it: {why}"),
        exchange => {
            format!("exchange {exchange:?} leads {to:?} to no queue, and so the broker returned it: {why}")
        }
    }
}

/// What goes with the payload: as properties what AMQP has properties for, and all but the content type as headers.
fn properties(publication: &Publication, now: i64) -> Result<BasicProperties, String> {
    let mut headers = FieldTable::default();
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    for (name, value) in &publication.headers {
        match (*name, short(value)) {
            (header::CONTENT_TYPE, Some(value)) => {
                properties = properties.with_content_type(value);
                continue;
            }
            (header::EVENT_TYPE, Some(value)) => properties = properties.with_type(value),
            _ => {}
        }
        headers.insert((*name).into(), AMQPValue::LongString(value.as_str().into()));
    }
    let id = short(&publication.id).ok_or("its id has more than 255 bytes")?;
    Ok(properties.with_headers(headers).with_message_id(id).with_timestamp(now.unsigned_abs()))
}

/// A text as AMQP has them in most places: not longer than 255 bytes.
fn short(text: &str) -> Option<ShortString> {
    ShortString::try_new(text).ok()
}

/// What is wrong with a publication, or with the way there.
fn refusal(error: lapin::Error) -> PublishError {
    let text = error.to_string();
    let ErrorKind::ProtocolError(told) = error.kind() else { return PublishError::Lost(text) };
    let text = told.get_message().to_string();
    match told.kind() {
        // Too large, or of a kind that no broker with these settings takes.
        AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::CONTENTTOOLARGE) => {
            PublishError::Refused { text, forever: true }
        }
        AMQPErrorKind::Soft(_) => PublishError::Refused { text, forever: false },
        AMQPErrorKind::Hard(_) => PublishError::Lost(text),
    }
}

/// Takes from a queue.
pub(crate) struct Subscriber {
    channel: Channel,
    queue: ShortString,
    /// The subscription, and how many messages the broker gives before one is acknowledged.
    consumer: Option<(Consumer, usize)>,
    /// Given to an earlier subscription, which the broker was too generous with.
    left: VecDeque<Delivery>,
    /// The tags of what was taken and is not settled.
    taken: VecDeque<u64>,
    line: Line,
}

impl Subscriber {
    /// Takes up where the queue stands. It must be there.
    pub(crate) async fn open(
        client: &Client,
        server: &Server,
        subscription: &Subscription,
        limit: Duration,
    ) -> Result<Self, FeedError> {
        let line = Line::open(client, server, limit).await?;
        let channel = line.connection().create_channel().await.map_err(failed)?;
        let queue = short(&subscription.stream).ok_or_else(|| FeedError("the queue's name is too long".to_owned()))?;
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.clone(), passive, FieldTable::default()).await.map_err(failed)?;
        Ok(Subscriber { channel, queue, consumer: None, left: VecDeque::new(), taken: VecDeque::new(), line })
    }

    /// Sees to it that the broker gives `most` at a time: no fewer, and not many more. What an earlier subscription was given stays ours.
    async fn subscribe(&mut self, most: usize) -> Result<(), lapin::Error> {
        if self.consumer.as_ref().is_some_and(|(_, given)| (most..2 * most).contains(given)) {
            return Ok(());
        }
        if let Some((mut consumer, _)) = self.consumer.take() {
            self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default()).await?;
            while let Some(delivery) = consumer.next().await {
                self.left.push_back(delivery?);
            }
        }
        let prefetch = u16::try_from(most).unwrap_or(u16::MAX);
        self.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let (tag, options) = (ShortString::default(), BasicConsumeOptions::default());
        let consumer = self.channel.basic_consume(self.queue.clone(), tag, options, FieldTable::default()).await?;
        self.consumer = Some((consumer, most));
        Ok(())
    }

    /// The next one; at once, if there is no time to wait.
    async fn next(&mut self, wait: Duration) -> Result<Option<Delivery>, FeedError> {
        if let Some(delivery) = self.left.pop_front() {
            return Ok(Some(delivery));
        }
        let Some((consumer, _)) = &mut self.consumer else { return Ok(None) };
        let next = match wait.is_zero() {
            true => consumer.next().now_or_never(),
            false => tokio::time::timeout(wait, consumer.next()).await.ok(),
        };
        match next {
            None => Ok(None),
            Some(Some(delivery)) => delivery.map(Some).map_err(failed),
            Some(None) => Err(FeedError(format!("the broker gives nothing more from queue {}", self.queue))),
        }
    }
}

impl Feed for Subscriber {
    fn take(&mut self, most: usize, wait: Duration) -> Boxed<'_, Result<Vec<Taken>, FeedError>> {
        Box::pin(async move {
            if !self.line.connection().status().connected() {
                return Err(FeedError("the connection to the queue is lost".to_owned()));
            }
            self.taken.clear();
            self.subscribe(most).await.map_err(failed)?;
            let (mut all, mut wait) = (Vec::new(), wait);
            while all.len() < most
                && let Some(delivery) = self.next(wait).await?
            {
                // What is there, but nobody waits for a second one.
                wait = Duration::ZERO;
                self.taken.push_back(delivery.delivery_tag);
                let subscription = self.consumer.as_ref().map(|(consumer, _)| consumer.tag()).unwrap_or_default();
                all.push(taken(&self.queue, &subscription, delivery)?);
            }
            Ok(all)
        })
    }

    fn settle(&mut self, count: usize) -> Boxed<'_, Result<(), FeedError>> {
        Box::pin(async move {
            // Tags count what the channel was given; so this one stands for all before it.
            let Some(last) = self.taken.drain(..count.min(self.taken.len())).next_back() else { return Ok(()) };
            self.channel.basic_ack(last, BasicAckOptions { multiple: true }).await.map_err(failed)
        })
    }
}

fn failed(error: lapin::Error) -> FeedError {
    match error.kind() {
        ErrorKind::ProtocolError(told) => FeedError(told.get_message().to_string()),
        _ => FeedError(error.to_string()),
    }
}

/// A queue gives its messages no places. So what names one is the id that its sender gave it; and without one the subscription, whose name the
/// broker gives once, with a number: by that a repetition is not known.
fn taken(queue: &ShortString, subscription: &ShortString, delivery: Delivery) -> Result<Taken, FeedError> {
    let Delivery { delivery_tag, routing_key, properties, data, .. } = delivery;
    let mut headers: Vec<(String, String)> = [
        (header::CONTENT_TYPE, properties.content_type()),
        ("content-encoding", properties.content_encoding()),
        ("correlation-id", properties.correlation_id()),
        ("reply-to", properties.reply_to()),
        ("message-id", properties.message_id()),
        ("type", properties.kind()),
        ("app-id", properties.app_id()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name.to_owned(), value.as_ref()?.to_string())))
    .collect();
    for (name, value) in properties.headers().iter().flat_map(|table| table.inner()) {
        let name = name.as_str().to_ascii_lowercase();
        if name == STREAM_OFFSET {
            let text = format!(
                "queue {queue} is a stream, in which the broker keeps nobody's place; take from a classic queue or a quorum queue"
            );
            return Err(FeedError(text));
        }
        headers.extend(text_of(value).map(|value| (name, value)));
    }
    let id = properties.message_id().as_ref().map(ShortString::as_str).filter(|id| !id.is_empty());
    Ok(Taken {
        place: match id {
            Some(id) => format!("{queue} {id}"),
            None => format!("{queue} {subscription} {delivery_tag}"),
        },
        stream: None,
        // By its sender's clock; the broker has none.
        published: properties.timestamp().and_then(|seconds| i64::try_from(seconds).ok()?.checked_mul(1_000)),
        subject: routing_key.to_string(),
        headers,
        payload: data.into(),
        gone: None,
    })
}

/// A header's value, unless it is made of others or is no text.
fn text_of(value: &AMQPValue) -> Option<String> {
    Some(match value {
        AMQPValue::LongString(text) => String::from_utf8(text.as_bytes().to_vec()).ok()?,
        AMQPValue::ShortString(text) => text.to_string(),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(value) => value.to_string(),
        AMQPValue::ShortShortUInt(value) => value.to_string(),
        AMQPValue::ShortInt(value) => value.to_string(),
        AMQPValue::ShortUInt(value) => value.to_string(),
        AMQPValue::LongInt(value) => value.to_string(),
        AMQPValue::LongUInt(value) => value.to_string(),
        AMQPValue::LongLongInt(value) => value.to_string(),
        AMQPValue::Timestamp(value) => value.to_string(),
        AMQPValue::Float(value) => value.to_string(),
        AMQPValue::Double(value) => value.to_string(),
        _ => return None,
    })
}
