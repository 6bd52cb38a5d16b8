//! What endpoints can ask for, switched on one thing at a time.

use super::super::table::Bound;
use super::Bench;
use super::stage::{Feature, Scenario};

impl Bench {
    /// As fast as it goes once more, with what endpoints can ask for switched on, one thing at a time.
    pub(super) fn features(&mut self) -> anyhow::Result<()> {
        let Some(subject) = self.able_subject("features") else { return Ok(()) };
        for (name, feature) in [
            ("features: none", None),
            ("features: filter", Some(Feature::Filter)),
            ("features: schema", Some(Feature::Schema)),
            ("features: transformation", Some(Feature::Transformation)),
        ] {
            let scenario = Scenario { feature, ..Scenario::flat_out(name, &self.settings) };
            let run = self.measure(&subject, &scenario)?;
            self.report.runs.push(run);
        }
        self.progress.set_message("what features cost alone");
        let costs = super::super::costs::measure(self.settings.payload_bytes, self.settings.quick)?;
        for cost in &costs {
            if let Some(at_most) = cost.us_at_most {
                let measure = format!("{}, alone", cost.what);
                self.check("features", &measure, Some(cost.us_per_message), "µs", Bound::AtMost(at_most));
            }
        }
        self.report.costs = costs;
        Ok(())
    }
}
