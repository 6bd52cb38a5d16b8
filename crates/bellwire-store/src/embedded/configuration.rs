//! Applications, endpoints and event types: small tables, read whole at a start, written one row at a time.

use super::access;
use super::codec;
use super::fault::Fault;
use super::kind;
use super::message_log::array;
use super::sealed::{self, Sealer};
use super::shape;
use super::source;
use bellwire_model::{
    ActiveSecret, Application, ApplicationId, ApplicationKey, ApplicationSettings, DisabledBy, Endpoint, EndpointId,
    EndpointKey, EventType, Health, Ksuid, Limits, OrganisationId, PayloadValidation, RetrySchedule, Timestamp,
};
use bellwire_signature::Secret;
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::{Deserialize, Serialize};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

#[derive(Serialize, Deserialize)]
struct StoredSecret {
    secret: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at: Option<i64>,
}

/// What is kept of an application's settings: what differs from the default.
#[derive(Serialize, Deserialize, Default, PartialEq)]
struct StoredSettings {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    payload_validation: Option<String>,
}

impl StoredSettings {
    fn of(settings: &ApplicationSettings) -> Self {
        let ApplicationSettings { payload_validation } = settings;
        let differs = *payload_validation != PayloadValidation::default();
        StoredSettings { payload_validation: differs.then(|| payload_validation.name().to_owned()) }
    }

    fn settings(&self) -> Result<ApplicationSettings, Fault> {
        let payload_validation = match self.payload_validation.as_deref() {
            None => PayloadValidation::default(),
            Some(name) => PayloadValidation::parse(name)
                .ok_or_else(|| Fault::damaged("an application", format!("payload_validation is {name}")))?,
        };
        Ok(ApplicationSettings { payload_validation })
    }
}

pub(super) fn put_application(connection: &Connection, application: &Application) -> Result<(), Fault> {
    let settings = StoredSettings::of(&application.settings);
    let settings = (settings != StoredSettings::default()).then(|| codec::json(&settings));
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO application (key, id, organisation, uid, name, throttle_rate, metadata, created_at, \
             updated_at, settings) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            application.key.0,
            application.id.0.as_bytes().as_slice(),
            application.organisation.as_str(),
            application.uid,
            application.name,
            application.throttle_rate.map(NonZeroU16::get),
            codec::json(&application.metadata),
            application.created_at.as_micros(),
            application.updated_at.as_micros(),
            settings,
        ])?;
    Ok(())
}

/// Removes the row and its sources, and answers the keys of its endpoints, which are to be deleted too.
pub(super) fn delete_application(connection: &Connection, key: ApplicationKey) -> Result<Vec<EndpointKey>, Fault> {
    source::delete_of_application(connection, key)?;
    connection.prepare_cached("DELETE FROM application WHERE key = ?1")?.execute([key.0])?;
    let mut endpoints = connection.prepare_cached("SELECT key FROM endpoint WHERE application = ?1 ORDER BY key")?;
    let keys = endpoints.query_map([key.0], |row| row.get(0))?;
    keys.map(|key| Ok(EndpointKey(key?))).collect()
}

pub(super) fn applications(connection: &Connection) -> Result<Vec<Arc<Application>>, Fault> {
    let mut statement = connection.prepare(
        "SELECT key, id, organisation, uid, name, throttle_rate, metadata, created_at, updated_at, \
         settings FROM application ORDER BY key",
    )?;
    let mut rows = statement.query([])?;
    let mut applications = Vec::new();
    while let Some(row) = rows.next()? {
        applications.push(Arc::new(Application {
            key: ApplicationKey(row.get(0)?),
            id: ApplicationId(Ksuid::from_bytes(array(row, 1)?)),
            organisation: organisation(row, 2)?,
            uid: row.get(3)?,
            name: row.get(4)?,
            throttle_rate: row.get::<_, Option<u16>>(5)?.and_then(NonZeroU16::new),
            settings: optional_json::<StoredSettings>(row, 9, "an application")?.unwrap_or_default().settings()?,
            metadata: json(row, 6, "an application")?,
            created_at: time(row, 7)?,
            updated_at: time(row, 8)?,
        }));
    }
    Ok(applications)
}

pub(super) fn put_endpoint(
    connection: &Connection,
    sealer: Option<&dyn Sealer>,
    endpoint: &Endpoint,
) -> Result<(), Fault> {
    let (disabled, failing_since) = match stored_state(connection, endpoint.key)? {
        Some(stored) => stored,
        None => (endpoint.disabled.map(disabled_code), endpoint.health.failing_since.map(Timestamp::as_micros)),
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO endpoint (key, application, id, uid, url, description, disabled, event_types, channels, \
             throttle_rate, fifo, secrets, headers, retry_schedule, metadata, failing_since, created_at, updated_at, shape, access, kind) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
        )?
        .execute(params![
            endpoint.key.0,
            endpoint.application.0,
            endpoint.id.0.as_bytes().as_slice(),
            endpoint.uid,
            endpoint.url,
            endpoint.description,
            disabled,
            endpoint.event_types.as_ref().map(codec::json),
            endpoint.channels.as_ref().map(codec::json),
            endpoint.limits.throttle_rate.map(NonZeroU16::get),
            endpoint.limits.fifo,
            seal_secrets(sealer, endpoint.application, endpoint.id, &endpoint.secrets),
            codec::json(&endpoint.headers),
            stored_waits(endpoint.retry_schedule.as_ref()),
            codec::json(&endpoint.metadata),
            failing_since,
            endpoint.created_at.as_micros(),
            endpoint.updated_at.as_micros(),
            shape::stored(&endpoint.shape),
            access::seal(sealer, endpoint),
            kind::seal(sealer, endpoint),
        ])?;
    Ok(())
}

/// `disabled` and `failing_since`, as they stand in the row.
type StoredState = (Option<i64>, Option<i64>);

/// Of an endpoint that is there.
fn stored_state(connection: &Connection, key: EndpointKey) -> Result<Option<StoredState>, Fault> {
    let mut state = connection.prepare_cached("SELECT disabled, failing_since FROM endpoint WHERE key = ?1")?;
    Ok(state.query_row([key.0], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
}

/// See [`crate::Change::SwitchEndpoint`].
pub(super) fn switch_endpoint(connection: &Connection, key: EndpointKey, enabled: bool) -> Result<(), Fault> {
    let sql = if enabled {
        "UPDATE endpoint SET disabled = NULL, failing_since = NULL WHERE key = ?2"
    } else {
        "UPDATE endpoint SET disabled = coalesce(disabled, ?1) WHERE key = ?2"
    };
    connection.prepare_cached(sql)?.execute(params![disabled_code(DisabledBy::User), key.0])?;
    Ok(())
}

/// Removes the row and leaves a mark that it was there.
pub(super) fn delete_endpoint(connection: &Connection, key: EndpointKey) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO deleted_endpoint (key, id) VALUES (?1, (SELECT id FROM endpoint WHERE key = ?1))",
        )?
        .execute([key.0])?;
    connection.prepare_cached("DELETE FROM endpoint WHERE key = ?1")?.execute([key.0])?;
    super::consumer::delete_all(connection, key)
}

/// See [`crate::Store::deleted_endpoint`].
pub(super) fn deleted_endpoint_id(connection: &Connection, key: EndpointKey) -> Result<Option<EndpointId>, Fault> {
    let mut statement =
        connection.prepare_cached("SELECT id FROM deleted_endpoint WHERE key = ?1 AND id IS NOT NULL")?;
    let mut rows = statement.query([key.0])?;
    rows.next()?.map(|row| Ok(EndpointId(Ksuid::from_bytes(array(row, 0)?)))).transpose()
}

pub(super) fn deleted_endpoints(connection: &Connection) -> Result<Vec<EndpointKey>, Fault> {
    let mut statement = connection.prepare("SELECT key FROM deleted_endpoint")?;
    let keys = statement.query_map([], |row| row.get(0))?;
    keys.map(|key| Ok(EndpointKey(key?))).collect()
}

pub(super) fn put_health(
    connection: &Connection,
    endpoint: EndpointKey,
    failing_since: Option<Timestamp>,
    disable: Option<DisabledBy>,
) -> Result<(), Fault> {
    connection
        .prepare_cached("UPDATE endpoint SET failing_since = ?2, disabled = coalesce(?3, disabled) WHERE key = ?1")?
        .execute(params![endpoint.0, failing_since.map(Timestamp::as_micros), disable.map(disabled_code)])?;
    Ok(())
}

pub(super) fn endpoints(connection: &Connection, sealer: Option<&dyn Sealer>) -> Result<Vec<Arc<Endpoint>>, Fault> {
    let mut statement = connection.prepare(
        "SELECT key, application, id, uid, url, description, disabled, event_types, channels, throttle_rate, fifo, \
         secrets, headers, retry_schedule, metadata, failing_since, created_at, updated_at, shape, \
         access, kind FROM endpoint ORDER BY key",
    )?;
    let mut rows = statement.query([])?;
    let mut endpoints = Vec::new();
    while let Some(row) = rows.next()? {
        endpoints.push(Arc::new(endpoint_from(row, sealer)?));
    }
    Ok(endpoints)
}

fn endpoint_from(row: &Row<'_>, sealer: Option<&dyn Sealer>) -> Result<Endpoint, Fault> {
    const WHAT: &str = "an endpoint";
    let application = ApplicationKey(row.get(1)?);
    let id = EndpointId(Ksuid::from_bytes(array(row, 2)?));
    let failing_since = row.get::<_, Option<i64>>(15)?.map(Timestamp::from_micros);
    Ok(Endpoint {
        key: EndpointKey(row.get(0)?),
        application,
        id,
        uid: row.get(3)?,
        kind: kind::open(sealer, application, id, row.get::<_, Option<Vec<u8>>>(20)?)?,
        url: row.get(4)?,
        description: row.get(5)?,
        disabled: row.get::<_, Option<i64>>(6)?.map(disabled_from).transpose()?,
        event_types: optional_json(row, 7, WHAT)?,
        channels: optional_json(row, 8, WHAT)?,
        limits: Limits { throttle_rate: row.get::<_, Option<u16>>(9)?.and_then(NonZeroU16::new), fifo: row.get(10)? },
        secrets: open_secrets(sealer, application, id, &row.get::<_, Vec<u8>>(11)?)?,
        headers: json(row, 12, WHAT)?,
        retry_schedule: waits(row, 13, WHAT)?,
        shape: shape::read(row.get::<_, Option<String>>(18)?)?,
        access: access::open(sealer, application, id, row.get::<_, Option<Vec<u8>>>(19)?)?,
        metadata: json(row, 14, WHAT)?,
        health: Health { failing_since, written: failing_since.is_some() },
        created_at: time(row, 16)?,
        updated_at: time(row, 17)?,
    })
}

/// A schedule as it is kept: JSON, microseconds.
fn stored_waits(schedule: Option<&RetrySchedule>) -> Option<String> {
    let waits = |schedule: &RetrySchedule| schedule.waits().iter().map(|w| w.as_micros() as u64).collect::<Vec<_>>();
    schedule.map(|schedule| codec::json(&waits(schedule)))
}

fn waits(row: &Row<'_>, column: usize, what: &'static str) -> Result<Option<RetrySchedule>, Fault> {
    let waits = optional_json::<Vec<u64>>(row, column, what)?;
    let schedule = waits.map(|waits| RetrySchedule::new(waits.into_iter().map(Duration::from_micros).collect()));
    schedule.transpose().map_err(|error| Fault::damaged(what, error.to_string()))
}

pub(super) fn put_event_type(connection: &Connection, event_type: &EventType) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO event_type (organisation, name, description, archived, deprecated, schemas, feature_flags, \
             group_name, created_at, updated_at, retry_schedule) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            event_type.organisation.as_str(),
            event_type.name,
            event_type.description,
            event_type.archived,
            event_type.deprecated,
            event_type.schemas,
            codec::json(&event_type.feature_flags),
            event_type.group_name,
            event_type.created_at.as_micros(),
            event_type.updated_at.as_micros(),
            stored_waits(event_type.retry_schedule.as_ref()),
        ])?;
    Ok(())
}

pub(super) fn delete_event_type(
    connection: &Connection,
    organisation: &OrganisationId,
    name: &str,
) -> Result<(), Fault> {
    connection
        .prepare_cached("DELETE FROM event_type WHERE organisation = ?1 AND name = ?2")?
        .execute([organisation.as_str(), name])?;
    Ok(())
}

pub(super) fn event_types(connection: &Connection) -> Result<Vec<Arc<EventType>>, Fault> {
    let mut statement = connection.prepare(
        "SELECT organisation, name, description, archived, deprecated, schemas, feature_flags, group_name, created_at, \
         updated_at, retry_schedule FROM event_type ORDER BY organisation, name",
    )?;
    let mut rows = statement.query([])?;
    let mut event_types = Vec::new();
    while let Some(row) = rows.next()? {
        event_types.push(Arc::new(EventType {
            organisation: organisation(row, 0)?,
            name: row.get(1)?,
            description: row.get(2)?,
            archived: row.get(3)?,
            deprecated: row.get(4)?,
            schemas: row.get(5)?,
            feature_flags: json(row, 6, "an event type")?,
            group_name: row.get(7)?,
            created_at: time(row, 8)?,
            updated_at: time(row, 9)?,
            retry_schedule: waits(row, 10, "an event type")?,
        }));
    }
    Ok(event_types)
}

fn seal_secrets(
    sealer: Option<&dyn Sealer>,
    application: ApplicationKey,
    id: EndpointId,
    secrets: &[ActiveSecret],
) -> Vec<u8> {
    let stored: Vec<_> = secrets
        .iter()
        .map(|active| StoredSecret {
            secret: active.secret.reveal_text().to_string(),
            expires_at: active.expires_at.map(Timestamp::as_micros),
        })
        .collect();
    sealed::seal(sealer, &sealed::place(application, id, "secrets"), &stored)
}

fn open_secrets(
    sealer: Option<&dyn Sealer>,
    application: ApplicationKey,
    id: EndpointId,
    row: &[u8],
) -> Result<Vec<ActiveSecret>, Fault> {
    const WHAT: &str = "a secret";
    let about = |detail: String| Fault::damaged(WHAT, format!("of endpoint {id}: {detail}"));
    let place = sealed::place(application, id, "secrets");
    let stored: Vec<StoredSecret> = sealed::open(sealer, &place, row).map_err(about)?;
    stored
        .into_iter()
        .map(|stored| {
            let secret = Secret::parse(&stored.secret).map_err(|error| about(error.to_string()))?;
            Ok(ActiveSecret { secret, expires_at: stored.expires_at.map(Timestamp::from_micros) })
        })
        .collect()
}

fn disabled_code(by: DisabledBy) -> i64 {
    match by {
        DisabledBy::User => 0,
        DisabledBy::Receiver => 1,
        DisabledBy::Failures => 2,
    }
}

fn disabled_from(code: i64) -> Result<DisabledBy, Fault> {
    match code {
        0 => Ok(DisabledBy::User),
        1 => Ok(DisabledBy::Receiver),
        2 => Ok(DisabledBy::Failures),
        _ => Err(Fault::damaged("an endpoint", format!("disabled is {code}"))),
    }
}

fn organisation(row: &Row<'_>, column: usize) -> Result<OrganisationId, Fault> {
    let text: String = row.get(column)?;
    OrganisationId::parse(&text).ok_or_else(|| Fault::damaged("a row", format!("{text} is not an organisation")))
}

fn time(row: &Row<'_>, column: usize) -> Result<Timestamp, Fault> {
    Ok(Timestamp::from_micros(row.get(column)?))
}

fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, column: usize, what: &'static str) -> Result<T, Fault> {
    let text: String = row.get(column)?;
    codec::from_json(what, &text)
}

fn optional_json<T: serde::de::DeserializeOwned>(
    row: &Row<'_>,
    column: usize,
    what: &'static str,
) -> Result<Option<T>, Fault> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| codec::from_json(what, &text)).transpose()
}
