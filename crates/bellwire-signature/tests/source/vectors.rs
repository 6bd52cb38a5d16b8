//! What providers and standards have published: inputs, and the signatures that they must have.

use base64::{Engine, prelude::BASE64_STANDARD};
use bellwire_signature::source::Refusal;
use ed25519_dalek::SigningKey;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::request::{Case, recipe};

#[test]
fn standard_webhooks() {
    let check = |id: &str, time: i64, body: &str, secret: &str, signature: &str| {
        let case = Case::preset("standard-webhooks", secret).body(body).at(time + 1);
        let case = case.header("webhook-id", id).header("webhook-timestamp", &time.to_string());
        case.clone().header("webhook-signature", signature).check("webhook-signature", Some("webhook-timestamp"));
        let mut svix = Case::preset("svix", secret).body(body).at(time + 1);
        for (name, value) in [("svix-id", id), ("svix-timestamp", &time.to_string()), ("svix-signature", signature)] {
            svix = svix.header(name, value);
        }
        let proof = svix.verify().expect("verified");
        assert_eq!(proof.dedupe_key.expect("a key").text(), id);
        assert_eq!(proof.signed_at_seconds, Some(time));
    };
    check(
        "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        1_649_367_553,
        r#"{"email":"test@example.com","username":"test_user"}"#,
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    );
    check(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        r#"{"test": 2432232314}"#,
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    );
    check(
        "msg_loFOjxBNrRLzqYUf",
        1_731_705_121,
        r#"{"event_type":"ping","data":{"success":true}}"#,
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    );
    check(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        r#"{"test": 2432232314}"#,
        "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    );
}

/// GitHub, "Validating webhook deliveries"; octokit/webhooks-methods.js; Bitbucket, "Manage webhooks"; Notion; LINE.
#[test]
fn bodies_in_hexadecimal_or_base64() {
    let everybody = "It's a Secret to Everybody";
    let check = |preset, secret: &str, body: &str, header: &str, signature: &str| {
        Case::preset(preset, secret).body(body).header(header, signature).check(header, None);
    };
    check(
        "github",
        everybody,
        "Hello, World!",
        "X-Hub-Signature-256",
        "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
    );
    check(
        "github",
        "mysecret",
        r#"{"foo":"bar"}"#,
        "X-Hub-Signature-256",
        "sha256=4864d2759938a15468b5df9ade20bf161da9b4f737ea61794142f3484236bda3",
    );
    check(
        "bitbucket",
        everybody,
        "Hello World!",
        "X-Hub-Signature",
        "sha256=a4771c39fbe90f317c7824e83ddef3caae9cb3d976c214ace1f2937e133263c9",
    );
    check(
        "notion",
        "secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl",
        r#"{"verification_token":"secret_tMrlL1qK5vuQAh1b6cZGhFChZTSYJlce98V0pYn7yBl"}"#,
        "X-Notion-Signature",
        "sha256=461e8cbcba8a75c3edd866f0e71280f5a85cbf21eff040ebd10fe266df38a735",
    );
    check(
        "line",
        "8c570fa6dd201bb328f1c1eac23a96d8",
        r#"{"destination":"U8e742f61d673b39c7fff3cecb7536ef0","events":[]}"#,
        "x-line-signature",
        "GhRKmvmHys4Pi8DxkF4+EayaH0OqtJtaZxgTD9fMDLs=",
    );
}

/// adnanh/webhook, `hook_test.go`.
#[test]
fn three_hashes_of_one_body() {
    for (algorithm, signature) in [
        ("hmac-sha1", "b17e04cbb22afa8ffbff8796fc1894ed27badd9e"),
        ("hmac-sha256", "f417af3a21bd70379b5796d5f013915e7029f62c580fb0f500f59a35a6f04c89"),
        (
            "hmac-sha512",
            "4ab17cc8ec668ead8bf498f87f8f32848c04d5ca3c9bcfcd3db9363f0deb44e580b329502a7fdff633d4d8fca301cc5c94a55a2fec458c\
             675fb0ff2655898324",
        ),
    ] {
        let way = format!(r#"{{"algorithm":"{algorithm}","signed":"{{body}}","signature":{{"field":"header:X-S"}}}}"#);
        Case::new("adnanh", recipe(&way), "secret").body(r#"{"a": "z"}"#).header("X-S", signature).check("X-S", None);
    }
}

/// adnanh/webhook, `hook_test.go`.
#[test]
fn scalr() {
    let key = "bilFGi4ZVZUdG+C6r0NIM9tuRq6PaG33R3eBUVhLwMAErGBaazvXe4Gq2DcJs5q+";
    let case = Case::preset("scalr", key).body(r#"{"a": "b"}"#).header("Date", "Thu 07 Sep 2017 06:30:04 UTC");
    let case = case.header("X-Signature", "48e395e38ac48988929167df531eb2da00063a7d");
    case.check("X-Signature", None);
    case.check_header("Date");
}

/// Slack, "Verifying requests from Slack".
#[test]
fn slack() {
    let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
        &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
        &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
        &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let case = Case::preset("slack", "8f742231b10e8888abcd99yyyzzz85a5").body(body).at(1_531_420_618 + 200);
    let case = case.header("Content-Type", "application/x-www-form-urlencoded");
    let case = case.header("X-Slack-Request-Timestamp", "1531420618");
    let signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503";
    let case = case.header("X-Slack-Signature", signature);
    case.check("X-Slack-Signature", Some("X-Slack-Request-Timestamp"));
    assert_eq!(case.verify().expect("verified").event_type.as_deref(), Some("/webhook-collect"));
}

/// twilio/twilio-node, `validation.spec.ts`.
#[test]
fn twilio() {
    let form = "CallSid=CA1234567890ABCDE&Caller=%2B14158675309&Digits=1234&From=%2B14158675309&To=%2B18005551212";
    let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
    let digest = "0a1ff7634d9ab3b95db5c9a2dfe9416e41502b283a80c7cf19632632f96e6620";
    let json = r#"{"property": "value", "boolean": true}"#;
    let with = |url: &str, body: &str, content_type: &str, signature: &str| {
        let case = Case::preset("twilio", "12345").url(url).body(body).header("Content-Type", content_type);
        case.header("X-Twilio-Signature", signature)
    };
    let (form_type, json_type) = ("application/x-www-form-urlencoded", "application/json");
    let case = with(url, form, form_type, "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
    assert!(case.verify().is_ok());
    case.check_header("X-Twilio-Signature");
    // In a form only names and values count, not the signs between them: `%2B` is `%2b`.
    let digits = form.find("1234&From").expect("the digits");
    case.check_body(digits..digits + 4);
    // The sender may have signed with the port, whatever the request's URL says.
    assert!(case.clone().url("https://mycompany.com:443/myapp.php?foo=1&bar=2").verify().is_ok());
    assert_eq!(case.url("https://mycompany.com/myapp.php?foo=1&bar=3").verify(), Err(Refusal::Mismatch));

    with(&format!("{url}&bodySHA256={digest}"), json, json_type, "a9nBmqA0ju/hNViExpshrM61xv4=")
        .check("X-Twilio-Signature", None);
    let bare = format!("https://mycompany.com/myapp.php?bodySHA256={digest}");
    with(&bare, json, json_type, "y77kIzt2vzLz71DgmJGsen2scGs=").check("X-Twilio-Signature", None);
    let empty = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let case = with(&format!("{url}&bodySHA256={empty}"), "{}", json_type, "Ldidvp12m26NI7eqEvxnEpkd9Hc=");
    case.check("X-Twilio-Signature", None);
}

/// square/square-nodejs-sdk, `webhooks.test.ts`.
#[test]
fn square() {
    let check = |key: &str, url: &str, body: &str, signature: &str| {
        let header = "x-square-hmacsha256-signature";
        let case = Case::preset("square", key).url(url).body(body).header(header, signature);
        case.check(header, None);
        assert_eq!(case.url("https://webhook.site/other").verify(), Err(Refusal::Mismatch));
    };
    check(
        "Ibxx_5AKakO-3qeNVR61Dw",
        "https://webhook.site/679a4f3a-dcfa-49ee-bac5-9d0edad886b9",
        r#"{"merchant_id":"MLEFBHHSJGVHD","type":"webhooks.test_notification","event_id":"ac3ac95b-f97d-458c-a6e6-18981597e05f","created_at":"2022-07-13T20:30:59.037339943Z","data":{"type":"webhooks","id":"bc368e64-01aa-407e-b46e-3231809b1129"}}"#,
        "GF4YkrJgGBDZ9NIYbNXBnMzqb2HoL4RW/S6vkZ9/2N4=",
    );
    let url = "https://webhook.site/webhooks";
    let body = r#"{"data":{"type":"webhooks","id":"fake_id"}}"#;
    check("signature-key", url, body, "W3FlCNk5IA3ZQ2LHTWoajvzfaDu/OwY2tNHIHC3IUOA=");
    let body = r#"{"data":{"type":"webhooks","id":">id<"}}"#;
    check("signature-key", url, body, "Cxt7+aTi4rKgcA0bC4g9EHdVtLSDWdqccmL5MvihU4U=");
}

/// PaddleHQ/paddle-node-sdk, tests of its webhook validator.
#[test]
fn paddle() {
    let with = |body: &str, header: &str| {
        Case::preset("paddle", "VALID_SECRET").body(body).at(1_698_796_804).header("Paddle-Signature", header)
    };
    let first = "a300428748dce5c70e4da19bffd60769591ea969c99dea3105d0ec9612cf43f9";
    let case = with(r#"{"data": ["1", "2"]}"#, &format!("ts=1698796800;h1={first}"));
    case.check("Paddle-Signature", Some("Paddle-Signature"));
    let second = "28981e941fae76e53db32f3d2a83cb69db41476595e84e1970a1b5d98f62b261";
    for header in [
        format!("ts=1698796800;h1={second}"),
        format!("ts=1698796800;h1={first};h1={second};h2={first}"),
        format!("h1={second}; ts=1698796800"),
    ] {
        assert!(with(r#"{"data": "value"}"#, &header).verify().is_ok(), "{header}");
    }
    let two = with(r#"{"data": "value"}"#, &format!("ts=1698796800;ts=1698796801;h1={second}")).verify();
    assert_eq!(two, Err(Refusal::Ambiguous { field: "entry:ts".into() }));
}

/// Adyen/adyen-node-api-library, `hmacValidator.spec.ts`.
#[test]
fn adyen() {
    let key = "DFB1EB5485895CFA84146406857104ABB4CBCABDC8AAF103A624C8F6A3EAAB00";
    let item = |event: &str, signature: &str| {
        format!(
            r#"{{"NotificationRequestItem":{{"additionalData":{{"hmacSignature":"{signature}"}},"amount":{{"currency":"EUR","value":1000}},"eventCode":"{event}","merchantAccountCode":"merchantAccount","merchantReference":"reference","originalReference":"originalReference","pspReference":"pspReference","success":"true"}}}}"#
        )
    };
    let body = |items: &[String]| format!(r#"{{"live":"false","notificationItems":[{}]}}"#, items.join(","));
    let report = item("REPORT_AVAILABLE", "ZNBPtI+oDyyRrLyD1XirkKnQgIAlFc07Vj27TeHsDRE=");
    let event = item("EVENT", "ipnxGCaUZ4l8TUW75a71/ghd2Fe5ffvX0pV4TLTntIc=");
    for items in [vec![report.clone()], vec![event.clone()], vec![report.clone(), event.clone()]] {
        let case = Case::preset("adyen", key).body(body(&items));
        let proof = case.verify().expect("verified");
        assert!(proof.dedupe_key.is_some());
        // Every bit from the amount on is signed, but for the names' and the quotes' own.
        for value in ["ZNBPtI", "ipnxGC", "EUR", "1000", "reference\"", "pspReference\",", "true"] {
            if let Some(at) = String::from_utf8_lossy(&case.body).find(value) {
                let end = at + value.trim_end_matches(['"', ',']).len();
                case.check_body(at..end);
            }
        }
    }
    // One forged item among good ones is enough to refuse all, and none at all proves nothing.
    let forged = report.replace("1000", "9000");
    assert_eq!(Case::preset("adyen", key).body(body(&[event, forged])).verify(), Err(Refusal::Mismatch));
    assert!(matches!(Case::preset("adyen", key).body(body(&[])).verify(), Err(Refusal::Missing { .. })));
    let other = key.replace("DFB1", "DFB0");
    assert_eq!(Case::preset("adyen", &other).body(body(&[report])).verify(), Err(Refusal::Mismatch));
}

/// HubSpot/hubspot-api-nodejs, `signature.spec.ts`; HubSpot, "Validating requests".
#[test]
fn hubspot() {
    let secret = "yyyyyyyy-yyyy-yyyy-yyyy-yyyyyyyyyyyy";
    let body = r#"[{"eventId":1,"subscriptionId":12345,"portalId":62515,"occurredAt":1564113600000,"subscriptionType":"contact.creation","attemptNumber":0,"objectId":123,"changeSource":"CRM","changeFlag":"NEW","appId":54321}]"#;
    let signature = "232db2615f3d666fe21a8ec971ac7b5402d33b9a925784df3ca654d05f4817de";
    let case = Case::preset("hubspot-v1", secret).body(body).header("X-HubSpot-Signature", signature);
    case.check("X-HubSpot-Signature", None);
    assert_eq!(case.verify().expect("verified").event_type.as_deref(), Some("contact.creation"));
    let case = Case::preset("hubspot-v2", secret).url("https://www.example.com/webhook_uri");
    let signature = "9569219f8ba981ffa6f6f16aa0f48637d35d728c7e4d93d0d52efaa512af7900";
    let case = case.body(r#"{"example_field":"example_value"}"#).header("X-HubSpot-Signature", signature);
    case.check("X-HubSpot-Signature", None);
}

/// sendgrid/sendgrid-nodejs, `eventwebhook.spec.js`.
#[test]
fn sendgrid() {
    let key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==";
    let body = "[{\"email\":\"hello@world.com\",\"event\":\"dropped\",\"reason\":\"Bounced Address\",\"sg_event_id\":\"ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA\",\"sg_message_id\":\"LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0\",\"smtp-id\":\"<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>\",\"timestamp\":1600112492}]\r\n";
    let signature = "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM=";
    let case = Case::preset("sendgrid", key).body(body).at(1_600_112_502);
    let case = case.header("X-Twilio-Email-Event-Webhook-Timestamp", "1600112502");
    let case = case.header("X-Twilio-Email-Event-Webhook-Signature", signature);
    assert_eq!(case.verify().expect("verified").event_type.as_deref(), Some("dropped"));
    // Each of these is an ECDSA verification, so not every bit of the body.
    case.check_body(0..40);
    case.check_header("X-Twilio-Email-Event-Webhook-Signature");
    case.check_header("X-Twilio-Email-Event-Webhook-Timestamp");
    let mut other = case.clone();
    other.supplied.secrets[0] = key.replace("wEA3F+g==", "wEA3F+h==").into();
    assert!(
        bellwire_signature::source::Verifier::new(&other.recipe, &other.supplied).is_err() || other.verify().is_err()
    );
}

/// PagerDuty/go-pagerduty, `webhookv3_test.go`.
#[test]
fn pagerduty() {
    let body = r#"{"event":{"id":"01BWDWL3NYY7LUFPZCC28QUCMK","event_type":"incident.priority_updated","resource_type":"incident","occurred_at":"2021-04-26T17:36:27.458Z","agent":{"html_url":"https://acme.pagerduty.com/users/PLH1HKV","id":"PLH1HKV","self":"https://api.pagerduty.com/users/PLH1HKV","summary":"Tenex Engineer","type":"user_reference"},"client":null,"data":{"id":"PGR0VU2","type":"incident","self":"https://api.pagerduty.com/incidents/PGR0VU2","html_url":"https://acme.pagerduty.com/incidents/PGR0VU2","number":2,"status":"triggered","title":"A little bump in the road","service":{"html_url":"https://acme.pagerduty.com/services/PF9KMXH","id":"PF9KMXH","self":"https://api.pagerduty.com/services/PF9KMXH","summary":"API Service","type":"service_reference"},"assignees":[{"html_url":"https://acme.pagerduty.com/users/PTUXL6G","id":"PTUXL6G","self":"https://api.pagerduty.com/users/PTUXL6G","summary":"User 123","type":"user_reference"}],"escalation_policy":{"html_url":"https://acme.pagerduty.com/escalation_policies/PUS0KTE","id":"PUS0KTE","self":"https://api.pagerduty.com/escalation_policies/PUS0KTE","summary":"Default","type":"escalation_policy_reference"},"teams":[{"html_url":"https://acme.pagerduty.com/teams/PFCVPS0","id":"PFCVPS0","self":"https://api.pagerduty.com/teams/PFCVPS0","summary":"Engineering","type":"team_reference"}],"priority":{"html_url":"https://acme.pagerduty.com/account/incident_priorities","id":"PSO75BM","self":"https://api.pagerduty.com/priorities/PSO75BM","summary":"P1","type":"priority_reference"},"urgency":"high","conference_bridge":{"conference_number":1000,"conference_url":"https://example.com"},"resolve_reason":null}}}"#;
    assert_eq!(body.len(), 1655);
    let secret = "lDQHScfUeXUKaQRNF+8XIiDKZ7XX3itBAYzwU0TARw8lJqRnkKl2iB1anSb0Z+IK";
    let right = "v1=0c0b9495b893a39e70d1fea2fe11fbe0a825f88b9f67846f6cc07dd2bc5476cd";
    let case = Case::preset("pagerduty", secret).body(body);
    case.clone().header("X-PagerDuty-Signature", right).check("X-PagerDuty-Signature", None);
    let two = format!("v1={},{right},v2=00", "0".repeat(64));
    let proof = case.header("X-PagerDuty-Signature", &two).verify().expect("verified");
    assert_eq!(proof.event_type.as_deref(), Some("incident.priority_updated"));
    assert_eq!(proof.dedupe_key.expect("a key").text(), "01BWDWL3NYY7LUFPZCC28QUCMK");
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

/// RFC 9421 appendix B.2.5 and B.2.6.
#[test]
fn http_message_signatures() {
    let input = r#"sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret""#;
    let case = rfc_9421("base64", r#"["date"]"#, SHARED).header("Signature-Input", input);
    let case = case.header("Signature", "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:");
    check_http(&case);

    let private = BASE64_STANDARD.decode("MC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF");
    let seed: [u8; 32] = private.expect("base64")[16..].try_into().expect("32 bytes");
    let public = SigningKey::from_bytes(&seed).verifying_key();
    let spki = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0], public.as_bytes().as_slice()].concat();
    let input = r#"sig-b26=("date" "@method" "@path" "@authority" "content-type" "content-length");created=1618884473;keyid="test-key-ed25519""#;
    let case = rfc_9421("spki", r#"["@method"]"#, &BASE64_STANDARD.encode(spki)).header("Signature-Input", input);
    let signature = "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw==";
    check_http(&case.header("Signature", &format!("sig-b26=:{signature}:")));
}

fn check_http(case: &Case) {
    assert!(case.verify().is_ok(), "{:?}", case.verify());
    for header in ["Signature", "Signature-Input", "Date", "Content-Type"] {
        case.check_header(header);
    }
    for now_seconds in [case.now_seconds - 1000, case.now_seconds + 1000] {
        let verdict = Case { now_seconds, ..case.clone() }.verify();
        assert!(matches!(verdict, Err(Refusal::TooOld { .. } | Refusal::TooNew { .. })), "{verdict:?}");
    }
    assert!(case.clone().url("https://other.example/foo").verify().is_err());
    let mut uncovered = case.clone();
    uncovered.recipe.verify[0].components = vec!["content-digest".to_owned()];
    assert_eq!(uncovered.verify(), Err(Refusal::NotCovered { component: "content-digest".into() }));
}

/// RFC 9530 appendix B.1's content, under a signature of our own.
#[test]
fn content_digests() {
    for digest in [
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:",
        "sha-512=:WZDPaVn/7XgHaAy8pmojAkGWoRx2UFChF41A2svX+TaPm+AbwAgBWnrIiYllu7BNNyealdVLvRwEmTHWXvJwew==:",
        "sha-256=:X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE=:, md5=:AAAA:",
    ] {
        let parameters = r#"("@method" "content-digest" "@target-uri" "@query-param";name="Pet");created=1618884473;alg="hmac-sha256""#;
        let base = format!(
            "\"@method\": POST\n\"content-digest\": {digest}\n\"@target-uri\": https://example.com/foo?param=Value&Pet=dog\n\
             \"@query-param\";name=\"Pet\": dog\n\"@signature-params\": {parameters}"
        );
        let key = BASE64_STANDARD.decode(SHARED).expect("base64");
        let mac = Hmac::<Sha256>::new_from_slice(&key).expect("a key").chain_update(base).finalize().into_bytes();
        let mut case = Case::preset("http-message-signatures-hmac", SHARED);
        case = case.url("https://example.com/foo?param=Value&Pet=dog").body(HELLO).at(1_618_884_473);
        case = case.header("Content-Digest", digest).header("Signature-Input", &format!("s={parameters}"));
        case = case.header("Signature", &format!("s=:{}:", BASE64_STANDARD.encode(mac)));
        case.check_body(0..case.body.len());
        case.check_key();
        case.check_header("Signature");
        case.check_header("Content-Digest");
        let other = case.clone().body(r#"{"hello": "World"}"#).verify();
        assert_eq!(other, Err(Refusal::BodyDigest { field: "header:content-digest".into() }));
    }
}
