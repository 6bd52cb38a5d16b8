//! Who calls: bearer tokens, JWTs signed with HS256.
//!
//! An organisation's token has `sub: org_…`; an application's (its portal's) has `sub: app_…` and `org: org_…`, and may
//! carry `feature_flags`. No other algorithm is ever accepted, whatever a token's header says. A token that was
//! verified is remembered, so that the next request with it costs one lookup; its times are compared at each.

use crate::error::Error;
use bellwire_model::{ApplicationId, OrganisationId, Timestamp};
use http::{HeaderMap, header};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Clocks differ; a token is good for this long before and after its times.
const LEEWAY_SECONDS: i64 = 60;
/// A longer token is not looked at.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Whom a token speaks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Principal {
    /// The operator's own program: everything of one organisation.
    Organisation(OrganisationId),
    /// One application, as its portal needs it.
    Application {
        /// That the application belongs to.
        organisation: OrganisationId,
        /// The only one it may see.
        application: ApplicationId,
        /// Event types behind one of these are visible.
        feature_flags: Vec<String>,
    },
}

impl Principal {
    /// Whose data it is about.
    pub fn organisation(&self) -> &OrganisationId {
        match self {
            Principal::Organisation(organisation) | Principal::Application { organisation, .. } => organisation,
        }
    }
}

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the token could not be signed")]
pub struct MintError(#[from] jsonwebtoken::errors::Error);

/// A token for `principal`, signed with `secret`, good from `now` for `lifetime`.
///
/// # Errors
/// The cryptographic library refused to sign; not known to happen.
pub fn mint_token(
    secret: &[u8],
    principal: &Principal,
    now: Timestamp,
    lifetime: Duration,
) -> Result<String, MintError> {
    let (sub, org, feature_flags) = match principal {
        Principal::Organisation(organisation) => (organisation.to_string(), None, Vec::new()),
        Principal::Application { organisation, application, feature_flags } => {
            (application.to_string(), Some(organisation.to_string()), feature_flags.clone())
        }
    };
    let claims = Claims {
        iss: Some("bellwire".to_owned()),
        sub: Some(sub),
        org,
        iat: Some(now.as_seconds() as f64),
        nbf: Some(now.as_seconds() as f64),
        exp: Some(now.plus(lifetime).as_seconds() as f64),
        feature_flags,
    };
    Ok(jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret))?)
}

#[derive(Serialize, Deserialize)]
struct Claims {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iss: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sub: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    org: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "whole")]
    iat: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "whole")]
    nbf: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "whole")]
    exp: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    feature_flags: Vec<String>,
}

/// RFC 7519 allows fractions of a second to be read; whole ones are what everybody can read.
fn whole<S: serde::Serializer>(seconds: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(seconds.unwrap_or_default() as i64)
}

/// What is remembered of a verified token.
struct Verified {
    principal: Arc<Principal>,
    from: i64,
    until: i64,
}

impl Verified {
    fn at(&self, now: Timestamp) -> Result<Arc<Principal>, Error> {
        let now = now.as_seconds();
        if now < self.from.saturating_sub(LEEWAY_SECONDS) {
            return Err(Error::unauthorized("Invalid token: it is not valid yet (nbf)"));
        }
        if now >= self.until.saturating_add(LEEWAY_SECONDS) {
            return Err(Error::unauthorized("Invalid token: it has expired (exp)"));
        }
        Ok(self.principal.clone())
    }
}

/// Verifies tokens and remembers them.
pub(crate) struct Tokens {
    keys: Vec<DecodingKey>,
    secret_digests: Vec<[u8; 32]>,
    validation: Validation,
    verified: RwLock<HashMap<Box<str>, Verified>>,
    verified_max: usize,
}

impl Tokens {
    pub(crate) fn new<'a>(secrets: impl Iterator<Item = &'a Vec<u8>>, verified_max: usize) -> Self {
        // With an empty secret, everybody could sign.
        let secrets: Vec<_> = secrets.filter(|secret| !secret.is_empty()).collect();
        let mut validation = Validation::new(Algorithm::HS256);
        // Times are ours to compare, on the clock of the backend.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Tokens {
            keys: secrets.iter().map(|secret| DecodingKey::from_secret(secret)).collect(),
            secret_digests: secrets.iter().map(|secret| Sha256::digest(secret).into()).collect(),
            validation,
            verified: RwLock::default(),
            verified_max,
        }
    }

    /// Who sent a request with these headers.
    ///
    /// # Errors
    /// 401 without a token that is valid at `now`; 400 if a valid one has a subject that is none.
    pub(crate) fn principal(&self, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Principal>, Error> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(bearer)
            .filter(|token| token.len() <= TOKEN_BYTES_MAX)
            .ok_or_else(|| Error::unauthorized("Invalid token"))?;
        if let Some(known) = self.verified.read().get(token) {
            return known.at(now);
        }
        let verified = self.verify(token)?;
        let principal = verified.at(now)?;
        let mut all = self.verified.write();
        if all.len() >= self.verified_max {
            all.clear();
        }
        all.insert(token.into(), verified);
        Ok(principal)
    }

    fn verify(&self, token: &str) -> Result<Verified, Error> {
        let claims = self
            .keys
            .iter()
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, key, &self.validation).ok())
            .ok_or_else(|| self.refusal(token))?
            .claims;
        let subject = claims.sub.ok_or_else(|| Error::unauthorized("Invalid token (missing `sub`)."))?;
        let bad = |detail: &'static str| Error::bad_request("bad_token", detail);
        let principal = match claims.org {
            None => Principal::Organisation(
                OrganisationId::parse(&subject).ok_or_else(|| bad("`sub` is not a valid organization id"))?,
            ),
            Some(organisation) => Principal::Application {
                organisation: OrganisationId::parse(&organisation)
                    .ok_or_else(|| bad("`org` is not a valid organization id"))?,
                application: subject.parse().map_err(|_| bad("`sub` is not a valid application id"))?,
                feature_flags: claims.feature_flags,
            },
        };
        Ok(Verified {
            principal: Arc::new(principal),
            from: claims.nbf.map_or(i64::MIN, |at| at as i64),
            until: claims.exp.map_or(i64::MAX, |at| at as i64),
        })
    }

    /// The commonest mistake of the first hour gets its own text.
    fn refusal(&self, token: &str) -> Error {
        let digest: [u8; 32] = Sha256::digest(token).into();
        // Of digests, so the time that this takes says nothing about the secret.
        if self.secret_digests.contains(&digest) {
            return Error::unauthorized(
                "Authentication failed. JWT signing secrets can not be used as tokens; make a token with `bellwire token`.",
            );
        }
        Error::unauthorized("Invalid token")
    }
}

/// The token of a `Bearer` header; the scheme's case does not matter.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
