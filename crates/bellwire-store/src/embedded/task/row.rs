//! The rows of tasks.

use super::super::codec::{self, integer};
use super::super::fault::Fault;
use super::super::message_log::array;
use crate::{
    ApplicationDestinations, ApplicationEventTypes, BROADCAST_LISTED_MAX, Broadcast, BroadcastMessage, Broadcasted,
    FOUND_BYTES_MAX, Found, Page, Progress, ReplayFilter, StatusFilter, Target, Task, TaskKind, TaskQuery, TaskStatus,
    Work,
};
use bellwire_model::{ApplicationKey, EndpointKey, OrganisationId, Sequence, TaskId, Timestamp};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

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
    Messages(Vec<(String, String)>),
}

/// What a broadcast sends, as JSON.
#[derive(Serialize, Deserialize)]
struct StoredBroadcast {
    event_type: String,
    event_id: Option<String>,
    channels: Vec<String>,
    payload: Arc<str>,
    expires_at: i64,
}

const WHAT: &str = "a task";
/// Kinds from this number on are a later version's.
const KINDS: u8 = TaskKind::ALL.len() as u8;

const COLUMNS: &str = "sequence, id_tail, organisation, kind, application, endpoint, filter, applications, first, last, \
                       status, cursor, cursor_application, scanned, touched, updated_at";

/// The ids of tasks that are running or whose end was not told, oldest first; without kinds that only a later version knows.
pub(in crate::embedded) fn running(connection: &Connection) -> Result<Vec<TaskId>, Fault> {
    // A task of an earlier version runs without being untold.
    let mut statement = connection.prepare_cached(
        "SELECT sequence, id_tail FROM task INDEXED BY task_running WHERE status = 0 AND kind < ?1 \
         UNION SELECT sequence, id_tail FROM task INDEXED BY task_untold WHERE untold = 1 AND kind < ?1 ORDER BY sequence",
    )?;
    let mut rows = statement.query([KINDS])?;
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.push(TaskId::from_parts(codec::sequence(row.get(0)?), array(row, 1)?));
    }
    Ok(ids)
}

/// The newest sequence that a task was made of.
pub(in crate::embedded) fn newest(connection: &Connection) -> Result<Sequence, Fault> {
    let newest: Option<i64> =
        connection.prepare_cached("SELECT max(sequence) FROM task")?.query_one([], |row| row.get(0))?;
    Ok(newest.map_or(Sequence::ZERO, codec::sequence))
}

/// Creates a task, unless it is there.
pub(in crate::embedded) fn put(connection: &Connection, task: &Task) -> Result<(), Fault> {
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
    let message = match &task.work {
        Work::Broadcast(Some(message)) => Some(codec::json(&StoredBroadcast {
            event_type: message.event_type.clone(),
            event_id: message.event_id.clone(),
            channels: message.channels.clone(),
            payload: Arc::clone(&message.payload),
            expires_at: message.expires_at.as_micros(),
        })),
        _ => None,
    };
    connection
        .prepare_cached(&format!(
            "INSERT OR IGNORE INTO task ({COLUMNS}, message, untold) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, 1)"
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
            message,
        ])?;
    Ok(())
}

/// Takes over what a page of a broadcast did.
pub(in crate::embedded) fn broadcasted(connection: &Connection, page: &Broadcasted) -> Result<(), Fault> {
    let Some(mut task) = find(connection, page.task, true)? else { return Ok(()) };
    let is_full = matches!(&task.progress.found, Found::Messages(all) if all.len() >= BROADCAST_LISTED_MAX);
    task.broadcasted(page);
    if !is_full {
        return write(connection, &mut task);
    }
    // What is listed stays as it is, and is not written again with each page.
    connection
        .prepare_cached(
            "UPDATE task SET cursor = ?2, cursor_application = ?3, scanned = ?4, touched = ?5, updated_at = ?6 \
             WHERE sequence = ?1",
        )?
        .execute(params![
            integer(task.id.sequence()),
            integer(task.progress.cursor),
            task.progress.application.0,
            task.progress.scanned as i64,
            task.progress.touched as i64,
            task.updated_at.as_micros(),
        ])?;
    Ok(())
}

/// Ends a task as cancelled if it is running.
pub(in crate::embedded) fn cancel(connection: &Connection, id: TaskId, at: Timestamp) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "UPDATE task SET status = ?3, updated_at = ?4, message = NULL \
             WHERE sequence = ?1 AND id_tail = ?2 AND status = ?5",
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

/// Notes that the end of a task has been told.
pub(in crate::embedded) fn told(connection: &Connection, id: TaskId) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE task SET untold = 0 WHERE sequence = ?1 AND id_tail = ?2 AND status <> ?3")?
        .execute(params![integer(id.sequence()), id.0.tail().as_slice(), TaskStatus::Running.code()])?;
    Ok(())
}

/// Writes what a slice changed. What was found and is too large to be kept ends the task.
pub(super) fn write(connection: &Connection, task: &mut Task) -> Result<(), Fault> {
    let mut found = match &task.progress.found {
        Found::Nothing => None,
        Found::Destinations(all) => Some(StoredFound::Destinations(
            all.iter().map(|one| (one.application.to_string(), one.uid.clone(), one.destinations)).collect(),
        )),
        Found::EventTypes(all) => Some(StoredFound::EventTypes(
            all.iter().map(|one| (one.application.to_string(), one.event_types.clone(), one.catch_all)).collect(),
        )),
        Found::Messages(all) => Some(StoredFound::Messages(
            all.iter().map(|one| (one.application.to_string(), one.message.to_string())).collect(),
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
             updated_at = ?8, message = CASE WHEN ?2 = 0 THEN message END WHERE sequence = ?1",
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
pub(in crate::embedded) fn find(connection: &Connection, id: TaskId, with_found: bool) -> Result<Option<Task>, Fault> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM task WHERE sequence = ?1"))?;
    let mut rows = statement.query([integer(id.sequence())])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let mut task = task_from(row)?;
    if task.id != id {
        return Ok(None);
    }
    if with_found {
        let mut statement = connection.prepare_cached("SELECT found, message FROM task WHERE sequence = ?1")?;
        let (found, message): (Option<String>, Option<String>) =
            statement.query_one([integer(id.sequence())], |row| Ok((row.get(0)?, row.get(1)?)))?;
        task.progress.found = found.map(|text| found_from(&text)).transpose()?.unwrap_or_default();
        if let (Work::Broadcast(work), Some(text)) = (&mut task.work, message) {
            *work = Some(Arc::new(broadcast_from(&text)?));
        }
    }
    Ok(Some(task))
}

/// See [`crate::Store::tasks`].
pub(in crate::embedded) fn list(connection: &Connection, query: &TaskQuery) -> Result<Page<Task>, Fault> {
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
        TaskKind::Broadcast => Work::Broadcast(None),
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

fn broadcast_from(text: &str) -> Result<Broadcast, Fault> {
    let StoredBroadcast { event_type, event_id, channels, payload, expires_at } = codec::from_json(WHAT, text)?;
    Ok(Broadcast { event_type, event_id, channels, payload, expires_at: Timestamp::from_micros(expires_at) })
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
        StoredFound::Messages(all) => {
            let one = |(application, message): (String, String)| {
                let message =
                    message.parse().map_err(|_| Fault::damaged(WHAT, format!("{message:?} is no message")))?;
                Ok(BroadcastMessage { application: id(application)?, message })
            };
            Found::Messages(all.into_iter().map(one).collect::<Result<_, Fault>>()?)
        }
    })
}

/// Whether a task ended before `before`; looks and takes no lock.
pub(in crate::embedded) fn are_forgettable(connection: &Connection, before: Timestamp) -> Result<bool, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM task INDEXED BY task_ended WHERE status <> 0 AND updated_at < ?1)",
    )?;
    Ok(statement.query_one([before.as_micros()], |row| row.get(0))?)
}

/// Forgets up to `limit` tasks that ended before `before`.
pub(in crate::embedded) fn forget(connection: &Connection, before: Timestamp, limit: usize) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "DELETE FROM task WHERE sequence IN (SELECT sequence FROM task INDEXED BY task_ended \
             WHERE status <> 0 AND updated_at < ?1 ORDER BY updated_at LIMIT ?2)",
        )?
        .execute(params![before.as_micros(), limit as i64])?;
    Ok(())
}
