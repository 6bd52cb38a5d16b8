//! The cases: what is set up, how it is loaded, what is read, and what has to be reached.

use super::ledger::{Group, Ledger};
use super::load::{Load, LoadPlan, Pace, Received};
use super::measure::{Reading, now_ns};
use super::server::{Server, Subject};
use super::sink::{Behaviour, Sink, SinkEndpoint};
use super::table::{BacklogReport, Bound, Check, Report, RunReport};
use super::{Case, Down, Settings};
use anyhow::Context as _;
use indicatif::ProgressBar;
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long endpoints hang in the case of that name.
const HANG: Duration = Duration::from_secs(10);
/// Deliveries per second to hanging endpoints, and as many to healthy ones.
const HANGING_RATE: f64 = 100.0;
const FAN_OUT: usize = 100;
/// What has not arrived when nothing has arrived for so long is lost.
const SILENCE_MAX: Duration = Duration::from_secs(30);
const RETRY_SCHEDULE: &str = "1,1,2,2,5,5,10,10,10,10";
const REQUEST_TIMEOUT_SECONDS: &str = "15";

/// What the memory with a backlog is compared with.
const MEMORY_AT_FULL_LOAD: &str = "memory at full load";

/// Endpoints of one application.
type Endpoints = Vec<(Behaviour, Group)>;

const HEALTHY: (Behaviour, Group) = (Behaviour::Answer, Group::Healthy);
const HANGING: (Behaviour, Group) = (Behaviour::Hang(HANG), Group::Hanging);

/// One run: who is to get what, and how fast.
struct Scenario {
    case: String,
    applications: Vec<Endpoints>,
    pace: Pace,
    duration: Duration,
    retry_schedule: String,
    feature: Option<Feature>,
}

/// What every endpoint of a run does beside taking messages.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Feature {
    /// Takes messages by what is in them.
    Filter,
    /// Is sent only what fits its event type's schema.
    Schema,
    /// Makes something of each message, without changing what the bench looks for.
    Transformation,
    /// Messages come in at sources instead.
    Received,
}

const SOURCE_SECRET: &str = "a secret between the bench and its sources";
/// What the load sends.
const EVENT_TYPE: &str = "bench.sent";
pub(super) const FILTER: &str = "has(payload.bench) && payload.text != 'nothing'";
pub(super) const TRANSFORMATION: &str =
    "function handler(webhook) { webhook.headers = { 'x-kind': webhook.eventType }; return webhook }";

/// Of the event type, in the case of that feature.
pub(super) fn schema() -> serde_json::Value {
    json!({
        "type": "object",
        "required": ["bench", "text"],
        "additionalProperties": false,
        "properties": { "bench": { "type": "string", "maxLength": 64 }, "text": { "type": "string" } },
    })
}

/// Everything that a run needs, set up and ready for its load.
struct Stage {
    server: Server,
    sink: Sink,
    ledger: Arc<Ledger>,
    load: LoadPlan,
}

pub(crate) struct Bench {
    settings: Settings,
    progress: ProgressBar,
    report: Report,
    /// Counts the runs, for their folders.
    runs: u32,
}

impl Bench {
    pub(crate) fn new(settings: Settings, progress: ProgressBar) -> Bench {
        let report = Report::new(&settings);
        Bench { settings, progress, report, runs: 0 }
    }

    /// Runs the cases in their order.
    ///
    /// # Errors
    /// When a server cannot be started or ends, or does not speak the API. That it is slow, or loses messages, is no
    /// error but a result.
    pub(crate) fn run(mut self) -> anyhow::Result<Report> {
        for case in self.settings.cases.clone() {
            match case {
                Case::Throughput => self.throughput()?,
                Case::Rate => self.rates()?,
                Case::FanOut => self.fan_out()?,
                Case::Hanging => self.hanging()?,
                Case::Backlog => self.backlog()?,
                Case::Features => self.features()?,
                Case::Receive => self.receive()?,
            }
        }
        self.progress.finish_and_clear();
        self.report.check_losses();
        Ok(self.report)
    }

    /// As fast as it goes, in turns with the ceiling, so that a machine that changes its speed changes both.
    fn throughput(&mut self) -> anyhow::Result<()> {
        let case = "throughput";
        let scenario = Scenario {
            case: case.into(),
            applications: vec![vec![HEALTHY]; self.settings.applications],
            pace: Pace::Closed { outstanding_max: i64::MAX, messages_max: u64::MAX },
            duration: self.settings.duration,
            retry_schedule: RETRY_SCHEDULE.into(),
            feature: None,
        };
        let (mut ceiling, mut server) = (Vec::new(), Vec::new());
        for _ in 0..self.settings.runs {
            if self.settings.ceiling {
                ceiling.push(self.measure(&Subject::Ceiling, &scenario)?);
            }
            server.push(self.measure(&self.settings.subject.clone(), &scenario)?);
        }
        let per_second = |runs: &[RunReport]| median(runs.iter().map(|run| run.delivered_per_second));
        let cpu = |runs: &[RunReport]| median(runs.iter().filter_map(|run| run.server_cpu_ms_per_1000));
        let ratio = |ours: Option<f64>, ceilings: Option<f64>| Some(ours? / ceilings?);
        let checks = [
            (
                ratio(per_second(&server), per_second(&ceiling)),
                "messages/s, of the ceiling's",
                "×",
                Bound::AtLeast(0.45),
            ),
            (ratio(cpu(&server), cpu(&ceiling)), "server CPU per message, of the ceiling's", "×", Bound::AtMost(2.5)),
            (peak_memory_mb(&server), MEMORY_AT_FULL_LOAD, "MB", Bound::AtMost(100.0)),
        ];
        for (measured, measure, unit, bound) in checks {
            self.check(case, measure, measured, unit, bound);
        }
        self.report.runs.extend(ceiling.into_iter().chain(server));
        Ok(())
    }

    fn rates(&mut self) -> anyhow::Result<()> {
        for rate in self.settings.rates.clone() {
            let scenario = Scenario {
                case: format!("{rate}/s"),
                applications: vec![vec![HEALTHY]; self.settings.applications],
                pace: Pace::Rate(rate),
                duration: self.settings.duration,
                retry_schedule: RETRY_SCHEDULE.into(),
                feature: None,
            };
            let run = self.measure(&self.settings.subject.clone(), &scenario)?;
            let bound = if rate <= 1_000.0 {
                Some(6.0)
            } else if rate <= 5_000.0 {
                Some(12.0)
            } else {
                None
            };
            if let Some(bound) = bound {
                self.check(&scenario.case, "end-to-end p99", run.p99_ms(), "ms", Bound::AtMost(bound));
            }
            self.report.runs.push(run);
        }
        Ok(())
    }

    /// One application with many endpoints. No message is made while a hundred endpoints' worth of deliveries per
    /// connection is outstanding: what is asked is how fast they leave, not how many can pile up.
    fn fan_out(&mut self) -> anyhow::Result<()> {
        let outstanding = self.settings.connections.saturating_mul(FAN_OUT);
        let scenario = Scenario {
            case: format!("fan-out 1 to {FAN_OUT}"),
            applications: vec![vec![HEALTHY; FAN_OUT]],
            pace: Pace::Closed {
                outstanding_max: i64::try_from(outstanding).unwrap_or(i64::MAX),
                messages_max: u64::MAX,
            },
            duration: self.settings.duration,
            retry_schedule: RETRY_SCHEDULE.into(),
            feature: None,
        };
        let run = self.measure(&self.settings.subject.clone(), &scenario)?;
        let measured = Some(run.delivered_per_second);
        self.check(&scenario.case, "deliveries/s", measured, "", Bound::AtLeast(20_000.0));
        self.report.runs.push(run);
        Ok(())
    }

    /// As fast as it goes once more, with what endpoints can ask for switched on, one thing at a time.
    fn features(&mut self) -> anyhow::Result<()> {
        let subject = self.settings.subject.clone();
        if matches!(subject, Subject::Remote { .. }) {
            // Another program may not have them.
            return Ok(());
        }
        for (name, feature) in [
            ("features: none", None),
            ("features: filter", Some(Feature::Filter)),
            ("features: schema", Some(Feature::Schema)),
            ("features: transformation", Some(Feature::Transformation)),
        ] {
            let scenario = Scenario {
                case: name.into(),
                applications: vec![vec![HEALTHY]; self.settings.applications],
                pace: Pace::Closed { outstanding_max: i64::MAX, messages_max: u64::MAX },
                duration: self.settings.duration,
                retry_schedule: RETRY_SCHEDULE.into(),
                feature,
            };
            let run = self.measure(&subject, &scenario)?;
            self.report.runs.push(run);
        }
        self.progress.set_message("what features cost alone");
        let costs = super::costs::measure(self.settings.payload_bytes, self.settings.quick)?;
        for cost in &costs {
            if let Some(at_most) = cost.us_at_most {
                let measure = format!("{}, alone", cost.what);
                self.check("features", &measure, Some(cost.us_per_message), "µs", Bound::AtMost(at_most));
            }
        }
        self.report.costs = costs;
        Ok(())
    }

    /// Webhooks in: verified, told from repeats, durable, answered. The ceiling takes the same over HTTP and keeps nothing. Nobody gets
    /// them: what is asked is the way in.
    fn receive(&mut self) -> anyhow::Result<()> {
        let case = "receive";
        let subject = self.settings.subject.clone();
        if matches!(subject, Subject::Remote { .. }) {
            return Ok(());
        }
        let scenario = |feature| Scenario {
            case: case.into(),
            applications: vec![Vec::new(); self.settings.applications],
            pace: Pace::Closed { outstanding_max: i64::MAX, messages_max: u64::MAX },
            duration: self.settings.duration,
            retry_schedule: RETRY_SCHEDULE.into(),
            feature,
        };
        let (bare, received) = (scenario(None), scenario(Some(Feature::Received)));
        let ceiling = match self.settings.ceiling {
            true => Some(self.measure(&Subject::Ceiling, &bare)?),
            false => None,
        };
        let run = self.measure(&subject, &received)?;
        let ratio = ceiling.as_ref().map(|ceiling| run.accepted_per_second / ceiling.accepted_per_second);
        self.check(case, "webhooks/s", Some(run.accepted_per_second), "", Bound::AtLeast(15_000.0));
        self.check(case, "webhooks/s, of the ceiling's", ratio, "×", Bound::AtLeast(0.6));
        self.report.runs.extend(ceiling.into_iter().chain([run]));
        Ok(())
    }

    /// Half of the healthy endpoints share their application with a hanging one, half of the hanging ones have an
    /// application to themselves. The same healthy load is measured alone first.
    fn hanging(&mut self) -> anyhow::Result<()> {
        let scenario = |case: &str, applications: Vec<Endpoints>| {
            let messages_per_second = HANGING_RATE / 4.0 * applications.len() as f64;
            Scenario {
                case: case.into(),
                applications,
                pace: Pace::Rate(messages_per_second),
                duration: self.settings.hanging_duration,
                retry_schedule: RETRY_SCHEDULE.into(),
                feature: None,
            }
        };
        let alone = vec![vec![HEALTHY]; 4];
        let shared = vec![HEALTHY, HANGING];
        let beside = vec![shared.clone(), shared, vec![HEALTHY], vec![HEALTHY], vec![HANGING], vec![HANGING]];
        let (alone, beside) = (scenario("hanging: healthy alone", alone), scenario("hanging: healthy beside", beside));
        let subject = self.settings.subject.clone();
        let (alone, beside) = (self.measure(&subject, &alone)?, self.measure(&subject, &beside)?);
        let added = beside.p99_ms().zip(alone.p99_ms()).map(|(beside, alone)| (beside - alone).max(0.0));
        self.check("hanging", "added to the p99 of healthy endpoints", added, "ms", Bound::AtMost(20.0));
        self.report.runs.extend([alone, beside]);
        Ok(())
    }

    /// Fills up behind endpoints that are down, kills the server, and sees it come back and catch up.
    fn backlog(&mut self) -> anyhow::Result<()> {
        let behaviour = match self.settings.down {
            Down::Silent => Behaviour::Hang(Duration::from_secs(24 * 3_600)),
            Down::Refusing => Behaviour::Refuse,
        };
        let waiting = self.settings.backlog;
        let scenario = Scenario {
            case: format!("backlog of {waiting}"),
            applications: vec![vec![(behaviour, Group::Healthy)]; self.settings.applications],
            pace: Pace::Closed { outstanding_max: i64::MAX, messages_max: waiting },
            duration: Duration::ZERO,
            // Long enough that nothing is exhausted while the backlog grows.
            retry_schedule: ["5"; 60].join(","),
            feature: None,
        };
        let subject = self.settings.subject.clone();
        let Stage { mut server, sink, ledger, load } = self.stage(&subject, &scenario)?;
        self.say(&scenario, &subject, "filling");
        let bench_before = Reading::of(std::process::id());
        let filling = Instant::now();
        let load = Load::start(load, Arc::clone(&ledger))?;
        while !load.has_ended() {
            server.check()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        let fill_seconds = filling.elapsed().as_secs_f64();
        load.stop();
        // What follows an accepted message in the background belongs to the backlog's memory.
        std::thread::sleep(self.settings.warm_up);
        let full = server.reading();
        let accepted = ledger.counts().accepted;

        self.say(&scenario, &subject, "restarting and draining");
        ledger.forget_first_delivery();
        let delivered_before = ledger.counts().delivered;
        let can_be_killed = server.can_be_killed();
        if !can_be_killed {
            sink.heal();
        }
        let begin_ns = now_ns();
        let ready = match can_be_killed {
            // The endpoints are back when the process that hangs on them is gone and before the next one starts.
            true => Some(server.kill_and_restart(|| sink.heal())?),
            false => None,
        };
        let ready_ns = ready.map_or(begin_ns, |_| now_ns());
        let lost = self.drain(&ledger, &mut server)?;
        let after = server.reading();
        server.stop()?;

        let seconds = |ns: u64| ns as f64 / 1e9;
        let first_ns = ledger.first_delivery_ns();
        let drain_seconds = first_ns.map_or(0.0, |first| seconds(ledger.last_delivery_ns().saturating_sub(first)));
        let drained = ledger.counts().delivered - delivered_before;
        // Of two processes, if there was a restart: the CPU of both, the larger peak.
        let both = |first: Option<f64>, second: Option<f64>| {
            if can_be_killed { Some(first? + second?) } else { second }
        };
        let cpu_ms = |reading: &Reading| reading.cpu.map(|cpu| cpu.as_secs_f64() * 1e3);
        let written = |reading: &Reading| reading.written_bytes.map(|bytes| bytes as f64);
        let report = RunReport {
            case: scenario.case.clone(),
            subject: subject.name(),
            seconds: fill_seconds + drain_seconds,
            accepted,
            accepted_per_second: accepted as f64 / fill_seconds,
            delivered: drained,
            delivered_per_second: drained as f64 / drain_seconds.max(1e-3),
            accept: ledger.accept_latency(),
            end_to_end: None,
            end_to_end_hanging: None,
            server_cpu_ms_per_1000: per_1000(both(cpu_ms(&full), cpu_ms(&after)), drained),
            bench_cpu_ms_per_1000: per_1000(
                Reading::of(std::process::id()).cpu_since(&bench_before).map(|cpu| cpu.as_secs_f64() * 1e3),
                drained,
            ),
            peak_memory_bytes: full.peak_memory_bytes.max(after.peak_memory_bytes),
            written_bytes: both(written(&full), written(&after)).map(|bytes| bytes as u64),
            written_bytes_per_message: both(written(&full), written(&after)).map(|bytes| bytes / accepted as f64),
            lost,
            duplicates: ledger.duplicates(),
            failures: ledger.failures(),
            backlog: Some(BacklogReport {
                waiting: accepted - delivered_before.min(accepted),
                memory_bytes: full.memory_bytes,
                peak_filling_bytes: full.peak_memory_bytes,
                peak_after_restart_bytes: after.peak_memory_bytes.filter(|_| can_be_killed),
                ready_seconds: ready.map(|ready| ready.as_secs_f64()),
                first_delivery_seconds: first_ns.map(|first| seconds(first.saturating_sub(ready_ns))),
                drain_seconds,
            }),
        };
        self.check_backlog(&report);
        self.report.runs.push(report);
        Ok(())
    }

    fn check_backlog(&mut self, run: &RunReport) {
        let Some(backlog) = &run.backlog else { return };
        let (ready, first) = (backlog.ready_seconds, backlog.first_delivery_seconds);
        let peak = run.peak_memory_bytes.map(megabytes);
        let full_load = self.report.checks.iter().find(|check| check.measure == MEMORY_AT_FULL_LOAD);
        match full_load.map(|check| check.measured) {
            Some(full_load) => {
                let above = peak.map(|peak| (peak - full_load).max(0.0));
                self.check(&run.case, "memory above that at full load", above, "MB", Bound::AtMost(64.0));
            }
            None => self.check(&run.case, "memory", peak, "MB", Bound::AtMost(164.0)),
        }
        if ready.is_some() {
            self.check(&run.case, "ready after kill and restart", ready, "s", Bound::AtMost(5.0));
            self.check(&run.case, "first delivery after ready", first, "s", Bound::AtMost(1.0));
        }
    }

    /// Loads a server for as long as the scenario says, and waits until all is delivered.
    fn measure(&mut self, subject: &Subject, scenario: &Scenario) -> anyhow::Result<RunReport> {
        let Stage { mut server, sink, ledger, load } = self.stage(subject, scenario)?;
        self.say(scenario, subject, "warming up");
        let load = Load::start(load, Arc::clone(&ledger))?;
        std::thread::sleep(self.settings.warm_up);

        self.say(scenario, subject, "measuring");
        let (before, bench_before) = (server.reading(), Reading::of(std::process::id()));
        let (begin, begin_counts) = (Instant::now(), ledger.counts());
        ledger.record_latencies_from(now_ns());
        std::thread::sleep(scenario.duration);
        let (seconds, end_counts) = (begin.elapsed().as_secs_f64(), ledger.counts());
        server.check()?;

        self.say(scenario, subject, "waiting for the last deliveries");
        load.stop();
        sink.heal();
        let lost = self.drain(&ledger, &mut server)?;
        let (after, bench_after) = (server.reading(), Reading::of(std::process::id()));
        server.stop()?;

        // CPU and bytes are set against all that they were spent on, what was delivered after the load included.
        let last_counts = ledger.counts();
        let messages = last_counts.accepted - begin_counts.accepted;
        // Where nobody is to get anything, what counts is what came in.
        let deliveries = match last_counts.delivered - begin_counts.delivered {
            0 => messages,
            deliveries => deliveries,
        };
        let cpu_ms = |after: &Reading, before: &Reading| Some(after.cpu_since(before)?.as_secs_f64() * 1e3);
        let written_bytes = after.written_since(&before);
        Ok(RunReport {
            case: scenario.case.clone(),
            subject: subject.name(),
            seconds,
            accepted: end_counts.accepted - begin_counts.accepted,
            accepted_per_second: (end_counts.accepted - begin_counts.accepted) as f64 / seconds,
            delivered: end_counts.delivered - begin_counts.delivered,
            delivered_per_second: (end_counts.delivered - begin_counts.delivered) as f64 / seconds,
            accept: ledger.accept_latency(),
            end_to_end: ledger.delivery_latency(Group::Healthy),
            end_to_end_hanging: ledger.delivery_latency(Group::Hanging),
            server_cpu_ms_per_1000: per_1000(cpu_ms(&after, &before), deliveries),
            bench_cpu_ms_per_1000: per_1000(cpu_ms(&bench_after, &bench_before), deliveries),
            peak_memory_bytes: after.peak_memory_bytes,
            written_bytes,
            written_bytes_per_message: written_bytes.map(|bytes| bytes as f64 / messages.max(1) as f64),
            lost,
            duplicates: ledger.duplicates(),
            failures: ledger.failures(),
            backlog: None,
        })
    }

    /// Starts server and sink, and sets up applications and endpoints through the API.
    fn stage(&mut self, subject: &Subject, scenario: &Scenario) -> anyhow::Result<Stage> {
        self.say(scenario, subject, "setting up");
        self.runs += 1;
        let settings = &self.settings;
        let run = u32::from_str_radix(&super::server::random_hex(4)?, 16).context("no run number")?;
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
        let mut number = 0;
        for (index, endpoints) in scenario.applications.iter().enumerate() {
            let name = format!("bench-{run:08x}-{index}");
            let mut application = json!({ "name": name, "uid": name });
            if scenario.feature == Some(Feature::Schema) {
                application["payloadValidation"] = json!("refuse");
            }
            let created = client.post("/api/v1/app", &application)?;
            let id = created["id"].as_str().context("the application that was created has no id")?.to_owned();
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
        Ok(Stage { server, sink, ledger, load })
    }

    /// Waits until every accepted message has arrived wherever it should; returns how many deliveries did not.
    fn drain(&self, ledger: &Ledger, server: &mut Server) -> anyhow::Result<u64> {
        let (mut delivered, mut changed) = (ledger.counts().delivered, Instant::now());
        loop {
            server.check()?;
            if ledger.outstanding() <= 0 && ledger.missing() == 0 {
                return Ok(0);
            }
            let now_delivered = ledger.counts().delivered;
            if now_delivered != delivered {
                (delivered, changed) = (now_delivered, Instant::now());
            } else if changed.elapsed() > SILENCE_MAX {
                return Ok(ledger.missing());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn check(&mut self, case: &str, measure: &str, measured: Option<f64>, unit: &'static str, bound: Bound) {
        if let Some(measured) = measured {
            self.report.checks.push(Check::new(case, measure, measured, unit, bound));
        }
    }

    fn say(&self, scenario: &Scenario, subject: &Subject, doing: &str) {
        self.progress.set_message(format!("{}, {}: {doing}", scenario.case, subject.name()));
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

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn peak_memory_mb(runs: &[RunReport]) -> Option<f64> {
    runs.iter().filter_map(|run| run.peak_memory_bytes).max().map(megabytes)
}

fn per_1000(total: Option<f64>, count: u64) -> Option<f64> {
    total.filter(|_| count > 0).map(|total| total * 1_000.0 / count as f64)
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some((values[middle - 1] + values[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_two_middle_ones() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), Some(2.5));
        assert_eq!(median(std::iter::empty()), None);
    }

    #[test]
    fn every_endpoint_has_a_valid_address_of_its_own() {
        let urls: std::collections::HashSet<_> = (0..1_000).map(|number| endpoint_url(None, 80, number)).collect();
        let hosts: std::collections::HashSet<_> =
            urls.iter().filter_map(|url| url::Url::parse(url).ok()?.host_str().map(String::from)).collect();
        assert_eq!(hosts.len(), 1_000);
        assert_eq!(endpoint_url(Some("sink.example"), 8_071, 3), "http://sink.example:8071/3");
    }
}
