//! The nouns of Bellwire and the decisions about them.
//!
//! Everything here is a value or a pure function: time and chance are arguments, nothing awaits, nothing is read from
//! the outside. The API, the tables and the configuration each own a wire format and convert at their edge; the types
//! here have none. Who calls it: every other crate. What it leaves to others: when a decision is taken (`engine`), and
//! how it is kept (`store`).

mod clock;
mod id;
mod application;
mod event_type;
mod endpoint;
mod shape;
mod access;
mod kind;
mod trace;
mod module;
mod message;
mod delivery;
mod attempt;
mod filter;
mod retry;
mod health;
mod operational;
mod ledger;
mod token;
mod source;
mod subscription;
mod way;

pub use access::{
    Access, AssertionAlgorithm, ClientAssertion, ClientAuthentication, Credentials, Oauth, OauthGrant, RefreshToken,
    SecretText, TlsAccess,
};
pub use application::{
    Application, ApplicationKey, ApplicationSettings, Metadata, OrganisationId, PARTITIONS, Partition,
    PayloadValidation,
};
pub use attempt::{
    Attempt, AttemptNumber, Directive, FailureClass, Outcome, Phases, RESPONSE_BODY_MAX, RetryAfter, Trigger,
    whole_characters,
};
pub use clock::{Now, Timestamp};
pub use delivery::{AfterAttempt, Delivery, DeliveryState, EndReason, Waiting};
pub use endpoint::{ActiveSecret, DisabledBy, Endpoint, EndpointKey, Limits};
pub use event_type::EventType;
pub use filter::matches;
pub use health::{Health, HealthStep};
pub use id::{
    ApplicationId, AttemptId, EndpointId, IdError, Ksuid, MessageId, PortalTokenId, RequestId, Sequence,
    SequenceSource, SourceId, TaskId, TokenId,
};
pub use kind::{Expiry, Kind, Pipe, Plugin, Runs};
pub use ledger::Ledger;
pub use message::{ContentType, DedupeKey, FanOut, Message, RequestDigest};
pub use module::{Code, Module, ModuleVersion, Permissions};
pub use operational::{OPERATIONAL_UID, OperationalType, operational_after};
pub use retry::{RETRY_AFTER_MAX, RetrySchedule, ScheduleError, after_attempt};
pub use shape::{ContentFilter, FilterSource, Format, Prepared, Shape, Transformation};
pub use source::{
    Conflict, Dedupe, DedupeFrom, EventTypeFrom, HOPS_HEADER, HOPS_MAX, KeptHeaders, KeptRequest, Networks, Received,
    Recipe, RequestOutcome, SECRETS_MAX, Source, SourceAnswer, SourceKey, SourceSecret,
};
pub use subscription::{EndedSubscription, Ending, Subscription, SubscriptionKey, UnsubscribeStep};
pub use token::{ApiToken, Cutoff, Fingerprint, Logout, Scope, TokenChange};
pub use trace::TraceParent;
pub use way::{Cron, Database, Missed, Outbox, OutboxColumns, SourceCursor, Then, Way};
