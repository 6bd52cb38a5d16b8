//! Sources that do something by themselves: fetch their messages, by a schedule, out of a table, off a queue; or keep up a subscription.
//!
//! ```text
//! supervise → (cron | outbox | queue | websub) → Hand::bring → intake → commit
//! ```
//!
//! Each shard runs those of its own applications, a task each, and follows the catalogue: a source that is created, changed, disabled
//! or deleted starts, starts anew or stops without a restart. One that fails is tried again after a while, and longer each time. What one has
//! fetched becomes durable in one commit with how far it has got ([`Hand::bring`]), so a crash in between repeats nothing
//! and loses nothing.

mod check;
mod cron;
mod hand;
mod outbox;
mod queue;
mod schedule;
mod state;
pub(crate) mod unsubscribe;
pub(crate) mod websub;

pub(crate) use check::check;
pub(crate) use state::States;

use crate::doors::Doors;
use bellwire_api::backend::{AcceptError, Accepted, Backend};
use bellwire_egress::Client;
use bellwire_engine::Draft;
use bellwire_model::{DedupeKey, Message, RequestDigest, Source, SourceKey, Way};

use hand::Hand;
use rand::Rng;
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use unsubscribe::Endings;

/// After the first failure; doubled with each further one.
const PAUSE: Duration = Duration::from_secs(1);
/// No longer than this.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Runs the sources of this shard's applications until `stop` becomes `true`.
pub(crate) async fn supervise(doors: Arc<Doors>, client: Client, mut stop: watch::Receiver<bool>) {
    let mut changes = doors.core.sources.changes();
    let mut running: HashMap<SourceKey, Running> = HashMap::new();
    let mut endings = Endings::new();
    loop {
        changes.borrow_and_update();
        let wanted = wanted(&doors);
        running.retain(|key, _| wanted.contains_key(key));
        for (key, source) in wanted {
            if running.get(&key).is_some_and(|running| running.source == source) {
                continue;
            }
            // The old one ends before the new one begins.
            running.remove(&key);
            running.insert(key, Running::start(&doors, client.clone(), source));
        }
        endings.follow(&doors, &client);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Those that are to run here.
fn wanted(doors: &Doors) -> HashMap<SourceKey, Arc<Source>> {
    let catalogue = doors.core.catalogue.read();
    let shards = doors.core.mailboxes.len();
    let here = |source: &&Arc<Source>| source.application.partition().shard(shards) == doors.shard;
    let works = |source: &&Arc<Source>| !source.way.is_http() || websub::subscribes(source);
    let sources = catalogue.sources().all().filter(|source| !source.disabled).filter(works).filter(here);
    sources.map(|source| (source.key, Arc::clone(source))).collect()
}

/// A source at work. Ends when dropped; what it was about to bring in is brought in again, and known again by its keys.
struct Running {
    source: Arc<Source>,
    task: JoinHandle<()>,
    states: Arc<States>,
}

impl Running {
    fn start(doors: &Arc<Doors>, client: Client, source: Arc<Source>) -> Running {
        let states = Arc::clone(&doors.core.sources);
        states.starts(source.key, source.way.name());
        let hand = Hand::new(Arc::clone(doors), client, Arc::clone(&source));
        Running { source, task: tokio::task::spawn_local(keep_running(hand)), states }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.states.stops(self.source.key);
    }
}

async fn keep_running(hand: Hand) {
    let (source, states) = (hand.source(), hand.states());
    let mut pause = PAUSE;
    loop {
        let began = states.last_run(source.key);
        let Err(error) = run(&hand).await;
        let text = format!("{error:#}");
        tracing::warn!(source.id = %source.id, way = source.way.name(), error = text, "a source failed; it is tried again");
        states.failed(source.key, source.way.name(), hand.now(), text);
        if states.last_run(source.key) != began {
            pause = PAUSE;
        }
        // Not all at once, when what they all need comes back.
        tokio::time::sleep(pause.mul_f64(rand::rng().random_range(0.5..1.0))).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Makes the message of a schedule at once, whether it is due or not; how far the schedule has been seen to does not change. `None` for a source
/// that has no schedule. The same request makes one message.
pub(crate) async fn run_now(
    doors: &Doors,
    source: &Source,
    once: Option<(DedupeKey, RequestDigest)>,
) -> Option<Result<Arc<Message>, AcceptError>> {
    let Way::Cron(cron) = &source.way else { return None };
    let made = async {
        let failed = |error: anyhow::Error| AcceptError::Failed(format!("{error:#}"));
        let brought = cron::now(cron, crate::clock::wall(), Backend::sequence(doors)).map_err(failed)?;
        let draft = hand::draft(doors, source, brought).map_err(failed)?;
        match Backend::accept(doors, Draft { idempotency: once, ..draft }).await? {
            Accepted::New(message) | Accepted::Same(message) => Ok(message),
        }
    };
    Some(made.await)
}

/// Until it fails.
async fn run(hand: &Hand) -> anyhow::Result<Infallible> {
    match &hand.source().way {
        Way::Cron(cron) => cron::run(hand, cron).await,
        Way::Outbox(outbox) => outbox::run(hand, outbox).await,
        Way::Queue(text) => queue::run(hand, text).await,
        Way::Http if websub::subscribes(hand.source()) => websub::run(hand).await,
        Way::Http => anyhow::bail!("others post to it"),
    }
}
