//! As fast as it goes, beside the ceiling.

use super::super::server::Subject;
use super::super::table::{Bound, RunReport};
use super::stage::Scenario;
use super::{Bench, MEMORY_AT_FULL_LOAD, median, peak_memory_mb};

impl Bench {
    /// As fast as it goes, in turns with the ceiling, so that a machine that changes its speed changes both.
    pub(super) fn throughput(&mut self) -> anyhow::Result<()> {
        let case = "throughput";
        let scenario = Scenario::flat_out(case, &self.settings);
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
}
