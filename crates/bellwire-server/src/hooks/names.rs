//! The names of settings: which there are, and as file and API write them. Pure.

use serde_json::{Map, Value};

/// What an endpoint can have beside `from` and `application`; what the portal changes stays with the API.
pub(super) const ENDPOINT: [&str; 15] = [
    "url",
    "kind",
    "plugin",
    "pipe",
    "description",
    "throttle_rate",
    "disabled",
    "event_types",
    "channels",
    "secret",
    "metadata",
    "headers",
    "fifo",
    "retry_schedule",
    "filter",
];
pub(super) const ENDPOINT_SHAPE: [&str; 2] = ["format", "content_type"];
/// What a source can have beside `application` and `secret`.
pub(super) const SOURCE: [&str; 23] = [
    "name",
    "way",
    "cron",
    "outbox",
    "queue",
    "preset",
    "recipe",
    "settings",
    "secrets",
    "path",
    "methods",
    "content_type",
    "body_bytes_max",
    "rate",
    "allowed_networks",
    "trusted_proxies",
    "dedupe",
    "event_type",
    "event_type_from",
    "url",
    "answer",
    "disabled",
    "metadata",
];
/// What follows from the name of its table.
pub(super) const OWN: [&str; 3] = ["uid", "app_id", "appId"];
/// Members of a source whose own members are the API's, too.
pub(super) const NESTED: [&str; 5] = ["dedupe", "answer", "cron", "outbox", "queue"];
const NAME_MAX: usize = 200;

/// Whether it can name a table.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_MAX && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// As the API writes names.
pub(super) fn camel(members: Map<String, Value>) -> Map<String, Value> {
    members.into_iter().map(|(name, value)| (to_camel(&name), value)).collect()
}

fn to_camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut upper = false;
    for letter in name.chars() {
        match letter {
            '_' => upper = true,
            letter if upper => {
                camel.push(letter.to_ascii_uppercase());
                upper = false;
            }
            letter => camel.push(letter),
        }
    }
    camel
}

/// As the file writes them.
pub(super) fn to_snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_can_say_what_the_api_takes() {
        let document: Value = serde_json::from_str(include_str!("../../../../docs/openapi.json")).expect("JSON");
        for (schema, ours) in
            [("SourceIn", [&SOURCE[..], &["uid", "app_id"]].concat()), ("EndpointIn", endpoint_names())]
        {
            let properties = document["components"]["schemas"][schema]["properties"].as_object().expect("properties");
            let mut theirs: Vec<String> = properties.keys().map(|name| to_snake(name)).collect();
            let mut ours = ours;
            theirs.sort();
            ours.sort();
            assert_eq!(ours, theirs, "{schema}");
        }
    }

    fn endpoint_names() -> Vec<&'static str> {
        ENDPOINT.into_iter().chain(ENDPOINT_SHAPE).chain(["uid"]).collect()
    }

    #[test]
    fn names_go_forth_and_back() {
        for (file, api) in [("event_types", "eventTypes"), ("body_bytes_max", "bodyBytesMax"), ("url", "url")] {
            assert_eq!((to_camel(file).as_str(), to_snake(api).as_str()), (api, file));
        }
    }
}
