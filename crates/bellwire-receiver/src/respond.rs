//! What the sender is told.
//!
//! Who is refused learns the status and nothing else: all that is not proven looks alike. Why, is for the owner of the source.

use crate::{EndpointSays, Outcome};
use axum::body::Body;
use bellwire_model::{RequestOutcome, Source};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

/// Says on an answer that the request was there before.
const DUPLICATE: HeaderName = HeaderName::from_static("x-duplicate");

/// An answer, and what is noted of it.
pub(crate) struct Responded {
    pub(crate) answer: Response<Body>,
    pub(crate) outcome: Outcome,
    /// Present if the request made no message and is to be kept.
    pub(crate) kept: Option<RequestOutcome>,
}

/// As adnanh's `webhook` says it.
const UNSATISFIED: &str = "Hook rules were not satisfied.";

/// Why a request is not taken.
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) outcome: Outcome,
    /// For the owner of the source.
    pub(crate) reason: String,
    /// For `retry-after`.
    pub(crate) after_seconds: Option<u16>,
    /// What is said beside the status; nothing to whoever is not proven.
    pub(crate) text: &'static str,
    /// How the sender could prove itself, for a 401.
    pub(crate) challenge: Option<&'static str>,
    /// Methods, for a 405.
    pub(crate) allow: Option<String>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, outcome: Outcome, reason: impl Into<String>) -> Self {
        Refusal { status, outcome, reason: reason.into(), after_seconds: None, text: "", challenge: None, allow: None }
    }

    /// Not proven.
    pub(crate) fn unverified(reason: impl Into<String>) -> Self {
        Refusal::new(StatusCode::UNAUTHORIZED, Outcome::Unverified, reason)
    }

    /// Rules do not let it in, though no signature is wrong.
    pub(crate) fn unsatisfied(status: u16) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::FORBIDDEN);
        let refusal = Refusal::new(status, Outcome::Forbidden, "the rules of the source are not satisfied");
        Refusal { text: UNSATISFIED, ..refusal }
    }

    /// Proven, and not what it says it is.
    pub(crate) fn not_json(reason: impl Into<String>) -> Self {
        let refusal = Refusal::new(StatusCode::BAD_REQUEST, Outcome::Invalid, reason);
        Refusal { text: "The body is not JSON.", ..refusal }
    }

    /// We cannot take it at the moment.
    pub(crate) fn later(seconds: u16, reason: impl Into<String>) -> Self {
        let refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, Outcome::Unavailable, reason);
        Refusal { after_seconds: Some(seconds), ..refusal }
    }

    /// It failed on our side.
    pub(crate) fn failed(detail: impl Into<String>) -> Self {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, Outcome::Unavailable, detail)
    }

    pub(crate) fn respond(self) -> Responded {
        let mut answer = Response::new(Body::from(self.text));
        *answer.status_mut() = self.status;
        if !self.text.is_empty() {
            let plain = HeaderValue::from_static("text/plain; charset=utf-8");
            answer.headers_mut().insert(header::CONTENT_TYPE, plain);
        }
        if let Some(seconds) = self.after_seconds {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(challenge) = self.challenge.filter(|_| self.status == StatusCode::UNAUTHORIZED) {
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(allow) = self.allow.and_then(|methods| HeaderValue::from_str(&methods).ok()) {
            answer.headers_mut().insert(header::ALLOW, allow);
        }
        Responded { answer, outcome: self.outcome, kept: Some(RequestOutcome::Refused { reason: self.reason }) }
    }
}

/// As the source has it.
pub(crate) fn accepted(source: &Source) -> Response<Body> {
    let mut answer = Response::new(Body::from(source.answer.body.clone()));
    *answer.status_mut() = StatusCode::from_u16(source.answer.status).unwrap_or(StatusCode::ACCEPTED);
    if !source.answer.body.is_empty() {
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    for (name, value) in own_headers(source) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// The headers that the source's answers have.
fn own_headers(source: &Source) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let headers = source.answer.headers.iter();
    headers.filter_map(|(name, value)| Some((name.parse().ok()?, HeaderValue::from_str(value).ok()?)))
}

/// As an endpoint has it, with the source's own headers. What belongs to the connection is ours.
pub(crate) fn passed_on(source: &Source, says: EndpointSays) -> Response<Body> {
    const OURS: [&str; 8] =
        ["connection", "content-length", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
    let looks_like_json = matches!(says.body.trim_ascii_start().first(), Some(b'{' | b'['));
    let mut answer = Response::new(Body::from(says.body));
    *answer.status_mut() = StatusCode::from_u16(says.status).unwrap_or(StatusCode::OK);
    let media = if looks_like_json { "application/json" } else { "text/plain; charset=utf-8" };
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    for (name, value) in own_headers(source) {
        headers.insert(name, value);
    }
    for (name, value) in says.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value))
            && !OURS.contains(&name.as_str())
        {
            headers.insert(name, value);
        }
    }
    answer
}

/// As the first time, and said to be a duplicate.
pub(crate) fn duplicate(source: &Source) -> Response<Body> {
    let mut answer = accepted(source);
    answer.headers_mut().insert(DUPLICATE, HeaderValue::from_static("1"));
    answer
}
