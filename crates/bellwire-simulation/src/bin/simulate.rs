//! Lives through seeds and says which promises held: `simulate --seeds 0..5000`, `simulate --seed 42 --trace`,
//! `simulate --seeds 0..500 --bug StaleLease`, `simulate --bugs`.

use bellwire_simulation::{Planted, Report, run};
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

struct Arguments {
    seeds: Range<u64>,
    bug: Option<Planted>,
    trace: bool,
    jobs: usize,
}

fn main() -> ExitCode {
    match arguments() {
        Ok(Some(arguments)) => simulate(&arguments),
        Ok(None) => ExitCode::SUCCESS,
        Err(mistake) => {
            eprintln!(
                "error: {mistake}\nhint: --seeds A..B | --seed N  [--bug NAME] [--trace] [--jobs N]; --bugs lists them"
            );
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Option<Arguments>, String> {
    let mut arguments = Arguments { seeds: 0..5_000, bug: None, trace: false, jobs: 1 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        match word.as_str() {
            "--seed" => {
                let seed = number(&value()?)?;
                arguments.seeds = seed..seed + 1;
            }
            "--seeds" => {
                let text = value()?;
                let (first, end) = text.split_once("..").ok_or(format!("expected A..B, found {text}"))?;
                arguments.seeds = number(first)?..number(end)?;
            }
            "--bug" => {
                let name = value()?;
                arguments.bug = Some(Planted::parse(&name).ok_or(format!("there is no bug {name}"))?);
            }
            "--jobs" => arguments.jobs = number(&value()?)?.clamp(1, 256) as usize,
            "--trace" => arguments.trace = true,
            "--bugs" => {
                Planted::all().into_iter().for_each(|bug| println!("{}", bug.name()));
                return Ok(None);
            }
            other => return Err(format!("unknown argument {other}")),
        }
    }
    Ok(Some(arguments))
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("expected a number, found {text}"))
}

fn simulate(arguments: &Arguments) -> ExitCode {
    let next = AtomicU64::new(arguments.seeds.start);
    let (sender, reports) = mpsc::channel();
    let (mut passed, mut failed, mut events) = (0_u64, 0_u64, 0_u64);
    #[allow(clippy::disallowed_methods, reason = "only to say how fast it was")]
    let begin = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            let (sender, next) = (sender.clone(), &next);
            scope.spawn(move || {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= arguments.seeds.end || sender.send(run(seed, arguments.bug, arguments.trace)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(sender);
        for report in reports {
            events += report.events;
            if report.violation.is_some() {
                failed += 1
            } else {
                passed += 1
            }
            print(&report, arguments.trace);
        }
    });
    let seconds = begin.elapsed().as_secs_f64();
    let rate = (passed + failed) as f64 / seconds.max(1e-9);
    let cpu = cpu_seconds().map_or(String::new(), |cpu| format!(", {cpu:.2} s of CPU"));
    println!("{events} events, {rate:.0} seeds/s, {seconds:.2} s{cpu}");
    println!("{passed} passed, {failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(report: &Report, trace: bool) {
    if trace {
        report.trace.iter().for_each(|line| println!("{line}"));
    }
    if let Some((at, violation)) = &report.violation {
        println!("seed {} failed at {at:.6} s: {violation}", report.seed);
    }
}

/// User and system time of this process, where the system tells.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}
