//! Who leads is asked for what comes next, and whatever comes first is taken in: an answer, or what was found out beside the reading.

use super::feed::Partitions;
use super::follow::{Looked, look};
use super::leader::{Begun, Leading, fetched};
use super::wire::{Reader, told};
use crate::consume::FeedError;
use crate::publish::PublishError;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// After this it is asked again who leads, and whether there are more partitions.
const LOOK_AFTER: Duration = Duration::from_secs(30);

/// What is waited for.
enum Event {
    Looked(Looked),
    Begun(Begun),
    Answered(usize, Result<Reader, PublishError>),
}

impl Partitions {
    /// Asks everybody who is not being asked, and takes in what comes first, until `deadline`.
    pub(super) async fn fetch(&mut self, wait: Duration, deadline: Instant) -> Result<(), FeedError> {
        self.ask(wait).await;
        let overdue = self.overdue(wait + self.way.limit);
        let next_look = (self.looked + LOOK_AFTER).min(self.aside.next().unwrap_or(deadline));
        if self.looking.is_none() && next_look <= Instant::now() {
            self.looking = Some(Box::pin(look(Arc::clone(&self.way), self.asking.take())));
        }
        if self.leading.is_empty() && self.beginning.is_empty() {
            return Err(FeedError(self.aside.text()));
        }
        let until = if self.looking.is_some() { deadline } else { next_look.min(deadline) };
        let event = match overdue {
            Some(event) => Some(event),
            None => self.wait(until).await,
        };
        match event {
            None => {}
            Some(Event::Begun(begun)) => self.take_up(begun),
            Some(Event::Looked(looked)) => self.follow(looked).await?,
            Some(Event::Answered(from, answer)) => {
                let mut leading = self.leading.swap_remove(from);
                leading.is_asked = false;
                let parts = answer.and_then(|mut answer| fetched(&mut answer).map_err(|odd| leading.link.odd(odd)));
                match parts {
                    Ok((0, parts)) => self.take_in(leading, parts),
                    Ok((number, _)) => {
                        let why = format!("{} cannot be read: {}", self.way.topic, told(number));
                        self.aside.put(&leading.places(), &why, false, Instant::now());
                    }
                    Err(error) => self.aside.put(&leading.places(), &error.to_string(), false, Instant::now()),
                }
            }
        }
        Ok(())
    }

    /// What comes first.
    async fn wait(&mut self, until: Instant) -> Option<Event> {
        let answer = async |(from, leading): (usize, &mut Leading)| Event::Answered(from, leading.link.answer().await);
        let mut answers: FuturesUnordered<_> = self.leading.iter_mut().enumerate().map(answer).collect();
        let looking = async {
            match &mut self.looking {
                Some(looking) => looking.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // What is rare comes first: answers may come without end.
            biased;
            Some(begun) = self.beginning.next() => Some(Event::Begun(begun)),
            looked = looking => Some(Event::Looked(looked)),
            Some(event) = answers.next() => Some(event),
            () = tokio::time::sleep_until(until) => None,
        }
    }

    /// Asks everybody who is not being asked.
    async fn ask(&mut self, wait: Duration) {
        let (position, now) = (&self.position, Instant::now());
        let mut still = Vec::with_capacity(self.leading.len());
        for mut leading in self.leading.drain(..).filter(|leading| !leading.partitions.is_empty()) {
            let asked = match leading.is_asked {
                false => leading.ask(&self.way.topic, |place| position.next(place), wait).await,
                true => Ok(()),
            };
            match asked {
                Ok(()) => still.push(leading),
                Err(error) => self.aside.put(&leading.places(), &error.to_string(), false, now),
            }
        }
        self.leading = still;
    }

    /// Gives up who does not answer. What came while nobody looked, because there was no room for more, is an answer, or a part of one.
    fn overdue(&mut self, patience: Duration) -> Option<Event> {
        let is_late = |leading: &Leading| leading.link.silent_for().is_some_and(|silent| silent > patience);
        while let Some(from) = self.leading.iter().position(is_late) {
            if let Some(answer) = self.leading[from].link.answer().now_or_never() {
                return Some(Event::Answered(from, answer));
            }
            if !is_late(&self.leading[from]) {
                continue;
            }
            let silent = self.leading.swap_remove(from);
            let why = format!("{} does not answer within {patience:?}", silent.link.name());
            self.aside.put(&silent.places(), &why, false, Instant::now());
        }
        None
    }
}

#[cfg(test)]
#[path = "../../tests/it/broker.rs"]
#[allow(clippy::unwrap_used, dead_code, reason = "shared with the tests of the whole")]
mod broker;

#[cfg(test)]
mod tests {
    use super::super::leader::Way;
    use super::super::records::{Record, batch};
    use super::*;
    use crate::consume::{Feed as _, Start, Subscription};
    use crate::server::{Broker, Credentials, Server};
    use bellwire_egress::{Egress, Guard, Settings};
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn an_answer_that_came_while_nobody_looked_is_one() {
        let (go_on, may_go_on) = channel::<()>();
        let may_go_on = parking_lot::Mutex::new(may_go_on);
        let record = Record { key: None, headers: Vec::new(), value: "{}".into(), at: 1 };
        let records = batch(&[&record]);
        let broker = broker::Broker::start(move |api, port| match api {
            broker::METADATA => broker::metadata(1, port),
            broker::LIST_OFFSETS => broker::begins(),
            broker::FETCH => may_go_on.lock().recv().ok().and_then(|()| broker::fetched(&records)),
            _ => None,
        });
        let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().expect("a network")], ..Guard::default() };
        let egress = Egress::new(Settings { guard, ..Settings::default() }).expect("settings");
        let url = format!("kafka://127.0.0.1:{}", broker.port);
        let server = Server::parse(Broker::Kafka, &url, Credentials::default()).expect("a server");
        let (stream, group, start) = ("events".to_owned(), String::new(), Start::Oldest);
        let subscription = Subscription { stream, group, filter: None, start, payload_field: String::new() };
        let client = egress.client().expect("a client");
        let patient = Duration::from_secs(20);
        let mut feed = Partitions::open(&client, &server, &subscription, None, patient).await.expect("opens");
        assert!(feed.take(1, patient).await.expect("tells its position").is_empty());
        while !feed.leading.iter().any(|leading| leading.is_asked) {
            assert!(feed.take(1, Duration::from_millis(1)).await.expect("waits").is_empty());
        }
        // As if there were no room for longer than a broker has for its answer; it came long ago.
        go_on.send(()).expect("it is asked");
        feed.way = Arc::new(Way { client, server, topic: "events".to_owned(), limit: Duration::ZERO });
        tokio::time::sleep(Duration::from_millis(300)).await;
        let taken = feed.take(1, Duration::from_millis(1)).await.expect("is an answer");
        assert_eq!((taken.len(), feed.aside.text()), (1, String::new()));
    }
}
