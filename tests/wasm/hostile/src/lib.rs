//! Does the harm that the payload names: for tests that it harms nobody but itself.

wit_bindgen::generate!({
    path: "../../../crates/bellwire-plugin/src/wasm/handler.wit",
    world: "handler",
});

use bellwire::handler::host::{self, Level, Outgoing, emit, log};
use bellwire::handler::types::{Header, Response, Retry};
use std::hint::black_box;
use std::net::TcpStream;
use std::time::Duration;

/// All there is, of some only a part.
#[used]
#[unsafe(link_section = "bellwire.permissions")]
static PERMISSIONS: [u8; 47] = *b"fetch 127.0.0.1\nenvironment REGION\nrespond\nemit";

/// Left behind by one event for the next, were there one instance for both.
static mut LEFT_BEHIND: u32 = 0;

struct Hostile;

impl Guest for Hostile {
    fn handle(event: Event) -> Result<Answer, String> {
        let payload = String::from_utf8_lossy(&event.payload).into_owned();
        // The last text, of `"loop"` as of `{"harm":"loop"}`.
        let what: Vec<&str> = payload.rsplit('"').nth(1).unwrap_or_default().split(' ').collect();
        log(Level::Info, &format!("about to: {}", what.join(" ")));
        match what[..] {
            ["loop"] => loop {
                black_box(());
            },
            ["memory"] => {
                let mut held = Vec::new();
                loop {
                    held.push(black_box(vec![1_u8; 1 << 20]));
                }
            }
            ["stack"] => Ok(Answer::Ack(deeper(1).to_string())),
            ["trap"] => panic!("on purpose"),
            ["exit"] => std::process::exit(7),
            ["error"] => Err("not today".to_owned()),
            ["sleep"] => {
                std::thread::sleep(Duration::from_secs(3_600));
                Ok(Answer::Ack(String::new()))
            }
            ["nap"] => {
                std::thread::sleep(Duration::from_millis(50));
                Ok(Answer::Ack("slept".to_owned()))
            }
            ["flood"] => {
                for _ in 0..500 {
                    log(Level::Warn, &"x".repeat(1_000));
                    println!("{}", "y".repeat(1_000));
                }
                Ok(Answer::Ack(String::new()))
            }
            ["emit", times] => {
                for _ in 0..times.parse().unwrap_or(1) {
                    emit("made", "{}", &[]);
                }
                Ok(Answer::Ack(String::new()))
            }
            ["emit-rubbish"] => {
                emit("made", "{", &[]);
                Ok(Answer::Ack(String::new()))
            }
            ["status", status] => respond(status.parse().unwrap_or(0), "x-a", 1),
            ["header"] => respond(200, "a b", 1),
            ["body", bytes] => respond(200, "x-a", bytes.parse().unwrap_or(0)),
            ["text"] => {
                // No text at all: not UTF-8.
                let text = unsafe { String::from_utf8_unchecked(vec![0xff; 8]) };
                Ok(Answer::Ack(text))
            }
            ["file"] => Ok(Answer::Ack(format!("{:?}", std::fs::read("/etc/passwd").map(|bytes| bytes.len())))),
            ["files"] => Ok(Answer::Ack(format!("{:?}", std::fs::read_dir("/").map(|all| all.count())))),
            ["socket", address] => Ok(Answer::Ack(format!("{:?}", TcpStream::connect(address).map(drop)))),
            ["environment"] => {
                let mut all: Vec<String> = std::env::vars().map(|(name, value)| format!("{name}={value}")).collect();
                all.push(format!("{:?} {:?}", host::environment("REGION"), host::environment("PATH")));
                Ok(Answer::Ack(all.join(" ")))
            }
            ["fetch", url] => {
                let request = Outgoing { url: url.to_owned(), method: "GET".to_owned(), headers: vec![], body: vec![] };
                let text = match host::fetch(&request) {
                    Ok(answer) => format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body)),
                    Err(why) => why,
                };
                Ok(Answer::Ack(text))
            }
            ["retry"] => Ok(Answer::Retry(Retry { seconds: Some(9), reason: "busy".to_owned() })),
            ["count"] => {
                let count = unsafe {
                    LEFT_BEHIND += 1;
                    LEFT_BEHIND
                };
                Ok(Answer::Ack(count.to_string()))
            }
            ["nothing"] => Ok(Answer::Ack(String::new())),
            _ => Ok(Answer::Fail("no such harm".to_owned())),
        }
    }
}

fn respond(status: u16, header: &str, bytes: usize) -> Result<Answer, String> {
    let headers = vec![Header { name: header.to_owned(), value: "1".to_owned() }];
    Ok(Answer::Respond(Response { status, headers, body: vec![b'x'; bytes] }))
}

#[expect(unconditional_recursion, reason = "that is the harm")]
fn deeper(n: u64) -> u64 {
    black_box(deeper(black_box(n + 1)) + n)
}

export!(Hostile);
