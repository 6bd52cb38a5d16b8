//! The ceiling: what these libraries give on this machine when nothing has to last.
//!
//! It speaks as much of the API as the bench uses. HTTP in by axum, the same JSON, a queue in memory, a signature, HTTP
//! out by hyper's connections; one runtime per core, each with its own listener, queue and connections. No message is
//! kept, retried or scheduled. The server's figures are given as a share of this one's, measured in the same run.

mod webhooks;

use super::sink::listener;
use super::threads::Threads;
use anyhow::Context as _;
use axum::Json;
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bellwire_signature::{ID_HEADER, SIGNATURE_HEADER, Secret, Signer, TIMESTAMP_HEADER};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::StatusCode;
use hyper::client::conn::http1 as client;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::server::conn::http1 as server;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use webhooks::Sources;

/// Deliveries that wait in a runtime's queue; a full one holds back whoever sends.
const QUEUE_DELIVERIES: usize = 256;
/// Exchanges of a runtime at a time.
const DELIVERERS: usize = 64;
const BODY_BYTES_MAX: usize = 16 << 20;

/// Serves on `address` until the process ends. `token` is the one that requests must bear.
pub(crate) fn serve(address: SocketAddr, token: &str) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let applications = Arc::new(Applications::default());
    let sources = Arc::new(Sources::default());
    let mut threads = Threads::new("ceiling");
    for _ in 0..cores {
        let listener = listener(address)?;
        let (applications, sources) = (Arc::clone(&applications), Arc::clone(&sources));
        let authorization = format!("Bearer {token}");
        threads.spawn(async move || accept(listener, applications, sources, authorization).await)?;
    }
    threads.join();
    Ok(())
}

/// Who is to get what; shared by all runtimes.
#[derive(Default)]
struct Applications {
    endpoints: RwLock<HashMap<String, Vec<Arc<Endpoint>>>>,
    id_next: AtomicU64,
}

struct Endpoint {
    authority: String,
    host: HeaderValue,
    path: hyper::Uri,
    signer: Signer,
}

struct Delivery {
    endpoint: Arc<Endpoint>,
    message_id: Arc<str>,
    payload: Bytes,
}

/// What a runtime's handlers hold.
struct Runtime {
    applications: Arc<Applications>,
    authorization: String,
    queue: mpsc::Sender<Delivery>,
}

async fn accept(
    listener: std::net::TcpListener,
    applications: Arc<Applications>,
    sources: Arc<Sources>,
    authorization: String,
) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (queue, deliveries) = mpsc::channel(QUEUE_DELIVERIES);
    let deliveries = Arc::new(tokio::sync::Mutex::new(deliveries));
    let connections = Arc::new(Connections::default());
    for _ in 0..DELIVERERS {
        tokio::spawn(deliver(Arc::clone(&deliveries), Arc::clone(&connections)));
    }
    let router = Router::new()
        .route("/api/v1/health/ping", get(async || StatusCode::NO_CONTENT))
        .route("/api/v1/app", post(create_application))
        .route("/api/v1/app/{application}/endpoint", post(create_endpoint))
        .route("/api/v1/app/{application}/msg", post(create_message))
        .with_state(Arc::new(Runtime { applications, authorization, queue }))
        .merge(
            Router::new()
                .route("/api/v1/source", post(webhooks::create_source))
                .route("/in/{token}", post(webhooks::receive))
                .with_state(sources),
        );
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _ = server::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

#[derive(Serialize)]
struct Created {
    id: String,
}

async fn create_application(State(runtime): State<Arc<Runtime>>) -> impl IntoResponse {
    let id = format!("app_{:027}", runtime.applications.id_next.fetch_add(1, Relaxed));
    (StatusCode::CREATED, Json(Created { id }))
}

#[derive(Deserialize)]
struct EndpointIn {
    url: url::Url,
}

async fn create_endpoint(
    State(runtime): State<Arc<Runtime>>,
    Path(application): Path<String>,
    Json(input): Json<EndpointIn>,
) -> Result<Response, StatusCode> {
    let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").map_err(|_| StatusCode::BAD_REQUEST)?;
    let host = input.url.host_str().ok_or(StatusCode::BAD_REQUEST)?;
    let authority = format!("{host}:{}", input.url.port_or_known_default().unwrap_or(80));
    let endpoint = Endpoint {
        host: HeaderValue::try_from(&authority).map_err(|_| StatusCode::BAD_REQUEST)?,
        authority,
        path: input.url.path().parse().map_err(|_| StatusCode::BAD_REQUEST)?,
        signer: Signer::new(&[secret]),
    };
    runtime.applications.endpoints.write().entry(application).or_default().push(Arc::new(endpoint));
    let id = format!("ep_{:027}", runtime.applications.id_next.fetch_add(1, Relaxed));
    Ok((StatusCode::CREATED, Json(Created { id })).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MessageIn {
    event_type: String,
    event_id: Option<String>,
    channels: Option<Vec<String>>,
    payload: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MessageOut<'a> {
    event_id: Option<&'a str>,
    event_type: &'a str,
    payload: &'a RawValue,
    channels: Option<&'a [String]>,
    id: &'a str,
    timestamp: String,
}

/// A delivery for each endpoint into the queue, the message back to the client.
async fn create_message(
    State(runtime): State<Arc<Runtime>>,
    Path(application): Path<String>,
    request: Request,
) -> Result<Response, StatusCode> {
    let (head, body) = request.into_parts();
    if head.headers.get(AUTHORIZATION).is_none_or(|found| found.as_bytes() != runtime.authorization.as_bytes()) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let body = axum::body::to_bytes(body, BODY_BYTES_MAX).await.map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
    let message: MessageIn = serde_json::from_slice(&body).map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)?;
    let id: Arc<str> = format!("msg_{:027}", runtime.applications.id_next.fetch_add(1, Relaxed)).into();
    let endpoints = runtime.applications.endpoints.read().get(&application).cloned().unwrap_or_default();
    let payload = Bytes::copy_from_slice(message.payload.get().as_bytes());
    for endpoint in endpoints {
        let delivery = Delivery { endpoint, message_id: Arc::clone(&id), payload: payload.clone() };
        runtime.queue.send(delivery).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    }
    let output = MessageOut {
        event_id: message.event_id.as_deref(),
        event_type: &message.event_type,
        payload: &message.payload,
        channels: message.channels.as_deref(),
        id: &id,
        timestamp: jiff::Timestamp::now().to_string(),
    };
    Ok((StatusCode::ACCEPTED, Json(output)).into_response())
}

/// Makes one exchange after the other. What fails is gone: the bench counts it as lost.
async fn deliver(queue: Arc<tokio::sync::Mutex<mpsc::Receiver<Delivery>>>, connections: Arc<Connections>) {
    loop {
        let Some(delivery) = queue.lock().await.recv().await else { return };
        let authority = &delivery.endpoint.authority;
        let exchanged = async {
            let mut connection = connections.take(authority).await?;
            let response = connection.send_request(request(&delivery)?).await?;
            response.into_body().collect().await?;
            connections.put(authority, connection);
            anyhow::Ok(())
        };
        if let Err(error) = exchanged.await {
            eprintln!("error: a delivery to {authority} is lost\ncaused by: {error:#}");
        }
    }
}

fn request(delivery: &Delivery) -> anyhow::Result<hyper::Request<Full<Bytes>>> {
    let timestamp = jiff::Timestamp::now().as_second();
    let signature = delivery.endpoint.signer.sign(&delivery.message_id, timestamp, &delivery.payload)?;
    Ok(hyper::Request::post(delivery.endpoint.path.clone())
        .header(HOST, &delivery.endpoint.host)
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .header(ID_HEADER, &*delivery.message_id)
        .header(TIMESTAMP_HEADER, timestamp)
        .header(SIGNATURE_HEADER, signature)
        .body(Full::new(delivery.payload.clone()))?)
}

type Connection = client::SendRequest<Full<Bytes>>;

/// A runtime's idle connections, by the host and port they lead to.
#[derive(Default)]
struct Connections(Mutex<HashMap<String, Vec<Connection>>>);

impl Connections {
    async fn take(&self, authority: &str) -> anyhow::Result<Connection> {
        let idle = || self.0.lock().get_mut(authority).and_then(Vec::pop);
        while let Some(mut connection) = idle() {
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let stream = TcpStream::connect(authority).await.context("cannot connect")?;
        stream.set_nodelay(true)?;
        let (connection, driver) = client::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(driver);
        Ok(connection)
    }

    fn put(&self, authority: &str, connection: Connection) {
        let mut idle = self.0.lock();
        match idle.get_mut(authority) {
            Some(connections) => connections.push(connection),
            None => drop(idle.insert(authority.to_owned(), vec![connection])),
        }
    }
}
