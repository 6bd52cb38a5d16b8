//! The API's [`Backend`] on this program: hands drafts and changes to the intake and waits for the commit.

use crate::core::{Core, Mail};
use bellwire_api::backend::{
    AcceptError, Accepted, Answer, Backend, Listening, ModuleEdit, ModuleRefusal, NewCode, PluginFault, Shaped,
    SourceState, Tried, Unshaped,
};
use bellwire_api::pipe::Pipes;
use bellwire_delivery::{RefreshedToken, Reshaped, reshape};
use bellwire_engine::{Catalogue, Draft, Earlier, Offer, OfferError, Operational};
use bellwire_model::{
    Credentials, DedupeKey, Endpoint, Message, Module, ModuleVersion, Oauth, OauthGrant, OrganisationId, Plugin,
    RequestDigest, Runs, Sequence, Source, SourceKey, Timestamp,
};
use bellwire_plugin::{ModuleError, Modules};
use bellwire_shape::Scripts;
use bellwire_store::{Change, DedupeEntry, Store};
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;

/// The doors of one shard: the same for all, but for where their waiters stand.
#[derive(Clone)]
pub(crate) struct Doors {
    pub(crate) core: Arc<Core>,
    pub(crate) plugins: Arc<bellwire_plugin::Shared>,
    /// Index of the shard on whose thread the handlers run.
    pub(crate) shard: usize,
    /// The largest payload that is taken.
    pub(crate) payload_bytes_max: usize,
    /// What comes by them stands in the operator's own files.
    pub(crate) operator: bool,
}

/// What the keys of a draft lead to.
enum Known {
    Nothing,
    Message(Sequence),
    Refused(AcceptError),
}

impl Doors {
    /// Whether a batch is still on its way: then no mail about it has been read before the end of this poll.
    fn undurable(&self, batch: u64) -> bool {
        batch > self.core.durable.load(Ordering::Acquire)
    }

    /// Waits for a batch that something was put into in this very poll, or that [`Doors::undurable`] has just named: no mail about it
    /// has been read yet.
    async fn durable(&self, batch: u64) -> Result<(), AcceptError> {
        let receiver = self.core.mailboxes[self.shard].wait_for(batch);
        self.core.bell.ring();
        receiver.await.unwrap_or(Err(AcceptError::Closed))
    }

    /// With `listen`, answers to what is new are heard from its first attempt on.
    async fn accept(&self, mut draft: Draft, listen: bool) -> Result<(Accepted, Option<Listening>), AcceptError> {
        let keyed = draft.idempotency.is_some() || draft.event.is_some() || draft.earlier.is_some();
        let started = self.core.clock.engine();
        let offer = loop {
            let mut looked = 0;
            if keyed {
                looked = self.core.durable.load(Ordering::Acquire);
                match self.known(&draft)? {
                    Known::Nothing => {}
                    Known::Message(sequence) => return Ok((self.same(sequence).await?, None)),
                    Known::Refused(why) => return Err(why),
                }
            }
            let offer = self.offer(started, &mut draft, looked, listen);
            match offer.0 {
                Err(OfferError::LookAgain) => {}
                // Who has the key is on its way. If it does not arrive, the key is free.
                Err(OfferError::KeyReused { batch } | OfferError::EventIdTaken { batch }) if self.undurable(batch) => {
                    if let Err(AcceptError::Closed) = self.durable(batch).await {
                        return Err(AcceptError::Closed);
                    }
                }
                other => break (other, offer.1),
            }
        };
        let (offer, listening) = offer;
        match offer {
            Ok(Offer::Queued { message, batch }) => {
                self.durable(batch).await?;
                let took = self.core.clock.engine().since(started);
                self.core.metrics.accepted(took);
                if let Some(tracer) = &self.core.tracer {
                    tracer.accepted(&message, took);
                }
                Ok((Accepted::New(message), listening))
            }
            Ok(Offer::Same { message, batch }) => {
                if self.undurable(batch) {
                    self.durable(batch).await?;
                }
                Ok((self.same(message).await?, None))
            }
            Err(error) => Err(refused(error)),
        }
    }

    /// Offers a draft to the intake. Who wants to listen does before anybody can commit it.
    fn offer(
        &self,
        started: Timestamp,
        draft: &mut Draft,
        looked: u64,
        listen: bool,
    ) -> (Result<Offer, OfferError>, Option<Listening>) {
        let mut intake = self.core.intake.lock();
        let offer = intake.offer_from(started, draft, looked);
        self.core.note_crowd(&intake);
        let listening = match &offer {
            Ok(Offer::Queued { message, .. }) if listen => self.core.answers.listen(message.sequence()),
            _ => None,
        };
        (offer, listening)
    }

    /// Accepts a page of a source that fetches its messages itself, with what says how far it has got: one commit has all of it. Answers
    /// how many messages are new.
    pub(crate) async fn accept_page(&self, drafts: Vec<Draft>, changes: Vec<Change>) -> Result<usize, AcceptError> {
        let drafts = Arc::new(drafts);
        let (taken, batch) = loop {
            let looked = self.core.intake.lock().looked();
            let (store, asked) = (Arc::clone(&self.core.store), Arc::clone(&drafts));
            let look = move || {
                asked
                    .iter()
                    .map(|draft| Ok(draft.event.map(|key| store.find_key(key)).transpose()?.flatten().is_some()))
                    .collect()
            };
            let known: Result<Vec<bool>, bellwire_store::ReadError> =
                tokio::task::spawn_blocking(look).await.map_err(|error| AcceptError::Failed(error.to_string()))?;
            let known = known.map_err(|error| AcceptError::Failed(error.to_string()))?;
            let new = drafts.iter().zip(known).filter(|(_, known)| !known).map(|(draft, _)| draft.clone()).collect();
            let offer = {
                let mut intake = self.core.intake.lock();
                let offer = intake.offer_page(self.core.clock.engine(), new, changes.clone(), looked);
                self.core.note_crowd(&intake);
                offer
            };
            match offer {
                Err(OfferError::LookAgain) => {}
                offer => break offer.map_err(refused)?,
            }
        };
        if taken > 0 || !changes.is_empty() {
            self.durable(batch).await?;
        }
        Ok(taken)
    }

    /// Looks the draft's keys up among what is durable.
    fn known(&self, draft: &Draft) -> Result<Known, AcceptError> {
        let find = |key| self.core.store.find_key(key).map_err(|e| AcceptError::Failed(e.to_string()));
        if let Some((key, digest)) = draft.idempotency
            && let Some(DedupeEntry { digest: before, message, .. }) = find(key)?
        {
            return Ok(if before == digest { Known::Message(message) } else { Known::Refused(AcceptError::KeyReused) });
        }
        let find = |key| self.core.store.find_event(key).map_err(|e| AcceptError::Failed(e.to_string()));
        if let Some(key) = draft.event
            && let Some(DedupeEntry { message, .. }) = find(key)?
        {
            let same = draft.received.is_some();
            return Ok(if same { Known::Message(message) } else { Known::Refused(AcceptError::EventIdTaken) });
        }
        if let Some(Earlier { key, since, next }) = draft.earlier {
            if let Some(DedupeEntry { message, .. }) = find(key)?
                && message >= since
            {
                return Ok(Known::Message(message));
            }
            if let Some(next) = next
                && let Some(DedupeEntry { message, .. }) = find(next)?
            {
                return Ok(Known::Message(message));
            }
        }
        Ok(Known::Nothing)
    }

    async fn same(&self, sequence: Sequence) -> Result<Accepted, AcceptError> {
        let store = Arc::clone(&self.core.store);
        let read = tokio::task::spawn_blocking(move || store.message(sequence, true)).await;
        match read {
            Ok(Ok(Some(message))) => Ok(Accepted::Same(Arc::new(message))),
            // Its retention has ended before its key's.
            Ok(Ok(None)) => Err(AcceptError::Outlived),
            Ok(Err(error)) => Err(AcceptError::Failed(error.to_string())),
            Err(error) => Err(AcceptError::Failed(error.to_string())),
        }
    }

    /// Keeps what has become of a refresh token, unless the endpoint's OAuth was changed meanwhile; answers when it is durable. Nobody is told:
    /// it is no edit of the endpoint.
    ///
    /// # Errors
    /// Why not now, for the endpoint's owner; ask again.
    pub(crate) async fn keep_refreshed(&self, refreshed: RefreshedToken) -> Result<(), String> {
        let _one_at_a_time = self.core.configuration.lock().await;
        let Some(endpoint) = self.core.catalogue.read().endpoint(refreshed.endpoint).cloned() else { return Ok(()) };
        let Some(Credentials::Oauth(oauth)) = &endpoint.access.credentials else { return Ok(()) };
        if oauth.grant != OauthGrant::RefreshToken(refreshed.known) {
            return Ok(());
        }
        let grant = OauthGrant::RefreshToken(refreshed.now);
        let credentials = Credentials::Oauth(Arc::new(Oauth { grant, ..Oauth::clone(oauth) }));
        let mut kept = Endpoint::clone(&endpoint);
        kept.access.credentials = Some(credentials);
        self.change_and_tell(vec![Change::PutEndpoint(Arc::new(kept))], Vec::new()).await.map_err(|error| {
            tracing::error!(endpoint.id = %endpoint.id, ?error, "a new refresh token cannot be kept yet; its access token waits for that");
            "the server cannot store anything now".to_owned()
        })
    }

    /// Commits changes of configuration with all that follows from them, and answers when they are in force.
    ///
    /// # Errors
    /// Nothing was kept, or what was is not known.
    pub(crate) async fn change(&self, mut changes: Vec<Change>) -> Result<(), AcceptError> {
        changes.extend(crate::sources::unsubscribe::consequences(self, &changes).await?);
        let told = Operational::of_changes(&self.core.catalogue.read(), &changes);
        self.change_and_tell(changes, told).await
    }

    async fn change_and_tell(&self, changes: Vec<Change>, told: Vec<Operational>) -> Result<(), AcceptError> {
        let now = self.core.clock.engine();
        let batch = self.core.intake.lock().change_and_tell(now, changes, told).map_err(refused)?;
        self.durable(batch).await?;
        // The catalogue follows after the mail.
        while self.core.applied.load(Ordering::Acquire) < batch {
            tokio::task::yield_now().await;
        }
        let taken: Vec<_> = self.core.mailboxes.iter().map(|mailbox| mailbox.passed()).collect();
        for taken in taken {
            // An engine that has ended starts nothing any more.
            let _ = taken.await;
        }
        Ok(())
    }
}

/// On a thread that may block.
fn edit_module(
    plugins: &bellwire_plugin::Shared,
    organisation: &OrganisationId,
    name: &str,
    edit: ModuleEdit,
    now: Timestamp,
) -> Result<Option<Arc<Module>>, ModuleRefusal> {
    let modules = plugins.modules().of(organisation);
    let edited = match edit {
        ModuleEdit::Add(NewCode::Text(text)) => plugins.add_script(organisation, name, &text, now).map(Some),
        ModuleEdit::Add(NewCode::Component(component)) => {
            plugins.add_component(organisation, name, component, now).map(Some)
        }
        ModuleEdit::Grant(more) => modules.grant(name, more).map(Some),
        ModuleEdit::RollBack(to) => modules.roll_back(name, to).map(Some),
        ModuleEdit::Declare(code) => declare(plugins, &modules, name, code, now).map(Some),
        ModuleEdit::Remove => modules.remove(name).map(|()| None),
    };
    edited.map_err(module_refusal)
}

fn declare(
    plugins: &bellwire_plugin::Shared,
    modules: &Modules,
    name: &str,
    code: NewCode,
    now: Timestamp,
) -> Result<Arc<Module>, ModuleError> {
    match code {
        NewCode::Text(text) => modules.declare(name, text.as_bytes(), plugins.inspect_script(&text, now)?),
        NewCode::Component(component) => modules.declare(name, &component, plugins.inspect_component(&component, now)?),
    }
}

fn module_refusal(error: ModuleError) -> ModuleRefusal {
    match error {
        ModuleError::Missing => ModuleRefusal::Missing,
        ModuleError::Refused(why) => ModuleRefusal::Refused(why),
        ModuleError::Folder(error) => ModuleRefusal::Failed(format!("the modules cannot be kept: {error}")),
    }
}

fn refused(error: OfferError) -> AcceptError {
    match error {
        OfferError::KeyReused { .. } => AcceptError::KeyReused,
        OfferError::EventIdTaken { .. } => AcceptError::EventIdTaken,
        OfferError::Busy | OfferError::LookAgain => AcceptError::Busy,
        OfferError::Closed => AcceptError::Closed,
    }
}

impl Backend for Doors {
    fn now(&self) -> Timestamp {
        self.core.clock.engine()
    }

    fn wall(&self) -> Timestamp {
        crate::clock::wall()
    }

    fn catalogue(&self) -> &RwLock<Catalogue> {
        &self.core.catalogue
    }

    fn store(&self) -> &Arc<dyn Store> {
        &self.core.store
    }

    fn accept(&self, draft: Draft) -> Answer<'_, Result<Accepted, AcceptError>> {
        Box::pin(async move { Ok(Doors::accept(self, draft, false).await?.0) })
    }

    fn accept_and_listen(&self, draft: Draft) -> Answer<'_, Result<(Accepted, Listening), AcceptError>> {
        Box::pin(async move {
            let (accepted, listening) = Doors::accept(self, draft, true).await?;
            Ok((accepted, listening.unwrap_or_else(Listening::nothing)))
        })
    }

    fn change(&self, changes: Vec<Change>) -> Answer<'_, Result<(), AcceptError>> {
        Box::pin(Doors::change(self, changes))
    }

    fn settle(&self, changes: Vec<Change>) -> Answer<'_, Result<(), AcceptError>> {
        Box::pin(async {
            let batch = self.core.intake.lock().change(changes).map_err(refused)?;
            self.durable(batch).await
        })
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
        &self.core.pipes
    }

    fn configuration(&self) -> &tokio::sync::Mutex<()> {
        &self.core.configuration
    }

    fn sequence(&self) -> Sequence {
        self.core.intake.lock().sequence(self.core.clock.engine())
    }

    fn next_key(&self) -> u32 {
        self.core.last_key.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn random(&self, bytes: &mut [u8]) {
        rand::RngCore::fill_bytes(&mut rand::rng(), bytes);
    }

    fn throttled_since(&self, endpoint: &Endpoint) -> Answer<'_, Option<Timestamp>> {
        let (answer, receiver) = oneshot::channel();
        let shard = endpoint.application.partition().shard(self.core.mailboxes.len());
        self.core.mailboxes[shard].put(Mail::Throttled(endpoint.key, answer));
        // An engine that has ended holds nothing back.
        Box::pin(async { receiver.await.ok().flatten() })
    }

    fn check_url(&self, url: &url::Url) -> Result<(), String> {
        self.core.guard.check_url(url).map_err(|forbidden| forbidden.customer_text())
    }

    fn traces(&self) -> bool {
        self.core.tracer.is_some()
    }

    fn filter_failed(&self, endpoint: &Endpoint, why: &str) {
        self.core.metrics.filter_failed();
        tracing::debug!(endpoint.id = %endpoint.id, why, "a filter could not say whether its endpoint takes a message");
    }

    fn check_tls(&self, identity: Option<&str>, authorities: Option<&str>) -> Result<(), String> {
        let options = bellwire_egress::TlsOptions { identity, authorities, unverified: false };
        options.check(crate::clock::wall().as_seconds()).map_err(|error| error.to_string())
    }

    fn modules(&self, organisation: &OrganisationId) -> Vec<Arc<Module>> {
        self.plugins.modules().of(organisation).all()
    }

    fn edit_module(
        &self,
        organisation: &OrganisationId,
        name: String,
        edit: ModuleEdit,
    ) -> Answer<'_, Result<Option<Arc<Module>>, ModuleRefusal>> {
        let (plugins, now, organisation) = (Arc::clone(&self.plugins), crate::clock::wall(), organisation.clone());
        Box::pin(async move {
            let edit = move || edit_module(&plugins, &organisation, &name, edit, now);
            let edited = tokio::task::spawn_blocking(edit).await;
            edited.unwrap_or_else(|error| Err(ModuleRefusal::Failed(error.to_string())))
        })
    }

    fn inspect_module(&self, code: NewCode) -> Answer<'_, Result<ModuleVersion, ModuleRefusal>> {
        let (plugins, now) = (Arc::clone(&self.plugins), crate::clock::wall());
        Box::pin(async move {
            let inspect = move || match code {
                NewCode::Text(text) => plugins.inspect_script(&text, now),
                NewCode::Component(component) => plugins.inspect_component(&component, now),
            };
            let inspected = tokio::task::spawn_blocking(inspect).await;
            inspected.map_err(|error| ModuleRefusal::Failed(error.to_string()))?.map_err(module_refusal)
        })
    }

    fn try_plugin(&self, plugin: Plugin, message: Arc<Message>) -> Answer<'_, Option<Tried>> {
        let (answer, receiver) = oneshot::channel();
        self.core.mailboxes[self.shard].put(Mail::Try(Box::new(plugin), message, answer));
        Box::pin(async move { receiver.await.ok() })
    }

    fn check_plugin(
        &self,
        organisation: &OrganisationId,
        runs: Runs,
        settings: &serde_json::Value,
    ) -> Result<(), Vec<PluginFault>> {
        let fault = |fault: bellwire_plugin::Fault| PluginFault { path: fault.path, text: fault.text };
        let checked = self.plugins.check(organisation, runs, settings, self.operator);
        checked.map_err(|faults| faults.into_iter().map(fault).collect())
    }

    fn check_source(&self, source: &Source) -> Result<(), Vec<PluginFault>> {
        if !source.way.is_http() {
            let (named, proxy) = (self.plugins.databases(), self.plugins.proxy());
            return crate::sources::check(&source.way, named, proxy, crate::clock::wall());
        }
        let faults = crate::receiving::check(source, self.core.clock.engine(), self.payload_bytes_max);
        faults.map_err(|faults| {
            faults.into_iter().map(|fault| PluginFault { path: fault.path, text: fault.text }).collect()
        })
    }

    fn run_source(
        &self,
        source: Arc<Source>,
        once: Option<(DedupeKey, RequestDigest)>,
    ) -> Answer<'_, Option<Result<Arc<Message>, AcceptError>>> {
        Box::pin(async move { crate::sources::run_now(self, &source, once).await })
    }

    fn source_state(&self, source: SourceKey) -> Option<SourceState> {
        self.core.sources.get(source)
    }

    fn ready(&self) -> Result<(), String> {
        self.core.failing().map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::observe::Metrics;
    use bellwire_engine::{Intake, IntakeSettings};
    use bellwire_model::{ApplicationKey, DedupeKey, EndpointKey, RequestDigest};
    use bellwire_store::{Batch, EmbeddedStore, Settings};
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    const INTAKE: IntakeSettings = IntakeSettings {
        shards: 1,
        batch_messages_max: 10,
        batch_bytes_max: 10_000,
        queue_messages_max: 10,
        queue_bytes_max: 10_000,
    };

    /// The doors of a process without a committing thread: the test commits.
    fn doors(folder: &std::path::Path, settings: Settings) -> Doors {
        let store = EmbeddedStore::open(folder, Settings { reserve_bytes: 1 << 20, ..settings }).expect("works");
        let newest = store.recover().expect("works").newest;
        let egress = bellwire_egress::Egress::new(bellwire_egress::Settings::default()).expect("works");
        let core = Core::new(
            Clock::start(newest.time()),
            Arc::new(store),
            Intake::new(INTAKE, newest, [1; 32]),
            Catalogue::default(),
            1,
            0,
            Metrics::new(),
            Arc::clone(egress.guard()),
            None,
            Pipes::new(newest, 0),
        );
        Doors {
            core: Arc::new(core),
            plugins: bellwire_plugin::Shared::new(Default::default(), Default::default(), Default::default()),
            shard: 0,
            payload_bytes_max: 1 << 20,
            operator: false,
        }
    }

    fn draft() -> Draft {
        let fan_out = [EndpointKey(5)].into_iter().collect();
        Draft::new(ApplicationKey(1), fan_out, "a.b", "{}", Timestamp::FAR_FUTURE)
    }

    fn with_event() -> Draft {
        Draft { event: Some(DedupeKey([9; 16])), ..draft() }
    }

    fn with_key(body: u8) -> Draft {
        Draft { idempotency: Some((DedupeKey([1; 16]), RequestDigest([body; 8]))), ..draft() }
    }

    impl Doors {
        async fn take(&self, draft: Draft) -> Result<Accepted, AcceptError> {
            Ok(self.accept(draft, false).await?.0)
        }

        /// What the committing thread does, and the shard's pump.
        fn commit(&self, kept: bool) {
            let sealed = self.core.intake.lock().seal().expect("something waits");
            let number = sealed.number;
            if kept {
                self.core.store.commit(&sealed.batch).expect("works");
                self.core.intake.lock().committed();
                self.core.durable.store(number, Ordering::Release);
                self.core.mailboxes[0].settle(number, &Ok(()));
            } else {
                self.core.intake.lock().failed();
                self.core.mailboxes[0].settle(number, &Err(AcceptError::Full));
            }
        }
    }

    fn poll<T>(future: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        match future.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_key_is_refused_as_taken_when_the_message_that_has_it_is_durable() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let doors = doors(folder.path(), Settings::default());
        for (own, other, taken) in [
            (with_event(), with_event(), AcceptError::EventIdTaken),
            (with_key(1), with_key(2), AcceptError::KeyReused),
        ] {
            let mut first = pin!(doors.take(own));
            assert!(poll(first.as_mut()).is_none());
            let mut second = pin!(doors.take(other.clone()));
            assert!(poll(second.as_mut()).is_none(), "nothing durable has the key");
            doors.commit(false);
            assert!(matches!(poll(first), Some(Err(AcceptError::Full))));
            assert!(poll(second.as_mut()).is_none(), "the key is free: now it is the second one's");
            let mut third = pin!(doors.take(if matches!(taken, AcceptError::KeyReused) { with_key(3) } else { other }));
            assert!(poll(third.as_mut()).is_none());
            doors.commit(true);
            assert!(matches!(poll(second), Some(Ok(Accepted::New(_)))));
            let refused = poll(third).expect("an answer").expect_err("taken");
            assert_eq!(std::mem::discriminant(&refused), std::mem::discriminant(&taken));
        }
    }

    #[test]
    fn a_key_that_outlives_its_message_makes_no_second_one() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let doors = doors(folder.path(), Settings { messages: Duration::from_secs(1), ..Settings::default() });
        let mut first = pin!(doors.take(with_key(1)));
        assert!(poll(first.as_mut()).is_none());
        doors.commit(true);
        assert!(matches!(poll(first), Some(Ok(Accepted::New(_)))));
        // Nothing is owed any more, and a minute later nothing is kept.
        let delivered = Batch { watermark: Some(doors.sequence()), ..Batch::default() };
        doors.core.store.commit(&delivered).expect("works");
        let later = doors.core.clock.engine().plus(Duration::from_secs(120));
        while doors.core.store.upkeep(later).expect("works") {}
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("works");
        assert!(matches!(runtime.block_on(doors.take(with_key(1))), Err(AcceptError::Outlived)));
        assert!(matches!(runtime.block_on(doors.take(with_key(2))), Err(AcceptError::KeyReused)));
    }
}
