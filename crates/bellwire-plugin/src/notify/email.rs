//! E-mail by SMTP: one connection for each mail, on a thread of its own.

use super::markup::Markup;
use super::{Note, Refused, Way};
use crate::settings::Fault;
use crate::template::{Beside, Template};
use bellwire_egress::{Client, Proxy, SendError, with_causes};
use bellwire_model::FailureClass;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::{Mailbox, MultiPart, SinglePart, header::ContentType};
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{Certificate, SmtpConnection, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use serde::Deserialize;
use std::net::{Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Mails on their way at a time.
const MAILS_MAX: usize = 16;
const RECIPIENTS_MAX: usize = 50;
const SUBJECT_MAX: usize = 500;

/// What all shards share about mail.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Where mail goes that names no server of its own.
    pub server: Option<Server>,
    /// Certificate authorities to trust besides the usual ones, as DER.
    pub authorities: Vec<Vec<u8>>,
    /// The proxy that requests go by; mail cannot.
    proxy: Option<Proxy>,
    places: Arc<Semaphore>,
}

impl Mail {
    /// By way of this server.
    pub fn new(server: Option<Server>, authorities: Vec<Vec<u8>>) -> Self {
        Mail { server, authorities, proxy: None, places: Arc::new(Semaphore::new(MAILS_MAX)) }
    }
}

impl Mail {
    /// The same where requests go by this proxy: servers of endpoints that it covers are refused.
    pub fn beside(self, proxy: Option<Proxy>) -> Self {
        Mail { proxy, ..self }
    }
}

impl Default for Mail {
    fn default() -> Self {
        Mail::new(None, Vec::new())
    }
}

/// A mail server.
#[derive(Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    host: String,
    /// 465 with TLS, 587 with STARTTLS, 25 without, if absent.
    port: Option<u16>,
    #[serde(default)]
    security: Security,
    user: Option<String>,
    password: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Security {
    #[default]
    Tls,
    Starttls,
    None,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("host", &self.host).field("port", &self.port()).finish_non_exhaustive()
    }
}

impl Server {
    /// From `smtps://user:password@host:465`, `smtp+starttls://…` or `smtp://…` (in the clear).
    ///
    /// # Errors
    /// What is expected instead; nothing of the text is repeated.
    pub fn parse(text: &str) -> Result<Server, String> {
        let expected = || "expected smtps://user:password@host:465, smtp+starttls://… or smtp://…".to_owned();
        let url = url::Url::parse(text).map_err(|_| expected())?;
        let security = match url.scheme() {
            "smtps" => Security::Tls,
            "smtp+starttls" => Security::Starttls,
            "smtp" => Security::None,
            _ => return Err(expected()),
        };
        let decoded = |text: &str| {
            let query = format!("x={}", text.replace('+', "%2B"));
            form_urlencoded::parse(query.as_bytes()).next().map(|(_, value)| value.into_owned())
        };
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(expected)?;
        Ok(Server {
            host: host.trim_matches(['[', ']']).to_owned(),
            port: url.port(),
            security,
            user: Some(url.username()).filter(|user| !user.is_empty()).and_then(decoded),
            password: url.password().and_then(decoded),
        })
    }

    /// As `egress` names hosts.
    fn named(&self) -> Option<url::Host<String>> {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => Some(url::Host::Ipv6(address)),
            Err(_) => url::Host::parse(&self.host).ok(),
        }
    }

    fn port(&self) -> u16 {
        self.port.unwrap_or(match self.security {
            Security::Tls => 465,
            Security::Starttls => 587,
            Security::None => 25,
        })
    }
}

/// Settings of an e-mail.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Email {
    /// Instead of the operator's.
    smtp: Option<Server>,
    from: String,
    to: Vec<Template>,
    subject: Template,
    /// The same as HTML.
    html: Option<Template>,
}

impl Email {
    pub(super) fn check(&self, mail: &Mail, faults: &mut Vec<Fault>) {
        if self.smtp.is_none() && mail.server.is_none() {
            let text = "the server's settings name no mail server (plugins.smtp); say `smtp` with host, port, security, user and password";
            faults.push(Fault::new(&["smtp"], text));
        }
        let by_proxy = |server: &Server| {
            let (host, proxy) = (server.named()?, mail.proxy.as_ref()?);
            proxy.covers(&host).then_some(host)
        };
        if let Some(host) = self.smtp.as_ref().and_then(by_proxy) {
            let text = format!(
                "{host} is reached by the server's proxy only, and mail cannot go by it; its operator can name it in egress.no_proxy, or a mail server in plugins.smtp"
            );
            faults.push(Fault::new(&["smtp", "host"], text));
        }
        if self.smtp.as_ref().is_some_and(|server| server.user.is_some() != server.password.is_some()) {
            faults.push(Fault::new(&["smtp", "password"], "`user` and `password` are both there, or neither is"));
        }
        if let Err(error) = self.from.parse::<Mailbox>() {
            faults.push(Fault::new(&["from"], format!("expected an address such as Bell <bell@example.com>: {error}")));
        }
        if self.to.is_empty() || self.to.len() > RECIPIENTS_MAX {
            faults.push(Fault::new(&["to"], format!("1 to {RECIPIENTS_MAX} recipients")));
        }
    }

    pub(super) async fn send(
        &self,
        note: &Note<'_, '_>,
        Way { mail, client }: Way<'_>,
        limit: Duration,
    ) -> Result<String, Refused> {
        let later = |class, text: String| Refused::Later(class, None, text);
        let server = self.smtp.as_ref().or(mail.server.as_ref());
        let server =
            server.ok_or_else(|| later(FailureClass::Unsendable, "no mail server is named".to_owned()))?.clone();
        let message = self.message(note).map_err(Refused::Never)?;
        let envelope = message.envelope().clone();
        let recipients = envelope.to().len();
        // The operator's own server may be anywhere; one that an endpoint names may not.
        let address = match self.smtp {
            None => None,
            Some(_) => Some(
                address(client, &server, limit)
                    .await
                    .map_err(|(class, why)| later(class, format!("the mail server cannot be reached: {why}")))?,
            ),
        };
        let place = Arc::clone(&mail.places).acquire_owned().await;
        let authorities = mail.authorities.clone();
        let (sender, receiver) = oneshot::channel();
        let spawned = std::thread::Builder::new().name("plugin-mail".to_owned()).spawn(move || {
            let _ = sender.send(post(&server, address, &authorities, &envelope, &message.formatted(), limit));
            drop(place);
        });
        spawned.map_err(|error| later(FailureClass::Plugin, format!("no thread for the mail: {error}")))?;
        receiver.await.unwrap_or_else(|_| Err(later(FailureClass::Plugin, "the mail's thread ended".to_owned())))?;
        Ok(format!("sent to {recipients}"))
    }

    fn message(&self, Note { event, text, is_sum }: &Note<'_, '_>) -> Result<Message, String> {
        let one_line = |text: String| text.split(['\r', '\n']).collect::<Vec<_>>().join(" ");
        let mut subject = one_line(self.subject.render(event, Beside::default()));
        subject.truncate(subject.floor_char_boundary(SUBJECT_MAX));
        let from: Mailbox = self.from.parse().map_err(|error| format!("{:?} is no address: {error}", self.from))?;
        // The same id for every attempt: who has it already can tell.
        let id = format!("<{}@{}>", event.id(), from.email.domain());
        let mut builder = Message::builder().from(from).subject(subject).message_id(Some(id));
        for to in &self.to {
            let to = one_line(to.render(event, Beside::default()));
            builder = builder.to(to.parse().map_err(|error| format!("{to:?} is no address: {error}"))?);
        }
        // `html` is about one event: beside a sum it would hide the others.
        let built = match self.html.as_ref().filter(|_| !*is_sum) {
            None => builder.header(ContentType::TEXT_PLAIN).body((*text).to_owned()),
            Some(html) => builder.multipart(
                MultiPart::alternative().singlepart(SinglePart::plain((*text).to_owned())).singlepart(
                    SinglePart::html(
                        html.render_escaped(event, Beside::default(), |value, spot| Markup::Html.written(value, spot)),
                    ),
                ),
            ),
        };
        built.map_err(|error| format!("the mail cannot be written: {error}"))
    }
}

/// An address of the server that the guard allows. The mail's library opens its own socket, so a server that only the operator's proxy may
/// reach is none.
async fn address(client: &Client, server: &Server, limit: Duration) -> Result<SocketAddr, (FailureClass, String)> {
    let none = |why: &str| (FailureClass::Forbidden, why.to_owned());
    let host = server.named().ok_or_else(|| none("it is no host"))?;
    let peers = tokio::time::timeout(limit, client.peers(&host, server.port())).await;
    let peers = peers.map_err(|_| (FailureClass::Timeout, "its name did not resolve in time".to_owned()))?;
    let peers = peers.map_err(|error| {
        let class = match error {
            SendError::Proxy(_) => FailureClass::Proxy,
            SendError::Dns { .. } => FailureClass::Dns,
            _ => FailureClass::Forbidden,
        };
        (class, error.customer_text().into_owned())
    })?;
    peers.first().copied().ok_or_else(|| none("it has no address"))
}

/// Speaks SMTP, blocking.
fn post(
    server: &Server,
    address: Option<SocketAddr>,
    authorities: &[Vec<u8>],
    envelope: &Envelope,
    mail: &[u8],
    limit: Duration,
) -> Result<(), Refused> {
    let failed = |error: lettre::transport::smtp::Error| match error.is_permanent() {
        true => Refused::Never(format!("the mail server refused it: {}", with_causes(&error))),
        false => Refused::Later(FailureClass::Plugin, None, format!("the mail server failed: {}", with_causes(&error))),
    };
    let addresses: Vec<SocketAddr> = match address {
        Some(address) => vec![address],
        None => (server.host.as_str(), server.port()).to_socket_addrs().map(Iterator::collect).unwrap_or_default(),
    };
    let tls = || {
        let mut builder = TlsParameters::builder(server.host.clone());
        for authority in authorities {
            builder = builder.add_root_certificate(Certificate::from_der(authority.clone())?);
        }
        builder.build_rustls()
    };
    let hello = ClientId::Domain("localhost".to_owned());
    let at_once = match server.security {
        Security::Tls => Some(tls().map_err(failed)?),
        Security::Starttls | Security::None => None,
    };
    let mut connection =
        SmtpConnection::connect(addresses.as_slice(), Some(limit), &hello, at_once.as_ref(), None).map_err(failed)?;
    if server.security == Security::Starttls {
        connection.starttls(&tls().map_err(failed)?, &hello).map_err(failed)?;
    }
    if let (Some(user), Some(password)) = (&server.user, &server.password) {
        let credentials = Credentials::new(user.clone(), password.clone());
        connection.auth(DEFAULT_MECHANISMS, &credentials).map_err(|error| {
            // A password can be put right.
            Refused::Later(FailureClass::Plugin, None, format!("the mail server did not take the password: {error}"))
        })?;
    }
    connection.send(envelope, mail).map_err(failed)?;
    // It has been taken; how they part is all the same.
    let _ = connection.quit();
    Ok(())
}
