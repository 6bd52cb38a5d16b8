//! Random operations, compared with a model after each.

use super::tasks::{manual, target};
use super::{SECOND, to};
use crate::testing::world::{Draft, World};
use crate::{Batch, Change, ReplayFilter, Span, Work};
use bellwire_model::{
    AfterAttempt, DedupeKey, Delivery, DeliveryState, EndReason, EndpointKey, RequestDigest, Sequence, Trigger, Waiting,
};
use std::time::Duration;

pub(super) fn anything_in_any_order_agrees_with_the_model(world: &mut World) {
    random_operations(world, 120);
}

pub(super) fn random_operations(world: &mut World, steps: usize) {
    for _ in 0..steps {
        let time = Duration::from_micros(world.dice.roll() % 3_000_000);
        world.pass(time);
        match world.dice.below(20) {
            0 => {
                let recovered = world.reopen();
                world.check_recovered(&recovered);
            }
            1 => world.upkeep(),
            2..=4 => {
                let more = world.store().upkeep(world.now).expect("upkeep");
                let _ = (more, world.store().upkeep_owed());
            }
            5 if world.dice.one_in(4) => {
                let endpoint = EndpointKey(1 + world.dice.below(6) as u32);
                world.change(Change::DeleteEndpoint(endpoint));
                world.upkeep();
            }
            6 => random_task(world),
            _ => {
                let batch = random_batch(world);
                world.commit(batch);
            }
        }
        world.check();
    }
}

/// A task from its creation to its end, or a cancellation.
fn random_task(world: &mut World) {
    let living: Vec<u32> = (1..=6).filter(|key| !world.model.deleted.contains(&EndpointKey(*key))).collect();
    let messages: Vec<_> = world.model.messages.keys().copied().collect();
    let (Some(endpoint), Some(from)) = (world.dice.pick(&living), world.dice.pick(&messages)) else { return };
    let work = match world.dice.below(4) {
        0 => Work::Recover(target(endpoint)),
        1 => Work::Replay(target(endpoint)),
        2 => Work::BulkReplay(target(endpoint), ReplayFilter::default()),
        _ => {
            let endpoint = EndpointKey(endpoint);
            world.change(Change::CancelWaiting { endpoint, before: from, at: world.now });
            return world.advance();
        }
    };
    world.run_task(work, Span { first: from, last: Sequence::MAX });
}

/// A batch as an engine could send it: each delivery at most once, and only what its state allows.
fn random_batch(world: &mut World) -> Batch {
    let mut batch = Batch::default();
    let living: Vec<u32> = (1..=6).filter(|key| !world.model.deleted.contains(&EndpointKey(*key))).collect();
    for _ in 0..world.dice.below(4) {
        let draft = random_draft(world, &living);
        batch.accepted.push(world.draft(&draft));
    }
    let fresh = world.model.fresh();
    let waiting: Vec<_> = world.model.waiting.keys().copied().collect();
    let mut touched = Vec::new();
    for _ in 0..world.dice.below(5) {
        let from = if world.dice.one_in(2) { &fresh } else { &waiting };
        let Some(delivery) = world.dice.pick(from).filter(|delivery| !touched.contains(delivery)) else { continue };
        touched.push(delivery);
        let due = world.now.plus(Duration::from_secs(world.dice.roll() % 60));
        let (status, after) = match world.dice.below(5) {
            0 | 1 => (200, AfterAttempt::Delivered),
            2 => (500, AfterAttempt::Ended(EndReason::Exhausted)),
            3 => (400, AfterAttempt::Ended(EndReason::Aborted)),
            _ => (503, AfterAttempt::Waiting { due }),
        };
        batch.attempts.push(world.attempt(delivery, status, after));
    }
    for _ in 0..world.dice.below(3) {
        let change = random_change(world, &fresh, &mut touched);
        batch.changes.extend(change);
    }
    if batch.accepted.is_empty() && world.dice.one_in(3) {
        batch.watermark = Some(world.true_watermark());
    }
    batch
}

fn random_draft(world: &mut World, living: &[u32]) -> Draft {
    let fan_out: Vec<u32> = living.iter().copied().filter(|_| world.dice.one_in(2)).collect();
    let mut draft = Draft::to(&fan_out);
    draft.application = 1 + world.dice.below(2) as u32;
    draft.event_type = ["invoice.paid", "user.created"][world.dice.below(2)];
    draft.tags = if world.dice.one_in(3) { vec!["red".to_owned()] } else { Vec::new() };
    draft.channels = if world.dice.one_in(3) { vec!["north".to_owned()] } else { Vec::new() };
    draft.deliver_at = world.dice.one_in(6).then(|| world.now.plus(SECOND));
    let mut random_key = || {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&world.dice.roll().to_be_bytes());
        DedupeKey(bytes)
    };
    let (idempotency, event) = (random_key(), random_key());
    draft.idempotency = world.dice.one_in(3).then_some((idempotency, RequestDigest([1; 8])));
    draft.event = world.dice.one_in(3).then_some(event);
    draft
}

fn random_change(world: &mut World, fresh: &[Delivery], touched: &mut Vec<Delivery>) -> Option<Change> {
    let messages: Vec<_> = world.model.messages.keys().copied().collect();
    match world.dice.below(4) {
        0 | 1 => {
            // The backlog of a full lane.
            let delivery = world.dice.pick(fresh).filter(|delivery| !touched.contains(delivery))?;
            touched.push(delivery);
            let waiting = Waiting { delivery, due: world.now, next: 1, trigger: Trigger::Scheduled };
            Some(Change::Wait { waiting, owed: false })
        }
        2 => {
            let message = world.dice.pick(&messages)?;
            let delivery = to(1 + world.dice.below(6) as u32, message);
            let matched = world.model.messages[&message].1.contains(&delivery.endpoint);
            let open = matched && world.model.state(delivery) == DeliveryState::Fresh;
            if open || touched.contains(&delivery) || world.model.deleted.contains(&delivery.endpoint) {
                return None;
            }
            touched.push(delivery);
            Some(Change::Wait { waiting: manual(world, delivery), owed: true })
        }
        3 if world.dice.one_in(3) => Some(Change::ExpungePayload(world.dice.pick(&messages)?)),
        _ => None,
    }
}
