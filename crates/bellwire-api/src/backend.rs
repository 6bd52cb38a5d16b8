//! What the API asks of the program it runs in. The server implements it on its intake, engines and store; tests of the
//! API may implement it on anything.

use crate::pipe::Pipes;
use bellwire_engine::{Catalogue, Draft};
use bellwire_model::{
    DedupeKey, Endpoint, EndpointKey, FailureClass, Message, Module, ModuleVersion, OrganisationId, Permissions,
    Plugin, RequestDigest, Runs, Sequence, Source, SourceKey, Timestamp,
};
use bellwire_shape::Scripts;
use bellwire_store::{Change, Store};
use bytes::Bytes;
use parking_lot::RwLock;
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A future that a handler can hold across threads.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What became of a draft, once durable.
#[derive(Clone, Debug)]
pub enum Accepted {
    /// It is a new message.
    New(Arc<Message>),
    /// The same request was accepted before: this is its message, payload included.
    Same(Arc<Message>),
}

/// Why nothing was accepted. Nothing was kept.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AcceptError {
    /// The idempotency key was used with another body: 409.
    #[error("the idempotency key was used before with another body")]
    KeyReused,
    /// The event id is taken: 409.
    #[error("a message with this event id exists")]
    EventIdTaken,
    /// The idempotency key made a message that is no longer kept: 409. A second one must not be made, and there is none to show.
    #[error("the message that was made under this idempotency key is no longer kept")]
    Outlived,
    /// Too much waits: 503 with `Retry-After`.
    #[error("too many messages wait to be stored")]
    Busy,
    /// No room on the disk: 507 with `Retry-After`.
    #[error("the disk is full")]
    Full,
    /// The process ends: 503 with `Retry-After`.
    #[error("the server is shutting down")]
    Closed,
    /// The store could not be asked: 500; the detail is logged, not shown.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// What an endpoint answered to a message that somebody waits for.
#[derive(Clone, Debug)]
pub struct EndpointAnswer {
    /// Whose.
    pub endpoint: EndpointKey,
    /// Whether it is meant for whoever waits: a 2xx of an HTTP endpoint, or what a plugin says in so many words.
    pub responds: bool,
    /// The status. `None`: the delivery was cancelled or aborted, and no answer will come.
    pub status: Option<u16>,
    /// What a plugin wants in the head of its answer; empty for others.
    pub headers: Vec<(String, String)>,
    /// The body, up to the cap of attempts.
    pub body: Bytes,
}

/// Hears the answers to one message, from its first attempt on, until it is dropped.
pub struct Listening {
    receiver: mpsc::Receiver<EndpointAnswer>,
    /// What ends with it.
    _place: Box<dyn Any + Send>,
}

impl Listening {
    /// Hears from `receiver`; `place` is dropped when nobody listens any more.
    pub fn new(receiver: mpsc::Receiver<EndpointAnswer>, place: Box<dyn Any + Send>) -> Self {
        Listening { receiver, _place: place }
    }

    /// Where nothing will ever be heard.
    pub fn nothing() -> Self {
        Listening::new(mpsc::channel(1).1, Box::new(()))
    }

    /// The next answer. `None`: no more will come.
    pub async fn next(&mut self) -> Option<EndpointAnswer> {
        self.receiver.recv().await
    }
}

/// What is wrong with the settings of a plugin or a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PluginFault {
    /// The way down to the setting.
    pub path: Vec<String>,
    /// What is wrong and what would be right.
    pub text: String,
}

/// A change of an installed module.
#[derive(Clone, Debug)]
pub enum ModuleEdit {
    /// A next version.
    Add(NewCode),
    /// Grants this, or what the newest version wants.
    Grant(Option<Permissions>),
    /// Lets this version run, or the one before.
    RollBack(Option<u32>),
    /// A next version, from the server's hooks file. A module that this makes is that file's, which removes it when it declares it no longer.
    Declare(NewCode),
    /// Removes it.
    Remove,
}

/// A version that is to be installed.
#[derive(Clone, Debug)]
pub enum NewCode {
    /// JavaScript.
    Text(String),
    /// A WebAssembly component.
    Component(Bytes),
}

/// Why a module was not changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ModuleRefusal {
    /// There is none of this name: 404.
    Missing,
    /// It cannot be done; the text says why: 422.
    Refused(String),
    /// It could not be kept: 500; the detail is logged, not shown.
    Failed(String),
}

/// What a plugin did with a message that it was tried on.
#[derive(Clone, Debug)]
pub struct Tried {
    /// `ack`, `respond`, `drop`, `retry`, `fail` or `broken`.
    pub answer: &'static str,
    /// What it said and wrote.
    pub output: Bytes,
    /// How long it took.
    pub duration: Duration,
    /// Event types and payloads that it wants sent.
    pub emitted: Vec<(String, String)>,
}

/// A message as readers get it.
#[derive(Debug)]
pub struct Shaped {
    /// With the payload and content type that the endpoint's shape made.
    pub message: Message,
    /// What its script wants beside the payload, names in lower case; without the content type.
    pub headers: Vec<(String, String)>,
}

/// Why there is nothing to give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unshaped {
    /// [`FailureClass::Cancelled`] if the endpoint's script wanted it so.
    pub class: FailureClass,
    /// For the endpoint's owner.
    pub text: String,
}

/// How a source is doing that fetches its messages itself.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct SourceState {
    /// The name of its way.
    pub way: &'static str,
    /// When it last looked and everything was as it should be.
    pub last_run: Option<Timestamp>,
    /// When a message of it last became durable.
    pub last_message: Option<Timestamp>,
    /// How many have since it was started.
    pub messages: u64,
    /// When it last failed, and why. Holds no secret.
    pub last_error: Option<(Timestamp, String)>,
    /// How often it has failed in a row, up to now.
    pub failures: u32,
    /// When the next message is due, if that is known.
    pub next: Option<Timestamp>,
    /// For how long the oldest has waited that is not a message yet, if that is known.
    pub lag: Option<Duration>,
}

/// What the API needs. All futures end when the outcome is durable or refused, never before.
pub trait Backend: Send + Sync + 'static {
    /// Engine time.
    fn now(&self) -> Timestamp;

    /// The wall clock, for what is due by it.
    fn wall(&self) -> Timestamp {
        self.now()
    }

    /// Who exists, as the newest commit left it.
    fn catalogue(&self) -> &RwLock<Catalogue>;

    /// For reading verbs. They block: call them by [`Backend::read`], or where a microsecond is all they take.
    fn store(&self) -> &Arc<dyn Store>;

    /// Accepts a message: looks its keys up, offers it to the intake, waits for the commit. Durable when it answers `Ok`.
    fn accept(&self, draft: Draft) -> Answer<'_, Result<Accepted, AcceptError>>;

    /// As [`Backend::accept`], and lets the caller hear what endpoints answer. Of a message that was there before nothing is heard.
    fn accept_and_listen(&self, draft: Draft) -> Answer<'_, Result<(Accepted, Listening), AcceptError>> {
        Box::pin(async move { Ok((self.accept(draft).await?, Listening::nothing())) })
    }

    /// Commits changes of configuration, then applies them to the catalogue and tells the engines; when it answers `Ok`, all of
    /// that has happened: no attempt starts with what was before.
    ///
    /// The caller holds [`Backend::configuration`] from reading the catalogue to this answer.
    fn change(&self, changes: Vec<Change>) -> Answer<'_, Result<(), AcceptError>>;

    /// Commits changes that touch no configuration and that no engine has to be told of: what readers of pipes did. Durable when it
    /// answers `Ok`.
    fn settle(&self, changes: Vec<Change>) -> Answer<'_, Result<(), AcceptError>>;

    /// What the shape of an endpoint that is read makes of a message. `None`: what was accepted.
    fn shape<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        message: &'a Message,
        scripts: &'a Scripts,
    ) -> Answer<'a, Result<Option<Shaped>, Unshaped>>;

    /// What requests about pipes share.
    fn pipes(&self) -> &Pipes;

    /// One at a time: whoever changes configuration.
    fn configuration(&self) -> &tokio::sync::Mutex<()>;

    /// A sequence for something new that has an id: an application, an endpoint.
    fn sequence(&self) -> Sequence;

    /// A key for a new application or endpoint, never used before.
    fn next_key(&self) -> u32;

    /// Random bytes, unguessable.
    fn random(&self, bytes: &mut [u8]);

    /// When the oldest delivery to `endpoint` was accepted that only waits for a rate, its own or its application's.
    fn throttled_since(&self, endpoint: &Endpoint) -> Answer<'_, Option<Timestamp>>;

    /// Whether the address guard would refuse this URL as an endpoint's: the text says why, for the customer.
    ///
    /// # Errors
    /// The reason, as a clause.
    fn check_url(&self, url: &url::Url) -> Result<(), String>;

    /// An endpoint's filter could not say whether it takes a message, which means no. For the operator to count.
    fn filter_failed(&self, endpoint: &Endpoint, why: &str) {
        let _ = (endpoint, why);
    }

    /// Whether messages are traced. If not, nobody's place in a trace is kept.
    fn traces(&self) -> bool {
        false
    }

    /// Whether these PEM texts are a client's key with its certificates, and authorities' certificates, that can be used now.
    ///
    /// # Errors
    /// What is wrong with the first one that is: a verb and the rest of a clause. Repeats nothing of the text.
    fn check_tls(&self, identity: Option<&str>, authorities: Option<&str>) -> Result<(), String>;

    /// Whether a plugin can be run with these settings, a JSON object, for this organisation.
    ///
    /// # Errors
    /// All that is wrong with them.
    fn check_plugin(
        &self,
        organisation: &OrganisationId,
        runs: Runs,
        settings: &serde_json::Value,
    ) -> Result<(), Vec<PluginFault>> {
        let _ = (organisation, settings);
        let text = format!("this server runs no plugins of the kind {}", runs.name());
        Err(vec![PluginFault { path: vec!["runs".to_owned()], text }])
    }

    /// Whether a source's requests can be verified as it says: its recipe, settings and secrets; or its messages be fetched in its way. The
    /// first part of a fault's path is the field: `preset`, `recipe`, `settings`, `secrets`, `dedupe`, `eventTypeFrom`, `cron`, …
    ///
    /// # Errors
    /// All that is wrong.
    fn check_source(&self, source: &Source) -> Result<(), Vec<PluginFault>>;

    /// The modules that are installed for an organisation, by name.
    fn modules(&self, organisation: &OrganisationId) -> Vec<Arc<Module>> {
        let _ = organisation;
        Vec::new()
    }

    /// Changes an installed module of an organisation; kept when it answers. `None`: it is removed.
    fn edit_module(
        &self,
        organisation: &OrganisationId,
        name: String,
        edit: ModuleEdit,
    ) -> Answer<'_, Result<Option<Arc<Module>>, ModuleRefusal>> {
        let _ = (organisation, name, edit);
        Box::pin(async { Err(ModuleRefusal::Refused("this server keeps no modules".to_owned())) })
    }

    /// What this would be as a version of a module, if it can be run here. Nothing is installed.
    fn inspect_module(&self, code: NewCode) -> Answer<'_, Result<ModuleVersion, ModuleRefusal>> {
        let _ = code;
        Box::pin(async { Err(ModuleRefusal::Refused("this server keeps no modules".to_owned())) })
    }

    /// Runs a plugin once on a message. `None` where nothing runs any.
    fn try_plugin(&self, plugin: Plugin, message: Arc<Message>) -> Answer<'_, Option<Tried>> {
        let _ = (plugin, message);
        Box::pin(async { None })
    }

    /// Makes a message of a source's schedule at once, as if it were due; the schedule itself goes on as before. The same request makes one
    /// message. `None` where there is nothing that could.
    fn run_source(
        &self,
        source: Arc<Source>,
        once: Option<(DedupeKey, RequestDigest)>,
    ) -> Answer<'_, Option<Result<Arc<Message>, AcceptError>>> {
        let _ = (source, once);
        Box::pin(async { None })
    }

    /// How a source is doing that fetches its messages itself; `None` if it does not run, because it is disabled, or starts just now.
    fn source_state(&self, source: SourceKey) -> Option<SourceState> {
        let _ = source;
        None
    }

    /// Whether the store can commit; the text says why not. For readiness.
    ///
    /// # Errors
    /// What fails.
    fn ready(&self) -> Result<(), String>;
}

impl dyn Backend {
    /// A new id, after all that were given out before: `from_parts` is the constructor of its kind.
    pub(crate) fn new_id<T>(&self, from_parts: impl FnOnce(Sequence, [u8; 12]) -> T) -> T {
        let mut tail = [0; 12];
        self.random(&mut tail);
        from_parts(self.sequence(), tail)
    }
}
