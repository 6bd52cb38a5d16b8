//! How an attempt proves who sends it, beyond the signature: what the endpoint's `Access` becomes in a request.

use crate::oauth::{TokenSource, Tokens};
use base64::{Engine, prelude::BASE64_STANDARD};
use bellwire_egress::{Client, Target, TlsOptions};
use bellwire_model::{Credentials, Endpoint, SecretText};
use bellwire_signature::HeaderHmac;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::rc::Rc;
use url::Url;
use zeroize::Zeroizing;

/// What is left to do for each attempt.
pub(crate) enum Proof {
    /// Nothing: all of it stands in the URL, in the headers, or in the connection.
    Prepared,
    /// To sign.
    Hmac { header: HeaderName, timestamp_header: Option<HeaderName>, hmac: HeaderHmac },
    /// To put a token in.
    Oauth(Rc<TokenSource>),
}

/// Where attempts to `endpoint` go: its URL, the parameter that is not shown, and its own TLS.
pub(crate) fn target(client: &Client, endpoint: &Endpoint, unverified_allowed: bool) -> Result<Target, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("the endpoint's URL cannot be called: {error}");
    let access = &endpoint.access;
    let target = match &access.credentials {
        Some(Credentials::Query { name, value }) => {
            let mut url = Url::parse(&endpoint.url).map_err(|e| unusable(&e))?;
            url.query_pairs_mut().append_pair(name, value.reveal());
            Target::new(&url)
        }
        _ => Target::parse(&endpoint.url),
    };
    let target = target.map_err(|e| unusable(&e))?;
    let options = TlsOptions {
        identity: access.tls.identity.as_ref().map(SecretText::reveal),
        authorities: access.tls.authorities.as_deref(),
        unverified: access.tls.unverified && unverified_allowed,
    };
    if options.is_default() {
        return Ok(target);
    }
    let profile =
        client.tls_profile(&options).map_err(|e| format!("the endpoint's certificates cannot be used: {e}"))?;
    Ok(target.with_tls(profile))
}

impl Proof {
    /// Puts into `headers` what is the same for all attempts, over what the endpoint's own headers say.
    pub(crate) fn prepare(endpoint: &Endpoint, headers: &mut HeaderMap, tokens: &Tokens) -> Result<Proof, String> {
        let name = |name: &str| HeaderName::try_from(name).map_err(|_| format!("header {name:?} cannot be sent"));
        match &endpoint.access.credentials {
            None | Some(Credentials::Query { .. }) => {}
            Some(Credentials::Basic { username, password }) => {
                headers.insert(header::AUTHORIZATION, basic(username, password)?);
            }
            Some(Credentials::Bearer { token }) => {
                headers.insert(header::AUTHORIZATION, bearer(token.reveal())?);
            }
            Some(Credentials::Hmac { header, timestamp_header, hmac }) => {
                return Ok(Proof::Hmac {
                    header: name(header)?,
                    timestamp_header: timestamp_header.as_deref().map(name).transpose()?,
                    hmac: hmac.clone(),
                });
            }
            Some(Credentials::Oauth(oauth)) => return Ok(Proof::Oauth(tokens.source(endpoint.key, oauth))),
        }
        Ok(Proof::Prepared)
    }

    /// Signs one attempt in the endpoint's own way, if it has one.
    pub(crate) fn sign(&self, headers: &mut HeaderMap, id: &str, seconds: i64, body: &[u8]) -> Result<(), String> {
        let Proof::Hmac { header, timestamp_header, hmac } = self else { return Ok(()) };
        let value = HeaderValue::try_from(hmac.sign(id, seconds, body)).map_err(|e| e.to_string())?;
        headers.insert(header.clone(), value);
        if let Some(name) = timestamp_header {
            headers.insert(name.clone(), HeaderValue::from(seconds));
        }
        Ok(())
    }

    /// Where this endpoint's tokens come from, if it takes any.
    pub(crate) fn tokens(&self) -> Option<&Rc<TokenSource>> {
        match self {
            Proof::Oauth(source) => Some(source),
            _ => None,
        }
    }
}

/// RFC 7617.
pub(crate) fn basic(username: &str, password: &SecretText) -> Result<HeaderValue, String> {
    let pair = Zeroizing::new(format!("{username}:{}", password.reveal()));
    sensitive(&Zeroizing::new(format!("Basic {}", BASE64_STANDARD.encode(pair.as_bytes()))))
}

/// RFC 6750 §2.1.
pub(crate) fn bearer(token: &str) -> Result<HeaderValue, String> {
    sensitive(&Zeroizing::new(format!("Bearer {token}")))
}

fn sensitive(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text).map_err(|_| "the credentials cannot be sent in a header")?;
    value.set_sensitive(true);
    Ok(value)
}
