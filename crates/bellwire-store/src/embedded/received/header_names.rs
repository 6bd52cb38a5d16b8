//! The names of headers that webhooks are known to come with, by number: they are a fifth of what is kept of a request.

/// Sorted. Rows name them by their place here, so none is ever added, removed or moved: other names are another version of the format.
const NAMES: [&str; 121] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "authorization",
    "baggage",
    "bellwire-hops",
    "cache-control",
    "calendly-webhook-signature",
    "cdn-loop",
    "ce-datacontenttype",
    "ce-id",
    "ce-source",
    "ce-specversion",
    "ce-subject",
    "ce-time",
    "ce-type",
    "cf-connecting-ip",
    "cf-ipcountry",
    "cf-ray",
    "cf-visitor",
    "client-ip",
    "connection",
    "content-digest",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "date",
    "digest",
    "expect",
    "forwarded",
    "from",
    "host",
    "idempotency-key",
    "if-none-match",
    "intuit-signature",
    "linear-delivery",
    "linear-event",
    "linear-signature",
    "origin",
    "paddle-signature",
    "paypal-auth-algo",
    "paypal-auth-version",
    "paypal-cert-url",
    "paypal-transmission-id",
    "paypal-transmission-sig",
    "paypal-transmission-time",
    "pragma",
    "priority",
    "referer",
    "sec-fetch-mode",
    "sentry-trace",
    "signature",
    "signature-input",
    "stripe-signature",
    "svix-id",
    "svix-signature",
    "svix-timestamp",
    "te",
    "telnyx-signature-ed25519",
    "telnyx-timestamp",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "true-client-ip",
    "typeform-signature",
    "user-agent",
    "via",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
    "x-amz-sns-message-id",
    "x-amz-sns-message-type",
    "x-amz-sns-subscription-arn",
    "x-amz-sns-topic-arn",
    "x-amzn-trace-id",
    "x-api-key",
    "x-attempt-number",
    "x-b3-sampled",
    "x-b3-spanid",
    "x-b3-traceid",
    "x-cloud-trace-context",
    "x-correlation-id",
    "x-event-key",
    "x-event-type",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-github-delivery",
    "x-github-event",
    "x-github-hook-id",
    "x-github-hook-installation-target-id",
    "x-github-hook-installation-target-type",
    "x-gitlab-event",
    "x-gitlab-event-uuid",
    "x-gitlab-instance",
    "x-gitlab-token",
    "x-gitlab-webhook-uuid",
    "x-hook-uuid",
    "x-hub-signature",
    "x-hub-signature-256",
    "x-line-signature",
    "x-pagerduty-signature",
    "x-real-ip",
    "x-request-id",
    "x-request-uuid",
    "x-shopify-api-version",
    "x-shopify-event-id",
    "x-shopify-hmac-sha256",
    "x-shopify-shop-domain",
    "x-shopify-topic",
    "x-shopify-webhook-id",
    "x-signature",
    "x-slack-request-timestamp",
    "x-slack-signature",
    "x-twilio-signature",
    "x-webhook-signature",
];

/// The number of a name in small letters, from 1 on; `None` if it is to be written out.
pub(super) fn number(name: &str) -> Option<usize> {
    NAMES.binary_search(&name).ok().map(|at| at + 1)
}

/// The name with this number.
pub(super) fn name(number: usize) -> Option<&'static str> {
    NAMES.get(number.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn the_names_are_sorted_and_those_of_version_2() {
        assert!(NAMES.is_sorted_by(|one, next| one < next));
        let digest = Sha256::digest(NAMES.join("\n"));
        let first = [0x86, 0xac, 0xe1, 0x34, 0x62, 0x61, 0x2b, 0x96];
        assert_eq!(digest[..8], first, "what was written names them by their place here");
    }

    #[test]
    fn a_name_has_a_number_that_leads_back_and_fits_a_byte() {
        for own in NAMES {
            let number = number(own).expect("a number");
            assert!((1..0x80).contains(&number));
            assert_eq!(name(number), Some(own));
        }
        assert_eq!((number("x-other"), name(0), name(NAMES.len() + 1)), (None, None, None));
    }
}
