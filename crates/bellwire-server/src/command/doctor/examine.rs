//! The examination itself: one check after the other, each a finding.

use crate::command::{input, send, sign};
use bellwire_config::Config;
use bellwire_egress::{
    CertificateFacts, Client, Forbidden, Request, Response, SendError, Target, TlsOptions, TlsProblem,
};
use bellwire_model::{MessageId, Sequence, SequenceSource, Timestamp};
use bellwire_node::clock;
use bellwire_signature::Secret;
use bytes::Bytes;
use http::{HeaderMap, Method, Version};
use std::time::Duration;

/// A receiver that takes longer is in danger of timing out one day.
const SLOW: Duration = Duration::from_secs(3);
/// Within this many days a certificate should have been renewed.
const DAYS_LEFT_MIN: i64 = 14;
const BIG_BYTES: usize = 256 * 1024;
const HOUR_SECONDS: i64 = 3_600;

/// How a check went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Level {
    Ok,
    Warn,
    Fail,
    /// It could not be made.
    Skip,
}

/// One fact about the receiver.
#[derive(Debug)]
pub(crate) struct Finding {
    pub(crate) check: &'static str,
    pub(crate) level: Level,
    pub(crate) text: String,
    /// What to do.
    pub(crate) hint: Option<String>,
}

/// The headers of a request with these three of its signature.
type BaseHeaders = Box<dyn Fn(&[(&'static str, String); 3]) -> anyhow::Result<HeaderMap>>;

/// The receiver, and all that is needed to call it.
pub(crate) struct Patient {
    client: Client,
    target: Target,
    secret: Option<Secret>,
    /// Of nobody: what it signs must be refused.
    stranger: Secret,
    timeout: Duration,
    base_headers: BaseHeaders,
    findings: Vec<Finding>,
}

/// A message to send.
struct Test<'a> {
    secret: Option<&'a Secret>,
    id: &'a str,
    /// Before now, or if negative after.
    age_seconds: i64,
    /// What is signed.
    payload: &'a [u8],
    /// What is sent instead.
    altered: Option<&'a [u8]>,
}

impl Level {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
            Level::Skip => "skip",
        }
    }
}

impl Patient {
    pub(crate) fn new(client: Client, target: Target, secret: Option<Secret>, config: &Config) -> anyhow::Result<Self> {
        let (timeout, config) = (config.delivery.timeout, config.clone());
        Ok(Patient {
            client,
            target,
            secret,
            stranger: Secret::generate_symmetric(&mut input::chance()?),
            timeout,
            base_headers: Box::new(move |signed| send::headers(signed, &config)),
            findings: Vec::new(),
        })
    }

    /// Makes all checks that can be made.
    pub(crate) async fn examine(mut self) -> anyhow::Result<Vec<Finding>> {
        if self.address().await && self.connection().await {
            self.messages().await?;
        }
        Ok(self.findings)
    }

    fn note(&mut self, check: &'static str, level: Level, text: impl Into<String>, hint: Option<&str>) {
        self.findings.push(Finding { check, level, text: text.into(), hint: hint.map(str::to_owned) });
    }

    /// DNS and the guard.
    async fn address(&mut self) -> bool {
        match self.client.addresses(&self.target, self.timeout).await {
            Ok(addresses) => {
                let shown: Vec<_> = addresses.iter().take(4).map(ToString::to_string).collect();
                let more = if addresses.len() > shown.len() { ", …" } else { "" };
                self.note(
                    "address",
                    Level::Ok,
                    format!("{} may be called at {}{more}", self.target, shown.join(", ")),
                    None,
                );
                true
            }
            Err(error) => {
                let hint = match &error {
                    SendError::Forbidden(Forbidden::Port { .. } | Forbidden::PortZero) => {
                        "the receiver needs another port, or an operator who allows this one"
                    }
                    SendError::Forbidden(_) => {
                        "deliveries go to public addresses only; an operator allows others by egress.allow, and --allow-private does for this check"
                    }
                    _ => "the name needs an A or AAAA record that public name servers answer",
                };
                self.note("address", Level::Fail, error.operator_text(), Some(hint));
                false
            }
        }
    }

    /// TCP and TLS.
    async fn connection(&mut self) -> bool {
        let probe = match self.client.probe(&self.target, self.timeout).await {
            Ok(probe) => probe,
            Err(error) => {
                self.no_connection(&error).await;
                return false;
            }
        };
        let connect = probe.timings.connect.unwrap_or_default();
        self.note("connection", Level::Ok, format!("open after {} ms", connect.as_millis()), None);
        let Some(tls) = probe.tls else {
            let hint = "use https: anyone on the way can read what is sent in plain text";
            self.note("tls", Level::Warn, "the URL is http, without TLS", Some(hint));
            return true;
        };
        let took = probe.timings.tls.unwrap_or_default().as_millis();
        let text = format!("{} after {took} ms, {} in the chain", tls.version, tls.certificates.len());
        match tls.version {
            "TLS 1.3" => self.note("tls", Level::Ok, text, None),
            _ => self.note(
                "tls",
                Level::Warn,
                text,
                Some("let the server speak TLS 1.3 as well: its handshake is shorter"),
            ),
        }
        if let Some(own) = tls.certificates.first() {
            self.expiry(own);
        }
        true
    }

    fn expiry(&mut self, certificate: &CertificateFacts) {
        let days = (certificate.not_after - clock::wall().as_seconds()) / 86_400;
        let text = format!("the certificate of {} is good for {days} more days", certificate.subject);
        if days < DAYS_LEFT_MIN {
            self.note("certificate", Level::Warn, text, Some("renew it now; deliveries fail from the hour it expires"));
        } else {
            self.note("certificate", Level::Ok, text, None);
        }
    }

    /// Looks at the certificates again without believing them, to say what is wrong with them.
    async fn no_connection(&mut self, error: &SendError) {
        let SendError::Tls { problem, .. } = error else {
            let hint = "is the receiver running, and does a firewall let it be reached from here?";
            return self.note("connection", Level::Fail, error.operator_text(), Some(hint));
        };
        let unverified = TlsOptions { unverified: true, ..TlsOptions::default() };
        let certificates = match self.client.tls_profile(&unverified) {
            Ok(profile) => {
                let probe = self.client.probe(&self.target.clone().with_tls(profile), self.timeout).await;
                probe.ok().and_then(|probe| probe.tls).map(|tls| tls.certificates).unwrap_or_default()
            }
            Err(_) => Vec::new(),
        };
        let own = certificates.first();
        let issuer = own.map_or("", |own| own.issuer.as_str());
        let hint = match problem {
            TlsProblem::Expired => match own {
                Some(own) => format!("renew the certificate; it ended on {}", day(own.not_after)),
                None => "renew the certificate".to_owned(),
            },
            TlsProblem::NotYetValid => "its time has not come; is a clock wrong?".to_owned(),
            TlsProblem::WrongName => {
                let names = own.map(|own| own.names.join(", ")).unwrap_or_default();
                format!("the certificate is for {names}; get one for this host name")
            }
            TlsProblem::UnknownIssuer
                if certificates.len() == 1 && own.is_some_and(|own| own.issuer == own.subject) =>
            {
                "it is self-signed: get one from a public authority, or set it as the endpoint's own authority (…/ca)"
                    .to_owned()
            }
            TlsProblem::UnknownIssuer if certificates.len() == 1 => {
                format!(
                    "only one certificate is sent, signed by {issuer}: let the server send the intermediate ones with it"
                )
            }
            TlsProblem::UnknownIssuer => {
                format!(
                    "it is signed by {issuer}, whom nobody knows: set that authority at the endpoint (…/ca), or use a public one"
                )
            }
            TlsProblem::OurCertificate => {
                "the receiver wants a client certificate: set it at the endpoint (…/mtls)".to_owned()
            }
            TlsProblem::Certificate => "get a certificate that browsers accept, too".to_owned(),
            TlsProblem::Protocol => "the server must speak TLS 1.2 or 1.3 with a cipher of today".to_owned(),
            TlsProblem::Closed => "does anything speak TLS on this port?".to_owned(),
        };
        self.note("tls", Level::Fail, error.customer_text(), Some(&hint));
    }

    /// What it makes of messages.
    async fn messages(&mut self) -> anyhow::Result<()> {
        let now = clock::wall();
        let payload =
            format!(r#"{{"type":"bellwire.doctor","timestamp":"{now}","data":{{"test":true}}}}"#).into_bytes();
        let id = new_id(now)?;
        let genuine = |secret, id| Test { secret, id, age_seconds: 0, payload: &payload, altered: None };
        let secret = self.secret.clone();

        let mut accepts = None;
        match &secret {
            None => {
                let hint = "give the endpoint's secret by --secret";
                self.note("accepts", Level::Skip, "whether a genuine message is accepted cannot be told", Some(hint));
            }
            Some(secret) => {
                let answer = self.send(&genuine(Some(secret), &id)).await?;
                accepts = Some(self.judge_genuine(&answer));
                if let Ok(response) = answer {
                    self.judge_speed(&response);
                    let again = self.send(&genuine(Some(secret), &id)).await?;
                    self.judge_again(&response, &again);
                }
            }
        }
        if accepts == Some(false) {
            let text = "whether it refuses forgeries cannot be told before it accepts what is genuine";
            self.note("refuses", Level::Skip, text, None);
            return Ok(());
        }

        let (two, three, four, five, six) = (new_id(now)?, new_id(now)?, new_id(now)?, new_id(now)?, new_id(now)?);
        let stranger = self.stranger.clone();
        let wrong = self.send(&genuine(Some(&stranger), &two)).await?;
        let hint = "verify webhook-signature with the endpoint's secret, and answer 401 if it does not fit: docs of Standard Webhooks, or any Svix library";
        self.judge_refusal("signature", "a message that is signed with another secret", &wrong, hint);
        let missing = self.send(&genuine(None, &three)).await?;
        self.judge_refusal(
            "unsigned",
            "a message without a signature",
            &missing,
            "refuse with 401 what has no signature",
        );
        if let Some(secret) = &secret {
            let altered = payload.iter().map(|byte| if *byte == b't' { b'T' } else { *byte }).collect::<Vec<_>>();
            let test = Test { altered: Some(&altered), ..genuine(Some(secret), &four) };
            let answer = self.send(&test).await?;
            self.judge_refusal(
                "altered",
                "a payload that was changed on the way",
                &answer,
                "verify the raw bytes of the body, before they are parsed",
            );
            let test = Test { age_seconds: HOUR_SECONDS, ..genuine(Some(secret), &five) };
            let answer = self.send(&test).await?;
            let hint = "compare webhook-timestamp with the clock and refuse what is older than five minutes, or a recorded request can be sent again for ever";
            self.judge_refusal("old", "a message that was signed an hour ago", &answer, hint);
            let test = Test { age_seconds: -HOUR_SECONDS, ..genuine(Some(secret), &five) };
            let answer = self.send(&test).await?;
            self.judge_refusal(
                "future",
                "a message that is dated an hour ahead",
                &answer,
                "refuse what is dated more than five minutes ahead",
            );
            let big =
                format!(r#"{{"type":"bellwire.doctor","data":{{"filler":"{}"}}}}"#, "x".repeat(BIG_BYTES)).into_bytes();
            let answer = self.send(&Test { payload: &big, ..genuine(Some(secret), &six) }).await?;
            self.judge_big(&answer);
        }
        self.get().await
    }

    async fn send(&self, test: &Test<'_>) -> anyhow::Result<Result<Response, SendError>> {
        let seconds = clock::wall().as_seconds() - test.age_seconds;
        let key = test.secret.unwrap_or(&self.stranger);
        let signed = sign::headers(std::slice::from_ref(key), test.id, seconds, test.payload)?;
        let mut headers = (self.base_headers)(&signed)?;
        if test.secret.is_none() {
            let names: Vec<_> = headers.keys().filter(|name| name.as_str().ends_with("-signature")).cloned().collect();
            names.into_iter().for_each(|name| drop(headers.remove(name)));
        }
        let body = Bytes::copy_from_slice(test.altered.unwrap_or(test.payload));
        Ok(self.client.exchange(self.request(Method::POST, headers, body)).await)
    }

    fn request(&self, method: Method, headers: HeaderMap, body: Bytes) -> Request {
        let target = self.target.clone();
        Request { method, target, headers, body, deadline: self.timeout, response_body_max: 16 * 1024 }
    }

    /// Whether it was accepted.
    fn judge_genuine(&mut self, answer: &Result<Response, SendError>) -> bool {
        let response = match answer {
            Ok(response) => response,
            Err(error) => {
                let hint =
                    format!("an attempt that is not answered within {} s is made again, later", self.timeout.as_secs());
                self.note(
                    "accepts",
                    Level::Fail,
                    format!("a genuine message is not answered: {}", error.customer_text()),
                    Some(&hint),
                );
                return false;
            }
        };
        let status = response.status;
        let text = format!("a genuine message is answered {status}");
        let location = response.headers.get(http::header::LOCATION).and_then(|value| value.to_str().ok());
        let hint = match status {
            200..300 => {
                self.note("accepts", Level::Ok, text, None);
                return true;
            }
            300..400 => match location {
                Some(location) => format!("redirects are not followed: register {location}"),
                None => "redirects are not followed: register the URL that they lead to".to_owned(),
            },
            401 | 403 | 400 => "is --secret the endpoint's, and are the raw bytes of the body verified, before they are parsed? Is there another check, such as CSRF or a login?".to_owned(),
            404 => "is the path right?".to_owned(),
            405 => "deliveries are POST; let the route take that".to_owned(),
            410 => "410 disables an endpoint".to_owned(),
            413 => "let the server take larger bodies".to_owned(),
            415 => "deliveries are application/json; let the route take that".to_owned(),
            429 => "it limits its rate; set the endpoint's throttleRate to what it takes".to_owned(),
            _ => "only 2xx means that it has the message; look into the receiver's log".to_owned(),
        };
        self.note("accepts", Level::Fail, text, Some(&hint));
        false
    }

    fn judge_speed(&mut self, response: &Response) {
        let took = response.timings.total;
        let text = format!("answered after {} ms by {}", took.as_millis(), version(response.http_version));
        if took > SLOW {
            let hint = "answer as soon as the message is stored, and work on it afterwards";
            self.note("speed", Level::Warn, text, Some(hint));
        } else {
            self.note("speed", Level::Ok, text, None);
        }
        if let Some(error) = response.body_error {
            let text = format!("the response's body broke off ({})", error.class());
            self.note("response", Level::Warn, text, Some("let content-length and body agree"));
        }
    }

    /// The same message once more.
    fn judge_again(&mut self, first: &Response, again: &Result<Response, SendError>) {
        let Ok(again) = again else {
            return self.note("again", Level::Warn, "the same message again is not answered", None);
        };
        if again.reused {
            self.note("keep-alive", Level::Ok, "the connection stays open for the next delivery", None);
        } else {
            let hint = "let the server keep connections open for 30 s or more: a new one for each delivery costs both sides time";
            self.note("keep-alive", Level::Warn, "the connection is closed after each response", Some(hint));
        }
        if !is_success(first.status) {
            return;
        }
        let text = format!("the same message again is answered {}", again.status);
        if is_success(again.status) {
            self.note("again", Level::Ok, text, None);
        } else {
            let hint = "deliveries can come twice under one webhook-id: answer 2xx to what is known already, or it is tried again and again";
            self.note("again", Level::Warn, text, Some(hint));
        }
    }

    fn judge_refusal(&mut self, check: &'static str, what: &str, answer: &Result<Response, SendError>, hint: &str) {
        match answer {
            Ok(response) if is_success(response.status) => {
                self.note(check, Level::Fail, format!("{what} is accepted ({})", response.status), Some(hint));
            }
            Ok(response) if response.status >= 500 => {
                let text = format!("{what} is answered {}", response.status);
                self.note(
                    check,
                    Level::Warn,
                    text,
                    Some("refuse it with 400 or 401; 5xx looks like a fault of the receiver"),
                );
            }
            Ok(response) => self.note(check, Level::Ok, format!("{what} is refused ({})", response.status), None),
            Err(error) => {
                let text = format!("{what} is not answered: {}", error.customer_text());
                self.note(check, Level::Warn, text, Some("refuse it with 400 or 401"));
            }
        }
    }

    fn judge_big(&mut self, answer: &Result<Response, SendError>) {
        let hint = "payloads can be up to 1 MiB, unless their sender has set another limit; let the server take them";
        let size = BIG_BYTES / 1024;
        match answer {
            Ok(response) if is_success(response.status) => {
                self.note("big", Level::Ok, format!("a payload of {size} KiB is accepted"), None);
            }
            Ok(response) => {
                let text = format!("a payload of {size} KiB is answered {}", response.status);
                self.note("big", Level::Warn, text, Some(hint));
            }
            Err(error) => {
                let text = format!("a payload of {size} KiB is not answered: {}", error.customer_text());
                self.note("big", Level::Warn, text, Some(hint));
            }
        }
    }

    /// Browsers and scanners come by GET; it must not be a delivery, nor a fault.
    async fn get(&mut self) -> anyhow::Result<()> {
        match self.client.exchange(self.request(Method::GET, HeaderMap::new(), Bytes::new())).await {
            Ok(response) if response.status >= 500 => {
                let text = format!("GET is answered {}", response.status);
                self.note("method", Level::Warn, text, Some("answer 405 to all methods but POST"));
            }
            Ok(response) => self.note("method", Level::Ok, format!("GET is answered {}", response.status), None),
            Err(error) => {
                let text = format!("GET is not answered: {}", error.customer_text());
                self.note("method", Level::Warn, text, Some("answer 405 to all methods but POST"));
            }
        }
        Ok(())
    }
}

fn new_id(now: Timestamp) -> anyhow::Result<String> {
    let sequence = SequenceSource::after(Sequence::ZERO).next(now);
    Ok(MessageId::new(sequence, &mut input::chance()?).to_string())
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn day(seconds: i64) -> String {
    Timestamp::from_seconds(seconds).to_string().chars().take(10).collect()
}
