//! What a client is told when something does not work: Svix's two shapes of body, with stable codes.
//!
//! `{"code", "detail"}` for everything but validation; `{"detail": [{"loc", "msg", "type"}]}` with 422 for input that is
//! wrong in itself. Inner detail is logged here, once, and never shown: a 500 has the body `{}`.

use crate::backend::AcceptError;
use crate::document::JsonSchema;
use axum::response::{IntoResponse, Response};
use bellwire_store::ReadError;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use std::borrow::Cow;

/// Why a request was not done.
#[derive(Debug)]
pub(crate) enum Error {
    /// With a code.
    Refused { status: StatusCode, code: &'static str, detail: Cow<'static, str> },
    /// Come back later; `Retry-After` in seconds.
    Later { status: StatusCode, code: &'static str, detail: &'static str, after_seconds: u16 },
    /// 422.
    Invalid(Vec<Fault>),
    /// 500; the text is for the log.
    Internal(String),
}

/// What is wrong with one part of the input.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[schemars(rename = "ValidationErrorItem")]
pub(crate) struct Fault {
    /// Where: `body` or `query`, then the way down to the field.
    pub(crate) loc: Vec<String>,
    /// What is wrong and what would be right.
    pub(crate) msg: String,
    /// Which kind of fault.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
}

/// The body of all errors but 422.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HttpErrorOut")]
pub(crate) struct ErrorOut<'a> {
    /// Stable; the reference has a paragraph on each.
    pub(crate) code: &'a str,
    /// For people.
    pub(crate) detail: &'a str,
}

/// The body of a 422.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "HTTPValidationError")]
pub(crate) struct InvalidOut {
    /// Every fault that was found.
    pub(crate) detail: Vec<Fault>,
}

impl Error {
    pub(crate) fn refused(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Error::Refused { status, code, detail: detail.into() }
    }

    pub(crate) fn bad_request(code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(StatusCode::BAD_REQUEST, code, detail)
    }

    pub(crate) fn unauthorized(detail: &'static str) -> Self {
        Self::refused(StatusCode::UNAUTHORIZED, "authentication_failed", detail)
    }

    pub(crate) fn forbidden() -> Self {
        Self::refused(StatusCode::FORBIDDEN, "insufficient access", "Insufficient access for the given operation.")
    }

    /// For what is not there and for what belongs to somebody else, without a difference.
    pub(crate) fn not_found() -> Self {
        Self::refused(StatusCode::NOT_FOUND, "not_found", "Entity not found")
    }

    pub(crate) fn conflict(detail: &'static str) -> Self {
        Self::refused(StatusCode::CONFLICT, "conflict", detail)
    }

    pub(crate) fn key_reused() -> Self {
        Self::refused(
            StatusCode::CONFLICT,
            "idempotency_key_reused",
            "This idempotency key was used before with another body; use a new key for a new request.",
        )
    }

    pub(crate) fn too_large(what: &str, bytes_max: usize) -> Self {
        let detail = format!("The {what} is larger than {bytes_max} bytes, which is the most that is accepted.");
        Self::refused(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    }

    /// The token was used more often than it may be; `Retry-After` says in whole seconds when it may again.
    pub(crate) fn too_many_requests(wait: std::time::Duration) -> Self {
        let after_seconds = u16::try_from(wait.as_micros().div_ceil(1_000_000)).unwrap_or(u16::MAX).max(1);
        Error::Later {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "rate_limited",
            detail: "This token was used more often than the server allows. Try again later.",
            after_seconds,
        }
    }

    /// The status that it is answered with.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Error::Refused { status, .. } | Error::Later { status, .. } => *status,
            Error::Invalid(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// Its code and text, where they are told without a status. What went wrong on our side is logged here.
    pub(crate) fn told(self) -> (&'static str, Cow<'static, str>) {
        match self {
            Error::Refused { code, detail, .. } => (code, detail),
            Error::Later { code, detail, .. } => (code, detail.into()),
            Error::Invalid(faults) => {
                ("invalid", faults.into_iter().map(|fault| fault.msg).collect::<Vec<_>>().join("; ").into())
            }
            Error::Internal(detail) => {
                tracing::error!(error = %detail, "a request failed on our side");
                ("internal", "Something failed on the server's side.".into())
            }
        }
    }

    /// One fault, of the kind `value_error`.
    pub(crate) fn invalid(loc: &[&str], msg: impl Into<String>) -> Self {
        Error::Invalid(vec![Fault::new(loc, msg)])
    }
}

impl Fault {
    pub(crate) fn new(loc: &[&str], msg: impl Into<String>) -> Self {
        Self::of_kind("value_error", loc, msg)
    }

    pub(crate) fn of_kind(kind: &'static str, loc: &[&str], msg: impl Into<String>) -> Self {
        Fault { loc: loc.iter().map(|&part| part.to_owned()).collect(), msg: msg.into(), kind }
    }
}

impl From<AcceptError> for Error {
    fn from(error: AcceptError) -> Self {
        let later = |status, code, detail, after_seconds| Error::Later { status, code, detail, after_seconds };
        match error {
            AcceptError::KeyReused => Error::key_reused(),
            AcceptError::EventIdTaken => Error::conflict("A message with this eventId already exists"),
            AcceptError::Outlived => Error::conflict(
                "This Idempotency-Key made a message that is no longer kept; nothing was sent again. For a new message use a new key.",
            ),
            AcceptError::Busy => later(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "Too much waits to be stored; nothing was accepted. Try again.",
                1,
            ),
            AcceptError::Full => later(
                StatusCode::INSUFFICIENT_STORAGE,
                "storage_full",
                "The server's disk is full; nothing was accepted. Try again later.",
                3,
            ),
            AcceptError::Closed => later(
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting_down",
                "The server is shutting down; nothing was accepted. Try again.",
                5,
            ),
            AcceptError::Failed(detail) => Error::Internal(detail),
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Error::Internal(error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        match self {
            Error::Refused { status, code, detail } => {
                let mut answer = json(status, &ErrorOut { code, detail: &detail });
                if status == StatusCode::UNAUTHORIZED {
                    answer.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                }
                answer
            }
            Error::Later { status, code, detail, after_seconds } => {
                let mut answer = json(status, &ErrorOut { code, detail });
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(after_seconds));
                answer
            }
            Error::Invalid(detail) => json(StatusCode::UNPROCESSABLE_ENTITY, &InvalidOut { detail }),
            Error::Internal(detail) => {
                tracing::error!(error = %detail, "a request failed on our side");
                bytes(StatusCode::INTERNAL_SERVER_ERROR, b"{}".to_vec())
            }
        }
    }
}

/// 204.
pub(crate) fn no_content() -> Response {
    let mut answer = Response::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// An answer of JSON.
pub(crate) fn json<T: Serialize>(status: StatusCode, value: &T) -> Response {
    json_of_about(128, status, value)
}

/// The same; about as many bytes long, so that it is written without growing.
pub(crate) fn json_of_about<T: Serialize>(length: usize, status: StatusCode, value: &T) -> Response {
    let mut text = Vec::with_capacity(length);
    written(status, serde_json::to_writer(&mut text, value).map(|()| text))
}

fn written(status: StatusCode, text: serde_json::Result<Vec<u8>>) -> Response {
    match text {
        Ok(text) => bytes(status, text),
        Err(error) => Error::Internal(format!("an answer could not be written: {error}")).into_response(),
    }
}

/// An answer of JSON that is already written.
pub(crate) fn bytes(status: StatusCode, text: impl Into<axum::body::Body>) -> Response {
    let mut answer = Response::new(text.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
