//! What came out: the report as JSON, and as the tables that a person reads.

use super::Settings;
use super::costs::Cost;
use super::ledger::Failures;
use super::measure::Latency;
use super::server::Subject;
use comfy_table::{CellAlignment, ContentArrangement, Row, Table, presets};
use serde::Serialize;
use std::fmt::Write as _;

/// All that the bench has measured.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) version: &'static str,
    pub(crate) cores: usize,
    pub(crate) connections: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) applications: usize,
    /// Too short to judge by.
    pub(crate) quick: bool,
    pub(crate) runs: Vec<RunReport>,
    /// Of the case `features`.
    pub(crate) costs: Vec<Cost>,
    pub(crate) checks: Vec<Check>,
}

/// One load on one server. Rates are of the measured time alone, after the warm-up and before the last deliveries are
/// waited for.
#[derive(Clone, Serialize)]
pub(crate) struct RunReport {
    pub(crate) case: String,
    pub(crate) subject: String,
    pub(crate) seconds: f64,
    pub(crate) accepted: u64,
    pub(crate) accepted_per_second: f64,
    pub(crate) delivered: u64,
    pub(crate) delivered_per_second: f64,
    /// From the intended start to the 2xx.
    pub(crate) accept: Option<Latency>,
    /// From the intended start to the arrival at a healthy endpoint.
    pub(crate) end_to_end: Option<Latency>,
    pub(crate) end_to_end_hanging: Option<Latency>,
    pub(crate) server_cpu_ms_per_1000: Option<f64>,
    /// What load and sink took for themselves.
    pub(crate) bench_cpu_ms_per_1000: Option<f64>,
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) written_bytes: Option<u64>,
    pub(crate) written_bytes_per_message: Option<f64>,
    /// Deliveries of accepted messages that never arrived.
    pub(crate) lost: u64,
    pub(crate) duplicates: u64,
    pub(crate) failures: Failures,
    pub(crate) backlog: Option<BacklogReport>,
    pub(crate) readers: Option<ReadersReport>,
    pub(crate) pull: Option<PullReport>,
}

/// Of readers who wait, and are woken.
#[derive(Clone, Serialize)]
pub(crate) struct ReadersReport {
    pub(crate) readers: usize,
    /// More than `readers` where the limit of open files does not allow them.
    pub(crate) asked: usize,
    pub(crate) open_seconds: f64,
    pub(crate) memory_before_bytes: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    /// What one message reached, and until when.
    pub(crate) woken: u64,
    pub(crate) woken_seconds: f64,
}

/// Of a log that was read page by page.
#[derive(Clone, Serialize)]
pub(crate) struct PullReport {
    pub(crate) pages: u64,
    /// From a request to its page.
    pub(crate) page: Option<Latency>,
    /// Medians of the first and the last tenth of the pages.
    pub(crate) first_pages_ms: Option<f64>,
    pub(crate) last_pages_ms: Option<f64>,
}

#[derive(Clone, Serialize)]
pub(crate) struct BacklogReport {
    pub(crate) waiting: u64,
    /// Resident when all were waiting.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) peak_filling_bytes: Option<u64>,
    /// Of the process that was started with all of them waiting, and delivered them.
    pub(crate) peak_after_restart_bytes: Option<u64>,
    pub(crate) ready_seconds: Option<f64>,
    pub(crate) first_delivery_seconds: Option<f64>,
    pub(crate) drain_seconds: f64,
}

/// A figure and what it has to reach.
#[derive(Clone, Serialize)]
pub(crate) struct Check {
    pub(crate) case: String,
    pub(crate) measure: String,
    pub(crate) measured: f64,
    pub(crate) unit: &'static str,
    #[serde(flatten)]
    pub(crate) bound: Bound,
    pub(crate) reached: bool,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Check {
    pub(crate) fn new(case: &str, measure: &str, measured: f64, unit: &'static str, bound: Bound) -> Check {
        let reached = match bound {
            Bound::AtLeast(bound) => measured >= bound,
            Bound::AtMost(bound) => measured <= bound,
        };
        Check { case: case.into(), measure: measure.into(), measured, unit, bound, reached }
    }
}

impl RunReport {
    /// A run of which nothing is known yet.
    pub(crate) fn new(case: &str, subject: &Subject) -> RunReport {
        RunReport {
            case: case.to_owned(),
            subject: subject.name(),
            seconds: 0.0,
            accepted: 0,
            accepted_per_second: 0.0,
            delivered: 0,
            delivered_per_second: 0.0,
            accept: None,
            end_to_end: None,
            end_to_end_hanging: None,
            server_cpu_ms_per_1000: None,
            bench_cpu_ms_per_1000: None,
            peak_memory_bytes: None,
            written_bytes: None,
            written_bytes_per_message: None,
            lost: 0,
            duplicates: 0,
            failures: Failures::default(),
            backlog: None,
            readers: None,
            pull: None,
        }
    }

    pub(crate) fn p99_ms(&self) -> Option<f64> {
        self.end_to_end.map(|latency| latency.p99_ms)
    }
}

impl Report {
    pub(crate) fn new(settings: &Settings) -> Report {
        Report {
            version: env!("CARGO_PKG_VERSION"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            connections: settings.connections,
            payload_bytes: settings.payload_bytes,
            applications: settings.applications,
            quick: settings.quick,
            runs: Vec::new(),
            costs: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Adds what holds for all cases together.
    pub(crate) fn check_losses(&mut self) {
        let sum = |count: fn(&RunReport) -> u64| self.runs.iter().map(count).sum::<u64>() as f64;
        let lost = sum(|run| run.lost);
        self.checks.push(Check::new("all", "accepted and never delivered", lost, "", Bound::AtMost(0.0)));
    }

    pub(crate) fn has_lost(&self) -> bool {
        self.runs.iter().any(|run| run.lost > 0)
    }

    /// The tables, and what stands between them and their reader.
    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "{} cores, {} connections, {} bytes of payload, {} applications. Milliseconds are from the intended start of a \
             message to its arrival.\n",
            self.cores,
            self.connections,
            grouped(self.payload_bytes as f64),
            self.applications
        );
        let _ = writeln!(text, "{}", self.runs_table());
        for run in &self.runs {
            for note in notes(run) {
                let _ = writeln!(text, "{}, {}: {note}", run.case, run.subject);
            }
        }
        if !self.costs.is_empty() {
            let _ = writeln!(text, "\n{}", self.costs_table());
        }
        let _ = write!(text, "\n{}", self.checks_table());
        if self.quick {
            text.push_str("\nA quick run shows that all of this works; its figures say little.");
        }
        text
    }

    fn runs_table(&self) -> Table {
        let mut table = table(&[
            "case",
            "server",
            "accepted/s",
            "delivered/s",
            "p50",
            "p90",
            "p99",
            "max",
            "CPU ms per 1,000",
            "peak MB",
            "kB written per message",
            "lost",
            "twice",
        ]);
        for run in &self.runs {
            let ms = |pick: fn(&Latency) -> f64| optional(run.end_to_end.as_ref().map(pick), |ms| format!("{ms:.2}"));
            table.add_row(Row::from([
                run.case.clone(),
                run.subject.clone(),
                grouped(run.accepted_per_second),
                grouped(run.delivered_per_second),
                ms(|latency| latency.p50_ms),
                ms(|latency| latency.p90_ms),
                ms(|latency| latency.p99_ms),
                ms(|latency| latency.max_ms),
                optional(run.server_cpu_ms_per_1000, |ms| format!("{ms:.1}")),
                megabytes(run.peak_memory_bytes),
                optional(run.written_bytes_per_message, |bytes| format!("{:.1}", bytes / 1e3)),
                grouped(run.lost as f64),
                grouped(run.duplicates as f64),
            ]));
        }
        align_figures(&mut table, 2);
        table
    }

    fn costs_table(&self) -> Table {
        let mut table = table(&["feature, alone", "CPU µs per message"]);
        for cost in &self.costs {
            table.add_row(Row::from([cost.what.clone(), significant(cost.us_per_message)]));
        }
        align_figures(&mut table, 1);
        table
    }

    fn checks_table(&self) -> Table {
        let mut table = table(&["case", "measure", "measured", "to reach", "result"]);
        for check in &self.checks {
            let figure = |value: f64| format!("{} {}", significant(value), check.unit).trim_end().to_owned();
            table.add_row(Row::from([
                check.case.clone(),
                check.measure.clone(),
                figure(check.measured),
                match check.bound {
                    Bound::AtLeast(bound) => format!("≥ {}", figure(bound)),
                    Bound::AtMost(bound) => format!("≤ {}", figure(bound)),
                },
                if check.reached { "reached" } else { "SHORT" }.to_owned(),
            ]));
        }
        table
    }
}

/// What the table has no column for.
fn notes(run: &RunReport) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(latency) = run.end_to_end_hanging {
        notes.push(format!("{} deliveries reached hanging endpoints, p50 {:.2} ms", latency.count, latency.p50_ms));
    }
    if let Some(backlog) = &run.backlog {
        let seconds = |value: Option<f64>| optional(value, |seconds| format!("{seconds:.2} s"));
        notes.push(format!(
            "{} waiting in {} MB, peak {} MB before the restart and {} MB after; ready {} after the restart, first \
             delivery {} after that, all delivered in {:.1} s",
            grouped(backlog.waiting as f64),
            megabytes(backlog.memory_bytes),
            megabytes(backlog.peak_filling_bytes),
            megabytes(backlog.peak_after_restart_bytes),
            seconds(backlog.ready_seconds),
            seconds(backlog.first_delivery_seconds),
            backlog.drain_seconds,
        ));
    }
    if let Some(ReadersReport {
        readers, open_seconds, woken, woken_seconds, memory_before_bytes, memory_bytes, ..
    }) = &run.readers
    {
        notes.push(format!(
            "{} readers opened in {open_seconds:.1} s; {} MB before and {} MB with them; one message reached {} of them within {woken_seconds:.2} s",
            grouped(*readers as f64),
            megabytes(*memory_before_bytes),
            megabytes(*memory_bytes),
            grouped(*woken as f64),
        ));
    }
    if let Some(PullReport { pages, page, first_pages_ms, last_pages_ms }) = &run.pull {
        let ms = |value: Option<f64>| optional(value, |ms| format!("{ms:.2} ms"));
        notes.push(format!(
            "{} pages, p50 {}, p99 {}; the median of the first tenth {}, of the last {}",
            grouped(*pages as f64),
            ms(page.map(|page| page.p50_ms)),
            ms(page.map(|page| page.p99_ms)),
            ms(*first_pages_ms),
            ms(*last_pages_ms),
        ));
    }
    let Failures { refused, failed, first } = &run.failures;
    if let Some(first) = first {
        notes.push(format!("{refused} requests were refused and {failed} failed; the first: {first}"));
    }
    notes
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    table
}

fn align_figures(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn optional<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

fn megabytes(bytes: Option<u64>) -> String {
    optional(bytes, |bytes| format!("{:.1}", bytes as f64 / 1e6))
}

/// A figure with as many digits as mean something.
fn significant(value: f64) -> String {
    match value.abs() {
        large if large >= 1_000.0 => grouped(value),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A whole number with a comma before every three digits.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = if value < 0.0 { "-".to_owned() } else { String::new() };
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_figures_are_grouped_by_thousands() {
        for (value, text) in [(0.0, "0"), (999.4, "999"), (1_000.0, "1,000"), (1_234_567.0, "1,234,567")] {
            assert_eq!(grouped(value), text);
        }
        for (value, text) in [(0.456, "0.46"), (12.34, "12.3"), (20_000.0, "20,000")] {
            assert_eq!(significant(value), text);
        }
    }

    #[test]
    fn a_bound_that_is_met_exactly_is_reached() {
        let check = |measured, bound| Check::new("", "", measured, "", bound).reached;
        assert!(check(0.45, Bound::AtLeast(0.45)) && !check(0.44, Bound::AtLeast(0.45)));
        assert!(check(0.0, Bound::AtMost(0.0)) && !check(1.0, Bound::AtMost(0.0)));
    }
}
