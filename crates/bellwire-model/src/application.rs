//! An application: the customer on whose behalf messages are sent. It owns endpoints.

use crate::clock::Timestamp;
use crate::id::ApplicationId;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::sync::Arc;

/// How many partitions applications are spread over. Fixed for ever: leases and shards are counted in them.
pub const PARTITIONS: u16 = 256;

/// The short key of an application in tables and in memory. Given out rising from 1 and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ApplicationKey(pub u32);

impl ApplicationKey {
    /// The partition that the application and all its endpoints belong to.
    pub const fn partition(self) -> Partition {
        // Fibonacci hashing: neighbouring keys land far apart, and few keys spread evenly over few shards.
        Partition((self.0.wrapping_mul(2_654_435_769) >> 24) as u8)
    }
}

/// One of [`PARTITIONS`] parts of all applications; what a node leases and a shard owns.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Partition(pub u8);

impl Partition {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Partition> {
        (0..=u8::MAX).map(Partition)
    }

    /// Which of `shards` serves it.
    pub const fn shard(self, shards: usize) -> usize {
        self.0 as usize % shards
    }
}

/// The subject of an organisation's token, `org_…`; any text of that form is an organisation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OrganisationId(Arc<str>);

impl OrganisationId {
    /// Takes the text after checking its prefix; `None` if it does not begin with `org_` or is longer than 64 bytes.
    pub fn parse(text: &str) -> Option<Self> {
        (text.starts_with("org_") && text.len() > 4 && text.len() <= 64).then(|| OrganisationId(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OrganisationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OrganisationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names and values that belong to the user; at most 4,096 bytes as JSON.
pub type Metadata = BTreeMap<String, String>;

/// What an application asks of its messages. The default asks nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ApplicationSettings {
    /// What becomes of a message whose payload is not as its event type's schema says.
    pub payload_validation: PayloadValidation,
}

/// What a schema is good for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PayloadValidation {
    /// Nothing: payloads are not looked at.
    #[default]
    Off,
    /// The message is accepted, and its sender is told what is wrong.
    Warn,
    /// The message is refused.
    Refuse,
}

impl PayloadValidation {
    /// All of them.
    pub const ALL: [PayloadValidation; 3] =
        [PayloadValidation::Off, PayloadValidation::Warn, PayloadValidation::Refuse];

    /// As it is written and kept.
    pub const fn name(self) -> &'static str {
        match self {
            PayloadValidation::Off => "off",
            PayloadValidation::Warn => "warn",
            PayloadValidation::Refuse => "refuse",
        }
    }

    /// Of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// An application as it is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Application {
    /// Its key in tables and memory.
    pub key: ApplicationKey,
    /// Its public id.
    pub id: ApplicationId,
    /// Who it belongs to; nobody else ever sees it.
    pub organisation: OrganisationId,
    /// The user's own id for it, unique within the organisation.
    pub uid: Option<String>,
    /// What people call it.
    pub name: String,
    /// Attempts per second to all its endpoints together; unlimited if absent.
    pub throttle_rate: Option<NonZeroU16>,
    /// What it asks of its messages.
    pub settings: ApplicationSettings,
    /// The user's own notes.
    pub metadata: Metadata,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed through the API.
    pub updated_at: Timestamp,
}
