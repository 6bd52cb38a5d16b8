//! The other end: a small server on the loopback address that verifies what arrives, as a receiver should, and tells the
//! story of it. One of its endpoints is down at first.

use anyhow::Context as _;
use bellwire_model::Timestamp;
use bellwire_node::clock;
use bellwire_signature::{
    ID_HEADER, SIGNATURE_HEADER, Secret, SignedHeaders, TIMESTAMP_HEADER, TOLERANCE_DEFAULT, VerifyError, VerifyKey,
    verify,
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rand_chacha::rand_core::RngCore;
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::{net::TcpListener, sync::mpsc};

/// More than any payload that the server accepts.
const BODY_BYTES_MAX: usize = 4 << 20;
/// Arrivals that nobody has looked at yet; beyond that, answers wait.
const ARRIVALS_MAX: usize = 1_024;

/// Where webhooks arrive.
pub(super) struct Endpoint {
    pub(super) name: &'static str,
    /// Empty: everything.
    pub(super) event_types: &'static [&'static str],
    pub(super) secret: Secret,
    /// So many requests are still answered 503.
    failures_left: AtomicU32,
}

/// A request of the server's.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) endpoint: &'static str,
    /// The message's id.
    pub(super) message: String,
    pub(super) at: Timestamp,
    pub(super) verified: Result<(), VerifyError>,
    /// The status that it was answered with.
    pub(super) answered: u16,
}

impl Endpoint {
    /// With a new secret. The first `failures` requests are answered 503.
    pub(super) fn new(
        name: &'static str,
        event_types: &'static [&'static str],
        failures: u32,
        rng: &mut dyn RngCore,
    ) -> Endpoint {
        Endpoint { name, event_types, secret: Secret::generate_symmetric(rng), failures_left: AtomicU32::new(failures) }
    }

    pub(super) fn takes(&self, event_type: &str) -> bool {
        self.event_types.is_empty() || self.event_types.contains(&event_type)
    }

    fn receive(&self, headers: &HeaderMap, body: &[u8], at: Timestamp) -> Arrival {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let signed = SignedHeaders {
            id: header(ID_HEADER),
            timestamp: header(TIMESTAMP_HEADER),
            signature: header(SIGNATURE_HEADER),
        };
        let key = VerifyKey::from(&self.secret);
        let verified = verify(&[key], &signed, body, at.as_seconds(), TOLERANCE_DEFAULT);
        let one_less = |left: u32| left.checked_sub(1);
        let is_down = self.failures_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok();
        let answered = match (&verified, is_down) {
            (Err(_), _) => 401,
            (Ok(()), true) => 503,
            (Ok(()), false) => 204,
        };
        Arrival { endpoint: self.name, message: signed.id.to_owned(), at, verified, answered }
    }
}

/// Listens on a free port, on the runtime that this is called in, until that ends.
///
/// # Errors
/// There is no loopback address to listen on.
pub(super) async fn start(endpoints: Vec<Arc<Endpoint>>) -> anyhow::Result<(SocketAddr, mpsc::Receiver<Arrival>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await.context("the receiver cannot listen on 127.0.0.1")?;
    let address = listener.local_addr()?;
    let (sender, receiver) = mpsc::channel(ARRIVALS_MAX);
    let endpoints: Arc<[_]> = endpoints.into();
    tokio::spawn(async move {
        // A connection that cannot be accepted is tried again by the server.
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let (endpoints, sender) = (Arc::clone(&endpoints), sender.clone());
            let answer = service_fn(move |request| answer(Arc::clone(&endpoints), sender.clone(), request));
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    Ok((address, receiver))
}

async fn answer(
    endpoints: Arc<[Arc<Endpoint>]>,
    arrivals: mpsc::Sender<Arrival>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let at = clock::wall();
    let name = request.uri().path().trim_start_matches('/').to_owned();
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let mut response = Response::new(Full::default());
    let status = match (endpoints.iter().find(|endpoint| endpoint.name == name), body) {
        (Some(endpoint), Ok(body)) => {
            let arrival = endpoint.receive(&head.headers, &body.to_bytes(), at);
            let status = arrival.answered;
            // Nobody listens any more when the demo ends.
            let _ = arrivals.send(arrival).await;
            status
        }
        (None, _) => 404,
        (_, Err(_)) => 413,
    };
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{input, sign};

    fn headers(secret: &Secret) -> HeaderMap {
        let signed = sign::headers(std::slice::from_ref(secret), "msg_1", 1_700_000_000, b"{}").expect("signed");
        signed
            .into_iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect()
    }

    #[test]
    fn an_endpoint_that_is_down_recovers() {
        let endpoint = Endpoint::new("deploy", &["a"], 2, &mut input::chance().expect("chance"));
        let headers = headers(&endpoint.secret);
        let at = Timestamp::from_seconds(1_700_000_001);
        let answers: Vec<u16> = (0..4).map(|_| endpoint.receive(&headers, b"{}", at).answered).collect();
        assert_eq!(answers, [503, 503, 204, 204]);
        assert!(endpoint.takes("a") && !endpoint.takes("b"));
    }

    #[test]
    fn what_is_not_genuine_is_refused() {
        let mut rng = input::chance().expect("chance");
        let endpoint = Endpoint::new("ci", &[], 0, &mut rng);
        let at = Timestamp::from_seconds(1_700_000_001);
        let arrival = endpoint.receive(&headers(&endpoint.secret), b"{ }", at);
        assert_eq!((arrival.answered, arrival.verified), (401, Err(VerifyError::Mismatch)));
        let other = Endpoint::new("ci", &[], 0, &mut rng);
        assert_eq!(endpoint.receive(&headers(&other.secret), b"{}", at).answered, 401);
        assert_eq!(endpoint.receive(&HeaderMap::new(), b"{}", at).answered, 401);
    }
}
