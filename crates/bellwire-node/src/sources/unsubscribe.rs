//! Ending a subscription at a WebSub hub when its source is gone or wants another: W3C WebSub §5.1 and §5.3.
//!
//! ```text
//! a change of sources → ended (same commit) → supervise → tell the hub → it asks back (receiver/ended.rs) → confirmed → forgotten
//! ```
//!
//! What ends is kept in the commit of what ends it, so neither a crash nor the loss of the source's row loses it; what to do next says
//! [`EndedSubscription::next`]. A subscription that is wanted again is no ended one any more, in the commit that says so.

use super::websub::{self, Position};
use crate::clock::wall;
use crate::doors::Doors;
use bellwire_api::backend::{AcceptError, Backend};
use bellwire_egress::Client;
use bellwire_engine::Catalogue;
use bellwire_model::{
    EndedSubscription, Ending, Source, SourceCursor, SourceKey, Subscription, SubscriptionKey, Timestamp,
    UnsubscribeStep,
};
use bellwire_store::Change;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

/// The wall clock is looked at at least so often.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// After the store could not keep that a hub is told.
const PAUSE: Duration = Duration::from_secs(5);
/// So many of an organisation are kept; of what ends beyond that, the hub is not told.
const ENDED_MAX: usize = 10_000;
/// So many hubs are told at once by a shard.
const TOLD_AT_ONCE: usize = 8;

/// A source before and after some changes.
#[derive(Clone, Debug, Default)]
struct Edited {
    before: Option<Arc<Source>>,
    after: Option<Arc<Source>>,
}

/// The sources that `changes` create, replace or remove.
fn edited(catalogue: &Catalogue, changes: &[Change]) -> BTreeMap<SourceKey, Edited> {
    let mut edited: BTreeMap<SourceKey, Edited> = BTreeMap::new();
    let untouched = |source: Option<&Arc<Source>>| Edited { before: source.cloned(), after: source.cloned() };
    for change in changes {
        match change {
            Change::PutSource(source) => {
                let before = || untouched(catalogue.sources().get(source.key));
                edited.entry(source.key).or_insert_with(before).after = Some(Arc::clone(source));
            }
            Change::DeleteSource(key) => {
                edited.entry(*key).or_insert_with(|| untouched(catalogue.sources().get(*key))).after = None;
            }
            Change::DeleteApplication(application) => {
                for source in catalogue.sources().all().filter(|source| source.application == *application) {
                    edited.entry(source.key).or_insert_with(|| untouched(Some(source)));
                }
                let of_it = |edited: &&mut Edited| edited.after.as_ref().is_some_and(|s| s.application == *application);
                edited.values_mut().filter(of_it).for_each(|edited| edited.after = None);
            }
            _ => {}
        }
    }
    edited
}

/// What ends and what is wanted again by `changes`.
#[derive(Debug, Default)]
struct Outlook {
    /// Each with the source that had it, and whether that stays.
    ends: Vec<(Arc<Source>, Subscription, bool)>,
    again: Vec<SubscriptionKey>,
}

fn outlook(catalogue: &Catalogue, changes: &[Change]) -> Outlook {
    let mut outlook = Outlook::default();
    let edited = edited(catalogue, changes);
    for Edited { before, after } in edited.values() {
        let wants = after.as_deref().and_then(websub::wanted);
        if let Some(wants) = &wants {
            let same = catalogue.ended_subscriptions().all().filter(|ended| ended.subscription == *wants);
            outlook.again.extend(same.map(|ended| ended.key));
        }
        let Some(before) = before else { continue };
        let Some(had) = websub::wanted(before).filter(|had| wants.as_ref() != Some(had)) else { continue };
        // A hub has one subscription for a topic and a callback, whoever of us wants it.
        let left = catalogue.sources().all().filter(|source| !edited.contains_key(&source.key));
        let left = left.chain(edited.values().filter_map(|edited| edited.after.as_ref()));
        if !left.filter_map(|source| websub::wanted(source)).any(|other| other == had) {
            outlook.ends.push((Arc::clone(before), had, after.is_some()));
        }
    }
    outlook
}

/// What has to be committed with `changes`, because they end subscriptions, or want ended ones again. The caller holds the lock on
/// configuration, as does whoever moves the position of such a source: so what is read here is how it ends.
///
/// # Errors
/// The store cannot be read.
pub(crate) async fn consequences(doors: &Doors, changes: &[Change]) -> Result<Vec<Change>, AcceptError> {
    let concern = |change: &Change| {
        matches!(change, Change::PutSource(_) | Change::DeleteSource(_) | Change::DeleteApplication(_))
    };
    if !changes.iter().any(concern) {
        return Ok(Vec::new());
    }
    let Outlook { ends, again } = outlook(&doors.core.catalogue.read(), changes);
    let mut more: Vec<Change> = again.into_iter().map(Change::DeleteEndedSubscription).collect();
    if ends.is_empty() {
        return Ok(more);
    }
    let store = Arc::clone(&doors.core.store);
    let keys: Vec<_> = ends.iter().map(|(source, ..)| source.key).collect();
    let read = move || keys.into_iter().map(|key| store.source_cursor(key)).collect::<Result<Vec<_>, _>>();
    let cursors = tokio::task::spawn_blocking(read).await.map_err(|error| AcceptError::Failed(error.to_string()))?;
    let cursors = cursors.map_err(|error| AcceptError::Failed(error.to_string()))?;
    let mut room: HashMap<_, usize> = HashMap::new();
    for ended in doors.core.catalogue.read().ended_subscriptions().all() {
        *room.entry(ended.organisation.clone()).or_default() += 1;
    }
    let now = wall();
    for ((source, subscription, stays), cursor) in ends.into_iter().zip(cursors) {
        let position = cursor.and_then(|cursor| serde_json::from_str::<Position>(&cursor.position).ok());
        let Some(position) = position else { continue };
        let Some(lease_ends) = position.lease_of(&subscription, now) else { continue };
        let kept = room.entry(source.organisation.clone()).or_default();
        if *kept >= ENDED_MAX {
            tracing::warn!(source.id = %source.id, "too many subscriptions have ended; the hub is not told of this one");
            continue;
        }
        *kept += 1;
        let key = SubscriptionKey(Backend::next_key(doors));
        more.push(Change::PutEndedSubscription(Arc::new(ended(key, &source, subscription, now, lease_ends))));
        if stays && let Ok(text) = serde_json::to_string(&position.ended()) {
            let moved_at = doors.core.clock.engine();
            more.push(Change::PutSourceCursor(SourceCursor { source: source.key, position: text.into(), moved_at }));
        }
    }
    Ok(more)
}

fn ended(
    key: SubscriptionKey,
    source: &Source,
    subscription: Subscription,
    now: Timestamp,
    lease_ends: Timestamp,
) -> EndedSubscription {
    let mut paths = vec![format!("/in/{}", source.token.reveal())];
    paths.extend(source.path.clone());
    // The token may have been replaced since, and the hub still has the old one.
    let called = url::Url::parse(&subscription.callback).ok().map(|url| url.path().to_owned());
    paths.extend(called.filter(|path| path.starts_with("/in/") && !paths.contains(path)));
    EndedSubscription {
        key,
        source: source.id,
        organisation: source.organisation.clone(),
        application: source.application,
        paths,
        subscription,
        ended_at: now,
        until: EndedSubscription::until(now, lease_ends),
        state: Ending::Untold { tries: 0, due: now },
    }
}

/// Those of a shard, a task each. They end when dropped, and go on from where they were kept.
pub(super) struct Endings {
    running: HashMap<SubscriptionKey, JoinHandle<()>>,
    permits: Arc<Semaphore>,
}

impl Endings {
    pub(super) fn new() -> Self {
        Endings { running: HashMap::new(), permits: Arc::new(Semaphore::new(TOLD_AT_ONCE)) }
    }

    /// Begins those that have come since, and lets go of those that are no more.
    pub(super) fn follow(&mut self, doors: &Arc<Doors>, client: &Client) {
        let shards = doors.core.mailboxes.len();
        let here = |ended: &&Arc<EndedSubscription>| ended.application.partition().shard(shards) == doors.shard;
        let keys: Vec<_> = {
            let catalogue = doors.core.catalogue.read();
            catalogue.ended_subscriptions().all().filter(here).map(|ended| ended.key).collect()
        };
        // Their tasks end by themselves when there is nothing left to do.
        self.running.retain(|_, task| !task.is_finished());
        for key in keys {
            let (doors, client, permits) = (Arc::clone(doors), client.clone(), Arc::clone(&self.permits));
            let run = || tokio::task::spawn_local(see_to_its_end(doors, client, key, permits));
            self.running.entry(key).or_insert_with(run);
        }
    }
}

impl Drop for Endings {
    fn drop(&mut self) {
        self.running.values().for_each(JoinHandle::abort);
    }
}

fn find(doors: &Doors, key: SubscriptionKey) -> Option<Arc<EndedSubscription>> {
    doors.core.catalogue.read().ended_subscriptions().get(key).cloned()
}

async fn see_to_its_end(doors: Arc<Doors>, client: Client, key: SubscriptionKey, permits: Arc<Semaphore>) {
    while let Some(ended) = find(&doors, key) {
        let now = wall();
        if let UnsubscribeStep::Wait(due) = ended.next(now) {
            tokio::time::sleep(due.since(now).min(LOOK_AGAIN)).await;
            continue;
        }
        // What is to be done is asked again when it is this one's turn.
        let Ok(_permit) = permits.acquire().await else { return };
        match step(&doors, key).await {
            Ok(None) => {}
            Ok(Some(told)) => match websub::ask(&client, &told.subscription, "unsubscribe", &[]).await {
                Ok(()) => tracing::info!(source.id = %told.source, "the hub was told that a subscription has ended"),
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!(source.id = %told.source, error, "a hub could not be told that a subscription has ended; it is tried again");
                }
            },
            Err(error) => {
                tracing::debug!(source.id = %ended.source, %error, "an ended subscription has to wait for the store");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Keeps what is done next; answers the one whose hub is to be told now.
async fn step(doors: &Doors, key: SubscriptionKey) -> Result<Option<EndedSubscription>, AcceptError> {
    let _one_at_a_time = doors.core.configuration.lock().await;
    let Some(ended) = find(doors, key) else { return Ok(None) };
    match ended.next(wall()) {
        UnsubscribeStep::Wait(_) => Ok(None),
        UnsubscribeStep::Tell(told) => {
            doors.change(vec![Change::PutEndedSubscription(Arc::new(told.clone()))]).await?;
            Ok(Some(told))
        }
        UnsubscribeStep::Forget => {
            if let Ending::Untold { tries, .. } = ended.state {
                tracing::warn!(source.id = %ended.source, tries, "a hub has not confirmed the end of a subscription; it is not told again");
            }
            doors.change(vec![Change::DeleteEndedSubscription(key)]).await?;
            Ok(None)
        }
    }
}

/// The hub has asked whether the end is meant, or has ended it itself: durable when it answers. `false` if it is wanted again. It is kept even if the hub
/// hangs up.
pub(crate) async fn confirmed(doors: Arc<Doors>, key: SubscriptionKey) -> Result<bool, AcceptError> {
    let work = async move {
        let _one_at_a_time = doors.core.configuration.lock().await;
        let Some(ended) = find(&doors, key) else { return Ok(false) };
        let confirmed = ended.confirmed(wall());
        if confirmed != *ended {
            doors.change(vec![Change::PutEndedSubscription(Arc::new(confirmed))]).await?;
            tracing::info!(source.id = %ended.source, "the hub has confirmed the end of a subscription");
        }
        Ok(true)
    };
    let failed = |error: tokio::task::JoinError| AcceptError::Failed(format!("an edit ended: {error}"));
    tokio::spawn(work).await.map_err(failed)?
}
