//! Others' webhooks at the ceiling: the same requests, verified and told from repeats, and nothing kept but their keys, in memory.

use super::BODY_BYTES_MAX;
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bellwire_signature::source::{NoKeys, ReceivedRequest, Supplied, Verifier, preset};
use hyper::StatusCode;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The sources, by what their URLs end with; shared by all runtimes.
#[derive(Default)]
pub(super) struct Sources {
    verifiers: RwLock<HashMap<String, Arc<Verifier>>>,
    keys: Mutex<HashSet<Box<str>>>,
    accepted: AtomicU64,
}

#[derive(Deserialize)]
pub(super) struct SourceIn {
    name: String,
    preset: String,
    secrets: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceOut {
    listener_url: String,
}

#[derive(Serialize)]
struct Accepted {
    id: String,
}

pub(super) async fn create_source(State(sources): State<Arc<Sources>>, Json(input): Json<SourceIn>) -> Response {
    let Some(verifier) = verifier(&input) else { return StatusCode::UNPROCESSABLE_ENTITY.into_response() };
    let listener_url = format!("http://ceiling.invalid/in/{}", input.name);
    sources.verifiers.write().insert(input.name, Arc::new(verifier));
    (StatusCode::CREATED, Json(SourceOut { listener_url })).into_response()
}

fn verifier(input: &SourceIn) -> Option<Verifier> {
    let preset = preset(&input.preset)?;
    let secrets = input.secrets.iter().cloned().map(Into::into).collect();
    Verifier::new(&preset.recipe, &Supplied { secrets, ..Supplied::default() }).ok()
}

/// Whether the request is proved, and the first of its key.
pub(super) async fn receive(
    State(sources): State<Arc<Sources>>,
    Path(token): Path<String>,
    request: Request,
) -> Result<Response, StatusCode> {
    let verifier = sources.verifiers.read().get(&token).cloned().ok_or(StatusCode::NOT_FOUND)?;
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let headers: Vec<_> = head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = ReceivedRequest {
        method: head.method.as_str(),
        scheme: "http",
        host: "",
        path_and_query: head.uri.path(),
        headers: &headers,
        body: &body,
        body_type: None,
    };
    let now = jiff::Timestamp::now().as_second();
    let proof = verifier.verify(&request, now, &NoKeys).map_err(|_| StatusCode::UNAUTHORIZED)?;
    let is_new = proof.dedupe_key.is_none_or(|key| sources.keys.lock().insert(key.text().into()));
    let number = match is_new {
        true => sources.accepted.fetch_add(1, Relaxed),
        false => sources.accepted.load(Relaxed),
    };
    Ok((StatusCode::ACCEPTED, Json(Accepted { id: format!("msg_{number:027}") })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    use sha2::Sha256;

    const SECRET: &str = "It's a Secret to Everybody";

    fn signed(secret: &str, delivery: &str) -> Request {
        let body = "{}";
        let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key").chain_update(body).finalize();
        let hex: String = mac.into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        Request::post("/in/t")
            .header("content-type", "application/json")
            .header("x-github-event", "push")
            .header("x-github-delivery", delivery)
            .header("x-hub-signature-256", format!("sha256={hex}"))
            .body(Body::from(body))
            .expect("a request")
    }

    #[tokio::test]
    async fn a_webhook_is_verified_and_counted_once() {
        let sources = Arc::new(Sources::default());
        let source = |preset: &str| SourceIn {
            name: "t".to_owned(),
            preset: preset.to_owned(),
            secrets: vec![SECRET.to_owned()],
        };
        let created = async |preset| create_source(State(Arc::clone(&sources)), Json(source(preset))).await.status();
        assert_eq!(created("nobody").await, StatusCode::UNPROCESSABLE_ENTITY);
        assert_eq!(created("github").await, StatusCode::CREATED);
        let receive = async |token: &str, request| {
            receive(State(Arc::clone(&sources)), Path(token.to_owned()), request)
                .await
                .map_or_else(|status| status, |response| response.status())
        };
        assert_eq!(receive("other", signed(SECRET, "1")).await, StatusCode::NOT_FOUND);
        assert_eq!(receive("t", signed("another secret of theirs", "1")).await, StatusCode::UNAUTHORIZED);
        assert_eq!(sources.accepted.load(Relaxed), 0);
        for delivery in ["1", "2", "1"] {
            assert_eq!(receive("t", signed(SECRET, delivery)).await, StatusCode::ACCEPTED);
        }
        assert_eq!(sources.accepted.load(Relaxed), 2);
    }
}
