//! Certificates that others sign messages with: whether they come from an authority that this process trusts.
//!
//! A sender publishes its certificate, often alone. What lacks between it and an authority is fetched from where each certificate says
//! that its issuer is (RFC 5280 §4.2.2.1), like everything else through the guard. That needs no trust in the place: an issuer counts
//! only if it has signed, and if an authority has signed it.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method};
use rustls::{
    CertificateError,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, extensions::ParsedExtension,
    oid_registry::OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS,
};

use crate::{
    error::SendError,
    exchange::{Client, Request},
    target::Target,
    tls::{PEM_BYTES_MAX, PemError, certificates},
};

/// Between a certificate and its authority there are seldom more than two.
const ISSUERS_MAX: usize = 4;

/// Why a certificate is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The text cannot be used.
    #[error("the certificate's text {0}")]
    Pem(#[from] PemError),
    /// It is made out to nobody whose name could be verified.
    #[error("the certificate names no host")]
    Nameless,
    /// It comes from nobody whom we trust, is not valid now, or is not for proving who somebody is.
    #[error("the certificate is not trusted: {0}")]
    Untrusted(rustls::Error),
    /// An issuer on the way to an authority could not be fetched.
    #[error("the certificate's issuer cannot be fetched from {url}: {why}")]
    Issuer {
        /// Where it should have been.
        url: String,
        /// What happened there.
        why: String,
    },
}

impl Client {
    /// Whether the first certificate of a PEM text comes from an authority that TLS of this process trusts, and it and all between are
    /// valid at `now`, in Unix seconds; answers that certificate. The text may hold what is between; what it lacks is fetched, within `limit`.
    ///
    /// Whom the certificate names is for the caller to judge. That certificates of endpoints need not be verified makes no difference here.
    ///
    /// # Errors
    /// [`ChainError`].
    pub async fn check_chain(
        &self,
        pem: &[u8],
        now: i64,
        limit: Duration,
    ) -> Result<CertificateDer<'static>, ChainError> {
        let until = Instant::now() + limit;
        let mut chain = certificates(pem)?;
        if chain.is_empty() {
            return Err(PemError::NoCertificate.into());
        }
        let name = name(&parsed(&chain[0])?).ok_or(ChainError::Nameless)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(now).unwrap_or_default()));
        let verifier = &self.connector().tls.authorities;
        let mut fetched = 0;
        loop {
            let (own, issuers) = chain.split_at(1);
            let error = match verifier.verify_server_cert(&own[0], issuers, &name, &[], now) {
                Ok(_) => return Ok(own[0].clone()),
                Err(error) => error,
            };
            let lacks_issuer = matches!(error, rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer));
            let next = if lacks_issuer && fetched < ISSUERS_MAX { issuer_url(&chain)? } else { None };
            let Some(url) = next else { return Err(ChainError::Untrusted(error)) };
            let left = until.saturating_duration_since(Instant::now());
            let issuer = self.fetch_certificate(&url, left).await;
            let issuer = issuer.map_err(|why| ChainError::Issuer { url, why })?;
            parsed(&issuer)?;
            chain.push(issuer);
            fetched += 1;
        }
    }

    async fn fetch_certificate(&self, url: &str, limit: Duration) -> Result<CertificateDer<'static>, String> {
        let target = Target::parse(url).map_err(|error| error.to_string())?;
        let request = Request {
            method: Method::GET,
            target,
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
            deadline: limit,
            response_body_max: PEM_BYTES_MAX,
        };
        let response = self.exchange(request).await.map_err(|error: SendError| error.to_string())?;
        if response.status != 200 {
            return Err(format!("it was answered with {}", response.status));
        }
        if response.body.starts_with(b"-----BEGIN") {
            let all = certificates(&response.body).map_err(|error| format!("what is there {error}"))?;
            return all.into_iter().next().ok_or_else(|| "there is no certificate".to_owned());
        }
        Ok(CertificateDer::from(response.body.to_vec()))
    }
}

fn parsed<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, PemError> {
    x509_parser::parse_x509_certificate(certificate).map(|(_, parsed)| parsed).map_err(|_| PemError::Certificate)
}

/// A name that the certificate is for: verifying wants one.
fn name(certificate: &X509Certificate<'_>) -> Option<ServerName<'static>> {
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        // Any name below will do for a certificate that is for all of them.
        GeneralName::DNSName(name) => ServerName::try_from(name.replacen('*', "any", 1)).ok(),
        _ => None,
    })
}

/// Where the issuer is that the chain lacks; `None` if its last certificate does not say, or is its own.
fn issuer_url(chain: &[CertificateDer<'static>]) -> Result<Option<String>, ChainError> {
    let all = chain.iter().map(parsed).collect::<Result<Vec<_>, _>>()?;
    let mut last = &all[0];
    // Each step leads to another one, so there are fewer steps than certificates.
    for _ in 1..all.len() {
        match all.iter().find(|other| other.subject().as_raw() == last.issuer().as_raw()) {
            Some(issuer) => last = issuer,
            None => break,
        }
    }
    if last.subject().as_raw() == last.issuer().as_raw() {
        return Ok(None);
    }
    let known = all.iter().any(|other| other.subject().as_raw() == last.issuer().as_raw());
    let url = last.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => access.accessdescs.iter().find_map(|place| {
            let is_issuer = place.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS;
            match &place.access_location {
                GeneralName::URI(url) if is_issuer && url.starts_with("http") => Some((*url).to_owned()),
                _ => None,
            }
        }),
        _ => None,
    });
    Ok(url.filter(|_| !known))
}
