//! A hook as adnanh's `webhook` (2.8) writes it. JSON is read by a YAML parser there, and here: comments and commas too many pass.

use bellwire_signature::source::Rule;
use serde::Deserialize;
use serde_json::{Map, Value};

/// See its documentation for what each member means.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(super) struct Hook {
    pub(super) id: String,
    pub(super) execute_command: String,
    pub(super) command_working_directory: String,
    pub(super) response_message: String,
    pub(super) response_headers: Vec<Header>,
    pub(super) include_command_output_in_response: bool,
    pub(super) include_command_output_in_response_on_error: bool,
    pub(super) pass_environment_to_command: Vec<Argument>,
    pub(super) pass_arguments_to_command: Vec<Argument>,
    pub(super) pass_file_to_command: Vec<Argument>,
    pub(super) parse_parameters_as_json: Vec<Argument>,
    pub(super) trigger_rule: Option<Value>,
    pub(super) trigger_rule_mismatch_http_response_code: u16,
    pub(super) trigger_signature_soft_failures: bool,
    pub(super) incoming_payload_content_type: String,
    pub(super) success_http_response_code: u16,
    pub(super) http_methods: Vec<String>,
    /// What it does not know.
    #[serde(flatten)]
    pub(super) unknown: Map<String, Value>,
}

/// A header of the answer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

/// A part of the request that is handed to the command.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Argument {
    pub(super) source: String,
    pub(super) name: String,
    pub(super) envname: String,
    pub(super) base64decode: bool,
}

/// All hooks of a file.
///
/// # Errors
/// Why it cannot be read.
pub(super) fn read(text: &str) -> Result<Vec<Hook>, String> {
    // Null where a list or a text is meant is as if it were not there, as in Go.
    let mut all: Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    if all.is_null() {
        return Ok(Vec::new());
    }
    for hook in all.as_array_mut().into_iter().flatten() {
        if let Value::Object(members) = hook {
            members.retain(|_, value| !value.is_null());
        }
    }
    serde_path_to_error::deserialize(all).map_err(|error| format!("{}: {}", error.path(), error.inner()))
}

/// A trigger rule as ours.
///
/// # Errors
/// What is not understood.
pub(super) fn rule(rule: &Value) -> Result<Rule, String> {
    let mut rule = rule.clone();
    tidy(&mut rule);
    serde_json::from_value(rule).map_err(|error| error.to_string())
}

/// Without members that are null, and with texts where adnanh's takes numbers for texts.
fn tidy(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            for (name, member) in members {
                if matches!(name.as_str(), "value" | "secret" | "name") && (member.is_number() || member.is_boolean()) {
                    *member = Value::String(member.to_string());
                }
                tidy(member);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_with_comments_and_commas_too_many_is_read() {
        let text = "[\n  # redeploy\n  {\n    \"id\": \"redeploy\",\n    \"execute-command\": \"/bin/true\",\n    \"http-methods\": [\"post \",],\n    \"pass-arguments-to-command\": [{ \"source\": \"payload\", \"name\": \"head_commit.id\" },],\n    \"response-headers\": null,\n  },\n]\n";
        let hooks = read(text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((hooks.len(), hooks[0].id.as_str()), (1, "redeploy"));
        assert_eq!(hooks[0].http_methods, ["post "]);
        assert_eq!(hooks[0].pass_arguments_to_command[0].name, "head_commit.id");
        let yaml = "- id: a\n  execute-command: /bin/true\n  trigger-rule:\n    match: { type: value, value: 1, parameter: { source: url, name: n } }\n  colour: blue\n";
        let hooks = read(yaml).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(hooks[0].unknown.keys().collect::<Vec<_>>(), ["colour"]);
        let rule =
            rule(hooks[0].trigger_rule.as_ref().unwrap_or(&Value::Null)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(rule.condition.and_then(|condition| condition.value).as_deref(), Some("1"));
        assert!(read("").is_ok_and(|hooks| hooks.is_empty()));
        assert!(read("{ a: 1 }").is_err());
        assert!(read("- id: [1]\n").is_err_and(|error| error.contains("id")));
    }
}
