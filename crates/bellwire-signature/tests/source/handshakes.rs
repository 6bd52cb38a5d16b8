//! Every question that senders ask, with its right answer, and what is not answered.

use bellwire_signature::source::{ECHO_BYTES_MAX, HubWord, Reply, Supplied, Then, Verifier, preset};

use crate::request::Case;

const SECRET: &str = "a long enough secret";

struct Asked {
    verifier: Verifier,
    case: Case,
}

fn ask(name: &'static str, secrets: &[&str], settings: &[(&str, &str)]) -> Asked {
    let supplied = Supplied {
        secrets: secrets.iter().map(|secret| (*secret).to_owned().into()).collect(),
        settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Supplied::default()
    };
    let recipe = &preset(name).expect("a preset").recipe;
    let verifier = Verifier::new(recipe, &supplied).unwrap_or_else(|faults| panic!("{name}: {faults:?}"));
    Asked { verifier, case: Case::new(name, recipe.clone(), "") }
}

impl Asked {
    fn get(mut self, query: &str) -> Asked {
        self.case.method = "GET".to_owned();
        self.case.url = format!("https://hooks.example.com/in/k3?{query}");
        self
    }

    fn method(mut self, method: &str) -> Asked {
        self.case.method = method.to_owned();
        self
    }

    fn header(mut self, name: &str, value: &str) -> Asked {
        self.case = self.case.header(name, value);
        self
    }

    fn body(mut self, body: &str) -> Asked {
        self.case = self.case.body(body);
        self
    }

    fn reply(&self, verified: bool) -> Option<Reply> {
        self.case.with_request(|request| self.verifier.handshake(request, verified))
    }

    /// Answered before it is verified, and only then; or after, and only then.
    #[track_caller]
    fn answers(&self, verified: bool, status: u16, body: &str) -> Reply {
        assert_eq!(self.reply(!verified), None);
        let reply = self.reply(verified).expect("an answer");
        assert_eq!((reply.status, String::from_utf8_lossy(&reply.body).as_ref()), (status, body));
        let of = |name: &str| reply.headers.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str());
        assert_eq!(of("X-Content-Type-Options"), Some("nosniff"));
        let is_json = of("Content-Type") == Some("application/json");
        assert!(is_json || of("Content-Type") == Some("text/plain; charset=utf-8"));
        assert!(!is_json || serde_json::from_slice::<serde_json::Value>(&reply.body).is_ok());
        reply
    }

    #[track_caller]
    fn is_not_answered(&self) {
        assert_eq!((self.reply(false), self.reply(true)), (None, None));
    }
}

#[test]
fn slack() {
    ask("slack", &[SECRET], &[]).body(r#"{"type":"url_verification","challenge":"3eZbrw1a<script>"}"#).answers(
        true,
        200,
        "3eZbrw1a<script>",
    );
    ask("slack", &[SECRET], &[]).body(r#"{"type":"event_callback","challenge":"x"}"#).is_not_answered();
    ask("slack", &[SECRET], &[]).body("command=%2Fx").is_not_answered();
}

#[test]
fn meta() {
    let meta = || ask("meta", &[SECRET], &[("verify_token", "t0ken")]);
    meta().get("hub.mode=subscribe&hub.verify_token=t0ken&hub.challenge=1158201444").answers(false, 200, "1158201444");
    meta().get("hub.mode=subscribe&hub.verify_token=t0keN&hub.challenge=1").answers(false, 403, "");
    meta().get("hub.mode=subscribe&hub.challenge=1").answers(false, 403, "");
    meta().get("hub.mode=unsubscribe&hub.verify_token=t0ken&hub.challenge=1").answers(false, 403, "");
    meta().get("").is_not_answered();
    let posted = meta().get("hub.mode=subscribe&hub.verify_token=t0ken&hub.challenge=1").method("POST");
    posted.is_not_answered();
}

#[test]
fn websub() {
    let websub = || ask("websub", &[SECRET], &[("topic", "https://a.example/feed")]);
    let with = |mode: &str, topic: &str| {
        websub().get(&format!("hub.mode={mode}&hub.topic={topic}&hub.challenge=c&hub.lease_seconds=864000"))
    };
    with("subscribe", "https%3A%2F%2Fa.example%2Ffeed").answers(false, 200, "c");
    with("unsubscribe", "https%3A%2F%2Fa.example%2Ffeed").answers(false, 200, "c");
    with("subscribe", "https%3A%2F%2Fa.example%2Fother").answers(false, 404, "");
    let denied = with("denied", "https%3A%2F%2Fa.example%2Ffeed&hub.reason=no+more+feeds").answers(false, 200, "");
    assert_eq!(denied.then, Some(Then::Denied("no more feeds".to_owned())));
    with("denied", "https%3A%2F%2Fa.example%2Fother").answers(false, 404, "");
    with("publish", "https%3A%2F%2Fa.example%2Ffeed").answers(false, 404, "");
    // Who asks hubs itself has not asked for the end of what it wants.
    let own = [("topic", "https://a.example/feed"), ("hub", "https://hub.example/")];
    let own = |mode: &str| {
        let query = format!("hub.mode={mode}&hub.topic=https%3A%2F%2Fa.example%2Ffeed&hub.challenge=c");
        ask("websub", &[SECRET], &own).get(&query)
    };
    own("subscribe").answers(false, 200, "c");
    own("unsubscribe").answers(false, 404, "");
}

#[test]
fn what_a_hub_says_of_an_ended_subscription_is_read_from_a_get_alone() {
    let read = |method: &str, query: &str| HubWord::read(method, &format!("/in/k3?{query}"));
    let end = "hub.mode=unsubscribe&hub.topic=https%3A%2F%2Fa.example%2Ffeed%3Fx%3D1&hub.challenge=c+1";
    let word = read("GET", end).expect("the end of a subscription");
    let agreed = word.agree();
    assert_eq!((word.topic(), agreed.status, agreed.body.as_slice()), ("https://a.example/feed?x=1", 200, &b"c 1"[..]));
    assert!(agreed.headers.contains(&("X-Content-Type-Options", "nosniff".to_owned())), "{agreed:?}");
    let denied = read("GET", "hub.mode=denied&hub.topic=t&hub.reason=x").expect("a denial");
    assert_eq!((denied.topic(), denied.agree().status, denied.agree().body.len()), ("t", 200, 0));
    assert_eq!(read("POST", end), None);
    for query in [
        "hub.mode=subscribe&hub.topic=t&hub.challenge=c",
        "hub.mode=unsubscribe&hub.topic=t",
        "hub.mode=unsubscribe&hub.challenge=c",
        "hub.topic=t&hub.challenge=c",
        "hub.mode=unsubscribe&hub.topic=t&hub.challenge=%0d%0a",
        "hub.mode=unsubscribe&hub.topic=t&hub.topic=u&hub.challenge=c",
    ] {
        assert_eq!(read("GET", query), None, "{query}");
    }
    let long = "x".repeat(ECHO_BYTES_MAX + 1);
    assert_eq!(read("GET", &format!("hub.mode=unsubscribe&hub.topic=t&hub.challenge={long}")), None);
}

/// The HMACs are `openssl dgst -sha256 -hmac "a long enough secret"`.
#[test]
fn zoom_and_x_want_an_hmac() {
    ask("zoom", &[SECRET, "an older enough secret"], &[])
        .body(r#"{"event":"endpoint.url_validation","payload":{"plainToken":"qgg8vlvZRS6UYooatFL8Aw"}}"#)
        .answers(true, 200, r#"{"plainToken":"qgg8vlvZRS6UYooatFL8Aw","encryptedToken":"34ae3ed1506936a2107209c57c9d5c9a08e6018fca8e963beeef8ccc37db5257"}"#);
    ask("zoom", &[SECRET], &[]).body(r#"{"event":"meeting.started","payload":{"plainToken":"x"}}"#).is_not_answered();
    ask("x", &[SECRET], &[]).get("crc_token=abc&nonce=1").answers(
        false,
        200,
        r#"{"response_token":"sha256=pK9CSHJ6vcXEWWXo7rQLrkIrYdNk2cZlJ7QLVu1ZmwU="}"#,
    );
}

#[test]
fn challenges_are_echoed() {
    ask("dropbox", &[SECRET], &[]).get("challenge=abc").answers(false, 200, "abc");
    ask("okta", &[SECRET], &[]).get("").header("X-Okta-Verification-Challenge", "a\"b\\c").answers(
        false,
        200,
        r#"{"verification":"a\"b\\c"}"#,
    );
    ask("microsoft-graph", &[SECRET], &[]).get("validationToken=Validation%3A+a%20b").method("POST").answers(
        false,
        200,
        "Validation: a b",
    );
    let twitch = |kind: &str| {
        ask("twitch", &[SECRET], &[]).header("Twitch-Eventsub-Message-Type", kind).body(r#"{"challenge":"pogchamp"}"#)
    };
    twitch("webhook_callback_verification").answers(true, 200, "pogchamp");
    twitch("notification").is_not_answered();
    let grid = |kind: &str, body: &str| ask("event-grid", &[SECRET], &[]).header("aeg-event-type", kind).body(body);
    let list = r#"[{"data":{"validationCode":"512d38b6"}}]"#;
    grid("SubscriptionValidation", list).answers(true, 200, r#"{"validationResponse":"512d38b6"}"#);
    grid("SubscriptionValidation", &list[1..list.len() - 1]).answers(true, 200, r#"{"validationResponse":"512d38b6"}"#);
    grid("Notification", list).is_not_answered();
}

#[test]
fn sns_subscriptions_are_confirmed_at_amazon_only() {
    let with = |kind: &str, url: &str| {
        let body = format!(r#"{{"Type":"{kind}","SubscribeURL":"{url}"}}"#);
        ask("aws-sns", &[], &[("topic_arn", "arn:aws:sns:us-east-1:1:orders")]).body(&body)
    };
    let url = "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&Token=x";
    let reply = with("SubscriptionConfirmation", url).answers(true, 200, "");
    assert_eq!(reply.then, Some(Then::Fetch(url.to_owned())));
    for url in [
        "https://evil.example/",
        "http://sns.us-east-1.amazonaws.com/",
        "https://sns.us-east-1.amazonaws.com@evil.example/",
    ] {
        assert_eq!(with("SubscriptionConfirmation", url).answers(true, 403, "").then, None);
    }
    with("UnsubscribeConfirmation", url).is_not_answered();
    with("Notification", url).is_not_answered();
}

#[test]
fn discord() {
    let key = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    let with = |body: &str| ask("discord", &[key], &[]).body(body);
    with(r#"{"id":"1","type":1}"#).answers(true, 200, r#"{"type":1}"#);
    with(r#"{"version":1,"type":0}"#).answers(true, 204, "");
    with(r#"{"version":1,"type":1,"event":{"type":"APPLICATION_AUTHORIZED"}}"#).is_not_answered();
    with(r#"{"id":"1","type":2}"#).is_not_answered();
}

#[test]
fn cloudevents() {
    let with = |origin: &'static str| {
        ask("cloudevents", &[SECRET], &[("origin", origin), ("rate", "120")])
            .method("OPTIONS")
            .header("WebHook-Request-Origin", "eventemitter.example.com")
    };
    for origin in ["*", "eventemitter.example.com"] {
        let reply = with(origin).answers(false, 200, "");
        let of = |name: &str| reply.headers.iter().find(|(other, _)| *other == name).map(|(_, value)| value.as_str());
        assert_eq!(of("WebHook-Allowed-Origin"), Some("eventemitter.example.com"));
        assert_eq!(of("WebHook-Allowed-Rate"), Some("120"));
    }
    let without = ask("cloudevents", &[SECRET], &[("origin", "*")]).method("OPTIONS");
    let asked = without.header("WebHook-Request-Origin", "a.example").header("WebHook-Request-Rate", "1000");
    let reply = asked.answers(false, 200, "");
    assert!(reply.headers.contains(&("WebHook-Allowed-Rate", "*".to_owned())), "{reply:?}");
    let reply = with("other.example").answers(false, 403, "");
    assert!(reply.headers.iter().all(|(name, _)| !name.starts_with("WebHook")));
    with("*").method("POST").is_not_answered();
}

#[test]
fn a_secret_is_taken_only_as_long_as_there_is_none() {
    let notion =
        |secrets: &[&str]| ask("notion", secrets, &[]).body(r#"{"verification_token":"secret_tMrlL1qK5vuQAh1b"}"#);
    let reply = notion(&[]).answers(false, 200, "");
    assert_eq!(reply.then, Some(Then::StoreSecret("secret_tMrlL1qK5vuQAh1b".to_owned().into())));
    assert!(!format!("{reply:?}").contains("tMrlL1qK5vuQAh1b"));
    notion(&[SECRET]).is_not_answered();
    let asana =
        |secrets: &[&str]| ask("asana", secrets, &[]).header("X-Hook-Secret", "b537207f20cbfa02357cf448134da559");
    let reply = asana(&[]).answers(false, 200, "");
    assert_eq!(reply.then, Some(Then::StoreSecret("b537207f20cbfa02357cf448134da559".to_owned().into())));
    assert!(reply.headers.contains(&("X-Hook-Secret", "b537207f20cbfa02357cf448134da559".to_owned())));
    asana(&[SECRET]).is_not_answered();
    // Until then nothing verifies.
    let waiting = ask("asana", &[], &[]).header("X-Hook-Signature", &"0".repeat(64));
    assert!(waiting.case.verify_with(&waiting.verifier).is_err());
}

#[test]
fn a_plain_yes() {
    for name in ["trello", "intercom"] {
        ask(name, &[SECRET], &[]).method("HEAD").answers(false, 200, "");
        ask(name, &[SECRET], &[]).is_not_answered();
    }
    ask("xero", &[SECRET], &[]).body(r#"{"events":[],"firstEventSequence":0}"#).answers(true, 200, "");
    ask("xero", &[SECRET], &[]).body(r#"{"events":[{}]}"#).is_not_answered();
    ask("github", &[SECRET], &[]).header("X-GitHub-Event", "ping").answers(true, 200, "");
    ask("github", &[SECRET], &[]).header("X-GitHub-Event", "push").is_not_answered();
}

#[test]
fn what_is_echoed_is_short_and_without_control_characters() {
    let dropbox = |challenge: &str| ask("dropbox", &[SECRET], &[]).get(&format!("challenge={challenge}"));
    dropbox(&"x".repeat(ECHO_BYTES_MAX)).answers(false, 200, &"x".repeat(ECHO_BYTES_MAX));
    dropbox(&"x".repeat(ECHO_BYTES_MAX + 1)).is_not_answered();
    dropbox("").is_not_answered();
    dropbox("a%0d%0ab").is_not_answered();
    dropbox("a&challenge=b").is_not_answered();
}

#[test]
fn other_senders_questions_are_not_answered() {
    for name in ["stripe", "hmac-sha256", "bearer", "none"] {
        let secrets: &[&str] = if name == "none" { &[] } else { &[SECRET] };
        let asked = ask(name, secrets, &[]).get("challenge=a&hub.mode=subscribe&hub.challenge=b&crc_token=c");
        asked.header("X-Hook-Secret", "s").body(r#"{"type":"url_verification","challenge":"x"}"#).is_not_answered();
    }
}
