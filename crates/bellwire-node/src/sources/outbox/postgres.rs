//! An outbox in PostgreSQL, over one connection.
//!
//! All values come as text, so that this needs to know no types; the table's own are asked for once. A page is read in one snapshot, which
//! also says which transactions have ended: see [`super::gaps`] for what that is good for. Marking and deleting need none of that: a row
//! that turns up late is simply not marked yet.

use super::super::hand::PAGE_MAX;
use super::gaps::{GAPS_MAX, Snapshot};
use super::{Gaps, Page, Payload, Row, cut, quoted};
use anyhow::{Context, bail};
use bellwire_egress::Client as Egress;
use bellwire_model::{Outbox, Then, Timestamp};
use bellwire_plugin::sql::{self, Wire, tls::Tls};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_postgres::{Client, Config, IsolationLevel};

const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// No statement of ours takes longer.
const STATEMENT_TIMEOUT_MS: u32 = 30_000;

/// Reads one table.
pub(super) struct Reader {
    client: Client,
    /// Told when somebody has notified us.
    woken: Arc<Notify>,
    then: Then,
    settle: Duration,
    page: String,
    late: String,
    done: Option<String>,
}

/// What a column is.
struct Column {
    /// As PostgreSQL writes it.
    kind: String,
    category: String,
}

impl Reader {
    /// With `guard`, only at an address that it allows. With `is_typed`, the source says the event type itself, and the table need not.
    pub(super) async fn open(
        dsn: &str,
        guard: Option<&Egress>,
        tls: Tls,
        outbox: &Outbox,
        is_typed: bool,
    ) -> anyhow::Result<Reader> {
        let woken = Arc::new(Notify::new());
        let client = connect(dsn, guard, tls, &woken).await?;
        client.batch_execute(&format!("SET statement_timeout = {STATEMENT_TIMEOUT_MS}")).await?;
        if let Some(channel) = &outbox.notify {
            client.batch_execute(&format!("LISTEN {}", quoted(channel))).await.context("it cannot be listened")?;
        }
        let columns = &outbox.columns;
        let id = column(&client, &outbox.table, &columns.id).await?;
        let payload = column(&client, &outbox.table, &columns.payload).await?;
        let channels = match &columns.channels {
            Some(name) => Some((quoted(name), column(&client, &outbox.table, name).await?)),
            None => None,
        };
        let created_at = match &columns.created_at {
            Some(name) => Some((quoted(name), column(&client, &outbox.table, name).await?)),
            None => None,
        };
        if outbox.then == Then::Remember {
            check_id(&client, outbox, &id).await?;
        }
        let (table, key, processed) = (quoted(&outbox.table), quoted(&columns.id), quoted(&columns.processed_at));
        let bytes = payload.kind == "bytea";
        let own = quoted(&columns.payload);
        // One of the two columns has it.
        let payload = if bytes { format!("NULL::text, o.{own}") } else { format!("o.{own}::text, NULL::bytea") };
        let channels = match channels {
            None => "NULL::text".to_owned(),
            Some((name, column)) if column.category == "A" => format!("array_to_json(o.{name})::text"),
            Some((name, _)) => format!("o.{name}::text"),
        };
        let created_at = match created_at {
            Some((name, column)) if column.category == "D" => {
                format!("(extract(epoch FROM o.{name}) * 1000000)::bigint")
            }
            _ => "NULL::bigint".to_owned(),
        };
        let event_type =
            if is_typed { "NULL::text".to_owned() } else { format!("o.{}::text", quoted(&columns.event_type)) };
        let select = format!("SELECT o.{key}::text, {event_type}, {payload}, {channels}, {created_at} FROM");
        let unread = match outbox.then {
            Then::Remember => format!("WHERE o.{key} > $1::text::bigint"),
            Then::Mark => format!("WHERE o.{processed} IS NULL AND $1::text IS NULL"),
            Then::Delete => "WHERE $1::text IS NULL".to_owned(),
        };
        let page = format!("{select} {table} o {unread} ORDER BY o.{key} LIMIT {PAGE_MAX}");
        let late = format!(
            "{select} unnest($1::text[]::bigint[], $2::text[]::bigint[]) AS gap(low, high) \
             JOIN {table} o ON o.{key} BETWEEN gap.low AND gap.high ORDER BY o.{key} LIMIT {PAGE_MAX}"
        );
        let chosen = format!("{key} = ANY ($1::text[]::{}[])", id.kind);
        let done = match outbox.then {
            Then::Remember => None,
            Then::Mark => Some(format!("UPDATE {table} SET {processed} = now() WHERE {chosen}")),
            Then::Delete => Some(format!("DELETE FROM {table} WHERE {chosen}")),
        };
        for statement in std::iter::once(&page).chain(&done) {
            client.prepare(statement).await.context("the table is not as the settings say")?;
        }
        Ok(Reader { client, woken, then: outbox.then, settle: outbox.settle, page, late, done })
    }

    /// The next rows. `ids` says from where on, with [`Then::Remember`].
    pub(super) async fn page(&mut self, ids: &Gaps, now: Timestamp) -> anyhow::Result<Page> {
        if self.then != Then::Remember {
            let none: Option<String> = None;
            let found = self.client.query(&self.page, &[&none]).await.context("the table cannot be read")?;
            let mut rows = found.iter().map(row).collect::<anyhow::Result<Vec<_>>>()?;
            let more = cut(&mut rows);
            return Ok(Page { rows, ids: Gaps::default(), more });
        }
        let transaction = self.client.build_transaction().isolation_level(IsolationLevel::RepeatableRead);
        let transaction = transaction.read_only(true).start().await.context("the database cannot be read")?;
        let seen = transaction
            .query_one("SELECT txid_snapshot_xmin(s), txid_snapshot_xmax(s) FROM txid_current_snapshot() s", &[])
            .await
            .context("the database cannot be read")?;
        let snapshot = Snapshot { xmin: seen.try_get(0)?, xmax: seen.try_get(1)? };
        let mut rows = Vec::new();
        if !ids.gaps().is_empty() {
            let low: Vec<String> = ids.gaps().iter().map(|gap| gap.low.to_string()).collect();
            let high: Vec<String> = ids.gaps().iter().map(|gap| gap.high.to_string()).collect();
            let found = transaction.query(&self.late, &[&low, &high]).await.context("the table cannot be read")?;
            rows = found.iter().map(row).collect::<anyhow::Result<Vec<_>>>()?;
        }
        // Whether all of the gaps was looked at.
        let whole = !cut(&mut rows);
        let mut more = !whole;
        if whole && ids.gaps().len() < GAPS_MAX {
            let top = ids.top().unwrap_or(i64::MIN).to_string();
            let found = transaction.query(&self.page, &[&top]).await.context("the table cannot be read")?;
            let mut new = found.iter().map(row).collect::<anyhow::Result<Vec<_>>>()?;
            more = cut(&mut new);
            rows.append(&mut new);
            more |= rows.len() > PAGE_MAX;
            rows.truncate(PAGE_MAX);
        }
        transaction.commit().await?;
        let numbers: Vec<i64> = rows.iter().filter_map(|row| row.id.parse().ok()).collect();
        let ids = ids.after(&numbers, whole, snapshot, now, self.settle);
        Ok(Page { rows, ids, more })
    }

    pub(super) async fn done(&mut self, ids: Vec<String>) -> anyhow::Result<()> {
        let Some(done) = &self.done else { return Ok(()) };
        let done = self.client.execute(done, &[&ids]).await;
        done.context("rows that are messages could not be marked or deleted; they are known, and come no second time")?;
        Ok(())
    }

    pub(super) async fn wait(&self, poll: Duration) {
        tokio::select! {
            () = tokio::time::sleep(poll) => {}
            () = self.woken.notified() => {}
        }
    }
}

async fn connect(dsn: &str, guard: Option<&Egress>, tls: Tls, woken: &Arc<Notify>) -> anyhow::Result<Client> {
    // What is wrong with it is not repeated: it may hold a password.
    let mut config: Config = dsn.parse().map_err(|_| anyhow::anyhow!("the DSN cannot be read"))?;
    config.connect_timeout(CONNECT_WAIT).application_name("bellwire");
    let over = match guard {
        Some(egress) => {
            let (stream, host) = sql::reach(egress, &config, CONNECT_WAIT).await.map_err(anyhow::Error::msg)?;
            let stream: Box<dyn Wire> = Box::new(stream);
            Some((stream, host))
        }
        None => None,
    };
    let woken = Arc::clone(woken);
    let connecting = sql::connect(config, tls, over, Box::new(move || woken.notify_one()));
    let connected = tokio::time::timeout(2 * CONNECT_WAIT, connecting).await;
    connected.context("the database did not answer in time")?.context("the database cannot be reached")
}

async fn column(client: &Client, table: &str, column: &str) -> anyhow::Result<Column> {
    let sql = "SELECT format_type(a.atttypid, NULL), t.typcategory::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid \
               WHERE a.attrelid = to_regclass($1) AND a.attname = $2 AND a.attnum > 0 AND NOT a.attisdropped";
    let found = client.query_opt(sql, &[&quoted(table), &column]).await.context("the table cannot be looked at")?;
    let Some(found) = found else { bail!("there is no table {table} with a column {column}, or it must not be seen") };
    Ok(Column { kind: found.try_get(0)?, category: found.try_get(1)? })
}

/// Whoever only remembers needs ids that are given out one by one, in order.
async fn check_id(client: &Client, outbox: &Outbox, id: &Column) -> anyhow::Result<()> {
    if !matches!(id.kind.as_str(), "bigint" | "integer" | "smallint") {
        bail!(
            "{} is {}: only rows with whole numbers can be remembered; mark or delete them",
            outbox.columns.id,
            id.kind
        );
    }
    let sql = "SELECT s.seqcache, s.seqincrement FROM pg_sequence s \
               WHERE s.seqrelid = pg_get_serial_sequence($1, $2)::regclass";
    let found = client.query_opt(sql, &[&quoted(&outbox.table), &outbox.columns.id]).await;
    if let Some(sequence) = found.context("the sequence of its ids cannot be looked at")? {
        let (cache, step): (i64, i64) = (sequence.try_get(0)?, sequence.try_get(1)?);
        if (cache, step) != (1, 1) {
            bail!(
                "the sequence of {} has CACHE {cache} and INCREMENT {step}: ids are set aside and used much later; \
                 make both 1, or mark or delete rows",
                outbox.columns.id
            );
        }
    }
    Ok(())
}

fn row(row: &tokio_postgres::Row) -> anyhow::Result<Row> {
    let text: Option<String> = row.try_get(2)?;
    let bytes: Option<Vec<u8>> = row.try_get(3)?;
    let created_at: Option<i64> = row.try_get(5)?;
    Ok(Row {
        id: row.try_get(0)?,
        event_type: row.try_get(1)?,
        payload: match (text, bytes) {
            (Some(text), _) => Payload::Text(text),
            (None, Some(bytes)) => Payload::Bytes(bytes),
            (None, None) => Payload::Text("null".to_owned()),
        },
        channels: row.try_get(4)?,
        created_at: created_at.map(Timestamp::from_micros),
    })
}
