//! Makes a server's configuration what a plan says, by way of the API's own router.
//!
//! What was declared before and is the same now is left alone: each thing that we declare carries a digest of its declaration in
//! its metadata. It is a keyed one, because declarations hold secrets.

mod plugins;

use super::file::{Document, Fault, Faults};
use super::names::to_snake;
use super::plan::{Declared, PREFIX, Plan};
use super::refusal::{is_about, leave_out, steps, told, ways};
use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bellwire_api::backend::Backend;
use bellwire_api::{Api, Principal, Settings, mint_token};
use bellwire_model::{Endpoint, Kind, Metadata, OrganisationId, Recipe, Source};
use bellwire_node::clock;
use bellwire_signature::Secret;
use hmac::{Hmac, KeyInit, Mac};
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use sha2::Sha256;
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

/// The member of the metadata that says that something is declared in the file, and how.
const DIGEST: &str = "hooks.digest";
const TOKEN_LIFETIME: Duration = Duration::from_secs(600);
/// What decides what else there must be: without it, other things would seem wrong, or something else in its place would be missing.
const DECISIVE: [&str; 11] =
    ["kind", "way", "runs", "via", "broker", "preset", "recipe", "script", "module", "connection", "dsn"];

/// What decides the same as a whole; parts of it may be wrong.
const DECISIVE_WHOLE: [&str; 5] = ["cron", "outbox", "queue", "plugin", "pipe"];

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Done {
    pub(crate) created: usize,
    pub(crate) updated: usize,
    pub(crate) unchanged: usize,
    pub(crate) removed: usize,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Done { created, updated, unchanged, removed } = self;
        write!(f, "{created} created, {updated} updated, {unchanged} as they were, {removed} removed")
    }
}

/// The API of this very program, asked without a socket.
pub(crate) struct Caller {
    backend: Arc<dyn Backend>,
    router: Router,
    organisation: OrganisationId,
    secret: [u8; 32],
    digest_key: Vec<u8>,
    /// Behind it is a copy, on which what is right of something wrong may be done, too.
    tries: bool,
}

impl Caller {
    /// Asks `backend` with the operator's settings. It has a secret of its own for tokens, which nobody else knows.
    pub(crate) fn new(backend: Arc<dyn Backend>, settings: &Settings, organisation: OrganisationId) -> Caller {
        let digest_key = settings.jwt_secret.clone();
        let mut secret = [0; 32];
        backend.random(&mut secret);
        let settings = Settings {
            jwt_secret: secret.to_vec(),
            jwt_secrets_before: Vec::new(),
            jwt_algorithm: Default::default(),
            rate_limit: None,
            ..settings.clone()
        };
        let router = bellwire_api::router(Api::new(Arc::clone(&backend), settings));
        Caller { backend, router, organisation, secret, digest_key, tries: false }
    }

    /// For a copy: what is refused is asked for again without what was wrong with it, to find what else is.
    pub(crate) fn trying(self) -> Caller {
        Caller { tries: true, ..self }
    }

    /// Makes everything as `plan` has it. Goes on after what is refused, to tell all of it.
    ///
    /// # Errors
    /// All that was refused. The rest is done, so try it on a rehearsal first.
    pub(crate) async fn apply(&self, document: &Document, plan: &Plan) -> Result<Done, Faults> {
        let mut work = Work { caller: self, document, done: Done::default(), faults: Vec::new() };
        work.applications(plan).await;
        work.remove(plan).await;
        work.event_types(plan).await;
        for plugin in &plan.plugins {
            work.plugin(plugin).await;
        }
        // Before the sources, so that nothing comes in for which nobody is there yet.
        for endpoint in &plan.endpoints {
            let old = {
                let catalogue = self.backend.catalogue().read();
                let application = catalogue.find_application(&self.organisation, &endpoint.application);
                application.and_then(|application| application.find_endpoint(&endpoint.uid).cloned())
            };
            let path = format!("/app/{}/endpoint/{}", endpoint.application, endpoint.uid);
            if let Some(old) = &old {
                work.rotate_secret(endpoint, &path, old).await;
            }
            let unsaid = [("headers", json!({})), ("kind", kind_of(endpoint).into())];
            work.put(endpoint, &path, old.map(|old| old.metadata.clone()), &unsaid).await;
        }
        work.free_paths(plan).await;
        for source in &plan.sources {
            let old = self.backend.catalogue().read().sources().find(&self.organisation, &source.uid).cloned();
            let path = format!("/source/{}", source.uid);
            // A source keeps its way, so one with another way is another source.
            let gone = old.as_ref().is_some_and(|old| old.way.name() != way_of(source));
            if gone {
                let (status, answer) = self.call(Method::DELETE, &path, None).await;
                work.expect(status, &answer, &["sources", &source.way[1]]);
            }
            let old = old.filter(|_| !gone);
            let unsaid = old.as_ref().filter(|old| !is_same_sender(old, source)).map(|_| ("secrets", json!([])));
            work.put(source, &path, old.map(|old| old.metadata.clone()), unsaid.as_slice()).await;
        }
        // Now that nothing of the file runs them.
        work.remove_plugins(plan).await;
        let Work { done, faults, .. } = work;
        if faults.is_empty() { Ok(done) } else { Err(Faults::new(&document.path, faults)) }
    }

    async fn call(&self, method: Method, path: &str, body: Option<&Map<String, Value>>) -> (StatusCode, Value) {
        let principal = Principal::Organisation(self.organisation.clone());
        let failed = |text: String| (StatusCode::INTERNAL_SERVER_ERROR, json!({ "detail": text }));
        let token = match mint_token(&self.secret, &principal, clock::wall(), TOKEN_LIFETIME) {
            Ok(token) => token,
            Err(error) => return failed(error.to_string()),
        };
        let body = body.map_or_else(Body::empty, |body| Body::from(serde_json::to_vec(body).unwrap_or_default()));
        let request = Request::builder()
            .method(method)
            .uri(format!("/api/v1{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {token}"))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body);
        let request = match request {
            Ok(request) => request,
            Err(error) => return failed(error.to_string()),
        };
        let answer: Response = match self.router.clone().oneshot(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let status = answer.status();
        let body = answer.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn digest(&self, body: &Map<String, Value>) -> String {
        let mut mac =
            <Hmac<Sha256> as KeyInit>::new_from_slice(&self.digest_key).expect("HMAC takes a key of any length");
        mac.update(&serde_json::to_vec(body).unwrap_or_default());
        mac.finalize().into_bytes()[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

struct Work<'a> {
    caller: &'a Caller,
    document: &'a Document,
    done: Done,
    faults: Vec<Fault>,
}

impl Work<'_> {
    async fn applications(&mut self, plan: &Plan) {
        for (uid, declared) in &plan.applications {
            let path = format!("/app/{uid}");
            let old = {
                let catalogue = self.caller.backend.catalogue().read();
                catalogue
                    .find_application(&self.caller.organisation, uid)
                    .map(|entry| entry.application.metadata.clone())
            };
            match declared {
                Some(declared) => self.put(declared, &path, old, &[]).await,
                None if old.is_some() => {}
                None => {
                    let body = Map::from_iter([("name".to_owned(), uid.as_str().into())]);
                    let (status, answer) = self.caller.call(Method::PUT, &path, Some(&body)).await;
                    self.expect(status, &answer, &["applications", uid]);
                }
            }
        }
    }

    async fn event_types(&mut self, plan: &Plan) {
        for (name, [section, place]) in &plan.event_types {
            let there = {
                let catalogue = self.caller.backend.catalogue().read();
                catalogue.event_type(&self.caller.organisation, name).is_some_and(|event_type| !event_type.archived)
            };
            if !there {
                let body = json!({ "name": name, "description": "Named in the server's hooks file." });
                let body = body.as_object().cloned().unwrap_or_default();
                let (status, answer) = self.caller.call(Method::POST, "/event-type", Some(&body)).await;
                self.expect(status, &answer, &[section, place, "event_types"]);
            }
        }
    }

    /// Takes paths from the sources that give them up to others: whoever is changed first would find its new path taken. Such a source is
    /// changed anyway, also if the server dies before: its digest is none.
    async fn free_paths(&mut self, plan: &Plan) {
        let path_of = |source: &Declared| source.body.get("path").and_then(Value::as_str).map(str::to_owned);
        let giving: Vec<&Declared> = {
            let catalogue = self.caller.backend.catalogue().read();
            let gives = |source: &&Declared| {
                let old = catalogue.sources().find(&self.caller.organisation, &source.uid);
                let Some(held) = old.and_then(|old| old.path.clone()) else { return false };
                plan.sources.iter().any(|other| other.uid != source.uid && path_of(other).as_ref() == Some(&held))
            };
            plan.sources.iter().filter(gives).collect()
        };
        for source in giving {
            let body = json!({ "path": null, "metadata": { DIGEST: "" } });
            let body = body.as_object().cloned().unwrap_or_default();
            let path = format!("/source/{}", source.uid);
            let (status, answer) = self.caller.call(Method::PATCH, &path, Some(&body)).await;
            let [section, name] = &source.way;
            self.expect(status, &answer, &[section, name, "path"]);
        }
    }

    /// Creates it, or changes it if it was declared otherwise. `unsaid` is what the API would let stand where the file says nothing.
    async fn put(&mut self, declared: &Declared, path: &str, old: Option<Metadata>, unsaid: &[(&str, Value)]) {
        let mut body = declared.body.clone();
        let digest = self.caller.digest(&body);
        if old.as_ref().is_some_and(|old| is_as_declared(old, &digest)) {
            self.done.unchanged += 1;
            return;
        }
        if let Value::Object(metadata) = body.entry("metadata").or_insert_with(|| json!({})) {
            metadata.insert(DIGEST.to_owned(), digest.into());
        }
        for (name, value) in unsaid.iter().filter(|_| old.is_some()) {
            body.entry(*name).or_insert_with(|| value.clone());
        }
        let [section, name] = &declared.way;
        let mut left_out: Vec<Vec<String>> = Vec::new();
        loop {
            let (status, answer) = self.caller.call(Method::PUT, path, Some(&body)).await;
            let known = self.faults.len();
            if self.expect(status, &answer, &[section, name]) {
                match old {
                    None => self.done.created += 1,
                    Some(_) => self.done.updated += 1,
                }
                return;
            }
            let ways = ways(&answer);
            // What is said of something that was left out, or of that around it, is that it is not there.
            let mut at = ways.iter();
            let mut news = self.faults.split_off(known);
            news.retain(|_| !at.next().is_some_and(|way| left_out.iter().any(|out| is_about(way, out))));
            self.faults.append(&mut news);
            let more = ways.into_iter().filter_map(|way| leave_out(&mut body, way)).collect::<Vec<_>>();
            let decides = |way: &Vec<String>| {
                way.iter().any(|name| DECISIVE.contains(&&**name))
                    || matches!(way.as_slice(), [name] if DECISIVE_WHOLE.contains(&&**name))
            };
            if !self.caller.tries || more.is_empty() || more.iter().any(decides) {
                return;
            }
            left_out.extend(more);
        }
    }

    /// Has the endpoint sign with the secret that the file says, if that is another one than before: which goes on signing for a day, because
    /// receivers need time. What is no secret is told where the endpoint is put.
    async fn rotate_secret(&mut self, declared: &Declared, path: &str, old: &Endpoint) {
        let said = declared.body.get("secret").and_then(Value::as_str).and_then(|text| Secret::parse(text).ok());
        let Some(said) = said else { return };
        if is_as_declared(&old.metadata, &self.caller.digest(&declared.body))
            || old.secrets.first().is_some_and(|current| current.secret.is(&said))
            || kind_of(declared) == "plugin"
            || matches!(old.kind, Kind::Plugin(_))
        {
            return;
        }
        let body = Map::from_iter([("key".to_owned(), said.reveal_text().as_str().into())]);
        let (status, answer) = self.caller.call(Method::POST, &format!("{path}/secret/rotate"), Some(&body)).await;
        let [section, name] = &declared.way;
        self.expect(status, &answer, &[section, name, "secret"]);
    }

    /// Removes what an earlier file declared and this one does not.
    async fn remove(&mut self, plan: &Plan) {
        let sources: BTreeSet<&str> = plan.sources.iter().map(|source| source.uid.as_str()).collect();
        let endpoints: BTreeSet<(&str, &str)> =
            plan.endpoints.iter().map(|endpoint| (endpoint.application.as_str(), endpoint.uid.as_str())).collect();
        let ours = |uid: &Option<String>, metadata: &Metadata| -> bool {
            uid.as_deref().is_some_and(|uid| uid.starts_with(PREFIX)) && metadata.contains_key(DIGEST)
        };
        let paths: Vec<String> = {
            let (catalogue, organisation) = (self.caller.backend.catalogue().read(), &self.caller.organisation);
            let gone_sources = catalogue
                .sources()
                .of_organisation(organisation)
                .filter(|source| ours(&source.uid, &source.metadata))
                .filter(|source| source.uid.as_deref().is_none_or(|uid| !sources.contains(uid)))
                .map(|source| format!("/source/{}", source.id));
            let gone_endpoints = catalogue.applications_of(organisation).flat_map(|entry| {
                let application = entry.application.uid.as_deref().unwrap_or_default();
                let gone = entry.endpoints.iter().filter(|endpoint| ours(&endpoint.uid, &endpoint.metadata));
                let gone = gone.filter(|endpoint| {
                    endpoint.uid.as_deref().is_none_or(|uid| !endpoints.contains(&(application, uid)))
                });
                gone.map(|endpoint| format!("/app/{}/endpoint/{}", entry.application.id, endpoint.id))
                    .collect::<Vec<_>>()
            });
            gone_sources.chain(gone_endpoints).collect()
        };
        for path in paths {
            let (status, answer) = self.caller.call(Method::DELETE, &path, None).await;
            if self.expect(status, &answer, &[]) {
                self.done.removed += 1;
            }
        }
    }

    /// Notes what was refused, with its place in the file.
    fn expect(&mut self, status: StatusCode, answer: &Value, way: &[&str]) -> bool {
        if status.is_success() {
            return true;
        }
        match &answer["detail"] {
            Value::Array(all) => {
                for fault in all {
                    let text = fault["msg"].as_str().unwrap_or("it is refused");
                    let place = self.place(way, &steps(fault));
                    let place: Vec<&str> = place.iter().map(String::as_str).collect();
                    self.faults.push(self.document.fault(&place, told(text), None));
                }
            }
            detail => {
                let text = detail.as_str().map_or_else(|| format!("it is refused with {status}"), str::to_owned);
                self.faults.push(self.document.fault(way, text, None));
            }
        }
        false
    }

    /// Where in the file it stands that the API finds at these steps below `way`.
    fn place(&self, way: &[&str], steps: &[String]) -> Vec<String> {
        let mut place: Vec<String> = way.iter().map(|&step| step.to_owned()).collect();
        let mut here = way.iter().try_fold(&self.document.value, |value, step| value.get(step));
        for step in steps {
            let has = |name: &str| here.is_some_and(|here| here.get(name).is_some());
            let instead = match (way.first(), step.as_str()) {
                (Some(&"sources"), "secrets") if has("secret") => Some("secret"),
                _ => None,
            };
            if let Some(name) = instead {
                place.push(name.to_owned());
                break;
            }
            // Names of the user's own stand as they are.
            let name = if has(step) { step.clone() } else { to_snake(step) };
            here = here.and_then(|here| match here {
                Value::Array(items) => items.get(step.parse::<usize>().ok()?),
                members => members.get(&name),
            });
            place.push(name);
        }
        place
    }
}

/// Whether the file that was in force before said the same, by what was noted then.
fn is_as_declared(old: &Metadata, digest: &str) -> bool {
    old.get(DIGEST).is_some_and(|noted| noted == digest)
}

/// The kind of an endpoint that does not say it.
fn kind_of(endpoint: &Declared) -> &'static str {
    ["plugin", "pipe"].into_iter().find(|kind| endpoint.body.contains_key(*kind)).unwrap_or("push")
}

/// The way in of a source, by name.
fn way_of(source: &Declared) -> &str {
    let said = source.body.get("way").and_then(Value::as_str);
    let meant = || ["cron", "outbox", "queue"].into_iter().find(|way| source.body.contains_key(*way));
    said.or_else(meant).unwrap_or("http")
}

/// Whether its webhooks are proven as before. Then a secret that the sender gave, which stands in no file, stays.
fn is_same_sender(old: &Source, source: &Declared) -> bool {
    match &old.recipe {
        Recipe::Preset(name) => source.body.get("preset").and_then(Value::as_str) == Some(name),
        Recipe::Own(_) => source.body.contains_key("recipe"),
    }
}
