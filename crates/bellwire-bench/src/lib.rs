//! `bellwire bench`: how fast a server is, and how near that comes to what the machine can do.
//!
//! Load, sink and server share one machine. The server is a child process, so that its CPU, memory and writes are its
//! own; load and sink are threads of this process and as lean as can be. Each run has a fresh server, fresh data and a
//! fresh [`ledger`], which knows of every single delivery whether it came, once, or twice.
//!
//! The flow of a run: `server` starts it, `cases` sets it up through the API, `load` makes messages marked by
//! `payload`, `sink` and `stream` take the deliveries, `ledger` counts, `measure` reads, `table` prints. `ceiling` is what the
//! server is compared with; `costs` measures without a server.

mod cases;
mod costs;
mod server;
mod load;
mod http;
mod payload;
mod sink;
mod stream;
mod ledger;
mod measure;
mod table;
mod ceiling;
mod threads;

use anyhow::{Context as _, bail};
use bellwire_config::Hint;
use clap::{Args, ValueEnum};
use indicatif::ProgressBar;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use server::{Subject, interrupt};
use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// How `statfs` calls a file system that is kept in memory.
const TMPFS: i64 = 0x0102_1994;

/// Measure throughput, latency, fan-out, isolation, recovery and pipes, beside what this machine can do at best.
#[derive(Args)]
#[command(
    after_help = "Examples:\n  bellwire bench --quick                        see that everything works, in seconds\n  \
    bellwire bench throughput rate                two of the cases\n  \
    bellwire bench backlog --backlog 1000000      a million deliveries waiting, killed and restarted\n  \
    bellwire bench pipe readers pull              receivers that read\n  \
    bellwire bench --url http://127.0.0.1:8071 --token TOKEN --pid 4711\n                                                \
    any server that speaks this API"
)]
pub struct Arguments {
    /// What to measure; everything if nothing is named
    #[arg(value_enum, value_name = "CASE")]
    cases: Vec<Case>,

    /// Measure the server at this URL instead of starting one
    #[arg(long, value_name = "URL")]
    url: Option<url::Url>,

    /// The token for its API [default: BELLWIRE_TOKEN]
    #[arg(long, env = "BELLWIRE_TOKEN", hide_env_values = true, requires = "url", value_name = "TOKEN")]
    token: Option<String>,

    /// Its process, if it runs on this machine: without it, CPU, memory and bytes written are not shown
    #[arg(long, requires = "url", value_name = "PID")]
    pid: Option<u32>,

    /// Where the server reaches the endpoints of this bench [default: a loopback address for each endpoint]
    #[arg(long, value_name = "HOST")]
    sink_host: Option<String>,

    /// How long to measure in each run, after the warm-up [default: 10s]
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    duration: Option<Duration>,

    /// Requests at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..), value_name = "NUMBER")]
    connections: u16,

    /// Size of a payload
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(payload::BYTES_MIN as i64..=4_194_304), value_name = "BYTES")]
    payload_bytes: u32,

    /// Applications that the messages go round, where the case does not say
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..), value_name = "NUMBER")]
    applications: u16,

    /// Messages per second for the case `rate`; may be repeated [default: 1000 5000]
    #[arg(long, value_delimiter = ',', value_parser = parse_rate, value_name = "PER SECOND")]
    rate: Vec<f64>,

    /// Runs of the case `throughput`, of which the median counts [default: 3]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "NUMBER")]
    runs: Option<u16>,

    /// Deliveries that wait in the cases `backlog` and `pull` [default: 100000, and 1000000 for `pull`]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "NUMBER")]
    backlog: Option<u64>,

    /// Readers in the case of that name [default: 10000]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "NUMBER")]
    readers: Option<u16>,

    /// How the endpoints of the case `backlog` are down
    #[arg(long, value_enum, default_value_t = Down::Silent, value_name = "HOW")]
    down: Down,

    /// Give every message an idempotency key
    #[arg(long)]
    idempotency_keys: bool,

    /// Do not measure the ceiling
    #[arg(long)]
    no_ceiling: bool,

    /// Threads of the load, and as many of the sink [default: half of the cores each]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..), value_name = "NUMBER")]
    threads: Option<u16>,

    /// A setting for the server that is started; may be repeated
    #[arg(long, value_parser = parse_setting, conflicts_with = "url", value_name = "NAME=VALUE")]
    env: Vec<(String, String)>,

    /// Where to make the folder for the servers' data [default: the system's folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    data: Option<PathBuf>,

    /// Leave the servers' data and logs behind
    #[arg(long)]
    keep_data: bool,

    /// Everything in a few seconds, to see that it works
    #[arg(long)]
    quick: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Be the ceiling
    #[arg(long, hide = true, requires = "listen")]
    ceiling_server: bool,

    /// Where the ceiling listens
    #[arg(long, hide = true)]
    listen: Option<SocketAddr>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// As fast as it goes, beside the ceiling
    Throughput,
    /// At fixed rates
    Rate,
    /// One message to a hundred endpoints
    FanOut,
    /// Healthy endpoints beside hanging ones
    Hanging,
    /// Endpoints that are down; kill, restart, catch up
    Backlog,
    /// Throughput with filters, schemas and transformations, and what each of them costs alone
    Features,
    /// Others' webhooks, verified and told from repeats, as fast as they are taken, beside the ceiling
    Receive,
    /// From publish to the reader of a pipe's live stream
    Pipe,
    /// Ten thousand readers of live streams who only wait
    Readers,
    /// A long log, page by page
    Pull,
}

/// How endpoints are down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Down {
    /// They take the request and never answer
    Silent,
    /// They answer 503 at once
    Refusing,
}

/// Files that the largest case of all opens.
const FILES_WANTED: u64 = 70_000;

/// The arguments, with what was not said filled in.
pub(crate) struct Settings {
    cases: Vec<Case>,
    /// Whether the cases were named.
    by_name: bool,
    subject: Subject,
    sink_host: Option<String>,
    warm_up: Duration,
    duration: Duration,
    /// Longer than the endpoints hang, so that most of the time as many hang as ever will.
    hanging_duration: Duration,
    connections: usize,
    payload_bytes: usize,
    applications: usize,
    rates: Vec<f64>,
    runs: u16,
    backlog: u64,
    log: u64,
    readers: usize,
    down: Down,
    idempotency_keys: bool,
    ceiling: bool,
    threads: usize,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    quick: bool,
}

/// Measures and prints. Ends with a failure if an accepted message was lost, not if something was slow.
pub fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    if let Some(address) = arguments.listen.filter(|_| arguments.ceiling_server) {
        #[expect(clippy::disallowed_methods, reason = "told by the bench that started this process, not by the user")]
        let token = std::env::var(server::CEILING_TOKEN).context("the ceiling was not told its token")?;
        ceiling::serve(address, &token)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (json, keep_data) = (arguments.json, arguments.keep_data);
    let settings = settings(arguments)?;
    let folder = settings.folder.clone();
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    interrupt::clean_up_on_signal((!keep_data).then(|| folder.clone()))?;
    raise_file_limit();
    warn_if_in_memory(&folder);

    let result = cases::Bench::new(settings, progress()).run();
    if keep_data {
        eprintln!("The servers' data and logs are in {}", folder.display());
    } else if let Err(error) = std::fs::remove_dir_all(&folder) {
        eprintln!("warning: cannot remove {}: {error}", folder.display());
    }
    let report = result?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", report.text());
    }
    Ok(if report.has_lost() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn settings(arguments: Arguments) -> anyhow::Result<Settings> {
    let quick = arguments.quick;
    let by_speed = |slow: Duration, fast: Duration| if quick { fast } else { slow };
    let duration = by_speed(Duration::from_secs(10), Duration::from_millis(500));
    let hanging = by_speed(Duration::from_secs(30), Duration::from_secs(2));
    let subject = match arguments.url {
        Some(url) => Subject::Remote { url, token: token(arguments.token)?, pid: arguments.pid },
        None => Subject::Bellwire,
    };
    if let (Subject::Remote { url, .. }, None) = (&subject, &arguments.sink_host)
        && !is_loopback(url)
    {
        bail!(Hint::new(
            format!("the server at {url} cannot reach endpoints on this machine's loopback addresses"),
            "give --sink-host the name or address by which it reaches this machine",
        ));
    }
    let every_case = || Case::value_variants().to_vec();
    let parent = arguments.data.unwrap_or_else(std::env::temp_dir);
    let parent = std::path::absolute(&parent).with_context(|| format!("no such folder: {}", parent.display()))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(Settings {
        by_name: !arguments.cases.is_empty(),
        cases: if arguments.cases.is_empty() { every_case() } else { arguments.cases },
        sink_host: arguments.sink_host,
        warm_up: by_speed(Duration::from_secs(2), Duration::from_millis(200)),
        duration: arguments.duration.unwrap_or(duration),
        hanging_duration: arguments.duration.unwrap_or(hanging),
        connections: usize::from(arguments.connections),
        payload_bytes: arguments.payload_bytes as usize,
        applications: usize::from(arguments.applications),
        rates: if arguments.rate.is_empty() { vec![1_000.0, 5_000.0] } else { arguments.rate },
        runs: arguments.runs.unwrap_or(if quick { 1 } else { 3 }),
        backlog: arguments.backlog.unwrap_or(if quick { 2_000 } else { 100_000 }),
        log: arguments.backlog.unwrap_or(if quick { 20_000 } else { 1_000_000 }),
        readers: arguments.readers.map_or(if quick { 500 } else { 10_000 }, usize::from),
        down: arguments.down,
        idempotency_keys: arguments.idempotency_keys,
        ceiling: !arguments.no_ceiling,
        threads: arguments.threads.map_or((cores / 2).max(1), usize::from),
        environment: arguments.env,
        folder: parent.join(format!("bellwire-bench-{}", server::random_hex(4)?)),
        subject,
        quick,
    })
}

fn token(argument: Option<String>) -> anyhow::Result<String> {
    argument.context(Hint::new("there is no token for the server", "give --token, or set BELLWIRE_TOKEN"))
}

fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(address)) => address.is_loopback(),
        Some(url::Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn progress() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let progress = ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(250));
    progress
}

/// Exchanges that hang and readers who wait need as many file handles, here and in the child, which inherits the limit.
fn raise_file_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Only a privileged process may raise its maximum; refused, the bench goes on with what there is.
    let more = maximum.map(|maximum| maximum.max(FILES_WANTED));
    if setrlimit(Resource::Nofile, Rlimit { current: more, maximum: more }).is_err() {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

fn warn_if_in_memory(folder: &Path) {
    if rustix::fs::statfs(folder).is_ok_and(|found| found.f_type == TMPFS) {
        eprintln!(
            "warning: {} is kept in memory, so nothing that is written there is durable or counted\n\
             hint: give --data a folder on a disk",
            folder.display()
        );
    }
}

/// Reads `500ms`, `10s`, `2m`; a number alone is seconds.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)];
    let read = |(unit, seconds): (&str, f64)| Some(text.strip_suffix(unit)?.trim().parse::<f64>().ok()? * seconds);
    let seconds = units.into_iter().find_map(read).filter(|seconds| *seconds > 0.0);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "expected a time such as 500ms, 10s or 2m".to_owned())
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate = text.trim().parse::<f64>().ok().filter(|rate| *rate > 0.0 && rate.is_finite());
    rate.ok_or_else(|| "expected messages per second, such as 1000".to_owned())
}

fn parse_setting(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    parts
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "expected NAME=VALUE, such as SVIX_WORKER_REQUEST_TIMEOUT=5".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_with_and_without_unit() {
        for (text, ms) in [("500ms", 500), ("10s", 10_000), ("2m", 120_000), ("3", 3_000), ("0.5 s", 500)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "-1s", "0", "1h", "inf", "nan", "1e30"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_settings_are_checked() {
        assert_eq!(parse_rate("1000"), Ok(1_000.0));
        assert!(["0", "-1", "inf", "fast"].iter().all(|text| parse_rate(text).is_err()));
        assert_eq!(parse_setting("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(parse_setting("=b").is_err() && parse_setting("A").is_err());
    }

    #[test]
    fn only_a_server_on_this_machine_reaches_loopback_endpoints() {
        let local = |text: &str| is_loopback(&text.parse().expect("a URL"));
        assert!(local("http://localhost:1") && local("http://127.0.0.1") && local("http://[::1]:1"));
        assert!(!local("http://192.0.2.1") && !local("https://localhost.example"));
    }
}
