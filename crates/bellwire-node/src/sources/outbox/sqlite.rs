//! An outbox in SQLite. Writers take turns there, so rows become visible in the order of their ids: there are no gaps to look after.
//!
//! That, and that an id is never given twice, holds for `INTEGER PRIMARY KEY AUTOINCREMENT` alone: without the last word, the id of the
//! newest row is given again when that is deleted, and the new row would be taken for the old one. Whoever marks or deletes may also have ids
//! that are no numbers and never come twice.

use super::super::hand::PAGE_MAX;
use super::{Gaps, Page, Payload, Row, cut, quoted};
use anyhow::{Context, bail};
use bellwire_model::{Outbox, Then, Timestamp};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OpenFlags, OptionalExtension, params, params_from_iter};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// How long a writer of the user's may be waited for.
const BUSY: Duration = Duration::from_secs(5);

/// Reads one table. Its work is done where blocking is allowed.
pub(super) struct Reader {
    /// `None` while it is lent out.
    connection: Option<Connection>,
    statements: Arc<Statements>,
    then: Then,
    /// The ids of the last page as they are.
    ids: HashMap<String, Value>,
}

struct Statements {
    page: String,
    done: Option<String>,
}

impl Reader {
    /// With `is_typed`, the source says the event type itself, and the table need not.
    pub(super) async fn open(path: &str, outbox: &Outbox, is_typed: bool) -> anyhow::Result<Reader> {
        let (path, outbox) = (path.to_owned(), outbox.clone());
        tokio::task::spawn_blocking(move || open(&path, &outbox, is_typed)).await?
    }

    /// The next rows. `ids` says from where on, with [`Then::Remember`].
    pub(super) async fn page(&mut self, ids: &Gaps) -> anyhow::Result<Page> {
        let (statements, then, top) = (Arc::clone(&self.statements), self.then, ids.top());
        let read = self.lend(move |connection| page(connection, &statements, then, top)).await?;
        let (mut rows, ids_of) = read;
        let more = cut(&mut rows);
        let top = match then {
            Then::Remember => rows.last().and_then(|row| row.id.parse().ok()).or(top),
            Then::Mark | Then::Delete => None,
        };
        self.ids = ids_of;
        Ok(Page { rows, ids: top.map_or_else(Gaps::default, Gaps::up_to), more })
    }

    pub(super) async fn done(&mut self, ids: Vec<String>) -> anyhow::Result<()> {
        let values: Vec<Value> = ids.iter().filter_map(|id| self.ids.remove(id)).collect();
        let statements = Arc::clone(&self.statements);
        self.lend(move |connection| {
            let Some(done) = &statements.done else { return Ok(()) };
            let transaction = connection.transaction()?;
            {
                let mut statement = transaction.prepare_cached(done)?;
                for value in values {
                    statement.execute([value])?;
                }
            }
            Ok(transaction.commit()?)
        })
        .await
        .context("rows that are messages could not be marked or deleted; they are known, and come no second time")
    }

    /// Whoever drops the future drops the connection with it, when the work is done.
    async fn lend<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Connection) -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let mut connection = self.connection.take().context("the database was closed")?;
        let (connection, worked) = tokio::task::spawn_blocking(move || {
            let worked = work(&mut connection);
            (connection, worked)
        })
        .await?;
        self.connection = Some(connection);
        worked
    }
}

fn open(path: &str, outbox: &Outbox, is_typed: bool) -> anyhow::Result<Reader> {
    // Never made: a name that is wrong should say so.
    let rights = match outbox.then {
        Then::Remember => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Then::Mark | Then::Delete => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let connection = Connection::open_with_flags(path, rights | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .context("the file cannot be opened")?;
    connection.busy_timeout(BUSY)?;
    check_id(&connection, outbox)?;
    let columns = &outbox.columns;
    // Of the table by name: SQLite takes a quoted name alone that is no column's for a text.
    let of_row = |column: &str| format!("o.{}", quoted(column));
    let optional = |column: Option<&str>| column.map_or_else(|| "NULL".to_owned(), of_row);
    let (table, id, processed) = (quoted(&outbox.table), quoted(&columns.id), quoted(&columns.processed_at));
    let unread = match outbox.then {
        Then::Remember => format!("WHERE o.{id} > ?1"),
        Then::Mark => format!("WHERE o.{processed} IS NULL AND ?1 IS NULL"),
        Then::Delete => "WHERE ?1 IS NULL".to_owned(),
    };
    let page = format!(
        "SELECT o.{id}, {}, {}, {}, {} FROM {table} o {unread} ORDER BY o.{id} LIMIT {PAGE_MAX}",
        optional((!is_typed).then_some(&columns.event_type)),
        of_row(&columns.payload),
        optional(columns.channels.as_deref()),
        optional(columns.created_at.as_deref()),
    );
    let done = match outbox.then {
        Then::Remember => None,
        Then::Mark => {
            Some(format!("UPDATE {table} SET {processed} = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE {id} = ?1"))
        }
        Then::Delete => Some(format!("DELETE FROM {table} WHERE {id} = ?1")),
    };
    for statement in std::iter::once(&page).chain(&done) {
        connection.prepare(statement).context("the table is not as the settings say")?;
    }
    let statements = Arc::new(Statements { page, done });
    Ok(Reader { connection: Some(connection), statements, then: outbox.then, ids: HashMap::new() })
}

fn check_id(connection: &Connection, outbox: &Outbox) -> anyhow::Result<()> {
    let made: Option<String> = connection
        .prepare("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE")?
        .query_row([&outbox.table], |row| row.get(0))
        .optional()
        .context("the file cannot be read")?;
    let Some(made) = made else { bail!("there is no table {}", outbox.table) };
    let names = quoted(&outbox.table);
    let mut statement =
        connection.prepare("SELECT type, pk FROM pragma_table_info(?1) WHERE name = ?2 COLLATE NOCASE")?;
    let column: Option<(String, i64)> = statement
        .query_row(params![outbox.table, outbox.columns.id], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((kind, key)) = column else { bail!("{names} has no column {}", outbox.columns.id) };
    // What a text of the definition could hold besides makes the check too lenient at worst, never too strict.
    let counts = key == 1 && kind.eq_ignore_ascii_case("INTEGER");
    let never_again = counts && made.to_ascii_uppercase().contains("AUTOINCREMENT");
    if (counts || outbox.then == Then::Remember) && !never_again {
        bail!(
            "{names} must have {} as INTEGER PRIMARY KEY AUTOINCREMENT{}",
            quoted(&outbox.columns.id),
            if counts { ": without the last word, ids are given again" } else { "; or let rows be marked or deleted" }
        );
    }
    Ok(())
}

type Read = (Vec<Row>, HashMap<String, Value>);

fn page(connection: &mut Connection, statements: &Statements, then: Then, top: Option<i64>) -> anyhow::Result<Read> {
    let mut statement = connection.prepare_cached(&statements.page)?;
    let from = match then {
        Then::Remember => Some(top.unwrap_or(i64::MIN)),
        Then::Mark | Then::Delete => None,
    };
    let mut found = statement.query(params_from_iter([from]))?;
    let (mut rows, mut ids) = (Vec::new(), HashMap::new());
    let mut bytes = 0;
    while let Some(row) = found.next()? {
        let value: Value = row.get(0)?;
        let id = match &value {
            Value::Integer(number) => number.to_string(),
            Value::Text(text) => text.clone(),
            Value::Blob(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            Value::Real(_) | Value::Null => bail!("an id is neither a whole number nor a text nor a blob"),
        };
        let payload = match row.get_ref(2)? {
            ValueRef::Blob(bytes) => Payload::Bytes(bytes.to_vec()),
            other => Payload::Text(text(other).unwrap_or_else(|| "null".to_owned())),
        };
        bytes += match &payload {
            Payload::Text(text) => text.len(),
            Payload::Bytes(bytes) => bytes.len(),
        };
        ids.insert(id.clone(), value);
        rows.push(Row {
            id,
            event_type: text(row.get_ref(1)?),
            payload,
            channels: text(row.get_ref(3)?),
            created_at: time(row.get_ref(4)?),
        });
        // The rest would be read for nothing.
        if bytes > 2 * super::PAGE_BYTES_MAX {
            break;
        }
    }
    Ok((rows, ids))
}

fn text(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(number.to_string()),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
    }
}

/// RFC 3339, what SQLite's own functions write (UTC), or Unix time in seconds or milliseconds.
fn time(value: ValueRef<'_>) -> Option<Timestamp> {
    match value {
        ValueRef::Integer(number) if number.abs() < 100_000_000_000 => Some(Timestamp::from_seconds(number)),
        ValueRef::Integer(number) => Some(Timestamp::from_millis(number)),
        other => {
            let text = text(other)?;
            text.parse().ok().or_else(|| format!("{}Z", text.replacen(' ', "T", 1)).parse().ok())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{Database, OutboxColumns};

    const TABLE: &str = "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, event_type TEXT, payload, \
        channels TEXT, at, processed_at TEXT)";

    fn outbox(then: Then) -> Outbox {
        Outbox {
            database: Database::Named("x".into()),
            table: "outbox".into(),
            columns: OutboxColumns {
                id: "id".into(),
                event_type: "event_type".into(),
                payload: "payload".into(),
                channels: Some("channels".into()),
                created_at: Some("at".into()),
                processed_at: "processed_at".into(),
            },
            then,
            poll: Duration::from_secs(1),
            settle: Duration::ZERO,
            notify: None,
        }
    }

    struct File {
        _folder: tempfile::TempDir,
        path: String,
        writer: Connection,
    }

    fn file(table: &str) -> File {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("app.db").display().to_string();
        let writer = Connection::open(&path).expect("opens");
        writer.execute_batch(table).expect("a table");
        File { _folder: folder, path, writer }
    }

    impl File {
        fn insert(&self, payload: &str) {
            let sql = "INSERT INTO outbox (event_type, payload, channels, at) VALUES ('a.b', ?1, '[\"c\"]', '2026-03-01 12:00:00')";
            self.writer.execute(sql, [payload]).expect("inserts");
        }

        fn count(&self, of: &str) -> i64 {
            self.writer
                .query_row(&format!("SELECT count(*) FROM outbox WHERE {of}"), [], |row| row.get(0))
                .expect("counts")
        }
    }

    fn ids(page: &Page) -> Vec<&str> {
        page.rows.iter().map(|row| row.id.as_str()).collect()
    }

    #[test]
    fn a_database_that_no_outbox_is_read_from_is_refused() {
        let named = |dsn: &str| [("x".to_owned(), dsn.to_owned())].into();
        let faults = super::super::check(&outbox(Then::Remember), &named("mysql://u:hidden@h/d"));
        let text = "an outbox is read from PostgreSQL or SQLite; MySQL is for plugins only";
        assert_eq!(faults, [("connection", text.to_owned())]);
        assert_eq!(super::super::check(&outbox(Then::Remember), &named("sqlite:/x")), []);
    }

    #[tokio::test]
    async fn rows_are_read_in_order_and_remembered() {
        let file = file(TABLE);
        (1..=3).for_each(|n| file.insert(&format!("{{\"n\":{n}}}")));
        let mut reader = Reader::open(&file.path, &outbox(Then::Remember), false).await.expect("opens");
        let page = reader.page(&Gaps::default()).await.expect("reads");
        assert_eq!((ids(&page), page.more), (vec!["1", "2", "3"], false));
        let first = &page.rows[0];
        assert_eq!((first.event_type.as_deref(), first.channels.as_deref()), (Some("a.b"), Some(r#"["c"]"#)));
        assert_eq!(first.created_at, "2026-03-01T12:00:00Z".parse().ok());
        file.insert("{}");
        file.writer.execute("DELETE FROM outbox WHERE id = 2", []).expect("deletes");
        let page = reader.page(&page.ids).await.expect("reads");
        assert_eq!(ids(&page), ["4"]);
        assert_eq!(reader.page(&page.ids).await.expect("reads").ids, page.ids);
        assert_eq!(file.count("processed_at IS NULL"), 3);
    }

    #[tokio::test]
    async fn rows_are_marked_or_deleted() {
        for then in [Then::Mark, Then::Delete] {
            let file = file(TABLE);
            (0..3).for_each(|_| file.insert("{}"));
            let mut reader = Reader::open(&file.path, &outbox(then), false).await.expect("opens");
            let page = reader.page(&Gaps::default()).await.expect("reads");
            assert_eq!(ids(&page), ["1", "2", "3"]);
            reader.done(vec!["1".into(), "2".into()]).await.expect("done");
            assert_eq!(ids(&reader.page(&Gaps::default()).await.expect("reads")), ["3"]);
            assert_eq!(file.count("processed_at IS NULL"), 1);
            assert_eq!(file.count("true"), if then == Then::Mark { 3 } else { 1 });
        }
    }

    #[tokio::test]
    async fn a_column_that_is_not_there_is_told_and_no_row_is_taken() {
        let row = "event_type TEXT, payload, channels, at";
        for (columns, then, is_typed, missing) in [
            ("event_type TEXT, body, channels, at, processed_at", Then::Delete, false, Some("payload")),
            ("type TEXT, payload, channels, at, processed_at", Then::Remember, false, Some("event_type")),
            ("type TEXT, payload, channels, at, processed_at", Then::Remember, true, None),
            ("event_type TEXT, payload, at, processed_at", Then::Remember, false, Some("channels")),
            (row, Then::Mark, false, Some("processed_at")),
            (row, Then::Remember, false, None),
        ] {
            let file = file(&format!("CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, {columns})"));
            let opened = Reader::open(&file.path, &outbox(then), is_typed).await;
            let told = opened.err().map(|error| format!("{error:#}"));
            let good = match missing {
                None => told.is_none(),
                Some(name) => told.as_ref().is_some_and(|told| told.contains(&format!("no such column: o.{name}"))),
            };
            assert!(good, "{columns}, {then:?}: {told:?}");
        }
    }

    #[tokio::test]
    async fn a_table_whose_ids_come_again_is_refused() {
        let columns = "event_type, payload, channels, at, processed_at";
        for (id, remember, delete) in [
            ("id INTEGER PRIMARY KEY AUTOINCREMENT", true, true),
            ("id INTEGER PRIMARY KEY", false, false),
            ("id TEXT PRIMARY KEY", false, true),
            ("other", false, false),
        ] {
            let file = file(&format!("CREATE TABLE outbox ({id}, {columns})"));
            for (then, good) in [(Then::Remember, remember), (Then::Delete, delete)] {
                let opened = Reader::open(&file.path, &outbox(then), false).await;
                assert_eq!(opened.is_ok(), good, "{id}, {then:?}");
            }
        }
        assert!(Reader::open("/nowhere/at/all.db", &outbox(Then::Delete), false).await.is_err());
    }
}
