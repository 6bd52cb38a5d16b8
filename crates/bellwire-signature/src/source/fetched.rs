//! Keys that are fetched: certificates and JSON Web Keys that a sender publishes.
//!
//! Nothing is fetched here. [`Verifier::verify`](super::Verifier::verify) asks [`Keys`] for what was fetched before and, if it
//! is not there, refuses with [`Refusal::NeedsKey`](super::Refusal::NeedsKey); the caller fetches, keeps, and asks
//! again. Which key is wanted is said by a request that is not proven yet, so the caller bounds how often it fetches for
//! one source, and remembers failures as well.

use std::{
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use zeroize::Zeroizing;

/// What to fetch. The address is on the recipe's list, has `https` and no port, user or fragment.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// Where. To be fetched through the address guard, without following redirects, at most [`KEY_BYTES_MAX`].
    pub url: String,
    /// A JSON text to be posted there; without, it is a `GET`. It may hold a secret.
    pub post: Option<Zeroizing<String>>,
    /// What is there is a certificate: it counts only if it comes from an authority that the caller trusts, which the caller verifies.
    pub certificate: bool,
}

/// A fetched certificate chain or key set has at most so many bytes.
pub const KEY_BYTES_MAX: usize = 64 * 1024;

/// Keys that were fetched before.
pub trait Keys {
    /// The answer's body, as it was fetched for this request; `None` if it was not, or too long ago.
    fn fetched(&self, request: &KeyRequest) -> Option<Arc<[u8]>>;
}

/// None at all, for recipes that need none.
#[derive(Clone, Copy, Debug)]
pub struct NoKeys;

impl Keys for NoKeys {
    fn fetched(&self, _: &KeyRequest) -> Option<Arc<[u8]>> {
        None
    }
}

impl Hash for KeyRequest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.url.hash(state);
        self.post.as_deref().hash(state);
        self.certificate.hash(state);
    }
}

impl fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRequest({}{})", self.url, if self.post.is_some() { ", with a body" } else { "" })
    }
}

/// Hosts and paths that may be fetched.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AllowList {
    pub(crate) hosts: Vec<String>,
    pub(crate) path_prefix: String,
    pub(crate) path_suffix: String,
}

impl AllowList {
    /// Whether a URL is `https`, of one of the hosts, and its path of the right form. There is nothing in it that one
    /// reader might take for the host and another not: no user, port, fragment, backslash or escape before the path.
    pub(crate) fn allows(&self, url: &str) -> bool {
        let Some(rest) = url.strip_prefix("https://") else { return false };
        let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        let is_visible = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\' && byte != b'#');
        let (path, _) = path.split_once('?').unwrap_or((path, ""));
        url.len() <= 2048
            && is_visible
            && self.hosts.iter().any(|pattern| host_matches(pattern, host))
            && path.starts_with(&self.path_prefix)
            && path.ends_with(&self.path_suffix)
            && !path.contains("..")
    }
}

/// Whether a host is the pattern's, in which `*` stands for exactly one label.
pub(crate) fn host_matches(pattern: &str, host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    let (patterns, labels) = (pattern.split('.').count(), host.split('.').count());
    patterns == labels
        && pattern
            .split('.')
            .zip(host.split('.'))
            .all(|(pattern, label)| is_label(label) && (pattern == label || pattern == "*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_hosts_and_paths_are_fetched() {
        let list = AllowList {
            hosts: vec!["sns.*.amazonaws.com".into(), "sns.*.amazonaws.com.cn".into()],
            path_prefix: "/SimpleNotificationService-".into(),
            path_suffix: ".pem".into(),
        };
        assert!(list.allows("https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a.pem"));
        assert!(list.allows("https://sns.cn-north-1.amazonaws.com.cn/SimpleNotificationService-0a.pem"));
        for url in [
            "http://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a.pem",
            "https://sns.us-east-1.amazonaws.com.evil.example/SimpleNotificationService-0a.pem",
            "https://evil.example/sns.us-east-1.amazonaws.com/SimpleNotificationService-0a.pem",
            "https://sns.a.b.amazonaws.com/SimpleNotificationService-0a.pem",
            "https://sns..amazonaws.com/SimpleNotificationService-0a.pem",
            "https://sns.evil@x.amazonaws.com/SimpleNotificationService-0a.pem",
            "https://sns.us-east-1.amazonaws.com:443/SimpleNotificationService-0a.pem",
            "https://sns.us-east-1.amazonaws.com@evil.example/SimpleNotificationService-0a.pem",
            "https://evil.example?sns.us-east-1.amazonaws.com/SimpleNotificationService-0a.pem",
            "https://evil.example#sns.us-east-1.amazonaws.com/SimpleNotificationService-0a.pem",
            "https://evil.example\\sns.us-east-1.amazonaws.com/SimpleNotificationService-0a.pem",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a.pem#x",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-/../x.pem",
            "https://sns.us-east-1.amazonaws.com/other.pem",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a.txt",
            "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0a?x.pem",
            "https://sns.us-east-1.amazonaws.com",
            "",
        ] {
            assert!(!list.allows(url), "{url}");
        }
    }

    #[test]
    fn the_posted_text_does_not_print() {
        let request = KeyRequest {
            url: "https://a.example/".into(),
            post: Some(Zeroizing::new("hunter2".into())),
            certificate: false,
        };
        assert_eq!(format!("{request:?}"), "KeyRequest(https://a.example/, with a body)");
    }
}
