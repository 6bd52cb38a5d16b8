//! The receiver's [`Backend`] on this program, and the routes at which others' webhooks come in: `/in/{token}`, and sources' own paths.

use crate::clock::wall;
use crate::doors::Doors;
use crate::sources::unsubscribe;
use crate::sources::websub::{self, Position};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Request};
use axum::response::Response;
use axum::routing::any;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bellwire_api::backend::{AcceptError, Accepted as FromDoors, Backend as _, EndpointAnswer};
use bellwire_egress::{Client, Target};
use bellwire_engine::{Catalogue, Draft};
use bellwire_model::{
    Endpoint, KeptRequest, RequestId, SecretText, Source, SourceCursor, SourceKey, SourceSecret, SubscriptionKey,
    Timestamp,
};
use bellwire_receiver::{Accepted, Answer, Backend, EndpointSays, Outcome, Receiver, Unaccepted};
use bellwire_store::Change;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use parking_lot::RwLock;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tower::ServiceExt;
use zeroize::Zeroizing;

/// Before the token of a source that has no path of its own.
const BY_TOKEN: &str = "/in/";
/// For a key, or a subscription that is confirmed, from the first DNS query to the last byte.
const FETCH_DEADLINE: Duration = Duration::from_secs(10);

/// What receives on one shard.
pub(crate) struct Receiving {
    pub(crate) doors: Arc<Doors>,
    /// Shared by all shards.
    pub(crate) receiver: Arc<Receiver>,
    /// The shard's own, once its thread runs.
    pub(crate) client: Arc<OnceLock<Client>>,
}

/// The routes beside `router`, which has no CORS for them: no page has business there.
pub(crate) fn routes(router: Router, receiving: Arc<Receiving>) -> Router {
    let by_token = Arc::clone(&receiving);
    let others = router.clone();
    let at_path = move |request: Request| {
        let (receiving, others) = (Arc::clone(&receiving), others.clone());
        async move {
            let source = receiving.at_path(request.uri().path());
            match source {
                Some(source) => receiving.receiver.receive_at(&*receiving, source, request).await,
                None => {
                    if let Some(answer) = receiving.receiver.receive_at_vacant(&*receiving, &request).await {
                        return answer;
                    }
                    match others.oneshot(request).await {
                        Ok(answer) => answer,
                        Err(never) => match never {},
                    }
                }
            }
        }
    };
    let at_token = move |Path(token): Path<String>, request: Request| {
        let receiving = Arc::clone(&by_token);
        async move { receiving.receive(&token, request).await }
    };
    router.route(&format!("{BY_TOKEN}{{token}}"), any(at_token)).fallback(at_path)
}

/// The token of a source in a path, if it stands there as it is. In another spelling it is found by [`routes`].
pub(crate) fn token(path: &str) -> Option<&str> {
    path.strip_prefix(BY_TOKEN).filter(|rest| !rest.is_empty() && !rest.contains(['/', '%']))
}

impl Receiving {
    /// A request at the source that has this token, or had it.
    pub(crate) async fn receive(&self, token: &str, request: Request) -> Response {
        self.receiver.receive_by_token(self, token, request).await
    }

    fn at_path(&self, path: &str) -> Option<Arc<Source>> {
        let catalogue = self.doors.core.catalogue.read();
        catalogue.sources().by_path(path).cloned()
    }

    async fn fetch(&self, url: String, post: Option<Zeroizing<String>>, bytes_max: usize) -> Result<Bytes, String> {
        let client = self.client.get().ok_or("the server is starting")?;
        if !url.starts_with("https://") {
            return Err("only https is fetched".to_owned());
        }
        let target = Target::parse(&url).map_err(|error| error.to_string())?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let (method, body) = match post {
            None => (Method::GET, Bytes::new()),
            Some(text) => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (Method::POST, Bytes::copy_from_slice(text.as_bytes()))
            }
        };
        let request = bellwire_egress::Request {
            method,
            target,
            headers,
            body,
            deadline: FETCH_DEADLINE,
            response_body_max: bytes_max,
        };
        let response = client.exchange(request).await.map_err(|error| error.to_string())?;
        if !(200..300).contains(&response.status) {
            return Err(format!("it was answered with {}", response.status));
        }
        if response.truncated || response.body_error.is_some() {
            return Err(format!("the answer is cut short, or longer than {bytes_max} bytes"));
        }
        Ok(response.body)
    }

    async fn fetch_certificate(&self, url: String, bytes_max: usize) -> Result<Bytes, String> {
        let text = self.fetch(url, None, bytes_max).await?;
        let client = self.client.get().ok_or("the server is starting")?;
        let checked = client.check_chain(&text, wall().as_seconds(), FETCH_DEADLINE).await;
        let certificate = checked.map_err(|error| error.to_string())?;
        // What was judged and nothing else, so that no two readers of the text can take different certificates out of it.
        let base64 = BASE64_STANDARD.encode(&*certificate);
        let lines: Vec<_> = base64.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
        Ok(format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n")).into())
    }
}

/// An edit: it runs to its end even if the sender hangs up.
async fn store_secret(doors: Arc<Doors>, key: SourceKey, secret: Zeroizing<String>) -> Result<(), Unaccepted> {
    let edit = async move {
        let core = &doors.core;
        let _one_at_a_time = core.configuration.lock().await;
        let found = core.catalogue.read().sources().get(key).cloned();
        let gone = || Unaccepted::Failed("the source has gone".to_owned());
        let mut source = Source::clone(&*found.ok_or_else(gone)?);
        let now = core.clock.engine();
        if source.secrets_at(now).next().is_some() {
            return Err(Unaccepted::Later { seconds: 1, reason: "the source has got a secret meanwhile" });
        }
        source.secrets = vec![SourceSecret { text: SecretText::new(secret.as_str()), expires_at: None }];
        source.updated_at = now;
        let change = vec![Change::PutSource(Arc::new(source))];
        doors.change(change).await.map_err(unaccepted)
    };
    tokio::spawn(edit).await.unwrap_or_else(|error| Err(Unaccepted::Failed(format!("an edit ended: {error}"))))
}

/// Moves a source's position by what its hub has said; `None`: that means nothing. `false` if the source is gone, or wants another subscription than
/// when the hub was heard. It is kept even if the sender hangs up.
async fn said(
    doors: Arc<Doors>,
    heard: &Source,
    moved: impl FnOnce(Position, Timestamp) -> Option<Position> + Send + 'static,
) -> Result<bool, Unaccepted> {
    let (key, heard) = (heard.key, websub::wanted(heard));
    let work = async move {
        // So nobody ends the subscription between what is read here and what is kept of it.
        let _one_at_a_time = doors.core.configuration.lock().await;
        let wanted = doors.core.catalogue.read().sources().get(key).map(|source| websub::wanted(source));
        if wanted != Some(heard) {
            return Ok(false);
        }
        let store = Arc::clone(&doors.core.store);
        let read = tokio::task::spawn_blocking(move || store.source_cursor(key)).await;
        let failed = |error: String| Unaccepted::Failed(format!("the store cannot be read: {error}"));
        let kept = read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
        let position = kept.and_then(|kept| serde_json::from_str::<Position>(&kept.position).ok());
        let Some(position) = position.and_then(|position| moved(position, wall())) else { return Ok(true) };
        let position = serde_json::to_string(&position).map_err(|error| failed(error.to_string()))?.into();
        let moved_at = doors.core.clock.engine();
        let change = vec![Change::PutSourceCursor(SourceCursor { source: key, position, moved_at })];
        doors.change(change).await.map_err(unaccepted)?;
        Ok(true)
    };
    tokio::spawn(work).await.unwrap_or_else(|error| Err(Unaccepted::Failed(format!("an edit ended: {error}"))))
}

fn unaccepted(error: AcceptError) -> Unaccepted {
    let later = |seconds, reason| Unaccepted::Later { seconds, reason };
    match error {
        AcceptError::Busy => later(1, "too many messages wait to be stored"),
        AcceptError::Full => later(3, "the disk is full"),
        AcceptError::Closed => later(5, "the server is shutting down"),
        AcceptError::Failed(detail) => Unaccepted::Failed(detail),
        AcceptError::KeyReused | AcceptError::EventIdTaken | AcceptError::Outlived => {
            Unaccepted::Failed(error.to_string())
        }
    }
}

impl Backend for Receiving {
    fn now(&self) -> Timestamp {
        self.doors.core.clock.engine()
    }

    fn wall(&self) -> Timestamp {
        wall()
    }

    fn catalogue(&self) -> &RwLock<Catalogue> {
        &self.doors.core.catalogue
    }

    fn crowded(&self) -> Option<Unaccepted> {
        // What was read already has the rest.
        self.doors.core.crowded().map(|reason| Unaccepted::Later { seconds: 1, reason })
    }

    fn accept(&self, draft: Draft) -> Answer<'_, Result<Accepted, Unaccepted>> {
        Box::pin(async move {
            match self.doors.accept(draft).await {
                Ok(FromDoors::New(message)) => Ok(Accepted::New(message)),
                Ok(FromDoors::Same(message)) => Ok(Accepted::Same(Some(message))),
                Err(AcceptError::Outlived) => Ok(Accepted::Same(None)),
                Err(error) => Err(unaccepted(error)),
            }
        })
    }

    fn accept_and_wait(
        &self,
        draft: Draft,
        wait: Duration,
    ) -> Answer<'_, Result<(Accepted, Option<EndpointSays>), Unaccepted>> {
        Box::pin(async move {
            let mut owed = draft.fan_out.clone();
            let (message, mut listening) = match self.doors.accept_and_listen(draft).await {
                Ok((FromDoors::New(message), listening)) => (message, listening),
                Ok((FromDoors::Same(message), _)) => return Ok((Accepted::Same(Some(message)), None)),
                Err(AcceptError::Outlived) => return Ok((Accepted::Same(None), None)),
                Err(error) => return Err(unaccepted(error)),
            };
            let heard = async {
                while !owed.is_empty() {
                    let answer = listening.next().await?;
                    if let EndpointAnswer { responds: true, status: Some(status), headers, body, .. } = answer {
                        return Some(EndpointSays { status, headers, body });
                    }
                    // One that has answered otherwise may yet be tried again; the sender has no time for that.
                    owed.retain(|endpoint| *endpoint != answer.endpoint);
                }
                None
            };
            let says = tokio::time::timeout(wait, heard).await.ok().flatten();
            Ok((Accepted::New(message), says))
        })
    }

    fn traces(&self) -> bool {
        self.doors.core.tracer.is_some()
    }

    fn request_id(&self) -> RequestId {
        let mut tail = [0; 12];
        self.doors.random(&mut tail);
        RequestId::from_parts(self.doors.sequence(), tail)
    }

    fn keep(&self, request: KeptRequest) {
        let core = &self.doors.core;
        // Whoever keeps nobody waiting may be the first to go.
        if core.crowded().is_none() && core.intake.lock().change(vec![Change::KeepRequest(Arc::new(request))]).is_ok() {
            core.bell.ring();
        }
    }

    fn fetch(
        &self,
        url: String,
        post: Option<Zeroizing<String>>,
        bytes_max: usize,
    ) -> Answer<'_, Result<Bytes, String>> {
        Box::pin(Receiving::fetch(self, url, post, bytes_max))
    }

    fn fetch_certificate(&self, url: String, bytes_max: usize) -> Answer<'_, Result<Bytes, String>> {
        Box::pin(Receiving::fetch_certificate(self, url, bytes_max))
    }

    fn agreed<'a>(&'a self, source: &'a Source, lease: Duration) -> Answer<'a, Result<bool, Unaccepted>> {
        Box::pin(said(Arc::clone(&self.doors), source, move |position, now| position.agreed(lease, now)))
    }

    fn denied<'a>(&'a self, source: &'a Source, reason: String) -> Answer<'a, Result<(), Unaccepted>> {
        Box::pin(async move {
            // What nobody wants any more may well be denied.
            let denied = move |position: Position, now| position.denied(&reason, now);
            said(Arc::clone(&self.doors), source, denied).await.map(drop)
        })
    }

    fn unsubscribed(&self, ended: SubscriptionKey) -> Answer<'_, Result<bool, Unaccepted>> {
        let doors = Arc::clone(&self.doors);
        Box::pin(async move { unsubscribe::confirmed(doors, ended).await.map_err(unaccepted) })
    }

    fn store_secret(&self, source: SourceKey, secret: Zeroizing<String>) -> Answer<'_, Result<(), Unaccepted>> {
        Box::pin(store_secret(Arc::clone(&self.doors), source, secret))
    }

    fn filter_failed(&self, endpoint: &Endpoint, why: &str) {
        self.doors.filter_failed(endpoint, why);
    }

    fn count(&self, outcome: Outcome) {
        self.doors.core.metrics.received(outcome);
    }
}

/// What the API asks about a source that is set up.
pub(crate) fn check(
    source: &Source,
    now: Timestamp,
    payload_bytes_max: usize,
) -> Result<(), Vec<bellwire_receiver::Fault>> {
    let mut faults = bellwire_receiver::check(source, now).err().unwrap_or_default();
    if source.body_bytes_max as usize > payload_bytes_max {
        let text = format!("this server takes payloads of at most {payload_bytes_max} bytes (`server.payload_max`)");
        faults.push(bellwire_receiver::Fault { path: vec!["bodyBytesMax".to_owned()], text });
    }
    faults.extend(websub::check(source, now).into_iter().map(|(path, text)| {
        let path = path.into_iter().map(str::to_owned).collect();
        bellwire_receiver::Fault { path, text }
    }));
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_from_a_path_only_if_it_stands_there_as_it_is() {
        for (path, expected) in [
            ("/in/aZ0_-", Some("aZ0_-")),
            ("/in/", None),
            ("/in", None),
            ("/in/a/", None),
            ("/in/a/b", None),
            ("/in/%61Z0", None),
            ("/IN/a", None),
            ("/into", None),
        ] {
            assert_eq!(token(path), expected, "{path}");
        }
    }
}
