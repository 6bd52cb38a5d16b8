//! The delivery engine. Pure: nothing here awaits, reads a clock, draws from a global source of chance or holds a
//! socket. Time and randomness are arguments, effects are data. The same code runs in the server and in the simulator.
//!
//! It has two halves, because they live on different threads:
//!
//! * [`Intake`] is the one place where things become durable. Every door puts what it has in there under a short lock
//!   (messages, changes of configuration, what engines decided), the committing thread seals it into a batch, and the
//!   result of the commit goes back to everyone concerned. It gives out sequences and ids, and it knows the keys that make
//!   a message unique while they are on their way.
//! * [`Engine`] is one shard's state: a lane per endpoint, what is in flight, what comes next. `step(now, input, effects)` is
//!   all it does. It owns the partitions that fall to its shard.
//!
//! ```text
//! door ──offer──▶ Intake ──seal──▶ Store::commit ──▶ Intake::committed ──▶ Engine::step(Committed)
//!                   ▲                                                          │ Start
//!                   │ Record, Wait, PutHealth                                  ▼
//!                   └───────────────────── Engine::step(Ended) ◀── outcome ── exchange
//! ```

mod catalogue;
mod tokens;
mod sources;
mod subscriptions;
mod fan_out;
mod accept;
mod schedule;
mod deliver;
mod rest;
mod record;
mod disable;
mod notify;
mod cancel;
mod operational;
mod settle;
mod schedules;
mod leases;
mod lane;
mod held;
mod pace;
mod strain;
mod throttle;
mod planted;
mod engine;

pub use accept::{
    BatchNumber, CommittedShard, Draft, Earlier, Intake, IntakeSettings, Offer, OfferError, Sealed, ShardIndex,
};
pub use catalogue::{ApplicationEntry, Catalogue};
pub use engine::{Effect, Ended, Engine, EngineSettings, Fresh, Input, LaneSnapshot, Start, Token, Undurable};
pub use fan_out::fan_out;
pub use leases::{Holder, Leases, Receipt, ReceiptError, Use};
pub use notify::Notice;
pub use operational::{Occasion, Operational, What};
#[cfg(feature = "planted-bugs")]
pub use planted::Bug;
pub use sources::SourceRegister;
pub use subscriptions::SubscriptionRegister;
pub use tokens::{Credential, Registered, TakenBack, TokenRegister};
