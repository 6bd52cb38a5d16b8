//! The local program's side: who webhooks are passed on to.

use super::super::http::client;
use super::pipe::Delivery;
use anyhow::{Context as _, bail};
use bellwire_egress::{Client, Request, SendError, Target, TlsSettings};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Of a local answer, so much is told to the server.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// What became of a webhook at the local URL.
pub(super) enum Went {
    Answered {
        status: u16,
        body: String,
        took: Duration,
    },
    /// It has not been sent: nobody is there.
    Absent(String),
    /// It has been sent, and was not answered.
    Nowhere(String),
}

/// The local URL.
pub(super) struct Forward {
    client: Client,
    target: Target,
    /// As it is shown.
    pub(super) url: String,
    timeout: Duration,
    /// Nobody was there the last time, and that was said.
    pub(super) is_absent: Cell<bool>,
}

impl Forward {
    pub(super) fn new(url: &str, timeout: Duration) -> anyhow::Result<Forward> {
        let url = match url {
            whole if whole.contains("://") => whole.to_owned(),
            port if port.parse::<u16>().is_ok() => format!("http://localhost:{port}"),
            number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                bail!("--forward: {number} is neither a URL nor a port, which is 65535 at most")
            }
            host => format!("http://{host}"),
        };
        let target = Target::parse(&url).with_context(|| format!("--forward: {url} is not a URL to post to"))?;
        Ok(Forward { client: client(TlsSettings::default())?, target, url, timeout, is_absent: Cell::new(false) })
    }

    pub(super) async fn pass_on(&self, delivery: &Delivery, body: Bytes) -> Went {
        let began = Instant::now();
        let request = Request {
            method: Method::POST,
            target: self.target.clone(),
            headers: headers(&delivery.headers),
            body,
            deadline: self.timeout,
            response_body_max: ANSWER_BYTES_MAX,
        };
        match self.client.exchange(request).await {
            Ok(response) => Went::Answered {
                status: response.status,
                body: String::from_utf8_lossy(&response.body).into_owned(),
                took: began.elapsed(),
            },
            Err(error @ (SendError::Connect { .. } | SendError::Dns { .. })) => Went::Absent(error.operator_text()),
            Err(error) => Went::Nowhere(error.operator_text()),
        }
    }
}

/// The headers as they came; what belongs to a connection is left to the connection.
fn headers(all: &BTreeMap<String, String>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(all.len());
    for (name, value) in all {
        let of_connection = ["accept-encoding", "keep-alive", "proxy-connection", "trailer"].contains(&name.as_str());
        if let (Ok(name), Ok(value), false) = (HeaderName::try_from(name), HeaderValue::try_from(value), of_connection)
        {
            headers.insert(name, value);
        }
    }
    headers.entry(header::USER_AGENT).or_insert(HeaderValue::from_static(concat!(
        "Bellwire/",
        env!("CARGO_PKG_VERSION"),
        " (listen)"
    )));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_or_a_host_is_enough_to_pass_on_to() {
        let url = |text| Forward::new(text, Duration::ZERO).map(|forward| forward.url).ok();
        assert_eq!(url("3000").as_deref(), Some("http://localhost:3000"));
        assert_eq!(url("localhost:3000/hooks").as_deref(), Some("http://localhost:3000/hooks"));
        assert_eq!(url("https://example.com/a").as_deref(), Some("https://example.com/a"));
        assert_eq!(url("70000:1:2"), None);
        assert_eq!(url("70000"), None, "it would be an address, of nobody that is meant");
    }

    #[test]
    fn headers_go_along_but_for_those_of_a_connection() {
        let all = [("webhook-id", "msg_1"), ("accept-encoding", "gzip"), ("x bad", "y"), ("x-github-event", "push")];
        let all = all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let headers = headers(&all);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["webhook-id", "x-github-event", "user-agent"]
        );
    }
}
