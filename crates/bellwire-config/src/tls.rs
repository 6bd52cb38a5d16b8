//! `[server]`, `tls_certificate` and `tls_key`: what the program proves itself with to its clients.

use std::path::PathBuf;

/// Where the certificates and the key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM: ours, then the intermediate ones.
    pub certificate: PathBuf,
    /// PEM: PKCS #8, PKCS #1 or SEC 1.
    pub key: PathBuf,
}
