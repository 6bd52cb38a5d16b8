//! An attempt: one exchange of a delivery, numbered from 1, and what came of it.

use crate::application::ApplicationKey;
use crate::clock::Timestamp;
use crate::delivery::{AfterAttempt, Delivery};
use crate::id::AttemptId;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;

/// Counts the attempts of a delivery, from 1.
pub type AttemptNumber = u32;

/// How much of a response's body is read and kept, in bytes, unless the operator sets less.
pub const RESPONSE_BODY_MAX: usize = 16 * 1024;

/// Why an attempt was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Trigger {
    /// The message was accepted, or its schedule said so.
    #[default]
    Scheduled,
    /// Somebody asked for it: a resend or a recover.
    Manual,
}

/// What the receiver wants from us, by the response header `webhook-delivery`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Directive {
    /// `disable`: send nothing more.
    Disable,
    /// `abort-message`: never send this message again.
    AbortMessage,
}

/// The response header `Retry-After`, already read. RFC 9110 §10.2.3, and the fractions that some receivers send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RetryAfter {
    /// After this long.
    Wait(Duration),
    /// Not before this wall time.
    Date(Timestamp),
}

impl RetryAfter {
    /// Reads seconds, seconds with a fraction, or an HTTP date; `None` for anything else, and for negative waits.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(seconds) = text.parse::<f64>() {
            return (seconds.is_finite() && seconds >= 0.0)
                .then(|| RetryAfter::Wait(Duration::from_secs_f64(seconds.min(1e9))));
        }
        let date = httpdate::parse_http_date(text).ok()?;
        let since = date.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(RetryAfter::Date(Timestamp::EPOCH.plus(since)))
    }
}

/// Why an exchange gave no status. Stored as its number, printed as its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum FailureClass {
    /// The address guard refused the target.
    Forbidden,
    /// The name did not resolve.
    Dns,
    /// No connection.
    Connect,
    /// The TLS handshake or the certificate failed.
    Tls,
    /// The forward proxy refused or failed.
    Proxy,
    /// The deadline of the whole exchange passed.
    Timeout,
    /// The answer was not HTTP, or too large in its head.
    Malformed,
    /// The connection ended after the request was written and before a status came: the receiver may have it.
    ResponseLost,
    /// We could not build the request (no secret, unusable URL).
    Unsendable,
    /// The token endpoint gave no access token for the endpoint.
    AccessToken,
    /// The endpoint's script failed: it threw, took too long, or gave nothing that can be sent.
    Transformation,
    /// The endpoint's script cancelled the message. Nothing was sent, and nothing failed.
    Cancelled,
    /// The endpoint's plugin failed, or said that it does not want the message.
    Plugin,
}

impl FailureClass {
    /// All, in the order of their numbers.
    pub const ALL: [FailureClass; 13] = [
        FailureClass::Forbidden,
        FailureClass::Dns,
        FailureClass::Connect,
        FailureClass::Tls,
        FailureClass::Proxy,
        FailureClass::Timeout,
        FailureClass::Malformed,
        FailureClass::ResponseLost,
        FailureClass::Unsendable,
        FailureClass::AccessToken,
        FailureClass::Transformation,
        FailureClass::Cancelled,
        FailureClass::Plugin,
    ];

    /// Its name in logs, metrics and the API.
    pub const fn name(self) -> &'static str {
        match self {
            FailureClass::Forbidden => "forbidden_address",
            FailureClass::Dns => "dns",
            FailureClass::Connect => "connect",
            FailureClass::Tls => "tls",
            FailureClass::Proxy => "proxy",
            FailureClass::Timeout => "timeout",
            FailureClass::Malformed => "malformed_response",
            FailureClass::ResponseLost => "response_lost",
            FailureClass::Unsendable => "unsendable",
            FailureClass::AccessToken => "access_token",
            FailureClass::Transformation => "transformation",
            FailureClass::Cancelled => "cancelled",
            FailureClass::Plugin => "plugin",
        }
    }

    /// Its number in tables.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// From its number in tables.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// How long the parts of an exchange took. Absent is what did not take place, because the connection was open already, or
/// did not come to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Phases {
    /// Addresses of the host.
    pub dns: Option<Duration>,
    /// A TCP connection.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From the beginning of the exchange to the head of the response.
    pub first_byte: Option<Duration>,
}

/// How an exchange went: facts, not yet a decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// When it began, wall time; the attempt's `webhook-timestamp`.
    pub started_at: Timestamp,
    /// From start to end, body included.
    pub duration: Duration,
    /// Where it went, if the endpoint's script chose another URL than the endpoint's. Absent in what a store gives: there the attempt's own
    /// URL says it.
    pub url: Option<Arc<str>>,
    /// Its parts.
    pub phases: Phases,
    /// The status, or why there was none.
    pub result: Result<u16, FailureClass>,
    /// The response's body up to the cap, as bytes; or, if there was no response, a text for the customer.
    pub body: Bytes,
    /// `Retry-After`, if it could be read.
    pub retry_after: Option<RetryAfter>,
    /// `webhook-delivery`, if it was one of the two known values.
    pub directive: Option<Directive>,
}

impl Outcome {
    /// Any 2xx.
    pub fn is_success(&self) -> bool {
        matches!(self.result, Ok(200..=299))
    }

    /// Says that we are too fast or the receiver too busy: 429, 502, 503, 504 and timeouts. The lane slows down.
    pub fn is_overload(&self) -> bool {
        matches!(self.result, Ok(429 | 502 | 503 | 504) | Err(FailureClass::Timeout))
    }

    /// Why there was no response, in our own words and in one line. Absent with a response, and where a script or a plugin says why: its words may
    /// hold the payload.
    pub fn reason(&self) -> Option<&str> {
        match self.result {
            Ok(_) | Err(FailureClass::Transformation | FailureClass::Cancelled | FailureClass::Plugin) => None,
            Err(_) => std::str::from_utf8(&self.body).ok()?.lines().next(),
        }
    }

    /// Nothing was sent because the endpoint's owner wanted it so.
    pub fn is_cancelled(&self) -> bool {
        self.result == Err(FailureClass::Cancelled)
    }

    /// Says that nothing of the receiver's program answered, or that its script fails; the breaker counts these and all 5xx.
    pub fn is_outage(&self) -> bool {
        match self.result {
            Ok(status) => status >= 500,
            Err(FailureClass::Unsendable | FailureClass::Forbidden | FailureClass::Cancelled) => false,
            // A plugin that has seen the message and says that it will never do is at work.
            Err(FailureClass::Plugin) => self.directive.is_none(),
            Err(_) => true,
        }
    }
}

/// A row of the attempt log.
#[derive(Clone, PartialEq, Debug)]
pub struct Attempt {
    /// Its id; `id.sequence()` is its place in the attempt log.
    pub id: AttemptId,
    /// The delivery it belongs to.
    pub delivery: Delivery,
    /// The application of both.
    pub application: ApplicationKey,
    /// Counted from 1; 0 for a delivery that ended without any exchange (`outcome` is `None`).
    pub number: AttemptNumber,
    /// Why it was made.
    pub trigger: Trigger,
    /// The URL it went to, user info removed.
    pub url: Arc<str>,
    /// What happened; `None` if the delivery was ended without an exchange.
    pub outcome: Option<Outcome>,
    /// What follows.
    pub after: AfterAttempt,
}

/// These bytes without the character that they end in the middle of, as text does that was cut where no more is kept. What is no text
/// otherwise stays as it is.
pub fn whole_characters(bytes: &[u8]) -> &[u8] {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => &bytes[..error.valid_up_to()],
        _ => bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_takes_seconds_fractions_and_dates() {
        let check = |text: &str, expected: Option<RetryAfter>| assert_eq!(RetryAfter::parse(text), expected, "{text}");
        check("120", Some(RetryAfter::Wait(Duration::from_secs(120))));
        check(" 0.5 ", Some(RetryAfter::Wait(Duration::from_millis(500))));
        check("1e99", Some(RetryAfter::Wait(Duration::from_secs(1_000_000_000))));
        check("-5", None);
        check("NaN", None);
        check("inf", None);
        check("soon", None);
        check("", None);
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(RetryAfter::Date(Timestamp::from_seconds(784_111_777))));
    }

    #[test]
    fn codes_lead_back() {
        for class in FailureClass::ALL {
            assert_eq!(FailureClass::from_code(class.code()), Some(class));
        }
        assert_eq!(FailureClass::from_code(200), None);
    }
}
