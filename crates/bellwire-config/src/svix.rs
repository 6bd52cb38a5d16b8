//! The variables of a Svix server, so that an image can be swapped: understood, refused, or reported as not used.

use super::value::{Expected, Read, Value, list, network, switch};
use bellwire_model::RetrySchedule;

/// What a variable means here.
pub(crate) enum Reading {
    /// The same as one of our settings.
    Setting {
        /// Which.
        setting: &'static str,
        /// Its value in our notation.
        value: Read<Value>,
    },
    /// It asks for what is the case anyway.
    Understood,
    /// It asks for what we do not do, and running without it would be wrong.
    Refused(String),
    /// It has no counterpart; why that does not matter.
    Unused(&'static str),
    /// No variable of Svix that we know of.
    Unknown,
}

/// What is kept elsewhere by Svix is kept in the data folder here.
const STORE: &str = "the data folder is the store";
const QUEUE: &str = "the data folder is the queue";
/// Svix speaks another protocol to another port.
const OTLP: &str = "traces are sent by OTLP over HTTP, not gRPC: see [traces] in config.default.toml";
const CACHE: &str = "there is no cache outside the process";

/// Read and reported as not used.
pub(crate) const UNUSED: [(&str, &str); 28] = [
    ("SVIX_DB_DSN", STORE),
    ("SVIX_DB_POOL_MAX_SIZE", STORE),
    ("SVIX_DB_TRACING", STORE),
    ("SVIX_BACKGROUND_MIGRATIONS_ENABLED", STORE),
    ("SVIX_REDIS_DSN", STORE),
    ("SVIX_REDIS_POOL_MAX_SIZE", STORE),
    ("SVIX_REDIS_DB", STORE),
    ("SVIX_REDIS_USERNAME", STORE),
    ("SVIX_REDIS_PASSWORD", STORE),
    ("SVIX_REDIS_TLS_MODE_SECURE", STORE),
    ("SVIX_REDIS_USE_RESP3", STORE),
    ("SVIX_REDIS_PENDING_DURATION_SECS", QUEUE),
    ("SVIX_SENTINEL_SERVICE_NAME", STORE),
    ("SVIX_QUEUE_TYPE", QUEUE),
    ("SVIX_QUEUE_DSN", QUEUE),
    ("SVIX_QUEUE_PREFIX", QUEUE),
    ("SVIX_QUEUE_MAX_POLL_SECS", QUEUE),
    ("SVIX_RABBIT_DSN", QUEUE),
    ("SVIX_RABBIT_CONSUMER_PREFETCH_SIZE", QUEUE),
    ("SVIX_CACHE_TYPE", CACHE),
    ("SVIX_CACHE_DSN", CACHE),
    (
        "SVIX_OPERATIONAL_WEBHOOK_ADDRESS",
        "operational webhooks are delivered by this process, see docs/operational-webhooks.md",
    ),
    ("SVIX_OPENTELEMETRY_ADDRESS", OTLP),
    ("SVIX_OPENTELEMETRY_SAMPLE_RATIO", OTLP),
    ("SVIX_OPENTELEMETRY_SERVICE_NAME", OTLP),
    ("SVIX_SENTRY_DSN", "errors are reported in the log only"),
    ("SVIX_ENVIRONMENT", "errors are reported in the log only"),
    ("SVIX_REGION", "there is one region"),
];

/// Variables without its prefix that a Svix server or its image reads.
pub(crate) const NEIGHBOURS: [(&str, &str); 2] =
    [("DATABASE_URL", STORE), ("WAIT_FOR", "there is no database to wait for")];

/// Whether a line sets a variable that a Svix server would understand.
pub(crate) fn is_variable(line: &str) -> bool {
    line.split_once('=').is_some_and(|(name, value)| !matches!(read(name.trim(), value.trim()), Reading::Unknown))
}

/// Reads one variable.
pub(crate) fn read(name: &str, text: &str) -> Reading {
    let given = Value::Text(text.to_owned());
    let as_is = |setting| Reading::Setting { setting, value: Ok(given.clone()) };
    match name {
        "SVIX_JWT_SECRET" => as_is("auth.jwt_secret"),
        "SVIX_MAIN_SECRET" => as_is("auth.main_secret"),
        "SVIX_LISTEN_ADDRESS" => as_is("server.listen"),
        "SVIX_WHITELIST_SUBNETS" => {
            Reading::Setting { setting: "egress.allow", value: list(network)(&given).map(|_| given) }
        }
        "SVIX_RETRY_SCHEDULE" => Reading::Setting {
            setting: "delivery.retry_schedule",
            value: text
                .parse::<RetrySchedule>()
                .map(|_| given)
                .map_err(|error| Expected(format!("seconds separated by commas such as 5,300,1800 ({error})"))),
        },
        "SVIX_WORKER_REQUEST_TIMEOUT" => {
            Reading::Setting { setting: "delivery.timeout", value: with_unit(text, "s", "seconds such as 30") }
        }
        "SVIX_WORKER_MAX_TASKS" => as_is("lanes.attempts_total_max"),
        "SVIX_ENDPOINT_FAILURE_DISABLE_AFTER" => Reading::Setting {
            setting: "delivery.disable_after",
            value: match text.trim() {
                "0" => Ok(Value::Text("never".into())),
                _ => with_unit(text, "h", "hours such as 120, or 0 for never"),
            },
        },
        "SVIX_ENDPOINT_HTTPS_ONLY" => as_is("delivery.https_only"),
        "SVIX_DEFAULT_SIGNATURE_TYPE" => as_is("delivery.default_signature_type"),
        "SVIX_WHITELABEL_HEADERS" => Reading::Setting {
            setting: "delivery.headers",
            value: switch(&given).map(|on| Value::Text(if on { "webhook" } else { "svix" }.into())),
        },
        "SVIX_DANGEROUS_DISABLE_TLS_VERIFICATION" => {
            Reading::Setting { setting: "egress.tls_verify", value: switch(&given).map(|off| Value::Switch(!off)) }
        }
        "SVIX_PROXY_ADDR" => as_is("egress.proxy"),
        "SVIX_NOPROXY" => as_is("egress.no_proxy"),
        "SVIX_LOG_LEVEL" => as_is("log.level"),
        "SVIX_LOG_FORMAT" if text.trim().eq_ignore_ascii_case("default") => {
            Reading::Setting { setting: "log.format", value: Ok(Value::Text("text".into())) }
        }
        "SVIX_LOG_FORMAT" => as_is("log.format"),
        "SVIX_JWT_ALGORITHM" => as_is("auth.jwt_algorithm"),
        "SVIX_APP_PORTAL_URL" => as_is("server.app_portal_url"),
        "SVIX_API_ENABLED" | "SVIX_WORKER_ENABLED" => match switch(&given) {
            Ok(true) => Reading::Understood,
            _ => Reading::Refused(format!("expected true: API and deliveries are one process, found {text:?}")),
        },
        _ => {
            UNUSED.iter().find(|(unused, _)| *unused == name).map_or(Reading::Unknown, |(_, why)| Reading::Unused(why))
        }
    }
}

/// A plain number, in our notation.
fn with_unit(text: &str, unit: &str, what: &str) -> Read<Value> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Expected(format!("whole {what}")));
    }
    Ok(Value::Text(format!("{text}{unit}")))
}
