//! The column `endpoint.kind`: how an endpoint gets its messages, as JSON, sealed whole like the secrets beside it.
//!
//! NULL is push, which nearly all endpoints are. Names here are fixed for ever, since rows hold them.

use super::fault::Fault;
use super::sealed::{self, Sealer};
use bellwire_model::{ApplicationKey, Endpoint, EndpointId, Expiry, Kind, Pipe, Plugin, Runs, Timestamp};
use serde::{Deserialize, Serialize};
use std::time::Duration;

const COLUMN: &str = "kind";

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum StoredKind {
    Plugin { runs: String, settings: String },
    Pipe(StoredPipe),
}

/// Absent is the default: a pipe of a version that had no settings.
#[derive(Serialize, Deserialize)]
struct StoredPipe {
    lease_seconds: Option<u64>,
    attempts_max: Option<u16>,
    in_flight_max: Option<u16>,
    ordering_key: Option<String>,
    expires_after_seconds: Option<u64>,
    expires_at: Option<i64>,
}

/// The column's value.
pub(super) fn seal(sealer: Option<&dyn Sealer>, endpoint: &Endpoint) -> Option<Vec<u8>> {
    let stored = match &endpoint.kind {
        Kind::Push => return None,
        Kind::Plugin(plugin) => {
            StoredKind::Plugin { runs: plugin.runs.name().to_owned(), settings: plugin.settings.reveal().to_owned() }
        }
        Kind::Pipe(Pipe { lease, attempts_max, in_flight_max, ordering_key, expiry }) => StoredKind::Pipe(StoredPipe {
            lease_seconds: Some(lease.as_secs()),
            attempts_max: Some(*attempts_max),
            in_flight_max: Some(*in_flight_max),
            ordering_key: ordering_key.clone(),
            expires_after_seconds: expiry.map(|expiry| expiry.after.as_secs()),
            expires_at: expiry.map(|expiry| expiry.at.as_micros()),
        }),
    };
    let place = sealed::place(endpoint.application, endpoint.id, COLUMN);
    Some(sealed::seal(sealer, &place, &stored))
}

/// What [`seal`] made of it.
pub(super) fn open(
    sealer: Option<&dyn Sealer>,
    application: ApplicationKey,
    id: EndpointId,
    column: Option<Vec<u8>>,
) -> Result<Kind, Fault> {
    let Some(column) = column else { return Ok(Kind::Push) };
    let about = |detail: String| Fault::damaged("an endpoint's kind", format!("of endpoint {id}: {detail}"));
    let place = sealed::place(application, id, COLUMN);
    let stored: StoredKind = sealed::open(sealer, &place, &column).map_err(about)?;
    Ok(match stored {
        StoredKind::Plugin { runs, settings } => {
            let runs = Runs::parse(&runs).ok_or_else(|| about(format!("{runs} is not known to this version")))?;
            Kind::Plugin(Plugin::new(runs, settings))
        }
        StoredKind::Pipe(pipe) => {
            let default = Pipe::default();
            let after = pipe.expires_after_seconds.map(Duration::from_secs);
            let at = pipe.expires_at.map(Timestamp::from_micros);
            Kind::Pipe(Pipe {
                lease: pipe.lease_seconds.map_or(default.lease, Duration::from_secs),
                attempts_max: pipe.attempts_max.unwrap_or(default.attempts_max),
                in_flight_max: pipe.in_flight_max.unwrap_or(default.in_flight_max),
                ordering_key: pipe.ordering_key,
                expiry: after.zip(at).map(|(after, at)| Expiry { after, at }),
            })
        }
    })
}
