//! Messages, attempts and keys are there after a restart, as they were.

use super::{SECOND, key, to};
use crate::testing::source;
use crate::testing::world::{APPLICATION, Draft, World, message_query, pages};
use crate::{Batch, Change, KeptAnswer};
use bellwire_model::{
    AfterAttempt, AttemptId, Directive, EndReason, FailureClass, Ksuid, MessageId, Outcome, Phases, RequestDigest,
    RetryAfter, Sequence, Timestamp, TraceParent, Trigger,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn what_was_accepted_is_there_after_a_restart(world: &mut World) {
    let draft = Draft {
        channels: vec!["north".to_owned(), "ü".to_owned()],
        tags: vec!["red".to_owned()],
        event: Some(key(1)),
        idempotency: Some((key(2), RequestDigest([2; 8]))),
        deliver_at: Some(world.now.plus(SECOND)),
        ..Draft::to(&[1, 2, 300])
    };
    world.accept(&draft);
    world.accept(&Draft { application: 2, ..Draft::to(&[]) });
    world.check();
    let recovered = world.reopen();
    world.check_recovered(&recovered);
    world.check();
}

pub(super) fn payloads_come_back_byte_for_byte(world: &mut World) {
    let every_byte: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for payload in [Bytes::new(), Bytes::from_static(b"{}"), Bytes::from(every_byte)] {
        let params = (!payload.is_empty()).then(|| r#"{"region": "north"}"#.into());
        let sequence = world.accept(&Draft { payload: Some(payload.clone()), params, ..Draft::to(&[1]) });
        let found = world.store().message(sequence, true).expect("read").expect("a message");
        assert_eq!(found.payload, Some(payload));
        let found = world.store().message(sequence, false).expect("read").expect("a message");
        assert_eq!(found.payload, None);
    }
    assert!(world.store().message(Sequence::from_u64(5), true).expect("read").is_none());
    world.reopen();
    world.check();
}

pub(super) fn an_id_that_was_made_elsewhere_is_kept_whole(world: &mut World) {
    let mut accepted = world.draft(&Draft::to(&[1]));
    let sequence = accepted.message.sequence();
    // Bits that are zero in ours.
    let mut bytes = *accepted.message.id.0.as_bytes();
    bytes[5] |= 0xc0;
    let id = MessageId(Ksuid::from_bytes(bytes));
    assert!(!id.0.is_own() && id.sequence() == sequence);
    Arc::make_mut(&mut accepted.message).id = id;
    world.commit(Batch { accepted: vec![accepted], ..Batch::default() });
    for _ in 0..2 {
        assert_eq!(world.store().message(sequence, true).expect("reads").map(|m| m.id), Some(id));
        let unfinished = world.reopen().unfinished;
        assert_eq!(unfinished.iter().map(|u| u.message.id).collect::<Vec<_>>(), [id]);
    }
}

pub(super) fn an_attempt_comes_back_as_it_was(world: &mut World) {
    let message = world.accept(&Draft::to(&[1]));
    let started_at = world.now;
    let outcomes = [
        (Ok(200), None, Some(Directive::Disable)),
        (Ok(429), Some(RetryAfter::Wait(Duration::from_millis(1_500))), None),
        (Ok(503), Some(RetryAfter::Date(world.now)), Some(Directive::AbortMessage)),
    ];
    let failures = FailureClass::ALL.map(|class| (Err(class), None, None));
    for (n, (result, retry_after, directive)) in (0u32..).zip(outcomes.into_iter().chain(failures)) {
        let due = world.now.plus(SECOND);
        let mut attempt = world.attempt(to(1, message), 0, AfterAttempt::Waiting { due });
        let body = Bytes::from_static(&[0, 255, 10]);
        let duration = Duration::from_micros(1_234_567);
        // Each phase is there or not, in every combination.
        let phase = |bit: u32| (n & bit != 0).then_some(Duration::from_micros(u64::from(n * 1_000 + bit)));
        let phases = Phases { dns: phase(1), connect: phase(2), tls: phase(4), first_byte: phase(8) };
        attempt.outcome =
            Some(Outcome { started_at, duration, url: None, phases, result, body, retry_after, directive });
        world.commit(Batch { attempts: vec![attempt], ..Batch::default() });
    }
    let mut ended = world.attempt(to(1, message), 0, AfterAttempt::Ended(EndReason::Expired));
    (ended.outcome, ended.trigger) = (None, Trigger::Manual);
    let id = ended.id;
    world.commit(Batch { attempts: vec![ended], ..Batch::default() });
    let other = AttemptId::from_parts(id.sequence(), [9; 12]);
    assert_eq!(world.store().attempt(other).expect("read"), None, "an id with another tail is another id");
    world.check();
    world.reopen();
    world.check();
}

pub(super) fn a_key_leads_to_its_message_at_once_and_for_ever(world: &mut World) {
    assert_eq!(world.store().find_key(key(1)).expect("read"), None);
    let mut accepted = Vec::new();
    for n in 0..40u8 {
        let idempotency = (n % 2 == 0).then_some((key(n), RequestDigest([n; 8])));
        let draft = Draft { idempotency, event: (n % 3 == 0).then_some(key(100 + n)), ..Draft::to(&[1]) };
        accepted.push((n, world.accept(&draft)));
        world.pass(Duration::from_secs(300));
        if n == 25 {
            world.upkeep();
        }
    }
    for _ in 0..2 {
        for (n, message) in &accepted {
            let entry = world.store().find_key(key(*n)).expect("read");
            let expected = (n % 2 == 0).then_some((*message, RequestDigest([*n; 8])));
            assert_eq!(entry.map(|entry| (entry.message, entry.digest)), expected, "key {n}");
            let event = world.store().find_key(key(100 + n)).expect("read");
            assert_eq!(event.map(|entry| entry.message), (n % 3 == 0).then_some(*message), "event {n}");
            assert_eq!(world.store().find_event(key(100 + n)).expect("read"), event, "event {n}");
        }
        world.reopen();
    }
    world.upkeep();
    world.check();
}

pub(super) fn an_answer_is_kept_until_it_expires(world: &mut World) {
    let answer = KeptAnswer {
        key: key(1),
        digest: RequestDigest([3; 8]),
        status: 201,
        body: Bytes::from_static(b"{}"),
        expires_at: world.now.plus(SECOND),
    };
    world.change(Change::KeepAnswer(answer.clone()));
    world.reopen();
    world.upkeep();
    assert_eq!(world.store().find_answer(key(1), world.now).expect("read"), Some(answer.clone()));
    assert_eq!(world.store().find_answer(key(2), world.now).expect("read"), None);
    assert_eq!(world.store().find_answer(key(1), answer.expires_at).expect("read"), None);
    world.pass(SECOND);
    world.upkeep();
    assert_eq!(world.store().find_answer(key(1), Timestamp::EPOCH).expect("read"), None, "upkeep forgets it");
}

pub(super) fn a_message_keeps_its_sender_s_place_in_a_trace(world: &mut World) {
    let trace = Some(TraceParent { trace: [7; 16], span: [8; 8], sampled: true });
    let [with, without] = [trace, None].map(|trace| world.accept(&Draft { trace, ..Draft::to(&[1]) }));
    world.reopen();
    let found = |message| world.store().message(message, false).expect("read").expect("there").trace;
    assert_eq!((found(with), found(without)), (trace, None));
}

pub(super) fn what_was_received_stays_with_its_message_and_goes_with_the_payload(world: &mut World) {
    let [a, b] = [1, 2].map(source::received);
    let drafts = [Some(&a), Some(&b), None, Some(&a)];
    let messages: Vec<_> = drafts
        .map(|received| world.accept(&Draft { received: received.cloned().map(Arc::new), ..Draft::to(&[1]) }))
        .into();
    for _ in 0..2 {
        for (message, received) in messages.iter().zip(drafts) {
            let found = world.store().message(*message, true).expect("read").expect("there");
            assert_eq!(found.received.as_deref(), received);
        }
        world.check();
        let mut query = message_query(false, 1);
        query.source = Some(a.source);
        let store = world.store();
        let of_a = pages(&query, |query| store.messages(APPLICATION, query).expect("read"), |m| m.sequence());
        assert_eq!(of_a.iter().map(|m| m.sequence()).collect::<Vec<_>>(), [messages[3], messages[0]]);
        drop(store);
        world.reopen();
        world.pass(Duration::from_secs(120));
        while world.store().upkeep(world.now).expect("works") {}
    }
    world.change(Change::ExpungePayload(messages[0]));
    let found = world.store().message(messages[0], true).expect("read").expect("there");
    assert_eq!((found.payload, found.received), (None, None));
}
