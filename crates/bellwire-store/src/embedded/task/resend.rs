//! Deliveries that are sent again, and messages that an endpoint never got.

use super::super::codec;
use super::super::fault::Fault;
use super::super::index;
use super::super::message_log;
use super::super::passes::{carries, of_class, stands};
use super::super::reading::{Snapshot, Standing};
use super::super::waiting_room;
use super::super::writer::Writer;
use super::Budget;
use crate::{Matching, ReplayFilter, Span, Target, Task};
use bellwire_model::{
    AttemptNumber, Delivery, DeliveryState, EndReason, EndpointKey, Message, Sequence, Timestamp, Trigger, Waiting,
};
use rusqlite::Connection;

impl Writer {
    /// A slice of the deliveries of an endpoint: those that pass come into the waiting room again. Answers whether it was the last.
    pub(super) fn send_again(
        &mut self,
        task: &mut Task,
        endpoint: EndpointKey,
        now: Timestamp,
        filter: &ReplayFilter,
        passes: impl Fn(&Standing) -> bool,
    ) -> Result<bool, Fault> {
        let mut budget = Budget::new(self.settings.slice);
        let mut rows: Vec<(Sequence, AttemptNumber)> = Vec::new();
        let span = Span { first: task.progress.cursor, last: task.last };
        let possible = Possible::new(filter);
        let progress = &mut task.progress;
        let connection = &self.connection;
        let snapshot = Snapshot::within(
            connection,
            &self.tail,
            |message| message.fan_out.contains(&endpoint),
            |attempt| attempt.endpoint == endpoint,
        )?;
        let done = snapshot.walk_endpoint(endpoint, span, |candidate| {
            if !budget.is_left() {
                return Ok(false);
            }
            budget.scan(progress);
            progress.cursor = candidate.at.next();
            if !possible.may_be(candidate.event_type, candidate.marks) {
                return Ok(true);
            }
            let standing = snapshot.standing(Delivery { endpoint, message: candidate.at })?;
            if passes(&standing)
                && message_log::is_sendable(connection, candidate.at, now)?
                && (possible.is_all() || carries_all(connection, candidate.at, filter)?)
            {
                rows.push((candidate.at, standing.attempts + 1));
                budget.touch(progress);
            }
            Ok(true)
        })?;
        drop(snapshot);
        for (message, next) in &rows {
            self.queue(Delivery { endpoint, message: *message }, *next, now)?;
        }
        Ok(done)
    }

    /// A slice of the messages of the endpoint's application: those that it would get now and never was owed come into the waiting room.
    pub(super) fn send_missing(
        &mut self,
        task: &mut Task,
        target: Target,
        now: Timestamp,
        matching: &dyn Matching,
    ) -> Result<bool, Fault> {
        let Target { application, endpoint } = target;
        let mut budget = Budget::new(self.settings.slice);
        let mut missing = Vec::new();
        let span = Span { first: task.progress.cursor, last: task.last };
        let with_payload = matching.wants_payload(endpoint);
        let progress = &mut task.progress;
        let connection = &self.connection;
        let snapshot = Snapshot::within(
            connection,
            &self.tail,
            |message| message.application == application,
            |attempt| attempt.endpoint == endpoint,
        )?;
        let done = snapshot.walk_application(application, span, |candidate| {
            if !budget.is_left() {
                return Ok(false);
            }
            budget.scan(progress);
            progress.cursor = candidate.at.next();
            if !message_log::is_sendable(connection, candidate.at, now)? {
                return Ok(true);
            }
            let Some(message) = message_log::find(connection, candidate.at, with_payload)? else { return Ok(true) };
            budget.bytes = budget.bytes.saturating_sub(message.payload.as_ref().map_or(0, |payload| payload.len()));
            let delivery = Delivery { endpoint, message: candidate.at };
            if matching.matches(endpoint, &message) && snapshot.delivery(delivery)?.is_none() {
                missing.push(delivery);
                budget.touch(progress);
            }
            Ok(true)
        })?;
        drop(snapshot);
        for delivery in &missing {
            self.queue(*delivery, 1, now)?;
            index::note_added_delivery(&self.connection, *delivery)?;
        }
        Ok(done)
    }

    fn queue(&mut self, delivery: Delivery, next: AttemptNumber, now: Timestamp) -> Result<(), Fault> {
        let waiting = Waiting { delivery, due: now, next, trigger: Trigger::Manual };
        waiting_room::add(&self.connection, &mut self.counts, &waiting)
    }
}

/// Whether a recover takes a delivery that stands so. What somebody cancelled did not fail.
pub(super) fn has_failed(state: DeliveryState) -> bool {
    matches!(state, DeliveryState::Ended(reason) if reason != EndReason::Cancelled)
}

/// What a filter asks of an index row.
struct Possible {
    types: Vec<u32>,
    marks: u64,
}

impl Possible {
    fn new(filter: &ReplayFilter) -> Self {
        let channel = filter.channel.as_deref().map_or(0, codec::channel_mark);
        Possible {
            types: filter.event_types.iter().map(|name| codec::type_hash(name)).collect(),
            marks: channel | filter.tag.as_deref().map_or(0, codec::tag_mark),
        }
    }

    fn is_all(&self) -> bool {
        self.types.is_empty() && self.marks == 0
    }

    fn may_be(&self, event_type: u32, marks: u64) -> bool {
        (self.types.is_empty() || self.types.contains(&event_type)) && marks & self.marks == self.marks
    }
}

/// Whether a bulk replay takes a delivery that stands so. What waits or is on its way is never taken.
pub(super) fn is_wanted(standing: &Standing, filter: &ReplayFilter) -> bool {
    matches!(standing.state, DeliveryState::Delivered | DeliveryState::Ended(_))
        && filter.status.is_none_or(|status| stands(status, standing.state, standing.attempts))
        && filter.status_class.is_none_or(|class| of_class(standing.status, class))
}

fn carries_all(connection: &Connection, at: Sequence, filter: &ReplayFilter) -> Result<bool, Fault> {
    let message: Option<Message> = message_log::find(connection, at, false)?;
    Ok(message.is_some_and(|m| carries(&m, &filter.event_types, filter.channel.as_deref(), filter.tag.as_deref())))
}
