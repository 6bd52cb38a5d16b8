//! OAuth 2 of an endpoint: attempts carry an access token, by the client credentials grant or by a refresh token. Svix's operations and
//! types.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::endpoint_authentication::store;
use crate::error::{self, Error};
use crate::field::{self, Faults, is_sensitive};
use crate::jwt_key::{JwtAlgorithm, check_jwt_key};
use crate::operation::{Access, Operation};
use crate::wire::Pairs;
use axum::response::Response;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bellwire_model::{
    AssertionAlgorithm, ClientAssertion, ClientAuthentication, Credentials, Oauth, OauthGrant, RefreshToken, SecretText,
};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const TAG: &str = "Endpoint";
const URL_MAX: usize = 4_096;
const TEXT_MAX: usize = 8_192;
const SCOPES_MAX: usize = 64;
const PAIRS_MAX: usize = 32;
/// How long an assertion is valid if nothing is said, and at most.
const ASSERTION_SECONDS: u32 = 300;
const ASSERTION_SECONDS_MAX: u64 = 3_600;
const KEY_MAX: usize = 16_384;

pub(crate) fn operations() -> Vec<Operation> {
    let path = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/oauth";
    let status = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/oauth-config";
    vec![
        Operation::new(Method::GET, path, Access::Application, get)
            .described("v1.endpoint.get-oauth", TAG, "Get endpoint OAuth configuration, without its secrets.")
            .answers::<EndpointOauthConfigOut>(200),
        Operation::editing(Method::PUT, path, Access::Application, put)
            .described(
                "v1.endpoint.set-oauth-config",
                TAG,
                "Set endpoint OAuth configuration, in place of any other authentication.",
            )
            .body::<EndpointOauthConfigIn>()
            .answers_nothing(204),
        Operation::editing(Method::DELETE, path, Access::Application, delete)
            .described("v1.endpoint.delete-oauth-config", TAG, "Delete endpoint OAuth configuration.")
            .answers_nothing(204),
        Operation::new(Method::GET, status, Access::Application, get_status)
            .described(
                "v1.endpoint.get-oauth-2",
                TAG,
                "Get endpoint OAuth status and configuration: as `…/oauth`, but 200 with `enabled: false` if there is none.",
            )
            .answers::<EndpointOauthOut>(200),
    ]
}

/// The grant.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Oauth2GrantTypeInOut {
    ClientCredentials,
    RefreshToken,
}

/// How the client authenticates to the token endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
enum Oauth2AuthMethodInOut {
    #[serde(rename = "clientSecretJwt")]
    Jwt,
    #[serde(rename = "clientSecretBasic")]
    Basic,
    #[serde(rename = "clientSecretPost")]
    Post,
}

/// How to get access tokens.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EndpointOauthConfigIn {
    #[schemars(required)]
    grant_type: Option<Oauth2GrantTypeInOut>,
    #[schemars(required)]
    auth_method: Option<Oauth2AuthMethodInOut>,
    #[schemars(required, length(min = 1, max = 8192))]
    client_id: Option<String>,
    /// For `clientSecretBasic` it goes into the `Authorization` header, for `clientSecretPost` into the body.
    #[schemars(length(min = 1, max = 8192))]
    client_secret: Option<String>,
    /// The URL of the token endpoint.
    #[schemars(required, url, length(min = 1, max = 4096))]
    token_url: Option<String>,
    /// Sent as `scope`, separated by spaces.
    #[schemars(length(max = 64))]
    scopes: Option<Vec<String>>,
    /// Extra parameters added to the request body as key-value pairs, such as `audience`.
    extra_params: Option<Pairs<String>>,
    /// Optional headers added to the token request.
    extra_headers: Option<Pairs<String>>,
    /// For the grant `refreshToken`. When the token endpoint gives another one with an access token, that one is kept before the access token is
    /// used, and used from then on; the one before is tried as long as the new one was not seen to work.
    #[schemars(length(min = 1, max = 8192))]
    refresh_token: Option<String>,
    /// For `clientSecretJwt`, and only for that.
    jwt_params: Option<ClientSecretJwtParamsIn>,
}

/// The JWT that `clientSecretJwt` signs for each request to the token endpoint.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ClientSecretJwtParamsIn {
    #[schemars(required)]
    signing_algorithm: Option<OauthJwsSigningAlgorithm>,
    /// In base64: for RS256 the PEM of a private RSA key (PKCS #8, 2048 to 8192 bits), for HS256 the shared secret.
    #[schemars(required, length(min = 1, max = 16384))]
    secret_base64: Option<String>,
    /// The JWT's `kid`.
    #[schemars(length(min = 1, max = 256))]
    secret_id: Option<String>,
    /// How long each is valid, 300 seconds if nothing is said.
    #[schemars(range(min = 1, max = 3600))]
    token_expiry_secs: Option<u64>,
}

/// How it is signed.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
enum OauthJwsSigningAlgorithm {
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "HS256")]
    Hs256,
}

impl ClientSecretJwtParamsIn {
    fn check(self, faults: &mut Faults) -> Option<ClientAssertion> {
        let within = |name: &'static str| ["jwtParams", name];
        for (name, missing) in
            [("signingAlgorithm", self.signing_algorithm.is_none()), ("secretBase64", self.secret_base64.is_none())]
        {
            if missing {
                faults.add_at(&within(name), format!("`{name}` is required"));
            }
        }
        let lifetime = self.token_expiry_secs.unwrap_or(u64::from(ASSERTION_SECONDS));
        if !(1..=ASSERTION_SECONDS_MAX).contains(&lifetime) {
            let msg = format!("must be 1 to {ASSERTION_SECONDS_MAX}, found {lifetime}");
            faults.add_at(&within("tokenExpirySecs"), msg);
        }
        if self.secret_id.as_ref().is_some_and(|id| !(1..=256).contains(&id.len())) {
            faults.add_at(&within("secretId"), "must have 1 to 256 bytes");
        }
        let (algorithm, given) = (self.signing_algorithm?, self.secret_base64?);
        let decoded = BASE64_STANDARD.decode(given.trim()).ok().filter(|_| given.len() <= KEY_MAX);
        let Some(decoded) = decoded.map(zeroize::Zeroizing::new).filter(|decoded| !decoded.is_empty()) else {
            faults.add_at(&within("secretBase64"), format!("must be base64 of at most {KEY_MAX} characters"));
            return None;
        };
        let (algorithm, key) = match algorithm {
            OauthJwsSigningAlgorithm::Hs256 => (AssertionAlgorithm::Hs256, given.trim().to_owned()),
            OauthJwsSigningAlgorithm::Rs256 => {
                let pem = std::str::from_utf8(&decoded).ok();
                match (pem, check_jwt_key(JwtAlgorithm::Rs256, &decoded)) {
                    (Some(pem), Ok(())) => (AssertionAlgorithm::Rs256, pem.to_owned()),
                    (_, Err(error)) => {
                        faults.add_at(&within("secretBase64"), error.to_string());
                        return None;
                    }
                    (None, Ok(())) => {
                        faults.add_at(&within("secretBase64"), "the PEM must be ASCII");
                        return None;
                    }
                }
            }
        };
        let lifetime_seconds = u32::try_from(lifetime).unwrap_or(ASSERTION_SECONDS);
        Some(ClientAssertion { algorithm, key: SecretText::new(key), key_id: self.secret_id, lifetime_seconds })
    }
}

/// What is set. Sensitive values of the extra headers are left out, like all secrets.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EndpointOauthConfigOut {
    grant_type: Oauth2GrantTypeInOut,
    auth_method: Oauth2AuthMethodInOut,
    client_id: String,
    token_url: String,
    scopes: Option<Vec<String>>,
    extra_params: Option<Pairs<String>>,
    extra_headers: Option<Pairs<String>>,
}

/// Whether, and what is set.
#[derive(Serialize, JsonSchema)]
struct EndpointOauthOut {
    enabled: bool,
    config: Option<EndpointOauthConfigOut>,
}

impl EndpointOauthConfigIn {
    fn check(self, call: &Call) -> Result<Oauth, Error> {
        let mut faults = Faults::new();
        let printable = |faults: &mut Faults, name: &str, text: &str| {
            // RFC 6749, appendix A.1, A.2 and A.17.
            if text.len() > TEXT_MAX || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                faults.add(name, format!("`{name}` must have at most {TEXT_MAX} printable ASCII characters"));
            }
        };
        let grant = match faults.required("grantType", self.grant_type) {
            Some(Oauth2GrantTypeInOut::RefreshToken) => {
                let token = faults.required("refreshToken", self.refresh_token).unwrap_or_default();
                printable(&mut faults, "refreshToken", &token);
                OauthGrant::RefreshToken(RefreshToken::new(SecretText::new(token)))
            }
            _ => {
                if self.refresh_token.is_some() {
                    faults.add("refreshToken", "belongs to the grant `refreshToken`, not to `clientCredentials`");
                }
                OauthGrant::ClientCredentials
            }
        };
        let client_id = faults.required("clientId", self.client_id).unwrap_or_default();
        printable(&mut faults, "clientId", &client_id);
        let method = match faults.required("authMethod", self.auth_method) {
            Some(Oauth2AuthMethodInOut::Jwt) => {
                if self.client_secret.is_some() {
                    faults.add("clientSecret", "belongs to `clientSecretBasic` and `clientSecretPost`");
                }
                let params = faults.required("jwtParams", self.jwt_params);
                params.and_then(|params| params.check(&mut faults)).map(ClientAuthentication::Jwt)
            }
            by_secret => {
                if self.jwt_params.is_some() {
                    faults.add("jwtParams", "belongs to `clientSecretJwt`");
                }
                let secret = faults.required("clientSecret", self.client_secret).unwrap_or_default();
                printable(&mut faults, "clientSecret", &secret);
                let secret = SecretText::new(secret);
                Some(match by_secret {
                    Some(Oauth2AuthMethodInOut::Post) => ClientAuthentication::Post(secret),
                    _ => ClientAuthentication::Basic(secret),
                })
            }
        };
        let token_url = faults.required("tokenUrl", self.token_url).unwrap_or_default();
        if !token_url.is_empty() {
            check_token_url(&mut faults, call, &token_url);
        }
        let scopes = self.scopes.unwrap_or_default();
        // RFC 6749 §3.3.
        let is_scope = |text: &String| {
            (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\')
        };
        if scopes.len() > SCOPES_MAX || !scopes.iter().all(is_scope) {
            let msg = format!("`scopes` must have at most {SCOPES_MAX} items of 1 to 256 printable ASCII characters");
            faults.add("scopes", msg);
        }
        let parameters = self.extra_params.unwrap_or_default().0;
        for (name, value) in &parameters {
            if OWN_PARAMETERS.contains(&name.as_str()) {
                faults.add_at(&["extraParams", name], "is set by a member of its own");
            } else if name.is_empty() || name.len() > 256 || value.len() > TEXT_MAX {
                let msg = format!("a name must have 1 to 256 bytes, and a value at most {TEXT_MAX}");
                faults.add_at(&["extraParams", name], msg);
            }
        }
        let headers = self.extra_headers.unwrap_or_default().0;
        for (name, value) in &headers {
            if name.eq_ignore_ascii_case("accept") || name.eq_ignore_ascii_case("authorization") {
                faults.add_at(&["extraHeaders", name], "is set by the server and cannot be chosen");
            } else if let Some(msg) = field::header_name(name) {
                faults.add_at(&["extraHeaders", name], msg);
            } else if let Some(msg) = field::header_value(value) {
                faults.add_at(&["extraHeaders", name], msg);
            }
        }
        for (name, count) in [("extraParams", parameters.len()), ("extraHeaders", headers.len())] {
            if count > PAIRS_MAX {
                faults.add(name, format!("`{name}` must have at most {PAIRS_MAX} members, not {count}"));
            }
        }
        faults.end()?;
        let method = method.ok_or_else(|| Error::Internal("an authentication without a fault is none".to_owned()))?;
        let secret = |(name, value): (String, String)| (name, SecretText::new(value));
        Ok(Oauth {
            token_url,
            grant,
            client_id,
            method,
            scopes,
            parameters: parameters.into_iter().map(secret).collect(),
            headers: headers.into_iter().map(secret).collect(),
        })
    }
}

fn check_token_url(faults: &mut Faults, call: &Call, text: &str) {
    let url = match url::Url::parse(text) {
        Ok(url) if text.len() <= URL_MAX && matches!(url.scheme(), "http" | "https") => url,
        _ => {
            let msg = format!("`tokenUrl` must be a URL of http or https with at most {URL_MAX} characters");
            return faults.add("tokenUrl", msg);
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return faults
            .add("tokenUrl", "`tokenUrl` must not hold a user name or password; that is what `clientId` is for");
    }
    if call.api.settings().https_only && url.scheme() != "https" {
        return faults.add("tokenUrl", "Endpoint URL schemes must be https when endpoint_https_only is set.");
    }
    if let Err(reason) = call.api.backend().check_url(&url) {
        faults.add("tokenUrl", reason);
    }
}

impl From<&Oauth> for EndpointOauthConfigOut {
    fn from(oauth: &Oauth) -> Self {
        let shown = |pairs: &[(String, SecretText)], hidden: fn(&str) -> bool| {
            let pairs = pairs.iter().filter(|(name, _)| !hidden(name));
            let pairs: Vec<_> = pairs.map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect();
            (!pairs.is_empty()).then_some(Pairs(pairs))
        };
        EndpointOauthConfigOut {
            grant_type: match oauth.grant {
                OauthGrant::ClientCredentials => Oauth2GrantTypeInOut::ClientCredentials,
                OauthGrant::RefreshToken(_) => Oauth2GrantTypeInOut::RefreshToken,
            },
            auth_method: match oauth.method {
                ClientAuthentication::Basic(_) => Oauth2AuthMethodInOut::Basic,
                ClientAuthentication::Post(_) => Oauth2AuthMethodInOut::Post,
                ClientAuthentication::Jwt(_) => Oauth2AuthMethodInOut::Jwt,
            },
            client_id: oauth.client_id.clone(),
            token_url: oauth.token_url.clone(),
            scopes: (!oauth.scopes.is_empty()).then(|| oauth.scopes.clone()),
            extra_params: shown(&oauth.parameters, is_sensitive_parameter),
            extra_headers: shown(&oauth.headers, is_sensitive),
        }
    }
}

/// What members of their own say.
const OWN_PARAMETERS: [&str; 7] =
    ["grant_type", "scope", "client_id", "client_secret", "refresh_token", "client_assertion", "client_assertion_type"];

/// Whether a parameter's value is not shown to who reads the endpoint.
fn is_sensitive_parameter(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    ["secret", "password", "token", "assertion", "key"].iter().any(|word| lower.contains(word))
}

async fn get(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    match &endpoint.access.credentials {
        Some(Credentials::Oauth(oauth)) => Ok(error::json(StatusCode::OK, &EndpointOauthConfigOut::from(&**oauth))),
        _ => Err(Error::not_found()),
    }
}

async fn get_status(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let config = match &endpoint.access.credentials {
        Some(Credentials::Oauth(oauth)) => Some(EndpointOauthConfigOut::from(&**oauth)),
        _ => None,
    };
    Ok(error::json(StatusCode::OK, &EndpointOauthOut { enabled: config.is_some(), config }))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let oauth = body.parse::<EndpointOauthConfigIn>()?.check(&call)?;
    store(&call, |endpoint| endpoint.access.credentials = Some(Credentials::Oauth(Arc::new(oauth)))).await
}

/// Another authentication stays.
async fn delete(call: Call) -> Result<Response, Error> {
    store(&call, |endpoint| {
        endpoint.access.credentials.take_if(|credentials| matches!(credentials, Credentials::Oauth(_)));
    })
    .await
}
