//! What becomes of each row: a change of the data folder, nothing because it is there already, or a reason why it cannot be brought.
//!
//! Everything is told apart by its id, which is kept. So a second run brings what the first one did not come to and touches
//! nothing that is there, whatever was changed about it since.

use super::report::Report;
use super::source::{ApplicationRow, EndpointRow, EventTypeRow, MessageRow};
use bellwire_model::{
    ActiveSecret, Application, ApplicationId, ApplicationKey, Delivery, DisabledBy, Endpoint, EndpointId, EndpointKey,
    EventType, FanOut, Limits, Message, MessageId, Metadata, OrganisationId, Sequence, Timestamp, Trigger, Waiting,
    matches,
};
use bellwire_signature::svix::{SvixKey, read_secret, read_secret_text};
use bellwire_store::{Accepted, Recovered};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU16;
use std::sync::Arc;

/// As many secrets as an endpoint can have.
const SECRETS_MAX: usize = 11;
/// The status of an attempt that succeeded.
const SUCCESS: i64 = 0;

/// What is in the data folder, what has been added to it, and what secrets are read with.
pub(super) struct Taken {
    keys: Vec<SvixKey>,
    now: Timestamp,
    last_key: u32,
    newest: Sequence,
    applications: HashMap<ApplicationId, Arc<Application>>,
    uids: HashSet<(OrganisationId, String)>,
    endpoints: HashMap<EndpointId, Arc<Endpoint>>,
    of_application: HashMap<ApplicationKey, Vec<Arc<Endpoint>>>,
    event_types: HashSet<(OrganisationId, String)>,
    pub(super) report: Report,
}

/// A message with what it is owed to.
pub(super) struct Owed {
    pub(super) accepted: Accepted,
    pub(super) waiting: Vec<Waiting>,
}

impl Taken {
    pub(super) fn new(folder: Recovered, keys: Vec<SvixKey>, now: Timestamp) -> Self {
        let mut taken = Taken {
            keys,
            now,
            last_key: folder.last_key,
            newest: folder.newest,
            applications: HashMap::new(),
            uids: HashSet::new(),
            endpoints: HashMap::new(),
            of_application: HashMap::new(),
            event_types: folder.event_types.iter().map(|t| (t.organisation.clone(), t.name.clone())).collect(),
            report: Report::default(),
        };
        folder.applications.into_iter().for_each(|application| taken.add_application(application));
        folder.endpoints.into_iter().for_each(|endpoint| taken.add_endpoint(endpoint));
        taken
    }

    /// Takes over an event type.
    pub(super) fn event_type(&mut self, row: EventTypeRow) -> Option<Arc<EventType>> {
        let Some(organisation) = OrganisationId::parse(&row.organisation) else {
            return self.report.event_types.refuse(&row.name, format!("{} is not an organisation", row.organisation));
        };
        if !self.event_types.insert((organisation.clone(), row.name.clone())) {
            return self.report.event_types.there();
        }
        self.report.event_types.brought();
        Some(Arc::new(EventType {
            organisation,
            name: row.name,
            description: row.description,
            archived: row.archived,
            deprecated: row.deprecated,
            schemas: row.schemas.filter(|schemas| schemas != "null"),
            feature_flags: row.feature_flag.into_iter().collect(),
            group_name: None,
            retry_schedule: None,
            created_at: Timestamp::from_micros(row.created_at),
            updated_at: Timestamp::from_micros(row.updated_at),
        }))
    }

    /// Takes over an application.
    pub(super) fn application(&mut self, row: ApplicationRow) -> Option<Arc<Application>> {
        let refused = |taken: &mut Self, why: String| taken.report.applications.refuse(&row.id, why);
        let Ok(id) = row.id.parse::<ApplicationId>() else {
            return refused(self, "its id is not app_ and a KSUID".into());
        };
        if self.applications.contains_key(&id) {
            return self.report.applications.there();
        }
        let Some(organisation) = OrganisationId::parse(&row.organisation) else {
            return refused(self, format!("{} is not an organisation", row.organisation));
        };
        let uid = row.uid.clone().filter(|uid| !uid.is_empty());
        if uid.as_ref().is_some_and(|uid| self.uids.contains(&(organisation.clone(), uid.clone()))) {
            return refused(
                self,
                format!("another application has its uid {}", row.uid.as_deref().unwrap_or_default()),
            );
        }
        let Some(metadata) = parsed::<Metadata>(row.metadata.as_deref()) else {
            return refused(self, "its metadata are not names and texts".into());
        };
        let application = Arc::new(Application {
            key: ApplicationKey(self.next_key()),
            id,
            organisation,
            uid,
            name: row.name.clone(),
            throttle_rate: self.rate(&row.id, row.rate),
            settings: Default::default(),
            metadata: metadata.unwrap_or_default(),
            created_at: Timestamp::from_micros(row.created_at),
            updated_at: Timestamp::from_micros(row.updated_at),
        });
        self.report.applications.brought();
        self.add_application(application.clone());
        Some(application)
    }

    /// Takes over an endpoint.
    pub(super) fn endpoint(&mut self, row: EndpointRow) -> Option<Arc<Endpoint>> {
        match self.new_endpoint(&row) {
            Ok(Some(endpoint)) => {
                self.report.endpoints.brought();
                self.add_endpoint(endpoint.clone());
                Some(endpoint)
            }
            Ok(None) => self.report.endpoints.there(),
            Err(why) => self.report.endpoints.refuse(&row.id, why),
        }
    }

    fn new_endpoint(&mut self, row: &EndpointRow) -> Result<Option<Arc<Endpoint>>, String> {
        let id: EndpointId = row.id.parse().map_err(|_| "its id is not ep_ and a KSUID".to_owned())?;
        if self.endpoints.contains_key(&id) {
            return Ok(None);
        }
        let application = row.application.parse().ok().and_then(|id: ApplicationId| self.applications.get(&id));
        let application =
            application.ok_or_else(|| format!("its application {} was not brought", row.application))?.key;
        let url = url::Url::parse(&row.url).map_err(|error| format!("its URL cannot be read: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err("its URL is neither http nor https".to_owned());
        }
        let uid = row.uid.clone().filter(|uid| !uid.is_empty());
        let same_uid = |other: &Arc<Endpoint>| other.uid.is_some() && other.uid == uid;
        if self.of_application.get(&application).is_some_and(|all| all.iter().any(same_uid)) {
            return Err("another endpoint of its application has its uid".to_owned());
        }
        let secrets = self.secrets(row)?;
        let json = |what: &str| format!("its {what} cannot be read");
        let event_types = parsed::<Vec<String>>(row.event_types.as_deref()).ok_or_else(|| json("event types"))?;
        let channels = parsed::<Vec<String>>(row.channels.as_deref()).ok_or_else(|| json("channels"))?;
        let metadata = parsed::<Metadata>(row.metadata.as_deref()).ok_or_else(|| json("metadata"))?;
        let headers = parsed::<BTreeMap<String, String>>(row.headers.as_deref()).ok_or_else(|| json("headers"))?;
        let mut kept = Vec::new();
        for (name, value) in headers.unwrap_or_default() {
            match bellwire_api::header_fault(&name, &value) {
                None => kept.push((name, value)),
                Some(fault) => self.report.leave_out(&row.id, format!("its header {name}: {fault}")),
            }
        }
        if row.filter.as_deref().is_some_and(|filter| !filter.trim().is_empty()) {
            // Without its filter it would get what it must not get.
            return Err("it has a filter on content in Svix's language; create it anew with a CEL filter".to_owned());
        }
        Ok(Some(Arc::new(Endpoint {
            uid,
            description: row.description.clone(),
            disabled: row.disabled.then_some(if row.failed { DisabledBy::Failures } else { DisabledBy::User }),
            event_types: event_types.filter(|types| !types.is_empty()),
            channels: channels.filter(|channels| !channels.is_empty()),
            limits: Limits { throttle_rate: self.rate(&row.id, row.rate), fifo: false },
            secrets,
            headers: kept,
            metadata: metadata.unwrap_or_default(),
            updated_at: Timestamp::from_micros(row.updated_at),
            ..Endpoint::new(
                EndpointKey(self.next_key()),
                application,
                id,
                row.url.clone(),
                Timestamp::from_micros(row.created_at),
            )
        })))
    }

    /// The current one, and former ones that still sign.
    fn secrets(&self, row: &EndpointRow) -> Result<Vec<ActiveSecret>, String> {
        #[derive(serde::Deserialize)]
        struct Former {
            #[serde(rename = "signingKey")]
            key: String,
            expiration: String,
        }
        let wrong = |error: bellwire_signature::svix::SvixSecretError| {
            format!(
                "{error} (auth.main_secret or auth.old_main_secrets must be what the Svix server has as main_secret)"
            )
        };
        let current = read_secret(&row.key, &self.keys).map_err(wrong)?;
        let mut secrets = vec![ActiveSecret { secret: current, expires_at: None }];
        let former = parsed::<Vec<Former>>(row.old_keys.as_deref()).ok_or("its former secrets cannot be read")?;
        let mut former: Vec<_> = former
            .unwrap_or_default()
            .into_iter()
            .map(|former| former.expiration.parse::<Timestamp>().map(|end| (end, former.key)))
            .collect::<Result<_, _>>()
            .map_err(|_| "the end of a former secret cannot be read")?;
        former.retain(|(end, _)| *end > self.now);
        former.sort_by_key(|former| std::cmp::Reverse(former.0));
        for (end, key) in former.into_iter().take(SECRETS_MAX - 1) {
            let secret = read_secret_text(&key, &self.keys).map_err(wrong)?;
            secrets.push(ActiveSecret { secret, expires_at: Some(end) });
        }
        Ok(secrets)
    }

    /// Takes over a message and what it is still owed to; nothing if everybody has it.
    pub(super) fn message(
        &mut self,
        row: MessageRow,
        there: impl Fn(MessageId) -> anyhow::Result<bool>,
    ) -> anyhow::Result<Option<Owed>> {
        let application = row.application.parse().ok().and_then(|id: ApplicationId| self.applications.get(&id));
        let Some(application) = application.cloned() else {
            let why = format!("its application {} was not brought", row.application);
            return Ok(self.report.messages.refuse(&row.id, why));
        };
        let waiting = match self.owed(&row, application.key) {
            Ok(waiting) => waiting,
            Err(why) => return Ok(self.report.messages.refuse(&row.id, why)),
        };
        if waiting.is_empty() {
            return Ok(None);
        }
        let Ok(id) = row.id.parse::<MessageId>() else {
            return Ok(self.report.messages.refuse(&row.id, "its id is not msg_ and a KSUID".into()));
        };
        if there(id)? {
            return Ok(self.report.messages.there());
        }
        if id.sequence() <= self.newest {
            let why = "the data folder holds newer messages, and its id says that it is older; replay it from Svix";
            return Ok(self.report.messages.refuse(&row.id, why.into()));
        }
        let expires_at = Timestamp::from_micros(row.expires_at);
        let Some(payload) = row.payload.filter(|_| expires_at > self.now) else {
            return Ok(self.report.messages.refuse(&row.id, "its payload has expired".into()));
        };
        let Some(channels) = parsed::<Vec<String>>(row.channels.as_deref()) else {
            return Ok(self.report.messages.refuse(&row.id, "its channels cannot be read".into()));
        };
        self.newest = id.sequence();
        let mut fan_out: FanOut = waiting.iter().map(|waiting| waiting.delivery.endpoint).collect();
        fan_out.sort_unstable();
        let message = Message {
            event_id: row.uid.clone(),
            channels: channels.unwrap_or_default(),
            ..Message::new(id, application.key, row.event_type, payload, expires_at)
        };
        let event = row.uid.as_deref().map(|uid| bellwire_api::event_key(application.id, uid));
        self.report.messages.brought();
        self.report.deliveries += waiting.len() as u64;
        Ok(Some(Owed { accepted: Accepted { message: Arc::new(message), fan_out, idempotency: None, event }, waiting }))
    }

    /// The deliveries that are to come, with their attempts counted on.
    fn owed(&self, row: &MessageRow, application: ApplicationKey) -> Result<Vec<Waiting>, String> {
        type Tried = (String, i64, Option<i64>, u32);
        let tried =
            parsed::<Vec<Tried>>(row.tried.as_deref()).ok_or("its attempts cannot be read")?.unwrap_or_default();
        let channels = parsed::<Vec<String>>(row.channels.as_deref()).ok_or("its channels cannot be read")?;
        let channels = channels.unwrap_or_default();
        let sequence = row.id.parse::<MessageId>().map_err(|_| "its id is not msg_ and a KSUID")?.sequence();
        let created_at = Timestamp::from_micros(row.created_at);
        let mut owed = Vec::new();
        for endpoint in self.of_application.get(&application).into_iter().flatten() {
            let delivery = Delivery { endpoint: endpoint.key, message: sequence };
            let id = endpoint.id.to_string();
            let (due, next) = match tried.iter().find(|(tried, ..)| *tried == id) {
                Some((_, status, Some(due), count)) if *status != SUCCESS => (Timestamp::from_micros(*due), count + 1),
                Some(_) => continue,
                None if row.young
                    && endpoint.disabled.is_none()
                    && endpoint.created_at <= created_at
                    && matches(endpoint, &row.event_type, &channels) =>
                {
                    (self.now, 1)
                }
                None => continue,
            };
            owed.push(Waiting { delivery, due, next, trigger: Trigger::Scheduled });
        }
        Ok(owed)
    }

    fn rate(&mut self, id: &str, rate: Option<i32>) -> Option<NonZeroU16> {
        let fits = u16::try_from(rate?).ok().and_then(NonZeroU16::new);
        if fits.is_none() {
            self.report.leave_out(id, format!("its rate limit of {} per second", rate.unwrap_or_default()));
        }
        fits
    }

    fn next_key(&mut self) -> u32 {
        self.last_key += 1;
        self.last_key
    }

    fn add_application(&mut self, application: Arc<Application>) {
        if let Some(uid) = &application.uid {
            self.uids.insert((application.organisation.clone(), uid.clone()));
        }
        self.applications.insert(application.id, application);
    }

    fn add_endpoint(&mut self, endpoint: Arc<Endpoint>) {
        self.of_application.entry(endpoint.application).or_default().push(endpoint.clone());
        self.endpoints.insert(endpoint.id, endpoint);
    }
}

/// JSON in a column that may be NULL, or hold `null`: `None` if it is not a `T`.
fn parsed<T: DeserializeOwned>(text: Option<&str>) -> Option<Option<T>> {
    serde_json::from_str::<Option<T>>(text.unwrap_or("null")).ok()
}
