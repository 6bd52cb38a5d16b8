//! `bellwire`: webhooks, both ends, one binary. This file lists the commands; each has a file of its own under `command/`.

mod hooks;
mod command;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "bellwire", version, about = "Webhooks, both ends, one binary.")]
#[command(
    after_help = "Start here:\n  bellwire demo                 see webhooks arrive, with nothing set up\n  bellwire serve                run the server on the data folder ./bellwire-data\n  bellwire token                print a token for its API"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Demo(command::demo::Arguments),
    Serve(command::serve::Arguments),
    Token(command::token::Arguments),
    Source(command::source::Arguments),
    Send(command::send::Arguments),
    Listen(command::listen::Arguments),
    Sign(command::sign::Arguments),
    Verify(command::verify::Arguments),
    Imitate(command::imitate::Arguments),
    Explain(command::explain::Arguments),
    Plugin(command::plugin::Arguments),
    Doctor(command::doctor::Arguments),
    Ledger(command::ledger::Arguments),
    Task(command::task::Arguments),
    Pack(command::pack::Arguments),
    Export(command::export::Arguments),
    #[cfg(feature = "import-svix")]
    Import(command::import::Arguments),
    Bench(bellwire_bench::Arguments),
    Backup(command::backup::BackupArguments),
    Restore(command::backup::RestoreArguments),
    Check(command::check::Arguments),
    Config(command::config::Arguments),
    Healthcheck(command::healthcheck::Arguments),
    /// Ends programs of plugins when the server that started them is gone; the server starts it itself
    #[command(hide = true)]
    Warden,
    /// Becomes a program of a plugin; the server starts it itself
    #[command(hide = true)]
    Gate {
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<std::ffi::OsString>,
    },
}

fn main() -> ExitCode {
    command::end_when_nobody_reads();
    let result = match command::svix_server::is_meant() {
        true => command::svix_server::run(),
        false => run(Arguments::parse()),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            command::report(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.command {
        Command::Demo(arguments) => command::demo::run(arguments),
        Command::Serve(arguments) => command::serve::run(arguments),
        Command::Token(arguments) => command::token::run(arguments),
        Command::Source(arguments) => command::source::run(arguments),
        Command::Send(arguments) => command::send::run(arguments),
        Command::Listen(arguments) => command::listen::run(arguments),
        Command::Sign(arguments) => command::sign::run(arguments),
        Command::Verify(arguments) => command::verify::run(arguments),
        Command::Imitate(arguments) => command::imitate::run(arguments),
        Command::Explain(arguments) => command::explain::run(arguments),
        Command::Plugin(arguments) => command::plugin::run(arguments),
        Command::Doctor(arguments) => command::doctor::run(arguments),
        Command::Ledger(arguments) => command::ledger::run(arguments),
        Command::Task(arguments) => command::task::run(arguments),
        Command::Pack(arguments) => command::pack::run(arguments),
        Command::Export(arguments) => command::export::run(arguments),
        #[cfg(feature = "import-svix")]
        Command::Import(arguments) => command::import::run(arguments),
        Command::Bench(arguments) => bellwire_bench::run(arguments),
        Command::Backup(arguments) => command::backup::run_backup(arguments),
        Command::Restore(arguments) => command::backup::run_restore(arguments),
        Command::Check(arguments) => command::check::run(arguments),
        Command::Config(arguments) => command::config::run(arguments),
        Command::Healthcheck(arguments) => command::healthcheck::run(arguments),
        Command::Gate { program } => {
            let (program, arguments) = program.split_first().context("a gate leads to a program")?;
            Err(bellwire_plugin::command::warden::pass(program.as_ref(), arguments))
                .with_context(|| format!("{} cannot be run", program.display()))
        }
        Command::Warden => {
            bellwire_plugin::command::warden::watch(std::io::stdin().lock());
            Ok(ExitCode::SUCCESS)
        }
    }
}
