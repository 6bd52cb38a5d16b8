//! As much of Amazon SQS as a queue needs: it judges every signature by itself, gives what it has, and hides it for a second.

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub(crate) const KEY_ID: &str = "AKIDEXAMPLE";
pub(crate) const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const HIDDEN: Duration = Duration::from_secs(1);

pub(crate) struct Imitation {
    pub(crate) port: u16,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    messages: Vec<Message>,
    given: usize,
    swallowed: usize,
    /// It says that it has deleted, and does not.
    swallows: bool,
    /// It answers nobody.
    dead: bool,
    /// What was sent by requests.
    sent: Vec<Value>,
}

struct Message {
    number: usize,
    body: String,
    attributes: Value,
    from: Instant,
}

impl Imitation {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(client, &state));
            }
        });
        Imitation { port, state }
    }

    pub(crate) fn url(&self, queue: &str) -> String {
        format!("http://127.0.0.1:{}/000000000000/{queue}", self.port)
    }

    /// Puts messages there, in no order that would be kept.
    #[allow(dead_code, reason = "not every test puts something there")]
    pub(crate) fn put(&self, bodies: impl IntoIterator<Item = (String, Value)>) {
        let mut state = self.state.lock().unwrap();
        for (body, attributes) in bodies {
            let number = state.given;
            state.given += 1;
            state.messages.push(Message { number, body, attributes, from: Instant::now() });
        }
    }

    pub(crate) fn left(&self) -> usize {
        self.state.lock().unwrap().messages.len()
    }

    #[allow(dead_code, reason = "not every test asks")]
    pub(crate) fn swallowed(&self) -> usize {
        self.state.lock().unwrap().swallowed
    }

    #[allow(dead_code, reason = "not every test does that")]
    pub(crate) fn swallow(&self, swallows: bool) {
        self.state.lock().unwrap().swallows = swallows;
    }

    #[allow(dead_code, reason = "not every test does that")]
    pub(crate) fn die(&self, dead: bool) {
        self.state.lock().unwrap().dead = dead;
    }

    #[allow(dead_code, reason = "not every test sends")]
    pub(crate) fn sent(&self) -> Vec<Value> {
        self.state.lock().unwrap().sent.clone()
    }
}

fn serve(client: TcpStream, state: &Mutex<State>) {
    let mut answers = client.try_clone().unwrap();
    let mut requests = BufReader::new(client);
    while let Some((headers, body)) = read(&mut requests) {
        if state.lock().unwrap().dead {
            return;
        }
        let (status, answer) = match is_signed(&headers, &body) {
            true => act(&headers["x-amz-target"], &serde_json::from_slice(&body).unwrap(), state),
            false => (403, told("com.amazon.coral.service#SignatureDoesNotMatch", "The signature is not right.")),
        };
        let answer = answer.to_string();
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", answer.len());
        if answers.write_all(format!("{head}{answer}").as_bytes()).is_err() {
            return;
        }
    }
}

fn read(requests: &mut BufReader<TcpStream>) -> Option<(HashMap<String, String>, Vec<u8>)> {
    let mut line = String::new();
    requests.read_line(&mut line).ok().filter(|count| *count > 0)?;
    assert!(line.starts_with("POST / HTTP/1.1"), "{line}");
    let mut headers = HashMap::new();
    loop {
        line.clear();
        requests.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let mut body = vec![0; headers.get("content-length")?.parse().ok()?];
    requests.read_exact(&mut body).ok()?;
    Some((headers, body))
}

fn act(target: &str, asked: &Value, state: &Mutex<State>) -> (u16, Value) {
    if !asked["QueueUrl"].as_str().unwrap().contains("/000000000000/orders") {
        return (400, told("com.amazonaws.sqs#QueueDoesNotExist", "There is no such queue."));
    }
    match target {
        "AmazonSQS.SendMessage" => {
            let mut state = state.lock().unwrap();
            let known = |sent: &&Value| {
                !sent["MessageDeduplicationId"].is_null()
                    && sent["MessageDeduplicationId"] == asked["MessageDeduplicationId"]
            };
            if !state.sent.iter().any(|sent| known(&sent)) {
                state.sent.push(asked.clone());
            }
            (200, json!({ "MessageId": format!("sent-{}", state.sent.len()), "MD5OfMessageBody": "" }))
        }
        "AmazonSQS.ReceiveMessage" => {
            let patience = Instant::now() + Duration::from_secs(asked["WaitTimeSeconds"].as_u64().unwrap());
            let most = asked["MaxNumberOfMessages"].as_u64().unwrap() as usize;
            assert!((1..=10).contains(&most), "{asked}");
            loop {
                let given = state.lock().unwrap().give(most);
                if !given.is_empty() || Instant::now() >= patience {
                    return (200, json!({ "Messages": given }));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        "AmazonSQS.DeleteMessageBatch" => {
            let entries = asked["Entries"].as_array().unwrap();
            assert!((1..=10).contains(&entries.len()), "{asked}");
            let mut state = state.lock().unwrap();
            if state.swallows {
                state.swallowed += entries.len();
            } else {
                let receipts: Vec<&str> =
                    entries.iter().map(|entry| entry["ReceiptHandle"].as_str().unwrap()).collect();
                state.messages.retain(|message| !receipts.contains(&receipt(message.number).as_str()));
            }
            (200, json!({ "Successful": [], "Failed": [] }))
        }
        other => panic!("{other}"),
    }
}

impl State {
    fn give(&mut self, most: usize) -> Vec<Value> {
        let now = Instant::now();
        let there = self.messages.iter_mut().filter(|message| message.from <= now).take(most);
        there
            .map(|message| {
                message.from = now + HIDDEN;
                json!({
                    "MessageId": format!("id-{}", message.number), "ReceiptHandle": receipt(message.number),
                    "Body": message.body, "MessageAttributes": message.attributes,
                    "Attributes": { "SentTimestamp": "1790000000000" },
                })
            })
            .collect()
    }
}

fn receipt(number: usize) -> String {
    format!("receipt/{number}==")
}

fn told(kind: &str, message: &str) -> Value {
    json!({ "__type": kind, "message": message })
}

/// Version 4 of AWS' signature, from the side of who checks it: over the headers that the request says are signed.
fn is_signed(headers: &HashMap<String, String>, body: &[u8]) -> bool {
    let Some(given) = headers.get("authorization") else { return false };
    let part = |name: &str| {
        let of = given.split_once(&format!("{name}=")).map(|(_, rest)| rest.split(',').next().unwrap_or_default());
        of.unwrap_or_default()
    };
    let credential: Vec<&str> = part("Credential").split('/').collect();
    let [KEY_ID, day, region, "sqs", "aws4_request"] = credential[..] else { return false };
    let names = part("SignedHeaders");
    for name in ["host", "x-amz-date", "x-amz-target", "content-type"] {
        assert!(names.split(';').any(|signed| signed == name), "{name} is not signed: {names}");
    }
    let mut canonical = "POST\n/\n\n".to_owned();
    for name in names.split(';') {
        canonical += &format!("{name}:{}\n", headers[name]);
    }
    canonical += &format!("\n{names}\n{}", hex(&Sha256::digest(body)));
    let date = &headers["x-amz-date"];
    assert!(date.starts_with(day) && date.len() == 16, "{date}");
    let scope = format!("{day}/{region}/sqs/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(&Sha256::digest(&canonical)));
    let key = [day, region, "sqs", "aws4_request"]
        .iter()
        .fold(format!("AWS4{SECRET}").into_bytes(), |key, part| mac(&key, part.as_bytes()));
    part("Signature") == hex(&mac(&key, text.as_bytes()))
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
