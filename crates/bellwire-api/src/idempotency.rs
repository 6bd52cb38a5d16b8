//! Once, seen from the client: what makes two POSTs the same request.
//!
//! The scope of an `Idempotency-Key` is who sends it (the token's subject, not the token), the method, the path and the query. The
//! body is not part of it: the same key with another body is a mistake, and refused. Only 2xx answers are kept, for
//! [`KEPT_FOR`]; messages need no kept answer, since the message itself is the answer.

use crate::auth::Principal;
use bellwire_model::{ApplicationId, DedupeKey, RequestDigest};
use http::{Method, Uri};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How long an answer is kept.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(12 * 3600);

/// A request that is to be done once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Once {
    pub(crate) key: DedupeKey,
    pub(crate) digest: RequestDigest,
}

impl Once {
    pub(crate) fn new(principal: &Principal, method: &Method, uri: &Uri, key: &[u8], body: &[u8]) -> Self {
        let mut scope = Scope::new("request");
        scope.add(principal.organisation().as_str().as_bytes());
        match principal {
            Principal::Organisation(_) => scope.add(b""),
            Principal::Application { application, .. } => scope.add(application.0.as_bytes()),
        }
        scope.add(method.as_str().as_bytes());
        scope.add(uri.path().as_bytes());
        scope.add(uri.query().unwrap_or_default().as_bytes());
        scope.add(key);
        let digest: [u8; 32] = Sha256::digest(body).into();
        let mut short = [0; 8];
        short.copy_from_slice(&digest[..8]);
        Once { key: scope.key(), digest: RequestDigest(short) }
    }
}

/// What makes an event id unique within its application.
pub fn event_key(application: ApplicationId, event_id: &str) -> DedupeKey {
    let mut scope = Scope::new("event");
    scope.add(application.0.as_bytes());
    scope.add(event_id.as_bytes());
    scope.key()
}

/// Parts with their lengths, so that no two lists of parts are alike.
struct Scope(Sha256);

impl Scope {
    fn new(what: &'static str) -> Self {
        let mut scope = Scope(Sha256::new());
        scope.add(what.as_bytes());
        scope
    }

    fn add(&mut self, part: &[u8]) {
        self.0.update((part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    fn key(self) -> DedupeKey {
        let digest: [u8; 32] = self.0.finalize().into();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        DedupeKey(key)
    }
}
