//! What we demand of the other end's TLS.
//!
//! Nearly all targets share one configuration. One with a client certificate, authorities of its own or no verification
//! has a [`TlsProfile`], which is part of its origin: a connection made under one profile is never used under another.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{PemObject, SectionKind},
    },
};
use rustls_platform_verifier::Verifier;
use sha2::{Digest, Sha256};

/// A PEM text for one target has at most so many bytes, and so many certificates.
pub(crate) const PEM_BYTES_MAX: usize = 64 * 1024;
const CERTIFICATES_MAX: usize = 32;

/// Settings for TLS to endpoints.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// Certificates of authorities that are trusted besides those of the machine.
    pub extra_roots: Vec<CertificateDer<'static>>,
    /// Whether certificates are verified at all. `false` lets anyone on the path read and change what we send.
    pub verify: bool,
    /// Whether HTTP/2 is offered. It is used only if the other end chooses it in the handshake.
    pub http2: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { extra_roots: Vec::new(), verify: true, http2: true }
    }
}

/// What is particular about TLS to one target. The texts are PEM.
#[derive(Clone, Copy, Default)]
pub struct TlsOptions<'a> {
    /// A private key and its certificate chain, the own certificate first, by which we identify ourselves.
    pub identity: Option<&'a str>,
    /// Authorities that the other end's certificate must come from, instead of those of the process.
    pub authorities: Option<&'a str>,
    /// The other end's certificate is not verified.
    pub unverified: bool,
}

/// TLS to one target, ready to use. Equal for equal options, whoever made it.
pub struct TlsProfile {
    digest: [u8; 32],
    pub(crate) config: Arc<ClientConfig>,
}

/// Why a text is no identity or no list of authorities. Never repeats anything of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// It is larger than we read.
    #[error("has more than {PEM_BYTES_MAX} bytes or {CERTIFICATES_MAX} certificates")]
    Large,
    /// It is not PEM.
    #[error("is not PEM: a text with -----BEGIN …----- and -----END …----- lines")]
    Syntax,
    /// There is no certificate in it.
    #[error("holds no certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// There is no private key in it.
    #[error("holds no private key (-----BEGIN PRIVATE KEY-----)")]
    NoKey,
    /// The private key needs a passphrase.
    #[error("holds an encrypted private key; give it without a passphrase")]
    EncryptedKey,
    /// There is more than one private key in it.
    #[error("holds more than one private key")]
    Keys,
    /// Where only certificates belong.
    #[error("holds a private key; only certificates belong here")]
    UnwantedKey,
    /// The key is not of a kind that can sign.
    #[error("holds a private key of a kind that is not supported; RSA, ECDSA P-256 to P-521 and Ed25519 are")]
    UnknownKey,
    /// They do not belong together.
    #[error("holds a private key that does not belong to its first certificate")]
    Mismatch,
    /// A certificate does not parse.
    #[error("holds a certificate that cannot be read")]
    Certificate,
    /// Its time is over.
    #[error("holds a certificate that has expired")]
    Expired,
}

impl TlsOptions<'_> {
    /// Whether nothing is particular: then no profile is needed.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.identity.is_none() && self.authorities.is_none() && !self.unverified
    }

    /// Checks the texts without using them, at `now` in Unix seconds.
    ///
    /// # Errors
    /// What is wrong with the first one that is.
    pub fn check(&self, now: i64) -> Result<(), PemError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        if let Some(text) = self.authorities {
            authorities(text, &provider)?;
        }
        if let Some(text) = self.identity {
            let Identity { chain, key } = Identity::parse(text)?;
            let (_, own) = x509_parser::parse_x509_certificate(&chain[0]).map_err(|_| PemError::Certificate)?;
            if own.validity().not_after.timestamp() < now {
                return Err(PemError::Expired);
            }
            let builder = builder(&provider, Arc::new(NoVerification { provider: Arc::clone(&provider) }));
            builder.map_err(|_| PemError::Certificate)?.with_client_auth_cert(chain, key).map_err(identity_error)?;
        }
        Ok(())
    }

    fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        for text in [self.identity, self.authorities] {
            let length = text.map_or(u64::MAX, |text| text.len() as u64);
            digest.update(length.to_le_bytes());
            digest.update(text.unwrap_or_default());
        }
        digest.update([u8::from(self.unverified)]);
        digest.finalize().into()
    }
}

impl PartialEq for TlsProfile {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for TlsProfile {}

impl Hash for TlsProfile {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl fmt::Debug for TlsProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsProfile(redacted)")
    }
}

/// The same strictness for a protocol other than HTTP, spoken to a server that the operator named.
///
/// # Errors
/// If an extra root certificate does not parse.
pub fn tls_client_config(settings: &TlsSettings) -> Result<ClientConfig, rustls::Error> {
    Ok(Base::new(settings)?.bare())
}

/// Whom [`tls_client_config`] trusts, for a library that takes certificates and makes the rest itself.
pub struct Authorities {
    /// Those of the machine and those that the settings add.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The machine has none: Mozilla's built-in list is to be trusted besides.
    pub with_mozillas: bool,
}

/// Reads the authorities of the machine; what of them cannot be read is left out.
#[must_use]
pub fn tls_authorities(settings: &TlsSettings) -> Authorities {
    let mut certificates = rustls_native_certs::load_native_certs().certs;
    certificates.retain(|certificate| RootCertStore::empty().add(certificate.clone()).is_ok());
    let with_mozillas = certificates.is_empty();
    certificates.extend(settings.extra_roots.iter().cloned());
    Authorities { certificates, with_mozillas }
}

/// What all TLS connections of the process have in common.
pub(crate) struct Base {
    provider: Arc<CryptoProvider>,
    verifier: Arc<dyn ServerCertVerifier>,
    /// The authorities themselves, also where certificates of endpoints are not verified.
    pub(crate) authorities: Arc<dyn ServerCertVerifier>,
    http2: bool,
    /// For targets without a profile; tickets for resumption are shared through it.
    pub(crate) config: Arc<ClientConfig>,
}

impl Base {
    /// Reads the authorities of the machine.
    ///
    /// # Errors
    /// If an extra root certificate does not parse.
    pub(crate) fn new(settings: &TlsSettings) -> Result<Self, rustls::Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let authorities = verifier(settings, &provider)?;
        let verifier: Arc<dyn ServerCertVerifier> = if settings.verify {
            Arc::clone(&authorities)
        } else {
            Arc::new(NoVerification { provider: Arc::clone(&provider) })
        };
        let config = builder(&provider, Arc::clone(&verifier))?.with_no_client_auth();
        let http2 = settings.http2;
        Ok(Self { config: finish(config, http2), provider, verifier, authorities, http2 })
    }

    /// The same for a protocol other than HTTP, which is all that is offered otherwise.
    pub(crate) fn bare(&self) -> ClientConfig {
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols.clear();
        config
    }

    /// Who judges certificates.
    pub(crate) fn verifier(&self) -> &Arc<dyn ServerCertVerifier> {
        &self.verifier
    }

    /// The same, but for what `options` change. A profile has resumption tickets of its own.
    pub(crate) fn profile(&self, options: &TlsOptions<'_>) -> Result<TlsProfile, PemError> {
        let verifier: Arc<dyn ServerCertVerifier> = match options.authorities {
            _ if options.unverified => Arc::new(NoVerification { provider: Arc::clone(&self.provider) }),
            Some(text) => authorities(text, &self.provider)?,
            None => Arc::clone(&self.verifier),
        };
        let builder = builder(&self.provider, verifier).map_err(|_| PemError::Certificate)?;
        let config = match options.identity {
            Some(text) => {
                let Identity { chain, key } = Identity::parse(text)?;
                builder.with_client_auth_cert(chain, key).map_err(identity_error)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(TlsProfile { digest: options.digest(), config: finish(config, self.http2) })
    }
}

type Builder = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn builder(provider: &Arc<CryptoProvider>, verifier: Arc<dyn ServerCertVerifier>) -> Result<Builder, rustls::Error> {
    Ok(ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier))
}

fn finish(mut config: ClientConfig, http2: bool) -> Arc<ClientConfig> {
    config.alpn_protocols = if http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Arc::new(config)
}

/// A key and its certificates, as they stood in a text.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn parse(text: &str) -> Result<Self, PemError> {
        let mut sections = sections(text)?;
        let mut keys: Vec<_> = sections.extract_if(.., |section| !matches!(section, Section::Certificate(_))).collect();
        let chain: Vec<_> = sections
            .into_iter()
            .filter_map(|section| match section {
                Section::Certificate(der) => Some(der),
                Section::Key(_) => None,
            })
            .collect();
        if chain.is_empty() {
            return Err(PemError::NoCertificate);
        }
        match (keys.pop(), keys.is_empty()) {
            (Some(Section::Key(key)), true) => Ok(Self { chain, key }),
            (None, _) if text.contains("ENCRYPTED") => Err(PemError::EncryptedKey),
            (None, _) => Err(PemError::NoKey),
            _ => Err(PemError::Keys),
        }
    }
}

enum Section {
    Certificate(CertificateDer<'static>),
    Key(PrivateKeyDer<'static>),
}

fn sections(text: &str) -> Result<Vec<Section>, PemError> {
    if text.len() > PEM_BYTES_MAX {
        return Err(PemError::Large);
    }
    let mut sections = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text.as_bytes()) {
        let (kind, der) = section.map_err(|_| PemError::Syntax)?;
        match kind {
            SectionKind::Certificate => sections.push(Section::Certificate(der.into())),
            SectionKind::PrivateKey => sections.push(Section::Key(PrivateKeyDer::Pkcs8(der.into()))),
            SectionKind::RsaPrivateKey => sections.push(Section::Key(PrivateKeyDer::Pkcs1(der.into()))),
            SectionKind::EcPrivateKey => sections.push(Section::Key(PrivateKeyDer::Sec1(der.into()))),
            _ => {}
        }
        if sections.len() > CERTIFICATES_MAX {
            return Err(PemError::Large);
        }
    }
    if sections.is_empty() && !text.contains("-----BEGIN") {
        return Err(PemError::Syntax);
    }
    Ok(sections)
}

/// The certificates of a text that others published.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = std::str::from_utf8(pem).map_err(|_| PemError::Syntax)?;
    let certificate = |section| match section {
        Section::Certificate(der) => Ok(der),
        Section::Key(_) => Err(PemError::UnwantedKey),
    };
    sections(text)?.into_iter().map(certificate).collect()
}

/// A verifier that trusts the certificates of `text` and nobody else.
fn authorities(text: &str, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ServerCertVerifier>, PemError> {
    let mut roots = RootCertStore::empty();
    for section in sections(text)? {
        match section {
            Section::Certificate(der) => roots.add(der).map_err(|_| PemError::Certificate)?,
            Section::Key(_) => return Err(PemError::UnwantedKey),
        }
    }
    if roots.is_empty() {
        return Err(PemError::NoCertificate);
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|_| PemError::Certificate)?;
    Ok(verifier)
}

fn identity_error(error: rustls::Error) -> PemError {
    match error {
        rustls::Error::InconsistentKeys(_) => PemError::Mismatch,
        rustls::Error::InvalidCertificate(_) => PemError::Certificate,
        _ => PemError::UnknownKey,
    }
}

/// The machine's authorities; Mozilla's, as they were when this was built, on a machine that has none (a bare container).
fn verifier(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
    // Asked without our extra roots first: with them it would not say that the machine has none of its own.
    if let Ok(verifier) = Verifier::new(Arc::clone(provider)) {
        if settings.extra_roots.is_empty() {
            return Ok(Arc::new(verifier));
        }
        let extra = settings.extra_roots.iter().cloned();
        return Ok(Arc::new(Verifier::new_with_extra_roots(extra, Arc::clone(provider))?));
    }
    tracing::warn!("this machine has no CA certificates; using the built-in list of Mozilla's");
    let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    for certificate in &settings.extra_roots {
        roots.add(certificate.clone())?;
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| rustls::Error::General(error.to_string()))?;
    Ok(verifier)
}

/// Accepts any certificate. The handshake's signatures are still checked, so that the failure modes stay the usual ones.
#[derive(Debug)]
struct NoVerification {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for NoVerification {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
