//! One message to a hundred endpoints.

use super::super::load::Pace;
use super::super::table::Bound;
use super::Bench;
use super::stage::Scenario;

const FAN_OUT: usize = 100;

impl Bench {
    /// One application with many endpoints. No message is made while a hundred endpoints' worth of deliveries per
    /// connection is outstanding: what is asked is how fast they leave, not how many can pile up.
    pub(super) fn fan_out(&mut self) -> anyhow::Result<()> {
        let outstanding = self.settings.connections.saturating_mul(FAN_OUT);
        let outstanding_max = i64::try_from(outstanding).unwrap_or(i64::MAX);
        let scenario = Scenario {
            pace: Pace::Closed { outstanding_max, messages_max: u64::MAX },
            ..Scenario::of_one_application(&format!("fan-out 1 to {FAN_OUT}"), FAN_OUT, &self.settings)
        };
        let run = self.measure(&self.settings.subject.clone(), &scenario)?;
        let measured = Some(run.delivered_per_second);
        self.check(&scenario.case, "deliveries/s", measured, "", Bound::AtLeast(20_000.0));
        self.report.runs.push(run);
        Ok(())
    }
}
