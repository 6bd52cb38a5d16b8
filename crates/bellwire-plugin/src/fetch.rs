//! What a handler fetches: checked, counted, and exchanged by way of the address guard; and what a module asks for.

use crate::answer::{Answer, Emitted};
use crate::settings::Fault;
use bellwire_egress::{Client, Request, Response, Target};
use bellwire_model::{FailureClass, Permissions};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Fetches of one run.
const CALLS_MAX: usize = 20;
/// Of what is sent, and of what is read of an answer.
const BODY_BYTES_MAX: usize = 1024 * 1024;
const HEADERS_MAX: usize = 64;

/// The fetches of one run.
pub(crate) struct Fetches<'a> {
    client: &'a Client,
    /// Those that the endpoint names.
    hosts: Option<&'a [String]>,
    /// Those that its module was granted.
    granted: Option<BTreeSet<String>>,
    asks: Asks,
    deadline: Instant,
    made: usize,
}

/// How a module asks for a permission.
#[derive(Clone, Copy)]
pub(crate) enum Asks {
    /// In its text.
    Text,
    /// In a section of its own.
    #[cfg(feature = "wasm")]
    Section,
}

impl Asks {
    /// A clause that says what to write.
    pub(crate) fn line(self, wish: &str) -> String {
        match self {
            Asks::Text => format!("a line `// @permission {wish}` in its text asks for it"),
            #[cfg(feature = "wasm")]
            Asks::Section => format!("a line `{wish}` in its section bellwire.permissions asks for it"),
        }
    }

    /// What a module said, if it may say it.
    pub(crate) fn permitted(
        self,
        (answer, emitted): (Answer, Vec<Emitted>),
        wants: &Permissions,
    ) -> (Answer, Vec<Emitted>) {
        let refused = match &answer {
            Answer::Respond(_) if !wants.respond => "respond",
            _ if !emitted.is_empty() && !wants.emit => "emit",
            _ => return (answer, emitted),
        };
        let text = format!(
            "the module used `{refused}` without the permission; {}, and `bellwire plugin grant` grants it",
            self.line(refused)
        );
        (Answer::Broken(FailureClass::Plugin, text), Vec::new())
    }
}

/// Something that a handler wants fetched.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) url: String,
    pub(crate) method: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl<'a> Fetches<'a> {
    pub(crate) fn new(
        client: &'a Client,
        hosts: Option<&'a [String]>,
        granted: Option<BTreeSet<String>>,
        asks: Asks,
        deadline: Instant,
    ) -> Self {
        Fetches { client, hosts, granted, asks, deadline, made: 0 }
    }

    /// Makes one.
    ///
    /// # Errors
    /// Why there is no answer, for the handler.
    pub(crate) fn make(&mut self, wanted: Wanted) -> impl Future<Output = Result<Response, String>> + use<'a> {
        self.made += 1;
        let client = self.client;
        let request = match self.made {
            ..=CALLS_MAX => self.request(wanted),
            _ => Err(format!("a handler may fetch {CALLS_MAX} times")),
        };
        async move {
            let answered = match request {
                Err(error) => Err(error),
                Ok(request) => client.exchange(request).await.map_err(|error| error.customer_text().into_owned()),
            };
            answered.map_err(|error| format!("fetch failed: {error}"))
        }
    }

    fn request(&self, call: Wanted) -> Result<Request, String> {
        let target = Target::parse(&call.url).map_err(|error| error.to_string())?;
        let host = target.origin().host.to_string();
        if self.hosts.is_some_and(|hosts| !hosts.iter().any(|allowed| covers(allowed, &host))) {
            return Err(format!("{host} is not among the endpoint's fetch_hosts"));
        }
        if self.granted.as_ref().is_some_and(|granted| !granted.iter().any(|allowed| covers(allowed, &host))) {
            let asks = self.asks.line(&format!("fetch {host}"));
            return Err(format!("{host} is not among what the module wants and was granted; {asks}"));
        }
        if call.body.len() > BODY_BYTES_MAX {
            return Err(format!("the body has {} bytes, at most {BODY_BYTES_MAX}", call.body.len()));
        }
        if call.headers.len() > HEADERS_MAX {
            return Err(format!("{} headers, at most {HEADERS_MAX}", call.headers.len()));
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            http::header::USER_AGENT,
            HeaderValue::from_static(concat!("Bellwire/", env!("CARGO_PKG_VERSION"))),
        );
        for (name, value) in call.headers {
            let header = HeaderName::try_from(&name).map_err(|_| format!("{name:?} is not a header"))?;
            let value = HeaderValue::try_from(value).map_err(|_| format!("the value of {name} cannot be sent"))?;
            headers.insert(header, value);
        }
        Ok(Request {
            method: Method::try_from(call.method.as_str()).map_err(|_| format!("{:?} is not a method", call.method))?,
            target,
            headers,
            body: call.body,
            // The run is cut off first; an exchange that nobody waits for ends with it.
            deadline: self.deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1),
            response_body_max: BODY_BYTES_MAX,
        })
    }
}

/// What is wrong with an endpoint's `fetch_hosts`.
pub(crate) fn check_hosts(hosts: Option<&[String]>, faults: &mut Vec<Fault>) {
    for (place, host) in hosts.into_iter().flatten().enumerate() {
        if !is_host(host) {
            let text = format!("{host:?} is not a host such as api.example.com or *.example.com");
            faults.push(Fault::new(&["fetch_hosts", &place.to_string()], text));
        }
    }
}

/// Whether it names a host, or all below one.
pub(crate) fn is_host(allowed: &str) -> bool {
    let name = allowed.strip_prefix("*.").unwrap_or(allowed);
    !name.contains('*') && url::Host::parse(name).is_ok()
}

/// `example.com` is itself, `*.example.com` everything below it.
fn covers(allowed: &str, host: &str) -> bool {
    match allowed.strip_prefix("*.") {
        Some(parent) => host
            .len()
            .checked_sub(parent.len() + 1)
            .is_some_and(|at| host.as_bytes()[at] == b'.' && host[at + 1..].eq_ignore_ascii_case(parent)),
        None => host.eq_ignore_ascii_case(allowed),
    }
}

/// What a handler is told of an answer's headers: one that comes several times is joined by commas, RFC 9110 §5.3.
pub(crate) fn joined(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut joined: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        joined
            .entry(name.as_str().to_owned())
            .and_modify(|all| *all = format!("{all}, {value}"))
            .or_insert_with(|| value.into_owned());
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::{covers, is_host};

    #[test]
    fn a_star_stands_for_what_is_below_a_host_only() {
        for (allowed, expected) in [
            ("api.example.com", true),
            ("*.example.com", true),
            ("[::1]", true),
            ("*", false),
            ("*.*.example.com", false),
            ("api.*.com", false),
            ("http://api.example.com/", false),
            ("", false),
        ] {
            assert_eq!(is_host(allowed), expected, "{allowed}");
        }
    }

    #[test]
    fn a_host_is_covered_by_itself_or_by_what_is_above_it() {
        let check =
            |allowed: &str, host: &str, expected: bool| assert_eq!(covers(allowed, host), expected, "{allowed} {host}");
        check("api.example.com", "API.example.com", true);
        check("api.example.com", "example.com", false);
        check("*.example.com", "a.b.example.com", true);
        check("*.example.com", "example.com", false);
        check("*.example.com", "evilexample.com", false);
        check("*.example.com", ".example.co", false);
    }
}
