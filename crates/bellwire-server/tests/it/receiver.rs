//! A receiver whose answers are scripted, and that keeps what it got.

use bellwire_signature::{SignedHeaders, TOLERANCE_DEFAULT, VerifyKey, verify};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver as Queue, channel};

/// A request as it arrived.
pub(crate) struct Arrival {
    /// Method, path and version.
    pub(crate) request: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Arrival {
    pub(crate) fn header(&self, name: &str) -> &str {
        &self.headers[name]
    }

    /// Panics if it is not signed with this key, over its very bytes.
    pub(crate) fn verify(&self, key: &VerifyKey) {
        let (id, timestamp) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        let signed = SignedHeaders { id, timestamp, signature: self.header("webhook-signature") };
        let now = timestamp.parse().unwrap();
        verify(std::slice::from_ref(key), &signed, &self.body, now, TOLERANCE_DEFAULT).unwrap();
    }
}

/// Answers its requests with the statuses given, the last one for ever.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    arrivals: Queue<Arrival>,
}

impl Receiver {
    pub(crate) fn answering(statuses: &'static [u16]) -> Receiver {
        let last = *statuses.last().unwrap();
        let mut statuses = statuses.iter().copied().chain(std::iter::repeat(last));
        Receiver::saying(move |_| (statuses.next().unwrap(), "hi".to_owned()))
    }

    /// Answers each request with what `say` makes of it: a status and a body.
    pub(crate) fn saying(mut say: impl FnMut(&Arrival) -> (u16, String) + Send + 'static) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, arrivals) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = BufReader::new(stream.unwrap());
                let mut headers = HashMap::new();
                let (mut line, mut request) = (String::new(), String::new());
                while stream.read_line(&mut line).unwrap_or(0) > 2 {
                    match line.trim_end().split_once(": ") {
                        Some((name, value)) => drop(headers.insert(name.to_lowercase(), value.to_owned())),
                        None => line.trim_end().clone_into(&mut request),
                    }
                    line.clear();
                }
                let length = headers.get("content-length").map_or(0, |l| l.parse().unwrap());
                let mut body = vec![0; length];
                if headers.is_empty() || stream.read_exact(&mut body).is_err() {
                    continue;
                }
                let arrival = Arrival { request, headers, body };
                let (status, said) = say(&arrival);
                let length = said.len();
                let answer =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{said}");
                let _ = stream.get_mut().write_all(answer.as_bytes());
                if sender.send(arrival).is_err() {
                    return;
                }
            }
        });
        Receiver { address, arrivals }
    }

    /// The next request.
    pub(crate) fn next(&self) -> Arrival {
        self.arrivals.recv_timeout(crate::program::PATIENCE).expect("a request arrives")
    }

    /// Whether no request has come that was not asked for by [`Receiver::next`].
    pub(crate) fn is_quiet(&self) -> bool {
        self.arrivals.try_recv().is_err()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }
}
