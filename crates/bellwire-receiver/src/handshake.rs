//! Answers to the questions that senders ask before, or between, their webhooks.
//!
//! What the answer is, `signature` knows; what must be done before it is given, is done here: a subscription that is confirmed by a
//! fetch, a secret that the sender brings.

use crate::respond::{Refusal, Responded};
use crate::{Backend, Outcome, Unaccepted};
use axum::body::Body;
use bellwire_model::{RequestOutcome, Source};
use bellwire_signature::source::{Reply, Then};
use http::{HeaderName, HeaderValue, Response, StatusCode};
use std::time::Duration;

/// A subscription's confirmation is not read further.
const CONFIRMATION_BYTES_MAX: usize = 64 * 1024;

pub(crate) fn refusal(error: Unaccepted) -> Refusal {
    match error {
        Unaccepted::Later { seconds, reason } => Refusal::later(seconds, reason.to_owned()),
        Unaccepted::Failed(detail) => Refusal::failed(detail),
    }
}

/// Does what the answer depends on, and gives it.
pub(crate) async fn answer(backend: &dyn Backend, source: &Source, reply: Reply) -> Result<Responded, Refusal> {
    match &reply.then {
        None => {}
        Some(Then::Fetch(url)) => {
            let fetched = backend.fetch(url.clone(), None, CONFIRMATION_BYTES_MAX).await;
            fetched.map_err(|error| Refusal::later(10, format!("the subscription could not be confirmed: {error}")))?;
        }
        Some(Then::StoreSecret(secret)) => {
            backend.store_secret(source.key, secret.clone()).await.map_err(refusal)?;
            tracing::info!(source.id = %source.id, "the sender has brought the source's secret");
        }
        Some(Then::Lease(seconds)) => {
            let is_wanted = backend.agreed(source, Duration::from_secs(*seconds)).await.map_err(refusal)?;
            if !is_wanted {
                let reason = "the subscription was wanted no more when the hub asked";
                return Err(Refusal::new(StatusCode::NOT_FOUND, Outcome::Unverified, reason));
            }
        }
        Some(Then::Denied(reason)) => backend.denied(source, reason.clone()).await.map_err(refusal)?,
    }
    let answer = respond(reply);
    let outcome = if answer.status().is_success() { Outcome::Handshake } else { Outcome::Unverified };
    let kept = match outcome {
        Outcome::Handshake => RequestOutcome::Handshake,
        _ => RequestOutcome::Refused { reason: "the sender's question does not fit the source's settings".to_owned() },
    };
    Ok(Responded { answer, outcome, kept: Some(kept) })
}

/// The answer as it goes out.
pub(crate) fn respond(reply: Reply) -> Response<Body> {
    let mut answer = Response::new(Body::from(reply.body));
    *answer.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    for (name, value) in reply.headers {
        // Names are ours; values of the caller's were checked to be text without control characters.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value)) {
            answer.headers_mut().append(name, value);
        }
    }
    answer
}
