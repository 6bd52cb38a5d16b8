//! Whether a reader who stays may stay: its token and its endpoint are looked at again every now and then, since both can go while a
//! stream lives.

use super::expiry;
use crate::Api;
use crate::auth::Verified;
use crate::call::Call;
use crate::error::Error;
use bellwire_model::EndpointKey;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What was taken back works no longer than this.
const EVERY: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Standing {
    api: Api,
    token: Arc<Verified>,
    endpoint: EndpointKey,
    looked: Instant,
}

impl Standing {
    pub(super) fn of(call: &Call, endpoint: EndpointKey) -> Self {
        Standing { api: call.api.clone(), token: Arc::clone(&call.token), endpoint, looked: Instant::now() }
    }

    /// # Errors
    /// 401 if the token is no longer good, 404 if the endpoint is gone.
    pub(super) fn check(&mut self) -> Result<(), Error> {
        let backend = self.api.backend();
        let endpoint = backend.catalogue().read().endpoint(self.endpoint).cloned().ok_or_else(Error::not_found)?;
        expiry::noticed(&self.api, &endpoint);
        if self.looked.elapsed() < EVERY {
            return Ok(());
        }
        self.looked = Instant::now();
        self.api.tokens().stands(&self.token, backend.catalogue(), backend.now())
    }
}
