//! The HTTP contract under `/api/v1`: one file per resource with its wire types.
//!
//! It is Svix's public API, so that its SDKs work unchanged for the operations that are here; what we add stays in the same
//! style. The server calls [`router`] and implements [`Backend`]; everything durable happens behind that.
//!
//! A request's way: [`router`] finds its operation, the operation checks the token against the access it declares, the
//! handler reads the body ([`json`](self)), decides, and either hands a message to [`Backend::accept`] or changes
//! configuration in an *edit*: under one lock, from reading the catalogue to the commit. An operation is declared once, in its
//! resource's `operations()`; routes, access and the OpenAPI document all come from there. To add one, add it there.
//!
//! Left to others: sockets, TLS and slow clients (the server), who gets a message (`engine`), how it is kept (`store`).

pub mod backend;

mod operation;
mod call;
mod jwt_key;
mod auth;
mod permission;
mod rate;
mod json;
mod idempotency;
mod edit;
mod page;
mod error;
mod field;
mod wire;

mod application;
mod endpoint;
mod endpoint_in;
mod endpoint_effect;
mod endpoint_headers;
mod endpoint_kind;
mod plugin;
mod endpoint_shape;
mod endpoint_transformation;
mod endpoint_secret;
mod endpoint_authentication;
mod endpoint_oauth;
mod endpoint_tls;
mod event_type;
mod openapi_import;
mod event_type_import;
mod catalogue_document;
mod event_type_export;
mod event_type_retry;
mod message;
mod wait;
mod explain;
mod explain_text;
mod message_look;
mod schema_bounds;
mod schema;
mod payload;
mod example;
mod try_out;
mod attempt;
mod delivery;
pub mod pipe;
mod task;
mod replay;
mod purge;
mod broadcast;
mod environment_settings;
mod usage;
mod operational_endpoint;
mod stats;
mod api_token;
mod source;
mod source_in;
mod source_wire;
mod source_secret;
mod source_way;
mod source_request;
mod portal;
mod health;
mod elsewhere;
mod document;
#[cfg(feature = "document")]
mod openapi;

pub use auth::{MintError, Principal, mint_token, mint_token_by};
pub use backend::Backend;
pub use field::{event_type_fault, header_fault};
pub use idempotency::event_key;
pub use jwt_key::{JwtAlgorithm, JwtKeyError, check_jwt_key};
#[cfg(feature = "document")]
pub use openapi::document as openapi_document;
pub use payload::PayloadSchema;
pub use plugin::runs_module;
pub use rate::RateLimit;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use bellwire_shape::Scripts;
use bellwire_signature::SecretKind;
use http::{HeaderName, Method, StatusCode, Uri};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;
use tower_http::cors::{AllowHeaders, Any, CorsLayer};

/// What the operator decides about the API.
#[derive(Clone)]
pub struct Settings {
    /// Tokens signed with it are valid. While it is empty, none are.
    pub jwt_secret: Vec<u8>,
    /// Tokens signed with one of these are valid, too: secrets that are being replaced.
    pub jwt_secrets_before: Vec<Vec<u8>>,
    /// How tokens are signed.
    pub jwt_algorithm: JwtAlgorithm,
    /// How often a token may be used; without limit if absent.
    pub rate_limit: Option<RateLimit>,
    /// Where the portal is, without a slash at its end; at the address of the request if absent.
    pub app_portal_url: Option<String>,
    /// Clients speak TLS with us.
    pub serves_tls: bool,
    /// Endpoints must be `https`.
    pub https_only: bool,
    /// An endpoint may ask that its certificate be not verified.
    pub unverified_tls_allowed: bool,
    /// What a new endpoint's secret is, unless its creator brings one.
    pub default_secret_kind: SecretKind,
    /// A larger payload is refused with 413.
    pub payload_bytes_max: usize,
    /// A larger request body is refused with 413.
    pub body_bytes_max: usize,
    /// A deeper JSON body is refused with 400.
    pub json_depth_max: usize,
    /// A JSON body with more members, of all its objects together, is refused with 400.
    pub json_keys_max: usize,
    /// How many verified tokens are remembered.
    pub token_cache_max: usize,
    /// So many requests read the store at the same time; the next ones wait. Fewer than the threads that may block, or due
    /// deliveries would wait for lists.
    pub reads_max: usize,
    /// Where scripts are checked and tried out.
    pub scripts: Scripts,
}

impl Default for Settings {
    /// Everything as documented, and no token valid.
    fn default() -> Self {
        Settings {
            jwt_secret: Vec::new(),
            jwt_secrets_before: Vec::new(),
            jwt_algorithm: JwtAlgorithm::default(),
            rate_limit: None,
            app_portal_url: None,
            serves_tls: false,
            https_only: false,
            unverified_tls_allowed: false,
            default_secret_kind: SecretKind::Symmetric,
            payload_bytes_max: 1024 * 1024,
            body_bytes_max: 2 * 1024 * 1024,
            json_depth_max: 64,
            json_keys_max: 65_536,
            token_cache_max: 4_096,
            reads_max: 3,
            scripts: Scripts::default(),
        }
    }
}

impl std::fmt::Debug for Settings {
    /// Without the secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Settings")
            .field("https_only", &self.https_only)
            .field("unverified_tls_allowed", &self.unverified_tls_allowed)
            .field("default_secret_kind", &self.default_secret_kind)
            .field("payload_bytes_max", &self.payload_bytes_max)
            .field("body_bytes_max", &self.body_bytes_max)
            .field("json_depth_max", &self.json_depth_max)
            .field("json_keys_max", &self.json_keys_max)
            .field("token_cache_max", &self.token_cache_max)
            .field("reads_max", &self.reads_max)
            .finish_non_exhaustive()
    }
}

/// What every handler has. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    backend: Arc<dyn Backend>,
    tokens: auth::Tokens,
    settings: Settings,
    schemas: payload::Schemas,
    /// Who may read the store at the same time.
    reads: tokio::sync::Semaphore,
}

impl Api {
    /// On a backend.
    pub fn new(backend: Arc<dyn Backend>, settings: Settings) -> Self {
        let tokens = auth::Tokens::new(&settings);
        let reads = tokio::sync::Semaphore::new(settings.reads_max.max(1));
        Api(Arc::new(Shared { backend, tokens, settings, schemas: payload::Schemas::default(), reads }))
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.0.backend
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.0.settings
    }

    pub(crate) fn schemas(&self) -> &payload::Schemas {
        &self.0.schemas
    }

    pub(crate) fn reads(&self) -> &tokio::sync::Semaphore {
        &self.0.reads
    }

    pub(crate) fn tokens(&self) -> &auth::Tokens {
        &self.0.tokens
    }
}

/// All operations, in the order of the document.
pub(crate) fn operations() -> Vec<operation::Operation> {
    let mut all = Vec::new();
    all.extend(application::operations());
    all.extend(endpoint::operations());
    all.extend(endpoint_headers::operations());
    all.extend(endpoint_transformation::operations());
    all.extend(endpoint_secret::operations());
    all.extend(endpoint_authentication::operations());
    all.extend(endpoint_oauth::operations());
    all.extend(endpoint_tls::operations());
    all.extend(event_type::operations());
    all.extend(event_type_import::operations());
    all.extend(event_type_export::operations());
    all.extend(event_type_retry::operations());
    all.extend(message::operations());
    all.extend(explain::operations());
    all.extend(message_look::operations());
    all.extend(try_out::operations());
    all.extend(plugin::operations());
    all.extend(attempt::operations());
    all.extend(delivery::operations());
    all.extend(pipe::operations());
    all.extend(replay::operations());
    all.extend(purge::operations());
    all.extend(broadcast::operations());
    all.extend(environment_settings::operations());
    all.extend(usage::operations());
    all.extend(task::operations());
    all.extend(operational_endpoint::operations());
    all.extend(stats::operations());
    all.extend(portal::operations());
    all.extend(api_token::operations());
    all.extend(source::operations());
    all.extend(source_secret::operations());
    all.extend(source_way::operations());
    all.extend(source_request::operations());
    all.extend(health::operations());
    all
}

/// The API as a router: its operations, its OpenAPI document, and trailing slashes as if they were not there. Svix's operations
/// that are not here get 501; paths that nobody knows get 404 without a body.
pub fn router(state: Api) -> Router {
    let operations = operations();
    let here = elsewhere::here(&operations);
    let mut routes = Router::new();
    for operation in operations {
        routes = routes.route(operation.path, operation.route);
    }
    let routes = elsewhere::routes(routes, &here)
        .route("/api/v1/openapi.json", axum::routing::get(openapi_served))
        .route("/openapi.json", axum::routing::get(openapi_served))
        .with_state(state);
    // A path with a slash too many matches nothing; the others do not pay for it.
    let again = routes.clone();
    routes.fallback(move |request| without_slash(again.clone(), request))
}

/// The same for requests of web pages, which name their origin: with CORS, for any of them. Programs ask for nothing of it, and it costs
/// a dozen allocations for each request.
pub fn for_pages(router: Router) -> Router {
    router.layer(cors())
}

/// The OpenAPI document, as the tests wrote it.
async fn openapi_served() -> axum::response::Response {
    error::bytes(StatusCode::OK, include_str!("../../../docs/openapi.json"))
}

async fn without_slash(routes: Router, mut request: Request) -> axum::response::Response {
    let Some(uri) = trimmed(request.uri()) else { return StatusCode::NOT_FOUND.into_response() };
    *request.uri_mut() = uri;
    match routes.oneshot(request).await {
        Ok(answer) => answer,
        Err(never) => match never {},
    }
}

/// The same address without slashes at the end of its path, if it has any.
fn trimmed(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let short = path.trim_end_matches('/');
    if short.len() == path.len() || short.is_empty() {
        return None;
    }
    let text = match uri.query() {
        Some(query) => format!("{short}?{query}"),
        None => short.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(text.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// Any page may call: the token is in a header that browsers never add by themselves.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE])
        // `*` would leave out `authorization`.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static("retry-after"), payload::WARNING])
        .max_age(Duration::from_secs(600))
}
