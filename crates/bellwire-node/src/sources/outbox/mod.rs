//! A table of the user's database, each of its rows a message: in the order of their ids, page by page, each exactly once.
//!
//! A page and how far it leads are one commit, and each message has a key made of its row's id. So a crash at any
//! moment repeats nothing: what is read again is known. Rows are marked or deleted after that commit.
//!
//! A row that cannot be a message (too large, channels that are none) stops the source there, loudly: what comes before it has been taken,
//! nothing is left out, and nothing overtakes.

mod gaps;
mod postgres;
mod sqlite;

use super::hand::{Brought, Hand, PAGE_MAX};
use crate::clock::wall;
use anyhow::{Context, bail};
use bellwire_model::{ContentType, Database, EventTypeFrom, Outbox, Then, Timestamp};
use bellwire_plugin::sql;
use bytes::Bytes;
use gaps::Gaps;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;

/// A page ends when it holds so many bytes.
const PAGE_BYTES_MAX: usize = 4 << 20;
/// As of any message.
const CHANNELS_MAX: usize = 10;
const CHANNEL_MAX: usize = 128;

/// How far an outbox has been read.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
struct Position {
    /// The id of the newest row that was read, as text: for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    last: Option<String>,
    /// With [`Then::Remember`].
    #[serde(default, skip_serializing_if = "Gaps::is_empty")]
    ids: Gaps,
}

/// A row, in words that both databases have.
#[derive(Clone, Debug)]
struct Row {
    /// As text.
    id: String,
    event_type: Option<String>,
    payload: Payload,
    /// JSON, an array.
    channels: Option<String>,
    created_at: Option<Timestamp>,
}

#[derive(Clone, Debug)]
enum Payload {
    Text(String),
    Bytes(Vec<u8>),
}

/// What was read at once.
#[derive(Debug)]
struct Page {
    rows: Vec<Row>,
    /// How far that leads, with [`Then::Remember`].
    ids: Gaps,
    /// Whether there is more to be read at once.
    more: bool,
}

/// What reads.
enum Reader {
    Sqlite(sqlite::Reader),
    Postgres(Box<postgres::Reader>),
}

impl Reader {
    async fn open(hand: &Hand, outbox: &Outbox) -> anyhow::Result<Reader> {
        let (dsn, guarded) = match &outbox.database {
            Database::Named(name) => {
                (hand.named().get(name).context("plugins.databases has it no more")?.as_str(), false)
            }
            Database::Dsn(text) => (text.reveal(), true),
        };
        let is_typed = matches!(hand.source().event_type, EventTypeFrom::Fixed(_));
        Ok(match dsn.strip_prefix("sqlite:") {
            Some(path) if !guarded => Reader::Sqlite(sqlite::Reader::open(path, outbox, is_typed).await?),
            Some(_) => bail!("a database in a file is named by the operator in plugins.databases"),
            None => {
                let guard = guarded.then(|| hand.client());
                Reader::Postgres(Box::new(postgres::Reader::open(dsn, guard, hand.tls(), outbox, is_typed).await?))
            }
        })
    }

    async fn page(&mut self, ids: &Gaps, now: Timestamp) -> anyhow::Result<Page> {
        match self {
            Reader::Sqlite(reader) => reader.page(ids).await,
            Reader::Postgres(reader) => reader.page(ids, now).await,
        }
    }

    /// Marks or deletes rows that are durable as messages.
    async fn done(&mut self, ids: Vec<String>) -> anyhow::Result<()> {
        match self {
            Reader::Sqlite(reader) => reader.done(ids).await,
            Reader::Postgres(reader) => reader.done(ids).await,
        }
    }

    async fn wait(&mut self, outbox: &Outbox) {
        match self {
            Reader::Sqlite(_) => tokio::time::sleep(outbox.poll).await,
            Reader::Postgres(reader) => reader.wait(outbox.poll).await,
        }
    }
}

pub(super) async fn run(hand: &Hand, outbox: &Outbox) -> anyhow::Result<Infallible> {
    let mut position: Position = match hand.position().await? {
        Some(text) => serde_json::from_str(&text).context("its position cannot be read")?,
        None => Position::default(),
    };
    let mut reader = Reader::open(hand, outbox).await?;
    loop {
        let now = wall();
        let page = reader.page(&position.ids, now).await?;
        let oldest = page.rows.first().and_then(|row| row.created_at);
        let ids: Vec<String> = page.rows.iter().map(|row| row.id.clone()).collect();
        let (brought, wrong) = take(page.rows, &outbox.table, hand.payload_bytes_max());
        // With a wrong row, the page is read again; what was taken of it is known then.
        let next = Position {
            last: brought.last().map(|row| row.key.clone()).or_else(|| position.last.clone()),
            ids: if wrong.is_none() { page.ids } else { position.ids.clone() },
        };
        let count = brought.len();
        if next != position {
            let text = serde_json::to_string(&next)?;
            hand.bring(brought, Some(text)).await?;
            position = next;
        } else if count > 0 {
            hand.bring(brought, None).await?;
        }
        if outbox.then != Then::Remember && count > 0 {
            reader.done(ids.into_iter().take(count).collect()).await?;
        }
        if let Some(wrong) = wrong {
            bail!(wrong);
        }
        let lag = if page.more { oldest.map(|oldest| now.since(oldest)) } else { Some(std::time::Duration::ZERO) };
        hand.ran(None, lag);
        if !page.more {
            reader.wait(outbox).await;
        }
    }
}

/// The rows as they are brought in, up to the first that cannot be, with what is wrong with that one.
fn take(rows: Vec<Row>, table: &str, payload_bytes_max: usize) -> (Vec<Brought>, Option<String>) {
    let mut taken = Vec::with_capacity(rows.len());
    for row in rows {
        let about = |what: String| Some(format!("row {} of {table} cannot be a message: {what}", row.id));
        let channels = match row.channels.as_deref().map(channels).transpose() {
            Ok(channels) => channels.unwrap_or_default(),
            Err(what) => return (taken, about(what)),
        };
        let (bytes, is_text) = match row.payload {
            Payload::Text(text) => (Bytes::from(text), true),
            Payload::Bytes(bytes) => (Bytes::from(bytes), false),
        };
        if bytes.len() > payload_bytes_max {
            let what =
                format!("its payload has {} bytes, and this server takes at most {payload_bytes_max}", bytes.len());
            return (taken, about(what));
        }
        let content_type = match serde_json::from_slice::<serde::de::IgnoredAny>(bellwire_body::without_mark(&bytes)) {
            Ok(_) => ContentType::Json,
            Err(_) if is_text => ContentType::Other("text/plain; charset=utf-8".to_owned()),
            Err(_) => ContentType::Other("application/octet-stream".to_owned()),
        };
        let created = row.created_at.map(|at| ("created-at".to_owned(), at.to_string()));
        taken.push(Brought {
            key: row.id,
            event_type: row.event_type,
            channels,
            payload: bytes,
            content_type,
            place: table.to_owned(),
            headers: created.into_iter().collect(),
            hops: 0,
        });
    }
    (taken, None)
}

fn channels(text: &str) -> Result<Vec<String>, String> {
    let channels: Vec<String> =
        serde_json::from_str(text).map_err(|_| "its channels are no JSON array of texts".to_owned())?;
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '+');
    let good = |channel: &String| (1..=CHANNEL_MAX).contains(&channel.len()) && channel.chars().all(usual);
    if channels.len() > CHANNELS_MAX || !channels.iter().all(good) {
        return Err(format!("there are at most {CHANNELS_MAX} channels, of letters, digits, - _ . : and +"));
    }
    Ok(channels)
}

/// Cuts a page where it holds enough; answers whether anything was cut off.
fn cut(rows: &mut Vec<Row>) -> bool {
    let mut bytes = 0;
    let size = |row: &Row| match &row.payload {
        Payload::Text(text) => text.len(),
        Payload::Bytes(bytes) => bytes.len(),
    };
    let fits = rows.iter().take_while(|row| {
        let before = bytes;
        bytes += size(row);
        before < PAGE_BYTES_MAX
    });
    let (fits, all) = (fits.count(), rows.len());
    rows.truncate(fits);
    fits < all || all >= PAGE_MAX
}

/// `"a"."b"`: names are letters, digits, `_` and `$`, so there is nothing in them to be escaped.
fn quoted(name: &str) -> String {
    name.split('.').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(".")
}

/// What is wrong with the settings: the field, and what would be right.
pub(super) fn check(outbox: &Outbox, named: &sql::Named) -> Vec<(&'static str, String)> {
    let (field, dsn) = match &outbox.database {
        Database::Named(name) => match named.get(name) {
            Some(dsn) => ("connection", dsn.as_str()),
            None => {
                return vec![(
                    "connection",
                    format!("{name:?} is not among plugins.databases of the server's settings"),
                )];
            }
        },
        Database::Dsn(text) => ("dsn", text.reveal()),
    };
    let is_file = dsn.starts_with("sqlite:");
    let checked = if field == "dsn" { sql::check_guarded_dsn(dsn) } else { sql::check_dsn(dsn) };
    let mut faults = Vec::new();
    if dsn.starts_with("mysql:") {
        faults.push((field, "an outbox is read from PostgreSQL or SQLite; MySQL is for plugins only".to_owned()));
    } else if let Err(text) = checked {
        faults.push((field, text));
    }
    if is_file && outbox.notify.is_some() {
        faults.push(("notify", "SQLite has no NOTIFY; leave it out".to_owned()));
    }
    if is_file && outbox.table.contains('.') {
        faults.push(("table", "a table of SQLite has no schema before it".to_owned()));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, payload: Payload, channels: Option<&str>) -> Row {
        Row { id: id.to_owned(), event_type: None, payload, channels: channels.map(str::to_owned), created_at: None }
    }

    fn text(text: &str) -> Payload {
        Payload::Text(text.to_owned())
    }

    #[test]
    fn rows_are_taken_up_to_the_first_that_cannot_be() {
        let rows = vec![
            row("1", text(r#"{"n":1e999}"#), Some(r#"["a:b"]"#)),
            row("2", text("hello"), None),
            row("3", Payload::Bytes(vec![0xff]), Some("[]")),
            row("4", text("too large to be taken"), None),
            row("5", text("{}"), None),
        ];
        let (taken, wrong) = take(rows, "outbox", 15);
        let types: Vec<_> = taken.iter().map(|brought| (brought.key.as_str(), brought.content_type.as_str())).collect();
        assert_eq!(
            types,
            [("1", "application/json"), ("2", "text/plain; charset=utf-8"), ("3", "application/octet-stream")]
        );
        assert_eq!(taken[0].channels, ["a:b"]);
        let wrong = wrong.expect("the fourth");
        assert!(wrong.starts_with("row 4 of outbox cannot be a message") && wrong.contains("at most 15"), "{wrong}");
        for bad in ["a", r#"{"a":1}"#, "[1]", r#"["a b"]"#, r#"[""]"#] {
            let (taken, wrong) = take(vec![row("1", text("{}"), Some(bad))], "outbox", 15);
            assert!(taken.is_empty() && wrong.is_some(), "{bad}");
        }
    }

    #[test]
    fn a_page_is_cut_by_its_bytes_and_has_one_row_at_least() {
        let large = || row("1", Payload::Bytes(vec![0; PAGE_BYTES_MAX]), None);
        let mut rows = vec![large(), large(), large()];
        assert!(cut(&mut rows));
        assert_eq!(rows.len(), 1);
        let mut rows = vec![row("1", text("{}"), None), large()];
        assert!(!cut(&mut rows));
        assert_eq!(rows.len(), 2);
    }
}
