//! A request whose head has been looked at, and the draft of a message that is made of it.

use crate::respond::Refusal;
use crate::verify::Ready;
use crate::{Backend, Outcome, dedupe, kept};
use axum::body::Bytes;
use bellwire_engine::{ApplicationEntry, Draft, fan_out};
use bellwire_model::{
    ContentType, EventType, EventTypeFrom, HOPS_HEADER, HOPS_MAX, Received, Source, Timestamp, TraceParent,
};
use bellwire_shape::{Candidate, judge};
use bellwire_signature::source::Proof;
use http::request::Parts;
use http::{HeaderName, StatusCode, header};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long a payload is kept, unless retention is shorter; as for messages of the API.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 3600);
const CONTENT_TYPE_MAX: usize = 256;
const HOPS: HeaderName = HeaderName::from_static(HOPS_HEADER);
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// A request whose head has been looked at.
pub(crate) struct Incoming<'a> {
    pub(crate) source: &'a Arc<Source>,
    pub(crate) application: Arc<ApplicationEntry>,
    pub(crate) parts: &'a Parts,
    pub(crate) ready: Arc<Ready>,
    pub(crate) own_path: bool,
    pub(crate) remote: Option<IpAddr>,
    pub(crate) hops: u8,
    pub(crate) now: Timestamp,
}

impl Incoming<'_> {
    pub(crate) fn method_refused(&self) -> Refusal {
        let reason = format!("the source does not take {}", self.parts.method);
        let refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, Outcome::Invalid, reason);
        Refusal { allow: Some(self.source.methods.join(", ")), ..refusal }
    }

    /// Scheme and host as the sender has them, as far as the request tells.
    pub(crate) fn origin(&self) -> (&str, &str) {
        let headers = &self.parts.headers;
        let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let first = |name: HeaderName| text(name).and_then(|list| list.split(',').next()).map(str::trim);
        let authority = self.parts.uri.authority().map(|authority| authority.as_str());
        let host = first(FORWARDED_HOST).or(authority).or_else(|| text(header::HOST)).unwrap_or_default();
        // Senders post to what they were given, which on the open internet is https.
        (first(FORWARDED_PROTO).unwrap_or("https"), host)
    }

    /// Where the sender stands in a trace, if messages are traced. Without one, a trace begins with the message.
    fn trace_parent(&self, backend: &dyn Backend) -> Option<TraceParent> {
        if !backend.traces() {
            return None;
        }
        let value = self.parts.headers.get("traceparent")?;
        TraceParent::parse(value.to_str().ok()?)
    }

    pub(crate) fn received(&self) -> Received {
        kept::received(self.source.id, self.parts, self.own_path, self.remote, self.hops, Some(&self.ready))
    }

    pub(crate) fn draft(&self, backend: &dyn Backend, proof: &Proof, body: &Bytes) -> (Draft, Arc<Received>) {
        let source = self.source;
        let keys = dedupe::keys(source, proof, body, self.now);
        let mut received = self.received();
        received.dedupe = keys.as_ref().map(|keys| keys.text.clone());
        let received = Arc::new(received);
        let event_type = match &source.event_type {
            EventTypeFrom::Fixed(name) => name.clone(),
            EventTypeFrom::Recipe | EventTypeFrom::Place(_) => {
                EventType::name_from(proof.event_type.as_deref(), &self.ready.event_type)
            }
        };
        // A slice would hold on to the connection's whole read buffer for as long as the message waits.
        let payload = Bytes::copy_from_slice(body);
        let content_type = match source.content_type.as_deref() {
            None => content_type(self.parts),
            Some("application/json") => ContentType::Json,
            Some(other) => ContentType::Other(other.to_owned()),
        };
        let candidate = Candidate::new(&event_type, None, &[], &[], &payload).typed(&content_type);
        let fan_out = fan_out(&self.application, |endpoint| {
            judge(endpoint, &candidate).is_match(|why| backend.filter_failed(endpoint, why))
        });
        drop(candidate);
        let draft = Draft {
            content_type,
            trace: self.trace_parent(backend),
            received: Some(Arc::clone(&received)),
            earlier: keys.as_ref().map(|keys| keys.earlier),
            event: keys.map(|keys| keys.own),
            ..Draft::new(source.application, fan_out, event_type, payload, self.now.plus(KEPT_FOR))
        };
        (draft, received)
    }
}

/// How often the message has been passed on. What cannot be read counts as too often: nobody but a server like this one sends it.
pub(crate) fn hops(parts: &Parts) -> u8 {
    match parts.headers.get(HOPS) {
        None => 0,
        Some(value) => value.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(HOPS_MAX),
    }
}

/// The payload's media type, if it is one that can be passed on.
fn content_type(parts: &Parts) -> ContentType {
    let given = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    match given.filter(|text| (1..=CONTENT_TYPE_MAX).contains(&text.len())) {
        Some("application/json") => ContentType::Json,
        Some(text) => ContentType::Other(text.to_owned()),
        None => ContentType::Other("application/octet-stream".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    #[test]
    fn hops_that_cannot_be_read_are_too_many() {
        let hops = |value: Option<&str>| {
            let mut request = Request::builder();
            if let Some(value) = value {
                request = request.header(HOPS_HEADER, value);
            }
            super::hops(&request.body(()).expect("a request").into_parts().0)
        };
        assert_eq!((hops(None), hops(Some("3")), hops(Some("-1")), hops(Some("999"))), (0, 3, HOPS_MAX, HOPS_MAX));
    }
}
