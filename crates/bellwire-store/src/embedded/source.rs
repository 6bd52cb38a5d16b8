//! Sources, read whole at a start, and the requests that were kept of them.
//!
//! What a later version may add stands in the column `settings` as JSON; names there are fixed for ever, since rows hold them.

use super::codec::{self, integer};
use super::fault::Fault;
use super::message_log::{BlobRef, array};
use super::received;
use super::sealed::{self, Sealer};
use super::way::{self, StoredWay};
use crate::Page;
use bellwire_model::{
    ApplicationKey, Conflict, Dedupe, DedupeFrom, EventTypeFrom, KeptRequest, Ksuid, MessageId, Networks,
    OrganisationId, Recipe, RequestId, RequestOutcome, SecretText, Sequence, Source, SourceAnswer, SourceCursor,
    SourceId, SourceKey, SourceSecret, Timestamp,
};
use bytes::Bytes;
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

const WHAT: &str = "a source";

/// The column `settings`.
#[derive(Serialize, Deserialize)]
struct StoredSettings {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    way: Option<StoredWay>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    path: Option<String>,
    methods: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    preset: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    recipe: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    content_type: Option<String>,
    body_bytes_max: u32,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    rate: Option<NonZeroU32>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    allowed: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    proxies: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    dedupe: Option<StoredDedupe>,
    dedupe_window_us: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    conflict_refused: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    event_type: Option<StoredEventType>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    url: Option<String>,
    status: u16,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    body: String,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    headers: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    wait_us: Option<u64>,
}

/// Absent: as the recipe has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredDedupe {
    Places(Vec<String>),
    Body,
    Off,
}

/// Absent: as the recipe has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredEventType {
    Fixed(String),
    Place(String),
}

/// The column `secrets`.
#[derive(Serialize, Deserialize)]
struct StoredSecrets {
    token: String,
    secrets: Vec<StoredSecret>,
    /// Some of them are secrets, too.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    settings: BTreeMap<String, String>,
    /// What is secret about its way.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    way: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct StoredSecret {
    secret: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    expires_at: Option<i64>,
}

/// The column `outcome`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredOutcome {
    Refused { reason: String },
    Duplicate { message: Option<String>, conflict: bool },
    Handshake,
}

impl StoredSettings {
    fn of(source: &Source) -> Self {
        let (preset, recipe) = match &source.recipe {
            Recipe::Preset(name) => (Some(name.clone()), None),
            Recipe::Own(text) => (None, Some(text.clone())),
        };
        StoredSettings {
            way: StoredWay::of(&source.way),
            path: source.path.clone(),
            methods: source.methods.clone(),
            preset,
            recipe,
            content_type: source.content_type.clone(),
            body_bytes_max: source.body_bytes_max,
            rate: source.rate,
            allowed: source.networks.allowed.iter().map(ToString::to_string).collect(),
            proxies: source.networks.proxies.iter().map(ToString::to_string).collect(),
            dedupe: match &source.dedupe.key {
                DedupeFrom::Recipe => None,
                DedupeFrom::Places(places) => Some(StoredDedupe::Places(places.clone())),
                DedupeFrom::Body => Some(StoredDedupe::Body),
                DedupeFrom::Off => Some(StoredDedupe::Off),
            },
            dedupe_window_us: u64::try_from(source.dedupe.window.as_micros()).unwrap_or(u64::MAX),
            conflict_refused: source.dedupe.conflict == Conflict::Refuse,
            event_type: match &source.event_type {
                EventTypeFrom::Recipe => None,
                EventTypeFrom::Fixed(name) => Some(StoredEventType::Fixed(name.clone())),
                EventTypeFrom::Place(place) => Some(StoredEventType::Place(place.clone())),
            },
            url: source.url.clone(),
            status: source.answer.status,
            body: source.answer.body.clone(),
            headers: source.answer.headers.clone(),
            wait_us: source.answer.wait.map(|wait| u64::try_from(wait.as_micros()).unwrap_or(u64::MAX)),
        }
    }

    fn recipe(&mut self) -> Result<Recipe, Fault> {
        let preset = self.preset.take().map(Recipe::Preset);
        preset
            .or_else(|| self.recipe.take().map(Recipe::Own))
            .ok_or_else(|| Fault::damaged(WHAT, "it has no recipe".to_owned()))
    }

    fn networks(&self) -> Result<Networks, Fault> {
        let read = |texts: &[String]| {
            let parse =
                |text: &String| text.parse().map_err(|_| Fault::damaged(WHAT, format!("{text} is not a network")));
            texts.iter().map(parse).collect::<Result<Vec<_>, _>>()
        };
        Ok(Networks { allowed: read(&self.allowed)?, proxies: read(&self.proxies)? })
    }
}

pub(super) fn put(connection: &Connection, sealer: Option<&dyn Sealer>, source: &Source) -> Result<(), Fault> {
    let secrets = StoredSecrets {
        token: source.token.reveal().to_owned(),
        settings: source.settings.clone(),
        secrets: source
            .secrets
            .iter()
            .map(|secret| StoredSecret {
                secret: secret.text.reveal().to_owned(),
                expires_at: secret.expires_at.map(Timestamp::as_micros),
            })
            .collect(),
        way: way::secret(&source.way).map(str::to_owned),
    };
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO source (key, id, organisation, application, uid, name, disabled, settings, secrets, \
             metadata, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
        )?
        .execute(params![
            source.key.0,
            source.id.0.as_bytes().as_slice(),
            source.organisation.as_str(),
            source.application.0,
            source.uid,
            source.name,
            source.disabled,
            codec::json(&StoredSettings::of(source)),
            sealed::seal(sealer, &place(source.application, source.id), &secrets),
            codec::json(&source.metadata),
            source.created_at.as_micros(),
            source.updated_at.as_micros(),
        ])?;
    Ok(())
}

/// Removes it with what was kept of its requests.
pub(super) fn delete(connection: &Connection, key: SourceKey) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM kept_request WHERE source = ?1")?.execute([key.0])?;
    connection.prepare_cached("DELETE FROM source_cursor WHERE source = ?1")?.execute([key.0])?;
    connection.prepare_cached("DELETE FROM source WHERE key = ?1")?.execute([key.0])?;
    Ok(())
}

/// Removes all that an application has.
pub(super) fn delete_of_application(connection: &Connection, application: ApplicationKey) -> Result<(), Fault> {
    let keys: Vec<u32> = {
        let mut statement = connection.prepare_cached("SELECT key FROM source WHERE application = ?1")?;
        statement.query_map([application.0], |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    keys.into_iter().try_for_each(|key| delete(connection, SourceKey(key)))
}

pub(super) fn all(connection: &Connection, sealer: Option<&dyn Sealer>) -> Result<Vec<Arc<Source>>, Fault> {
    let mut statement = connection.prepare(
        "SELECT key, id, organisation, application, uid, name, disabled, settings, secrets, metadata, created_at, \
         updated_at FROM source ORDER BY key",
    )?;
    let mut rows = statement.query([])?;
    let mut sources = Vec::new();
    while let Some(row) = rows.next()? {
        sources.push(Arc::new(source_from(row, sealer)?));
    }
    Ok(sources)
}

fn source_from(row: &Row<'_>, sealer: Option<&dyn Sealer>) -> Result<Source, Fault> {
    let id = SourceId(Ksuid::from_bytes(array(row, 1)?));
    let application = ApplicationKey(row.get(3)?);
    let organisation: String = row.get(2)?;
    let mut settings: StoredSettings = codec::from_json(WHAT, &row.get::<_, String>(7)?)?;
    let about = |detail: String| Fault::damaged("a secret", format!("of source {id}: {detail}"));
    let secrets: StoredSecrets =
        sealed::open(sealer, &place(application, id), &row.get::<_, Vec<u8>>(8)?).map_err(about)?;
    Ok(Source {
        key: SourceKey(row.get(0)?),
        id,
        organisation: OrganisationId::parse(&organisation)
            .ok_or_else(|| Fault::damaged(WHAT, format!("{organisation} is not an organisation")))?,
        application,
        uid: row.get(4)?,
        name: row.get(5)?,
        way: way::read(settings.way.take(), secrets.way)?,
        token: SecretText::new(secrets.token),
        recipe: settings.recipe()?,
        networks: settings.networks()?,
        path: settings.path,
        methods: settings.methods,
        settings: secrets.settings,
        secrets: secrets
            .secrets
            .into_iter()
            .map(|stored| SourceSecret {
                text: SecretText::new(stored.secret),
                expires_at: stored.expires_at.map(Timestamp::from_micros),
            })
            .collect(),
        content_type: settings.content_type,
        body_bytes_max: settings.body_bytes_max,
        rate: settings.rate,
        dedupe: Dedupe {
            key: match settings.dedupe {
                None => DedupeFrom::Recipe,
                Some(StoredDedupe::Places(places)) => DedupeFrom::Places(places),
                Some(StoredDedupe::Body) => DedupeFrom::Body,
                Some(StoredDedupe::Off) => DedupeFrom::Off,
            },
            window: Duration::from_micros(settings.dedupe_window_us),
            conflict: if settings.conflict_refused { Conflict::Refuse } else { Conflict::Flag },
        },
        event_type: match settings.event_type {
            None => EventTypeFrom::Recipe,
            Some(StoredEventType::Fixed(name)) => EventTypeFrom::Fixed(name),
            Some(StoredEventType::Place(place)) => EventTypeFrom::Place(place),
        },
        url: settings.url,
        answer: SourceAnswer {
            status: settings.status,
            body: settings.body,
            headers: settings.headers,
            wait: settings.wait_us.map(Duration::from_micros),
        },
        disabled: row.get(6)?,
        metadata: codec::from_json(WHAT, &row.get::<_, String>(9)?)?,
        created_at: Timestamp::from_micros(row.get(10)?),
        updated_at: Timestamp::from_micros(row.get(11)?),
    })
}

/// Where the sealed column of a source stands.
fn place(application: ApplicationKey, id: SourceId) -> Vec<u8> {
    sealed::place(application, id, "secrets")
}

pub(super) fn put_cursor(connection: &Connection, cursor: &SourceCursor) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO source_cursor SELECT ?1, ?2, ?3 WHERE EXISTS (SELECT 1 FROM source WHERE key = ?1)",
        )?
        .execute(params![cursor.source.0, &*cursor.position, cursor.moved_at.as_micros()])?;
    Ok(())
}

/// See [`crate::Store::source_cursor`].
pub(super) fn cursor(connection: &Connection, source: SourceKey) -> Result<Option<SourceCursor>, Fault> {
    let mut statement = connection.prepare_cached("SELECT position, moved_at FROM source_cursor WHERE source = ?1")?;
    let mut rows = statement.query([source.0])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let position: String = row.get(0)?;
    Ok(Some(SourceCursor { source, position: position.into(), moved_at: Timestamp::from_micros(row.get(1)?) }))
}

/// Keeps a request and lets the oldest go that are too many.
pub(super) fn keep(connection: &Connection, request: &KeptRequest) -> Result<(), Fault> {
    let outcome = match &request.outcome {
        RequestOutcome::Refused { reason } => StoredOutcome::Refused { reason: reason.clone() },
        RequestOutcome::Duplicate { message, conflict } => {
            StoredOutcome::Duplicate { message: message.map(|id| id.to_string()), conflict: *conflict }
        }
        RequestOutcome::Handshake => StoredOutcome::Handshake,
    };
    let there = "SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7 WHERE EXISTS (SELECT 1 FROM source WHERE key = ?1)";
    let mut received = Vec::new();
    received::write(&request.received, &mut received);
    connection.prepare_cached(&format!("INSERT OR REPLACE INTO kept_request {there}"))?.execute(params![
        request.source.0,
        integer(request.id.sequence()),
        request.id.0.tail().as_slice(),
        codec::json(&outcome),
        request.status,
        received,
        &*request.body,
    ])?;
    connection
        .prepare_cached(
            "DELETE FROM kept_request WHERE source = ?1 AND sequence IN (SELECT sequence FROM \
             (SELECT sequence, row_number() OVER newest AS place, sum(length(body)) OVER newest AS bytes \
             FROM kept_request WHERE source = ?1 WINDOW newest AS (ORDER BY sequence DESC)) \
             WHERE place > ?2 OR bytes > ?3)",
        )?
        .execute(params![request.source.0, KeptRequest::COUNT_MAX as i64, KeptRequest::BYTES_MAX as i64])?;
    Ok(())
}

/// See [`crate::Store::kept_requests`].
pub(super) fn kept(
    connection: &Connection,
    source: SourceKey,
    before: Option<Sequence>,
    limit: usize,
) -> Result<Page<KeptRequest>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, id_tail, outcome, status, received, body FROM kept_request \
         WHERE source = ?1 AND sequence < ?2 ORDER BY sequence DESC LIMIT ?3",
    )?;
    let before = before.map_or(i64::MAX, integer);
    let mut rows = statement.query(params![source.0, before, limit as i64 + 1])?;
    let mut items = Vec::new();
    while let Some(row) = rows.next()? {
        items.push(request_from(row, source)?);
    }
    let done = items.len() <= limit;
    items.truncate(limit);
    Ok(Page { items, done })
}

fn request_from(row: &Row<'_>, source: SourceKey) -> Result<KeptRequest, Fault> {
    const WHAT: &str = "a kept request";
    let outcome = match codec::from_json(WHAT, &row.get::<_, String>(2)?)? {
        StoredOutcome::Refused { reason } => RequestOutcome::Refused { reason },
        StoredOutcome::Duplicate { message, conflict } => {
            let parse =
                |text: String| text.parse::<MessageId>().map_err(|error| Fault::damaged(WHAT, error.to_string()));
            RequestOutcome::Duplicate { message: message.map(parse).transpose()?, conflict }
        }
        StoredOutcome::Handshake => RequestOutcome::Handshake,
    };
    Ok(KeptRequest {
        id: RequestId::from_parts(codec::sequence(row.get(0)?), array(row, 1)?),
        source,
        outcome,
        status: row.get(3)?,
        received: Arc::new(received::read(row.get_ref(4)?.blob_or_empty()?)?),
        body: Bytes::from(row.get::<_, Vec<u8>>(5)?),
    })
}
