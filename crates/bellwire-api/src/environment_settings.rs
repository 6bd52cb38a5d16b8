//! What Svix's clients ask before they show a portal: which features there are. Here that follows from the program; what can be set is in
//! `bellwire config`, and colours, fonts and names of a portal are none of this program's.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::operation::{Access, Operation};
use axum::response::Response;
use http::{Method, StatusCode};
use serde::Serialize;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/environment/settings", Access::Reader, get)
            .described(
                "v1.environment.get-settings",
                "Environment-Settings",
                "Get which features there are. Nothing of it can be set by the API.",
            )
            .answers::<EnvironmentSettingsOut>(200),
    ]
}

/// Which features there are.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct EnvironmentSettingsOut {
    /// Endpoints can filter by channels.
    enable_channels: bool,
    /// Messages can have tags, and lists be filtered by them.
    enable_message_tags: bool,
    /// Svix Stream; pipes are streams of an application's messages here.
    enable_message_stream: bool,
    /// Keys for marketplaces; tokens with scopes do that here.
    enable_integration_management: bool,
    /// Endpoints can have transformations.
    enable_transformations: bool,
    /// Endpoints can have OAuth.
    enable_endpoint_oauth_config: bool,
    /// Endpoints can have a client certificate.
    enable_endpoint_mtls_config: bool,
    show_use_svix_play: bool,
    show_svix_brand_footer: bool,
    /// Whether payloads go as soon as they are delivered.
    wipe_successful_payload: bool,
    show_feature_tooltips: bool,
    /// Svix's own kinds of endpoints; ours are in `kind`.
    advanced_endpoint_types: Vec<String>,
}

async fn get(_: Call) -> Result<Response, Error> {
    let settings = EnvironmentSettingsOut {
        enable_channels: true,
        enable_message_tags: true,
        enable_message_stream: false,
        enable_integration_management: false,
        enable_transformations: true,
        enable_endpoint_oauth_config: true,
        enable_endpoint_mtls_config: true,
        show_use_svix_play: false,
        show_svix_brand_footer: false,
        wipe_successful_payload: false,
        show_feature_tooltips: false,
        advanced_endpoint_types: Vec::new(),
    };
    Ok(error::json(StatusCode::OK, &settings))
}
