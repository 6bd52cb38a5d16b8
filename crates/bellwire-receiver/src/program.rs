//! For tests: a program around the receiver that accepts everything, unless it is crowded, and writes down what it is told.

use crate::{Accepted, Answer, Backend, EndpointSays, Outcome, Unaccepted};
use bellwire_engine::{Catalogue, Draft};
use bellwire_model::{
    Application, ApplicationId, ApplicationKey, ContentType, Endpoint, KeptRequest, Ksuid, Message, MessageId,
    OrganisationId, Recipe, RequestId, RequestOutcome, SecretText, Sequence, Source, SourceId, SourceKey,
    SubscriptionKey, Timestamp,
};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::time::Duration;
use zeroize::Zeroizing;

/// See the module.
#[derive(Default)]
pub(crate) struct Program {
    pub(crate) catalogue: RwLock<Catalogue>,
    /// What all its clocks say.
    pub(crate) seconds: AtomicI64,
    pub(crate) crowded: AtomicBool,
    pub(crate) accepted: Mutex<Vec<Draft>>,
    pub(crate) kept: Mutex<Vec<KeptRequest>>,
    /// What is to be fetched, wherever; nothing answers if absent.
    pub(crate) published: Mutex<Option<&'static str>>,
    /// How often that was asked for.
    pub(crate) fetched: AtomicU32,
}

/// A source at `/in/t`.
pub(crate) fn source(recipe: Recipe) -> Source {
    Source::new(
        SourceKey(1),
        SourceId(Ksuid::from_bytes([2; 20])),
        OrganisationId::parse("org_x").expect("an organisation"),
        ApplicationKey(1),
        SecretText::new("t"),
        recipe,
        Timestamp::EPOCH,
    )
}

impl Program {
    /// With one source, and its application.
    pub(crate) fn new(source: Source) -> Program {
        let mut catalogue = Catalogue::default();
        catalogue.put_application(Arc::new(Application {
            key: source.application,
            id: ApplicationId(Ksuid::from_bytes([1; 20])),
            organisation: source.organisation.clone(),
            uid: None,
            name: "Acme".to_owned(),
            throttle_rate: None,
            settings: Default::default(),
            metadata: Default::default(),
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
        }));
        catalogue.sources_mut().put(Arc::new(source));
        Program { catalogue: RwLock::new(catalogue), seconds: AtomicI64::new(1_800_000_000), ..Program::default() }
    }

    /// What the owner of the source is told of the last request.
    pub(crate) fn reason(&self) -> String {
        match self.kept.lock().pop().map(|kept| kept.outcome) {
            Some(RequestOutcome::Refused { reason }) => reason,
            other => panic!("nothing was refused: {other:?}"),
        }
    }
}

impl Backend for Program {
    fn now(&self) -> Timestamp {
        Timestamp::from_seconds(self.seconds.load(Ordering::Relaxed))
    }

    fn wall(&self) -> Timestamp {
        self.now()
    }

    fn catalogue(&self) -> &RwLock<Catalogue> {
        &self.catalogue
    }

    fn crowded(&self) -> Option<Unaccepted> {
        let crowded = self.crowded.load(Ordering::Relaxed);
        crowded.then_some(Unaccepted::Later { seconds: 7, reason: "too many messages wait to be stored" })
    }

    fn accept(&self, draft: Draft) -> Answer<'_, Result<Accepted, Unaccepted>> {
        let message = Message {
            id: MessageId::from_parts(Sequence::from_u64(1), [0; 12]),
            application: draft.application,
            event_type: draft.event_type.clone(),
            event_id: None,
            channels: Vec::new(),
            tags: Vec::new(),
            payload: Some(draft.payload.clone()),
            content_type: ContentType::Json,
            transformations_params: None,
            expires_at: Timestamp::FAR_FUTURE,
            deliver_at: None,
            received: None,
            trace: None,
        };
        self.accepted.lock().push(draft);
        Box::pin(std::future::ready(Ok(Accepted::New(Arc::new(message)))))
    }

    fn accept_and_wait(
        &self,
        _: Draft,
        _: Duration,
    ) -> Answer<'_, Result<(Accepted, Option<EndpointSays>), Unaccepted>> {
        unreachable!("nobody waits")
    }

    fn traces(&self) -> bool {
        false
    }

    fn request_id(&self) -> RequestId {
        RequestId::from_parts(Sequence::from_u64(1), [0; 12])
    }

    fn keep(&self, request: KeptRequest) {
        self.kept.lock().push(request);
    }

    fn fetch(&self, _: String, _: Option<Zeroizing<String>>, _: usize) -> Answer<'_, Result<Bytes, String>> {
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let published = self.published.lock().map(|text| Bytes::from_static(text.as_bytes()));
        Box::pin(std::future::ready(published.ok_or_else(|| "it does not answer".to_owned())))
    }

    fn fetch_certificate(&self, url: String, bytes_max: usize) -> Answer<'_, Result<Bytes, String>> {
        self.fetch(url, None, bytes_max)
    }

    fn agreed<'a>(&'a self, _: &'a Source, _: Duration) -> Answer<'a, Result<bool, Unaccepted>> {
        unreachable!("nobody agrees")
    }

    fn denied<'a>(&'a self, _: &'a Source, _: String) -> Answer<'a, Result<(), Unaccepted>> {
        unreachable!("nobody denies")
    }

    fn unsubscribed(&self, _: SubscriptionKey) -> Answer<'_, Result<bool, Unaccepted>> {
        unreachable!("nobody unsubscribes")
    }

    fn store_secret(&self, _: SourceKey, _: Zeroizing<String>) -> Answer<'_, Result<(), Unaccepted>> {
        unreachable!("no secret is brought")
    }

    fn filter_failed(&self, _: &Endpoint, _: &str) {}

    fn count(&self, _: Outcome) {}
}
