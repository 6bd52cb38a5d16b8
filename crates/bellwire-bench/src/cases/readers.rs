//! Many readers of a live stream who only wait.

use super::super::ledger::Group;
use super::super::load::Pace;
use super::super::measure::now_ns;
use super::super::stream::Streams;
use super::super::table::{Bound, ReadersReport, RunReport};
use super::stage::{Feature, Scenario, Stage};
use super::{Bench, load_to_its_end, megabytes};
use rustix::process::{Resource, getrlimit};
use std::time::{Duration, Instant};

/// What a reader that waits may cost the server.
const BYTES_EACH_MAX: f64 = 20_000.0;
/// Files that a process needs beside the connections of readers.
const FILES_BESIDE: usize = 500;

impl Bench {
    /// Opens as many streams of one pipe as there are readers, and sees that one message reaches all of them.
    pub(super) fn readers(&mut self) -> anyhow::Result<()> {
        let Some(subject) = self.able_subject("readers") else { return Ok(()) };
        let asked = self.settings.readers;
        let count = getrlimit(Resource::Nofile)
            .current
            .map_or(asked, |files| asked.min((files as usize).saturating_sub(FILES_BESIDE)));
        if count < asked {
            eprintln!(
                "warning: the limit of open files allows {count} of {asked} readers\nhint: raise it (ulimit -n {})",
                asked + FILES_BESIDE
            );
        }
        let scenario = Scenario {
            pace: Pace::Closed { outstanding_max: i64::MAX, messages_max: 1 },
            feature: Some(Feature::Pipe),
            // Shards take connections as they come, which is not evenly.
            environment: vec![("BELLWIRE_LIMITS_CONNECTIONS_MAX".to_owned(), (asked * 4).to_string())],
            ..Scenario::of_one_application(&format!("{count} idle readers"), count, &self.settings)
        };
        let Stage { mut server, ledger, load, streams, .. } = self.stage(&subject, &scenario)?;
        std::thread::sleep(self.settings.warm_up);
        let before = server.reading();

        self.say(&scenario, &subject, "opening streams");
        let opening = Instant::now();
        let streams = Streams::open(&streams, &ledger, self.settings.threads)?;
        let open_seconds = opening.elapsed().as_secs_f64();
        std::thread::sleep(Duration::from_secs(1));
        let with = server.reading();

        self.say(&scenario, &subject, "waking them");
        ledger.record_latencies_from(now_ns());
        let begin_ns = now_ns();
        load_to_its_end(load, &ledger, &mut server)?;
        let lost = self.drain(&ledger, &mut server)?;
        let counts = ledger.counts();
        let woken_seconds = ledger.last_delivery_ns().saturating_sub(begin_ns) as f64 / 1e9;
        drop(streams);
        let after = server.reading();
        server.stop()?;

        let memory = with.memory_bytes.zip(before.memory_bytes).map(|(with, before)| with.saturating_sub(before));
        self.check(&scenario.case, "readers at a time", Some(count as f64), "", Bound::AtLeast(asked as f64));
        let bound = Bound::AtMost(count as f64 * BYTES_EACH_MAX / 1e6);
        self.check(&scenario.case, "memory above that without them", memory.map(megabytes), "MB", bound);
        self.report.runs.push(RunReport {
            seconds: woken_seconds,
            accepted: counts.accepted,
            delivered: counts.delivered,
            end_to_end: ledger.delivery_latency(Group::Healthy),
            peak_memory_bytes: after.peak_memory_bytes,
            lost,
            duplicates: ledger.duplicates(),
            failures: ledger.failures(),
            readers: Some(ReadersReport {
                readers: count,
                asked,
                open_seconds,
                memory_before_bytes: before.memory_bytes,
                memory_bytes: with.memory_bytes,
                woken: counts.delivered,
                woken_seconds,
            }),
            ..RunReport::new(&scenario.case, &subject)
        });
        Ok(())
    }
}
