//! Where a request goes: an endpoint's URL, taken apart once and used for every attempt.

use std::{fmt, hash::Hash, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, Uri, uri::PathAndQuery};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use crate::tls::TlsProfile;

/// A URL in the pieces that an exchange needs. Cheap to clone.
///
/// User name and password of the URL become an `authorization` header; the fragment is dropped. [`fmt::Debug`] and
/// [`fmt::Display`] show neither user info nor query, where customers keep secrets.
#[derive(Clone)]
pub struct Target(Arc<Parts>);

#[derive(Clone)]
struct Parts {
    origin: Arc<Origin>,
    /// The request target of a direct HTTP/1.1 request: path and query.
    origin_form: Uri,
    /// The whole URL: for HTTP/2, and for a plain request by way of a proxy.
    absolute_form: Uri,
    /// `host` as HTTP/1.1 wants it: with the port unless it is the scheme's own.
    host_header: HeaderValue,
    authorization: Option<HeaderValue>,
}

/// What a connection leads to, and as whom; the pool's key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Whether TLS is spoken.
    pub scheme: Scheme,
    /// The host as parsed; a name is lower case, and is punycode if it was not ASCII.
    pub host: Host<String>,
    /// The port, given or implied.
    pub port: u16,
    /// What is particular about TLS to it.
    pub tls: Option<Arc<TlsProfile>>,
}

/// The two schemes that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In plain text, port 80.
    Http,
    /// With TLS, port 443.
    Https,
}

/// Why a URL cannot be a target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It does not parse as a URL.
    #[error("not a URL")]
    Syntax(#[from] url::ParseError),
    /// The scheme is neither `http` nor `https`.
    #[error("scheme {0} is not http or https")]
    Scheme(String),
    /// There is no host, or none that can stand in a header.
    #[error("no usable host")]
    Host,
    /// Path or query hold characters that cannot stand in a request.
    #[error("path or query cannot be sent in a request")]
    Path,
    /// The decoded user info cannot stand in a header.
    #[error("user name or password cannot be sent in a header")]
    UserInfo,
}

impl Target {
    /// Parses and takes apart.
    ///
    /// # Errors
    /// [`UrlError`]. That the guard would refuse the target is no error here.
    pub fn parse(url: &str) -> Result<Self, UrlError> {
        Self::new(&Url::parse(url)?)
    }

    /// Takes a parsed URL apart.
    ///
    /// # Errors
    /// As [`Target::parse`].
    pub fn new(url: &Url) -> Result<Self, UrlError> {
        let scheme = match url.scheme() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            other => return Err(UrlError::Scheme(other.to_owned())),
        };
        let host = url.host().ok_or(UrlError::Host)?.to_owned();
        let port = url.port().unwrap_or(scheme.default_port());
        let authority = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let path_and_query = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let path_and_query = PathAndQuery::try_from(path_and_query).map_err(|_| UrlError::Path)?;
        let absolute_form = Uri::builder()
            .scheme(scheme.as_str())
            .authority(authority.as_str())
            .path_and_query(path_and_query.clone())
            .build()
            .map_err(|_| UrlError::Host)?;
        Ok(Self(Arc::new(Parts {
            origin: Arc::new(Origin { scheme, host, port, tls: None }),
            origin_form: Uri::from(path_and_query),
            absolute_form,
            host_header: HeaderValue::try_from(authority).map_err(|_| UrlError::Host)?,
            authorization: basic_authorization(url)?,
        })))
    }

    /// The same target by connections of their own, made under `profile`. It has no meaning for plain HTTP.
    #[must_use]
    pub fn with_tls(self, profile: Arc<TlsProfile>) -> Self {
        if self.0.origin.scheme == Scheme::Http {
            return self;
        }
        let mut parts = Arc::unwrap_or_clone(self.0);
        parts.origin = Arc::new(Origin { tls: Some(profile), ..Origin::clone(&parts.origin) });
        Self(Arc::new(parts))
    }

    /// What a connection for this target leads to.
    #[must_use]
    pub fn origin(&self) -> &Arc<Origin> {
        &self.0.origin
    }

    /// Path and query, as an HTTP/1.1 request names them.
    #[must_use]
    pub fn origin_form(&self) -> &Uri {
        &self.0.origin_form
    }

    pub(crate) fn absolute_form(&self) -> &Uri {
        &self.0.absolute_form
    }

    pub(crate) fn host_header(&self) -> &HeaderValue {
        &self.0.host_header
    }

    pub(crate) fn authorization(&self) -> Option<&HeaderValue> {
        self.0.authorization.as_ref()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.0.origin.scheme.as_str();
        let host = self.0.host_header.to_str().unwrap_or("?");
        write!(f, "{scheme}://{host}{}", self.0.origin_form.path())
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Target({self})")
    }
}

impl Scheme {
    /// As in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    /// The port that a URL need not name.
    #[must_use]
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// RFC 7617. `None` without user info.
pub(crate) fn basic_authorization(url: &Url) -> Result<Option<HeaderValue>, UrlError> {
    if url.username().is_empty() && url.password().is_none() {
        return Ok(None);
    }
    let mut credentials: Vec<u8> = percent_decode_str(url.username()).collect();
    credentials.push(b':');
    credentials.extend(percent_decode_str(url.password().unwrap_or_default()));
    let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(credentials)))
        .map_err(|_| UrlError::UserInfo)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_url_is_taken_apart() {
        let target = Target::parse("https://al%40ice:s%3Acret@Example.COM/hook/%C3%A9?a=b c#part").expect("a target");
        assert_eq!(target.origin().host, Host::Domain("example.com".to_owned()));
        assert_eq!(target.origin().port, 443);
        assert_eq!(target.origin_form().to_string(), "/hook/%C3%A9?a=b%20c");
        assert_eq!(target.absolute_form().to_string(), "https://example.com/hook/%C3%A9?a=b%20c");
        assert_eq!(target.host_header(), "example.com");
        assert_eq!(target.authorization().expect("basic"), "Basic YWxAaWNlOnM6Y3JldA==");
    }

    #[test]
    fn the_host_header_names_a_port_only_where_it_must() {
        for (url, host) in [
            ("http://example.com:80/", "example.com"),
            ("https://example.com:443/", "example.com"),
            ("https://example.com:80/", "example.com:80"),
            ("http://127.0.0.1:8080/", "127.0.0.1:8080"),
            ("http://[2001:db8::1]:8080/", "[2001:db8::1]:8080"),
        ] {
            assert_eq!(Target::parse(url).expect(url).host_header(), host);
        }
    }

    #[test]
    fn secrets_of_a_url_are_not_printed() {
        let target = Target::parse("https://user:hunter2@example.com/hook?token=hunter3").expect("a target");
        assert_eq!(format!("{target} {target:?}"), "https://example.com/hook Target(https://example.com/hook)");
        assert!(format!("{:?}", target.authorization()).contains("Sensitive"));
    }

    #[test]
    fn other_schemes_are_refused() {
        for url in ["ftp://example.com/", "file:///etc/passwd", "javascript:alert(1)"] {
            assert!(matches!(Target::parse(url), Err(UrlError::Scheme(_))), "{url}");
        }
        assert!(matches!(Target::parse("not a url"), Err(UrlError::Syntax(_))));
    }

    proptest! {
        #[test]
        fn no_url_smuggles_bytes_into_the_request_line(rest in "\\PC{0,40}") {
            if let Ok(target) = Target::parse(&format!("http://example.com/{rest}")) {
                let line = target.origin_form().to_string();
                prop_assert!(line.starts_with('/') && line.bytes().all(|byte| byte.is_ascii_graphic() || byte >= 0x80));
                prop_assert!(!line.contains([' ', '\r', '\n']));
            }
        }
    }
}
