//! What a handler fetches: checked, counted, and exchanged by way of the address guard.

use super::engine::Call;
use bellwire_egress::{Client, Request, Target};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::Serialize;
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
pub(super) struct Fetches<'a> {
    client: &'a Client,
    /// Those that the endpoint names.
    hosts: Option<&'a [String]>,
    /// Those that its module was granted.
    granted: Option<BTreeSet<String>>,
    deadline: Instant,
    made: usize,
}

/// What the prelude's `settle` takes.
#[derive(Serialize)]
struct Settled {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Fetched>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Fetched {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
    truncated: bool,
}

impl<'a> Fetches<'a> {
    pub(super) fn new(
        client: &'a Client,
        hosts: Option<&'a [String]>,
        granted: Option<BTreeSet<String>>,
        deadline: Instant,
    ) -> Self {
        Fetches { client, hosts, granted, deadline, made: 0 }
    }

    /// Makes one; the answer is JSON for the prelude, whatever becomes of it.
    pub(super) fn make(&mut self, call: Call) -> impl Future<Output = String> + use<'a> {
        self.made += 1;
        let client = self.client;
        let id = call.id;
        let request = match self.made {
            ..=CALLS_MAX => self.request(call),
            _ => Err(format!("a handler may fetch {CALLS_MAX} times")),
        };
        async move {
            let settled = match request {
                Err(error) => Err(error),
                Ok(request) => client.exchange(request).await.map_err(|error| error.customer_text().into_owned()),
            };
            let (response, error) = match settled {
                Ok(response) => (Some(fetched(response)), None),
                Err(error) => (None, Some(format!("fetch failed: {error}"))),
            };
            serde_json::to_string(&Settled { id, response, error }).unwrap_or_default()
        }
    }

    fn request(&self, call: Call) -> Result<Request, String> {
        let target = Target::parse(&call.url).map_err(|error| error.to_string())?;
        let host = target.origin().host.to_string();
        if self.hosts.is_some_and(|hosts| !hosts.iter().any(|allowed| covers(allowed, &host))) {
            return Err(format!("{host} is not among the endpoint's fetch_hosts"));
        }
        if self.granted.as_ref().is_some_and(|granted| !granted.iter().any(|allowed| covers(allowed, &host))) {
            return Err(format!(
                "{host} is not among what the module wants and was granted; a line `// @permission fetch {host}` in its text asks for it"
            ));
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
            body: call.body.into(),
            // The run is cut off first; an exchange that nobody waits for ends with it.
            deadline: self.deadline.saturating_duration_since(Instant::now()) + Duration::from_secs(1),
            response_body_max: BODY_BYTES_MAX,
        })
    }
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

fn fetched(response: bellwire_egress::Response) -> Fetched {
    let mut headers: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &response.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers
            .entry(name.as_str().to_owned())
            .and_modify(|all| *all = format!("{all}, {value}"))
            .or_insert_with(|| value.into_owned());
    }
    Fetched {
        status: response.status,
        headers,
        body: String::from_utf8_lossy(&response.body).into_owned(),
        truncated: response.truncated || response.body_error.is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::covers;

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
