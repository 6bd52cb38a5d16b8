//! Why an exchange ended without a response, each with its class and with a text that a customer may read.
//!
//! [`Display`](std::fmt::Display) and the chain of sources are for the operator: they may name addresses and what a
//! resolver said. The customer's text names only what she can know anyway.

use std::{borrow::Cow, fmt, io, time::Duration};

use rustls::{AlertDescription, CertificateError};
use url::Host;

use crate::{guard::Forbidden, proxy::ProxyError, resolve::ResolveError, target::UrlError};

/// Why an attempt ended without a response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The URL cannot be a target at all. Trying again is pointless until it is changed.
    #[error("the URL cannot be called")]
    Url(#[from] UrlError),
    /// The guard refused the target. Nothing was sent.
    #[error("the target is forbidden")]
    Forbidden(#[from] Forbidden),
    /// The host name has no addresses now. Nothing was sent.
    #[error("host {host} cannot be resolved")]
    Dns {
        /// The name.
        host: String,
        /// What DNS said.
        source: ResolveError,
    },
    /// No connection could be made to any address of the host. Nothing was sent.
    #[error("no connection to {host}")]
    Connect {
        /// Host and port.
        host: String,
        /// What the last address tried answered.
        source: io::Error,
    },
    /// The operator's proxy refused or failed. Nothing was sent.
    #[error("the proxy gave no connection")]
    Proxy(#[from] ProxyError),
    /// The TLS handshake failed. Nothing was sent.
    #[error("TLS handshake with {host} failed")]
    Tls {
        /// The name that the certificate must have.
        host: String,
        /// What is wrong with it.
        problem: TlsProblem,
        /// In full.
        source: io::Error,
    },
    /// The deadline passed. With [`Stage::Response`] and [`Stage::Body`] the request may have been acted upon.
    #[error("no end within {limit:?}, waiting for {stage}")]
    Timeout {
        /// What was being waited for.
        stage: Stage,
        /// The deadline of the exchange, or the shorter one for a connection.
        limit: Duration,
        /// The status, if a response had begun ([`Stage::Body`]).
        status: Option<u16>,
    },
    /// What came back is not HTTP, or more of it than we read.
    #[error("the response is malformed")]
    Malformed {
        /// What the parser said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The connection ended before a response began.
    #[error("the connection was lost before a response")]
    ConnectionLost {
        /// Whether some of the request had been written: then it may have been acted upon.
        bytes_written: bool,
        /// What happened to the connection.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// What an exchange waits for, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The addresses of the host.
    Dns,
    /// A TCP connection.
    Connect,
    /// The proxy's consent.
    Proxy,
    /// The TLS handshake.
    Tls,
    /// The request to be taken and a response to begin.
    Response,
    /// The end of the response's body.
    Body,
}

/// What is wrong with the other end's TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsProblem {
    /// The certificate has expired.
    Expired,
    /// The certificate is not valid yet.
    NotYetValid,
    /// The certificate is for other names.
    WrongName,
    /// The certificate is signed by no one that we trust.
    UnknownIssuer,
    /// Something else about the certificate.
    Certificate,
    /// The other end does not accept our certificate, or that we have none.
    OurCertificate,
    /// No version or cipher in common, or the other end refused the handshake.
    Protocol,
    /// The connection ended during the handshake.
    Closed,
}

impl SendError {
    /// A short name of the reason: stored with the attempt, and a metric's label.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::Url(_) => "invalid_url",
            Self::Forbidden(_) => "forbidden_address",
            Self::Dns { .. } => "dns",
            Self::Connect { .. } => "connect",
            Self::Proxy(_) => "proxy",
            Self::Tls { .. } => "tls",
            Self::Timeout { .. } => "timeout",
            Self::Malformed { .. } => "malformed_response",
            Self::ConnectionLost { bytes_written: true, .. } => "response_lost",
            Self::ConnectionLost { bytes_written: false, .. } => "connection_lost",
        }
    }

    /// What the owner of the endpoint may read. Names no address and nothing of our own network.
    #[must_use]
    pub fn customer_text(&self) -> Cow<'static, str> {
        match self {
            Self::Url(_) => "the endpoint's URL cannot be called".into(),
            Self::Forbidden(forbidden) => forbidden.customer_text().into(),
            Self::Dns { source, .. } => match source {
                ResolveError::NotFound => "the host name has no address in DNS".into(),
                ResolveError::Timeout => "the host name's DNS did not answer in time".into(),
                ResolveError::Failed(_) => "the host name's DNS failed".into(),
            },
            Self::Connect { source, .. } => match source.kind() {
                io::ErrorKind::ConnectionRefused => "the connection was refused".into(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => "the connection was reset".into(),
                io::ErrorKind::TimedOut => "the host did not accept a connection in time".into(),
                io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "the host is unreachable".into(),
                _ => "no connection to the host".into(),
            },
            Self::Proxy(error @ ProxyError::Unusable { .. }) => error.to_string().into(),
            Self::Proxy(_) => "the outgoing proxy gave no connection to the host".into(),
            Self::Tls { problem, .. } => problem.customer_text().into(),
            Self::Timeout { stage, limit, .. } => {
                format!("timed out after {} ms, waiting for {stage}", limit.as_millis()).into()
            }
            Self::Malformed { .. } => "the response was not valid HTTP".into(),
            Self::ConnectionLost { bytes_written: true, .. } => "the connection was closed without a response".into(),
            Self::ConnectionLost { bytes_written: false, .. } => "the connection was closed before the request".into(),
        }
    }

    /// The error and its causes in one line, for the operator's log.
    #[must_use]
    pub fn operator_text(&self) -> String {
        with_causes(self)
    }
}

/// Any error and its causes in one line. Some libraries' errors end with their causes already.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let told = error.to_string();
        if !text.ends_with(&told) {
            text.push_str(": ");
            text.push_str(&told);
        }
        cause = error.source();
    }
    text
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dns => "DNS",
            Self::Connect => "a connection",
            Self::Proxy => "the proxy",
            Self::Tls => "the TLS handshake",
            Self::Response => "a response",
            Self::Body => "the end of the response",
        })
    }
}

impl TlsProblem {
    fn customer_text(self) -> &'static str {
        match self {
            Self::Expired => "the TLS certificate has expired",
            Self::NotYetValid => "the TLS certificate is not valid yet",
            Self::WrongName => "the TLS certificate is for another host name",
            Self::UnknownIssuer => "the TLS certificate is not signed by a trusted authority",
            Self::Certificate => "the TLS certificate is not acceptable",
            Self::OurCertificate => {
                "the host asked for a client certificate and did not accept ours, or that there is none"
            }
            Self::Protocol => "the TLS handshake failed",
            Self::Closed => "the connection was closed during the TLS handshake",
        }
    }
}

/// Reads the problem out of what the handshake returned.
pub(crate) fn tls_problem(error: &io::Error) -> TlsProblem {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsProblem::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsProblem::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsProblem::WrongName
            }
            CertificateError::UnknownIssuer => TlsProblem::UnknownIssuer,
            _ => TlsProblem::Certificate,
        },
        Some(rustls::Error::AlertReceived(alert)) if is_about_our_certificate(*alert) => TlsProblem::OurCertificate,
        Some(_) => TlsProblem::Protocol,
        None => TlsProblem::Closed,
    }
}

/// With TLS 1.3 a server refuses our certificate only after we have begun to send: what looks like nonsense or a loss
/// then is an alert. Nothing was acted upon.
pub(crate) fn refused_by_alert(error: SendError, host: &Host<String>) -> SendError {
    let (SendError::Malformed { source } | SendError::ConnectionLost { source, .. }) = &error else { return error };
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**source);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(rustls::Error::AlertReceived(alert)) =
                io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
            && is_about_our_certificate(*alert)
        {
            let source = io::Error::new(io.kind(), rustls::Error::AlertReceived(*alert));
            return SendError::Tls { host: host.to_string(), problem: TlsProblem::OurCertificate, source };
        }
        cause = error.source();
    }
    error
}

fn is_about_our_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::CertificateRequired
            | AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_an_error_repeats_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("the mail server failed: {0}")]
        struct Repeats(#[source] io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("the mail was not sent")]
        struct Outer(#[source] Repeats);
        let error = Outer(Repeats(io::Error::other("refused")));
        assert_eq!(with_causes(&error), "the mail was not sent: the mail server failed: refused");
    }
}
