//! Background tasks: their rows, and the slices that move them on, each in one transaction with what it touches.

use super::codec::{self, integer};
use super::fault::Fault;
use super::index::{self, MessageRecord};
use super::ledger::Meta;
use super::message_log::{self, array};
use super::passes::{carries, of_class, stands};
use super::reading::{Snapshot, Standing};
use super::waiting_room;
use super::writer::{ROW_BYTES, Writer};
use crate::{
    Advanced, ApplicationDestinations, ApplicationEventTypes, CommitError, FOUND_BYTES_MAX, Found, Matching, Page,
    Progress, ReplayFilter, Span, StatusFilter, Target, Task, TaskKind, TaskQuery, TaskStatus, Work,
};
use bellwire_model::{
    ApplicationId, ApplicationKey, AttemptNumber, Delivery, DeliveryState, EndReason, EndpointKey, Ksuid, Message,
    OrganisationId, Sequence, TaskId, Timestamp, Trigger, Waiting,
};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Deliveries that one slice puts into the waiting room, or payloads that it removes, at most.
const TOUCHED_MAX: u64 = 1_000;
/// Messages that one slice looks at, at most.
const SCANNED_MAX: u64 = 2_000;
/// Bytes of payload that one slice reads or removes, about.
const BYTES_MAX: usize = 8 << 20;

/// What one slice may still do.
struct Budget {
    touched: u64,
    scanned: u64,
    bytes: usize,
}

impl Budget {
    fn new(slice: usize) -> Self {
        let slice = u64::try_from(slice).unwrap_or(u64::MAX).max(1);
        Budget { touched: TOUCHED_MAX.min(slice), scanned: SCANNED_MAX.min(slice), bytes: BYTES_MAX }
    }

    fn is_left(&self) -> bool {
        self.touched > 0 && self.scanned > 0 && self.bytes > 0
    }

    fn scan(&mut self, progress: &mut Progress) {
        self.scanned -= 1;
        progress.scanned += 1;
    }

    fn touch(&mut self, progress: &mut Progress) {
        self.touched -= 1;
        progress.touched += 1;
    }
}

impl Writer {
    /// Whether [`Writer::advance_task`] has something to do.
    pub(super) fn has_tasks(&self) -> bool {
        !self.cancelling.is_empty() || !self.running.is_empty()
    }

    /// See [`crate::Store::advance_task`].
    pub(super) fn advance_task(
        &mut self,
        now: Timestamp,
        matching: &dyn Matching,
    ) -> Result<Option<Advanced>, CommitError> {
        if let Some(cancelling) = self.cancelling.front().cloned() {
            let endpoint = cancelling.endpoint;
            self.end_cancelled(cancelling, now)?;
            return Ok(Some(Advanced { task: None, look_again: Some(endpoint) }));
        }
        let Some(id) = self.running.front().copied() else { return Ok(None) };
        let mut meta = self.meta;
        let task = self.transaction(|writer| writer.slice(&mut meta, id, now, matching))?;
        self.meta = meta;
        self.running.pop_front();
        let Some(Sliced { task, queued }) = task else { return Ok(Some(Advanced { task: None, look_again: None })) };
        if task.status == TaskStatus::Running {
            // Each in its turn.
            self.running.push_back(id);
        }
        let look_again = task.work.target().map(|target| target.endpoint).filter(|_| queued);
        Ok(Some(Advanced { task: Some(task), look_again }))
    }

    /// A slice of a task; `None` if there is no such task.
    fn slice(
        &mut self,
        meta: &mut Meta,
        id: TaskId,
        now: Timestamp,
        matching: &dyn Matching,
    ) -> Result<Option<Sliced>, Fault> {
        let Some(mut task) = find(&self.connection, id, true)? else { return Ok(None) };
        if task.status != TaskStatus::Running {
            return Ok(Some(Sliced { task, queued: false }));
        }
        let touched = task.progress.touched;
        task.status = match self.is_orphan(&task)? {
            true => TaskStatus::Cancelled,
            false if self.work(&mut task, now, matching)? => TaskStatus::Finished,
            false => TaskStatus::Running,
        };
        let touched = task.progress.touched - touched;
        let queued = touched > 0 && task.work.target().is_some();
        if queued {
            meta.ledger.matched += touched;
        }
        task.updated_at = now;
        write(&self.connection, &mut task)?;
        meta.write(&self.connection)?;
        self.log_bytes += touched * ROW_BYTES;
        Ok(Some(Sliced { task, queued }))
    }

    /// Whether the endpoint or application that it is about is gone.
    fn is_orphan(&self, task: &Task) -> Result<bool, Fault> {
        if let Some(target) = task.work.target() {
            return Ok(self.deleted.contains(&target.endpoint));
        }
        let Some(application) = task.work.application() else { return Ok(false) };
        let mut gone =
            self.connection.prepare_cached("SELECT NOT EXISTS (SELECT 1 FROM application WHERE key = ?1)")?;
        Ok(gone.query_one([application.0], |row| row.get(0))?)
    }

    /// One slice; answers whether it was the last.
    fn work(&mut self, task: &mut Task, now: Timestamp, matching: &dyn Matching) -> Result<bool, Fault> {
        match task.work.clone() {
            Work::Recover(target) => {
                let all = ReplayFilter::default();
                self.send_again(task, target.endpoint, now, &all, |standing| has_failed(standing.state))
            }
            Work::BulkReplay(target, filter) => {
                self.send_again(task, target.endpoint, now, &filter, |standing| is_wanted(standing, &filter))
            }
            Work::Replay(target) => self.send_missing(task, target, now, matching),
            Work::PurgeContent(application) => self.purge(task, application),
            Work::ApplicationStats(only) => self.count_destinations(task, only.as_deref()),
            Work::EventTypes => self.collect_event_types(task),
        }
    }

    /// A slice of the deliveries of an endpoint: those that pass come into the waiting room again. Answers whether it was the last.
    fn send_again(
        &mut self,
        task: &mut Task,
        endpoint: EndpointKey,
        now: Timestamp,
        filter: &ReplayFilter,
        passes: impl Fn(&Standing) -> bool,
    ) -> Result<bool, Fault> {
        let mut budget = Budget::new(self.settings.slice);
        let mut rows: Vec<(Sequence, AttemptNumber)> = Vec::new();
        let span = Span { first: task.progress.cursor, last: task.last };
        let possible = Possible::new(filter);
        let progress = &mut task.progress;
        let connection = &self.connection;
        let snapshot = Snapshot::within(
            connection,
            &self.tail,
            |message| message.fan_out.contains(&endpoint),
            |attempt| attempt.endpoint == endpoint,
        )?;
        let done = snapshot.walk_endpoint(endpoint, span, |candidate| {
            if !budget.is_left() {
                return Ok(false);
            }
            budget.scan(progress);
            progress.cursor = candidate.at.next();
            if !possible.may_be(candidate.event_type, candidate.marks) {
                return Ok(true);
            }
            let standing = snapshot.standing(Delivery { endpoint, message: candidate.at })?;
            if passes(&standing)
                && message_log::is_sendable(connection, candidate.at, now)?
                && (possible.is_all() || carries_all(connection, candidate.at, filter)?)
            {
                rows.push((candidate.at, standing.attempts + 1));
                budget.touch(progress);
            }
            Ok(true)
        })?;
        drop(snapshot);
        for (message, next) in &rows {
            self.queue(Delivery { endpoint, message: *message }, *next, now)?;
        }
        Ok(done)
    }

    /// A slice of the messages of the endpoint's application: those that it would get now and never was owed come into the waiting room.
    fn send_missing(
        &mut self,
        task: &mut Task,
        target: Target,
        now: Timestamp,
        matching: &dyn Matching,
    ) -> Result<bool, Fault> {
        let Target { application, endpoint } = target;
        let mut budget = Budget::new(self.settings.slice);
        let mut missing = Vec::new();
        let span = Span { first: task.progress.cursor, last: task.last };
        let with_payload = matching.wants_payload(endpoint);
        let progress = &mut task.progress;
        let connection = &self.connection;
        let snapshot = Snapshot::within(
            connection,
            &self.tail,
            |message| message.application == application,
            |attempt| attempt.endpoint == endpoint,
        )?;
        let done = snapshot.walk_application(application, span, |candidate| {
            if !budget.is_left() {
                return Ok(false);
            }
            budget.scan(progress);
            progress.cursor = candidate.at.next();
            if !message_log::is_sendable(connection, candidate.at, now)? {
                return Ok(true);
            }
            let Some(message) = message_log::find(connection, candidate.at, with_payload)? else { return Ok(true) };
            budget.bytes = budget.bytes.saturating_sub(message.payload.as_ref().map_or(0, |payload| payload.len()));
            let delivery = Delivery { endpoint, message: candidate.at };
            if matching.matches(endpoint, &message) && snapshot.delivery(delivery)?.is_none() {
                missing.push(delivery);
                budget.touch(progress);
            }
            Ok(true)
        })?;
        drop(snapshot);
        for delivery in &missing {
            self.queue(*delivery, 1, now)?;
            index::note_added_delivery(&self.connection, *delivery)?;
        }
        Ok(done)
    }

    fn queue(&mut self, delivery: Delivery, next: AttemptNumber, now: Timestamp) -> Result<(), Fault> {
        let waiting = Waiting { delivery, due: now, next, trigger: Trigger::Manual };
        waiting_room::add(&self.connection, &mut self.counts, &waiting)
    }

    /// A slice of an application's messages loses its payloads.
    fn purge(&mut self, task: &mut Task, application: ApplicationKey) -> Result<bool, Fault> {
        let mut budget = Budget::new(self.settings.slice);
        let mut full = Vec::new();
        let span = Span { first: task.progress.cursor, last: task.last };
        let progress = &mut task.progress;
        let snapshot = self.messages_of(application)?;
        let done = snapshot.walk_application(application, span, |candidate| {
            if !budget.is_left() {
                return Ok(false);
            }
            budget.scan(progress);
            progress.cursor = candidate.at.next();
            if let Some(bytes) = message_log::payload_bytes(&self.connection, candidate.at)? {
                budget.bytes = budget.bytes.saturating_sub(bytes as usize);
                budget.touch(progress);
                full.push(candidate.at);
            }
            Ok(true)
        })?;
        drop(snapshot);
        for message in full {
            message_log::expunge(&self.connection, message)?;
        }
        Ok(done)
    }

    fn messages_of(&self, application: ApplicationKey) -> Result<Snapshot<'_>, Fault> {
        let wanted = |message: &MessageRecord| message.application == application;
        Snapshot::within(&self.connection, &self.tail, wanted, |_| false)
    }

    /// A slice of statistics: goes from application to application, and within one from message to message.
    fn count_destinations(&mut self, task: &mut Task, only: Option<&[ApplicationKey]>) -> Result<bool, Fault> {
        let mut budget = Budget::new(self.settings.slice);
        let progress = &mut task.progress;
        let mut all = match std::mem::take(&mut progress.found) {
            Found::Destinations(all) => all,
            Found::Nothing | Found::EventTypes(_) => Vec::new(),
        };
        let mut done = false;
        while budget.is_left() {
            let next = next_application(&self.connection, &task.organisation, progress.application, only)?;
            let Some((key, id, uid)) = next else {
                done = true;
                break;
            };
            let begun = key == progress.application && all.last().is_some_and(|last| last.application == id);
            if !begun {
                (progress.application, progress.cursor) = (key, task.first);
                all.push(ApplicationDestinations { application: id, uid, destinations: 0 });
                // An application costs something, too.
                budget.scanned -= 1;
            }
            let mut counted = 0;
            let span = Span { first: progress.cursor, last: task.last };
            let snapshot = self.messages_of(key)?;
            let through = snapshot.walk_application(key, span, |candidate| {
                if !budget.is_left() {
                    return Ok(false);
                }
                budget.scan(progress);
                progress.cursor = candidate.at.next();
                counted += destinations(&self.connection, candidate.at)?;
                Ok(true)
            })?;
            if let Some(last) = all.last_mut() {
                last.destinations += counted;
            }
            if through {
                if only.is_none() {
                    all.pop_if(|last| last.destinations == 0);
                }
                (progress.application, progress.cursor) = (ApplicationKey(key.0.saturating_add(1)), task.first);
            }
        }
        if done {
            progress.cursor = task.last;
        }
        progress.found = Found::Destinations(all);
        Ok(done)
    }

    /// A slice of applications and what their endpoints ask for.
    fn collect_event_types(&mut self, task: &mut Task) -> Result<bool, Fault> {
        let mut budget = Budget::new(self.settings.slice);
        let progress = &mut task.progress;
        let mut all = match std::mem::take(&mut progress.found) {
            Found::EventTypes(all) => all,
            Found::Nothing | Found::Destinations(_) => Vec::new(),
        };
        let mut done = false;
        while budget.is_left() {
            let Some((key, application, _)) =
                next_application(&self.connection, &task.organisation, progress.application, None)?
            else {
                done = true;
                break;
            };
            let (mut event_types, mut catch_all) = (BTreeSet::new(), false);
            let mut of = self.connection.prepare_cached("SELECT event_types FROM endpoint WHERE application = ?1")?;
            let mut rows = of.query([key.0])?;
            while let Some(row) = rows.next()? {
                match row.get::<_, Option<String>>(0)? {
                    None => catch_all = true,
                    Some(text) => event_types.extend(codec::from_json::<Vec<String>>("an endpoint", &text)?),
                }
            }
            let event_types: Vec<String> = event_types.into_iter().collect();
            budget.bytes = budget.bytes.saturating_sub(event_types.iter().map(String::len).sum());
            all.push(ApplicationEventTypes { application, event_types, catch_all });
            budget.scan(progress);
            progress.application = ApplicationKey(key.0.saturating_add(1));
        }
        progress.found = Found::EventTypes(all);
        Ok(done)
    }
}

/// A task after one of its slices.
struct Sliced {
    task: Task,
    /// Whether rows came into the waiting room.
    queued: bool,
}

/// Whether a recover takes a delivery that stands so. What somebody cancelled did not fail.
fn has_failed(state: DeliveryState) -> bool {
    matches!(state, DeliveryState::Ended(reason) if reason != EndReason::Cancelled)
}

/// What a filter asks of an index row.
struct Possible {
    types: Vec<u32>,
    marks: u64,
}

impl Possible {
    fn new(filter: &ReplayFilter) -> Self {
        let channel = filter.channel.as_deref().map_or(0, codec::channel_mark);
        Possible {
            types: filter.event_types.iter().map(|name| codec::type_hash(name)).collect(),
            marks: channel | filter.tag.as_deref().map_or(0, codec::tag_mark),
        }
    }

    fn is_all(&self) -> bool {
        self.types.is_empty() && self.marks == 0
    }

    fn may_be(&self, event_type: u32, marks: u64) -> bool {
        (self.types.is_empty() || self.types.contains(&event_type)) && marks & self.marks == self.marks
    }
}

/// Whether a bulk replay takes a delivery that stands so. What waits or is on its way is never taken.
fn is_wanted(standing: &Standing, filter: &ReplayFilter) -> bool {
    matches!(standing.state, DeliveryState::Delivered | DeliveryState::Ended(_))
        && filter.status.is_none_or(|status| stands(status, standing.state, standing.attempts))
        && filter.status_class.is_none_or(|class| of_class(standing.status, class))
}

fn carries_all(connection: &Connection, at: Sequence, filter: &ReplayFilter) -> Result<bool, Fault> {
    let message: Option<Message> = message_log::find(connection, at, false)?;
    Ok(message.is_some_and(|m| carries(&m, &filter.event_types, filter.channel.as_deref(), filter.tag.as_deref())))
}

/// How many endpoints a message was or is to be sent to.
fn destinations(connection: &Connection, at: Sequence) -> Result<u64, Fault> {
    let matched = message_log::find_fan_out(connection, at)?.map_or(0, |fan_out| fan_out.len() as u64);
    let mut added = connection.prepare_cached("SELECT count(*) FROM added_delivery WHERE message = ?1")?;
    Ok(matched + added.query_one([integer(at)], |row| row.get::<_, i64>(0))? as u64)
}

/// The first application of an organisation with a key of `from` or above: of all, or of some.
fn next_application(
    connection: &Connection,
    organisation: &OrganisationId,
    from: ApplicationKey,
    only: Option<&[ApplicationKey]>,
) -> Result<Option<(ApplicationKey, ApplicationId, Option<String>)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT key, id, uid FROM application INDEXED BY application_by_organisation \
         WHERE organisation = ?1 AND key BETWEEN ?2 AND ?3 ORDER BY key LIMIT 1",
    )?;
    let mut find = |first: ApplicationKey, last: u32| -> Result<_, Fault> {
        let mut rows = statement.query(params![organisation.as_str(), first.0, last])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some((ApplicationKey(row.get(0)?), ApplicationId(Ksuid::from_bytes(array(row, 1)?)), row.get(2)?)))
    };
    let Some(only) = only else { return find(from, u32::MAX) };
    for key in only.iter().filter(|key| **key >= from) {
        // One that was deleted meanwhile is left out.
        if let Some(found) = find(*key, key.0)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[derive(Serialize, Deserialize)]
struct StoredFilter {
    event_types: Vec<String>,
    channel: Option<String>,
    tag: Option<String>,
    status: Option<u8>,
    status_class: Option<u16>,
}

/// The statuses that a filter can name, in the order of their numbers in [`StoredFilter`].
const STATUSES: [StatusFilter; 6] = [
    StatusFilter::Success,
    StatusFilter::Pending,
    StatusFilter::Fail,
    StatusFilter::Sending,
    StatusFilter::Canceled,
    StatusFilter::FailOrCanceled,
];

/// What statistics have found, as JSON: tuples in the order of the fields.
#[derive(Serialize, Deserialize)]
enum StoredFound {
    Destinations(Vec<(String, Option<String>, u64)>),
    EventTypes(Vec<(String, Vec<String>, bool)>),
}

const WHAT: &str = "a task";
/// Kinds from this number on are a later version's.
const KINDS: u8 = TaskKind::ALL.len() as u8;

const COLUMNS: &str = "sequence, id_tail, organisation, kind, application, endpoint, filter, applications, first, last, \
                       status, cursor, cursor_application, scanned, touched, updated_at";

/// The ids of running tasks, oldest first; without kinds that only a later version knows.
pub(super) fn running(connection: &Connection) -> Result<Vec<TaskId>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, id_tail FROM task INDEXED BY task_running WHERE status = 0 AND kind < ?1 ORDER BY sequence",
    )?;
    let mut rows = statement.query([KINDS])?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.push(TaskId::from_parts(codec::sequence(row.get(0)?), array(row, 1)?));
    }
    Ok(ids)
}

/// The newest sequence that a task was made of.
pub(super) fn newest(connection: &Connection) -> Result<Sequence, Fault> {
    let newest: Option<i64> =
        connection.prepare_cached("SELECT max(sequence) FROM task")?.query_one([], |row| row.get(0))?;
    Ok(newest.map_or(Sequence::ZERO, codec::sequence))
}

/// Creates a task, unless it is there.
pub(super) fn put(connection: &Connection, task: &Task) -> Result<(), Fault> {
    let target = task.work.target();
    let filter = match &task.work {
        Work::BulkReplay(_, filter) => Some(codec::json(&StoredFilter {
            event_types: filter.event_types.clone(),
            channel: filter.channel.clone(),
            tag: filter.tag.clone(),
            status: filter.status.and_then(|status| (0..).zip(STATUSES).find(|(_, s)| *s == status)).map(|(n, _)| n),
            status_class: filter.status_class,
        })),
        _ => None,
    };
    let applications = match &task.work {
        Work::ApplicationStats(Some(keys)) => {
            let keys: BTreeSet<u32> = keys.iter().map(|key| key.0).collect();
            Some(codec::json(&keys))
        }
        _ => None,
    };
    connection
        .prepare_cached(&format!(
            "INSERT OR IGNORE INTO task ({COLUMNS}) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
        ))?
        .execute(params![
            integer(task.id.sequence()),
            task.id.0.tail().as_slice(),
            task.organisation.as_str(),
            task.work.kind().code(),
            task.work.application().map(|key| key.0),
            target.map(|target| target.endpoint.0),
            filter,
            applications,
            integer(task.first),
            integer(task.last),
            task.status.code(),
            integer(task.progress.cursor),
            task.progress.application.0,
            task.progress.scanned as i64,
            task.progress.touched as i64,
            task.updated_at.as_micros(),
        ])?;
    Ok(())
}

/// Ends a task as cancelled if it is running.
pub(super) fn cancel(connection: &Connection, id: TaskId, at: Timestamp) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "UPDATE task SET status = ?3, updated_at = ?4 WHERE sequence = ?1 AND id_tail = ?2 AND status = ?5",
        )?
        .execute(params![
            integer(id.sequence()),
            id.0.tail().as_slice(),
            TaskStatus::Cancelled.code(),
            at.as_micros(),
            TaskStatus::Running.code(),
        ])?;
    Ok(())
}

/// Writes what a slice changed. What was found and is too large to be kept ends the task.
fn write(connection: &Connection, task: &mut Task) -> Result<(), Fault> {
    let mut found = match &task.progress.found {
        Found::Nothing => None,
        Found::Destinations(all) => Some(StoredFound::Destinations(
            all.iter().map(|one| (one.application.to_string(), one.uid.clone(), one.destinations)).collect(),
        )),
        Found::EventTypes(all) => Some(StoredFound::EventTypes(
            all.iter().map(|one| (one.application.to_string(), one.event_types.clone(), one.catch_all)).collect(),
        )),
    }
    .map(|found| codec::json(&found));
    if found.as_ref().is_some_and(|text| text.len() > FOUND_BYTES_MAX) {
        (found, task.status) = (None, TaskStatus::TooLarge);
        task.progress.found = Found::Nothing;
    }
    connection
        .prepare_cached(
            "UPDATE task SET status = ?2, cursor = ?3, cursor_application = ?4, scanned = ?5, touched = ?6, found = ?7, \
             updated_at = ?8 WHERE sequence = ?1",
        )?
        .execute(params![
            integer(task.id.sequence()),
            task.status.code(),
            integer(task.progress.cursor),
            task.progress.application.0,
            task.progress.scanned as i64,
            task.progress.touched as i64,
            found,
            task.updated_at.as_micros(),
        ])?;
    Ok(())
}

/// See [`crate::Store::task`].
pub(super) fn find(connection: &Connection, id: TaskId, with_found: bool) -> Result<Option<Task>, Fault> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM task WHERE sequence = ?1"))?;
    let mut rows = statement.query([integer(id.sequence())])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut task = task_from(row)?;
    if task.id != id {
        return Ok(None);
    }
    if with_found {
        let mut statement = connection.prepare_cached("SELECT found FROM task WHERE sequence = ?1")?;
        let text: Option<String> = statement.query_one([integer(id.sequence())], |row| row.get(0))?;
        task.progress.found = text.map(|text| found_from(&text)).transpose()?.unwrap_or_default();
    }
    Ok(Some(task))
}

/// See [`crate::Store::tasks`].
pub(super) fn list(connection: &Connection, query: &TaskQuery) -> Result<Page<Task>, Fault> {
    let order = if query.ascending { "ASC" } else { "DESC" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM task INDEXED BY task_by_organisation \
         WHERE organisation = ?1 AND sequence BETWEEN ?2 AND ?3 AND (?4 IS NULL OR application = ?4) \
         AND kind < ?8 AND (?5 IS NULL OR kind = ?5) AND (?6 = 0 OR ?6 & (1 << status)) ORDER BY sequence {order} LIMIT ?7"
    ))?;
    let statuses = query.status.iter().fold(0i64, |bits, status| bits | 1 << status.code());
    let limit = i64::try_from(query.limit).unwrap_or(i64::MAX);
    let mut rows = statement.query(params![
        query.organisation.as_str(),
        integer(query.span.first),
        integer(query.span.last.min(Sequence::MAX)),
        query.application.map(|key| key.0),
        query.kind.map(TaskKind::code),
        statuses,
        limit.saturating_add(1),
        KINDS,
    ])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(task_from(row)?);
    }
    let done = items.len() <= query.limit;
    items.truncate(query.limit);
    Ok(Page { items, done })
}

fn task_from(row: &Row<'_>) -> Result<Task, Fault> {
    let damaged = |what: &str| Fault::damaged(WHAT, format!("it has no {what}"));
    let kind = TaskKind::from_code(row.get(3)?).ok_or_else(|| damaged("kind that is known"))?;
    let application: Option<u32> = row.get(4)?;
    let application = || application.map(ApplicationKey).ok_or_else(|| damaged("application"));
    let endpoint: Option<u32> = row.get(5)?;
    let endpoint = || endpoint.map(EndpointKey).ok_or_else(|| damaged("endpoint"));
    let target = || Ok::<_, Fault>(Target { application: application()?, endpoint: endpoint()? });
    let work = match kind {
        TaskKind::Recover => Work::Recover(target()?),
        TaskKind::Replay => Work::Replay(target()?),
        TaskKind::BulkReplay => {
            let text: Option<String> = row.get(6)?;
            let filter: StoredFilter = codec::from_json(WHAT, &text.ok_or_else(|| damaged("filter"))?)?;
            let status = filter.status.and_then(|number| STATUSES.get(usize::from(number)).copied());
            let StoredFilter { event_types, channel, tag, status_class, .. } = filter;
            Work::BulkReplay(target()?, ReplayFilter { event_types, channel, tag, status, status_class })
        }
        TaskKind::PurgeContent => Work::PurgeContent(application()?),
        TaskKind::ApplicationStats => {
            let keys: Option<String> = row.get(7)?;
            let keys = keys.map(|text| codec::from_json::<Vec<u32>>(WHAT, &text)).transpose()?;
            Work::ApplicationStats(keys.map(|keys| keys.into_iter().map(ApplicationKey).collect()))
        }
        TaskKind::EventTypes => Work::EventTypes,
    };
    let organisation: String = row.get(2)?;
    Ok(Task {
        id: TaskId::from_parts(codec::sequence(row.get(0)?), array(row, 1)?),
        organisation: OrganisationId::parse(&organisation).ok_or_else(|| damaged("organisation"))?,
        work,
        first: codec::sequence(row.get(8)?),
        last: codec::sequence(row.get(9)?),
        status: TaskStatus::from_code(row.get(10)?).ok_or_else(|| damaged("status that is known"))?,
        progress: Progress {
            cursor: codec::sequence(row.get(11)?),
            application: ApplicationKey(row.get(12)?),
            scanned: row.get::<_, i64>(13)? as u64,
            touched: row.get::<_, i64>(14)? as u64,
            found: Found::Nothing,
        },
        updated_at: Timestamp::from_micros(row.get(15)?),
    })
}

fn found_from(text: &str) -> Result<Found, Fault> {
    let id = |text: String| text.parse().map_err(|_| Fault::damaged(WHAT, format!("{text:?} is no application")));
    Ok(match codec::from_json(WHAT, text)? {
        StoredFound::Destinations(all) => {
            let one = |(application, uid, destinations)| {
                Ok(ApplicationDestinations { application: id(application)?, uid, destinations })
            };
            Found::Destinations(all.into_iter().map(one).collect::<Result<_, Fault>>()?)
        }
        StoredFound::EventTypes(all) => {
            let one = |(application, event_types, catch_all)| {
                Ok(ApplicationEventTypes { application: id(application)?, event_types, catch_all })
            };
            Found::EventTypes(all.into_iter().map(one).collect::<Result<_, Fault>>()?)
        }
    })
}

/// Whether a task ended before `before`; looks and takes no lock.
pub(super) fn are_forgettable(connection: &Connection, before: Timestamp) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM task INDEXED BY task_ended WHERE status <> 0 AND updated_at < ?1)",
    )?;
    Ok(statement.query_one([before.as_micros()], |row| row.get(0))?)
}

/// Forgets up to `limit` tasks that ended before `before`.
pub(super) fn forget(connection: &Connection, before: Timestamp, limit: usize) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "DELETE FROM task WHERE sequence IN (SELECT sequence FROM task INDEXED BY task_ended \
             WHERE status <> 0 AND updated_at < ?1 ORDER BY updated_at LIMIT ?2)",
        )?
        .execute(params![before.as_micros(), limit as i64])?;
    Ok(())
}

/// What waits and is to be ended: what somebody wants not to be sent any more ([`crate::Change::CancelWaiting`]), or what a consumer has
/// read past ([`crate::Change::PutConsumer`]).
#[derive(Clone, Debug)]
pub(super) struct Cancelling {
    pub(super) number: i64,
    pub(super) endpoint: EndpointKey,
    pub(super) before: Sequence,
    pub(super) at: Timestamp,
    /// It is delivered, to this consumer, and not cancelled.
    pub(super) read_by: Option<String>,
}

/// All that is not done.
pub(super) fn cancelling(connection: &Connection) -> Result<Vec<Cancelling>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT number, endpoint, before, at, read_by FROM cancelling ORDER BY number")?;
    let rows = statement.query_map([], |row| {
        Ok(Cancelling {
            number: row.get(0)?,
            endpoint: EndpointKey(row.get(1)?),
            before: codec::sequence(row.get(2)?),
            at: Timestamp::from_micros(row.get(3)?),
            read_by: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

pub(super) fn put_cancelling(
    connection: &Connection,
    endpoint: EndpointKey,
    before: Sequence,
    at: Timestamp,
    read_by: Option<&str>,
) -> Result<Cancelling, Fault> {
    connection
        .prepare_cached("INSERT INTO cancelling (endpoint, before, at, read_by) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![endpoint.0, integer(before), at.as_micros(), read_by])?;
    let read_by = read_by.map(str::to_owned);
    Ok(Cancelling { number: connection.last_insert_rowid(), endpoint, before, at, read_by })
}

pub(super) fn end_cancelling(connection: &Connection, number: i64) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM cancelling WHERE number = ?1")?.execute([number])?;
    Ok(())
}

/// Whether the delivery's last row says that it was cancelled. Such rows are in the indexes from the start.
pub(super) fn was_cancelled(connection: &Connection, delivery: Delivery) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT after FROM attempt_by_delivery WHERE message = ?1 AND endpoint = ?2 ORDER BY attempt DESC LIMIT 1",
    )?;
    let after: Option<u8> = statement
        .query_row([integer(delivery.message), i64::from(delivery.endpoint.0)], |row| row.get(0))
        .optional()?;
    Ok(after == Some(codec::ENDED + EndReason::Cancelled.code()))
}
