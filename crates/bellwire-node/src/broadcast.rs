//! Pages of broadcasts: a message for each of the next applications, and how far the task has come, all in one batch. So no application is
//! left out and none gets it twice, whatever crashes, and whoever reads the task finds what is in the logs.

use crate::core::Core;
use bellwire_api::event_key;
use bellwire_engine::{ApplicationEntry, BatchNumber, Draft, OfferError, fan_out};
use bellwire_model::ApplicationKey;
use bellwire_shape::{Candidate, judge};
use bellwire_store::{Broadcast, BroadcastMessage, Broadcasted, Change, ReadError, Task};
use bytes::Bytes;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Payloads of one page, about.
const BYTES_MAX: usize = 4 << 20;
/// After this no further application is looked at for a page: the committing thread has more to do.
const TIME_MAX: Duration = Duration::from_millis(10);

/// Why a page has to wait.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Late {
    #[error(transparent)]
    Offer(#[from] OfferError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Offers a page of `task` to the intake; answers the batch that it is in.
///
/// # Errors
/// Nothing was taken; the same page can be tried again.
pub(crate) fn offer(core: &Core, task: &Task, message: &Broadcast, to: &[ApplicationKey]) -> Result<BatchNumber, Late> {
    let started = Instant::now();
    let payload = Bytes::copy_from_slice(message.payload.as_bytes());
    let most = (BYTES_MAX / payload.len().max(1)).max(1);
    let now = core.clock.engine();
    let mut page = Broadcasted {
        task: task.id,
        next: task.progress.application,
        reached: task.first,
        scanned: 0,
        sent: Vec::new(),
        at: now,
    };
    let (mut drafts, mut ids) = (Vec::new(), HashMap::new());
    for key in to.iter().take(most) {
        if page.scanned > 0 && started.elapsed() > TIME_MAX {
            break;
        }
        page.next = ApplicationKey(key.0.saturating_add(1));
        let Some(entry) = core.catalogue.read().application(*key).cloned() else { continue };
        let id = entry.application.id;
        // The operator's own is nobody's customer; who came later is not meant.
        if entry.application.is_operational() || id.sequence() > task.last {
            continue;
        }
        page.scanned += 1;
        page.reached = page.reached.max(id.sequence());
        ids.insert(*key, id);
        drafts.push(draft(core, &entry, message, &payload));
    }
    loop {
        let looked = core.intake.lock().looked();
        let mut new = Vec::with_capacity(drafts.len());
        for draft in &drafts {
            let known = draft.event.map(|key| core.store.find_event(key)).transpose()?.flatten();
            if known.is_none() {
                new.push(draft.clone());
            }
        }
        let mut page = page.clone();
        let offer = core.intake.lock().offer_together(now, new, looked, |messages| {
            let sent = messages.iter().filter_map(|message| {
                Some(BroadcastMessage { application: *ids.get(&message.application)?, message: message.id })
            });
            page.sent = sent.collect();
            Change::Broadcasted(page)
        });
        match offer {
            Err(OfferError::LookAgain) => {}
            offer => return Ok(offer?),
        }
    }
}

/// The message for one application, to the endpoints that take it.
fn draft(core: &Core, entry: &ApplicationEntry, message: &Broadcast, payload: &Bytes) -> Draft {
    let Broadcast { event_type, event_id, channels, expires_at, .. } = message;
    let candidate = Candidate::new(event_type, event_id.as_deref(), channels, &[], payload);
    let fan_out = fan_out(entry, |endpoint| judge(endpoint, &candidate).is_match(|_| core.metrics.filter_failed()));
    Draft {
        event_id: event_id.clone(),
        channels: channels.clone(),
        event: event_id.as_deref().map(|id| event_key(entry.application.id, id)),
        ..Draft::new(entry.application.key, fan_out, event_type.as_str(), payload.clone(), *expires_at)
    }
}
