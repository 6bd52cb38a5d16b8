//! What is measured with: a clock, a histogram, and what Linux tells of a process.
//!
//! Nothing here knows what is being measured. Off Linux a [`Reading`] has no figures, and the table shows a dash.

use serde::Serialize;
use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Nanoseconds since the first call. Load and sink are one process, so this one clock serves both ends of a delivery.
pub(crate) fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    duration_ns(START.get_or_init(Instant::now).elapsed())
}

/// A duration in nanoseconds; one that does not fit (585 years) is the longest that does.
pub(crate) fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Each power of two is cut into 2^7 buckets, so a quantile is at most 0.8 % too high.
const PRECISION_BITS: u32 = 7;
const BUCKETS_PER_OCTAVE: u64 = 1 << PRECISION_BITS;
const BUCKETS: usize = ((u64::BITS - PRECISION_BITS + 1) as usize) << PRECISION_BITS;

/// How often each latency occurred, in logarithmic buckets of a microsecond and more. Fixed size, never fails.
#[derive(Clone)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max_us: u64,
}

impl Histogram {
    pub(crate) fn new() -> Histogram {
        Histogram { counts: vec![0; BUCKETS], count: 0, max_us: 0 }
    }

    pub(crate) fn record_ns(&mut self, ns: u64) {
        let us = ns / 1_000;
        self.counts[bucket(us)] += 1;
        self.count += 1;
        self.max_us = self.max_us.max(us);
    }

    /// The smallest recorded latency that a share `quantile` (0 to 1) of all does not exceed, rounded up to its
    /// bucket's end. Zero when nothing was recorded.
    pub(crate) fn quantile_us(&self, quantile: f64) -> u64 {
        let rank = ((quantile * self.count as f64).ceil() as u64).max(1);
        let mut passed = 0;
        for (index, count) in self.counts.iter().enumerate() {
            passed += count;
            if passed >= rank {
                return bucket_end(index).min(self.max_us);
            }
        }
        self.max_us
    }

    pub(crate) fn latency(&self) -> Option<Latency> {
        let ms = |us: u64| us as f64 / 1_000.0;
        (self.count > 0).then(|| Latency {
            count: self.count,
            p50_ms: ms(self.quantile_us(0.5)),
            p90_ms: ms(self.quantile_us(0.9)),
            p99_ms: ms(self.quantile_us(0.99)),
            max_ms: ms(self.max_us),
        })
    }
}

/// A histogram in five numbers.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latency {
    pub(crate) count: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
}

/// Values below one octave of buckets have one each; from there on a bucket is as wide as its octave's 128th.
fn bucket(value: u64) -> usize {
    if value < BUCKETS_PER_OCTAVE {
        return value as usize;
    }
    let shift = u64::BITS - 1 - value.leading_zeros() - PRECISION_BITS;
    ((shift as usize + 1) << PRECISION_BITS) + ((value >> shift) - BUCKETS_PER_OCTAVE) as usize
}

/// The largest value that falls into the bucket.
fn bucket_end(index: usize) -> u64 {
    let octave = index >> PRECISION_BITS;
    if octave == 0 {
        return index as u64;
    }
    let shift = octave - 1;
    let within = (index as u64) & (BUCKETS_PER_OCTAVE - 1);
    let next = u128::from(BUCKETS_PER_OCTAVE + within + 1) << shift;
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

/// What a process has used since it started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// User and system time.
    pub(crate) cpu: Option<Duration>,
    /// The most memory it ever had resident, mapped files and program text included.
    pub(crate) peak_memory_bytes: Option<u64>,
    pub(crate) memory_bytes: Option<u64>,
    /// What it caused to be written to storage.
    pub(crate) written_bytes: Option<u64>,
}

impl Reading {
    /// Reads `/proc/<pid>`. A process that is gone, or another user's, has no figures.
    pub(crate) fn of(pid: u32) -> Reading {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let status = read("status");
        let kibibytes = |name| status.as_deref().and_then(|text| field(text, name)).map(|kib| kib * 1_024);
        Reading {
            cpu: read("stat").and_then(|text| cpu_of_stat(&text)),
            peak_memory_bytes: kibibytes("VmHWM:"),
            memory_bytes: kibibytes("VmRSS:"),
            written_bytes: read("io").and_then(|text| field(&text, "write_bytes:")),
        }
    }

    /// CPU time since `earlier`.
    pub(crate) fn cpu_since(&self, earlier: &Reading) -> Option<Duration> {
        Some(self.cpu?.saturating_sub(earlier.cpu?))
    }

    /// Bytes written since `earlier`.
    pub(crate) fn written_since(&self, earlier: &Reading) -> Option<u64> {
        Some(self.written_bytes?.saturating_sub(earlier.written_bytes?))
    }
}

/// The number that follows `name` at the start of a line, as in `/proc/<pid>/status` and `/proc/<pid>/io`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `/proc/<pid>/stat`. The second field is the program's name, which may hold anything, so
/// counting starts behind its last parenthesis. Linux shows these times in hundredths of a second on every machine.
fn cpu_of_stat(text: &str) -> Option<Duration> {
    let mut fields = text.get(text.rfind(')')? + 1..)?.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(Duration::from_millis((user + system) * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_falls_into_the_bucket_that_ends_just_above_it() {
        let edges = (0..64).flat_map(|bit| {
            let power = 1_u64 << bit;
            [power - 1, power, power + 1, power.saturating_mul(3) / 2]
        });
        for value in edges.chain([u64::MAX - 1, u64::MAX]) {
            let end = bucket_end(bucket(value));
            assert!(end >= value, "{value} is past the end of its bucket, {end}");
            assert!(end - value <= value / BUCKETS_PER_OCTAVE, "{value} is far from the end of its bucket, {end}");
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for index in 0..BUCKETS - 1 {
            assert_eq!(bucket(bucket_end(index) + 1), index + 1);
        }
    }

    #[test]
    fn quantiles_of_a_thousand_values() {
        let mut histogram = Histogram::new();
        for ms in 1..=1_000 {
            histogram.record_ns(ms * 1_000_000);
        }
        let latency = histogram.latency().expect("recorded");
        assert_eq!(latency.count, 1_000);
        for (found, exact) in [(latency.p50_ms, 500.0), (latency.p90_ms, 900.0), (latency.p99_ms, 990.0)] {
            assert!(found >= exact && found <= exact * 1.008, "{found} for {exact}");
        }
        assert_eq!(latency.max_ms, 1_000.0);
    }

    #[test]
    fn nothing_recorded_has_no_latency() {
        assert!(Histogram::new().latency().is_none());
        assert_eq!(Histogram::new().quantile_us(0.99), 0);
    }

    #[test]
    fn one_slow_value_among_a_hundred_is_the_max_and_not_the_p99() {
        let mut histogram = Histogram::new();
        (0..99).for_each(|_| histogram.record_ns(2_000_000));
        histogram.record_ns(9_000_000_000);
        let latency = histogram.latency().expect("recorded");
        assert!(latency.p99_ms < 2.1, "{latency:?}");
        assert_eq!(latency.max_ms, 9_000.0);
    }

    #[test]
    fn a_program_name_with_spaces_and_parentheses_does_not_shift_the_cpu_times() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 100 0 0 0 250 150 0 0 20 0 4 0 100 1 1";
        assert_eq!(cpu_of_stat(stat), Some(Duration::from_secs(4)));
        assert_eq!(cpu_of_stat("7 (a"), None);
    }

    #[test]
    fn fields_are_found_by_the_start_of_their_line() {
        let text = "VmPeak:\t 10 kB\nVmHWM:\t  2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(field(text, "VmHWM:"), Some(2_048));
        assert_eq!(field("cancelled_write_bytes: 7\nwrite_bytes: 9\n", "write_bytes:"), Some(9));
        assert_eq!(field(text, "VmSwap:"), None);
    }
}
