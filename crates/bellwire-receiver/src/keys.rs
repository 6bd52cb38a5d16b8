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
/// A key that is believed, but that nothing fits, is looked at again; not sooner than this after it was fetched, or looked at, last. So
/// who cannot sign makes us fetch no more than once in that time.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(60);
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
    /// When it was last asked for.
    asked_at: Timestamp,
}

/// The keys as of a time.
pub(crate) struct KeysAt<'a> {
    keys: &'a FetchedKeys,
    now: Timestamp,
    /// The last that was there.
    used: Mutex<Option<KeyRequest>>,
}

impl Keys for KeysAt<'_> {
    fn fetched(&self, request: &KeyRequest) -> Option<Arc<[u8]>> {
        let bytes = self.keys.0.lock().keys.get(request).filter(|key| key.until > self.now)?.bytes.clone()?;
        *self.used.lock() = Some(request.clone());
        Some(bytes)
    }
}

impl KeysAt<'_> {
    /// What was believed in a verification.
    pub(crate) fn used(self) -> Option<KeyRequest> {
        self.used.into_inner()
    }
}

impl Inner {
    /// One more fetch for this source.
    fn count(&mut self, source: SourceKey, now: Timestamp) -> Result<(), String> {
        let (since, count) = self.fetches.entry(source).or_insert((now, 0));
        if now.since(*since) >= FETCHES_PER {
            (*since, *count) = (now, 0);
        }
        if *count >= FETCHES_MAX {
            return Err("too many keys were fetched for this source in the last minute".to_owned());
        }
        *count += 1;
        Ok(())
    }
}

impl FetchedKeys {
    /// As of `now`, in engine time.
    pub(crate) fn at(&self, now: Timestamp) -> KeysAt<'_> {
        KeysAt { keys: self, now, used: Mutex::new(None) }
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
            inner.count(source, now)?;
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
        let (bytes, until, answer) = match fetched {
            Ok(bytes) => (Some(Arc::from(&*bytes)), now.plus(KEPT_FOR), Ok(())),
            Err(error) => (None, now.plus(FAILED_FOR), Err(error)),
        };
        inner.keys.insert(request, Fetched { bytes, until, asked_at: now });
        answer
    }

    /// Fetches a set of keys again that is believed, but that nothing fits: the sender may have another one since. Whether there is another one
    /// now. What cannot be fetched stays as it was.
    pub(crate) async fn look_again(&self, backend: &dyn Backend, source: SourceKey, request: &KeyRequest) -> bool {
        let now = backend.now();
        {
            let mut inner = self.0.lock();
            let due = |key: &Fetched| now.since(key.asked_at) >= LOOKED_AT_EVERY;
            // A certificate is what its address says; another one has another address.
            if request.certificate || !inner.keys.get(request).is_some_and(due) || inner.count(source, now).is_err() {
                return false;
            }
            if let Some(key) = inner.keys.get_mut(request) {
                key.asked_at = now;
            }
        }
        let Ok(bytes) = backend.fetch(request.url.clone(), request.post.clone(), KEY_BYTES_MAX).await else {
            return false;
        };
        let mut inner = self.0.lock();
        let Some(key) = inner.keys.get_mut(request) else { return false };
        let is_other = key.bytes.as_deref() != Some(&*bytes);
        (key.bytes, key.until) = (Some(Arc::from(&*bytes)), backend.now().plus(KEPT_FOR));
        is_other
    }

    /// Forgets the sources that are gone.
    pub(crate) fn forget(&self, exists: impl Fn(SourceKey) -> bool) {
        self.0.lock().fetches.retain(|key, _| exists(*key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Receiver;
    use crate::program::{Program, source};
    use axum::body::Body;
    use bellwire_model::Recipe;
    use futures_util::FutureExt;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_set_of_keys_that_nothing_fits_is_looked_at_again_once_a_minute() {
        let (sender, keys, source) = (Program::default(), FetchedKeys::default(), SourceKey(1));
        let request = KeyRequest { url: "https://keys.example/jwks".to_owned(), post: None, certificate: false };
        let publish = |text| *sender.published.lock() = text;
        let at = |seconds| sender.seconds.store(seconds, Ordering::Relaxed);
        let look = || keys.look_again(&sender, source, &request).now_or_never().expect("at once");
        let believed = || keys.at(sender.now()).fetched(&request).map(|bytes| bytes.to_vec());
        publish(Some("one"));
        at(1_000);
        assert!(!look(), "what was never fetched is not looked at again");
        keys.fetch(&sender, source, request.clone()).now_or_never().expect("at once").expect("fetched");
        publish(Some("two"));
        at(1_059);
        assert!(!look());
        assert_eq!(believed().as_deref(), Some(&b"one"[..]));
        at(1_060);
        assert!(look(), "there is another one");
        assert_eq!(believed().as_deref(), Some(&b"two"[..]));
        // A stranger, as often as he likes.
        for seconds in 1_061..1_120 {
            at(seconds);
            assert!(!look());
        }
        assert_eq!(sender.fetched.load(Ordering::Relaxed), 2);
        at(1_120);
        assert!(!look(), "looked at, and the same");
        // What cannot be fetched stays as it was, and is not asked for at once again.
        publish(None);
        at(1_180);
        assert!(!look());
        at(1_181);
        assert!(!look());
        assert_eq!((believed().as_deref(), sender.fetched.load(Ordering::Relaxed)), (Some(&b"two"[..]), 4));
    }

    /// Tokens are signed with the keys of a set.
    const TOKENS: &str = r#"{"verify": [{
        "algorithm": "jwt-es256", "key": "jwk", "signature": {"field": "header:x-token"},
        "key_set": {"url": "https://keys.example/jwks", "path": "keys"}
    }]}"#;
    /// RFC 7515, appendix A.3: a token whose header names no key, and its key.
    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const ITS_KEY: &str = r#"{"keys": [{"kty": "RSA"}, {"kty": "EC", "crv": "P-256", "kid": "new", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    /// What is no point of the curve fits nothing.
    const OTHER_KEY: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "old", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"}]}"#;

    #[test]
    fn a_token_that_fits_no_key_makes_the_set_be_fetched_once_more_and_once_a_minute() {
        let source = source(Recipe::Own(TOKENS.to_owned()));
        let (sender, receiver) = (Program::new(source), Receiver::default());
        // Within the token's life.
        let begin = 1_300_819_000;
        let post = |seconds: i64, token: &str| {
            sender.seconds.store(begin + seconds, Ordering::Relaxed);
            let request = http::Request::post("/in/t").header("x-token", token).body(Body::from("{}"));
            let answer = receiver.receive_by_token(&sender, "t", request.expect("a request"));
            (answer.now_or_never().expect("at once").status().as_u16(), sender.fetched.load(Ordering::Relaxed))
        };
        let proven = 202;
        *sender.published.lock() = Some(OTHER_KEY);
        // {"alg":"ES256","kid":"new"}
        let (_, rest) = TOKEN.split_once('.').expect("a token");
        let unknown = format!("eyJhbGciOiJFUzI1NiIsImtpZCI6Im5ldyJ9.{rest}");
        assert_eq!(post(0, &unknown), (401, 1));
        assert_eq!(post(59, &unknown), (401, 1), "it was fetched a moment ago");
        assert_eq!(post(60, &unknown), (401, 2), "there may be another one");
        for seconds in 61..120 {
            assert_eq!(post(seconds, &unknown), (401, 2), "a stranger, as often as he likes");
            assert_eq!(post(seconds, TOKEN), (401, 2));
        }
        // The sender has another one: the first token that needs it brings it.
        *sender.published.lock() = Some(ITS_KEY);
        assert_eq!(post(120, TOKEN), (proven, 3));
        assert_eq!(post(121, TOKEN), (proven, 3));
        // Now the id is known, and what it is under does not fit: that is looked at once a minute, too.
        assert_eq!(post(179, &unknown), (401, 3));
        assert_eq!(post(180, &unknown), (401, 4));
        assert_eq!(post(181, &unknown), (401, 4));
        assert_eq!(post(182, TOKEN), (proven, 4));
    }

    #[test]
    fn a_certificate_is_what_its_address_says() {
        let (sender, keys, source) = (Program::default(), FetchedKeys::default(), SourceKey(1));
        let request = KeyRequest { url: "https://keys.example/a.pem".to_owned(), post: None, certificate: true };
        *sender.published.lock() = Some("a certificate");
        keys.fetch(&sender, source, request.clone()).now_or_never().expect("at once").expect("fetched");
        sender.seconds.store(600, Ordering::Relaxed);
        assert!(!keys.look_again(&sender, source, &request).now_or_never().expect("at once"));
    }
}
