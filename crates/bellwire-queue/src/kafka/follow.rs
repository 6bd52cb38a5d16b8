//! Who leads the partitions that are read, and where to go on there: all of it beside the reading, so that it holds up nothing.
//!
//! What has another leader, or is led anew, begins there with what is sure: what was taken of it from the one before may have been lost.

use super::feed::{Partitions, Ready, What};
use super::layout::{Layout, reach_any};
use super::leader::{Beginning, Begun, EARLIEST, Leading, Led, Standing, Way, begin};
use super::link::Link;
use crate::consume::{FeedError, Start};
use crate::publish::PublishError;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// A source reads so many partitions.
const PARTITIONS_MAX: usize = 1_024;

/// Who leads, and over which connection that was said.
pub(super) type Looked = Result<(Link, Option<Layout>), PublishError>;

impl Partitions {
    /// Begins to find out where to go on in these. `is_out`: a broker has said that there is nothing.
    pub(super) fn begin(&mut self, places: impl IntoIterator<Item = usize>, from: i64, is_out: bool) {
        let mut of: BTreeMap<i32, Vec<Standing>> = BTreeMap::new();
        for place in places {
            let leader = self.layout.leaders.get(place).copied().flatten();
            let Some(leader) = leader else {
                let why = format!("{}/{place} has no leader", self.way.topic);
                self.aside.put(&[place], &why, false, Instant::now());
                continue;
            };
            let led = Led { place, epoch: self.layout.epoch(place) };
            let (next, epoch) = (self.position.next(place), self.position.epoch(place));
            of.entry(leader).or_default().push(Standing { led, next, epoch, is_out });
        }
        for (id, standings) in of {
            let places = standings.iter().map(|standing| standing.led.place);
            let Some(broker) = self.layout.brokers.get(&id) else {
                let why = format!("nobody says where broker {id} is");
                self.aside.put(&places.collect::<Vec<_>>(), &why, false, Instant::now());
                continue;
            };
            for place in places {
                self.aside.tries(place);
                self.begun.insert(place);
            }
            let beginning = begin(Arc::clone(&self.way), (id, broker.clone()), standings, from);
            self.beginning.push(Box::pin(beginning));
        }
    }

    /// Reads from now on what can be.
    pub(super) fn take_up(&mut self, Begun { id, partitions, outcome }: Begun) {
        let now = Instant::now();
        let places: Vec<usize> = partitions.iter().map(|led| led.place).collect();
        self.begun.retain(|place| !places.contains(place));
        let (link, beginnings) = match outcome {
            Ok(begun) => begun,
            Err(why) => return self.aside.put(&places, &why, false, now),
        };
        let mut leading = Leading { link, id, partitions, is_asked: false };
        for (place, beginning) in beginnings {
            match beginning {
                Ok(Beginning::At(next)) => self.position.go_on(place, next, self.position.epoch(place)),
                Ok(Beginning::Gone { after, epoch, why }) => {
                    let next = self.position.next(place).unwrap_or_default();
                    self.ready.push_back(Ready { place, after, epoch, what: What::Gone(next, why) });
                }
                Err(why) => {
                    leading.partitions.retain(|led| led.place != place);
                    self.aside.put(&[place], &why, false, now);
                }
            }
        }
        self.leading.push(leading);
    }

    /// Follows who leads now: what has another leader, is new, or is to be tried again begins there.
    pub(super) async fn follow(&mut self, looked: Looked) -> Result<(), FeedError> {
        let now = Instant::now();
        (self.looking, self.looked) = (None, now);
        let layout = match looked {
            Ok((asking, layout)) => {
                self.asking = Some(asking);
                layout.ok_or_else(|| FeedError(format!("there is no topic {} any more", self.way.topic)))?
            }
            Err(error) => {
                self.aside.blinded(&format!("nobody says who leads {}: {error}", self.way.topic), now);
                return Ok(());
            }
        };
        self.aside.sees();
        if self.position.is_of_other(&layout) {
            // Of one that was made anew, everything is new.
            let position = Some(self.position.clone());
            *self = Self::open_at(Arc::clone(&self.way), Start::Oldest, position).await?;
            return Ok(());
        }
        let count = bounded(&self.way.topic, &layout)?;
        self.layout = layout.after(&self.layout);
        self.position = self.position.clone().grown(&self.layout);
        for leading in &mut self.leading {
            let (id, layout) = (leading.id, &self.layout);
            leading.partitions.retain(|led| {
                // Who has just begun may not know of all.
                led.place >= count || (layout.leaders[led.place] == Some(id) && layout.epoch(led.place) == led.epoch)
            });
        }
        let idle = |place: &usize| {
            let is_read = self.leading.iter().any(|leading| leading.reads(*place));
            !is_read && !self.begun.contains(place) && !self.aside.waits(*place, now)
        };
        let idle: Vec<usize> = (0..self.position.next.len()).filter(idle).collect();
        self.begin(idle, EARLIEST, false);
        Ok(())
    }
}

/// How many partitions there are, if not too many.
pub(super) fn bounded(topic: &str, layout: &Layout) -> Result<usize, FeedError> {
    match layout.leaders.len() {
        count if count > PARTITIONS_MAX => {
            Err(FeedError(format!("{topic} has {count} partitions, and at most {PARTITIONS_MAX} are read")))
        }
        0 => Err(FeedError(format!("{topic} has no partitions"))),
        count => Ok(count),
    }
}

/// Asks who leads, over this connection or, if that is of no use any more, another one.
pub(super) async fn look(way: Arc<Way>, asking: Option<Link>) -> Looked {
    let looking = async {
        // Brokers end connections on which nothing was said for long.
        if let Some(mut link) = asking
            && let Ok(layout) = Layout::ask(&mut link, &way.topic, true).await
        {
            return Ok((link, layout));
        }
        let mut link = reach_any(&way.client, &way.server, way.limit).await?;
        let layout = Layout::ask(&mut link, &way.topic, true).await?;
        Ok((link, layout))
    };
    let late = |_| Err(PublishError::Timeout(way.limit));
    tokio::time::timeout(way.limit, looking).await.unwrap_or_else(late)
}
