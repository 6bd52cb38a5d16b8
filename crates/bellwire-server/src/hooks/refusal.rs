//! What the API refuses, read for the file: which part it is about, the rest of the body without that part, and the words. Pure.

use super::names::to_snake;
use serde_json::{Map, Value};

/// The ways down the body to what is refused, in the order of the faults.
pub(super) fn ways(answer: &Value) -> Vec<Vec<String>> {
    answer["detail"].as_array().into_iter().flatten().map(steps).collect()
}

/// The steps down to what one fault is about.
pub(super) fn steps(fault: &Value) -> Vec<String> {
    let loc = fault["loc"].as_array().into_iter().flatten().filter_map(Value::as_str);
    loc.filter(|step| *step != "body").map(|step| step.trim_matches(['[', ']']).to_owned()).collect()
}

/// Whether one of these ways leads through the end of the other.
pub(super) fn is_about(way: &[String], out: &[String]) -> bool {
    way.iter().zip(out).all(|(one, other)| one == other)
}

/// Takes what stands at this way out of the body; of a list, the whole list, so that the places of its items stay right. Answers what is out.
pub(super) fn leave_out(body: &mut Map<String, Value>, mut way: Vec<String>) -> Option<Vec<String>> {
    let mut here = body;
    let mut at = 0;
    while at + 1 < way.len() && here.get(&way[at]).is_some_and(Value::is_object) {
        here = here.get_mut(&way[at]).and_then(Value::as_object_mut)?;
        at += 1;
    }
    here.remove(way.get(at)?)?;
    way.truncate(at + 1);
    Some(way)
}

/// Without the place in the JSON that we made, and with the names of the file.
pub(super) fn told(text: &str) -> String {
    let text = text.split(" at line ").next().unwrap_or(text);
    let mut told = String::with_capacity(text.len());
    for (at, part) in text.split('`').enumerate() {
        if at > 0 {
            told.push('`');
        }
        let is_name = at % 2 == 1 && part.bytes().all(|b| b.is_ascii_alphanumeric());
        told.push_str(&if is_name { to_snake(part) } else { part.to_owned() });
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_use_the_file_s_own_names() {
        assert_eq!(
            told("unknown field `presett`, expected one of `appId`, `eventTypeFrom` at line 1 column 7"),
            "unknown field `presett`, expected one of `app_id`, `event_type_from`"
        );
        assert_eq!(told("must not be empty"), "must not be empty");
    }
}
