//! The real resolver against name servers that fail in every way.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use bellwire_egress::{Egress, NameServers, Resolve, ResolveError, SendError, Settings, resolve::Dns};
use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, UdpSocket},
};

use crate::support::{SHORT, Server, impatient, post, settings};

/// A name server on UDP and TCP whose records for each question come from `answer`; `None` is silence.
struct NameServer {
    address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

type Answer = Option<(ResponseCode, Vec<Record>)>;

impl NameServer {
    async fn start(answer: impl Fn(&Name, RecordType) -> Answer + Send + Sync + 'static) -> Self {
        let (udp, tcp) = Self::bind().await;
        let address = udp.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let respond = {
            let asked = Arc::clone(&asked);
            Arc::new(move |packet: &[u8]| {
                asked.fetch_add(1, SeqCst);
                reply(packet, &answer)
            })
        };
        let over_tcp = Arc::clone(&respond);
        tokio::spawn(async move {
            let mut packet = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut packet).await {
                let Some(mut reply) = respond(&packet[..length]) else { continue };
                if reply.len() > 1232 {
                    // Only the head, with the bit that sends the client to TCP.
                    reply.truncate(12);
                    reply[2] |= 0b10;
                    reply[4..12].fill(0);
                    reply[5] = 1;
                    reply.extend_from_slice(question(&packet[..length]));
                }
                udp.send_to(&reply, from).await.unwrap();
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let respond = Arc::clone(&over_tcp);
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut packet = vec![0; usize::from(length)];
                        stream.read_exact(&mut packet).await.unwrap();
                        let Some(reply) = respond(&packet) else { continue };
                        stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
                        stream.write_all(&reply).await.unwrap();
                    }
                });
            }
        });
        Self { address, asked }
    }

    async fn bind() -> (UdpSocket, TcpListener) {
        loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                return (udp, tcp);
            }
        }
    }

    fn resolver(&self, budget: Duration) -> Dns {
        Dns::new(&NameServers::Listed(vec![self.address]), budget).unwrap()
    }
}

fn question(packet: &[u8]) -> &[u8] {
    let name_length = packet[12..].iter().position(|byte| *byte == 0).unwrap() + 1;
    &packet[12..12 + name_length + 4]
}

fn reply(packet: &[u8], answer: &impl Fn(&Name, RecordType) -> Answer) -> Option<Vec<u8>> {
    let mut message = Message::from_vec(packet).unwrap();
    let query = message.queries[0].clone();
    let (code, records) = answer(query.name(), query.query_type())?;
    message.metadata.message_type = MessageType::Response;
    message.metadata.response_code = code;
    message.answers = records;
    message.additionals.clear();
    message.edns = None;
    Some(message.to_vec().unwrap())
}

fn a(name: &Name, ip: [u8; 4], ttl: u32) -> Record {
    Record::from_rdata(name.clone(), ttl, RData::A(A(Ipv4Addr::from(ip))))
}

#[tokio::test]
async fn a_name_is_resolved_absolutely_and_the_answer_kept() {
    let names = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&names);
    let server = NameServer::start(move |name, kind| {
        seen.lock().unwrap().push(name.to_string().to_lowercase());
        let record = match kind {
            RecordType::AAAA => Record::from_rdata(name.clone(), 60, RData::AAAA(AAAA("2001:db8::1".parse().unwrap()))),
            _ => a(name, [127, 0, 0, 1], 60),
        };
        Some((ResponseCode::NoError, vec![record]))
    })
    .await;
    let resolver = server.resolver(Duration::from_secs(5));
    for _ in 0..3 {
        let mut addresses = resolver.resolve("hooks.example").await.unwrap();
        addresses.sort_unstable();
        assert_eq!(addresses, ["127.0.0.1", "2001:db8::1"].map(|ip| ip.parse::<IpAddr>().unwrap()));
    }
    assert_eq!(server.asked.load(SeqCst), 2, "one A and one AAAA");
    assert!(names.lock().unwrap().iter().all(|name| name == "hooks.example."));
}

#[tokio::test]
async fn a_ttl_of_zero_is_asked_again() {
    let server = NameServer::start(|name, kind| {
        Some((ResponseCode::NoError, if kind == RecordType::A { vec![a(name, [127, 0, 0, 1], 0)] } else { vec![] }))
    })
    .await;
    let resolver = server.resolver(Duration::from_secs(5));
    resolver.resolve("hooks.example").await.unwrap();
    let before = server.asked.load(SeqCst);
    tokio::time::sleep(Duration::from_millis(5)).await;
    resolver.resolve("hooks.example").await.unwrap();
    assert!(server.asked.load(SeqCst) > before);
}

#[tokio::test]
async fn a_public_v4_beside_a_private_v6_is_refused() {
    let endpoint = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let server = NameServer::start(|name, kind| {
        let record = match kind {
            RecordType::AAAA => Record::from_rdata(name.clone(), 60, RData::AAAA(AAAA("fd00::1".parse().unwrap()))),
            _ => a(name, [127, 0, 0, 1], 60),
        };
        Some((ResponseCode::NoError, vec![record]))
    })
    .await;
    let settings = Settings { name_servers: NameServers::Listed(vec![server.address]), ..settings() };
    let client = Egress::new(settings).unwrap().client().unwrap();
    let url = format!("http://mixed.example:{}/", endpoint.address.port());
    assert_eq!(client.exchange(post(url)).await.unwrap_err().class(), "forbidden_address");
    assert_eq!(endpoint.connections(), 0);
}

#[tokio::test]
async fn an_alias_is_judged_by_where_it_leads() {
    let server = NameServer::start(|name, kind| {
        let internal = Name::from_ascii("db.internal.").unwrap();
        let alias = Record::from_rdata(name.clone(), 60, RData::CNAME(CNAME(internal.clone())));
        let records = if kind == RecordType::A { vec![alias, a(&internal, [10, 0, 0, 1], 60)] } else { vec![alias] };
        Some((ResponseCode::NoError, records))
    })
    .await;
    let settings = Settings { name_servers: NameServers::Listed(vec![server.address]), ..settings() };
    let client = Egress::new(settings).unwrap().client().unwrap();
    let error = client.exchange(post("http://alias.example/")).await.unwrap_err();
    assert!(matches!(error, SendError::Forbidden(_)), "{error:?}");
}

#[tokio::test]
async fn a_name_that_does_not_exist_is_not_found() {
    let server = NameServer::start(|_, _| Some((ResponseCode::NXDomain, vec![]))).await;
    let resolver = server.resolver(Duration::from_secs(5));
    assert!(matches!(resolver.resolve("nowhere.example").await, Err(ResolveError::NotFound)));
}

#[tokio::test]
async fn a_name_without_addresses_is_not_found() {
    let server = NameServer::start(|_, _| Some((ResponseCode::NoError, vec![]))).await;
    let error = server.resolver(Duration::from_secs(5)).resolve("mail.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::NotFound), "{error:?}");
}

#[tokio::test]
async fn a_server_that_fails_is_a_failure_and_not_an_absence() {
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let server = NameServer::start(move |_, _| Some((code, vec![]))).await;
        let error = server.resolver(SHORT).resolve("broken.example").await.unwrap_err();
        assert!(matches!(error, ResolveError::Failed(_) | ResolveError::Timeout), "{error:?}");
    }
}

#[tokio::test]
async fn silence_ends_with_the_budget() {
    let server = NameServer::start(|_, _| None).await;
    let resolver = server.resolver(SHORT);
    let started = Instant::now();
    let error = resolver.resolve("silent.example").await.unwrap_err();
    assert!(matches!(error, ResolveError::Timeout), "{error:?}");
    assert!(started.elapsed() < SHORT * 4);

    let many: Vec<String> = (0..200).map(|n| format!("silent{n}.example")).collect();
    let started = Instant::now();
    let answers = futures_util::future::join_all(many.iter().map(|name| resolver.resolve(name))).await;
    assert!(answers.iter().all(Result::is_err));
    assert!(started.elapsed() < SHORT * 8);
}

#[tokio::test]
async fn a_loop_of_aliases_ends() {
    let server = NameServer::start(|name, _| {
        let other = if name.to_string().to_lowercase().starts_with("one.") { "two.example." } else { "one.example." };
        let alias = Record::from_rdata(name.clone(), 60, RData::CNAME(CNAME(Name::from_ascii(other).unwrap())));
        Some((ResponseCode::NoError, vec![alias]))
    })
    .await;
    let started = Instant::now();
    assert!(server.resolver(SHORT).resolve("one.example").await.is_err());
    assert!(started.elapsed() < SHORT * 4);
}

#[tokio::test]
async fn two_hundred_addresses_are_all_seen() {
    let server = NameServer::start(|name, kind| {
        let records = (0..200).map(|n| a(name, [127, 0, 1, n], 60)).collect();
        Some((ResponseCode::NoError, if kind == RecordType::A { records } else { vec![] }))
    })
    .await;
    let addresses = server.resolver(Duration::from_secs(5)).resolve("many.example").await.unwrap();
    assert_eq!(addresses.len(), 200);
}

#[tokio::test]
async fn the_deadline_of_the_exchange_covers_dns() {
    let server = NameServer::start(|_, _| None).await;
    let settings = Settings { name_servers: NameServers::Listed(vec![server.address]), ..settings() };
    let client = Egress::new(settings).unwrap().client().unwrap();
    let error = client.exchange(impatient("http://silent.example/")).await.unwrap_err();
    assert!(matches!(error, SendError::Timeout { stage: bellwire_egress::Stage::Dns, .. }), "{error:?}");
}
