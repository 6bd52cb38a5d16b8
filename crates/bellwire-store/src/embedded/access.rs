//! The column `endpoint.access`: how an endpoint is reached, as JSON, sealed whole like the secrets beside it.
//!
//! NULL is the default, which nearly all endpoints have. Names here are fixed for ever, since rows hold them.

use super::fault::Fault;
use super::sealed::{self, Sealer};
use bellwire_model::{
    Access, ApplicationKey, AssertionAlgorithm, ClientAssertion, ClientAuthentication, Credentials, Endpoint,
    EndpointId, Oauth, OauthGrant, RefreshToken, SecretText, TlsAccess,
};
use bellwire_signature::HeaderHmac;
use bellwire_signature::header_hmac::{HashAlgorithm, MacEncoding, Template, TemplateUse};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

const COLUMN: &str = "access";

#[derive(Serialize, Deserialize)]
struct StoredAccess {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    credentials: Option<StoredCredentials>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    identity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    authorities: Option<Arc<str>>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    unverified: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum StoredCredentials {
    Basic {
        username: String,
        password: String,
    },
    Bearer {
        token: String,
    },
    Query {
        name: String,
        value: String,
    },
    Hmac {
        header: String,
        timestamp_header: Option<String>,
        algorithm: String,
        encoding: String,
        signed: String,
        format: String,
        key: Vec<u8>,
    },
    Oauth {
        token_url: String,
        client_id: String,
        /// Empty where an assertion is signed instead.
        client_secret: String,
        method: String,
        scopes: Vec<String>,
        parameters: Vec<(String, String)>,
        headers: Vec<(String, String)>,
        /// Of the grant of that name; without it, the client's own credentials are the grant.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refresh_token: Option<String>,
        /// The one before it, as long as it may still be needed. An earlier version passes it over.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        refresh_token_before: Option<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        assertion: Option<StoredAssertion>,
    },
}

#[derive(Serialize, Deserialize)]
struct StoredAssertion {
    algorithm: String,
    key: String,
    key_id: Option<String>,
    lifetime_seconds: u32,
}

/// The column's value.
pub(super) fn seal(sealer: Option<&dyn Sealer>, endpoint: &Endpoint) -> Option<Vec<u8>> {
    if endpoint.access == Access::default() {
        return None;
    }
    let place = sealed::place(endpoint.application, endpoint.id, COLUMN);
    Some(sealed::seal(sealer, &place, &StoredAccess::from(&endpoint.access)))
}

/// What [`seal`] made of it.
pub(super) fn open(
    sealer: Option<&dyn Sealer>,
    application: ApplicationKey,
    id: EndpointId,
    column: Option<Vec<u8>>,
) -> Result<Access, Fault> {
    let Some(column) = column else { return Ok(Access::default()) };
    let about = |detail: String| Fault::damaged("an endpoint's access", format!("of endpoint {id}: {detail}"));
    let place = sealed::place(application, id, COLUMN);
    let stored: StoredAccess = sealed::open(sealer, &place, &column).map_err(about)?;
    stored.access().map_err(about)
}

impl From<&Access> for StoredAccess {
    fn from(access: &Access) -> Self {
        StoredAccess {
            credentials: access.credentials.as_ref().map(StoredCredentials::from),
            identity: access.tls.identity.as_ref().map(|identity| identity.reveal().to_owned()),
            authorities: access.tls.authorities.clone(),
            unverified: access.tls.unverified,
        }
    }
}

impl From<&Credentials> for StoredCredentials {
    fn from(credentials: &Credentials) -> Self {
        let pairs = |pairs: &[(String, SecretText)]| {
            pairs.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect()
        };
        match credentials {
            Credentials::Basic { username, password } => {
                StoredCredentials::Basic { username: username.clone(), password: password.reveal().to_owned() }
            }
            Credentials::Bearer { token } => StoredCredentials::Bearer { token: token.reveal().to_owned() },
            Credentials::Query { name, value } => {
                StoredCredentials::Query { name: name.clone(), value: value.reveal().to_owned() }
            }
            Credentials::Hmac { header, timestamp_header, hmac } => StoredCredentials::Hmac {
                header: header.clone(),
                timestamp_header: timestamp_header.clone(),
                algorithm: name_of(&ALGORITHMS, hmac.algorithm()),
                encoding: name_of(&ENCODINGS, hmac.encoding()),
                signed: hmac.signed().as_str().to_owned(),
                format: hmac.header().as_str().to_owned(),
                key: hmac.reveal_key().to_vec(),
            },
            Credentials::Oauth(oauth) => {
                let (method, client_secret, assertion) = match &oauth.method {
                    ClientAuthentication::Basic(secret) => (BASIC, secret.reveal(), None),
                    ClientAuthentication::Post(secret) => (POST, secret.reveal(), None),
                    ClientAuthentication::Jwt(assertion) => (JWT, "", Some(StoredAssertion::from(assertion))),
                };
                let (refresh_token, refresh_token_before) = match &oauth.grant {
                    OauthGrant::ClientCredentials => (None, None),
                    OauthGrant::RefreshToken(RefreshToken { token, before }) => {
                        let text = |token: &SecretText| token.reveal().to_owned();
                        (Some(text(token)), before.as_ref().map(text))
                    }
                };
                StoredCredentials::Oauth {
                    token_url: oauth.token_url.clone(),
                    client_id: oauth.client_id.clone(),
                    client_secret: client_secret.to_owned(),
                    method: method.to_owned(),
                    scopes: oauth.scopes.clone(),
                    parameters: pairs(&oauth.parameters),
                    headers: pairs(&oauth.headers),
                    refresh_token,
                    refresh_token_before,
                    assertion,
                }
            }
        }
    }
}

impl StoredAccess {
    fn access(self) -> Result<Access, String> {
        Ok(Access {
            credentials: self.credentials.map(StoredCredentials::credentials).transpose()?,
            tls: TlsAccess {
                identity: self.identity.map(SecretText::new),
                authorities: self.authorities,
                unverified: self.unverified,
            },
        })
    }
}

impl StoredCredentials {
    fn credentials(self) -> Result<Credentials, String> {
        let pairs = |pairs: Vec<(String, String)>| {
            pairs.into_iter().map(|(name, value)| (name, SecretText::new(value))).collect()
        };
        Ok(match self {
            StoredCredentials::Basic { username, password } => {
                Credentials::Basic { username, password: SecretText::new(password) }
            }
            StoredCredentials::Bearer { token } => Credentials::Bearer { token: SecretText::new(token) },
            StoredCredentials::Query { name, value } => Credentials::Query { name, value: SecretText::new(value) },
            StoredCredentials::Hmac { header, timestamp_header, algorithm, encoding, signed, format, key } => {
                let template = |text: &str, used| Template::parse(text, used).map_err(|error| error.to_string());
                Credentials::Hmac {
                    header,
                    timestamp_header,
                    hmac: HeaderHmac::new(
                        named(&ALGORITHMS, &algorithm)?,
                        named(&ENCODINGS, &encoding)?,
                        template(&signed, TemplateUse::Signed)?,
                        template(&format, TemplateUse::Header)?,
                        Zeroizing::new(key),
                    ),
                }
            }
            StoredCredentials::Oauth {
                token_url,
                client_id,
                client_secret,
                method,
                scopes,
                parameters,
                headers,
                refresh_token,
                refresh_token_before,
                assertion,
            } => {
                let secret = SecretText::new(client_secret);
                Credentials::Oauth(Arc::new(Oauth {
                    token_url,
                    grant: match refresh_token {
                        None => OauthGrant::ClientCredentials,
                        Some(token) => OauthGrant::RefreshToken(RefreshToken {
                            token: SecretText::new(token),
                            before: refresh_token_before.map(SecretText::new),
                        }),
                    },
                    client_id,
                    method: match (&*method, assertion) {
                        (BASIC, _) => ClientAuthentication::Basic(secret),
                        (POST, _) => ClientAuthentication::Post(secret),
                        (JWT, Some(assertion)) => ClientAuthentication::Jwt(assertion.assertion()?),
                        _ => return Err(format!("there is no way to authenticate that is called {method:?}")),
                    },
                    scopes,
                    parameters: pairs(parameters),
                    headers: pairs(headers),
                }))
            }
        })
    }
}

const ALGORITHMS: [(&str, HashAlgorithm); 3] =
    [("sha1", HashAlgorithm::Sha1), ("sha256", HashAlgorithm::Sha256), ("sha512", HashAlgorithm::Sha512)];
const ENCODINGS: [(&str, MacEncoding); 2] = [("hex", MacEncoding::Hex), ("base64", MacEncoding::Base64)];
const ASSERTIONS: [(&str, AssertionAlgorithm); 2] =
    [("RS256", AssertionAlgorithm::Rs256), ("HS256", AssertionAlgorithm::Hs256)];
const BASIC: &str = "basic";
const POST: &str = "post";
const JWT: &str = "jwt";

impl From<&ClientAssertion> for StoredAssertion {
    fn from(assertion: &ClientAssertion) -> Self {
        StoredAssertion {
            algorithm: name_of(&ASSERTIONS, assertion.algorithm),
            key: assertion.key.reveal().to_owned(),
            key_id: assertion.key_id.clone(),
            lifetime_seconds: assertion.lifetime_seconds,
        }
    }
}

impl StoredAssertion {
    fn assertion(self) -> Result<ClientAssertion, String> {
        Ok(ClientAssertion {
            algorithm: named(&ASSERTIONS, &self.algorithm)?,
            key: SecretText::new(self.key),
            key_id: self.key_id,
            lifetime_seconds: self.lifetime_seconds,
        })
    }
}

fn name_of<T: PartialEq>(names: &[(&str, T)], value: T) -> String {
    names.iter().find(|(_, known)| *known == value).map(|(name, _)| (*name).to_owned()).unwrap_or_default()
}

fn named<T: Copy>(names: &[(&str, T)], name: &str) -> Result<T, String> {
    names
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("{name} is not known to this version"))
}
