//! `bellwire task`: the server's background tasks: how far each has come, and how to stop one.

use super::{http::Api, server::Server};
use bellwire_model::TaskId;
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::process::ExitCode;

/// List background tasks (recover, replay, purge, statistics), show one, or stop one.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire task list --status running\n  bellwire task show qtask_2xGk…\n  bellwire task cancel qtask_2xGk…"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// List the tasks of the past 90 days, newest first
    #[command(after_help = "Example:\n  bellwire task list --status running --json")]
    List {
        #[command(flatten)]
        server: ServerArguments,
        /// Only those that are running, finished or failed (cancelled ones too)
        #[arg(long, value_name = "STATUS", value_parser = ["running", "finished", "failed"])]
        status: Option<String>,
        /// So many at most
        #[arg(long, value_name = "NUMBER", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Show how far a task has come, and what it found
    #[command(after_help = "Example:\n  bellwire task show qtask_2xGk…")]
    Show {
        #[command(flatten)]
        server: ServerArguments,
        /// The task's id (qtask_…)
        #[arg(value_name = "TASK")]
        id: TaskId,
    },
    /// Stop a task; what it has done stays done
    #[command(after_help = "Example:\n  bellwire task cancel qtask_2xGk…")]
    Cancel {
        #[command(flatten)]
        server: ServerArguments,
        /// The task's id (qtask_…)
        #[arg(value_name = "TASK")]
        id: TaskId,
    },
}

#[derive(clap::Args)]
struct ServerArguments {
    #[command(flatten)]
    server: Server,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Task {
    id: String,
    status: String,
    task: String,
    data: Value,
    updated_at: String,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    super::block_on(arguments.what.run())?;
    Ok(ExitCode::SUCCESS)
}

impl What {
    async fn run(self) -> anyhow::Result<()> {
        match self {
            What::List { server, status, limit } => {
                let query = status.map_or_else(String::new, |status| format!("?status={status}"));
                let tasks = server.api()?.all(&format!("/background-task{query}"), limit as usize).await?;
                if server.json {
                    println!("{}", serde_json::to_string(&tasks)?);
                } else {
                    println!("{}", table(&tasks));
                }
            }
            What::Show { server, id } => {
                let task: Task = server.api()?.get(&format!("/background-task/{id}")).await?;
                if server.json {
                    println!("{}", serde_json::to_string(&task)?);
                } else {
                    println!("{}\n{}", table(std::slice::from_ref(&task)), serde_json::to_string_pretty(&task.data)?);
                }
            }
            What::Cancel { server, id } => {
                let path = format!("/background-task/{id}/cancel");
                let answer = server.api()?.call(Method::POST, &path, Default::default()).await?;
                anyhow::ensure!(answer.is_success(), "{id} was not cancelled: {} {}", answer.status, answer.reason());
                // It may have ended before.
                let task: Task = server.api()?.get(&format!("/background-task/{id}")).await?;
                let cancelled = task.data["cancelled"] == true;
                if server.json {
                    println!("{}", json!({ "id": task.id, "status": task.status, "cancelled": cancelled }));
                } else if cancelled {
                    eprintln!("{id} is cancelled");
                } else {
                    eprintln!("{id} had ended before: {}", task.status);
                }
            }
        }
        Ok(())
    }
}

impl ServerArguments {
    fn api(&self) -> anyhow::Result<Api> {
        self.server.api(bellwire_config::organisation_default())
    }
}

fn table(tasks: &[Task]) -> String {
    let rows = tasks.iter().map(|task| {
        let number = |name: &str| task.data[name].as_u64();
        let status = if task.data["cancelled"] == true { "cancelled" } else { &task.status };
        vec![
            task.id.clone(),
            task.task.clone(),
            status.to_owned(),
            task.data["percentComplete"].as_f64().map_or_else(String::new, |percent| format!("{percent:.0} %")),
            number("messagesScanned").map_or_else(String::new, |count| count.to_string()),
            ["messagesSent", "messagesPurged"].into_iter().find_map(number).map_or_else(String::new, |n| n.to_string()),
            task.updated_at.clone(),
        ]
    });
    super::table(&["ID", "TASK", "STATUS", "DONE", "SCANNED", "TOUCHED", "UPDATED"], rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_a_task_has_come_and_that_it_was_cancelled() {
        let task = |status: &str, data: Value| Task {
            id: "qtask_1".to_owned(),
            status: status.to_owned(),
            task: "endpoint.recover".to_owned(),
            data,
            updated_at: "2026-01-01T00:00:00Z".to_owned(),
        };
        let text = table(&[
            task("running", json!({ "messagesScanned": 120, "percentComplete": 40, "messagesSent": 7 })),
            task("failed", json!({ "messagesScanned": 5, "percentComplete": 2, "cancelled": true })),
        ]);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1][..7], ["qtask_1", "endpoint.recover", "running", "40", "%", "120", "7"]);
        assert_eq!(lines[2][..6], ["qtask_1", "endpoint.recover", "cancelled", "2", "%", "5"]);
    }
}
