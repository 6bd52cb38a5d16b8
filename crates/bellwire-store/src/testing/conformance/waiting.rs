//! The waiting room: leases, fences, order, and what recovery knows of it.

use super::configuration::application;
use super::tasks::manual;
use super::{SECOND, key, to};
use crate::testing::world::{APPLICATION, Draft, World, attempt_query};
use crate::{Batch, Change, CommitError, WaitingHead};
use bellwire_model::{
    AfterAttempt, DeliveryState, EndReason, EndpointKey, Partition, RequestDigest, Timestamp, Trigger, Waiting,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn a_lease_excludes_others_until_it_ends(world: &mut World) {
    let (store, now) = (world.store(), world.now);
    let partitions = [Partition(0), Partition(255)];
    let first = store.lease("a", &partitions, now, SECOND).expect("leases");
    assert_eq!(first.len(), 2);
    assert!(first.iter().all(|lease| lease.until == now.plus(SECOND)));
    assert_eq!(store.lease("b", &partitions, now, SECOND).expect("leases"), []);
    let renewed = store.lease("a", &partitions[..1], now.plus(SECOND / 2), SECOND).expect("leases");
    assert_eq!(renewed[0].fence, first[0].fence, "a lease of one's own keeps its fence");
    let taken = store.lease("b", &partitions, now.plus(SECOND), SECOND).expect("leases");
    assert_eq!(taken.len(), 1, "only the one that was not renewed has ended");
    assert_eq!(taken[0].partition, Partition(255));
    assert!(taken[0].fence > first[1].fence);
}

pub(super) fn a_late_writer_is_told_and_nothing_is_kept(world: &mut World) {
    let partition = APPLICATION.partition();
    let store = world.store();
    let stale = store.lease("a", &[partition], world.now, SECOND).expect("leases")[0];
    let accepted = vec![world.draft(&Draft::to(&[1]))];
    world.commit(Batch { accepted, fences: vec![(partition, stale.fence)], ..Batch::default() });
    world.pass(SECOND);
    let fresh = store.lease("b", &[partition], world.now, SECOND).expect("leases")[0];
    let mut batch = Batch {
        accepted: vec![world.draft(&Draft { idempotency: Some((key(9), RequestDigest([0; 8]))), ..Draft::to(&[1]) })],
        changes: vec![Change::PutApplication(Arc::new(application(1)))],
        fences: vec![(partition, stale.fence)],
        ..Batch::default()
    };
    match store.commit(&batch) {
        Err(CommitError::LeaseLost { partition: lost }) => assert_eq!(lost, partition),
        other => panic!("expected LeaseLost, got {other:?}"),
    }
    assert!(store.find_key(key(9)).expect("read").is_none());
    assert!(store.recover().expect("recovers").applications.is_empty());
    drop(store);
    world.check();
    batch.fences = vec![(partition, fresh.fence)];
    world.commit(batch);
    world.check();
}

pub(super) fn a_fence_rises_over_a_restart(world: &mut World) {
    let partition = Partition(3);
    let before = world.store().lease("a", &[partition], world.now, SECOND).expect("leases")[0];
    world.reopen();
    world.pass(SECOND * 2);
    let after = world.store().lease("b", &[partition], world.now, SECOND).expect("leases")[0];
    assert!(after.fence > before.fence);
    let late = Batch {
        accepted: vec![world.draft(&Draft::to(&[1]))],
        fences: vec![(partition, before.fence)],
        ..Batch::default()
    };
    assert!(matches!(world.store().commit(&late), Err(CommitError::LeaseLost { .. })));
}

pub(super) fn what_is_due_comes_in_order_of_its_due_time(world: &mut World) {
    let messages: Vec<_> = (0..20).map(|_| world.accept(&Draft::to(&[1, 2]))).collect();
    for message in &messages {
        let wait = Duration::from_secs(world.dice.roll() % 10);
        world.postpone(to(1, *message), wait);
    }
    let start = world.now;
    for until in [0, 4, 5, 20] {
        for limit in [1, 3, 100] {
            let until = start.plus(Duration::from_secs(until));
            let found = world.store().lease_due(EndpointKey(1), false, until, limit).expect("read");
            assert!(found.iter().all(|(waiting, _)| waiting.due <= until));
            assert!(found.is_sorted_by_key(|(waiting, _)| waiting.due));
            let due = world.model.waiting.values().filter(|waiting| waiting.due <= until).count();
            assert_eq!(found.len(), due.min(limit));
        }
    }
    assert!(world.store().lease_due(EndpointKey(2), false, Timestamp::FAR_FUTURE, 10).expect("read").is_empty());
    assert_eq!(world.store().next_due(EndpointKey(2), false).expect("read"), None);
    assert_eq!(world.store().oldest_waiting().expect("read"), Some(messages[0]));
    world.deliver(to(1, messages[0]));
    assert_eq!(world.store().oldest_waiting().expect("read"), Some(messages[1]));
    world.check();
}

pub(super) fn a_fifo_endpoint_gets_its_messages_in_order_of_acceptance(world: &mut World) {
    let messages: Vec<_> = (0..5).map(|_| world.accept(&Draft::to(&[1]))).collect();
    for (message, wait) in messages.iter().zip([9, 1, 8, 2, 7]) {
        world.postpone(to(1, *message), Duration::from_secs(wait));
    }
    let due = world.now.plus(Duration::from_secs(9));
    assert_eq!(world.store().next_due(EndpointKey(1), true).expect("read"), Some(WaitingHead { due }));
    let found = world.store().lease_due(EndpointKey(1), true, due, 3).expect("read");
    let order: Vec<_> = found.iter().map(|(_, message)| message.sequence()).collect();
    assert_eq!(order, messages[..3]);
    world.deliver(to(1, messages[0]));
    let found = world.store().lease_due(EndpointKey(1), true, due, 1).expect("read");
    assert_eq!(found[0].0.delivery.message, messages[1]);
}

pub(super) fn a_delayed_message_waits_for_each_of_its_endpoints(world: &mut World) {
    let deliver_at = world.now.plus(SECOND * 60);
    let message = world.accept(&Draft { deliver_at: Some(deliver_at), ..Draft::to(&[1, 2]) });
    for endpoint in [1, 2] {
        let found = world.store().lease_due(EndpointKey(endpoint), false, deliver_at, 10).expect("read");
        let expected =
            Waiting { delivery: to(endpoint, message), due: deliver_at, next: 1, trigger: Trigger::Scheduled };
        assert_eq!(found[0].0, expected);
    }
    let recovered = world.reopen();
    assert!(recovered.unfinished.is_empty(), "what waits is not unfinished");
    world.deliver(to(1, message));
    world.check();
}

pub(super) fn an_outcome_moves_or_removes_the_row(world: &mut World) {
    let message = world.accept(&Draft::to(&[1]));
    world.postpone(to(1, message), SECOND);
    world.check();
    world.postpone(to(1, message), SECOND * 5);
    assert_eq!(world.model.waiting[&to(1, message)].next, 3);
    world.check();
    world.exhaust(to(1, message));
    world.check();
    let both = world.accept(&Draft::to(&[1]));
    let due = world.now.plus(SECOND);
    let first = world.attempt(to(1, both), 500, AfterAttempt::Waiting { due });
    let mut second = world.attempt(to(1, both), 200, AfterAttempt::Delivered);
    second.number = 2;
    world.commit(Batch { attempts: vec![first, second], ..Batch::default() });
    world.check();
}

pub(super) fn a_delivery_that_never_waited_leaves_others_waiting(world: &mut World) {
    let (first, second) = (world.accept(&Draft::to(&[1])), world.accept(&Draft::to(&[1])));
    world.postpone(to(1, first), SECOND);
    world.deliver(to(1, second));
    world.check();
    world.reopen();
    let third = world.accept(&Draft::to(&[1]));
    world.deliver(to(1, third));
    world.check();
    world.deliver(to(1, first));
    world.check();
}

pub(super) fn recovery_knows_what_is_unfinished(world: &mut World) {
    let messages: Vec<_> = (0..6).map(|_| world.accept(&Draft::to(&[1, 2]))).collect();
    world.deliver(to(1, messages[0]));
    world.postpone(to(2, messages[0]), SECOND);
    world.exhaust(to(1, messages[1]));
    let waiting = Waiting { delivery: to(2, messages[2]), due: world.now, next: 1, trigger: Trigger::Scheduled };
    world.change(Change::Wait { waiting, owed: false });
    let recovered = world.reopen();
    world.check_recovered(&recovered);
    world.commit(Batch {
        changes: vec![Change::PutHealth { endpoint: EndpointKey(1), failing_since: None, disable: None }],
        watermark: Some(messages[1]),
        ..Batch::default()
    });
    world.upkeep();
    let recovered = world.reopen();
    world.check_recovered(&recovered);
    world.check();
}

pub(super) fn the_watermark_never_goes_back(world: &mut World) {
    let first = world.accept(&Draft::to(&[1]));
    world.deliver(to(1, first));
    let second = world.accept(&Draft::to(&[1]));
    let noted = Change::PutHealth { endpoint: EndpointKey(1), failing_since: None, disable: None };
    for watermark in [second, first] {
        world.commit(Batch { changes: vec![noted.clone()], watermark: Some(watermark), ..Batch::default() });
        let recovered = world.reopen();
        world.check_recovered(&recovered);
    }
}

pub(super) fn what_waits_can_be_cancelled(world: &mut World) {
    let messages: Vec<_> = (0..30).map(|_| world.accept(&Draft::to(&[1, 2]))).collect();
    for message in &messages[..12] {
        world.postpone(to(1, *message), Duration::from_secs(500));
    }
    world.exhaust(to(1, messages[12]));
    world.deliver(to(1, messages[13]));
    let again = manual(world, to(1, messages[12]));
    world.change(Change::Wait { waiting: again, owed: true });
    // Two were on their way and one was just put aside when it was cancelled.
    let late = vec![
        world.attempt(to(1, messages[0]), 500, AfterAttempt::Waiting { due: world.now }),
        world.attempt(to(1, messages[14]), 200, AfterAttempt::Delivered),
    ];
    let aside = Waiting { delivery: to(1, messages[15]), due: world.now, next: 1, trigger: Trigger::Scheduled };
    let (at, before) = (world.now, messages[20]);
    world.change(Change::CancelWaiting { endpoint: EndpointKey(1), before, at });
    world.pass(SECOND);
    assert!(world.store().ledger().expect("read").balances(), "at once");
    // All of it waits, and none of it is handed out while slices end it; what comes after is.
    let later = Waiting { delivery: to(1, messages[25]), due: world.now, next: 1, trigger: Trigger::Scheduled };
    world.change(Change::Wait { waiting: later, owed: false });
    for fifo in [false, true] {
        let leased = world.store().lease_due(EndpointKey(1), fifo, Timestamp::FAR_FUTURE, 5).expect("read");
        assert_eq!(leased.into_iter().map(|(row, _)| row).collect::<Vec<_>>(), [later]);
        let head = world.store().next_due(EndpointKey(1), fifo).expect("read");
        assert_eq!(head, Some(WaitingHead { due: later.due }));
        let beside = HashSet::new();
        let handed = world.store().lease_beside(EndpointKey(1), fifo, Timestamp::FAR_FUTURE, &beside, 5, usize::MAX);
        assert_eq!(handed.expect("read").into_iter().map(|(row, _)| row).collect::<Vec<_>>(), [later]);
    }
    while world.store().has_tasks() {
        let advanced = world.slice().expect("a slice");
        assert_eq!((advanced.task, advanced.look_again), (None, Some(EndpointKey(1))));
        assert!(world.store().ledger().expect("read").balances());
    }
    world.check();
    let cancelled = world.store().ledger().expect("read").ended[usize::from(EndReason::Cancelled.code())];
    assert_eq!(cancelled, 19, "all but the delivered one");
    let row = world.store().attempts_of_message(messages[16], &attempt_query(false, 10)).expect("read").items;
    assert!(row.iter().any(|a| a.number == 0 && a.after == AfterAttempt::Ended(EndReason::Cancelled)));
    let changes = vec![Change::Wait { waiting: aside, owed: false }];
    world.store().commit(&Batch { attempts: late, changes, ..Batch::default() }).expect("commits");
    for (message, attempts) in [(0, 2), (14, 1), (15, 0)] {
        let found = world.store().delivery(to(1, messages[message])).expect("read").expect("a delivery");
        assert_eq!((found.state, found.attempts), (DeliveryState::Ended(EndReason::Cancelled), attempts));
    }
    let ledger = world.store().ledger().expect("read");
    assert!(ledger.balances(), "{ledger:?}");
    // A resend begins anew, also when a cancellation is still going on.
    let again = manual(world, to(1, messages[1]));
    let cancel = Change::CancelWaiting { endpoint: EndpointKey(1), before, at };
    world.commit(Batch { changes: vec![cancel, Change::Wait { waiting: again, owed: true }], ..Batch::default() });
    world.reopen();
    world.advance();
    let found = world.store().delivery(to(1, messages[1])).expect("read").expect("a delivery");
    assert_eq!(found.state, DeliveryState::Waiting(again));
    world.deliver(to(1, messages[1]));
    assert!(world.store().ledger().expect("read").balances());
    assert_eq!(world.store().ledger().expect("read").ended[usize::from(EndReason::Cancelled.code())], 19);
}
