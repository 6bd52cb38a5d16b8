//! Subscribing to a WebSub hub, and subscribing again before the lease ends: W3C WebSub §5.1 and §5.2. How it ends: `unsubscribe.rs`.
//!
//! What is asked for and what the hub has agreed to is the source's position, durable before the hub is asked. So a restart neither forgets a
//! lease nor asks twice for no reason. The hub's question whether we meant it is answered by the receiver, and the lease comes with it.

use super::hand::Hand;
use anyhow::{Context, bail, ensure};
use bellwire_egress::{Client, Request, Target};
use bellwire_model::{Recipe, Source, Subscription, Timestamp};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::time::Duration;

/// It looks at the wall clock at least so often, and whether the hub has agreed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A hub that took the request and asks nothing is asked again after this, and twice as long each time, up to
const UNANSWERED: Duration = Duration::from_secs(60);
const UNANSWERED_MAX: Duration = Duration::from_secs(6 * 3600);
/// A hub's word counts for so long after it was asked.
const AGREES_WITHIN: Duration = Duration::from_secs(3600);
/// A lease is renewed after this part of it, and never believed to be longer than
const RENEWED_AFTER: f64 = 2.0 / 3.0;
const LEASE_MAX: Duration = Duration::from_secs(90 * 24 * 3600);
const DEADLINE: Duration = Duration::from_secs(30);
/// `hub.secret` is shorter, says the specification.
const SECRET_BYTES_MAX: usize = 199;
/// Of what a hub says why it denies, so many characters are kept.
const REASON_MAX: usize = 200;

/// What was asked for, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Position {
    hub: String,
    topic: String,
    callback: String,
    /// Unix seconds.
    asked_at: i64,
    /// So often, since the hub last agreed.
    tries: u32,
    /// Of the subscription that the hub has agreed to, Unix seconds.
    renew_at: Option<i64>,
    until: Option<i64>,
    /// Why the hub will not send, since it said so last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    denied: Option<String>,
}

impl Position {
    /// The hub has agreed, at `now`, for `lease`; `None` if it was not asked lately.
    pub(crate) fn agreed(mut self, lease: Duration, now: Timestamp) -> Option<Position> {
        let asked = Timestamp::from_seconds(self.asked_at);
        if self.tries == 0 || now > asked.plus(AGREES_WITHIN) {
            return None;
        }
        let lease = lease.clamp(Duration::from_secs(1), LEASE_MAX);
        (self.tries, self.denied) = (0, None);
        self.renew_at = Some(now.plus(lease.mul_f64(RENEWED_AFTER)).as_seconds());
        self.until = Some(now.plus(lease).as_seconds());
        Some(self)
    }

    /// The hub has denied it, at `now`: it is asked again as one that says nothing. `None` if there is nothing that it could deny.
    pub(crate) fn denied(mut self, reason: &str, now: Timestamp) -> Option<Position> {
        let was_asked = self.tries > 0 && now <= Timestamp::from_seconds(self.asked_at).plus(AGREES_WITHIN);
        let has_lease = self.until.is_some_and(|until| Timestamp::from_seconds(until) > now);
        if !was_asked && !has_lease {
            return None;
        }
        if self.tries == 0 {
            (self.tries, self.asked_at) = (1, now.as_seconds());
        }
        (self.renew_at, self.until) = (None, None);
        self.denied = Some(reason.chars().take(REASON_MAX).collect());
        Some(self)
    }

    fn is_of(&self, wanted: &Subscription) -> bool {
        self.hub == wanted.hub && self.topic == wanted.topic && self.callback == wanted.callback
    }

    /// Until when the hub sends what is not wanted any more at `now`: `None` if it has not agreed, or to something else.
    pub(super) fn lease_of(&self, ended: &Subscription, now: Timestamp) -> Option<Timestamp> {
        let until = self.until.map(Timestamp::from_seconds).filter(|until| *until > now)?;
        self.is_of(ended).then_some(until)
    }

    /// What is left of it when the subscription has ended with us: nothing that a later one could go on from.
    pub(super) fn ended(self) -> Position {
        Position { tries: 0, renew_at: None, until: None, denied: None, ..self }
    }
}

/// Whether a source subscribes by itself.
pub(crate) fn subscribes(source: &Source) -> bool {
    source.way.is_http()
        && matches!(&source.recipe, Recipe::Preset(name) if name == "websub")
        && source.settings.get("hub").is_some_and(|hub| !hub.is_empty())
}

/// The subscription that a source is to have, if it subscribes by itself; one that is disabled, too: it is only not renewed.
pub(crate) fn wanted(source: &Source) -> Option<Subscription> {
    let setting = |name: &str| source.settings.get(name).cloned().unwrap_or_default();
    let callback = source.url.clone().filter(|_| subscribes(source))?;
    Some(Subscription { hub: setting("hub"), topic: setting("topic"), callback })
}

/// What is wrong with the settings of a source that subscribes by itself: the way to it, and what would be right.
pub(crate) fn check(source: &Source, now: Timestamp) -> Vec<(Vec<&'static str>, String)> {
    let mut faults = Vec::new();
    if !subscribes(source) {
        return faults;
    }
    let hub = source.settings.get("hub").map_or("", String::as_str);
    if Target::parse(hub).is_err() {
        faults.push((
            vec!["settings", "hub"],
            "`hub` is the URL of the hub, such as https://hub.example.com/".to_owned(),
        ));
    }
    if source.url.is_none() {
        let text = "`url` is needed to subscribe: the hub is given it as the callback, and posts to it";
        faults.push((vec!["url"], text.to_owned()));
    }
    if lease(source).is_none() {
        let text = format!("`lease_seconds` is between 60 and {}", LEASE_MAX.as_secs());
        faults.push((vec!["settings", "lease_seconds"], text));
    }
    if source.secrets_at(now).next().is_some_and(|secret| secret.len() > SECRET_BYTES_MAX) {
        let text = format!("a hub takes a secret of at most {SECRET_BYTES_MAX} bytes");
        faults.push((vec!["secrets"], text));
    }
    faults
}

fn lease(source: &Source) -> Option<u64> {
    let Some(text) = source.settings.get("lease_seconds") else { return Some(864_000) };
    text.parse().ok().filter(|seconds| (60..=LEASE_MAX.as_secs()).contains(seconds))
}

/// When the hub is to be asked next.
fn due(position: Option<&Position>, wanted: &Subscription) -> Timestamp {
    let Some(position) = position.filter(|position| position.is_of(wanted)) else { return Timestamp::EPOCH };
    let asked = Timestamp::from_seconds(position.asked_at);
    match (position.tries, position.renew_at) {
        (0, Some(renew)) => Timestamp::from_seconds(renew),
        (0, None) => Timestamp::EPOCH,
        (tries, _) => asked.plus((UNANSWERED * (1 << (tries - 1).min(16))).min(UNANSWERED_MAX)),
    }
}

/// As it is once the hub is asked at `now`.
fn asking(before: Option<Position>, wanted: &Subscription, now: Timestamp) -> Position {
    let before = before.filter(|position| position.is_of(wanted));
    Position {
        hub: wanted.hub.clone(),
        topic: wanted.topic.clone(),
        callback: wanted.callback.clone(),
        asked_at: now.as_seconds(),
        tries: before.as_ref().map_or(0, |before| before.tries).saturating_add(1),
        renew_at: before.as_ref().and_then(|before| before.renew_at),
        until: before.as_ref().and_then(|before| before.until),
        denied: before.and_then(|before| before.denied),
    }
}

pub(super) async fn run(hand: &Hand) -> anyhow::Result<Infallible> {
    let source = hand.source();
    let wanted = wanted(source).context("`url` is needed to subscribe")?;
    let lease_seconds = lease(source).context("`lease_seconds` cannot be read")?;
    let mut told: Option<String> = None;
    loop {
        let position = read(hand).await?;
        let (now, due) = (hand.wall(), due(position.as_ref(), &wanted));
        if due > now {
            match position.as_ref().and_then(|position| position.denied.as_deref()) {
                None => {
                    hand.ran(Some(due), None);
                    told = None;
                }
                Some(reason) if told.as_deref() == Some(reason) => {}
                Some(reason) => {
                    tracing::warn!(source.id = %source.id, reason, "the hub has denied the source's subscription");
                    hand.ran(Some(due), None);
                    let text = format!("the hub has denied the subscription: {reason}");
                    hand.states().failed(source.key, source.way.name(), hand.now(), text);
                    told = Some(reason.to_owned());
                }
            }
            tokio::time::sleep(due.since(now).min(LOOK_AGAIN)).await;
            continue;
        }
        // First: the hub may ask back before it answers.
        if !begin(hand, &wanted).await? {
            tokio::time::sleep(LOOK_AGAIN).await;
            continue;
        }
        subscribe(hand, &wanted, lease_seconds).await?;
        tracing::info!(source.id = %source.id, "the hub was asked for the source's subscription");
    }
}

async fn read(hand: &Hand) -> anyhow::Result<Option<Position>> {
    match hand.position().await? {
        Some(text) => serde_json::from_str(&text).context("its position cannot be read"),
        None => Ok(None),
    }
}

/// Keeps that the hub is asked now; `false` if it need not be, or the source is another by now. One at a time with whoever else moves the
/// position or ends the subscription.
async fn begin(hand: &Hand, wanted: &Subscription) -> anyhow::Result<bool> {
    let _one_at_a_time = hand.configuration().await;
    let (position, now) = (read(hand).await?, hand.wall());
    if !hand.is_current() || due(position.as_ref(), wanted) > now {
        return Ok(false);
    }
    hand.move_to(serde_json::to_string(&asking(position, wanted, now))?).await?;
    Ok(true)
}

async fn subscribe(hand: &Hand, wanted: &Subscription, lease_seconds: u64) -> anyhow::Result<()> {
    let lease = lease_seconds.to_string();
    let mut more = vec![("hub.lease_seconds", lease.as_str())];
    more.extend(hand.source().secrets_at(hand.now()).next().map(|secret| ("hub.secret", secret)));
    ask(hand.client(), wanted, "subscribe", &more).await
}

/// Asks a hub to subscribe or unsubscribe. What it says to that it says later, to the callback.
///
/// # Errors
/// The hub was not reached, or has refused.
pub(super) async fn ask(
    client: &Client,
    subscription: &Subscription,
    mode: &str,
    more: &[(&str, &str)],
) -> anyhow::Result<()> {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("hub.callback", &subscription.callback)
        .append_pair("hub.mode", mode)
        .append_pair("hub.topic", &subscription.topic)
        .extend_pairs(more)
        .finish();
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    let request = Request {
        method: Method::POST,
        target: Target::parse(&subscription.hub).context("the hub's URL cannot be called")?,
        headers,
        body: form.into(),
        deadline: DEADLINE,
        response_body_max: 4 << 10,
    };
    let response = match client.exchange(request).await {
        Ok(response) => response,
        Err(error) => bail!("the hub was not reached: {}", error.customer_text()),
    };
    let said = String::from_utf8_lossy(&response.body);
    let said: String = said.chars().filter(|c| !c.is_control()).take(200).collect();
    ensure!((200..300).contains(&response.status), "the hub answered {}: {said}", response.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Subscription {
        Subscription {
            hub: "https://hub.example/".to_owned(),
            topic: "https://a.example/feed".to_owned(),
            callback: "https://hooks.example/in/x".to_owned(),
        }
    }

    fn asked(at: i64, tries: u32) -> Position {
        let Subscription { hub, topic, callback } = wanted();
        Position { hub, topic, callback, asked_at: at, tries, renew_at: None, until: None, denied: None }
    }

    fn seconds(at: i64) -> Timestamp {
        Timestamp::from_seconds(at)
    }

    #[test]
    fn a_hub_is_asked_at_once_and_again_when_it_says_nothing_and_before_the_lease_ends() {
        let check =
            |position: Option<&Position>, expected: i64| assert_eq!(due(position, &wanted()), seconds(expected));
        check(None, 0);
        check(Some(&asked(1_000, 1)), 1_060);
        check(Some(&asked(1_000, 3)), 1_240);
        check(Some(&asked(1_000, 60)), 1_000 + 6 * 3600);
        let agreed = asked(1_000, 2).agreed(Duration::from_secs(300), seconds(1_010)).expect("was asked");
        assert_eq!((agreed.renew_at, agreed.until), (Some(1_210), Some(1_310)));
        check(Some(&agreed), 1_210);
        // Another topic is another subscription.
        let other = Position { topic: "https://b.example/feed".to_owned(), ..agreed.clone() };
        check(Some(&other), 0);
        // Asked again, and no answer: the old lease goes on meanwhile.
        check(Some(&Position { asked_at: 1_210, tries: 1, ..agreed }), 1_270);
    }

    #[test]
    fn a_hub_that_denies_is_asked_again_later_and_less_often() {
        let denied = asked(1_000, 3).denied("not you", seconds(1_005)).expect("was asked");
        assert_eq!(denied.denied.as_deref(), Some("not you"));
        assert_eq!(due(Some(&denied), &wanted()), seconds(1_240));
        // Later it may think better of it.
        let agreed = denied.agreed(Duration::from_secs(300), seconds(1_250)).expect("was asked");
        assert_eq!((agreed.denied.as_deref(), agreed.until), (None, Some(1_550)));
        // A lease can be taken back, but only one that goes on.
        let back = agreed.clone().denied("", seconds(1_300)).expect("has a lease");
        assert_eq!((back.until, due(Some(&back), &wanted())), (None, seconds(1_360)));
        assert_eq!(agreed.denied("", seconds(9_999)), None);
        assert_eq!(asked(1_000, 1).denied("late", seconds(9_999)), None);
    }

    #[test]
    fn only_a_lease_that_goes_on_is_to_be_ended_and_nothing_goes_on_from_it() {
        let agreed = asked(1_000, 1).agreed(Duration::from_secs(300), seconds(1_010)).expect("was asked");
        assert_eq!(agreed.lease_of(&wanted(), seconds(1_309)), Some(seconds(1_310)));
        assert_eq!(agreed.lease_of(&wanted(), seconds(1_310)), None);
        let other = Subscription { hub: "https://other.example/".to_owned(), ..wanted() };
        assert_eq!(agreed.lease_of(&other, seconds(1_100)), None);
        assert_eq!(asked(1_000, 1).lease_of(&wanted(), seconds(1_001)), None, "the hub has not agreed");
        // It is asked again by itself while the old lease goes on.
        let asked_again = asking(Some(agreed.clone()), &wanted(), seconds(1_210));
        assert_eq!(asked_again.lease_of(&wanted(), seconds(1_211)), Some(seconds(1_310)));
        let ended = agreed.ended();
        assert_eq!((due(Some(&ended), &wanted()), ended.lease_of(&wanted(), seconds(1_100))), (seconds(0), None));
        assert_eq!(ended.agreed(Duration::from_secs(300), seconds(1_020)), None, "it was asked for before");
    }

    #[test]
    fn a_word_that_was_not_asked_for_moves_nothing() {
        let agreed = asked(1_000, 1).agreed(Duration::from_secs(60), seconds(1_001)).expect("was asked");
        assert_eq!(agreed.clone().agreed(Duration::from_secs(9_999_999), seconds(1_002)), None);
        assert_eq!(asked(1_000, 1).agreed(Duration::from_secs(60), seconds(1_000 + 3_601)), None);
        let long = asked(1_000, 1).agreed(Duration::MAX, seconds(1_001)).expect("was asked");
        assert_eq!(long.until, Some(1_001 + 90 * 86_400));
    }
}
