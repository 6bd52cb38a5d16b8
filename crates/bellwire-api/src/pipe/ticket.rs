//! Tickets: for a browser's `EventSource`, which cannot send a token. A ticket stands in the URL of a stream instead, where it may end up
//! in logs; so it is good for one endpoint, for reading its stream, and for a minute.

use super::{Pipes, TAG};
use crate::auth::Verified;
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::{self, Error};
use crate::operation::{Access, Operation};
use crate::wire::Time;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bellwire_model::{EndpointKey, Timestamp};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const LIFE_DEFAULT: u64 = 60;
const LIFE_MAX: u64 = 3_600;
/// So many are good at a time.
const TICKETS_MAX: usize = 10_000;

pub(super) fn operations() -> Vec<Operation> {
    vec![
        Operation::editing(
            Method::POST,
            "/api/v1/app/{app_id}/endpoint/{endpoint_id}/ticket",
            Access::Application,
            issue,
        )
        .described(
            "v1.pipe.ticket",
            TAG,
            "Make a ticket that stands in the query of the endpoint's stream (`?ticket=…`) instead of a token, for a short while.",
        )
        .body_or_nothing::<TicketIn>()
        .answers::<TicketOut>(201),
    ]
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "PipeTicketIn")]
struct TicketIn {
    /// For so many seconds; 60 if absent, 3600 at most.
    #[schemars(range(min = 1, max = 3600))]
    seconds: Option<u64>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PipeTicketOut")]
struct TicketOut {
    ticket: String,
    expires_at: Time,
}

/// Those that are good, by their digests: what is in memory opens nothing.
#[derive(Default)]
pub(super) struct Tickets(Mutex<HashMap<[u8; 32], Ticket>>);

struct Ticket {
    token: Arc<Verified>,
    endpoint: EndpointKey,
    until: Timestamp,
}

impl fmt::Debug for Tickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tickets({})", self.0.lock().len())
    }
}

impl Pipes {
    /// The token that a ticket stands for, and the endpoint that it is good for.
    pub(crate) fn redeem(&self, ticket: &str, now: Timestamp) -> Option<(Arc<Verified>, EndpointKey)> {
        let digest: [u8; 32] = Sha256::digest(ticket).into();
        let tickets = self.tickets.0.lock();
        let found = tickets.get(&digest).filter(|found| found.until > now)?;
        Some((Arc::clone(&found.token), found.endpoint))
    }
}

async fn issue(mut call: Call) -> Result<Response, Error> {
    let (_, endpoint) = call.endpoint()?;
    let body = call.json_or_nothing().await?;
    let input: TicketIn = body.parse()?;
    let seconds = input.seconds.unwrap_or(LIFE_DEFAULT);
    if !(1..=LIFE_MAX).contains(&seconds) {
        return Err(Error::invalid(&["body", "seconds"], "`seconds` is between 1 and 3600"));
    }
    let mut random = [0; 24];
    call.api.backend().random(&mut random);
    let ticket = URL_SAFE_NO_PAD.encode(random);
    let now = call.api.backend().now();
    let until = now.plus(Duration::from_secs(seconds));
    let mut tickets = call.api.backend().pipes().tickets.0.lock();
    if tickets.len() >= TICKETS_MAX {
        tickets.retain(|_, ticket| ticket.until > now);
    }
    if tickets.len() >= TICKETS_MAX {
        return Err(Error::too_many_requests(Duration::from_secs(1)));
    }
    let kept = Ticket { token: Arc::clone(&call.token), endpoint: endpoint.key, until };
    tickets.insert(Sha256::digest(&ticket).into(), kept);
    drop(tickets);
    Ok(error::json(StatusCode::CREATED, &TicketOut { ticket, expires_at: Time(until) }))
}
