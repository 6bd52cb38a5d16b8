//! Every promise of [`Store`] as a check with a name. Each back end runs them all; so does the simulator's store.
//!
//! The checks speak to the trait alone. They do upkeep between steps, at random or to its end, so that every list is asked for with
//! the indexes empty, half filled and full, and they close and open the store in the middle.

use super::access::every_access;
use super::world::{APPLICATION, Draft, TAKES, World, attempt_pages, attempt_query, message_query, pages};
use crate::{
    AttemptFilter, AttemptQuery, Batch, Change, CommitError, Consumer, Found, KeptAnswer, LogQuery, RecoveredTokens,
    ReplayFilter, Settled, Span, StatusFilter, Store, Target, TaskKind, TaskQuery, TaskStatus, WaitingHead, Work,
};
use bellwire_model::{
    ActiveSecret, AfterAttempt, ApiToken, Application, ApplicationId, ApplicationKey, ApplicationSettings, AttemptId,
    ContentFilter, Cutoff, DedupeKey, Delivery, DeliveryState, Directive, DisabledBy, EndReason, Endpoint, EndpointId,
    EndpointKey, EventType, FailureClass, FilterSource, Fingerprint, Format, Health, Kind, Ksuid, Limits, Logout,
    Message, MessageId, OrganisationId, Outcome, Partition, PayloadValidation, Phases, Pipe, Plugin, RequestDigest,
    RetryAfter, RetrySchedule, Runs, Scope, Sequence, Shape, TaskId, Timestamp, TokenChange, TokenId, TraceParent,
    Transformation, Trigger, Waiting,
};
use bellwire_signature::Secret;
use bytes::Bytes;
use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// A store that can be closed and opened again. Starts empty.
pub trait Harness {
    /// The store; nobody keeps it across [`Harness::reopen`].
    fn store(&self) -> Arc<dyn Store>;

    /// Closes and opens it, as a restart of the process would. Leases may end with it.
    fn reopen(&mut self);

    /// How long it keeps messages, if it removes older ones in its upkeep; `None` leaves out what depends on it.
    fn messages_kept_for(&self) -> Option<Duration> {
        None
    }
}

/// A check and its name.
pub type Check = (&'static str, fn(&mut Subject));

/// What a check is given. Opaque: only the checks here use it.
pub struct Subject(World);

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// All checks, by name, in reading order.
        pub const CHECKS: &[Check] = &[$((stringify!($name), |world| $name(&mut world.0))),*];
    };
}

checks![
    what_was_accepted_is_there_after_a_restart,
    payloads_come_back_byte_for_byte,
    an_id_that_was_made_elsewhere_is_kept_whole,
    an_attempt_comes_back_as_it_was,
    configuration_comes_back_as_it_was,
    every_way_of_access_comes_back,
    every_kind_of_endpoint_comes_back,
    health_changes_nothing_else,
    an_edit_leaves_alone_what_was_found_out_and_the_owner_has_the_last_word,
    a_key_leads_to_its_message_at_once_and_for_ever,
    an_answer_is_kept_until_it_expires,
    what_is_kept_about_tokens_comes_back_as_it_was,
    a_source_comes_back_as_it_was_and_goes_with_its_application,
    what_was_received_stays_with_its_message_and_goes_with_the_payload,
    a_message_keeps_its_sender_s_place_in_a_trace,
    the_newest_requests_of_a_source_are_kept,
    a_source_goes_on_where_its_cursor_stands,
    a_lease_excludes_others_until_it_ends,
    a_late_writer_is_told_and_nothing_is_kept,
    a_fence_rises_over_a_restart,
    what_is_due_comes_in_order_of_its_due_time,
    a_fifo_endpoint_gets_its_messages_in_order_of_acceptance,
    a_delayed_message_waits_for_each_of_its_endpoints,
    an_outcome_moves_or_removes_the_row,
    a_delivery_that_never_waited_leaves_others_waiting,
    recovery_knows_what_is_unfinished,
    the_watermark_never_goes_back,
    pages_meet_at_their_edges,
    lists_can_be_filtered,
    a_resend_is_owed_once,
    a_resend_to_an_endpoint_that_had_not_matched_is_a_delivery,
    recover_takes_each_failed_delivery_once,
    a_task_goes_on_where_it_stopped_whatever_happens_meanwhile,
    a_replay_takes_what_the_endpoint_never_got,
    a_bulk_replay_takes_what_its_filter_lets_through,
    a_purge_takes_the_payloads_up_to_its_creation,
    a_task_can_be_cancelled_and_one_whose_endpoint_is_gone_is,
    a_task_that_was_cancelled_is_answered_once,
    tasks_can_be_listed,
    statistics_count_what_was_owed_and_say_who_takes_what,
    what_waits_can_be_cancelled,
    an_expunged_payload_is_gone_and_what_waits_stays,
    an_expunged_response_says_so,
    deliveries_of_a_deleted_endpoint_end_once,
    a_deletion_half_done_goes_on_after_a_restart,
    a_late_outcome_does_not_end_a_delivery_twice,
    a_deleted_application_takes_its_endpoints_with_it,
    a_message_for_a_deleted_endpoint_ends,
    old_messages_go_and_what_waited_for_them_has_expired,
    a_payload_can_go_before_its_message,
    a_log_is_read_page_by_page_and_misses_nothing,
    a_page_of_a_log_can_be_filtered_and_is_bounded,
    what_a_consumer_has_read_past_is_delivered,
    what_was_read_before_its_row_came_is_delivered,
    a_consumer_comes_back_where_it_was,
    what_a_reader_says_counts_once,
    a_reader_s_word_stands_against_an_engine_s,
    what_somebody_has_is_not_leased_again,
    anything_in_any_order_agrees_with_the_model,
];

/// Runs every check, each on a store of its own. Panics with the check's name and what did not hold.
pub fn conformance(make: &dyn Fn() -> Box<dyn Harness>) {
    for (name, _) in CHECKS {
        check(name, make);
    }
}

/// Runs the check called `name`.
pub fn check(name: &str, make: &dyn Fn() -> Box<dyn Harness>) {
    let found = CHECKS.iter().find(|(own, _)| *own == name);
    let (name, check) = found.unwrap_or_else(|| panic!("there is no check called {name}"));
    let context = Named(name);
    check(&mut Subject(World::new(make(), 1)));
    std::mem::forget(context);
}

/// Runs `steps` random operations with `seed` and compares with the model after each.
pub fn random(make: &dyn Fn() -> Box<dyn Harness>, seed: u64, steps: usize) {
    let context = Seeded(seed);
    random_operations(&mut World::new(make(), seed), steps);
    std::mem::forget(context);
}

/// Says which check it was when one panics.
struct Named<'a>(&'a str);

impl Drop for Named<'_> {
    fn drop(&mut self) {
        eprintln!("conformance check failed: {}", self.0);
    }
}

/// Says which seed it was when one panics.
struct Seeded(u64);

impl Drop for Seeded {
    fn drop(&mut self) {
        eprintln!("random operations failed with seed {}", self.0);
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn to(endpoint: u32, message: Sequence) -> Delivery {
    Delivery { endpoint: EndpointKey(endpoint), message }
}

fn key(n: u8) -> DedupeKey {
    DedupeKey([n; 16])
}

fn what_was_accepted_is_there_after_a_restart(world: &mut World) {
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

fn payloads_come_back_byte_for_byte(world: &mut World) {
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

fn an_id_that_was_made_elsewhere_is_kept_whole(world: &mut World) {
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

fn an_attempt_comes_back_as_it_was(world: &mut World) {
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

fn organisation() -> OrganisationId {
    OrganisationId::parse("org_1").expect("an organisation")
}

fn application(key: u32) -> Application {
    Application {
        key: ApplicationKey(key),
        id: ApplicationId::from_parts(Sequence::from_u64(u64::from(key) << 20), [1; 12]),
        organisation: organisation(),
        uid: Some("their own".to_owned()),
        name: "Näme".to_owned(),
        throttle_rate: NonZeroU16::new(9),
        settings: ApplicationSettings { payload_validation: PayloadValidation::Refuse },
        metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        created_at: Timestamp::from_micros(1_700_000_000_000_001),
        updated_at: Timestamp::from_micros(1_700_000_000_000_002),
    }
}

fn endpoint(key: u32, application: u32) -> Endpoint {
    let secret = |text| Secret::parse(text).expect("a secret");
    Endpoint {
        key: EndpointKey(key),
        application: ApplicationKey(application),
        id: EndpointId::from_parts(Sequence::from_u64(u64::from(key) << 20), [2; 12]),
        uid: None,
        kind: Kind::Push,
        url: "https://user:pass@receiver.example/".to_owned(),
        description: String::new(),
        disabled: None,
        event_types: Some(vec!["invoice.paid".to_owned()]),
        channels: None,
        limits: Limits { throttle_rate: NonZeroU16::new(7), fifo: true },
        secrets: vec![
            ActiveSecret { secret: secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), expires_at: None },
            ActiveSecret {
                secret: secret("whsec_AAAQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
                expires_at: Some(Timestamp::from_seconds(5)),
            },
        ],
        headers: vec![("x-b".to_owned(), "2".to_owned()), ("x-a".to_owned(), "1".to_owned())],
        retry_schedule: RetrySchedule::new(vec![Duration::from_millis(1_500), SECOND]).ok(),
        shape: Shape {
            filter: Some(ContentFilter::new(FilterSource::Cel("payload.a == 1".to_owned()))),
            transformation: Some(Transformation {
                code: Some("handler = w => w".into()),
                enabled: true,
                variables: [("a".to_owned(), "b".to_owned())].into(),
                updated_at: Some(Timestamp::from_seconds(3)),
            }),
            format: Format::Form,
            content_type: Some("application/x-www-form-urlencoded; charset=utf-8".to_owned()),
        },
        access: Default::default(),
        metadata: BTreeMap::new(),
        health: Health::default(),
        created_at: Timestamp::from_seconds(1),
        updated_at: Timestamp::from_seconds(2),
    }
}

fn configuration_comes_back_as_it_was(world: &mut World) {
    let first = Arc::new(application(1));
    let plain = Application { uid: None, throttle_rate: None, metadata: BTreeMap::new(), ..application(2) };
    let second = Arc::new(plain);
    let full = Arc::new(endpoint(3, 1));
    let bare = Arc::new(Endpoint {
        shape: Shape {
            filter: Some(ContentFilter::new(FilterSource::CloudEvents(r#"{"exact":{"type":"a"}}"#.to_owned()))),
            transformation: Some(Transformation::default()),
            format: Format::Xml,
            content_type: None,
        },
        uid: Some("e".to_owned()),
        disabled: Some(DisabledBy::User),
        event_types: None,
        channels: Some(Vec::new()),
        limits: Limits::default(),
        retry_schedule: None,
        ..endpoint(7, 2)
    });
    let event_type = Arc::new(EventType {
        organisation: organisation(),
        name: "invoice.paid".to_owned(),
        description: "paid".to_owned(),
        archived: true,
        deprecated: false,
        schemas: Some("{\"1\":{}}".to_owned()),
        feature_flags: vec!["beta".to_owned()],
        group_name: Some("billing".to_owned()),
        retry_schedule: RetrySchedule::new(vec![Duration::from_millis(250), SECOND]).ok(),
        created_at: Timestamp::from_seconds(3),
        updated_at: Timestamp::from_seconds(4),
    });
    let gone = Arc::new(EventType { name: "gone".to_owned(), ..EventType::clone(&event_type) });
    let changes = vec![
        Change::PutApplication(Arc::new(Application { name: "before".to_owned(), ..application(1) })),
        Change::PutApplication(Arc::clone(&first)),
        Change::PutApplication(Arc::clone(&second)),
        Change::PutEndpoint(Arc::clone(&full)),
        Change::PutEndpoint(Arc::clone(&bare)),
        Change::PutEventType(Arc::clone(&event_type)),
        Change::PutEventType(gone),
        Change::DeleteEventType(organisation(), "gone".to_owned()),
    ];
    world.commit(Batch { changes, ..Batch::default() });
    for _ in 0..2 {
        let recovered = world.store().recover().expect("recovers");
        assert_eq!(recovered.applications, [Arc::clone(&first), Arc::clone(&second)]);
        assert_eq!(recovered.endpoints, [Arc::clone(&full), Arc::clone(&bare)]);
        assert_eq!(recovered.event_types, [Arc::clone(&event_type)]);
        assert_eq!(recovered.last_key, 7);
        world.reopen();
    }
    world.change(Change::DeleteEndpoint(EndpointKey(7)));
    world.upkeep();
    let recovered = world.reopen();
    assert_eq!(recovered.endpoints, [full]);
    assert_eq!(recovered.last_key, 7, "keys are never used again");
}

fn every_way_of_access_comes_back(world: &mut World) {
    let endpoints: Vec<_> =
        (1..).zip(every_access()).map(|(key, access)| Arc::new(Endpoint { access, ..endpoint(key, 1) })).collect();
    let changes = endpoints.iter().cloned().map(Change::PutEndpoint).collect();
    world.commit(Batch { changes, ..Batch::default() });
    assert_eq!(world.reopen().endpoints, endpoints);
    let open = Endpoint { access: Default::default(), ..Endpoint::clone(&endpoints[0]) };
    world.change(Change::PutEndpoint(Arc::new(open.clone())));
    assert_eq!(*world.reopen().endpoints[0], open, "what was taken away is gone");
}

fn every_kind_of_endpoint_comes_back(world: &mut World) {
    let plugin = |runs: Runs| Kind::Plugin(Plugin::new(runs, format!(r#"{{"password":"{}"}}"#, runs.name())));
    let kinds = Runs::ALL.into_iter().map(plugin).chain([
        Kind::Pipe(Pipe::default()),
        Kind::Pipe(Pipe {
            lease: SECOND * 7,
            attempts_max: 3,
            in_flight_max: 9,
            ordering_key: Some("/customer/id".to_owned()),
        }),
        Kind::Push,
    ]);
    let endpoints: Vec<_> =
        (1..).zip(kinds).map(|(key, kind)| Arc::new(Endpoint { kind, ..endpoint(key, 1) })).collect();
    let changes = endpoints.iter().cloned().map(Change::PutEndpoint).collect();
    world.commit(Batch { changes, ..Batch::default() });
    assert_eq!(world.reopen().endpoints, endpoints);
    let pushed = Endpoint { kind: Kind::Push, ..Endpoint::clone(&endpoints[0]) };
    world.change(Change::PutEndpoint(Arc::new(pushed.clone())));
    assert_eq!(*world.reopen().endpoints[0], pushed);
}

fn health_changes_nothing_else(world: &mut World) {
    let before = endpoint(1, 1);
    let since = Some(Timestamp::from_seconds(77));
    let health = |failing_since, disable| Change::PutHealth { endpoint: EndpointKey(1), failing_since, disable };
    world.change(Change::PutEndpoint(Arc::new(before.clone())));
    world.change(health(since, None));
    let found = |world: &World| Endpoint::clone(&world.store().recover().expect("recovers").endpoints[0]);
    let failing = Health { failing_since: since, written: true };
    assert_eq!(found(world), Endpoint { health: failing, ..before.clone() });
    world.change(health(since, Some(DisabledBy::Failures)));
    world.change(health(None, None));
    assert_eq!(found(world), Endpoint { disabled: Some(DisabledBy::Failures), ..before });
}

fn an_edit_leaves_alone_what_was_found_out_and_the_owner_has_the_last_word(world: &mut World) {
    let before = endpoint(1, 1);
    let since = Some(Timestamp::from_seconds(77));
    let edited = Endpoint { description: "edited".to_owned(), ..before.clone() };
    let edit = || Change::PutEndpoint(Arc::new(edited.clone()));
    let switch = |enabled| Change::SwitchEndpoint { endpoint: EndpointKey(1), enabled };
    let found_out =
        || Change::PutHealth { endpoint: EndpointKey(1), failing_since: since, disable: Some(DisabledBy::Failures) };
    let found = |world: &mut World| Endpoint::clone(&world.reopen().endpoints[0]);
    let failing = Health { failing_since: since, written: true };
    world.change(Change::PutEndpoint(Arc::new(before)));
    // The edit was made from a reading before the endpoint was disabled; in one batch or in two.
    world.changes(vec![found_out(), edit()]);
    assert_eq!(found(world), Endpoint { health: failing, disabled: Some(DisabledBy::Failures), ..edited.clone() });
    world.change(switch(false));
    assert_eq!(found(world).disabled, Some(DisabledBy::Failures), "our reason stays");
    world.changes(vec![found_out(), edit(), switch(true)]);
    assert_eq!(found(world), edited);
    world.changes(vec![switch(true), found_out()]);
    assert_eq!(found(world).disabled, Some(DisabledBy::Failures), "found out afterwards");
    world.change(switch(true));
    world.change(switch(false));
    assert_eq!(found(world), Endpoint { disabled: Some(DisabledBy::User), ..edited });
}

fn a_key_leads_to_its_message_at_once_and_for_ever(world: &mut World) {
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

fn an_answer_is_kept_until_it_expires(world: &mut World) {
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

fn what_is_kept_about_tokens_comes_back_as_it_was(world: &mut World) {
    let token = |n: u8, expires_at, last_used_at| {
        Arc::new(ApiToken {
            id: TokenId::from_parts(Sequence::from_u64(u64::from(n)), [n; 12]),
            organisation: organisation(),
            application: (n == 2).then(|| ApplicationId::from_parts(Sequence::ZERO, [2; 12])),
            name: (n == 1).then(|| "deploys".to_owned()),
            scopes: vec![Scope::ReadOnly, Scope::SendOnly],
            hint: "a-_z".to_owned(),
            created_at: Timestamp::from_micros(1_700_000_000_000_001),
            expires_at,
            last_used_at,
        })
    };
    let cutoff = |session: Option<&str>, before, from| Cutoff {
        application: ApplicationId::from_parts(Sequence::ZERO, [3; 12]),
        session: session.map(str::to_owned),
        issued_before: Sequence::from_u64(before),
        from: Timestamp::from_seconds(from),
    };
    let logout = |n| Logout { fingerprint: Fingerprint([n; 32]), until: Timestamp::from_seconds(9) };
    let second = Some(Timestamp::from_seconds(2));
    let changes = [
        TokenChange::Put(token(1, None, None)),
        TokenChange::Put(token(2, second, None)),
        TokenChange::Put(token(3, None, None)),
        TokenChange::Used(vec![
            (token(1, None, None).id, Timestamp::from_seconds(7)),
            (token(9, None, None).id, Timestamp::EPOCH),
        ]),
        // Replaced by who did not know of its last use.
        TokenChange::Put(token(1, second, None)),
        TokenChange::ForgetToken(token(3, None, None).id),
        TokenChange::Logout(logout(1)),
        TokenChange::Logout(logout(1)),
        TokenChange::Logout(logout(2)),
        TokenChange::ForgetLogout(Fingerprint([2; 32])),
        TokenChange::Cut(cutoff(None, 5, 50)),
        TokenChange::Cut(cutoff(None, 9, 90)),
        TokenChange::Cut(cutoff(None, 6, 50)),
        TokenChange::Cut(cutoff(Some("s"), 6, 50)),
        TokenChange::Cut(cutoff(Some("t"), 6, 50)),
        TokenChange::ForgetCutoff(cutoff(Some("t"), 6, 50)),
    ];
    let expected = RecoveredTokens {
        registered: vec![token(1, second, Some(Timestamp::from_seconds(7))), token(2, second, None)],
        logouts: vec![logout(1)],
        cutoffs: vec![cutoff(None, 6, 50), cutoff(None, 9, 90), cutoff(Some("s"), 6, 50)],
    };
    let changes = changes.into_iter().map(Change::Token).collect();
    world.commit(Batch { changes, ..Batch::default() });
    assert_eq!(world.store().recover().expect("recovers").tokens.sorted(), expected);
    assert_eq!(world.reopen().tokens.sorted(), expected);
}

fn a_source_comes_back_as_it_was_and_goes_with_its_application(world: &mut World) {
    let sources = super::source::every_source();
    let applications = [Arc::new(application(1)), Arc::new(application(2))];
    world.changes(applications.into_iter().map(Change::PutApplication).collect());
    world.changes(sources.iter().cloned().map(Arc::new).map(Change::PutSource).collect());
    let there = |recovered: crate::Recovered| -> Vec<_> {
        let mut sources: Vec<_> =
            recovered.sources.iter().map(|source| bellwire_model::Source::clone(source)).collect();
        sources.sort_by_key(|source| source.key);
        sources
    };
    let recovered = world.reopen();
    assert_eq!(recovered.last_key, sources.iter().map(|source| source.key.0).max().unwrap_or_default());
    assert_eq!(there(recovered), sources);
    let changed = bellwire_model::Source { name: "other".into(), disabled: true, ..sources[0].clone() };
    world.change(Change::PutSource(Arc::new(changed.clone())));
    world.change(Change::DeleteSource(sources[1].key));
    let of_two: Vec<_> = sources[2..].iter().filter(|s| s.application != APPLICATION).cloned().collect();
    assert!(!of_two.is_empty());
    let mut expected = vec![changed];
    expected.extend(sources[2..].iter().cloned());
    assert_eq!(there(world.reopen()), expected);
    world.change(Change::DeleteApplication(APPLICATION));
    assert_eq!(there(world.reopen()), of_two);
}

fn a_message_keeps_its_sender_s_place_in_a_trace(world: &mut World) {
    let trace = Some(TraceParent { trace: [7; 16], span: [8; 8], sampled: true });
    let [with, without] = [trace, None].map(|trace| world.accept(&Draft { trace, ..Draft::to(&[1]) }));
    world.reopen();
    let found = |message| world.store().message(message, false).expect("read").expect("there").trace;
    assert_eq!((found(with), found(without)), (trace, None));
}

fn what_was_received_stays_with_its_message_and_goes_with_the_payload(world: &mut World) {
    let [a, b] = [1, 2].map(super::source::received);
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

fn the_newest_requests_of_a_source_are_kept(world: &mut World) {
    use bellwire_model::KeptRequest;
    let sources = super::source::every_source();
    world.change(Change::PutApplication(Arc::new(application(1))));
    world.changes(sources[..2].iter().cloned().map(Arc::new).map(Change::PutSource).collect());
    let [one, other] = [sources[0].key, sources[1].key];
    let mut all = Vec::new();
    for n in 0..KeptRequest::COUNT_MAX + 20 {
        let (sequence, body) = (world.sequence(), vec![b'x'; n]);
        let request = super::source::kept_request(one, sequence, n, body);
        world.change(Change::KeepRequest(Arc::new(request.clone())));
        all.push(request);
    }
    let stranger = super::source::kept_request(bellwire_model::SourceKey(99), world.sequence(), 1, Vec::new());
    world.change(Change::KeepRequest(Arc::new(stranger)));
    all.reverse();
    all.truncate(KeptRequest::COUNT_MAX);
    let read = |world: &World, source, before, limit| world.store().kept_requests(source, before, limit).expect("read");
    for _ in 0..2 {
        let page = read(world, one, None, 500);
        assert!(page.done);
        assert_eq!(page.items, all);
        let first = read(world, one, None, 7);
        assert!(!first.done);
        assert_eq!(first.items, all[..7]);
        let rest = read(world, one, Some(first.items[6].id.sequence()), 500);
        assert_eq!(rest.items, all[7..]);
        assert!(read(world, other, None, 7).items.is_empty());
        assert!(read(world, bellwire_model::SourceKey(99), None, 7).items.is_empty());
        world.reopen();
    }
    for n in 0..KeptRequest::BYTES_MAX / KeptRequest::BODY_MAX + 5 {
        let request = super::source::kept_request(other, world.sequence(), n, vec![b'y'; KeptRequest::BODY_MAX]);
        world.change(Change::KeepRequest(Arc::new(request)));
    }
    assert_eq!(read(world, other, None, 500).items.len(), KeptRequest::BYTES_MAX / KeptRequest::BODY_MAX);
    assert_eq!(read(world, one, None, 500).items.len(), KeptRequest::COUNT_MAX, "each source has its own room");
    world.change(Change::DeleteSource(one));
    assert!(read(world, one, None, 7).items.is_empty());
}

fn a_source_goes_on_where_its_cursor_stands(world: &mut World) {
    use bellwire_model::SourceCursor;
    let sources = super::source::every_source();
    world.change(Change::PutApplication(Arc::new(application(1))));
    world.changes(sources[..2].iter().cloned().map(Arc::new).map(Change::PutSource).collect());
    let [one, other] = [sources[0].key, sources[1].key];
    let cursor = |source, position: &str, second| SourceCursor {
        source,
        position: position.into(),
        moved_at: Timestamp::from_seconds(second),
    };
    let read = |world: &World, source| world.store().source_cursor(source).expect("read");
    assert_eq!(read(world, one), None);
    for n in [1, 2] {
        let moved = cursor(one, &format!("{{\"n\":{n}}}"), n);
        world.change(Change::PutSourceCursor(moved.clone()));
        assert_eq!(read(world, one), Some(moved.clone()));
        world.reopen();
        assert_eq!((read(world, one), read(world, other)), (Some(moved), None));
    }
    // An edit of the source leaves it where it is; its deletion takes it along, and it does not come back late.
    world.change(Change::PutSource(Arc::new(bellwire_model::Source { name: "other".into(), ..sources[0].clone() })));
    assert!(read(world, one).is_some());
    world.change(Change::DeleteSource(one));
    world.change(Change::PutSourceCursor(cursor(one, "late", 3)));
    assert_eq!(read(world, one), None);
}

fn a_lease_excludes_others_until_it_ends(world: &mut World) {
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

fn a_late_writer_is_told_and_nothing_is_kept(world: &mut World) {
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

fn a_fence_rises_over_a_restart(world: &mut World) {
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

fn what_is_due_comes_in_order_of_its_due_time(world: &mut World) {
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

fn a_fifo_endpoint_gets_its_messages_in_order_of_acceptance(world: &mut World) {
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

fn a_delayed_message_waits_for_each_of_its_endpoints(world: &mut World) {
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

fn an_outcome_moves_or_removes_the_row(world: &mut World) {
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

fn a_delivery_that_never_waited_leaves_others_waiting(world: &mut World) {
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

fn recovery_knows_what_is_unfinished(world: &mut World) {
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

fn the_watermark_never_goes_back(world: &mut World) {
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

fn pages_meet_at_their_edges(world: &mut World) {
    let mut messages = Vec::new();
    for n in 0..25 {
        messages.push(world.accept(&Draft::to(&[1])));
        world.pass(Duration::from_millis(n % 2));
        if n == 12 {
            world.upkeep();
        }
    }
    let store = world.store();
    for ascending in [false, true] {
        for limit in [1, 7, 24, 25, 26] {
            let query = message_query(ascending, limit);
            let page = store.messages(APPLICATION, &query).expect("read");
            assert_eq!(page.done, limit >= 25, "limit {limit}");
            let all = pages(&query, |query| store.messages(APPLICATION, query).expect("read"), |m| m.sequence());
            assert_eq!(all.len(), 25);
        }
    }
    let mut query = message_query(true, 100);
    query.span = Span { first: messages[3], last: messages[20] };
    let page = store.messages(APPLICATION, &query).expect("read");
    let found: Vec<_> = page.items.iter().map(|m| m.sequence()).collect();
    assert_eq!(found, messages[3..=20], "both ends belong to a span");
    assert_eq!(store.count_deliveries(EndpointKey(1), query.span).expect("read").pending, 18);
    query.limit = 0;
    assert!(store.messages(APPLICATION, &query).expect("read").items.is_empty());
    query.with_payload = false;
    query.limit = 5;
    let page = store.messages(APPLICATION, &query).expect("read");
    assert!(page.items.iter().all(|message| message.payload.is_none()));
}

fn lists_can_be_filtered(world: &mut World) {
    for round in 0..2 {
        for (n, event_type) in ["invoice.paid", "invoice.sent", "user.created"].into_iter().cycle().take(12).enumerate()
        {
            let channels = if n % 2 == 0 { vec!["north".to_owned()] } else { Vec::new() };
            let tags = if n % 4 == 0 { vec!["red".to_owned(), "blue".to_owned()] } else { Vec::new() };
            let message = world.accept(&Draft { event_type, channels, tags, ..Draft::to(&[1, 2]) });
            match n % 4 {
                0 => world.deliver(to(1, message)),
                1 => world.exhaust(to(1, message)),
                2 => world.postpone(to(1, message), SECOND),
                _ => world.record(to(1, message), 404, AfterAttempt::Ended(EndReason::Aborted)),
            };
        }
        if round == 0 {
            world.upkeep();
        }
    }
    let store = world.store();
    let count = |types: &[&str], channel: Option<&str>, tag: Option<&str>| {
        let mut query = message_query(false, 2);
        query.event_types = types.iter().map(|t| (*t).to_owned()).collect();
        (query.channel, query.tag) = (channel.map(str::to_owned), tag.map(str::to_owned));
        pages(&query, |query| store.messages(APPLICATION, query).expect("read"), |m| m.sequence()).len()
    };
    assert_eq!(count(&["invoice.paid"], None, None), 8);
    assert_eq!(count(&["invoice.paid", "user.created", "none"], None, None), 16);
    assert_eq!(count(&[], Some("north"), None), 12);
    assert_eq!(count(&[], Some("south"), None), 0);
    assert_eq!(count(&[], Some("north"), Some("blue")), 6);
    assert_eq!(count(&["invoice.sent"], Some("north"), Some("red")), 2);

    let attempts = |filter: AttemptFilter| {
        let mut query = attempt_query(false, 3);
        query.filter = filter;
        attempt_pages(&query, |query| store.attempts_of_endpoint(EndpointKey(1), query).expect("read")).len()
    };
    let filter = AttemptFilter::default;
    assert_eq!(attempts(filter()), 24);
    assert_eq!(attempts(AttemptFilter { status: Some(StatusFilter::Success), ..filter() }), 6);
    assert_eq!(attempts(AttemptFilter { status: Some(StatusFilter::Fail), ..filter() }), 18);
    assert_eq!(attempts(AttemptFilter { status_class: Some(500), ..filter() }), 12);
    assert_eq!(attempts(AttemptFilter { status_class: Some(400), ..filter() }), 6);
    assert_eq!(attempts(AttemptFilter { status_class: Some(0), ..filter() }), 0);
    assert_eq!(attempts(AttemptFilter { channel: Some("north".to_owned()), ..filter() }), 12);
    assert_eq!(attempts(AttemptFilter { event_types: vec!["invoice.paid".to_owned()], ..filter() }), 8);
    assert_eq!(attempts(AttemptFilter { endpoint: Some(EndpointKey(2)), ..filter() }), 0);

    let deliveries = |status| {
        let mut query = message_query(false, 3);
        query.status = Some(status);
        let read = |query: &_| store.deliveries_of_endpoint(EndpointKey(1), query).expect("read");
        pages(&query, read, |d| d.message.sequence()).len()
    };
    assert_eq!(deliveries(StatusFilter::Success), 6);
    assert_eq!(deliveries(StatusFilter::Fail), 6);
    assert_eq!(deliveries(StatusFilter::Sending), 6);
    assert_eq!(deliveries(StatusFilter::Canceled), 6);
    assert_eq!(deliveries(StatusFilter::Pending), 0);
    let mut query = message_query(false, 100);
    query.status = Some(StatusFilter::Pending);
    assert_eq!(store.deliveries_of_endpoint(EndpointKey(2), &query).expect("read").items.len(), 24);

    // An attempt that a script cancelled was cancelled; it did not fail.
    let message = world.accept(&Draft::to(&[3]));
    let mut attempt = world.attempt(to(3, message), 500, AfterAttempt::Ended(EndReason::Cancelled));
    attempt.outcome.as_mut().expect("an exchange").result = Err(FailureClass::Cancelled);
    world.commit(Batch { attempts: vec![attempt], ..Batch::default() });
    let attempts = |status| {
        let filter = AttemptFilter { status: Some(status), ..AttemptFilter::default() };
        let query = AttemptQuery { filter, ..attempt_query(false, 3) };
        world.store().attempts_of_endpoint(EndpointKey(3), &query).expect("read").items.len()
    };
    for (status, count) in [(StatusFilter::Fail, 0), (StatusFilter::Canceled, 1), (StatusFilter::FailOrCanceled, 1)] {
        assert_eq!(attempts(status), count, "{status:?}");
    }
}

fn manual(world: &World, delivery: Delivery) -> Waiting {
    Waiting { delivery, due: world.now, next: world.model.number(delivery) + 1, trigger: Trigger::Manual }
}

fn a_resend_is_owed_once(world: &mut World) {
    let message = world.accept(&Draft::to(&[1]));
    world.exhaust(to(1, message));
    let waiting = manual(world, to(1, message));
    for _ in 0..2 {
        world.change(Change::Wait { waiting, owed: true });
        world.check();
    }
    world.reopen();
    world.check();
    world.record(to(1, message), 500, AfterAttempt::Ended(EndReason::ResendFailed));
    world.check();
    world.change(Change::Wait { waiting: manual(world, to(1, message)), owed: true });
    world.deliver(to(1, message));
    world.check();
    assert_eq!(world.store().ledger().expect("read").matched, 3);
}

fn a_resend_to_an_endpoint_that_had_not_matched_is_a_delivery(world: &mut World) {
    for indexed in [false, true] {
        let message = world.accept(&Draft::to(&[1]));
        if indexed {
            world.upkeep();
        }
        assert!(world.store().delivery(to(5, message)).expect("read").is_none());
        world.change(Change::Wait { waiting: manual(world, to(5, message)), owed: true });
        world.check();
        world.upkeep();
        world.check();
        world.deliver(to(5, message));
        world.check();
        world.reopen();
        world.upkeep();
        world.check();
    }
}

fn recover_takes_each_failed_delivery_once(world: &mut World) {
    let mut messages = Vec::new();
    for n in 0..30 {
        let message = world.accept(&Draft::to(&[1, 2]));
        messages.push(message);
        match n % 5 {
            0 => world.deliver(to(1, message)),
            1 | 2 => world.exhaust(to(1, message)),
            3 => world.postpone(to(1, message), SECOND),
            _ => continue,
        };
        if n == 17 {
            world.upkeep();
        }
    }
    world.change(Change::ExpungePayload(messages[11]));
    let last = world.attempt(to(1, messages[29]), 500, AfterAttempt::Ended(EndReason::Exhausted));
    world.commit(Batch { attempts: vec![last], ..Batch::default() });
    let span = Span { first: messages[6], last: messages[29] };
    let task = world.run_task(Work::Recover(target(1)), span);
    world.check();
    let waiting = world.store().lease_due(EndpointKey(1), false, world.now, 100).expect("read");
    assert_eq!(waiting.len(), 9 + 1, "two of every five but the first two and the expunged one, and the last");
    assert_eq!((task.progress.touched, task.progress.scanned), (10, 24));
    assert!(waiting.iter().all(|(waiting, _)| waiting.trigger == Trigger::Manual && waiting.next == 2));
    let task = world.run_task(Work::Recover(target(1)), span);
    assert_eq!(task.progress.touched, 0, "nothing is left");
    let recovered = world.reopen();
    world.check_recovered(&recovered);
    for (waiting, _) in waiting {
        world.deliver(waiting.delivery);
    }
    world.check();
}

fn target(endpoint: u32) -> Target {
    Target { application: APPLICATION, endpoint: EndpointKey(endpoint) }
}

fn a_task_goes_on_where_it_stopped_whatever_happens_meanwhile(world: &mut World) {
    let messages: Vec<_> = (0..40).map(|_| world.accept(&Draft::to(&[1]))).collect();
    for message in &messages {
        world.exhaust(to(1, *message));
    }
    let task = world.task(Work::Recover(target(1)), Span::ALL);
    let mut sent: BTreeMap<Sequence, u32> = BTreeMap::new();
    for turn in 0.. {
        // Between two slices messages come and fail, what was sent again fails again, somebody resends, the process ends.
        let late = world.accept(&Draft::to(&[1]));
        world.exhaust(to(1, late));
        if turn == 1 {
            world.store().commit(&Batch::default()).expect("nothing to commit");
            let waiting = Waiting { next: 9, ..manual(world, to(1, messages[39])) };
            world
                .store()
                .commit(&Batch { changes: vec![Change::Wait { waiting, owed: true }], ..Batch::default() })
                .expect("commits");
        }
        let advanced = world.slice().expect("a running task");
        let rows = world.store().lease_due(EndpointKey(1), false, world.now, 100).expect("read");
        for (row, _) in rows.iter().filter(|(row, _)| row.next != 9) {
            *sent.entry(row.delivery.message).or_default() += 1;
            let again = world.attempt(row.delivery, 500, AfterAttempt::Ended(EndReason::ResendFailed));
            world.store().commit(&Batch { attempts: vec![again], ..Batch::default() }).expect("commits");
        }
        if turn % 3 == 0 {
            world.reopen();
        }
        if advanced.task.is_some_and(|task| task.status == TaskStatus::Finished) {
            break;
        }
        assert!(turn < 1_000, "it does not come to an end");
    }
    let expected: Vec<_> = messages[..39].iter().map(|message| (*message, 1)).collect();
    assert_eq!(
        sent.into_iter().collect::<Vec<_>>(),
        expected,
        "each once; the resent one waits; later ones are not part"
    );
    let found = world.store().task(task.id).expect("read").expect("a task");
    assert_eq!((found.progress.touched, found.progress.scanned), (39, 40));
    let ledger = world.store().ledger().expect("read");
    assert!(ledger.balances(), "{ledger:?}");
    assert!(!world.store().has_tasks() && world.slice().is_none());
}

fn a_replay_takes_what_the_endpoint_never_got(world: &mut World) {
    let mut missing = Vec::new();
    for n in 0..30 {
        let draft = match n % 5 {
            0 => Draft::to(&[1, 5]),
            1 => Draft { event_type: "user.created", ..Draft::to(&[1]) },
            2 => Draft { payload: Some(Bytes::new()), ..Draft::to(&[1]) },
            3 => Draft { application: 2, ..Draft::to(&[]) },
            _ => Draft::to(&[1]),
        };
        let message = world.accept(&draft);
        match n {
            // One was resent to it already, one is just being.
            4 => {
                world.change(Change::Wait { waiting: manual(world, to(5, message)), owed: true });
                world.exhaust(to(5, message));
            }
            9 => world.change(Change::Wait { waiting: manual(world, to(5, message)), owed: true }),
            14 => world.change(Change::ExpungePayload(message)),
            15 => world.upkeep(),
            _ if n % 5 == 4 => missing.push(message),
            _ => {}
        }
    }
    let task = world.run_task(Work::Replay(target(5)), Span::ALL);
    world.check();
    assert_eq!(task.progress.touched, missing.len() as u64);
    for message in &missing {
        world.deliver(to(5, *message));
    }
    world.upkeep();
    world.check();
    let task = world.run_task(Work::Replay(target(5)), Span::ALL);
    assert_eq!(task.progress.touched, 0, "it has them now");
    world.check();
}

fn a_bulk_replay_takes_what_its_filter_lets_through(world: &mut World) {
    for n in 0..36 {
        let mut draft = Draft::to(&[1]);
        draft.event_type = ["invoice.paid", "user.created"][n % 2];
        draft.channels = if n % 3 == 0 { vec!["north".to_owned()] } else { Vec::new() };
        draft.tags = if n % 4 == 0 { vec!["red".to_owned()] } else { Vec::new() };
        let message = world.accept(&draft);
        match n % 5 {
            0 => drop(world.deliver(to(1, message))),
            1 => drop(world.exhaust(to(1, message))),
            2 => drop(world.record(to(1, message), 404, AfterAttempt::Ended(EndReason::Aborted))),
            3 => drop(world.postpone(to(1, message), SECOND)),
            _ => {}
        }
        if n == 20 {
            world.upkeep();
        }
    }
    let filters = [
        ReplayFilter { status_class: Some(400), ..ReplayFilter::default() },
        ReplayFilter { status: Some(StatusFilter::Success), tag: Some("red".to_owned()), ..ReplayFilter::default() },
        ReplayFilter { status: Some(StatusFilter::Fail), channel: Some("north".to_owned()), ..ReplayFilter::default() },
        ReplayFilter { event_types: vec!["user.created".to_owned()], ..ReplayFilter::default() },
        ReplayFilter { status: Some(StatusFilter::FailOrCanceled), ..ReplayFilter::default() },
        ReplayFilter::default(),
    ];
    for filter in filters {
        let task = world.run_task(Work::BulkReplay(target(1), filter), Span::ALL);
        assert!(task.progress.touched > 0, "{task:?}");
        world.check();
    }
}

fn a_purge_takes_the_payloads_up_to_its_creation(world: &mut World) {
    world.change(Change::PutApplication(Arc::new(application(1))));
    for n in 0..20 {
        world.accept(&Draft { application: 1 + n % 2, ..Draft::to(&[1]) });
        if n == 9 {
            world.upkeep();
        }
    }
    let task = world.task(Work::PurgeContent(APPLICATION), Span::ALL);
    let later = world.accept(&Draft::to(&[1]));
    assert_eq!(world.model.finish(&task, world.now, &TAKES), 10);
    world.advance();
    world.check();
    assert!(world.store().message(later, true).expect("read").is_some_and(|message| message.payload.is_some()));
}

fn a_task_can_be_cancelled_and_one_whose_endpoint_is_gone_is(world: &mut World) {
    world.change(Change::PutApplication(Arc::new(application(1))));
    let messages: Vec<_> = (0..4_000).map(|_| world.draft(&Draft::to(&[1, 2]))).collect();
    let last = messages[3_999].message.sequence();
    world.store().commit(&Batch { accepted: messages, ..Batch::default() }).expect("commits");
    let attempts: Vec<_> = {
        let all = world.store().messages(APPLICATION, &message_query(true, 4_000)).expect("read").items;
        let ended = AfterAttempt::Ended(EndReason::Exhausted);
        let both = all.iter().flat_map(|m| [to(1, m.sequence()), to(2, m.sequence())]);
        both.collect::<Vec<_>>().into_iter().map(|delivery| world.attempt(delivery, 500, ended)).collect()
    };
    world.store().commit(&Batch { attempts, ..Batch::default() }).expect("commits");
    let span = Span { first: Sequence::ZERO, last };
    let (one, two) = (world.task(Work::Recover(target(1)), span), world.task(Work::Recover(target(2)), span));
    let purge = world.task(Work::PurgeContent(APPLICATION), span);
    // Each has its turn, and none does more than a slice in it.
    let turns: Vec<_> = (0..3).map(|_| world.slice().and_then(|advanced| advanced.task).expect("a slice")).collect();
    assert_eq!(turns.iter().map(|task| task.id).collect::<Vec<_>>(), [one.id, two.id, purge.id]);
    assert!(
        turns.iter().all(|task| task.status == TaskStatus::Running && (1..=1_000).contains(&task.progress.touched))
    );
    let waiting = world.store().ledger().expect("read").pending;
    assert_eq!(waiting, turns[0].progress.touched + turns[1].progress.touched);
    let at = world.now.plus(SECOND);
    world.change(Change::CancelTask { task: one.id, at });
    world.change(Change::DeleteEndpoint(EndpointKey(2)));
    world.change(Change::DeleteApplication(APPLICATION));
    world.pass(SECOND);
    world.reopen();
    world.advance();
    world.upkeep();
    for task in [&one, &two, &purge] {
        let found = world.store().task(task.id).expect("read").expect("a task");
        assert_eq!((found.status, found.updated_at), (TaskStatus::Cancelled, at));
        assert!(found.progress.touched <= 1_000);
        world.change(Change::CancelTask { task: task.id, at: at.plus(SECOND) });
        assert_eq!(world.store().task(task.id).expect("read").expect("a task").updated_at, at, "it had ended");
    }
    assert!(world.store().ledger().expect("read").balances());
}

fn a_task_that_was_cancelled_is_answered_once(world: &mut World) {
    let task = world.task(Work::EventTypes, Span::ALL);
    let at = world.now;
    world.change(Change::CancelTask { task: task.id, at });
    let answered = world.slice().and_then(|advanced| advanced.task).expect("its end");
    assert_eq!((answered.id, answered.status), (task.id, TaskStatus::Cancelled));
    assert!(!world.store().has_tasks());
    world.change(Change::CancelTask { task: task.id, at });
    assert!(world.slice().is_none());
}

fn tasks_can_be_listed(world: &mut World) {
    let organisation = organisation();
    let mut all = Vec::new();
    for n in 0..6 {
        let work = [Work::Recover(target(1)), Work::EventTypes][n % 2].clone();
        all.push(world.task(work, Span::ALL).id);
        if n == 2 {
            world.advance();
        }
    }
    let query = TaskQuery {
        organisation: organisation.clone(),
        application: None,
        status: Vec::new(),
        kind: None,
        span: Span::ALL,
        ascending: true,
        limit: 100,
    };
    let list = |world: &World, query: &TaskQuery| {
        let page = world.store().tasks(query).expect("read");
        (page.items.iter().map(|task| task.id).collect::<Vec<_>>(), page.done)
    };
    world.reopen();
    assert_eq!(list(world, &query), (all.clone(), true));
    assert_eq!(list(world, &TaskQuery { limit: 2, ..query.clone() }), (all[..2].to_vec(), false));
    let newest = TaskQuery { ascending: false, limit: 2, ..query.clone() };
    assert_eq!(list(world, &newest), (vec![all[5], all[4]], false));
    let span = Span { first: all[1].sequence().next(), last: all[4].sequence() };
    assert_eq!(list(world, &TaskQuery { span, ..query.clone() }), (all[2..5].to_vec(), true));
    let running = TaskQuery { status: vec![TaskStatus::Running], ..query.clone() };
    assert_eq!(list(world, &running), (all[3..].to_vec(), true));
    let ended = vec![TaskStatus::Finished, TaskStatus::Cancelled];
    assert_eq!(list(world, &TaskQuery { status: ended, ..query.clone() }), (all[..3].to_vec(), true));
    let recovers = TaskQuery { kind: Some(TaskKind::Recover), ..query.clone() };
    assert_eq!(list(world, &recovers), (vec![all[0], all[2], all[4]], true));
    let own = TaskQuery { application: Some(APPLICATION), ..query.clone() };
    assert_eq!(list(world, &own), (vec![all[0], all[2], all[4]], true));
    let other = OrganisationId::parse("org_other").expect("an organisation");
    assert_eq!(list(world, &TaskQuery { organisation: other, ..query }), (Vec::new(), true));
    let unknown = TaskId::from_parts(all[0].sequence(), [0; 12]);
    assert_eq!(world.store().task(unknown).expect("read"), None);
    // They are forgotten in the end; one that runs is not.
    world.pass(Duration::from_secs(91 * 24 * 3600));
    world.upkeep();
    if world.kept_for().is_some() {
        assert_eq!(world.store().task(all[0]).expect("read"), None);
    }
    assert!(world.store().task(all[3]).expect("read").is_some());
}

fn statistics_count_what_was_owed_and_say_who_takes_what(world: &mut World) {
    let id = |key: u32| application(key).id;
    for key in 1..=9 {
        world.change(Change::PutApplication(Arc::new(application(key))));
    }
    let other = OrganisationId::parse("org_other").expect("an organisation");
    world.change(Change::PutApplication(Arc::new(Application { organisation: other, ..application(10) })));
    for (key, types) in [(1, Some(vec!["b", "a"])), (2, Some(vec!["a", "c"])), (3, None)] {
        let event_types = types.map(|types: Vec<_>| types.into_iter().map(str::to_owned).collect());
        world.change(Change::PutEndpoint(Arc::new(Endpoint { event_types, ..endpoint(key, 1 + key / 3) })));
    }
    let before = world.accept(&Draft::to(&[1]));
    world.pass(SECOND);
    let mut first = Sequence::MAX;
    for n in 0..20 {
        let message = world.accept(&Draft { application: 1 + n % 2, ..Draft::to(&[1, 2, 3]) });
        first = first.min(message);
        if n == 8 {
            world.upkeep();
            world.change(Change::Wait { waiting: manual(world, to(6, message)), owed: true });
        }
    }
    let destinations = |world: &mut World, only, span| {
        let task = world.run_task(Work::ApplicationStats(only), span);
        let Found::Destinations(all) = task.progress.found else { panic!("{task:?}") };
        all.iter().map(|one| (one.application, one.uid.is_some(), one.destinations)).collect::<Vec<_>>()
    };
    let since = Span { first, last: Sequence::MAX };
    assert_eq!(destinations(world, None, since), [(id(1), true, 31), (id(2), true, 30)], "none that has nothing");
    let all = Span { first: before, last: Sequence::MAX };
    let only = Some(vec![ApplicationKey(3), ApplicationKey(1), ApplicationKey(77), ApplicationKey(10)]);
    assert_eq!(destinations(world, only, all), [(id(1), true, 32), (id(3), true, 0)], "those that were asked for");
    let task = world.run_task(Work::EventTypes, Span::ALL);
    let Found::EventTypes(all) = task.progress.found else { panic!("{task:?}") };
    assert_eq!(all.len(), 9);
    let takes = |n: usize| (all[n].application, all[n].event_types.join(" "), all[n].catch_all);
    assert_eq!(takes(0), (id(1), "a b c".to_owned(), false));
    assert_eq!(takes(1), (id(2), String::new(), true));
    assert_eq!(takes(2), (id(3), String::new(), false));
}

fn what_waits_can_be_cancelled(world: &mut World) {
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
        let handed = world.store().lease_beside(EndpointKey(1), fifo, Timestamp::FAR_FUTURE, &beside, 5);
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

fn an_expunged_payload_is_gone_and_what_waits_stays(world: &mut World) {
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

fn an_expunged_response_says_so(world: &mut World) {
    let message = world.accept(&Draft::to(&[1]));
    let id = world.deliver(to(1, message));
    world.change(Change::ExpungeResponse(AttemptId::from_parts(id.sequence(), [0; 12])));
    world.check();
    world.change(Change::ExpungeResponse(id));
    world.check();
    let found = world.store().attempt(id).expect("read").and_then(|attempt| attempt.outcome).expect("an outcome");
    assert_eq!(found.body, Bytes::from_static(b"EXPUNGED"));
}

fn deliveries_of_a_deleted_endpoint_end_once(world: &mut World) {
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

fn a_deletion_half_done_goes_on_after_a_restart(world: &mut World) {
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

fn a_late_outcome_does_not_end_a_delivery_twice(world: &mut World) {
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

fn a_deleted_application_takes_its_endpoints_with_it(world: &mut World) {
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

fn a_message_for_a_deleted_endpoint_ends(world: &mut World) {
    world.change(Change::DeleteEndpoint(EndpointKey(1)));
    let accepted = vec![world.draft(&Draft::to(&[1, 2]))];
    world.store().commit(&Batch { accepted, ..Batch::default() }).expect("commits");
    world.upkeep();
    let ledger = world.store().ledger().expect("read");
    assert!(ledger.balances());
    assert_eq!((ledger.pending, ledger.ended[usize::from(EndReason::EndpointDeleted.code())]), (1, 1));
}

fn old_messages_go_and_what_waited_for_them_has_expired(world: &mut World) {
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

fn a_payload_can_go_before_its_message(world: &mut World) {
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

fn a_log_is_read_page_by_page_and_misses_nothing(world: &mut World) {
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

fn a_page_of_a_log_can_be_filtered_and_is_bounded(world: &mut World) {
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

fn change(world: &World, changes: Vec<Change>) {
    world.store().commit(&Batch { changes, ..Batch::default() }).expect("commits");
}

fn state(world: &World, delivery: Delivery) -> (DeliveryState, u32) {
    let found = world.store().delivery(delivery).expect("reads").expect("a delivery");
    (found.state, found.attempts)
}

#[track_caller]
fn check_ledger(world: &World, delivered: u64, pending: u64) {
    let ledger = world.store().ledger().expect("reads");
    assert!(ledger.balances(), "{ledger:?}");
    assert_eq!((ledger.delivered, ledger.pending), (delivered, pending), "{ledger:?}");
}

fn what_a_consumer_has_read_past_is_delivered(world: &mut World) {
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

fn what_was_read_before_its_row_came_is_delivered(world: &mut World) {
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

fn a_consumer_comes_back_where_it_was(world: &mut World) {
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

fn what_a_reader_says_counts_once(world: &mut World) {
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

fn a_reader_s_word_stands_against_an_engine_s(world: &mut World) {
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

fn what_somebody_has_is_not_leased_again(world: &mut World) {
    let messages: Vec<_> = (0..6).map(|_| world.accept(&Draft::to(&[1]))).collect();
    for message in &messages {
        park(world, to(1, *message));
    }
    let later = world.now.plus(SECOND * 60);
    let put_off = settled(world, to(1, messages[2]), 1, AfterAttempt::Waiting { due: later });
    change(world, vec![Change::Settle(vec![put_off])]);
    let lease = |in_order, beside: &[usize], limit| {
        let beside = beside.iter().map(|n| messages[*n]).collect();
        let rows = world.store().lease_beside(EndpointKey(1), in_order, world.now, &beside, limit).expect("reads");
        rows.into_iter()
            .map(|(row, message)| {
                assert_eq!(row.delivery.message, message.sequence());
                messages.iter().position(|m| *m == message.sequence()).expect("one of them")
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(lease(false, &[], 3), [0, 1, 3]);
    assert_eq!(lease(false, &[0, 3], 10), [1, 4, 5]);
    assert_eq!(lease(true, &[0], 10), [1, 2, 3, 4, 5]);
    assert_eq!(lease(true, &[0, 1, 2, 3, 4, 5], 10), [0; 0]);
}

fn anything_in_any_order_agrees_with_the_model(world: &mut World) {
    random_operations(world, 120);
}

fn random_operations(world: &mut World, steps: usize) {
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
