//! Streams: an endpoint's log, live, for as long as the reader stays. Server-sent events, or JSON line by line.
//!
//! A reader sets the pace: the next part is read when the part before it has gone into its connection. So a slow one costs what is on
//! the way to it, and is told how far behind it is. Every event carries its cursor; whoever comes back with the last one it saw misses
//! nothing.

use super::event::EventOut;
use super::hands::{Hand, Hands};
use super::lease::{self, Leased};
use super::log::{Reading, in_time};
use super::pull::{FilterQuery, LagOut, PullQuery, reading};
use super::standing::Standing;
use super::wake::Watch;
use super::{TAG, consumer, cursor};
use crate::Api;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{Error, ErrorOut};
use crate::operation::{Access, Operation};
use axum::body::Body;
use axum::response::Response;
use bellwire_model::Message;
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderName, HeaderValue, Method, header};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Something goes over the wire at least this often, or proxies give up.
pub(super) const BEAT: Duration = Duration::from_secs(15);
/// After so long a stream ends, and its reader comes again: to where it is wanted now, with what is in force now.
pub(super) const AGE_MAX: Duration = Duration::from_secs(3600);
/// Messages in one part.
pub(super) const PART_MAX: usize = 100;
/// A reader that is behind is told so this often.
pub(super) const LAG_EVERY: Duration = Duration::from_secs(5);
/// What a browser waits before it comes again.
const RETRY: &str = "retry: 1000\n\n";

/// Events that are no messages: ours, and those that a browser's `EventSource` makes itself.
const RESERVED: [&str; 4] = ["error", "lag", "open", "reconnect"];
/// The name of a message's event whose type is one of them.
const MESSAGE: &str = "message";

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/app/{app_id}/endpoint/{endpoint_id}/stream", Access::Application, stream_call)
            .described(
                "v1.pipe.stream",
                TAG,
                "Read the endpoint's messages live: as server-sent events, or with `Accept: application/x-ndjson` as JSON line by line. \
                 `Last-Event-ID` or `cursor` resumes.",
            )
            .query::<PullQuery>()
            .query::<FilterQuery>()
            .query::<StreamQuery>()
            .filters_event_types()
            .answers::<EventOut<'static>>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
pub(super) struct StreamQuery {
    /// `tap` (the default): everything, from the reader's cursor. `durable`: from where the `consumer` is. `group`: deliveries are shared
    /// among all who read so; each has a receipt to acknowledge it with.
    mode: Option<Mode>,
    /// The consumer's name, in the mode `durable`.
    consumer: Option<String>,
    /// Instead of a token.
    #[expect(dead_code, reason = "for the document; the door reads it")]
    ticket: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "PipeMode")]
pub(super) enum Mode {
    Tap,
    Durable,
    Group,
}

/// How a stream is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Events,
    Lines,
}

struct Streaming {
    api: Api,
    reading: Reading,
    /// Of a reader that shares with others.
    hands: Option<Hands>,
    watch: Watch,
    standing: Standing,
    format: Format,
    ends: Instant,
    told_lag: Instant,
    stage: Stage,
}

#[derive(PartialEq, Eq)]
enum Stage {
    Opening,
    Open,
    Over,
}

/// A reader at its place, before its first message.
pub(super) struct Opening {
    pub(super) reading: Reading,
    pub(super) mode: Mode,
    pub(super) watch: Watch,
    pub(super) standing: Standing,
}

/// What a request for a stream, or a channel, asks for.
pub(super) async fn opening(call: &Call) -> Result<Opening, Error> {
    let (_, endpoint) = call.endpoint()?;
    let StreamQuery { mode, consumer: name, .. } = call.query()?;
    let mut query: PullQuery = call.query()?;
    let mode = mode.unwrap_or(Mode::Tap);
    if mode == Mode::Group {
        check_group(call, &query)?;
        // The id that its browser sends is a receipt; what was not acknowledged comes again by itself.
    } else if let Some(last) = call.header("last-event-id").filter(|last| !last.is_empty()) {
        // What a browser sends by itself when it comes again is newer than what is in its URL.
        (query.cursor, query.from) = (Some(last.to_owned()), None);
    }
    let key = endpoint.key;
    let pipes = call.api.backend().pipes();
    let reader: Arc<str> = match (mode, &name) {
        (Mode::Durable, Some(name)) => consumer::checked(name, &["query", "consumer"])?,
        (Mode::Durable, None) => {
            return Err(Error::invalid(&["query", "consumer"], "the mode `durable` needs the `consumer`'s name"));
        }
        (_, Some(_)) => {
            return Err(Error::invalid(&["query", "consumer"], "only the mode `durable` has a `consumer`"));
        }
        (_, None) => pipes.next_reader(),
    };
    if mode != Mode::Tap {
        consumer::check_pipe(&endpoint)?;
    }
    let resumes = query.cursor.is_some() || query.from.is_some();
    let mut reading = reading(call, Arc::clone(&endpoint), &reader, &query)?;
    reading.limit = query.limit.map_or(PART_MAX, |limit| limit.min(PART_MAX));
    if mode == Mode::Durable && !resumes {
        let place = consumer::place(&call.api, &endpoint, &reader).await?;
        reading.after = place.map_or(reading.after, |place| place.cursor);
    }
    let watch = pipes.wakes.watch(key);
    // What is wrong with its place is said with a status, before the stream begins.
    if mode != Mode::Group {
        let mut trial = reading.clone();
        trial.limit = 0;
        trial.next(&call.api, None, in_time(Duration::ZERO)).await?;
    }
    Ok(Opening { reading, mode, watch, standing: Standing::of(call, key) })
}

/// A group is handed out what waits, whatever it is: who asks for some of it only, or for a place to begin at, would get something else.
fn check_group(call: &Call, query: &PullQuery) -> Result<(), Error> {
    let FilterQuery { channel } = call.query()?;
    let asked = [
        ("cursor", query.cursor.is_some()),
        ("from", query.from.is_some()),
        ("channel", channel.is_some()),
        ("event_types", !call.query_list("event_types").is_empty()),
    ];
    match asked.iter().find(|(_, is_asked)| *is_asked) {
        Some((name, _)) => {
            let msg = format!("the mode `group` has no `{name}`: it hands out what waits, oldest first");
            Err(Error::invalid(&["query", name], msg))
        }
        None => Ok(()),
    }
}

async fn stream_call(call: Call) -> Result<Response, Error> {
    let Opening { reading, mode, watch, standing } = opening(&call).await?;
    let wants_lines = call.header("accept").is_some_and(|accept| accept.contains("ndjson"));
    let format = if wants_lines { Format::Lines } else { Format::Events };
    let now = Instant::now();
    let streaming = Streaming {
        api: call.api.clone(),
        hands: (mode == Mode::Group).then(|| Hands::new(&call.api, reading.endpoint.key)),
        reading,
        watch,
        standing,
        format,
        ends: now + AGE_MAX,
        told_lag: now,
        stage: Stage::Opening,
    };
    Ok(answer(streaming))
}

fn answer(streaming: Streaming) -> Response {
    let media = match streaming.format {
        Format::Events => "text/event-stream",
        Format::Lines => "application/x-ndjson",
    };
    let parts = stream::unfold(streaming, |mut streaming| async move {
        let part = streaming.part().await?;
        Some((Ok::<_, Infallible>(part), streaming))
    });
    let mut answer = Response::new(Body::from_stream(parts));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect parts until a buffer is full.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    answer
}

impl Streaming {
    /// What goes over the wire next; `None` at the end.
    async fn part(&mut self) -> Option<Bytes> {
        match self.stage {
            Stage::Over => return None,
            Stage::Opening => {
                self.stage = Stage::Open;
                let opening = if self.format == Format::Events { RETRY } else { "\n" };
                return Some(Bytes::from_static(opening.as_bytes()));
            }
            Stage::Open => {}
        }
        if let Err(error) = self.standing.check() {
            return Some(self.last(error));
        }
        let deadline = self.ends.min(Instant::now() + BEAT);
        // On the heap, and only while it is needed: thousands of readers wait here, and most of them are no group.
        let part = match self.hands.as_ref().map(|hands| hands.hand) {
            Some(hand) => Box::pin(self.leases(hand, deadline)).await,
            None => self.events(deadline).await,
        };
        match part {
            Ok(Some(part)) => Some(part),
            Ok(None) if self.watch.is_closing() || Instant::now() >= self.ends => {
                self.stage = Stage::Over;
                self.hands.iter_mut().for_each(Hands::keep);
                Some(self.plain("reconnect", &Reconnect { cursor: self.cursor() }))
            }
            Ok(None) => Some(self.beat()),
            Err(error) => Some(self.last(error)),
        }
    }

    /// Says what is wrong, and ends.
    fn last(&mut self, error: Error) -> Bytes {
        self.stage = Stage::Over;
        let (code, detail) = error.told();
        self.plain("error", &ErrorOut { code, detail: &detail })
    }

    async fn events(&mut self, deadline: Instant) -> Result<Option<Bytes>, Error> {
        let page = self.reading.next(&self.api, Some(&mut self.watch), deadline).await?;
        if page.given.is_empty() {
            return Ok(None);
        }
        let (key, now) = (self.reading.endpoint.key, self.api.backend().now());
        let mut part = Vec::with_capacity(page.given.iter().map(|given| given.message.content_bytes() + 400).sum());
        for given in &page.given {
            let cursor = cursor::write(key, given.message.sequence());
            let in_line = (self.format == Format::Lines).then(|| cursor.clone());
            let out = EventOut::new(given, in_line, now);
            write(&mut part, self.format, Some(&cursor), name_of(&given.message), &out);
        }
        if page.more && self.told_lag.elapsed() >= LAG_EVERY {
            self.told_lag = Instant::now();
            let through = page.through;
            let lag = self.api.read(move |store| store.lag(key, through)).await?;
            part.extend_from_slice(&self.plain("lag", &Behind { lag: LagOut::new(lag, now) }));
        }
        Ok(Some(part.into()))
    }

    async fn leases(&mut self, hand: Hand, deadline: Instant) -> Result<Option<Bytes>, Error> {
        let Reading { endpoint, reader, limit, .. } = &self.reading;
        let (reader, limit) = (Arc::clone(reader), *limit);
        let leased: Vec<Leased> =
            lease::receive(&self.api, hand, &reader, limit, None, &mut self.watch, deadline).await?;
        if leased.is_empty() {
            return Ok(None);
        }
        self.hands.iter_mut().for_each(Hands::reach);
        let mut part = Vec::new();
        for (leased, out) in leased.iter().zip(lease::shown(endpoint, &leased, self.api.backend().now())) {
            write(&mut part, self.format, Some(&out.receipt), name_of(&leased.given.message), &out);
        }
        Ok(Some(part.into()))
    }

    fn cursor(&self) -> Option<String> {
        self.hands.is_none().then(|| cursor::write(self.reading.endpoint.key, self.reading.after))
    }

    /// A sign of life. A reader of events also learns how far it has come, or a quiet endpoint's messages could be gone when it returns.
    fn beat(&self) -> Bytes {
        match (self.format, self.cursor()) {
            (Format::Events, Some(cursor)) => format!("id: {cursor}\n: \n\n").into(),
            (Format::Events, None) => Bytes::from_static(b": \n\n"),
            (Format::Lines, _) => Bytes::from_static(b"\n"),
        }
    }

    /// Something that is no message.
    fn plain(&self, event: &str, value: &impl Serialize) -> Bytes {
        let mut part = Vec::new();
        match self.format {
            Format::Events => write(&mut part, Format::Events, None, event, value),
            Format::Lines => {
                part.extend_from_slice(format!("{{\"{event}\":").as_bytes());
                let _ = serde_json::to_writer(&mut part, value);
                part.extend_from_slice(b"}\n");
            }
        }
        part.into()
    }
}

#[derive(Serialize)]
struct Reconnect {
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<String>,
}

#[derive(Serialize)]
struct Behind {
    #[serde(flatten)]
    lag: LagOut,
}

/// The name of a message's event: its type, where that cannot be taken for anything else.
fn name_of(message: &Message) -> &str {
    let event_type = message.event_type.as_str();
    if RESERVED.contains(&event_type) { MESSAGE } else { event_type }
}

/// One event or line.
fn write(part: &mut Vec<u8>, format: Format, id: Option<&str>, event: &str, value: &impl Serialize) {
    if format == Format::Events {
        if let Some(id) = id {
            part.extend_from_slice(b"id: ");
            part.extend_from_slice(id.as_bytes());
            part.push(b'\n');
        }
        part.extend_from_slice(b"event: ");
        part.extend_from_slice(event.as_bytes());
        part.extend_from_slice(b"\ndata: ");
    }
    let from = part.len();
    // What we write cannot fail to be written; a payload stands as it came, and a line break in it is only space between its parts.
    let _ = serde_json::to_writer(&mut *part, value);
    part[from..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    part.extend_from_slice(if format == Format::Events { b"\n\n" } else { b"\n" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_with_line_breaks_stays_one_line() {
        let value = serde_json::value::RawValue::from_string("{\n\"a\":\r\n\"b\\nc\"}".to_owned()).expect("JSON");
        let mut part = Vec::new();
        write(&mut part, Format::Lines, Some("x"), "a.b", &value);
        assert_eq!(part, b"{ \"a\":  \"b\\nc\"}\n");
        part.clear();
        write(&mut part, Format::Events, Some("x"), "a.b", &value);
        assert_eq!(part, b"id: x\nevent: a.b\ndata: { \"a\":  \"b\\nc\"}\n\n");
    }
}
