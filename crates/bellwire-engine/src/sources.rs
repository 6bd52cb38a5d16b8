//! The sources that exist, found by whatever a request or an operator knows of them. Part of the catalogue.

use bellwire_model::{ApplicationKey, Ksuid, OrganisationId, Source, SourceId, SourceKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub struct SourceRegister {
    sources: HashMap<SourceKey, Arc<Source>>,
    by_id: HashMap<SourceId, SourceKey>,
    by_token: HashMap<String, SourceKey>,
    by_path: HashMap<String, SourceKey>,
    by_uid: HashMap<(OrganisationId, String), SourceKey>,
    /// In the order of their ids within an organisation, for lists.
    of_organisation: BTreeMap<(OrganisationId, SourceId), SourceKey>,
}

impl SourceRegister {
    /// By key.
    pub fn get(&self, key: SourceKey) -> Option<&Arc<Source>> {
        self.sources.get(&key)
    }

    /// By public id, of whichever organisation.
    pub fn by_id(&self, id: SourceId) -> Option<&Arc<Source>> {
        self.get(*self.by_id.get(&id)?)
    }

    /// By the token of its listener URL. Tokens are long and random, so how long the look-up takes tells nothing about them.
    pub fn by_token(&self, token: &str) -> Option<&Arc<Source>> {
        self.get(*self.by_token.get(token)?)
    }

    /// By its own path.
    pub fn by_path(&self, path: &str) -> Option<&Arc<Source>> {
        self.get(*self.by_path.get(path)?)
    }

    /// Whether any source has a path of its own.
    pub fn has_paths(&self) -> bool {
        !self.by_path.is_empty()
    }

    /// By public id or uid, within an organisation.
    pub fn find(&self, organisation: &OrganisationId, id_or_uid: &str) -> Option<&Arc<Source>> {
        let by_id = id_or_uid.parse().ok().and_then(|id: SourceId| self.by_id.get(&id));
        let by_uid = || self.by_uid.get(&(organisation.clone(), id_or_uid.to_owned()));
        let source = self.get(*by_id.or_else(by_uid)?)?;
        (source.organisation == *organisation).then_some(source)
    }

    /// All of an organisation in the order of their ids.
    pub fn of_organisation<'a>(
        &'a self,
        organisation: &OrganisationId,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Source>> + use<'a> {
        let id = |byte| SourceId(Ksuid::from_bytes([byte; 20]));
        let range = (organisation.clone(), id(0))..=(organisation.clone(), id(0xff));
        self.of_organisation.range(range).filter_map(|(_, key)| self.sources.get(key))
    }

    /// All of them, in no particular order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Source>> {
        self.sources.values()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sources.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// Adds or replaces.
    pub fn put(&mut self, source: Arc<Source>) {
        self.remove(source.key);
        let key = source.key;
        self.by_id.insert(source.id, key);
        self.by_token.insert(source.token.reveal().to_owned(), key);
        if let Some(path) = &source.path {
            self.by_path.insert(path.clone(), key);
        }
        if let Some(uid) = &source.uid {
            self.by_uid.insert((source.organisation.clone(), uid.clone()), key);
        }
        self.of_organisation.insert((source.organisation.clone(), source.id), key);
        self.sources.insert(key, source);
    }

    /// Removes it.
    pub fn remove(&mut self, key: SourceKey) {
        let Some(source) = self.sources.remove(&key) else { return };
        self.by_id.remove(&source.id);
        self.by_token.remove(source.token.reveal());
        if let Some(path) = &source.path {
            self.by_path.remove(path);
        }
        if let Some(uid) = &source.uid {
            self.by_uid.remove(&(source.organisation.clone(), uid.clone()));
        }
        self.of_organisation.remove(&(source.organisation.clone(), source.id));
    }

    /// Removes all that an application has.
    pub fn remove_of_application(&mut self, application: ApplicationKey) {
        let keys: Vec<_> = self.sources.values().filter(|s| s.application == application).map(|s| s.key).collect();
        keys.into_iter().for_each(|key| self.remove(key));
    }
}
