//! One connection to one broker: a request, and its answer, one after the other. A broker would not look at a second one earlier.

use super::scram::{Hash, Scram, ScramError};
use super::wire::{
    API_VERSIONS, Api, FETCH, LIST_OFFSETS, METADATA, Odd, PRODUCE, Reader, SASL_AUTHENTICATE, SASL_HANDSHAKE, Writer,
    code, told,
};
use crate::publish::PublishError;
use crate::server::{Mechanism, Server};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bellwire_egress::{Client, Reached};
use bytes::{Buf, Bytes, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use url::Host;

/// No answer with records is longer: the largest batch of a topic must fit.
const FETCHED_MAX: usize = 32 << 20;
/// Nor any other one. What is read of it takes some times as much.
const ANSWER_MAX: usize = 4 << 20;
/// Of what a broker says for people, so many letters are passed on.
const SAID_MAX: usize = 500;

pub(super) struct Link {
    stream: Reached,
    /// As people know it.
    name: String,
    read: BytesMut,
    /// The number of the next request.
    next: i32,
    /// What was asked and is not answered.
    waiting: Option<(i32, Api)>,
    /// When that was asked, or when something last came.
    heard: Instant,
    /// Of each request that the broker knows: its key, its oldest and its newest version.
    versions: Vec<(i16, i16, i16)>,
}

impl Link {
    /// A connection on which we are let in. Where else the broker is known to be is not asked.
    pub(super) async fn open(
        client: &Client,
        server: &Server,
        (host, port): &(Host<String>, u16),
        limit: Duration,
    ) -> Result<Link, PublishError> {
        let name = format!("{host}:{port}");
        let opening = async {
            let reached = client.reach(host, *port, server.tls, limit).await;
            let stream = reached.map_err(PublishError::Unreachable)?;
            let (name, read, versions) = (name.clone(), BytesMut::new(), Vec::new());
            let mut link = Link { stream, name, read, next: 0, waiting: None, heard: Instant::now(), versions };
            link.greet(server).await.map_err(|error| match error {
                // Nothing of a message was sent yet.
                PublishError::Lost(text) => PublishError::Unconnected(text),
                error => error,
            })?;
            Ok(link)
        };
        let late = |_| Err(PublishError::Unconnected(format!("{name} does not answer within {limit:?}")));
        tokio::time::timeout(limit, opening).await.unwrap_or_else(late)
    }

    async fn greet(&mut self, server: &Server) -> Result<(), PublishError> {
        let mut answer = self.call(API_VERSIONS, |_| {}).await?;
        answer.i16().map_err(|odd| self.odd(odd))?;
        let versions = answer.each(|one| Ok((one.i16()?, one.i16()?, one.i16()?)));
        self.versions = versions.map_err(|odd| self.odd(odd))?;
        for api in [PRODUCE, FETCH, LIST_OFFSETS, METADATA] {
            if !self.knows(api) {
                let (name, Api { name: api, version, .. }) = (&self.name, api);
                let text = format!("{name} does not speak version {version} of {api}; Kafka 2.1 or newer does");
                return Err(PublishError::Refused { text, forever: false });
            }
        }
        match (&server.credentials.user, &server.credentials.password) {
            (Some(user), Some(password)) => self.log_in(user, password, server.mechanism).await,
            _ => Ok(()),
        }
    }

    pub(super) fn knows(&self, api: Api) -> bool {
        self.versions.iter().any(|(key, oldest, newest)| *key == api.key && (*oldest..=*newest).contains(&api.version))
    }

    /// SASL.
    async fn log_in(&mut self, user: &str, password: &str, mechanism: Mechanism) -> Result<(), PublishError> {
        let refused = |text: String| PublishError::Refused { text, forever: false };
        let mut answer = self.call(SASL_HANDSHAKE, |request| request.string(Some(mechanism.name()))).await?;
        let number = answer.i16().map_err(|odd| self.odd(odd))?;
        let offered = answer.each(Reader::string).map_err(|odd| self.odd(odd))?;
        let (name, offered) = (&self.name, said(&offered.into_iter().flatten().collect::<Vec<_>>().join(", ")));
        match number {
            0 => {}
            code::UNSUPPORTED_SASL_MECHANISM => {
                let (own, names) = (mechanism.name(), Mechanism::ALL.map(Mechanism::name).join(", "));
                return Err(refused(format!(
                    "{name} takes users by {offered}, not by {own}; `mechanism` can be one of {names}"
                )));
            }
            number => return Err(refused(format!("{name} takes no users here: {}", told(number)))),
        }
        let hash = match mechanism {
            Mechanism::Plain => return self.prove(&format!("\0{user}\0{password}")).await.map(drop),
            Mechanism::ScramSha256 => Hash::Sha256,
            Mechanism::ScramSha512 => Hash::Sha512,
        };
        let scram = Scram::new(hash, user, password, STANDARD.encode(rand::random::<[u8; 24]>()));
        let said = self.prove(&scram.first()).await?;
        // It is meant to take a while.
        let last = tokio::task::spawn_blocking(move || scram.last(&said)).await;
        let not_believed = |error: ScramError| refused(format!("{} is not let know the password: {error}", self.name));
        let (last, waiting) = last.map_err(|error| self.lost(&error.to_string()))?.map_err(not_believed)?;
        let said = self.prove(&last).await?;
        waiting.check(&said).map_err(|error| refused(format!("{} is not believed: {error}", self.name)))
    }

    /// A word of ours in a proof of who we are, and the broker's.
    async fn prove(&mut self, word: &str) -> Result<Bytes, PublishError> {
        let refused = |text: String| PublishError::Refused { text, forever: false };
        let mut answer = self.call(SASL_AUTHENTICATE, |request| request.blob(word.as_bytes())).await?;
        let number = answer.i16().map_err(|odd| self.odd(odd))?;
        let text = answer.string().map_err(|odd| self.odd(odd))?.unwrap_or_default();
        match number {
            0 => Ok(answer.blob().map_err(|odd| self.odd(odd))?.unwrap_or_default()),
            number => Err(refused(format!("{} does not let us in: {} {}", self.name, told(number), said(&text)))),
        }
    }

    /// Asks, and waits for the answer.
    pub(super) async fn call(&mut self, api: Api, body: impl FnOnce(&mut Writer)) -> Result<Reader, PublishError> {
        self.ask(api, body).await?;
        self.answer().await
    }

    /// Asks. What was asked before must have been answered.
    pub(super) async fn ask(&mut self, api: Api, body: impl FnOnce(&mut Writer)) -> Result<(), PublishError> {
        let mut request = Writer::request(api, self.next);
        body(&mut request);
        let Some(bytes) = request.done() else {
            let text = "it is larger than any request of Kafka".to_owned();
            return Err(PublishError::Refused { text, forever: true });
        };
        (self.waiting, self.heard) = (Some((self.next, api)), Instant::now());
        self.next = self.next.wrapping_add(1);
        let written = async {
            self.stream.write_all(&bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| self.lost(&error.to_string()))
    }

    /// Waits for the answer to what was asked, or, if nothing was, for the end. May be dropped and called again.
    pub(super) async fn answer(&mut self) -> Result<Reader, PublishError> {
        loop {
            if let Some(mut frame) = self.frame()? {
                let odd = |odd| PublishError::Lost(format!("{}: {odd}", self.name));
                let Some((number, _)) = self.waiting.take() else {
                    return Err(odd(Odd("nothing was asked")));
                };
                if frame.i32().map_err(odd)? != number {
                    return Err(odd(Odd("it is to another question")));
                }
                frame.tags().map_err(odd)?;
                return Ok(frame);
            }
            self.read.reserve(1 << 16);
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => {
                    let why = "it ended the connection; it may want another user, or TLS (kafka+ssl://), or none";
                    return Err(self.lost(why));
                }
                Ok(_) => self.heard = Instant::now(),
                Err(error) => return Err(self.lost(&error.to_string())),
            }
        }
    }

    /// One whole answer, if it is there.
    fn frame(&mut self) -> Result<Option<Reader>, PublishError> {
        let Some(head) = self.read.first_chunk() else { return Ok(None) };
        let length = usize::try_from(i32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        let most = if self.waiting.is_some_and(|(_, api)| api == FETCH) { FETCHED_MAX } else { ANSWER_MAX };
        if length > most {
            return Err(self.lost(&format!("its answer has {length} bytes, and at most {most} are taken")));
        }
        if self.read.len() < length + 4 {
            return Ok(None);
        }
        self.read.advance(4);
        let frame = self.read.split_to(length).freeze();
        let flexible = self.waiting.is_some_and(|(_, api)| api.flexible);
        Ok(Some(Reader::new(frame, flexible)))
    }

    /// For how long nothing has come of an answer that is awaited, as far as anybody has looked.
    pub(super) fn silent_for(&self) -> Option<Duration> {
        self.waiting.map(|_| self.heard.elapsed())
    }

    /// The broker, as people know it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn odd(&self, odd: Odd) -> PublishError {
        self.lost(&odd.to_string())
    }

    fn lost(&self, why: &str) -> PublishError {
        PublishError::Lost(format!("{}: {why}", self.name))
    }
}

/// What a broker says for people.
fn said(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect()
}
