//! What the API asks about a source that is no URL: whether it can run here, with these settings.

use super::{cron, outbox, queue};
use bellwire_api::backend::PluginFault;
use bellwire_egress::Proxy;
use bellwire_model::{Timestamp, Way};
use bellwire_plugin::sql::Named;

/// Whether a source can fetch its messages this way. `named` are the operator's databases, `proxy` is what requests go by, `now` is the
/// wall clock's.
///
/// # Errors
/// All that is wrong; the first part of a path is the name of the way.
pub(crate) fn check(way: &Way, named: &Named, proxy: Option<&Proxy>, now: Timestamp) -> Result<(), Vec<PluginFault>> {
    let faults = match way {
        Way::Http => Vec::new(),
        Way::Cron(cron) => cron::check(cron, now),
        Way::Outbox(outbox) => outbox::check(outbox, named),
        Way::Queue(text) => {
            let faults = queue::check(text, proxy);
            return if faults.is_empty() { Ok(()) } else { Err(faults) };
        }
    };
    if faults.is_empty() {
        return Ok(());
    }
    let path = |field: &str| vec![way.name().to_owned(), field.to_owned()];
    Err(faults.into_iter().map(|(field, text)| PluginFault { path: path(field), text }).collect())
}
