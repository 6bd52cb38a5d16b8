//! PostgreSQL.

use super::connect::{Wire, connect};
use super::pool::Connections;
use super::tls::Tls;
use super::{Bound, Failed, Value};
use bellwire_egress::{Client as Egress, Reached, with_causes};
use bytes::BytesMut;
use std::error::Error as StdError;
use std::io;
use std::net::Ipv6Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, Config, Error};

/// What a server that an endpoint's owner names may say in answer to the statements of one event. The client takes in a message whole,
/// however long its server says that it is.
const ANSWERED_BYTES_MAX: usize = 32 << 20;

const TOO_MUCH: &str = "the database answers with more than 32 MiB to one event";

/// Connections of one shard.
pub(super) struct Pools {
    tls: Tls,
    connections: Connections<Held>,
}

/// A connection, and what its server may still say.
struct Held {
    client: Client,
    left: Left,
}

/// How many bytes may still be read.
#[derive(Clone, Default)]
struct Left(Arc<AtomicUsize>);

/// A stream from which no more is read than is left.
struct Bounded {
    stream: Reached,
    left: Left,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        let left = self.left.0.load(Ordering::Relaxed).checked_sub(read);
        self.left.0.store(left.unwrap_or(0), Ordering::Relaxed);
        Poll::Ready(left.map(drop).ok_or_else(|| io::Error::other(TOO_MUCH)))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A parameter as text: the database itself reads it as the type that the statement wants.
#[derive(Debug)]
struct Text(Option<String>);

impl ToSql for Text {
    fn to_sql(&self, _: &Type, to: &mut BytesMut) -> Result<IsNull, Box<dyn StdError + Sync + Send>> {
        Ok(match &self.0 {
            None => IsNull::Yes,
            Some(text) => {
                to.extend_from_slice(text.as_bytes());
                IsNull::No
            }
        })
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

impl Pools {
    pub(super) fn new(tls: Tls) -> Self {
        Pools { tls, connections: Connections::default() }
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
        let mut held = match pool.take().filter(|held| !held.client.is_closed()) {
            Some(held) => held,
            None => self.connect(dsn, guard, deadline).await.map_err(Failed::later)?,
        };
        held.left.0.store(ANSWERED_BYTES_MAX, Ordering::Relaxed);
        // Cut off by the deadline, the connection is closed, and the database rolls back.
        let left = deadline.saturating_duration_since(Instant::now());
        let done = transact(&mut held.client, &statements, left).await;
        // Of a stream that is cut off, the client says only that its connection is closed.
        let too_much = held.left.0.load(Ordering::Relaxed) == 0;
        if done.is_ok() || !held.client.is_closed() {
            pool.give_back(held);
        }
        done.map_err(|error| if too_much { Failed::later(TOO_MUCH) } else { failed(&error) })
    }

    async fn connect(&self, dsn: &str, guard: Option<&Egress>, deadline: Instant) -> Result<Held, String> {
        let mut config: Config = dsn.parse().map_err(|_| "the DSN cannot be read".to_owned())?;
        let left = deadline.saturating_duration_since(Instant::now());
        config.connect_timeout(left.min(Duration::from_secs(10))).application_name("bellwire");
        let allowance = Left::default();
        let over = match guard {
            Some(egress) => {
                let (stream, host) = reach(egress, &config, left).await?;
                allowance.0.store(ANSWERED_BYTES_MAX, Ordering::Relaxed);
                let stream: Box<dyn Wire> = Box::new(Bounded { stream, left: allowance.clone() });
                Some((stream, host))
            }
            None => None,
        };
        let client = connect(config, self.tls.clone(), over, Box::new(|| {})).await;
        let client = client.map_err(|error| format!("the database cannot be reached: {}", with_causes(&error)))?;
        Ok(Held { client, left: allowance })
    }
}

/// The one host of a DSN that the guard is asked about: it must not lead anywhere else.
pub(super) fn guarded_host(config: &Config) -> Result<&str, String> {
    if let [Host::Unix(_)] = config.get_hosts() {
        let text =
            "a database at a socket of this machine is named by the operator in plugins.databases; say `connection`";
        return Err(text.to_owned());
    }
    if config.get_target_session_attrs() != TargetSessionAttrs::Any {
        return Err("the DSN must not ask for target_session_attrs: it names one host".to_owned());
    }
    match config.get_hosts() {
        [Host::Tcp(host)] if config.get_hostaddrs().is_empty() => Ok(host),
        _ => Err("the DSN must name one host, and no address beside it".to_owned()),
    }
}

/// A stream to the one host that a DSN names, and the host: at an address that the guard allows, or by way of the operator's proxy.
///
/// # Errors
/// Why there is none, for whoever wrote the DSN.
pub async fn reach(egress: &Egress, config: &Config, limit: Duration) -> Result<(Reached, String), String> {
    const PORT: u16 = 5432;
    let host = guarded_host(config)?.to_owned();
    let named = match host.parse::<Ipv6Addr>() {
        Ok(address) => url::Host::Ipv6(address),
        Err(_) => url::Host::parse(&host).map_err(|_| "the DSN's host is none".to_owned())?,
    };
    let port = config.get_ports().first().copied().unwrap_or(PORT);
    let reached = egress.reach(&named, port, false, limit).await;
    let reached = reached.map_err(|error| format!("the database cannot be reached: {}", error.customer_text()))?;
    Ok((reached, host))
}

async fn transact(client: &mut Client, statements: &[Bound], left: Duration) -> Result<Vec<u64>, Error> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("SET LOCAL statement_timeout = {}", left.as_millis().max(1))).await?;
    let mut changed = Vec::with_capacity(statements.len());
    for Bound { text, values } in statements {
        let values: Vec<Text> = values.iter().cloned().map(Value::into_text).map(Text).collect();
        let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(|value| value as _).collect();
        changed.push(transaction.execute(text.as_str(), &values).await?);
    }
    transaction.commit().await?;
    Ok(changed)
}

/// The class is the first two characters of the state: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn failed(error: &Error) -> Failed {
    let state = error.code().map_or("", SqlState::code);
    // Wrong data, a constraint, wrong rights or names, a wrong statement.
    let forever = matches!(state.get(..2), Some("21" | "22" | "23" | "42" | "44" | "0A"));
    let late = error.code() == Some(&SqlState::QUERY_CANCELED);
    Failed { forever, late, text: format!("the database says: {}", with_causes(error)) }
}
