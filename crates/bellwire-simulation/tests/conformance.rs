//! The simulator's store keeps the promises that every back end keeps; otherwise what it proves would mean nothing.

use bellwire_simulation::SimStore;
use bellwire_store::Store;
use bellwire_store::testing::conformance::{self, Harness};
use std::sync::Arc;

struct InMemory(Arc<SimStore>);

impl Harness for InMemory {
    fn store(&self) -> Arc<dyn Store> {
        Arc::<SimStore>::clone(&self.0)
    }

    fn reopen(&mut self) {}
}

fn make() -> Box<dyn Harness> {
    Box::new(InMemory(Arc::new(SimStore::new(None))))
}

#[test]
fn the_simulators_store_conforms() {
    conformance::conformance(&make);
}

#[test]
fn anything_in_any_order_agrees_with_the_model() {
    for seed in 0..20 {
        conformance::random(&make, seed, 60);
    }
}
