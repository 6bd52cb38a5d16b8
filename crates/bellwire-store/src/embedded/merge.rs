//! What an index holds and what the tail holds, as one list; and pages of it.

use super::fault::Fault;
use crate::Page;
use bellwire_model::Sequence;
use rusqlite::Rows;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Index rows and the tail as one list, without doubles. A row may be indexed ahead of its time, so both lists are compared to the end.
pub(super) struct Merged<'s, T, R, K> {
    rows: Rows<'s>,
    row: Option<T>,
    rows_done: bool,
    /// Reversed: the next one stands last.
    tail: Vec<T>,
    ascending: bool,
    read: R,
    key: K,
}

impl<'s, T, R, K> Merged<'s, T, R, K>
where
    R: Fn(&rusqlite::Row<'_>) -> Result<T, Fault>,
    K: Fn(&T) -> Sequence,
{
    /// `tail` is in rising order, whatever the direction.
    pub(super) fn new(rows: Rows<'s>, mut tail: Vec<T>, ascending: bool, read: R, key: K) -> Self {
        if ascending {
            tail.reverse();
        }
        Merged { rows, row: None, rows_done: false, tail, ascending, read, key }
    }

    pub(super) fn next(&mut self) -> Result<Option<T>, Fault> {
        if self.row.is_none() && !self.rows_done {
            self.row = self.rows.next()?.map(&self.read).transpose()?;
            self.rows_done = self.row.is_none();
        }
        let (row, tail) = (self.row.as_ref().map(&self.key), self.tail.last().map(&self.key));
        let row_first = match (row, tail) {
            (Some(row), Some(tail)) if row == tail => {
                self.tail.pop();
                true
            }
            (Some(row), Some(tail)) => (row < tail) == self.ascending,
            (Some(_), None) => true,
            (None, _) => false,
        };
        Ok(if row_first { self.row.take() } else { self.tail.pop() })
    }
}

/// Collects a page and finds out whether there is more.
pub(super) struct PageOf<T> {
    items: Vec<T>,
    limit: usize,
    more: bool,
}

impl<T> PageOf<T> {
    pub(super) fn new(limit: usize) -> Self {
        PageOf { items: Vec::new(), limit, more: false }
    }

    pub(super) fn is_full(&self) -> bool {
        self.items.len() >= self.limit
    }

    /// Answers whether to go on.
    pub(super) fn take(&mut self, item: T) -> Result<bool, Fault> {
        if self.is_full() {
            return Ok(self.has_more());
        }
        self.items.push(item);
        Ok(true)
    }

    /// There is one more than fits. Answers that there is no need to go on.
    pub(super) fn has_more(&mut self) -> bool {
        self.more = true;
        false
    }

    pub(super) fn done(self) -> Page<T> {
        Page { items: self.items, done: !self.more }
    }
}

/// The first few of many sequences, in a direction.
pub(super) struct Firsts {
    rising: BinaryHeap<Sequence>,
    falling: BinaryHeap<Reverse<Sequence>>,
    count: usize,
    ascending: bool,
}

impl Firsts {
    pub(super) fn new(count: usize, ascending: bool) -> Self {
        Firsts { rising: BinaryHeap::new(), falling: BinaryHeap::new(), count, ascending }
    }

    pub(super) fn offer(&mut self, sequence: Sequence) {
        if self.ascending {
            self.rising.push(sequence);
            if self.rising.len() > self.count {
                self.rising.pop();
            }
        } else {
            self.falling.push(Reverse(sequence));
            if self.falling.len() > self.count {
                self.falling.pop();
            }
        }
    }

    pub(super) fn sorted(self) -> Vec<Sequence> {
        if self.ascending {
            self.rising.into_sorted_vec()
        } else {
            self.falling.into_sorted_vec().into_iter().map(|Reverse(sequence)| sequence).collect()
        }
    }
}
