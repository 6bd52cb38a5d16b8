//! SQL: statements in a database, all of them in one transaction.
//!
//! A part of the event stands in a statement as `{{payload.id}}`, without quotes: it becomes a bound parameter, never text of the
//! statement, so that whatever a sender writes is stored as it was written. `{{dedupe}}` is the same for every attempt and every
//! repetition of what was received; a table that has it as its key, and `ON CONFLICT … DO UPDATE` (`ON DUPLICATE KEY UPDATE`),
//! has one row for it however often it comes.
//!
//! What the database does not take because it is busy, gone or in a deadlock is tried again; what it will never take, because
//! the statement is wrong or a constraint forbids it, ends at once and says so.

mod scan;
mod sqlite;
mod pool;
mod postgres;
mod connect;
#[cfg(feature = "mysql")]
mod mysql;
pub mod tls;

use crate::answer::{Answer, Ran};
use crate::event::{Event, Found};
use crate::settings::{Fault, Millis};
use crate::template::Template;
use bellwire_egress::{Client, TlsSettings};
use bellwire_model::FailureClass;
use scan::Dialect;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tls::Tls;
use tokio::time::{Instant, timeout_at};

pub use connect::{Wire, connect};
pub use postgres::reach;
pub use sqlite::Files;

const STATEMENTS_MAX: usize = 20;

/// Databases are told the deadline in whole milliseconds, and may be the first to say that it has passed.
const NEARLY: Duration = Duration::from_millis(5);

const EXPECTED: &str = "expected postgres://user:password@host:5432/database, mysql://user:password@host:3306/database, or sqlite:/absolute/path";
#[cfg(not(feature = "mysql"))]
const NO_MYSQL: &str = "expected postgres://user:password@host:5432/database, or sqlite:/absolute/path: this server was built without MySQL; \
     one built with `cargo build --release --features mysql` has it";

/// Databases that the operator has named: DSN by name.
pub type Named = BTreeMap<String, String>;

/// Settings of the kind `sql`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sql {
    /// One that the operator has named.
    connection: Option<String>,
    /// `postgres://user:password@host/database` or `mysql://…`, to a host that the address guard allows.
    dsn: Option<String>,
    /// With places for parameters.
    statements: Vec<Template>,
    #[serde(default = "timeout_default")]
    timeout_ms: Millis<10, 60_000>,
}

fn timeout_default() -> Millis<10, 60_000> {
    Millis::new(10_000)
}

/// What is bound to a place.
#[derive(Clone, PartialEq, Debug)]
enum Value {
    Null,
    Text(String),
    /// A number, a truth value, or a list or an object as JSON.
    Json(String),
}

impl Value {
    fn of(found: Option<Found<'_>>) -> Value {
        match found {
            None => Value::Null,
            Some(Found::Json(json)) if json == "null" => Value::Null,
            Some(Found::Json(json)) => Value::Json(json.into_owned()),
            Some(Found::Text(text)) => Value::Text(text.into_owned()),
        }
    }

    fn into_text(self) -> Option<String> {
        match self {
            Value::Null => None,
            Value::Text(text) | Value::Json(text) => Some(text),
        }
    }
}

/// A statement ready to be carried out.
struct Bound {
    text: String,
    values: Vec<Value>,
}

/// Why it was not carried out.
#[derive(Debug)]
struct Failed {
    /// It will never be.
    forever: bool,
    /// The database has ended it because it took too long.
    late: bool,
    text: String,
}

impl Failed {
    /// It is tried again.
    fn later(text: impl Into<String>) -> Failed {
        Failed { forever: false, late: false, text: text.into() }
    }
}

/// Which database.
#[derive(Debug, PartialEq)]
enum Database<'a> {
    Sqlite(&'a str),
    Postgres(&'a str),
    #[cfg(feature = "mysql")]
    Mysql(&'a str),
}

impl<'a> Database<'a> {
    fn parse(dsn: &'a str) -> Result<Self, String> {
        match dsn.split_once(':') {
            Some(("sqlite", path)) if path.starts_with('/') => Ok(Database::Sqlite(path)),
            Some(("postgres" | "postgresql", _)) => {
                let config = postgres_config(dsn)?;
                (config.get_hosts().len() == 1)
                    .then_some(Database::Postgres(dsn))
                    .ok_or_else(|| "a DSN names one host".to_owned())
            }
            #[cfg(feature = "mysql")]
            Some(("mysql", _)) => mysql::check(dsn).map(|()| Database::Mysql(dsn)),
            #[cfg(not(feature = "mysql"))]
            Some(("mysql", _)) => Err(NO_MYSQL.to_owned()),
            // Nothing of the text is repeated: it may hold a password.
            _ => Err(EXPECTED.to_owned()),
        }
    }
}

impl Database<'_> {
    fn dialect(&self) -> Dialect {
        match self {
            Database::Sqlite(_) => Dialect::Sqlite,
            Database::Postgres(_) => Dialect::Postgres,
            #[cfg(feature = "mysql")]
            Database::Mysql(_) => Dialect::Mysql,
        }
    }
}

fn postgres_config(dsn: &str) -> Result<tokio_postgres::Config, String> {
    dsn.parse().map_err(|_| {
        "expected postgres://user:password@host:5432/database; of its options, sslmode is disable, prefer or require, and the \
         server's certificate is verified whenever there is TLS"
            .to_owned()
    })
}

/// Whether a DSN can be used whose owner is not the operator: only such as lead to an address that the guard can judge.
///
/// # Errors
/// What is expected instead.
pub fn check_guarded_dsn(dsn: &str) -> Result<(), String> {
    match Database::parse(dsn)? {
        Database::Sqlite(_) => {
            Err("a database in a file is named by the operator in plugins.databases; say `connection`".to_owned())
        }
        Database::Postgres(dsn) => postgres::guarded_host(&postgres_config(dsn)?).map(drop),
        #[cfg(feature = "mysql")]
        Database::Mysql(_) => Ok(()),
    }
}

/// Whether a DSN can be used at all, for the operator's settings.
///
/// # Errors
/// What is expected instead.
pub fn check_dsn(dsn: &str) -> Result<(), String> {
    Database::parse(dsn).map(drop)
}

/// Connections of one shard to databases that are spoken to over a network.
pub struct Pools {
    postgres: postgres::Pools,
    #[cfg(feature = "mysql")]
    mysql: mysql::Pools,
}

impl Pools {
    /// Opens nothing yet. By [`Tls::default`], only databases of PostgreSQL that do not ask for it are reached; MySQL has its own, by these
    /// settings.
    pub fn new(tls: Tls, settings: &TlsSettings) -> Self {
        #[cfg(not(feature = "mysql"))]
        let _ = settings;
        Pools {
            postgres: postgres::Pools::new(tls),
            #[cfg(feature = "mysql")]
            mysql: mysql::Pools::new(settings.clone()),
        }
    }
}

impl Sql {
    /// What is wrong beyond the shape of the settings.
    pub(crate) fn check(&self, named: &Named, trusted: bool, faults: &mut Vec<Fault>) {
        match (&self.connection, &self.dsn) {
            (Some(name), None) if !named.contains_key(name) => {
                let text = format!("{name:?} is not among plugins.databases of the server's settings");
                faults.push(Fault::new(&["connection"], text));
            }
            (Some(_), None) => {}
            // A file that the operator's own file names is opened; every other DSN is guarded, whoever wrote it.
            (None, Some(dsn)) if trusted && matches!(Database::parse(dsn), Ok(Database::Sqlite(_))) => {}
            (None, Some(dsn)) => {
                if let Err(text) = check_guarded_dsn(dsn) {
                    faults.push(Fault::new(&["dsn"], text));
                }
            }
            _ => faults.push(Fault::new(&["connection"], "either `connection` or `dsn` says which database")),
        }
        if self.statements.is_empty() || self.statements.len() > STATEMENTS_MAX {
            faults.push(Fault::new(&["statements"], format!("1 to {STATEMENTS_MAX} statements")));
        }
        // What is wrong with one that is for no database is told when there is one.
        let dialect = self.dsn(named).and_then(|dsn| Database::parse(dsn).ok()).map(|database| database.dialect());
        for (place, statement) in self.statements.iter().enumerate() {
            if let Some(Err(text)) = dialect.map(|dialect| scan::check(statement, dialect)) {
                faults.push(Fault::new(&["statements", &place.to_string()], text));
            }
        }
    }

    fn dsn<'a>(&'a self, named: &'a Named) -> Option<&'a str> {
        self.connection.as_ref().map_or(self.dsn.as_ref(), |name| named.get(name)).map(String::as_str)
    }

    /// Carries the statements out for one event.
    pub(crate) async fn run(
        &self,
        event: &Event<'_>,
        named: &Named,
        files: &Arc<Files>,
        pools: &Pools,
        client: &Client,
    ) -> Ran {
        let dsn = self.dsn(named).ok_or_else(|| "plugins.databases has it no more".to_owned());
        let database = dsn.and_then(Database::parse);
        let deadline = Instant::now() + self.timeout_ms.0;
        let guarded = self.connection.is_none().then_some(client);
        let working = async {
            match database {
                Err(text) => Err(Failed::later(format!("the database cannot be used: {text}"))),
                Ok(Database::Sqlite(path)) => {
                    let bound = self.bound(event, |place| format!("?{place}"));
                    files.carry_out(path, bound, self.timeout_ms.0).await
                }
                Ok(Database::Postgres(dsn)) => {
                    let bound = self.bound(event, |place| format!("${place}"));
                    pools.postgres.carry_out(dsn, guarded, bound, deadline).await
                }
                #[cfg(feature = "mysql")]
                Ok(Database::Mysql(dsn)) => {
                    let bound = self.bound(event, |_| "?".to_owned());
                    pools.mysql.carry_out(dsn, guarded, bound, deadline).await
                }
            }
        };
        match timeout_at(deadline, working).await {
            Ok(Ok(changed)) => Ran::quiet(Answer::Said(said(&changed))),
            Ok(Err(Failed { forever: true, text, .. })) => Ran::quiet(Answer::Fail(text)),
            Ok(Err(Failed { forever: false, late, text })) => {
                let late = late || Instant::now() + NEARLY >= deadline;
                Ran::broken(if late { FailureClass::Timeout } else { FailureClass::Plugin }, text)
            }
            Err(_) => {
                Ran::broken(FailureClass::Timeout, format!("the database took longer than {:?}", self.timeout_ms.0))
            }
        }
    }

    fn bound(&self, event: &Event<'_>, placeholder: impl Fn(usize) -> String) -> Vec<Bound> {
        let bound = |statement: &Template| Bound {
            text: statement.with_places(&placeholder),
            values: statement.values(event).map(Value::of).collect(),
        };
        self.statements.iter().map(bound).collect()
    }
}

fn said(changed: &[u64]) -> String {
    let rows = |count: &u64| if *count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
    changed.iter().map(rows).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
