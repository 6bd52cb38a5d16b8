//! How a source's messages come in, in its columns `settings` and `secrets`. Names here are fixed for ever, since rows hold them.

use super::fault::Fault;
use bellwire_model::{Cron, Database, Missed, Outbox, OutboxColumns, SecretText, Then, Timestamp, Way};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Absent: by requests.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredWay {
    Cron {
        schedule: String,
        zone: String,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        payload: Option<String>,
        missed: StoredMissed,
        since: i64,
    },
    Outbox(Box<StoredOutbox>),
    /// All of it stands among the secrets.
    Queue,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StoredMissed {
    Skip,
    One,
    All(u32),
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredOutbox {
    /// Absent: the connection string stands among the secrets.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    connection: Option<String>,
    table: String,
    id: String,
    event_type: String,
    payload: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    channels: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    created_at: Option<String>,
    processed_at: String,
    then: StoredThen,
    poll_us: u64,
    settle_us: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    notify: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum StoredThen {
    Remember,
    Mark,
    Delete,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl StoredWay {
    pub(super) fn of(way: &Way) -> Option<Self> {
        Some(match way {
            Way::Http => return None,
            Way::Cron(cron) => StoredWay::Cron {
                schedule: cron.schedule.clone(),
                zone: cron.zone.clone(),
                payload: cron.payload.clone(),
                missed: match cron.missed {
                    Missed::Skip => StoredMissed::Skip,
                    Missed::One => StoredMissed::One,
                    Missed::All(most) => StoredMissed::All(most),
                },
                since: cron.since.as_micros(),
            },
            Way::Outbox(outbox) => StoredWay::Outbox(Box::new(StoredOutbox::of(outbox))),
            Way::Queue(_) => StoredWay::Queue,
        })
    }
}

impl StoredOutbox {
    fn of(outbox: &Outbox) -> Self {
        let columns = outbox.columns.clone();
        StoredOutbox {
            connection: match &outbox.database {
                Database::Named(name) => Some(name.clone()),
                Database::Dsn(_) => None,
            },
            table: outbox.table.clone(),
            id: columns.id,
            event_type: columns.event_type,
            payload: columns.payload,
            channels: columns.channels,
            created_at: columns.created_at,
            processed_at: columns.processed_at,
            then: match outbox.then {
                Then::Remember => StoredThen::Remember,
                Then::Mark => StoredThen::Mark,
                Then::Delete => StoredThen::Delete,
            },
            poll_us: micros(outbox.poll),
            settle_us: micros(outbox.settle),
            notify: outbox.notify.clone(),
        }
    }

    fn read(self, secret: Option<String>) -> Result<Outbox, Fault> {
        Ok(Outbox {
            database: match self.connection {
                Some(name) => Database::Named(name),
                None => Database::Dsn(SecretText::new(there(secret)?)),
            },
            table: self.table,
            columns: OutboxColumns {
                id: self.id,
                event_type: self.event_type,
                payload: self.payload,
                channels: self.channels,
                created_at: self.created_at,
                processed_at: self.processed_at,
            },
            then: match self.then {
                StoredThen::Remember => Then::Remember,
                StoredThen::Mark => Then::Mark,
                StoredThen::Delete => Then::Delete,
            },
            poll: Duration::from_micros(self.poll_us),
            settle: Duration::from_micros(self.settle_us),
            notify: self.notify,
        })
    }
}

fn there(secret: Option<String>) -> Result<String, Fault> {
    secret.ok_or_else(|| Fault::damaged("a source", "what is secret about its way is missing".to_owned()))
}

/// What of a way is sealed.
pub(super) fn secret(way: &Way) -> Option<&str> {
    match way {
        Way::Outbox(Outbox { database: Database::Dsn(text), .. }) | Way::Queue(text) => Some(text.reveal()),
        Way::Http | Way::Cron(_) | Way::Outbox(_) => None,
    }
}

pub(super) fn read(stored: Option<StoredWay>, secret: Option<String>) -> Result<Way, Fault> {
    Ok(match stored {
        None => Way::Http,
        Some(StoredWay::Cron { schedule, zone, payload, missed, since }) => Way::Cron(Cron {
            schedule,
            zone,
            payload,
            missed: match missed {
                StoredMissed::Skip => Missed::Skip,
                StoredMissed::One => Missed::One,
                StoredMissed::All(most) => Missed::All(most),
            },
            since: Timestamp::from_micros(since),
        }),
        Some(StoredWay::Outbox(outbox)) => Way::Outbox(outbox.read(secret)?),
        Some(StoredWay::Queue) => Way::Queue(SecretText::new(there(secret)?)),
    })
}
