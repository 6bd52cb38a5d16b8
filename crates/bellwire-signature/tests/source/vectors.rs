//! What providers and standards have published: inputs, and the signatures that they must have. Each is verified as it is, and with every
//! single bit of it changed; what else is to be said of a sender's scheme follows.

use base64::{Engine, prelude::BASE64_STANDARD};
use bellwire_signature::source::Refusal;
use ed25519_dalek::SigningKey;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use crate::{
    request::{Case, recipe},
    vector::{Changed, Vector, Written},
};

#[test]
fn every_published_vector_verifies_and_none_with_one_bit_changed() {
    let senders = [
        standard_webhooks(),
        bodies_alone(),
        three_hashes_of_one_body(),
        bodies_with_headers(),
        bodies_with_urls(),
        bodies_in_parts(),
        http_messages(),
        content_digests(),
    ]
    .into_iter()
    .flatten();
    let senders: Vec<Vector> = senders.collect();
    let standards: Vec<Vector> = rfc_4231().into_iter().chain(rfc_8032()).collect();
    assert_eq!((senders.len(), standards.len()), (33, 21));
    let mut all = Changed::default();
    for vector in senders.iter().chain(&standards) {
        let changed = vector.check();
        assert!(changed.signature > 0 && changed.key > 0, "{}: {changed:?}", vector.source);
        all = all.plus(changed);
    }
    assert_eq!(all, CHANGED, "so that nothing is left out unnoticed");
}

/// How often one bit of all of them is changed: of what it says, and of the text that it is written as.
const CHANGED: Changed = Changed { body: 42_248, signature: 49_760, key: 36_375, time: 5_672, beside: 6_952 };

/// Standard Webhooks: its libraries, svix-bridge, svix-docs, svix-server.
fn standard_webhooks() -> Vec<Vector> {
    let vector = |source, id: &str, time: i64, body: &str, secret: &str, signature: (&str, &str)| {
        let (version, signature) = signature;
        let case = Case::preset("standard-webhooks", secret).body(body).at(time + 1);
        let case = case.header("webhook-id", id).header("webhook-timestamp", &time.to_string());
        let case = case.header("webhook-signature", &format!("{version},{signature}"));
        let vector = Vector::new(source, case, signature, Written::Base64).time(time).signed_headers(&["webhook-id"]);
        vector.key(Written::Prefixed(if version == "v1" { "whsec_" } else { "whpk_" }))
    };
    vec![
        vector(
            "the library for Rust; svix-bridge",
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            1_649_367_553,
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            ("v1", "tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="),
        ),
        vector(
            "the other libraries; svix-server",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            ("v1", "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        ),
        vector(
            "svix-docs, \"How to verify webhooks manually\"",
            "msg_loFOjxBNrRLzqYUf",
            1_731_705_121,
            r#"{"event_type":"ping","data":{"success":true}}"#,
            "whsec_plJ3nmyCDGBKInavdOK15jsl",
            ("v1", "rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0="),
        ),
        vector(
            "svix-server, worker.rs",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
            "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
            ("v1a", "hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="),
        ),
    ]
}

/// GitHub, "Validating webhook deliveries"; octokit/webhooks-methods.js; Bitbucket, "Manage webhooks"; Notion; LINE; PagerDuty/go-pagerduty,
/// `webhookv3_test.go`.
fn bodies_alone() -> Vec<Vector> {
    let everybody = "It's a Secret to Everybody";
    let vector = |preset, secret: &str, body: &str, header: &str, (prefix, signature): (&str, &str), written| {
        let case = Case::preset(preset, secret).body(body).header(header, &format!("{prefix}{signature}"));
        Vector::new(preset, case, signature, written)
    };
    vec![
        vector(
            "github",
            everybody,
            "Hello, World!",
            "X-Hub-Signature-256",
            ("sha256=", "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"),
            Written::Hex,
        ),
        vector(
            "github",
            "mysecret",
            r#"{"foo":"bar"}"#,
            "X-Hub-Signature-256",
            ("sha256=", "4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3"),
            Written::Hex,
        ),
        vector(
            "bitbucket",
            everybody,
            "Hello World!",
            "X-Hub-Signature",
            ("sha256=", "a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9"),
            Written::Hex,
        ),
        vector(
            "notion",
            "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl",
            r#"{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}"#,
            "X-Notion-Signature",
            ("sha256=", "461e8cbcba8a75c3edd866f0e71280f5a85cbf21eff040ebd10fe266df38a735"),
            Written::Hex,
        ),
        vector(
            "line",
            "8c570fa6dd201bb328f1c1eac23a96d8",
            r#"{"destination":"U8e742f61d673b39c7fff3cecb7536ef0","events":[]}"#,
            "x-line-signature",
            ("", "GhRKmvmHys4Pi8DxkF4+EayaH0OqtJtaZxgTD9fMDLs="),
            Written::Base64,
        ),
        vector("pagerduty", PAGERDUTY.0, PAGERDUTY.1, "X-PagerDuty-Signature", ("v1=", PAGERDUTY.2), Written::Hex),
    ]
}

const PAGERDUTY: (&str, &str, &str) = (
    "lDQHScfUeXUKaQRNF+8XIiDKZ7XX3itBAYzwU0TARw8lJqRnkKl2iB1anSb0Z+IK",
    r#"{"event":{"id":"01BWDWL3NYY7LUFPZCC28QUCMK","event_type":"incident.priority_updated","resource_type":"incident","occurred_at":"2021-04-26T17:36:27.458Z","agent":{"html_url":"https://acme.pagerduty.com/users/PLH1HKV","id":"PLH1HKV","self":"https://api.pagerduty.com/users/PLH1HKV","summary":"Tenex Engineer","type":"user_reference"},"client":null,"data":{"id":"PGR0VU2","type":"incident","self":"https://api.pagerduty.com/incidents/PGR0VU2","html_url":"https://acme.pagerduty.com/incidents/PGR0VU2","number":2,"status":"triggered","title":"A little bump in the road","service":{"html_url":"https://acme.pagerduty.com/services/PF9KMXH","id":"PF9KMXH","self":"https://api.pagerduty.com/services/PF9KMXH","summary":"API Service","type":"service_reference"},"assignees":[{"html_url":"https://acme.pagerduty.com/users/PTUXL6G","id":"PTUXL6G","self":"https://api.pagerduty.com/users/PTUXL6G","summary":"User 123","type":"user_reference"}],"escalation_policy":{"html_url":"https://acme.pagerduty.com/escalation_policies/PUS0KTE","id":"PUS0KTE","self":"https://api.pagerduty.com/escalation_policies/PUS0KTE","summary":"Default","type":"escalation_policy_reference"},"teams":[{"html_url":"https://acme.pagerduty.com/teams/PFCVPS0","id":"PFCVPS0","self":"https://api.pagerduty.com/teams/PFCVPS0","summary":"Engineering","type":"team_reference"}],"priority":{"html_url":"https://acme.pagerduty.com/account/incident_priorities","id":"PSO75BM","self":"https://api.pagerduty.com/priorities/PSO75BM","summary":"P1","type":"priority_reference"},"urgency":"high","conference_bridge":{"conference_number":1000,"conference_url":"https://example.com"},"resolve_reason":null}}}"#,
    "0c0b9495b893a39e70d1fea2fe11fbe0a825f88b9f67846f6cc07dd2bc5476cd",
);

/// adnanh/webhook, `hook_test.go`.
fn three_hashes_of_one_body() -> Vec<Vector> {
    let vector = |algorithm, signature| {
        let way = format!(r#"{{"algorithm":"{algorithm}","signed":"{{body}}","signature":{{"field":"header:X-S"}}}}"#);
        let case = Case::new(algorithm, recipe(&way), "secret").body(r#"{"a": "z"}"#).header("X-S", signature);
        Vector::new("adnanh/webhook", case, signature, Written::Hex)
    };
    vec![
        vector("hmac-sha1", "b17e04cbb22afa8ffbff8796fc1894ed27badd9e"),
        vector("hmac-sha256", "f417af3a21bd70379b5796d5f013915e7029f62c580fb0f500f59a35a6f04c89"),
        vector(
            "hmac-sha512",
            "4ab17cc8ec668ead8bf498f87f8f32848c04d5ca3c9bcfcd3db9363f0deb44e580b329502a7fdff633d4d8fca301cc5c94a55a2fec458c\
             675fb0ff2655898324",
        ),
    ]
}

fn slack() -> Case {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
        &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
        &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let case = Case::preset("slack", "8f742231b10e8888abcd99yyyzzz85a5").body(body).at(1_531_420_618 + 200);
    let case = case.header("Content-Type", "application/x-www-form-urlencoded");
    let case = case.header("X-Slack-Request-Timestamp", "1531420618");
    case.header("X-Slack-Signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503")
}

fn paddle(body: &str, header: &str) -> Case {
    Case::preset("paddle", "VALID_SECRET").body(body).at(1_698_796_804).header("Paddle-Signature", header)
}

const PADDLE: [&str; 2] = [
    "a300428748dce5c70e4da19bffd60769591ea969c99dea3105d0ec9612cf43f9",
    "28981e941fae76e53db32f3d2a83cb69db41476595e84e1970a1b5d98f62b261",
];

fn sendgrid() -> Case {
    let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
    let body = "[{\"email\":\"hello@world.com\",\"event\":\"dropped\",\"reason\":\"Bounced Address\",\"sg_event_id\":\"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA\",\"sg_message_id\":\"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0\",\"smtp-id\":\"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>\",\"timestamp\":1600112492}]\r\n";
    let case = Case::preset("sendgrid", key).body(body).at(1_600_112_502);
    let case = case.header("X-Twilio-Email-Event-Webhook-Timestamp", "1600112502");
    case.header("X-Twilio-Email-Event-Webhook-Signature", SENDGRID)
}

const SENDGRID: &str =
    "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=";

/// Slack, "Verifying requests from Slack"; PaddleHQ/paddle-node-sdk, tests of its webhook validator; sendgrid/sendgrid-nodejs,
/// `eventwebhook.spec.js`; Scalr: adnanh/webhook, `hook_test.go`.
fn bodies_with_headers() -> Vec<Vector> {
    let hex = "a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    let paddle = |body, signature: &str| {
        let case = paddle(body, &format!("ts=1698796800;h1={signature}"));
        Vector::new("Paddle", case, signature, Written::Hex).time(1_698_796_800)
    };
    let key = "bilFGi4ZVZUdG+C6r0NIM9tuRq6PaG33R3eBUVhLwMAErGBaazvXe4Gq2DcJs5q+";
    let signature = "48e395e38ac48988929167df531eb2da00063a7d";
    let scalr = Case::preset("scalr", key).body(r#"{"a": "b"}"#).header("Date", "Thu 07 Sep 2017 06:30:04 UTC");
    let scalr = scalr.header("X-Signature", signature);
    vec![
        Vector::new("Slack", slack(), hex, Written::Hex).time(1_531_420_618),
        paddle(r#"{"data": ["1", "2"]}"#, PADDLE[0]),
        paddle(r#"{"data": "value"}"#, PADDLE[1]),
        Vector::new("SendGrid", sendgrid(), SENDGRID, Written::Base64)
            .key(Written::Base64)
            .time(1_600_112_502)
            .timeless(),
        Vector::new("Scalr", scalr, signature, Written::Hex).signed_headers(&["Date"]),
    ]
}

/// twilio/twilio-node, `validation.spec.ts`.
fn twilio(url: &str, body: &str, content_type: &str, signature: &str) -> Case {
    let case = Case::preset("twilio", "12345").url(url).body(body).header("Content-Type", content_type);
    case.header("X-Twilio-Signature", signature)
}

const TWILIO_URL: &str = "https://mycompany.com/myapp.php?foo=1&bar=2";

fn twilio_form() -> Case {
    let form = "CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212";
    twilio(TWILIO_URL, form, "application/x-www-form-urlencoded", "RSOYDt4T1cUTdK1PDd93/VVr8B8=")
}

/// In a form only names and values count, not the signs between them: `%2B` is `%2b`.
fn is_same_form(one: &[u8], other: &[u8]) -> bool {
    let sorted = |body| {
        let mut fields: Vec<_> = form_urlencoded::parse(body).into_owned().collect();
        fields.sort();
        fields
    };
    sorted(one) == sorted(other)
}

/// Twilio; square/square-nodejs-sdk, `webhooks.test.ts`; HubSpot/hubspot-api-nodejs, `signature.spec.ts`, and HubSpot, "Validating requests".
fn bodies_with_urls() -> Vec<Vector> {
    let form = Vector::new("Twilio", twilio_form(), "RSOYDt4T1cUTdK1PDd93/VVr8B8=", Written::Base64);
    let twilio = |url: &str, body: &str, signature: &str| {
        let case = twilio(url, body, "application/json", signature);
        Vector::new("Twilio", case, signature, Written::Base64).url()
    };
    let digest = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620";
    let empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let json = r#"{"property": "value", "boolean": true}"#;
    let square = |key: &str, url: &str, body: &str, signature: &str| {
        let case = Case::preset("square", key).url(url).body(body);
        Vector::new("Square", case.header("x-square-hmacsha256-signature", signature), signature, Written::Base64).url()
    };
    let webhooks = "https://webhook.site/webhooks";
    let hubspot = |preset, secret: &str, url: &str, body: &str, signature: &str| {
        let case = Case::preset(preset, secret).url(url).body(body).header("X-HubSpot-Signature", signature);
        Vector::new(preset, case, signature, Written::Hex)
    };
    let secret = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy";
    vec![
        form.same_body(is_same_form).url(),
        twilio(&format!("{TWILIO_URL}&bodySHA256={digest}"), json, "a9nBmqA0ju/hNViExpshrM61xv4="),
        twilio(&format!("https://mycompany.com/myapp.php?bodySHA256={digest}"), json, "y77kIzt2vzLz71DgmJGsen2scGs="),
        // Signed with the port, whatever the request's URL says.
        twilio(&format!("{TWILIO_URL}&bodySHA256={empty}"), "{}", "Ldidvp12m26NI7eqEvxnEpkd9Hc="),
        square(
            "Ibxx_5AKakO-3qeNVR61Dw",
            "https://webhook.site/679a4f3a-dcfa-49ee-bac5-9d0edad886b9",
            r#"{"merchant_id":"MLEFBHHSJGVHD","type":"webhooks.test_notification","event_id":"ac3ac95b-f97d-458c-a6e6-18981597e05f","created_at":"2022-07-13T20:30:59.037339943Z","data":{"type":"webhooks","id":"bc368e64-01aa-407e-b46e-3231809b1129"}}"#,
            "GF4YkrJgGBDZ9NIYbNXBnMzqb2HoL4RW/S6vkZ9/2N4=",
        ),
        square(
            "signature-key",
            webhooks,
            r#"{"data":{"type":"webhooks","id":"fake_id"}}"#,
            "W3FlCNk5IA3ZQ2LHTWoajvzfaDu/OwY2tNHIHC3IUOA=",
        ),
        square(
            "signature-key",
            webhooks,
            r#"{"data":{"type":"webhooks","id":">id<"}}"#,
            "Cxt7+aTi4rKgcA0bC4g9EHdVtLSDWdqccmL5MvihU4U=",
        ),
        hubspot(
            "hubspot-v1",
            secret,
            "https://www.example.com/webhook_uri",
            HUBSPOT_V1,
            "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de",
        ),
        hubspot(
            "hubspot-v2",
            secret,
            "https://www.example.com/webhook_uri",
            r#"{"example_field":"example_value"}"#,
            "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900",
        )
        .url(),
    ]
}

const HUBSPOT_V1: &str = r#"[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]"#;

const ADYEN_KEY: &str = "DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00";
const ADYEN_REPORT: [&str; 2] = ["REPORT_AVAILABLE", "ZNBPtI+oDyyRrLyD1XirkKnQgIAlFc07Vj27TeHsDRE="];
const ADYEN_EVENT: [&str; 2] = ["EVENT", "ipnxGCaUZ4l8TUW75a71/ghd2Fe5ffvX0pV4TLTntIc="];

fn adyen_item([event, signature]: [&str; 2]) -> String {
    format!(
        r#"{{"NotificationRequestItem":{{"additionalData":{{"hmacSignature":"{signature}"}},"amount":{{"currency":"EUR","value":1000}},"eventCode":"{event}","merchantAccountCode":"merchantAccount","merchantReference":"reference","originalReference":"originalReference","pspReference":"pspReference","success":"true"}}}}"#
    )
}

fn adyen(items: &[String]) -> Case {
    Case::preset("adyen", ADYEN_KEY).body(format!(r#"{{"live":"false","notificationItems":[{}]}}"#, items.join(",")))
}

/// Only what an item's fields say is signed, and nothing of what is around the items.
fn are_same_items(one: &[u8], other: &[u8]) -> bool {
    const SIGNED: [&str; 9] = [
        "/pspReference",
        "/originalReference",
        "/merchantAccountCode",
        "/merchantReference",
        "/amount/value",
        "/amount/currency",
        "/eventCode",
        "/success",
        "/additionalData/hmacSignature",
    ];
    let read = |body: &[u8]| {
        let all: Value = serde_json::from_str(&String::from_utf8_lossy(body)).ok()?;
        let item = all["notificationItems"].as_array().filter(|items| items.len() == 1)?.first()?.clone();
        SIGNED
            .map(|path| item["NotificationRequestItem"].pointer(path).cloned())
            .into_iter()
            .collect::<Option<Vec<_>>>()
    };
    read(one).is_some_and(|one| Some(one) == read(other))
}

/// Adyen/adyen-node-api-library, `hmacValidator.spec.ts`.
fn bodies_in_parts() -> Vec<Vector> {
    let vector = |item: [&str; 2]| {
        let vector = Vector::new("Adyen", adyen(&[adyen_item(item)]), item[1], Written::Base64);
        vector.key(Written::Hex).same_body(are_same_items)
    };
    vec![vector(ADYEN_REPORT), vector(ADYEN_EVENT)]
}

const HELLO: &str = r#"{"hello": "world"}"#;
const SHARED: &str = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ==";

/// The request of RFC 9421 appendix B.2.
fn rfc_9421(key_format: &str, components: &str, key: &str) -> Case {
    let way = format!(
        r#"{{"algorithm":"http-signature","key":"{key_format}","components":{components},"timestamp":{{"field":"parameter:created"}}}}"#
    );
    let case = Case::new("RFC 9421", recipe(&way), key).url("https://example.com/foo?param=Value&Pet=dog");
    let case = case.body(HELLO).at(1_618_884_500).header("Host", "example.com");
    let case = case.header("Date", "Tue, 20 Apr 2021 02:07:55 GMT").header("Content-Type", "application/json");
    case.header("Content-Length", "18")
}

/// RFC 9421 appendix B.2.5 and B.2.6. Their bodies are not signed.
fn http_messages() -> Vec<Vector> {
    let input = r#"sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#;
    let signature = "pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=";
    let case = rfc_9421("base64", r#"["date"]"#, SHARED).header("Signature-Input", input);
    let shared = case.header("Signature", &format!("sig-b25=:{signature}:"));
    let shared = Vector::new("RFC 9421 B.2.5", shared, signature, Written::Base64).key(Written::Base64);

    let private = BASE64_STANDARD.decode("MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF");
    let seed: [u8; 32] = private.expect("base64")[16..].try_into().expect("32 bytes");
    let public = SigningKey::from_bytes(&seed).verifying_key();
    let spki = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0], public.as_bytes().as_slice()].concat();
    let input = r#"sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#;
    let signature = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==";
    let case = rfc_9421("spki", r#"["@method"]"#, &BASE64_STANDARD.encode(spki)).header("Signature-Input", input);
    let ed25519 = case.header("Signature", &format!("sig-b26=:{signature}:"));
    let ed25519 = Vector::new("RFC 9421 B.2.6", ed25519, signature, Written::Base64).key(Written::Base64);
    vec![
        shared.time(1_618_884_473).without_body().signed_headers(&["Date", "Content-Type"]),
        ed25519.time(1_618_884_473).without_body().signed_headers(&["Date", "Content-Type", "Content-Length"]),
    ]
}

/// RFC 9530 appendix B.1's content, under a signature of our own.
fn content_digest(digest: &str) -> Case {
    let parameters =
        r#"("@method" "content-digest" "@target-uri" "@query-param";name="Pet");created=1618884473;alg="hmac-sha256""#;
    let base = format!(
        "\"@method\": POST\n\"content-digest\": {digest}\n\"@target-uri\": https://example.com/foo?param=Value&Pet=dog\n\
         \"@query-param\";name=\"Pet\": dog\n\"@signature-params\": {parameters}"
    );
    let key = BASE64_STANDARD.decode(SHARED).expect("base64");
    let mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key").chain_update(base).finalize().into_bytes();
    let case = Case::preset("http-message-signatures-hmac", SHARED);
    let case = case.url("https://example.com/foo?param=Value&Pet=dog").body(HELLO).at(1_618_884_473);
    let case = case.header("Content-Digest", digest).header("Signature-Input", &format!("s={parameters}"));
    case.header("Signature", &format!("s=:{}:", BASE64_STANDARD.encode(mac)))
}

fn content_digests() -> Vec<Vector> {
    let vector = |name: &str, digest: &str| {
        let case = content_digest(&format!("{name}=:{digest}:"));
        let vector = Vector::new("RFC 9530", case, digest, Written::Base64).key(Written::Base64);
        vector.time(1_618_884_473).signed_headers(&["Signature"]).url()
    };
    vec![
        vector("sha-256", "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE="),
        vector("sha-512", "WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew=="),
    ]
}

/// RFC 4231 §4.2 to §4.8, without the truncated one.
fn rfc_4231() -> Vec<Vector> {
    let counted: Vec<u8> = (1..=25).collect();
    let cases: [(&[u8], &[u8], [&str; 3]); 6] = [
        (
            &[0x0b; 20],
            b"Hi There",
            [
                "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
                "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
                "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4\
                 be9d914eeb61f1702e696c203a126854",
            ],
        ),
        (
            b"Jefe",
            b"what do ya want for nothing?",
            [
                "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843",
                "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649",
                "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd\
                 caeab1a34d4a6b4b636e070a38bce737",
            ],
        ),
        (
            &[0xaa; 20],
            &[0xdd; 50],
            [
                "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe",
                "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27",
                "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a47e67c807\
                 b946a337bee8942674278859e13292fb",
            ],
        ),
        (
            &counted,
            &[0xcd; 50],
            [
                "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b",
                "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679ccf8a386c674cffb",
                "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3dba91ca5c11aa25eb4d679275cc5788063\
                 a5f19741120c4f2de2adebeb10a298dd",
            ],
        ),
        (
            &[0xaa; 131],
            b"Test Using Larger Than Block-Size Key - Hash Key First",
            [
                "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
                "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952",
                "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e52\
                 95e64f73f63f0aec8b915a985d786598",
            ],
        ),
        (
            &[0xaa; 131],
            b"This is a test using a larger than block-size key and a larger than block-size data. The key needs to be \
              hashed before being used by the HMAC algorithm.",
            [
                "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
                "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e",
                "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55c3e4de15\
                 134676fb6de0446065c97440fa8c6a58",
            ],
        ),
    ];
    let vector = |key: &[u8], body: &[u8], algorithm, mac: &str| {
        let way = format!(
            r#"{{"algorithm":"{algorithm}","key":"hex","signed":"{{body}}","signature":{{"field":"header:X-S"}}}}"#
        );
        let case = Case::new(algorithm, recipe(&way), &Written::Hex.write(key)).body(body).header("X-S", mac);
        Vector::new("RFC 4231", case, mac, Written::Hex).key(Written::Hex)
    };
    let all = cases.iter().flat_map(|(key, body, macs)| {
        ["hmac-sha256", "hmac-sha384", "hmac-sha512"]
            .into_iter()
            .zip(macs)
            .map(|(name, mac)| vector(key, body, name, mac))
    });
    all.collect()
}

/// RFC 8032 §7.1, TEST 1 to 3.
fn rfc_8032() -> Vec<Vector> {
    let vector = |key: &str, body: &[u8], signature: &str| {
        let way = r#"{"algorithm":"ed25519","key":"hex","signed":"{body}","signature":{"field":"header:X-S","encoding":"hex"}}"#;
        let case = Case::new("ed25519", recipe(way), key).body(body).header("X-S", signature);
        Vector::new("RFC 8032", case, signature, Written::Hex).key(Written::Hex)
    };
    vec![
        vector(
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            b"",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b\
             d25bf5f0595bbe24655141438e7a100b",
        ),
        vector(
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            &[0x72],
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c\
             387b2eaeb4302aeeb00d291612bb0c00",
        ),
        vector(
            "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
            &[0xaf, 0x82],
            "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc659\
             4a7c15e9716ed28dc027beceea1ec40a",
        ),
    ]
}

/// Svix's own names for the headers.
#[test]
fn svix_s_headers_are_standard_webhooks() {
    for vector in standard_webhooks() {
        let mut svix = Case::preset("svix", &vector.case.supplied.secrets[0]);
        svix = svix.body(&vector.case.body).at(vector.case.now_seconds);
        for (name, value) in &vector.case.headers {
            let value = String::from_utf8(value.clone()).expect("text");
            svix = svix.header(&name.replace("webhook-", "svix-"), &value);
        }
        let proof = svix.verify().expect("verified");
        assert_eq!(proof.dedupe_key.expect("a key").text().as_bytes(), vector.case.headers[0].1);
        assert_eq!(proof.signed_at_seconds, Some(svix.now_seconds - 1));
    }
}

#[test]
fn the_type_and_the_id_are_where_senders_put_them() {
    assert_eq!(slack().verify().expect("verified").event_type.as_deref(), Some("/webhook-collect"));
    assert_eq!(sendgrid().verify().expect("verified").event_type.as_deref(), Some("dropped"));
    assert!(adyen(&[adyen_item(ADYEN_EVENT)]).verify().expect("verified").dedupe_key.is_some());
    let hubspot = Case::preset("hubspot-v1", "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy").body(HUBSPOT_V1);
    let signature = "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de";
    let proof = hubspot.header("X-HubSpot-Signature", signature).verify().expect("verified");
    assert_eq!(proof.event_type.as_deref(), Some("contact.creation"));
}

#[test]
fn among_several_signatures_one_is_enough() {
    let (secret, body, signature) = PAGERDUTY;
    assert_eq!(body.len(), 1655);
    let two = format!("v1={},v1={signature},v2=00", "0".repeat(64));
    let case = Case::preset("pagerduty", secret).body(body).header("X-PagerDuty-Signature", &two);
    let proof = case.verify().expect("verified");
    assert_eq!(proof.event_type.as_deref(), Some("incident.priority_updated"));
    assert_eq!(proof.dedupe_key.expect("a key").text(), "01BWDWL3NYY7LUFPZCC28QUCMK");

    let [first, second] = PADDLE;
    for header in [format!("ts=1698796800;h1={first};h1={second};h2={first}"), format!("h1={second}; ts=1698796800")] {
        assert!(paddle(r#"{"data": "value"}"#, &header).verify().is_ok(), "{header}");
    }
    let two = paddle(r#"{"data": "value"}"#, &format!("ts=1698796800;ts=1698796801;h1={second}")).verify();
    assert_eq!(two, Err(Refusal::Ambiguous { field: "entry:ts".into() }));
}

#[test]
fn a_url_is_signed_with_its_port_or_without() {
    let case = twilio_form();
    assert!(case.clone().url("https://mycompany.com:443/myapp.php?foo=1&bar=2").verify().is_ok());
    assert_eq!(case.url("https://mycompany.com/myapp.php?foo=1&bar=3").verify(), Err(Refusal::Mismatch));
}

/// One forged item among good ones is enough to refuse all, and none at all proves nothing.
#[test]
fn each_of_several_items_is_proven() {
    let (report, event) = (adyen_item(ADYEN_REPORT), adyen_item(ADYEN_EVENT));
    assert!(adyen(&[report.clone(), event.clone()]).verify().is_ok());
    let forged = report.replace("1000", "9000");
    for items in [[event.clone(), forged.clone()], [forged, event]] {
        assert_eq!(adyen(&items).verify(), Err(Refusal::Mismatch));
    }
    assert!(matches!(adyen(&[]).verify(), Err(Refusal::Missing { .. })));
}

#[test]
fn what_a_signature_does_not_cover_is_not_believed() {
    for vector in http_messages() {
        let case = vector.case;
        assert!(case.clone().url("https://other.example/foo").verify().is_err());
        let mut uncovered = case;
        uncovered.recipe.verify[0].components = vec!["content-digest".to_owned()];
        assert_eq!(uncovered.verify(), Err(Refusal::NotCovered { component: "content-digest".into() }));
    }
    let digest = "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:, md5=:AAAA:";
    let case = content_digest(digest);
    assert!(case.verify().is_ok(), "a digest that nobody knows does not hurt beside one that fits");
    let other = case.body(r#"{"hello": "World"}"#).verify();
    assert_eq!(other, Err(Refusal::BodyDigest { field: "header:content-digest".into() }));
}
