//! Wakes who waits at the end of an endpoint's log, and hands what was just accepted from memory to all who read there.
//!
//! The committing thread publishes every batch after it is durable. For endpoints that nobody waits at, that is one look at a counter.
//! A watched endpoint keeps its newest messages, bounded, so that a thousand readers of one log ask the store nothing.

use bellwire_model::{AfterAttempt, EndpointKey, Message, Sequence};
use bellwire_store::{Batch, Change, LogPage, LogQuery};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// Of each watched endpoint, so many of the newest messages are kept,
const RECENT_MAX: usize = 256;
/// and so many bytes of payload at most.
const RECENT_BYTES_MAX: usize = 1 << 20;

/// See the module.
#[derive(Debug)]
pub struct Wakes {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    watched: Mutex<Watched>,
    /// As many as there are in `watched`.
    count: AtomicUsize,
    closing: watch::Sender<bool>,
}

#[derive(Debug)]
struct Watched {
    endpoints: HashMap<EndpointKey, Arc<Log>>,
    /// Every batch up to here was published.
    through: Sequence,
}

/// The end of a watched endpoint's log.
#[derive(Debug)]
struct Log {
    /// Rises with everything that may interest a reader.
    turn: watch::Sender<u64>,
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    messages: VecDeque<Arc<Message>>,
    bytes: usize,
    /// All of the endpoint's messages after this one are here.
    from: Sequence,
    /// Everything up to here has been seen, for this endpoint or others.
    through: Sequence,
}

/// A place at the end of an endpoint's log.
#[derive(Debug)]
pub(crate) struct Watch {
    endpoint: EndpointKey,
    log: Arc<Log>,
    turn: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    inner: Arc<Inner>,
}

impl Watched {
    /// Who waits there looks again.
    fn rouse(&self, endpoint: EndpointKey) {
        if let Some(log) = self.endpoints.get(&endpoint) {
            log.turn.send_modify(|turn| *turn += 1);
        }
    }
}

impl Wakes {
    pub(super) fn new(newest: Sequence) -> Self {
        let watched = Mutex::new(Watched { endpoints: HashMap::new(), through: newest });
        let inner = Inner { watched, count: AtomicUsize::new(0), closing: watch::Sender::new(false) };
        Wakes { inner: Arc::new(inner) }
    }

    /// A batch is durable. Called in the order of the commits.
    pub fn publish(&self, batch: &Batch) {
        let newest = batch.attempts.last().map(|attempt| attempt.id.sequence());
        let newest = newest.max(batch.accepted.last().map(|accepted| accepted.message.sequence()));
        let mut watched = self.inner.watched.lock();
        watched.through = watched.through.max(newest.unwrap_or_default());
        if self.inner.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let through = watched.through;
        let mut touched: HashSet<EndpointKey> = HashSet::new();
        for accepted in &batch.accepted {
            for endpoint in &accepted.fan_out {
                if let Some(log) = watched.endpoints.get(endpoint) {
                    log.recent.lock().push(&accepted.message);
                    touched.insert(*endpoint);
                }
            }
        }
        // An endpoint that was push until a moment ago still has attempts under way.
        let put_off = batch.attempts.iter().filter(|attempt| matches!(attempt.after, AfterAttempt::Waiting { .. }));
        touched.extend(put_off.map(|attempt| attempt.delivery.endpoint));
        for change in &batch.changes {
            if let Change::Wait { waiting, .. } = change {
                touched.insert(waiting.delivery.endpoint);
            }
        }
        for endpoint in touched {
            if let Some(log) = watched.endpoints.get(&endpoint) {
                let mut recent = log.recent.lock();
                recent.through = recent.through.max(through);
                drop(recent);
                log.turn.send_modify(|turn| *turn += 1);
            }
        }
    }

    /// These changes are in the catalogue: who reads looks whether it still may, and may as before. Not when they become durable: that
    /// would be too early to see them.
    pub fn applied(&self, changes: &[Change]) {
        if self.inner.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let watched = self.inner.watched.lock();
        for change in changes {
            match change {
                Change::DeleteEndpoint(endpoint) => watched.rouse(*endpoint),
                Change::PutEndpoint(endpoint) => watched.rouse(endpoint.key),
                // Its endpoints go with it.
                Change::DeleteApplication(_) => watched.endpoints.keys().for_each(|endpoint| watched.rouse(*endpoint)),
                _ => {}
            }
        }
    }

    /// Something can be had of the endpoint that came in no batch, or whose batch was too early to look: a background task has put it there, or
    /// what its readers said is durable and nobody has it any more.
    pub fn rouse(&self, endpoint: EndpointKey) {
        self.inner.watched.lock().rouse(endpoint);
    }

    /// Readers end: the process does. Nobody waits from now on.
    pub fn close(&self) {
        self.inner.closing.send_replace(true);
    }

    /// Becomes `true` when readers are to end.
    pub(crate) fn closing(&self) -> watch::Receiver<bool> {
        self.inner.closing.subscribe()
    }

    /// A place at the end of the log of `endpoint`. What is published from now on wakes it.
    pub(crate) fn watch(&self, endpoint: EndpointKey) -> Watch {
        let mut watched = self.inner.watched.lock();
        let through = watched.through;
        let log = watched.endpoints.entry(endpoint).or_insert_with(|| {
            self.inner.count.fetch_add(1, Ordering::Relaxed);
            let recent = Recent { messages: VecDeque::new(), bytes: 0, from: through, through };
            Arc::new(Log { turn: watch::Sender::new(0), recent: Mutex::new(recent) })
        });
        let log = Arc::clone(log);
        let turn = log.turn.subscribe();
        Watch { endpoint, log, turn, closing: self.inner.closing.subscribe(), inner: Arc::clone(&self.inner) }
    }

    /// Whether somebody is at the end of its log, or waits there.
    pub(super) fn is_watched(&self, endpoint: EndpointKey) -> bool {
        self.inner.watched.lock().endpoints.contains_key(&endpoint)
    }

    /// How many endpoints are watched.
    pub fn watched(&self) -> usize {
        self.inner.count.load(Ordering::Relaxed)
    }
}

impl Recent {
    fn push(&mut self, message: &Arc<Message>) {
        self.bytes += message.content_bytes();
        self.messages.push_back(Arc::clone(message));
        while self.messages.len() > RECENT_MAX || self.bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.messages.pop_front() else { return };
            self.bytes -= oldest.content_bytes();
            self.from = oldest.sequence();
        }
    }

    /// The page of `query`, if all of it is here.
    fn page(&self, query: &LogQuery) -> Option<LogPage> {
        if query.after < self.from {
            return None;
        }
        let first = self.messages.partition_point(|message| message.sequence() <= query.after);
        let newest = self.messages.back().map_or(self.through, |newest| newest.sequence().max(self.through));
        let mut page =
            LogPage { messages: Vec::new(), through: query.after.max(newest), more: false, floor: Sequence::ZERO };
        let (mut bytes, mut last) = (0, query.after);
        for message in self.messages.range(first..) {
            if page.messages.len() >= query.limit || bytes >= query.bytes_max {
                (page.more, page.through) = (true, last);
                break;
            }
            last = message.sequence();
            let type_fits = query.event_types.is_empty() || query.event_types.contains(&message.event_type);
            if type_fits && query.channel.as_ref().is_none_or(|channel| message.channels.contains(channel)) {
                bytes += message.content_bytes();
                page.messages.push(Message::clone(message));
            }
        }
        Some(page)
    }
}

impl Watch {
    /// What comes from now on is news.
    pub(crate) fn seen(&mut self) {
        self.turn.mark_unchanged();
    }

    /// Ends when there is news, or when readers are to end.
    pub(crate) async fn news(&mut self) {
        if self.is_closing() {
            return;
        }
        tokio::select! {
            // The senders live as long as this does.
            _ = self.turn.changed() => {}
            _ = self.closing.changed() => {}
        }
    }

    /// Readers are to end.
    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// The page of `query`, if it is at the end of the log and all of it is in memory.
    pub(crate) fn page(&self, query: &LogQuery) -> Option<LogPage> {
        self.log.recent.lock().page(query)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watched = self.inner.watched.lock();
        // Its own, and that of the table.
        if Arc::strong_count(&self.log) <= 2 && watched.endpoints.remove(&self.endpoint).is_some() {
            self.inner.count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{ApplicationKey, Delivery, MessageId, Timestamp};
    use bellwire_store::{Accepted, Settled, told};
    use futures_util::FutureExt;

    fn batch(sequences: &[u64], endpoint: u32, bytes: usize) -> Batch {
        let accepted = sequences.iter().map(|n| {
            let id = MessageId::from_parts(Sequence::from_u64(*n), [0; 12]);
            let message = Message::new(id, ApplicationKey(1), "a", vec![0; bytes], Timestamp::FAR_FUTURE);
            let fan_out = [EndpointKey(endpoint)].into_iter().collect();
            Accepted { message: Arc::new(message), fan_out, idempotency: None, event: None }
        });
        Batch { accepted: accepted.collect(), ..Batch::default() }
    }

    fn query(after: u64, limit: usize) -> LogQuery {
        let after = Sequence::from_u64(after);
        LogQuery { after, limit, bytes_max: usize::MAX, event_types: Vec::new(), channel: None }
    }

    fn read(watch: &Watch, after: u64, limit: usize) -> Option<(Vec<u64>, u64, bool)> {
        let page = watch.page(&query(after, limit))?;
        let messages = page.messages.iter().map(|m| m.sequence().as_u64()).collect();
        Some((messages, page.through.as_u64(), page.more))
    }

    #[tokio::test]
    async fn who_waits_at_the_end_reads_from_memory() {
        let wakes = Wakes::new(Sequence::from_u64(10));
        wakes.publish(&batch(&[11], 1, 1));
        let mut watch = wakes.watch(EndpointKey(1));
        assert_eq!(read(&watch, 10, 9), None, "what was before it came is in the store");
        assert_eq!(read(&watch, 11, 9), Some((vec![], 11, false)));
        wakes.publish(&batch(&[12, 13], 1, 1));
        wakes.publish(&batch(&[14], 2, 1));
        watch.news().await;
        assert_eq!(read(&watch, 11, 1), Some((vec![12], 12, true)));
        assert_eq!(read(&watch, 12, 9), Some((vec![13], 13, false)));
        wakes.publish(&batch(&[15], 1, 1));
        assert_eq!(read(&watch, 13, 9), Some((vec![15], 15, false)));
        drop(watch);
        assert_eq!((wakes.watched(), wakes.inner.watched.lock().endpoints.len()), (0, 0));
    }

    #[tokio::test]
    async fn what_a_reader_said_wakes_others_when_nobody_has_it_any_more_and_only_then() {
        let (wakes, endpoint) = (Wakes::new(Sequence::ZERO), EndpointKey(1));
        let mut watch = wakes.watch(endpoint);
        let settled = Settled {
            delivery: Delivery { endpoint, message: Sequence::from_u64(1) },
            number: 1,
            at: Timestamp::EPOCH,
            outcome: told(Timestamp::EPOCH, Ok(503), String::new()),
            after: AfterAttempt::Waiting { due: Timestamp::EPOCH },
        };
        wakes.publish(&Batch { changes: vec![Change::Settle(vec![settled])], ..Batch::default() });
        assert_eq!(watch.news().now_or_never(), None, "it is still out");
        wakes.rouse(endpoint);
        assert_eq!(watch.news().now_or_never(), Some(()));
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_bytes() {
        let wakes = Wakes::new(Sequence::ZERO);
        let watch = wakes.watch(EndpointKey(1));
        let other = wakes.watch(EndpointKey(1));
        let many: Vec<u64> = (1..=300).collect();
        wakes.publish(&batch(&many, 1, 10));
        assert_eq!(read(&watch, 43, 9), None);
        assert_eq!(read(&watch, 44, 2), Some((vec![45, 46], 46, true)));
        wakes.publish(&batch(&[301, 302, 303], 1, RECENT_BYTES_MAX / 2));
        assert_eq!(read(&watch, 300, 9), None);
        assert_eq!(read(&watch, 301, 9).map(|page| page.0), Some(vec![302, 303]));
        drop(watch);
        assert_eq!(wakes.watched(), 1, "somebody is still there");
        drop(other);
        assert_eq!(wakes.watched(), 0);
    }

    #[tokio::test]
    async fn nobody_waits_once_the_process_ends() {
        let wakes = Wakes::new(Sequence::ZERO);
        let mut watch = wakes.watch(EndpointKey(1));
        wakes.close();
        watch.news().await;
        assert!(watch.is_closing());
        watch.news().await;
    }
}
