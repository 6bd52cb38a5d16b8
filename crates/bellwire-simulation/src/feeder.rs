//! A source that fetches its messages itself: a table outside the process, whose rows come one by one, and how far the process has read it.
//!
//! The rows of a page and the place behind them are one batch ([`bellwire_engine::Intake::offer_page`]). So at every instant what is durable
//! are the rows up to the durable place, each once and in order, whatever crashed.

use crate::bug::PumpBug;
use crate::node::{Request, Waiter};
use crate::store::SimStore;
use crate::truth::{Checked, Promise, broken};
use crate::world::{Event, World};
use bellwire_engine::OfferError;
use bellwire_model::{
    ApplicationKey, Cron, Missed, OrganisationId, Recipe, SecretText, Sequence, Source, SourceCursor, SourceId,
    SourceKey, Timestamp, Way,
};
use bellwire_store::{Batch, Change, Store};
use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// The application of worlds with a table; nobody gets its messages.
pub(crate) const FED: ApplicationKey = ApplicationKey(8);
const TABLE: SourceKey = SourceKey(81);

const MS: i64 = 1_000;
/// Rows of one page.
const PAGE_MAX: u32 = 5;

/// The table, and what the process has read of it.
#[derive(Debug)]
pub(crate) struct Feeder {
    pub(crate) rng: ChaCha8Rng,
    pub(crate) present: bool,
    /// So many rows there will be.
    rows: u32,
    /// So many have been read and are durable, as far as the process knows.
    place: u32,
    /// A page is on its way, or the next one is planned.
    busy: bool,
    /// So many messages were made of rows, as the log has them.
    made: u32,
}

impl Feeder {
    pub(crate) fn new(rng: ChaCha8Rng) -> Self {
        Feeder { rng, present: false, rows: 0, place: 0, busy: false, made: 0 }
    }

    /// A batch has become durable: its rows are the next ones, and the place is behind the last.
    pub(crate) fn committed(&mut self, batch: &Batch, store: &SimStore) -> Checked {
        for accepted in batch.accepted.iter().filter(|accepted| accepted.message.application == FED) {
            self.made += 1;
            let payload = accepted.message.payload.clone().unwrap_or_default();
            if payload != row(self.made) {
                let detail = format!("row {} should come next, and {payload:?} did", self.made);
                return broken(Promise::RowsComeOnce, detail);
            }
        }
        let place = place(store);
        if self.present && place != self.made {
            let detail = format!("the place is behind row {place}, and {} rows are messages", self.made);
            return broken(Promise::RowsComeOnce, detail);
        }
        Ok(())
    }

    /// Nothing is left.
    pub(crate) fn at_rest(&self) -> Checked {
        if self.made < self.rows {
            return broken(Promise::RowsComeOnce, format!("{} of {} rows were read", self.made, self.rows));
        }
        Ok(())
    }
}

/// What is made of a row, counted from 1.
fn row(number: u32) -> Bytes {
    Bytes::from(format!("{{\"row\":{number}}}"))
}

/// As the store has it.
fn place(store: &SimStore) -> u32 {
    let cursor = store.source_cursor(TABLE).ok().flatten();
    cursor.and_then(|cursor| cursor.position.parse().ok()).unwrap_or(0)
}

impl World {
    /// The source, with as many rows as it will ever have.
    pub(crate) fn found_feeder(&mut self, organisation: OrganisationId, changes: &mut Vec<Change>) {
        self.feeder.present = true;
        self.feeder.rows = self.feeder.rng.random_range(10..80);
        let way = Way::Cron(Cron {
            schedule: "* * * * *".to_owned(),
            zone: "UTC".to_owned(),
            payload: None,
            missed: Missed::Skip,
            since: Timestamp::EPOCH,
        });
        let source = Source {
            way,
            ..Source::new(
                TABLE,
                SourceId::from_parts(Sequence::ZERO, [8; 12]),
                organisation,
                FED,
                SecretText::new("table"),
                Recipe::Preset("none".to_owned()),
                Timestamp::EPOCH,
            )
        };
        changes.push(Change::PutSource(std::sync::Arc::new(source)));
    }

    /// A process begins where the store says that the one before it was.
    pub(crate) fn feeder_restart(&mut self) {
        self.feeder.place = place(&self.store);
        self.feeder.busy = false;
        self.plan_feeder(MS);
    }

    fn plan_feeder(&mut self, least: i64) {
        if !self.feeder.present || self.feeder.busy || self.feeder.place >= self.feeder.rows {
            return;
        }
        self.feeder.busy = true;
        let wait = self.feeder.rng.random_range(least..least + 600 * MS);
        self.after(wait, Event::Feed(self.generation()));
    }

    /// Reads the next page, and hands it in.
    pub(crate) fn feed(&mut self, generation: u64) {
        if !self.alive(generation) {
            return;
        }
        self.feeder.busy = false;
        let now = self.engine_now();
        let (from, count) = (self.feeder.place, self.feeder.rng.random_range(1..=PAGE_MAX));
        let through = (from + count).min(self.feeder.rows);
        let Some(node) = &mut self.node else { return };
        let request = |number| Request {
            application: FED,
            payload: row(number),
            idempotency: None,
            event: None,
            received: None,
            delayed: None,
            tries: 0,
        };
        let drafts: Option<Vec<_>> = (from + 1..=through).map(|number| node.draft(&request(number), now)).collect();
        let Some(drafts) = drafts else { return };
        let position = through.to_string().into();
        let change = Change::PutSourceCursor(SourceCursor { source: TABLE, position, moved_at: now });
        let looked = node.intake.looked();
        match node.intake.offer_page(now, drafts, vec![change], looked) {
            Ok((_, batch)) => {
                node.waiters.entry(batch).or_default().push(Waiter::Page(through));
                self.feeder.busy = true;
                self.note_feeder("page", through);
                self.schedule_seal();
            }
            // Who comes after the stop reads on.
            Err(OfferError::Closed) => {}
            Err(_) => self.plan_feeder(20 * MS),
        }
    }

    /// What became of a page.
    pub(crate) fn fed(&mut self, through: u32, kept: bool) {
        self.feeder.busy = false;
        if kept || self.has(PumpBug::PageForgotten) {
            self.feeder.place = through;
        }
        self.plan_feeder(MS);
    }
}
