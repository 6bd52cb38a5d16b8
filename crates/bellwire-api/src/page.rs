//! Lists: limit, iterators both ways, order, and windows of time.
//!
//! An iterator is the id of the last item of a page; with a `-` before it, the id of the first, and it leads back. A page
//! always comes in the list's own order, whichever way it was reached.

use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::Error;
use crate::wire::Time;
use bellwire_model::{AttemptId, MessageId, Sequence, Timestamp};
use bellwire_store::{Page, Span};
use serde::{Deserialize, Serialize};
use std::fmt::Display;
use std::ops::Bound;
use std::str::FromStr;
use std::time::Duration;

const LIMIT_DEFAULT: u64 = 50;
const LIMIT_MAX: u64 = 250;
/// Lists of messages and attempts go back this far.
const WINDOW: Duration = Duration::from_secs(90 * 24 * 3600);
/// And this far ahead, since clocks differ.
const AHEAD: Duration = Duration::from_secs(3600);

/// Which page.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Paging {
    /// Limit the number of returned items
    pub(crate) limit: Option<u64>,
    /// The iterator returned from a prior invocation
    pub(crate) iterator: Option<String>,
}

/// In which order.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Ordered {
    /// The sorting order of the returned items
    order: Option<Ordering>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ordering {
    Ascending,
    Descending,
}

/// Of which time.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Window {
    /// Only include items created before a certain date
    pub(crate) before: Option<Time>,
    /// Only include items created after a certain date
    pub(crate) after: Option<Time>,
}

/// A page as it is answered.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ListResponse_{T}_", transform = iterator_is_there)]
pub(crate) struct ListOut<T> {
    data: Vec<T>,
    /// Of the next page; present even if there is none.
    iterator: Option<String>,
    /// Of the page before.
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_iterator: Option<String>,
    /// Whether there is no next page.
    done: bool,
}

/// It may be null, but it is always there.
#[cfg(feature = "document")]
fn iterator_is_there(schema: &mut crate::document::Schema) {
    if let Some(required) = schema.ensure_object().get_mut("required").and_then(|r| r.as_array_mut()) {
        required.push("iterator".into());
    }
}

impl<T> ListOut<T> {
    /// A page of items, each with its id.
    pub(crate) fn new(items: Vec<T>, done: bool, id: impl Fn(&T) -> String) -> Self {
        let prev_iterator = items.first().map(|first| format!("-{}", id(first)));
        let iterator = items.last().map(id);
        ListOut { data: items, iterator, prev_iterator, done }
    }
}

/// A page that was asked for, checked.
pub(crate) struct Wanted<K> {
    pub(crate) limit: usize,
    pub(crate) from: From<K>,
}

/// Where a page begins.
pub(crate) enum From<K> {
    /// At the list's start.
    Start,
    /// After this item.
    After(K),
    /// It ends before this item.
    Before(K),
}

impl Paging {
    /// Checks the limit, and the iterator by `parse`; `place` is where they were given, `query` or `body`.
    pub(crate) fn wanted_in<K>(
        self,
        place: &str,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<K>,
    ) -> Result<Wanted<K>, Error> {
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        if limit > LIMIT_MAX {
            return Err(Error::invalid(&[place, "limit"], "Given limit must not exceed 250"));
        }
        let parse = |text: &str| {
            parse(text).ok_or_else(|| {
                let msg = format!("Invalid iterator: expected {expected}, as an earlier page gave it");
                Error::invalid(&[place, "iterator"], msg)
            })
        };
        let from = match self.iterator.as_deref() {
            None => From::Start,
            Some(text) => match text.strip_prefix('-') {
                Some(text) => From::Before(parse(text)?),
                None => From::After(parse(text)?),
            },
        };
        Ok(Wanted { limit: limit as usize, from })
    }

    /// As [`Paging::wanted_in`], of a query.
    pub(crate) fn wanted<K>(
        self,
        expected: &'static str,
        parse: impl Fn(&str) -> Option<K>,
    ) -> Result<Wanted<K>, Error> {
        self.wanted_in("query", expected, parse)
    }

    /// As [`Paging::wanted`], for ids.
    pub(crate) fn wanted_by_id<K: FromStr>(self, expected: &'static str) -> Result<Wanted<K>, Error> {
        self.wanted(expected, |text| text.parse().ok())
    }
}

impl Ordered {
    pub(crate) fn or(self, default: Ordering) -> Ordering {
        self.order.unwrap_or(default)
    }
}

impl<K: Ord + Copy> Wanted<K> {
    /// Where in the list the page can be at all.
    pub(crate) fn bounds(&self, order: Ordering) -> (Bound<K>, Bound<K>) {
        let (at, back) = match self.from {
            From::Start => return (Bound::Unbounded, Bound::Unbounded),
            From::After(at) => (at, false),
            From::Before(at) => (at, true),
        };
        if (order == Ordering::Ascending) != back {
            (Bound::Excluded(at), Bound::Unbounded)
        } else {
            (Bound::Unbounded, Bound::Excluded(at))
        }
    }

    /// The page of a list that is in memory, given by rising key.
    pub(crate) fn cut<T>(
        &self,
        rising: impl DoubleEndedIterator<Item = T>,
        key: impl Fn(&T) -> K,
        order: Ordering,
    ) -> Page<T> {
        cut(rising, self.limit, &self.from, order, |item, at| key(item).cmp(at))
    }
}

/// As [`Wanted::cut`], with the comparison given.
pub(crate) fn cut<T, K>(
    rising: impl DoubleEndedIterator<Item = T>,
    limit: usize,
    from: &From<K>,
    order: Ordering,
    compare: impl Fn(&T, &K) -> std::cmp::Ordering,
) -> Page<T> {
    if limit == 0 {
        return Page { items: Vec::new(), done: false };
    }
    let back = matches!(from, From::Before(_));
    let upwards = (order == Ordering::Ascending) != back;
    let beyond = |item: &T| match from {
        From::Start => true,
        From::After(at) | From::Before(at) => compare(item, at).is_gt() == upwards && compare(item, at).is_ne(),
    };
    let mut items: Vec<T> = if upwards {
        rising.filter(beyond).take(limit + 1).collect()
    } else {
        rising.rev().filter(beyond).take(limit + 1).collect()
    };
    let done = items.len() <= limit;
    items.truncate(limit);
    if back {
        items.reverse();
    }
    Page { items, done }
}

/// An id that leads to its place in a log.
pub(crate) trait Place: FromStr + Display + Copy {
    /// What it looks like.
    const EXPECTED: &'static str;

    fn place(&self) -> Sequence;
}

impl Place for MessageId {
    const EXPECTED: &'static str = "a message id (msg_…)";

    fn place(&self) -> Sequence {
        self.sequence()
    }
}

impl Place for AttemptId {
    const EXPECTED: &'static str = "an attempt id (atmpt_…)";

    fn place(&self) -> Sequence {
        self.sequence()
    }
}

/// A page of a log: what to ask the store for, and whether to turn the answer round.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slice {
    pub(crate) span: Span,
    pub(crate) ascending: bool,
    pub(crate) limit: usize,
    /// Nothing can be in it.
    pub(crate) empty: bool,
}

/// The first sequence that is later than `time`.
pub(crate) fn first_after(time: Timestamp) -> Sequence {
    Sequence::first_at(time.plus(Duration::from_millis(1)))
}

impl Slice {
    /// From the query of `call`; the list's own order is newest first.
    pub(crate) fn of<I: Place>(call: &Call) -> Result<Self, Error> {
        Self::new::<I>("query", call.query()?, &call.query()?, call.api.backend().now())
    }

    /// The same, given in `place`.
    pub(crate) fn new<I: Place>(place: &str, paging: Paging, window: &Window, now: Timestamp) -> Result<Self, Error> {
        let wanted: Wanted<I> = paging.wanted_in(place, I::EXPECTED, |text| text.parse().ok())?;
        Ok(Self::between(&wanted, window, now))
    }

    fn between<I: Place>(wanted: &Wanted<I>, window: &Window, now: Timestamp) -> Self {
        let mut first = Sequence::first_at(now.minus(WINDOW));
        let mut end = Sequence::first_at(now.plus(AHEAD)); // exclusive
        if let Some(after) = window.after {
            first = first.max(first_after(after.0));
        }
        if let Some(before) = window.before {
            end = end.min(Sequence::first_at(before.0));
        }
        let ascending = match &wanted.from {
            From::After(id) => {
                end = end.min(id.place());
                false
            }
            From::Before(id) => {
                first = first.max(id.place().next());
                true
            }
            // The window nearest to `after`.
            From::Start => window.after.is_some() && window.before.is_none(),
        };
        let last = Sequence::from_u64(end.as_u64().saturating_sub(1));
        let empty = wanted.limit == 0 || end <= first;
        Slice { span: Span { first, last }, ascending, limit: wanted.limit, empty }
    }

    /// What the store answered, newest first.
    pub(crate) fn newest_first<T>(&self, mut page: Page<T>) -> Page<T> {
        if self.ascending {
            page.items.reverse();
        }
        page
    }

    /// What to answer without asking the store.
    pub(crate) fn nothing<T>(&self) -> Page<T> {
        Page { items: Vec::new(), done: self.limit > 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(limit: usize, from: From<u32>, order: Ordering) -> (Vec<u32>, bool) {
        let page = Wanted { limit, from }.cut(1..=5u32, |n| *n, order);
        (page.items, page.done)
    }

    #[test]
    fn pages_come_in_the_lists_order_both_ways() {
        use Ordering::{Ascending, Descending};
        assert_eq!(page(2, From::Start, Ascending), (vec![1, 2], false));
        assert_eq!(page(2, From::After(2), Ascending), (vec![3, 4], false));
        assert_eq!(page(2, From::After(4), Ascending), (vec![5], true));
        assert_eq!(page(2, From::Before(5), Ascending), (vec![3, 4], false));
        assert_eq!(page(2, From::Before(3), Ascending), (vec![1, 2], true));
        assert_eq!(page(2, From::Start, Descending), (vec![5, 4], false));
        assert_eq!(page(2, From::After(4), Descending), (vec![3, 2], false));
        assert_eq!(page(2, From::Before(2), Descending), (vec![4, 3], false));
        assert_eq!(page(5, From::Start, Descending), (vec![5, 4, 3, 2, 1], true));
        assert_eq!(page(0, From::Start, Ascending), (vec![], false));
        assert_eq!(page(3, From::Before(1), Ascending), (vec![], true));
    }
}
