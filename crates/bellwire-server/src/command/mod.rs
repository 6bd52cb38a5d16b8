//! One file per command. Each has its `Arguments` and a `run`; `main` lists them.
//!
//! Data goes to stdout, everything else to stderr, so that `$(bellwire token)` and a pipe get what they want and nothing else.

pub(crate) mod serve;
pub(crate) mod demo;
pub(crate) mod token;
pub(crate) mod source;
pub(crate) mod send;
pub(crate) mod listen;
pub(crate) mod sign;
pub(crate) mod verify;
pub(crate) mod imitate;
pub(crate) mod explain;
pub(crate) mod plugin;
pub(crate) mod doctor;
pub(crate) mod ledger;
pub(crate) mod task;
pub(crate) mod pack;
pub(crate) mod export;
#[cfg(feature = "import-svix")]
pub(crate) mod import;
pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod config;
pub(crate) mod healthcheck;
pub(crate) mod svix_server;
mod server;
mod http;
mod input;

pub(crate) use bellwire_config::Hint;

use bellwire_config::Mistakes;
use bellwire_store::OpenError;
use std::{future::Future, io};

/// Makes `bellwire ledger | head -1` end quietly: `println!` panics when its reader is gone.
pub(crate) fn end_when_nobody_reads() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let text = panic.payload().downcast_ref::<String>();
        if text.is_some_and(|t| t.starts_with("failed printing to stdout") && t.contains("Broken pipe")) {
            std::process::exit(0);
        }
        tell(panic);
    }));
}

/// Prints an error as every command does: what, the chain of causes, and a hint if there is one.
pub(crate) fn report(error: &anyhow::Error) {
    eprint!("{}", text(error));
}

fn text(error: &anyhow::Error) -> String {
    let causes = error.chain().skip(1).map(|cause| format!("  caused by: {cause}\n"));
    let hint = hint(error).map(|hint| format!("hint: {hint}\n"));
    std::iter::once(format!("error: {error}\n")).chain(causes).chain(hint).collect()
}

/// What to do: what the one who failed says, or what is known of the kind of error.
fn hint(error: &anyhow::Error) -> Option<String> {
    let unopened = error.chain().find_map(|cause| cause.downcast_ref());
    if let Some(OpenError::Newer { .. }) = unopened {
        return Some(
            "take that version, or a later one; or restore a copy of the folder from before it was used".into(),
        );
    }
    if let Some(hint) = error.downcast_ref::<Hint>() {
        return Some(hint.hint().to_owned());
    }
    if error.is::<Mistakes>() {
        return Some("config.default.toml has every setting, its default and its unit".into());
    }
    if let Some(OpenError::Held { .. }) = unopened {
        return Some("stop the other server, or choose another folder with --data".into());
    }
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?;
    match io.kind() {
        io::ErrorKind::AddrInUse => Some("another program listens there; choose another address with --listen".into()),
        io::ErrorKind::AddrNotAvailable => {
            Some("this machine has no such address; 0.0.0.0 listens on all of them".into())
        }
        io::ErrorKind::PermissionDenied => Some("the user who runs this may not do that".into()),
        io::ErrorKind::StorageFull => Some("make room on the disk, then start again".into()),
        _ => None,
    }
}

/// A table without lines, for people and for `awk`.
pub(crate) fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.to_vec());
    table.add_rows(rows);
    table.to_string()
}

/// Runs a small command's asynchronous part to its end, on this thread.
///
/// # Errors
/// The command's own, or that there is no runtime.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn an_error_is_told_with_its_causes_and_a_hint() {
        let error = Err::<(), _>(io::Error::other("no route"))
            .context("no connection to 10.0.0.1")
            .context(Hint::new("the server cannot be reached", "start it with `bellwire serve`"))
            .expect_err("an error");
        assert_eq!(
            text(&error),
            "error: the server cannot be reached\n  caused by: no connection to 10.0.0.1\n  caused by: no route\n\
             hint: start it with `bellwire serve`\n"
        );
    }

    #[test]
    fn a_port_that_is_taken_has_a_hint() {
        let error = anyhow::Error::from(io::Error::from(io::ErrorKind::AddrInUse)).context("cannot listen");
        assert!(text(&error).contains("hint: another program listens there"));
        assert!(!text(&anyhow::anyhow!("plain")).contains("hint"));
    }

    #[test]
    fn a_folder_that_a_later_version_used_has_a_hint() {
        let newer = OpenError::Newer { folder: "data".into(), found: 35, known: 34 };
        assert_eq!(
            text(&anyhow::Error::from(newer).context(Hint::new("the data folder cannot be opened", "is it one?"))),
            "error: the data folder cannot be opened\n  caused by: the data folder data was used by a later version: its schema is at \
             step 35, and this version knows 34\n\
             hint: take that version, or a later one; or restore a copy of the folder from before it was used\n"
        );
    }
}
