//! Which endpoints a message is owed to. Decided once, when it is accepted, and kept with it.

use crate::catalogue::ApplicationEntry;
use bellwire_model::{Endpoint, FanOut};

/// The endpoints of `application` that take a message, as `takes` says (`bellwire_shape::judge`, where content counts), by
/// rising key. Disabled ones that match are among them: their deliveries wait.
pub fn fan_out(application: &ApplicationEntry, mut takes: impl FnMut(&Endpoint) -> bool) -> FanOut {
    application.endpoints.iter().filter(|e| takes(e)).map(|e| e.key).collect()
}
