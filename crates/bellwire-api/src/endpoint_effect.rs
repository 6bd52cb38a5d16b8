//! Which settings have an effect on which kind of endpoint. One that has none is refused where it is set, and where the kind changes to
//! one that has no use for it.
//!
//! What has always had no effect stays as it was until somebody touches it: an edit of something else is not refused for it.

use crate::endpoint_kind::KindWire;
use crate::error::Error;
use crate::field::Faults;
use bellwire_model::{Credentials, Endpoint, Format, Kind};

/// A setting that not every kind of endpoint has a use for.
struct Setting {
    /// As people know it.
    name: &'static str,
    /// The member that gives it.
    field: &'static str,
    /// Whether it says anything.
    is_set: fn(&Endpoint) -> bool,
    /// Whether both say the same.
    is_same: fn(&Endpoint, &Endpoint) -> bool,
    plugin: Use,
    pipe: Use,
    /// How to take it away, for who wants another kind.
    removal: &'static str,
}

/// What a kind makes of a setting.
enum Use {
    Effect,
    /// None; what would be right.
    None(&'static str),
}

const NOT_SENT: &str = "no request is sent to it";

const SETTINGS: [Setting; 9] = [
    Setting {
        name: "transformation",
        field: "enabled",
        is_set: |e| e.shape.transformation.as_ref().is_some_and(|t| t.active().is_some()),
        is_same: |a, b| a.shape.transformation == b.shape.transformation,
        plugin: Use::Effect,
        pipe: Use::Effect,
        removal: "PATCH …/transformation with `enabled: false`",
    },
    Setting {
        name: "format",
        field: "format",
        is_set: |e| e.shape.format != Format::Json,
        is_same: |a, b| a.shape.format == b.shape.format,
        plugin: Use::Effect,
        pipe: Use::Effect,
        removal: "send `format: \"json\"` along",
    },
    Setting {
        name: "contentType",
        field: "contentType",
        is_set: |e| e.shape.content_type.is_some(),
        is_same: |a, b| a.shape.content_type == b.shape.content_type,
        plugin: Use::Effect,
        pipe: Use::Effect,
        removal: "send `contentType: null` along",
    },
    Setting {
        name: "headers",
        field: "headers",
        is_set: |e| !e.headers.is_empty(),
        is_same: |a, b| a.headers == b.headers,
        plugin: Use::None("no request is sent to it; what a plugin is to know stands in `plugin`"),
        pipe: Use::Effect,
        removal: "PUT …/headers with none",
    },
    Setting {
        name: "retrySchedule",
        field: "retrySchedule",
        is_set: |e| e.retry_schedule.is_some(),
        is_same: |a, b| a.retry_schedule == b.retry_schedule,
        plugin: Use::Effect,
        pipe: Use::None("its readers say when a delivery comes again, and `pipe.maxAttempts` how often"),
        removal: "send `retrySchedule: null` along",
    },
    Setting {
        name: "authentication",
        field: "type",
        is_set: |e| e.access.credentials.is_some(),
        is_same: |a, b| a.access.credentials == b.access.credentials,
        plugin: Use::None("no request is sent to it; what a plugin needs to authenticate stands in `plugin`"),
        pipe: Use::None("its readers authenticate to us, with a token"),
        removal: "DELETE …/authentication",
    },
    Setting {
        name: "mtls",
        field: "identity",
        is_set: |e| e.access.tls.identity.is_some(),
        is_same: |a, b| a.access.tls.identity == b.access.tls.identity,
        plugin: Use::None(NOT_SENT),
        pipe: Use::None(NOT_SENT),
        removal: "DELETE …/mtls",
    },
    Setting {
        name: "ca",
        field: "cert",
        is_set: |e| e.access.tls.authorities.is_some(),
        is_same: |a, b| a.access.tls.authorities == b.access.tls.authorities,
        plugin: Use::None(NOT_SENT),
        pipe: Use::None(NOT_SENT),
        removal: "PUT …/ca with `cert: null`",
    },
    Setting {
        name: "ssl-verification",
        field: "enabled",
        is_set: |e| e.access.tls.unverified,
        is_same: |a, b| a.access.tls.unverified == b.access.tls.unverified,
        plugin: Use::None(NOT_SENT),
        pipe: Use::None(NOT_SENT),
        removal: "PUT …/ssl-verification with `enabled: true`",
    },
];

impl Setting {
    /// What would be right, if an endpoint of this kind has no use for it.
    fn is_useless_for(&self, kind: &Kind) -> Option<&'static str> {
        let what = match kind {
            Kind::Push => return None,
            Kind::Plugin(_) => &self.plugin,
            Kind::Pipe(_) => &self.pipe,
        };
        match what {
            Use::Effect => None,
            Use::None(right) => Some(right),
        }
    }

    fn field(&self, endpoint: &Endpoint) -> &'static str {
        match &endpoint.access.credentials {
            Some(Credentials::Oauth(_)) if self.name == "authentication" => "grantType",
            _ => self.field,
        }
    }
}

/// Notes what an edit, from `before` to `after`, sets without effect.
pub(crate) fn note(faults: &mut Faults, before: Option<&Endpoint>, after: &Endpoint) {
    let kind = KindWire::of(&after.kind);
    for setting in SETTINGS.iter().filter(|setting| (setting.is_set)(after)) {
        let Some(right) = setting.is_useless_for(&after.kind) else { continue };
        let Setting { name, removal, .. } = setting;
        let what = format!("`{name}` has no effect on an endpoint of the kind {}: {right}", kind.name());
        match before.filter(|before| (setting.is_same)(before, after)) {
            None => faults.add(setting.field(after), format!("{what}; leave it out")),
            Some(before) if KindWire::of(&before.kind) != kind => {
                faults.add("kind", format!("{what}; it is set, so take it away first: {removal}"));
            }
            Some(_) => {}
        }
    }
}

/// The same, for an edit that has nothing else to complain of.
///
/// # Errors
/// 422 with all that was found.
pub(crate) fn check(mut faults: Faults, before: Option<&Endpoint>, after: &Endpoint) -> Result<(), Error> {
    note(&mut faults, before, after);
    faults.end()
}
