//! Others' webhooks, as fast as they are taken.

use super::super::server::Subject;
use super::super::table::Bound;
use super::Bench;
use super::stage::{Feature, Scenario};

impl Bench {
    /// Webhooks in: verified, told from repeats, durable, answered. The ceiling takes the same ones, verifies them and tells them from
    /// repeats in memory, and makes nothing durable. Nobody gets them: what is asked is the way in.
    pub(super) fn receive(&mut self) -> anyhow::Result<()> {
        let case = "receive";
        let Some(subject) = self.able_subject("receive") else { return Ok(()) };
        let scenario = Scenario {
            applications: vec![Vec::new(); self.settings.applications],
            feature: Some(Feature::Received),
            ..Scenario::flat_out(case, &self.settings)
        };
        let ceiling = match self.settings.ceiling {
            true => Some(self.measure(&Subject::Ceiling, &scenario)?),
            false => None,
        };
        let run = self.measure(&subject, &scenario)?;
        let ratio = ceiling.as_ref().map(|ceiling| run.accepted_per_second / ceiling.accepted_per_second);
        self.check(case, "webhooks/s", Some(run.accepted_per_second), "", Bound::AtLeast(15_000.0));
        self.check(case, "webhooks/s, of the ceiling's", ratio, "×", Bound::AtLeast(0.6));
        self.report.runs.extend(ceiling.into_iter().chain([run]));
        Ok(())
    }
}
