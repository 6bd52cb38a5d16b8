//! A request's body as JSON, with what hostile bodies do taken care of at the door: size, depth, number of members.
//!
//! The bytes stay as they came; a payload is a part of them, whatever numbers, escapes or duplicate members it has.

use crate::Settings;
use crate::error::{Error, Fault};
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_path_to_error::Segment;
use std::time::Duration;

/// So much of a body that is too large is read all the same.
const DRAINED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// As long as it keeps coming.
const DRAIN_WAIT: Duration = Duration::from_millis(250);

/// What Svix calls a body that is not what it should be.
const KIND: &str = "value_error.jsondecode";

/// A body that has passed the door.
#[derive(Debug)]
pub(crate) struct Json(Bytes);

impl Json {
    /// Reads a whole body.
    ///
    /// # Errors
    /// 413 if it is too large; 400 if it ends early, or is too deep or too wide to be looked at.
    pub(crate) async fn read(headers: &HeaderMap, body: Body, settings: &Settings) -> Result<Self, Error> {
        Json::read_up_to(settings.body_bytes_max, headers, body, settings).await
    }

    /// The same, with a limit of its own.
    ///
    /// # Errors
    /// As [`Json::read`].
    pub(crate) async fn read_up_to(
        bytes_max: usize,
        headers: &HeaderMap,
        body: Body,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let too_large = || Error::too_large("request body", bytes_max);
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > bytes_max as u64) {
            drain(body).await;
            return Err(too_large());
        }
        let bytes = match Limited::new(body, bytes_max).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
            Err(error) => {
                tracing::debug!(%error, "a request's body could not be read");
                return Err(Error::bad_request("body_incomplete", "The request's body could not be read to its end."));
            }
        };
        scan(&bytes, settings.json_depth_max, settings.json_keys_max)?;
        Ok(Json(bytes))
    }

    /// A body that has been read already.
    ///
    /// # Errors
    /// As [`Json::read`].
    pub(crate) fn checked(bytes: Bytes, settings: &Settings) -> Result<Self, Error> {
        scan(&bytes, settings.json_depth_max, settings.json_keys_max)?;
        Ok(Json(bytes))
    }

    /// Parses it, an object; what the value borrows, it borrows from the body.
    ///
    /// # Errors
    /// 422 with the way to the fault.
    pub(crate) fn parse<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        self.no_array()?;
        let mut way = serde_path_to_error::Track::new();
        let mut json = serde_json::Deserializer::from_slice(&self.0);
        let value = T::deserialize(serde_path_to_error::Deserializer::new(&mut json, &mut way));
        value.and_then(|value| json.end().map(|()| value)).map_err(|error| self.fault(&error, &way.path()))
    }

    /// The same for what comes often: the way is looked for, by parsing once more, only when there is a fault. It is apart because each
    /// type that is parsed in both ways is compiled twice.
    ///
    /// # Errors
    /// As [`Json::parse`].
    pub(crate) fn parse_fast<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        self.no_array()?;
        match serde_json::from_slice(&self.0) {
            Ok(value) => Ok(value),
            Err(_) => self.parse(),
        }
    }

    /// Derived types would take an array for their members in the order in which they happen to be declared.
    fn no_array(&self) -> Result<(), Error> {
        if self.0.trim_ascii_start().first() == Some(&b'[') {
            return Err(Error::Invalid(vec![Fault::of_kind(KIND, &["body"], "An object is expected, not an array.")]));
        }
        Ok(())
    }

    /// An empty object, if there is nothing.
    pub(crate) fn or_empty_object(self) -> Self {
        if self.0.is_empty() { Json(Bytes::from_static(b"{}")) } else { self }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &Bytes {
        &self.0
    }

    #[cold]
    fn fault(&self, error: &serde_json::Error, way: &serde_path_to_error::Path) -> Error {
        if self.0.is_empty() {
            return Error::Invalid(vec![Fault::of_kind(KIND, &["body"], "The body is empty; JSON is expected.")]);
        }
        let mut loc = vec!["body".to_owned()];
        loc.extend(way.iter().filter_map(|segment| match segment {
            Segment::Seq { index } => Some(format!("[{index}]")),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        }));
        Error::Invalid(vec![Fault { loc, msg: for_people(error.to_string()), kind: KIND }])
    }
}

/// What is wrong, without the names of our types.
fn for_people(text: String) -> String {
    match text.rsplit_once("expected struct ") {
        Some((before, name)) => {
            let rest = name.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
            format!("{before}expected an object{rest}")
        }
        None => text,
    }
}

/// Reads on for a while and throws it away: a client that is still sending when the connection is closed sees no answer.
async fn drain(mut body: Body) {
    let mut left = DRAINED_BYTES_MAX;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(DRAIN_WAIT, body.frame()).await {
        let read = frame.data_ref().map_or(0, Bytes::len);
        if read > left {
            return;
        }
        left -= read;
    }
}

/// Counts levels and members before anything recursive sees the body. Wrong JSON passes; parsing refuses it.
pub(crate) fn scan(bytes: &[u8], depth_max: usize, keys_max: usize) -> Result<(), Error> {
    let (mut depth, mut keys) = (0usize, 0usize);
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => {
                while let Some(inner) = rest.next() {
                    match inner {
                        b'"' => break,
                        b'\\' => drop(rest.next()),
                        _ => {}
                    }
                }
            }
            b'{' | b'[' => {
                depth += 1;
                if depth > depth_max {
                    let detail = format!("The JSON is nested deeper than {depth_max} levels.");
                    return Err(Error::bad_request("json_too_deep", detail));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b':' => {
                keys += 1;
                if keys > keys_max {
                    let detail = format!("The JSON has more than {keys_max} members.");
                    return Err(Error::bad_request("json_too_wide", detail));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_and_members_are_counted_outside_strings_only() {
        let check = |text: &str, fits: bool| assert_eq!(scan(text.as_bytes(), 2, 2).is_ok(), fits, "{text}");
        check(r#"{"a":{"b":1}}"#, true);
        check(r#"{"a":{"b":{}}}"#, false);
        check(r#"{"a":1,"b":2,"c":3}"#, false);
        check(r#"{"a":"[[[[{{{{::::\"[[[["}"#, true);
        check(r#"{"a":"\\"}"#, true);
        check("]]]]}}}}", true);
        check(r#"{"unterminated"#, true);
        check(r#"{"unterminated\"#, true);
        check("", true);
    }
}
