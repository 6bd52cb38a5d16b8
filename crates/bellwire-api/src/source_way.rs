//! The ways by which a source brings messages in beside requests at its URL: by a schedule, out of a table, off a queue.
//!
//! Such a source has no listener URL and nothing that concerns requests; whoever gives it something of that kind is told so. A source keeps
//! its way: for another one, make another source.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::source::{TAG, find};
use crate::wire::{Text, Time};
use axum::response::Response;
use bellwire_model::{
    Cron, Database, MessageId, Missed, Outbox, OutboxColumns, SecretText, Source, Then, Timestamp, Way,
};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::Duration;

/// Instead of a setting that is a secret. Sent back, it means: as it was.
const CONCEALED: &str = "***";
/// What only a source that others post to has.
const OF_REQUESTS: [&str; 15] = [
    "preset",
    "recipe",
    "settings",
    "secrets",
    "path",
    "methods",
    "contentType",
    "bodyBytesMax",
    "rate",
    "allowedNetworks",
    "trustedProxies",
    "dedupe",
    "eventTypeFrom",
    "url",
    "answer",
];
const TEXT_MAX: usize = 256;
const PAYLOAD_MAX: usize = 64 << 10;
const DSN_MAX: usize = 4_096;
const QUEUE_MAX: usize = 64 << 10;
const MISSED_MAX: u32 = 400;
const POLL_SECONDS_MAX: f64 = 3_600.0;
const SETTLE_SECONDS_MAX: u32 = 24 * 3_600;

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/source/{source_id}/state", Access::Organisation, state)
            .described(
                "v1.source.get-state",
                TAG,
                "Get how a source is doing that fetches its messages itself: when it last looked, how far it has got, and its last error.",
            )
            .answers::<SourceStateOut>(200),
        Operation::new(Method::POST, "/api/v1/source/{source_id}/run", Access::Organisation, run)
            .described(
                "v1.source.run",
                TAG,
                "Run a source's schedule now: one message, with the time of now and the last instant of the schedule before it. The schedule goes on as before.",
            )
            .answers::<SourceRunOut>(202),
    ]
}

/// How a source's messages come in.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SourceWay")]
pub(crate) enum WayName {
    /// Others post to its listener URL.
    Http,
    /// By a schedule.
    Cron,
    /// Out of a table of your database.
    Outbox,
    /// Off a queue.
    Queue,
}

impl WayName {
    pub(crate) fn of(way: &Way) -> Self {
        match way {
            Way::Http => WayName::Http,
            Way::Cron(_) => WayName::Cron,
            Way::Outbox(_) => WayName::Outbox,
            Way::Queue(_) => WayName::Queue,
        }
    }
}

/// A message at every instant of a schedule.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "SourceCron")]
pub(crate) struct CronWire {
    /// Five fields (minute, hour, day of the month, month, day of the week), or six with seconds before them; or a word such as
    /// `@daily`. `L` is the last day: `0 18 L * *`.
    schedule: String,
    /// The time zone by its IANA name, such as `Europe/Berlin`; `UTC` if absent.
    #[serde(default = "utc")]
    zone: String,
    /// The payload; `{{time}}` and `{{previous}}` in its texts become the instant and the one before it. An object with both if absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    payload: Option<Value>,
    /// What becomes of instants that passed while the server was not there: `skip` them, `one` message for all of them, or `all`.
    #[serde(default = "one")]
    missed: MissedWire,
    /// With `all`: for the newest so many of them; 100 if absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schemars(range(min = 1, max = 400))]
    missed_max: Option<u32>,
}

fn utc() -> String {
    "UTC".to_owned()
}

fn one() -> MissedWire {
    MissedWire::One
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SourceCronMissed")]
enum MissedWire {
    Skip,
    One,
    All,
}

impl CronWire {
    fn of(cron: &Cron) -> Self {
        let (missed, missed_max) = match cron.missed {
            Missed::Skip => (MissedWire::Skip, None),
            Missed::One => (MissedWire::One, None),
            Missed::All(most) => (MissedWire::All, Some(most)),
        };
        CronWire {
            schedule: cron.schedule.clone(),
            zone: cron.zone.clone(),
            payload: cron.payload.as_deref().and_then(|text| serde_json::from_str(text).ok()),
            missed,
            missed_max,
        }
    }

    /// Over a source of before, which keeps its place unless it was disabled or the schedule is another one.
    fn check(self, faults: &mut Faults, now: Timestamp, old: Option<&Source>) -> Cron {
        for (field, text) in [("schedule", &self.schedule), ("zone", &self.zone)] {
            if text.len() > TEXT_MAX {
                faults.add_at(&["cron", field], format!("`{field}` must have at most {TEXT_MAX} characters"));
            }
        }
        let payload = self.payload.map(|payload| payload.to_string());
        if payload.as_ref().is_some_and(|text| text.len() > PAYLOAD_MAX) {
            faults.add_at(&["cron", "payload"], format!("`payload` must have at most {PAYLOAD_MAX} bytes"));
        }
        let most = self.missed_max.unwrap_or(100);
        if self.missed_max.is_some() && self.missed != MissedWire::All {
            faults.add_at(&["cron", "missedMax"], "`missedMax` goes with `missed`: `all`");
        } else if !(1..=MISSED_MAX).contains(&most) {
            faults.add_at(&["cron", "missedMax"], format!("`missedMax` must be between 1 and {MISSED_MAX}"));
        }
        let before = old.filter(|old| !old.disabled).and_then(|old| match &old.way {
            Way::Cron(cron) if (&cron.schedule, &cron.zone) == (&self.schedule, &self.zone) => Some(cron.since),
            _ => None,
        });
        Cron {
            schedule: self.schedule,
            zone: self.zone,
            payload,
            missed: match self.missed {
                MissedWire::Skip => Missed::Skip,
                MissedWire::One => Missed::One,
                MissedWire::All => Missed::All(most),
            },
            since: before.unwrap_or(now),
        }
    }
}

/// The rows of a table, each a message.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(rename = "SourceOutbox")]
pub(crate) struct OutboxWire {
    /// A database that the operator has named, PostgreSQL or SQLite. Either this or `dsn`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    connection: Option<String>,
    /// A connection string such as `postgres://user:password@host:5432/database?sslmode=require`, to a host that the address guard
    /// allows. Shown as `***`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    dsn: Option<String>,
    /// The table, such as `outbox` or `billing.outbox`; `outbox` if absent.
    #[serde(default = "outbox")]
    table: String,
    #[serde(default)]
    columns: ColumnsWire,
    /// What becomes of a row once it is a message: `remember` how far we are and leave it, `mark` it, or `delete` it.
    #[serde(default = "remember")]
    then: ThenWire,
    /// How long after a page that was not full the next one is asked for; one second if absent.
    #[serde(default = "second")]
    #[schemars(range(min = 0.05, max = 3600))]
    poll_seconds: f64,
    /// With PostgreSQL and `remember`: for how long at least a row may still turn up with an id below one that was read; ten seconds if
    /// absent.
    #[serde(default = "ten")]
    #[schemars(range(max = 86_400))]
    settle_seconds: u32,
    /// With PostgreSQL: the channel of a NOTIFY that says that there is something to read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    notify: Option<String>,
}

fn outbox() -> String {
    "outbox".to_owned()
}

fn remember() -> ThenWire {
    ThenWire::Remember
}

fn second() -> f64 {
    1.0
}

fn ten() -> u32 {
    10
}

/// What the columns are called.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
#[schemars(rename = "SourceOutboxColumns")]
struct ColumnsWire {
    /// `id` if absent. Its values rise.
    id: String,
    /// `event_type` if absent.
    event_type: String,
    /// `payload` if absent.
    payload: String,
    /// An array of channels; none if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    channels: Option<String>,
    /// When the row was written, for the lag that is shown; unknown if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    /// With `mark`: `processed_at` if absent.
    processed_at: String,
}

impl Default for ColumnsWire {
    fn default() -> Self {
        ColumnsWire {
            id: "id".to_owned(),
            event_type: "event_type".to_owned(),
            payload: "payload".to_owned(),
            channels: None,
            created_at: None,
            processed_at: "processed_at".to_owned(),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(rename = "SourceOutboxThen")]
enum ThenWire {
    Remember,
    Mark,
    Delete,
}

impl OutboxWire {
    fn of(outbox: &Outbox) -> Self {
        let (connection, dsn) = match &outbox.database {
            Database::Named(name) => (Some(name.clone()), None),
            Database::Dsn(_) => (None, Some(CONCEALED.to_owned())),
        };
        let columns = outbox.columns.clone();
        OutboxWire {
            connection,
            dsn,
            table: outbox.table.clone(),
            columns: ColumnsWire {
                id: columns.id,
                event_type: columns.event_type,
                payload: columns.payload,
                channels: columns.channels,
                created_at: columns.created_at,
                processed_at: columns.processed_at,
            },
            then: match outbox.then {
                Then::Remember => ThenWire::Remember,
                Then::Mark => ThenWire::Mark,
                Then::Delete => ThenWire::Delete,
            },
            poll_seconds: outbox.poll.as_secs_f64(),
            settle_seconds: u32::try_from(outbox.settle.as_secs()).unwrap_or(u32::MAX),
            notify: outbox.notify.clone(),
        }
    }

    fn check(self, faults: &mut Faults, old: Option<&Way>) -> Outbox {
        let database = match (self.connection, self.dsn) {
            (Some(name), None) => Database::Named(name),
            (None, Some(text)) => Database::Dsn(SecretText::new(check_dsn(faults, text, old))),
            _ => {
                faults.add("outbox", "one of `connection` and `dsn` is required");
                Database::Named(String::new())
            }
        };
        let name = |faults: &mut Faults, path: &[&str], text: &str, dots: usize| {
            let plain = |part: &str| {
                !part.is_empty()
                    && part.len() <= 63
                    && part.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$')
            };
            if text.split('.').count() > dots + 1 || !text.split('.').all(plain) {
                faults.add_at(path, "must be a name of letters, digits and underscores");
            }
        };
        name(faults, &["outbox", "table"], &self.table, 1);
        let columns = self.columns;
        for (field, text) in [
            ("id", Some(&columns.id)),
            ("eventType", Some(&columns.event_type)),
            ("payload", Some(&columns.payload)),
            ("channels", columns.channels.as_ref()),
            ("createdAt", columns.created_at.as_ref()),
            ("processedAt", Some(&columns.processed_at)),
        ] {
            if let Some(text) = text {
                name(faults, &["outbox", "columns", field], text, 0);
            }
        }
        if !(0.05..=POLL_SECONDS_MAX).contains(&self.poll_seconds) {
            faults.add_at(&["outbox", "pollSeconds"], "`pollSeconds` must be between 0.05 and 3600");
        }
        if self.settle_seconds > SETTLE_SECONDS_MAX {
            faults.add_at(&["outbox", "settleSeconds"], "`settleSeconds` must be at most 86400");
        }
        if let Some(channel) = &self.notify {
            name(faults, &["outbox", "notify"], channel, 0);
        }
        Outbox {
            database,
            table: self.table,
            columns: OutboxColumns {
                id: columns.id,
                event_type: columns.event_type,
                payload: columns.payload,
                channels: columns.channels,
                created_at: columns.created_at,
                processed_at: columns.processed_at,
            },
            then: match self.then {
                ThenWire::Remember => Then::Remember,
                ThenWire::Mark => Then::Mark,
                ThenWire::Delete => Then::Delete,
            },
            poll: Duration::from_secs_f64(self.poll_seconds.clamp(0.05, POLL_SECONDS_MAX)),
            settle: Duration::from_secs(u64::from(self.settle_seconds)),
            notify: self.notify,
        }
    }
}

/// The connection string; concealed, that of before.
fn check_dsn(faults: &mut Faults, text: String, old: Option<&Way>) -> String {
    let before = match old {
        Some(Way::Outbox(Outbox { database: Database::Dsn(text), .. })) => Some(text.reveal()),
        _ => None,
    };
    if text == CONCEALED
        && let Some(before) = before
    {
        return before.to_owned();
    }
    if text.is_empty() || text == CONCEALED || text.len() > DSN_MAX {
        let msg = "`dsn` must be a connection string such as postgres://user:password@host:5432/database";
        faults.add_at(&["outbox", "dsn"], msg);
    }
    text
}

/// What a request says about a source's way.
pub(crate) struct WayIn {
    pub(crate) way: Option<WayName>,
    pub(crate) cron: Option<CronWire>,
    pub(crate) outbox: Option<OutboxWire>,
    pub(crate) queue: Option<Map<String, Value>>,
    /// The names of all that the request has.
    pub(crate) given: Vec<String>,
}

impl WayIn {
    /// The way of a source that was `old`; with `replacing`, what is not given is not there. A request that is about requests is none for
    /// a source without them.
    pub(crate) fn check(self, faults: &mut Faults, now: Timestamp, old: Option<&Source>, replacing: bool) -> Way {
        let named = [
            (WayName::Cron, "cron", self.cron.is_some()),
            (WayName::Outbox, "outbox", self.outbox.is_some()),
            (WayName::Queue, "queue", self.queue.is_some()),
        ];
        let mut of_object = named.iter().filter(|(_, _, given)| *given);
        let given = of_object.next().map(|(way, ..)| *way);
        let second = of_object.next().map(|(_, field, _)| *field);
        if let Some(field) = second {
            faults.add(field, "a source has one way in; give one of `cron`, `outbox` and `queue`");
        }
        let before = old.map(|old| WayName::of(&old.way));
        let wanted = self.way.or(given).or(before).unwrap_or(WayName::Http);
        if before.is_some_and(|before| before != wanted) {
            faults.add("way", "a source keeps its way; for another one, make another source");
            return old.map_or(Way::Http, |old| old.way.clone());
        }
        for (_, field, _) in
            named.iter().filter(|(way, field, given)| *given && *way != wanted && Some(*field) != second)
        {
            faults.add(field, format!("`{field}` belongs to sources of the way {field}"));
        }
        if wanted != WayName::Http {
            for field in self.given.iter().filter(|field| OF_REQUESTS.contains(&field.as_str())) {
                faults.add(field, format!("`{field}` is about requests, and this source takes none; leave it out"));
            }
        }
        // What is not touched stays; but one that is enabled again begins anew, and its schedule says from when on.
        let keep = |way: &Way| match way {
            Way::Cron(cron) => WayIn::again(cron, now, old),
            other => other.clone(),
        };
        let kept = old.filter(|_| !replacing).map(|old| keep(&old.way));
        match (wanted, kept) {
            (WayName::Http, _) => Way::Http,
            (WayName::Cron, kept) => match (self.cron, kept) {
                (Some(cron), _) => Way::Cron(cron.check(faults, now, old)),
                (None, Some(kept)) => kept,
                (None, None) => required(faults, "cron"),
            },
            (WayName::Outbox, kept) => match (self.outbox, kept) {
                (Some(outbox), _) => Way::Outbox(outbox.check(faults, old.map(|old| &old.way))),
                (None, Some(kept)) => kept,
                (None, None) => required(faults, "outbox"),
            },
            (WayName::Queue, kept) => match (self.queue, kept) {
                (Some(queue), _) => check_queue(faults, queue, old.map(|old| &old.way)),
                (None, Some(kept)) => kept,
                (None, None) => required(faults, "queue"),
            },
        }
    }

    fn again(cron: &Cron, now: Timestamp, old: Option<&Source>) -> Way {
        let since = if old.is_some_and(|old| old.disabled) { now } else { cron.since };
        Way::Cron(Cron { since, ..cron.clone() })
    }
}

fn required(faults: &mut Faults, field: &str) -> Way {
    faults.add(field, format!("`{field}` is required for a source of this way"));
    Way::Http
}

fn check_queue(faults: &mut Faults, queue: Map<String, Value>, old: Option<&Way>) -> Way {
    let mut settings = Value::Object(queue);
    if let Some(Way::Queue(text)) = old {
        crate::endpoint_kind::reveal(&mut settings, &serde_json::from_str(text.reveal()).unwrap_or_default());
    }
    crate::endpoint_kind::refuse_concealed(faults, "queue", &settings);
    let text = settings.to_string();
    if text.len() > QUEUE_MAX {
        faults.add("queue", format!("`queue` must have at most {QUEUE_MAX} bytes as JSON"));
    }
    Way::Queue(SecretText::new(text))
}

/// A way as it is shown: the object of its own name, secrets concealed.
pub(crate) struct WayShown {
    pub(crate) cron: Option<CronWire>,
    pub(crate) outbox: Option<OutboxWire>,
    pub(crate) queue: Option<Value>,
}

impl WayShown {
    pub(crate) fn of(way: &Way) -> Self {
        let mut shown = WayShown { cron: None, outbox: None, queue: None };
        match way {
            Way::Http => {}
            Way::Cron(cron) => shown.cron = Some(CronWire::of(cron)),
            Way::Outbox(outbox) => shown.outbox = Some(OutboxWire::of(outbox)),
            Way::Queue(text) => {
                let mut settings = serde_json::from_str(text.reveal()).unwrap_or_default();
                crate::endpoint_kind::conceal(&mut settings);
                shown.queue = Some(settings);
            }
        }
        shown
    }
}

/// How a source is doing that fetches its messages itself.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SourceStateOut")]
struct SourceStateOut {
    way: WayName,
    /// Whether it is at work. One that is disabled is not.
    running: bool,
    /// When it last looked and everything was as it should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_run: Option<Time>,
    /// When a message of it last became durable, since it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_message: Option<Time>,
    /// How many have, since it was started.
    message_count: u64,
    /// How often it has failed in a row, up to now.
    failure_count: u32,
    /// Why it last failed, since it was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<SourceErrorOut>,
    /// When the next message is due, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<Time>,
    /// For how long the oldest row has waited that is no message yet, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_seconds: Option<f64>,
    /// How far it has got, in the words of its way.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Value>,
    /// When it got there.
    #[serde(skip_serializing_if = "Option::is_none")]
    position_at: Option<Time>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SourceErrorOut")]
struct SourceErrorOut {
    timestamp: Time,
    message: String,
}

/// What was made of a run.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "SourceRunOut")]
struct SourceRunOut {
    /// Of the message that was made.
    message_id: Text<MessageId>,
    event_type: String,
}

async fn run(mut call: Call) -> Result<Response, Error> {
    let source = find(&call)?;
    let body = call.json_or_nothing().await?;
    let once = call.once(body.bytes()).map(|once| (once.key, once.digest));
    let fault = |msg: &str| Err(Error::invalid(&["path", "source_id"], msg));
    if !matches!(source.way, Way::Cron(_)) {
        return fault("only a source with a schedule (`cron`) can be run");
    }
    if source.disabled {
        return fault("the source is disabled; enable it first");
    }
    match call.api.backend().run_source(source, once).await {
        None => fault("this server does not run schedules"),
        Some(made) => {
            let message = made?;
            let out = SourceRunOut { message_id: Text(message.id), event_type: message.event_type.clone() };
            Ok(error::json(StatusCode::ACCEPTED, &out))
        }
    }
}

async fn state(call: Call) -> Result<Response, Error> {
    let source = find(&call)?;
    let state = call.api.backend().source_state(source.key);
    // Most of those that others post to do nothing by themselves.
    if source.way.is_http() && state.is_none() {
        let msg = "others post to this source: it fetches nothing itself, so there is no state of that";
        return Err(Error::invalid(&["path", "source_id"], msg));
    }
    let key = source.key;
    let cursor = call.api.read(move |store| store.source_cursor(key)).await?;
    let (running, state) = (state.is_some(), state.unwrap_or_default());
    let position = cursor.as_ref().map(|cursor| {
        serde_json::from_str(&cursor.position).unwrap_or_else(|_| Value::String(cursor.position.to_string()))
    });
    let out = SourceStateOut {
        way: WayName::of(&source.way),
        running,
        last_run: state.last_run.map(Time),
        last_message: state.last_message.map(Time),
        message_count: state.messages,
        failure_count: state.failures,
        last_error: state.last_error.map(|(at, message)| SourceErrorOut { timestamp: Time(at), message }),
        next: state.next.map(Time),
        lag_seconds: state.lag.map(|lag| lag.as_secs_f64()),
        position,
        position_at: cursor.map(|cursor| Time(cursor.moved_at)),
    };
    Ok(error::json(StatusCode::OK, &out))
}
