//! A small world for the API: a backend on an in-memory store that keeps what the API hands it and delivers nothing.

use axum::body::Body;
use axum::response::Response;
use bellwire_api::backend::{AcceptError, Answer, Backend, PluginFault, Shaped, Unshaped};
use bellwire_api::pipe::Pipes;
use bellwire_api::{Api, Principal, Settings, mint_token};
use bellwire_delivery::{Reshaped, reshape};
use bellwire_engine::{Catalogue, Draft};
use bellwire_model::*;
use bellwire_shape::Scripts;
use bellwire_store::{
    Advanced, AttemptQuery, Batch, Change, CommitError, Consumer, DedupeEntry, DeliveryOfEndpoint, DeliveryOfMessage,
    EmbeddedStore, KeptAnswer, Lag, Lease, LogPage, LogQuery, Matching, MessageQuery, Page, ReadError, Recovered, Span,
    StatusFilter, Store, Task, TaskQuery, TaskStatus, WaitingHead,
};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tower::ServiceExt;

pub(crate) const SECRET: &[u8] = b"a secret for tests only";
pub(crate) const ORGANISATION: &str = "org_23rb8YdGqMT0qIzpgGwdXfHirMu";
pub(crate) const OTHER_ORGANISATION: &str = "org_00000000000000000000000other";
/// 2026-01-01T00:00:00Z.
pub(crate) const START: Timestamp = Timestamp::from_seconds(1_767_225_600);

/// Everything that was kept.
#[derive(Default)]
pub(crate) struct Kept {
    pub(crate) messages: BTreeMap<Sequence, Message>,
    pub(crate) attempts: BTreeMap<Sequence, Attempt>,
    pub(crate) deliveries: BTreeMap<Delivery, DeliveryOfMessage>,
    keys: HashMap<DedupeKey, DedupeEntry>,
    answers: HashMap<DedupeKey, KeptAnswer>,
    tasks: BTreeMap<Sequence, Task>,
    /// What the API changed, in order.
    pub(crate) changes: Vec<Change>,
    /// What the next commit is answered with.
    pub(crate) refuse: Option<AcceptError>,
}

pub(crate) struct Memory(pub(crate) Mutex<Kept>);

pub(crate) struct TestBackend {
    catalogue: RwLock<Catalogue>,
    store: Arc<dyn Store>,
    memory: Arc<Memory>,
    /// If the store is the real one, it is written here; `memory` then only notes the changes.
    embedded: Option<(Arc<EmbeddedStore>, tempfile::TempDir)>,
    one_at_a_time: tokio::sync::Mutex<()>,
    pipes: Pipes,
    accepting: Mutex<()>,
    now: AtomicI64,
    wall_ahead_seconds: AtomicI64,
    counter: AtomicU64,
    key: AtomicU32,
}

pub(crate) struct World {
    pub(crate) backend: Arc<TestBackend>,
    pub(crate) router: axum::Router,
    pub(crate) api: Api,
    /// Of the organisation.
    pub(crate) token: String,
}

/// An answer, read to its end.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answered {
    pub(crate) status: StatusCode,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answered {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    #[track_caller]
    pub(crate) fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        if self.text.is_empty() { Value::Null } else { self.json() }
    }
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Settings { jwt_secret: SECRET.to_vec(), ..Settings::default() })
    }

    /// On the embedded store, in a folder that goes with the world.
    pub(crate) fn embedded() -> Self {
        Self::embedded_with(Settings::default())
    }

    pub(crate) fn embedded_with(settings: Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("data");
        let store = EmbeddedStore::open(&path, bellwire_store::Settings::default()).expect("a store");
        let settings = Settings { jwt_secret: SECRET.to_vec(), ..settings };
        Self::on(settings, Some((Arc::new(store), folder)))
    }

    pub(crate) fn with(settings: Settings) -> Self {
        Self::on(settings, None)
    }

    fn on(settings: Settings, embedded: Option<(Arc<EmbeddedStore>, tempfile::TempDir)>) -> Self {
        let memory = Arc::new(Memory(Mutex::default()));
        let store: Arc<dyn Store> = match &embedded {
            Some((store, _)) => store.clone(),
            None => memory.clone(),
        };
        let backend = Arc::new(TestBackend {
            catalogue: RwLock::default(),
            store,
            memory,
            embedded,
            one_at_a_time: tokio::sync::Mutex::new(()),
            pipes: Pipes::new(Sequence::ZERO, 1 << 40),
            accepting: Mutex::new(()),
            now: AtomicI64::new(START.as_micros()),
            wall_ahead_seconds: AtomicI64::new(0),
            counter: AtomicU64::new(1),
            key: AtomicU32::new(1),
        });
        let api = Api::new(backend.clone(), settings);
        let router = bellwire_api::for_pages(bellwire_api::router(api.clone()));
        World { backend, router, api, token: organisation_token(ORGANISATION) }
    }

    pub(crate) fn kept(&self) -> parking_lot::MutexGuard<'_, Kept> {
        self.backend.memory.0.lock()
    }

    /// Sets the wall clock, which engine time does not follow; a negative time sets it back.
    pub(crate) fn set_wall_ahead(&self, seconds: i64) {
        self.backend.wall_ahead_seconds.store(seconds, Ordering::SeqCst);
    }

    /// Everything is as the store has it, and nobody has anything in hand.
    pub(crate) fn restart(&self) {
        let recovered = self.backend.store.recover().expect("recovers");
        let catalogue = Catalogue::new(recovered.applications, recovered.endpoints, recovered.event_types);
        *self.backend.catalogue.write() = catalogue;
        self.backend.forget_leases();
    }

    pub(crate) fn pass(&self, time: Duration) {
        self.backend.now.fetch_add(time.as_micros() as i64, Ordering::SeqCst);
    }

    pub(crate) async fn send(&self, mut request: Request<Body>) -> Answered {
        // As every client sends it.
        request.headers_mut().entry("host").or_insert(http::HeaderValue::from_static("server.example"));
        let answer: Response = self.router.clone().oneshot(request).await.expect("the router cannot fail");
        let (parts, body) = answer.into_parts();
        let bytes = body.collect().await.expect("a whole body").to_bytes();
        let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
        Answered { status: parts.status, headers: parts.headers, text }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", self.token))
    }

    pub(crate) async fn call(&self, method: Method, path: &str, body: impl Into<Body>) -> Answered {
        self.send(self.request(method, path).body(body.into()).expect("a request")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answered {
        self.call(Method::GET, path, Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answered {
        self.call(Method::POST, path, body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answered {
        self.call(Method::PUT, path, body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, body: Value) -> Answered {
        self.call(Method::PATCH, path, body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answered {
        self.call(Method::DELETE, path, Body::empty()).await
    }

    pub(crate) async fn post_once(&self, path: &str, key: &str, body: Value) -> Answered {
        let request = self.request(Method::POST, path).header("idempotency-key", key);
        self.send(request.body(body.to_string().into()).expect("a request")).await
    }

    /// An application with this uid.
    pub(crate) async fn application(&self, uid: &str) -> String {
        let out = self.post("/api/v1/app", serde_json::json!({ "name": uid, "uid": uid })).await.expect(201);
        out["id"].as_str().expect("an id").to_owned()
    }

    /// An endpoint of that application that takes everything.
    pub(crate) async fn endpoint(&self, app: &str) -> String {
        let body = serde_json::json!({ "url": "https://example.com/hook" });
        let out = self.post(&format!("/api/v1/app/{app}/endpoint"), body).await.expect(201);
        out["id"].as_str().expect("an id").to_owned()
    }

    /// A message of that application.
    pub(crate) async fn message(&self, app: &str) -> String {
        let body = serde_json::json!({ "eventType": "user.signup", "payload": { "a": 1 } });
        let out = self.post(&format!("/api/v1/app/{app}/msg"), body).await.expect(202);
        out["id"].as_str().expect("an id").to_owned()
    }

    /// An attempt of a delivery, as the engine would record it.
    pub(crate) fn attempt(
        &self,
        message: &str,
        endpoint: &str,
        result: Result<u16, FailureClass>,
        body: &[u8],
    ) -> String {
        let message: MessageId = message.parse().expect("an id");
        let endpoint_id: EndpointId = endpoint.parse().expect("an id");
        let endpoint =
            self.backend.catalogue.read().endpoints().find(|e| e.id == endpoint_id).cloned().expect("an endpoint");
        let delivery = Delivery { endpoint: endpoint.key, message: message.sequence() };
        let id = AttemptId::from_parts(self.backend.sequence(), [7; 12]);
        let success = matches!(result, Ok(200..=299));
        let stands = self.backend.store.delivery(delivery).expect("a store").expect("a delivery");
        let (state, after) = if success {
            (DeliveryState::Delivered, AfterAttempt::Delivered)
        } else {
            let reason = EndReason::Exhausted;
            (DeliveryState::Ended(reason), AfterAttempt::Ended(reason))
        };
        let attempt = Attempt {
            id,
            delivery,
            application: endpoint.application,
            number: stands.attempts + 1,
            trigger: Trigger::Scheduled,
            url: endpoint.url.as_str().into(),
            outcome: Some(Outcome {
                started_at: self.backend.now(),
                duration: Duration::from_millis(12),
                result,
                body: bytes::Bytes::copy_from_slice(body),
                retry_after: None,
                directive: None,
                url: None,
                phases: Phases {
                    dns: Some(Duration::from_micros(1_500)),
                    connect: Some(Duration::from_micros(20_250)),
                    tls: None,
                    first_byte: Some(Duration::from_micros(95_000)),
                },
            }),
            after,
        };
        match &self.backend.embedded {
            Some((store, _)) => store.commit(&Batch { attempts: vec![attempt], ..Batch::default() }).expect("a commit"),
            None => {
                let mut kept = self.kept();
                let stands = DeliveryOfMessage { state, attempts: stands.attempts + 1, ..stands };
                kept.deliveries.insert(delivery, stands);
                kept.attempts.insert(id.sequence(), attempt);
            }
        }
        id.to_string()
    }
}

impl World {
    /// Has the real store remove what is past its time, as far as all of it has been delivered or waits.
    pub(crate) fn clean_up(&self) {
        let (store, _) = self.backend.embedded.as_ref().expect("a real store");
        let now = self.backend.now();
        let watermark = Some(Sequence::first_at(now));
        store.commit(&Batch { watermark, ..Batch::default() }).expect("a commit");
        while store.upkeep(now).expect("a slice") {}
    }

    /// Does what goes on in the background of the real store, to its end.
    pub(crate) fn advance(&self) {
        let (store, _) = self.backend.embedded.as_ref().expect("a real store");
        while store.advance_task(self.backend.now(), &*self.backend).expect("a slice").is_some() {}
    }

    /// The delivery waits for this attempt, as an engine would have it after the one before.
    pub(crate) fn wait(&self, message: &str, endpoint: &str, next: u32, wait: Duration) {
        let delivery = self.delivery(message, endpoint);
        let due = self.backend.now().plus(wait);
        let mut kept = self.kept();
        let stands = kept.deliveries.get_mut(&delivery).expect("a delivery");
        stands.attempts = next - 1;
        stands.state = DeliveryState::Waiting(Waiting { delivery, due, next, trigger: Trigger::Scheduled });
    }

    /// The endpoint is disabled, by whomever.
    pub(crate) fn disable(&self, endpoint: &str, by: DisabledBy) {
        let id: EndpointId = endpoint.parse().expect("an id");
        let mut catalogue = self.backend.catalogue.write();
        let key = catalogue.endpoints().find(|e| e.id == id).expect("an endpoint").key;
        catalogue.change_endpoint(key, |endpoint| endpoint.disabled = Some(by));
    }

    fn delivery(&self, message: &str, endpoint: &str) -> Delivery {
        let message: MessageId = message.parse().expect("an id");
        let id: EndpointId = endpoint.parse().expect("an id");
        let endpoint = self.backend.catalogue.read().endpoints().find(|e| e.id == id).expect("an endpoint").key;
        Delivery { endpoint, message: message.sequence() }
    }
}

impl Matching for TestBackend {
    fn wants_payload(&self, _: EndpointKey) -> bool {
        false
    }

    fn matches(&self, endpoint: EndpointKey, message: &Message) -> bool {
        let catalogue = self.catalogue.read();
        catalogue.endpoint(endpoint).is_some_and(|e| matches(e, &message.event_type, &message.channels))
    }
}

pub(crate) fn organisation_token(organisation: &str) -> String {
    let organisation = OrganisationId::parse(organisation).expect("an organisation");
    mint_token(SECRET, &Principal::Organisation(organisation), START, Duration::from_secs(3600)).expect("a token")
}

pub(crate) fn application_token(organisation: &str, application: &str, flags: &[&str]) -> String {
    let principal = Principal::Application {
        organisation: OrganisationId::parse(organisation).expect("an organisation"),
        application: application.parse().expect("an application"),
        feature_flags: flags.iter().map(|f| (*f).to_owned()).collect(),
    };
    mint_token(SECRET, &principal, START, Duration::from_secs(3600)).expect("a token")
}

impl Backend for TestBackend {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.now.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timestamp {
        let ahead = self.wall_ahead_seconds.load(Ordering::SeqCst) * 1_000_000;
        Timestamp::from_micros(self.now.load(Ordering::SeqCst) + ahead)
    }

    fn catalogue(&self) -> &RwLock<Catalogue> {
        &self.catalogue
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    fn accept(&self, draft: Draft) -> Answer<'_, Result<bellwire_api::backend::Accepted, AcceptError>> {
        let mut tail = [0; 12];
        self.random(&mut tail);
        Box::pin(async move {
            // Two equal ones are here at the same moment.
            tokio::task::yield_now().await;
            if let Some(error) = self.memory.0.lock().refuse.take() {
                return Err(error);
            }
            let _alone = self.accepting.lock();
            let failed = |e: ReadError| AcceptError::Failed(e.to_string());
            if let Some((key, digest)) = draft.idempotency
                && let Some(entry) = self.store.find_key(key).map_err(failed)?
            {
                if entry.digest != digest {
                    return Err(AcceptError::KeyReused);
                }
                let message = self.store.message(entry.message, true).map_err(failed)?.expect("it was kept");
                return Ok(bellwire_api::backend::Accepted::Same(Arc::new(message)));
            }
            if let Some(key) = draft.event
                && self.store.find_key(key).map_err(failed)?.is_some()
            {
                return Err(AcceptError::EventIdTaken);
            }
            let message = Arc::new(Message {
                id: MessageId::from_parts(self.sequence(), tail),
                application: draft.application,
                event_type: draft.event_type,
                event_id: draft.event_id,
                channels: draft.channels,
                tags: draft.tags,
                payload: Some(draft.payload),
                content_type: draft.content_type,
                transformations_params: draft.transformations_params,
                received: draft.received,
                trace: draft.trace,
                expires_at: draft.expires_at,
                deliver_at: draft.deliver_at,
            });
            let sequence = message.sequence();
            let accepted = bellwire_store::Accepted {
                message: message.clone(),
                fan_out: draft.fan_out,
                idempotency: draft.idempotency.map(|(key, digest)| DedupeEntry { key, digest, message: sequence }),
                event: draft.event,
            };
            match &self.embedded {
                Some((store, _)) => {
                    self.commit(&**store, Batch { accepted: vec![accepted], ..Batch::default() });
                }
                None => self.memory.accept(accepted),
            }
            Ok(bellwire_api::backend::Accepted::New(message))
        })
    }

    fn change(&self, changes: Vec<Change>) -> Answer<'_, Result<(), AcceptError>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            if let Some(error) = self.memory.0.lock().refuse.take() {
                return Err(error);
            }
            if let Some((store, _)) = &self.embedded {
                self.commit(&**store, Batch { changes: changes.clone(), ..Batch::default() });
            }
            for change in changes {
                self.apply(change);
            }
            Ok(())
        })
    }

    fn settle(&self, changes: Vec<Change>) -> Answer<'_, Result<(), AcceptError>> {
        self.change(changes)
    }

    fn shape<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        message: &'a Message,
        scripts: &'a Scripts,
    ) -> Answer<'a, Result<Option<Shaped>, Unshaped>> {
        Box::pin(async move {
            match reshape(endpoint, message, scripts).await {
                Ok(shaped) => Ok(shaped.map(|Reshaped { message, headers }| Shaped { message, headers })),
                Err(bellwire_delivery::Unshaped { class, text }) => Err(Unshaped { class, text }),
            }
        })
    }

    fn pipes(&self) -> &Pipes {
        &self.pipes
    }

    fn configuration(&self) -> &tokio::sync::Mutex<()> {
        &self.one_at_a_time
    }

    fn sequence(&self) -> Sequence {
        let counter = self.counter.fetch_add(1, Ordering::SeqCst);
        Sequence::from_u64(Sequence::first_at(self.now()).as_u64() + counter)
    }

    fn next_key(&self) -> u32 {
        self.key.fetch_add(1, Ordering::SeqCst)
    }

    fn random(&self, bytes: &mut [u8]) {
        let seed = self.counter.fetch_add(1, Ordering::SeqCst).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = seed.to_le_bytes()[at % 8] ^ at as u8;
        }
    }

    fn throttled_since(&self, endpoint: &Endpoint) -> Answer<'_, Option<Timestamp>> {
        let since = endpoint.limits.throttle_rate.map(|_| START);
        Box::pin(std::future::ready(since))
    }

    fn check_url(&self, url: &url::Url) -> Result<(), String> {
        if url.host_str() == Some("127.0.0.1") { Err("address 127.0.0.1 is not allowed".to_owned()) } else { Ok(()) }
    }

    fn check_tls(&self, identity: Option<&str>, authorities: Option<&str>) -> Result<(), String> {
        let wrong = identity.into_iter().chain(authorities).any(|text| !text.starts_with("-----BEGIN"));
        if wrong { Err("is not PEM".to_owned()) } else { Ok(()) }
    }

    fn check_plugin(&self, _: &OrganisationId, runs: Runs, settings: &Value) -> Result<(), Vec<PluginFault>> {
        let fault = |path: &str, text: &str| vec![PluginFault { path: vec![path.to_owned()], text: text.to_owned() }];
        match (runs, settings["code"].as_str()) {
            (Runs::Javascript, Some("bad")) => Err(fault("code", "the script does not read")),
            (Runs::Javascript, _) => Ok(()),
            _ => Err(fault("runs", &format!("this server runs no plugins of the kind {}", runs.name()))),
        }
    }

    fn check_source(&self, source: &Source) -> Result<(), Vec<PluginFault>> {
        if !source.way.is_http() {
            return Ok(());
        }
        let fault = |path: &str, text: &str| vec![PluginFault { path: vec![path.to_owned()], text: text.to_owned() }];
        match &source.recipe {
            Recipe::Preset(name) if name == "github" => {
                match source.secrets.iter().find(|s| s.text.reveal() == "bad") {
                    Some(_) => Err(fault("secrets", "is no secret of GitHub's")),
                    None => Ok(()),
                }
            }
            Recipe::Preset(_) => Err(fault("preset", "there is no preset of this name")),
            Recipe::Own(_) => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        self.memory.0.lock().refuse.as_ref().map_or(Ok(()), |error| Err(error.to_string()))
    }
}

impl TestBackend {
    pub(crate) fn close_pipes(&self) {
        self.pipes.wakes.close();
    }

    /// Nobody has anything any more, as after a restart.
    pub(crate) fn forget_leases(&self) {
        let all: Vec<_> = self.catalogue.read().endpoints().map(|endpoint| endpoint.key).collect();
        all.into_iter().for_each(|endpoint| self.pipes.forget(endpoint));
    }

    /// Commits and publishes, as the server does; and what is owed to a pipe waits at once, as its engine would see to.
    fn commit(&self, store: &dyn Store, batch: Batch) {
        store.commit(&batch).expect("a commit");
        self.pipes.wakes.publish(&batch);
        let mut parked = Vec::new();
        for accepted in batch.accepted.iter().filter(|accepted| accepted.message.deliver_at.is_none()) {
            for &endpoint in &accepted.fan_out {
                let catalogue = self.catalogue.read();
                if catalogue.endpoint(endpoint).is_some_and(|endpoint| !endpoint.kind.is_attempted()) {
                    let delivery = Delivery { endpoint, message: accepted.message.sequence() };
                    let waiting = Waiting { delivery, due: self.now(), next: 1, trigger: Trigger::Scheduled };
                    parked.push(Change::Wait { waiting, owed: false });
                }
            }
        }
        if !parked.is_empty() {
            let batch = Batch { changes: parked, ..Batch::default() };
            store.commit(&batch).expect("a commit");
            self.pipes.wakes.publish(&batch);
        }
    }

    fn apply(&self, change: Change) {
        let mut kept = self.memory.0.lock();
        kept.changes.push(change.clone());
        self.catalogue.write().apply(&change);
        self.pipes.wakes.applied(std::slice::from_ref(&change));
        match change {
            Change::KeepAnswer(answer) => drop(kept.answers.insert(answer.key, answer)),
            Change::Wait { waiting, .. } => {
                let delivery = waiting.delivery;
                let stands = kept.deliveries.entry(delivery).or_insert(DeliveryOfMessage {
                    endpoint: delivery.endpoint,
                    state: DeliveryState::Fresh,
                    attempts: 0,
                });
                stands.state = DeliveryState::Waiting(waiting);
            }
            Change::ExpungePayload(sequence) => {
                if let Some(message) = kept.messages.get_mut(&sequence) {
                    message.payload = None;
                }
            }
            Change::ExpungeResponse(id) => {
                if let Some(Attempt { outcome: Some(outcome), .. }) = kept.attempts.get_mut(&id.sequence()) {
                    outcome.body = bytes::Bytes::from_static(b"EXPUNGED");
                }
            }
            Change::PutTask(task) => drop(kept.tasks.insert(task.id.sequence(), Task::clone(&task))),
            Change::CancelTask { task, at } => {
                let found = kept.tasks.get_mut(&task.sequence()).filter(|found| found.id == task);
                if let Some(found) = found.filter(|found| found.status == TaskStatus::Running) {
                    (found.status, found.updated_at) = (TaskStatus::Cancelled, at);
                }
            }
            // What a slice does is the real store's.
            _ => {}
        }
    }
}

fn page<T: Clone>(mut items: Vec<T>, ascending: bool, limit: usize) -> Page<T> {
    if !ascending {
        items.reverse();
    }
    let done = items.len() <= limit;
    items.truncate(limit);
    Page { items, done }
}

impl Memory {
    fn accept(&self, accepted: bellwire_store::Accepted) {
        let mut kept = self.0.lock();
        let sequence = accepted.message.sequence();
        let event = accepted.event.map(|key| DedupeEntry { key, digest: RequestDigest([0; 8]), message: sequence });
        for entry in accepted.idempotency.into_iter().chain(event) {
            kept.keys.insert(entry.key, entry);
        }
        for &endpoint in &accepted.fan_out {
            let stands = DeliveryOfMessage { endpoint, state: DeliveryState::Fresh, attempts: 0 };
            kept.deliveries.insert(Delivery { endpoint, message: sequence }, stands);
        }
        kept.messages.insert(sequence, Message::clone(&accepted.message));
    }

    fn matching(&self, query: &MessageQuery, of: impl Fn(&Kept, &Message) -> bool) -> Vec<Message> {
        let kept = self.0.lock();
        let found = kept.messages.range(query.span.first..=query.span.last).map(|(_, m)| m);
        found
            .filter(|m| of(&kept, m))
            .filter(|m| query.event_types.is_empty() || query.event_types.contains(&m.event_type))
            .filter(|m| query.channel.as_ref().is_none_or(|c| m.channels.contains(c)))
            .filter(|m| query.tag.as_ref().is_none_or(|t| m.tags.contains(t)))
            .filter(|m| query.source.is_none_or(|s| m.received.as_ref().is_some_and(|r| r.source == s)))
            .cloned()
            .collect()
    }

    fn attempts(&self, query: &AttemptQuery, of: impl Fn(&Attempt) -> bool) -> Page<Attempt> {
        let kept = self.0.lock();
        let wanted = |a: &&Attempt| {
            let outcome = a.outcome.as_ref();
            of(a)
                && query.filter.endpoint.is_none_or(|e| a.delivery.endpoint == e)
                && match query.filter.status {
                    None => true,
                    Some(StatusFilter::Success) => outcome.is_some_and(Outcome::is_success),
                    Some(StatusFilter::Fail) => outcome.is_some_and(|o| !o.is_success() && !o.is_cancelled()),
                    Some(StatusFilter::Canceled) => outcome.is_none_or(Outcome::is_cancelled),
                    Some(StatusFilter::FailOrCanceled) => !outcome.is_some_and(Outcome::is_success),
                    Some(_) => false,
                }
                && query
                    .filter
                    .status_class
                    .is_none_or(|class| outcome.map_or(0, |o| o.result.map_or(0, |status| status / 100 * 100)) == class)
        };
        let found = kept.attempts.range(query.span.first..=query.span.last).map(|(_, a)| a).filter(wanted);
        page(found.cloned().collect(), query.ascending, query.limit)
    }
}

impl Store for Memory {
    fn lease(&self, _: &str, _: &[Partition], _: Timestamp, _: Duration) -> Result<Vec<Lease>, CommitError> {
        Ok(Vec::new())
    }

    fn commit(&self, _: &Batch) -> Result<(), CommitError> {
        Ok(())
    }

    fn recover(&self) -> Result<Recovered, ReadError> {
        Ok(Recovered::default())
    }

    fn lease_due(&self, _: EndpointKey, _: bool, _: Timestamp, _: usize) -> Result<Vec<(Waiting, Message)>, ReadError> {
        Ok(Vec::new())
    }

    fn next_due(&self, _: EndpointKey, _: bool) -> Result<Option<WaitingHead>, ReadError> {
        Ok(None)
    }

    fn oldest_waiting(&self) -> Result<Option<Sequence>, ReadError> {
        Ok(None)
    }

    fn message(&self, sequence: Sequence, with_payload: bool) -> Result<Option<Message>, ReadError> {
        let found = self.0.lock().messages.get(&sequence).cloned();
        Ok(found.map(|m| Message { payload: m.payload.filter(|_| with_payload), ..m }))
    }

    fn find_key(&self, key: DedupeKey) -> Result<Option<DedupeEntry>, ReadError> {
        Ok(self.0.lock().keys.get(&key).copied())
    }

    fn find_answer(&self, key: DedupeKey, now: Timestamp) -> Result<Option<KeptAnswer>, ReadError> {
        Ok(self.0.lock().answers.get(&key).filter(|a| a.expires_at > now).cloned())
    }

    fn kept_requests(
        &self,
        source: SourceKey,
        _: Option<Sequence>,
        limit: usize,
    ) -> Result<Page<KeptRequest>, ReadError> {
        let kept = self.0.lock();
        let of = |change: &Change| match change {
            Change::KeepRequest(request) if request.source == source => Some(KeptRequest::clone(request)),
            _ => None,
        };
        Ok(page(kept.changes.iter().filter_map(of).collect(), false, limit))
    }

    fn source_cursor(&self, source: SourceKey) -> Result<Option<SourceCursor>, ReadError> {
        let of = |change: &Change| match change {
            Change::PutSourceCursor(cursor) if cursor.source == source => Some(cursor.clone()),
            _ => None,
        };
        Ok(self.0.lock().changes.iter().rev().find_map(of))
    }

    fn messages(&self, application: ApplicationKey, query: &MessageQuery) -> Result<Page<Message>, ReadError> {
        Ok(page(self.matching(query, |_, m| m.application == application), query.ascending, query.limit))
    }

    fn attempt(&self, id: AttemptId) -> Result<Option<Attempt>, ReadError> {
        Ok(self.0.lock().attempts.get(&id.sequence()).cloned())
    }

    fn deleted_endpoint(&self, _: EndpointKey) -> Result<Option<EndpointId>, ReadError> {
        Ok(None)
    }

    fn attempts_of_message(&self, message: Sequence, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError> {
        Ok(self.attempts(query, |a| a.delivery.message == message))
    }

    fn attempts_of_endpoint(&self, endpoint: EndpointKey, query: &AttemptQuery) -> Result<Page<Attempt>, ReadError> {
        Ok(self.attempts(query, |a| a.delivery.endpoint == endpoint))
    }

    fn deliveries_of_message(&self, message: Sequence) -> Result<Vec<DeliveryOfMessage>, ReadError> {
        let kept = self.0.lock();
        Ok(kept.deliveries.iter().filter(|(d, _)| d.message == message).map(|(_, stands)| *stands).collect())
    }

    fn deliveries_of_endpoint(
        &self,
        endpoint: EndpointKey,
        query: &MessageQuery,
    ) -> Result<Page<DeliveryOfEndpoint>, ReadError> {
        let delivery = |m: &Message| Delivery { endpoint, message: m.sequence() };
        let found = self.matching(query, |kept, m| kept.deliveries.contains_key(&delivery(m)));
        let kept = self.0.lock();
        let deliveries = found.into_iter().map(|message| {
            let stands = kept.deliveries[&delivery(&message)];
            DeliveryOfEndpoint { message, state: stands.state, attempts: stands.attempts }
        });
        Ok(page(deliveries.collect(), query.ascending, query.limit))
    }

    fn delivery(&self, delivery: Delivery) -> Result<Option<DeliveryOfMessage>, ReadError> {
        Ok(self.0.lock().deliveries.get(&delivery).copied())
    }

    fn count_deliveries(&self, endpoint: EndpointKey, span: Span) -> Result<Ledger, ReadError> {
        let mut ledger = Ledger::default();
        for (delivery, stands) in &self.0.lock().deliveries {
            if delivery.endpoint != endpoint || delivery.message < span.first || delivery.message > span.last {
                continue;
            }
            match stands.state {
                DeliveryState::Fresh | DeliveryState::Waiting(_) => ledger.pending += 1,
                DeliveryState::Delivered => ledger.delivered += 1,
                DeliveryState::Ended(reason) => ledger.ended[usize::from(reason.code())] += 1,
            }
        }
        Ok(ledger)
    }

    fn log(&self, _: EndpointKey, query: &LogQuery) -> Result<LogPage, ReadError> {
        Ok(LogPage { messages: Vec::new(), through: query.after, more: false, floor: Sequence::ZERO })
    }

    fn lag(&self, _: EndpointKey, _: Sequence) -> Result<Lag, ReadError> {
        Ok(Lag::default())
    }

    fn lease_beside(
        &self,
        _: EndpointKey,
        _: bool,
        _: Timestamp,
        _: &HashSet<Sequence>,
        _: usize,
        _: usize,
    ) -> Result<Vec<(Waiting, Message)>, ReadError> {
        Ok(Vec::new())
    }

    fn consumer(&self, _: EndpointKey, _: &str) -> Result<Option<Consumer>, ReadError> {
        Ok(None)
    }

    fn consumers(&self, _: EndpointKey) -> Result<Vec<Consumer>, ReadError> {
        Ok(Vec::new())
    }

    fn ledger(&self) -> Result<Ledger, ReadError> {
        Ok(Ledger::default())
    }

    fn upkeep(&self, _: Timestamp) -> Result<bool, CommitError> {
        Ok(false)
    }

    fn upkeep_owed(&self) -> bool {
        false
    }

    fn has_tasks(&self) -> bool {
        false
    }

    fn advance_task(&self, _: Timestamp, _: &dyn Matching) -> Result<Option<Advanced>, CommitError> {
        Ok(None)
    }

    fn task(&self, id: TaskId) -> Result<Option<Task>, ReadError> {
        Ok(self.0.lock().tasks.get(&id.sequence()).filter(|task| task.id == id).cloned())
    }

    fn tasks(&self, query: &TaskQuery) -> Result<Page<Task>, ReadError> {
        let kept = self.0.lock();
        let found = kept.tasks.range(query.span.first..=query.span.last).map(|(_, task)| task);
        let found = found
            .filter(|task| task.organisation == query.organisation)
            .filter(|task| query.application.is_none_or(|application| task.work.application() == Some(application)))
            .filter(|task| query.status.is_empty() || query.status.contains(&task.status))
            .filter(|task| query.kind.is_none_or(|kind| task.work.kind() == kind));
        Ok(page(found.cloned().collect(), query.ascending, query.limit))
    }

    fn bytes_on_disk(&self) -> Option<u64> {
        None
    }
}

/// One that outlives every test.
pub(crate) fn organisation_token_for_ever() -> String {
    let principal = Principal::Organisation(OrganisationId::parse(ORGANISATION).expect("an organisation"));
    mint_token(SECRET, &principal, START, Duration::from_secs(3600 * 24 * 3650)).expect("a token")
}
