//! Every code that the API can answer with is explained in `docs/errors.md`, and nothing else is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[test]
fn every_code_has_a_paragraph() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let mut used = BTreeSet::new();
    for file in files(Path::new(folder)) {
        let text = std::fs::read_to_string(file).unwrap();
        // A code follows one of these, with nothing but a status and white space between.
        for before in ["bad_request(", "refused(", "later(", "of_kind(", "code:", "KIND: &str ="] {
            used.extend(text.split(before).skip(1).filter_map(code));
        }
    }
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/errors.md")).unwrap();
    let told: BTreeSet<_> =
        document.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).map(str::to_owned).collect();
    assert!(used.len() > 15, "{used:?}");
    assert_eq!(told, used);
}

/// All files in a folder and the folders in it.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The code that `text` begins with, if it begins with one.
fn code(text: &str) -> Option<String> {
    let text = text.trim_start();
    let text = match text.strip_prefix("StatusCode::") {
        Some(rest) => rest.split_once(',')?.1.trim_start(),
        None => text,
    };
    Some(text.strip_prefix('"')?.split_once('"')?.0.to_owned())
}
