//! An endpoint: a URL of an application, with its filters, secrets and limits.

use crate::access::Access;
use crate::application::{ApplicationKey, Metadata};
use crate::clock::Timestamp;
use crate::health::Health;
use crate::id::EndpointId;
use crate::kind::Kind;
use crate::retry::RetrySchedule;
use crate::shape::Shape;
use bellwire_signature::Secret;
use std::num::NonZeroU16;

/// The short key of an endpoint in fan-outs, tables and memory. Given out rising from 1 and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndpointKey(pub u32);

/// A secret that signs, and until when.
#[derive(Clone, PartialEq, Debug)]
pub struct ActiveSecret {
    /// The secret; prints redacted.
    pub secret: Secret,
    /// Engine time after which it no longer signs; `None` for the current one.
    pub expires_at: Option<Timestamp>,
}

/// Who disabled an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DisabledBy {
    /// A person or program through the API.
    User,
    /// The endpoint answered 410 or `webhook-delivery: disable`.
    Receiver,
    /// Every attempt failed for the whole window.
    Failures,
}

/// Limits that belong to one endpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Attempts per second, burst included; unlimited if absent.
    pub throttle_rate: Option<NonZeroU16>,
    /// One attempt at a time, in the order of acceptance; a later message waits until the earlier one has ended.
    pub fifo: bool,
}

/// An endpoint as it is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Endpoint {
    /// Its key in tables and memory.
    pub key: EndpointKey,
    /// The application that owns it.
    pub application: ApplicationKey,
    /// Its public id.
    pub id: EndpointId,
    /// The user's own id for it, unique within the application.
    pub uid: Option<String>,
    /// How it gets its messages.
    pub kind: Kind,
    /// Where attempts go: `http` or `https`, as the user wrote it, user info included. Never logged whole. Of an endpoint that is not
    /// pushed to: [`Kind::address`].
    pub url: String,
    /// For people.
    pub description: String,
    /// Why it is disabled, if it is. Its deliveries wait, they are not dropped.
    pub disabled: Option<DisabledBy>,
    /// Event types it takes; all if absent.
    pub event_types: Option<Vec<String>>,
    /// Channels it takes; messages of any channel or none if absent.
    pub channels: Option<Vec<String>>,
    /// Throttle and order.
    pub limits: Limits,
    /// Newest first; the first never expires. At most 11.
    pub secrets: Vec<ActiveSecret>,
    /// Sent with every attempt, in this order.
    pub headers: Vec<(String, String)>,
    /// Instead of the global schedule.
    pub retry_schedule: Option<RetrySchedule>,
    /// What becomes of a message before it is sent.
    pub shape: Shape,
    /// How it is reached, and how we prove who we are.
    pub access: Access,
    /// The user's own notes.
    pub metadata: Metadata,
    /// Since when all attempts fail.
    pub health: Health,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed through the API.
    pub updated_at: Timestamp,
}

impl Endpoint {
    /// One that is pushed to at `url`, takes everything, and has nothing else set: not even a secret.
    pub fn new(
        key: EndpointKey,
        application: ApplicationKey,
        id: EndpointId,
        url: impl Into<String>,
        now: Timestamp,
    ) -> Self {
        Endpoint {
            key,
            application,
            id,
            uid: None,
            kind: Kind::Push,
            url: url.into(),
            description: String::new(),
            disabled: None,
            event_types: None,
            channels: None,
            limits: Limits::default(),
            secrets: Vec::new(),
            headers: Vec::new(),
            retry_schedule: None,
            shape: Shape::default(),
            access: Access::default(),
            metadata: Metadata::new(),
            health: Health::default(),
            created_at: now,
            updated_at: now,
        }
    }

    /// Its owner enables or disables it. Enabling forgets that it failed, or the next failure would disable it again;
    /// disabling one that we disabled keeps our reason.
    pub fn switch(&mut self, enabled: bool) {
        if enabled {
            (self.disabled, self.health) = (None, Health::default());
        } else {
            self.disabled = self.disabled.or(Some(DisabledBy::User));
        }
    }

    /// What an engine found out about it is durable: since when it only fails, and whether that disables it.
    pub fn found_out(&mut self, failing_since: Option<Timestamp>, disable: Option<DisabledBy>) {
        self.health = Health { failing_since, written: failing_since.is_some() };
        self.disabled = disable.or(self.disabled);
    }

    /// Takes over what an edit does not decide by replacing it.
    pub fn keep_state(&mut self, old: &Endpoint) {
        (self.disabled, self.health) = (old.disabled, old.health);
    }

    /// The secrets that sign at `now`, newest first.
    pub fn signing_secrets(&self, now: Timestamp) -> impl Iterator<Item = &Secret> {
        self.secrets.iter().filter(move |s| s.expires_at.is_none_or(|end| end > now)).map(|s| &s.secret)
    }
}
