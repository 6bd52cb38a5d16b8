//! How an endpoint is reached, and how we prove there who we are, beyond the signature.

/// What an endpoint asks of whoever calls it. The default is the signature alone, and a certificate that the system trusts.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Access {}
