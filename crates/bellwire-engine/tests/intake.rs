//! The intake, driven by hand: order, batches, keys, failures, the watermark.

use bellwire_engine::{
    Catalogue, Draft, Earlier, Intake, IntakeSettings, Occasion, Offer, OfferError, Operational, Undurable, What,
};
use bellwire_model::{
    AfterAttempt, Application, ApplicationId, ApplicationKey, DedupeKey, Delivery, EndReason, Endpoint, EndpointId,
    EndpointKey, KeptHeaders, Message, OPERATIONAL_UID, OperationalType, OrganisationId, Received, RequestDigest,
    Sequence, SourceId, TaskId, Timestamp, Trigger, Waiting,
};
use bellwire_store::{Batch, Change, Task, TaskStatus, Work};
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
    Draft::new(A, [EndpointKey(5)].into_iter().collect(), "a.b", "{}", Timestamp::FAR_FUTURE)
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
fn a_received_request_is_known_by_its_key_in_this_window_and_in_the_one_before() {
    let mut intake = intake();
    let received = |key: u8, earlier: Option<(u8, Sequence)>, body: &'static [u8]| Draft {
        received: Some(Arc::new(Received {
            source: SourceId::from_parts(Sequence::ZERO, [1; 12]),
            method: "POST".into(),
            path: "/in/…".into(),
            query: None,
            headers: KeptHeaders::default(),
            remote: None,
            hops: 0,
            dedupe: Some("a".into()),
        })),
        payload: Bytes::from_static(body),
        earlier: earlier.map(|(key, since)| Earlier { key: DedupeKey([key; 16]), since, next: None }),
        ..with_event(key)
    };
    let (first, batch) = queued(intake.offer(now(), received(1, None, b"{}"), 0));
    let at = first.sequence();
    let same = |offer: Result<Offer, OfferError>| match offer {
        Ok(Offer::Same { message, batch }) => (message, batch),
        other => panic!("expected the same, found {other:?}"),
    };
    for _ in 0..2 {
        assert_eq!(same(intake.offer(now(), received(1, None, b"other"), 0)), (at, batch));
        assert_eq!(same(intake.offer(now(), received(2, Some((1, at)), b"{}"), 0)), (at, batch));
        intake.seal();
        intake.committed();
    }
    // The window has moved on past the first one.
    let (second, _) = queued(intake.offer(now(), received(2, Some((1, at.next())), b"{}"), 0));
    assert_eq!(same(intake.offer(now(), received(2, Some((1, at.next())), b"{}"), 0)).0, second.sequence());
    // An event id of an application is a key of another kind: it is refused, not taken for the same.
    assert!(matches!(intake.offer(now(), with_event(2), 0), Err(OfferError::EventIdTaken { .. })));
}

#[test]
fn more_than_the_queue_holds_is_refused_as_busy() {
    let mut intake = intake();
    for _ in 0..6 {
        assert!(!intake.is_crowded());
        queued(intake.offer(now(), draft(), 0));
    }
    assert!(intake.is_crowded(), "who can should wait");
    assert_eq!(intake.offer(now(), draft(), 0).err(), Some(OfferError::Busy));
    intake.seal();
    assert_eq!(intake.offer(now(), draft(), 0).err(), Some(OfferError::Busy), "what is being committed counts");
    intake.committed();
    queued(intake.offer(now(), draft(), 0));
}

#[test]
fn a_draft_that_was_refused_is_whole_and_can_be_offered_again() {
    let mut intake = intake();
    let mut again = with_event(1);
    for _ in 0..6 {
        queued(intake.offer(now(), draft(), 0));
    }
    assert_eq!(intake.offer_from(now(), &mut again, 0).err(), Some(OfferError::Busy));
    intake.seal();
    intake.committed();
    let (message, _) = queued(intake.offer_from(now(), &mut again, intake.looked()));
    let whole = with_event(1);
    assert_eq!((message.payload.as_ref(), &message.received), (Some(&whole.payload), &whole.received));
    assert_eq!((&message.event_type, &message.content_type), (&whole.event_type, &whole.content_type));
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
fn messages_and_what_is_made_of_them_are_one_batch_without_those_that_are_known() {
    let mut intake = intake();
    queued(intake.offer(now(), with_event(1), 0));
    let drafts = || vec![with_event(1), with_event(2), draft()];
    let early = intake.offer_together(now(), drafts(), 0, |_| panic!("nothing was taken"));
    assert_eq!(early.err(), Some(OfferError::Busy), "nobody knows yet whether the first one is kept");
    intake.seal().expect("sealed");
    intake.committed();
    let offered = intake.offer_together(now(), drafts(), 0, |new| Change::ExpungePayload(new[1].sequence()));
    let sealed = intake.seal().expect("sealed");
    assert_eq!(offered.ok(), Some(sealed.number));
    let taken: Vec<_> = sealed.batch.accepted.iter().map(|accepted| accepted.event).collect();
    assert_eq!(taken, [Some(DedupeKey([2; 16])), None]);
    let last = sealed.batch.accepted[1].message.sequence();
    assert!(matches!(sealed.batch.changes[..], [Change::ExpungePayload(of)] if of == last));
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

fn organisation() -> OrganisationId {
    OrganisationId::parse("org_test").expect("a valid name")
}

fn application(key: ApplicationKey, uid: Option<&str>) -> Arc<Application> {
    Arc::new(Application {
        key,
        id: ApplicationId::from_parts(Sequence::from_u64(u64::from(key.0)), [1; 12]),
        organisation: organisation(),
        uid: uid.map(str::to_owned),
        name: String::new(),
        throttle_rate: None,
        settings: Default::default(),
        metadata: Default::default(),
        created_at: now(),
        updated_at: now(),
    })
}

fn endpoint(key: u32, application: ApplicationKey, event_types: Option<&[&str]>) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        uid: Some(format!("e{key}")),
        event_types: event_types.map(|types| types.iter().map(|t| (*t).to_owned()).collect()),
        ..Endpoint::new(
            EndpointKey(key),
            application,
            EndpointId::from_parts(Sequence::from_u64(u64::from(key)), [2; 12]),
            "https://example.com",
            now(),
        )
    })
}

const OPERATIONAL: ApplicationKey = ApplicationKey(9);

/// Application A with endpoint 5, and an operational endpoint that takes `event_types`.
fn catalogue(event_types: Option<&[&str]>) -> Catalogue {
    let applications = vec![application(A, Some("a")), application(OPERATIONAL, Some(OPERATIONAL_UID))];
    let endpoints = vec![endpoint(5, A, None), endpoint(90, OPERATIONAL, event_types)];
    Catalogue::new(applications, endpoints, Vec::new())
}

fn exhausted(application: ApplicationKey) -> Occasion {
    let (message, _) = queued(intake().offer(now(), draft(), 0));
    let what = What::Attempt { kind: OperationalType::AttemptExhausted, message, status: 500, started_at: now() };
    Occasion { application, endpoint: endpoint(5, A, None), what }
}

fn told() -> Undurable {
    let told = Operational::of_occasion(&catalogue(None), &exhausted(A));
    Undurable::Operational(Box::new(told.expect("somebody wants to know")))
}

fn payloads(batch: &Batch) -> Vec<String> {
    let told = batch.accepted.iter().filter(|a| a.message.application == OPERATIONAL);
    told.map(|a| String::from_utf8_lossy(a.message.payload.as_ref().expect("a payload")).into_owned()).collect()
}

#[test]
fn what_is_told_of_an_attempt_is_in_its_batch_before_it_and_names_it() {
    // Also where the messages of a later batch have their places already.
    for messages in [1, 5] {
        let mut intake = intake();
        for _ in 0..messages {
            queued(intake.offer(now(), draft(), 0));
        }
        let plain = || attempt(Sequence::ZERO, AfterAttempt::Delivered);
        let last = attempt(Sequence::ZERO, AfterAttempt::Ended(EndReason::Exhausted));
        intake.record(0, now(), [plain(), last, told(), plain()], Sequence::ZERO);
        let first = intake.seal().expect("sealed");
        let found = payloads(&first.batch);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains(&first.batch.attempts[1].id.to_string()), "{found:?}");
        assert_eq!(intake.queued().0, messages, "what engines tell takes no room from the doors");
        intake.committed();
        let second = intake.seal();
        let later = second.iter().flat_map(|s| sequences(&s.batch));
        let all: Vec<_> = sequences(&first.batch).into_iter().chain(later).collect();
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
    }
}

#[test]
fn what_is_told_is_told_again_with_its_record_if_its_batch_fails() {
    let mut intake = intake();
    let health = Undurable::Health { endpoint: EndpointKey(5), failing_since: Some(now()), disable: None };
    let plain = || attempt(Sequence::ZERO, AfterAttempt::Delivered);
    intake.record(0, now(), [plain(), plain(), told(), wait(Sequence::MAX), health, told()], Sequence::ZERO);
    let first = intake.seal().expect("sealed");
    assert_eq!(payloads(&first.batch).len(), 2);
    intake.failed();
    let second = intake.seal().expect("sealed");
    let found = payloads(&second.batch);
    assert_eq!((found.len(), second.batch.attempts.len(), second.batch.changes.len()), (2, 2, 2));
    assert!(found.iter().any(|text| text.contains(&second.batch.attempts[1].id.to_string())), "{found:?}");
    // Once durable, it goes to the shard of the application that it is a message of.
    let shards = intake.committed();
    let fresh = &shards[OPERATIONAL.partition().shard(2)].fresh;
    assert_eq!(fresh.len(), 2);
    assert_eq!(fresh[0].fan_out.as_slice(), [EndpointKey(90)]);
    assert!(intake.seal().is_none());
}

#[test]
fn what_a_change_tells_is_in_its_batch_and_refused_with_it() {
    let mut intake = intake();
    let change = Change::DeleteEndpoint(EndpointKey(5));
    let told = Operational::of_changes(&catalogue(None), std::slice::from_ref(&change));
    let batch = intake.change_and_tell(now(), vec![change], told).expect("taken");
    assert_eq!(intake.queued().0, 2);
    let sealed = intake.seal().expect("sealed");
    assert_eq!((sealed.number, payloads(&sealed.batch).len(), sealed.batch.changes.len()), (batch, 1, 1));
    intake.failed();
    assert_eq!(intake.queued(), (0, 0));
    assert!(intake.seal().is_none());
}

#[test]
fn who_is_told_of_what() {
    let check = |catalogue: &Catalogue, change: Change, expected: &[&str]| {
        let told = Operational::of_changes(catalogue, &[change]);
        let mut intake = intake();
        intake.change_and_tell(now(), Vec::new(), told).expect("taken");
        let batch = intake.seal().map(|sealed| sealed.batch.accepted.clone()).unwrap_or_default();
        let kinds: Vec<_> = batch.iter().map(|a| a.message.event_type.as_str()).collect();
        assert_eq!(kinds, expected);
    };
    let all = catalogue(None);
    let put = |endpoint: &Arc<Endpoint>| Change::PutEndpoint(Arc::clone(endpoint));
    let (old, new) = (endpoint(5, A, None), endpoint(6, A, None));
    let switch = |enabled| Change::SwitchEndpoint { endpoint: old.key, enabled };
    check(&all, put(&new), &["endpoint.created"]);
    check(&all, put(&old), &["endpoint.updated"]);
    check(&all, switch(false), &["endpoint.disabled"]);
    check(&all, switch(true), &[]);
    check(&all, Change::DeleteEndpoint(old.key), &["endpoint.deleted"]);
    check(&all, Change::DeleteEndpoint(new.key), &[]);
    let mut one_is_disabled = catalogue(None);
    one_is_disabled.change_endpoint(old.key, |endpoint| endpoint.switch(false));
    check(&one_is_disabled, switch(true), &["endpoint.enabled"]);
    check(&one_is_disabled, switch(false), &[]);
    // Only what somebody wants to know, only in the same organisation, and nothing of operational endpoints.
    check(&catalogue(Some(&["endpoint.disabled"])), switch(false), &["endpoint.disabled"]);
    check(&catalogue(Some(&["endpoint.deleted"])), switch(false), &[]);
    check(&all, Change::SwitchEndpoint { endpoint: EndpointKey(90), enabled: false }, &[]);
    check(&all, put(&endpoint(90, OPERATIONAL, None)), &[]);
    check(&all, Change::DeleteEndpoint(EndpointKey(90)), &[]);
    assert!(Operational::of_occasion(&all, &exhausted(OPERATIONAL)).is_none());
    assert!(Operational::of_occasion(&catalogue(Some(&["endpoint.deleted"])), &exhausted(A)).is_none());
    let other = Application {
        organisation: OrganisationId::parse("org_other").expect("valid"),
        ..Application::clone(&application(A, None))
    };
    let mut elsewhere = catalogue(None);
    elsewhere.put_application(Arc::new(other));
    check(&elsewhere, put(&new), &[]);
    assert!(Operational::of_occasion(&elsewhere, &exhausted(A)).is_none());
}

#[test]
fn the_end_of_a_task_is_told_however_it_came() {
    let all = catalogue(Some(&["background_task.finished"]));
    let organisation = application(A, None).organisation.clone();
    let id = TaskId::from_parts(Sequence::first_at(now()), [1; 12]);
    let new = Task::new(id, organisation, Work::EventTypes, Sequence::ZERO, Sequence::MAX);
    let data = |status| {
        let told = Operational::of_task(&all, &Task { status, ..new.clone() }).expect("somebody wants to know");
        let mut intake = intake();
        intake.change_and_tell(now(), Vec::new(), vec![told]).expect("taken");
        payloads(&intake.seal().expect("a batch").batch).remove(0)
    };
    assert!(data(TaskStatus::Finished).contains(r#""status":"finished","data":{"messagesScanned":0"#));
    let cancelled = data(TaskStatus::Cancelled);
    assert!(cancelled.contains(r#""status":"failed""#) && cancelled.contains(r#""cancelled":true"#), "{cancelled}");
    assert!(!data(TaskStatus::TooLarge).contains("cancelled"));
}

#[test]
fn a_page_of_a_source_is_durable_with_its_place_or_not_at_all() {
    let mut intake = intake();
    let from_source = |key: u8| Draft {
        received: Some(Arc::new(Received {
            source: SourceId::from_parts(Sequence::ZERO, [1; 12]),
            method: "OUTBOX".into(),
            path: "outbox".into(),
            query: None,
            headers: KeptHeaders::default(),
            remote: None,
            hops: 0,
            dedupe: None,
        })),
        ..with_event(key)
    };
    let place = || {
        let source = bellwire_model::SourceKey(9);
        vec![Change::PutSourceCursor(bellwire_model::SourceCursor { source, position: "4".into(), moved_at: now() })]
    };
    // Two others wait in the first batch, which has room for three: the page is not torn.
    queued(intake.offer(now(), draft(), 0));
    queued(intake.offer(now(), draft(), 0));
    let page = || (1..=3).chain([2]).map(from_source).collect::<Vec<_>>();
    assert_eq!(intake.offer_page(now(), page(), place(), 0), Ok((3, 1)), "the same key twice is one message");
    assert_eq!(intake.offer_page(now(), page(), place(), 0), Err(OfferError::Busy), "it is on its way");
    let sealed = intake.seal().expect("sealed");
    assert_eq!((sealed.batch.accepted.len(), sealed.batch.changes.len(), sealed.awaited), (5, 1, 6));
    intake.failed();
    // The keys are free again, and so is the room.
    assert_eq!(intake.offer_page(now(), page(), place(), 0), Ok((3, 2)));
    let sealed = intake.seal().expect("sealed");
    assert_eq!((sealed.batch.accepted.len(), sealed.batch.changes.len()), (3, 1));
    intake.committed();
    let more = [from_source(3), from_source(4)].to_vec();
    assert_eq!(
        intake.offer_page(now(), more, place(), intake.looked()),
        Ok((1, 3)),
        "what is known makes no second one"
    );
    intake.seal();
    intake.committed();
    // More than the queue holds waits, and nothing of it is taken; on an empty queue it goes alone.
    queued(intake.offer(now(), draft(), 0));
    let many: Vec<_> = (10..20).map(from_source).collect();
    assert_eq!(intake.offer_page(now(), many.clone(), place(), intake.looked()), Err(OfferError::Busy));
    assert_eq!(intake.queued().0, 1);
    intake.seal();
    intake.committed();
    assert_eq!(intake.offer_page(now(), many, place(), intake.looked()), Ok((10, 5)));
}
