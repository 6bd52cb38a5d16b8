//! Security event tokens by polling (RFC 8936), for receivers that speak it: the leases of a pipe under its names.
//!
//! A message is an event; its id is the `jti`. What was handed out and not acknowledged comes again when its lease ends, as RFC 8936 has it. A payload
//! that is a token already (`application/secevent+jwt`) goes as it came; of any other a token is made, signed with the endpoint's secret (HS256).

use super::lease::{self, AckIn, LIMIT_MAX, Leased, NackIn};
use super::log::in_time;
use super::pull::WAIT_MAX;
use super::shaped::Given;
use super::{TAG, consumer};
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::operation::{Access, Operation};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bellwire_model::{ContentType, Endpoint, MessageId, Timestamp};
use bellwire_signature::SecretKind;
use http::{Method, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const TYPE: &str = "secevent+jwt";
const LIMIT_DEFAULT: usize = 100;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/set",
            Access::Application,
            poll,
        )
        .described(
            "v1.pipe.secevent-poll",
            TAG,
            "Poll for security event tokens as RFC 8936 has it, and acknowledge those of before in the same request.",
        )
        .body_or_nothing::<PollIn>()
        .answers::<PollOut>(200),
    ]
}

/// RFC 8936, section 2.2.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SecurityEventPollIn")]
struct PollIn {
    /// At most so many; none, with 0, for a request that only acknowledges.
    max_events: Option<usize>,
    /// Do not wait for an event if there is none.
    #[serde(default)]
    return_immediately: bool,
    /// Ids (`jti`) of tokens that were taken well.
    #[serde(default)]
    ack: Vec<String>,
    /// Of tokens that were not, by their ids.
    #[serde(default)]
    set_errs: BTreeMap<String, SetError>,
}

/// RFC 8936, section 2.6.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SecurityEventErrorIn")]
struct SetError {
    #[serde(default)]
    err: String,
    #[serde(default)]
    description: String,
}

/// RFC 8936, section 2.3.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SecurityEventPollOut")]
struct PollOut {
    /// Tokens by their ids.
    sets: BTreeMap<String, String>,
    more_available: bool,
}

async fn poll(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let body = call.json_or_nothing().await?;
    let input: PollIn = body.parse()?;
    consumer::check_pipe(&endpoint)?;
    let limit = input.max_events.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    if input.ack.len() + input.set_errs.len() > LIMIT_MAX {
        return Err(Error::invalid(&["body", "ack"], "at most 1000 tokens are acknowledged or refused at a time"));
    }
    let (api, key) = (&call.api, endpoint.key);
    let receipts = |ids: &mut dyn Iterator<Item = &String>| -> Vec<String> {
        ids.filter_map(|id| lease::receipt_of(api, key, id.parse::<MessageId>().ok()?.sequence())).collect()
    };
    let taken = receipts(&mut input.ack.iter());
    if !taken.is_empty() {
        lease::acknowledge(api, key, AckIn { receipts: Some(taken), ..AckIn::default() }).await?;
    }
    for (id, SetError { err, description }) in &input.set_errs {
        let refused = receipts(&mut std::iter::once(id));
        if !refused.is_empty() {
            let reason: String = format!("{err}: {description}").chars().take(250).collect();
            let said = NackIn { receipts: Some(refused), dead: true, reason: Some(reason), ..NackIn::default() };
            lease::refuse(api, key, said).await?;
        }
    }
    let mut out = PollOut { sets: BTreeMap::new(), more_available: false };
    if limit > 0 {
        let wait = if input.return_immediately { Duration::ZERO } else { WAIT_MAX };
        let mut watch = api.backend().pipes().wakes.watch(key);
        let leased = lease::receive(api, key, &"".into(), limit, None, &mut watch, in_time(wait)).await?;
        out.more_available = leased.len() == limit;
        let now = api.backend().now();
        let issuer = call.own_url().unwrap_or_default();
        for Leased { given: Given { message, .. }, .. } in &leased {
            out.sets.insert(message.id.to_string(), token(&endpoint, message, &issuer, now)?);
        }
    }
    Ok(error::json(StatusCode::OK, &out))
}

/// The token of a message: its payload if that is one, or one with the payload as its event (RFC 8417).
fn token(
    endpoint: &Endpoint,
    message: &bellwire_model::Message,
    issuer: &str,
    now: Timestamp,
) -> Result<String, Error> {
    let payload = message.payload.as_deref().unwrap_or_default();
    if matches!(&message.content_type, ContentType::Other(media) if media.contains(TYPE)) {
        return Ok(String::from_utf8_lossy(payload).trim().to_owned());
    }
    let secret = endpoint.signing_secrets(now).find(|secret| secret.kind() == SecretKind::Symmetric);
    let text = secret.map(|secret| secret.reveal_text());
    let bytes = text.as_ref().and_then(|text| STANDARD.decode(text.strip_prefix("whsec_")?).ok());
    let Some(bytes) = bytes else {
        let detail = "Tokens are signed with HS256, and this endpoint's secret is for ed25519; rotate it to one of the kind whsec_.";
        return Err(Error::refused(StatusCode::CONFLICT, "secret_cannot_sign_tokens", detail));
    };
    let event: Value =
        serde_json::from_slice(payload).unwrap_or_else(|_| json!({ "rawPayload": String::from_utf8_lossy(payload) }));
    let claims = json!({
        "iss": issuer,
        "iat": message.sequence().time().as_seconds(),
        "jti": message.id.to_string(),
        "events": { format!("urn:bellwire:event-type:{}", message.event_type): event },
    });
    let header = Header { typ: Some(TYPE.to_owned()), ..Header::new(Algorithm::HS256) };
    jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&bytes))
        .map_err(|error| Error::Internal(error.to_string()))
}
