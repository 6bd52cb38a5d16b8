//! What is secret about a source: the token in its listener URL, and what requests are verified with.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::source::{KeptAnswerOf, TAG, find_of_requests, listener_url, new_token};
use crate::source_in::secret_fault;
use crate::wire::Time;
use axum::response::Response;
use bellwire_model::{SECRETS_MAX, SecretText, Source, SourceSecret, Timestamp};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;

const GRACE_SECONDS_DEFAULT: u32 = 24 * 3600;
const GRACE_SECONDS_MAX: u32 = 7 * 24 * 3600;

pub(crate) fn operations() -> Vec<Operation> {
    let organisation = Access::Organisation;
    vec![
        Operation::new(Method::GET, "/api/v1/source/{source_id}/secret", organisation, get)
            .described("v1.source.get-secret", TAG, "Get the source's listener URL and its secrets.")
            .answers::<SourceSecretsOut<'static>>(200),
        Operation::editing(Method::POST, "/api/v1/source/{source_id}/secret", organisation, add)
            .described(
                "v1.source.add-secret",
                TAG,
                "Add a secret. The others go on verifying for the grace period, so that the sender can change over.",
            )
            .body::<SourceSecretIn>()
            .answers_nothing(204),
        Operation::editing(Method::DELETE, "/api/v1/source/{source_id}/secret/{fingerprint}", organisation, remove)
            .described("v1.source.expire-secret", TAG, "Let a secret expire at once; it is named by its fingerprint.")
            .answers_nothing(204),
        Operation::editing(Method::POST, "/api/v1/source/{source_id}/token/rotate", organisation, rotate)
            .described(
                "v1.source.rotate-token",
                TAG,
                "Give the source another listener URL. Requests at the old one are refused from now on.",
            )
            .answers::<SourceUrlOut>(200),
    ]
}

/// Where the sender is to post to.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SourceUrlOut {
    listener_url: String,
}

/// What is secret about a source.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SourceSecretsOut")]
struct SourceSecretsOut<'a> {
    listener_url: String,
    /// Newest first.
    secrets: Vec<SecretOut<'a>>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SourceSecretOut")]
struct SecretOut<'a> {
    secret: &'a str,
    /// Names it without saying it.
    fingerprint: String,
    /// When it stops verifying; never if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Time>,
}

/// A secret to be added.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SourceSecretIn {
    #[schemars(required)]
    secret: Option<String>,
    /// How long the secrets of before go on verifying, in seconds. The default is 24 hours, the most 7 days.
    #[schemars(range(max = 604_800))]
    grace_period_seconds: Option<u32>,
}

/// The first 16 hexadecimal digits of its SHA-256.
fn fingerprint(secret: &str) -> String {
    Sha256::digest(secret.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn living(secret: &SourceSecret, now: Timestamp) -> bool {
    secret.expires_at.is_none_or(|end| end > now)
}

async fn get(call: Call) -> Result<Response, Error> {
    let source = find_of_requests(&call)?;
    let now = call.api.backend().now();
    let secrets = source.secrets.iter().filter(|secret| living(secret, now)).map(|secret| SecretOut {
        secret: secret.text.reveal(),
        fingerprint: fingerprint(secret.text.reveal()),
        expires_at: secret.expires_at.map(Time),
    });
    let out = SourceSecretsOut { listener_url: listener_url(&call, &source), secrets: secrets.collect() };
    Ok(error::json(StatusCode::OK, &out))
}

async fn add(mut call: Call) -> Result<Response, Error> {
    find_of_requests(&call)?;
    let body = call.json().await?;
    let input: SourceSecretIn = body.parse()?;
    let mut faults = Faults::new();
    let text = faults.required("secret", input.secret).unwrap_or_default();
    if let Some(msg) = secret_fault(&text) {
        faults.add("secret", msg);
    }
    let grace = input.grace_period_seconds.unwrap_or(GRACE_SECONDS_DEFAULT);
    if grace > GRACE_SECONDS_MAX {
        faults.add("gracePeriodSeconds", format!("`gracePeriodSeconds` must be at most {GRACE_SECONDS_MAX} (7 days)"));
    }
    faults.end()?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let mut source = Source::clone(&*find_of_requests(&call)?);
    let now = call.api.backend().now();
    let end = now.plus(Duration::from_secs(u64::from(grace)));
    source.secrets.retain(|secret| living(secret, now) && secret.text.reveal() != text);
    for old in &mut source.secrets {
        old.expires_at = Some(old.expires_at.map_or(end, |before| before.min(end)));
    }
    if source.secrets.len() >= SECRETS_MAX {
        let detail = format!("At most {SECRETS_MAX} secrets can verify at a time; let one expire first.");
        return Err(Error::bad_request("limit_reached", detail));
    }
    source.secrets.insert(0, SourceSecret { text: SecretText::new(text), expires_at: None });
    source.updated_at = now;
    if let Err(found) = call.api.backend().check_source(&source) {
        let mut faults = Faults::new();
        found.into_iter().for_each(|fault| faults.add("secret", fault.text));
        faults.end()?;
    }
    edit.put(Change::PutSource(Arc::new(source)));
    edit.no_content().await
}

async fn remove(call: Call) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    let mut source = Source::clone(&*find_of_requests(&call)?);
    let named = call.param("fingerprint").to_ascii_lowercase();
    let before = source.secrets.len();
    source.secrets.retain(|secret| fingerprint(secret.text.reveal()) != named);
    if source.secrets.len() == before {
        return Err(Error::not_found());
    }
    source.updated_at = call.api.backend().now();
    edit.put(Change::PutSource(Arc::new(source)));
    edit.no_content().await
}

async fn rotate(mut call: Call) -> Result<Response, Error> {
    find_of_requests(&call)?;
    let body = call.json_or_nothing().await?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => {
            let kept: KeptAnswerOf = crate::portal::kept(answer).await?;
            let source = find_of_requests(&call).ok().filter(|source| source.id.to_string() == kept.source);
            let source = source.ok_or_else(Error::not_found)?;
            return Ok(error::json(StatusCode::OK, &SourceUrlOut { listener_url: listener_url(&call, &source) }));
        }
    };
    let mut source = Source::clone(&*find_of_requests(&call)?);
    source.token = new_token(&call.api);
    source.updated_at = call.api.backend().now();
    let out = SourceUrlOut { listener_url: listener_url(&call, &source) };
    let kept = KeptAnswerOf { source: source.id.to_string() };
    edit.put(Change::PutSource(Arc::new(source)));
    edit.answer_keeping(StatusCode::OK, &out, &kept).await
}
