//! A subscription at a WebSub hub that has ended with us while its lease goes on: its source is gone, or wants another. W3C WebSub §5.
//!
//! The hub must be told (`hub.mode=unsubscribe`), and asks back at the old callback whether that was meant, when no source answers
//! there any more. So what is needed for both is kept by itself, in the very commit of the change that ended it, until the hub knows or
//! would have stopped anyway. What to do next is decided here ([`EndedSubscription::next`]); who does it is the server.

use crate::application::{ApplicationKey, OrganisationId};
use crate::clock::Timestamp;
use crate::id::SourceId;
use std::time::Duration;

/// The short key of an ended subscription. Given out with those of applications and endpoints, and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SubscriptionKey(pub u32);

/// See the module. Its times are the wall clock's, as the lease is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EndedSubscription {
    /// Its key in tables and memory.
    pub key: SubscriptionKey,
    /// Whose it was; for the log, the source may be gone.
    pub source: SourceId,
    /// Whose source that was; it may be gone, too.
    pub organisation: OrganisationId,
    /// The application of the source, by which a shard is found that looks after it.
    pub application: ApplicationKey,
    /// The paths at which requests to the callback arrive here: with the source's token, and its own. At least one.
    pub paths: Vec<String>,
    /// What was subscribed, as the hub was told.
    pub subscription: Subscription,
    /// When it ended.
    pub ended_at: Timestamp,
    /// When the hub stops by itself, or we stop to tell it. Nothing is known of it from then on.
    pub until: Timestamp,
    /// Whether the hub knows.
    pub state: Ending,
}

/// What makes a subscription this one: a hub has one for each topic and callback.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Subscription {
    /// The hub's URL.
    pub hub: String,
    /// The topic's URL.
    pub topic: String,
    /// Where the hub posts to.
    pub callback: String,
}

/// Whether the hub knows that a subscription has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    /// It has not asked back. So it begins; the hub's question ends it. After a restart it goes on from here.
    Untold {
        /// How often the hub was told so far.
        tries: u32,
        /// When it is told next.
        due: Timestamp,
    },
    /// The hub has asked back, and was answered. It may ask again for a while, if the answer was lost.
    Confirmed {
        /// When it asked first.
        at: Timestamp,
    },
}

/// What is to be done about an ended subscription.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnsubscribeStep {
    /// Nothing before this time.
    Wait(Timestamp),
    /// The hub is to be told, once this is durable: as it stands then.
    Tell(EndedSubscription),
    /// It is to be forgotten.
    Forget,
}

impl EndedSubscription {
    /// A hub is told for so long at the most.
    pub const TOLD_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
    /// A hub that asks nothing is told again after this, and twice as long each time, up to [`EndedSubscription::AGAIN_MAX`].
    pub const AGAIN: Duration = Duration::from_secs(60);
    /// See [`EndedSubscription::AGAIN`].
    pub const AGAIN_MAX: Duration = Duration::from_secs(6 * 3600);
    /// For so long after it has asked, a hub may ask again.
    pub const ASKED_AGAIN: Duration = Duration::from_secs(600);

    /// When a subscription that ends at `ended_at` can be forgotten at the latest, if the hub has agreed to send until `lease_ends`.
    pub fn until(ended_at: Timestamp, lease_ends: Timestamp) -> Timestamp {
        lease_ends.min(ended_at.plus(Self::TOLD_FOR))
    }

    /// What is to be done at `now`.
    pub fn next(&self, now: Timestamp) -> UnsubscribeStep {
        if now >= self.until {
            return UnsubscribeStep::Forget;
        }
        match self.state {
            Ending::Untold { due, .. } if due > now => UnsubscribeStep::Wait(due.min(self.until)),
            Ending::Untold { tries, .. } => {
                let tries = tries.saturating_add(1);
                let wait = (Self::AGAIN * (1 << (tries - 1).min(16))).min(Self::AGAIN_MAX);
                UnsubscribeStep::Tell(EndedSubscription {
                    state: Ending::Untold { tries, due: now.plus(wait) },
                    ..self.clone()
                })
            }
            Ending::Confirmed { at } => {
                let end = at.plus(Self::ASKED_AGAIN).min(self.until);
                if end > now { UnsubscribeStep::Wait(end) } else { UnsubscribeStep::Forget }
            }
        }
    }

    /// As it is when the hub has asked back at `now`. What it was asked before counts from the first time.
    #[must_use]
    pub fn confirmed(&self, now: Timestamp) -> EndedSubscription {
        let at = match self.state {
            Ending::Confirmed { at } => at,
            Ending::Untold { .. } => now,
        };
        EndedSubscription { state: Ending::Confirmed { at }, ..self.clone() }
    }

    /// Whether the hub still sends, as far as we know, and may ask back at `now`.
    pub fn lives(&self, now: Timestamp) -> bool {
        self.next(now) != UnsubscribeStep::Forget
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Ksuid;

    fn ended(ended_at: i64, lease_ends: i64) -> EndedSubscription {
        let (ended_at, lease_ends) = (seconds(ended_at), seconds(lease_ends));
        EndedSubscription {
            key: SubscriptionKey(1),
            source: SourceId(Ksuid::from_bytes([1; 20])),
            organisation: OrganisationId::parse("org_x").expect("an organisation"),
            application: ApplicationKey(1),
            paths: vec!["/in/x".into()],
            subscription: Subscription {
                hub: "https://hub.example/".into(),
                topic: "https://a.example/feed".into(),
                callback: "https://hooks.example/in/x".into(),
            },
            ended_at,
            until: EndedSubscription::until(ended_at, lease_ends),
            state: Ending::Untold { tries: 0, due: ended_at },
        }
    }

    fn seconds(at: i64) -> Timestamp {
        Timestamp::from_seconds(at)
    }

    fn told(ended: &EndedSubscription, now: i64) -> EndedSubscription {
        match ended.next(seconds(now)) {
            UnsubscribeStep::Tell(told) => told,
            other => panic!("{other:?} at {now}"),
        }
    }

    #[test]
    fn a_hub_is_told_at_once_and_again_and_less_often_until_it_asks() {
        let first = told(&ended(1_000, 900_000), 1_000);
        assert_eq!(first.next(seconds(1_059)), UnsubscribeStep::Wait(seconds(1_060)));
        let second = told(&first, 1_060);
        assert_eq!(second.next(seconds(1_179)), UnsubscribeStep::Wait(seconds(1_180)));
        let often = EndedSubscription { state: Ending::Untold { tries: 60, due: seconds(0) }, ..second.clone() };
        assert_eq!(told(&often, 2_000).state, Ending::Untold { tries: 61, due: seconds(2_000 + 6 * 3600) });

        let asked = second.confirmed(seconds(1_100));
        assert_eq!(asked.next(seconds(1_101)), UnsubscribeStep::Wait(seconds(1_700)));
        assert_eq!(asked.confirmed(seconds(1_500)), asked, "the first time counts");
        assert!(asked.lives(seconds(1_699)) && !asked.lives(seconds(1_700)));
    }

    #[test]
    fn it_is_forgotten_when_the_lease_ends_or_after_a_week() {
        let short = ended(1_000, 1_030);
        let told = told(&short, 1_000);
        assert_eq!(told.next(seconds(1_001)), UnsubscribeStep::Wait(seconds(1_030)), "no later than the lease's end");
        assert_eq!(told.next(seconds(1_030)), UnsubscribeStep::Forget);
        assert_eq!(told.confirmed(seconds(1_029)).next(seconds(1_030)), UnsubscribeStep::Forget);
        let long = ended(1_000, 9_000_000);
        assert_eq!(long.until, seconds(1_000 + 7 * 86_400));
        assert!(!long.lives(long.until));
        // A clock that was set back does not make it tell more often.
        assert_eq!(told.next(seconds(5)), UnsubscribeStep::Wait(seconds(1_030)));
    }
}
