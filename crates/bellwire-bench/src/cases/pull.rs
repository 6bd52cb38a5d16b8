//! A long log, read page by page.

use super::super::ledger::Group;
use super::super::load::Pace;
use super::super::measure::{Histogram, Reading, duration_ns, now_ns};
use super::super::payload;
use super::super::table::{Bound, PullReport, RunReport};
use super::stage::{Feature, Scenario, Stage};
use super::{Bench, load_to_its_end, median, per_1000};
use anyhow::Context as _;
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::time::{Duration, Instant};

/// What is read of a page beside the marks of its messages.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page {
    #[serde(rename = "data")]
    _data: IgnoredAny,
    cursor: String,
    has_more: bool,
}

impl Bench {
    /// Fills one pipe, then reads it from its beginning to its end, as one reader does. What the bench does with a page does not count,
    /// but that it takes it in does.
    pub(super) fn pull(&mut self) -> anyhow::Result<()> {
        let Some(subject) = self.able_subject("pull") else { return Ok(()) };
        let waiting = self.settings.log;
        let scenario = Scenario {
            pace: Pace::Closed { outstanding_max: i64::MAX, messages_max: waiting },
            feature: Some(Feature::Pipe),
            ..Scenario::of_one_application(&format!("pull of {waiting}"), 1, &self.settings)
        };
        let Stage { mut server, ledger, load, .. } = self.stage(&subject, &scenario)?;
        self.say(&scenario, &subject, "filling");
        let path = format!("/api/v1/app/{}/endpoint/pipe/pull?limit=1000", load.applications[0]);
        let filling = Instant::now();
        load_to_its_end(load, &ledger, &mut server)?;
        let fill_seconds = filling.elapsed().as_secs_f64();
        let accepted = ledger.counts().accepted;
        std::thread::sleep(self.settings.warm_up);

        self.say(&scenario, &subject, "reading");
        let (before, bench_before) = (server.reading(), Reading::of(std::process::id()));
        let mut client = server.client();
        let mut took = Vec::new();
        let mut from = path.clone();
        loop {
            let asked = Instant::now();
            let text = client.get(&from)?;
            took.push(asked.elapsed());
            for mark in payload::read_all(&text) {
                ledger.deliver(mark, 0, Group::Healthy, now_ns());
            }
            let page: Page = serde_json::from_slice(&text).context("a page is not one")?;
            if !page.has_more {
                break;
            }
            from = format!("{path}&cursor={}", page.cursor);
        }
        let (after, bench_after) = (server.reading(), Reading::of(std::process::id()));
        server.stop()?;

        let seconds = took.iter().sum::<Duration>().as_secs_f64();
        let delivered = ledger.counts().delivered;
        let per_second = delivered as f64 / seconds;
        let tenth = took.len().div_ceil(10);
        let ms = |pages: &[Duration]| median(pages.iter().map(|page| page.as_secs_f64() * 1e3));
        let (first_pages_ms, last_pages_ms) = (ms(&took[..tenth]), ms(&took[took.len() - tenth..]));
        let mut page = Histogram::new();
        took.iter().for_each(|took| page.record_ns(duration_ns(*took)));
        let slower = first_pages_ms.zip(last_pages_ms).map(|(first, last)| last / first);
        self.check(&scenario.case, "messages/s", Some(per_second), "", Bound::AtLeast(50_000.0));
        self.check(&scenario.case, "time of the last pages, of the first ones'", slower, "×", Bound::AtMost(1.25));
        let cpu_ms = |after: Reading, before: &Reading| Some(after.cpu_since(before)?.as_secs_f64() * 1e3);
        self.report.runs.push(RunReport {
            seconds,
            accepted,
            accepted_per_second: accepted as f64 / fill_seconds,
            delivered,
            delivered_per_second: per_second,
            accept: ledger.accept_latency(),
            server_cpu_ms_per_1000: per_1000(cpu_ms(after, &before), delivered),
            bench_cpu_ms_per_1000: per_1000(cpu_ms(bench_after, &bench_before), delivered),
            peak_memory_bytes: after.peak_memory_bytes,
            written_bytes: before.written_bytes,
            written_bytes_per_message: before.written_bytes.map(|bytes| bytes as f64 / accepted.max(1) as f64),
            lost: ledger.missing(),
            duplicates: ledger.duplicates(),
            failures: ledger.failures(),
            pull: Some(PullReport { pages: took.len() as u64, page: page.latency(), first_pages_ms, last_pages_ms }),
            ..RunReport::new(&scenario.case, &subject)
        });
        Ok(())
    }
}
