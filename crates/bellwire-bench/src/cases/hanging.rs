//! Healthy endpoints beside hanging ones.

use super::super::ledger::Group;
use super::super::load::Pace;
use super::super::sink::Behaviour;
use super::super::table::Bound;
use super::Bench;
use super::stage::{Endpoints, HEALTHY, Scenario};
use std::time::Duration;

/// How long endpoints hang.
const HANG: Duration = Duration::from_secs(10);
const HANGING: (Behaviour, Group) = (Behaviour::Hang(HANG), Group::Hanging);
/// Deliveries per second to hanging endpoints, and as many to healthy ones.
const HANGING_RATE: f64 = 100.0;

impl Bench {
    /// Half of the healthy endpoints share their application with a hanging one, half of the hanging ones have an
    /// application to themselves. The same healthy load is measured alone first.
    pub(super) fn hanging(&mut self) -> anyhow::Result<()> {
        let scenario = |case: &str, applications: Vec<Endpoints>| {
            let messages_per_second = HANGING_RATE / 4.0 * applications.len() as f64;
            Scenario {
                applications,
                pace: Pace::Rate(messages_per_second),
                duration: self.settings.hanging_duration,
                ..Scenario::flat_out(case, &self.settings)
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
}
