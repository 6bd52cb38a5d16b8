//! MySQL and MariaDB, by the same protocol.
//!
//! The library opens its own sockets: a DSN of an endpoint's owner is resolved by the guard, and the library is given the addresses.
//! It makes its own TLS configuration, too: from the same authorities, as certificates. It asks for TLS or it does not, so
//! there is no `prefer`.

use super::pool::Connections;
use super::{Bound, Failed, Value};
use bellwire_egress::{Client as Egress, TlsSettings, tls_authorities};
use mysql_async::prelude::Queryable;
use mysql_async::{
    Conn, DriverError, Error, Opts, OptsBuilder, Params, ServerError, SslOpts, Transaction, TxOpts, Value as Cell,
};
use std::cell::OnceCell;
use std::time::Duration;
use tokio::time::{Instant, timeout};
use url::{Host, Url};

const PORT: u16 = 3306;
/// What one packet may hold in either direction: a statement's parameters, or one row of an answer.
const PACKET_BYTES_MAX: usize = 16 << 20;
/// Saying goodbye to a server takes no longer.
const GOODBYE: Duration = Duration::from_secs(1);
/// A server that is silently gone is noticed.
const KEEPALIVE: Duration = Duration::from_secs(30);
const EXPECTED: &str = "expected mysql://user:password@host:3306/database, with ?sslmode=disable or ?sslmode=require";

/// Connections of one shard.
pub(super) struct Pools {
    tls: TlsSettings,
    authorities: OnceCell<SslOpts>,
    connections: Connections<Held>,
}

/// What a DSN says.
#[derive(Debug)]
struct Dsn {
    /// User, password and database.
    opts: Opts,
    host: Host<String>,
    port: u16,
    tls: bool,
}

impl Dsn {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || EXPECTED.to_owned();
        let mut url = Url::parse(text).map_err(|_| wrong())?;
        // All that the library itself would understand beyond these could lead elsewhere than the guard looked.
        let mut tls = true;
        for (name, value) in url.query_pairs() {
            tls = match (&*name, &*value) {
                ("sslmode", "disable") => false,
                ("sslmode", "require") => true,
                _ => return Err(wrong()),
            };
        }
        url.set_query(None);
        url.set_fragment(None);
        let host = url.host_str().and_then(|host| Host::parse(host).ok()).ok_or_else(wrong)?;
        let port = url.port().unwrap_or(PORT);
        let opts = Opts::from_url(url.as_str()).map_err(|_| wrong())?;
        if opts.user().is_none_or(str::is_empty) || opts.db_name().is_none_or(str::is_empty) {
            return Err(wrong());
        }
        Ok(Dsn { opts, host, port, tls })
    }
}

/// Whether a DSN can be used at all.
pub(super) fn check(dsn: &str) -> Result<(), String> {
    Dsn::parse(dsn).map(drop)
}

/// A connection that is closed within a bound when nobody wants it any more. The library's own way is to first read all that
/// the server still has to say, for as long as it says something.
struct Held(Option<Conn>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn(async { timeout(GOODBYE, connection.disconnect()).await.is_ok() })),
                Err(_) => drop(connection),
            }
        }
    }
}

impl Pools {
    pub(super) fn new(tls: TlsSettings) -> Self {
        Pools { tls, authorities: OnceCell::new(), connections: Connections::default() }
    }

    /// With `guard`, only at addresses that it allows.
    pub(super) async fn carry_out(
        &self,
        dsn: &str,
        guard: Option<&Egress>,
        statements: Vec<Bound>,
        deadline: Instant,
    ) -> Result<Vec<u64>, Failed> {
        let pool = self.connections.pool(dsn, guard.is_some());
        let _place = pool.place().await?;
        let mut held = None;
        // One that has been idle may be closed by the server meanwhile.
        while let Some(mut idle) = pool.take() {
            if let Some(connection) = &mut idle.0
                && bound_time(connection, deadline).await.is_ok()
            {
                held = Some(idle);
                break;
            }
        }
        let mut held = match held {
            Some(held) => held,
            None => {
                let mut connection = self.connect(dsn, guard).await.map_err(unreached)?;
                bound_time(&mut connection, deadline).await.map_err(|error| failed(&error))?;
                Held(Some(connection))
            }
        };
        let Some(connection) = &mut held.0 else { return Err(unreached("it is closed".to_owned())) };
        // Cut off by the deadline, the connection is closed, and the database rolls back.
        let done = transact(connection, &statements).await;
        // After an error, what was begun is rolled back, or the connection goes.
        if done.is_ok() || matches!(done, Err((_, RolledBack(true)))) {
            pool.give_back(held);
        }
        done.map_err(|(error, _)| failed(&error))
    }

    async fn connect(&self, dsn: &str, guard: Option<&Egress>) -> Result<Conn, String> {
        let Dsn { opts, host, port, tls } = Dsn::parse(dsn)?;
        let name = match &host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(address) => address.to_string(),
            Host::Ipv6(address) => address.to_string(),
        };
        let addresses = match guard {
            Some(egress) => {
                let peers = egress.peers(&host, port).await.map_err(|error| error.customer_text().into_owned())?;
                Some(peers.iter().map(|peer| peer.ip()).collect::<Vec<_>>())
            }
            None => None,
        };
        let opts = OptsBuilder::from_opts(opts)
            .ip_or_hostname(name)
            .tcp_port(port)
            .resolved_ips(addresses)
            // A server on loopback could otherwise name a file to go on at.
            .prefer_socket(false)
            .tcp_keepalive(Some(KEEPALIVE))
            .max_allowed_packet(Some(PACKET_BYTES_MAX))
            .wait_timeout(Some(28_800))
            .ssl_opts(tls.then(|| self.ssl_opts().clone()))
            // What does not fit is refused, never cut to fit.
            .setup(vec!["SET SESSION sql_mode = CONCAT_WS(',', NULLIF(@@SESSION.sql_mode, ''), 'STRICT_ALL_TABLES')"]);
        Conn::new(opts).await.map_err(|error| match error {
            Error::Driver(DriverError::NoClientSslFlagFromServer) => {
                "it has no TLS; ?sslmode=disable in the DSN does without".to_owned()
            }
            error => error.to_string(),
        })
    }

    /// The same authorities and the same strictness as for outgoing requests.
    fn ssl_opts(&self) -> &SslOpts {
        self.authorities.get_or_init(|| {
            // The library takes the process's provider, of which there must be one.
            let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
            let authorities = tls_authorities(&self.tls);
            let certificates = authorities.certificates.into_iter().map(|der| der.to_vec().into());
            SslOpts::default()
                .with_root_certs(certificates.collect())
                .with_disable_built_in_roots(!authorities.with_mozillas)
                .with_danger_accept_invalid_certs(!self.tls.verify)
        })
    }
}

fn unreached(why: String) -> Failed {
    Failed::later(format!("the database cannot be reached: {why}"))
}

/// Tells the server until when somebody waits: for locks, and with what each of the two calls it for statements.
async fn bound_time(connection: &mut Conn, deadline: Instant) -> Result<(), Error> {
    let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    let (seconds, milliseconds) = (left.as_secs() + 1, left.as_millis());
    let text = format!(
        "SET SESSION innodb_lock_wait_timeout = {seconds}, lock_wait_timeout = {seconds} \
         /*M! , max_statement_time = {} */ /*!50708 , max_execution_time = {milliseconds} */",
        left.as_secs_f64()
    );
    connection.query_drop(text).await
}

/// Whether nothing of a failed transaction is left at the server.
struct RolledBack(bool);

async fn transact(connection: &mut Conn, statements: &[Bound]) -> Result<Vec<u64>, (Error, RolledBack)> {
    let gone = |error| (error, RolledBack(false));
    let mut transaction = connection.start_transaction(TxOpts::default()).await.map_err(gone)?;
    match execute(&mut transaction, statements).await {
        Ok(changed) => transaction.commit().await.map(|()| changed).map_err(gone),
        Err(error) => {
            let rolled_back = transaction.rollback().await.is_ok();
            Err((error, RolledBack(rolled_back)))
        }
    }
}

async fn execute(transaction: &mut Transaction<'_>, statements: &[Bound]) -> Result<Vec<u64>, Error> {
    let mut changed = Vec::with_capacity(statements.len());
    for Bound { text, values } in statements {
        let values =
            if values.is_empty() { Params::Empty } else { Params::Positional(values.iter().map(cell).collect()) };
        let mut result = transaction.exec_iter(text.as_str(), values).await?;
        let mut rows = 0_u64;
        let reads = !result.columns_ref().is_empty();
        while result.next().await?.is_some() {
            rows += 1;
        }
        changed.push(if reads { rows } else { result.affected_rows() });
        result.drop_result().await?;
    }
    Ok(changed)
}

/// Numbers as numbers if they are whole and fit, whatever else as its text: no digit is lost.
fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::NULL,
        Value::Text(text) => Cell::Bytes(text.clone().into_bytes()),
        Value::Json(json) => match (json.as_str(), json.parse::<i64>(), json.parse::<u64>()) {
            ("true", ..) => Cell::Int(1),
            ("false", ..) => Cell::Int(0),
            (_, Ok(whole), _) => Cell::Int(whole),
            (_, _, Ok(whole)) => Cell::UInt(whole),
            (text, ..) => Cell::Bytes(text.as_bytes().to_vec()),
        },
    }
}

fn failed(error: &Error) -> Failed {
    let forever = match error {
        Error::Server(error) => is_forever(error),
        // The statement's own placeholders are not as many as its places.
        Error::Driver(error) => matches!(
            error,
            DriverError::StmtParamsMismatch { .. }
                | DriverError::StmtParamsNumberExceedsLimit { .. }
                | DriverError::Params(_)
                | DriverError::MixedParams
        ),
        _ => false,
    };
    Failed { forever, late: false, text: format!("the database says: {error}") }
}

/// By the class of the state, and by the number where the class says less:
/// <https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html>.
fn is_forever(error: &ServerError) -> bool {
    match error.code {
        // Too many connections of this user, or too many of their queries in this hour, are called wrong rights.
        1203 | 1226 => false,
        // No default for a column, data cut off, a wrong value, not UTF-8, a wrong argument, not for prepared statements, larger
        // than the server takes, a check that failed, no JSON.
        1153 | 1265 | 1295 | 1300 | 1364 | 1366 | 1411 | 3819 | 4038 => true,
        // Wrong data, a constraint, wrong rights or names, a wrong statement.
        _ => matches!(error.state.get(..2), Some("21" | "22" | "23" | "42" | "44" | "0A")),
    }
}

#[cfg(test)]
mod tests;
