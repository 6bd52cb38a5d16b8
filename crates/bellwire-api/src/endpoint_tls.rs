//! What is particular about TLS to an endpoint: our client certificate, its own authorities, whether its certificate is
//! verified. The first two are Svix's operations and types.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::endpoint_authentication::store;
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use axum::response::Response;
use bellwire_model::SecretText;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

const TAG: &str = "Endpoint";

pub(crate) fn operations() -> Vec<Operation> {
    let mtls = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/mtls";
    let mtls_status = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/mtls-config";
    let ca = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/ca";
    let verification = "/api/v1/app/{app_id}/endpoint/{endpoint_id}/ssl-verification";
    vec![
        Operation::new(Method::GET, mtls, Access::Application, get_mtls)
            .described("v1.endpoint.get-mtls", TAG, "Get endpoint mTLS configuration: 404 if there is none.")
            .answers::<EndpointMtlsConfigOut>(200),
        Operation::editing(Method::PUT, mtls, Access::Application, put_mtls)
            .described("v1.endpoint.set-mtls-config", TAG, "Set endpoint mTLS configuration.")
            .body::<EndpointMtlsConfigIn>()
            .answers_nothing(204),
        Operation::editing(Method::DELETE, mtls, Access::Application, delete_mtls)
            .described("v1.endpoint.delete-mtls-config", TAG, "Delete endpoint mTLS configuration.")
            .answers_nothing(204),
        Operation::new(Method::GET, mtls_status, Access::Application, get_mtls_status)
            .described(
                "v1.endpoint.get-mtls-2",
                TAG,
                "Get endpoint mTLS status: as `…/mtls`, but 200 with `enabled: false` if there is none.",
            )
            .answers::<EndpointMtlsOut>(200),
        Operation::new(Method::GET, ca, Access::Application, get_ca)
            .described("v1.endpoint.get-server-ca", TAG, "Get the custom CA certificate for the given endpoint.")
            .answers::<EndpointServerCaOut>(200),
        Operation::editing(Method::PUT, ca, Access::Application, put_ca)
            .described("v1.endpoint.set-server-ca", TAG, "Set or unset custom CA certificate for the given endpoint.")
            .body::<EndpointServerCaIn>()
            .answers_nothing(204),
        Operation::new(Method::GET, verification, Access::Application, get_verification)
            .described("v1.endpoint.get-ssl-verification", TAG, "Get whether the endpoint's certificate is verified.")
            .answers::<EndpointSslVerificationOut>(200),
        Operation::editing(Method::PUT, verification, Access::Application, put_verification)
            .described(
                "v1.endpoint.set-ssl-verification",
                TAG,
                "Set whether the endpoint's certificate is verified. Turning it off needs the operator's consent.",
            )
            .body::<EndpointSslVerificationIn>()
            .answers_nothing(204),
    ]
}

/// A client certificate.
#[derive(Deserialize, JsonSchema)]
struct EndpointMtlsConfigIn {
    /// A PEM encoded private key and X.509 certificate to identify the webhook sender.
    #[schemars(required, length(min = 1, max = 65_536))]
    identity: Option<String>,
}

/// Nothing of it is shown.
#[derive(Serialize, JsonSchema)]
struct EndpointMtlsConfigOut {}

/// Whether there is a client certificate.
#[derive(Serialize, JsonSchema)]
struct EndpointMtlsOut {
    enabled: bool,
    config: Option<EndpointMtlsConfigOut>,
}

/// The authorities that the endpoint's certificate must come from.
#[derive(Deserialize, JsonSchema)]
struct EndpointServerCaIn {
    /// PEM encoded X.509 certificates used to verify the webhook receiver's certificate, instead of the standard CAs.
    ///
    /// Set to `null` to use standard CAs.
    #[schemars(length(max = 65_536))]
    cert: Option<String>,
}

/// The authorities that the endpoint's certificate must come from.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "EndpointServerCaOut")]
struct EndpointServerCaOut<'a> {
    /// PEM encoded X.509 certificates. If this is `null`, standard CAs are in use.
    cert: Option<&'a str>,
}

/// Whether certificates are verified.
#[derive(Deserialize, JsonSchema)]
struct EndpointSslVerificationIn {
    /// With `false`, anyone on the way can read and change what is sent.
    #[schemars(required)]
    enabled: Option<bool>,
}

/// Whether certificates are verified.
#[derive(Serialize, JsonSchema)]
struct EndpointSslVerificationOut {
    enabled: bool,
}

async fn get_mtls(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    match endpoint.access.tls.identity {
        Some(_) => Ok(error::json(StatusCode::OK, &EndpointMtlsConfigOut {})),
        None => Err(Error::not_found()),
    }
}

async fn get_mtls_status(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let config = endpoint.access.tls.identity.is_some().then_some(EndpointMtlsConfigOut {});
    Ok(error::json(StatusCode::OK, &EndpointMtlsOut { enabled: config.is_some(), config }))
}

async fn put_mtls(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let mut faults = Faults::new();
    let identity = faults.required("identity", body.parse::<EndpointMtlsConfigIn>()?.identity);
    if let Some(text) = &identity
        && let Err(reason) = call.api.backend().check_tls(Some(text), None)
    {
        faults.add("identity", format!("`identity` {reason}"));
    }
    faults.end()?;
    let identity = identity.map(SecretText::new);
    store(&call, |endpoint| endpoint.access.tls.identity = identity).await
}

async fn delete_mtls(call: Call) -> Result<Response, Error> {
    store(&call, |endpoint| endpoint.access.tls.identity = None).await
}

async fn get_ca(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let cert = endpoint.access.tls.authorities.as_deref();
    Ok(error::json(StatusCode::OK, &EndpointServerCaOut { cert }))
}

async fn put_ca(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let cert = body.parse::<EndpointServerCaIn>()?.cert;
    let mut faults = Faults::new();
    if let Some(text) = &cert
        && let Err(reason) = call.api.backend().check_tls(None, Some(text))
    {
        faults.add("cert", format!("`cert` {reason}"));
    }
    faults.end()?;
    store(&call, |endpoint| endpoint.access.tls.authorities = cert.map(Into::into)).await
}

async fn get_verification(call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    // What was set while the operator allowed it has no effect once she does not.
    let unverified = endpoint.access.tls.unverified && call.api.settings().unverified_tls_allowed;
    Ok(error::json(StatusCode::OK, &EndpointSslVerificationOut { enabled: !unverified }))
}

async fn put_verification(mut call: Call) -> Result<Response, Error> {
    call.endpoint()?;
    let body = call.json().await?;
    let mut faults = Faults::new();
    let enabled = faults.required("enabled", body.parse::<EndpointSslVerificationIn>()?.enabled);
    if enabled == Some(false) && !call.api.settings().unverified_tls_allowed {
        let msg = "certificates are always verified here; the operator can allow it otherwise (egress.allow_unverified_tls), \
                   and a certificate of one's own authority is made known at `…/ca`";
        faults.add("enabled", msg);
    }
    faults.end()?;
    store(&call, |endpoint| endpoint.access.tls.unverified = enabled == Some(false)).await
}
