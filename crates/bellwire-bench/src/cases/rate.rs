//! At fixed rates: what a message waits.

use super::super::load::Pace;
use super::super::table::Bound;
use super::Bench;
use super::stage::Scenario;

impl Bench {
    pub(super) fn rates(&mut self) -> anyhow::Result<()> {
        for rate in self.settings.rates.clone() {
            let case = format!("{rate}/s");
            let scenario = Scenario { pace: Pace::Rate(rate), ..Scenario::flat_out(&case, &self.settings) };
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
}
