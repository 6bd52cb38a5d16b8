//! What a seed has in store: applications, endpoints and receivers from the beginning, and what producers, owners and fate will do to them.

use super::{Event, MS, SECOND, WINDOW, World};
use crate::feeder::FED;
use crate::node::{ReceivedKeys, Request};
use crate::reader::{PIPED, READ, TAKEN};
use crate::receiver::Class;
use crate::truth::Configured;
use bellwire_engine::Earlier;
use bellwire_model::{
    Application, ApplicationId, ApplicationKey, DedupeKey, Endpoint, EndpointId, EndpointKey, Kind, Limits,
    OPERATIONAL_UID, OrganisationId, Pipe, RequestDigest, Sequence, Timestamp,
};
use bellwire_store::{Change, Store};
use bytes::Bytes;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

/// Of an application with many endpoints that hang or lag, and of one that is there to notice it.
const CROWD: ApplicationKey = ApplicationKey(4);
const QUIET: ApplicationKey = ApplicationKey(5);
/// The operational application of worlds that have one, and its endpoint.
const OPERATIONAL: ApplicationKey = ApplicationKey(6);
pub(super) const OPERATIONAL_ENDPOINT: EndpointKey = EndpointKey(601);
/// One seed in so many has sources.
const RECEIVING_OF: u64 = 5;
/// One seed in so many has a source that fetches its messages itself: those with [`FED_REST`].
const FED_OF: u64 = 9;
const FED_REST: u64 = 4;
/// In one seed in so many all endpoints that are not healthy gather what comes: those with [`SUMMING_REST`].
const SUMMING_OF: u64 = 7;
const SUMMING_REST: u64 = 5;

impl World {
    /// Applications and endpoints, there from the beginning.
    pub(super) fn found(&mut self) {
        let mut changes = Vec::new();
        let mut key = 10;
        for number in 1..=self.rng.random_range(1..=3u32) {
            let rate = self.rng.random_ratio(1, 6).then(|| self.rng.random_range(2..20u16));
            let application = application(ApplicationKey(number), rate);
            if let Some(rate) = rate {
                self.truth.application_throttle.insert(application.key, rate);
            }
            changes.push(Change::PutApplication(Arc::new(application)));
            for _ in 0..self.rng.random_range(1..=4) {
                key += 1;
                let fifo = self.rng.random_ratio(1, 4);
                let rate = self.rng.random_ratio(1, 5).then(|| self.rng.random_range(1..10u16));
                let endpoint = self.endpoint(EndpointKey(key), ApplicationKey(number), fifo, rate);
                self.classes.insert(endpoint.key, Class::random(&mut self.rng));
                self.truth.configured.insert(endpoint.key, configured(&endpoint, self.now));
                changes.push(Change::PutEndpoint(Arc::new(endpoint)));
            }
        }
        if self.seed % SUMMING_OF == SUMMING_REST {
            for class in self.classes.values_mut().filter(|class| **class != Class::Healthy) {
                *class = Class::Summing;
            }
        }
        if self.rng.random_ratio(1, 6) {
            self.found_crowd(&mut changes);
        }
        // From a source of its own: worlds without it stay as they were.
        if self.tells.random_ratio(1, 3) {
            self.found_operational(&mut changes);
        }
        if self.readers.rng.random_ratio(1, 3) {
            self.found_pipes(&mut changes);
        }
        if self.seed % FED_OF == FED_REST {
            changes.push(Change::PutApplication(Arc::new(application(FED, None))));
            self.found_feeder(organisation(), &mut changes);
        }
        let batch = bellwire_store::Batch { changes, ..Default::default() };
        self.store.commit(&batch).expect("an empty store takes everything");
    }

    /// One application whose many endpoints are of no use, and one with a single endpoint that should not notice.
    fn found_crowd(&mut self, changes: &mut Vec<Change>) {
        let class = if self.rng.random_ratio(1, 2) { Class::Hanging } else { Class::Laggard };
        let crowd = self.rng.random_range(8..24);
        for (number, endpoints, class) in [(CROWD, crowd, class), (QUIET, 1, Class::Healthy)] {
            changes.push(Change::PutApplication(Arc::new(application(number, None))));
            for n in 0..endpoints {
                let endpoint = self.endpoint(EndpointKey(number.0 * 100 + n), number, false, None);
                self.classes.insert(endpoint.key, class);
                self.truth.configured.insert(endpoint.key, configured(&endpoint, self.now));
                changes.push(Change::PutEndpoint(Arc::new(endpoint)));
            }
        }
    }

    /// Somebody wants to be told of what happens; her receiver is no better than others.
    fn found_operational(&mut self, changes: &mut Vec<Change>) {
        // So that there is much to tell of, some endpoints get one attempt.
        for change in changes.iter_mut() {
            if let Change::PutEndpoint(endpoint) = change
                && self.tells.random_ratio(1, 2)
            {
                Arc::make_mut(endpoint).retry_schedule = bellwire_model::RetrySchedule::new(Vec::new()).ok();
            }
        }
        let uid = Some(OPERATIONAL_UID.to_owned());
        changes.push(Change::PutApplication(Arc::new(Application { uid, ..application(OPERATIONAL, None) })));
        let endpoint = self.endpoint(OPERATIONAL_ENDPOINT, OPERATIONAL, false, None);
        self.classes.insert(endpoint.key, Class::random(&mut self.tells));
        self.truth.configured.insert(endpoint.key, configured(&endpoint, self.now));
        self.truth.operational = Some(OPERATIONAL);
        changes.push(Change::PutEndpoint(Arc::new(endpoint)));
    }

    /// Two pipes with their readers, who come when they like.
    fn found_pipes(&mut self, changes: &mut Vec<Change>) {
        self.readers.present = true;
        changes.push(Change::PutApplication(Arc::new(application(PIPED, None))));
        for key in [TAKEN, READ] {
            let kind = Kind::Pipe(Pipe::default());
            let endpoint = Endpoint { kind, ..self.endpoint(key, PIPED, false, None) };
            self.truth.configured.insert(endpoint.key, configured(&endpoint, self.now));
            changes.push(Change::PutEndpoint(Arc::new(endpoint)));
        }
    }

    pub(super) fn endpoint(
        &mut self,
        key: EndpointKey,
        application: ApplicationKey,
        fifo: bool,
        rate: Option<u16>,
    ) -> Endpoint {
        Endpoint {
            description: self.version.to_string(),
            limits: Limits { fifo, throttle_rate: rate.and_then(NonZeroU16::new) },
            ..Endpoint::new(
                key,
                application,
                EndpointId::from_parts(Sequence::from_u64(u64::from(key.0)), [2; 12]),
                "https://receiver.example/hook",
                Timestamp::EPOCH,
            )
        }
    }

    /// What the producers do and what goes wrong, until `trouble` is over.
    pub(super) fn plan(&mut self, trouble: i64) {
        for _ in 0..self.rng.random_range(3..30) {
            let at = self.rng.random_range(0..trouble);
            // Some come alone, some in a burst, some as equal ones at once.
            let burst = if self.rng.random_ratio(1, 8) { self.rng.random_range(5..40) } else { 1 };
            let application = self.random_application();
            for _ in 0..burst {
                let request = self.request(application);
                let equal = if request.idempotency.is_some() { self.rng.random_range(1..4) } else { 1 };
                for _ in 0..equal {
                    let request = request.clone();
                    let late = self.rng.random_range(0..5 * MS);
                    self.after(at + late, Event::Produce(request));
                }
            }
        }
        if self.truth.configured.contains_key(&EndpointKey(QUIET.0 * 100)) {
            for (application, every) in [(CROWD, 700 * MS), (QUIET, 900 * MS)] {
                for n in 0..trouble.min(20 * SECOND) / every {
                    let request =
                        Request { idempotency: None, event: None, delayed: None, ..self.request(application) };
                    let payload = Bytes::from(format!("{{\"number\":{}}}", self.produced));
                    self.after(n * every, Event::Produce(Request { payload, ..request }));
                }
            }
        }
        if self.readers.present {
            for _ in 0..self.readers.rng.random_range(3..25) {
                let at = self.readers.rng.random_range(0..trouble);
                let request = self.request(PIPED);
                self.after(at, Event::Produce(request));
            }
        }
        // A process that stood still for longer than a window between reading the clock and the log knows no better.
        if self.seed % RECEIVING_OF == RECEIVING_OF - 1 && !self.faults.pause {
            self.plan_received(trouble);
        }
        self.plan_some(self.faults.crash, 1..4, trouble, |_| Event::Crash);
        self.plan_some(self.faults.stops, 1..2, trouble, |_| Event::Stop);
        self.plan_some(self.faults.pause, 1..3, trouble, |rng| Event::Pause(rng.random_range(MS..20 * SECOND)));
        self.plan_some(self.faults.wall_jumps, 1..4, trouble, |rng| {
            let hour = 3_600 * SECOND;
            let jumps = [hour, -hour, 24 * hour, -24 * hour, -10 * 365 * 24 * hour, SECOND, -SECOND];
            Event::WallJump(jumps[rng.random_range(0..jumps.len())])
        });
        self.plan_some(self.faults.changes, 1..12, trouble, |rng| Event::Change(rng.random_range(0..100)));
        self.plan_some(self.faults.manual, 1..12, trouble, |rng| match rng.random_range(0..10) {
            0..6 => Event::Resend,
            6..8 => Event::Task(rng.random_ratio(1, 3)),
            8 if rng.random_ratio(1, 3) => Event::CancelTask,
            8 => Event::CancelWaiting,
            _ => Event::Expunge,
        });
    }

    /// Senders that repeat themselves: around the ends of windows, and all at once.
    fn plan_received(&mut self, trouble: i64) {
        for _ in 0..self.rng.random_range(2..12) {
            let application = self.random_application();
            let number = self.rng.random_range(0..3u8);
            let edge = self.rng.random_range(0..trouble / WINDOW + 1) * WINDOW;
            let burst = if self.rng.random_ratio(1, 4) { self.rng.random_range(40..90) } else { 4 };
            for n in 0..burst {
                let number = if burst > 4 { 3 + n } else { number };
                let payload = format!("{{\"at\":{},\"number\":{number}}}", application.0);
                let request = Request {
                    application,
                    payload: Bytes::from(payload),
                    idempotency: None,
                    event: None,
                    received: Some(received_keys(application, number, Timestamp::EPOCH)),
                    delayed: None,
                    tries: 0,
                };
                let around = self.rng.random_range(-4 * MS..4 * MS);
                self.after((edge + around).max(0), Event::Produce(request));
            }
        }
    }

    fn plan_some(
        &mut self,
        wanted: bool,
        times: std::ops::Range<u32>,
        trouble: i64,
        event: impl Fn(&mut ChaCha8Rng) -> Event,
    ) {
        if !wanted {
            return;
        }
        for _ in 0..self.rng.random_range(times) {
            let at = self.rng.random_range(0..trouble);
            let event = event(&mut self.rng);
            self.after(at, event);
        }
    }

    fn random_application(&mut self) -> ApplicationKey {
        ApplicationKey(self.rng.random_range(1..=3))
    }

    pub(super) fn request(&mut self, application: ApplicationKey) -> Request {
        self.produced += 1;
        let key = self.rng.random_ratio(1, 3).then(|| self.rng.random_range(0..12u8));
        let variant = u8::from(self.rng.random_ratio(1, 6));
        let event = self.rng.random_ratio(1, 6).then(|| self.rng.random_range(0..8u8));
        let scope = application.0 as u8;
        let mut payload = match key {
            Some(key) => format!("{{\"key\":{key},\"body\":{variant}}}").into_bytes(),
            None => format!("{{\"number\":{}}}", self.produced).into_bytes(),
        };
        // Bytes in, bytes out: not all of them are text.
        payload.push(0xff);
        Request {
            application,
            payload: Bytes::from(payload),
            idempotency: key.map(|key| (dedupe(1, scope, key), RequestDigest([variant; 8]))),
            // An event id belongs to the body, too.
            event: event.map(|event| dedupe(2, scope, event)),
            received: None,
            delayed: self.rng.random_ratio(1, 12).then(|| self.rng.random_range(0..20 * SECOND)),
            tries: 0,
        }
    }
}

pub(super) fn configured(endpoint: &Endpoint, at: i64) -> Configured {
    Configured {
        version: endpoint.description.clone(),
        disabled: endpoint.disabled.is_some(),
        deleted: false,
        fifo: endpoint.limits.fifo,
        throttle: endpoint.limits.throttle_rate.map(NonZeroU16::get),
        at,
    }
}

pub(super) fn application(key: ApplicationKey, rate: Option<u16>) -> Application {
    Application {
        key,
        id: ApplicationId::from_parts(Sequence::from_u64(u64::from(key.0)), [1; 12]),
        organisation: organisation(),
        uid: None,
        name: String::new(),
        throttle_rate: rate.and_then(NonZeroU16::new),
        settings: Default::default(),
        metadata: BTreeMap::new(),
        created_at: Timestamp::EPOCH,
        updated_at: Timestamp::EPOCH,
    }
}

pub(super) fn organisation() -> OrganisationId {
    OrganisationId::parse("org_sim").expect("a valid name")
}

/// As the receiver makes them of a request that comes at `now`.
pub(super) fn received_keys(application: ApplicationKey, number: u8, now: Timestamp) -> ReceivedKeys {
    let window = now.as_micros().div_euclid(WINDOW);
    let key = |window: i64| {
        let mut key = dedupe(3, application.0 as u8, number);
        key.0[8..].copy_from_slice(&window.to_be_bytes());
        key
    };
    let since = Sequence::first_at(now.minus(Duration::from_micros(WINDOW.unsigned_abs())));
    ReceivedKeys {
        number,
        own: key(window),
        earlier: Earlier { key: key(window - 1), since, next: Some(key(window + 1)) },
    }
}

fn dedupe(kind: u8, scope: u8, key: u8) -> DedupeKey {
    let mut bytes = [0; 16];
    bytes[..3].copy_from_slice(&[kind, scope, key]);
    DedupeKey(bytes)
}
