//! Connections to PostgreSQL. Also for whoever reads such a database elsewhere in the program.
//!
//! The client is compiled for each kind of stream that it is given. So there are two, and only here: the sockets that it opens itself,
//! to servers that the operator names, and a box for every other one.

use super::tls::Tls;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Error};

/// A stream that somebody else has opened.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

/// A client of the server that these settings name: over this stream to this host, or over a socket of its own. Calls `woken` for each
/// notification, and when the connection has ended. By [`Tls::default`], only servers that need not have it are reached.
///
/// Boxed, as it would otherwise be compiled for whoever asks.
pub fn connect(
    mut config: Config,
    tls: Tls,
    over: Option<(Box<dyn Wire>, String)>,
    woken: Box<dyn Fn() + Send>,
) -> Pin<Box<dyn Future<Output = Result<Client, Error>>>> {
    // A socket of this machine has no TLS, whatever the settings say of it: as in PostgreSQL's own client.
    let is_socket = matches!(config.get_hosts(), [Host::Unix(_)]);
    if is_socket || (tls.is_none() && config.get_ssl_mode() == SslMode::Prefer) {
        config.ssl_mode(SslMode::Disable);
    }
    Box::pin(async move {
        match over {
            Some((stream, host)) => {
                let (client, connection) = config.connect_raw(stream, tls.to(&host)).await?;
                tokio::spawn(drive(connection, woken));
                Ok(client)
            }
            None => {
                let (client, connection) = config.connect(tls).await?;
                tokio::spawn(drive(connection, woken));
                Ok(client)
            }
        }
    })
}

/// Until the client is dropped, or the connection ends.
async fn drive<S, T>(mut connection: Connection<S, T>, woken: Box<dyn Fn() + Send>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            woken();
        }
    }
    // Whoever waits finds out by asking.
    woken();
}
