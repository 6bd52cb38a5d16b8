//! What is expunged, deleted or too old.

use super::configuration::{application, endpoint};
use super::{SECOND, key, to};
use crate::testing::world::{APPLICATION, Draft, World, attempt_query, message_query};
use crate::{Batch, Change};
use bellwire_model::{AfterAttempt, AttemptId, DeliveryState, EndReason, EndpointKey, Timestamp, Trigger, Waiting};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;

pub(super) fn an_expunged_payload_is_gone_and_what_waits_stays(world: &mut World) {
    let message = world.accept(&Draft::to(&[1]));
    world.postpone(to(1, message), SECOND);
    world.change(Change::ExpungePayload(message));
    world.check();
    let recovered = world.reopen();
    world.check_recovered(&recovered);
    let (_, found) = world.store().lease_due(EndpointKey(1), false, Timestamp::FAR_FUTURE, 1).expect("read").remove(0);
    assert_eq!(found.payload, None);
    world.record(to(1, message), 0, AfterAttempt::Ended(EndReason::Expired));
    world.check();
}

pub(super) fn an_expunged_response_says_so(world: &mut World) {
    let message = world.accept(&Draft::to(&[1]));
    let id = world.deliver(to(1, message));
    world.change(Change::ExpungeResponse(AttemptId::from_parts(id.sequence(), [0; 12])));
    world.check();
    world.change(Change::ExpungeResponse(id));
    world.check();
    let found = world.store().attempt(id).expect("read").and_then(|attempt| attempt.outcome).expect("an outcome");
    assert_eq!(found.body, Bytes::from_static(b"EXPUNGED"));
}

pub(super) fn deliveries_of_a_deleted_endpoint_end_once(world: &mut World) {
    world.change(Change::PutEndpoint(Arc::new(endpoint(1, 1))));
    let messages: Vec<_> = (0..10).map(|_| world.accept(&Draft::to(&[1, 2]))).collect();
    world.deliver(to(1, messages[0]));
    world.exhaust(to(1, messages[1]));
    for message in &messages[2..5] {
        world.postpone(to(1, *message), SECOND);
    }
    world.change(Change::DeleteEndpoint(EndpointKey(1)));
    assert!(world.store().ledger().expect("read").balances(), "at once");
    // The engine knows the endpoint no more, and its watermark goes on.
    let watermark = Some(world.true_watermark());
    let noted = Change::PutHealth { endpoint: EndpointKey(2), failing_since: None, disable: None };
    world.commit(Batch { changes: vec![noted], watermark, ..Batch::default() });
    world.upkeep();
    world.check();
    let recovered = world.reopen();
    world.check_recovered(&recovered);
    world.upkeep();
    world.check();
    assert_eq!(world.store().ledger().expect("read").ended[usize::from(EndReason::EndpointDeleted.code())], 8);
    let attempts = world.store().attempts_of_message(messages[3], &attempt_query(false, 10)).expect("read").items;
    assert_eq!(attempts.len(), 2);
    let ended = attempts.iter().find(|attempt| attempt.number == 0).expect("a row that says why");
    assert_eq!(ended.after, AfterAttempt::Ended(EndReason::EndpointDeleted));
    assert_eq!((ended.outcome.is_none(), ended.application), (true, APPLICATION));
    assert_eq!(world.store().attempt(ended.id).expect("read").as_ref(), Some(ended));
}

pub(super) fn a_deletion_half_done_goes_on_after_a_restart(world: &mut World) {
    let messages: Vec<_> = (0..40).map(|_| world.accept(&Draft::to(&[1]))).collect();
    for message in &messages[..20] {
        world.postpone(to(1, *message), SECOND);
    }
    world.change(Change::DeleteEndpoint(EndpointKey(1)));
    for _ in 0..200 {
        let more = world.store().upkeep(world.now).expect("upkeep");
        let recovered = world.reopen();
        assert!(recovered.unfinished.is_empty() && recovered.waiting.is_empty(), "they are upkeep's");
        let ledger = world.store().ledger().expect("read");
        assert!(ledger.balances(), "{ledger:?}");
        // An engine that starts in between writes, too.
        world.accept(&Draft::to(&[]));
        if !more {
            break;
        }
    }
    world.upkeep();
    world.check();
}

pub(super) fn a_late_outcome_does_not_end_a_delivery_twice(world: &mut World) {
    for after_upkeep in [false, true] {
        let endpoint = if after_upkeep { 1 } else { 2 };
        let messages: Vec<_> = (0..3).map(|_| world.accept(&Draft::to(&[endpoint]))).collect();
        world.postpone(to(endpoint, messages[2]), SECOND);
        world.change(Change::DeleteEndpoint(EndpointKey(endpoint)));
        if after_upkeep {
            world.upkeep();
        }
        let due = world.now;
        let late = vec![
            world.attempt(to(endpoint, messages[0]), 200, AfterAttempt::Delivered),
            world.attempt(to(endpoint, messages[1]), 500, AfterAttempt::Waiting { due }),
            world.attempt(to(endpoint, messages[2]), 500, AfterAttempt::Ended(EndReason::Exhausted)),
        ];
        let waiting = Waiting { delivery: to(endpoint, messages[0]), due, next: 1, trigger: Trigger::Scheduled };
        let batch = Batch { attempts: late, changes: vec![Change::Wait { waiting, owed: false }], ..Batch::default() };
        world.store().commit(&batch).expect("commits");
        assert!(world.store().ledger().expect("read").balances());
        world.upkeep();
        let ledger = world.store().ledger().expect("read");
        assert!(ledger.balances(), "{ledger:?}");
        assert_eq!(ledger.pending, 0);
        for message in messages {
            let found = world.store().delivery(to(endpoint, message)).expect("read").expect("a delivery");
            assert!(matches!(found.state, DeliveryState::Delivered | DeliveryState::Ended(_)), "{found:?}");
        }
    }
}

pub(super) fn a_deleted_application_takes_its_endpoints_with_it(world: &mut World) {
    world.change(Change::PutApplication(Arc::new(application(1))));
    for key in [1, 2] {
        world.change(Change::PutEndpoint(Arc::new(endpoint(key, 1))));
    }
    world.change(Change::PutEndpoint(Arc::new(endpoint(3, 2))));
    let messages: Vec<_> = (0..5).map(|_| world.accept(&Draft::to(&[1, 2, 3]))).collect();
    world.postpone(to(1, messages[0]), SECOND);
    world.change(Change::DeleteApplication(APPLICATION));
    world.upkeep();
    let recovered = world.reopen();
    assert!(recovered.applications.is_empty());
    assert_eq!(recovered.endpoints.len(), 1);
    let ledger = world.store().ledger().expect("read");
    assert!(ledger.balances());
    assert_eq!((ledger.pending, ledger.ended[usize::from(EndReason::EndpointDeleted.code())]), (5, 10));
}

pub(super) fn a_message_for_a_deleted_endpoint_ends(world: &mut World) {
    world.change(Change::DeleteEndpoint(EndpointKey(1)));
    let accepted = vec![world.draft(&Draft::to(&[1, 2]))];
    world.store().commit(&Batch { accepted, ..Batch::default() }).expect("commits");
    world.upkeep();
    let ledger = world.store().ledger().expect("read");
    assert!(ledger.balances());
    assert_eq!((ledger.pending, ledger.ended[usize::from(EndReason::EndpointDeleted.code())]), (1, 1));
}

pub(super) fn nothing_of_a_deleted_endpoint_is_leased(world: &mut World) {
    let waiting = world.accept(&Draft::to(&[1, 2]));
    world.postpone(to(1, waiting), SECOND);
    world.pass(SECOND);
    let leased = |world: &World| {
        let (store, endpoint, until) = (world.store(), EndpointKey(1), Timestamp::FAR_FUTURE);
        [false, true].map(|fifo| {
            let beside = HashSet::new();
            let handed = store.lease_beside(endpoint, fifo, until, &beside, 10, usize::MAX).expect("read").len();
            let head = store.next_due(endpoint, fifo).expect("read").is_some();
            (store.lease_due(endpoint, fifo, until, 10).expect("read").len(), handed, head)
        })
    };
    assert_eq!(leased(world), [(1, 1, true); 2]);
    world
        .store()
        .commit(&Batch { changes: vec![Change::DeleteEndpoint(EndpointKey(1))], ..Batch::default() })
        .expect("commits");
    // Somebody who had not heard of it yet sends to it.
    let accepted = vec![world.draft(&Draft::to(&[1, 2]))];
    world.store().commit(&Batch { accepted, ..Batch::default() }).expect("commits");
    assert_eq!(leased(world), [(0, 0, false); 2]);
    world.reopen();
    assert_eq!(leased(world), [(0, 0, false); 2]);
    world.upkeep();
    let ledger = world.store().ledger().expect("read");
    assert!(ledger.balances());
    assert_eq!((ledger.pending, ledger.ended[usize::from(EndReason::EndpointDeleted.code())]), (2, 2));
}

pub(super) fn old_messages_go_and_what_waited_for_them_has_expired(world: &mut World) {
    let Some(kept) = world.kept_for() else { return };
    let mut old = Vec::new();
    for n in 0..30u8 {
        let draft = Draft { event: Some(key(n)), lives: Some(kept), ..Draft::to(&[1, 2]) };
        let message = world.accept(&draft);
        world.deliver(to(1, message));
        match n % 3 {
            0 => world.deliver(to(2, message)),
            _ => world.postpone(to(2, message), kept * 2),
        };
        old.push(message);
    }
    world.pass(kept);
    world.pass(kept / 4);
    let draft = Draft { event: Some(key(50)), lives: Some(kept), ..Draft::to(&[1, 2]) };
    let fresh = world.accept(&draft);
    let watermark = Some(fresh);
    let noted = Change::PutHealth { endpoint: EndpointKey(2), failing_since: None, disable: None };
    world.commit(Batch { changes: vec![noted], watermark, ..Batch::default() });
    for _ in 0..1_000 {
        let more = world.store().upkeep(world.now).expect("upkeep");
        let ledger = world.store().ledger().expect("read");
        assert!(ledger.balances(), "{ledger:?}");
        if !more {
            break;
        }
        world.reopen();
    }
    let store = world.store();
    let ledger = store.ledger().expect("read");
    assert_eq!(ledger.accepted, 31, "retention removes rows, never counts");
    // What is not indexed yet may stay a little longer.
    let left = store.messages(APPLICATION, &message_query(true, 100)).expect("read").items;
    let left: Vec<_> = left.iter().map(|message| message.sequence()).collect();
    assert!(left.len() <= 10 && left.last() == Some(&fresh), "{left:?}");
    let expired = ledger.ended[usize::from(EndReason::Expired.code())];
    assert!(expired > 0);
    for (n, message) in old.iter().enumerate().filter(|(_, message)| !left.contains(message)) {
        assert!(store.message(*message, true).expect("read").is_none());
        assert!(store.delivery(to(2, *message)).expect("read").is_none());
        assert!(store.find_key(key(n as u8)).expect("read").is_none());
    }
    assert!(store.find_key(key(50)).expect("read").is_some());
    assert_eq!(store.next_due(EndpointKey(2), false).expect("read").is_none(), left.len() == 1);
    drop(store);
    // Late word of one that is gone changes no count.
    let due = world.now;
    let late = vec![world.attempt(to(2, old[1]), 200, AfterAttempt::Delivered)];
    let waiting = Waiting { delivery: to(2, old[2]), due, next: 3, trigger: Trigger::Manual };
    let changes = vec![Change::Wait { waiting, owed: true }];
    world.store().commit(&Batch { attempts: late, changes, ..Batch::default() }).expect("commits");
    let after = world.store().ledger().expect("read");
    assert!(after.balances());
    assert_eq!(after.ended, ledger.ended);
}

pub(super) fn a_payload_can_go_before_its_message(world: &mut World) {
    let Some(kept) = world.kept_for() else { return };
    let short = kept / 4;
    let mut messages = Vec::new();
    for _ in 0..30 {
        messages.push(world.accept(&Draft { lives: Some(short), ..Draft::to(&[1]) }));
    }
    world.postpone(to(1, messages[0]), SECOND);
    world.upkeep();
    assert!(world.store().message(messages[0], true).expect("read").is_some_and(|m| m.payload.is_some()));
    world.pass(short);
    world.upkeep();
    let found = world.store().message(messages[0], true).expect("read").expect("a message");
    assert_eq!(found.payload, None);
    world.change(Change::ExpungePayload(messages[0]));
    assert!(world.store().next_due(EndpointKey(1), false).expect("read").is_some(), "what waits, waits");
}
