//! A source: a URL at which we receive others' webhooks, with how they are proved, told apart and answered.
//!
//! A request that a source has verified becomes a message of the source's application ([`Received`] is what is kept of it beside the
//! payload) and takes the same road as any other. `bellwire-receiver` does that; the texts here that name presets, recipes and
//! places of a request are its to read.

use crate::access::SecretText;
use crate::application::{ApplicationKey, Metadata, OrganisationId};
use crate::clock::Timestamp;
use crate::id::{MessageId, RequestId, SourceId};
use crate::way::Way;
use bytes::Bytes;
use ipnet::IpNet;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

/// The short key of a source in tables and memory. Given out with those of applications and endpoints, and never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SourceKey(pub u32);

/// A source as it is kept.
#[derive(Clone, PartialEq, Debug)]
pub struct Source {
    /// Its key in tables and memory.
    pub key: SourceKey,
    /// Its public id.
    pub id: SourceId,
    /// Whose it is: its application's.
    pub organisation: OrganisationId,
    /// The application that its messages belong to.
    pub application: ApplicationKey,
    /// The user's own id for it, unique within the organisation.
    pub uid: Option<String>,
    /// For people.
    pub name: String,
    /// How its messages come in. What follows here about requests means nothing to a source that is not [`Way::Http`].
    pub way: Way,
    /// The unguessable part of its listener URL, `/in/{token}`.
    pub token: SecretText,
    /// A path of its own beside that, unique within the server; begins with `/`.
    pub path: Option<String>,
    /// The methods that it takes, in capitals. A handshake's own method is taken as well.
    pub methods: Vec<String>,
    /// How a request proves who sent it.
    pub recipe: Recipe,
    /// What the recipe wants to know beside secrets, by name. Some are secrets, too.
    pub settings: BTreeMap<String, String>,
    /// Any of them that has not expired verifies; newest first, at most [`SECRETS_MAX`].
    pub secrets: Vec<SourceSecret>,
    /// What bodies are read as, and their messages' content type, whatever they call themselves; as they say if absent.
    pub content_type: Option<String>,
    /// A longer body is refused with 413.
    pub body_bytes_max: u32,
    /// Requests per second; more are refused with 429, before their body is read.
    pub rate: Option<NonZeroU32>,
    /// Who may send at all.
    pub networks: Networks,
    /// What makes two requests the same.
    pub dedupe: Dedupe,
    /// Where the event type of its messages comes from.
    pub event_type: EventTypeFrom,
    /// Its URL as the sender knows it, for schemes that sign it. Taken from the request if absent.
    pub url: Option<String>,
    /// What is answered to a request that was accepted.
    pub answer: SourceAnswer,
    /// Requests are refused with 404 while it is.
    pub disabled: bool,
    /// The user's own notes.
    pub metadata: Metadata,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// The header in which a delivery of a received message says how often it has been passed on by servers like this one.
pub const HOPS_HEADER: &str = "bellwire-hops";
/// A message that was passed on so often goes in circles, and is refused.
pub const HOPS_MAX: u8 = 8;

/// So many secrets can a source have.
pub const SECRETS_MAX: usize = 11;

impl Source {
    /// The one method that a source takes if it names none.
    pub const METHOD: &str = "POST";
    /// The longest body that a source takes if it has no bound of its own.
    pub const BODY_BYTES: u32 = 1 << 20;

    /// One at `/in/{token}` that anybody may send to, proved by `recipe`, and has nothing else set: not even a secret.
    pub fn new(
        key: SourceKey,
        id: SourceId,
        organisation: OrganisationId,
        application: ApplicationKey,
        token: SecretText,
        recipe: Recipe,
        now: Timestamp,
    ) -> Self {
        Source {
            key,
            id,
            organisation,
            application,
            uid: None,
            name: String::new(),
            way: Way::Http,
            token,
            path: None,
            methods: vec![Self::METHOD.to_owned()],
            recipe,
            settings: BTreeMap::new(),
            secrets: Vec::new(),
            content_type: None,
            body_bytes_max: Self::BODY_BYTES,
            rate: None,
            networks: Networks::default(),
            dedupe: Dedupe::default(),
            event_type: EventTypeFrom::Recipe,
            url: None,
            answer: SourceAnswer::default(),
            disabled: false,
            metadata: Metadata::new(),
            created_at: now,
            updated_at: now,
        }
    }

    /// The secrets that verify at `now`, newest first.
    pub fn secrets_at(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        self.secrets.iter().filter(move |s| s.expires_at.is_none_or(|end| end > now)).map(|s| s.text.reveal())
    }
}

/// How a request proves who sent it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Recipe {
    /// By the name of a preset.
    Preset(String),
    /// In the words of a recipe of one's own.
    Own(String),
}

/// A secret that verifies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceSecret {
    /// As the sender gave it.
    pub text: SecretText,
    /// When it stops to verify; never if absent.
    pub expires_at: Option<Timestamp>,
}

/// Who may send at all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Networks {
    /// Anybody if empty.
    pub allowed: Vec<IpNet>,
    /// Proxies whose word about the client's address (`x-forwarded-for`) counts.
    pub proxies: Vec<IpNet>,
}

impl Networks {
    /// Whether a client at `address` may send.
    pub fn allow(&self, address: IpAddr) -> bool {
        self.allowed.is_empty() || contain(&self.allowed, address)
    }

    /// Whether `peer` may say who the client is.
    pub fn trust(&self, peer: IpAddr) -> bool {
        contain(&self.proxies, peer)
    }
}

/// An IPv4 address that is written as an IPv6 one is the same address.
fn contain(networks: &[IpNet], address: IpAddr) -> bool {
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address))
}

/// What makes two requests of a source the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dedupe {
    /// Where the key stands.
    pub key: DedupeFrom,
    /// For how long the key is known, from the first request on; at most as long as messages are kept.
    pub window: Duration,
    /// What becomes of a request with a key that is known and another body.
    pub conflict: Conflict,
}

impl Dedupe {
    /// The window of a source that has none of its own: longer than the senders that are known go on repeating.
    pub const WINDOW: Duration = Duration::from_secs(7 * 24 * 3600);
}

impl Default for Dedupe {
    fn default() -> Self {
        Dedupe { key: DedupeFrom::Recipe, window: Self::WINDOW, conflict: Conflict::Flag }
    }
}

/// Where the key of a request stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DedupeFrom {
    /// Where the recipe says; if it does not, `webhook-id` and then `idempotency-key`.
    Recipe,
    /// At these places together. A request that lacks one of them is like no other.
    Places(Vec<String>),
    /// The body itself.
    Body,
    /// Nowhere: every request is a new one.
    Off,
}

/// What becomes of a request with a key that is known and another body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Conflict {
    /// It is answered like any duplicate, and noted as a conflict.
    Flag,
    /// It is refused with 409.
    Refuse,
}

/// Where the event type of a message comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EventTypeFrom {
    /// From where the recipe says.
    Recipe,
    /// It is always this one.
    Fixed(String),
    /// From this place of the request.
    Place(String),
}

/// What is answered to a request that was accepted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourceAnswer {
    /// 200 to 599; senders take another than 2xx for a failure.
    pub status: u16,
    /// Text.
    pub body: String,
    /// Sent with it, and with an endpoint's own answer unless that has them.
    pub headers: Vec<(String, String)>,
    /// For so long an endpoint is waited for, whose own answer is passed on instead; not at all if absent.
    pub wait: Option<Duration>,
}

impl Default for SourceAnswer {
    fn default() -> Self {
        SourceAnswer { status: 202, body: String::new(), headers: Vec::new(), wait: None }
    }
}

/// What is kept of a received request beside its payload. Bounded by whoever makes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Received {
    /// At which source.
    pub source: SourceId,
    /// In capitals.
    pub method: String,
    /// Without the source's token.
    pub path: String,
    /// Without its question mark; what is secret in it is masked.
    pub query: Option<String>,
    /// Names in small letters, in the order they came; what is secret in them is masked.
    pub headers: KeptHeaders,
    /// Who sent it, as far as that is known.
    pub remote: Option<IpAddr>,
    /// From how many sources of ours it has been passed on.
    pub hops: u8,
    /// What told it from others.
    pub dedupe: Option<String>,
}

impl Received {
    /// What it holds in memory.
    pub fn content_bytes(&self) -> usize {
        let query = self.query.as_ref().map_or(0, String::len);
        let dedupe = self.dedupe.as_ref().map_or(0, String::len);
        self.method.len() + self.path.len() + query + self.headers.content_bytes() + dedupe
    }

    /// The first header of this name, which is in small letters.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| *own == name).map(|(_, value)| value)
    }
}

/// Headers, in one piece of memory: every message that came in at a source has a dozen.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct KeptHeaders {
    /// All names and values, one after the other.
    text: String,
    /// Where each of them ends.
    ends: Vec<u32>,
}

impl KeptHeaders {
    /// None yet, with room for so many, and so many bytes of names and values.
    pub fn with_capacity(headers: usize, bytes: usize) -> Self {
        KeptHeaders { text: String::with_capacity(bytes), ends: Vec::with_capacity(2 * headers) }
    }

    /// Adds one. Of what does not fit into four gigabytes, nothing is kept.
    pub fn push(&mut self, name: &str, value: &str) {
        let end = |bytes: usize| u32::try_from(self.text.len() + bytes).ok();
        if let (Some(name_end), Some(value_end)) = (end(name.len()), end(name.len() + value.len())) {
            self.text.push_str(name);
            self.text.push_str(value);
            self.ends.extend([name_end, value_end]);
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len() / 2
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// How many bytes names and values have.
    pub fn content_bytes(&self) -> usize {
        self.text.len()
    }

    /// Each name and value, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> + Clone {
        let mut from = 0;
        self.ends.chunks_exact(2).map(move |ends| {
            let (name, value) = (from..ends[0] as usize, ends[0] as usize..ends[1] as usize);
            from = value.end;
            (&self.text[name], &self.text[value])
        })
    }
}

impl<N: AsRef<str>, V: AsRef<str>> FromIterator<(N, V)> for KeptHeaders {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(all: T) -> Self {
        let mut headers = KeptHeaders::default();
        all.into_iter().for_each(|(name, value)| headers.push(name.as_ref(), value.as_ref()));
        headers
    }
}

impl fmt::Debug for KeptHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// A request that made no message, kept for the person who asks why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptRequest {
    /// Its id; `id.sequence()` says when it came.
    pub id: RequestId,
    /// Of which source.
    pub source: SourceKey,
    /// What became of it.
    pub outcome: RequestOutcome,
    /// What was answered.
    pub status: u16,
    /// The request.
    pub received: Arc<Received>,
    /// The beginning of its body, as far as it was read and is kept.
    pub body: Bytes,
}

/// What became of a request that made no message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RequestOutcome {
    /// It was refused.
    Refused {
        /// Why, for the person who owns the source; the sender is not told.
        reason: String,
    },
    /// It was there before.
    Duplicate {
        /// The message that the first one made, if that is still known.
        message: Option<MessageId>,
        /// It had another body than the first one.
        conflict: bool,
    },
    /// It was a question of the sender's service, and was answered.
    Handshake,
}

impl KeptRequest {
    /// So many are kept of a source; the oldest go first.
    pub const COUNT_MAX: usize = 100;
    /// So many bytes of bodies are kept of a source.
    pub const BYTES_MAX: usize = 1 << 20;
    /// So much of one body is kept.
    pub const BODY_MAX: usize = 16 << 10;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn networks_allow_and_trust_whom_they_contain() {
        let networks =
            Networks { allowed: networks(&["192.0.2.0/24", "2001:db8::/32"]), proxies: networks(&["10.0.0.1/32"]) };
        for (address, allowed) in [
            ("192.0.2.9", true),
            ("::ffff:192.0.2.9", true),
            ("192.0.3.9", false),
            ("2001:db8::5", true),
            ("2001:db9::5", false),
        ] {
            assert_eq!(networks.allow(address.parse().expect("an address")), allowed, "{address}");
        }
        assert!(networks.trust("10.0.0.1".parse().expect("an address")));
        assert!(!networks.trust("10.0.0.2".parse().expect("an address")));
        let none = Networks::default();
        let anybody = "203.0.113.1".parse().expect("an address");
        assert!(none.allow(anybody) && !none.trust(anybody));
    }

    #[test]
    fn kept_headers_come_back_in_their_order() {
        let all = [("x-a", "1"), ("empty", ""), ("x-a", "ü, 2")];
        let headers: KeptHeaders = all.into_iter().collect();
        assert_eq!(headers.iter().collect::<Vec<_>>(), all);
        assert_eq!((headers.len(), headers.content_bytes(), headers.is_empty()), (3, 3 + 1 + 5 + 3 + 5, false));
        assert!(KeptHeaders::default().iter().next().is_none() && KeptHeaders::default().is_empty());
        assert_eq!(format!("{headers:?}"), r#"[("x-a", "1"), ("empty", ""), ("x-a", "ü, 2")]"#);
    }
}
