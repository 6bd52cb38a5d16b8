//! An application's own tokens: made for its portal, logged out, expired together; and who a token is.
//!
//! A portal token is not registered: it is signed, and lives seven days at most. What takes it back is kept instead
//! ([`Logout`], [`Cutoff`]), which works alike for application tokens that somebody else signed.

use crate::Api;
use crate::api_token::{ending, expire_ahead};
use crate::application::ApplicationIn;
use crate::auth::{Claims, Principal};
use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::Begun;
use crate::error::{self, Error};
use crate::field::{Faults, is_name};
use crate::operation::{Access, Operation};
use crate::permission::Capability;
use crate::wire::Text;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bellwire_engine::ApplicationEntry;
use bellwire_model::{ApplicationId, Cutoff, Logout, OrganisationId, PortalTokenId, TokenChange};
use bellwire_store::Change;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::time::Duration;

const TAG: &str = "Authentication";
const FLAGS_MAX: usize = 25;
const FLAG_MAX: usize = 256;
const SESSION_MAX: usize = 64;
const SESSIONS_MAX: usize = 1_000;
/// How long a portal token lives, in seconds: at least an hour, at most and by default seven days.
const EXPIRY_MIN: u64 = 3_600;
const EXPIRY_MAX: u64 = 604_800;

pub(crate) fn operations() -> Vec<Operation> {
    let access = "/api/v1/auth/app-portal-access/{app_id}";
    let older = "/api/v1/auth/dashboard-access/{app_id}";
    let expired = "/api/v1/auth/app/{app_id}/expire-all";
    vec![
        Operation::editing(Method::POST, access, Access::Organisation, portal_access)
            .described(
                "v1.authentication.app-portal-access",
                TAG,
                "Get a link to the application portal, and the token that is in it.",
            )
            .body_or_nothing::<AppPortalAccessIn>()
            .answers::<AppPortalAccessOut>(200),
        Operation::editing(Method::POST, older, Access::Organisation, portal_access)
            .described("v1.authentication.dashboard-access", TAG, "The older name of app-portal-access; needs no body.")
            .body_or_nothing::<AppPortalAccessIn>()
            .answers::<AppPortalAccessOut>(200),
        Operation::editing(Method::POST, expired, Access::Organisation, expire_all)
            .described(
                "v1.authentication.expire-all",
                TAG,
                "Expire all tokens of an application that were issued until now, or those of some of its sessions.",
            )
            .body_or_nothing::<ApplicationTokenExpireIn>()
            .answers_nothing(204),
        Operation::editing(Method::POST, "/api/v1/auth/logout", Access::Reader, logout)
            .described(
                "v1.authentication.logout",
                TAG,
                "Expire the token of this request, which must be an application's.",
            )
            .answers_nothing(204),
        Operation::new(Method::GET, "/api/v1/auth/whoami", Access::Reader, whoami)
            .described("v1.authentication.whoami", TAG, "Whom the token of this request speaks for.")
            .answers::<WhoamiOut>(200),
    ]
}

#[derive(Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", default)]
struct AppPortalAccessIn {
    /// Creates this application first, if there is none in the path.
    application: Option<ApplicationIn>,
    /// Only `ViewBase`; not together with `capabilities`.
    read_only: Option<bool>,
    /// What the token may do; `ViewBase` must be among it. All of it if absent.
    #[schemars(length(min = 1))]
    capabilities: Option<Vec<Capability>>,
    /// The set of feature flags the created token will have access to.
    #[schemars(length(max = 25))]
    feature_flags: Vec<String>,
    /// How long the token will be valid for, in seconds: at least an hour, at most and by default seven days.
    #[schemars(range(min = 3600, max = 604_800))]
    expiry: Option<u64>,
    /// The session that the token belongs to, for `expire-all`.
    #[schemars(length(min = 1, max = 64))]
    session_id: Option<String>,
}

#[derive(Serialize, JsonSchema)]
struct AppPortalAccessOut {
    /// Leads to the portal, with the token in its fragment.
    url: String,
    token: String,
}

#[derive(Deserialize, JsonSchema, Default)]
#[serde(rename_all = "camelCase", default)]
struct ApplicationTokenExpireIn {
    /// How many seconds until the tokens are expired.
    #[schemars(range(min = 0, max = 259_200))]
    expiry: Option<i64>,
    /// Only tokens of these sessions.
    #[schemars(length(max = 1000))]
    session_ids: Vec<String>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct WhoamiOut {
    /// The organization that the token speaks for.
    env_id: Text<OrganisationId>,
    /// The application that it is limited to.
    app_id: Option<Text<ApplicationId>>,
    permission_source: AuthenticationSource,
    /// The session that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<String>,
}

/// What the token is.
#[derive(Serialize, JsonSchema)]
enum AuthenticationSource {
    // A JWT under the server's own secret.
    SvixJwt,
}

/// What is kept of the answer: the claims, which are the token as soon as they are signed.
#[derive(Serialize, Deserialize)]
struct Kept {
    claims: Claims,
}

async fn portal_access(mut call: Call) -> Result<Response, Error> {
    let body = call.json_or_nothing().await?;
    let mut input: AppPortalAccessIn = body.parse()?;
    let lifetime = check(&input)?;
    // Also one that is ignored because it exists has to be one.
    input.application.clone().map(|application| application.check(Faults::inside(&["application"]))).transpose()?;
    let entry = match call.find_application() {
        Some(entry) => entry,
        None => crate::message::create_application(&call, input.application.take()).await?,
    };
    let edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => {
            let Kept { claims } = kept(answer).await?;
            return Ok(error::json(StatusCode::OK, &out(&call, &entry, &claims)?));
        }
    };
    let backend = call.api.backend();
    let principal = Principal::Application {
        organisation: entry.application.organisation.clone(),
        application: entry.application.id,
        feature_flags: input.feature_flags,
    };
    let capabilities = match input.read_only {
        Some(true) => Some(vec![Capability::ViewBase]),
        _ => input.capabilities,
    };
    let id = backend.new_id(PortalTokenId::from_parts);
    let claims = Claims {
        jti: Some(id.to_string()),
        sid: input.session_id,
        capabilities,
        ..Claims::new(&principal, backend.now(), Some(lifetime))
    };
    let out = out(&call, &entry, &claims)?;
    edit.answer_keeping(StatusCode::OK, &out, &Kept { claims }).await
}

fn check(input: &AppPortalAccessIn) -> Result<Duration, Error> {
    let mut faults = Faults::new();
    let capabilities = input.capabilities.as_deref();
    if capabilities.is_some_and(|all| !all.contains(&Capability::ViewBase)) {
        faults.add("capabilities", "`ViewBase` must be among the capabilities");
    }
    if capabilities.is_some_and(|all| (1..all.len()).any(|n| all[..n].contains(&all[n]))) {
        faults.add("capabilities", "a capability is there twice; items must be unique");
    }
    if capabilities.is_some() && input.read_only == Some(true) {
        faults.add("readOnly", "`readOnly` cannot be used together with `capabilities`");
    }
    if input.feature_flags.len() > FLAGS_MAX {
        faults.add("featureFlags", format!("`featureFlags` must have at most {FLAGS_MAX} items"));
    }
    for (at, flag) in input.feature_flags.iter().enumerate() {
        if flag.is_empty() || flag.len() > FLAG_MAX || !flag.bytes().all(is_name) {
            let msg = format!("a feature flag has 1 to {FLAG_MAX} letters, digits, `-`, `_` and `.`");
            faults.add_at(&["featureFlags", &format!("[{at}]")], msg);
        }
    }
    let expiry = input.expiry.unwrap_or(EXPIRY_MAX);
    if !(EXPIRY_MIN..=EXPIRY_MAX).contains(&expiry) {
        faults.add("expiry", format!("`expiry` must be between {EXPIRY_MIN} and {EXPIRY_MAX} seconds"));
    }
    if input.session_id.as_deref().is_some_and(|session| !is_session(session)) {
        faults.add("sessionId", SESSION_EXPECTED);
    }
    faults.end()?;
    Ok(Duration::from_secs(expiry))
}

const SESSION_EXPECTED: &str = "a session has 1 to 64 letters, digits, `@`, `_` and `-`";

fn is_session(text: &str) -> bool {
    let may = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'@' | b'_' | b'-');
    (1..=SESSION_MAX).contains(&text.len()) && text.bytes().all(may)
}

/// The token of these claims, and the link with it: the portal reads the fragment, which never leaves the browser.
fn out(call: &Call, entry: &ApplicationEntry, claims: &Claims) -> Result<AppPortalAccessOut, Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Key<'a> {
        app_id: Text<ApplicationId>,
        token: &'a str,
    }
    let token = call.api.tokens().sign(claims)?;
    let key = serde_json::to_vec(&Key { app_id: Text(entry.application.id), token: &token })
        .map_err(|error| Error::Internal(format!("an answer could not be written: {error}")))?;
    let base = call.api.settings().app_portal_url.clone().or_else(|| call.own_url());
    let base = base.ok_or_else(|| Error::bad_request("generic_error", "The request has no valid `Host`."))?;
    let url = format!("{}/login#key={}", base.trim_end_matches('/'), STANDARD.encode(key));
    Ok(AppPortalAccessOut { url, token })
}

async fn expire_all(mut call: Call) -> Result<Response, Error> {
    let application = call.application()?.application.id;
    let body = call.json_or_nothing().await?;
    let input: ApplicationTokenExpireIn = body.parse()?;
    let mut faults = Faults::new();
    let ahead = expire_ahead(&mut faults, input.expiry);
    if input.session_ids.len() > SESSIONS_MAX {
        faults.add("sessionIds", format!("`sessionIds` must have at most {SESSIONS_MAX} items"));
    }
    for (at, session) in input.session_ids.iter().enumerate() {
        if !is_session(session) {
            faults.add_at(&["sessionIds", &format!("[{at}]")], SESSION_EXPECTED);
        }
    }
    faults.end()?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let backend = call.api.backend();
    let from = backend.now().plus(ahead);
    let issued_before = backend.sequence();
    let all = input.session_ids.is_empty();
    let mut sessions: Vec<_> = input.session_ids.into_iter().map(Some).collect();
    sessions.sort();
    sessions.dedup();
    if all {
        sessions.push(None);
    }
    {
        let catalogue = backend.catalogue().read();
        let more = sessions.len();
        for session in sessions {
            let cutoff = Cutoff { application, session, issued_before, from };
            if !catalogue.tokens().has_room_for_cutoff(&cutoff, more) {
                let detail = "Too many expirations of this application's tokens have not taken effect yet; without `expiry` and `sessionIds` all tokens are expired at once.";
                return Err(Error::bad_request("limit_reached", detail));
            }
            edit.put(Change::Token(TokenChange::Cut(cutoff)));
        }
        // Registered tokens belong to no session.
        let registered = catalogue.tokens().of_organisation(call.principal.organisation());
        for registered in registered.filter(|registered| all && registered.token.application == Some(application)) {
            if registered.token.expires_at.is_none_or(|end| end > from) {
                edit.put(ending(&registered.token, from));
            }
        }
    }
    edit.no_content().await
}

async fn logout(call: Call) -> Result<Response, Error> {
    if call.principal.application().is_none() {
        let detail = "Only an application's token can be logged out; expire a registered token by its id.";
        return Err(Error::refused(StatusCode::FORBIDDEN, "insufficient access", detail));
    }
    let mut edit = call.api.edit().await;
    let backend = call.api.backend();
    let credential = &call.token.credential;
    let change = {
        let catalogue = backend.catalogue().read();
        let register = catalogue.tokens();
        match credential.registered {
            Some(id) => {
                let registered = register.find(call.principal.organisation(), id).ok_or_else(Error::not_found)?;
                ending(&registered.token, backend.now())
            }
            None if !register.has_room_for_logout() => {
                let detail = "Too many tokens are logged out; expire all tokens of the application instead.";
                return Err(Error::bad_request("limit_reached", detail));
            }
            None => {
                let logout = Logout { fingerprint: credential.fingerprint, until: call.token.ends_at() };
                Change::Token(TokenChange::Logout(logout))
            }
        }
    };
    edit.put(change);
    edit.no_content().await
}

async fn whoami(call: Call) -> Result<Response, Error> {
    let out = WhoamiOut {
        env_id: Text(call.principal.organisation().clone()),
        app_id: call.principal.application().map(Text),
        permission_source: AuthenticationSource::SvixJwt,
        session_id: call.token.credential.session.clone(),
    };
    Ok(error::json(StatusCode::OK, &out))
}

/// What was kept instead of an answer.
pub(crate) async fn kept<T: DeserializeOwned>(answer: Response) -> Result<T, Error> {
    let damaged = |error: String| Error::Internal(format!("a kept answer cannot be read: {error}"));
    let body = answer.into_body().collect().await.map_err(|error| damaged(error.to_string()))?.to_bytes();
    serde_json::from_slice(&body).map_err(|error| damaged(error.to_string()))
}

/// How many changes about tokens are written down at a time.
const OWED_MAX: usize = 1_000;

impl Api {
    /// Writes down when registered tokens were last used, and forgets what no token can need any more. To be called every half
    /// minute or so, by one shard; nothing is lost by not calling it but the times of last use.
    ///
    /// # Errors
    /// The store did not take it; the next call tries again.
    pub async fn keep_tokens(&self) -> Result<(), crate::backend::AcceptError> {
        let _alone = self.backend().configuration().lock().await;
        let owed = {
            let catalogue = self.backend().catalogue().read();
            catalogue.tokens().owed(self.backend().now(), |id| catalogue.has_application(id), OWED_MAX)
        };
        if owed.is_empty() {
            return Ok(());
        }
        self.backend().change(owed.into_iter().map(Change::Token).collect()).await
    }
}
