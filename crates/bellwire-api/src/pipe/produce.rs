//! The producer's side of a pipe: messages line by line over one connection, each answered when it is durable.
//!
//! Lines are worked on side by side and answered in their order, so the rate is that of the store, not that of its answers. A line that is
//! refused disturbs no other, also if it is longer than may be: the rest of it is passed over. What has no answer yet when the connection ends may or may not have been accepted; with an `eventId`
//! sending it again makes nothing twice.

use super::TAG;
use crate::backend::Accepted;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::Error;
use crate::json::Json;
use crate::message::MessageIn;
use crate::operation::{Access, Operation};
use crate::payload;
use axum::body::{Body, BodyDataStream};
use axum::response::Response;
use bellwire_engine::Draft;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, header};
use serde::Serialize;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::watch;

/// Lines that are on their way to the store at a time.
const AT_ONCE: usize = 256;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::POST, "/api/v1/app/{app_id}/msg/stream", Access::Sender, produce)
            .described(
                "v1.message.stream",
                TAG,
                "Create messages line by line over one connection: each line is a message as `v1.message.create` takes it, and is answered by \
                 a line, in order, when it is durable.",
            )
            .body::<MessageIn<'static>>()
            .answers::<ProducedOut>(200),
    ]
}

/// What became of a line.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "MessageStreamOut")]
struct ProducedOut {
    /// Of the message, which is durable.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// What the status would be, if it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

async fn produce(mut call: Call) -> Result<Response, Error> {
    call.application()?;
    let lines = Lines {
        body: call.take_body().into_data_stream(),
        rest: BytesMut::new(),
        searched: 0,
        is_passing_over: false,
        bytes_max: call.api.settings().body_bytes_max,
        closing: call.api.backend().pipes().wakes.closing(),
        is_over: false,
    };
    let call = Arc::new(call);
    let answers = stream::unfold(lines, |mut lines| async move { Some((lines.next().await?, lines)) })
        .then(move |line| begin(Arc::clone(&call), line))
        .buffered(AT_ONCE)
        .map(|made| Ok::<_, Infallible>(written(made)));
    let mut answer = Response::new(Body::from_stream(answers));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(answer)
}

type Making = Pin<Box<dyn Future<Output = Result<String, Error>> + Send>>;

/// Begins to make the message of a line. When this answers, the message has its place before those of the lines after it.
async fn begin(call: Arc<Call>, line: Result<Bytes, Error>) -> Making {
    let draft = match line {
        Ok(line) => draft(&call, line).await,
        Err(error) => Err(error),
    };
    let draft = match draft {
        Ok(draft) => draft,
        Err(error) => return Box::pin(std::future::ready(Err(error))),
    };
    let mut making: Making = Box::pin(async move {
        let (Accepted::New(message) | Accepted::Same(message)) = call.api.backend().accept(draft).await?;
        Ok(message.id.to_string())
    });
    // A draft is put in line when its future is first asked.
    let asked = std::future::poll_fn(|context| Poll::Ready(making.as_mut().poll(context))).await;
    match asked {
        Poll::Ready(made) => Box::pin(std::future::ready(made)),
        Poll::Pending => making,
    }
}

async fn draft(call: &Call, line: Bytes) -> Result<Draft, Error> {
    let api = &call.api;
    let body = Json::checked(line, api.settings())?;
    let input: MessageIn<'_> = body.parse_fast()?;
    let (draft, _) = input.check(api, None, api.backend().now())?;
    // As it is now: endpoints come and go while a producer stays.
    let entry = call.application()?;
    let place = draft.place;
    let draft = draft.addressed(&entry, api.backend());
    payload::check(api, &entry, &draft, place).await?;
    Ok(draft)
}

fn written(made: Result<String, Error>) -> Bytes {
    let out = match made {
        Ok(id) => ProducedOut { id: Some(id), status: None, code: None, detail: None },
        Err(error) => {
            let status = error.status().as_u16();
            let (code, detail) = error.told();
            ProducedOut { id: None, status: Some(status), code: Some(code), detail: Some(detail.into_owned()) }
        }
    };
    let mut line = serde_json::to_vec(&out).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// A body, cut at its line breaks.
struct Lines {
    body: BodyDataStream,
    rest: BytesMut,
    /// So much of `rest` has no line break.
    searched: usize,
    /// What comes belongs to a line that was too long and has been answered.
    is_passing_over: bool,
    bytes_max: usize,
    closing: watch::Receiver<bool>,
    is_over: bool,
}

impl Lines {
    /// The next line that is not empty; `None` at the end of the body, or of the server.
    async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        loop {
            while let Some(end) = self.rest[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.rest.split_to(self.searched + end + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                if !std::mem::take(&mut self.is_passing_over) && !line.trim_ascii().is_empty() {
                    return Some(Ok(line.freeze()));
                }
            }
            self.searched = self.rest.len();
            if self.is_over {
                let line = std::mem::take(&mut self.rest).freeze();
                self.searched = 0;
                return (!self.is_passing_over && !line.trim_ascii().is_empty()).then_some(Ok(line));
            }
            if self.is_passing_over || self.rest.len() > self.bytes_max {
                self.rest.clear();
                self.searched = 0;
                if !std::mem::replace(&mut self.is_passing_over, true) {
                    return Some(Err(Error::too_large("line", self.bytes_max)));
                }
            }
            let closing = async { self.closing.wait_for(|closing| *closing).await.is_ok() };
            tokio::select! {
                part = self.body.next() => match part {
                    Some(Ok(part)) => self.rest.extend_from_slice(&part),
                    // Half a line of a connection that broke is no message.
                    Some(Err(_)) => {
                        self.rest.clear();
                        (self.searched, self.is_over) = (0, true);
                    }
                    None => self.is_over = true,
                },
                _ = closing => {
                    self.rest.clear();
                    (self.searched, self.is_over) = (0, true);
                }
            }
        }
    }
}
