//! Who calls: bearer tokens, JWTs signed with the configured secret.
//!
//! An organisation's token has `sub: org_…`; an application's (its portal's) has `sub: app_…` and `org: org_…`, and may
//! carry `feature_flags`. Of these, every one that is signed is good, whoever made it, until it is logged out or expired with
//! its application's others. A token of ours (`iss: bellwire`) may say more:
//!
//! * `jti: key_…`: it is *registered*. It is good if, and only if, it is in the register; its row says what it may do.
//! * `jti: appsk_…`, `sid`, `capabilities`: when it was issued to the moment, its session, and what a portal may do.
//!
//! No other algorithm than the configured one is ever accepted, whatever a token's header says. A token that was verified is
//! remembered, so that the next request with it costs one lookup; its times, its standing and its allowance are compared at each.

use crate::error::Error;
use crate::jwt_key::{JwtAlgorithm, JwtKey, JwtKeyError};
use crate::permission::{self, Capability, Permission};
use crate::rate::{Allowance, RateLimit};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_engine::{Catalogue, Credential, TakenBack};
use bellwire_model::{ApplicationId, Fingerprint, OrganisationId, PortalTokenId, Sequence, Timestamp, TokenId};
use http::{HeaderMap, header};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
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
/// What our own tokens are issued by.
const ISSUER: &str = "bellwire";
/// A token with an audience is for one of these, or for somebody else. RFC 7519 §4.1.3.
const AUDIENCES: [&str; 3] = ["bellwire", "svix", "svix-server"];

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

    /// The application that it is limited to.
    pub fn application(&self) -> Option<ApplicationId> {
        match self {
            Principal::Organisation(_) => None,
            Principal::Application { application, .. } => Some(*application),
        }
    }
}

/// Why a token could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The text is none.
    #[error("the key cannot be used")]
    Key(#[from] JwtKeyError),
    /// The cryptographic library refused; not known to happen.
    #[error("the token could not be signed")]
    Signing(#[from] jsonwebtoken::errors::Error),
}

/// A token for `principal`, signed with `secret` by HS256, good from `now` for `lifetime`.
///
/// # Errors
/// [`MintError`].
pub fn mint_token(
    secret: &[u8],
    principal: &Principal,
    now: Timestamp,
    lifetime: Duration,
) -> Result<String, MintError> {
    mint_token_by(JwtAlgorithm::Hs256, secret, principal, now, lifetime)
}

/// As [`mint_token`], by another algorithm.
///
/// # Errors
/// As [`mint_token`].
pub fn mint_token_by(
    algorithm: JwtAlgorithm,
    secret: &[u8],
    principal: &Principal,
    now: Timestamp,
    lifetime: Duration,
) -> Result<String, MintError> {
    Claims::new(principal, now, Some(lifetime)).sign(algorithm, &JwtKey::read(algorithm, secret)?.signing)
}

/// What a token says. Signing the same claims again with the same secret gives the same token.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Claims {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) iss: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sub: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) org: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) aud: Option<Audience>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) jti: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sid: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "whole")]
    pub(crate) iat: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "whole")]
    pub(crate) nbf: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "whole")]
    pub(crate) exp: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) feature_flags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) capabilities: Option<Vec<Capability>>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Claims {
    /// Of a token of ours that is good from `now`, for `lifetime` if there is an end.
    pub(crate) fn new(principal: &Principal, now: Timestamp, lifetime: Option<Duration>) -> Self {
        let (sub, org, feature_flags) = match principal {
            Principal::Organisation(organisation) => (organisation.to_string(), None, Vec::new()),
            Principal::Application { organisation, application, feature_flags } => {
                (application.to_string(), Some(organisation.to_string()), feature_flags.clone())
            }
        };
        Claims {
            iss: Some(ISSUER.to_owned()),
            sub: Some(sub),
            org,
            aud: None,
            jti: None,
            sid: None,
            iat: Some(now.as_seconds() as f64),
            nbf: Some(now.as_seconds() as f64),
            exp: lifetime.map(|lifetime| now.plus(lifetime).as_seconds() as f64),
            feature_flags,
            capabilities: None,
        }
    }

    /// The application that it is limited to.
    pub(crate) fn application(&self) -> Option<ApplicationId> {
        self.org.as_ref().and(self.sub.as_deref())?.parse().ok()
    }

    fn sign(&self, algorithm: JwtAlgorithm, key: &EncodingKey) -> Result<String, MintError> {
        Ok(jsonwebtoken::encode(&Header::new(algorithm.library()), self, key)?)
    }
}

/// RFC 7519 allows fractions of a second to be read; whole ones are what everybody can read.
fn whole<S: serde::Serializer>(seconds: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(seconds.unwrap_or_default() as i64)
}

/// What is remembered of a verified token.
pub(crate) struct Verified {
    pub(crate) principal: Arc<Principal>,
    pub(crate) credential: Credential,
    /// Those of a portal token that has not all of them.
    capabilities: Option<Vec<Capability>>,
    allowance: Option<Allowance>,
    from: i64,
    until: i64,
}

impl Verified {
    /// When it ends by itself.
    pub(crate) fn ends_at(&self) -> Timestamp {
        Timestamp::from_seconds(self.until.saturating_add(LEEWAY_SECONDS).min(i64::MAX / 1_000_000))
    }

    fn at(&self, now: Timestamp) -> Result<(), Error> {
        let now = now.as_seconds();
        if now < self.from.saturating_sub(LEEWAY_SECONDS) {
            return Err(Error::unauthorized("Invalid token: it is not valid yet (nbf)"));
        }
        if now >= self.until.saturating_add(LEEWAY_SECONDS) {
            return Err(Error::unauthorized("Invalid token: it has expired (exp)"));
        }
        Ok(())
    }
}

/// Verifies tokens and remembers them.
pub(crate) struct Tokens {
    /// `None`: what is configured is no key.
    signing: Option<EncodingKey>,
    algorithm: JwtAlgorithm,
    keys: Vec<DecodingKey>,
    secret_digests: Vec<[u8; 32]>,
    validation: Validation,
    rate_limit: Option<RateLimit>,
    verified: RwLock<HashMap<Box<str>, Arc<Verified>>>,
    verified_max: usize,
}

impl Tokens {
    pub(crate) fn new(settings: &crate::Settings) -> Self {
        let algorithm = settings.jwt_algorithm;
        let secrets = std::iter::once(&settings.jwt_secret).chain(&settings.jwt_secrets_before);
        let secrets: Vec<_> = secrets.filter(|secret| !secret.is_empty()).collect();
        let read = |secret: &Vec<u8>| JwtKey::read(algorithm, secret).ok();
        let mut validation = Validation::new(algorithm.library());
        // Times are ours to compare, on the clock of the backend; so is the audience.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Tokens {
            signing: read(&settings.jwt_secret).map(|key| key.signing),
            algorithm,
            keys: secrets.iter().filter_map(|secret| read(secret)).map(|key| key.checking).collect(),
            secret_digests: secrets.iter().map(|secret| Sha256::digest(secret).into()).collect(),
            validation,
            rate_limit: settings.rate_limit.clone(),
            verified: RwLock::default(),
            verified_max: settings.token_cache_max,
        }
    }

    /// The token with these claims.
    pub(crate) fn sign(&self, claims: &Claims) -> Result<String, Error> {
        let signing = self.signing.as_ref().ok_or_else(|| Error::Internal("there is no key for tokens".to_owned()))?;
        claims.sign(self.algorithm, signing).map_err(|error| Error::Internal(error.to_string()))
    }

    /// Who sent a request with these headers, if it may do what needs `needed`. Takes the request from its allowance.
    ///
    /// # Errors
    /// 401 without a token that is valid at `now`; 400 if a valid one has a subject that is none; 429 if it was used too often;
    /// 403 if its scopes or capabilities are not enough.
    pub(crate) fn admit(
        &self,
        headers: &HeaderMap,
        needed: Permission,
        catalogue: &RwLock<Catalogue>,
        now: Timestamp,
    ) -> Result<Arc<Verified>, Error> {
        let token = self.verified(headers, now)?;
        self.pass(&token, needed, catalogue, now)?;
        Ok(token)
    }

    /// Lets a token through that was verified before: it may have been taken back, or used too often, since.
    ///
    /// # Errors
    /// As [`Tokens::admit`].
    pub(crate) fn pass(
        &self,
        token: &Verified,
        needed: Permission,
        catalogue: &RwLock<Catalogue>,
        now: Timestamp,
    ) -> Result<(), Error> {
        token.at(now)?;
        {
            let catalogue = catalogue.read();
            let registered = catalogue.tokens().standing(&token.credential, now).map_err(taken_back)?;
            self.take(token, now)?;
            if let Some(registered) = registered {
                registered.use_at(now);
                permission::check_scopes(&registered.token.scopes, needed)?;
            }
        }
        if let Some(capabilities) = &token.capabilities {
            permission::check_capabilities(capabilities, needed)?;
        }
        Ok(())
    }

    /// Whether a token is still good that was let through a while ago. Takes nothing from its allowance.
    ///
    /// # Errors
    /// 401 if it has expired, or was taken back since.
    pub(crate) fn stands(&self, token: &Verified, catalogue: &RwLock<Catalogue>, now: Timestamp) -> Result<(), Error> {
        token.at(now)?;
        catalogue.read().tokens().standing(&token.credential, now).map(drop).map_err(taken_back)
    }

    fn take(&self, token: &Verified, now: Timestamp) -> Result<(), Error> {
        let (Some(limit), Some(allowance)) = (&self.rate_limit, &token.allowance) else { return Ok(()) };
        limit.take(allowance, now).map_err(Error::too_many_requests)
    }

    fn verified(&self, headers: &HeaderMap, now: Timestamp) -> Result<Arc<Verified>, Error> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(bearer)
            .filter(|token| token.len() <= TOKEN_BYTES_MAX)
            .ok_or_else(|| Error::unauthorized("Invalid token"))?;
        if let Some(known) = self.verified.read().get(token) {
            known.at(now)?;
            return Ok(known.clone());
        }
        let verified = Arc::new(self.verify(token, now)?);
        verified.at(now)?;
        let mut all = self.verified.write();
        if all.len() >= self.verified_max {
            all.clear();
        }
        all.insert(token.into(), verified.clone());
        Ok(verified)
    }

    fn verify(&self, token: &str, now: Timestamp) -> Result<Verified, Error> {
        let claims = self
            .keys
            .iter()
            .find_map(|key| jsonwebtoken::decode::<Claims>(token, key, &self.validation).ok())
            .ok_or_else(|| self.refusal(token))?
            .claims;
        let for_us = |audience: &String| AUDIENCES.contains(&audience.as_str());
        let for_others = match &claims.aud {
            None => false,
            Some(Audience::One(audience)) => !for_us(audience),
            Some(Audience::Several(audiences)) => !audiences.iter().any(for_us),
        };
        if for_others {
            return Err(Error::unauthorized("Invalid token: it is for another audience (aud)"));
        }
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
        let own = claims.iss.as_deref() == Some(ISSUER);
        let jti = claims.jti.filter(|_| own);
        let registered = jti.as_deref().filter(|jti| jti.starts_with(TokenId::PREFIX));
        let registered = registered.map(str::parse::<TokenId>).transpose();
        let registered = registered.map_err(|_| bad("`jti` is not a valid token id"))?;
        let portal = jti.as_deref().and_then(|jti| jti.parse::<PortalTokenId>().ok());
        // Of a second, the first moment: of two things in the same second, the token counts as the earlier.
        let second = claims.iat.map_or(Sequence::ZERO, |at| Sequence::first_at(Timestamp::from_seconds(at as i64)));
        let fingerprint = fingerprint(token);
        let allowance = self.rate_limit.as_ref().map(|limit| limit.allowance(fingerprint.0, now));
        Ok(Verified {
            credential: Credential {
                registered,
                application: principal.application(),
                session: claims.sid.filter(|_| own),
                issued: portal.map_or(second, |id| id.sequence()),
                fingerprint,
            },
            principal: Arc::new(principal),
            capabilities: claims.capabilities.filter(|_| own),
            allowance,
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

/// Of what the signature covers, decoded: the signature itself can be spelled in more than one way, and must not matter.
fn fingerprint(token: &str) -> Fingerprint {
    let signed = token.rsplit_once('.').map_or(token, |(signed, _)| signed);
    let mut digest = Sha256::new();
    for part in signed.split('.') {
        let decoded = URL_SAFE_NO_PAD.decode(part).unwrap_or_else(|_| part.as_bytes().to_vec());
        digest.update((decoded.len() as u64).to_le_bytes());
        digest.update(&decoded);
    }
    Fingerprint(digest.finalize().into())
}

fn taken_back(why: TakenBack) -> Error {
    Error::unauthorized(match why {
        TakenBack::Unknown => "Invalid token: it is not registered here, or not any more",
        TakenBack::Expired => "Invalid token: it was expired",
        TakenBack::LoggedOut => "Invalid token: it was logged out",
    })
}

/// The token of a `Bearer` header; the scheme's case does not matter.
fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}
