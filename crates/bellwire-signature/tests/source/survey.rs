//! The senders of our survey of how webhooks are signed, row by row: that each has its preset, and that the preset is for what the survey says.

use bellwire_signature::source::{
    Algorithm::{
        self, Basic, EcdsaP256Sha256, Ed25519, HmacSha1, HmacSha256, HmacSha384, HmacSha512, HttpSignature, JwtEs256,
        JwtHs256, RsaSha1, RsaSha256, Sha256, StandardWebhooks, Token,
    },
    Way, preset,
};

/// A preset, how its requests are proven, where the proof stands, and the replay tolerance in seconds where the sender signs the time.
type Proven = (&'static str, Algorithm, &'static str, Option<u64>);

/// In the survey's order.
#[rustfmt::skip]
const ROWS: [(&str, &[Proven]); 47] = [
    ("Standard Webhooks", &[
        ("standard-webhooks", StandardWebhooks, "header:webhook-signature", Some(300)),
        ("svix", StandardWebhooks, "header:webhook-signature", Some(300)),
        ("clerk", StandardWebhooks, "header:webhook-signature", Some(300)),
        ("resend", StandardWebhooks, "header:webhook-signature", Some(300)),
        ("openai", StandardWebhooks, "header:webhook-signature", Some(300)),
        ("gitlab-signed", StandardWebhooks, "header:webhook-signature", Some(300)),
        ("bigcommerce", StandardWebhooks, "header:webhook-signature", Some(300)),
        ("loops", StandardWebhooks, "header:webhook-signature", Some(300)),
    ]),
    ("GitHub", &[
        ("github", HmacSha256, "header:X-Hub-Signature-256", None),
    ]),
    ("GitHub legacy, Gogs, Gitea", &[
        ("github-sha1", HmacSha1, "header:X-Hub-Signature", None),
        ("gogs", HmacSha256, "header:X-Gogs-Signature", None),
        ("gitea", HmacSha256, "header:X-Gitea-Signature", None),
    ]),
    ("Stripe", &[
        ("stripe", HmacSha256, "header:Stripe-Signature", Some(300)),
    ]),
    ("Slack", &[
        ("slack", HmacSha256, "header:X-Slack-Signature", Some(300)),
    ]),
    ("Zoom", &[
        ("zoom", HmacSha256, "header:x-zm-signature", Some(300)),
    ]),
    ("Shopify", &[
        ("shopify", HmacSha256, "header:X-Shopify-Hmac-Sha256", None),
    ]),
    ("WooCommerce", &[
        ("woocommerce", HmacSha256, "header:X-WC-Webhook-Signature", None),
    ]),
    ("Twilio, forms", &[
        ("twilio", HmacSha1, "header:X-Twilio-Signature", None),
    ]),
    ("Twilio, JSON", &[
        ("twilio", HmacSha1, "header:X-Twilio-Signature", None),
    ]),
    ("SendGrid", &[
        ("sendgrid", EcdsaP256Sha256, "header:X-Twilio-Email-Event-Webhook-Signature", None),
    ]),
    ("Paddle", &[
        ("paddle", HmacSha256, "header:Paddle-Signature", Some(60)),
    ]),
    ("Square", &[
        ("square", HmacSha256, "header:x-square-hmacsha256-signature", None),
    ]),
    ("Discord", &[
        ("discord", Ed25519, "header:X-Signature-Ed25519", None),
    ]),
    ("Mailgun", &[
        ("mailgun", HmacSha256, "json:signature.signature", None),
        ("mailgun", HmacSha256, "form:signature", None),
    ]),
    ("Linear", &[
        ("linear", HmacSha256, "header:Linear-Signature", Some(60)),
    ]),
    ("GitLab", &[
        ("gitlab", Token, "header:X-Gitlab-Token", None),
    ]),
    ("Bitbucket Cloud, Jira", &[
        ("bitbucket", HmacSha256, "header:X-Hub-Signature", None),
        ("jira", HmacSha256, "header:X-Hub-Signature", None),
    ]),
    ("Intercom", &[
        ("intercom", HmacSha1, "header:X-Hub-Signature", None),
    ]),
    ("HubSpot, version 3", &[
        ("hubspot", HmacSha256, "header:X-HubSpot-Signature-v3", Some(300)),
    ]),
    ("HubSpot, versions 1 and 2", &[
        ("hubspot-v1", Sha256, "header:X-HubSpot-Signature", None),
        ("hubspot-v2", Sha256, "header:X-HubSpot-Signature", None),
    ]),
    ("DocuSign", &[
        ("docusign", HmacSha256, "numbered:X-DocuSign-Signature-", None),
    ]),
    ("Dropbox", &[
        ("dropbox", HmacSha256, "header:X-Dropbox-Signature", None),
    ]),
    ("Adyen", &[
        ("adyen", HmacSha256, "json:additionalData.hmacSignature", None),
    ]),
    ("Adyen, banking and management", &[
        ("adyen-platform", HmacSha256, "header:HmacSignature", None),
    ]),
    ("PayPal", &[
        ("paypal", RsaSha256, "header:PayPal-Transmission-Sig", None),
    ]),
    ("Typeform", &[
        ("typeform", HmacSha256, "header:Typeform-Signature", None),
    ]),
    ("Calendly, Mux, Mailchimp, Tailscale", &[
        ("calendly", HmacSha256, "header:Calendly-Webhook-Signature", Some(180)),
        ("mux", HmacSha256, "header:Mux-Signature", Some(300)),
        ("mailchimp", HmacSha256, "header:X-Mailchimp-Signature", Some(300)),
        ("tailscale", HmacSha256, "header:Tailscale-Webhook-Signature", Some(300)),
    ]),
    ("Zendesk", &[
        ("zendesk", HmacSha256, "header:X-Zendesk-Webhook-Signature", Some(300)),
    ]),
    ("Okta event hooks", &[
        ("okta", Token, "header:{setting:header}", None),
    ]),
    ("AWS SNS", &[
        ("aws-sns", RsaSha1, "json:Signature", None),
        ("aws-sns", RsaSha256, "json:Signature", None),
    ]),
    ("Meta", &[
        ("meta", HmacSha256, "header:X-Hub-Signature-256", None),
    ]),
    ("X", &[
        ("x", HmacSha256, "header:x-twitter-webhooks-signature", None),
    ]),
    ("PagerDuty", &[
        ("pagerduty", HmacSha256, "header:X-PagerDuty-Signature", None),
    ]),
    ("Notion", &[
        ("notion", HmacSha256, "header:X-Notion-Signature", None),
    ]),
    ("LINE", &[
        ("line", HmacSha256, "header:x-line-signature", None),
    ]),
    ("Trello", &[
        ("trello", HmacSha1, "header:X-Trello-Webhook", None),
    ]),
    ("Twitch EventSub", &[
        ("twitch", HmacSha256, "header:Twitch-Eventsub-Message-Signature", Some(600)),
    ]),
    ("Xero", &[
        ("xero", HmacSha256, "header:x-xero-signature", None),
    ]),
    ("Plaid", &[
        ("plaid", JwtEs256, "header:Plaid-Verification", Some(300)),
    ]),
    ("Netlify", &[
        ("netlify", JwtHs256, "header:X-Webhook-Signature", None),
    ]),
    ("Telnyx, Kick", &[
        ("telnyx", Ed25519, "header:telnyx-signature-ed25519", Some(300)),
        ("kick", RsaSha256, "header:Kick-Event-Signature", Some(300)),
    ]),
    ("Airtable, Paystack, Vercel, Heroku, Customer.io, Checkout.com, Segment, Webflow, Contentful", &[
        ("airtable", HmacSha256, "header:X-Airtable-Content-MAC", None),
        ("paystack", HmacSha512, "header:x-paystack-signature", None),
        ("vercel", HmacSha1, "header:x-vercel-signature", None),
        ("heroku", HmacSha256, "header:Heroku-Webhook-Hmac-SHA256", None),
        ("customer-io", HmacSha256, "header:X-CIO-Signature", Some(300)),
        ("checkout-com", HmacSha256, "header:Cko-Signature", None),
        ("segment", HmacSha1, "header:X-Signature", None),
        ("webflow", HmacSha256, "header:x-webflow-signature", Some(300)),
        ("contentful", HmacSha256, "header:x-contentful-signature", Some(60)),
    ]),
    ("Senders without signatures", &[
        ("chargebee", Basic, "header:Authorization", None),
        ("postmark", Basic, "header:Authorization", None),
        ("juspay", Basic, "header:Authorization", None),
        ("datadog", Token, "header:{setting:header}", None),
        ("zapier", Token, "header:{setting:header}", None),
        ("auth0", Token, "header:Authorization", None),
        ("supabase", Token, "header:{setting:header}", None),
        ("salesforce", Token, "xml:OrganizationId", None),
    ]),
    ("Prometheus Alertmanager", &[
        ("alertmanager", Token, "header:Authorization", None),
        ("alertmanager-basic", Basic, "header:Authorization", None),
    ]),
    ("RFC 9421", &[
        ("http-message-signatures", HttpSignature, "", Some(300)),
        ("http-message-signatures-hmac", HttpSignature, "", Some(300)),
    ]),
    ("WebSub hubs", &[
        ("websub", HmacSha1, "header:X-Hub-Signature", None),
        ("websub", HmacSha256, "header:X-Hub-Signature", None),
        ("websub", HmacSha384, "header:X-Hub-Signature", None),
        ("websub", HmacSha512, "header:X-Hub-Signature", None),
    ]),
];

#[test]
fn every_row_of_the_survey_has_its_preset() {
    for (row, presets) in ROWS {
        assert!(!presets.is_empty(), "{row}");
        for (name, algorithm, field, tolerance) in presets {
            let preset = preset(name).unwrap_or_else(|| panic!("{row}: there is no preset {name}"));
            let is_it = |way: &Way| {
                let place = way.signature.as_ref().map_or("", |place| place.field.as_str());
                let time = way.timestamp.as_ref().map(|time| time.tolerance_s);
                (way.algorithm, place, time) == (*algorithm, *field, *tolerance)
            };
            assert!(preset.recipe.verify.iter().any(is_it), "{row}: {name} is {:?}", preset.recipe.verify);
        }
    }
    assert!(preset("nobody").is_none());
}
