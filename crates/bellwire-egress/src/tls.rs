//! What we demand of the other end's TLS.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use rustls_platform_verifier::Verifier;

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

/// The configuration for all connections of the process; tickets for resumption are shared through it.
///
/// # Errors
/// If an extra root certificate does not parse.
pub(crate) fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if settings.verify {
        verifier(settings, &provider)?
    } else {
        Arc::new(NoVerification { provider: Arc::clone(&provider) })
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols =
        if settings.http2 { vec![b"h2".to_vec(), b"http/1.1".to_vec()] } else { vec![b"http/1.1".to_vec()] };
    Ok(Arc::new(config))
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
