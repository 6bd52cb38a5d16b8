//! ARCHITECTURE.md against the tree it is the map of: who uses whom, and the files that it sends its readers to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The cells of the rows of the table that begins with this line.
fn table(map: &str, head: &str) -> Vec<Vec<String>> {
    let rows = map.lines().skip_while(|line| *line != head).skip(2).take_while(|line| line.starts_with('|'));
    let rows: Vec<_> =
        rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect();
    assert!(!rows.is_empty(), "no table {head}");
    rows
}

/// What stands in backticks.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The crates of ours that one is built with; those of its tests are its own affair.
fn used(manifest: &str) -> BTreeSet<String> {
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.strip_prefix("bellwire-")?.split(['.', ' ', '=']).next()).map(str::to_owned).collect()
}

#[test]
fn crates_use_those_that_the_map_says_and_no_others() {
    let rows = table(&read("ARCHITECTURE.md"), "| crate | knows alone | may use |");
    let mut named = BTreeSet::new();
    for row in &rows {
        let name = code(&row[0]).next().unwrap();
        named.insert(name.to_owned());
        let uses = used(&read(&format!("crates/bellwire-{name}/Cargo.toml")));
        if row[2] == "all of the above" {
            let above: BTreeSet<_> = rows.iter().map(|row| code(&row[0]).next().unwrap().to_owned()).collect();
            assert!(uses.is_subset(&above), "{name} uses {uses:?}");
        } else {
            let may: BTreeSet<_> = code(&row[2]).map(str::to_owned).collect();
            assert_eq!(uses, may, "{name}: what it uses, and what the map says");
        }
    }
    let crates = std::fs::read_dir(root().join("crates")).unwrap().map(|entry| entry.unwrap().file_name());
    let crates: BTreeSet<_> = crates.map(|name| name.to_str().unwrap().replacen("bellwire-", "", 1)).collect();
    assert_eq!(named, crates);
}

#[test]
fn every_file_that_the_map_names_is_there() {
    let mut files = Vec::new();
    for top in ["crates", "docs", "examples", "packaging", "scripts", "tests"] {
        walk(&root().join(top), &mut |path| {
            let path = path.strip_prefix(root()).unwrap().to_str().unwrap();
            // `crates/bellwire-store/src/task.rs` is `store/task.rs` on the map.
            let short = path.replacen("crates/bellwire-", "", 1).replacen("/src", "", 1);
            files.push(format!("/{short}"));
        });
    }
    let map = read("ARCHITECTURE.md");
    let is_there = |name: &str| {
        let name = format!("/{}", name.trim_end_matches('/'));
        files.iter().any(|file| file.ends_with(&name) || file.contains(&format!("{name}/")))
    };
    let mut missing: Vec<_> = map.lines().flat_map(code).filter(|text| is_path(text) && !is_there(text)).collect();
    missing.dedup();
    assert!(missing.is_empty(), "named, and not there: {missing:?}");
}

fn is_path(text: &str) -> bool {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    plain && (text.ends_with(".rs") || text.ends_with('/') || text.starts_with("docs/") || text.starts_with("tests/"))
}

fn walk(folder: &Path, take: &mut dyn FnMut(&Path)) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, take),
            false => take(&path),
        }
    }
}
