//! What is in `packaging/` agrees with the program: its commands, settings, paths and ports. No image is built here.

use crate::program::run;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(packaging().join(name)).unwrap()
}

/// The value of a line `key<separator>value`, the last of its name.
fn value<'a>(text: &'a str, key: &str) -> &'a str {
    let found = text.lines().rev().find_map(|line| line.trim().strip_prefix(key));
    found.unwrap_or_else(|| panic!("there is no {key}")).trim()
}

/// The strings in a JSON list.
fn list(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn the_unit_is_one_and_starts_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let unit = read("bellwire.service");
    let start: Vec<&str> = value(&unit, "ExecStart=").split(' ').collect();
    assert_eq!(start[..2], ["/usr/local/bin/bellwire", "serve"]);
    // The same flags for a command that ends by itself.
    let checked = run(folder.path(), &[&["config", "--json"], &start[2..]].concat());
    assert!(checked.status.success(), "{checked:?}");
    let settings: Value = serde_json::from_slice(&checked.stdout).unwrap();
    let data = settings["settings"]["server.data"]["value"].as_str().unwrap();
    assert_eq!(data, format!("/var/lib/{}", value(&unit, "StateDirectory=")));
    let stop: u64 = value(&unit, "TimeoutStopSec=").parse().unwrap();
    assert_eq!(settings["settings"]["server.shutdown_deadline"]["value"], "20s");
    assert!(stop > 20);
    let user = value(&unit, "User=");
    assert!(read("bellwire.sysusers").starts_with(&format!("u {user} ")), "the user is made");

    // With the program where it is today, and a user that every machine has.
    let here = folder.path().join("bellwire.service");
    let changed = unit
        .replace("/usr/local/bin/bellwire", env!("CARGO_BIN_EXE_bellwire"))
        .replace(&format!("User={user}"), "User=nobody")
        .replace(&format!("Group={user}"), "Group=nogroup");
    std::fs::write(&here, changed).unwrap();
    let analyze = |arguments: &[&str]| {
        let asked = Command::new("systemd-analyze").args(arguments).arg(&here).output();
        let Ok(output) = asked else {
            eprintln!("there is no systemd-analyze here");
            return;
        };
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{arguments:?}: {told}");
        assert!(!told.contains("Unknown") && !told.contains("ignoring"), "{arguments:?}: {told}");
    };
    analyze(&["verify", "--man=no"]);
    // Out of 100; what is left is that it needs the network.
    analyze(&["security", "--offline=true", "--threshold=20", "--no-pager"]);
}

#[test]
fn the_image_runs_commands_that_exist_where_the_settings_say() {
    let folder = tempfile::tempdir().unwrap();
    let dockerfile = read("Dockerfile");
    let variables: Vec<(&str, &str)> =
        dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('=')).collect();
    assert!(variables.len() >= 2);
    let told = Command::new(env!("CARGO_BIN_EXE_bellwire"))
        .args(["config", "--json"])
        .env_clear()
        .envs(variables.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(told["notes"], serde_json::json!([]), "every variable has an effect");
    let setting = |name: &str| told["settings"][name]["value"].as_str().unwrap().to_owned();
    assert_eq!(setting("server.listen"), format!("0.0.0.0:{}", value(&dockerfile, "EXPOSE ")));
    assert_eq!(setting("server.data"), value(&dockerfile, "VOLUME "));
    let user = value(&dockerfile, "USER ");
    assert!(user != "0" && !user.starts_with("root"), "{user}");
    assert!(dockerfile.contains(&format!(
        "-o {} -g {}",
        user.split(':').next().unwrap(),
        user.split(':').nth(1).unwrap()
    )));
    let healthcheck = value(&dockerfile, "HEALTHCHECK ").split_once("CMD ").unwrap().1;
    for command in [list(healthcheck), list(value(&dockerfile, "CMD "))] {
        assert_eq!(command[0], "bellwire");
        let help = run(folder.path(), &[command[1].as_str(), "--help"]);
        assert!(help.status.success(), "{command:?}");
    }
    // It is built from what is in the repository, by the toolchain that the repository asks for.
    let manifest = std::fs::read_to_string(packaging().join("../Cargo.toml")).unwrap();
    let wanted = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).unwrap().trim_matches('"');
    assert!(dockerfile.contains(&format!("FROM rust:{wanted}-")), "{wanted}");
    assert!(
        dockerfile.contains(concat!("-p ", env!("CARGO_PKG_NAME"))) && dockerfile.contains("target/release/bellwire")
    );
}

#[test]
fn the_example_for_compose_agrees_with_the_image() {
    let (compose, dockerfile) = (read("compose.yaml"), read("Dockerfile"));
    let port = value(&dockerfile, "EXPOSE ");
    assert!(compose.contains(&format!("\"127.0.0.1:{port}:{port}\"")), "{port} is published, on this machine only");
    assert!(compose.contains(&format!("- data:{}\n", value(&dockerfile, "VOLUME "))));
    assert!(packaging().join("..").join(value(&compose, "dockerfile: ")).exists());
    let folder = tempfile::tempdir().unwrap();
    let named =
        compose.lines().map(|line| line.trim().trim_start_matches("# ")).filter(|line| line.starts_with("BELLWIRE_"));
    let mut seen = 0;
    for line in named {
        let name = line.split(':').next().unwrap();
        // A value that has no meaning anywhere: the name is known if it is the value that is refused.
        let output =
            crate::program::bellwire(folder.path()).args(["config", "--check"]).env(name, "\u{1}").output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(name) && !told.contains("no such setting"), "{name}: {told}");
        seen += 1;
    }
    assert!(seen >= 2);
    let commands = compose.lines().filter_map(|line| line.split_once("exec bellwire bellwire "));
    for (_, command) in commands {
        let command = command.split(' ').next().unwrap();
        assert!(run(folder.path(), &[command, "--help"]).status.success(), "{command}");
    }
}
