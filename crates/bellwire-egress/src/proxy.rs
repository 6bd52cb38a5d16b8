//! The operator's forward proxy: HTTP (`CONNECT` for https, absolute-form for http) or SOCKS5 with names resolved there.
//!
//! Behind a proxy it is the proxy that resolves names, so the guard sees no addresses and the proxy's own rules must keep
//! our requests out of private networks (Smokescreen is made for this). Literal addresses, ports and local names are still
//! refused on our side. The proxy itself is the operator's choice and is not judged.

use std::net::IpAddr;

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderValue;
use ipnet::IpNet;
use percent_encoding::percent_decode_str;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::{Host, Url};

use crate::target::Origin;

/// A proxy's answer to `CONNECT` is read no further than this.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// A forward proxy, and the targets that do without it.
#[derive(Clone)]
pub struct Proxy {
    kind: Kind,
    pub(crate) host: Host<String>,
    pub(crate) port: u16,
    credentials: Option<Credentials>,
    exceptions: Vec<Exception>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Http,
    Socks5,
}

#[derive(Clone)]
struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
    basic: HeaderValue,
}

#[derive(Clone)]
enum Exception {
    All,
    Network(IpNet),
    /// The name itself and all names under it.
    Name(String),
}

/// What is wrong with the setting.
#[derive(Debug, thiserror::Error)]
pub enum ProxySettingError {
    /// Not a URL.
    #[error("the proxy is not a URL")]
    Url(#[from] url::ParseError),
    /// A scheme other than `http`, `socks5`, `socks5h`.
    #[error("proxy scheme {0} is not http, socks5 or socks5h")]
    Scheme(String),
    /// No host.
    #[error("the proxy has no host")]
    Host,
    /// The user name or password is longer than 255 bytes, or is not allowed in a header.
    #[error("the proxy's user name or password cannot be sent")]
    Credentials,
}

/// Why a proxy gave no connection.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The proxy itself cannot be reached.
    #[error("the proxy cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The connection to the proxy broke.
    #[error("the connection to the proxy broke")]
    Io(#[from] std::io::Error),
    /// An HTTP proxy answered with another status than 2xx.
    #[error("the proxy answered {0} to CONNECT")]
    Status(u16),
    /// A SOCKS5 proxy answered with this code (RFC 1928 §6).
    #[error("the proxy answered with SOCKS code {0}")]
    Socks(u8),
    /// The proxy wants other credentials, or some.
    #[error("the proxy refused our credentials")]
    Credentials,
    /// The answer makes no sense.
    #[error("the proxy's answer is malformed")]
    Malformed,
    /// What speaks to the host opens its own sockets, and the host is none that may be reached without the proxy.
    #[error("{host} is reached by the proxy only, and this cannot be: the operator can name it in egress.no_proxy")]
    Unusable {
        /// The host.
        host: String,
    },
}

impl Proxy {
    /// Reads the two settings: `http://user:password@host:port` or `socks5://…`, and a comma-separated list of targets
    /// that do without it: names (with all names under them), addresses, networks, or `*`.
    ///
    /// # Errors
    /// [`ProxySettingError`]. Entries of the list that are no address count as names.
    pub fn parse(url: &str, exceptions: &str) -> Result<Self, ProxySettingError> {
        let url = Url::parse(url)?;
        let (kind, default_port) = match url.scheme() {
            "http" => (Kind::Http, 80),
            "socks5" | "socks5h" => (Kind::Socks5, 1080),
            other => return Err(ProxySettingError::Scheme(other.to_owned())),
        };
        // Of a scheme that it does not know, `url` leaves the host unparsed.
        let host = Host::parse(url.host_str().ok_or(ProxySettingError::Host)?)?;
        Ok(Self {
            kind,
            host,
            port: url.port().unwrap_or(default_port),
            credentials: Credentials::of(&url)?,
            exceptions: exceptions.split(',').filter_map(Exception::parse).collect(),
        })
    }

    /// Whether requests for this target go by way of the proxy.
    pub fn covers(&self, host: &Host<String>) -> bool {
        !self.exceptions.iter().any(|exception| exception.matches(host))
    }

    /// Whether plain requests are given to the proxy as they are, with the whole URL in the request line.
    pub(crate) fn forwards_plain_requests(&self) -> bool {
        self.kind == Kind::Http
    }

    /// What goes with each request that the proxy forwards.
    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.credentials.as_ref().map(|credentials| &credentials.basic)
    }

    /// Asks the proxy for a connection to `origin`. When this returns, `stream` speaks with the target.
    pub(crate) async fn tunnel<S>(&self, stream: &mut S, origin: &Origin) -> Result<(), ProxyError>
    where
        S: AsyncReadExt + AsyncWriteExt + Unpin,
    {
        match self.kind {
            Kind::Http => self.http_connect(stream, origin).await,
            Kind::Socks5 => self.socks5_connect(stream, origin).await,
        }
    }

    async fn http_connect<S>(&self, stream: &mut S, origin: &Origin) -> Result<(), ProxyError>
    where
        S: AsyncReadExt + AsyncWriteExt + Unpin,
    {
        let authority = format!("{}:{}", origin.host, origin.port);
        let mut request = format!("CONNECT {authority} HTTP/1.1\r\nhost: {authority}\r\n").into_bytes();
        if let Some(basic) = self.authorization() {
            request.extend_from_slice(b"proxy-authorization: ");
            request.extend_from_slice(basic.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        stream.write_all(&request).await?;

        // The target does not speak before we do, so nothing but the proxy's answer can be read here.
        let mut answer = Vec::with_capacity(512);
        while !answer.ends_with(b"\r\n\r\n") {
            if answer.len() >= ANSWER_BYTES_MAX || stream.read_buf(&mut answer).await? == 0 {
                return Err(ProxyError::Malformed);
            }
        }
        match connect_status(&answer).ok_or(ProxyError::Malformed)? {
            200..=299 => Ok(()),
            407 => Err(ProxyError::Credentials),
            status => Err(ProxyError::Status(status)),
        }
    }

    /// RFC 1928, with user name and password after RFC 1929.
    async fn socks5_connect<S>(&self, stream: &mut S, origin: &Origin) -> Result<(), ProxyError>
    where
        S: AsyncReadExt + AsyncWriteExt + Unpin,
    {
        const NO_AUTHENTICATION: u8 = 0;
        const PASSWORD: u8 = 2;
        let greeting: &[u8] =
            if self.credentials.is_some() { &[5, 2, NO_AUTHENTICATION, PASSWORD] } else { &[5, 1, NO_AUTHENTICATION] };
        stream.write_all(greeting).await?;
        let mut choice = [0; 2];
        stream.read_exact(&mut choice).await?;
        match (choice, &self.credentials) {
            ([5, NO_AUTHENTICATION], _) => {}
            ([5, PASSWORD], Some(credentials)) => credentials.present_to_socks5(stream).await?,
            ([5, _], _) => return Err(ProxyError::Credentials),
            _ => return Err(ProxyError::Malformed),
        }

        stream.write_all(&socks5_request(origin)?).await?;
        let mut head = [0; 4];
        stream.read_exact(&mut head).await?;
        let [5, code, _, address_type] = head else { return Err(ProxyError::Malformed) };
        if code != 0 {
            return Err(ProxyError::Socks(code));
        }
        let address_bytes = match address_type {
            1 => 4,
            3 => usize::from(stream.read_u8().await?),
            4 => 16,
            _ => return Err(ProxyError::Malformed),
        };
        let mut bound = [0; 255 + 2];
        stream.read_exact(&mut bound[..address_bytes + 2]).await?;
        Ok(())
    }
}

impl Credentials {
    fn of(url: &Url) -> Result<Option<Self>, ProxySettingError> {
        if url.username().is_empty() && url.password().is_none() {
            return Ok(None);
        }
        let user: Vec<u8> = percent_decode_str(url.username()).collect();
        let password: Vec<u8> = percent_decode_str(url.password().unwrap_or_default()).collect();
        if user.len() > 255 || password.len() > 255 {
            return Err(ProxySettingError::Credentials);
        }
        let pair = [user.as_slice(), b":", &password].concat();
        let mut basic = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)))
            .map_err(|_| ProxySettingError::Credentials)?;
        basic.set_sensitive(true);
        Ok(Some(Self { user, password, basic }))
    }

    async fn present_to_socks5<S>(&self, stream: &mut S) -> Result<(), ProxyError>
    where
        S: AsyncReadExt + AsyncWriteExt + Unpin,
    {
        let length = |part: &[u8]| u8::try_from(part.len()).map_err(|_| ProxyError::Credentials);
        let mut message = vec![1, length(&self.user)?];
        message.extend_from_slice(&self.user);
        message.push(length(&self.password)?);
        message.extend_from_slice(&self.password);
        stream.write_all(&message).await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await?;
        if answer[1] == 0 { Ok(()) } else { Err(ProxyError::Credentials) }
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let entry = entry.trim().trim_matches(['[', ']']);
        if entry.is_empty() {
            return None;
        }
        if entry == "*" {
            return Some(Self::All);
        }
        if let Ok(network) = entry.parse::<IpNet>() {
            return Some(Self::Network(network));
        }
        if let Ok(ip) = entry.parse::<IpAddr>() {
            return Some(Self::Network(ip.into()));
        }
        Some(Self::Name(entry.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase()))
    }

    fn matches(&self, host: &Host<String>) -> bool {
        match (self, host) {
            (Self::All, _) => true,
            (Self::Network(network), Host::Ipv4(ip)) => network.contains(&IpAddr::V4(*ip)),
            (Self::Network(network), Host::Ipv6(ip)) => network.contains(&IpAddr::V6(*ip)),
            (Self::Name(parent), Host::Domain(name)) => {
                let name = name.trim_end_matches('.');
                name == parent || name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            _ => false,
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.kind == Kind::Http { "http" } else { "socks5" };
        write!(f, "Proxy({scheme}://{}:{})", self.host, self.port)
    }
}

fn connect_status(answer: &[u8]) -> Option<u16> {
    let rest = answer.strip_prefix(b"HTTP/1.")?;
    let code = rest.get(2..5)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

fn socks5_request(origin: &Origin) -> Result<Vec<u8>, ProxyError> {
    let mut request = vec![5, 1, 0];
    match &origin.host {
        Host::Ipv4(ip) => {
            request.push(1);
            request.extend_from_slice(&ip.octets());
        }
        Host::Ipv6(ip) => {
            request.push(4);
            request.extend_from_slice(&ip.octets());
        }
        Host::Domain(name) => {
            request.push(3);
            request.push(u8::try_from(name.len()).map_err(|_| ProxyError::Malformed)?);
            request.extend_from_slice(name.as_bytes());
        }
    }
    request.extend_from_slice(&origin.port.to_be_bytes());
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(exceptions: &str, host: &str) -> bool {
        let proxy = Proxy::parse("http://proxy.example:3128", exceptions).expect("a proxy");
        proxy.covers(&Host::parse(host).expect("a host"))
    }

    #[test]
    fn exceptions_are_names_with_what_is_under_them_addresses_and_networks() {
        let list = "corp.example, .intra.example,10.0.0.0/8 ,192.0.2.7,[2001:db8::1]";
        for direct in [
            "corp.example",
            "a.corp.example",
            "intra.example",
            "b.intra.example",
            "10.9.8.7",
            "192.0.2.7",
            "[2001:db8::1]",
        ] {
            assert!(!covers(list, direct), "{direct}");
        }
        for proxied in ["notcorp.example", "corp.example.org", "11.0.0.1", "192.0.2.8", "[2001:db8::2]"] {
            assert!(covers(list, proxied), "{proxied}");
        }
        assert!(!covers("*", "anything.example"));
        assert!(covers("", "anything.example"));
    }

    #[test]
    fn only_the_schemes_that_we_speak_are_taken() {
        assert!(Proxy::parse("socks5h://user:pass@127.0.0.1:1080", "").is_ok());
        assert!(matches!(Proxy::parse("https://proxy.example", ""), Err(ProxySettingError::Scheme(_))));
        assert!(Proxy::parse("proxy", "").is_err());
    }

    #[test]
    fn credentials_are_not_printed() {
        let proxy = Proxy::parse("http://user:hunter2@proxy.example:3128", "").expect("a proxy");
        assert_eq!(format!("{proxy:?}"), "Proxy(http://proxy.example:3128)");
    }
}
