//! The subscriptions that have ended and whose hubs do not know it yet, found by where their hubs ask. Part of the catalogue.

use bellwire_model::{EndedSubscription, SubscriptionKey};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// See the module.
#[derive(Debug, Default)]
pub struct SubscriptionRegister {
    ended: BTreeMap<SubscriptionKey, Arc<EndedSubscription>>,
    by_path: HashMap<String, Vec<SubscriptionKey>>,
}

impl SubscriptionRegister {
    /// By key.
    pub fn get(&self, key: SubscriptionKey) -> Option<&Arc<EndedSubscription>> {
        self.ended.get(&key)
    }

    /// Those whose hubs call at this path, oldest first.
    pub fn at_path(&self, path: &str) -> impl Iterator<Item = &Arc<EndedSubscription>> {
        self.by_path.get(path).into_iter().flatten().filter_map(|key| self.ended.get(key))
    }

    /// All of them, oldest first.
    pub fn all(&self) -> impl Iterator<Item = &Arc<EndedSubscription>> {
        self.ended.values()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ended.is_empty()
    }

    /// Adds or replaces.
    pub fn put(&mut self, ended: Arc<EndedSubscription>) {
        self.remove(ended.key);
        for path in &ended.paths {
            self.by_path.entry(path.clone()).or_default().push(ended.key);
        }
        self.ended.insert(ended.key, ended);
    }

    /// Removes it.
    pub fn remove(&mut self, key: SubscriptionKey) {
        let Some(ended) = self.ended.remove(&key) else { return };
        for path in &ended.paths {
            let Some(at) = self.by_path.get_mut(path) else { continue };
            at.retain(|other| *other != key);
            if at.is_empty() {
                self.by_path.remove(path);
            }
        }
    }
}
