//! Senders who publish their keys, imitated: SNS and PayPal with certificates of an authority that only this test trusts, Plaid with
//! JSON Web Keys. Everything that is fetched comes from a forward proxy that is all of these hosts itself.

use crate::program::{PATIENCE, Program};
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, SignatureScheme, StreamOwned};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

const SNS: &str = "sns.us-east-1.amazonaws.com";
const PAYPAL: &str = "api.paypal.com";
const PLAID: &str = "production.plaid.com";
const TOPIC: &str = "arn:aws:sns:us-east-1:1234:bell";

type Maker = Issuer<'static, KeyPair>;
/// Status and body by address.
type Answers = HashMap<String, (u16, Vec<u8>)>;

/// An authority, an issuer below it that it publishes, and whoever they vouch for.
struct Authority {
    root: String,
    below: Maker,
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

impl Authority {
    /// `internet` shows where the issuer's certificate is.
    fn new(name: &str, internet: &Internet) -> Authority {
        let key = KeyPair::generate().unwrap();
        let params = authority_params(name);
        let root = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        let (key, params) = (KeyPair::generate().unwrap(), authority_params(&format!("below {name}")));
        let below = params.signed_by(&key, &issuer).unwrap();
        internet.publish(&format!("issuers.example/{name}.cer"), 200, below.der().to_vec());
        Authority { root, below: Issuer::new(params, key) }
    }

    fn sender(&self, host: &str, algorithm: &'static rcgen::SignatureAlgorithm) -> Sender {
        Sender::new(host, algorithm, |_| {}, &self.below)
    }
}

/// Who signs, and the certificate alone.
struct Sender {
    key: PrivateKeyDer<'static>,
    certificate: String,
    der: CertificateDer<'static>,
    point: Vec<u8>,
}

impl Sender {
    fn new(
        host: &str,
        algorithm: &'static rcgen::SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
        issuer: &Maker,
    ) -> Sender {
        let rsa = || KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048);
        let key = if *algorithm == rcgen::PKCS_RSA_SHA256 { rsa() } else { KeyPair::generate_for(algorithm) }.unwrap();
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        change(&mut params);
        let made = params.signed_by(&key, issuer).unwrap();
        Sender {
            certificate: made.pem(),
            der: made.der().clone(),
            point: key.der_bytes().to_vec(),
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }

    fn sign(&self, scheme: SignatureScheme, text: &[u8]) -> Vec<u8> {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.key).unwrap();
        key.choose_scheme(&[scheme]).unwrap().sign(text).unwrap()
    }
}

/// Says that the issuer's certificate is at `url`: RFC 5280 §4.2.2.1.
fn issued_at(url: &str) -> impl FnOnce(&mut CertificateParams) {
    let tagged = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).unwrap()], content].concat();
    let place = [tagged(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 2]), tagged(0x86, url.as_bytes())].concat();
    let content = tagged(0x30, &tagged(0x30, &place));
    move |params| {
        let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 5, 5, 7, 1, 1], content);
        params.custom_extensions.push(extension);
    }
}

/// All hosts there are, behind a forward proxy.
#[derive(Clone)]
struct Internet {
    port: u16,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
    /// Makes the hosts' certificates for TLS.
    hosts: Arc<Mutex<Option<Maker>>>,
}

impl Internet {
    fn new() -> Internet {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let internet = Internet {
            port: listener.local_addr().unwrap().port(),
            answers: Arc::default(),
            asked: Arc::default(),
            hosts: Arc::default(),
        };
        let all = internet.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let all = all.clone();
                // A client that goes away in the middle is no matter.
                std::thread::spawn(move || drop(all.serve(stream)));
            }
        });
        internet
    }

    /// From now on, this is at `https://` or `http://` and this address.
    fn publish(&self, address: &str, status: u16, body: impl Into<Vec<u8>>) {
        self.answers.lock().unwrap().insert(address.to_owned(), (status, body.into()));
    }

    /// How often an address was asked for.
    fn count(&self, address: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.starts_with(address)).count()
    }

    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let (head, _) = read(&mut stream)?;
        let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
        let Some(host) = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(':').next()) else {
            return self.answer(&mut stream, target.trim_start_matches("http://"), "");
        };
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        let sender = {
            let hosts = self.hosts.lock().unwrap();
            Sender::new(host, &rcgen::PKCS_ECDSA_P256_SHA256, |_| {}, hosts.as_ref().unwrap())
        };
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![sender.der], sender.key)
            .unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
        let (head, body) = read(&mut stream)?;
        let path = head.split(' ').nth(1).unwrap_or_default();
        self.answer(&mut stream, &format!("{host}{path}"), &body)?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    fn answer(&self, stream: &mut impl Write, address: &str, body: &str) -> std::io::Result<()> {
        self.asked.lock().unwrap().push(format!("{address} {body}"));
        // What is posted stands behind the address, so that one address can have several answers.
        let answers = self.answers.lock().unwrap();
        let found = answers.iter().find(|(key, _)| {
            let (place, holds) = key.split_once(' ').unwrap_or((key, ""));
            place == address && body.contains(holds)
        });
        let (status, body) = found.map_or((404, Vec::new()), |(_, found)| found.clone());
        write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len())?;
        stream.write_all(&body)?;
        stream.flush()
    }
}

/// A request's head and body.
fn read(stream: &mut impl Read) -> std::io::Result<(String, String)> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = head
        .to_ascii_lowercase()
        .split_once("content-length: ")
        .map_or(0, |(_, rest)| rest.split("\r\n").next().unwrap_or_default().parse().unwrap_or(0));
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}

/// A server with a source of the preset `preset`, on an internet with the authority that it trusts.
struct World {
    internet: Internet,
    authority: Authority,
    server: Program,
    path: String,
}

impl World {
    fn new(data: &Path, preset: &str, settings: Value) -> World {
        let internet = Internet::new();
        let authority = Authority::new("trusted", &internet);
        let hosts = Authority::new("hosts", &internet);
        let roots = data.join("roots.pem");
        std::fs::write(&roots, format!("{}{}", authority.root, hosts.root)).unwrap();
        // The hosts' own certificates come from an issuer that is trusted itself: TLS brings no others along here.
        let (key, params) = (KeyPair::generate().unwrap(), authority_params("of hosts"));
        let root = params.self_signed(&key).unwrap();
        std::fs::write(&roots, format!("{}{}", authority.root, root.pem())).unwrap();
        *internet.hosts.lock().unwrap() = Some(Issuer::new(params, key));
        let environment = [
            ("BELLWIRE_EGRESS_PROXY", format!("http://127.0.0.1:{}", internet.port)),
            ("BELLWIRE_EGRESS_EXTRA_ROOTS", roots.display().to_string()),
        ];
        let server = Program::start(data, &environment.each_ref().map(|(name, value)| (*name, value.as_str())));
        assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
        let source = json!({"uid": "in", "name": "in", "appId": "acme", "preset": preset, "settings": settings});
        let (status, made) = server.call("POST", "/source", source);
        assert_eq!(status, 201, "{made}");
        let url = made["listenerUrl"].as_str().unwrap();
        let path = url[url.find("/in/").unwrap()..].to_owned();
        World { internet, authority, server, path }
    }

    fn messages(&self) -> usize {
        let (_, all) = self.server.call("GET", "/app/acme/msg", json!(null));
        all["data"].as_array().unwrap().len()
    }

    /// Answers the status, and the head.
    fn post(&self, headers: &[(&str, &str)], body: &str) -> (u16, String) {
        let mut request = format!("POST {} HTTP/1.1\r\nhost: hooks.example.com\r\nconnection: close\r\n", self.path);
        headers.iter().for_each(|(name, value)| request.push_str(&format!("{name}: {value}\r\n")));
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        let mut stream = TcpStream::connect(self.server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    /// A request is refused with this status, for a reason that its owner is told, and makes no message.
    #[track_caller]
    fn refuses(&self, (status, head): (u16, String), wanted: u16, reason: &str) {
        assert_eq!(status, wanted, "{reason}: {head}");
        assert_eq!(head.contains("retry-after"), wanted == 503, "{head}");
        let told = crate::program::eventually(reason, || {
            let (_, page) = self.server.call("GET", "/source/in/request", json!(null));
            let text = page["data"].to_string();
            text.contains(reason).then_some(text)
        });
        assert!(!told.is_empty());
        // No more than five a second are kept of what is refused.
        std::thread::sleep(std::time::Duration::from_millis(220));
    }
}

/// A notification of SNS, whose certificate is at `url`.
fn notification(sender: &Sender, url: &str, id: &str) -> String {
    let time = "2026-11-21T10:00:00.000Z";
    let signed = format!("Message\nding\nMessageId\n{id}\nTimestamp\n{time}\nTopicArn\n{TOPIC}\nType\nNotification\n");
    let signature = BASE64_STANDARD.encode(sender.sign(SignatureScheme::RSA_PKCS1_SHA256, signed.as_bytes()));
    json!({
        "Type": "Notification", "MessageId": id, "TopicArn": TOPIC, "Message": "ding", "Timestamp": time,
        "SignatureVersion": "2", "Signature": signature, "SigningCertURL": url,
    })
    .to_string()
}

#[test]
fn a_certificate_counts_if_it_leads_to_an_authority_and_is_fetched_once() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path(), "aws-sns", json!({"topic_arn": TOPIC}));
    let post = |sender: &Sender, url: &str, id: &str| world.post(&[], &notification(sender, url, id));
    let place = |n: u8| format!("{SNS}/SimpleNotificationService-{n}.pem");
    let url = |n: u8| format!("https://{}", place(n));
    let rsa = &rcgen::PKCS_RSA_SHA256;

    // It is published alone; where its issuer is, it says itself.
    let with_issuer =
        |host: &str| Sender::new(host, rsa, issued_at("http://issuers.example/trusted.cer"), &world.authority.below);
    let first = with_issuer(SNS);
    world.internet.publish(&place(1), 200, first.certificate.clone());
    assert_eq!(post(&first, &url(1), "a").0, 202);
    assert_eq!(post(&first, &url(1), "b").0, 202);
    assert_eq!((world.internet.count(&place(1)), world.internet.count("issuers.example")), (1, 1));
    assert_eq!(world.messages(), 2);

    // A new one is another address.
    let second = with_issuer("sns.amazonaws.com");
    world.internet.publish(&place(2), 200, second.certificate.clone());
    assert_eq!(post(&second, &url(2), "c").0, 202);
    world.refuses(post(&second, &url(1), "d"), 401, "none of the signatures fits");

    // From a host or a path that is not the sender's, nothing is fetched.
    let asked = world.internet.asked.lock().unwrap().len();
    for elsewhere in
        ["https://sns.evil.example/SimpleNotificationService-1.pem", "https://sns.us-east-1.amazonaws.com/x.pem"]
    {
        world.refuses(post(&first, elsewhere, "e"), 401, "the key's address");
    }
    assert_eq!(world.internet.asked.lock().unwrap().len(), asked);

    // Others' certificates, at the right place.
    let others = Authority::new("others", &world.internet);
    let stranger = Sender::new(SNS, rsa, issued_at("http://issuers.example/others.cer"), &others.below);
    let past = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let expired = Sender::new(SNS, rsa, past, &world.authority.below);
    let orphan = world.authority.sender(SNS, rsa);
    let named = with_issuer("www.example.com");
    for (n, sender, status, reason) in [
        (3, &stranger, 503, "not trusted"),
        (4, &expired, 503, "not trusted"),
        (5, &orphan, 503, "not trusted"),
        (6, &named, 401, "somebody else"),
    ] {
        world.internet.publish(&place(n), 200, sender.certificate.clone());
        world.refuses(post(sender, &url(n), "f"), status, reason);
    }
    assert_eq!(world.messages(), 3);
}

#[test]
fn a_key_that_cannot_be_fetched_is_waited_for_and_nothing_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path(), "aws-sns", json!({"topic_arn": TOPIC}));
    let sender = world.authority.sender(SNS, &rcgen::PKCS_RSA_SHA256);
    let place = format!("{SNS}/SimpleNotificationService-1.pem");
    let body = notification(&sender, &format!("https://{place}"), "a");
    world.internet.publish(&place, 500, "");
    world.refuses(world.post(&[], &body), 503, "answered with 500");
    // It is not asked for again at once.
    world.refuses(world.post(&[], &body), 503, "a moment ago");
    assert_eq!(world.internet.count(&place), 1);
    let other = format!("{SNS}/SimpleNotificationService-2.pem");
    world.internet.publish(&other, 200, "no certificate");
    let body = notification(&sender, &format!("https://{other}"), "a");
    world.refuses(world.post(&[], &body), 503, "is not PEM");
    assert_eq!(world.messages(), 0);
}

#[test]
fn what_is_published_inside_is_not_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_EGRESS_ALLOW", "")]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let recipe = json!({
        "verify": [{
            "algorithm": "rsa-sha256", "key": "x509", "signed": "{body}",
            "signature": {"field": "header:x-signature", "encoding": "base64"},
            "certificate": {"url": "header:x-certificate", "hosts": ["keys.localhost"]},
        }],
    });
    let source = json!({"uid": "in", "name": "in", "appId": "acme", "recipe": recipe});
    let (status, made) = server.call("POST", "/source", source);
    assert_eq!(status, 201, "{made}");
    let url = made["listenerUrl"].as_str().unwrap();
    let path = &url[url.find("/in/").unwrap()..];
    let (status, _) = server.raw(&format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-signature: YQ==\r\n\
         x-certificate: https://keys.localhost/a.pem\r\ncontent-length: 2\r\n\r\n{{}}"
    ));
    assert_eq!(status, 503);
    let told = crate::program::eventually("the request is kept", || {
        let (_, page) = server.call("GET", "/source/in/request", json!(null));
        let text = page["data"].to_string();
        text.contains("forbidden").then_some(text)
    });
    assert!(told.contains("keys.localhost"), "{told}");
}

/// As PayPal has it: CRC-32 of IEEE 802.3.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn paypal_is_believed_by_its_chain() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::new(folder.path(), "paypal", json!({"webhook_id": "8PT59"}));
    let issuer = "http://issuers.example/trusted.cer";
    let sender = Sender::new("messages.paypal.com", &rcgen::PKCS_RSA_SHA256, issued_at(issuer), &world.authority.below);
    let place = format!("{PAYPAL}/v1/notifications/certs/CERT-1");
    world.internet.publish(&place, 200, sender.certificate.clone());
    let body = r#"{"id":"WH-1","event_type":"PAYMENT.SALE.COMPLETED"}"#;
    let post = |id: &str, body: &str, url: &str| {
        let (time, sum) = ("2026-11-21T10:00:00Z", crc32(br#"{"id":"WH-1","event_type":"PAYMENT.SALE.COMPLETED"}"#));
        let signed = format!("{id}|{time}|8PT59|{sum}");
        let signature = BASE64_STANDARD.encode(sender.sign(SignatureScheme::RSA_PKCS1_SHA256, signed.as_bytes()));
        let headers = [
            ("content-type", "application/json"),
            ("paypal-transmission-id", id),
            ("paypal-transmission-time", time),
            ("paypal-transmission-sig", &signature),
            ("paypal-auth-algo", "SHA256withRSA"),
            ("paypal-cert-url", url),
        ];
        world.post(&headers, body)
    };
    let url = format!("https://{place}");
    assert_eq!(post("t-1", body, &url).0, 202);
    assert_eq!((world.messages(), world.internet.count(&place)), (1, 1));
    world.refuses(post("t-2", r#"{"id":"WH-2"}"#, &url), 401, "none of the signatures fits");
    world.refuses(
        post("t-3", body, "https://api.paypal.com.evil.example/v1/notifications/certs/CERT-1"),
        401,
        "the key's address",
    );
    assert_eq!(world.messages(), 1);
}

#[test]
fn plaid_is_believed_by_its_key_of_today() {
    let folder = tempfile::tempdir().unwrap();
    let settings = json!({"client_id": "bell", "client_secret": "of the test"});
    let world = World::new(folder.path(), "plaid", settings);
    let place = format!("{PLAID}/webhook_verification_key/get");
    let body = r#"{"webhook_type":"ITEM","webhook_code":"ERROR"}"#;
    let base64 = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let publish = |kid: &str, sender: &Sender| {
        let point = &sender.point[sender.point.len() - 64..];
        let key = json!({"key": {
            "alg": "ES256", "crv": "P-256", "kid": kid, "kty": "EC", "use": "sig", "expired_at": null,
            "x": base64(&point[..32]), "y": base64(&point[32..]),
        }});
        world.internet.publish(&format!("{place} {kid}"), 200, key.to_string());
    };
    let post = |kid: &str, sender: &Sender| {
        #[expect(clippy::disallowed_methods, reason = "a sender's own clock")]
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let sum: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        let header = base64(json!({"alg": "ES256", "typ": "JWT", "kid": kid}).to_string().as_bytes());
        let claims = base64(json!({"iat": now, "request_body_sha256": sum}).to_string().as_bytes());
        let signed = format!("{header}.{claims}");
        let signature = fixed(&sender.sign(SignatureScheme::ECDSA_NISTP256_SHA256, signed.as_bytes()));
        world.post(&[("plaid-verification", &format!("{signed}.{}", base64(&signature)))], body)
    };
    let p256 = &rcgen::PKCS_ECDSA_P256_SHA256;
    let (first, second) = (world.authority.sender(PLAID, p256), world.authority.sender(PLAID, p256));
    publish("kid-1", &first);
    assert_eq!(post("kid-1", &first).0, 202);
    assert_eq!(post("kid-1", &first).0, 202);
    assert_eq!(world.internet.count(&place), 1);
    assert!(world.internet.asked.lock().unwrap()[0].contains("of the test"), "our secret is posted along");
    // The next key has another id; the old one goes on until it is retired.
    publish("kid-2", &second);
    assert_eq!(post("kid-2", &second).0, 202);
    world.refuses(post("kid-2", &first), 401, "none of the signatures fits");
    world.refuses(post("kid-3", &second), 503, "answered with 404");
    assert_eq!(world.messages(), 3);
}

/// Both numbers of an ECDSA signature in DER at full length, as a JWT has them.
fn fixed(der: &[u8]) -> Vec<u8> {
    let (mut all, mut at) = (Vec::new(), 2);
    for _ in 0..2 {
        let length = usize::from(der[at + 1]);
        let number = &der[at + 2..at + 2 + length];
        let number = &number[number.len().saturating_sub(32)..];
        all.extend(std::iter::repeat_n(0, 32 - number.len()));
        all.extend_from_slice(number);
        at += 2 + length;
    }
    all
}
