//! Security event tokens by polling (RFC 8936), for receivers that speak it: the leases of a pipe under its names.
//!
//! A message is an event; its id is the `jti`. What was handed out and not acknowledged comes again when its lease ends, as RFC 8936 has it. A payload
//! that is a token already (`application/secevent+jwt`) goes as it came, under its own `jti`; of any other a token is made, signed with the endpoint's
//! secret (HS256).
//!
//! An acknowledgement names a token, not a lease. So it counts whenever it comes: after the lease has ended, and after a restart too.

use super::hands::Hands;
use super::lease::{self, LIMIT_MAX, Leased};
use super::log::in_time;
use super::pull::WAIT_MAX;
use super::shaped::Given;
use super::{Desk, TAG, consumer};
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::operation::{Access, Operation};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bellwire_engine::Use;
use bellwire_model::{AfterAttempt, ContentType, EndReason, Endpoint, Message, MessageId, Sequence, Timestamp};
use bellwire_signature::SecretKind;
use bellwire_store::told;
use http::{Method, StatusCode};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::Duration;

const TYPE: &str = "secevent+jwt";
const LIMIT_DEFAULT: usize = 100;
/// So many tokens of other makers are remembered, by their ids; who acknowledges an older one gets it once more.
const ISSUED_KEPT: usize = 4_096;
/// The id of a token is at most so long; one with a longer id goes under its message's.
const ID_MAX: usize = 512;

/// Of which messages the tokens are that go under ids of their own makers, of one endpoint.
#[derive(Debug, Default)]
pub(super) struct Issued {
    messages: HashMap<String, Vec<Sequence>>,
    in_order: VecDeque<String>,
}

impl Issued {
    /// Whether a message goes under this id: not while another one is out under it. Who acknowledges the id means one of them.
    fn put(&mut self, id: &str, message: Sequence, out: &HashSet<Sequence>) -> bool {
        let others = self.messages.get(id).into_iter().flatten();
        if others.into_iter().any(|other| *other != message && out.contains(other)) {
            return false;
        }
        let messages = self.messages.entry(id.to_owned()).or_insert_with(|| {
            self.in_order.push_back(id.to_owned());
            Vec::new()
        });
        if !messages.contains(&message) {
            messages.push(message);
        }
        while self.in_order.len() > ISSUED_KEPT {
            let oldest = self.in_order.pop_front();
            oldest.map(|oldest| self.messages.remove(&oldest));
        }
        true
    }
}

/// The messages whose token has this id.
fn messages_of(desk: &Desk, id: &str) -> Vec<Sequence> {
    if let Some(messages) = desk.issued.lock().messages.get(id) {
        return messages.clone();
    }
    id.parse::<MessageId>().map(|id| vec![id.sequence()]).unwrap_or_default()
}

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
    let desk = api.backend().pipes().desk(key);
    let now = api.backend().now();
    let acknowledged = told(now, Ok(200), "acknowledged".to_owned());
    let taken = input.ack.iter().flat_map(|id| messages_of(&desk, id));
    let taken = taken.map(|message| (message, acknowledged.clone())).collect();
    lease::settle(api, key, taken, Use::Acknowledge, AfterAttempt::Delivered).await?;
    let refused = input.set_errs.iter().flat_map(|(id, SetError { err, description })| {
        let reason: String = format!("{err}: {description}").chars().take(250).collect();
        let refused = told(now, Ok(503), reason);
        messages_of(&desk, id).into_iter().map(move |message| (message, refused.clone()))
    });
    let dead = AfterAttempt::Ended(EndReason::Exhausted);
    lease::settle(api, key, refused.collect(), Use::Refuse, dead).await?;
    let mut out = PollOut { sets: BTreeMap::new(), more_available: false };
    if limit > 0 {
        let wait = if input.return_immediately { Duration::ZERO } else { WAIT_MAX };
        let mut watch = api.backend().pipes().wakes.watch(key);
        let mut hands = Hands::new(api, key);
        let leased = lease::receive(api, hands.hand, &"".into(), limit, None, &mut watch, in_time(wait)).await?;
        let now = api.backend().now();
        let issuer = call.own_url().unwrap_or_else(|| "urn:bellwire".to_owned());
        let made = leased.iter().map(|Leased { given: Given { message, .. }, .. }| {
            token(&endpoint, message, &issuer, now).map(|(own, token)| (message, own, token))
        });
        let made = made.collect::<Result<Vec<_>, Error>>()?;
        hands.keep();
        let held = desk.leases.lock().messages();
        for (message, own, token) in made {
            let own = own.filter(|own| desk.issued.lock().put(own, message.sequence(), &held));
            out.sets.insert(own.unwrap_or_else(|| message.id.to_string()), token);
        }
    }
    out.more_available = lease::is_there_more(api, &endpoint).await?;
    Ok(error::json(StatusCode::OK, &out))
}

/// What a token says, RFC 8417 section 2.2.
#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    iat: i64,
    jti: &'a str,
    events: BTreeMap<String, &'a RawValue>,
}

/// The token of a message: the message's payload if that is one, with the id that it has then, or one with the payload as its event (RFC 8417)
/// and the message's id.
fn token(
    endpoint: &Endpoint,
    message: &Message,
    issuer: &str,
    now: Timestamp,
) -> Result<(Option<String>, String), Error> {
    let payload = message.payload.as_deref().unwrap_or_default();
    let id = message.id.to_string();
    if matches!(&message.content_type, ContentType::Other(media) if is_token(media)) {
        let token = String::from_utf8_lossy(payload).trim().to_owned();
        return Ok((own_id(&token), token));
    }
    let secret = endpoint.signing_secrets(now).find(|secret| secret.kind() == SecretKind::Symmetric);
    let text = secret.map(|secret| secret.reveal_text());
    let bytes = text.as_ref().and_then(|text| STANDARD.decode(text.strip_prefix("whsec_")?).ok());
    let Some(bytes) = bytes else {
        let detail = "Tokens are signed with HS256, and this endpoint's secret is for ed25519; rotate it to one of the kind whsec_.";
        return Err(Error::refused(StatusCode::CONFLICT, "secret_cannot_sign_tokens", detail));
    };
    // An event is an object. One that was accepted goes in as it is, with every digit of its numbers.
    let internal = |error: serde_json::Error| Error::Internal(error.to_string());
    let payload = bellwire_body::without_mark(payload);
    let object = serde_json::from_slice::<&RawValue>(payload).ok().filter(|raw| raw.get().starts_with('{'));
    let wrapped = match object {
        Some(_) => None,
        None => {
            let text = String::from_utf8_lossy(payload);
            Some(to_raw_value(&BTreeMap::from([("rawPayload", text)])).map_err(internal)?)
        }
    };
    let event = object.or(wrapped.as_deref()).unwrap_or(RawValue::NULL);
    let events = BTreeMap::from([(format!("urn:bellwire:event-type:{}", message.event_type), event)]);
    let claims = Claims { iss: issuer, iat: message.sequence().time().as_seconds(), jti: &id, events };
    let header = Header { typ: Some(TYPE.to_owned()), ..Header::new(Algorithm::HS256) };
    let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(&bytes));
    Ok((None, token.map_err(|error| Error::Internal(error.to_string()))?))
}

/// A media type has letters of either size, and parameters.
fn is_token(media: &str) -> bool {
    media.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/secevent+jwt"))
}

/// The `jti` of a token that somebody else made, unless it reads like a message's. Who polls verifies it; we only pass it on.
fn own_id(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Id {
        jti: String,
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    let Id { jti } = serde_json::from_slice(&claims).ok()?;
    ((1..=ID_MAX).contains(&jti.len()) && jti.parse::<MessageId>().is_err()).then_some(jti)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokens_that_are_remembered_are_bounded() {
        let mut issued = Issued::default();
        for n in 0..ISSUED_KEPT as u64 + 10 {
            for _ in 0..2 {
                assert!(issued.put(&format!("set-{n}"), Sequence::from_u64(n), &HashSet::new()));
            }
        }
        assert_eq!((issued.messages.len(), issued.in_order.len()), (ISSUED_KEPT, ISSUED_KEPT));
        assert!(issued.messages.values().all(|messages| messages.len() == 1));
        assert!(!issued.messages.contains_key("set-9") && issued.messages.contains_key("set-10"));
    }
}
