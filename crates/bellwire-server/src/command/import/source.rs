//! The database of a Svix server: what is read from it, in one snapshot of a transaction that cannot write.
//!
//! Columns came and went with Svix's versions, so what a table has is asked first; what is missing counts as absent. Times come
//! as microseconds and JSON as text, so that this needs no more of PostgreSQL's types than numbers, text and bytes.

use anyhow::{Context as _, bail};
use std::collections::HashSet;
use std::str::FromStr;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

use crate::command::Hint;
use bellwire_plugin::sql::{self, tls::Tls};

/// Rows are read so many at a time.
const PAGE: i32 = 500;
/// A message that was never tried is brought if it is no older than this, in hours: whatever lay in the queue.
const UNTRIED_HOURS: u32 = 24;
/// A message with an attempt to come is brought if it is no older than this, in days.
const RETRIED_DAYS: u32 = 14;

/// A connection.
pub(super) struct Source {
    client: Client,
}

/// All that is read, as it was at one moment.
pub(super) struct Snapshot<'a> {
    transaction: Transaction<'a>,
    columns: HashSet<(String, String)>,
}

/// How many rows there are, deleted ones left out.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) event_types: u64,
    pub(super) applications: u64,
    pub(super) endpoints: u64,
}

pub(super) struct EventTypeRow {
    pub(super) organisation: String,
    pub(super) name: String,
    pub(super) description: String,
    pub(super) archived: bool,
    pub(super) deprecated: bool,
    pub(super) schemas: Option<String>,
    pub(super) feature_flag: Option<String>,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
}

pub(super) struct ApplicationRow {
    pub(super) id: String,
    pub(super) organisation: String,
    pub(super) uid: Option<String>,
    pub(super) name: String,
    pub(super) rate: Option<i32>,
    pub(super) metadata: Option<String>,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
}

pub(super) struct EndpointRow {
    pub(super) id: String,
    pub(super) application: String,
    pub(super) uid: Option<String>,
    pub(super) url: String,
    pub(super) description: String,
    pub(super) key: Vec<u8>,
    pub(super) old_keys: Option<String>,
    pub(super) event_types: Option<String>,
    pub(super) channels: Option<String>,
    pub(super) headers: Option<String>,
    pub(super) metadata: Option<String>,
    pub(super) filter: Option<String>,
    pub(super) rate: Option<i32>,
    pub(super) disabled: bool,
    pub(super) failed: bool,
    pub(super) created_at: i64,
    pub(super) updated_at: i64,
}

pub(super) struct MessageRow {
    pub(super) id: String,
    pub(super) application: String,
    pub(super) event_type: String,
    pub(super) uid: Option<String>,
    pub(super) channels: Option<String>,
    pub(super) payload: Option<Vec<u8>>,
    pub(super) expires_at: i64,
    pub(super) created_at: i64,
    /// So young that an endpoint without an attempt is one that it has not been tried with yet.
    pub(super) young: bool,
    /// For each endpoint that it was tried with: its id, the last attempt's status, when the next is due, how many there were.
    pub(super) tried: Option<String>,
}

impl Source {
    /// Connects to `dsn`, a URL or `name=value` pairs. With TLS if `sslmode=require` asks for it, verified as outgoing requests are.
    ///
    /// # Errors
    /// No such server, or it does not let us in.
    pub(super) async fn connect(dsn: &str, tls: &bellwire_egress::TlsSettings) -> anyhow::Result<Source> {
        let mut config = tokio_postgres::Config::from_str(dsn).context(Hint::new(
            "the address of the database cannot be read",
            "it is postgres://user:password@host:5432/database, with ?sslmode=require for TLS",
        ))?;
        config.application_name("bellwire import").options("-c default_transaction_read_only=on");
        let refused = || Hint::new("no connection to the database", "the server only needs to be allowed to read");
        let tls = match config.get_ssl_mode() {
            SslMode::Require => Tls::new(tls).context("cannot set up TLS")?,
            _ => Tls::default(),
        };
        let client = sql::connect(config, tls, None, Box::new(|| {})).await.with_context(refused)?;
        Ok(Source { client })
    }

    /// Takes a snapshot.
    ///
    /// # Errors
    /// It is not the database of a Svix server.
    pub(super) async fn snapshot(&mut self) -> anyhow::Result<Snapshot<'_>> {
        let transaction = self.client.build_transaction();
        let transaction = transaction.isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
        let found = transaction
            .query(
                "SELECT table_name::text, column_name::text FROM information_schema.columns \
                 WHERE table_schema = ANY (current_schemas(false)::text[])",
                &[],
            )
            .await?;
        let columns: HashSet<_> = found.iter().map(|row| (row.get(0), row.get(1))).collect();
        let snapshot = Snapshot { transaction, columns };
        for (table, column) in
            [("application", "org_id"), ("endpoint", "key"), ("eventtype", "name"), ("message", "app_id")]
        {
            if !snapshot.has(table, column) {
                let what = format!("there is no table {table} with a column {column}");
                bail!(Hint::new(what, "is this the database of a Svix server, and the schema in its search_path?"));
            }
        }
        Ok(snapshot)
    }
}

impl Snapshot<'_> {
    pub(super) async fn counts(&self) -> anyhow::Result<Counts> {
        let row = self
            .transaction
            .query_one(
                "SELECT (SELECT count(*) FROM eventtype), (SELECT count(*) FROM application WHERE NOT deleted), \
                 (SELECT count(*) FROM endpoint e JOIN application a ON a.id = e.app_id WHERE NOT e.deleted AND NOT a.deleted)",
                &[],
            )
            .await?;
        let count = |column: usize| row.get::<_, i64>(column).unsigned_abs();
        Ok(Counts { event_types: count(0), applications: count(1), endpoints: count(2) })
    }

    pub(super) async fn event_types(&self, take: impl FnMut(EventTypeRow) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT org_id, name, description, deleted, {}, schemas::text, {}, {}, {} FROM eventtype ORDER BY org_id, name",
            self.column("eventtype", "deprecated", "false"),
            self.column("eventtype", "feature_flag", "NULL::text"),
            micros("created_at"),
            micros("updated_at"),
        );
        let read = |row: &Row| {
            Ok(EventTypeRow {
                organisation: row.try_get(0)?,
                name: row.try_get(1)?,
                description: row.try_get(2)?,
                archived: row.try_get(3)?,
                deprecated: row.try_get(4)?,
                schemas: row.try_get(5)?,
                feature_flag: row.try_get(6)?,
                created_at: row.try_get(7)?,
                updated_at: row.try_get(8)?,
            })
        };
        self.each(&sql, read, take).await
    }

    pub(super) async fn applications(
        &self,
        take: impl FnMut(ApplicationRow) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let sql = format!(
            "SELECT a.id, a.org_id, a.uid, a.name, a.rate_limit, {}, {}, {} FROM application a {} \
             WHERE NOT a.deleted ORDER BY a.id",
            self.metadata("applicationmetadata"),
            micros("a.created_at"),
            micros("a.updated_at"),
            self.joined("applicationmetadata", "a.id"),
        );
        let read = |row: &Row| {
            Ok(ApplicationRow {
                id: row.try_get(0)?,
                organisation: row.try_get(1)?,
                uid: row.try_get(2)?,
                name: row.try_get(3)?,
                rate: row.try_get(4)?,
                metadata: row.try_get(5)?,
                created_at: row.try_get(6)?,
                updated_at: row.try_get(7)?,
            })
        };
        self.each(&sql, read, take).await
    }

    pub(super) async fn endpoints(&self, take: impl FnMut(EndpointRow) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let text = |column| match self.has("endpoint", column) {
            true => format!("e.{column}::text"),
            false => "NULL::text".to_owned(),
        };
        let sql = format!(
            "SELECT e.id, e.app_id, e.uid, e.url, e.description, e.key, {}, {}, {}, {}, {}, {}, e.rate_limit, e.disabled, \
             e.first_failure_at IS NOT NULL, {}, {} FROM endpoint e JOIN application a ON a.id = e.app_id AND NOT a.deleted {} \
             WHERE NOT e.deleted ORDER BY e.id",
            text("old_keys"),
            text("event_types_ids"),
            text("channels"),
            text("headers"),
            self.metadata("endpointmetadata"),
            text("filter"),
            micros("e.created_at"),
            micros("e.updated_at"),
            self.joined("endpointmetadata", "e.id"),
        );
        let read = |row: &Row| {
            Ok(EndpointRow {
                id: row.try_get(0)?,
                application: row.try_get(1)?,
                uid: row.try_get(2)?,
                url: row.try_get(3)?,
                description: row.try_get(4)?,
                key: row.try_get(5)?,
                old_keys: row.try_get(6)?,
                event_types: row.try_get(7)?,
                channels: row.try_get(8)?,
                headers: row.try_get(9)?,
                metadata: row.try_get(10)?,
                filter: row.try_get(11)?,
                rate: row.try_get(12)?,
                disabled: row.try_get(13)?,
                failed: row.try_get(14)?,
                created_at: row.try_get(15)?,
                updated_at: row.try_get(16)?,
            })
        };
        self.each(&sql, read, take).await
    }

    /// Messages that may still be owed to somebody, in the order of their ids, which is that of their acceptance.
    pub(super) async fn messages(&self, take: impl FnMut(MessageRow) -> anyhow::Result<()>) -> anyhow::Result<()> {
        if !self.has("messageattempt", "next_attempt") {
            bail!(Hint::new(
                "the attempts in this database do not say when the next one is due, so --pending cannot tell what waits",
                "start a Svix server of version 1.75 or later on it once, which adds that; or leave out --pending",
            ));
        }
        let (payload, expiration) = match self.has("messagecontent", "payload") {
            true => {
                ("coalesce(c.payload, convert_to(m.payload::text, 'UTF8'))", "coalesce(c.expiration, m.expiration)")
            }
            false => ("convert_to(m.payload::text, 'UTF8')", "m.expiration"),
        };
        let content =
            if self.has("messagecontent", "payload") { "LEFT JOIN messagecontent c ON c.id = m.id" } else { "" };
        let young = format!("m.created_at > now() - interval '{UNTRIED_HOURS} hours'");
        let sql = format!(
            "SELECT m.id, m.app_id, m.event_type, m.uid, m.channels::text, {payload}, \
             coalesce({}, 9000000000000000), {}, {young}, \
             (SELECT json_agg(json_build_array(l.endp_id, l.status, l.due, l.n))::text FROM ( \
                SELECT DISTINCT ON (t.endp_id) t.endp_id, t.status, {} AS due, count(*) OVER (PARTITION BY t.endp_id) AS n \
                FROM messageattempt t WHERE t.msg_id = m.id ORDER BY t.endp_id, t.id DESC) l) \
             FROM message m JOIN application a ON a.id = m.app_id AND NOT a.deleted {content} \
             WHERE m.created_at > now() - interval '{RETRIED_DAYS} days' AND ({young} OR EXISTS ( \
                SELECT 1 FROM messageattempt t WHERE t.msg_id = m.id AND t.next_attempt IS NOT NULL)) \
             ORDER BY m.id",
            micros(expiration),
            micros("m.created_at"),
            micros("t.next_attempt"),
        );
        let read = |row: &Row| {
            Ok(MessageRow {
                id: row.try_get(0)?,
                application: row.try_get(1)?,
                event_type: row.try_get(2)?,
                uid: row.try_get(3)?,
                channels: row.try_get(4)?,
                payload: row.try_get(5)?,
                expires_at: row.try_get(6)?,
                created_at: row.try_get(7)?,
                young: row.try_get(8)?,
                tried: row.try_get(9)?,
            })
        };
        self.each(&sql, read, take).await
    }

    async fn each<T>(
        &self,
        sql: &str,
        read: impl Fn(&Row) -> Result<T, tokio_postgres::Error>,
        mut take: impl FnMut(T) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let portal =
            self.transaction.bind(sql, &[]).await.context("the database does not have what a Svix server's has")?;
        loop {
            let rows = self.transaction.query_portal(&portal, PAGE).await.context("the database cannot be read")?;
            for row in &rows {
                take(read(row).context("a row is not as a Svix server writes it")?)?;
            }
            if rows.len() < PAGE as usize {
                return Ok(());
            }
        }
    }

    fn has(&self, table: &str, column: &str) -> bool {
        self.columns.contains(&(table.to_owned(), column.to_owned()))
    }

    fn column(&self, table: &str, column: &str, absent: &str) -> String {
        if self.has(table, column) { column } else { absent }.to_owned()
    }

    fn metadata(&self, table: &str) -> &'static str {
        if self.has(table, "data") { "m.data::text" } else { "NULL::text" }
    }

    fn joined(&self, table: &str, id: &str) -> String {
        if self.has(table, "data") { format!("LEFT JOIN {table} m ON m.id = {id}") } else { String::new() }
    }
}

fn micros(time: &str) -> String {
    format!("(extract(epoch from {time}) * 1000000)::bigint")
}
