//! The installed modules of all organisations: a folder for each, none of which knows of another.

use crate::modules::{ModuleError, Modules};
use bellwire_model::OrganisationId;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

/// All of them. Without a folder there are none, and none can be added.
#[derive(Debug, Default)]
pub struct Installed {
    folder: Option<PathBuf>,
    of: RwLock<BTreeMap<OrganisationId, Arc<Modules>>>,
}

impl Installed {
    /// Those in this folder, which is made with the first one.
    ///
    /// # Errors
    /// [`ModuleError::Folder`] if it cannot be read; [`ModuleError::Refused`] if what is in it is not what was written.
    pub fn open(folder: PathBuf) -> Result<Installed, ModuleError> {
        let mut of = BTreeMap::new();
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries.collect::<Result<Vec<_>, _>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        for entry in entries {
            let organisation = entry.file_name().to_str().and_then(organisation);
            if let Some(organisation) = organisation.filter(|_| entry.path().is_dir()) {
                of.insert(organisation, Arc::new(Modules::open(entry.path())?));
            }
        }
        Ok(Installed { folder: Some(folder), of: RwLock::new(of) })
    }

    /// Those of one organisation. One that has none yet costs nothing on the disk.
    pub fn of(&self, organisation: &OrganisationId) -> Arc<Modules> {
        if let Some(found) = self.of.read().get(organisation) {
            return Arc::clone(found);
        }
        let mut of = self.of.write();
        let none = || match &self.folder {
            Some(folder) => Modules::none_yet(folder.join(folder_name(organisation))),
            None => Modules::default(),
        };
        Arc::clone(of.entry(organisation.clone()).or_insert_with(|| Arc::new(none())))
    }

    /// Hands out modules that were installed when they belonged to the whole server: each to its `owners`. Answers how many there were.
    /// After a crash it is done again.
    ///
    /// # Errors
    /// [`ModuleError`], as [`Installed::open`] and for what cannot be written.
    pub fn hand_out(&self, owners: impl Fn(&str) -> Vec<OrganisationId>) -> Result<usize, ModuleError> {
        let Some(folder) = &self.folder else { return Ok(0) };
        let before = Modules::open(folder.clone())?.all();
        for module in &before {
            for owner in owners(&module.name) {
                self.of(&owner).take_over(module)?;
            }
        }
        if !before.is_empty() {
            clear(folder)?;
        }
        Ok(before.len())
    }
}

/// Removes the files in a folder, not the folders in it.
fn clear(folder: &Path) -> io::Result<()> {
    let files = || -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
        Ok(entries.into_iter().map(|entry| entry.path()).filter(|path| path.is_file()).collect())
    };
    // The index first: without it there is nothing to hand out.
    for index in files()?.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
        fs::remove_file(index)?;
    }
    fs::File::open(folder)?.sync_all()?;
    files()?.iter().try_for_each(fs::remove_file)
}

/// A name for an organisation's folder, on every file system: what is no small letter, digit, `-` or `_` stands as `%` and two digits.
fn folder_name(organisation: &OrganisationId) -> String {
    organisation.as_str().bytes().fold(String::new(), |mut name, byte| {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_') {
            name.push(char::from(byte));
        } else {
            let _ = write!(name, "%{byte:02x}");
        }
        name
    })
}

/// The organisation of a folder of this name.
fn organisation(name: &str) -> Option<OrganisationId> {
    let mut parts = name.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let code = part.get(..2)?;
        bytes.push(u8::from_str_radix(code, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    let organisation = OrganisationId::parse(std::str::from_utf8(&bytes).ok()?)?;
    (folder_name(&organisation) == name).then_some(organisation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{Code, Timestamp};

    fn organisation_of(text: &str) -> OrganisationId {
        OrganisationId::parse(text).expect("an organisation")
    }

    #[test]
    fn an_organisation_has_its_own_modules_and_no_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("plugins");
        let installed = Installed::open(place.clone()).expect("opens");
        let (north, south) = (organisation_of("org_North/../x"), organisation_of("org_south"));
        assert!(installed.of(&north).all().is_empty() && !place.exists());
        installed.of(&north).add("deploy", "one", Timestamp::EPOCH).expect("added");
        installed.of(&south).add("deploy", "two", Timestamp::EPOCH).expect("the same name");
        assert!(matches!(installed.of(&south).remove("other"), Err(ModuleError::Missing)));
        installed.of(&south).remove("deploy").expect("removed");
        for installed in [installed, Installed::open(place.clone()).expect("opens again")] {
            let code = |organisation| installed.of(organisation).get("deploy").map(|m| m.versions[0].code.clone());
            assert_eq!((code(&north), code(&south)), (Some(Code::Text("one".into())), None));
        }
        assert!(folder.path().read_dir().expect("a folder").count() == 1, "nothing is written beside the folder");
    }

    #[test]
    fn folders_have_names_that_lead_back() {
        for text in ["org_a", "org_A", "org_..", "org_a/b\\c", "org_%41", "org_ü"] {
            let own = organisation_of(text);
            let name = folder_name(&own);
            assert_eq!(organisation(&name), Some(own), "{name}");
            assert!(
                name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_%".contains(&b)),
                "{name}"
            );
        }
        for wrong in ["modules.json", "org_A", "org_%4", "org_%zz", "org_%61", "x"] {
            assert_eq!(organisation(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_was_the_whole_servers_goes_to_its_owners_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let before = Modules::open(folder.path().to_owned()).expect("opens");
        before.add("deploy", "one", Timestamp::EPOCH).expect("added");
        before.add("deploy", "// @permission fetch a.example", Timestamp::EPOCH).expect("added");
        before.add("build", "three", Timestamp::EPOCH).expect("added");
        let (north, south) = (organisation_of("org_north"), organisation_of("org_south"));
        let installed = Installed::open(folder.path().to_owned()).expect("opens");
        let owners =
            |name: &str| if name == "deploy" { vec![north.clone(), south.clone()] } else { vec![south.clone()] };
        assert_eq!(installed.hand_out(owners).expect("handed out"), 2);
        assert_eq!(installed.hand_out(|_| Vec::new()).expect("nothing is left"), 0);
        let again = Installed::open(folder.path().to_owned()).expect("opens");
        assert_eq!(again.of(&north).all(), [before.get("deploy").expect("was there")]);
        assert_eq!(again.of(&south).all().len(), 2);
        assert!(folder.path().read_dir().expect("a folder").all(|entry| entry.expect("one").path().is_dir()));
    }
}
