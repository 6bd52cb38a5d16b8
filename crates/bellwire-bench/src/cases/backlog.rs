//! Endpoints that are down, and the server killed while all of it waits.

use super::super::Down;
use super::super::ledger::Group;
use super::super::load::Pace;
use super::super::measure::{Reading, now_ns};
use super::super::sink::Behaviour;
use super::super::table::{BacklogReport, Bound, RunReport};
use super::stage::{Scenario, Stage};
use super::{Bench, MEMORY_AT_FULL_LOAD, load_to_its_end, megabytes, per_1000};
use std::time::{Duration, Instant};

impl Bench {
    /// Fills up behind endpoints that are down, kills the server, and sees it come back and catch up.
    pub(super) fn backlog(&mut self) -> anyhow::Result<()> {
        let behaviour = match self.settings.down {
            Down::Silent => Behaviour::Hang(Duration::from_secs(24 * 3_600)),
            Down::Refusing => Behaviour::Refuse,
        };
        let waiting = self.settings.backlog;
        let scenario = Scenario {
            applications: vec![vec![(behaviour, Group::Healthy)]; self.settings.applications],
            pace: Pace::Closed { outstanding_max: i64::MAX, messages_max: waiting },
            duration: Duration::ZERO,
            // Long enough that nothing is exhausted while the backlog grows.
            retry_schedule: ["5"; 60].join(","),
            ..Scenario::flat_out(&format!("backlog of {waiting}"), &self.settings)
        };
        let subject = self.settings.subject.clone();
        let Stage { mut server, sink, ledger, load, .. } = self.stage(&subject, &scenario)?;
        self.say(&scenario, &subject, "filling");
        let bench_before = Reading::of(std::process::id());
        let filling = Instant::now();
        load_to_its_end(load, &ledger, &mut server)?;
        let fill_seconds = filling.elapsed().as_secs_f64();
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
            seconds: fill_seconds + drain_seconds,
            accepted,
            accepted_per_second: accepted as f64 / fill_seconds,
            delivered: drained,
            delivered_per_second: drained as f64 / drain_seconds.max(1e-3),
            accept: ledger.accept_latency(),
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
            ..RunReport::new(&scenario.case, &subject)
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
}
