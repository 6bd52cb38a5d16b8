//! Channels: a stream over WebSocket, with what only a connection both ways can do. The reader gives credit, and gets no more than that;
//! what it acknowledges, refuses or reports goes back the same way.
//!
//! The sub-protocol is `bellwire.pipe.v1`: text frames of JSON with a member `t`.
//!
//! ```text
//! reader                                             server
//! {"t":"credit","n":100}                             {"t":"event", …}          as a stream has it, with its cursor; or a lease
//! {"t":"ack","cursor":"…"}        durable            {"t":"acked","cursor":"…"}
//! {"t":"ack","receipts":["…"]}    group              {"t":"acked","data":[{"receipt":"…","status":200}]}
//! {"t":"nack","receipts":["…"],"delay":5}            the same
//! {"t":"extend","receipts":["…"],"lease":30}         the same
//! {"t":"result","receipts":["…"],"status":500, …}    the same: a 2xx acknowledges, everything else refuses
//!                                                    {"t":"lag", …}  {"t":"reconnect"}  {"t":"error","code":"…","detail":"…"}
//! ```

use super::event::{EventOut, LeaseOut};
use super::hands::{Hand, Hands};
use super::lease::{self, AckIn, AnswerOut, ExtendIn, NackIn};
use super::log::Reading;
use super::pull::{FilterQuery, LagOut, PullQuery};
use super::shaped::Given;
use super::standing::Standing;
use super::stream::{AGE_MAX, BEAT, LAG_EVERY, Mode, Opening, PART_MAX, StreamQuery, opening};
use super::wake::Watch;
use super::{TAG, consumer, cursor};
use crate::Api;
use crate::call::Call;
use crate::error::Error;
use crate::operation::{Access, Operation};
use axum::extract::ws::{CloseCode, CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use axum::response::Response;
use futures_util::SinkExt as _;
use http::Method;
use serde::Serialize;
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

const PROTOCOL: &str = "bellwire.pipe.v1";
/// A frame of a reader has at most so many bytes.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// More credit than this is of no use to anybody.
const CREDIT_MAX: u64 = 1_000_000;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/app/{app_id}/endpoint/{endpoint_id}/ws", Access::Application, connect)
            .described(
                "v1.pipe.socket",
                TAG,
                "Read the endpoint's messages over WebSocket (sub-protocol `bellwire.pipe.v1`): the reader gives credit, and acknowledges in \
                 the same channel.",
            )
            .query::<PullQuery>()
            .query::<FilterQuery>()
            .query::<StreamQuery>()
            .filters_event_types()
            .answers_nothing(101),
    ]
}

async fn connect(mut call: Call) -> Result<Response, Error> {
    let Opening { reading, mode, watch, standing } = opening(&call).await?;
    let upgrade = call.web_socket().await?;
    let hands = Hands::new(&call.api, reading.endpoint.key);
    let (api, ends) = (call.api.clone(), Instant::now() + AGE_MAX);
    let source = Source { api, reading, mode, hand: hands.hand, watch, standing, ends };
    let upgrade = upgrade.protocols([PROTOCOL]).max_message_size(FRAME_BYTES_MAX).max_frame_size(FRAME_BYTES_MAX);
    Ok(upgrade.on_upgrade(move |socket| Channel::new(socket, source, hands).run()))
}

/// Where events come from.
struct Source {
    api: Api,
    reading: Reading,
    mode: Mode,
    hand: Hand,
    watch: Watch,
    standing: Standing,
    ends: Instant,
}

/// Some events, and whether there are more already.
struct Part {
    events: Vec<String>,
    more: bool,
}

impl Source {
    /// The next events, at most `limit`; `None` when the channel is to end.
    async fn part(&mut self, limit: usize) -> Result<Option<Part>, Error> {
        self.reading.limit = limit;
        loop {
            self.standing.check()?;
            // Not for longer than until it is looked again whether the reader may stay.
            let deadline = self.ends.min(Instant::now() + BEAT);
            let part = self.part_until(deadline).await?;
            if !part.events.is_empty() {
                return Ok(Some(part));
            }
            if self.watch.is_closing() || Instant::now() >= self.ends {
                return Ok(None);
            }
        }
    }

    async fn part_until(&mut self, deadline: Instant) -> Result<Part, Error> {
        match self.mode {
            Mode::Group => self.leases(deadline).await,
            Mode::Tap | Mode::Durable => self.events(deadline).await,
        }
    }

    async fn events(&mut self, deadline: Instant) -> Result<Part, Error> {
        let page = self.reading.next(&self.api, Some(&mut self.watch), deadline).await?;
        let (key, now) = (self.reading.endpoint.key, self.api.backend().now());
        let event = |given: &Given| {
            let cursor = Some(cursor::write(key, given.message.sequence()));
            frame("event", &EventOut::new(given, cursor, now))
        };
        Ok(Part { events: page.given.iter().map(event).collect(), more: page.more })
    }

    async fn leases(&mut self, deadline: Instant) -> Result<Part, Error> {
        let Reading { endpoint, reader, limit, .. } = &self.reading;
        let (reader, limit) = (Arc::clone(reader), *limit);
        let leased = lease::receive(&self.api, self.hand, &reader, limit, None, &mut self.watch, deadline).await?;
        let shown: Vec<LeaseOut<'_>> = lease::shown(endpoint, &leased, self.api.backend().now());
        Ok(Part { events: shown.iter().map(|one| frame("event", one)).collect(), more: false })
    }
}

type Pending = Pin<Box<dyn Future<Output = (Source, Result<Option<Part>, Error>)> + Send>>;

struct Channel {
    socket: WebSocket,
    /// Here while nothing is being read.
    source: Option<Source>,
    /// Never given up halfway: what was handed out by then would be nobody's.
    pending: Option<Pending>,
    api: Api,
    reading: Reading,
    mode: Mode,
    hands: Hands,
    credit: u64,
    told_lag: Instant,
}

/// The channel ends, or has ended.
enum Over {
    /// The connection is gone.
    Gone,
    /// The reader has closed it.
    ByReader,
    /// We do, for this reason (RFC 6455, section 7.4.1).
    ByUs(CloseCode),
}

/// A reader answers our end within this time, or is not waited for.
const FAREWELL: Duration = Duration::from_secs(1);

impl Channel {
    fn new(socket: WebSocket, source: Source, hands: Hands) -> Self {
        Channel {
            socket,
            api: source.api.clone(),
            reading: source.reading.clone(),
            mode: source.mode,
            hands,
            source: Some(source),
            pending: None,
            credit: 0,
            told_lag: Instant::now(),
        }
    }

    async fn run(mut self) {
        match self.converse().await {
            Over::Gone => {}
            // The answer to its end goes out with this.
            Over::ByReader => drop(self.socket.flush().await),
            Over::ByUs(code) => {
                let frame = CloseFrame { code, reason: Utf8Bytes::default() };
                let farewell = async {
                    if self.socket.send(Message::Close(Some(frame))).await.is_ok() {
                        while let Some(Ok(_)) = self.socket.recv().await {}
                    }
                };
                let _ = timeout(FAREWELL, farewell).await;
            }
        }
    }

    async fn converse(&mut self) -> Over {
        let mut closing = self.api.backend().pipes().wakes.closing();
        let mut beat = interval_at(Instant::now() + BEAT, BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.read_on();
            let went = tokio::select! {
                heard = self.socket.recv() => match heard {
                    Some(Ok(message)) => self.heard(message).await,
                    // It is gone, or does not speak the protocol.
                    Some(Err(_)) | None => return Over::Gone,
                },
                (source, part) = until(&mut self.pending), if self.pending.is_some() => {
                    (self.pending, self.source) = (None, Some(source));
                    self.pass_on(part).await
                }
                _ = beat.tick() => self.beat().await,
                () = news(&mut self.source), if self.pending.is_none() => self.look().await,
                _ = async { closing.wait_for(|closing| *closing).await.is_ok() } => self.reconnect().await,
            };
            if let Err(over) = went {
                return over;
            }
        }
    }

    /// Looks whether the reader may stay. While something is being read, that looks.
    async fn look(&mut self) -> Result<(), Over> {
        match self.source.as_mut().map(|source| source.standing.check()) {
            Some(Err(error)) => self.expel(error).await,
            _ => Ok(()),
        }
    }

    async fn beat(&mut self) -> Result<(), Over> {
        self.look().await?;
        self.socket.send(Message::Ping(Default::default())).await.map_err(|_| Over::Gone)
    }

    /// Says why the reader may not stay, and ends.
    async fn expel(&mut self, error: Error) -> Result<(), Over> {
        self.say(told(error)).await?;
        Err(Over::ByUs(close_code::POLICY))
    }

    /// Begins to read, if there is credit.
    fn read_on(&mut self) {
        if self.credit == 0 {
            return;
        }
        if let Some(mut source) = self.source.take() {
            let limit = usize::try_from(self.credit).unwrap_or(PART_MAX).min(PART_MAX);
            self.pending = Some(Box::pin(async move {
                let part = source.part(limit).await;
                (source, part)
            }));
        }
    }

    async fn pass_on(&mut self, part: Result<Option<Part>, Error>) -> Result<(), Over> {
        match part {
            Ok(Some(Part { events, more })) => {
                self.credit = self.credit.saturating_sub(events.len() as u64);
                self.hands.reach();
                for event in events {
                    self.say(event).await?;
                }
                if more && self.told_lag.elapsed() >= LAG_EVERY {
                    self.told_lag = Instant::now();
                    self.tell_lag().await?;
                }
                Ok(())
            }
            Ok(None) => self.reconnect().await,
            Err(error) => self.expel(error).await,
        }
    }

    /// Says that the reader is to come again, and ends.
    async fn reconnect(&mut self) -> Result<(), Over> {
        self.hands.keep();
        self.say(frame("reconnect", &Nothing {})).await?;
        Err(Over::ByUs(close_code::AWAY))
    }

    async fn tell_lag(&mut self) -> Result<(), Over> {
        let (key, after) = (self.reading.endpoint.key, self.source.as_ref().map(|source| source.reading.after));
        let Some(after) = after else { return Ok(()) };
        let lag = self.api.read(move |store| store.lag(key, after)).await;
        let now = self.api.backend().now();
        let text = lag.map_or_else(told, |lag| frame("lag", &LagOut::new(lag, now)));
        self.say(text).await
    }

    async fn heard(&mut self, message: Message) -> Result<(), Over> {
        let text = match message {
            Message::Text(text) => text,
            Message::Ping(_) | Message::Pong(_) => return Ok(()),
            Message::Close(_) => return Err(Over::ByReader),
            Message::Binary(_) => {
                let wrong = Error::bad_request("generic_error", "Frames are text: JSON objects with a member `t`.");
                return self.say(told(wrong)).await;
            }
        };
        let answer = match serde_json::from_str::<Value>(&text) {
            Ok(frame) => self.done(frame).await.unwrap_or_else(|error| Some(told(error))),
            Err(error) => {
                let text = format!("A frame is a JSON object: {error}");
                Some(told(Error::bad_request("generic_error", text)))
            }
        };
        match answer {
            Some(answer) => self.say(answer).await,
            None => Ok(()),
        }
    }

    /// Does what a frame asks for; answers what is said to it.
    async fn done(&mut self, mut value: Value) -> Result<Option<String>, Error> {
        let kind = value.get_mut("t").map(Value::take).unwrap_or_default();
        if let Some(members) = value.as_object_mut() {
            members.remove("t");
        }
        let key = self.reading.endpoint.key;
        let answers = match kind.as_str() {
            Some("credit") => {
                let n = value["n"].as_u64().ok_or_else(|| Error::invalid(&["n"], "`n` is how many events may come"))?;
                self.credit = self.credit.saturating_add(n).min(CREDIT_MAX);
                return Ok(None);
            }
            Some("ack") if value.get("cursor").is_some() => return self.commit(&value).await.map(Some),
            Some("ack") => lease::acknowledge(&self.api, key, read::<AckIn>(value)?).await?,
            Some("nack") => lease::refuse(&self.api, key, read::<NackIn>(value)?).await?,
            Some("extend") => lease::keep(&self.api, key, read::<ExtendIn>(value)?)?,
            Some("result") => self.result(value).await?,
            _ => {
                let msg = "`t` is one of credit, ack, nack, extend, result";
                return Err(Error::invalid(&["t"], msg));
            }
        };
        Ok(Some(frame("acked", &Acked { data: answers })))
    }

    /// A durable reader has read up to a cursor.
    async fn commit(&mut self, value: &Value) -> Result<String, Error> {
        if self.mode != Mode::Durable {
            return Err(Error::invalid(&["cursor"], "only the mode `durable` keeps a cursor here"));
        }
        let endpoint = &self.reading.endpoint;
        let at = cursor::read(&["cursor"], endpoint.key, value["cursor"].as_str().unwrap_or_default())?;
        let (api, endpoint, name) = (self.api.clone(), Arc::clone(endpoint), Arc::clone(&self.reading.reader));
        // On a task of its own: a reader that hangs up does not undo it halfway.
        let kept = tokio::spawn(async move { consumer::put(&api, &endpoint, &name, at, true).await });
        let kept = kept.await.map_err(|error| Error::Internal(format!("a commit ended: {error}")))??;
        let cursor = cursor::write(kept.endpoint, kept.cursor);
        Ok(frame("acked", &serde_json::json!({ "cursor": cursor })))
    }

    /// How it went at the reader's: a 2xx acknowledges, everything else refuses.
    async fn result(&mut self, mut value: Value) -> Result<Vec<AnswerOut>, Error> {
        let receipts = value.get_mut("receipts").map(Value::take).unwrap_or_default();
        let good = value["status"].as_u64().is_some_and(|status| (200..300).contains(&status));
        let said = serde_json::json!({ "receipts": receipts, "result": value });
        let key = self.reading.endpoint.key;
        match good {
            true => lease::acknowledge(&self.api, key, read(said)?).await,
            false => lease::refuse(&self.api, key, read(said)?).await,
        }
    }

    async fn say(&mut self, text: String) -> Result<(), Over> {
        self.socket.send(Message::Text(text.into())).await.map_err(|_| Over::Gone)
    }
}

/// The end of what is pending; for ever, if nothing is.
async fn until(pending: &mut Option<Pending>) -> (Source, Result<Option<Part>, Error>) {
    match pending {
        Some(pending) => pending.await,
        None => std::future::pending().await,
    }
}

/// Something may have happened to the endpoint that is not being read; for ever, if it is, or if all readers are to end.
async fn news(source: &mut Option<Source>) {
    match source {
        Some(source) if !source.watch.is_closing() => source.watch.news().await,
        _ => std::future::pending().await,
    }
}

#[derive(Serialize)]
struct Nothing {}

#[derive(Serialize)]
struct Acked {
    data: Vec<AnswerOut>,
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| Error::invalid(&["frame"], error.to_string()))
}

/// A frame: the value's members behind its `t`.
fn frame(t: &str, value: &impl Serialize) -> String {
    let text = serde_json::to_string(value).unwrap_or_default();
    match text.strip_prefix('{') {
        Some("}") | None => format!("{{\"t\":\"{t}\"}}"),
        Some(members) => format!("{{\"t\":\"{t}\",{members}"),
    }
}

fn told(error: Error) -> String {
    let (code, detail) = error.told();
    frame("error", &serde_json::json!({ "code": code, "detail": detail }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_says_what_it_is_first() {
        assert_eq!(frame("reconnect", &Nothing {}), r#"{"t":"reconnect"}"#);
        assert_eq!(frame("acked", &serde_json::json!({ "cursor": "x" })), r#"{"t":"acked","cursor":"x"}"#);
        assert!(told(Error::invalid(&["t"], "wrong")).starts_with(r#"{"t":"error","code":"#));
    }
}
