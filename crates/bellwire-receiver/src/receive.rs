//! One request on its way from the socket to a message.

use crate::incoming::{Incoming, hops};
use crate::keys::FetchedKeys;
use crate::limit::Limits;
use crate::respond::{self, Refusal, Responded};
use crate::verify::Prepared;
use crate::{Accepted, Backend, Outcome, Unaccepted, address, ended, handshake};
use axum::body::{Body, Bytes};
use bellwire_engine::Draft;
use bellwire_model::{Conflict, HOPS_MAX, KeptRequest, Message, Received, RequestOutcome, Source, Timestamp};
use bellwire_signature::source::{Proof, ReceivedRequest, Refusal as Unproven};
use http::request::Parts;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What is remembered of sources is looked through once in so many requests.
const FORGET_EVERY: u64 = 65_536;

/// Where a request came from; an extension of the request, put there by whoever accepts connections.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// Receives for all sources. Shared by all threads.
#[derive(Default)]
pub struct Receiver {
    prepared: Prepared,
    limits: Limits,
    keys: FetchedKeys,
    requests: AtomicU64,
}

/// What a request comes to, if it is not refused.
enum Taken {
    /// A message, once it is durable.
    Draft(Draft, Arc<Received>),
    /// An answer, and no message.
    Answered(Responded),
}

impl Receiver {
    /// Takes a request at `/in/{token}`.
    pub async fn receive_by_token(&self, backend: &dyn Backend, token: &str, request: Request<Body>) -> Response<Body> {
        let (source, is_ended) = {
            let catalogue = backend.catalogue().read();
            (catalogue.sources().by_token(token).cloned(), !catalogue.ended_subscriptions().is_empty())
        };
        if is_ended && let Some(answer) = of_ended(backend, &format!("/in/{token}"), &request, source.is_none()).await {
            return answer;
        }
        self.receive(backend, source, request, false).await
    }

    /// Takes a request at a path at which no source stands: the answer, if one stood there once and what comes is about its subscription.
    pub fn receive_at_vacant<'a>(
        &self,
        backend: &'a dyn Backend,
        request: &Request<Body>,
    ) -> impl Future<Output = Option<Response<Body>>> + Send + use<'a> {
        of_ended(backend, request.uri().path(), request, true)
    }

    /// Takes a request at a source's own path.
    pub async fn receive_at(
        &self,
        backend: &dyn Backend,
        source: Arc<Source>,
        request: Request<Body>,
    ) -> Response<Body> {
        if let Some(answer) = of_ended(backend, request.uri().path(), &request, false).await {
            return answer;
        }
        self.receive(backend, Some(source), request, true).await
    }

    async fn receive(
        &self,
        backend: &dyn Backend,
        source: Option<Arc<Source>>,
        request: Request<Body>,
        own_path: bool,
    ) -> Response<Body> {
        if self.requests.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.forget(backend);
        }
        // One that is disabled is not to be told from one that never was.
        let Some(source) = source.filter(|source| !source.disabled && source.way.is_http()) else { return not_found() };
        let application = backend.catalogue().read().application(source.application).cloned();
        let Some(application) = application else { return not_found() };
        let now = backend.now();
        let (parts, body) = request.into_parts();
        let ready = match self.prepared.get(&source, now) {
            Ok(ready) => ready,
            Err(faults) => {
                let fault = faults.first().map_or("", |fault| fault.text.as_str());
                tracing::error!(source.id = %source.id, fault, "a source cannot verify its requests");
                return Refusal::later(60, "the source's own settings cannot be used").respond().answer;
            }
        };
        let peer = parts.extensions.get::<Peer>().map(|peer| peer.0);
        let remote = peer.map(|peer| address::client(peer, &parts.headers, &source.networks));
        let hops = hops(&parts);
        let incoming = Incoming { source: &source, application, parts: &parts, ready, own_path, remote, hops, now };
        let end = |ended, request: &dyn Fn() -> (Arc<Received>, Bytes)| {
            self.end(backend, &source, now, remote, ended, request)
        };
        let mut read = Bytes::new();
        let (draft, received) = match self.take(backend, &incoming, body, &mut read).await {
            Ok(Taken::Draft(draft, received)) => (draft, received),
            Ok(Taken::Answered(responded)) => {
                return end(Ok(responded), &|| (Arc::new(incoming.received()), read.clone()));
            }
            Err(refusal) => return end(Err(refusal), &|| (Arc::new(incoming.received()), read.clone())),
        };
        let payload = draft.payload.clone();
        // All that points into what the connection has read is let go of. So the connection reads on into the same memory, while most
        // requests wait for their commit.
        drop(incoming);
        drop((parts, read));
        let ended = accept(backend, &source, draft, &payload).await;
        end(ended, &|| (Arc::clone(&received), payload.clone()))
    }

    /// The end of every request: it is counted, noted and, if it made no message, kept.
    fn end(
        &self,
        backend: &dyn Backend,
        source: &Source,
        now: Timestamp,
        remote: Option<IpAddr>,
        ended: Result<Responded, Refusal>,
        request: &dyn Fn() -> (Arc<Received>, Bytes),
    ) -> Response<Body> {
        let (responded, reason) = match ended {
            Ok(responded) => (responded, None),
            Err(refusal) => {
                let reason = refusal.reason.clone();
                (refusal.respond(), Some(reason))
            }
        };
        backend.count(responded.outcome);
        let status = responded.answer.status();
        // Nobody fills our log, or our disk, with what we refuse.
        let noted = responded.kept.is_some() && self.limits.may_keep(source.key, now);
        if let Some(reason) = reason {
            let (status, remote) = (status.as_u16(), remote.map(tracing::field::display));
            match noted {
                true => tracing::info!(source.id = %source.id, status, reason, remote, "a request was refused"),
                false => tracing::debug!(source.id = %source.id, status, reason, remote, "a request was refused"),
            }
        }
        if let Some(outcome) = responded.kept.filter(|_| noted) {
            let (received, body) = request();
            // Of a duplicate, the message has the body.
            let body = match outcome {
                RequestOutcome::Duplicate { conflict: false, .. } => &[],
                _ => &body[..body.len().min(KeptRequest::BODY_MAX)],
            };
            backend.keep(KeptRequest {
                id: backend.request_id(),
                source: source.key,
                outcome,
                status: status.as_u16(),
                received,
                body: Bytes::copy_from_slice(body),
            });
        }
        responded.answer
    }

    /// The flow up to what is to become a message, or to an answer. What was read of the body is left in `read`.
    async fn take(
        &self,
        backend: &dyn Backend,
        incoming: &Incoming<'_>,
        body: Body,
        read: &mut Bytes,
    ) -> Result<Taken, Refusal> {
        let (source, parts) = (incoming.source, incoming.parts);
        let taken = source.methods.iter().any(|method| parts.method.as_str() == method);
        // A question may come by a method of its own.
        if !taken && !incoming.ready.asks {
            return Err(incoming.method_refused());
        }
        if let Some(remote) = incoming.remote.filter(|remote| !source.networks.allow(*remote)) {
            let reason = format!("{remote} is in none of the source's networks");
            return Err(Refusal::new(StatusCode::FORBIDDEN, Outcome::Forbidden, reason));
        }
        if incoming.hops >= HOPS_MAX {
            let reason = format!("the message has been passed on {HOPS_MAX} times; it seems to go in circles");
            return Err(Refusal::new(StatusCode::LOOP_DETECTED, Outcome::Invalid, reason));
        }
        if let Some(rate) = source.rate
            && let Err(wait) = self.limits.pass(source.key, rate, incoming.now)
        {
            let seconds = u16::try_from(wait.as_micros().div_ceil(1_000_000)).unwrap_or(u16::MAX).max(1);
            let reason = format!("more than {rate} requests in a second");
            let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, Outcome::Throttled, reason);
            return Err(Refusal { after_seconds: Some(seconds), ..refusal });
        }
        if let Some(unaccepted) = backend.crowded() {
            return Err(unavailable(unaccepted));
        }
        *read = read_body(parts, body, source.body_bytes_max as usize).await?;

        let (scheme, host) = incoming.origin();
        let headers: Vec<(&str, &[u8])> =
            parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        let request = ReceivedRequest {
            method: parts.method.as_str(),
            scheme,
            host,
            path_and_query: parts.uri.path_and_query().map_or("/", |text| text.as_str()),
            headers: &headers,
            body: read,
            body_type: source.content_type.as_deref(),
        };
        if let Some(reply) = incoming.ready.verifier.handshake(&request, false) {
            return handshake::answer(backend, source, reply).await.map(Taken::Answered);
        }
        if !taken {
            return Err(incoming.method_refused());
        }
        let challenge = incoming.ready.verifier.challenge();
        let proof =
            self.prove(backend, incoming, &request).await.map_err(|refusal| Refusal { challenge, ..refusal })?;
        if let Some(reply) = incoming.ready.verifier.handshake(&request, true) {
            return handshake::answer(backend, source, reply).await.map(Taken::Answered);
        }
        let (draft, received) = incoming.draft(backend, &proof, read);
        Ok(Taken::Draft(draft, received))
    }

    async fn prove(
        &self,
        backend: &dyn Backend,
        incoming: &Incoming<'_>,
        request: &ReceivedRequest<'_>,
    ) -> Result<Proof, Refusal> {
        let verifier = &incoming.ready.verifier;
        let wall = backend.wall().as_seconds();
        let keys = self.keys.at(incoming.now);
        let proven = verifier.verify_from(request, incoming.remote, wall, &keys);
        let used = keys.used();
        match proven {
            Err(Unproven::Unsatisfied) => Err(Refusal::unsatisfied(verifier.unsatisfied_status())),
            Err(refusal @ Unproven::NotJson) => Err(Refusal::not_json(refusal.to_string())),
            Err(Unproven::NeedsKey(key)) => {
                let url = key.url.clone();
                let fetched = self.keys.fetch(backend, incoming.source.key, key).await;
                fetched.map_err(|error| Refusal::later(5, format!("the key at {url} is not there: {error}")))?;
                let again = verifier.verify(request, wall, &self.keys.at(backend.now()));
                again.map_err(|refusal| Refusal::unverified(refusal.to_string()))
            }
            Err(refusal @ (Unproven::Mismatch | Unproven::Key { .. })) => {
                let unverified = |refusal: Unproven| Refusal::unverified(refusal.to_string());
                match used {
                    Some(key) if self.keys.look_again(backend, incoming.source.key, &key).await => {
                        verifier.verify(request, wall, &self.keys.at(backend.now())).map_err(unverified)
                    }
                    _ => Err(unverified(refusal)),
                }
            }
            proven => proven.map_err(|refusal| Refusal::unverified(refusal.to_string())),
        }
    }

    /// What is remembered of sources that are gone.
    fn forget(&self, backend: &dyn Backend) {
        let catalogue = backend.catalogue().read();
        let exists = |key| catalogue.sources().get(key).is_some();
        self.limits.forget(exists);
        self.keys.forget(exists);
        self.prepared.forget(exists);
    }
}

/// See [`ended::answer`]. Of the request, nothing is held while it is answered.
fn of_ended<'a>(
    backend: &'a dyn Backend,
    path: &str,
    request: &Request<Body>,
    vacant: bool,
) -> impl Future<Output = Option<Response<Body>>> + Send + use<'a> {
    let ended = ended::at(backend, path);
    // Hardly ever is there one.
    let asked = (!ended.is_empty()).then(|| (request.method().clone(), request.uri().clone()));
    async move { ended::answer(backend, ended, asked?, vacant).await }
}

/// Hands in what is proven, and answers when it is durable.
async fn accept(backend: &dyn Backend, source: &Source, draft: Draft, payload: &Bytes) -> Result<Responded, Refusal> {
    let (accepted, says) = match source.answer.wait {
        None => (backend.accept(draft).await.map_err(unavailable)?, None),
        Some(wait) => backend.accept_and_wait(draft, wait).await.map_err(unavailable)?,
    };
    match accepted {
        Accepted::New(message) => {
            tracing::debug!(source.id = %source.id, message.id = %message.id, "a request became a message");
            let answer = says.map_or_else(|| respond::accepted(source), |says| respond::passed_on(source, says));
            Ok(Responded { answer, outcome: Outcome::Accepted, kept: None })
        }
        Accepted::Same(message) => again(source, message.as_deref(), payload),
    }
}

/// A request that came before.
fn again(source: &Source, message: Option<&Message>, body: &Bytes) -> Result<Responded, Refusal> {
    let first = message.and_then(|message| message.payload.as_ref());
    let conflict = first.is_some_and(|first| first != body);
    if conflict && source.dedupe.conflict == Conflict::Refuse {
        let reason = "the same key came before with another body";
        return Err(Refusal::new(StatusCode::CONFLICT, Outcome::Conflict, reason));
    }
    let outcome = if conflict { Outcome::Conflict } else { Outcome::Duplicate };
    let kept = RequestOutcome::Duplicate { message: message.map(|message| message.id), conflict };
    Ok(Responded { answer: respond::duplicate(source), outcome, kept: Some(kept) })
}

fn not_found() -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NOT_FOUND;
    answer
}

fn unavailable(unaccepted: Unaccepted) -> Refusal {
    match unaccepted {
        Unaccepted::Later { seconds, reason } => Refusal::later(seconds, reason),
        Unaccepted::Failed(detail) => {
            tracing::error!(error = %detail, "a received request failed on our side");
            Refusal::failed(detail)
        }
    }
}

/// The body, if it is not too large.
async fn read_body(parts: &Parts, body: Body, bytes_max: usize) -> Result<Bytes, Refusal> {
    let too_large = || {
        let reason = format!("the body is larger than {bytes_max} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Outcome::TooLarge, reason)
    };
    let declared = parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > bytes_max as u64) {
        return Err(too_large());
    }
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
        Err(error) => {
            let reason = format!("the body ended early: {error}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, Outcome::Invalid, reason))
        }
    }
}

#[cfg(test)]
mod refusals;
