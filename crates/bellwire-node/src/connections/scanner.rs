//! Reads along with the HTTP parser and refuses what it would let pass: the forms of a request that two programs in a row
//! could understand differently (request smuggling), RFC 9112 §6.3, §11.2.
//!
//! It follows the bytes of a connection through heads and bodies, keeps nothing but the line it is in, and knows at any time
//! what the client is doing, which is how slow clients are told from idle ones.

/// A line of a head beyond this is not looked into further. No such line says how long a body is or who the host is; what else it says, and
/// whether the head is too large, is for the parser behind.
const LINE_MAX: usize = 16 * 1024;
/// What says where a request ends and for whom it is.
const DECISIVE: [&[u8]; 3] = [b"host", b"content-length", b"transfer-encoding"];
/// A chunk-size line is no longer than this, extensions included.
const CHUNK_LINE_MAX: usize = 256;

/// Why a request is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("a line of the head ends without a carriage return")]
    BareLineFeed,
    #[error("content-length and transfer-encoding together")]
    TwoLengths,
    #[error("more than one content-length, or one that is not a number")]
    ContentLength,
    #[error("a transfer-encoding other than chunked, once")]
    TransferEncoding,
    #[error("an HTTP/1.1 request must have exactly one host")]
    Host,
    #[error("a chunk size that cannot be read")]
    Chunk,
    #[error("a line is too long")]
    LineTooLong,
}

/// What the client is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Nothing: between requests, or waiting for our answer.
    Idle,
    /// Sending a head.
    Head,
    /// Sending a body.
    Body,
}

/// Follows one connection.
#[derive(Debug)]
pub(crate) struct Scanner {
    state: State,
    /// The beginning of a line whose end has not come yet: what of it is looked into.
    line: Vec<u8>,
    /// The line's last byte so far, if there is more of it.
    beyond: Option<u8>,
    head: Head,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Head,
    Length(u64),
    ChunkSize,
    ChunkData(u64),
    /// The CRLF after a chunk's data.
    ChunkEnd,
    Trailers,
}

/// What matters of the head so far.
#[derive(Clone, Copy, Default, Debug)]
struct Head {
    lines: u32,
    old_version: bool,
    hosts: u32,
    lengths: u32,
    length: u64,
    encodings: u32,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Scanner { state: State::Head, line: Vec::new(), beyond: None, head: Head::default() }
    }

    pub(crate) fn phase(&self) -> Phase {
        match self.state {
            State::Head if self.head.lines == 0 && self.line.is_empty() => Phase::Idle,
            State::Head => Phase::Head,
            _ => Phase::Body,
        }
    }

    /// Takes the bytes that were read next.
    pub(crate) fn scan(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Length(left) | State::ChunkData(left) => {
                    let taken = (*left).min(bytes.len() as u64);
                    *left -= taken;
                    bytes = &bytes[taken as usize..];
                    if *left == 0 {
                        self.state = if matches!(self.state, State::Length(_)) { State::Head } else { State::ChunkEnd };
                    }
                }
                _ => bytes = self.scan_line(bytes)?,
            }
        }
        Ok(())
    }

    /// Takes bytes up to and including the end of a line, or all; answers the rest.
    fn scan_line<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Refusal> {
        let Some(end) = bytes.iter().position(|b| *b == b'\n') else {
            return self.go_on(bytes).map(|()| &[][..]);
        };
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        if self.line.is_empty() && line.len() <= LINE_MAX {
            self.end_line(line)?;
        } else {
            self.go_on(line)?;
            let mut whole = std::mem::take(&mut self.line);
            let result = match self.beyond.take() {
                None => self.end_line(&whole),
                Some(b'\r') => self.end_long_line(&whole),
                Some(_) => Err(Refusal::BareLineFeed),
            };
            whole.clear();
            self.line = whole;
            result?;
        }
        Ok(rest)
    }

    /// Takes more of a line.
    fn go_on(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let (kept, beyond) = bytes.split_at(bytes.len().min(LINE_MAX - self.line.len()));
        self.line.extend_from_slice(kept);
        self.beyond = beyond.last().copied().or(self.beyond);
        match self.state {
            State::Head | State::Trailers => Ok(()),
            _ if self.beyond.is_none() => Ok(()),
            _ => Err(Refusal::LineTooLong),
        }
    }

    /// Takes the beginning of a line that is longer than what is looked into.
    fn end_long_line(&mut self, beginning: &[u8]) -> Result<(), Refusal> {
        if self.state != State::Head {
            return Ok(());
        }
        let name = beginning.split(|b| *b == b':').next().unwrap_or_default();
        if self.head.lines > 0 && DECISIVE.iter().any(|decisive| name.eq_ignore_ascii_case(decisive)) {
            return Err(Refusal::LineTooLong);
        }
        self.head.lines += 1;
        Ok(())
    }

    /// Takes a line without its line feed.
    fn end_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        let line = line.strip_suffix(b"\r").ok_or(Refusal::BareLineFeed)?;
        match self.state {
            State::Head => self.head_line(line),
            State::ChunkSize => {
                let digits = line.split(|b| *b == b';').next().unwrap_or_default();
                let size = std::str::from_utf8(digits.trim_ascii())
                    .ok()
                    .filter(|d| !d.is_empty() && d.len() <= 15 && d.bytes().all(|b| b.is_ascii_hexdigit()))
                    .and_then(|d| u64::from_str_radix(d, 16).ok());
                self.state = match size {
                    _ if line.len() > CHUNK_LINE_MAX => return Err(Refusal::LineTooLong),
                    None => return Err(Refusal::Chunk),
                    Some(0) => State::Trailers,
                    Some(size) => State::ChunkData(size),
                };
                Ok(())
            }
            State::ChunkEnd if line.is_empty() => {
                self.state = State::ChunkSize;
                Ok(())
            }
            State::ChunkEnd => Err(Refusal::Chunk),
            State::Trailers => {
                if line.is_empty() {
                    self.state = State::Head;
                }
                Ok(())
            }
            State::Length(_) | State::ChunkData(_) => Ok(()),
        }
    }

    fn head_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        if line.is_empty() {
            // Empty lines before a request are ignored, RFC 9112 §2.2.
            return if self.head.lines == 0 { Ok(()) } else { self.end_head() };
        }
        self.head.lines += 1;
        if self.head.lines == 1 {
            self.head.old_version = line.ends_with(b"HTTP/1.0");
            return Ok(());
        }
        let Some(colon) = line.iter().position(|b| *b == b':') else { return Ok(()) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => self.head.hosts += 1,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.head.lengths += 1;
                let digits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
                let length = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|v| v.parse().ok());
                self.head.length = length.ok_or(Refusal::ContentLength)?;
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.head.encodings += 1;
                if self.head.encodings > 1 || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Refusal::TransferEncoding);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn end_head(&mut self) -> Result<(), Refusal> {
        let head = std::mem::take(&mut self.head);
        if head.hosts > 1 || (head.hosts == 0 && !head.old_version) {
            return Err(Refusal::Host);
        }
        if head.lengths > 1 {
            return Err(Refusal::ContentLength);
        }
        if head.encodings > 0 && head.lengths > 0 {
            return Err(Refusal::TwoLengths);
        }
        self.state = match (head.encodings, head.length) {
            (0, 0) => State::Head,
            (0, length) => State::Length(length),
            _ => State::ChunkSize,
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans whole, then byte by byte; both must agree.
    fn check(text: &str, expected: Result<Phase, Refusal>) {
        let mut whole = Scanner::new();
        assert_eq!(whole.scan(text.as_bytes()).map(|()| whole.phase()), expected, "{text:?}");
        let mut slow = Scanner::new();
        let result = text.as_bytes().chunks(1).try_for_each(|b| slow.scan(b));
        assert_eq!(result.map(|()| slow.phase()), expected, "byte by byte: {text:?}");
    }

    #[test]
    fn honest_requests_pass_and_leave_the_connection_idle() {
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Ok(Phase::Idle));
        check("\r\nGET / HTTP/1.0\r\n\r\n", Ok(Phase::Idle));
        check(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\na\nbGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            Ok(Phase::Idle),
        );
        check(
            "POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\na\nb\r\nA\r\n0123456789\r\n0\r\nt: v\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            Ok(Phase::Idle),
        );
    }

    #[test]
    fn a_long_line_passes_if_it_says_nothing_of_where_the_request_ends() {
        let long = "y".repeat(2 * LINE_MAX);
        let get = |headers: &str| format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n");
        check(&get(&format!("x-a: {long}")), Ok(Phase::Idle));
        check(&get(&format!("x-a: {long}")).replace("\r\n\r\n", ""), Ok(Phase::Head));
        check(&format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), Ok(Phase::Idle));
        check(&format!("GET /{long} HTTP/1.1\r\n\r\n"), Err(Refusal::Host));
        check(&get(&format!("x-a: {long}\nx-b: c")), Err(Refusal::BareLineFeed));
        for decisive in ["host", "content-length", "Transfer-Encoding"] {
            let spaces = " ".repeat(2 * LINE_MAX);
            check(&get(&format!("{decisive}:{spaces}1")), Err(Refusal::LineTooLong));
        }
        check(
            &format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;{long}\r\n"),
            Err(Refusal::LineTooLong),
        );
    }

    #[test]
    fn the_phase_says_what_the_client_is_doing() {
        check("", Ok(Phase::Idle));
        check("GE", Ok(Phase::Head));
        check("GET / HTTP/1.1\r\n", Ok(Phase::Head));
        check("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nab", Ok(Phase::Body));
    }

    #[test]
    fn ambiguous_requests_are_refused() {
        check("GET / HTTP/1.1\nHost: a\n\n", Err(Refusal::BareLineFeed));
        check("GET / HTTP/1.1\r\nHost: a\n\r\n", Err(Refusal::BareLineFeed));
        check("GET / HTTP/1.1\r\n\r\n", Err(Refusal::Host));
        check("GET / HTTP/1.1\r\nHost: a\r\nHOST: b\r\n\r\n", Err(Refusal::Host));
        let post = |headers: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n");
        check(&post("content-length: 3\r\ntransfer-encoding: chunked"), Err(Refusal::TwoLengths));
        check(&post("transfer-encoding: chunked\r\ncontent-length: 3"), Err(Refusal::TwoLengths));
        check(&post("transfer-encoding: chunked\r\ntransfer-encoding: chunked"), Err(Refusal::TransferEncoding));
        check(&post("transfer-encoding: chunked, chunked"), Err(Refusal::TransferEncoding));
        check(&post("transfer-encoding: gzip"), Err(Refusal::TransferEncoding));
        check(&post("content-length: 3\r\ncontent-length: 3"), Err(Refusal::ContentLength));
        check(&post("content-length: +3"), Err(Refusal::ContentLength));
        check(&post("content-length: 3, 3"), Err(Refusal::ContentLength));
        check(&format!("{}zz\r\n", post("transfer-encoding: chunked")), Err(Refusal::Chunk));
        check(&format!("{}1\r\nab\r\n", post("transfer-encoding: chunked")), Err(Refusal::Chunk));
    }
}
