//! A broker that answers what a test wants: also what no real one does.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const PRODUCE: i16 = 0;
pub(crate) const FETCH: i16 = 1;
pub(crate) const LIST_OFFSETS: i16 = 2;
pub(crate) const METADATA: i16 = 3;
const API_VERSIONS: i16 = 18;

/// What the broker says to a request: its answer, or nothing for ever.
pub(crate) type Said = Option<Vec<u8>>;

pub(crate) struct Broker {
    pub(crate) port: u16,
    /// Connections that were opened.
    pub(crate) opened: Arc<AtomicUsize>,
}

impl Broker {
    /// `answers` is given the request's number and the port at which this is. What versions there are is answered here.
    pub(crate) fn start(answers: impl Fn(i16, u16) -> Said + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answers, opened) = (Arc::new(answers), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&opened);
        std::thread::spawn(move || {
            for tcp in listener.incoming().map_while(Result::ok) {
                count.fetch_add(1, Ordering::SeqCst);
                let answers = Arc::clone(&answers);
                std::thread::spawn(move || serve(tcp, |api| answers(api, port)));
            }
        });
        Broker { port, opened }
    }
}

/// Until the other end goes.
fn serve(mut tcp: TcpStream, answers: impl Fn(i16) -> Said) -> Option<()> {
    loop {
        let mut length = [0; 4];
        tcp.read_exact(&mut length).ok()?;
        let mut request = vec![0; usize::try_from(i32::from_be_bytes(length)).unwrap()];
        tcp.read_exact(&mut request).ok()?;
        let api = i16::from_be_bytes([request[0], request[1]]);
        let said = if api == API_VERSIONS { Some(versions()) } else { answers(api) };
        if let Some(said) = said {
            let length = i32::try_from(said.len() + 4).unwrap();
            tcp.write_all(&[&length.to_be_bytes()[..], &request[4..8], &said].concat()).ok()?;
        }
    }
}

/// As Kafka 2.1 speaks: each at the version that is spoken here.
fn versions() -> Vec<u8> {
    let all: [[i16; 3]; 6] = [[0, 7, 7], [1, 10, 10], [2, 2, 2], [3, 4, 4], [17, 1, 1], [36, 0, 0]];
    let mut said = vec![0, 0, 0, 0, 0, 6];
    all.iter().flatten().for_each(|number| said.extend(number.to_be_bytes()));
    said
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    [&i16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// A topic `events` of one partition, led by broker `leader`, which is on this machine.
pub(crate) fn metadata(leader: i32, port: u16) -> Said {
    let number = |number: i32| number.to_be_bytes().to_vec();
    let broker = [number(leader), text("127.0.0.1"), number(port.into()), vec![0xff, 0xff]].concat();
    let partition = [vec![0, 0], number(0), number(leader), number(0), number(0)].concat();
    let topic = [vec![0, 0], text("events"), vec![0], number(1), partition].concat();
    Some([number(0), number(1), broker, text("test"), number(leader), number(1), topic].concat())
}

/// What became of records for `events/0`: an error's number, or 0.
pub(crate) fn produced(error: i16) -> Said {
    let partition = [&[0; 4][..], &error.to_be_bytes(), &[0; 24]].concat();
    Some([&[0, 0, 0, 1][..], &text("events"), &[0, 0, 0, 1], &partition, &[0; 4]].concat())
}

/// `events/0` begins at 0.
pub(crate) fn begins() -> Said {
    Some([&[0; 4][..], &[0, 0, 0, 1], &text("events"), &[0, 0, 0, 1], &[0; 22]].concat())
}

/// These bytes as what was fetched of `events/0`.
pub(crate) fn fetched(records: &[u8]) -> Said {
    let length = i32::try_from(records.len()).unwrap().to_be_bytes();
    let partition = [&[0; 30][..], &[0; 4], &length, records].concat();
    Some([&[0; 10][..], &[0, 0, 0, 1], &text("events"), &[0, 0, 0, 1], &partition].concat())
}
