//! Real payloads of GitHub's webhooks; source and licence are in `data/github/README.md`.

/// One webhook to send.
pub(super) struct Example {
    pub(super) event_type: &'static str,
    pub(super) description: &'static str,
    pub(super) payload: &'static str,
}

macro_rules! example {
    ($name:literal, $description:literal) => {
        Example {
            event_type: concat!("github.", $name),
            description: $description,
            payload: include_str!(concat!("../../../data/github/", $name, ".json")),
        }
    };
}

/// In the order in which they are sent. The one that fails at first is early, so that others overtake it.
pub(super) const EXAMPLES: [Example; 8] = [
    example!("push", "Commits were pushed"),
    example!("release.published", "A release was published"),
    example!("issues.opened", "An issue was opened"),
    example!("issue_comment.created", "Somebody commented on an issue"),
    example!("pull_request.opened", "A pull request was opened"),
    example!("check_run.completed", "A check of a commit has ended"),
    example!("deployment.created", "A deployment was asked for"),
    example!("star.created", "Somebody starred the repository"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_is_a_webhook_of_githubs() {
        for Example { event_type, payload, .. } in EXAMPLES {
            let payload: serde_json::Value = serde_json::from_str(payload).expect("JSON");
            assert!(payload["sender"]["login"].is_string(), "{event_type}");
            let action = event_type.rsplit_once('.').map(|(_, action)| action).filter(|action| *action != "push");
            assert_eq!(payload["action"].as_str(), action, "{event_type}");
        }
        let bytes: usize = EXAMPLES.iter().map(|example| example.payload.len()).sum();
        assert!(bytes < 200_000, "{bytes}");
    }
}
