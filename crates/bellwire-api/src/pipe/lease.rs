//! Deliveries handed out for a while: receive, acknowledge, refuse, keep longer.
//!
//! What a reader says is durable before it is answered. A receipt that opens nothing is told apart from those beside it, which count all
//! the same; one that was used before did its work then, and is no mistake.

use super::consumer::check_pipe;
use super::event::{self, LeaseOut, headers, signer};
use super::expiry;
use super::hands::{Hand, Hands};
use super::log::in_time;
use super::pull::WAIT_MAX;
use super::shaped::{self, Allowance, Given, Made};
use super::wake::Watch;
use super::{Desk, TAG};
use crate::Api;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::field::Faults;
use crate::message::MessageOut;
use crate::operation::{Access, Operation};
use crate::wire::Time;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_engine::{Holder, Receipt, ReceiptError, Use};
use bellwire_model::{
    AfterAttempt, AttemptNumber, Delivery, DeliveryState, EndReason, Endpoint, EndpointKey, FailureClass, Kind,
    Message, Outcome, Pipe, RESPONSE_BODY_MAX, Sequence, Timestamp, Waiting,
};
use bellwire_store::{Change, DeliveryOfMessage, Settled, told};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const LIMIT_DEFAULT: usize = 10;
pub(super) const LIMIT_MAX: usize = 1_000;
/// The longest lease, and the longest that a delivery can be put off.
const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);
const DELAY_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Refused without a delay, a delivery comes again after a second, then two, then four, up to this.
const DELAY_DEFAULT_MAX: Duration = Duration::from_secs(60);
const REASON_MAX: usize = 1_000;
/// Leases that ended are taken back so many at a time.
const ENDED_MAX: usize = 1_000;
/// Where an ordering key says what must wait for what, so many rows are looked at beyond those that are wanted.
const LOOKED_BEYOND: usize = 1_000;
/// No further message is read to be handed out once there are so many bytes of payload;
const BYTES_MAX: usize = 4 << 20;
/// more where an ordering key may have most of them wait.
const ORDERED_BYTES_MAX: usize = 16 << 20;

pub(super) fn operations() -> Vec<Operation> {
    let path = |verb| match verb {
        "receive" => "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/receive",
        "ack" => "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/ack",
        "nack" => "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/nack",
        _ => "/api/v1/app/{app_id}/endpoint/{endpoint_id}/pull/extend",
    };
    vec![
        Operation::new(Method::POST, path("receive"), Access::Application, receive_call)
            .described(
                "v1.pipe.receive",
                TAG,
                "Take deliveries that wait, oldest first, for a while. Nobody else gets them until they are acknowledged, refused, or the while is over.",
            )
            .body_or_nothing::<ReceiveIn>()
            .answers::<ReceiveOut<'static>>(200),
        Operation::editing(Method::POST, path("ack"), Access::Application, ack)
            .described("v1.pipe.ack", TAG, "Acknowledge deliveries: they are delivered. Saying it twice is no mistake.")
            .body::<AckIn>()
            .answers::<AnswersOut>(200),
        Operation::editing(Method::POST, path("nack"), Access::Application, nack)
            .described("v1.pipe.nack", TAG, "Refuse deliveries: they come again later, or never.")
            .body::<NackIn>()
            .answers::<AnswersOut>(200),
        Operation::editing(Method::POST, path("extend"), Access::Application, extend)
            .described("v1.pipe.extend", TAG, "Keep deliveries longer.")
            .body::<ExtendIn>()
            .answers::<AnswersOut>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PipeReceiveIn")]
struct ReceiveIn {
    /// At most so many, 1000 at most; 10 if absent.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
    /// Wait so many seconds for a delivery if there is none, 30 at most.
    #[schemars(range(max = 30))]
    wait: Option<u64>,
    /// For so many seconds; the pipe's `lease` if absent.
    #[schemars(range(min = 1, max = 43_200))]
    lease: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PipeReceiveOut")]
struct ReceiveOut<'a> {
    data: Vec<LeaseOut<'a>>,
}

/// How it went at the reader's, for the attempt log.
#[derive(Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PipeResultIn")]
pub(super) struct ResultIn {
    /// An HTTP status
    #[schemars(required, range(min = 100, max = 599))]
    pub(super) status: Option<u16>,
    /// What was answered; cut off where a response would be.
    body: Option<String>,
    /// How long it took
    duration_ms: Option<u64>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "PipeAckIn")]
pub(super) struct AckIn {
    #[schemars(required, length(min = 1, max = 1000))]
    pub(super) receipts: Option<Vec<String>>,
    pub(super) result: Option<ResultIn>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "PipeNackIn")]
pub(super) struct NackIn {
    #[schemars(required, length(min = 1, max = 1000))]
    pub(super) receipts: Option<Vec<String>>,
    /// Come again after so many seconds, 604800 at most. If absent: after 1, 2, 4, … seconds, at most 60.
    pub(super) delay: Option<u64>,
    /// Do not come again: the delivery ends as exhausted.
    #[serde(default)]
    pub(super) dead: bool,
    /// For the attempt log
    #[schemars(length(max = 1000))]
    pub(super) reason: Option<String>,
    pub(super) result: Option<ResultIn>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PipeExtendIn")]
pub(super) struct ExtendIn {
    #[schemars(required, length(min = 1, max = 1000))]
    receipts: Option<Vec<String>>,
    /// So many seconds from now; the pipe's `lease` if absent.
    #[schemars(range(min = 1, max = 43_200))]
    lease: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PipeAnswersOut")]
struct AnswersOut {
    data: Vec<AnswerOut>,
}

/// What became of one receipt.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PipeAnswerOut")]
pub(super) struct AnswerOut {
    receipt: String,
    /// 200, or 409 if the receipt opens nothing.
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// A delivery that was handed out.
pub(super) struct Leased {
    pub(super) receipt: Receipt,
    pub(super) number: AttemptNumber,
    pub(super) until: Timestamp,
    pub(super) given: Given,
}

/// As readers get them.
pub(super) fn shown<'a>(endpoint: &Endpoint, leased: &'a [Leased], now: Timestamp) -> Vec<LeaseOut<'a>> {
    let signer = signer(endpoint, now);
    let one = |leased: &'a Leased| {
        let Given { message, headers: own, .. } = &leased.given;
        LeaseOut {
            receipt: write_receipt(endpoint.key, leased.receipt),
            attempt: leased.number,
            leased_until: Time(leased.until),
            message: MessageOut::new(message, true, now),
            headers: headers(endpoint, &signer, message, own, now),
            body: event::text_of(message),
            body_base64: event::base64_of(message),
        }
    };
    leased.iter().map(one).collect()
}

fn write_receipt(endpoint: EndpointKey, receipt: Receipt) -> String {
    let mut bytes = [0; 20];
    bytes[..4].copy_from_slice(&endpoint.0.to_be_bytes());
    bytes[4..12].copy_from_slice(&receipt.message.as_u64().to_be_bytes());
    bytes[12..].copy_from_slice(&receipt.lease.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn read_receipt(endpoint: EndpointKey, text: &str) -> Option<Receipt> {
    let bytes: [u8; 20] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let (key, rest) = bytes.split_at(4);
    let (message, lease) = rest.split_at(8);
    let message = u64::from_be_bytes(message.try_into().ok()?);
    let own = u32::from_be_bytes(key.try_into().ok()?) == endpoint.0 && message <= Sequence::MAX.as_u64();
    let lease = u64::from_be_bytes(lease.try_into().ok()?);
    own.then_some(Receipt { message: Sequence::from_u64(message), lease })
}

/// Receipts that are in use until what follows is durable; whatever happens to the request, they do not stay so.
pub(super) struct Using {
    pub(super) desk: Arc<Desk>,
    pub(super) what: Use,
    pub(super) receipts: Vec<Receipt>,
}

impl Using {
    pub(super) fn finish(mut self) {
        let mut leases = self.desk.leases.lock();
        std::mem::take(&mut self.receipts).into_iter().for_each(|receipt| leases.finish(receipt, self.what));
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        let mut leases = self.desk.leases.lock();
        self.receipts.drain(..).for_each(|receipt| leases.give_back(receipt));
    }
}

/// The endpoint as it is now, and its settings as a pipe.
pub(super) fn pipe_of(api: &Api, key: EndpointKey) -> Result<(Arc<Endpoint>, Pipe), Error> {
    let endpoint = api.backend().catalogue().read().endpoint(key).cloned().ok_or_else(Error::not_found)?;
    check_pipe(&endpoint)?;
    expiry::noticed(api, &endpoint);
    let Kind::Pipe(pipe) = endpoint.kind.clone() else { return Err(Error::not_found()) };
    Ok((endpoint, pipe))
}

/// Takes up to `limit` deliveries, as soon as there is one, or none at `deadline`.
pub(super) async fn receive(
    api: &Api,
    hand: Hand,
    reader: &Arc<str>,
    limit: usize,
    lease: Option<Duration>,
    watch: &mut Watch,
    deadline: Instant,
) -> Result<Vec<Leased>, Error> {
    let key = hand.endpoint;
    loop {
        watch.seen();
        let (endpoint, pipe) = pipe_of(api, key)?;
        take_back(api, &endpoint, &pipe).await?;
        let rate = endpoint.limits.throttle_rate;
        let rates = &api.backend().pipes().rates;
        let looked = api.backend().now();
        let mut wait = match rates.take((key, reader), rate, limit, looked) {
            Err(wait) => wait,
            Ok(taken) => {
                let got = hand_out(api, &endpoint, &pipe, hand.holder, taken, lease.unwrap_or(pipe.lease)).await;
                let used = got.as_ref().map_or(0, |got| got.leased.len());
                rates.put_back((key, reader), rate, taken.saturating_sub(used));
                let HandedOut { leased, more, again, due } = got?;
                if again {
                    continue;
                }
                if !leased.is_empty() || Instant::now() >= deadline || watch.is_closing() {
                    return Ok(leased);
                }
                if more { Duration::ZERO } else { until_next(api, &endpoint, &pipe, looked, due).await? }
            }
        };
        wait = wait.max(Duration::from_millis(1));
        tokio::select! {
            () = watch.news() => {}
            () = tokio::time::sleep_until(deadline.min(Instant::now() + wait)) => {}
        }
        if Instant::now() >= deadline && rate.is_some() {
            return Ok(Vec::new());
        }
    }
}

/// How long until a lease ends or something is due that was not at `looked`. In order, `due` is known: what is due behind the first is not to be had yet.
async fn until_next(
    api: &Api,
    endpoint: &Endpoint,
    pipe: &Pipe,
    looked: Timestamp,
    due: Option<Timestamp>,
) -> Result<Duration, Error> {
    let (beside, end) = {
        let desk = api.backend().pipes().desk(endpoint.key);
        let leases = desk.leases.lock();
        (leases.messages(), leases.next_end())
    };
    let key = endpoint.key;
    let due = match in_order(endpoint, pipe) {
        true => due,
        false => {
            let rows =
                api.read(move |store| store.lease_beside(key, false, Timestamp::FAR_FUTURE, &beside, 1, 1)).await?;
            rows.first().map(|(row, _)| row.due)
        }
    };
    let next = [due.filter(|due| *due > looked), end].into_iter().flatten().min();
    let now = api.backend().now();
    Ok(next.map_or(WAIT_MAX, |next| next.since(now)).min(WAIT_MAX))
}

/// Records that leases have ended unanswered.
async fn take_back(api: &Api, endpoint: &Endpoint, pipe: &Pipe) -> Result<(), Error> {
    let desk = api.backend().pipes().desk(endpoint.key);
    let now = api.backend().now();
    let ended = desk.leases.lock().begin_ended(now, ENDED_MAX);
    if ended.is_empty() {
        return Ok(());
    }
    let what = Use::End;
    let using = Using { desk: Arc::clone(&desk), what, receipts: ended.iter().map(|(receipt, _)| *receipt).collect() };
    let settled = ended.iter().map(|(receipt, number)| Settled {
        delivery: Delivery { endpoint: endpoint.key, message: receipt.message },
        number: *number,
        at: now,
        outcome: told(now, Err(FailureClass::Timeout), "the lease ended without an answer".to_owned()),
        after: again(*number, pipe, now),
    });
    let changes = vec![Change::Settle(settled.collect())];
    commit(api, endpoint.key, changes, using).await
}

/// Writes what follows. On a task of its own, so that a client that hangs up does not leave it half done.
pub(super) async fn commit(api: &Api, key: EndpointKey, changes: Vec<Change>, using: Using) -> Result<(), Error> {
    let api = api.clone();
    let written = tokio::spawn(async move {
        let settled = api.backend().settle(changes).await;
        match settled {
            Ok(()) => using.finish(),
            Err(_) => drop(using),
        }
        // Not before: who looked while the deliveries were still out would find nothing.
        api.backend().pipes().wakes.rouse(key);
        settled
    });
    Ok(written.await.map_err(|error| Error::Internal(format!("a commit ended: {error}")))??)
}

/// What follows attempt `number` if it failed: another one at `due`, unless it was the last.
pub(super) fn again(number: AttemptNumber, pipe: &Pipe, due: Timestamp) -> AfterAttempt {
    if number >= u32::from(pipe.attempts_max) {
        AfterAttempt::Ended(EndReason::Exhausted)
    } else {
        AfterAttempt::Waiting { due }
    }
}

/// What was given out at one go.
struct HandedOut {
    leased: Vec<Leased>,
    /// There may be more that is due: some of what there was came to nothing, or was not looked at yet.
    more: bool,
    /// It is known better by now what there is to look at: there may be something at once.
    again: bool,
    /// Where deliveries are handed out in order: when the next first one is due.
    due: Option<Timestamp>,
}

/// Gives out what waits and nobody has. What the endpoint's script fails at is an attempt that failed.
async fn hand_out(
    api: &Api,
    endpoint: &Arc<Endpoint>,
    pipe: &Pipe,
    holder: Holder,
    limit: usize,
    lease: Duration,
) -> Result<HandedOut, Error> {
    let desk = api.backend().pipes().desk(endpoint.key);
    let mut behind = desk.behind.lock().await;
    let fifo = endpoint.limits.fifo;
    behind.by(pipe.ordering_key.as_deref().filter(|_| !fifo));
    let (mut beside, mut blocked, free) = {
        let leases = desk.leases.lock();
        let in_flight_max = if fifo { 1 } else { usize::from(pipe.in_flight_max) };
        (leases.messages(), leases.keys(), in_flight_max.saturating_sub(leases.len()))
    };
    let want = limit.min(free);
    if want == 0 {
        return Ok(HandedOut { leased: Vec::new(), more: false, again: false, due: None });
    }
    let in_order = in_order(endpoint, pipe);
    let (key, now) = (endpoint.key, api.backend().now());
    // What is behind the first of a FIFO endpoint need not be looked at.
    let (looked, bytes_max) =
        if in_order && !fifo { (want + LOOKED_BEYOND, ORDERED_BYTES_MAX) } else { (want, BYTES_MAX) };
    beside.extend(behind.messages());
    let rows = api.read(move |store| store.lease_beside(key, in_order, now, &beside, looked, bytes_max)).await?;
    let now = api.backend().now();
    let (mut handed, mut unmade) = (Vec::new(), Vec::new());
    let (mut anew, mut looked_to) = (false, Sequence::MAX);
    let (mut allowance, mut more, mut due) = (Allowance::new(), false, None);
    for (row, message) in rows {
        if handed.len() == want {
            looked_to = row.delivery.message;
            break;
        }
        if allowance.is_spent() && !(handed.is_empty() && unmade.is_empty()) {
            (more, looked_to) = (true, row.delivery.message);
            break;
        }
        if message.payload.is_none() || message.expires_at <= now {
            unmade.push(expired(&row, now));
            continue;
        }
        let ordered = ordering(endpoint, pipe, &message);
        if let Some(key) = ordered {
            let at = row.delivery.message;
            if !blocked.insert(key) {
                anew |= behind.note(key, at);
                continue;
            }
            // What those stood behind is gone, and they come before this one.
            if behind.has_older(key, at) {
                behind.release(key);
                anew = true;
                continue;
            }
        }
        if row.due > now {
            due = Some(due.map_or(row.due, |due: Timestamp| due.min(row.due)));
            continue;
        }
        let begun = Instant::now();
        let given = match shaped::make(api, endpoint, message, now, &mut allowance).await {
            Made::Given(given) => given,
            Made::Cancelled(text) => {
                let after = AfterAttempt::Ended(EndReason::Cancelled);
                unmade.push(not_made(row, begun, FailureClass::Cancelled, text, after, api.backend().now()));
                continue;
            }
            Made::Failed(_, class, text) => {
                let now = api.backend().now();
                let after = again(row.next, pipe, now.plus(wait_after(row.next)));
                unmade.push(not_made(row, begun, class, text, after, now));
                continue;
            }
        };
        let until = api.backend().now().plus(lease);
        let receipt = desk.leases.lock().give(row.delivery.message, row.next, ordered, holder, until);
        if let Some(receipt) = receipt {
            handed.push(Leased { receipt, number: row.next, until, given });
        }
    }
    anew |= behind.release_but(&blocked, looked_to);
    if !unmade.is_empty() {
        more = true;
        api.backend().settle(vec![Change::Settle(unmade)]).await?;
        api.backend().pipes().wakes.rouse(key);
    }
    Ok(HandedOut { again: anew && handed.is_empty(), leased: handed, more, due })
}

/// The attempt at a delivery that the endpoint's script, or its format, gave nothing for.
fn not_made(
    row: Waiting,
    begun: Instant,
    class: FailureClass,
    text: String,
    after: AfterAttempt,
    now: Timestamp,
) -> Settled {
    let duration = begun.elapsed();
    let outcome = Outcome { duration, ..told(now.minus(duration), Err(class), text) };
    Settled { delivery: row.delivery, number: row.next, at: now, outcome, after }
}

/// How long a delivery waits that was refused, or failed, at this attempt.
pub(super) fn wait_after(number: AttemptNumber) -> Duration {
    Duration::from_secs(1 << number.clamp(1, 7) >> 1).min(DELAY_DEFAULT_MAX)
}

/// The end of a delivery whose payload is gone.
fn expired(row: &Waiting, now: Timestamp) -> Settled {
    let text = "the payload's retention has ended".to_owned();
    Settled {
        delivery: row.delivery,
        number: row.next,
        at: now,
        outcome: told(now, Err(FailureClass::Unsendable), text),
        after: AfterAttempt::Ended(EndReason::Expired),
    }
}

/// Whether deliveries wait for others that were accepted before them.
fn in_order(endpoint: &Endpoint, pipe: &Pipe) -> bool {
    endpoint.limits.fifo || pipe.ordering_key.is_some()
}

/// Two deliveries with the same are handed out one after the other.
fn ordering(endpoint: &Endpoint, pipe: &Pipe, message: &Message) -> Option<u64> {
    if endpoint.limits.fifo {
        return Some(0);
    }
    let pointer = pipe.ordering_key.as_deref()?;
    let value: serde_json::Value =
        serde_json::from_slice(bellwire_body::without_mark(message.payload.as_deref()?)).ok()?;
    let mut hasher = DefaultHasher::new();
    value.pointer(pointer)?.to_string().hash(&mut hasher);
    Some(hasher.finish())
}

async fn receive_call(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let body = call.json_or_nothing().await?;
    let input: ReceiveIn = body.parse()?;
    let mut faults = Faults::new();
    let limit = input.limit.unwrap_or(LIMIT_DEFAULT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        faults.add("limit", "`limit` is between 1 and 1000");
    }
    let wait = Duration::from_secs(input.wait.unwrap_or(0));
    if wait > WAIT_MAX {
        faults.add("wait", "`wait` is 30 seconds at most");
    }
    let lease = lease(&mut faults, input.lease);
    faults.end()?;
    check_pipe(&endpoint)?;
    let api = &call.api;
    let mut watch = api.backend().pipes().wakes.watch(endpoint.key);
    let mut hands = Hands::new(api, endpoint.key);
    let leased = receive(api, hands.hand, &"".into(), limit, lease, &mut watch, in_time(wait)).await?;
    hands.keep();
    let data = shown(&endpoint, &leased, api.backend().now());
    Ok(error::json(StatusCode::OK, &ReceiveOut { data }))
}

fn lease(faults: &mut Faults, seconds: Option<u64>) -> Option<Duration> {
    let lease = seconds.map(Duration::from_secs);
    if lease.is_some_and(|lease| lease.is_zero() || lease > LEASE_MAX) {
        faults.add("lease", "`lease` is between 1 and 43200 seconds");
    }
    lease
}

fn receipts(faults: &mut Faults, receipts: Option<Vec<String>>) -> Vec<String> {
    let receipts = faults.required("receipts", receipts).unwrap_or_default();
    if receipts.len() > LIMIT_MAX {
        faults.add("receipts", "`receipts` has at most 1000 members");
    }
    receipts
}

impl ResultIn {
    fn check(&self, faults: &mut Faults) {
        if self.status.is_none_or(|status| !(100..=599).contains(&status)) {
            faults.add_at(&["result", "status"], "`status` is an HTTP status, between 100 and 599");
        }
    }

    fn outcome(self, now: Timestamp) -> Outcome {
        let mut body = Bytes::from(self.body.unwrap_or_default());
        body.truncate(RESPONSE_BODY_MAX);
        let duration = Duration::from_millis(self.duration_ms.unwrap_or(0)).min(LEASE_MAX);
        let result = Ok(self.status.unwrap_or(200));
        Outcome { started_at: now.minus(duration), duration, body, ..told(now, result, String::new()) }
    }
}

async fn ack(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let body = call.json().await?;
    let data = acknowledge(&call.api, endpoint.key, body.parse()?).await?;
    Ok(error::json(StatusCode::OK, &AnswersOut { data }))
}

/// What a reader took well is delivered, durably.
pub(super) async fn acknowledge(api: &Api, endpoint: EndpointKey, input: AckIn) -> Result<Vec<AnswerOut>, Error> {
    let mut faults = Faults::new();
    let receipts = receipts(&mut faults, input.receipts);
    input.result.iter().for_each(|result| result.check(&mut faults));
    faults.end()?;
    let now = api.backend().now();
    let outcome = match input.result {
        Some(result) => result.outcome(now),
        None => told(now, Ok(200), "acknowledged".to_owned()),
    };
    use_receipts(api, endpoint, receipts, Use::Acknowledge, |_, _| (outcome.clone(), AfterAttempt::Delivered)).await
}

async fn nack(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let body = call.json().await?;
    let data = refuse(&call.api, endpoint.key, body.parse()?).await?;
    Ok(error::json(StatusCode::OK, &AnswersOut { data }))
}

/// What a reader did not take well comes again, or never, durably.
pub(super) async fn refuse(api: &Api, endpoint: EndpointKey, input: NackIn) -> Result<Vec<AnswerOut>, Error> {
    let mut faults = Faults::new();
    let receipts = receipts(&mut faults, input.receipts);
    let delay = input.delay.map(Duration::from_secs);
    if delay.is_some_and(|delay| delay > DELAY_MAX) {
        faults.add("delay", "`delay` is 604800 seconds at most");
    }
    if input.reason.as_ref().is_some_and(|reason| reason.len() > REASON_MAX) {
        faults.add("reason", "`reason` has at most 1000 bytes");
    }
    input.result.iter().for_each(|result| result.check(&mut faults));
    faults.end()?;
    let now = api.backend().now();
    let outcome = match input.result {
        Some(result) => result.outcome(now),
        None => told(now, Ok(503), input.reason.unwrap_or_else(|| "refused".to_owned())),
    };
    use_receipts(api, endpoint, receipts, Use::Refuse, |number, pipe| {
        let wait = delay.unwrap_or_else(|| wait_after(number));
        let after = match input.dead {
            true => AfterAttempt::Ended(EndReason::Exhausted),
            false => again(number, pipe, now.plus(wait)),
        };
        (outcome.clone(), after)
    })
    .await
}

/// Ends or puts off what the receipts open, durably, and answers what became of each.
async fn use_receipts(
    api: &Api,
    key: EndpointKey,
    receipts: Vec<String>,
    what: Use,
    follow: impl Fn(AttemptNumber, &Pipe) -> (Outcome, AfterAttempt),
) -> Result<Vec<AnswerOut>, Error> {
    let (endpoint, pipe) = pipe_of(api, key)?;
    let desk = api.backend().pipes().desk(endpoint.key);
    let now = api.backend().now();
    let mut using = Using { desk: Arc::clone(&desk), what, receipts: Vec::new() };
    let (mut settled, mut answers, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for text in receipts {
        let receipt = read_receipt(endpoint.key, &text);
        let begun = match receipt {
            None => Err(ReceiptError::Ended),
            Some(receipt) if !seen.insert(receipt) => Err(ReceiptError::Used),
            Some(receipt) => desk.leases.lock().begin(receipt, what, now).map(|number| (receipt, number)),
        };
        match begun {
            Ok((receipt, number)) => {
                using.receipts.push(receipt);
                let (outcome, after) = follow(number, &pipe);
                let delivery = Delivery { endpoint: endpoint.key, message: receipt.message };
                settled.push(Settled { delivery, number, at: now, outcome, after });
                answers.push(AnswerOut { receipt: text, status: 200, detail: None });
            }
            Err(ReceiptError::Used) => answers.push(AnswerOut { receipt: text, status: 200, detail: None }),
            Err(error) => {
                answers.push(AnswerOut { receipt: text, status: 409, detail: Some(error.to_string()) });
            }
        }
    }
    if !settled.is_empty() {
        commit(api, endpoint.key, vec![Change::Settle(settled)], using).await?;
    }
    Ok(answers)
}

/// Ends or puts off deliveries of these messages that wait, each for its reason, durably, whoever has them or whether anybody has.
pub(super) async fn settle(
    api: &Api,
    key: EndpointKey,
    messages: Vec<(Sequence, Outcome)>,
    what: Use,
    after: AfterAttempt,
) -> Result<(), Error> {
    let desk = api.backend().pipes().desk(key);
    let now = api.backend().now();
    let mut using = Using { desk: Arc::clone(&desk), what, receipts: Vec::new() };
    let (mut settled, mut unheld, mut seen) = (Vec::new(), HashMap::new(), HashSet::new());
    let one = |message, number, outcome| {
        let delivery = Delivery { endpoint: key, message };
        Settled { delivery, number, at: now, outcome, after }
    };
    for (message, outcome) in messages {
        if !seen.insert(message) {
            continue;
        }
        let mut leases = desk.leases.lock();
        let receipt = leases.receipt(message);
        match receipt.and_then(|receipt| Some((receipt, leases.begin(receipt, what, now).ok()?))) {
            Some((receipt, number)) => {
                using.receipts.push(receipt);
                settled.push(one(message, number, outcome));
            }
            None => drop(unheld.insert(message, outcome)),
        }
    }
    if !unheld.is_empty() {
        let asked: Vec<Sequence> = unheld.keys().copied().collect();
        let read = api.read(move |store| {
            asked.iter().map(|message| store.delivery(Delivery { endpoint: key, message: *message })).collect()
        });
        let deliveries: Vec<Option<DeliveryOfMessage>> = read.await?;
        settled.extend(deliveries.into_iter().flatten().filter_map(|delivery| match delivery.state {
            DeliveryState::Waiting(row) => {
                Some(one(row.delivery.message, row.next, unheld.remove(&row.delivery.message)?))
            }
            _ => None,
        }));
    }
    if settled.is_empty() {
        return Ok(());
    }
    commit(api, key, vec![Change::Settle(settled)], using).await
}

/// Whether a reader who asked now would get something.
pub(super) async fn is_there_more(api: &Api, endpoint: &Endpoint) -> Result<bool, Error> {
    let (_, pipe) = pipe_of(api, endpoint.key)?;
    let (beside, free) = {
        let desk = api.backend().pipes().desk(endpoint.key);
        let leases = desk.leases.lock();
        (leases.messages(), usize::from(pipe.in_flight_max).saturating_sub(leases.len()))
    };
    let (key, now) = (endpoint.key, api.backend().now());
    Ok(free > 0 && !api.read(move |store| store.lease_beside(key, false, now, &beside, 1, 1)).await?.is_empty())
}

async fn extend(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let body = call.json().await?;
    let data = keep(&call.api, endpoint.key, body.parse()?)?;
    Ok(error::json(StatusCode::OK, &AnswersOut { data }))
}

/// Makes leases last longer.
pub(super) fn keep(api: &Api, key: EndpointKey, input: ExtendIn) -> Result<Vec<AnswerOut>, Error> {
    let mut faults = Faults::new();
    let receipts = receipts(&mut faults, input.receipts);
    let lease = lease(&mut faults, input.lease);
    faults.end()?;
    let (endpoint, pipe) = pipe_of(api, key)?;
    let desk = api.backend().pipes().desk(endpoint.key);
    let now = api.backend().now();
    let until = now.plus(lease.unwrap_or(pipe.lease));
    let one = |text: String| {
        let receipt = read_receipt(endpoint.key, &text).ok_or(ReceiptError::Ended);
        let extended = receipt.and_then(|receipt| desk.leases.lock().extend(receipt, now, until));
        match extended {
            Ok(()) => AnswerOut { receipt: text, status: 200, detail: None },
            Err(error) => AnswerOut { receipt: text, status: 409, detail: Some(error.to_string()) },
        }
    };
    Ok(receipts.into_iter().map(one).collect())
}
