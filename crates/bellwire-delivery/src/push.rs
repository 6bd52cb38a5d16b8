//! Push: an HTTP POST to the endpoint's URL, signed by Standard Webhooks.
//!
//! An endpoint with a shape gets what its script and its format make of the message ([`crate::shaping`]); that is what is signed.
//!
//! What does not change between attempts (the URL taken apart, the keys, the header block) is prepared once for each
//! version of an endpoint and kept. The payload's bytes go from the message to the socket without a copy.

use crate::access::{self, Proof};
use crate::oauth::{Keep, Tokens};
use crate::shaping::{self, Shaped, Unshaped};
use bellwire_egress::{Client, Request, Response, SendError, Target, Timings};
use bellwire_model::{
    Directive, Endpoint, EndpointKey, FailureClass, Message, Outcome, Phases, RESPONSE_BODY_MAX, RetryAfter, Timestamp,
};
use bellwire_shape::Scripts;
use bellwire_signature::Signer;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Which names the three signature headers carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HeaderNames {
    /// `webhook-id`, `webhook-timestamp`, `webhook-signature`.
    Webhook,
    /// `svix-id`, `svix-timestamp`, `svix-signature`.
    Svix,
    /// Both sets, with equal values.
    #[default]
    Both,
}

/// What is the same for all endpoints.
#[derive(Clone, Debug)]
pub struct PushSettings {
    /// Names of the signature headers.
    pub header_names: HeaderNames,
    /// For the whole exchange, from the first DNS query to the last byte of the response's body.
    pub timeout: Duration,
    /// How much of a response's body is read and kept.
    pub response_body_max: usize,
    /// The `user-agent`.
    pub user_agent: HeaderValue,
    /// Whether an endpoint may ask that its certificate be not verified; without it, it is verified all the same.
    pub unverified_tls: bool,
    /// Where the endpoints' scripts run.
    pub scripts: Scripts,
    /// What a script makes of a URL must be `https`.
    pub https_only: bool,
}

impl Default for PushSettings {
    fn default() -> Self {
        PushSettings {
            header_names: HeaderNames::default(),
            timeout: Duration::from_secs(15),
            response_body_max: RESPONSE_BODY_MAX,
            user_agent: HeaderValue::from_static(concat!("Bellwire/", env!("CARGO_PKG_VERSION"))),
            unverified_tls: false,
            scripts: Scripts::default(),
            https_only: false,
        }
    }
}

const WEBHOOK: [HeaderName; 3] = [
    HeaderName::from_static("webhook-id"),
    HeaderName::from_static("webhook-timestamp"),
    HeaderName::from_static("webhook-signature"),
];
const SVIX: [HeaderName; 3] = [
    HeaderName::from_static("svix-id"),
    HeaderName::from_static("svix-timestamp"),
    HeaderName::from_static("svix-signature"),
];
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const HOPS: HeaderName = HeaderName::from_static(bellwire_model::HOPS_HEADER);
const DIRECTIVE: HeaderName = HeaderName::from_static("webhook-delivery");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Endpoints whose preparation is kept; beyond this many, all are dropped and made again as they are used.
pub(crate) const PREPARED_MAX: usize = 16_384;

/// Makes attempts, on one thread.
pub struct Push {
    client: Client,
    settings: PushSettings,
    prepared: RefCell<HashMap<EndpointKey, Rc<Prepared>>>,
    tokens: Tokens,
}

/// An endpoint, ready to be called.
struct Prepared {
    /// The version that this was made from; compared by address, and kept alive so that the address stays its own.
    endpoint: Arc<Endpoint>,
    /// When a secret expires and this must be made again.
    valid_until: Timestamp,
    target: Target,
    headers: HeaderMap,
    signer: Signer,
    proof: Proof,
}

impl Push {
    /// Sends by `client`, which must belong to this thread's runtime.
    pub fn new(client: Client, settings: PushSettings) -> Self {
        Push { client, settings, prepared: RefCell::default(), tokens: Tokens::default() }
    }

    /// Has the refresh tokens kept by `keep` that token endpoints give: each is durable before the access token that came with it is used.
    #[must_use]
    pub fn keeping(mut self, keep: Keep) -> Self {
        self.tokens.keep_by(keep);
        self
    }

    /// Where the endpoints' scripts run.
    pub fn scripts(&self) -> &Scripts {
        &self.settings.scripts
    }

    /// Makes one attempt, at wall time `wall`. Ends within the timeout, and always with an outcome.
    pub async fn attempt(&self, endpoint: &Arc<Endpoint>, message: &Message, wall: Timestamp) -> Outcome {
        self.attempt_in_trace(endpoint, message, wall, None).await
    }

    /// The same; the endpoint gets `traceparent`, if there is one, whatever header of that name it asked for.
    pub async fn attempt_in_trace(
        &self,
        endpoint: &Arc<Endpoint>,
        message: &Message,
        wall: Timestamp,
        traceparent: Option<HeaderValue>,
    ) -> Outcome {
        let started = tokio::time::Instant::now();
        let shaped = if endpoint.shape.changes_what_is_sent() {
            match shaping::shape(endpoint, message, &self.settings.scripts, self.settings.https_only).await {
                Ok(shaped) => Some(shaped),
                Err(Unshaped { class, text }) => return failure(wall, started.elapsed(), class, text.into()),
            }
        } else {
            None
        };
        let url = shaped.as_ref().and_then(|shaped| shaped.url.as_deref()).map(Arc::from);
        Outcome { url, ..self.exchange(endpoint, message, shaped, wall, traceparent).await }
    }

    /// Sends what the endpoint's shape made of the message.
    async fn exchange(
        &self,
        endpoint: &Arc<Endpoint>,
        message: &Message,
        shaped: Option<Shaped>,
        wall: Timestamp,
        traceparent: Option<HeaderValue>,
    ) -> Outcome {
        let prepared = self.prepare(endpoint, wall);
        let request = prepared.and_then(|prepared| Ok((self.request(&prepared, message, shaped, wall)?, prepared)));
        let (mut request, prepared) = match request {
            Ok(ready) => ready,
            Err(text) => return failure(wall, Duration::ZERO, FailureClass::Unsendable, text.into()),
        };
        if let Some(traceparent) = traceparent {
            request.headers.insert(TRACEPARENT, traceparent);
        }
        let started = tokio::time::Instant::now();
        let mut token = None;
        if let Some(source) = prepared.proof.tokens() {
            match source.token(&self.client, &self.settings, wall).await {
                Ok(value) => drop(request.headers.insert(header::AUTHORIZATION, token.insert(value).clone())),
                Err(text) => return failure(wall, started.elapsed(), FailureClass::AccessToken, text.into()),
            }
            request.deadline = request.deadline.saturating_sub(started.elapsed());
        }
        let mut timings = Timings::default();
        let ended = match self.client.exchange_timed(request, &mut timings).await {
            Ok(response) => {
                if let (401, Some(source), Some(token)) = (response.status, prepared.proof.tokens(), token) {
                    source.refused(&token, wall);
                }
                outcome(wall, response)
            }
            Err(error) => failure(wall, Duration::ZERO, class(&error), Bytes::from(error.customer_text().into_owned())),
        };
        let Timings { dns, connect, tls, first_byte, .. } = timings;
        Outcome { duration: started.elapsed(), phases: Phases { dns, connect, tls, first_byte }, ..ended }
    }

    /// The signed request.
    fn request(
        &self,
        prepared: &Prepared,
        message: &Message,
        shaped: Option<Shaped>,
        wall: Timestamp,
    ) -> Result<Request, String> {
        let Shaped { method, url, body, content_type, headers: own } = match shaped {
            Some(shaped) => shaped,
            None => Shaped::unchanged(message.payload.clone().ok_or("the payload has expired")?),
        };
        let id = message.id.to_string();
        let seconds = wall.as_seconds();
        let signature = prepared.signer.sign(&id, seconds, &body).map_err(|e| e.to_string())?;
        let mut headers = prepared.headers.clone();
        own.into_iter().for_each(|(name, value)| drop(headers.insert(name, value)));
        let values = header_values([&id, &seconds.to_string(), &signature])?;
        if self.settings.header_names != HeaderNames::Svix {
            WEBHOOK.into_iter().zip(&values).for_each(|(name, value)| drop(headers.insert(name, value.clone())));
        }
        if self.settings.header_names != HeaderNames::Webhook {
            SVIX.into_iter().zip(values).for_each(|(name, value)| drop(headers.insert(name, value)));
        }
        let content_type = match (content_type, message.content_type.as_str()) {
            (Some(content_type), _) => content_type,
            (None, "application/json") => JSON,
            (None, other) => HeaderValue::from_str(other).map_err(|e| e.to_string())?,
        };
        headers.insert(header::CONTENT_TYPE, content_type);
        // What came in at a source may go on to another one; no circle of them is endless.
        if let Some(received) = &message.received {
            headers.insert(HOPS, HeaderValue::from(u16::from(received.hops) + 1));
            // A body that is passed on as it came is packed as it came.
            let codings = received.headers.iter().filter(|(name, _)| *name == header::CONTENT_ENCODING);
            for coding in codings.filter_map(|(_, coding)| HeaderValue::from_str(coding).ok()) {
                if message.payload.as_ref() == Some(&body) {
                    headers.append(header::CONTENT_ENCODING, coding);
                }
            }
        }
        prepared.proof.sign(&mut headers, &id, seconds, &body)?;
        let target = match url {
            None => prepared.target.clone(),
            // With the endpoint's own TLS, and whatever else belongs to its address.
            Some(url) => {
                let moved = Endpoint { url, ..Endpoint::clone(&prepared.endpoint) };
                access::target(&self.client, &moved, self.settings.unverified_tls)?
            }
        };
        Ok(Request {
            method,
            target,
            headers,
            body,
            deadline: self.settings.timeout,
            response_body_max: self.settings.response_body_max,
        })
    }

    /// What was prepared for this version of the endpoint, or prepares it.
    fn prepare(&self, endpoint: &Arc<Endpoint>, wall: Timestamp) -> Result<Rc<Prepared>, String> {
        let mut all = self.prepared.borrow_mut();
        if let Some(found) = all.get(&endpoint.key)
            && Arc::ptr_eq(&found.endpoint, endpoint)
            && wall < found.valid_until
        {
            return Ok(Rc::clone(found));
        }
        let secrets: Vec<_> = endpoint.signing_secrets(wall).collect();
        let target = access::target(&self.client, endpoint, self.settings.unverified_tls)?;
        // Places for what each attempt brings, the transport's part too, so that its copy of the block never grows.
        let mut headers = HeaderMap::with_capacity(endpoint.headers.len() + 12);
        let names = match self.settings.header_names {
            HeaderNames::Webhook => WEBHOOK.to_vec(),
            HeaderNames::Svix => SVIX.to_vec(),
            HeaderNames::Both => [WEBHOOK, SVIX].concat(),
        };
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.insert(header::HOST, HeaderValue::from_static(""));
        names.into_iter().for_each(|name| drop(headers.insert(name, HeaderValue::from_static(""))));
        headers.insert(header::USER_AGENT, self.settings.user_agent.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        for (name, value) in &endpoint.headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|_| format!("header {name:?} cannot be sent"))?;
            let value = HeaderValue::try_from(value.as_str())
                .map_err(|_| format!("the value of header {name} cannot be sent"))?;
            headers.insert(name, value);
        }
        let proof = Proof::prepare(endpoint, &mut headers, &self.tokens)?;
        let prepared = Rc::new(Prepared {
            valid_until: endpoint
                .secrets
                .iter()
                .filter_map(|s| s.expires_at.filter(|end| *end > wall))
                .min()
                .unwrap_or(Timestamp::FAR_FUTURE),
            signer: Signer::new(&secrets),
            endpoint: Arc::clone(endpoint),
            target,
            headers,
            proof,
        });
        if all.len() >= PREPARED_MAX {
            all.clear();
        }
        all.insert(endpoint.key, Rc::clone(&prepared));
        Ok(prepared)
    }

    /// Drops what was prepared for an endpoint that is gone.
    pub fn forget(&self, endpoint: EndpointKey) {
        self.prepared.borrow_mut().remove(&endpoint);
        self.tokens.forget(endpoint);
    }
}

/// Values of headers, in one piece of memory.
fn header_values<const N: usize>(texts: [&str; N]) -> Result<[HeaderValue; N], String> {
    let all = Bytes::from(texts.concat());
    let mut values = [const { HeaderValue::from_static("") }; N];
    let mut start = 0;
    for (value, text) in values.iter_mut().zip(texts) {
        let end = start + text.len();
        *value = HeaderValue::from_maybe_shared(all.slice(start..end)).map_err(|error| error.to_string())?;
        start = end;
    }
    Ok(values)
}

fn outcome(started_at: Timestamp, response: Response) -> Outcome {
    let text = |name: &HeaderName| response.headers.get(name).and_then(|v| v.to_str().ok());
    let retry_after = text(&header::RETRY_AFTER).and_then(RetryAfter::parse);
    let directive = match text(&DIRECTIVE).map(str::trim) {
        Some("disable") => Some(Directive::Disable),
        Some("abort-message") => Some(Directive::AbortMessage),
        _ => None,
    };
    Outcome {
        started_at,
        duration: response.timings.total,
        result: Ok(response.status),
        body: response.body,
        retry_after,
        directive,
        url: None,
        phases: Phases::default(),
    }
}

fn failure(started_at: Timestamp, duration: Duration, class: FailureClass, body: Bytes) -> Outcome {
    Outcome {
        started_at,
        duration,
        result: Err(class),
        body,
        retry_after: None,
        directive: None,
        url: None,
        phases: Phases::default(),
    }
}

fn class(error: &SendError) -> FailureClass {
    match error {
        SendError::Url(_) => FailureClass::Unsendable,
        SendError::Forbidden(_) => FailureClass::Forbidden,
        SendError::Dns { .. } => FailureClass::Dns,
        SendError::Connect { .. } | SendError::ConnectionLost { bytes_written: false, .. } => FailureClass::Connect,
        SendError::Proxy(_) => FailureClass::Proxy,
        SendError::Tls { .. } => FailureClass::Tls,
        SendError::Timeout { .. } => FailureClass::Timeout,
        SendError::Malformed { .. } => FailureClass::Malformed,
        SendError::ConnectionLost { bytes_written: true, .. } => FailureClass::ResponseLost,
    }
}
