//! Looks at where a target leads without sending a request: its addresses, and the TLS that is offered there. For
//! whoever wants to know why deliveries fail; the way is the same as theirs, guard included.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use rustls::ProtocolVersion;

use crate::{
    error::{SendError, Stage},
    exchange::{Client, Progress, Timings},
    stream::Stream,
    target::Target,
};

/// What was found.
#[derive(Debug)]
pub struct Probe {
    /// TLS, if it is spoken.
    pub tls: Option<TlsFacts>,
    /// How long each part took.
    pub timings: Timings,
}

/// The TLS of a connection.
#[derive(Debug)]
pub struct TlsFacts {
    /// Such as `TLS 1.3`.
    pub version: &'static str,
    /// Whether HTTP/2 was chosen.
    pub http2: bool,
    /// As they were sent, the host's own first.
    pub certificates: Vec<CertificateFacts>,
}

/// What stands in a certificate.
#[derive(Debug)]
pub struct CertificateFacts {
    /// For whom it is.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// The names that it is good for.
    pub names: Vec<String>,
    /// Good from then, in Unix seconds.
    pub not_before: i64,
    /// Good until then, in Unix seconds.
    pub not_after: i64,
}

impl Client {
    /// All addresses of the target's host, in the order in which they would be tried, each of them allowed.
    ///
    /// # Errors
    /// [`SendError::Dns`], [`SendError::Forbidden`], or [`SendError::Timeout`].
    pub async fn addresses(&self, target: &Target, deadline: Duration) -> Result<Vec<IpAddr>, SendError> {
        let mut progress = progress();
        let origin = target.origin();
        let looked_up = async {
            self.connector().guard.check_host(&origin.host, origin.port)?;
            self.connector().resolve_and_judge(origin, &mut progress).await
        };
        match tokio::time::timeout(deadline, looked_up).await {
            Ok(addresses) => Ok(addresses?.into_iter().map(|address| address.ip()).collect()),
            Err(_) => Err(SendError::Timeout { stage: Stage::Dns, limit: deadline, status: None }),
        }
    }

    /// Connects, as far as a request could be sent, and closes the connection.
    ///
    /// # Errors
    /// As [`Client::exchange`].
    pub async fn probe(&self, target: &Target, deadline: Duration) -> Result<Probe, SendError> {
        let mut progress = progress();
        let connected = tokio::time::timeout(deadline, self.connector().connect(target.origin(), &mut progress)).await;
        let connected = match connected {
            Ok(connected) => connected?,
            Err(_) => return Err(SendError::Timeout { stage: progress.stage, limit: deadline, status: None }),
        };
        progress.timings.total = progress.started.elapsed();
        Ok(Probe { tls: facts(&connected.stream), timings: progress.timings })
    }
}

fn progress() -> Progress {
    Progress { started: Instant::now(), stage: Stage::Dns, status: None, timings: Timings::default() }
}

fn facts(stream: &Stream) -> Option<TlsFacts> {
    let session = stream.tls()?;
    let version = match session.protocol_version()? {
        ProtocolVersion::TLSv1_3 => "TLS 1.3",
        ProtocolVersion::TLSv1_2 => "TLS 1.2",
        _ => "an unknown version of TLS",
    };
    let certificates = session.peer_certificates().unwrap_or_default();
    Some(TlsFacts {
        version,
        http2: session.alpn_protocol() == Some(b"h2"),
        certificates: certificates.iter().filter_map(|der| read(der)).collect(),
    })
}

fn read(der: &[u8]) -> Option<CertificateFacts> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.map(|names| names.value.general_names.iter().map(name).collect()).unwrap_or_default();
    Some(CertificateFacts {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        names,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
    })
}

fn name(name: &x509_parser::extensions::GeneralName<'_>) -> String {
    use x509_parser::extensions::GeneralName;
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress([a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
        GeneralName::IPAddress(bytes) => match <[u8; 16]>::try_from(*bytes) {
            Ok(bytes) => IpAddr::from(bytes).to_string(),
            Err(_) => "an address".to_owned(),
        },
        _ => "a name of another kind".to_owned(),
    }
}
