//! As much HTTP/1.1 as a client needs that knows its server: requests are bytes, responses are found in a buffer.
//!
//! The load uses it because every microsecond that the load takes is one that the server does not get, on a machine
//! they share. [`Client`] sets up applications and endpoints with it, one request at a time.

use anyhow::{Context as _, bail};
use std::borrow::Cow;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// No response that we wait for is longer.
const RESPONSE_BYTES_MAX: usize = 16 << 20;
const RECEIVE_BYTES: usize = 64 << 10;

/// A response's frame: what it says, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) keep_alive: bool,
    head_bytes: usize,
    chunked: bool,
    /// Head and body.
    pub(crate) total_bytes: usize,
}

/// Why bytes are not a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error("the response is not HTTP/1.1")]
    NotHttp,
    #[error("the response does not say how long it is")]
    NoLength,
    #[error("a chunk of the response has no valid length")]
    Chunk,
}

impl Response {
    /// Reads the response at the start of `bytes`; `None` if its end has not arrived yet.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Option<Response>, ResponseError> {
        let Some(head_bytes) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else { return Ok(None) };
        let head = &bytes[..head_bytes];
        let status = head
            .strip_prefix(b"HTTP/1.1 ")
            .and_then(|rest| std::str::from_utf8(rest.get(..3)?).ok()?.parse().ok())
            .ok_or(ResponseError::NotHttp)?;
        let is = |name: &str, value: &str| {
            header(head, name).is_some_and(|found| found.eq_ignore_ascii_case(value.as_bytes()))
        };
        let keep_alive = !is("connection", "close");
        let chunked = is("transfer-encoding", "chunked");
        let body_bytes = if matches!(status, 204 | 304) {
            0
        } else if chunked {
            match decode_chunks(&bytes[head_bytes..])? {
                Some((_, body_bytes)) => body_bytes,
                None => return Ok(None),
            }
        } else {
            header(head, "content-length")
                .and_then(|value| std::str::from_utf8(value).ok()?.parse().ok())
                .ok_or(ResponseError::NoLength)?
        };
        let total_bytes = head_bytes.saturating_add(body_bytes);
        let response = Response { status, keep_alive, head_bytes, chunked, total_bytes };
        Ok((bytes.len() >= total_bytes).then_some(response))
    }

    /// The body within the bytes that this was parsed from.
    pub(crate) fn body<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let body = &bytes[self.head_bytes..self.total_bytes];
        match self.chunked.then(|| decode_chunks(body)) {
            Some(Ok(Some((decoded, _)))) => Cow::Owned(decoded),
            _ => Cow::Borrowed(body),
        }
    }

    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a [u8]> {
    head.split(|byte| *byte == b'\n').skip(1).find_map(|line| {
        let (found, value) = line.split_at_checked(name.len())?;
        let value = value.strip_prefix(b":")?;
        found.eq_ignore_ascii_case(name.as_bytes()).then(|| value.trim_ascii())
    })
}

/// The decoded body and how many bytes it took; `None` if its end has not arrived yet. Trailers are not expected.
fn decode_chunks(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, ResponseError> {
    let mut decoded = Vec::new();
    let mut at = 0;
    loop {
        let Some(line_bytes) = find(&bytes[at..], b"\r\n") else { return Ok(None) };
        let size = bytes[at..at + line_bytes].split(|byte| *byte == b';').next().unwrap_or_default();
        let size = std::str::from_utf8(size).ok().and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.filter(|size| *size <= RESPONSE_BYTES_MAX).ok_or(ResponseError::Chunk)?;
        let start = at + line_bytes + 2;
        let end = start + size;
        if bytes.len() < end + 2 {
            return Ok(None);
        }
        decoded.extend_from_slice(&bytes[start..end]);
        at = end + 2;
        if size == 0 {
            return Ok(Some((decoded, at)));
        }
    }
}

/// One request at a time to the server under test, on one connection.
pub(crate) struct Client {
    address: SocketAddr,
    host: String,
    token: String,
    connection: Option<TcpStream>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr, host: &str, token: &str) -> Client {
        Client { address, host: host.to_owned(), token: token.to_owned(), connection: None }
    }

    /// Posts JSON and returns the JSON that came back.
    ///
    /// # Errors
    /// Whatever is not a 2xx with a JSON body, with the server's words.
    pub(crate) fn post(&mut self, path: &str, body: &serde_json::Value) -> anyhow::Result<serde_json::Value> {
        let body = body.to_string();
        let (status, answer) =
            self.exchange("POST", path, body.as_bytes()).with_context(|| format!("POST {path} was not answered"))?;
        if !(200..300).contains(&status) {
            bail!("POST {path} was answered with {status}: {}", String::from_utf8_lossy(&answer));
        }
        serde_json::from_slice(&answer).with_context(|| format!("POST {path} was not answered with JSON"))
    }

    /// Changes something, and expects no answer but that it is done.
    ///
    /// # Errors
    /// Whatever is not a 2xx, with the server's words.
    pub(crate) fn patch(&mut self, path: &str, body: &serde_json::Value) -> anyhow::Result<()> {
        let body = body.to_string();
        let (status, answer) =
            self.exchange("PATCH", path, body.as_bytes()).with_context(|| format!("PATCH {path} was not answered"))?;
        if !(200..300).contains(&status) {
            bail!("PATCH {path} was answered with {status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    }

    /// The body of what is there.
    ///
    /// # Errors
    /// Whatever is not a 2xx, with the server's words.
    pub(crate) fn get(&mut self, path: &str) -> anyhow::Result<Vec<u8>> {
        let (status, answer) =
            self.exchange("GET", path, b"").with_context(|| format!("GET {path} was not answered"))?;
        if !(200..300).contains(&status) {
            bail!("GET {path} was answered with {status}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(answer)
    }

    /// Whether `GET path` is answered with a 2xx.
    pub(crate) fn answers(&mut self, path: &str) -> bool {
        self.exchange("GET", path, b"").is_ok_and(|(status, _)| (200..300).contains(&status))
    }

    fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> anyhow::Result<(u16, Vec<u8>)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(self.address)?,
        };
        let mut request = request_head(method, path, &self.host, &self.token, body.len(), "").into_bytes();
        request.extend_from_slice(body);
        connection.write_all(&request)?;
        let mut received = Vec::with_capacity(RECEIVE_BYTES);
        let mut piece = vec![0; RECEIVE_BYTES];
        let response = loop {
            let length = connection.read(&mut piece)?;
            if length == 0 {
                bail!("the connection was closed in the middle of a response");
            }
            received.extend_from_slice(&piece[..length]);
            if let Some(response) = Response::parse(&received)? {
                break response;
            }
            if received.len() > RESPONSE_BYTES_MAX {
                bail!("the response is longer than {RESPONSE_BYTES_MAX} bytes");
            }
        };
        if response.keep_alive {
            self.connection = Some(connection);
        }
        Ok((response.status, response.body(&received).into_owned()))
    }
}

fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let connection = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    connection.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(connection)
}

/// The head of a request with a JSON body; `more` are further header lines, each with its `\r\n`.
pub(crate) fn request_head(method: &str, path: &str, host: &str, token: &str, body_bytes: usize, more: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {token}\r\nuser-agent: bellwire-bench\r\n\
         accept: application/json\r\ncontent-type: application/json\r\ncontent-length: {body_bytes}\r\n{more}\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Option<Response>, ResponseError> {
        Response::parse(text.as_bytes())
    }

    #[test]
    fn a_response_is_found_once_all_of_it_has_arrived() {
        let text = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\ncontent-length: 2\r\n\r\n{}";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{end}");
        }
        let response = parse(&format!("{text}HTTP/1.1 500")).expect("valid").expect("complete");
        assert_eq!((response.status, response.keep_alive, response.total_bytes), (202, true, text.len()));
        assert_eq!(&*response.body(text.as_bytes()), b"{}");
    }

    #[test]
    fn chunks_are_joined() {
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\n{\"a\r\n4;x=y\r\n\":1}\r\n0\r\n\r\n";
        for end in 0..text.len() {
            assert_eq!(parse(&text[..end]), Ok(None), "{end}");
        }
        let response = parse(text).expect("valid").expect("complete");
        assert_eq!((response.keep_alive, response.total_bytes), (false, text.len()));
        assert_eq!(&*response.body(text.as_bytes()), b"{\"a\":1}");
    }

    #[test]
    fn no_content_has_no_length_and_no_body() {
        let response = parse("HTTP/1.1 204 No Content\r\n\r\n").expect("valid").expect("complete");
        assert!(response.is_success());
        assert_eq!(response.total_bytes, 27);
    }

    #[test]
    fn what_cannot_be_framed_is_refused() {
        for (text, error) in [
            ("HTTP/1.0 200 OK\r\ncontent-length: 0\r\n\r\n", ResponseError::NotHttp),
            ("HTTP/1.1 abc\r\n\r\n", ResponseError::NotHttp),
            ("HTTP/1.1 200 OK\r\n\r\n", ResponseError::NoLength),
            ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", ResponseError::NoLength),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", ResponseError::Chunk),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n", ResponseError::Chunk),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }
}
