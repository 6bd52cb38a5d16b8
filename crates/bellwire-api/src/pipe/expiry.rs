//! Pipes that are there for their readers only: made to expire, they are removed when nobody has read them for a while.
//!
//! That somebody reads is noticed where it happens, and written down a few times in that while at most: nearly always it costs one
//! comparison. The program that the API runs in has those removed whose time is over ([`Api::remove_expired`]).

use crate::Api;
use crate::backend::AcceptError;
use bellwire_model::{Endpoint, EndpointKey, Kind, Pipe, Timestamp};
use bellwire_store::Change;
use std::sync::Arc;

/// So many are removed at a time.
const REMOVED_MAX: usize = 100;

/// Somebody reads `endpoint`, or would.
pub(super) fn noticed(api: &Api, endpoint: &Endpoint) {
    if renewed(endpoint, api.backend().now()).is_none() {
        return;
    }
    if let Some(renewing) = Renewing::begin(api, endpoint.key) {
        tokio::spawn(async move {
            if let Err(error) = renewing.write_down().await {
                tracing::debug!(%error, "that a pipe was read is written down when it is read again");
            }
        });
    }
}

/// `endpoint` as it is after it was read at `now`; `None` if that need not be written down.
fn renewed(endpoint: &Endpoint, now: Timestamp) -> Option<Endpoint> {
    let Kind::Pipe(pipe) = &endpoint.kind else { return None };
    let expiry = pipe.expiry?.read(now)?;
    Some(Endpoint { kind: Kind::Pipe(Pipe { expiry: Some(expiry), ..pipe.clone() }), ..endpoint.clone() })
}

/// One writes down at a time that an endpoint was read.
struct Renewing {
    api: Api,
    endpoint: EndpointKey,
}

impl Renewing {
    fn begin(api: &Api, endpoint: EndpointKey) -> Option<Self> {
        let is_first = api.backend().pipes().renewing.lock().insert(endpoint);
        is_first.then(|| Renewing { api: api.clone(), endpoint })
    }

    async fn write_down(&self) -> Result<(), AcceptError> {
        let backend = self.api.backend();
        let _alone = backend.configuration().lock().await;
        let endpoint = backend.catalogue().read().endpoint(self.endpoint).cloned();
        let renewed = endpoint.and_then(|endpoint| renewed(&endpoint, backend.now()));
        match renewed {
            Some(renewed) => backend.change(vec![Change::PutEndpoint(Arc::new(renewed))]).await,
            None => Ok(()),
        }
    }
}

impl Drop for Renewing {
    fn drop(&mut self) {
        self.api.backend().pipes().renewing.lock().remove(&self.endpoint);
    }
}

impl Api {
    /// Removes pipes that nobody has read for as long as they are kept, at most a hundred of them. To be called every minute or so, by one
    /// shard, and after a start not before readers had the time to come back.
    ///
    /// # Errors
    /// The store did not take it; the next call tries again.
    pub async fn remove_expired(&self) -> Result<(), AcceptError> {
        let backend = self.backend();
        let _alone = backend.configuration().lock().await;
        let expired: Vec<Arc<Endpoint>> = {
            let (pipes, catalogue) = (backend.pipes(), backend.catalogue().read());
            let is_read = |key| pipes.renewing.lock().contains(&key) || pipes.wakes.is_watched(key);
            let expired = catalogue.expired(backend.now()).filter(|key| !is_read(*key)).take(REMOVED_MAX);
            expired.filter_map(|key| catalogue.endpoint(key).cloned()).collect()
        };
        if expired.is_empty() {
            return Ok(());
        }
        backend.change(expired.iter().map(|endpoint| Change::DeleteEndpoint(endpoint.key)).collect()).await?;
        for endpoint in expired {
            tracing::info!(endpoint.id = %endpoint.id, "nobody has read this pipe for as long as it is kept: it is removed");
        }
        Ok(())
    }
}
