//! What a token may do, beyond whose data it is about: scopes of registered tokens, capabilities of portal tokens.
//!
//! Every operation needs one permission. Which one is said here for all of them, in one table that allows: what it does not
//! know needs [`Permission::Manage`], which only a token without limits has.

use crate::document::JsonSchema;
use crate::error::Error;
use bellwire_model::Scope;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};

/// What an operation needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Permission {
    /// Nothing but a valid token: it is about the token itself.
    Own,
    /// See what is no secret.
    Read,
    /// See secrets.
    ReadSecret,
    /// Replace an endpoint's secret.
    ManageSecret,
    /// Create a message, and with it its application.
    SendMessage,
    /// Have messages sent again, send examples, and take what waits at a pipe.
    CreateAttempt,
    /// Change an endpoint's transformation.
    ManageTransformation,
    /// Change endpoints.
    ManageEndpoint,
    /// Everything else.
    Manage,
}

impl Permission {
    /// What the operation needs.
    pub(crate) fn of(method: &Method, path: &str) -> Permission {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        let last = path.rsplit('/').next().unwrap_or_default();
        let endpoint = path.starts_with("/api/v1/app/{app_id}/endpoint");
        match path {
            "/api/v1/auth/whoami" | "/api/v1/auth/logout" => Permission::Own,
            "/api/v1/app/{app_id}/msg" | "/api/v1/app/{app_id}/msg/stream" if *method == Method::POST => {
                Permission::SendMessage
            }
            // It gives nothing that its holder's own token would not.
            _ if endpoint && last == "ticket" => Permission::Read,
            "/api/v1/app/{app_id}/msg/precheck/active"
            | "/api/v1/app/{app_id}/msg/search"
            | "/api/v1/environment/export" => Permission::Read,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/ws" => Permission::CreateAttempt,
            _ if reads && matches!(last, "secret" | "oauth" | "mtls" | "token") => Permission::ReadSecret,
            _ if reads => Permission::Read,
            _ if endpoint && path.ends_with("/secret/rotate") => Permission::ManageSecret,
            _ if endpoint
                && matches!(last, "recover" | "replay-missing" | "bulk-replay" | "send-example" | "test-attempt") =>
            {
                Permission::CreateAttempt
            }
            "/api/v1/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/resend" => Permission::CreateAttempt,
            _ if path.contains("/{endpoint_id}/pull/") || path.contains("/poller/{sink_id}/") => {
                Permission::CreateAttempt
            }
            _ if endpoint && matches!(last, "transformation" | "simulate") => Permission::ManageTransformation,
            _ if endpoint => Permission::ManageEndpoint,
            _ => Permission::Manage,
        }
    }

    /// The capability that gives it, if one does.
    const fn capability(self) -> &'static str {
        match self {
            Permission::Own | Permission::Read => "ViewBase",
            Permission::ReadSecret => "ViewEndpointSecret",
            Permission::ManageSecret => "ManageEndpointSecret",
            Permission::CreateAttempt => "CreateAttempts",
            Permission::ManageTransformation => "ManageTransformations",
            Permission::ManageEndpoint => "ManageEndpoint",
            Permission::SendMessage | Permission::Manage => "an operator's token",
        }
    }

    /// The scopes that give it.
    const fn scopes(self) -> &'static str {
        match self {
            Permission::Own | Permission::Read => "full or read-only",
            Permission::SendMessage => "full or send-only",
            _ => "full",
        }
    }
}

/// A capability of a portal token, as Svix names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AppPortalCapability")]
pub(crate) enum Capability {
    // See everything but secrets; every portal token needs it.
    ViewBase,
    // See an endpoint's secret.
    ViewEndpointSecret,
    // Replace and see an endpoint's secret.
    ManageEndpointSecret,
    // Change an endpoint's transformation.
    ManageTransformations,
    // Replay messages and send examples.
    CreateAttempts,
    // Change everything about endpoints, secrets included.
    ManageEndpoint,
}

impl Capability {
    const fn name(self) -> &'static str {
        match self {
            Capability::ViewBase => "ViewBase",
            Capability::ViewEndpointSecret => "ViewEndpointSecret",
            Capability::ManageEndpointSecret => "ManageEndpointSecret",
            Capability::ManageTransformations => "ManageTransformations",
            Capability::CreateAttempts => "CreateAttempts",
            Capability::ManageEndpoint => "ManageEndpoint",
        }
    }

    const fn gives(self) -> &'static [Permission] {
        use Permission::*;
        match self {
            Capability::ViewBase => &[Read],
            Capability::ViewEndpointSecret => &[ReadSecret],
            Capability::ManageEndpointSecret => &[ReadSecret, ManageSecret],
            Capability::ManageTransformations => &[ManageTransformation],
            Capability::CreateAttempts => &[CreateAttempt],
            Capability::ManageEndpoint => &[ReadSecret, ManageSecret, ManageTransformation, ManageEndpoint],
        }
    }
}

/// Whether a token with these scopes may do what needs `needed`.
///
/// # Errors
/// 403 that names the scopes.
pub(crate) fn check_scopes(scopes: &[Scope], needed: Permission) -> Result<(), Error> {
    let allows = |scope: &Scope| match scope {
        Scope::Full => true,
        Scope::ReadOnly => needed == Permission::Read,
        Scope::SendOnly => needed == Permission::SendMessage,
    };
    if needed == Permission::Own || scopes.iter().any(allows) {
        return Ok(());
    }
    let have: Vec<_> = scopes.iter().map(|scope| scope.name()).collect();
    let has = format!("This token has the scope {}", have.join(" and "));
    Err(insufficient(format!("{has}; this operation needs {}.", needed.scopes())))
}

/// The same for a portal token's capabilities.
///
/// # Errors
/// 403 that names the capabilities.
pub(crate) fn check_capabilities(capabilities: &[Capability], needed: Permission) -> Result<(), Error> {
    if needed == Permission::Own || capabilities.iter().any(|capability| capability.gives().contains(&needed)) {
        return Ok(());
    }
    let have: Vec<_> = capabilities.iter().map(|capability| capability.name()).collect();
    let has = format!("This token has the capabilities {}", have.join(", "));
    Err(insufficient(format!("{has}; this operation needs {}.", needed.capability())))
}

fn insufficient(detail: String) -> Error {
    Error::refused(StatusCode::FORBIDDEN, "insufficient access", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_operation_needs() {
        use Permission::*;
        let cases = [
            ("GET", "/api/v1/app", Read),
            ("POST", "/api/v1/app", Manage),
            ("DELETE", "/api/v1/app/{app_id}", Manage),
            ("POST", "/api/v1/app/{app_id}/msg", SendMessage),
            ("GET", "/api/v1/app/{app_id}/msg", Read),
            ("GET", "/api/v1/app/{app_id}/endpoint/{endpoint_id}/secret", ReadSecret),
            ("POST", "/api/v1/app/{app_id}/endpoint/{endpoint_id}/secret/rotate", ManageSecret),
            ("POST", "/api/v1/app/{app_id}/endpoint/{endpoint_id}/recover", CreateAttempt),
            ("POST", "/api/v1/app/{app_id}/msg/{msg_id}/endpoint/{endpoint_id}/resend", CreateAttempt),
            ("PATCH", "/api/v1/app/{app_id}/endpoint/{endpoint_id}/transformation", ManageTransformation),
            ("PUT", "/api/v1/app/{app_id}/endpoint/{endpoint_id}/headers", ManageEndpoint),
            ("GET", "/api/v1/app/{app_id}/endpoint/{endpoint_id}/stream", Read),
            ("POST", "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/ack", CreateAttempt),
            ("POST", "/api/v1/app/{app_id}/poller/{sink_id}/consumer/{consumer_id}/seek", CreateAttempt),
            ("GET", "/api/v1/auth/whoami", Own),
            ("POST", "/api/v1/auth/app/{app_id}/expire-all", Manage),
            ("DELETE", "/something/new", Manage),
        ];
        for (method, path, expected) in cases {
            let method: Method = method.parse().expect("a method");
            assert_eq!(Permission::of(&method, path), expected, "{method} {path}");
        }
    }
}
