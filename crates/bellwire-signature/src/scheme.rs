//! How a scheme writes its signature, and the algorithms underneath. One file each; `sign` and `verify` combine them.

pub(crate) mod standard_webhooks;
pub(crate) mod hmac;
pub(crate) mod ed25519;
