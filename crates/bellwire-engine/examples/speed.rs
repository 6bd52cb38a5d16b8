//! What the hot path costs: offers, commits and attempts, without a store or a network. `cargo run --release --example speed`.

use bellwire_engine::{Draft, Effect, Ended, Engine, EngineSettings, Input, Intake, IntakeSettings};
use bellwire_model::{
    ApplicationKey, DedupeKey, Endpoint, EndpointId, EndpointKey, Now, Outcome, RequestDigest, Sequence, Timestamp,
};
use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BATCHES: u64 = 2_000;
const MESSAGES: u64 = 300;
const ENDPOINTS: u64 = 50;

fn endpoint(key: u32) -> Endpoint {
    Endpoint::new(
        EndpointKey(key),
        ApplicationKey(1),
        EndpointId::from_parts(Sequence::from_u64(u64::from(key)), [0; 12]),
        "https://example.com",
        Timestamp::EPOCH,
    )
}

#[allow(clippy::disallowed_methods, reason = "it measures")]
fn main() {
    let settings = IntakeSettings {
        shards: 1,
        batch_messages_max: 1_000,
        batch_bytes_max: 1 << 20,
        queue_messages_max: 10_000,
        queue_bytes_max: 1 << 24,
    };
    let mut intake = Intake::new(settings, Sequence::ZERO, [0; 32]);
    let mut engine = Engine::new(EngineSettings::default(), [0; 32]);
    let mut effects = Vec::new();
    let mut time = Timestamp::from_seconds(1_800_000_000);
    let at = |time| Now { engine: time, wall: time };
    for key in 0..ENDPOINTS as u32 {
        engine.step(at(time), Input::Endpoint(Arc::new(endpoint(key))), &mut effects);
    }
    let recovered = Input::Recovered { fresh: Vec::new(), waiting: Vec::new(), through: Sequence::ZERO };
    engine.step(at(time), recovered, &mut effects);
    let (mut offers, mut seals, mut steps, mut delivered) = (Duration::ZERO, Duration::ZERO, Duration::ZERO, 0_u64);
    for batch in 0..BATCHES {
        time = time.plus(Duration::from_millis(10));
        let drafts: Vec<_> = (0..MESSAGES).map(|n| draft(batch * MESSAGES + n)).collect();
        let begin = Instant::now();
        for draft in drafts {
            let looked = intake.looked();
            intake.offer(time, draft, looked).expect("there is room");
        }
        offers += begin.elapsed();
        let begin = Instant::now();
        drop(intake.seal());
        let told = intake.committed().remove(0);
        seals += begin.elapsed();
        let begin = Instant::now();
        engine.step(at(time), Input::Committed(told), &mut effects);
        let mut ended = Vec::new();
        loop {
            let mut written = Vec::new();
            for effect in effects.drain(..) {
                match effect {
                    Effect::Start(start) => ended.push(Ended { token: start.token, outcome: ok(time) }),
                    Effect::Write(undurable) => written.push(undurable),
                    _ => {}
                }
            }
            intake.record(0, time, written, engine.watermark());
            if ended.is_empty() {
                break;
            }
            delivered += ended.len() as u64;
            engine.step(at(time), Input::Ended(std::mem::take(&mut ended)), &mut effects);
        }
        steps += begin.elapsed();
    }
    let each = |what: &str, time: Duration, n: u64| println!("{what}: {} ns", time.as_nanos() / u128::from(n.max(1)));
    each("an offer with a key", offers, BATCHES * MESSAGES);
    each("seal and commit, per message", seals, BATCHES * MESSAGES);
    each("committed, started, ended, recorded, per delivery", steps, delivered);
    println!("{delivered} of {} delivered, {} in hand", BATCHES * MESSAGES, engine.in_hand().0);
}

fn draft(number: u64) -> Draft {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&number.to_be_bytes());
    let fan_out = [EndpointKey((number % ENDPOINTS) as u32)].into_iter().collect();
    Draft {
        idempotency: Some((DedupeKey(key), RequestDigest([0; 8]))),
        ..Draft::new(ApplicationKey(1), fan_out, "invoice.paid", "{}", Timestamp::FAR_FUTURE)
    }
}

fn ok(time: Timestamp) -> Outcome {
    Outcome {
        started_at: time,
        duration: Duration::from_millis(1),
        result: Ok(200),
        body: Bytes::new(),
        retry_after: None,
        directive: None,
        url: None,
        phases: Default::default(),
    }
}
