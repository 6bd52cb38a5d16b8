//! Sends spans to the collector, in batches, on a thread of its own: what becomes of it is nothing that a message waits for.

use super::span::{Span, request};
use anyhow::Context;
use bellwire_config::Config;
use bellwire_egress::{Client, Egress, Guard, Request, SendError, Target};
use http::{HeaderMap, HeaderValue, Method, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};

/// In one request.
const SPANS_MAX: usize = 512;
/// What has collected is sent at the latest after this.
const COLLECTS_FOR: Duration = Duration::from_secs(1);
/// For one request.
const DEADLINE: Duration = Duration::from_secs(10);
/// A request is made so often before its spans are dropped; the waits between double.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// It is said so often at most that spans were dropped.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The thread that sends.
pub(super) struct Exporter {
    thread: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

/// Starts it.
///
/// # Errors
/// If outgoing requests or the thread cannot be set up.
pub(super) fn start(
    config: &Config,
    endpoint: &url::Url,
    waiting: mpsc::Receiver<Span>,
    dropped: Arc<AtomicU64>,
) -> anyhow::Result<Exporter> {
    let (stop, stopped) = watch::channel(false);
    let mut headers: HeaderMap = config.traces.headers.iter().cloned().collect();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, config.delivery.user_agent.clone());
    let mut settings = config.egress_settings();
    // The operator's own choice, not a customer's: it may be on this very machine. What the proxy is for is elsewhere.
    settings.guard = Guard {
        allowed_networks: ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect(),
        denied_ports: Vec::new(),
        https_only: false,
        ..settings.guard
    };
    settings.proxy = None;
    let egress = Egress::new(settings).context("cannot set up requests to the collector of traces")?;
    let collector = Collector {
        target: Target::new(endpoint).context("traces.endpoint cannot be called")?,
        headers,
        service: config.traces.service_name.clone(),
        stopped,
        dropped,
        told: None,
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
    let thread = std::thread::Builder::new()
        .name("traces".into())
        .spawn(move || {
            runtime.block_on(async {
                match egress.client() {
                    Ok(client) => collector.run(&client, waiting).await,
                    Err(error) => tracing::error!(%error, "traces cannot be sent"),
                }
            });
        })
        .context("cannot start a thread")?;
    Ok(Exporter { thread, stop })
}

impl Exporter {
    /// Sends what waits, and ends; waits for that until `deadline` at the latest.
    pub(super) fn stop(&self, deadline: Instant) {
        let _ = self.stop.send(true);
        while !self.thread.is_finished() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

struct Collector {
    target: Target,
    headers: HeaderMap,
    service: String,
    stopped: watch::Receiver<bool>,
    dropped: Arc<AtomicU64>,
    /// When it was last said that spans were dropped.
    told: Option<Instant>,
}

impl Collector {
    async fn run(mut self, client: &Client, mut waiting: mpsc::Receiver<Span>) {
        let mut spans = Vec::with_capacity(SPANS_MAX);
        let mut stopped = self.stopped.clone();
        loop {
            tokio::select! {
                _ = waiting.recv_many(&mut spans, SPANS_MAX) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            let full = async {
                while spans.len() < SPANS_MAX {
                    let room = SPANS_MAX - spans.len();
                    waiting.recv_many(&mut spans, room).await;
                }
            };
            tokio::select! {
                () = full => {}
                () = tokio::time::sleep(COLLECTS_FOR) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            let ending = *self.stopped.borrow();
            while ending
                && spans.len() < SPANS_MAX
                && let Ok(span) = waiting.try_recv()
            {
                spans.push(span);
            }
            if spans.is_empty() && ending {
                return;
            }
            if let Err(why) = self.send(client, &spans).await {
                self.dropped.fetch_add(spans.len() as u64, Ordering::Relaxed);
                self.tell(&why);
            } else {
                self.tell("they came faster than they could be sent");
            }
            spans.clear();
        }
    }

    /// Sends them, again if the collector asks for that or cannot be reached. While the program ends, once.
    async fn send(&self, client: &Client, spans: &[Span]) -> Result<(), String> {
        let body = bytes::Bytes::from(request(&self.service, spans));
        let mut wait = FIRST_WAIT;
        for attempt in 1.. {
            let request = Request {
                method: Method::POST,
                target: self.target.clone(),
                headers: self.headers.clone(),
                body: body.clone(),
                deadline: DEADLINE,
                response_body_max: 1_024,
            };
            let why = match client.exchange(request).await {
                Ok(response) if (200..300).contains(&response.status) => return Ok(()),
                Ok(response) => {
                    let why = format!("the collector answered {}", response.status);
                    // OTLP/HTTP, "Retryable Response Codes".
                    if !matches!(response.status, 429 | 502 | 503 | 504) {
                        return Err(why);
                    }
                    why
                }
                Err(error @ (SendError::Forbidden(_) | SendError::Url(_))) => return Err(error.to_string()),
                Err(error) => error.to_string(),
            };
            if attempt == TRIES || *self.stopped.borrow() {
                return Err(why);
            }
            let mut stopped = self.stopped.clone();
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            wait *= 2;
        }
        Ok(())
    }

    /// Says that spans were dropped, if there were any and it was not said just before.
    fn tell(&mut self, why: &str) {
        if self.told.is_some_and(|told| told.elapsed() < TOLD_EVERY) {
            return;
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.told = Some(Instant::now());
            tracing::warn!(spans = dropped, why, "traces were dropped");
        }
    }
}
