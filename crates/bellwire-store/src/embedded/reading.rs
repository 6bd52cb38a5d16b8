//! The reading verbs: each takes a read-only connection from a pool, reads in one transaction, and sees what was committed.

use super::codec::{self, integer};
use super::fault::Fault;
use super::index::{AttemptRecord, MessageRecord, Tail, View};
use super::ledger::Meta;
use super::merge::{Firsts, Merged, PageOf};
use super::passes::{carries, stands, status_passes};
use super::{attempt_log, message_log, waiting_room};
use crate::{
    AttemptFilter, AttemptQuery, DeliveryOfEndpoint, DeliveryOfMessage, LAG_COUNTED_MAX, LOG_LOOKED_MAX,
    LOG_MESSAGES_MAX, Lag, LogPage, LogQuery, MessageQuery, Page, Span,
};
use bellwire_model::{
    ApplicationKey, Attempt, AttemptId, AttemptNumber, Delivery, DeliveryState, EndpointKey, Ledger, Message, Sequence,
};
use parking_lot::RwLock;
use rusqlite::{Connection, Rows};
use std::collections::{BTreeSet, HashMap};
use std::ops::Deref;

/// One transaction, with the part of the tail that belongs to it.
pub(super) struct Snapshot<'a> {
    transaction: Open<'a>,
    meta: Meta,
    pub(super) view: View,
    /// What the tail says of each delivery. A view that is asked for one delivery at a time is not gone through each time.
    tried: HashMap<Delivery, Last>,
}

/// How far a delivery has come, as far as attempts say.
#[derive(Clone, Copy, Default)]
struct Last {
    /// The newest attempt, and what followed it.
    after: Option<(Sequence, u8)>,
    /// The newest attempt that was answered, and how.
    answered: Option<(Sequence, i32)>,
    attempts: AttemptNumber,
}

impl Last {
    fn consider(&mut self, at: Sequence, number: AttemptNumber, after: u8, status: Option<i32>) {
        self.attempts = self.attempts.max(number);
        if self.after.is_none_or(|(last, _)| last < at) {
            self.after = Some((at, after));
        }
        if let Some(status) = status.filter(|_| self.answered.is_none_or(|(last, _)| last < at)) {
            self.answered = Some((at, status));
        }
    }
}

/// What the tail says of each delivery.
fn tried(view: &View) -> HashMap<Delivery, Last> {
    let mut tried: HashMap<Delivery, Last> = HashMap::new();
    for attempt in &view.attempts {
        let last = tried.entry(attempt.delivery()).or_default();
        last.consider(attempt.sequence, attempt.number, attempt.after, attempt.status);
    }
    tried
}

/// A transaction that is open: a reader's own, or the writer's.
enum Open<'a> {
    Own(rusqlite::Transaction<'a>),
    Writers(&'a Connection),
}

impl Deref for Open<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match self {
            Open::Own(transaction) => transaction,
            Open::Writers(connection) => connection,
        }
    }
}

impl<'a> Snapshot<'a> {
    /// Begins it. Of the tail it holds what is wanted.
    pub(super) fn new(
        connection: &'a Connection,
        tail: &RwLock<Tail>,
        message_wanted: impl Fn(&MessageRecord) -> bool,
        attempt_wanted: impl Fn(&AttemptRecord) -> bool,
    ) -> Result<Snapshot<'a>, Fault> {
        let transaction = connection.unchecked_transaction()?;
        let (meta, view) = tail.read().view(&transaction, message_wanted, attempt_wanted)?;
        Ok(Snapshot { transaction: Open::Own(transaction), meta, tried: tried(&view), view })
    }

    /// Within the transaction that the writer has begun on `connection` and not yet written in.
    pub(super) fn within(
        connection: &'a Connection,
        tail: &RwLock<Tail>,
        message_wanted: impl Fn(&MessageRecord) -> bool,
        attempt_wanted: impl Fn(&AttemptRecord) -> bool,
    ) -> Result<Snapshot<'a>, Fault> {
        let (meta, view) = tail.read().view(connection, message_wanted, attempt_wanted)?;
        Ok(Snapshot { transaction: Open::Writers(connection), meta, tried: tried(&view), view })
    }

    /// Goes through the messages of an application in `span`, oldest first, until told to stop. Answers whether it came to the end.
    pub(super) fn walk_application(
        &self,
        application: ApplicationKey,
        span: Span,
        visit: impl FnMut(&Candidate) -> Result<bool, Fault>,
    ) -> Result<bool, Fault> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT message, event_type, marks FROM message_by_application \
             WHERE application = ?1 AND message BETWEEN ?2 AND ?3 ORDER BY message",
        )?;
        let (first, last) = self.bounds(span);
        let rows = statement.query([i64::from(application.0), first, last])?;
        let tail = self.view.messages.iter().filter(|m| m.application == application).map(Candidate::from);
        rising(rows, tail.filter(|candidate| within(span, candidate.at)).collect(), visit)
    }

    /// As [`Snapshot::walk_application`], for the messages that were or are to be sent to an endpoint.
    pub(super) fn walk_endpoint(
        &self,
        endpoint: EndpointKey,
        span: Span,
        visit: impl FnMut(&Candidate) -> Result<bool, Fault>,
    ) -> Result<bool, Fault> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT message, event_type, marks FROM delivery_by_endpoint \
             WHERE endpoint = ?1 AND message BETWEEN ?2 AND ?3 ORDER BY message",
        )?;
        let (first, last) = self.bounds(span);
        let rows = statement.query([i64::from(endpoint.0), first, last])?;
        let mut tail = self.delivery_candidates(endpoint);
        tail.retain(|candidate| within(span, candidate.at));
        rising(rows, tail, visit)
    }

    /// See [`crate::Store::messages`].
    pub(super) fn messages(&self, application: ApplicationKey, query: &MessageQuery) -> Result<Page<Message>, Fault> {
        let mut statement = self.transaction.prepare_cached(if query.ascending {
            "SELECT message, event_type, marks FROM message_by_application \
             WHERE application = ?1 AND message BETWEEN ?2 AND ?3 ORDER BY message"
        } else {
            "SELECT message, event_type, marks FROM message_by_application \
             WHERE application = ?1 AND message BETWEEN ?2 AND ?3 ORDER BY message DESC"
        })?;
        let (first, last) = self.bounds(query.span);
        let rows = statement.query([i64::from(application.0), first, last])?;
        let tail = self.view.messages.iter().map(Candidate::from).collect();
        let mut page = PageOf::new(query.limit);
        self.walk(rows, tail, query, |message| page.take(message))?;
        Ok(page.done())
    }

    /// See [`crate::Store::deliveries_of_endpoint`].
    pub(super) fn deliveries_of_endpoint(
        &self,
        endpoint: EndpointKey,
        query: &MessageQuery,
    ) -> Result<Page<DeliveryOfEndpoint>, Fault> {
        let mut page = PageOf::new(query.limit);
        self.walk_deliveries(endpoint, query, |message| {
            let delivery = Delivery { endpoint, message: message.sequence() };
            let (state, attempts) = self.state(delivery)?;
            if query.status.is_some_and(|status| !stands(status, state, attempts)) {
                return Ok(true);
            }
            page.take(DeliveryOfEndpoint { message, state, attempts })
        })?;
        Ok(page.done())
    }

    /// See [`crate::Store::log`].
    pub(super) fn log(&self, endpoint: EndpointKey, query: &LogQuery) -> Result<LogPage, Fault> {
        let types: Vec<u32> = query.event_types.iter().map(|t| codec::type_hash(t)).collect();
        let marks = query.channel.as_deref().map_or(0, codec::channel_mark);
        let limit = query.limit.min(LOG_MESSAGES_MAX);
        let meta = self.meta;
        let mut page =
            LogPage { messages: Vec::new(), through: query.after.max(meta.newest), more: false, floor: meta.floor };
        let mut find = message_log::Finder::new(&self.transaction)?;
        let (mut bytes, mut looked, mut last) = (0, 0, query.after);
        let done =
            self.walk_endpoint(endpoint, Span { first: query.after.next(), last: Sequence::MAX }, |candidate| {
                if page.messages.len() >= limit || bytes >= query.bytes_max || looked >= LOG_LOOKED_MAX {
                    return Ok(false);
                }
                looked += 1;
                last = candidate.at;
                let possible =
                    (types.is_empty() || types.contains(&candidate.event_type)) && candidate.marks & marks == marks;
                if possible
                    && let Some(message) = find.find(candidate.at)?
                    && carries(&message, &query.event_types, query.channel.as_deref(), None)
                {
                    bytes += message.content_bytes();
                    page.messages.push(message);
                }
                Ok(true)
            })?;
        if !done {
            (page.more, page.through) = (true, last);
        }
        Ok(page)
    }

    /// See [`crate::Store::lag`].
    pub(super) fn lag(&self, endpoint: EndpointKey, after: Sequence) -> Result<Lag, Fault> {
        let mut lag = Lag::default();
        self.walk_endpoint(endpoint, Span { first: after.next(), last: Sequence::MAX }, |candidate| {
            lag.events += 1;
            lag.oldest.get_or_insert(candidate.at);
            Ok(lag.events < LAG_COUNTED_MAX)
        })?;
        Ok(lag)
    }

    /// See [`crate::Store::count_deliveries`].
    pub(super) fn count_deliveries(&self, endpoint: EndpointKey, span: Span) -> Result<Ledger, Fault> {
        let mut ledger = Ledger::default();
        for message in self.delivery_messages(endpoint, span)? {
            ledger.accepted += 1;
            ledger.matched += 1;
            match self.state(Delivery { endpoint, message })?.0 {
                DeliveryState::Delivered => ledger.delivered += 1,
                DeliveryState::Ended(reason) => ledger.ended[usize::from(reason.code())] += 1,
                DeliveryState::Fresh | DeliveryState::Waiting(_) => ledger.pending += 1,
            }
        }
        Ok(ledger)
    }

    /// See [`crate::Store::deliveries_of_message`].
    pub(super) fn deliveries_of_message(&self, message: Sequence) -> Result<Vec<DeliveryOfMessage>, Fault> {
        let Some(fan_out) = self.fan_out(message)? else { return Ok(Vec::new()) };
        let mut endpoints: BTreeSet<EndpointKey> = fan_out.into_iter().collect();
        endpoints.extend(self.view.attempts.iter().map(|attempt| attempt.endpoint));
        for sql in [
            "SELECT DISTINCT endpoint FROM attempt_by_delivery WHERE message = ?1",
            "SELECT endpoint FROM added_delivery WHERE message = ?1",
        ] {
            let mut statement = self.transaction.prepare_cached(sql)?;
            let mut rows = statement.query([integer(message)])?;
            while let Some(row) = rows.next()? {
                endpoints.insert(EndpointKey(row.get(0)?));
            }
        }
        let deliveries = endpoints.into_iter().map(|endpoint| {
            let (state, attempts) = self.state(Delivery { endpoint, message })?;
            Ok(DeliveryOfMessage { endpoint, state, attempts })
        });
        deliveries.collect()
    }

    /// See [`crate::Store::delivery`].
    pub(super) fn delivery(&self, delivery: Delivery) -> Result<Option<DeliveryOfMessage>, Fault> {
        let Some(fan_out) = self.fan_out(delivery.message)? else { return Ok(None) };
        let (state, attempts) = self.state(delivery)?;
        // Added ones wait or have been tried.
        let known = fan_out.contains(&delivery.endpoint) || state != DeliveryState::Fresh;
        Ok(known.then_some(DeliveryOfMessage { endpoint: delivery.endpoint, state, attempts }))
    }

    /// See [`crate::Store::attempts_of_endpoint`].
    pub(super) fn attempts_of_endpoint(
        &self,
        endpoint: EndpointKey,
        query: &AttemptQuery,
    ) -> Result<Page<Attempt>, Fault> {
        let mut page = PageOf::new(query.limit);
        if query.filter.endpoint.is_some_and(|wanted| wanted != endpoint) {
            return Ok(page.done());
        }
        let mut statement = self.transaction.prepare_cached(if query.ascending {
            "SELECT attempt, message, status FROM attempt_by_endpoint \
             WHERE endpoint = ?1 AND attempt BETWEEN ?2 AND ?3 ORDER BY attempt"
        } else {
            "SELECT attempt, message, status FROM attempt_by_endpoint \
             WHERE endpoint = ?1 AND attempt BETWEEN ?2 AND ?3 ORDER BY attempt DESC"
        })?;
        let (first, last) = (integer(query.span.first.max(self.meta.floor)), integer(query.span.last));
        let rows = statement.query([i64::from(endpoint.0), first, last])?;
        let tail = self.view.attempts.iter().filter(|a| within(query.span, a.sequence)).map(Tried::from).collect();
        let read = |row: &rusqlite::Row<'_>| {
            Ok(Tried { at: codec::sequence(row.get(0)?), message: codec::sequence(row.get(1)?), status: row.get(2)? })
        };
        let mut merged = Merged::new(rows, tail, query.ascending, read, |tried: &Tried| tried.at);
        while let Some(tried) = merged.next()? {
            if self.passes(&tried, &query.filter)? && !self.take_attempt(&mut page, tried.at, query.with_body)? {
                break;
            }
        }
        Ok(page.done())
    }

    /// See [`crate::Store::attempts_of_message`].
    pub(super) fn attempts_of_message(&self, message: Sequence, query: &AttemptQuery) -> Result<Page<Attempt>, Fault> {
        let mut page = PageOf::new(query.limit);
        if message < self.meta.floor || !self.message_passes(message, &query.filter)? {
            return Ok(page.done());
        }
        // They are stored by endpoint, and wanted by time: the heap keeps one more than a page of the first ones.
        let mut first = Firsts::new(query.limit.saturating_add(1), query.ascending);
        let of = |endpoint| query.filter.endpoint.is_none_or(|wanted| wanted == endpoint);
        let status = AttemptFilter {
            status: query.filter.status,
            status_class: query.filter.status_class,
            ..Default::default()
        };
        let mut consider = |tried: &Tried, endpoint| {
            if of(endpoint) && within(query.span, tried.at) && status_passes(tried.status, &status) {
                first.offer(tried.at);
            }
        };
        for attempt in &self.view.attempts {
            consider(&Tried::from(attempt), attempt.endpoint);
        }
        let mut statement = self
            .transaction
            .prepare_cached("SELECT endpoint, attempt, status FROM attempt_by_delivery WHERE message = ?1")?;
        let mut rows = statement.query([integer(message)])?;
        while let Some(row) = rows.next()? {
            let tried = Tried { at: codec::sequence(row.get(1)?), message, status: row.get(2)? };
            consider(&tried, EndpointKey(row.get(0)?));
        }
        for at in first.sorted() {
            if !self.take_attempt(&mut page, at, query.with_body)? {
                break;
            }
        }
        Ok(page.done())
    }

    fn take_attempt(&self, page: &mut PageOf<Attempt>, at: Sequence, with_body: bool) -> Result<bool, Fault> {
        if page.is_full() {
            return Ok(page.has_more());
        }
        match attempt_log::find(&self.transaction, at, with_body)? {
            Some(attempt) => page.take(attempt),
            None => Ok(true),
        }
    }

    /// Whom a message was owed to; `None` if it is not there or no more.
    fn fan_out(&self, message: Sequence) -> Result<Option<bellwire_model::FanOut>, Fault> {
        if message < self.meta.floor {
            return Ok(None);
        }
        message_log::find_fan_out(&self.transaction, message)
    }

    /// Where a delivery stands and the number of its last attempt. A delivery that nobody knows reads as fresh.
    fn state(&self, delivery: Delivery) -> Result<(DeliveryState, AttemptNumber), Fault> {
        let Standing { state, attempts, .. } = self.standing(delivery)?;
        Ok((state, attempts))
    }

    /// As [`Snapshot::state`], with how its last exchange was answered.
    pub(super) fn standing(&self, delivery: Delivery) -> Result<Standing, Fault> {
        let mut last = self.tried.get(&delivery).copied().unwrap_or_default();
        let mut statement = self.transaction.prepare_cached(
            "SELECT attempt, number, after, status FROM attempt_by_delivery WHERE message = ?1 AND endpoint = ?2",
        )?;
        let mut rows = statement.query([integer(delivery.message), i64::from(delivery.endpoint.0)])?;
        while let Some(row) = rows.next()? {
            last.consider(codec::sequence(row.get(0)?), row.get(1)?, row.get(2)?, row.get(3)?);
        }
        let Last { after, answered, attempts } = last;
        let status = answered.map(|(_, status)| status);
        if let Some(waiting) = waiting_room::find(&self.transaction, delivery)? {
            return Ok(Standing { state: DeliveryState::Waiting(waiting), attempts, status });
        }
        let state = match after {
            None => DeliveryState::Fresh,
            Some((_, codec::DELIVERED)) => DeliveryState::Delivered,
            Some((_, after)) => DeliveryState::Ended(codec::reason_from(after)?),
        };
        Ok(Standing { state, attempts, status })
    }

    /// Goes through the deliveries of an endpoint as the query wants their messages.
    fn walk_deliveries(
        &self,
        endpoint: EndpointKey,
        query: &MessageQuery,
        visit: impl FnMut(Message) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let mut statement = self.transaction.prepare_cached(if query.ascending {
            "SELECT message, event_type, marks FROM delivery_by_endpoint \
             WHERE endpoint = ?1 AND message BETWEEN ?2 AND ?3 ORDER BY message"
        } else {
            "SELECT message, event_type, marks FROM delivery_by_endpoint \
             WHERE endpoint = ?1 AND message BETWEEN ?2 AND ?3 ORDER BY message DESC"
        })?;
        let (first, last) = self.bounds(query.span);
        let rows = statement.query([i64::from(endpoint.0), first, last])?;
        self.walk(rows, self.delivery_candidates(endpoint), query, visit)
    }

    /// The messages of the tail that were owed to `endpoint`, in rising order.
    fn delivery_candidates(&self, endpoint: EndpointKey) -> Vec<Candidate> {
        self.view.messages.iter().filter(|m| m.fan_out.contains(&endpoint)).map(Candidate::from).collect()
    }

    fn delivery_messages(&self, endpoint: EndpointKey, span: Span) -> Result<Vec<Sequence>, Fault> {
        let mut statement = self.transaction.prepare_cached(
            "SELECT message FROM delivery_by_endpoint WHERE endpoint = ?1 AND message BETWEEN ?2 AND ?3 ORDER BY message",
        )?;
        let (first, last) = self.bounds(span);
        let rows = statement.query([i64::from(endpoint.0), first, last])?;
        let tail =
            self.delivery_candidates(endpoint).into_iter().map(|c| c.at).filter(|at| within(span, *at)).collect();
        let read = |row: &rusqlite::Row<'_>| Ok(codec::sequence(row.get(0)?));
        let mut merged = Merged::new(rows, tail, true, read, |at: &Sequence| *at);
        let mut messages = Vec::new();
        while let Some(at) = merged.next()? {
            messages.push(at);
        }
        Ok(messages)
    }

    /// Goes through index rows and the tail as one list and shows the messages that pass, until told to stop.
    fn walk(
        &self,
        rows: Rows<'_>,
        mut tail: Vec<Candidate>,
        query: &MessageQuery,
        mut visit: impl FnMut(Message) -> Result<bool, Fault>,
    ) -> Result<(), Fault> {
        let types: Vec<u32> = query.event_types.iter().map(|t| codec::type_hash(t)).collect();
        let channel = query.channel.as_deref().map_or(0, codec::channel_mark);
        let source = query.source.map_or(0, codec::source_mark);
        let marks = channel | query.tag.as_deref().map_or(0, codec::tag_mark) | source;
        tail.retain(|candidate| within(query.span, candidate.at));
        let mut merged = Merged::new(rows, tail, query.ascending, candidate, |candidate: &Candidate| candidate.at);
        while let Some(candidate) = merged.next()? {
            let possible =
                (types.is_empty() || types.contains(&candidate.event_type)) && candidate.marks & marks == marks;
            if !possible {
                continue;
            }
            let Some(message) = message_log::find(&self.transaction, candidate.at, query.with_payload)? else {
                continue;
            };
            let passes = carries(&message, &query.event_types, query.channel.as_deref(), query.tag.as_deref())
                && query.source.is_none_or(|source| message.received.as_ref().is_some_and(|r| r.source == source));
            if passes && !visit(message)? {
                break;
            }
        }
        Ok(())
    }

    fn bounds(&self, span: Span) -> (i64, i64) {
        (integer(span.first.max(self.meta.floor)), integer(span.last.min(Sequence::MAX)))
    }

    fn passes(&self, tried: &Tried, filter: &AttemptFilter) -> Result<bool, Fault> {
        Ok(status_passes(tried.status, filter) && self.message_passes(tried.message, filter)?)
    }

    fn message_passes(&self, message: Sequence, filter: &AttemptFilter) -> Result<bool, Fault> {
        if filter.event_types.is_empty() && filter.channel.is_none() && filter.tag.is_none() {
            return Ok(true);
        }
        if message < self.meta.floor {
            return Ok(false);
        }
        let message = message_log::find(&self.transaction, message, false)?;
        Ok(message.is_some_and(|m| carries(&m, &filter.event_types, filter.channel.as_deref(), filter.tag.as_deref())))
    }
}

/// See [`crate::Store::attempt`].
pub(super) fn attempt(connection: &Connection, id: AttemptId) -> Result<Option<Attempt>, Fault> {
    Ok(attempt_log::find(connection, id.sequence(), true)?.filter(|attempt| attempt.id == id))
}

/// See [`crate::Store::message`].
pub(super) fn message(connection: &Connection, at: Sequence, with_payload: bool) -> Result<Option<Message>, Fault> {
    let transaction = connection.unchecked_transaction()?;
    if at < Meta::read(&transaction)?.floor {
        return Ok(None);
    }
    message_log::find(&transaction, at, with_payload)
}

fn within(span: Span, at: Sequence) -> bool {
    span.first <= at && at <= span.last
}

/// Where a delivery stands.
pub(super) struct Standing {
    pub(super) state: DeliveryState,
    /// The number of its last attempt; 0 before the first.
    pub(super) attempts: AttemptNumber,
    /// The stored status of its last exchange.
    pub(super) status: Option<i32>,
}

/// What an index says of a message.
pub(super) struct Candidate {
    pub(super) at: Sequence,
    pub(super) event_type: u32,
    pub(super) marks: u64,
}

/// Goes through index rows and the tail in rising order until told to stop. Answers whether it came to the end.
fn rising(
    rows: Rows<'_>,
    tail: Vec<Candidate>,
    mut visit: impl FnMut(&Candidate) -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    let mut merged = Merged::new(rows, tail, true, candidate, |candidate: &Candidate| candidate.at);
    while let Some(candidate) = merged.next()? {
        if !visit(&candidate)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn candidate(row: &rusqlite::Row<'_>) -> Result<Candidate, Fault> {
    let marks: i64 = row.get(2)?;
    Ok(Candidate { at: codec::sequence(row.get(0)?), event_type: row.get(1)?, marks: marks as u64 })
}

impl From<&MessageRecord> for Candidate {
    fn from(record: &MessageRecord) -> Self {
        Candidate { at: record.sequence, event_type: record.event_type, marks: record.marks }
    }
}

/// What an index says of an attempt.
struct Tried {
    at: Sequence,
    message: Sequence,
    status: Option<i32>,
}

impl From<&AttemptRecord> for Tried {
    fn from(record: &AttemptRecord) -> Self {
        Tried { at: record.sequence, message: record.message, status: record.status }
    }
}
