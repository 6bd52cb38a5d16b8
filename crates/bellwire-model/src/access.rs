//! How an endpoint is reached, and how we prove there who we are, beyond the signature.
//!
//! The API takes these settings and never gives a secret of theirs out again; the store seals them; `delivery` applies
//! them to each attempt, and `egress` keeps connections with different TLS identities apart.

use bellwire_signature::HeaderHmac;
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// What an endpoint asks of whoever calls it. The default is the signature alone, and a certificate that the system trusts.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Access {
    /// How each request proves who sends it; by the signature alone if absent.
    pub credentials: Option<Credentials>,
    /// What is particular about TLS to it.
    pub tls: TlsAccess,
}

/// What is particular about TLS to an endpoint. The default is what the operator has set for all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TlsAccess {
    /// A private key and its certificate chain, PEM, by which we identify ourselves.
    pub identity: Option<SecretText>,
    /// The authorities, PEM, that the endpoint's certificate must come from, instead of the system's.
    pub authorities: Option<Arc<str>>,
    /// The endpoint's certificate is not verified, if the operator allows that.
    pub unverified: bool,
}

impl TlsAccess {
    /// Whether nothing is particular.
    pub fn is_default(&self) -> bool {
        *self == TlsAccess::default()
    }
}

/// How a request proves who sends it. One way at a time.
#[derive(Clone, PartialEq, Debug)]
pub enum Credentials {
    /// `authorization: Basic …`, RFC 7617.
    Basic {
        /// Without a colon.
        username: String,
        /// May be empty.
        password: SecretText,
    },
    /// `authorization: Bearer …`, RFC 6750.
    Bearer {
        /// The token, visible ASCII.
        token: SecretText,
    },
    /// A parameter at the end of the URL's query; it stands in no log and in no recorded attempt.
    Query {
        /// Its name.
        name: String,
        /// Its value, before escaping.
        value: SecretText,
    },
    /// A signature in the header that the receiver has always looked at.
    Hmac {
        /// The header's name.
        header: String,
        /// A second header, for the Unix time that is signed.
        timestamp_header: Option<String>,
        /// Key and form.
        hmac: HeaderHmac,
    },
    /// `authorization: Bearer …` with an access token, RFC 6749.
    Oauth(Arc<Oauth>),
}

/// Where an access token comes from, and how we ask for it.
#[derive(Clone, PartialEq, Debug)]
pub struct Oauth {
    /// The token endpoint; called through the address guard like everything else.
    pub token_url: String,
    /// By what right.
    pub grant: OauthGrant,
    /// Who we are there.
    pub client_id: String,
    /// How we prove it.
    pub method: ClientAuthentication,
    /// What is asked for, one word each; the token endpoint decides if empty.
    pub scopes: Vec<String>,
    /// Further parameters of the request, such as `audience`.
    pub parameters: Vec<(String, SecretText)>,
    /// Further headers of the request.
    pub headers: Vec<(String, SecretText)>,
}

/// What an access token is asked for with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OauthGrant {
    /// Our own right, RFC 6749 §4.4.
    ClientCredentials,
    /// A right that somebody has given us, RFC 6749 §6.
    RefreshToken(RefreshToken),
}

/// A refresh token. The token endpoint may give another one for the next time with each access token; that one takes this one's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RefreshToken {
    /// The newest.
    pub token: SecretText,
    /// The one before it, until the newest was seen to work: a token endpoint that fails may have forgotten what it gave.
    pub before: Option<SecretText>,
}

impl RefreshToken {
    /// The first one, from whoever gives us the right.
    pub fn new(token: SecretText) -> Self {
        RefreshToken { token, before: None }
    }
}

/// How a client authenticates to the token endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClientAuthentication {
    /// By a secret, in the `authorization` header. RFC 6749 §2.3.1.
    Basic(SecretText),
    /// By a secret, in the body. RFC 6749 §2.3.1.
    Post(SecretText),
    /// By a JWT that we sign, in the body. RFC 7523 §2.2.
    Jwt(ClientAssertion),
}

/// A JWT by which we authenticate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ClientAssertion {
    /// How it is signed.
    pub algorithm: AssertionAlgorithm,
    /// The private key in PEM, or the shared secret in base64.
    pub key: SecretText,
    /// Its `kid`, if the token endpoint wants one.
    pub key_id: Option<String>,
    /// How long each is valid, in seconds.
    pub lifetime_seconds: u32,
}

/// How a [`ClientAssertion`] is signed. RFC 7518 §3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AssertionAlgorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256 (`private_key_jwt`).
    Rs256,
    /// HMAC with SHA-256 (`client_secret_jwt`).
    Hs256,
}

/// A text that is wiped when dropped and does not print. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(Arc<Zeroizing<String>>);

impl SecretText {
    /// Keeps the text.
    pub fn new(text: impl Into<String>) -> Self {
        SecretText(Arc::new(Zeroizing::new(text.into())))
    }

    /// The text, to be sent where it belongs or to be sealed. Never for a log or an answer.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let access = Access {
            credentials: Some(Credentials::Oauth(Arc::new(Oauth {
                token_url: "https://login.example.com/token".into(),
                grant: OauthGrant::RefreshToken(RefreshToken {
                    token: SecretText::new("hunter2"),
                    before: Some(SecretText::new("hunter2")),
                }),
                client_id: "bell".into(),
                method: ClientAuthentication::Jwt(ClientAssertion {
                    algorithm: AssertionAlgorithm::Hs256,
                    key: SecretText::new("hunter2"),
                    key_id: None,
                    lifetime_seconds: 300,
                }),
                scopes: Vec::new(),
                parameters: vec![("key".into(), SecretText::new("hunter2"))],
                headers: vec![("x-key".into(), SecretText::new("hunter2"))],
            }))),
            tls: TlsAccess { identity: Some(SecretText::new("hunter2")), ..TlsAccess::default() },
        };
        assert!(!format!("{access:?}").contains("hunter2"));
        let query = Credentials::Query { name: "token".into(), value: SecretText::new("hunter2") };
        assert!(!format!("{query:?}").contains("hunter2"));
    }
}
