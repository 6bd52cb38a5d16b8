//! Requests of the commands to a server's API, by way of [`bellwire_egress`] like every other request of ours.
//!
//! The address is the user's own choice, so every network is allowed, and names are looked up as the machine does it.

use super::Hint;
use anyhow::{Context as _, bail};
use bellwire_egress::{
    Client, Egress, Guard, Request, Resolve, ResolveError, Settings, Target, TlsSettings, resolve::Resolving,
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::{Deserialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};

const DEADLINE: Duration = Duration::from_secs(30);
const ANSWER_BYTES_MAX: usize = 16 << 20;
/// The most of a list that a server gives at a time.
const PAGE: usize = 250;

/// A server's API, as one token sees it.
pub(crate) struct Api {
    client: Client,
    base: String,
    authorization: HeaderValue,
}

/// What the server said.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Api {
    /// `url` is the server's, without `/api/v1`.
    ///
    /// # Errors
    /// A token that cannot stand in a header; TLS that cannot be set up.
    pub(crate) fn new(url: &str, token: &str) -> anyhow::Result<Api> {
        let mut authorization = HeaderValue::try_from(format!("Bearer {token}")).context("the token is not a token")?;
        authorization.set_sensitive(true);
        let client = client(TlsSettings::default())?;
        let base = url.trim_end_matches('/').trim_end_matches("/api/v1").to_owned();
        Ok(Api { client, base, authorization })
    }

    /// Asks for a resource. `path` begins behind `/api/v1`.
    ///
    /// # Errors
    /// No answer, or one that is not a success; the server's own words are in it.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.expect(Method::GET, path, Bytes::new()).await
    }

    /// Makes a resource.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: impl Into<Bytes>) -> anyhow::Result<T> {
        self.expect(Method::POST, path, body.into()).await
    }

    /// Asks for a list, page by page, until all of it is there or `most`. `path` may have a query.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn all<T: DeserializeOwned>(&self, path: &str, most: usize) -> anyhow::Result<Vec<T>> {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut items = Vec::new();
        let mut next = String::new();
        loop {
            let limit = (most - items.len()).min(PAGE);
            let page: Page<T> = self.get(&format!("{path}{mark}limit={limit}{next}")).await?;
            items.extend(page.data);
            match page.iterator {
                Some(iterator) if !page.done && items.len() < most => next = format!("&iterator={iterator}"),
                _ => return Ok(items),
            }
        }
    }

    async fn expect<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<T> {
        let answer = self.call(method.clone(), path, body).await?;
        if !answer.is_success() {
            return Err(refused(&method, path, &answer));
        }
        serde_json::from_slice(&answer.body)
            .with_context(|| format!("the answer to {method} {path} is not as expected"))
    }

    /// Has something done, and asks for no more than that it is.
    ///
    /// # Errors
    /// As [`Api::get`].
    pub(crate) async fn done(&self, method: Method, path: &str, body: impl Into<Bytes>) -> anyhow::Result<()> {
        let answer = self.call(method.clone(), path, body.into()).await?;
        if answer.is_success() { Ok(()) } else { Err(refused(&method, path, &answer)) }
    }

    /// Sends a request and takes whatever the answer is.
    ///
    /// # Errors
    /// No answer.
    pub(crate) async fn call(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if !body.is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let url = format!("{}/api/v1{path}", self.base);
        let request = Request {
            method,
            target: Target::parse(&url).with_context(|| format!("{} is not the URL of a server", self.base))?,
            headers,
            body,
            deadline: DEADLINE,
            response_body_max: ANSWER_BYTES_MAX,
        };
        let unreachable = || {
            Hint::new(
                format!("no answer from the server at {}", self.base),
                "is it running? `bellwire serve` starts it; --url names another",
            )
        };
        let response = self.client.exchange(request).await.with_context(unreachable)?;
        if response.truncated || response.body_error.is_some() {
            bail!("the answer of the server at {} broke off", self.base);
        }
        Ok(Answer { status: response.status, body: response.body })
    }
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    iterator: Option<String>,
    done: bool,
}

/// Whether an id or a name can stand in a path as it is: letters, digits, `-`, `_` and `.`.
pub(crate) fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// A client that goes wherever the user sends it, and trusts the authorities of the machine (`SSL_CERT_FILE` names others).
///
/// # Errors
/// TLS that cannot be set up.
pub(crate) fn client(tls: TlsSettings) -> anyhow::Result<Client> {
    let everywhere = ["0.0.0.0/0", "::/0"].map(|network| network.parse().expect("a network"));
    let guard = Guard { allowed_networks: everywhere.to_vec(), denied_ports: Vec::new(), ..Guard::default() };
    let egress = Egress::new(Settings { guard, tls, ..Settings::default() })?;
    Ok(egress.client_with_resolver(Arc::new(Machine)))
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// What the server says is wrong: its detail, or the whole body if it has none, short.
    pub(crate) fn reason(&self) -> String {
        let parsed: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        let detail = match &parsed["detail"] {
            serde_json::Value::String(detail) => detail.clone(),
            serde_json::Value::Array(faults) => {
                let texts: Vec<_> = faults.iter().filter_map(fault_text).collect();
                texts.join("; ")
            }
            _ => String::from_utf8_lossy(&self.body).into_owned(),
        };
        let shown: String = detail.chars().filter(|c| !c.is_control()).take(500).collect();
        if shown.is_empty() { "no reason given".into() } else { shown }
    }
}

/// Why there is not what was asked for, in the server's words and, where it is known, in ours.
pub(crate) fn refused(method: &Method, path: &str, answer: &Answer) -> anyhow::Error {
    let what = format!("{method} {path} was refused with {}: {}", answer.status, answer.reason());
    match (answer.status, missing(path)) {
        (401, _) => Hint::new(
            what,
            "the token must be signed with the server's secret: use `bellwire token` with the server's --data or settings",
        )
        .into(),
        (404, Some(missing)) => anyhow::Error::msg(what).context(missing),
        _ => anyhow::Error::msg(what),
    }
}

/// One fault of a request, with its place unless its text names that.
fn fault_text(fault: &serde_json::Value) -> Option<String> {
    let msg = fault["msg"].as_str()?;
    let name = |part: &serde_json::Value| part.as_str().map_or_else(|| part.to_string(), str::to_owned);
    // The first part says that it was the body, the query or the path.
    let place: Vec<_> = fault["loc"].as_array().into_iter().flatten().skip(1).map(name).collect();
    let named = place.last().is_none_or(|last| msg.contains(&format!("`{last}`")));
    Some(if named { msg.to_owned() } else { format!("{}: {msg}", place.join(".").replace(".[", "[")) })
}

/// What there is not, by the path at which it was looked for.
fn missing(path: &str) -> Option<Hint> {
    let parts: Vec<_> = path.split('?').next().unwrap_or_default().split('/').skip(1).collect();
    Some(match parts[..] {
        ["source", source, ..] => {
            Hint::new(format!("there is no source {source}"), "`bellwire source list` names them")
        }
        ["plugin", module, ..] => {
            Hint::new(format!("there is no module {module}"), "`bellwire plugin list` names them")
        }
        ["app", application, "msg", message, ..] => Hint::new(
            format!("there is no message {message} of an application {application}"),
            "ids and uids both do; what is older than store.retention is gone",
        ),
        ["explain", message] => Hint::new(
            format!("there is no message {message}"),
            "it is looked for by its id (msg_…) and by the sender's event id; what is older than store.retention is gone",
        ),
        ["app", application] | ["app", application, _] => {
            Hint::new(format!("there is no application {application}"), "`--application` takes an id or a uid")
        }
        _ => return None,
    })
}

/// Names as the machine resolves them.
struct Machine;

impl Resolve for Machine {
    fn resolve<'a>(&'a self, name: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await;
            match found.map(|addresses| addresses.map(|address| address.ip()).collect::<Vec<_>>()) {
                Ok(addresses) if addresses.is_empty() => Err(ResolveError::NotFound),
                Ok(addresses) => Ok(addresses),
                Err(error) => Err(ResolveError::Failed(Box::new(error))),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_the_servers_own() {
        let reason = |body: &'static str| Answer { status: 422, body: Bytes::from_static(body.as_bytes()) }.reason();
        assert_eq!(reason(r#"{"code":"not_found","detail":"Entity not found"}"#), "Entity not found");
        assert_eq!(reason(r#"{"detail":[{"msg":"too long","loc":[]},{"msg":"and wrong"}]}"#), "too long; and wrong");
        let placed = r#"{"detail":[{"msg":"too short","loc":["body","secrets","[0]"]},{"msg":"`url` is no URL","loc":["body","url"]}]}"#;
        assert_eq!(reason(placed), "secrets[0]: too short; `url` is no URL");
        assert_eq!(reason("\u{1b}[31mplain\n"), "[31mplain");
        assert_eq!(reason(""), "no reason given");
    }

    #[test]
    fn what_is_missing_is_named() {
        let said = |path| missing(path).map(|hint| hint.to_string());
        for (path, what) in [
            ("/source/nope/request?limit=20", "there is no source nope"),
            ("/explain/nope", "there is no message nope"),
            ("/app/acme/msg/nope/explain", "there is no message nope of an application acme"),
            ("/app/nope", "there is no application nope"),
            ("/app/nope/msg", "there is no application nope"),
        ] {
            assert_eq!(said(path).as_deref(), Some(what), "{path}");
        }
        assert_eq!(said("/app/acme/endpoint/nope"), None, "either may be missing");
    }
}
