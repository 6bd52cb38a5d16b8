//! An event type: a dotted name such as `invoice.paid`, with what its payloads look like.

use crate::application::OrganisationId;
use crate::clock::Timestamp;
use crate::retry::RetrySchedule;

/// An event type as it is kept; its natural key is organisation and name.
#[derive(Clone, PartialEq, Debug)]
pub struct EventType {
    /// Who it belongs to.
    pub organisation: OrganisationId,
    /// `^[a-zA-Z0-9\-_.]+$`, at most 256 bytes.
    pub name: String,
    /// For people.
    pub description: String,
    /// Hidden from lists and refused for endpoints, but messages of it are still accepted.
    pub archived: bool,
    /// Shown as discouraged.
    pub deprecated: bool,
    /// JSON Schemas by version, as JSON text; checked to be an object when accepted.
    pub schemas: Option<String>,
    /// Application tokens see it only if they carry one of these flags; for all if empty.
    pub feature_flags: Vec<String>,
    /// The group it is shown in.
    pub group_name: Option<String>,
    /// When failed attempts of its messages are repeated, for endpoints without a schedule of their own.
    pub retry_schedule: Option<RetrySchedule>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}
