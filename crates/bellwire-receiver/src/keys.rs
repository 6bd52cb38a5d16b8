//! Keys that senders publish: fetched when a request wants one, kept for a while, and not asked for more often than a sender's keys
//! can change. Which key is wanted says a request that is not proven yet, so a source may have few fetched.

use crate::Backend;
use bellwire_model::{SourceKey, Timestamp};
use bellwire_signature::source::{KEY_BYTES_MAX, KeyRequest, Keys};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// A key that was fetched is believed for so long.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// One that could not be fetched is not asked for again for so long.
const FAILED_FOR: Duration = Duration::from_secs(30);
/// So many keys are remembered.
const KEYS_MAX: usize = 256;
/// So many may be fetched for one source within [`FETCHES_PER`].
const FETCHES_MAX: u32 = 10;
const FETCHES_PER: Duration = Duration::from_secs(60);

/// The keys of all sources.
#[derive(Default)]
pub(crate) struct FetchedKeys(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    keys: HashMap<KeyRequest, Fetched>,
    /// When the count of a source began, and how far it is.
    fetches: HashMap<SourceKey, (Timestamp, u32)>,
}

struct Fetched {
    /// `None` if it could not be fetched.
    bytes: Option<Arc<[u8]>>,
    until: Timestamp,
}

/// The keys as of a time.
pub(crate) struct KeysAt<'a>(&'a FetchedKeys, Timestamp);

impl Keys for KeysAt<'_> {
    fn fetched(&self, request: &KeyRequest) -> Option<Arc<[u8]>> {
        self.0.0.lock().keys.get(request).filter(|key| key.until > self.1)?.bytes.clone()
    }
}

impl FetchedKeys {
    /// As of `now`, in engine time.
    pub(crate) fn at(&self, now: Timestamp) -> KeysAt<'_> {
        KeysAt(self, now)
    }

    /// Fetches a key that is not there.
    ///
    /// # Errors
    /// Why it is still not there.
    pub(crate) async fn fetch(
        &self,
        backend: &dyn Backend,
        source: SourceKey,
        request: KeyRequest,
    ) -> Result<(), String> {
        let now = backend.now();
        {
            let mut inner = self.0.lock();
            if inner.keys.get(&request).is_some_and(|key| key.until > now && key.bytes.is_none()) {
                return Err("it could not be fetched a moment ago".to_owned());
            }
            let (since, count) = inner.fetches.entry(source).or_insert((now, 0));
            if now.since(*since) >= FETCHES_PER {
                (*since, *count) = (now, 0);
            }
            if *count >= FETCHES_MAX {
                return Err("too many keys were fetched for this source in the last minute".to_owned());
            }
            *count += 1;
        }
        let fetched = match request.certificate {
            true => backend.fetch_certificate(request.url.clone(), KEY_BYTES_MAX).await,
            false => backend.fetch(request.url.clone(), request.post.clone(), KEY_BYTES_MAX).await,
        };
        let now = backend.now();
        let mut inner = self.0.lock();
        if inner.keys.len() >= KEYS_MAX {
            inner.keys.retain(|_, key| key.until > now);
        }
        if inner.keys.len() >= KEYS_MAX {
            inner.keys.clear();
        }
        let (key, answer) = match fetched {
            Ok(bytes) => (Fetched { bytes: Some(Arc::from(&*bytes)), until: now.plus(KEPT_FOR) }, Ok(())),
            Err(error) => (Fetched { bytes: None, until: now.plus(FAILED_FOR) }, Err(error)),
        };
        inner.keys.insert(request, key);
        answer
    }

    /// Forgets the sources that are gone.
    pub(crate) fn forget(&self, exists: impl Fn(SourceKey) -> bool) {
        self.0.lock().fetches.retain(|key, _| exists(*key));
    }
}
