//! The embedded back end keeps the promises of the trait, and those of its own.

use bellwire_store::testing::conformance::{self, Harness};
use bellwire_store::{EmbeddedStore, Settings, Store};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

struct Embedded {
    folder: TempDir,
    settings: Settings,
    store: Option<Arc<EmbeddedStore>>,
}

impl Embedded {
    fn new(slice: usize) -> Self {
        let settings = Settings { slice, reserve_bytes: 0, ..Settings::default() };
        let mut embedded = Embedded { folder: TempDir::new().expect("a folder"), settings, store: None };
        embedded.reopen();
        embedded
    }
}

impl Harness for Embedded {
    fn store(&self) -> Arc<dyn Store> {
        let store = self.store.as_ref().expect("open");
        Arc::clone(store) as Arc<dyn Store>
    }

    fn reopen(&mut self) {
        if let Some(store) = self.store.take() {
            assert_eq!(Arc::strong_count(&store), 1, "somebody kept the store");
        }
        let store = EmbeddedStore::open(self.folder.path(), self.settings.clone()).expect("opens");
        self.store = Some(Arc::new(store));
    }

    fn messages_kept_for(&self) -> Option<Duration> {
        Some(self.settings.messages)
    }
}

/// Slices of seven records: the checks see the indexes at every stage.
#[test]
fn the_embedded_store_conforms() {
    conformance::conformance(&|| Box::new(Embedded::new(7)));
}

#[test]
fn the_embedded_store_agrees_with_the_model() {
    for seed in 0..12 {
        conformance::random(&|| Box::new(Embedded::new(1 + seed as usize * 3)), seed, 60);
    }
}
