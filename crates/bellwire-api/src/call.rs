//! One request on its way through a handler: who sent it, its path, query and body, and the reading verbs it needs.

use crate::Api;
use crate::auth::{Principal, Verified};
use crate::edit::Begun;
use crate::error::Error;
use crate::idempotency::Once;
use crate::json::Json;
use crate::operation::Access;
use crate::permission::Permission;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequest, FromRequestParts, Query, RawPathParams, Request};
use bellwire_engine::ApplicationEntry;
use bellwire_model::{Endpoint, EndpointKey, Message, TraceParent};
use bellwire_store::{ReadError, Store};
use http::Method;
use http::request::Parts;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::any::Any;
use std::sync::Arc;

/// A request whose token allows what its operation asks for.
pub(crate) struct Call {
    pub(crate) api: Api,
    pub(crate) principal: Arc<Principal>,
    /// What it was signed with.
    pub(crate) token: Arc<Verified>,
    /// A ticket was shown, which is good for this endpoint alone.
    ticket_for: Option<EndpointKey>,
    params: RawPathParams,
    parts: Parts,
    /// Behind a mutex that nobody ever waits for: a body alone cannot be shared across an await.
    body: Mutex<Body>,
}

/// A request before its token is looked at; only [`crate::operation`] has one.
pub(crate) struct Unchecked {
    api: Api,
    params: RawPathParams,
    parts: Parts,
    body: Body,
}

impl FromRequest<Api> for Unchecked {
    type Rejection = Error;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Error> {
        let (mut parts, body) = request.into_parts();
        let params = RawPathParams::from_request_parts(&mut parts, api)
            .await
            .map_err(|_| Error::bad_request("generic_error", "The path holds bytes that are not UTF-8."))?;
        Ok(Unchecked { api: api.clone(), params, parts, body })
    }
}

impl Unchecked {
    /// Lets the request through if its token allows `access`, and what needs `needed`.
    ///
    /// # Errors
    /// 401 without a valid token, 403 with one that is not enough, 429 with one that was used too often.
    pub(crate) fn check(self, access: Access, needed: Permission) -> Result<Call, Error> {
        let Unchecked { api, params, parts, body } = self;
        let (catalogue, now) = (api.backend().catalogue(), api.backend().now());
        let (token, ticket_for) = match ticket(&parts) {
            None => (api.tokens().admit(&parts.headers, needed, catalogue, now)?, None),
            Some(ticket) => {
                let found = api.backend().pipes().redeem(&ticket, now);
                let (token, endpoint) =
                    found.ok_or_else(|| Error::unauthorized("Invalid ticket, or one that has ended"))?;
                api.tokens().pass(&token, needed, catalogue, now)?;
                (token, Some(endpoint))
            }
        };
        let principal = token.principal.clone();
        match (access, &*principal) {
            (Access::Organisation, Principal::Application { .. }) => Err(Error::forbidden()),
            (Access::Sender, Principal::Application { .. }) if token.credential.registered.is_none() => {
                Err(Error::forbidden())
            }
            (Access::Organisation | Access::Sender | Access::Application | Access::Reader, _) => {
                Ok(Call { api, principal, token, ticket_for, params, parts, body: Mutex::new(body) })
            }
        }
    }
}

/// The ticket in the query of a stream, which stands for a token where there is none.
fn ticket(parts: &Parts) -> Option<String> {
    let path = parts.uri.path().trim_end_matches('/');
    let is_stream = parts.method == Method::GET && (path.ends_with("/stream") || path.ends_with("/ws"));
    if !is_stream || parts.headers.contains_key(http::header::AUTHORIZATION) {
        return None;
    }
    let mut query = form_urlencoded::parse(parts.uri.query()?.as_bytes());
    query.find_map(|(name, value)| (name == "ticket").then(|| value.into_owned()))
}

impl Call {
    /// A part of the path, unescaped.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }

    /// The query as `T`.
    ///
    /// # Errors
    /// 400 if a value is not of its type.
    pub(crate) fn query<T: DeserializeOwned>(&self) -> Result<T, Error> {
        match Query::try_from_uri(&self.parts.uri) {
            Ok(Query(value)) => Ok(value),
            Err(error) => Err(Error::bad_request("generic_error", error.body_text())),
        }
    }

    /// A list in the query, in all the ways that one can be written there: repeated, with commas, as `name[]`, as `name[0]`.
    pub(crate) fn query_list(&self, name: &str) -> Vec<String> {
        let of_list = |key: &str| {
            let index = key.strip_prefix(name);
            index.is_some_and(|index| index.is_empty() || (index.starts_with('[') && index.ends_with(']')))
        };
        form_urlencoded::parse(self.parts.uri.query().unwrap_or_default().as_bytes())
            .filter(|(key, _)| of_list(key))
            .flat_map(|(_, value)| value.split(',').map(str::to_owned).collect::<Vec<_>>())
            .filter(|item| !item.is_empty())
            .collect()
    }

    /// Whether an official library of the first generation asks that throws at a body where its contract has 204.
    pub(crate) fn expects_no_body(&self) -> bool {
        let agent = self.parts.headers.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
        let Some((version, language)) = agent.and_then(|text| text.strip_prefix("svix-libs/")?.split_once('/')) else {
            return false;
        };
        let language = language.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let strict = ["csharp", "java", "kotlin"].iter().any(|name| language.eq_ignore_ascii_case(name));
        strict && (version.starts_with("0.") || version.starts_with("1."))
    }

    /// The sender's place in a trace, if messages are traced and it gave one.
    pub(crate) fn trace_parent(&self) -> Option<TraceParent> {
        if !self.api.backend().traces() {
            return None;
        }
        let mut given = self.parts.headers.get_all("traceparent").iter();
        let first = given.next()?;
        // Of two nobody knows which is meant.
        given.next().is_none().then(|| TraceParent::parse(first.to_str().ok()?)).flatten()
    }

    /// The server's own address, as the client that asks this has it: `http://host:port`, or `https` if a proxy says so.
    pub(crate) fn own_url(&self) -> Option<String> {
        let header = |name: &str| self.parts.headers.get(name).and_then(|value| value.to_str().ok());
        let authority = self.parts.uri.authority().map(|authority| authority.as_str()).or_else(|| header("host"))?;
        let authority: http::uri::Authority = authority.parse().ok()?;
        let proto = header("x-forwarded-proto").and_then(|all| all.split(',').next()).map(str::trim);
        let https = self.api.settings().serves_tls || proto.is_some_and(|proto| proto.eq_ignore_ascii_case("https"));
        let scheme = if https { "https" } else { "http" };
        Some(format!("{scheme}://{authority}"))
    }

    /// The request as one for a WebSocket.
    ///
    /// # Errors
    /// 422 if it is none.
    pub(crate) async fn web_socket(&mut self) -> Result<WebSocketUpgrade, Error> {
        let upgrade = WebSocketUpgrade::from_request_parts(&mut self.parts, &()).await;
        upgrade.map_err(|refused| Error::invalid(&["header", "upgrade"], format!("a WebSocket is expected: {refused}")))
    }

    /// The body as it comes; once.
    pub(crate) fn take_body(&mut self) -> Body {
        std::mem::take(self.body.get_mut())
    }

    /// The body; once.
    pub(crate) async fn json(&mut self) -> Result<Json, Error> {
        Json::read(&self.parts.headers, std::mem::take(self.body.get_mut()), self.api.settings()).await
    }

    /// As [`Call::json`]; the body may be so long.
    pub(crate) async fn long_json(&mut self, bytes_max: usize) -> Result<Json, Error> {
        let settings = self.api.settings();
        let bytes_max = bytes_max.max(settings.body_bytes_max);
        Json::read_up_to(bytes_max, &self.parts.headers, std::mem::take(self.body.get_mut()), settings).await
    }

    /// As [`Call::json`]; a body that is empty is an empty object, for operations that need none.
    pub(crate) async fn json_or_nothing(&mut self) -> Result<Json, Error> {
        Ok(self.json().await?.or_empty_object())
    }

    /// What makes the request the same as another, if it has an idempotency key.
    pub(crate) fn once(&self, body: &[u8]) -> Option<Once> {
        let key = self.parts.headers.get("idempotency-key")?.as_bytes();
        (!key.is_empty()).then(|| Once::new(&self.principal, &self.parts.method, &self.parts.uri, key, body))
    }

    /// Begins to change configuration on behalf of a POST with this body.
    pub(crate) async fn edit_once(&self, body: &Json) -> Result<Begun<'_>, Error> {
        self.api.edit_once(self.once(body.bytes())).await
    }

    /// The application of the path, if the token may see it. In a path without one, the organisation's operational application.
    ///
    /// # Errors
    /// 404 alike for one that is not there and one that is somebody else's.
    pub(crate) fn application(&self) -> Result<Arc<ApplicationEntry>, Error> {
        self.find_application().ok_or_else(Error::not_found)
    }

    /// As [`Call::application`].
    pub(crate) fn find_application(&self) -> Option<Arc<ApplicationEntry>> {
        let organisation = self.principal.organisation();
        let catalogue = self.api.backend().catalogue().read();
        let Some((_, id_or_uid)) = self.params.iter().find(|(key, _)| *key == "app_id") else {
            return catalogue.operational(organisation).cloned();
        };
        let entry = catalogue.find_application(organisation, id_or_uid)?;
        if entry.application.is_operational() && !self.may_reach_operational() {
            return None;
        }
        match &*self.principal {
            Principal::Organisation(_) => Some(entry.clone()),
            Principal::Application { application, .. } => (entry.application.id == *application).then(|| entry.clone()),
        }
    }

    /// Whether the operational application may be reached by its uid: by its organisation, to see what became of operational
    /// messages, and to send them again. Everything else about it has operations of its own.
    fn may_reach_operational(&self) -> bool {
        let path = self.parts.uri.path().trim_end_matches('/');
        let reads = matches!(self.parts.method, Method::GET | Method::HEAD);
        matches!(&*self.principal, Principal::Organisation(_))
            && (reads || path.ends_with("/resend") || path.ends_with("/recover"))
    }

    /// The endpoint of the path, with its application.
    pub(crate) fn endpoint(&self) -> Result<(Arc<ApplicationEntry>, Arc<Endpoint>), Error> {
        self.endpoint_at("endpoint_id")
    }

    /// As [`Call::endpoint`], where the path has another name for it.
    pub(crate) fn endpoint_at(&self, name: &str) -> Result<(Arc<ApplicationEntry>, Arc<Endpoint>), Error> {
        let application = self.application()?;
        let endpoint = application.find_endpoint(self.param(name)).cloned().ok_or_else(Error::not_found)?;
        if self.ticket_for.is_some_and(|only| only != endpoint.key) {
            return Err(Error::not_found());
        }
        Ok((application, endpoint))
    }

    /// A header of the request, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The message of the path, by its id or event id.
    pub(crate) async fn message(&self, application: &ApplicationEntry, with_payload: bool) -> Result<Message, Error> {
        self.api.message(application, self.param("msg_id"), with_payload).await?.ok_or_else(Error::not_found)
    }
}

type Verbs = Box<dyn FnOnce(&dyn Store) -> Result<Box<dyn Any + Send>, ReadError> + Send>;

impl Api {
    /// Runs reading verbs of the store where blocking is allowed.
    pub(crate) async fn read<T, F>(&self, verbs: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Store) -> Result<T, ReadError> + Send + 'static,
    {
        let answer = self.read_any(Box::new(move |store| Ok(Box::new(verbs(store)?)))).await?;
        Ok(*answer.downcast().expect("these verbs answer with it"))
    }

    /// The same for whatever the verbs answer with, so that it is compiled once.
    async fn read_any(&self, verbs: Verbs) -> Result<Box<dyn Any + Send>, Error> {
        // It is never closed; and who does not get a place would have to wait for a thread.
        let _place = self.reads().acquire().await;
        let store = self.backend().store().clone();
        let answer = tokio::task::spawn_blocking(move || verbs(&*store)).await;
        Ok(answer.map_err(|error| Error::Internal(format!("a read of the store ended: {error}")))??)
    }

    /// A message of `application`, by its id or event id.
    pub(crate) async fn message(
        &self,
        application: &ApplicationEntry,
        id_or_uid: &str,
        with_payload: bool,
    ) -> Result<Option<Message>, Error> {
        let application = application.application.clone();
        let id: Option<bellwire_model::MessageId> = id_or_uid.parse().ok();
        let event = crate::idempotency::event_key(application.id, id_or_uid);
        self.read(move |store| {
            let sequence = match id {
                Some(id) => Some(id.sequence()),
                None => store.find_key(event)?.map(|entry| entry.message),
            };
            let Some(sequence) = sequence else { return Ok(None) };
            let message = store.message(sequence, with_payload)?;
            // That a row is there proves nothing: the id's random part and the owner must be right, too.
            Ok(message.filter(|m| m.application == application.key && id.is_none_or(|id| id == m.id)))
        })
        .await
    }
}
