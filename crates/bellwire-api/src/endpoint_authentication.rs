//! How attempts prove who sends them, beyond the signature: basic, bearer, a parameter of the URL, or an HMAC of the
//! receiver's own kind. What is secret in it goes in and does not come out.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::endpoint_effect;
use crate::error::{self, Error};
use crate::field::{self, Faults};
use crate::operation::{Access, Operation};
use axum::response::Response;
use base64::{Engine, prelude::BASE64_STANDARD};
use bellwire_model::{Credentials, Endpoint, SecretText};
use bellwire_signature::HeaderHmac;
use bellwire_signature::header_hmac::{HashAlgorithm, MacEncoding, TEMPLATE_BYTES_MAX, Template, TemplateUse};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use zeroize::Zeroizing;

const TAG: &str = "Endpoint";
const TOKEN_MAX: usize = 8_192;
const NAME_MAX: usize = 256;
const KEY_BYTES_MAX: usize = 1_024;

pub(crate) fn operations() -> Vec<Operation> {
    let path = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/authentication";
    vec![
        Operation::new(Method::GET, path, Access::Application, get)
            .described("v1.endpoint.get-authentication", TAG, "Get how attempts authenticate, without its secrets.")
            .answers::<EndpointAuthenticationOut<'static>>(200),
        Operation::editing(Method::PUT, path, Access::Application, put)
            .described(
                "v1.endpoint.set-authentication",
                TAG,
                "Set how attempts authenticate, in place of what was set before, OAuth included.",
            )
            .body::<EndpointAuthenticationIn>()
            .answers_nothing(204),
        Operation::editing(Method::DELETE, path, Access::Application, delete)
            .described("v1.endpoint.delete-authentication", TAG, "Let attempts authenticate by their signature alone.")
            .answers_nothing(204),
    ]
}

/// In which way. `oauth2` is set at `…/oauth`, and only shown here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum AuthenticationType {
    None,
    Basic,
    Bearer,
    Query,
    Hmac,
    Oauth2,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Encoding {
    Hex,
    Base64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum KeyEncoding {
    #[default]
    Text,
    Hex,
    Base64,
}

/// How attempts authenticate. Members that do not belong to the type are refused.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EndpointAuthenticationIn {
    #[schemars(required)]
    r#type: Option<AuthenticationType>,
    /// `basic`: the user name, without a colon.
    #[schemars(length(min = 1, max = 256))]
    username: Option<String>,
    /// `basic`: the password. Absent is empty.
    #[schemars(length(max = 8192))]
    password: Option<String>,
    /// `bearer`: the token. `query`: the parameter's value.
    #[schemars(length(min = 1, max = 8192))]
    token: Option<String>,
    /// `query`: the name of the parameter that is added to the URL; it stands in no log and no recorded attempt.
    #[schemars(length(min = 1, max = 256))]
    parameter: Option<String>,
    /// `hmac`: the header that carries the signature, such as `X-Hub-Signature-256`.
    #[schemars(length(min = 1, max = 256))]
    header: Option<String>,
    /// `hmac`: a further header, for the Unix time of the attempt in seconds.
    #[schemars(length(min = 1, max = 256))]
    timestamp_header: Option<String>,
    /// `hmac`: the hash; `sha256` if absent.
    algorithm: Option<Algorithm>,
    /// `hmac`: how the signature is written; `hex` if absent.
    encoding: Option<Encoding>,
    /// `hmac`: what is signed: text with `{body}`, `{timestamp}` and `{id}`; `{body}` if absent.
    #[schemars(length(min = 1, max = 256))]
    signed: Option<String>,
    /// `hmac`: the header's value: text with `{signature}`, `{timestamp}` and `{id}`, such as `sha256={signature}`;
    /// `{signature}` if absent.
    #[schemars(length(min = 1, max = 256))]
    format: Option<String>,
    /// `hmac`: the key.
    #[schemars(length(min = 1))]
    key: Option<String>,
    /// `hmac`: how the key is written; `text` if absent.
    key_encoding: Option<KeyEncoding>,
}

/// How attempts authenticate. Secrets are set if their type says so, and are never shown.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EndpointAuthenticationOut")]
struct EndpointAuthenticationOut<'a> {
    r#type: AuthenticationType,
    #[serde(skip_serializing_if = "Option::is_none")]
    username: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp_header: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    algorithm: Option<Algorithm>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoding: Option<Encoding>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signed: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<&'a str>,
}

impl EndpointAuthenticationIn {
    fn check(self) -> Result<Option<Credentials>, Error> {
        let mut faults = Faults::new();
        let Some(kind) = faults.required("type", self.r#type) else {
            faults.end()?;
            return Ok(None);
        };
        self.refuse_what_does_not_belong(kind, &mut faults);
        let credentials = match kind {
            AuthenticationType::None => None,
            AuthenticationType::Basic => basic(&mut faults, self.username, self.password),
            AuthenticationType::Bearer => bearer(&mut faults, self.token),
            AuthenticationType::Query => query(&mut faults, self.parameter, self.token),
            AuthenticationType::Hmac => self.hmac(&mut faults),
            AuthenticationType::Oauth2 => {
                faults.add("type", "`oauth2` is set at `…/oauth`, which needs more than fits here");
                None
            }
        };
        faults.end()?;
        Ok(credentials)
    }

    fn refuse_what_does_not_belong(&self, kind: AuthenticationType, faults: &mut Faults) {
        use AuthenticationType::{Basic, Bearer, Hmac, Query};
        let members: [(&str, bool, &[AuthenticationType]); 12] = [
            ("username", self.username.is_some(), &[Basic]),
            ("password", self.password.is_some(), &[Basic]),
            ("token", self.token.is_some(), &[Bearer, Query]),
            ("parameter", self.parameter.is_some(), &[Query]),
            ("header", self.header.is_some(), &[Hmac]),
            ("timestampHeader", self.timestamp_header.is_some(), &[Hmac]),
            ("algorithm", self.algorithm.is_some(), &[Hmac]),
            ("encoding", self.encoding.is_some(), &[Hmac]),
            ("signed", self.signed.is_some(), &[Hmac]),
            ("format", self.format.is_some(), &[Hmac]),
            ("key", self.key.is_some(), &[Hmac]),
            ("keyEncoding", self.key_encoding.is_some(), &[Hmac]),
        ];
        for (name, given, belongs) in members {
            if given && !belongs.contains(&kind) {
                faults.add(name, format!("`{name}` has no meaning for this type; leave it out"));
            }
        }
    }

    fn hmac(self, faults: &mut Faults) -> Option<Credentials> {
        let header = faults.required("header", self.header);
        let names = [("header", header.as_deref()), ("timestampHeader", self.timestamp_header.as_deref())];
        for (member, name) in names.iter().filter_map(|(member, name)| Some((*member, (*name)?))) {
            if let Some(msg) = field::header_name(name) {
                faults.add(member, msg);
            }
        }
        if let (Some(header), Some(other)) = (names[0].1, names[1].1)
            && header.eq_ignore_ascii_case(other)
        {
            faults.add("timestampHeader", "`timestampHeader` must be another header than `header`");
        }
        let mut template = |member: &str, text: Option<String>, default: &str, used| {
            Template::parse(text.as_deref().unwrap_or(default), used)
                .map_err(|error| faults.add(member, format!("`{member}` is no template: {error}")))
                .ok()
        };
        let signed = template("signed", self.signed, "{body}", TemplateUse::Signed);
        let format = template("format", self.format, "{signature}", TemplateUse::Header);
        let key = faults.required("key", self.key);
        let key = key.and_then(|key| match decode(&key, self.key_encoding.unwrap_or_default()) {
            Some(bytes) if (1..=KEY_BYTES_MAX).contains(&bytes.len()) => Some(bytes),
            Some(_) => {
                faults.add("key", format!("`key` must have 1 to {KEY_BYTES_MAX} bytes"));
                None
            }
            None => {
                faults.add("key", "`key` is not written as `keyEncoding` says");
                None
            }
        });
        let algorithm = match self.algorithm.unwrap_or(Algorithm::Sha256) {
            Algorithm::Sha1 => HashAlgorithm::Sha1,
            Algorithm::Sha256 => HashAlgorithm::Sha256,
            Algorithm::Sha512 => HashAlgorithm::Sha512,
        };
        let encoding = match self.encoding.unwrap_or(Encoding::Hex) {
            Encoding::Hex => MacEncoding::Hex,
            Encoding::Base64 => MacEncoding::Base64,
        };
        Some(Credentials::Hmac {
            header: header?,
            timestamp_header: self.timestamp_header,
            hmac: HeaderHmac::new(algorithm, encoding, signed?, format?, key?),
        })
    }
}

fn basic(faults: &mut Faults, username: Option<String>, password: Option<String>) -> Option<Credentials> {
    let username = faults.required("username", username)?;
    let password = password.unwrap_or_default();
    if username.is_empty() || username.len() > NAME_MAX || username.contains(':') || username.contains(is_control) {
        let msg = format!("`username` must have 1 to {NAME_MAX} bytes, without colons and control characters");
        faults.add("username", msg);
    }
    if password.len() > TOKEN_MAX || password.contains(is_control) {
        faults.add("password", format!("`password` must have at most {TOKEN_MAX} bytes, without control characters"));
    }
    Some(Credentials::Basic { username, password: SecretText::new(password) })
}

fn bearer(faults: &mut Faults, token: Option<String>) -> Option<Credentials> {
    let token = faults.required("token", token)?;
    if token.is_empty() || token.len() > TOKEN_MAX || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let msg = format!("`token` must have 1 to {TOKEN_MAX} printable ASCII characters, without spaces");
        faults.add("token", msg);
    }
    Some(Credentials::Bearer { token: SecretText::new(token) })
}

fn query(faults: &mut Faults, parameter: Option<String>, token: Option<String>) -> Option<Credentials> {
    let name = faults.required("parameter", parameter);
    let token = faults.required("token", token);
    let (name, token) = (name?, token?);
    if name.is_empty() || name.len() > NAME_MAX || name.contains(is_control) {
        faults.add("parameter", format!("`parameter` must have 1 to {NAME_MAX} bytes, without control characters"));
    }
    if token.is_empty() || token.len() > TOKEN_MAX || token.contains(is_control) {
        faults.add("token", format!("`token` must have 1 to {TOKEN_MAX} bytes, without control characters"));
    }
    Some(Credentials::Query { name, value: SecretText::new(token) })
}

fn is_control(c: char) -> bool {
    c.is_control()
}

fn decode(key: &str, encoding: KeyEncoding) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = match encoding {
        KeyEncoding::Text => key.as_bytes().to_vec(),
        KeyEncoding::Base64 => BASE64_STANDARD.decode(key).ok()?,
        KeyEncoding::Hex => {
            let digits: Option<Vec<u8>> = key.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
            let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
            digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
        }
    };
    Some(Zeroizing::new(bytes))
}

impl<'a> From<Option<&'a Credentials>> for EndpointAuthenticationOut<'a> {
    fn from(credentials: Option<&'a Credentials>) -> Self {
        let mut out = EndpointAuthenticationOut {
            r#type: AuthenticationType::None,
            username: None,
            parameter: None,
            header: None,
            timestamp_header: None,
            algorithm: None,
            encoding: None,
            signed: None,
            format: None,
        };
        match credentials {
            None => {}
            Some(Credentials::Basic { username, .. }) => {
                out.r#type = AuthenticationType::Basic;
                out.username = Some(username);
            }
            Some(Credentials::Bearer { .. }) => out.r#type = AuthenticationType::Bearer,
            Some(Credentials::Query { name, .. }) => {
                out.r#type = AuthenticationType::Query;
                out.parameter = Some(name);
            }
            Some(Credentials::Hmac { header, timestamp_header, hmac }) => {
                out.r#type = AuthenticationType::Hmac;
                out.header = Some(header);
                out.timestamp_header = timestamp_header.as_deref();
                out.algorithm = Some(match hmac.algorithm() {
                    HashAlgorithm::Sha1 => Algorithm::Sha1,
                    HashAlgorithm::Sha256 => Algorithm::Sha256,
                    HashAlgorithm::Sha512 => Algorithm::Sha512,
                });
                out.encoding = Some(match hmac.encoding() {
                    MacEncoding::Hex => Encoding::Hex,
                    MacEncoding::Base64 => Encoding::Base64,
                });
                out.signed = Some(hmac.signed().as_str());
                out.format = Some(hmac.header().as_str());
            }
            Some(Credentials::Oauth(_)) => out.r#type = AuthenticationType::Oauth2,
        }
        out
    }
}

async fn get(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    Ok(error::json(StatusCode::OK, &EndpointAuthenticationOut::from(endpoint.access.credentials.as_ref())))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let credentials = body.parse::<EndpointAuthenticationIn>()?.check()?;
    store(&call, |endpoint| endpoint.access.credentials = credentials).await
}

async fn delete(call: Call) -> Result<Response, Error> {
    store(&call, |endpoint| endpoint.access.credentials = None).await
}

/// Commits a change of the endpoint of the path, and answers 204.
pub(crate) async fn store(call: &Call, change: impl FnOnce(&mut Endpoint)) -> Result<Response, Error> {
    let mut edit = call.api.edit().await;
    let (_, before) = call.endpoint()?;
    let mut endpoint = Endpoint::clone(&before);
    change(&mut endpoint);
    endpoint_effect::check(Faults::new(), Some(&before), &endpoint)?;
    endpoint.updated_at = call.api.backend().now();
    edit.put(Change::PutEndpoint(Arc::new(endpoint)));
    edit.no_content().await
}

// The document's bounds are numbers in attributes.
const _: () = assert!(TOKEN_MAX == 8_192 && NAME_MAX == 256 && TEMPLATE_BYTES_MAX == 256);
