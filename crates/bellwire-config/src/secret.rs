//! The secret behind the API's tokens when none is configured: made once, kept in the data folder.
//!
//! `serve` and `token` may both be first, at the same moment: whoever comes second takes what the first has made.

use super::auth::SecretText;
use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

const FILE: &str = "jwt_secret";
const BYTES: usize = 32;

/// The secret of a data folder. Makes the folder and the secret if they are missing; both are the owner's alone.
///
/// # Errors
/// If the folder cannot be made or written, or if the file holds no secret: an empty one must not pass for a secret that
/// everybody knows.
pub fn secret(data: &Path) -> anyhow::Result<SecretText> {
    if let Some(secret) = kept(data)? {
        return Ok(secret);
    }
    let path = data.join(FILE);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(data)
        .with_context(|| format!("cannot make the data folder {}", data.display()))?;
    make(data, &path).with_context(|| format!("cannot keep a secret in {}", path.display()))?;
    read(&path)?.with_context(|| format!("{} vanished while it was made", path.display()))
}

/// The secret of a data folder, if it has one. Makes nothing.
///
/// # Errors
/// As [`secret`].
pub(crate) fn kept(data: &Path) -> anyhow::Result<Option<SecretText>> {
    read(&data.join(FILE))
}

/// Copies the secret of one data folder to another that has none. Answers whether there was one.
///
/// # Errors
/// It cannot be read or written.
pub fn copy(from: &Path, to: &Path) -> anyhow::Result<bool> {
    let Some(SecretText(secret)) = read(&from.join(FILE))? else { return Ok(false) };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(to.join(FILE))?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    File::open(to)?.sync_all()?;
    Ok(true)
}

fn read(path: &Path) -> anyhow::Result<Option<SecretText>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read the secret in {}", path.display())),
    };
    let text = text.trim();
    anyhow::ensure!(
        text.len() >= BYTES,
        "{} holds no secret, or a short one; remove it, and a new one is made (tokens of before are void then)",
        path.display()
    );
    Ok(Some(SecretText(text.to_owned())))
}

/// Whole or not at all, and never over one that is there.
fn make(data: &Path, path: &Path) -> anyhow::Result<()> {
    let mut random = [0; BYTES + 8];
    getrandom::fill(&mut random).map_err(|error| anyhow::anyhow!("the system gives no random bytes: {error}"))?;
    let (bytes, name) = random.split_at(BYTES);
    let draft = data.join(format!(".{FILE}.{}", name.iter().map(|byte| format!("{byte:02x}")).collect::<String>()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = writeln!(file, "{}", BASE64_STANDARD.encode(bytes)).and_then(|()| file.sync_all());
    // A link is never made over a file that is there, and a rename would be: only where links are unknown it must do.
    let placed = written.and_then(|()| match fs::hard_link(&draft, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(_) if !path.exists() => fs::rename(&draft, path),
        done => done,
    });
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        _ => placed?,
    }
    Ok(File::open(data)?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn the_secret_is_made_once_for_the_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("new").join("data");
        let first = secret(&data).expect("made");
        assert_eq!(first.reveal().len(), 44);
        assert_eq!(secret(&data).expect("read"), first);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!((mode(&data), mode(&data.join(FILE))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&data).expect("a folder").count(), 1, "no draft is left");
    }

    #[test]
    fn all_who_come_at_once_get_the_same() {
        let folder = tempfile::tempdir().expect("a folder");
        let all: Vec<SecretText> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| secret(folder.path()).expect("made or read"))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn an_empty_file_is_no_secret() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), "\n").expect("written");
        let error = secret(folder.path()).expect_err("refused");
        assert!(error.to_string().contains("remove it"), "{error}");
    }
}
