//! Who exists: applications, their endpoints and the organisations' event types, as the newest commit left them.
//!
//! Held in memory whole, because a message must find its endpoints without a query, and its size is configuration, not
//! backlog. The doors share one behind a read-write lock; entries are `Arc`s, so a reader keeps the lock for a clone.

use crate::engine::Input;
use crate::sources::SourceRegister;
use crate::subscriptions::SubscriptionRegister;
use crate::tokens::TokenRegister;
use bellwire_model::{
    Application, ApplicationId, ApplicationKey, Endpoint, EndpointId, EndpointKey, EventType, Kind, Ksuid,
    OrganisationId, Pipe, Timestamp,
};
use bellwire_store::Change;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// An application and its endpoints. Replaced as a whole when either changes.
#[derive(Clone, Debug)]
pub struct ApplicationEntry {
    /// The application.
    pub application: Arc<Application>,
    /// Its endpoints by rising key.
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// Everything that exists.
#[derive(Debug, Default)]
pub struct Catalogue {
    applications: HashMap<ApplicationKey, Arc<ApplicationEntry>>,
    by_id: HashMap<ApplicationId, ApplicationKey>,
    /// In the order of their ids within an organisation, for lists.
    of_organisation: BTreeMap<(OrganisationId, ApplicationId), ApplicationKey>,
    by_uid: HashMap<(OrganisationId, String), ApplicationKey>,
    /// The operational application of each organisation that has one.
    operational: HashMap<OrganisationId, ApplicationKey>,
    endpoints: HashMap<EndpointKey, ApplicationKey>,
    /// The pipes that are removed unless somebody reads them before.
    expiring: BTreeSet<(Timestamp, EndpointKey)>,
    event_types: BTreeMap<(OrganisationId, String), Arc<EventType>>,
    tokens: TokenRegister,
    sources: SourceRegister,
    ended_subscriptions: SubscriptionRegister,
}

impl Catalogue {
    /// From what a start recovered.
    pub fn new(
        applications: Vec<Arc<Application>>,
        endpoints: Vec<Arc<Endpoint>>,
        event_types: Vec<Arc<EventType>>,
    ) -> Self {
        let mut catalogue = Catalogue::default();
        applications.into_iter().for_each(|a| catalogue.put_application(a));
        endpoints.into_iter().for_each(|e| drop(catalogue.put_endpoint(e)));
        event_types.into_iter().for_each(|t| catalogue.put_event_type(t));
        catalogue
    }

    /// What is known about tokens.
    pub fn tokens(&self) -> &TokenRegister {
        &self.tokens
    }

    /// As [`Catalogue::tokens`], to be changed.
    pub fn tokens_mut(&mut self) -> &mut TokenRegister {
        &mut self.tokens
    }

    /// The sources.
    pub fn sources(&self) -> &SourceRegister {
        &self.sources
    }

    /// As [`Catalogue::sources`], to be changed.
    pub fn sources_mut(&mut self) -> &mut SourceRegister {
        &mut self.sources
    }

    /// Subscriptions of sources that have ended, and whose hubs do not know it yet.
    pub fn ended_subscriptions(&self) -> &SubscriptionRegister {
        &self.ended_subscriptions
    }

    /// As [`Catalogue::ended_subscriptions`], to be changed.
    pub fn ended_subscriptions_mut(&mut self) -> &mut SubscriptionRegister {
        &mut self.ended_subscriptions
    }

    /// Whether there is an application with this id, of whichever organisation.
    pub fn has_application(&self, id: ApplicationId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// By key.
    pub fn application(&self, key: ApplicationKey) -> Option<&Arc<ApplicationEntry>> {
        self.applications.get(&key)
    }

    /// By public id or uid, within an organisation.
    pub fn find_application(&self, organisation: &OrganisationId, id_or_uid: &str) -> Option<&Arc<ApplicationEntry>> {
        let by_uid = || self.by_uid.get(&(organisation.clone(), id_or_uid.to_owned()));
        let by_id = id_or_uid.parse().ok().and_then(|id: ApplicationId| self.by_id.get(&id));
        let entry = self.applications.get(by_id.or_else(by_uid)?)?;
        (entry.application.organisation == *organisation).then_some(entry)
    }

    /// The operational application of an organisation, if it ever had an operational endpoint.
    pub fn operational(&self, organisation: &OrganisationId) -> Option<&Arc<ApplicationEntry>> {
        self.applications.get(self.operational.get(organisation)?)
    }

    /// Whether any organisation has one.
    pub fn has_operational(&self) -> bool {
        !self.operational.is_empty()
    }

    /// All applications of an organisation in the order of their ids, reversed by `.rev()`; without its operational one.
    pub fn applications_of<'a>(
        &'a self,
        organisation: &OrganisationId,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<ApplicationEntry>> + use<'a> {
        self.applications_within(organisation, (Bound::Unbounded, Bound::Unbounded))
    }

    /// Applications of an organisation with ids within bounds, of which one at least is open.
    pub fn applications_within<'a>(
        &'a self,
        organisation: &OrganisationId,
        (from, to): (Bound<ApplicationId>, Bound<ApplicationId>),
    ) -> impl DoubleEndedIterator<Item = &'a Arc<ApplicationEntry>> + use<'a> {
        let with = |bound: Bound<ApplicationId>, end: [u8; 20]| {
            let own = |id| (organisation.clone(), id);
            match bound {
                Bound::Unbounded => Bound::Included(own(ApplicationId(Ksuid::from_bytes(end)))),
                bound => bound.map(own),
            }
        };
        let range = (with(from, [0; 20]), with(to, [0xff; 20]));
        self.of_organisation.range(range).filter_map(|(_, key)| self.applications.get(key))
    }

    /// One endpoint, by key.
    pub fn endpoint(&self, key: EndpointKey) -> Option<&Arc<Endpoint>> {
        self.applications.get(self.endpoints.get(&key)?)?.endpoint(key)
    }

    /// The pipes whose time is over by `now` because nobody has read them, for the longest first.
    pub fn expired(&self, now: Timestamp) -> impl Iterator<Item = EndpointKey> + '_ {
        self.expiring.iter().take_while(move |(at, _)| *at <= now).map(|(_, endpoint)| *endpoint)
    }

    /// An event type by name.
    pub fn event_type(&self, organisation: &OrganisationId, name: &str) -> Option<&Arc<EventType>> {
        self.event_types.get(&(organisation.clone(), name.to_owned()))
    }

    /// Event types of an organisation by name.
    pub fn event_types_of<'a>(
        &'a self,
        organisation: &OrganisationId,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<EventType>> + use<'a> {
        let organisation = organisation.clone();
        let from = (organisation.clone(), String::new());
        // Names are ASCII, so U+10FFFF is after all of them.
        let to = (organisation, String::from('\u{10FFFF}'));
        self.event_types.range(from..to).map(|(_, t)| t)
    }

    /// All endpoints, in no particular order.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.applications.values().flat_map(|entry| &entry.endpoints)
    }

    /// All applications, in no particular order.
    pub fn applications(&self) -> impl Iterator<Item = &Arc<ApplicationEntry>> {
        self.applications.values()
    }

    /// Follows a change that has become durable; the order is that of the commits, so that the store, the catalogue and the engines
    /// end up with the same. Answers what has to be told to the engine of which application, or to all engines.
    pub fn apply(&mut self, change: &Change) -> Option<(Option<ApplicationKey>, Input)> {
        let (application, input) = match change {
            Change::PutEventType(event_type) => {
                let before = self.event_type(&event_type.organisation, &event_type.name);
                let before = before.and_then(|before| before.retry_schedule.clone());
                self.put_event_type(Arc::clone(event_type));
                return (before != event_type.retry_schedule).then(|| (None, Input::schedule_of(event_type)));
            }
            Change::DeleteEventType(organisation, name) => {
                let before = self.remove_event_type(organisation, name)?;
                let gone = EventType { retry_schedule: None, ..EventType::clone(&before) };
                return before.retry_schedule.is_some().then(|| (None, Input::schedule_of(&gone)));
            }
            change => self.apply_of_application(change)?,
        };
        Some((Some(application), input))
    }

    /// As [`Catalogue::apply`], of what concerns one application at most.
    fn apply_of_application(&mut self, change: &Change) -> Option<(ApplicationKey, Input)> {
        match change {
            Change::PutApplication(application) => {
                self.put_application(Arc::clone(application));
                Some((application.key, Input::Application(Arc::clone(application))))
            }
            Change::DeleteApplication(key) => {
                self.remove_application(*key);
                Some((*key, Input::ApplicationGone(*key)))
            }
            Change::PutEndpoint(endpoint) => {
                let endpoint = self.put_endpoint(Arc::clone(endpoint))?;
                Some((endpoint.application, Input::Endpoint(endpoint)))
            }
            Change::SwitchEndpoint { endpoint, enabled } => {
                self.change_endpoint(*endpoint, |found| found.switch(*enabled));
                let application = *self.endpoints.get(endpoint)?;
                Some((application, Input::Switched { endpoint: *endpoint, enabled: *enabled }))
            }
            Change::DeleteEndpoint(key) => {
                let application = self.remove_endpoint(*key)?;
                Some((application, Input::EndpointGone(*key)))
            }
            Change::CancelWaiting { endpoint, before, .. } => {
                let application = *self.endpoints.get(endpoint)?;
                Some((application, Input::Cancelled { endpoint: *endpoint, before: *before }))
            }
            // The engine that found it out is told with the commit.
            Change::PutHealth { endpoint, failing_since, disable } => {
                self.change_endpoint(*endpoint, |found| found.found_out(*failing_since, *disable));
                None
            }
            Change::Token(change) => {
                self.tokens.apply(change);
                None
            }
            Change::PutSource(source) => {
                // One whose application has gone meanwhile would lead nowhere.
                if self.applications.contains_key(&source.application) {
                    self.sources.put(Arc::clone(source));
                }
                None
            }
            Change::DeleteSource(key) => {
                self.sources.remove(*key);
                None
            }
            Change::PutEndedSubscription(ended) => {
                self.ended_subscriptions.put(Arc::clone(ended));
                None
            }
            Change::DeleteEndedSubscription(key) => {
                self.ended_subscriptions.remove(*key);
                None
            }
            Change::PutEventType(_)
            | Change::DeleteEventType(..)
            | Change::KeepRequest(_)
            | Change::PutSourceCursor(_)
            | Change::KeepAnswer(_)
            | Change::Wait { .. }
            | Change::PutConsumer { .. }
            | Change::DeleteConsumer { .. }
            | Change::Settle(_)
            | Change::PutTask(_)
            | Change::CancelTask { .. }
            | Change::Broadcasted(_)
            | Change::TaskTold(_)
            | Change::ExpungePayload(_)
            | Change::ExpungeResponse(_) => None,
        }
    }

    /// Adds or replaces; endpoints stay.
    pub fn put_application(&mut self, application: Arc<Application>) {
        let key = application.key;
        let endpoints = match self.applications.get(&key) {
            Some(old) => {
                if let Some(uid) = &old.application.uid {
                    self.by_uid.remove(&(old.application.organisation.clone(), uid.clone()));
                }
                old.endpoints.clone()
            }
            None => Vec::new(),
        };
        if let Some(uid) = &application.uid {
            self.by_uid.insert((application.organisation.clone(), uid.clone()), key);
        }
        self.by_id.insert(application.id, key);
        if application.is_operational() {
            self.operational.insert(application.organisation.clone(), key);
        } else {
            self.of_organisation.insert((application.organisation.clone(), application.id), key);
        }
        self.applications.insert(key, Arc::new(ApplicationEntry { application, endpoints }));
    }

    /// Removes it with its endpoints and sources; answers the endpoints' keys.
    pub fn remove_application(&mut self, key: ApplicationKey) -> Vec<EndpointKey> {
        let Some(entry) = self.applications.remove(&key) else { return Vec::new() };
        let application = &entry.application;
        if let Some(uid) = &application.uid {
            self.by_uid.remove(&(application.organisation.clone(), uid.clone()));
        }
        self.by_id.remove(&application.id);
        self.sources.remove_of_application(key);
        if application.is_operational() {
            self.operational.remove(&application.organisation);
        }
        self.of_organisation.remove(&(application.organisation.clone(), application.id));
        let keys: Vec<_> = entry.endpoints.iter().map(|e| e.key).collect();
        for key in &keys {
            self.endpoints.remove(key);
        }
        entry.endpoints.iter().filter_map(|e| expiring(e)).for_each(|one| {
            self.expiring.remove(&one);
        });
        keys
    }

    /// Adds it, if its application exists, or replaces all but its state ([`Change::PutEndpoint`]). Answers how it stands now.
    pub fn put_endpoint(&mut self, mut endpoint: Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        let entry = Arc::make_mut(self.applications.get_mut(&endpoint.application)?);
        self.endpoints.insert(endpoint.key, endpoint.application);
        match entry.endpoints.binary_search_by_key(&endpoint.key, |e| e.key) {
            Ok(at) => {
                Arc::make_mut(&mut endpoint).keep_state(&entry.endpoints[at]);
                expiring(&entry.endpoints[at]).map(|before| self.expiring.remove(&before));
                entry.endpoints[at] = Arc::clone(&endpoint);
            }
            Err(at) => entry.endpoints.insert(at, Arc::clone(&endpoint)),
        }
        self.expiring.extend(expiring(&endpoint));
        Some(endpoint)
    }

    /// Changes the state of one that exists.
    pub fn change_endpoint(&mut self, key: EndpointKey, change: impl FnOnce(&mut Endpoint)) {
        let entry = self.endpoints.get(&key).and_then(|application| self.applications.get_mut(application));
        let Some(endpoints) = entry.map(|entry| &mut Arc::make_mut(entry).endpoints) else { return };
        if let Ok(at) = endpoints.binary_search_by_key(&key, |e| e.key) {
            change(Arc::make_mut(&mut endpoints[at]));
        }
    }

    /// Removes it; answers whose it was.
    pub fn remove_endpoint(&mut self, key: EndpointKey) -> Option<ApplicationKey> {
        let application = self.endpoints.remove(&key)?;
        if let Some(entry) = self.applications.get_mut(&application) {
            entry.endpoint(key).and_then(|e| expiring(e)).map(|before| self.expiring.remove(&before));
            Arc::make_mut(entry).endpoints.retain(|e| e.key != key);
        }
        Some(application)
    }

    /// Adds or replaces.
    pub fn put_event_type(&mut self, event_type: Arc<EventType>) {
        self.event_types.insert((event_type.organisation.clone(), event_type.name.clone()), event_type);
    }

    /// Removes it; answers what it was.
    pub fn remove_event_type(&mut self, organisation: &OrganisationId, name: &str) -> Option<Arc<EventType>> {
        self.event_types.remove(&(organisation.clone(), name.to_owned()))
    }
}

/// When it is removed unless somebody reads it before.
fn expiring(endpoint: &Endpoint) -> Option<(Timestamp, EndpointKey)> {
    let Kind::Pipe(Pipe { expiry: Some(expiry), .. }) = &endpoint.kind else { return None };
    Some((expiry.at, endpoint.key))
}

impl ApplicationEntry {
    /// By key.
    pub fn endpoint(&self, key: EndpointKey) -> Option<&Arc<Endpoint>> {
        self.endpoints.binary_search_by_key(&key, |e| e.key).ok().map(|at| &self.endpoints[at])
    }

    /// By public id or uid.
    pub fn find_endpoint(&self, id_or_uid: &str) -> Option<&Arc<Endpoint>> {
        let id = id_or_uid.parse::<EndpointId>().ok();
        self.endpoints.iter().find(|e| Some(e.id) == id || e.uid.as_deref() == Some(id_or_uid))
    }
}
