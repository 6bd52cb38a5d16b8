//! The engine, stepped by hand on a clock that the test holds.

use bellwire_engine::{CommittedShard, Effect, Ended, Engine, EngineSettings, Fresh, Input, Notice, Start, Undurable};
use bellwire_model::{
    AfterAttempt, Application, ApplicationId, ApplicationKey, Delivery, DisabledBy, EndReason, Endpoint, EndpointId,
    EndpointKey, FailureClass, Limits, Message, MessageId, Now, OrganisationId, Outcome, RetrySchedule, Sequence,
    SequenceSource, Timestamp, Trigger, Waiting,
};
use bytes::Bytes;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// An engine, a clock, and what the engine has asked for and was not answered.
struct Bench {
    engine: Engine,
    now: Timestamp,
    source: SequenceSource,
    effects: Vec<Effect>,
}

const E: EndpointKey = EndpointKey(10);
const F: EndpointKey = EndpointKey(11);

fn endpoint(key: EndpointKey) -> Endpoint {
    Endpoint::new(
        key,
        ApplicationKey(key.0 / 10),
        EndpointId::from_parts(Sequence::from_u64(u64::from(key.0)), [0; 12]),
        "https://user:password@example.com/hook",
        Timestamp::EPOCH,
    )
}

fn application(number: u32) -> Application {
    Application {
        key: ApplicationKey(number),
        id: ApplicationId::from_parts(Sequence::from_u64(u64::from(number)), [0; 12]),
        organisation: OrganisationId::parse("org_23rb8YdGqMT0qIzpgGwdXfHirMu").expect("an organisation"),
        uid: None,
        name: "a".into(),
        throttle_rate: NonZeroU16::new(3),
        settings: Default::default(),
        metadata: Default::default(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

fn fifo(key: EndpointKey) -> Endpoint {
    Endpoint { limits: Limits { fifo: true, throttle_rate: None }, ..endpoint(key) }
}

fn throttled(key: EndpointKey, rate: u16) -> Endpoint {
    Endpoint { limits: Limits { fifo: false, throttle_rate: NonZeroU16::new(rate) }, ..endpoint(key) }
}

fn status(status: u16) -> Outcome {
    Outcome {
        started_at: Timestamp::EPOCH,
        duration: Duration::ZERO,
        result: Ok(status),
        body: Bytes::new(),
        retry_after: None,
        directive: None,
        url: None,
        phases: Default::default(),
    }
}

fn timeout() -> Outcome {
    Outcome { result: Err(FailureClass::Timeout), ..status(0) }
}

impl Bench {
    fn new(endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        Bench::with(EngineSettings::default(), endpoints)
    }

    fn with(settings: EngineSettings, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let now = Timestamp::from_seconds(1_800_000_000);
        let mut bench = Bench {
            engine: Engine::new(settings, [1; 32]),
            now,
            source: SequenceSource::after(Sequence::first_at(now)),
            effects: Vec::new(),
        };
        for endpoint in endpoints {
            bench.step(Input::Endpoint(Arc::new(endpoint)));
        }
        let through = bench.source.last();
        bench.step(Input::Recovered { fresh: Vec::new(), waiting: Vec::new(), through });
        bench.after(Duration::from_secs(2));
        bench
    }

    fn step(&mut self, input: Input) {
        self.engine.step(Now { engine: self.now, wall: self.now }, input, &mut self.effects);
    }

    fn after(&mut self, wait: Duration) {
        let end = self.now.plus(wait);
        while let Some(at) = self.engine.wake_at().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.step(Input::Tick);
        }
        self.now = end;
    }

    fn message(&mut self) -> Arc<Message> {
        let sequence = self.source.next(self.now);
        let id = MessageId::from_parts(sequence, [0; 12]);
        Arc::new(Message::new(id, ApplicationKey(1), "a.b", "{}", Timestamp::FAR_FUTURE))
    }

    fn accept(&mut self, endpoints: &[EndpointKey]) -> Arc<Message> {
        self.accept_many(1, endpoints).remove(0)
    }

    fn accept_many(&mut self, count: usize, endpoints: &[EndpointKey]) -> Vec<Arc<Message>> {
        let messages: Vec<_> = (0..count).map(|_| self.message()).collect();
        let fan_out = endpoints.iter().copied().collect();
        let fresh = |message: &Arc<Message>| Fresh { message: message.clone(), fan_out: Clone::clone(&fan_out) };
        let fresh = messages.iter().map(fresh).collect();
        let through = self.source.last();
        self.step(Input::Committed(CommittedShard { through, fresh, ..Default::default() }));
        messages
    }

    fn starts(&mut self) -> Vec<Start> {
        let (starts, rest) = std::mem::take(&mut self.effects).into_iter().partition(|e| matches!(e, Effect::Start(_)));
        self.effects = rest;
        let start = |effect| if let Effect::Start(start) = effect { Some(start) } else { None };
        Vec::into_iter(starts).filter_map(start).collect()
    }

    fn one_start(&mut self) -> Start {
        let mut starts = self.starts();
        assert_eq!(starts.len(), 1, "one attempt starts");
        starts.remove(0)
    }

    fn writes(&mut self) -> Vec<Undurable> {
        let (writes, rest) = std::mem::take(&mut self.effects).into_iter().partition(|e| matches!(e, Effect::Write(_)));
        self.effects = rest;
        let write = |effect| if let Effect::Write(write) = effect { Some(write) } else { None };
        Vec::into_iter(writes).filter_map(write).collect()
    }

    fn end(&mut self, start: &Start, outcome: Outcome) {
        self.step(Input::Ended(vec![Ended { token: start.token, outcome }]));
    }

    /// Makes writes durable.
    fn commit(&mut self, writes: &[Undurable]) {
        let mut committed = CommittedShard { through: self.source.last(), ..Default::default() };
        for write in writes {
            match write {
                Undurable::Attempt { delivery, after, .. } => committed.recorded.push((*delivery, *after)),
                Undurable::Wait(waiting) => committed.waits.push(*waiting),
                Undurable::Health { endpoint, disable: Some(by), .. } => committed.disabled.push((*endpoint, *by)),
                Undurable::Health { .. } | Undurable::Operational(_) => {}
            }
        }
        self.step(Input::Committed(committed));
    }

    fn commit_all(&mut self) -> Vec<Undurable> {
        let writes = self.writes();
        self.commit(&writes);
        writes
    }

    /// The questions that are out.
    fn asked(&mut self) -> Vec<EndpointKey> {
        let asked = self.effects.iter().filter_map(|e| match e {
            Effect::Lease { endpoint, .. } => Some(*endpoint),
            _ => None,
        });
        let asked = asked.collect();
        self.effects.retain(|e| !matches!(e, Effect::Lease { .. }));
        asked
    }

    fn lease(&mut self, endpoint: EndpointKey, rows: &[(&Arc<Message>, Timestamp, u32)]) {
        self.lease_as(endpoint, rows, Trigger::Scheduled);
    }

    fn lease_as(&mut self, endpoint: EndpointKey, rows: &[(&Arc<Message>, Timestamp, u32)], trigger: Trigger) {
        let row = |(message, due, next): &(&Arc<Message>, Timestamp, u32)| {
            let delivery = Delivery { endpoint, message: message.sequence() };
            (Waiting { delivery, due: *due, next: *next, trigger }, Arc::clone(message))
        };
        self.step(Input::Leased { endpoint, rows: Some(rows.iter().map(row).collect()) });
    }

    fn next_due(&mut self, endpoint: EndpointKey, due: Option<Timestamp>) {
        let asked = self.effects.iter().any(|e| matches!(e, Effect::NextDue { .. }));
        assert!(asked, "the next due time was asked for");
        self.effects.retain(|e| !matches!(e, Effect::NextDue { .. }));
        self.step(Input::NextDue { endpoint, due: Some(due) });
    }

    fn notices(&self) -> Vec<Notice> {
        self.effects.iter().filter_map(|e| if let Effect::Notice(n) = e { Some(*n) } else { None }).collect()
    }
}

fn after_of(writes: &[Undurable]) -> Vec<AfterAttempt> {
    let after = |w: &Undurable| if let Undurable::Attempt { after, .. } = w { Some(*after) } else { None };
    writes.iter().filter_map(after).collect()
}

fn waits_of(writes: &[Undurable]) -> usize {
    writes.iter().filter(|w| matches!(w, Undurable::Wait(_))).count()
}

#[test]
fn a_fresh_message_starts_in_the_step_that_hands_it_over_and_its_success_is_recorded() {
    let mut bench = Bench::new([endpoint(E), endpoint(F)]);
    let message = bench.accept(&[E, F]);
    let starts = bench.starts();
    assert_eq!(starts.len(), 2);
    assert_eq!(bench.engine.watermark(), message.sequence());
    for start in &starts {
        bench.end(start, status(204));
    }
    let writes = bench.writes();
    assert_eq!(after_of(&writes), [AfterAttempt::Delivered; 2]);
    let Undurable::Attempt { url, number: 1, .. } = &writes[0] else { panic!("{writes:?}") };
    assert_eq!(&**url, "https://example.com/hook", "no user info in the log");
    assert_eq!(bench.engine.watermark(), message.sequence().next(), "settled once what was written is durable");
    bench.commit(&writes);
    assert_eq!(bench.engine.in_hand(), (0, 0));
    assert_eq!(bench.engine.wake_at(), None, "nothing to do, nothing to wake for");
}

#[test]
fn a_retry_is_leased_when_it_is_due_and_not_before() {
    let mut bench = Bench::new([endpoint(E)]);
    let message = bench.accept(&[E]);
    let start = bench.one_start();
    bench.end(&start, status(500));
    let writes = bench.commit_all();
    let [AfterAttempt::Waiting { due }] = after_of(&writes)[..] else { panic!("{writes:?}") };
    bench.after(Duration::from_millis(4_900));
    assert!(bench.asked().is_empty());
    bench.after(Duration::from_secs(2));
    assert_eq!(bench.asked(), [E]);
    bench.lease(E, &[(&message, due, 2)]);
    let start = bench.one_start();
    assert_eq!(start.number, 2);
    bench.end(&start, status(200));
    assert_eq!(after_of(&bench.commit_all()), [AfterAttempt::Delivered]);
    assert_eq!(bench.notices().len(), 1, "recovered");
    bench.effects.clear();
    bench.after(Duration::from_secs(3_600));
}

#[test]
fn the_schedule_ends_in_exhausted_and_the_notice_comes_when_that_is_durable() {
    let schedule = RetrySchedule::new(Vec::new()).expect("valid");
    let mut bench = Bench::new([Endpoint { retry_schedule: Some(schedule), ..endpoint(E) }]);
    bench.accept(&[E]);
    let start = bench.one_start();
    bench.end(&start, status(400));
    assert!(bench.notices().is_empty());
    assert_eq!(after_of(&bench.commit_all()), [AfterAttempt::Ended(EndReason::Exhausted)]);
    let (message, endpoint) = (Some(start.message.id), E);
    let ended = Notice::DeliveryEnded { message, endpoint, reason: EndReason::Exhausted, attempts: 1 };
    assert_eq!(bench.notices(), [ended]);
}

#[test]
fn what_is_in_hand_or_became_durable_meanwhile_is_not_taken_from_a_lease() {
    let mut bench = Bench::new([endpoint(E)]);
    let message = bench.accept(&[E]);
    let start = bench.one_start();
    bench.end(&start, status(500));
    let writes = bench.commit_all();
    let [AfterAttempt::Waiting { due }] = after_of(&writes)[..] else { panic!("{writes:?}") };
    bench.after(Duration::from_secs(10));
    assert_eq!(bench.asked(), [E]);
    bench.lease(E, &[(&message, due, 2)]);
    let start = bench.one_start();
    // A second question goes out because somebody else's row came in, and is answered by an old snapshot.
    let other = bench.message();
    let row = Waiting {
        delivery: Delivery { endpoint: E, message: other.sequence() },
        due,
        next: 1,
        trigger: Trigger::Manual,
    };
    let asked = |bench: &mut Bench| {
        bench.step(Input::Committed(CommittedShard { waits: vec![row], ..Default::default() }));
        if bench.effects.iter().any(|e| matches!(e, Effect::NextDue { .. })) {
            bench.next_due(E, Some(due));
        }
        bench.asked()
    };
    let _ = asked(&mut bench);
    bench.lease(E, &[(&message, due, 2)]);
    assert!(bench.starts().is_empty(), "it is in flight");
    bench.end(&start, status(200));
    bench.after(Duration::from_secs(1));
    let _ = bench.asked();
    bench.commit_all();
    bench.lease(E, &[(&message, due, 2)]);
    assert!(bench.starts().is_empty(), "its record became durable while the question was out");
}

#[test]
fn a_fifo_endpoint_gets_one_at_a_time_and_the_next_when_the_record_is_durable() {
    let mut bench = Bench::new([fifo(E)]);
    let messages = bench.accept_many(3, &[E]);
    for message in &messages {
        let start = bench.one_start();
        assert_eq!(start.message.id, message.id);
        bench.end(&start, status(200));
        assert!(bench.starts().is_empty(), "not durable yet");
        bench.commit_all();
    }
}

#[test]
fn nothing_overtakes_the_head_of_a_fifo_endpoint() {
    let mut bench = Bench::new([fifo(E)]);
    let messages = bench.accept_many(3, &[E]);
    let start = bench.one_start();
    bench.end(&start, status(500));
    let late = bench.accept(&[E]);
    let writes = bench.commit_all();
    assert_eq!(waits_of(&writes), 3, "what is behind the head waits with it, fresh ones too");
    let [AfterAttempt::Waiting { due }] = after_of(&writes)[..] else { panic!("{writes:?}") };
    bench.after(Duration::from_secs(4));
    assert!(bench.asked().is_empty() && bench.starts().is_empty());
    bench.after(Duration::from_secs(4));
    assert_eq!(bench.asked(), [E]);
    let now = bench.now;
    bench.lease(E, &[(&messages[0], due, 2), (&messages[1], now, 1), (&messages[2], now, 1), (&late, now, 1)]);
    let mut order = Vec::new();
    for _ in 0..4 {
        let start = bench.one_start();
        order.push(start.message.sequence());
        bench.end(&start, status(200));
        bench.commit_all();
    }
    let expected: Vec<_> = [&messages[0], &messages[1], &messages[2], &late].map(|m| m.sequence()).to_vec();
    assert_eq!(order, expected);
    let direct = bench.accept(&[E]);
    assert_eq!(bench.one_start().message.id, direct.id, "the waiting room is empty: fresh ones go straight again");
}

#[test]
fn after_a_restart_fresh_messages_of_a_fifo_endpoint_stand_behind_its_rows() {
    let mut bench = Bench::new([]);
    bench.step(Input::Endpoint(Arc::new(fifo(E))));
    let old = bench.message();
    let fresh = Fresh { message: bench.message(), fan_out: [E].into_iter().collect() };
    let (now, through) = (bench.now, bench.source.last());
    bench.step(Input::Recovered { fresh: vec![fresh.clone()], waiting: vec![(E, now)], through });
    assert!(bench.starts().is_empty());
    assert!(bench.asked().is_empty(), "its row must be in the waiting room first");
    bench.commit_all();
    assert_eq!(bench.asked(), [E]);
    bench.lease(E, &[(&old, now, 4), (&fresh.message, now, 1)]);
    assert_eq!(bench.one_start().number, 4);
}

#[test]
fn a_full_lane_stays_on_disk_and_memory_stays_within_its_bound() {
    let settings = EngineSettings { lane_queue_max: 8, lane_concurrency_max: 2, ..Default::default() };
    let mut bench = Bench::with(settings, [endpoint(E)]);
    let messages = bench.accept_many(100, &[E]);
    let starts = bench.starts();
    assert_eq!((starts.len(), bench.engine.queued()), (2, 6));
    let writes = bench.commit_all();
    assert_eq!(waits_of(&writes), 92);
    assert_eq!(bench.engine.in_hand().0, 8);
    assert!(bench.asked().is_empty(), "the queue is not low");
    let mut delivered = starts;
    let mut at = 0;
    while at < delivered.len() {
        let start = delivered[at].clone();
        bench.end(&start, status(200));
        delivered.extend(bench.starts());
        at += 1;
    }
    assert_eq!(delivered.len(), 8);
    assert_eq!(bench.asked(), [E]);
    assert_eq!(bench.engine.watermark(), messages[99].sequence().next());
}

#[test]
fn a_retry_that_is_due_is_not_held_up_by_what_keeps_coming() {
    let settings = EngineSettings { lane_concurrency_max: 2, ..Default::default() };
    let mut bench = Bench::with(settings, [endpoint(E)]);
    let message = bench.accept(&[E]);
    let start = bench.one_start();
    bench.end(&start, status(500));
    let writes = bench.commit_all();
    let [AfterAttempt::Waiting { due }] = after_of(&writes)[..] else { panic!("{writes:?}") };
    // As much as is delivered comes anew.
    bench.accept_many(100, &[E]);
    let deliver = |bench: &mut Bench| {
        bench.commit_all();
        for start in bench.starts() {
            bench.end(&start, status(200));
            bench.accept(&[E]);
        }
        bench.commit_all();
    };
    while bench.now < due.plus(Duration::from_millis(400)) {
        bench.after(Duration::from_millis(50));
        deliver(&mut bench);
        assert!(bench.asked().is_empty(), "there is enough to do");
    }
    bench.after(Duration::from_millis(200));
    deliver(&mut bench);
    assert_eq!(bench.asked(), [E]);
    bench.lease(E, &[(&message, due, 2)]);
    for _ in 0..200 {
        let starts = bench.starts();
        if starts.iter().any(|start| start.number == 2) {
            return;
        }
        for start in starts {
            bench.end(&start, status(200));
            bench.accept(&[E]);
        }
    }
    panic!("the retry is not made");
}

#[test]
fn a_disabled_endpoint_gets_nothing_and_goes_on_when_it_is_enabled() {
    let mut bench = Bench::new([endpoint(E)]);
    bench.step(Input::Switched { endpoint: E, enabled: false });
    let message = bench.accept(&[E]);
    assert!(bench.starts().is_empty());
    assert_eq!(waits_of(&bench.commit_all()), 1);
    bench.after(Duration::from_secs(3_600));
    assert!(bench.asked().is_empty() && bench.starts().is_empty());
    bench.step(Input::Endpoint(Arc::new(endpoint(E))));
    assert!(bench.asked().is_empty(), "an edit that was made from an older reading enables nothing");
    bench.step(Input::Switched { endpoint: E, enabled: true });
    assert_eq!(bench.asked(), [E]);
    let now = bench.now;
    bench.lease(E, &[(&message, now, 1)]);
    bench.one_start();
}

#[test]
fn a_410_disables_the_endpoint_at_once_and_says_so_when_it_is_durable() {
    let mut bench = Bench::new([endpoint(E)]);
    bench.accept(&[E]);
    let start = bench.one_start();
    bench.end(&start, status(410));
    bench.accept(&[E]);
    assert!(bench.starts().is_empty());
    assert!(bench.notices().is_empty());
    let writes = bench.commit_all();
    let disable = |w: &Undurable| matches!(w, Undurable::Health { disable: Some(DisabledBy::Receiver), .. });
    assert!(writes.iter().any(disable));
    assert_eq!(bench.notices(), [Notice::EndpointDisabled { endpoint: E, by: DisabledBy::Receiver }]);
}

#[test]
fn what_is_on_its_way_to_the_store_is_taken_back_when_the_owner_enables() {
    let mut bench = Bench::new([endpoint(E)]);
    let health = |writes: &[Undurable]| -> Vec<_> {
        let found = |w: &Undurable| match w {
            Undurable::Health { failing_since, disable, .. } => Some((failing_since.is_some(), *disable)),
            _ => None,
        };
        writes.iter().filter_map(found).collect()
    };
    bench.accept_many(3, &[E]);
    let starts = bench.starts();
    bench.end(&starts[0], status(410));
    bench.end(&starts[1], status(410));
    let writes = bench.writes();
    assert_eq!(health(&writes), [(true, Some(DisabledBy::Receiver))], "disabled once, however many ask for it");
    // The owner's word was committed before that, and reaches the engine first.
    bench.step(Input::Switched { endpoint: E, enabled: true });
    assert_eq!(health(&bench.writes()), [(false, None)]);
    bench.accept(&[E]);
    assert!(bench.starts().is_empty(), "what was found out is still on its way");
    bench.commit(&writes);
    assert_eq!(bench.engine.state_of(E), Some((Some(DisabledBy::Receiver), None)));
}

#[test]
fn the_deliveries_of_a_deleted_endpoint_end_and_nothing_starts_any_more() {
    let settings = EngineSettings { lane_concurrency_max: 1, ..Default::default() };
    let mut bench = Bench::with(settings, [endpoint(E)]);
    bench.accept_many(3, &[E]);
    let start = bench.one_start();
    bench.step(Input::EndpointGone(E));
    assert_eq!(after_of(&bench.commit_all()), [AfterAttempt::Ended(EndReason::EndpointDeleted); 2]);
    bench.end(&start, status(500));
    assert_eq!(after_of(&bench.commit_all()), [AfterAttempt::Ended(EndReason::EndpointDeleted)]);
    bench.accept(&[E]);
    assert!(bench.starts().is_empty());
    assert_eq!(after_of(&bench.commit_all()), [AfterAttempt::Ended(EndReason::EndpointDeleted)]);
    assert_eq!(bench.engine.in_hand(), (0, 0));
}

#[test]
fn a_throttle_is_never_exceeded_and_nothing_is_dropped() {
    let mut bench = Bench::new([throttled(E, 5)]);
    let messages = bench.accept_many(12, &[E]);
    let mut counts = Vec::new();
    let mut held = Vec::new();
    for _ in 0..3 {
        let starts = bench.starts();
        counts.push(starts.len());
        for start in &starts {
            bench.end(start, status(200));
        }
        held.push(bench.engine.throttled_since(E, bench.now));
        bench.after(Duration::from_millis(1_010));
    }
    assert_eq!(counts, [5, 5, 2]);
    let accepted = |n: usize| Some(messages[n].sequence().time());
    assert_eq!(held, [accepted(5), accepted(10), None]);
}

#[test]
fn an_outage_opens_the_breaker_and_one_probe_closes_it() {
    let mut bench = Bench::new([endpoint(E)]);
    let messages = bench.accept_many(10, &[E]);
    let mut starts = bench.starts();
    while !starts.is_empty() {
        starts.iter().for_each(|start| bench.end(start, status(503)));
        starts = bench.starts();
    }
    assert_eq!(bench.notices(), [Notice::BreakerOpened { endpoint: E }]);
    bench.effects.retain(|e| !matches!(e, Effect::Notice(_)));
    bench.commit_all();
    bench.accept(&[E]);
    assert!(bench.starts().is_empty(), "fresh ones wait on disk");
    bench.commit_all();
    bench.after(Duration::from_secs(2));
    assert_eq!(bench.asked(), [E]);
    let now = bench.now;
    bench.lease(E, &[(&messages[0], now, 2)]);
    let probe = bench.one_start();
    assert!(bench.starts().is_empty());
    bench.end(&probe, status(200));
    assert_eq!(bench.notices(), [Notice::BreakerClosed { endpoint: E }]);
}

/// Its breaker has just opened, and nothing is in memory.
fn broken(bench: &mut Bench) -> Vec<Arc<Message>> {
    let messages = bench.accept_many(10, &[E]);
    let mut starts = bench.starts();
    while !starts.is_empty() {
        starts.iter().for_each(|start| bench.end(start, status(503)));
        starts = bench.starts();
    }
    bench.commit_all();
    bench.effects.clear();
    messages
}

#[test]
fn a_resend_need_not_wait_for_an_open_breaker() {
    for by_recover in [false, true] {
        let mut bench = Bench::new([endpoint(E)]);
        let messages = broken(&mut bench);
        let (now, through) = (bench.now, bench.source.last());
        let delivery = Delivery { endpoint: E, message: messages[0].sequence() };
        let scheduled = Waiting { delivery, due: now, next: 2, trigger: Trigger::Scheduled };
        bench.step(Input::Committed(CommittedShard { through, waits: vec![scheduled], ..Default::default() }));
        assert!(bench.asked().is_empty(), "what is only due waits for the breaker");
        let waits = vec![Waiting { trigger: Trigger::Manual, ..scheduled }];
        bench.step(match by_recover {
            true => Input::LookAgain(E),
            false => Input::Committed(CommittedShard { through, waits, ..Default::default() }),
        });
        assert_eq!(bench.asked(), [E]);
        bench.lease_as(E, &[(&messages[0], now, 2)], Trigger::Manual);
        let probe = bench.one_start();
        bench.end(&probe, status(200));
        assert_eq!(bench.notices(), [Notice::BreakerClosed { endpoint: E }]);
    }
}

#[test]
fn the_probe_is_what_is_due_for_longest_not_what_came_last() {
    let mut bench = Bench::new([endpoint(E)]);
    let messages = broken(&mut bench);
    // The breaker is half open by then, and the retries are due.
    bench.now = bench.now.plus(Duration::from_secs(400));
    bench.accept(&[E]);
    assert!(bench.starts().is_empty(), "it is the turn of those that were there before");
    assert_eq!(waits_of(&bench.commit_all()), 1);
    assert_eq!(bench.asked(), [E]);
    let now = bench.now;
    bench.lease(E, &[(&messages[0], now, 2)]);
    assert_eq!(bench.one_start().message.sequence(), messages[0].sequence());
}

#[test]
fn what_is_deleted_makes_place() {
    let mut bench = Bench::new([]);
    for number in 1..200 {
        let key = EndpointKey(number);
        bench.step(Input::Application(Arc::new(application(number))));
        bench.step(Input::Endpoint(Arc::new(Endpoint { application: ApplicationKey(number), ..endpoint(key) })));
        bench.accept_many(5, &[key]);
        let starts = bench.starts();
        assert!(!starts.is_empty());
        bench.step(Input::ApplicationGone(ApplicationKey(number)));
        starts.iter().for_each(|start| bench.end(start, status(200)));
        bench.commit_all();
        bench.after(Duration::from_secs(2));
    }
    assert_eq!(bench.engine.in_hand(), (0, 0));
    assert_eq!(bench.engine.places(), (1, 1));
}

#[test]
fn a_slow_delivery_gets_a_row_so_that_the_watermark_moves_on() {
    let mut bench = Bench::new([endpoint(E), endpoint(F)]);
    let slow = bench.accept(&[E]);
    let start = bench.one_start();
    bench.accept(&[F]);
    let quick = bench.one_start();
    bench.end(&quick, status(200));
    assert_eq!(bench.engine.watermark(), slow.sequence());
    bench.after(Duration::from_secs(2));
    assert!(bench.engine.watermark() > slow.sequence());
    assert_eq!(waits_of(&bench.commit_all()), 1);
    bench.after(Duration::from_secs(30));
    assert!(bench.starts().is_empty(), "it is in flight, not lost");
    bench.end(&start, status(200));
    assert_eq!(after_of(&bench.commit_all()), [AfterAttempt::Delivered]);
}

#[test]
fn hanging_endpoints_leave_slots_for_those_that_answer() {
    let hanging = (0..200).map(|n| endpoint(EndpointKey(1_000 + n * 10)));
    let settings = EngineSettings { attempts_max: 64, ..Default::default() };
    let mut bench = Bench::with(settings, hanging.chain([endpoint(E)]));
    bench.accept(&[E]);
    let first = bench.one_start();
    bench.end(&first, status(200));
    for n in 0..200 {
        bench.accept_many(5, &[EndpointKey(1_000 + n * 10)]);
    }
    let mut hung = bench.starts();
    bench.after(Duration::from_secs(10));
    for round in 0..5 {
        let late: Vec<_> = std::mem::take(&mut hung);
        for start in &late {
            bench.end(start, timeout());
            hung.extend(bench.starts());
        }
        bench.commit_all();
        bench.after(Duration::from_secs(10));
        hung.extend(bench.starts());
        if round == 0 {
            continue;
        }
        bench.accept(&[E]);
        let starts = bench.starts();
        let healthy = starts.iter().find(|s| s.endpoint.key == E).expect("a free slot at once").clone();
        bench.end(&healthy, status(200));
        bench.commit_all();
    }
}

/// Has all that start rest, until none does any more.
fn rest_all(bench: &mut Bench) -> Vec<Start> {
    let mut resting = Vec::new();
    loop {
        let starts = bench.starts();
        if starts.is_empty() {
            return resting;
        }
        for start in starts {
            bench.step(Input::Rests(start.token));
            resting.push(start);
        }
    }
}

#[test]
fn attempts_that_rest_leave_their_places_to_others_and_end_like_any() {
    let mut bench = Bench::new([endpoint(E)]);
    bench.accept_many(100, &[E]);
    let resting = rest_all(&mut bench);
    assert_eq!((resting.len(), bench.engine.in_flight(), bench.engine.all_ended()), (100, 0, false));
    bench.after(Duration::from_secs(60));
    bench.step(Input::GoesOn(resting[0].token));
    assert_eq!(bench.engine.in_flight(), 1);
    for start in &resting {
        bench.end(start, status(503));
    }
    assert_eq!((bench.engine.in_flight(), bench.engine.all_ended()), (0, true));
    let after = after_of(&bench.commit_all());
    assert_eq!(after.iter().filter(|after| matches!(after, AfterAttempt::Waiting { .. })).count(), 100);
    assert_eq!(bench.notices(), [], "one exchange failed, not a hundred: the breaker stays closed");
    // Told too late, or twice.
    bench.step(Input::Rests(resting[0].token));
    bench.step(Input::GoesOn(resting[0].token));
    assert_eq!(bench.engine.in_flight(), 0);
}

#[test]
fn what_rests_is_bounded_and_in_a_fifo_lane_nothing_does() {
    let settings = EngineSettings { attempts_max: 64, ..EngineSettings::default() };
    let mut bench = Bench::with(settings, [endpoint(E), fifo(F)]);
    bench.accept_many(200, &[E]);
    // Half of the bound rests, and the lane's limit is in flight.
    assert_eq!(rest_all(&mut bench).len(), 32 + 8);
    assert_eq!(bench.engine.in_flight(), 8);
    bench.accept_many(2, &[F]);
    let first = bench.one_start();
    bench.step(Input::Rests(first.token));
    assert_eq!(bench.starts().len(), 0);
    bench.end(&first, status(200));
    bench.commit_all();
    bench.one_start();
}

#[test]
fn lanes_are_served_by_application_first_and_then_by_endpoint() {
    let settings = EngineSettings { attempts_max: 4, lane_concurrency_max: 1, ..Default::default() };
    // Application 1 has two endpoints, application 2 one.
    let mut bench = Bench::with(settings, [endpoint(E), endpoint(F), endpoint(EndpointKey(20))]);
    bench.accept_many(8, &[E, F]);
    bench.accept_many(4, &[EndpointKey(20)]);
    let mut counts = std::collections::BTreeMap::new();
    let mut open = bench.starts();
    for _ in 0..12 {
        let Some(start) = open.pop() else { break };
        *counts.entry(start.endpoint.key).or_insert(0) += 1;
        bench.end(&start, status(200));
        open.splice(0..0, bench.starts());
    }
    assert!(counts[&EndpointKey(20)] >= 4, "{counts:?}");
}

#[test]
fn a_message_past_its_retention_ends_as_expired() {
    let mut bench = Bench::new([endpoint(E)]);
    let row = Waiting {
        delivery: Delivery { endpoint: E, message: bench.message().sequence() },
        due: bench.now,
        next: 3,
        trigger: Trigger::Scheduled,
    };
    bench.step(Input::Committed(CommittedShard { waits: vec![row], ..Default::default() }));
    assert_eq!(bench.asked(), [E]);
    let message = Message {
        payload: None,
        id: MessageId::from_parts(row.delivery.message, [0; 12]),
        ..(*bench.message()).clone()
    };
    bench.step(Input::Leased { endpoint: E, rows: Some(vec![(row, Arc::new(message))]) });
    assert!(bench.starts().is_empty());
    let writes = bench.writes();
    assert!(matches!(
        writes[..],
        [Undurable::Attempt { number: 0, outcome: None, after: AfterAttempt::Ended(EndReason::Expired), .. }]
    ));
}

#[test]
fn a_resend_is_tried_once() {
    let mut bench = Bench::new([endpoint(E)]);
    let message = bench.message();
    let row = Waiting {
        delivery: Delivery { endpoint: E, message: message.sequence() },
        due: bench.now,
        next: 9,
        trigger: Trigger::Manual,
    };
    bench.step(Input::Committed(CommittedShard { waits: vec![row], ..Default::default() }));
    assert_eq!(bench.asked(), [E]);
    bench.lease_as(E, &[(&message, row.due, 9)], Trigger::Manual);
    let start = bench.one_start();
    assert_eq!((start.number, start.trigger), (9, Trigger::Manual));
    bench.end(&start, status(500));
    assert_eq!(after_of(&bench.writes()), [AfterAttempt::Ended(EndReason::ResendFailed)]);
}

#[test]
fn a_due_time_from_another_clock_is_not_waited_for() {
    let mut bench = Bench::new([endpoint(E)]);
    let message = bench.message();
    let far = bench.now.plus(Duration::from_secs(10 * 365 * 86_400));
    let row = Waiting {
        delivery: Delivery { endpoint: E, message: message.sequence() },
        due: bench.now,
        next: 2,
        trigger: Trigger::Scheduled,
    };
    bench.step(Input::Committed(CommittedShard { waits: vec![row], ..Default::default() }));
    assert_eq!(bench.asked(), [E]);
    bench.lease(E, &[]);
    bench.next_due(E, Some(far));
    bench.after(Duration::from_secs(2 * 86_400));
    assert_eq!(bench.asked(), [E]);
    bench.lease(E, &[(&message, far, 2)]);
    assert_eq!(bench.one_start().number, 2);
}

#[test]
fn while_records_cannot_be_stored_what_is_unrecorded_is_bounded() {
    let settings = EngineSettings { attempts_max: 10, ..Default::default() };
    let mut bench = Bench::with(settings, [endpoint(E), endpoint(EndpointKey(20))]);
    bench.step(Input::StoreFailing(true));
    bench.accept_many(100, &[E, EndpointKey(20)]);
    let mut open = bench.starts();
    let mut ended = 0;
    while let Some(start) = open.pop() {
        bench.end(&start, status(200));
        ended += 1;
        open.extend(bench.starts());
    }
    assert_eq!(ended, 10);
    bench.commit_all();
    assert!(!bench.starts().is_empty());
}

#[test]
fn after_a_stop_nothing_starts_and_what_is_in_flight_is_recorded() {
    let mut bench = Bench::new([endpoint(E)]);
    bench.accept(&[E]);
    let start = bench.one_start();
    bench.step(Input::Stop);
    bench.accept(&[E]);
    assert!(bench.starts().is_empty());
    bench.end(&start, status(200));
    assert_eq!(after_of(&bench.writes()), [AfterAttempt::Delivered]);
    assert_eq!(bench.engine.in_flight(), 0);
}

#[test]
fn a_hundred_thousand_idle_endpoints_ask_for_nothing() {
    let mut bench = Bench::new((0..100_000).map(|n| endpoint(EndpointKey(100 + n))));
    assert_eq!(bench.engine.wake_at(), None);
    assert!(bench.effects.is_empty());
    bench.accept(&[EndpointKey(50_000)]);
    assert_eq!(bench.starts().len(), 1);
}

#[test]
fn an_occasion_follows_the_write_that_it_tells_of_and_a_disabling_is_told_once() {
    let mut bench = Bench::new([endpoint(E)]);
    bench.accept_many(2, &[E]);
    let starts = bench.starts();
    for start in &starts {
        bench.end(start, status(410));
    }
    let told: Vec<_> = bench.effects.iter().map(|e| matches!(e, Effect::Occasion(_))).collect();
    assert_eq!(told.iter().filter(|told| **told).count(), 1, "{:?}", bench.effects);
    let at = told.iter().position(|told| *told).unwrap_or_default();
    assert!(matches!(bench.effects[at - 1], Effect::Write(Undurable::Health { disable: Some(_), .. })));

    // Nothing is told of ordinary successes and failures; of the last attempt it is.
    let short = Endpoint { retry_schedule: RetrySchedule::new(Vec::new()).ok(), ..endpoint(F) };
    let mut bench = Bench::new([endpoint(E), short]);
    bench.accept(&[E, F]);
    for start in bench.starts() {
        bench.end(&start, status(500));
    }
    let told = bench.effects.iter().position(|e| matches!(e, Effect::Occasion(_))).expect("the last attempt is told");
    let Effect::Write(Undurable::Attempt { delivery, after, .. }) = &bench.effects[told - 1] else {
        panic!("{:?}", bench.effects)
    };
    assert_eq!((delivery.endpoint, *after), (F, AfterAttempt::Ended(EndReason::Exhausted)));
    assert_eq!(bench.effects.iter().filter(|e| matches!(e, Effect::Occasion(_))).count(), 1);
}

#[test]
fn what_is_being_cancelled_leaves_the_queue_and_does_not_come_back_by_a_lease_that_was_asked_for_before() {
    for one in [endpoint(E), fifo(E)] {
        let mut bench = Bench::with(EngineSettings { lane_concurrency_max: 1, ..EngineSettings::default() }, [one]);
        let messages = bench.accept_many(4, &[E]);
        let flying = bench.one_start();
        assert_eq!(flying.message.id, messages[0].id);
        // All but the first wait in the queue; a question is out for a row that somebody asked for by hand.
        let cancelled = Input::Cancelled { endpoint: E, before: messages[3].sequence() };
        let row = |message: &Arc<Message>, due: Timestamp, trigger| Waiting {
            delivery: Delivery { endpoint: E, message: message.sequence() },
            due,
            next: 1,
            trigger,
        };
        bench.step(cancelled);
        assert!(bench.starts().is_empty());
        bench.end(&flying, status(200));
        assert_eq!(after_of(&bench.commit_all()), [AfterAttempt::Delivered], "what was in flight ends as it ends");
        bench.effects.retain(|effect| !matches!(effect, Effect::Notice(_)));
        // Whatever is asked for from now on leaves the cancelled rows out; the fourth, if it was put aside, comes back by its row.
        for _ in 0..3 {
            let due = bench.now;
            if bench.effects.iter().any(|e| matches!(e, Effect::NextDue { .. })) {
                bench.next_due(E, Some(due));
            }
            if !bench.asked().is_empty() {
                let rows = [(row(&messages[3], due, Trigger::Scheduled), Arc::clone(&messages[3]))];
                bench.step(Input::Leased { endpoint: E, rows: Some(rows.to_vec()) });
            }
        }
        let start = bench.one_start();
        assert_eq!(start.message.id, messages[3].id, "what came later goes out");
        bench.end(&start, status(200));
        bench.commit_all();
        assert_eq!(bench.engine.in_hand(), (0, 0));

        // A question that is out when something is cancelled may be answered with it.
        if bench.effects.iter().any(|e| matches!(e, Effect::NextDue { .. })) {
            bench.next_due(E, None);
        }
        if !bench.asked().is_empty() {
            bench.lease(E, &[]);
        }
        let late = bench.message();
        bench.step(Input::LookAgain(E));
        assert_eq!(bench.asked(), [E]);
        bench.step(Input::Cancelled { endpoint: E, before: late.sequence().next() });
        let due = bench.now;
        bench.lease(E, &[(&late, due, 1)]);
        assert!(bench.starts().is_empty());
    }
}

#[test]
fn an_event_type_has_a_schedule_and_an_endpoints_own_goes_before_it() {
    let schedule = |seconds: u64| RetrySchedule::new(vec![Duration::from_secs(seconds)]).ok();
    let mut bench = Bench::new([endpoint(E), Endpoint { retry_schedule: schedule(50), ..endpoint(F) }]);
    bench.step(Input::Application(Arc::new(application(1))));
    let organisation = application(1).organisation;
    let told = |event_type: &str, schedule| Input::EventTypeSchedule {
        organisation: organisation.clone(),
        event_type: event_type.to_owned(),
        schedule,
    };
    bench.step(told("a.b", schedule(500)));
    bench.step(told("a.c", RetrySchedule::new(Vec::new()).ok()));
    let wait = |bench: &mut Bench, key| {
        bench.accept(&[key]);
        let start = bench.one_start();
        bench.end(&start, status(400));
        let writes = bench.commit_all();
        let [AfterAttempt::Waiting { due }] = after_of(&writes)[..] else { panic!("{writes:?}") };
        due.since(bench.now).as_secs()
    };
    assert!((500..=600).contains(&wait(&mut bench, E)));
    assert!((50..=60).contains(&wait(&mut bench, F)), "its owner's word");
    bench.step(told("a.b", None));
    assert!((5..=6).contains(&wait(&mut bench, E)), "the server's");
}

#[test]
fn an_attempt_shows_the_url_that_a_script_chose_without_its_user_info() {
    let mut bench = Bench::new([endpoint(E)]);
    bench.accept(&[E]);
    let start = bench.one_start();
    bench.end(&start, Outcome { url: Some("https://a:b@other.example.com/x".into()), ..status(200) });
    let writes = bench.commit_all();
    let Undurable::Attempt { url, .. } = &writes[0] else { panic!("{writes:?}") };
    assert_eq!(&**url, "https://other.example.com/x");
}
