//! A server that knows nothing and delivers nothing, for trying what its doors would say.

use crate::clock::Clock;
use crate::core::Core;
use crate::doors::Doors;
use crate::observe::Metrics;
use crate::wiring;
use anyhow::Context as _;
use bellwire_api::backend::Backend;
use bellwire_api::pipe::Pipes;
use bellwire_config::Config;
use bellwire_egress::Egress;
use bellwire_engine::{Catalogue, Intake};
use bellwire_store::{EmbeddedStore, Store as _};
use std::path::Path;
use std::sync::Arc;

/// The doors of such a server with these settings. It stands in a `folder` of its own.
///
/// # Errors
/// There is no room for such a server.
pub fn doors(config: &Config, folder: &Path) -> anyhow::Result<Arc<dyn Backend>> {
    let store =
        EmbeddedStore::open(folder, bellwire_store::Settings::default()).context("cannot make a store to try it in")?;
    let newest = store.recover().context("cannot read the store")?.newest;
    let egress =
        Egress::new(wiring::egress(config, config.server.listen)).context("cannot set up outgoing requests")?;
    let core = Core::new(
        Clock::start(newest.time()),
        Arc::new(store),
        Intake::new(config.intake_settings(), newest, [0; 32]),
        Catalogue::default(),
        1,
        0,
        Metrics::new(),
        Arc::clone(egress.guard()),
        None,
        Pipes::new(newest, 0),
    );
    Ok(Arc::new(Doors {
        core: Arc::new(core),
        plugins: wiring::plugins(config)?,
        shard: 0,
        payload_bytes_max: config.server.payload_bytes_max,
        operator: true,
    }))
}
