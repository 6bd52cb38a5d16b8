//! The cases, one file each: how the server is loaded, what is read, and what has to be reached. `stage` sets a run up.

mod stage;
mod throughput;
mod rate;
mod fan_out;
mod hanging;
mod backlog;
mod features;
mod receive;
mod pipe;
mod readers;
mod pull;

pub(super) use stage::{FILTER, TRANSFORMATION, schema};

use super::ledger::{Group, Ledger};
use super::load::{Load, LoadPlan};
use super::measure::{Reading, now_ns};
use super::server::{Server, Subject};
use super::stream::Streams;
use super::table::{Bound, Check, Report, RunReport};
use super::{Case, Settings};
use indicatif::ProgressBar;
use stage::{Scenario, Stage};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What has not arrived when nothing has arrived for so long is lost.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// What the memory with a backlog is compared with.
const MEMORY_AT_FULL_LOAD: &str = "memory at full load";

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
                Case::Pipe => self.pipe()?,
                Case::Readers => self.readers()?,
                Case::Pull => self.pull()?,
            }
        }
        self.progress.finish_and_clear();
        self.report.check_losses();
        Ok(self.report)
    }

    /// Loads a server for as long as the scenario says, and waits until all is delivered.
    fn measure(&mut self, subject: &Subject, scenario: &Scenario) -> anyhow::Result<RunReport> {
        let Stage { mut server, sink, ledger, load, streams } = self.stage(subject, scenario)?;
        let streams = Streams::open(&streams, &ledger, self.settings.threads)?;
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
        drop(streams);
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
            ..RunReport::new(&scenario.case, subject)
        })
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

    /// The server to measure with a case that another program's server may not be up to. Such a case is left out, and this said, if
    /// the server is given by URL and the case was not asked for by name.
    fn able_subject(&self, case: &str) -> Option<Subject> {
        let subject = self.settings.subject.clone();
        if matches!(subject, Subject::Remote { .. }) && !self.settings.by_name {
            eprintln!("note: the case `{case}` is left out, as not every server is up to it; name it to have it");
            return None;
        }
        Some(subject)
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

/// Makes all messages of a load that has an end.
fn load_to_its_end(load: LoadPlan, ledger: &Arc<Ledger>, server: &mut Server) -> anyhow::Result<()> {
    let load = Load::start(load, Arc::clone(ledger))?;
    while !load.has_ended() {
        server.check()?;
        std::thread::sleep(Duration::from_millis(20));
    }
    load.stop();
    Ok(())
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
}
