//! `[egress]`: where attempts may go, and how they get there.

use super::{
    layers::Layers,
    value::{Expected, Read, Value, address, count, duration, list, network, optional, path, ports, switch, words},
};
use bellwire_egress::{NameServers, PoolSettings, Proxy, TlsSettings};
use ipnet::IpNet;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use std::{net::SocketAddr, ops::RangeInclusive, path::Path, time::Duration};

/// See `config.default.toml`.
#[derive(Clone, Debug)]
pub struct Egress {
    pub allow: Vec<IpNet>,
    pub deny_ports: Vec<RangeInclusive<u16>>,
    pub nat64: bool,
    pub proxy: Option<Proxy>,
    pub tls: TlsSettings,
    pub allow_unverified_tls: bool,
    pub name_servers: Vec<SocketAddr>,
    pub dns_timeout: Duration,
    pub connect_timeout: Duration,
    pub pool: PoolSettings,
}

impl Egress {
    pub(super) fn read(layers: &Layers) -> Egress {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const LONG: Duration = Duration::from_secs(120);
        let exceptions = layers.take("egress.no_proxy", list(words)).join(",");
        Egress {
            allow: layers.take("egress.allow", list(network)),
            deny_ports: layers.take("egress.deny_ports", list(ports)),
            nat64: layers.take("egress.nat64", switch),
            proxy: layers.take("egress.proxy", optional("none", |value| proxy(value, &exceptions))),
            tls: TlsSettings {
                extra_roots: layers.take("egress.extra_roots", optional("none", roots)).unwrap_or_default(),
                verify: layers.take("egress.tls_verify", switch),
                http2: layers.take("egress.http2", switch),
            },
            allow_unverified_tls: layers.take("egress.allow_unverified_tls", switch),
            name_servers: layers.take("egress.name_servers", list(address)),
            dns_timeout: layers.take("egress.dns_timeout", duration(MILLISECOND..=LONG)),
            connect_timeout: layers.take("egress.connect_timeout", duration(MILLISECOND..=LONG)),
            pool: PoolSettings {
                idle_per_origin_max: layers.take("egress.idle_per_host_max", count(0..=10_000)),
                idle_max: layers.take("egress.idle_max", count(0..=1_000_000)),
                idle_timeout: layers
                    .take("egress.idle_timeout", duration(Duration::from_secs(1)..=Duration::from_secs(3_600))),
                ..PoolSettings::default()
            },
        }
    }

    /// Which name servers to ask.
    pub fn name_servers(&self) -> NameServers {
        match self.name_servers.as_slice() {
            [] => NameServers::System,
            listed => NameServers::Listed(listed.to_vec()),
        }
    }
}

/// The URL may hold a password: what is said of it never repeats it.
fn proxy(value: &Value, exceptions: &str) -> Read<Proxy> {
    let url = words(value)?;
    Proxy::parse(&url, exceptions).map_err(|error| {
        Expected(format!("a proxy such as http://user:password@host:3128 or socks5://host:1080 ({error})"))
    })
}

/// Read here and not when it is first needed, so that a file that is no certificate stops the start.
fn roots(value: &Value) -> Read<Vec<CertificateDer<'static>>> {
    let file = path(value)?;
    match certificates(&file) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(Expected("a PEM file with certificates (there is none in it)".into())),
        Err(error) => Err(Expected(format!("a PEM file with certificates ({error})"))),
    }
}

fn certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let text = std::fs::read(file)?;
    CertificateDer::pem_slice_iter(&text)
        .map(|certificate| certificate.map_err(|error| anyhow::anyhow!("{error}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ports_denied_by_default_are_those_of_the_guard() {
        let egress = Egress::read(&Layers::defaults());
        assert_eq!(egress.deny_ports, bellwire_egress::guard::default_denied_ports());
    }

    #[test]
    fn a_proxy_is_a_url_and_its_password_is_not_repeated() {
        let text = |text: &str| Value::Text(text.into());
        assert!(proxy(&text("http://user:hunter2@proxy.internal:3128"), "").is_ok());
        assert!(proxy(&text("socks5://proxy.internal"), "10.0.0.0/8,internal").is_ok());
        for wrong in ["", "proxy", "ftp://user:hunter2@proxy", "http://"] {
            let Err(Expected(what)) = proxy(&text(wrong), "") else { panic!("{wrong} is no proxy") };
            assert!(!what.contains("hunter2"), "{what}");
        }
    }

    #[test]
    fn a_file_without_certificates_is_refused() {
        assert!(roots(&Value::Text("/nonexistent/roots.pem".into())).is_err());
        assert!(roots(&Value::Text("Cargo.toml".into())).is_err());
    }
}
