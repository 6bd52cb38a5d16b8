//! Amazon SQS, and what speaks as it does: its JSON protocol, by `egress`' own HTTP client.
//!
//! A queue that is no FIFO queue has no order, and may give a message twice; [`Taken::key`] is the id that SQS gave it, by which that is known.
//! What is taken is hidden from others for as long as the queue's visibility timeout says, and then given again.

use crate::Wall;
use crate::consume::{Feed, FeedError, Taken};
use crate::publish::{Boxed, Connection, Placed, Publication, PublishError};
use crate::server::{Credentials, Server};
use crate::signature_v4::{Scope, sign};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bellwire_egress::{Client, Request, SendError, Stage, Target};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::time::Duration;

/// So many messages one request can give or delete.
const AT_ONCE: usize = 10;
/// Of an answer: ten messages of one MiB, and what escapes add.
const ANSWER_MAX: usize = 24 << 20;
/// SQS keeps so many attributes of a message.
const ATTRIBUTES_MAX: usize = 10;

/// Requests to one queue.
struct Calls {
    client: Client,
    server: Server,
    target: Target,
    /// The header `host`, which is signed.
    authority: String,
    wall: Wall,
}

/// Why there is no answer that can be used.
enum CallError {
    Send(SendError),
    /// What SQS says is wrong: its name for that, and a sentence.
    Told {
        status: u16,
        name: String,
        text: String,
    },
    /// It may have been done.
    Odd(String),
}

impl Calls {
    fn new(client: &Client, server: &Server, wall: Wall) -> Result<Self, String> {
        let authority = server.authority();
        let url = format!("{}://{authority}/", if server.tls { "https" } else { "http" });
        let target = Target::parse(&url).map_err(|error| error.to_string())?;
        Ok(Calls { client: client.clone(), server: server.clone(), target, authority, wall })
    }

    /// Calls an action with its parameters; the queue's URL is put among them.
    async fn call<T: for<'a> Deserialize<'a>>(
        &self,
        action: &str,
        mut parameters: Map<String, Value>,
        limit: Duration,
    ) -> Result<T, CallError> {
        parameters.insert("QueueUrl".to_owned(), self.server.queue_url().into());
        let body = Bytes::from(Value::Object(parameters).to_string());
        let request = Request {
            method: Method::POST,
            target: self.target.clone(),
            headers: self.headers(action, &body).map_err(CallError::Odd)?,
            body,
            deadline: limit,
            response_body_max: ANSWER_MAX,
        };
        let response = self.client.exchange(request).await.map_err(CallError::Send)?;
        if response.truncated || response.body_error.is_some() {
            return Err(CallError::Odd("its answer is cut short, or too long".to_owned()));
        }
        if response.status != 200 {
            let told: Told = serde_json::from_slice(&response.body).unwrap_or_default();
            let name = told.kind.rsplit('#').next().unwrap_or_default().to_owned();
            return Err(CallError::Told { status: response.status, name, text: told.message });
        }
        serde_json::from_slice(&response.body).map_err(|error| CallError::Odd(format!("its answer is odd: {error}")))
    }

    fn headers(&self, action: &str, body: &[u8]) -> Result<HeaderMap, String> {
        let Credentials { user, password, token } = &self.server.credentials;
        let (Some(key_id), Some(secret)) = (user, password) else {
            return Err("there is no access key".to_owned());
        };
        let at = (self.wall)();
        let date = jiff::Timestamp::from_second(at).map_err(|error| error.to_string())?;
        let date = date.strftime("%Y%m%dT%H%M%SZ").to_string();
        let target = format!("AmazonSQS.{action}");
        let mut signed = vec![
            ("content-type", "application/x-amz-json-1.0"),
            ("host", self.authority.as_str()),
            ("x-amz-date", date.as_str()),
        ];
        if let Some(token) = token {
            signed.push(("x-amz-security-token", token));
        }
        signed.push(("x-amz-target", &target));
        let scope = Scope { date: &date, region: &self.server.region, service: "sqs" };
        let authorization = sign(&scope, key_id, secret, ("POST", "/", ""), &signed, body);
        let mut headers = HeaderMap::new();
        let usable = |text: &str| HeaderValue::from_str(text).map_err(|_| "the access key has odd letters".to_owned());
        for (name, value) in signed.into_iter().filter(|(name, _)| *name != "host") {
            let name = if name == "content-type" { CONTENT_TYPE } else { HeaderName::from_static(known(name)) };
            headers.insert(name, usable(value)?);
        }
        headers.insert(AUTHORIZATION, usable(&authorization)?);
        Ok(headers)
    }
}

/// The names of headers that are signed, as texts that live for ever.
fn known(name: &str) -> &'static str {
    match name {
        "x-amz-date" => "x-amz-date",
        "x-amz-security-token" => "x-amz-security-token",
        _ => "x-amz-target",
    }
}

#[derive(Deserialize, Default)]
struct Told {
    #[serde(rename = "__type", default)]
    kind: String,
    #[serde(alias = "Message", default)]
    message: String,
}

impl CallError {
    fn text(&self, server: &Server) -> String {
        match self {
            CallError::Send(error) => error.customer_text().into_owned(),
            CallError::Told { status, name, text } => format!("{server} answers {status} {name}: {text}"),
            CallError::Odd(text) => format!("{server}: {text}"),
        }
    }
}

pub(crate) struct Publisher {
    calls: Calls,
    limit: Duration,
}

impl Publisher {
    pub(crate) fn new(client: &Client, server: &Server, wall: Wall, limit: Duration) -> Result<Self, PublishError> {
        let calls = Calls::new(client, server, wall).map_err(PublishError::Unconnected)?;
        Ok(Publisher { calls, limit })
    }
}

#[derive(Deserialize)]
struct Sent {
    #[serde(rename = "MessageId")]
    id: String,
}

impl Connection for Publisher {
    fn publish<'a>(&'a self, publication: &'a Publication) -> Boxed<'a, Result<Placed, PublishError>> {
        Box::pin(async move {
            let forever = |text: &str| Err(PublishError::Refused { text: text.to_owned(), forever: true });
            let Publication { to, id, headers, payload, .. } = publication;
            let Ok(text) = std::str::from_utf8(payload) else {
                return forever("SQS takes text only, and the payload is none");
            };
            if !text.chars().all(is_allowed) || text.is_empty() {
                return forever("SQS takes no empty messages and no control characters");
            }
            let attribute = |value: &String| json!({ "DataType": "String", "StringValue": value });
            let all = headers.iter().filter(|(_, value)| !value.is_empty()).take(ATTRIBUTES_MAX);
            let attributes: Map<String, Value> =
                all.map(|(name, value)| ((*name).to_owned(), attribute(value))).collect();
            let mut parameters = Map::new();
            parameters.insert("MessageBody".to_owned(), text.into());
            parameters.insert("MessageAttributes".to_owned(), Value::Object(attributes));
            if self.calls.server.is_fifo() {
                parameters.insert("MessageGroupId".to_owned(), to.as_str().into());
                parameters.insert("MessageDeduplicationId".to_owned(), id.as_str().into());
            }
            match self.calls.call::<Sent>("SendMessage", parameters, self.limit).await {
                Ok(sent) => Ok(Placed { place: sent.id, duplicate: false }),
                Err(CallError::Send(error)) if is_unsent(&error) => Err(PublishError::Unreachable(error)),
                Err(CallError::Told { status, name, text }) => Err(PublishError::Refused {
                    text: format!("{status} {name}: {text}"),
                    forever: matches!(
                        name.as_str(),
                        "InvalidMessageContents" | "InvalidParameterValue" | "BatchRequestTooLong"
                    ),
                }),
                Err(error) => Err(PublishError::Lost(error.text(&self.calls.server))),
            }
        })
    }

    fn is_open(&self) -> bool {
        true
    }
}

/// Whether nothing of a request can have been acted upon.
fn is_unsent(error: &SendError) -> bool {
    match error {
        SendError::Timeout { stage, .. } => *stage < Stage::Response,
        SendError::Malformed { .. } => false,
        SendError::ConnectionLost { bytes_written, .. } => !bytes_written,
        _ => true,
    }
}

/// SQS takes what XML takes.
fn is_allowed(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Takes from a queue.
pub(crate) struct Polling {
    calls: Calls,
    limit: Duration,
    /// Of what was taken and is not settled: what SQS wants to be told to delete it.
    receipts: Vec<String>,
}

#[derive(Deserialize)]
struct Received {
    #[serde(rename = "Messages", default)]
    messages: Vec<Message>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Message {
    message_id: String,
    receipt_handle: String,
    #[serde(default)]
    body: String,
    /// SQS' own: numbers as texts.
    #[serde(default)]
    attributes: HashMap<String, String>,
    #[serde(default)]
    message_attributes: HashMap<String, Attribute>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attribute {
    string_value: Option<String>,
    binary_value: Option<String>,
}

#[derive(Deserialize)]
struct Deleted {
    #[serde(rename = "Failed", default)]
    failed: Vec<Failure>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Failure {
    code: String,
    #[serde(default)]
    message: String,
}

impl Polling {
    /// Nothing is asked yet.
    pub(crate) fn new(client: &Client, server: &Server, wall: Wall, limit: Duration) -> Result<Self, FeedError> {
        let calls = Calls::new(client, server, wall).map_err(FeedError)?;
        Ok(Polling { calls, limit, receipts: Vec::new() })
    }

    async fn receive(&self, most: usize, wait: Duration) -> Result<Vec<Message>, FeedError> {
        let mut parameters = Map::new();
        parameters.insert("MaxNumberOfMessages".to_owned(), most.min(AT_ONCE).into());
        parameters.insert("WaitTimeSeconds".to_owned(), wait.as_secs().into());
        parameters.insert("MessageAttributeNames".to_owned(), json!(["All"]));
        parameters.insert("MessageSystemAttributeNames".to_owned(), json!(["SentTimestamp", "MessageGroupId"]));
        let received: Result<Received, _> =
            self.calls.call("ReceiveMessage", parameters, wait.saturating_add(self.limit)).await;
        received.map(|received| received.messages).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &CallError) -> FeedError {
        FeedError(error.text(&self.calls.server))
    }
}

impl Feed for Polling {
    fn take(&mut self, most: usize, wait: Duration) -> Boxed<'_, Result<Vec<Taken>, FeedError>> {
        Box::pin(async move {
            self.receipts.clear();
            let mut all = self.receive(most, wait).await?;
            // What is there at once; a full answer makes one more worth asking.
            while !all.is_empty() && all.len() % AT_ONCE == 0 && all.len() < most {
                let more = self.receive(most - all.len(), Duration::ZERO).await?;
                if more.is_empty() {
                    break;
                }
                all.extend(more);
            }
            let queue = self.calls.server.queue_name();
            let mut taken = Vec::with_capacity(all.len());
            for message in all {
                self.receipts.push(message.receipt_handle.clone());
                taken.push(message.taken(queue));
            }
            Ok(taken)
        })
    }

    fn settle(&mut self, count: usize) -> Boxed<'_, Result<(), FeedError>> {
        Box::pin(async move {
            let receipts: Vec<String> = self.receipts.drain(..count.min(self.receipts.len())).collect();
            for some in receipts.chunks(AT_ONCE) {
                let entries: Vec<Value> = some
                    .iter()
                    .enumerate()
                    .map(|(place, receipt)| json!({ "Id": place.to_string(), "ReceiptHandle": receipt }))
                    .collect();
                let parameters = Map::from_iter([("Entries".to_owned(), Value::Array(entries))]);
                let deleted: Result<Deleted, _> = self.calls.call("DeleteMessageBatch", parameters, self.limit).await;
                let Deleted { failed } = deleted.map_err(|error| self.failed(&error))?;
                if let Some(Failure { code, message }) = failed.first() {
                    return Err(FeedError(format!("a message could not be deleted: {code}: {message}")));
                }
            }
            Ok(())
        })
    }
}

impl Message {
    fn taken(self, queue: &str) -> Taken {
        let mut headers: Vec<(String, String)> = self
            .message_attributes
            .into_iter()
            .filter_map(|(name, attribute)| {
                let decoded = |text: String| STANDARD.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                let value = attribute.string_value.or_else(|| attribute.binary_value.and_then(decoded))?;
                Some((name.to_ascii_lowercase(), value))
            })
            .collect();
        headers.sort_unstable();
        Taken {
            place: format!("{queue} {}", self.message_id),
            stream: None,
            published: self.attributes.get("SentTimestamp").and_then(|millis| millis.parse().ok()),
            subject: self.attributes.get("MessageGroupId").cloned().unwrap_or_else(|| queue.to_owned()),
            headers,
            payload: self.body.into(),
            gone: None,
        }
    }
}
