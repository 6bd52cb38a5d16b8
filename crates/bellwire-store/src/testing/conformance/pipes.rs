//! Logs, consumers, and what a reader says of what it has.

use super::configuration::endpoint;
use super::{SECOND, to};
use crate::testing::world::{Draft, World, attempt_query};
use crate::{Batch, Change, Consumer, LogQuery, Settled};
use bellwire_model::{
    AfterAttempt, Delivery, DeliveryState, EndReason, EndpointKey, Message, Pipe, Sequence, Trigger, Waiting,
};
use std::sync::Arc;

fn log_query(after: Sequence, limit: usize) -> LogQuery {
    LogQuery { after, limit, bytes_max: usize::MAX, event_types: Vec::new(), channel: None }
}

/// All of an endpoint's log, page by page.
fn log_of(world: &World, endpoint: u32, limit: usize) -> Vec<Sequence> {
    let (mut after, mut all) = (Sequence::ZERO, Vec::new());
    loop {
        let page = world.store().log(EndpointKey(endpoint), &log_query(after, limit)).expect("reads");
        assert!(page.through >= after && page.messages.len() <= limit);
        all.extend(page.messages.iter().map(Message::sequence));
        after = page.through;
        if !page.more {
            return all;
        }
    }
}

pub(super) fn a_log_is_read_page_by_page_and_misses_nothing(world: &mut World) {
    let mut expected = Vec::new();
    for n in 0..40 {
        let message = world.accept(&Draft::to(if n % 3 == 0 { &[1, 2] } else { &[1] }));
        expected.push(message);
        match n % 4 {
            0 => drop(world.deliver(to(1, message))),
            1 => drop(world.postpone(to(1, message), SECOND)),
            _ => {}
        }
        if n % 7 == 0 {
            world.upkeep();
        }
        for limit in [1, 3, 1_000] {
            assert_eq!(log_of(world, 1, limit), expected, "by {limit}");
        }
    }
    // The same cursor is the same page, and whoever has seen everything is at the end whatever comes for others.
    let first = || world.store().log(EndpointKey(1), &log_query(Sequence::ZERO, 7)).expect("reads");
    assert_eq!(first().messages, first().messages);
    assert!(first().messages.iter().all(|message| message.payload.is_some()));
    let newest = world.accept(&Draft::to(&[2]));
    let end = world.store().log(EndpointKey(1), &log_query(expected[39], 7)).expect("reads");
    assert_eq!((end.messages.len(), end.more, end.through >= newest), (0, false, true));
    let lag = |after| world.store().lag(EndpointKey(1), after).expect("reads");
    assert_eq!((lag(end.through).events, lag(expected[9]).events), (0, 30));
    assert_eq!(lag(expected[9]).oldest, Some(expected[10]));
    world.reopen();
    assert_eq!(log_of(world, 1, 6), expected);
}

pub(super) fn a_page_of_a_log_can_be_filtered_and_is_bounded(world: &mut World) {
    let mut wanted = Vec::new();
    for n in 0..30 {
        let (event_type, channels) = if n % 5 == 0 { ("order.paid", vec!["a".to_owned()]) } else { ("b", Vec::new()) };
        let message = world.accept(&Draft { event_type, channels, ..Draft::to(&[1]) });
        wanted.extend((n % 5 == 0).then_some(message));
    }
    let query = LogQuery { event_types: vec!["order.paid".to_owned()], ..log_query(Sequence::ZERO, 4) };
    let page = world.store().log(EndpointKey(1), &query).expect("reads");
    assert_eq!(page.messages.iter().map(Message::sequence).collect::<Vec<_>>(), wanted[..4]);
    let rest = LogQuery { after: page.through, channel: Some("a".to_owned()), ..query };
    let rest = world.store().log(EndpointKey(1), &rest).expect("reads");
    assert_eq!(rest.messages.iter().map(Message::sequence).collect::<Vec<_>>(), wanted[4..]);
    assert!(page.more && !rest.more);
    // Of bytes there is at most one message too many.
    let bytes = LogQuery { bytes_max: 10, ..log_query(Sequence::ZERO, 100) };
    let page = world.store().log(EndpointKey(1), &bytes).expect("reads");
    assert_eq!((page.messages.len(), page.more), (2, true));
}

fn consumer(world: &World, endpoint: u32, name: &str, cursor: Sequence) -> Consumer {
    let at = world.now;
    Consumer { endpoint: EndpointKey(endpoint), name: name.into(), cursor, created_at: at, updated_at: at }
}

/// Puts a delivery aside, as an engine does for a paused lane.
fn park(world: &mut World, delivery: Delivery) {
    let waiting = Waiting { delivery, due: world.now, next: 1, trigger: Trigger::Scheduled };
    world
        .store()
        .commit(&Batch { changes: vec![Change::Wait { waiting, owed: false }], ..Batch::default() })
        .expect("commits");
}

pub(super) fn change(world: &World, changes: Vec<Change>) {
    world.store().commit(&Batch { changes, ..Batch::default() }).expect("commits");
}

pub(super) fn state(world: &World, delivery: Delivery) -> (DeliveryState, u32) {
    let found = world.store().delivery(delivery).expect("reads").expect("a delivery");
    (found.state, found.attempts)
}

#[track_caller]
fn check_ledger(world: &World, delivered: u64, pending: u64) {
    let ledger = world.store().ledger().expect("reads");
    assert!(ledger.balances(), "{ledger:?}");
    assert_eq!((ledger.delivered, ledger.pending), (delivered, pending), "{ledger:?}");
}

pub(super) fn what_a_consumer_has_read_past_is_delivered(world: &mut World) {
    // More than one commit takes.
    let messages: Vec<_> = (0..1_300).map(|_| world.accept(&Draft::to(&[1]))).collect();
    let rows = messages.iter().map(|message| Waiting {
        delivery: to(1, *message),
        due: world.now,
        next: 1,
        trigger: Trigger::Scheduled,
    });
    change(world, rows.map(|waiting| Change::Wait { waiting, owed: false }).collect());
    let by_hand = Waiting { delivery: to(1, messages[3]), due: world.now, next: 1, trigger: Trigger::Manual };
    change(world, vec![Change::Wait { waiting: by_hand, owed: true }]);
    check_ledger(world, 0, 1_300);
    let reads = consumer(world, 1, "reader", messages[1_249]);
    change(world, vec![Change::PutConsumer { consumer: reads.clone(), read: true }]);
    world.slice();
    world.reopen();
    world.advance();
    check_ledger(world, 1_249, 51);
    // What somebody asked for by hand is not passed over in silence.
    assert_eq!(state(world, to(1, messages[3])).0, DeliveryState::Waiting(by_hand));
    assert_eq!(state(world, to(1, messages[0])), (DeliveryState::Delivered, 1));
    let attempts = world.store().attempts_of_message(messages[7], &attempt_query(false, 10)).expect("reads").items;
    let outcome = attempts[0].outcome.as_ref().expect("an outcome");
    assert_eq!((attempts[0].number, outcome.result), (1, Ok(200)));
    assert!(String::from_utf8_lossy(&outcome.body).contains("reader"));
    // A commit that comes late moves nothing back; being told where to go does, and delivers nothing.
    let late = consumer(world, 1, "reader", messages[10]);
    change(world, vec![Change::PutConsumer { consumer: late.clone(), read: true }]);
    let place = |name| world.store().consumer(EndpointKey(1), name).expect("reads").map(|c| c.cursor);
    assert_eq!(place("reader"), Some(messages[1_249]));
    change(world, vec![Change::PutConsumer { consumer: late, read: false }]);
    assert_eq!((place("reader"), place("other")), (Some(messages[10]), None));
    world.advance();
    check_ledger(world, 1_249, 51);
}

pub(super) fn what_was_read_before_its_row_came_is_delivered(world: &mut World) {
    let messages: Vec<_> = (0..4).map(|_| world.accept(&Draft::to(&[1, 2]))).collect();
    change(world, vec![Change::PutConsumer { consumer: consumer(world, 1, "fast", messages[2]), read: true }]);
    world.reopen();
    for message in &messages {
        park(world, to(1, *message));
        park(world, to(2, *message));
    }
    check_ledger(world, 3, 5);
    assert_eq!(state(world, to(1, messages[2])), (DeliveryState::Delivered, 1));
    assert!(matches!(state(world, to(1, messages[3])).0, DeliveryState::Waiting(_)));
    // Once it is set back, what comes waits.
    let back = consumer(world, 1, "fast", Sequence::ZERO);
    let again = Waiting { delivery: to(1, messages[0]), due: world.now, next: 2, trigger: Trigger::Manual };
    let changes =
        vec![Change::PutConsumer { consumer: back, read: false }, Change::Wait { waiting: again, owed: true }];
    change(world, changes);
    assert_eq!(state(world, to(1, messages[0])).0, DeliveryState::Waiting(again));
    check_ledger(world, 3, 6);
}

pub(super) fn a_consumer_comes_back_where_it_was(world: &mut World) {
    let message = world.accept(&Draft::to(&[1]));
    world.change(Change::PutEndpoint(Arc::new(endpoint(1, 1))));
    let (first, second) = (consumer(world, 1, "a", message), consumer(world, 1, "b", Sequence::ZERO));
    for consumer in [&second, &first] {
        change(world, vec![Change::PutConsumer { consumer: consumer.clone(), read: false }]);
    }
    world.pass(SECOND);
    let moved = Consumer { cursor: message, updated_at: world.now, ..second.clone() };
    change(
        world,
        vec![Change::PutConsumer { consumer: Consumer { created_at: world.now, ..moved.clone() }, read: true }],
    );
    for _ in 0..2 {
        let all = world.store().consumers(EndpointKey(1)).expect("reads");
        assert_eq!(all, [first.clone(), moved.clone()]);
        assert!(world.store().consumers(EndpointKey(2)).expect("reads").is_empty());
        world.reopen();
    }
    change(world, vec![Change::DeleteConsumer { endpoint: EndpointKey(1), name: "a".into() }]);
    assert_eq!(world.store().consumer(EndpointKey(1), "a").expect("reads"), None);
    world.change(Change::DeleteEndpoint(EndpointKey(1)));
    assert!(world.store().consumers(EndpointKey(1)).expect("reads").is_empty());
}

fn settled(world: &World, delivery: Delivery, number: u32, after: AfterAttempt) -> Settled {
    Settled { delivery, number, at: world.now, outcome: crate::told(world.now, Ok(200), "taken".to_owned()), after }
}

pub(super) fn what_a_reader_says_counts_once(world: &mut World) {
    let messages: Vec<_> = (0..5).map(|_| world.accept(&Draft::to(&[1]))).collect();
    for message in &messages {
        park(world, to(1, *message));
    }
    let taken = settled(world, to(1, messages[0]), 1, AfterAttempt::Delivered);
    let due = world.now.plus(SECOND);
    let later = settled(world, to(1, messages[1]), 1, AfterAttempt::Waiting { due });
    let dead = settled(world, to(1, messages[2]), 1, AfterAttempt::Ended(EndReason::Exhausted));
    let unknown = settled(world, to(9, messages[3]), 1, AfterAttempt::Delivered);
    for _ in 0..2 {
        change(world, vec![Change::Settle(vec![taken.clone(), later.clone(), dead.clone(), unknown.clone()])]);
        check_ledger(world, 1, 3);
    }
    assert_eq!(state(world, to(1, messages[0])), (DeliveryState::Delivered, 1));
    let attempts = world.store().attempts_of_message(messages[0], &attempt_query(true, 10)).expect("reads").items;
    assert!(attempts.iter().all(|attempt| *attempt.url == *Pipe::ADDRESS), "nothing was called: {attempts:?}");
    let row = Waiting { delivery: to(1, messages[1]), due, next: 2, trigger: Trigger::Scheduled };
    assert_eq!(state(world, to(1, messages[1])), (DeliveryState::Waiting(row), 1));
    assert_eq!(state(world, to(1, messages[2])).0, DeliveryState::Ended(EndReason::Exhausted));
    world.reopen();
    // Under another number it was handed out again meanwhile, or cancelled.
    change(world, vec![Change::Settle(vec![settled(world, to(1, messages[1]), 1, AfterAttempt::Delivered)])]);
    check_ledger(world, 1, 3);
    let (at, before) = (world.now, messages[4].next());
    change(world, vec![Change::CancelWaiting { endpoint: EndpointKey(1), before, at }]);
    world.advance();
    change(world, vec![Change::Settle(vec![settled(world, to(1, messages[3]), 1, AfterAttempt::Delivered)])]);
    check_ledger(world, 1, 0);
    assert_eq!(state(world, to(1, messages[3])).0, DeliveryState::Ended(EndReason::Cancelled));
}

pub(super) fn a_reader_s_word_stands_against_an_engine_s(world: &mut World) {
    let messages: Vec<_> = (0..3).map(|_| world.accept(&Draft::to(&[1]))).collect();
    for message in &messages {
        park(world, to(1, *message));
    }
    // Leased by an engine, in flight, and then the endpoint became a pipe whose reader was faster.
    let due = world.now.plus(SECOND);
    let late = vec![
        world.attempt(to(1, messages[0]), 200, AfterAttempt::Delivered),
        world.attempt(to(1, messages[1]), 503, AfterAttempt::Waiting { due }),
        world.attempt(to(1, messages[2]), 503, AfterAttempt::Waiting { due }),
    ];
    let said = vec![
        settled(world, to(1, messages[0]), 1, AfterAttempt::Delivered),
        settled(world, to(1, messages[1]), 1, AfterAttempt::Delivered),
    ];
    change(world, vec![Change::Settle(said)]);
    world.store().commit(&Batch { attempts: late, ..Batch::default() }).expect("commits");
    check_ledger(world, 2, 1);
    world.upkeep();
    for (n, expected) in [(0, DeliveryState::Delivered), (1, DeliveryState::Delivered)] {
        assert_eq!(state(world, to(1, messages[n])).0, expected);
    }
    assert!(matches!(state(world, to(1, messages[2])).0, DeliveryState::Waiting(_)));
    assert!(world.reopen().unfinished.is_empty());
}

pub(super) fn what_somebody_has_is_not_leased_again(world: &mut World) {
    let messages: Vec<_> = (0..6).map(|_| world.accept(&Draft::to(&[1]))).collect();
    for message in &messages {
        park(world, to(1, *message));
    }
    let later = world.now.plus(SECOND * 60);
    let put_off = settled(world, to(1, messages[2]), 1, AfterAttempt::Waiting { due: later });
    change(world, vec![Change::Settle(vec![put_off])]);
    let lease = |in_order, beside: &[usize], limit, bytes_max| {
        let beside = beside.iter().map(|n| messages[*n]).collect();
        let rows = world.store().lease_beside(EndpointKey(1), in_order, world.now, &beside, limit, bytes_max);
        let rows = rows.expect("reads");
        rows.into_iter()
            .map(|(row, message)| {
                assert_eq!(row.delivery.message, message.sequence());
                messages.iter().position(|m| *m == message.sequence()).expect("one of them")
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(lease(false, &[], 3, usize::MAX), [0, 1, 3]);
    assert_eq!(lease(false, &[0, 3], 10, usize::MAX), [1, 4, 5]);
    assert_eq!(lease(true, &[0], 10, usize::MAX), [1, 2, 3, 4, 5]);
    assert_eq!(lease(true, &[0, 1, 2, 3, 4, 5], 10, usize::MAX), [0; 0]);
    // As many as there is room for, and one always.
    let bytes = world.store().message(messages[0], true).expect("reads").expect("there").content_bytes();
    assert_eq!(lease(false, &[], 10, 1), [0]);
    assert_eq!(lease(false, &[], 10, bytes + 1), [0, 1]);
    assert_eq!(lease(true, &[], 10, 3 * bytes), [0, 1, 2]);
}
