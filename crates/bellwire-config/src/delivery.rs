//! `[delivery]`: what an attempt is and when there is another.

use super::{
    layers::Layers,
    value::{Expected, Read, Value, choice, duration, header_text, list, memory, optional, parse_duration, switch},
};
use bellwire_delivery::HeaderNames;
use bellwire_model::{RESPONSE_BODY_MAX, RetrySchedule};
use bellwire_signature::SecretKind;
use std::time::Duration;

/// See `config.default.toml`.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub retry_schedule: RetrySchedule,
    pub timeout: Duration,
    pub headers: HeaderNames,
    pub default_secret_kind: SecretKind,
    /// `None`: never.
    pub disable_after: Option<Duration>,
    pub https_only: bool,
    pub user_agent: http::HeaderValue,
    pub response_body_bytes_max: usize,
}

impl Delivery {
    pub(super) fn read(layers: &Layers) -> Delivery {
        const MILLISECOND: Duration = Duration::from_millis(1);
        const MINUTE: Duration = Duration::from_secs(60);
        const YEARS: Duration = Duration::from_secs(3_650 * 86_400);
        const NAMES: &[(&str, HeaderNames)] =
            &[("webhook", HeaderNames::Webhook), ("svix", HeaderNames::Svix), ("both", HeaderNames::Both)];
        const KINDS: &[(&str, SecretKind)] = &[("hmac256", SecretKind::Symmetric), ("ed25519", SecretKind::Ed25519)];
        Delivery {
            retry_schedule: layers.take("delivery.retry_schedule", schedule),
            timeout: layers.take("delivery.timeout", duration(MILLISECOND..=2 * MINUTE)),
            headers: layers.take("delivery.headers", choice(NAMES)),
            default_secret_kind: layers.take("delivery.default_signature_type", choice(KINDS)),
            disable_after: layers.take("delivery.disable_after", optional("never", duration(MINUTE..=YEARS))),
            https_only: layers.take("delivery.https_only", switch),
            user_agent: layers.take("delivery.user_agent", header_text),
            response_body_bytes_max: layers.take("delivery.response_body_max", memory(0..=RESPONSE_BODY_MAX as u64)),
        }
    }
}

/// A list of durations; a plain number is seconds, as Svix has it.
fn schedule(value: &Value) -> Read<RetrySchedule> {
    let wait = |value: &Value| {
        let seconds = match value {
            Value::Integer(seconds) => u64::try_from(*seconds).ok().map(Duration::from_secs),
            Value::Float(seconds) => Duration::try_from_secs_f64(*seconds).ok(),
            Value::Text(text) => match text.parse() {
                Ok(seconds) => Duration::try_from_secs_f64(seconds).ok(),
                Err(_) => parse_duration(text),
            },
            Value::Switch(_) | Value::List(_) | Value::Path(_) | Value::Table => None,
        };
        seconds.ok_or_else(|| Expected("a duration such as \"5m\", or seconds".into()))
    };
    RetrySchedule::new(list(wait)(value)?).map_err(|error| Expected(format!("a retry schedule ({error})")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schedule_is_durations_or_seconds() {
        let read = |text: &str| schedule(&Value::Text(text.into())).map(|schedule| schedule.waits().to_vec());
        let seconds = |seconds: &[f64]| Ok(seconds.iter().map(|s| Duration::from_secs_f64(*s)).collect::<Vec<_>>());
        assert_eq!(read("1,1,2"), seconds(&[1.0, 1.0, 2.0]));
        assert_eq!(read("[5s, 5m, 0.5]"), seconds(&[5.0, 300.0, 0.5]));
        assert_eq!(read(""), seconds(&[]));
        for wrong in ["1,,2", "soon", "-1", "nan", "inf", "8d", "1e9"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        let many = ["1"; 65].join(",");
        assert!(read(&many).is_err());
    }
}
