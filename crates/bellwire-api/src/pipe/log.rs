//! Reading an endpoint's log: from memory where the reader is at its end, from the store otherwise; at once, or when there is something.

use super::shaped::{self, Allowance, Given, Made};
use super::wake::Watch;
use super::{Pipes, cursor, expiry};
use crate::Api;
use crate::error::Error;
use crate::page::first_after;
use crate::wire::Time;
use bellwire_model::{Endpoint, Sequence};
use bellwire_store::{LOG_MESSAGES_MAX, LogPage, LogQuery};
use http::StatusCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Of one page.
const BYTES_MAX: usize = 4 << 20;

/// Who reads, and what of it.
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) endpoint: Arc<Endpoint>,
    /// Its own allowance goes by this name.
    pub(super) reader: Arc<str>,
    pub(super) after: Sequence,
    pub(super) limit: usize,
    pub(super) event_types: Vec<String>,
    pub(super) channel: Option<String>,
}

/// What a reader gets.
pub(super) struct ReadPage {
    pub(super) given: Vec<Given>,
    /// The reader has seen all that is up to here.
    pub(super) through: Sequence,
    /// There is more behind it.
    pub(super) more: bool,
}

/// Where to begin without a cursor.
pub(super) enum From {
    /// With the oldest that is kept.
    Earliest,
    /// With what is accepted from now on.
    Now,
    /// With what was accepted after this time.
    After(Time),
}

impl From {
    /// `earliest`, `now`, or a time.
    pub(super) fn parse(text: &str) -> Result<From, Error> {
        match text {
            "earliest" => Ok(From::Earliest),
            "now" => Ok(From::Now),
            time => match time.parse() {
                Ok(time) => Ok(From::After(Time(time))),
                Err(_) => {
                    let msg = "`from` is `earliest`, `now`, or a time of RFC 3339 such as 2026-01-31T09:30:00Z";
                    Err(Error::invalid(&["query", "from"], msg))
                }
            },
        }
    }

    pub(super) fn place(&self, api: &Api) -> Sequence {
        match self {
            From::Earliest => Sequence::ZERO,
            // After everything that has a place already.
            From::Now => api.backend().sequence(),
            // Nobody is ahead of what has a place already.
            From::After(time) => {
                Sequence::from_u64(first_after(time.0).as_u64().saturating_sub(1)).min(api.backend().sequence())
            }
        }
    }
}

impl Reading {
    fn query(&self, limit: usize) -> LogQuery {
        LogQuery {
            after: self.after,
            limit: limit.min(LOG_MESSAGES_MAX),
            bytes_max: BYTES_MAX,
            event_types: self.event_types.clone(),
            channel: self.channel.clone(),
        }
    }

    /// The next page, as it is now.
    async fn page(&self, api: &Api, watch: Option<&Watch>, limit: usize) -> Result<LogPage, Error> {
        let query = self.query(limit);
        if let Some(page) = watch.and_then(|watch| watch.page(&query)) {
            return Ok(page);
        }
        let key = self.endpoint.key;
        api.read(move |store| store.log(key, &query)).await
    }

    /// The next page, as its reader gets it now.
    async fn read(&self, api: &Api, watch: Option<&Watch>, limit: usize) -> Result<ReadPage, Error> {
        let page = self.page(api, watch, limit).await?;
        self.check(&page)?;
        Ok(self.shaped(api, page).await)
    }

    /// What the endpoint's shape makes of a page. It ends earlier where scripts take their time.
    async fn shaped(&self, api: &Api, page: LogPage) -> ReadPage {
        let LogPage { messages, through, more, .. } = page;
        if !shaped::is_shaping(&self.endpoint) {
            return ReadPage { given: messages.into_iter().map(Given::accepted).collect(), through, more };
        }
        let mut read = ReadPage { given: Vec::new(), through, more };
        let (now, mut allowance) = (api.backend().now(), Allowance::new());
        let mut last = self.after;
        for message in messages {
            if last != self.after && allowance.is_spent() {
                (read.through, read.more) = (last, true);
                break;
            }
            last = message.sequence();
            match shaped::make(api, &self.endpoint, message, now, &mut allowance).await {
                Made::Given(given) => read.given.push(given),
                Made::Cancelled(_) => {}
                Made::Failed(message, _, text) => read.given.push(Given::failed(message, text)),
            }
        }
        read
    }

    /// The next page: as soon as it has a message, or as it is at `deadline`. Never more than the reader's rate allows.
    ///
    /// # Errors
    /// 410 if messages after the reader's place may be gone.
    pub(super) async fn next(
        &mut self,
        api: &Api,
        mut watch: Option<&mut Watch>,
        deadline: Instant,
    ) -> Result<ReadPage, Error> {
        loop {
            if let Some(watch) = &mut watch {
                watch.seen();
            }
            // As it is now: a reader may stay for long.
            let endpoint = api.backend().catalogue().read().endpoint(self.endpoint.key).cloned();
            self.endpoint = endpoint.ok_or_else(Error::not_found)?;
            expiry::noticed(api, &self.endpoint);
            let pipes: &Pipes = api.backend().pipes();
            let (reader, rate) = ((self.endpoint.key, &self.reader), self.endpoint.limits.throttle_rate);
            let taken = match pipes.rates.take(reader, rate, self.limit, api.backend().now()) {
                Ok(taken) => taken,
                Err(wait) => {
                    if Instant::now() + wait > deadline {
                        return Ok(self.nothing());
                    }
                    tokio::time::sleep(wait).await;
                    continue;
                }
            };
            // On the heap for as long as it takes: a reader who waits should be small.
            let page = Box::pin(self.read(api, watch.as_deref(), taken)).await;
            let used = page.as_ref().map_or(0, |page| page.given.len());
            pipes.rates.put_back(reader, rate, taken - used.min(taken));
            let page = page?;
            if !page.given.is_empty() || self.limit == 0 {
                self.after = page.through;
                return Ok(page);
            }
            self.after = page.through;
            if page.more {
                // All of it was left out, by the filter or by the endpoint's script: what was looked through is over, and the next part begins.
                if Instant::now() >= deadline {
                    return Ok(page);
                }
                continue;
            }
            let Some(watch) = &mut watch else { return Ok(page) };
            if watch.is_closing() || timeout_at(deadline, watch.news()).await.is_err() {
                return Ok(page);
            }
        }
    }

    /// What a reader gets that may have nothing yet.
    fn nothing(&self) -> ReadPage {
        ReadPage { given: Vec::new(), through: self.after, more: true }
    }

    fn check(&self, page: &LogPage) -> Result<(), Error> {
        if self.after == Sequence::ZERO || self.after.next() >= page.floor {
            return Ok(());
        }
        let oldest = Sequence::from_u64(page.floor.as_u64().saturating_sub(1));
        let oldest = cursor::write(self.endpoint.key, oldest);
        let detail = format!(
            "What followed this cursor is no longer kept. The oldest cursor is {oldest}; `from=earliest` begins there too."
        );
        Err(Error::refused(StatusCode::GONE, "cursor_expired", detail))
    }
}

/// At most this far from now.
pub(super) fn in_time(wait: Duration) -> Instant {
    Instant::now() + wait
}
