//! What a run needs: a server, a sink, and applications and endpoints made through the API.

use super::super::Settings;
use super::super::ledger::{Group, Ledger};
use super::super::load::{LoadPlan, Pace, Received};
use super::super::server::{Server, Subject, random_hex};
use super::super::sink::{Behaviour, Sink, SinkEndpoint};
use super::super::stream::StreamPlan;
use super::Bench;
use anyhow::Context as _;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

const RETRY_SCHEDULE: &str = "1,1,2,2,5,5,10,10,10,10";
const REQUEST_TIMEOUT_SECONDS: &str = "15";

/// Endpoints of one application.
pub(super) type Endpoints = Vec<(Behaviour, Group)>;

pub(super) const HEALTHY: (Behaviour, Group) = (Behaviour::Answer, Group::Healthy);

/// One run: who is to get what, and how fast.
pub(super) struct Scenario {
    pub(super) case: String,
    pub(super) applications: Vec<Endpoints>,
    pub(super) pace: Pace,
    pub(super) duration: Duration,
    pub(super) retry_schedule: String,
    pub(super) feature: Option<Feature>,
    /// Settings of the server beside the bench's own.
    pub(super) environment: Vec<(String, String)>,
}

impl Scenario {
    /// One healthy endpoint for each application, and messages for them as fast as they are taken.
    pub(super) fn flat_out(case: &str, settings: &Settings) -> Scenario {
        Scenario {
            case: case.to_owned(),
            applications: vec![vec![HEALTHY]; settings.applications],
            pace: Pace::Closed { outstanding_max: i64::MAX, messages_max: u64::MAX },
            duration: settings.duration,
            retry_schedule: RETRY_SCHEDULE.to_owned(),
            feature: None,
            environment: Vec::new(),
        }
    }

    /// The same, for one application whose messages so many get.
    pub(super) fn of_one_application(case: &str, endpoints: usize, settings: &Settings) -> Scenario {
        Scenario { applications: vec![vec![HEALTHY; endpoints]], ..Scenario::flat_out(case, settings) }
    }
}

/// What every endpoint of a run does beside taking messages.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Feature {
    /// Takes messages by what is in them.
    Filter,
    /// Is sent only what fits its event type's schema.
    Schema,
    /// Makes something of each message, without changing what the bench looks for.
    Transformation,
    /// Messages come in at sources instead.
    Received,
    /// Each application has one pipe, and what else are its endpoints are readers of it.
    Pipe,
}

const SOURCE_SECRET: &str = "a secret between the bench and its sources";
/// What the load sends.
const EVENT_TYPE: &str = "bench.sent";
pub(in super::super) const FILTER: &str = "has(payload.bench) && payload.text != 'nothing'";
pub(in super::super) const TRANSFORMATION: &str =
    "function handler(webhook) { webhook.headers = { 'x-kind': webhook.eventType }; return webhook }";

/// Of the event type, in the case of that feature.
pub(in super::super) fn schema() -> serde_json::Value {
    json!({
        "type": "object",
        "required": ["bench", "text"],
        "additionalProperties": false,
        "properties": { "bench": { "type": "string", "maxLength": 64 }, "text": { "type": "string" } },
    })
}

/// Everything that a run needs, set up and ready for its load.
pub(super) struct Stage {
    pub(super) server: Server,
    pub(super) sink: Sink,
    pub(super) ledger: Arc<Ledger>,
    pub(super) load: LoadPlan,
    /// Who reads pipes; nobody does yet.
    pub(super) streams: StreamPlan,
}

impl Bench {
    /// Starts server and sink, and sets up applications and endpoints through the API.
    pub(super) fn stage(&mut self, subject: &Subject, scenario: &Scenario) -> anyhow::Result<Stage> {
        self.say(scenario, subject, "setting up");
        self.runs += 1;
        let settings = &self.settings;
        let run = u32::from_str_radix(&random_hex(4)?, 16).context("no run number")?;
        let counts = scenario.applications.iter().map(Vec::len).collect();
        let ledger = Arc::new(Ledger::new(run, counts));
        let endpoint = |(slot, (behaviour, group)): (usize, &(Behaviour, Group))| SinkEndpoint {
            slot,
            behaviour: *behaviour,
            group: *group,
        };
        let endpoints = scenario.applications.iter().flat_map(|endpoints| endpoints.iter().enumerate().map(endpoint));
        let sink = Sink::start(endpoints.collect(), Arc::clone(&ledger), settings.threads)?;

        let mut environment = vec![
            ("SVIX_RETRY_SCHEDULE".to_owned(), scenario.retry_schedule.clone()),
            ("SVIX_WORKER_REQUEST_TIMEOUT".to_owned(), REQUEST_TIMEOUT_SECONDS.to_owned()),
        ];
        environment.extend(scenario.environment.iter().cloned());
        environment.extend(settings.environment.iter().cloned());
        let folder = settings.folder.join(format!("{}-{}", self.runs, subject_folder(subject)));
        let server = Server::start(subject, &folder, &environment)?;
        server.forget_peak();

        let mut client = server.client();
        if scenario.feature == Some(Feature::Schema) {
            let event_type = json!({ "name": EVENT_TYPE, "description": "", "schemas": { "1": schema() } });
            client.post("/api/v1/event-type", &event_type)?;
        }
        let mut applications = Vec::new();
        let mut paths = Vec::new();
        let mut streams = Vec::new();
        let mut number = 0;
        for (index, endpoints) in scenario.applications.iter().enumerate() {
            let name = format!("bench-{run:08x}-{index}");
            let mut application = json!({ "name": name, "uid": name });
            if scenario.feature == Some(Feature::Schema) {
                application["payloadValidation"] = json!("refuse");
            }
            let created = client.post("/api/v1/app", &application)?;
            let id = created["id"].as_str().context("the application that was created has no id")?.to_owned();
            if scenario.feature == Some(Feature::Pipe) {
                let path = format!("/api/v1/app/{id}/endpoint");
                client.post(&path, &json!({ "uid": "pipe", "kind": "pipe" }))?;
                let stream = |reader| (format!("{path}/pipe/stream?from=now"), reader);
                streams.extend((0..endpoints.len()).map(stream));
                applications.push(id);
                continue;
            }
            for _ in endpoints {
                let url = endpoint_url(settings.sink_host.as_deref(), sink.port, number);
                let mut endpoint = json!({ "url": url });
                if scenario.feature == Some(Feature::Filter) {
                    endpoint["filter"] = json!(FILTER);
                }
                let path = format!("/api/v1/app/{id}/endpoint");
                let created = client.post(&path, &endpoint)?;
                if scenario.feature == Some(Feature::Transformation) {
                    let endpoint = created["id"].as_str().context("the endpoint that was created has no id")?;
                    let code = json!({ "code": TRANSFORMATION, "enabled": true });
                    client.patch(&format!("{path}/{endpoint}/transformation"), &code)?;
                }
                number += 1;
            }
            if scenario.feature == Some(Feature::Received) {
                let source = json!({ "name": name, "appId": id, "preset": "github", "secrets": [SOURCE_SECRET] });
                let made = client.post("/api/v1/source", &source)?;
                let url = made["listenerUrl"].as_str().context("the source that was created has no URL")?;
                let path = url.find("/in/").map(|at| url[at..].to_owned());
                paths.push(path.context("the source's URL is not one of a source")?);
            }
            applications.push(id);
        }
        let received = (!paths.is_empty()).then(|| Received { paths, secret: SOURCE_SECRET.to_owned() });
        let load = LoadPlan {
            address: server.address,
            host: server.host.clone(),
            token: server.token.clone(),
            applications,
            pace: scenario.pace,
            connections: settings.connections,
            threads: settings.threads,
            payload_bytes: settings.payload_bytes,
            idempotency_keys: settings.idempotency_keys,
            received,
        };
        let (address, host, token) = (server.address, server.host.clone(), server.token.clone());
        let streams = StreamPlan { address, host, token, streams };
        Ok(Stage { server, sink, ledger, load, streams })
    }
}

/// Where the sink's endpoint stands. By default each has a loopback address of its own, as the endpoints of different
/// customers have different hosts.
fn endpoint_url(host: Option<&str>, port: u16, number: usize) -> String {
    match host {
        Some(host) => format!("http://{host}:{port}/{number}"),
        None => format!("http://127.1.{}.{}:{port}/{number}", number / 250 % 250, number % 250 + 1),
    }
}

fn subject_folder(subject: &Subject) -> &'static str {
    match subject {
        Subject::Bellwire => "bellwire",
        Subject::Ceiling => "ceiling",
        Subject::Remote { .. } => "remote",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_a_valid_address_of_its_own() {
        let urls: std::collections::HashSet<_> = (0..1_000).map(|number| endpoint_url(None, 80, number)).collect();
        let hosts: std::collections::HashSet<_> =
            urls.iter().filter_map(|url| url::Url::parse(url).ok()?.host_str().map(String::from)).collect();
        assert_eq!(hosts.len(), 1_000);
        assert_eq!(endpoint_url(Some("sink.example"), 8_071, 3), "http://sink.example:8071/3");
    }
}
