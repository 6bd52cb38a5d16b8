//! The intake, driven by hand: order, batches, keys, failures, the watermark.

use bellwire_engine::{Draft, Intake, IntakeSettings, Offer, OfferError, Undurable};
use bellwire_model::{
    AfterAttempt, ApplicationKey, ContentType, DedupeKey, Delivery, EndpointKey, Message, RequestDigest, Sequence,
    Timestamp, Trigger, Waiting,
};
use bellwire_store::{Batch, Change};
use bytes::Bytes;
use std::sync::Arc;

const SETTINGS: IntakeSettings = IntakeSettings {
    shards: 2,
    batch_messages_max: 3,
    batch_bytes_max: 1_000,
    queue_messages_max: 6,
    queue_bytes_max: 2_000,
};
/// An application of each shard.
const A: ApplicationKey = ApplicationKey(1);

fn now() -> Timestamp {
    Timestamp::from_seconds(1_800_000_000)
}

fn intake() -> Intake {
    let mut intake = Intake::new(SETTINGS, Sequence::first_at(now()), [7; 32]);
    for shard in 0..2 {
        intake.record(shard, now(), [], Sequence::first_at(now()).next());
    }
    intake
}

fn draft() -> Draft {
    Draft {
        application: A,
        fan_out: [EndpointKey(5)].into_iter().collect(),
        event_type: "a.b".into(),
        event_id: None,
        channels: Vec::new(),
        tags: Vec::new(),
        payload: Bytes::from_static(b"{}"),
        content_type: ContentType::Json,
        expires_at: Timestamp::FAR_FUTURE,
        deliver_at: None,
        idempotency: None,
        event: None,
    }
}

fn with_key(key: u8, digest: u8) -> Draft {
    Draft { idempotency: Some((DedupeKey([key; 16]), RequestDigest([digest; 8]))), ..draft() }
}

fn with_event(key: u8) -> Draft {
    Draft { event: Some(DedupeKey([key; 16])), ..draft() }
}

fn queued(offer: Result<Offer, OfferError>) -> (Arc<Message>, u64) {
    match offer {
        Ok(Offer::Queued { message, batch }) => (message, batch),
        other => panic!("expected a new message, found {other:?}"),
    }
}

fn attempt(message: Sequence, after: AfterAttempt) -> Undurable {
    Undurable::Attempt {
        delivery: Delivery { endpoint: EndpointKey(5), message },
        application: A,
        number: 1,
        trigger: Trigger::Scheduled,
        url: "https://example.com".into(),
        outcome: None,
        after,
    }
}

fn wait(message: Sequence) -> Undurable {
    Undurable::Wait(Waiting {
        delivery: Delivery { endpoint: EndpointKey(5), message },
        due: now(),
        next: 1,
        trigger: Trigger::Scheduled,
    })
}

fn sequences(batch: &Batch) -> Vec<Sequence> {
    let messages = batch.accepted.iter().map(|a| a.message.sequence());
    messages.chain(batch.attempts.iter().map(|a| a.id.sequence())).collect()
}

fn shard() -> usize {
    A.partition().shard(2)
}

#[test]
fn sequences_rise_over_batches_also_when_messages_spill_over_and_attempts_come_late() {
    let mut intake = intake();
    for _ in 0..5 {
        queued(intake.offer(now(), draft(), 0));
    }
    intake.record(0, now(), [attempt(Sequence::ZERO, AfterAttempt::Delivered)], Sequence::ZERO);
    let first = intake.seal().expect("sealed");
    intake.committed();
    intake.record(0, now(), [attempt(Sequence::ZERO, AfterAttempt::Delivered)], Sequence::ZERO);
    let second = intake.seal().expect("sealed");
    let all: Vec<_> = [sequences(&first.batch), sequences(&second.batch)].concat();
    assert_eq!(all.len(), 7);
    assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    assert_eq!((first.number, second.number), (1, 2));
}

#[test]
fn a_door_is_told_the_batch_that_its_message_is_in() {
    let mut intake = intake();
    let batches: Vec<_> = (0..5).map(|_| queued(intake.offer(now(), draft(), 0)).1).collect();
    assert_eq!(batches, [1, 1, 1, 2, 2]);
    assert_eq!(intake.seal().map(|s| (s.number, s.batch.accepted.len())), Some((1, 3)));
    assert!(intake.seal().is_none(), "one batch is out at a time");
    intake.committed();
    assert_eq!(intake.seal().map(|s| (s.number, s.batch.accepted.len())), Some((2, 2)));
}

#[test]
fn more_than_the_queue_holds_is_refused_as_busy() {
    let mut intake = intake();
    for _ in 0..6 {
        queued(intake.offer(now(), draft(), 0));
    }
    assert_eq!(intake.offer(now(), draft(), 0).err(), Some(OfferError::Busy));
    intake.seal();
    assert_eq!(intake.offer(now(), draft(), 0).err(), Some(OfferError::Busy), "what is being committed counts");
    intake.committed();
    queued(intake.offer(now(), draft(), 0));
}

#[test]
fn bytes_are_bounded_too_and_a_message_larger_than_the_bound_goes_alone() {
    let mut intake = intake();
    let large = Draft { payload: Bytes::from(vec![b'x'; 5_000]), ..draft() };
    queued(intake.offer(now(), large.clone(), 0));
    assert_eq!(intake.offer(now(), large, 0).err(), Some(OfferError::Busy));
}

#[test]
fn the_same_key_and_body_is_the_same_message_on_its_way_and_afterwards() {
    let mut intake = intake();
    let (message, batch) = queued(intake.offer(now(), with_key(1, 1), 0));
    for _ in 0..2 {
        match intake.offer(now(), with_key(1, 1), intake.looked()) {
            Ok(Offer::Same { message: same, batch: of }) => {
                assert_eq!((same, of), (message.sequence(), batch));
            }
            other => panic!("expected the same message, found {other:?}"),
        }
        assert_eq!(intake.offer(now(), with_key(1, 2), 0).err(), Some(OfferError::KeyReused { batch: 1 }));
        intake.seal();
        intake.committed();
    }
}

#[test]
fn an_event_id_is_taken_unless_the_idempotency_key_says_that_it_is_the_same_request() {
    let mut intake = intake();
    let both = Draft { event: Some(DedupeKey([9; 16])), ..with_key(1, 1) };
    queued(intake.offer(now(), both.clone(), 0));
    assert_eq!(intake.offer(now(), with_event(9), 0).err(), Some(OfferError::EventIdTaken { batch: 1 }));
    assert!(matches!(intake.offer(now(), both, 0), Ok(Offer::Same { .. })));
}

#[test]
fn a_door_that_looked_before_keys_were_forgotten_looks_again() {
    let mut intake = intake();
    intake.keep_keys(1);
    let looked = intake.looked();
    queued(intake.offer(now(), with_key(1, 1), looked));
    intake.seal();
    intake.committed();
    queued(intake.offer(now(), with_key(2, 1), intake.looked()));
    intake.seal();
    intake.committed();
    assert_eq!(intake.offer(now(), with_key(1, 1), looked).err(), Some(OfferError::LookAgain));
    assert_eq!(intake.offer(now(), with_key(3, 1), 0).err(), Some(OfferError::LookAgain));
    queued(intake.offer(now(), draft(), 0));
    queued(intake.offer(now(), with_key(3, 1), intake.looked()));
}

#[test]
fn a_batch_says_how_many_requests_wait_for_it() {
    let mut intake = intake();
    let found_out = Undurable::Health { endpoint: EndpointKey(5), failing_since: None, disable: None };
    intake.record(0, now(), [found_out, wait(Sequence::first_at(now()))], Sequence::ZERO);
    let sealed = intake.seal().expect("a batch");
    assert_eq!((sealed.batch.changes.len(), sealed.awaited), (2, 0), "nobody waits for what engines decided");
    drop(sealed);
    intake.failed();
    queued(intake.offer(now(), draft(), 0));
    intake.change(vec![Change::DeleteEndpoint(EndpointKey(5))]).expect("taken");
    let sealed = intake.seal().expect("a batch");
    assert_eq!((sealed.batch.changes.len(), sealed.awaited), (3, 2));
}

#[test]
fn a_failed_batch_loses_what_doors_put_in_and_keeps_what_engines_decided() {
    let mut intake = intake();
    queued(intake.offer(now(), with_key(1, 1), 0));
    let delivery = Sequence::from_u64(5);
    intake.record(
        shard(),
        now(),
        [wait(delivery), attempt(Sequence::from_u64(6), AfterAttempt::Delivered)],
        Sequence::ZERO,
    );
    let failed = intake.seal().expect("sealed");
    assert_eq!(failed.batch.changes.len(), 1);
    intake.failed();
    assert_eq!(intake.looked(), 0);
    let (_, batch) = queued(intake.offer(now(), with_key(1, 2), 0));
    assert_eq!(batch, 2, "the key is free again");
    intake.record(shard(), now(), [attempt(delivery, AfterAttempt::Delivered)], Sequence::ZERO);
    let sealed = intake.seal().expect("sealed");
    assert_eq!(sealed.batch.accepted.len(), 1);
    let recorded: Vec<_> = sealed.batch.attempts.iter().map(|a| a.delivery.message.as_u64()).collect();
    assert_eq!(recorded, [6, 5]);
    assert!(sealed.batch.changes.is_empty(), "the wait was overtaken by its attempt");
    let told = intake.committed();
    assert_eq!(told[shard()].recorded.len(), 2);
    assert_eq!(told[shard()].fresh.len(), 1);
    assert!(told[1 - shard()].fresh.is_empty());
    assert_eq!(told[0].through, told[1].through);
}

#[test]
fn a_wait_is_told_to_its_shard_and_a_door_s_wait_to_all() {
    let mut intake = intake();
    let waiting = match wait(Sequence::from_u64(5)) {
        Undurable::Wait(waiting) => waiting,
        other => panic!("{other:?}"),
    };
    intake.record(1, now(), [Undurable::Wait(waiting)], Sequence::ZERO);
    intake.change(vec![Change::Wait { waiting, owed: true }]).expect("taken");
    intake.seal();
    let told = intake.committed();
    assert_eq!((told[0].waits.len(), told[1].waits.len()), (1, 2));
}

#[test]
fn a_delayed_message_goes_to_the_waiting_room_and_not_to_the_engine() {
    let mut intake = intake();
    let due = now().plus(std::time::Duration::from_secs(60));
    queued(intake.offer(now(), Draft { deliver_at: Some(due), ..draft() }, 0));
    intake.seal();
    let told = intake.committed();
    assert!(told[shard()].fresh.is_empty());
    assert_eq!(told[shard()].waits.first().map(|w| w.due), Some(due));
}

#[test]
fn the_watermark_waits_for_what_is_not_handed_over_and_for_each_shard_that_has_work() {
    let mut intake = intake();
    let (message, _) = queued(intake.offer(now(), draft(), 0));
    let sealed = intake.seal().expect("sealed");
    assert_eq!(sealed.batch.watermark, Some(message.sequence()), "everything before has settled");
    drop(sealed);
    let through = intake.committed()[shard()].through;

    // The engine has not settled it: whatever else happens, the watermark stays.
    intake.record(shard(), now(), [], message.sequence());
    queued(intake.offer(now(), draft(), 0));
    assert_eq!(intake.seal().and_then(|s| s.batch.watermark), None);
    intake.committed();

    // It has settled both; the other shard never had anything and holds nobody back.
    let (last, _) = queued(intake.offer(now(), draft(), 0));
    intake.record(
        shard(),
        now(),
        [attempt(message.sequence(), AfterAttempt::Delivered)],
        through.next().max(last.sequence()),
    );
    assert_eq!(intake.seal().and_then(|s| s.batch.watermark), Some(last.sequence()));
}

#[test]
fn a_watermark_never_goes_with_a_batch_that_its_records_are_not_in() {
    let mut intake = intake();
    let (message, _) = queued(intake.offer(now(), draft(), 0));
    intake.seal();
    let through = intake.committed()[shard()].through;
    intake.record(shard(), now(), [attempt(message.sequence(), AfterAttempt::Delivered)], through.next());
    let first = intake.seal().expect("sealed");
    assert!(first.batch.watermark > Some(message.sequence()));
    intake.failed();
    let second = intake.seal().expect("sealed");
    assert_eq!(second.batch.attempts.len(), 1);
    assert!(second.batch.watermark >= first.batch.watermark);
}

#[test]
fn after_closing_doors_are_refused_and_engines_are_not() {
    let mut intake = intake();
    intake.close();
    assert_eq!(intake.offer(now(), draft(), 0).err(), Some(OfferError::Closed));
    assert_eq!(intake.change(Vec::new()).err(), Some(OfferError::Closed));
    intake.record(0, now(), [wait(Sequence::from_u64(5))], Sequence::ZERO);
    assert!(intake.seal().is_some());
}

#[test]
fn ids_and_order_are_the_same_for_the_same_seed() {
    let ids = || {
        let mut intake = intake();
        (0..3).map(|_| queued(intake.offer(now(), draft(), 0)).0.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(), ids());
}
