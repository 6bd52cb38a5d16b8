//! One request, one response, one deadline over all of it.
//!
//! The delivery of a webhook calls [`Client::exchange`] once for each attempt and hears either what the other end said or
//! why it said nothing. The rules that keep a delivery from being made twice, or a slow endpoint from holding us, are here:
//!
//! - The deadline covers DNS, connection, TLS, request, response and the whole of its body.
//! - A request is sent a second time in one case only: it met a pooled connection that turned out to be closed, and not a
//!   byte of it had been written.
//! - An attempt that got a status is judged by it, even if the body then breaks or is longer than the cap.
//! - Redirects are not followed and bodies are not decompressed.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{
    connect::Connector,
    connection::{Connection, HEADERS_MAX, Http2, Message, NoResponse, ReadBody, is_loss},
    error::{SendError, Stage, refused_by_alert},
    pool::{Found, Pool},
    target::{Origin, Target},
    tls::{PemError, TlsOptions, TlsProfile},
};

/// A deadline is no longer than this, whatever the caller says.
const DEADLINE_MAX: Duration = Duration::from_secs(3600);

/// What decides where a message ends and which way it takes is ours; a caller's values for these are dropped.
const OUR_HEADERS: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::CONNECTION,
    header::UPGRADE,
    header::TE,
    header::EXPECT,
    header::PROXY_AUTHORIZATION,
];

/// Sends requests, with connections of its own. One for each core: it is `Send` and cheap to clone, but its connections
/// belong to the runtime on which they were opened, so it must be used on one runtime only.
#[derive(Clone)]
pub struct Client {
    connector: Arc<Connector>,
    pool: Arc<Pool>,
}

/// What is sent.
#[derive(Debug, Clone)]
pub struct Request {
    /// Usually `POST`.
    pub method: Method,
    /// Where to.
    pub target: Target,
    /// All headers save those that belong to the transport (`host`, `content-length`, …), which are set here.
    pub headers: HeaderMap,
    /// The exact bytes.
    pub body: Bytes,
    /// For everything, from the first DNS query to the last byte of the response's body.
    pub deadline: Duration,
    /// How much of the response's body is read.
    pub response_body_max: usize,
}

/// What the other end said.
#[derive(Debug)]
pub struct Response {
    /// The final status; a 3xx is returned like any other.
    pub status: u16,
    /// All headers, at most 100 and 64 KiB.
    pub headers: HeaderMap,
    /// The body as it came, up to the cap.
    pub body: Bytes,
    /// Whether there was more body than the cap.
    pub truncated: bool,
    /// Why the body ended before its end, if it did. The status stands.
    pub body_error: Option<BodyError>,
    /// The version that was spoken.
    pub http_version: Version,
    /// Whether the connection had been used before.
    pub reused: bool,
    /// How long each part took.
    pub timings: Timings,
}

/// What went wrong after the status had arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    /// The connection ended before the body did.
    Lost,
    /// The body's framing made no sense.
    Malformed,
}

/// How long the parts of an exchange took; `None` for what did not take place (a reused connection has no connect) or did
/// not come to its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Timings {
    /// Addresses of the host.
    pub dns: Option<Duration>,
    /// TCP, and the proxy's consent where there is a proxy.
    pub connect: Option<Duration>,
    /// The TLS handshake.
    pub tls: Option<Duration>,
    /// From the beginning of the exchange to the head of the response.
    pub first_byte: Option<Duration>,
    /// From the beginning to the end, also to an end without a response.
    pub total: Duration,
}

/// How far an exchange has come, known also after it was cut off.
pub(crate) struct Progress {
    pub(crate) started: Instant,
    pub(crate) stage: Stage,
    pub(crate) status: Option<u16>,
    pub(crate) timings: Timings,
}

impl BodyError {
    /// A short name, as of [`SendError::class`].
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::Lost => "body_lost",
            Self::Malformed => "body_malformed",
        }
    }
}

impl Client {
    pub(crate) fn new(connector: Connector, pool: Arc<Pool>) -> Self {
        Self { connector: Arc::new(connector), pool }
    }

    /// Sends the request and reads the response.
    ///
    /// Dropping the future before it ends closes the connection; the request may or may not have arrived by then.
    ///
    /// # Errors
    /// [`SendError`] if there is no response, or if its body did not end within the deadline.
    pub async fn exchange(&self, request: Request) -> Result<Response, SendError> {
        self.exchange_timed(request, &mut Timings::default()).await
    }

    /// The same, and tells how long each part took, also of an exchange that failed: then as far as it came.
    ///
    /// # Errors
    /// As [`Client::exchange`].
    pub async fn exchange_timed(&self, request: Request, timings: &mut Timings) -> Result<Response, SendError> {
        let limit = request.deadline.min(DEADLINE_MAX);
        let started = Instant::now();
        let mut progress = Progress { started, stage: Stage::Response, status: None, timings: Timings::default() };
        let end = tokio::time::Instant::from_std(started + limit);
        let result = match tokio::time::timeout_at(end, self.run(request, &mut progress)).await {
            Ok(result) => result,
            Err(_) => Err(SendError::Timeout { stage: progress.stage, limit, status: progress.status }),
        };
        progress.timings.total = started.elapsed();
        *timings = progress.timings;
        result
    }

    /// TLS for targets with these options, for [`Target::with_tls`](crate::Target::with_tls). Costs about a millisecond;
    /// to be kept.
    ///
    /// # Errors
    /// [`PemError`], if a text does not parse.
    pub fn tls_profile(&self, options: &TlsOptions<'_>) -> Result<Arc<TlsProfile>, PemError> {
        self.connector.tls.profile(options).map(Arc::new)
    }

    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// How many connections wait for their next request.
    #[must_use]
    pub fn idle_connections(&self) -> usize {
        self.pool.len()
    }

    async fn run(&self, request: Request, progress: &mut Progress) -> Result<Response, SendError> {
        let Request { method, target, headers, body, response_body_max, .. } = request;
        let origin = target.origin();
        let (mut connection, mut reused) = match self.idle(origin).await {
            Some(connection) => (connection, true),
            None => (Box::pin(self.open(origin, progress)).await?, false),
        };
        let mut message = without_our_headers(method, headers, body);
        loop {
            progress.stage = Stage::Response;
            self.address(&mut message, &target, &connection);
            let mut use_of_http2 = UseOfHttp2::of(&connection, origin, &self.pool);
            match connection.send(message).await {
                Ok(response) => {
                    let response = self.read(connection, response, response_body_max, reused, origin, progress).await?;
                    use_of_http2.went_well(&response);
                    return Ok(response);
                }
                Err(NoResponse::Unsent(unsent, _)) if reused => {
                    drop(use_of_http2);
                    connection = Box::pin(self.open(origin, progress)).await?;
                    reused = false;
                    message = *unsent;
                }
                Err(NoResponse::Unsent(_, error)) => {
                    let error = if is_loss(&error) {
                        SendError::ConnectionLost { bytes_written: false, source: Box::new(error) }
                    } else {
                        SendError::Malformed { source: Box::new(error) }
                    };
                    return Err(refused_by_alert(error, &origin.host));
                }
                Err(NoResponse::Failed(error)) => return Err(refused_by_alert(error, &origin.host)),
            }
        }
    }

    /// A connection from the pool. One that rests is made ready; that waits for nobody.
    async fn idle(&self, origin: &Arc<Origin>) -> Option<Connection> {
        match self.pool.take(origin)? {
            Found::Ready(connection) => Some(connection),
            Found::Resting(connected) => Connection::open(connected).await.ok(),
        }
    }

    async fn open(&self, origin: &Arc<Origin>, progress: &mut Progress) -> Result<Connection, SendError> {
        let connected = self.connector.connect(origin, progress).await?;
        let connection = Connection::open(connected)
            .await
            .map_err(|error| SendError::ConnectionLost { bytes_written: false, source: Box::new(error) })?;
        if let Connection::Http2(http2) = &connection {
            self.pool.share(origin, http2);
        }
        Ok(connection)
    }

    /// Fills in what depends on the connection: request target, host, credentials.
    fn address(&self, message: &mut Message, target: &Target, connection: &Connection) {
        let version = connection.version();
        let forwarded = connection.is_forwarded();
        let uri = if forwarded || version == Version::HTTP_2 { target.absolute_form() } else { target.origin_form() };
        *message.uri_mut() = uri.clone();
        *message.version_mut() = version;
        let headers = message.headers_mut();
        if version == Version::HTTP_2 {
            headers.remove(header::HOST);
        } else {
            headers.insert(header::HOST, target.host_header().clone());
        }
        if let Some(authorization) = target.authorization()
            && !headers.contains_key(header::AUTHORIZATION)
        {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        if forwarded && let Some(authorization) = self.connector.proxy.as_ref().and_then(|proxy| proxy.authorization())
        {
            headers.insert(header::PROXY_AUTHORIZATION, authorization.clone());
        }
    }

    /// Reads the rest of the response, and keeps the connection if it may be used again.
    async fn read(
        &self,
        mut connection: Connection,
        response: http::Response<Incoming>,
        body_max: usize,
        reused: bool,
        origin: &Arc<Origin>,
        progress: &mut Progress,
    ) -> Result<Response, SendError> {
        let (head, body) = response.into_parts();
        progress.timings.first_byte = Some(progress.started.elapsed());
        progress.stage = Stage::Body;
        progress.status = Some(head.status.as_u16());
        if head.headers.len() > HEADERS_MAX {
            return Err(SendError::Malformed { source: "too many headers".into() });
        }
        // With both, where the body ends depends on whom one asks (RFC 9112 §6.3).
        if head.headers.contains_key(header::TRANSFER_ENCODING) && head.headers.contains_key(header::CONTENT_LENGTH) {
            return Err(SendError::Malformed { source: "both transfer-encoding and content-length".into() });
        }

        let ReadBody { bytes, truncated, error } = connection.read_body(body, body_max).await;
        if let Connection::Http1(mut http1) = connection
            && !truncated
            && error.is_none()
            && http1.is_reusable().await
        {
            self.pool.put(origin, http1);
        }
        progress.timings.total = progress.started.elapsed();
        Ok(Response {
            status: head.status.as_u16(),
            headers: head.headers,
            body: bytes,
            truncated,
            body_error: error.map(|error| if is_loss(&error) { BodyError::Lost } else { BodyError::Malformed }),
            http_version: head.version,
            reused,
            timings: progress.timings,
        })
    }
}

fn without_our_headers(method: Method, mut headers: HeaderMap, body: Bytes) -> Message {
    for name in &OUR_HEADERS {
        headers.remove(name);
    }
    if body.is_empty() && method != Method::GET && method != Method::HEAD {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let mut message = http::Request::new(Full::new(body));
    *message.method_mut() = method;
    *message.headers_mut() = headers;
    message
}

/// An exchange's use of a shared connection. Unless it went well, the connection gets no further requests: it may be
/// the cause. That holds above all when the deadline drops the exchange.
struct UseOfHttp2<'a> {
    shared: Option<(Weak<Http2>, &'a Arc<Origin>, &'a Pool)>,
}

impl<'a> UseOfHttp2<'a> {
    fn of(connection: &Connection, origin: &'a Arc<Origin>, pool: &'a Pool) -> Self {
        let shared = match connection {
            Connection::Http1(_) => None,
            Connection::Http2(http2) => Some((Arc::downgrade(http2), origin, pool)),
        };
        Self { shared }
    }

    fn went_well(&mut self, response: &Response) {
        if response.body_error.is_none() {
            self.shared = None;
        }
    }
}

impl Drop for UseOfHttp2<'_> {
    fn drop(&mut self) {
        if let Some((http2, origin, pool)) = self.shared.take() {
            pool.retire(origin, &http2);
        }
    }
}
