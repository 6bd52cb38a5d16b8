//! `bellwire`: webhooks, both ends, one binary. This file lists the commands; each has a file of its own under `command/`.

mod config;
mod command;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Memory is handed back to the system and threads do not wait for each other's allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Parser)]
#[command(name = "bellwire", version, about = "Webhooks, both ends, one binary.", propagate_version = true)]
#[command(after_help = "Start here:\n  bellwire demo                 see webhooks arrive, with nothing set up\n  bellwire serve                run the server on the data folder ./bellwire-data\n  bellwire token                print a token for its API")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result: anyhow::Result<ExitCode> = match arguments.command {};
    match result {
        Ok(code) => code,
        Err(error) => {
            command::report(&error);
            ExitCode::FAILURE
        }
    }
}
