//! Looks a whole store over, in one consistent reading, beside a server that runs or not: what every part promises to every other.
//!
//! A delivery is looked for in all the places where it may stand, so what is found lost here is lost.

use super::codec::{self, integer};
use super::configuration;
use super::fault::Fault;
use super::index::AttemptRecord;
use super::ledger::{self, Meta};
use super::message_log::BlobRef;
use super::sealed::{PLAIN, Sealer};
use super::source;
use super::subscription;
use super::waiting_room;
use bellwire_model::{Delivery, EndReason, EndpointKey, Ledger, Sequence, Timestamp};
use rusqlite::{Connection, Params};
use std::collections::{BTreeMap, HashMap};

/// So many of SQLite's own findings are read.
const PAGES_MAX: usize = 20;

/// What a check has seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Counters, with `pending` counted row by row.
    pub ledger: Ledger,
    /// Messages that are there.
    pub messages: u64,
    /// Attempts that are there.
    pub attempts: u64,
    /// Deliveries in the waiting room.
    pub waiting: u64,
    /// Endpoints whose secrets are sealed: without the main secret nothing can be signed for them.
    pub sealed: u64,
    /// When the newest entry of either log was made.
    pub newest: Option<Timestamp>,
    /// What is wrong; empty if all is well.
    pub findings: Vec<Finding>,
}

/// One kind of thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Which kind.
    pub kind: FindingKind,
    /// What, as a clause.
    pub what: String,
    /// How often.
    pub count: u64,
    /// The first one.
    pub example: String,
}

/// What kinds of things can be wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FindingKind {
    /// SQLite finds its own pages damaged.
    Pages,
    /// A row that cannot be understood.
    Unreadable,
    /// A log is not in order.
    Order,
    /// A delivery stands nowhere.
    Lost,
    /// A row refers to what is not there.
    Orphan,
    /// An index lacks a row of a log, or has one too many.
    Index,
    /// The counters disagree with the rows.
    Ledger,
}

impl FindingKind {
    /// For machines; never changes.
    pub fn name(self) -> &'static str {
        match self {
            FindingKind::Pages => "pages",
            FindingKind::Unreadable => "unreadable",
            FindingKind::Order => "order",
            FindingKind::Lost => "lost",
            FindingKind::Orphan => "orphan",
            FindingKind::Index => "index",
            FindingKind::Ledger => "ledger",
        }
    }
}

/// Checks the store as of `connection`'s open transaction. With `pages` SQLite reads every page as well; with a `sealer` every
/// endpoint's secrets are opened.
pub(super) fn check(connection: &Connection, sealer: Option<&dyn Sealer>, pages: bool) -> Result<Report, Fault> {
    let meta = Meta::read(connection)?;
    let mut check = Check { connection, meta, found: BTreeMap::new() };
    if pages {
        check.part(Check::pages);
    }
    check.part(Check::order);
    check.part(Check::references);
    check.configuration(sealer);
    check.part(Check::deliveries);
    check.part(Check::indexes);
    let ledger = check.part(Check::ledger);
    let newest = meta.newest_of_all();
    Ok(Report {
        ledger,
        messages: check.part(|check| check.count("SELECT count(*) FROM message", [])),
        attempts: check.part(|check| check.count("SELECT count(*) FROM attempt", [])),
        waiting: check.part(|check| check.count("SELECT count(*) FROM waiting", [])),
        sealed: check.part(|check| {
            check.count("SELECT count(*) FROM endpoint WHERE substr(secrets, 1, 1) <> ?1", [[PLAIN].as_slice()])
        }),
        newest: (newest > Sequence::ZERO).then(|| newest.time()),
        findings: check
            .found
            .into_iter()
            .map(|((kind, what), (count, example))| Finding { kind, what: what.to_owned(), count, example })
            .collect(),
    })
}

struct Check<'c> {
    connection: &'c Connection,
    meta: Meta,
    found: BTreeMap<(FindingKind, &'static str), (u64, String)>,
}

impl Check<'_> {
    fn find(&mut self, kind: FindingKind, what: &'static str, example: impl FnOnce() -> String) {
        self.found.entry((kind, what)).or_insert_with(|| (0, example())).0 += 1;
    }

    /// Does a part of the work; where that cannot even read, it is a finding, and the rest goes on.
    fn part<T: Default>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Fault>) -> T {
        work(self).unwrap_or_else(|fault| {
            let told = crate::ReadError::from(fault).to_string();
            self.find(FindingKind::Unreadable, "a part of the store cannot be read", || told);
            T::default()
        })
    }

    /// Each row of a query is a finding; its first column is the example.
    fn find_rows(
        &mut self,
        kind: FindingKind,
        what: &'static str,
        sql: &str,
        parameters: impl Params,
    ) -> Result<(), Fault> {
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query(parameters)?;
        while let Some(row) = rows.next()? {
            let example = row.get::<_, i64>(0)?;
            self.find(kind, what, || example.to_string());
        }
        Ok(())
    }

    fn count(&self, sql: &str, parameters: impl Params) -> Result<u64, Fault> {
        let count: i64 = self.connection.query_row(sql, parameters, |row| row.get(0))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    fn pages(&mut self) -> Result<(), Fault> {
        let mut statement = self.connection.prepare(&format!("PRAGMA integrity_check({PAGES_MAX})"))?;
        let told = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        for line in told.into_iter().filter(|line| line != "ok") {
            self.find(FindingKind::Pages, "the database's own structure is damaged", || line);
        }
        Ok(())
    }

    fn order(&mut self) -> Result<(), Fault> {
        use FindingKind::Order;
        let Meta { newest, indexed, watermark, floor, .. } = self.meta;
        let after = integer(self.meta.newest_of_all());
        self.find_rows(
            Order,
            "a message is newer than the newest commit",
            "SELECT sequence FROM message WHERE sequence > ?1",
            [after],
        )?;
        self.find_rows(
            Order,
            "an attempt is newer than the newest commit",
            "SELECT sequence FROM attempt WHERE sequence > ?1",
            [after],
        )?;
        self.find_rows(
            Order,
            "an attempt is older than its message",
            "SELECT sequence FROM attempt WHERE message >= sequence",
            [],
        )?;
        self.find_rows(
            Order,
            "a message and an attempt have one number",
            "SELECT sequence FROM message WHERE sequence IN (SELECT sequence FROM attempt)",
            [],
        )?;
        // The watermark may be ahead of what came: nothing below it is unfinished, whatever comes next.
        if indexed > newest || floor > watermark || floor > indexed.next() {
            let marks = format!("newest {newest:?}, indexed {indexed:?}, watermark {watermark:?}, floor {floor:?}");
            self.find(Order, "the marks of the logs contradict each other", || marks);
        }
        Ok(())
    }

    fn references(&mut self) -> Result<(), Fault> {
        use FindingKind::Orphan;
        let floor = integer(self.meta.floor);
        self.find_rows(
            Orphan,
            "a delivery waits whose message is not there",
            "SELECT message FROM waiting WHERE message NOT IN (SELECT sequence FROM message)",
            [],
        )?;
        self.find_rows(
            Orphan,
            "a delivery waits for an endpoint that never was",
            "SELECT message FROM waiting WHERE endpoint NOT IN (SELECT key FROM endpoint) \
             AND endpoint NOT IN (SELECT key FROM deleted_endpoint)",
            [],
        )?;
        self.find_rows(
            Orphan,
            "an attempt has no message",
            "SELECT sequence FROM attempt WHERE message >= ?1 AND message NOT IN (SELECT sequence FROM message)",
            [floor],
        )?;
        self.find_rows(
            Orphan,
            "an endpoint has no application",
            "SELECT key FROM endpoint WHERE application NOT IN (SELECT key FROM application)",
            [],
        )
    }

    fn configuration(&mut self, sealer: Option<&dyn Sealer>) {
        let connection = self.connection;
        let read = [
            ("an application cannot be read", configuration::applications(connection).map(drop)),
            ("an event type cannot be read", configuration::event_types(connection).map(drop)),
            (
                "an endpoint cannot be read",
                match sealer {
                    Some(sealer) => configuration::endpoints(connection, Some(sealer)).map(drop),
                    None => Ok(()),
                },
            ),
            (
                "a source cannot be read",
                match sealer {
                    Some(sealer) => source::all(connection, Some(sealer)).map(drop),
                    None => Ok(()),
                },
            ),
            (
                "an ended subscription cannot be read",
                match sealer {
                    Some(sealer) => subscription::all(connection, Some(sealer)).map(drop),
                    None => Ok(()),
                },
            ),
        ];
        for (what, read) in read {
            if let Err(fault) = read {
                self.find(FindingKind::Unreadable, what, || crate::ReadError::from(fault).to_string());
            }
        }
    }

    /// Where each delivery of each message that is kept stands.
    fn deliveries(&mut self) -> Result<(), Fault> {
        let Meta { floor, watermark, indexed, .. } = self.meta;
        let tail = self.attempts_of_tail()?;
        let mut messages = self.connection.prepare("SELECT sequence, fan_out FROM message WHERE sequence >= ?1")?;
        let mut tried =
            self.connection.prepare("SELECT endpoint, attempt, after FROM attempt_by_delivery WHERE message = ?1")?;
        let mut indexed_for = self
            .connection
            .prepare("SELECT EXISTS (SELECT 1 FROM delivery_by_endpoint WHERE endpoint = ?1 AND message = ?2)")?;
        let mut rows = messages.query([integer(floor)])?;
        while let Some(row) = rows.next()? {
            let message = codec::sequence(row.get(0)?);
            let fan_out = match row.get_ref(1)?.blob_or_empty().and_then(codec::read_fan_out) {
                Ok(fan_out) => fan_out,
                Err(_) => {
                    self.find(FindingKind::Unreadable, "a fan-out cannot be read", || message.as_u64().to_string());
                    continue;
                }
            };
            let mut last: BTreeMap<EndpointKey, (Sequence, u8)> = BTreeMap::new();
            let mut consider = |endpoint, at, after| {
                let entry = last.entry(endpoint).or_insert((at, after));
                *entry = (*entry).max((at, after));
            };
            let mut of_message = tried.query([integer(message)])?;
            while let Some(row) = of_message.next()? {
                consider(EndpointKey(row.get(0)?), codec::sequence(row.get(1)?), row.get(2)?);
            }
            for record in tail.get(&message).into_iter().flatten() {
                consider(record.endpoint, record.sequence, record.after);
            }
            for endpoint in fan_out.iter().filter(|_| message <= indexed) {
                let there: bool = indexed_for.query_row([i64::from(endpoint.0), integer(message)], |row| row.get(0))?;
                if !there {
                    self.find(FindingKind::Index, "an endpoint's list lacks a message", || {
                        delivery(message, *endpoint)
                    });
                }
            }
            let untried =
                fan_out.iter().filter(|endpoint| !last.contains_key(endpoint)).map(|endpoint| (*endpoint, None));
            let untried: Vec<_> = untried.collect();
            for (endpoint, after) in last.iter().map(|(endpoint, (_, after))| (*endpoint, Some(*after))).chain(untried)
            {
                let what = match after {
                    None if message < watermark => "a delivery was never tried and waits nowhere",
                    Some(codec::WAITING) => "a delivery was to be tried again and waits nowhere",
                    _ => continue,
                };
                if waiting_room::find(self.connection, Delivery { endpoint, message })?.is_none() {
                    self.find(FindingKind::Lost, what, || delivery(message, endpoint));
                }
            }
        }
        Ok(())
    }

    /// What the indexes do not hold yet: few, since they follow closely.
    fn attempts_of_tail(&self) -> Result<HashMap<Sequence, Vec<AttemptRecord>>, Fault> {
        let mut tail: HashMap<Sequence, Vec<_>> = HashMap::new();
        super::attempt_log::records(self.connection, self.meta.indexed, self.meta.newest, |record| {
            tail.entry(record.message).or_default().push(record);
        })?;
        Ok(tail)
    }

    fn indexes(&mut self) -> Result<(), Fault> {
        use FindingKind::Index;
        let (floor, indexed) = (integer(self.meta.floor), integer(self.meta.indexed));
        self.find_rows(
            Index,
            "an application's list lacks a message",
            "SELECT sequence FROM message m WHERE sequence BETWEEN ?1 AND ?2 AND NOT EXISTS \
             (SELECT 1 FROM message_by_application i WHERE i.application = m.application AND i.message = m.sequence)",
            [floor, indexed],
        )?;
        self.find_rows(
            Index,
            "a list of attempts lacks one",
            "SELECT sequence FROM attempt a WHERE sequence >= ?1 AND message >= ?1 AND (sequence <= ?2 OR url IS NULL) AND \
             (NOT EXISTS (SELECT 1 FROM attempt_by_delivery i WHERE i.message = a.message AND i.endpoint = a.endpoint \
                 AND i.attempt = a.sequence AND i.after = a.after) \
             OR NOT EXISTS (SELECT 1 FROM attempt_by_endpoint i WHERE i.endpoint = a.endpoint AND i.attempt = a.sequence))",
            [floor, indexed],
        )?;
        for (what, sql) in [
            (
                "an application's list has a message that is not there",
                "SELECT message FROM message_by_application WHERE message >= ?1 \
                 AND message NOT IN (SELECT sequence FROM message)",
            ),
            (
                "an endpoint's list has a message that is not there",
                "SELECT message FROM delivery_by_endpoint WHERE message >= ?1 \
                 AND message NOT IN (SELECT sequence FROM message)",
            ),
            (
                "a list of attempts has one that is not there",
                "SELECT attempt FROM attempt_by_delivery WHERE message >= ?1 \
                 AND attempt NOT IN (SELECT sequence FROM attempt)",
            ),
            (
                "a list of attempts has one that is not there",
                "SELECT attempt FROM attempt_by_endpoint WHERE attempt >= ?1 \
                 AND attempt NOT IN (SELECT sequence FROM attempt)",
            ),
        ] {
            self.find_rows(Index, what, sql, [floor])?;
        }
        Ok(())
    }

    /// Counters against rows: equal while nothing has been removed, and never less than what is still there.
    fn ledger(&mut self) -> Result<Ledger, Fault> {
        let ledger = ledger::count(self.connection)?;
        if !ledger.balances() {
            self.find(FindingKind::Ledger, "the sum does not come out", || format!("{ledger:?}"));
        }
        let whole = self.meta.floor == Sequence::ZERO;
        let has_readers =
            self.count("SELECT EXISTS (SELECT 1 FROM attempt WHERE url IS NULL AND status IS NOT NULL)", [])? > 0;
        let after = |code: u8| {
            let rows = self.count("SELECT count(*) FROM attempt WHERE after = ?1", [code])?;
            // An attempt that was in flight when a reader ended its delivery leaves a second row under the same number, which is not counted.
            let late = match has_readers {
                false => 0,
                true => self.count(
                    "SELECT count(*) FROM attempt e WHERE after = ?1 AND url IS NOT NULL AND EXISTS \
                     (SELECT 1 FROM attempt_by_delivery d JOIN attempt r ON r.sequence = d.attempt \
                     WHERE d.message = e.message AND d.endpoint = e.endpoint AND d.number = e.number \
                     AND d.attempt <> e.sequence AND r.url IS NULL AND r.status IS NOT NULL)",
                    [code],
                )?,
            };
            Ok::<_, Fault>(rows - late)
        };
        let mut compared = vec![
            ("accepted", ledger.accepted, self.count("SELECT count(*) FROM message", [])?, whole),
            ("delivered", ledger.delivered, after(codec::DELIVERED)?, whole),
        ];
        for (reason, counted) in EndReason::ALL.into_iter().zip(ledger.ended) {
            let rows = after(codec::ENDED + reason.code())?;
            // An attempt that was in flight when its delivery was ended for it leaves a second row, which is not counted.
            let behind_its_back =
                matches!(reason, EndReason::EndpointDeleted | EndReason::Expired | EndReason::Cancelled);
            if !behind_its_back {
                compared.push((reason.name(), counted, rows, whole));
            } else if whole && counted > rows {
                compared.push((reason.name(), counted, rows, true));
            }
        }
        for (name, counted, rows, exact) in compared {
            if counted < rows || (exact && counted != rows) {
                let what = "a counter disagrees with the rows";
                self.find(FindingKind::Ledger, what, || format!("{name}: counted {counted}, rows {rows}"));
            }
        }
        Ok(ledger)
    }
}

fn delivery(message: Sequence, endpoint: EndpointKey) -> String {
    format!("message {}, endpoint {}", message.as_u64(), endpoint.0)
}
