//! `bellwire import adnanh` ([`adnanh`]) reads another receiver's configuration. `bellwire import svix`: takes over what a Svix server has in its PostgreSQL: event types, applications, endpoints with their secrets,
//! and, if asked, the messages that are still owed to somebody. Ids are kept, so nobody who uses the API notices.
//!
//! It writes the data folder directly, since no API takes ids; so the server must not run, and the store's lock sees to that. That
//! database is only read. What is committed is whole, and told by its id the next time, so a run that was broken off is
//! simply run again.

mod adnanh;
mod source;
mod taken;
mod report;

use super::block_on;
use anyhow::Context as _;
use bellwire_config::{Config, Place};
use bellwire_model::{MessageId, Partition};
use bellwire_node::clock::wall;
use bellwire_node::wiring;
use bellwire_signature::svix::SvixKey;
use bellwire_store::{Batch, Change, EmbeddedStore, Fence, Recovered, Store};
use indicatif::{ProgressBar, ProgressStyle};
use report::Report;
use source::{Counts, MessageRow, Snapshot, Source};
use std::process::ExitCode;
use std::time::Duration;
use taken::{Owed, Taken};

/// One commit takes so many changes,
const CHANGES_MAX: usize = 500;
/// and so many bytes of payload.
const BYTES_MAX: usize = 8 << 20;

/// Take over what another server has.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire import svix postgres://svix:secret@db.example.com/svix --dry-run\n  bellwire import adnanh hooks.json -o hooks.toml"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    from: Origin,
}

#[derive(clap::Subcommand)]
enum Origin {
    Svix(SvixArguments),
    Adnanh(adnanh::Arguments),
}

/// Take over applications, endpoints and event types from the database of a Svix server.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire import svix postgres://svix:secret@db.example.com/svix --dry-run\n  SVIX_DB_DSN=… SVIX_MAIN_SECRET=… bellwire import svix --pending\n\nStop this server and that one first. That database is only read, in one transaction that\ncannot write. Ids, uids, secrets and times are kept; what is here already stays as it is, so\na run that was broken off can be run again. Secrets that are encrypted there need the same\nmain secret here (auth.main_secret, SVIX_MAIN_SECRET). Exits 1 if something could not be\nbrought; it is named."
)]
struct SvixArguments {
    #[command(flatten)]
    place: Place,
    /// The database: postgres://user:password@host/database; ?sslmode=require for TLS
    #[arg(value_name = "URL", env = "SVIX_DB_DSN", hide_env_values = true)]
    database: String,
    /// Bring messages as well that wait for an attempt, or are less than a day old and were not tried yet
    #[arg(long)]
    pending: bool,
    /// Only count, and name what cannot be brought
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let arguments = match arguments.from {
        Origin::Svix(arguments) => arguments,
        Origin::Adnanh(arguments) => return adnanh::run(arguments),
    };
    let config = Config::load(arguments.place.clone())?;
    let report = block_on(import(&arguments, &config))?;
    if arguments.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn import(arguments: &SvixArguments, config: &Config) -> anyhow::Result<Report> {
    let mut source = Source::connect(&arguments.database, &config.egress.tls).await?;
    let snapshot = source.snapshot().await?;
    let folder = if arguments.dry_run { Folder::look(config)? } else { Folder::open(config)? };
    let keys = config.auth.main_secrets().map(|secret| SvixKey::from_text(secret.reveal())).collect();
    let mut importing = Importing {
        taken: Taken::new(folder.recovered()?, keys, wall()),
        folder,
        batch: Batch::default(),
        bytes: 0,
        moment: Vec::new(),
        stamp: None,
    };
    importing.configuration(&snapshot).await?;
    if arguments.pending {
        importing.messages(&snapshot).await?;
    }
    Ok(importing.taken.report)
}

/// Where it all goes.
struct Folder {
    store: Option<EmbeddedStore>,
    /// `None`: nothing is written.
    fences: Option<Vec<(Partition, Fence)>>,
}

impl Folder {
    fn open(config: &Config) -> anyhow::Result<Folder> {
        let data = &config.server.data;
        let store = EmbeddedStore::open(data, wiring::store(config))
            .with_context(|| format!("cannot open the data folder {}", data.display()))?;
        let partitions: Vec<_> = Partition::all().collect();
        let holder = format!("import-{}", std::process::id());
        let leases = store.lease(&holder, &partitions, wall(), Duration::from_secs(60))?;
        let fences = leases.iter().map(|lease| (lease.partition, lease.fence)).collect();
        Ok(Folder { store: Some(store), fences: Some(fences) })
    }

    /// For a dry run, which needs no folder, and may run beside a server.
    fn look(config: &Config) -> anyhow::Result<Folder> {
        let data = &config.server.data;
        let store = match EmbeddedStore::open_reading_with(data, wiring::store(config)) {
            Ok(store) => Some(store),
            Err(bellwire_store::OpenError::Missing { .. }) => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read the data folder {}", data.display())),
        };
        Ok(Folder { store, fences: None })
    }

    fn recovered(&self) -> anyhow::Result<Recovered> {
        match &self.store {
            Some(store) => store.recover().context("cannot read the data folder"),
            None => Ok(Recovered::default()),
        }
    }

    fn has_message(&self, id: MessageId) -> anyhow::Result<bool> {
        let Some(store) = &self.store else { return Ok(false) };
        let found = store.message(id.sequence(), false).context("cannot read the data folder")?;
        Ok(found.is_some_and(|message| message.id == id))
    }
}

struct Importing {
    taken: Taken,
    folder: Folder,
    batch: Batch,
    bytes: usize,
    /// Messages whose ids begin with the same time,
    moment: Vec<MessageRow>,
    /// and that time: seconds, and steps of 4 ms.
    stamp: Option<[u8; 5]>,
}

impl Importing {
    async fn configuration(&mut self, snapshot: &Snapshot<'_>) -> anyhow::Result<()> {
        let Counts { event_types, applications, endpoints } = snapshot.counts().await?;
        let bar = bar("event types", event_types);
        snapshot
            .event_types(|row| {
                bar.inc(1);
                let change = self.taken.event_type(row).map(Change::PutEventType);
                self.put(change)
            })
            .await?;
        restart(&bar, "applications", applications);
        snapshot
            .applications(|row| {
                bar.inc(1);
                let change = self.taken.application(row).map(Change::PutApplication);
                self.put(change)
            })
            .await?;
        restart(&bar, "endpoints", endpoints);
        snapshot
            .endpoints(|row| {
                bar.inc(1);
                let change = self.taken.endpoint(row).map(Change::PutEndpoint);
                self.put(change)
            })
            .await?;
        bar.finish_and_clear();
        self.commit()
    }

    async fn messages(&mut self, snapshot: &Snapshot<'_>) -> anyhow::Result<()> {
        let bar = ProgressBar::new_spinner().with_message("messages looked at");
        bar.set_style(ProgressStyle::with_template("{spinner} {pos} {msg}")?);
        snapshot
            .messages(|row| {
                bar.inc(1);
                let stamp = row.id.parse::<MessageId>().ok().and_then(|id| id.0.as_bytes().first_chunk().copied());
                if self.stamp != stamp {
                    self.take_moment()?;
                    self.stamp = stamp;
                }
                self.moment.push(row);
                Ok(())
            })
            .await?;
        self.take_moment()?;
        bar.finish_and_clear();
        self.commit()
    }

    /// Takes over the messages of one step of Svix's clock, 4 ms: within it, the order of their ids is not that of their places in the log.
    fn take_moment(&mut self) -> anyhow::Result<()> {
        self.moment.sort_by_key(|row| row.id.parse::<MessageId>().ok().map(|id| id.sequence()));
        for row in std::mem::take(&mut self.moment) {
            let Some(Owed { accepted, waiting }) = self.taken.message(row, |id| self.folder.has_message(id))? else {
                continue;
            };
            self.bytes += accepted.message.payload.as_ref().map_or(0, |payload| payload.len());
            self.batch.accepted.push(accepted);
            self.batch.changes.extend(waiting.into_iter().map(|waiting| Change::Wait { waiting, owed: false }));
            self.commit_if_full()?;
        }
        Ok(())
    }

    fn put(&mut self, change: Option<Change>) -> anyhow::Result<()> {
        self.batch.changes.extend(change);
        self.commit_if_full()
    }

    fn commit_if_full(&mut self) -> anyhow::Result<()> {
        if self.batch.changes.len() + self.batch.accepted.len() < CHANGES_MAX && self.bytes < BYTES_MAX {
            return Ok(());
        }
        self.commit()
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        self.bytes = 0;
        if batch.is_empty() {
            return Ok(());
        }
        if let (Some(store), Some(fences)) = (&self.folder.store, &self.folder.fences) {
            batch.fences.clone_from(fences);
            store.commit(&batch).context("cannot write the data folder")?;
        }
        Ok(())
    }
}

fn bar(what: &'static str, count: u64) -> ProgressBar {
    let bar = ProgressBar::new(count);
    if let Ok(style) = ProgressStyle::with_template("{msg:<14} {wide_bar} {pos}/{len}") {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

fn restart(bar: &ProgressBar, what: &'static str, count: u64) {
    bar.set_length(count);
    bar.set_position(0);
    bar.set_message(what);
}
