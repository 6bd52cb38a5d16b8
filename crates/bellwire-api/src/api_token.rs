//! Registered tokens: an operator's list of who has which key, what it may do, when it ends, when it was last used.
//!
//! A token's text is shown once, when it is made, and not kept: under an idempotency key its claims are, and a repetition signs
//! them again. A token ends by its row's `expires_at`, which the text does not carry.

use crate::Api;
use crate::auth::{Claims, Principal};
use crate::call::Call;
use crate::document::JsonSchema;
use crate::edit::{Begun, Edit};
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::page::{ListOut, Ordered, Ordering, Paging};
use crate::wire::{Patch, Text, Time};
use axum::response::Response;
use bellwire_engine::Registered;
use bellwire_model::{ApiToken, ApplicationId, OrganisationId, Scope, Timestamp, TokenChange, TokenId};
use bellwire_store::Change;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

const TAG: &str = "Authentication";
/// The last characters of a token's text are shown in lists.
const HINT_CHARACTERS: usize = 4;
const NAME_MAX: usize = 256;
/// A token may be expired so far ahead, in seconds.
pub(crate) const EXPIRE_AHEAD_MAX: i64 = 259_200;
/// A token that ends, ends within this, in seconds: a hundred years.
const LIFETIME_MAX: u64 = 100 * 365 * 86_400;

pub(crate) fn operations() -> Vec<Operation> {
    let all = "/api/v1/management/authentication/{env_id}/api-token";
    let one = "/api/v1/management/authentication/{env_id}/api-token/{key_id}";
    let expired = "/api/v1/management/authentication/{env_id}/api-token/{key_id}/expire";
    let sending = "/api/v1/auth/app/{app_id}/create-message-token";
    vec![
        Operation::new(Method::GET, all, Access::Organisation, list)
            .described("v1.management.authentication.list-api-tokens", TAG, "List the registered tokens, newest first.")
            .query::<Paging>()
            .query::<Ordered>()
            .answers::<ListOut<ApiTokenCensoredOut>>(200),
        Operation::editing(Method::POST, all, Access::Organisation, create)
            .described(
                "v1.management.authentication.create-api-token",
                TAG,
                "Make a registered token, of the organization or of one application. Its text is shown only now.",
            )
            .body::<ApiTokenIn>()
            .answers::<ApiTokenOut>(200),
        Operation::new(Method::GET, one, Access::Organisation, get)
            .described("v1.management.authentication.get-api-token", TAG, "Get a registered token.")
            .answers::<ApiTokenCensoredOut>(200),
        Operation::editing(Method::PUT, one, Access::Organisation, put)
            .described("v1.management.authentication.update-api-token", TAG, "Rename a registered token.")
            .body::<ApiTokenUpdate>()
            .answers::<ApiTokenCensoredOut>(200),
        Operation::editing(Method::PATCH, one, Access::Organisation, patch)
            .described(
                "v1.management.authentication.patch-api-token",
                TAG,
                "Rename a registered token, or change what it may do, at once.",
            )
            .body::<ApiTokenPatch>()
            .answers::<ApiTokenCensoredOut>(200),
        Operation::editing(Method::POST, expired, Access::Organisation, expire)
            .described(
                "v1.management.authentication.expire-api-token",
                TAG,
                "Take a registered token back, now or in some seconds. A token never lives longer for it.",
            )
            .body_or_nothing::<ApiTokenExpireIn>()
            .answers_nothing(204),
        Operation::editing(Method::POST, sending, Access::Organisation, create_sending)
            .described(
                "v1.authentication.create-message-token",
                TAG,
                "Make a registered token that can only create messages of this application.",
            )
            .body::<CreateTokenIn>()
            .answers::<ApiTokenOut>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ApiTokenIn {
    /// What people know it by.
    #[schemars(required, length(min = 1, max = 256))]
    name: Option<String>,
    /// What it may do: `full`, or `read-only` and `send-only` together or alone. The default is `full`.
    #[schemars(length(min = 1))]
    scopes: Option<Vec<String>>,
    /// How long the token will be valid for, in seconds; without an end if absent.
    #[schemars(range(min = 1))]
    expiry: Option<u64>,
    /// The id or uid of the only application that it is good for.
    app_id: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CreateTokenIn {
    /// The name of the token.
    #[schemars(required, length(min = 1, max = 256))]
    name: Option<String>,
    /// How long the token will be valid for, in seconds; without an end if absent.
    #[schemars(range(min = 1))]
    expiry: Option<u64>,
}

#[derive(Deserialize, JsonSchema)]
struct ApiTokenUpdate {
    #[schemars(required, length(min = 1, max = 256))]
    name: Option<String>,
}

#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
struct ApiTokenPatch {
    #[schemars(length(min = 1, max = 256))]
    name: Patch<String>,
    /// Instead of those before; `null` is `full`.
    #[schemars(length(min = 1))]
    scopes: Patch<Vec<String>>,
}

#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
struct ApiTokenExpireIn {
    /// How many seconds until the token is expired.
    #[schemars(range(min = 0, max = 259_200))]
    expiry: i64,
}

/// A token with its text.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ApiTokenOut {
    token: String,
    id: Text<TokenId>,
    name: Option<String>,
    created_at: Time,
    expires_at: Option<Time>,
    scopes: Vec<&'static str>,
    /// The only application that it is good for.
    app_id: Option<Text<ApplicationId>>,
}

/// A token without its text.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ApiTokenCensoredOut {
    /// The last characters of its text.
    censored_token: String,
    id: Text<TokenId>,
    name: Option<String>,
    created_at: Time,
    expires_at: Option<Time>,
    scopes: Vec<&'static str>,
    /// The only application that it is good for.
    app_id: Option<Text<ApplicationId>>,
    /// When it was last used, to the second; up to half a minute of uses is forgotten when the server is killed.
    last_used_at: Option<Time>,
}

impl From<&Registered> for ApiTokenCensoredOut {
    fn from(registered: &Registered) -> Self {
        let token = &registered.token;
        ApiTokenCensoredOut {
            censored_token: format!("****{}", token.hint),
            id: Text(token.id),
            name: token.name.clone(),
            created_at: Time(token.created_at),
            expires_at: token.expires_at.map(Time),
            scopes: token.scopes.iter().map(|scope| scope.name()).collect(),
            app_id: token.application.map(Text),
            last_used_at: registered.last_used_at().map(Time),
        }
    }
}

/// A token that is to be made.
struct New {
    name: Option<String>,
    scopes: Vec<Scope>,
    application: Option<ApplicationId>,
    lifetime: Option<Duration>,
}

async fn list(call: Call) -> Result<Response, Error> {
    let organisation = environment(&call)?;
    let wanted = call.query::<Paging>()?.wanted_by_id::<TokenId>("a token id (key_…)")?;
    let order = call.query::<Ordered>()?.or(Ordering::Descending);
    let page = {
        let catalogue = call.api.backend().catalogue().read();
        let page = wanted.cut(catalogue.tokens().of_organisation(&organisation), |token| token.token.id, order);
        bellwire_store::Page { items: page.items.into_iter().cloned().collect::<Vec<_>>(), done: page.done }
    };
    let data = page.items.iter().map(|token| ApiTokenCensoredOut::from(&**token)).collect();
    Ok(error::json(StatusCode::OK, &ListOut::new(data, page.done, |out: &ApiTokenCensoredOut| out.id.0.to_string())))
}

async fn create(mut call: Call) -> Result<Response, Error> {
    let organisation = environment(&call)?;
    let body = call.json().await?;
    let input: ApiTokenIn = body.parse()?;
    let mut faults = Faults::new();
    let name = faults.required("name", input.name);
    check_name(&mut faults, name.as_deref());
    let scopes = scopes(&mut faults, input.scopes);
    let lifetime = lifetime(&mut faults, input.expiry);
    let application = input.app_id.map(|id_or_uid| {
        let catalogue = call.api.backend().catalogue().read();
        catalogue.find_application(&organisation, &id_or_uid).map(|entry| entry.application.id)
    });
    if application == Some(None) {
        faults.add("appId", "there is no application with this id or uid");
    }
    faults.end()?;
    let new = New { name, scopes, application: application.flatten(), lifetime };
    match call.edit_once(&body).await? {
        Begun::New(edit) => register(&call.api, edit, &organisation, new).await,
        Begun::Kept(answer) => again(&call.api, answer).await,
    }
}

async fn create_sending(mut call: Call) -> Result<Response, Error> {
    let body = call.json().await?;
    let input: CreateTokenIn = body.parse()?;
    let mut faults = Faults::new();
    let name = faults.required("name", input.name);
    check_name(&mut faults, name.as_deref());
    let lifetime = lifetime(&mut faults, input.expiry);
    faults.end()?;
    let application = Some(call.application()?.application.id);
    let new = New { name, scopes: vec![Scope::SendOnly], application, lifetime };
    match call.edit_once(&body).await? {
        Begun::New(edit) => register(&call.api, edit, call.principal.organisation(), new).await,
        Begun::Kept(answer) => again(&call.api, answer).await,
    }
}

/// What is kept of the answer to whoever makes a token: everything but the text, which is these claims, signed.
#[derive(Serialize, Deserialize)]
struct Kept {
    claims: Claims,
    name: Option<String>,
    created_at: i64,
    expires_at: Option<i64>,
    scopes: Vec<String>,
}

impl Kept {
    fn out(self, api: &Api) -> Result<ApiTokenOut, Error> {
        let damaged = || Error::Internal("a kept answer about a token cannot be read".to_owned());
        let token = api.tokens().sign(&self.claims)?;
        let id = self.claims.jti.as_deref().and_then(|jti| jti.parse().ok()).ok_or_else(damaged)?;
        let scopes = self.scopes.iter().map(|scope| scope.parse::<Scope>().map(Scope::name));
        Ok(ApiTokenOut {
            token,
            id: Text(id),
            name: self.name,
            created_at: Time(Timestamp::from_micros(self.created_at)),
            expires_at: self.expires_at.map(|at| Time(Timestamp::from_micros(at))),
            scopes: scopes.collect::<Result<_, _>>().map_err(|()| damaged())?,
            app_id: self.claims.application().map(Text),
        })
    }
}

async fn register(api: &Api, mut edit: Edit<'_>, organisation: &OrganisationId, new: New) -> Result<Response, Error> {
    let backend = api.backend();
    if !backend.catalogue().read().tokens().has_room_for_token(organisation) {
        let detail =
            "An organization can have at most 10000 registered tokens; those that have expired are listed for 30 days.";
        return Err(Error::bad_request("limit_reached", detail));
    }
    let now = backend.now();
    let id = backend.new_id(TokenId::from_parts);
    let principal = match new.application {
        None => Principal::Organisation(organisation.clone()),
        Some(application) => {
            Principal::Application { organisation: organisation.clone(), application, feature_flags: Vec::new() }
        }
    };
    let claims = Claims { jti: Some(id.to_string()), ..Claims::new(&principal, now, None) };
    let text = api.tokens().sign(&claims)?;
    let token = ApiToken {
        id,
        organisation: organisation.clone(),
        application: new.application,
        name: new.name,
        scopes: new.scopes,
        hint: text[text.len().saturating_sub(HINT_CHARACTERS)..].to_owned(),
        created_at: now,
        expires_at: new.lifetime.map(|lifetime| now.plus(lifetime)),
        last_used_at: None,
    };
    let kept = Kept {
        claims,
        name: token.name.clone(),
        created_at: token.created_at.as_micros(),
        expires_at: token.expires_at.map(Timestamp::as_micros),
        scopes: token.scopes.iter().map(|scope| scope.name().to_owned()).collect(),
    };
    let out = ApiTokenOut {
        token: text,
        id: Text(id),
        name: token.name.clone(),
        created_at: Time(now),
        expires_at: token.expires_at.map(Time),
        scopes: token.scopes.iter().map(|scope| scope.name()).collect(),
        app_id: token.application.map(Text),
    };
    edit.put(Change::Token(TokenChange::Put(Arc::new(token))));
    edit.answer_keeping(StatusCode::OK, &out, &kept).await
}

/// The answer that was given before.
async fn again(api: &Api, answer: Response) -> Result<Response, Error> {
    let kept: Kept = crate::portal::kept(answer).await?;
    Ok(error::json(StatusCode::OK, &kept.out(api)?))
}

async fn get(call: Call) -> Result<Response, Error> {
    let token = find(&call)?;
    Ok(error::json(StatusCode::OK, &ApiTokenCensoredOut::from(&*token)))
}

async fn put(mut call: Call) -> Result<Response, Error> {
    find(&call)?;
    let input: ApiTokenUpdate = call.json().await?.parse()?;
    let mut faults = Faults::new();
    let name = faults.required("name", input.name);
    check_name(&mut faults, name.as_deref());
    faults.end()?;
    let edit = call.api.edit().await;
    let token = ApiToken { name, ..find(&call)?.token.clone() };
    replace(&call, edit, token).await
}

async fn patch(mut call: Call) -> Result<Response, Error> {
    find(&call)?;
    let input: ApiTokenPatch = call.json().await?.parse()?;
    let edit = call.api.edit().await;
    let mut token = find(&call)?.token.clone();
    let mut faults = Faults::new();
    match input.name {
        Patch::Set(name) => {
            check_name(&mut faults, Some(&name));
            token.name = Some(name);
        }
        Patch::Clear => token.name = None,
        Patch::Keep => {}
    }
    match input.scopes {
        Patch::Set(names) => token.scopes = scopes(&mut faults, Some(names)),
        Patch::Clear => token.scopes = scopes(&mut faults, None),
        Patch::Keep => {}
    }
    faults.end()?;
    replace(&call, edit, token).await
}

async fn replace(call: &Call, mut edit: Edit<'_>, token: ApiToken) -> Result<Response, Error> {
    edit.put(Change::Token(TokenChange::Put(Arc::new(token))));
    edit.no_content().await?;
    Ok(error::json(StatusCode::OK, &ApiTokenCensoredOut::from(&*find(call)?)))
}

async fn expire(mut call: Call) -> Result<Response, Error> {
    find(&call)?;
    let body = call.json_or_nothing().await?;
    let input: ApiTokenExpireIn = body.parse()?;
    let mut faults = Faults::new();
    let ahead = expire_ahead(&mut faults, Some(input.expiry));
    faults.end()?;
    let mut edit = match call.edit_once(&body).await? {
        Begun::New(edit) => edit,
        Begun::Kept(answer) => return Ok(answer),
    };
    let token = find(&call)?;
    edit.put(ending(&token.token, call.api.backend().now().plus(ahead)));
    edit.no_content().await
}

/// A token that ends at `end`, or before if it did so already.
pub(crate) fn ending(token: &ApiToken, end: Timestamp) -> Change {
    let end = token.expires_at.map_or(end, |before| before.min(end));
    Change::Token(TokenChange::Put(Arc::new(ApiToken { expires_at: Some(end), ..token.clone() })))
}

/// How far ahead tokens are to end.
pub(crate) fn expire_ahead(faults: &mut Faults, expiry: Option<i64>) -> Duration {
    let seconds = expiry.unwrap_or(0);
    if !(0..=EXPIRE_AHEAD_MAX).contains(&seconds) {
        faults.add("expiry", format!("`expiry` must be between 0 and {EXPIRE_AHEAD_MAX} seconds"));
    }
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// The organisation of the path, which must be the token's own.
fn environment(call: &Call) -> Result<OrganisationId, Error> {
    let organisation = call.principal.organisation();
    if call.param("env_id") == organisation.as_str() { Ok(organisation.clone()) } else { Err(Error::not_found()) }
}

fn find(call: &Call) -> Result<Arc<Registered>, Error> {
    let organisation = environment(call)?;
    let id: TokenId = call.param("key_id").parse().map_err(|_| Error::not_found())?;
    let catalogue = call.api.backend().catalogue().read();
    catalogue.tokens().find(&organisation, id).cloned().ok_or_else(Error::not_found)
}

fn check_name(faults: &mut Faults, name: Option<&str>) {
    let Some(name) = name else { return };
    if name.is_empty() || name.len() > NAME_MAX {
        faults.add("name", format!("`name` must have 1 to {NAME_MAX} characters"));
    }
    faults.printable("name", name);
}

fn scopes(faults: &mut Faults, names: Option<Vec<String>>) -> Vec<Scope> {
    let Some(names) = names else { return vec![Scope::Full] };
    if names.is_empty() {
        faults.add("scopes", "`scopes` must have at least one item, or be left out");
    }
    let mut scopes = Vec::new();
    for (at, name) in names.iter().enumerate() {
        match name.parse::<Scope>() {
            Ok(scope) => scopes.push(scope),
            Err(()) => faults.add_at(&["scopes", &format!("[{at}]")], "a scope is `full`, `read-only` or `send-only`"),
        }
    }
    scopes.sort();
    scopes.dedup();
    scopes
}

fn lifetime(faults: &mut Faults, expiry: Option<u64>) -> Option<Duration> {
    let seconds = expiry?;
    if !(1..=LIFETIME_MAX).contains(&seconds) {
        faults.add("expiry", format!("`expiry` must be between 1 and {LIFETIME_MAX} seconds, or left out for no end"));
    }
    Some(Duration::from_secs(seconds.min(LIFETIME_MAX)))
}
