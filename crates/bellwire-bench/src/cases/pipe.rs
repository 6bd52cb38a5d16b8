//! From publish to the reader of a live stream.

use super::super::load::Pace;
use super::super::table::Bound;
use super::Bench;
use super::stage::{Feature, Scenario};

const PER_SECOND: f64 = 1_000.0;

impl Bench {
    /// One application, one pipe, one reader of server-sent events; all that is published goes to it.
    pub(super) fn pipe(&mut self) -> anyhow::Result<()> {
        let Some(subject) = self.able_subject("pipe") else { return Ok(()) };
        let scenario = Scenario {
            pace: Pace::Rate(PER_SECOND),
            feature: Some(Feature::Pipe),
            ..Scenario::of_one_application(&format!("pipe, {PER_SECOND}/s"), 1, &self.settings)
        };
        let run = self.measure(&subject, &scenario)?;
        self.check(&scenario.case, "end-to-end p99", run.p99_ms(), "ms", Bound::AtMost(10.0));
        self.report.runs.push(run);
        Ok(())
    }
}
