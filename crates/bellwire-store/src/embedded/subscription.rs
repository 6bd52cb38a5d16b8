//! Ended subscriptions, read whole at a start.
//!
//! Each is one sealed JSON, because the paths in it have the source's token in them; names there are fixed for ever, since rows hold them.

use super::fault::Fault;
use super::sealed::{self, Sealer};
use bellwire_model::{
    ApplicationKey, EndedSubscription, Ending, OrganisationId, SourceId, Subscription, SubscriptionKey, Timestamp,
};
use rusqlite::{Connection, Row, params};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

const WHAT: &str = "an ended subscription";

/// The column `ending`. Times in microseconds.
#[derive(Serialize, Deserialize)]
struct StoredEnding {
    source: String,
    organisation: String,
    paths: Vec<String>,
    hub: String,
    topic: String,
    callback: String,
    ended_at: i64,
    until: i64,
    state: StoredState,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredState {
    Untold { tries: u32, due: i64 },
    Confirmed { at: i64 },
}

pub(super) fn put(
    connection: &Connection,
    sealer: Option<&dyn Sealer>,
    ended: &EndedSubscription,
) -> Result<(), Fault> {
    let Subscription { hub, topic, callback } = ended.subscription.clone();
    let stored = StoredEnding {
        source: ended.source.to_string(),
        organisation: ended.organisation.as_str().to_owned(),
        paths: ended.paths.clone(),
        hub,
        topic,
        callback,
        ended_at: ended.ended_at.as_micros(),
        until: ended.until.as_micros(),
        state: match ended.state {
            Ending::Untold { tries, due } => StoredState::Untold { tries, due: due.as_micros() },
            Ending::Confirmed { at } => StoredState::Confirmed { at: at.as_micros() },
        },
    };
    connection
        .prepare_cached("INSERT OR REPLACE INTO ended_subscription (key, application, ending) VALUES (?1, ?2, ?3)")?
        .execute(params![
            ended.key.0,
            ended.application.0,
            sealed::seal(sealer, &place(ended.application, ended.key), &stored),
        ])?;
    Ok(())
}

pub(super) fn delete(connection: &Connection, key: SubscriptionKey) -> Result<(), Fault> {
    connection.prepare_cached("DELETE FROM ended_subscription WHERE key = ?1")?.execute([key.0])?;
    Ok(())
}

/// In the order of their keys.
pub(super) fn all(connection: &Connection, sealer: Option<&dyn Sealer>) -> Result<Vec<Arc<EndedSubscription>>, Fault> {
    let mut statement = connection.prepare("SELECT key, application, ending FROM ended_subscription ORDER BY key")?;
    let mut rows = statement.query([])?;
    let mut all = Vec::new();
    while let Some(row) = rows.next()? {
        all.push(Arc::new(ended_from(row, sealer)?));
    }
    Ok(all)
}

fn ended_from(row: &Row<'_>, sealer: Option<&dyn Sealer>) -> Result<EndedSubscription, Fault> {
    let (key, application) = (SubscriptionKey(row.get(0)?), ApplicationKey(row.get(1)?));
    let stored: StoredEnding = sealed::open(sealer, &place(application, key), &row.get::<_, Vec<u8>>(2)?)
        .map_err(|detail| Fault::damaged(WHAT, detail))?;
    let StoredEnding { source, organisation, paths, hub, topic, callback, ended_at, until, state } = stored;
    Ok(EndedSubscription {
        key,
        source: source.parse::<SourceId>().map_err(|error| Fault::damaged(WHAT, error.to_string()))?,
        organisation: OrganisationId::parse(&organisation)
            .ok_or_else(|| Fault::damaged(WHAT, format!("{organisation} is not an organisation")))?,
        application,
        paths,
        subscription: Subscription { hub, topic, callback },
        ended_at: Timestamp::from_micros(ended_at),
        until: Timestamp::from_micros(until),
        state: match state {
            StoredState::Untold { tries, due } => Ending::Untold { tries, due: Timestamp::from_micros(due) },
            StoredState::Confirmed { at } => Ending::Confirmed { at: Timestamp::from_micros(at) },
        },
    })
}

/// Where the sealed column stands.
fn place(application: ApplicationKey, key: SubscriptionKey) -> Vec<u8> {
    sealed::place(application, key.0, "ending")
}
