//! `[server]`: where the program listens and keeps things, and how long it waits for clients.

use super::tls::TlsFiles;
use super::{
    SecretText,
    layers::Layers,
    value::{Expected, Read, Value, address, count, duration, memory, optional, path},
};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Below this it could be guessed.
const METRICS_TOKEN_CHARACTERS_MIN: usize = 16;

/// See `config.default.toml`.
#[derive(Clone, Debug)]
pub struct Server {
    pub listen: SocketAddr,
    pub data: PathBuf,
    /// Sources and endpoints that are declared in a file.
    pub hooks: Option<PathBuf>,
    /// `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// `None`: nobody is asked for it.
    pub metrics_token: Option<SecretText>,
    /// 0 means one for each core; see [`Server::shards`].
    pub shards_wanted: usize,
    /// Where the portal is; at the address that a request came to if absent.
    pub app_portal_url: Option<String>,
    pub shutdown_deadline: Duration,
    pub payload_bytes_max: usize,
    pub body_bytes_max: usize,
    pub header_timeout: Duration,
    pub body_timeout: Duration,
    pub idle_timeout: Duration,
}

impl Server {
    pub(super) fn read(layers: &Layers) -> Server {
        const SHORT: Duration = Duration::from_millis(100);
        const HOUR: Duration = Duration::from_secs(3_600);
        const MINUTES: Duration = Duration::from_secs(600);
        let certificate = layers.take("server.tls_certificate", optional("none", path));
        let key = layers.take("server.tls_key", optional("none", path));
        match (&certificate, &key) {
            (Some(_), None) => layers.refuse("server.tls_certificate", "it needs server.tls_key".into()),
            (None, Some(_)) => layers.refuse("server.tls_key", "it needs server.tls_certificate".into()),
            _ => {}
        }
        let server = Server {
            tls: certificate.zip(key).map(|(certificate, key)| TlsFiles { certificate, key }),
            listen: layers.take("server.listen", address),
            data: layers.take("server.data", path),
            hooks: layers.take("server.hooks", optional("none", path)),
            metrics_token: layers.take("server.metrics_token", optional("none", metrics_token)),
            shards_wanted: layers.take("server.shards", count(0..=256)),
            app_portal_url: layers.take("server.app_portal_url", web_address),
            shutdown_deadline: layers.take("server.shutdown_deadline", duration(Duration::ZERO..=HOUR)),
            payload_bytes_max: layers.take("server.payload_max", memory(1 << 10..=64 << 20)),
            body_bytes_max: layers.take("server.body_max", memory(1 << 10..=64 << 20)),
            header_timeout: layers.take("server.header_timeout", duration(SHORT..=MINUTES)),
            body_timeout: layers.take("server.body_timeout", duration(SHORT..=MINUTES)),
            idle_timeout: layers.take("server.idle_timeout", duration(SHORT..=HOUR)),
        };
        if server.body_bytes_max < server.payload_bytes_max {
            layers.refuse("server.body_max", "it must not be smaller than server.payload_max".into());
        }
        server
    }

    /// How many threads serve and deliver.
    pub fn shards(&self) -> usize {
        match self.shards_wanted {
            0 => std::thread::available_parallelism().map_or(1, usize::from).min(256),
            wanted => wanted,
        }
    }
}

/// As it comes in a header; never repeated.
fn metrics_token(value: &Value) -> Read<SecretText> {
    let Value::Text(text) = value else { return Err(Expected("text".into())) };
    let fits = text.len() >= METRICS_TOKEN_CHARACTERS_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
    let expected = || Expected(format!("at least {METRICS_TOKEN_CHARACTERS_MIN} characters without spaces"));
    fits.then(|| SecretText(text.clone())).ok_or_else(expected)
}

/// Empty is none. Otherwise an `http` or `https` URL to which a path can be added.
fn web_address(value: &Value) -> Read<Option<String>> {
    let expected = || Expected("a URL such as \"https://portal.example.com\", without query and fragment".into());
    let Value::Text(text) = value else { return Err(expected()) };
    if text.is_empty() {
        return Ok(None);
    }
    let url = url::Url::parse(text).map_err(|_| expected())?;
    let fits = matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
    if fits { Ok(Some(text.trim_end_matches('/').to_owned())) } else { Err(expected()) }
}
