//! What came of each partition: its batches, and their records, in their order. A partition of which something cannot be read is put aside.

use super::feed::{Partitions, Ready, What};
use super::leader::{EARLIEST, Leading, Part};
use super::records::{Batch, Committed, Found, batches};
use super::wire::{Odd, code, told};
use bytes::Bytes;
use tokio::time::Instant;

impl Partitions {
    /// The batches of an answer of this leader. One that was asked by itself, and answers as it should, is from then on asked together with
    /// what else is read there.
    pub(super) fn take_in(&mut self, mut leading: Leading, parts: Vec<Part>) {
        let (topic, now) = (self.way.topic.clone(), Instant::now());
        for Part { place, number, aborted, records } in parts {
            let Some(next) = self.position.next(place).filter(|_| leading.reads(place)) else { continue };
            let failed = match number {
                0 => self.keep(place, next, aborted, records).err(),
                code::OFFSET_OUT_OF_RANGE => {
                    leading.partitions.retain(|led| led.place != place);
                    self.begin([place], EARLIEST, true);
                    None
                }
                number => Some(format!("{topic}/{place} cannot be read: {}", told(number))),
            };
            if let Some(why) = failed {
                leading.partitions.retain(|led| led.place != place);
                self.aside.put(&[place], &why, code::is_of_leader(number), now);
            }
        }
        match self.leading.iter_mut().find(|other| other.id == leading.id) {
            Some(other) => other.partitions.append(&mut leading.partitions),
            None => self.leading.push(leading),
        }
    }

    /// What came of a partition.
    fn keep(&mut self, place: usize, next: i64, aborted: Vec<(i64, i64)>, records: Bytes) -> Result<(), String> {
        let (mut committed, has_some, mut seen) = (Committed::new(aborted), !records.is_empty(), next);
        let (batches, fault) = batches(records);
        for batch in batches {
            let takes = committed.takes(&batch);
            // The first may begin before what was asked for.
            if batch.end > seen {
                seen = batch.end;
                self.fetched.push_back((place, if takes { batch } else { batch.without_records() }));
            }
        }
        match fault {
            _ if seen > next => Ok(()),
            Some(error) => Err(unreadable(&self.way.topic, place, next, &error)),
            // A broker gives the first batch whole, whatever its size. Asked again it would say the same.
            None if has_some => {
                let odd = Odd("no batch of what came is whole and behind what was read");
                Err(unreadable(&self.way.topic, place, next, &odd))
            }
            None => {
                self.aside.is_mended(place);
                Ok(())
            }
        }
    }

    /// Unpacks a batch.
    pub(super) async fn unpack(&mut self, place: usize, batch: Batch) {
        let (end, epoch) = (batch.end, Some(batch.leader_epoch));
        let from = self.position.next(place).unwrap_or_default();
        let records = match batch.is_compressed() {
            // It takes a while, and nobody else on this thread shall wait for it.
            true => match tokio::task::spawn_blocking(move || batch.records()).await {
                Ok(records) => records.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
            false => batch.records().map_err(|error| error.to_string()),
        };
        let records = match records {
            Ok(records) => records,
            Err(error) => return self.put_aside(place, from, &error),
        };
        self.aside.is_mended(place);
        let mut all: Vec<Found> = records.into_iter().filter(|found| found.offset >= from).collect();
        // Cleaning may leave nothing of a batch, and it does not leave its end.
        let Some(last) = all.pop() else {
            self.position.go_on(place, end.max(from), epoch);
            return;
        };
        let ready = |(found, after)| Ready { place, after, epoch, what: What::Record(found) };
        let before = all.into_iter().map(|found| (found.offset + 1, found)).map(|(after, found)| (found, after));
        self.ready.extend(before.chain([(last, end)]).map(ready));
    }

    /// What is at `from` cannot be read; nor is anything behind it, for now.
    pub(super) fn put_aside(&mut self, place: usize, from: i64, error: &dyn std::fmt::Display) {
        let why = unreadable(&self.way.topic, place, from, error);
        self.leading.iter_mut().for_each(|leading| leading.partitions.retain(|led| led.place != place));
        self.fetched.retain(|(other, _)| *other != place);
        self.ready.retain(|ready| ready.place != place);
        self.aside.put(&[place], &why, false, Instant::now());
    }
}

fn unreadable(topic: &str, place: usize, from: i64, error: &dyn std::fmt::Display) -> String {
    format!("a batch of {topic}/{place}, at {from} or behind it, cannot be read: {error}")
}
