//! OAuth 2 of an endpoint: attempts carry an access token of the client credentials grant. Svix's operations and types.

use crate::call::Call;
use crate::endpoint_authentication::store;
use crate::error::{self, Error};
use crate::field::{self, Faults, is_sensitive};
use crate::operation::{Access, Operation};
use crate::wire::Pairs;
use axum::response::Response;
use bellwire_model::{ClientAuthentication, Credentials, Oauth, SecretText};
use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const TAG: &str = "Endpoint";
const URL_MAX: usize = 4_096;
const TEXT_MAX: usize = 8_192;
const SCOPES_MAX: usize = 64;
const PAIRS_MAX: usize = 32;

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

/// The grant; `refreshToken` is not supported.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Oauth2GrantTypeInOut {
    ClientCredentials,
    RefreshToken,
}

/// How the client authenticates to the token endpoint; `clientSecretJwt` is not supported.
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
    /// Refused, as its grant.
    refresh_token: Option<String>,
    /// Refused, as its method.
    jwt_params: Option<ClientSecretJwtParamsIn>,
}

/// What `clientSecretJwt` would need.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "so that a client's types fit and the refusal says what is not supported")]
struct ClientSecretJwtParamsIn {
    signing_algorithm: Option<OauthJwsSigningAlgorithm>,
    secret_base64: Option<String>,
    secret_id: Option<String>,
    token_expiry_secs: Option<u64>,
}

/// Of the token that would be signed.
#[derive(Deserialize, JsonSchema)]
enum OauthJwsSigningAlgorithm {
    #[serde(rename = "RS256")]
    Rs256,
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
        if faults.required("grantType", self.grant_type) == Some(Oauth2GrantTypeInOut::RefreshToken) {
            faults.add("grantType", "only `clientCredentials` is supported");
        }
        if self.refresh_token.is_some() {
            faults.add("refreshToken", "only the grant `clientCredentials` is supported, which has no refresh token");
        }
        let method = match faults.required("authMethod", self.auth_method) {
            Some(Oauth2AuthMethodInOut::Post) => ClientAuthentication::Post,
            Some(Oauth2AuthMethodInOut::Jwt) => {
                faults.add("authMethod", "only `clientSecretBasic` and `clientSecretPost` are supported");
                ClientAuthentication::Basic
            }
            _ => ClientAuthentication::Basic,
        };
        if self.jwt_params.is_some() {
            faults.add("jwtParams", "`clientSecretJwt`, to which this belongs, is not supported");
        }
        let client_id = faults.required("clientId", self.client_id).unwrap_or_default();
        let client_secret = faults.required("clientSecret", self.client_secret).unwrap_or_default();
        for (name, text) in [("clientId", &client_id), ("clientSecret", &client_secret)] {
            // RFC 6749, appendix A.1 and A.2.
            if text.len() > TEXT_MAX || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
                faults.add(name, format!("`{name}` must have at most {TEXT_MAX} printable ASCII characters"));
            }
        }
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
            if ["grant_type", "scope", "client_id", "client_secret"].contains(&name.as_str()) {
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
        let secret = |(name, value): (String, String)| (name, SecretText::new(value));
        Ok(Oauth {
            token_url,
            client_id,
            client_secret: SecretText::new(client_secret),
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
            grant_type: Oauth2GrantTypeInOut::ClientCredentials,
            auth_method: match oauth.method {
                ClientAuthentication::Basic => Oauth2AuthMethodInOut::Basic,
                ClientAuthentication::Post => Oauth2AuthMethodInOut::Post,
            },
            client_id: oauth.client_id.clone(),
            token_url: oauth.token_url.clone(),
            scopes: (!oauth.scopes.is_empty()).then(|| oauth.scopes.clone()),
            extra_params: shown(&oauth.parameters, is_sensitive_parameter),
            extra_headers: shown(&oauth.headers, is_sensitive),
        }
    }
}

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
