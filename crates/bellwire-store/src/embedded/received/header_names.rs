//! The names of headers that webhooks are known to come with, by number: they are a fifth of what is kept of a request.

/// The shortest first, since lengths are quickly compared. Rows name them by their place here, so none is ever added, removed or moved: other names are another version of the format.
const NAMES: [&str; 121] = [
    "te",
    "via",
    "date",
    "from",
    "host",
    "ce-id",
    "accept",
    "cf-ray",
    "cookie",
    "digest",
    "expect",
    "origin",
    "pragma",
    "baggage",
    "ce-time",
    "ce-type",
    "referer",
    "svix-id",
    "cdn-loop",
    "priority",
    "ce-source",
    "client-ip",
    "forwarded",
    "signature",
    "x-api-key",
    "x-real-ip",
    "ce-subject",
    "cf-visitor",
    "connection",
    "tracestate",
    "user-agent",
    "webhook-id",
    "traceparent",
    "x-b3-spanid",
    "x-event-key",
    "x-hook-uuid",
    "x-signature",
    "cf-ipcountry",
    "content-type",
    "linear-event",
    "sentry-trace",
    "x-b3-sampled",
    "x-b3-traceid",
    "x-event-type",
    "x-request-id",
    "authorization",
    "bellwire-hops",
    "cache-control",
    "if-none-match",
    "accept-charset",
    "ce-specversion",
    "content-digest",
    "content-length",
    "sec-fetch-mode",
    "svix-signature",
    "svix-timestamp",
    "true-client-ip",
    "x-github-event",
    "x-gitlab-event",
    "x-gitlab-token",
    "x-request-uuid",
    "accept-encoding",
    "accept-language",
    "idempotency-key",
    "linear-delivery",
    "paypal-cert-url",
    "signature-input",
    "x-amzn-trace-id",
    "x-forwarded-for",
    "x-hub-signature",
    "x-shopify-topic",
    "cf-connecting-ip",
    "content-encoding",
    "intuit-signature",
    "linear-signature",
    "paddle-signature",
    "paypal-auth-algo",
    "stripe-signature",
    "telnyx-timestamp",
    "x-attempt-number",
    "x-correlation-id",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-github-hook-id",
    "x-line-signature",
    "transfer-encoding",
    "webhook-signature",
    "webhook-timestamp",
    "x-forwarded-proto",
    "x-github-delivery",
    "x-gitlab-instance",
    "x-slack-signature",
    "ce-datacontenttype",
    "typeform-signature",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-shopify-event-id",
    "x-twilio-signature",
    "paypal-auth-version",
    "x-amz-sns-topic-arn",
    "x-gitlab-event-uuid",
    "x-hub-signature-256",
    "x-webhook-signature",
    "x-amz-sns-message-id",
    "x-shopify-webhook-id",
    "x-cloud-trace-context",
    "x-gitlab-webhook-uuid",
    "x-pagerduty-signature",
    "x-shopify-api-version",
    "x-shopify-hmac-sha256",
    "x-shopify-shop-domain",
    "paypal-transmission-id",
    "x-amz-sns-message-type",
    "paypal-transmission-sig",
    "paypal-transmission-time",
    "telnyx-signature-ed25519",
    "x-slack-request-timestamp",
    "calendly-webhook-signature",
    "x-amz-sns-subscription-arn",
    "x-github-hook-installation-target-id",
    "x-github-hook-installation-target-type",
];

/// The number of a name in small letters, from 1 on; `None` if it is to be written out.
pub(super) fn number(name: &str) -> Option<usize> {
    NAMES.binary_search_by_key(&order(name), |own| order(own)).ok().map(|at| at + 1)
}

fn order(name: &str) -> (usize, &str) {
    (name.len(), name)
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
    fn the_names_are_in_order_and_those_of_version_2() {
        assert!(NAMES.is_sorted_by(|one, next| order(one) < order(next)));
        let digest = Sha256::digest(NAMES.join("\n"));
        let first = [0x68, 0x15, 0x7a, 0x3e, 0xb2, 0x37, 0xa7, 0x9e];
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
