//! TLS on our own listener: one certificate and its key, from two files that may be replaced while we run.
//!
//! A file that cannot be used leaves the certificate of before in force, and an error in the log. Connections that are open keep
//! theirs. TLS 1.2 is the least, and HTTP/1.1 is all that is offered: what keeps slow and ambiguous clients away
//! reads HTTP/1.1.

use anyhow::{Context as _, ensure};
use bellwire_config::tls::TlsFiles;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// The certificate in force, and how to tell that its files have changed.
pub struct Tls {
    files: TlsFiles,
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    /// The files as they were when they were last read, whether or not they could be used.
    read: Option<Stamp>,
    /// The files as they were when last looked at: while they change, they are being written.
    seen: Option<Stamp>,
}

/// What the listeners ask for each handshake.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read()))
    }
}

/// Which file it is, how long, and when it was written: for both.
type Stamp = [(u64, u64, i64, i64); 2];

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them cannot be read, holds nothing of its kind, or is not for the other.
    pub fn load(files: TlsFiles) -> anyhow::Result<Tls> {
        let read = stamp(&files);
        let current = Arc::new(Current(RwLock::new(certified_key(&files)?)));
        let resolver: Arc<dyn ResolvesServerCert> = current.clone();
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .context("TLS cannot be set up")?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = aws_lc_rs::Ticketer::new().context("TLS cannot be set up")?;
        Ok(Tls { files, config: Arc::new(config), current, seen: read, read })
    }

    /// For a listener; it follows every later change.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Reads the files again.
    ///
    /// # Errors
    /// As [`Tls::load`]; the certificate of before stays in force.
    pub(crate) fn reload(&mut self) -> anyhow::Result<()> {
        self.read = stamp(&self.files);
        self.seen = self.read;
        let new = certified_key(&self.files)?;
        *self.current.0.write() = new;
        Ok(())
    }

    /// Whether the files have changed since they were last read, and have come to rest. To be asked now and then.
    pub(crate) fn has_changed(&mut self) -> bool {
        let now = stamp(&self.files);
        let at_rest = now == self.seen;
        self.seen = now;
        at_rest && now != self.read
    }
}

/// `None` while one of the files is not there.
fn stamp(files: &TlsFiles) -> Option<Stamp> {
    let of = |metadata: Metadata| (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec());
    // Symbolic links are followed: a change of where they lead is a change.
    let read = |path| std::fs::metadata(path).map(of).ok();
    Some([read(&files.certificate)?, read(&files.key)?])
}

fn certified_key(files: &TlsFiles) -> anyhow::Result<Arc<CertifiedKey>> {
    let TlsFiles { certificate, key } = files;
    let read = |path: &PathBuf| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(certificate)?)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{} is not PEM", certificate.display()))?;
    ensure!(!chain.is_empty(), "there is no certificate in {}", certificate.display());
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .with_context(|| format!("there is no private key in {}", key.display()))?;
    let private = aws_lc_rs::sign::any_supported_type(&private)
        .with_context(|| format!("the private key in {} is of a kind that is not supported", key.display()))?;
    let pair = CertifiedKey::new(chain, private);
    pair.keys_match()
        .with_context(|| format!("the key in {} is not that of {}", key.display(), certificate.display()))?;
    Ok(Arc::new(pair))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(files: &TlsFiles, name: &str) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("made");
        std::fs::write(&files.certificate, made.cert.pem()).expect("written");
        std::fs::write(&files.key, made.signing_key.serialize_pem()).expect("written");
        made.cert.der().clone()
    }

    #[test]
    fn a_good_pair_replaces_the_one_before_and_a_bad_one_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
        let missing = Tls::load(files.clone()).err().expect("nothing there");
        assert!(missing.to_string().contains("cert.pem"), "{missing}");
        let first = write(&files, "first");
        let mut tls = Tls::load(files.clone()).expect("good");
        let in_force = |tls: &Tls| tls.current.0.read().cert[0].clone();
        assert_eq!(in_force(&tls), first);
        assert!(!tls.has_changed());

        let second = write(&files, "second-with-a-longer-name");
        assert!(!tls.has_changed(), "not while it may still be written");
        assert!(tls.has_changed());
        tls.reload().expect("good");
        assert_eq!(in_force(&tls), second);
        assert!(!tls.has_changed());

        let other = rcgen::generate_simple_self_signed(["other".to_owned()]).expect("made");
        for (bad, says) in [("", "no private key"), (&other.signing_key.serialize_pem(), "is not that of")] {
            std::fs::write(&files.key, bad).expect("written");
            assert!(!tls.has_changed());
            assert!(tls.has_changed());
            let error = tls.reload().expect_err("bad");
            assert!(error.to_string().contains(says), "{error}");
            assert_eq!(in_force(&tls), second);
            assert!(!tls.has_changed(), "it is told once");
        }
        std::fs::remove_file(&files.certificate).expect("there");
        assert!(!tls.has_changed());
        assert!(tls.has_changed());
        assert!(tls.reload().is_err());
        assert_eq!(in_force(&tls), second);
    }
}
