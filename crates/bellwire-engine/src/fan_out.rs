//! Which endpoints a message is owed to. Decided once, when it is accepted, and kept with it.

use crate::catalogue::ApplicationEntry;
use bellwire_model::{FanOut, matches};

/// The endpoints of `application` that take a message of `event_type` on `channels`, by rising key. Disabled ones that match
/// are among them: their deliveries wait.
pub fn fan_out(application: &ApplicationEntry, event_type: &str, channels: &[String]) -> FanOut {
    application.endpoints.iter().filter(|e| matches(e, event_type, channels)).map(|e| e.key).collect()
}
