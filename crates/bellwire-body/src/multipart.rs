//! `multipart/form-data`, RFC 7578.

use crate::fields::Members;
use crate::{PARTS_MAX, Value, is_json};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream;
use multer::{Multipart, parse_boundary};
use std::convert::Infallible;
use std::future::ready;

/// A part with a name.
pub(crate) struct Part {
    pub(crate) name: String,
    /// A file's name; `None` for a field.
    pub(crate) file: Option<String>,
    content_type: Option<String>,
    pub(crate) bytes: Bytes,
}

/// The parts that have a name, in order; `None` if the body is not what it says.
pub(crate) fn parts(content_type: &str, body: &[u8]) -> Option<Vec<Part>> {
    let boundary = parse_boundary(content_type).ok()?;
    let whole = stream::once(ready(Ok::<_, Infallible>(Bytes::copy_from_slice(body))));
    let mut multipart = Multipart::new(whole, boundary);
    let (mut parts, mut count) = (Vec::new(), 0);
    // All of the body is there, so nothing ever waits.
    while let Some(field) = multipart.next_field().now_or_never()?.ok()? {
        let name = field.name().map(str::to_owned);
        let file = field.file_name().map(str::to_owned);
        let content_type = field.content_type().map(ToString::to_string);
        let bytes = field.bytes().now_or_never()?.ok()?;
        count += 1;
        if count > PARTS_MAX {
            return None;
        }
        parts.extend(name.map(|name| Part { name, file, content_type, bytes }));
    }
    Some(parts)
}

/// The body as an object.
pub(crate) fn value(content_type: &str, body: &[u8]) -> Option<Value> {
    let mut members = Members::default();
    for part in parts(content_type, body)? {
        let value = part.value();
        members.add(part.name, value);
    }
    Some(members.object())
}

impl Part {
    fn value(&self) -> Value {
        let text = std::str::from_utf8(&self.bytes).ok();
        let says_json = self.content_type.as_deref().is_some_and(|kind| kind.contains("json"));
        if let Some(text) = text.filter(|text| says_json && is_json(text))
            && let Some(value) = Value::parse_as_written(text)
        {
            return value;
        }
        match (text, &self.file) {
            (Some(text), None) => Value::String(text.to_owned()),
            (text, file) => {
                let size = i64::try_from(self.bytes.len()).unwrap_or(i64::MAX);
                let content = match text {
                    Some(text) => ("content", text.to_owned()),
                    None => ("contentBase64", BASE64_STANDARD.encode(&self.bytes)),
                };
                let text = |text: &Option<String>| text.clone().map_or(Value::Null, Value::String);
                let members = [
                    ("filename", text(file)),
                    ("contentType", text(&self.content_type)),
                    ("size", Value::Number(crate::Number::Int(size))),
                    (content.0, Value::String(content.1)),
                ];
                Value::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=x";

    fn read(body: &str) -> Option<String> {
        value(TYPE, body.as_bytes())?.to_json()
    }

    #[test]
    fn fields_files_and_json_are_told_apart() {
        let body = "--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1\r\n\
                    --x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\nl 1\r\nl 2\r\n\
                    --x\r\ncontent-disposition: form-data; name=\"j\"\r\ncontent-type: application/json\r\n\r\n{\"n\":1.50}\r\n\
                    --x\r\ncontent-disposition: form-data; name=\"f\"; filename=\"t.txt\"\r\ncontent-type: text/plain\r\n\r\nhi\r\n\
                    --x\r\ncontent-disposition: form-data\r\n\r\nnameless\r\n--x--\r\n";
        assert_eq!(
            read(body).as_deref(),
            Some(
                r#"{"a":["1","l 1\r\nl 2"],"j":{"n":1.50},"f":{"filename":"t.txt","contentType":"text/plain","size":2,"content":"hi"}}"#
            )
        );
        let mut binary = b"--x\r\ncontent-disposition: form-data; name=\"f\"; filename=\"b\"\r\n\r\n".to_vec();
        binary.extend_from_slice(b"\xff\x00\r\n--x--");
        assert_eq!(
            value(TYPE, &binary).and_then(|value| value.to_json()).as_deref(),
            Some(r#"{"f":{"filename":"b","contentType":null,"size":2,"contentBase64":"/wA="}}"#)
        );
    }

    #[test]
    fn what_is_broken_is_not_read() {
        for body in [
            "",
            "--x",
            "--x\r\n\r\na",
            "--y\r\n\r\n--y--",
            "--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\n1",
        ] {
            assert_eq!(read(body), None, "{body}");
        }
        assert!(value("multipart/form-data", b"--x--").is_none());
    }
}
