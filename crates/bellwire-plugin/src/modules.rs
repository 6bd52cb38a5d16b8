//! Installed modules of one organisation, kept in a folder: each text in a file named by its digest, and one index, replaced as a whole.
//!
//! An edit is on the disk before it has an effect, and has it for all shards at once: a run that has begun goes on with the text
//! that it began with, the next one takes the new. What is damaged on the disk is not run.

use bellwire_model::{Module, ModuleVersion, Permissions, Timestamp};
use parking_lot::{Mutex, RwLock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const INDEX: &str = "modules.json";
const MODULES_MAX: usize = 1_000;
/// A module's text.
const CODE_BYTES_MAX: usize = 1024 * 1024;

/// All modules. Without a folder there are none, and none can be added.
#[derive(Debug, Default)]
pub struct Modules {
    folder: Option<PathBuf>,
    all: RwLock<BTreeMap<String, Arc<Module>>>,
    /// One edit at a time, the disk included.
    editing: Mutex<()>,
}

/// Why an edit was not made. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// There is no module of this name.
    #[error("there is no module of this name")]
    Missing,
    /// What was asked for cannot be done; the text says why.
    #[error("{0}")]
    Refused(String),
    /// The folder could not be read or written.
    #[error("the folder of the modules cannot be used")]
    Folder(#[from] io::Error),
}

#[derive(Serialize, Deserialize, Default)]
struct Index {
    modules: Vec<ModuleRow>,
}

#[derive(Serialize, Deserialize)]
struct ModuleRow {
    name: String,
    active: Option<u32>,
    granted_fetch: BTreeSet<String>,
    granted_environment: BTreeSet<String>,
    #[serde(default)]
    granted_respond: bool,
    #[serde(default)]
    granted_emit: bool,
    versions: Vec<VersionRow>,
}

#[derive(Serialize, Deserialize)]
struct VersionRow {
    number: u32,
    digest: String,
    added_at_us: i64,
}

impl Modules {
    /// Those of this folder, which is made with the first one.
    ///
    /// # Errors
    /// [`ModuleError::Folder`] if it cannot be read; [`ModuleError::Refused`] if what is in it is not what was written.
    pub fn open(folder: PathBuf) -> Result<Modules, ModuleError> {
        let index: Index = match fs::read(folder.join(INDEX)) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| ModuleError::Refused(format!("{INDEX} cannot be read: {error}")))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Index::default(),
            Err(error) => return Err(error.into()),
        };
        let modules = index.modules.into_iter().map(|row| {
            let module = row.read(&folder)?;
            Ok((module.name.clone(), Arc::new(module)))
        });
        let all = modules.collect::<Result<_, ModuleError>>()?;
        Ok(Modules { folder: Some(folder), all: RwLock::new(all), editing: Mutex::default() })
    }

    /// None so far; the folder is made with the first one.
    pub(crate) fn none_yet(folder: PathBuf) -> Modules {
        Modules { folder: Some(folder), ..Modules::default() }
    }

    /// By name.
    pub fn all(&self) -> Vec<Arc<Module>> {
        self.all.read().values().map(Arc::clone).collect()
    }

    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Module>> {
        self.all.read().get(name).map(Arc::clone)
    }

    /// Adds a text under a name, as its next version.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn add(&self, name: &str, code: &str, now: Timestamp) -> Result<Arc<Module>, ModuleError> {
        let refused = |why: String| ModuleError::Refused(why);
        Module::check_name(name).map_err(refused)?;
        if code.len() > CODE_BYTES_MAX {
            return Err(refused(format!("the text has {} bytes, at most {CODE_BYTES_MAX}", code.len())));
        }
        let wants = Permissions::declared(code).map_err(refused)?;
        let version = ModuleVersion { number: 1, digest: digest(code), code: code.into(), wants, added_at: now };
        let _editing = self.editing.lock();
        let folder = self.folder()?;
        write_whole(&folder.join(file_name(&version.digest)), code.as_bytes())?;
        let (module, gone) = match self.get(name) {
            Some(module) => {
                let mut module = Module::clone(&module);
                let gone = module.add(version);
                (module, gone)
            }
            None if self.all.read().len() >= MODULES_MAX => {
                return Err(refused(format!("there are {MODULES_MAX} modules already")));
            }
            None => (Module::new(name.to_owned(), version), Vec::new()),
        };
        let module = self.put(module)?;
        self.forget(gone);
        Ok(module)
    }

    /// Grants a module more: this, or what its newest version wants.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn grant(&self, name: &str, more: Option<Permissions>) -> Result<Arc<Module>, ModuleError> {
        self.edit(name, |module| {
            let more = more.or_else(|| module.newest().map(|newest| newest.wants.clone())).unwrap_or_default();
            module.grant(more);
            Ok(())
        })
    }

    /// Lets another version of a module run: this one, or the one before.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn roll_back(&self, name: &str, to: Option<u32>) -> Result<Arc<Module>, ModuleError> {
        self.edit(name, |module| module.roll_back(to).map_err(ModuleError::Refused))
    }

    /// Removes a module with all its versions.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn remove(&self, name: &str) -> Result<(), ModuleError> {
        let _editing = self.editing.lock();
        let module = self.get(name).ok_or(ModuleError::Missing)?;
        let mut all = self.all.read().clone();
        all.remove(name);
        self.write_index(&all)?;
        *self.all.write() = all;
        self.forget(module.versions.iter().map(|version| version.digest.clone()));
        Ok(())
    }

    fn edit(
        &self,
        name: &str,
        edit: impl FnOnce(&mut Module) -> Result<(), ModuleError>,
    ) -> Result<Arc<Module>, ModuleError> {
        let _editing = self.editing.lock();
        let mut module = Module::clone(&*self.get(name).ok_or(ModuleError::Missing)?);
        edit(&mut module)?;
        self.put(module)
    }

    /// Takes a module over as it is, if there is none of its name.
    ///
    /// # Errors
    /// [`ModuleError::Folder`].
    pub(crate) fn take_over(&self, module: &Module) -> Result<(), ModuleError> {
        let _editing = self.editing.lock();
        if self.get(&module.name).is_some() {
            return Ok(());
        }
        let folder = self.folder()?;
        for version in &module.versions {
            write_whole(&folder.join(file_name(&version.digest)), version.code.as_bytes())?;
        }
        self.put(module.clone()).map(drop)
    }

    /// The disk first.
    fn put(&self, module: Module) -> Result<Arc<Module>, ModuleError> {
        let module = Arc::new(module);
        let mut all = self.all.read().clone();
        all.insert(module.name.clone(), Arc::clone(&module));
        self.write_index(&all)?;
        *self.all.write() = all;
        Ok(module)
    }

    fn folder(&self) -> Result<&Path, ModuleError> {
        let folder = self.folder.as_deref();
        let folder = folder.ok_or_else(|| ModuleError::Refused("this server keeps no modules".to_owned()))?;
        fs::create_dir_all(folder)?;
        Ok(folder)
    }

    fn write_index(&self, all: &BTreeMap<String, Arc<Module>>) -> Result<(), ModuleError> {
        let index = Index { modules: all.values().map(|module| ModuleRow::of(module)).collect() };
        let text = serde_json::to_vec_pretty(&index).map_err(io::Error::other)?;
        Ok(write_whole(&self.folder()?.join(INDEX), &text)?)
    }

    /// Texts that nobody names any more.
    fn forget(&self, digests: impl IntoIterator<Item = String>) {
        let all = self.all.read();
        let named = |digest: &String| all.values().flat_map(|module| &module.versions).any(|v| v.digest == *digest);
        for digest in digests.into_iter().filter(|digest| !named(digest)) {
            if let Some(folder) = &self.folder {
                // One that stays does no harm.
                let _ = fs::remove_file(folder.join(file_name(&digest)));
            }
        }
    }
}

impl ModuleRow {
    fn of(module: &Module) -> ModuleRow {
        let version = |version: &ModuleVersion| VersionRow {
            number: version.number,
            digest: version.digest.clone(),
            added_at_us: version.added_at.as_micros(),
        };
        ModuleRow {
            name: module.name.clone(),
            active: module.active,
            granted_fetch: module.granted.fetch.clone(),
            granted_environment: module.granted.environment.clone(),
            granted_respond: module.granted.respond,
            granted_emit: module.granted.emit,
            versions: module.versions.iter().map(version).collect(),
        }
    }

    fn read(self, folder: &Path) -> Result<Module, ModuleError> {
        let version = |row: VersionRow| {
            let file = folder.join(file_name(&row.digest));
            let code = fs::read_to_string(&file)?;
            if digest(&code) != row.digest {
                return Err(ModuleError::Refused(format!("{} is not what was written", file.display())));
            }
            let wants = Permissions::declared(&code).map_err(ModuleError::Refused)?;
            let added_at = Timestamp::from_micros(row.added_at_us);
            Ok(ModuleVersion { number: row.number, digest: row.digest, code: code.into(), wants, added_at })
        };
        Ok(Module {
            name: self.name,
            versions: self.versions.into_iter().map(version).collect::<Result<_, _>>()?,
            active: self.active,
            granted: Permissions {
                fetch: self.granted_fetch,
                environment: self.granted_environment,
                respond: self.granted_respond,
                emit: self.granted_emit,
            },
        })
    }
}

fn file_name(digest: &str) -> String {
    format!("{digest}.js")
}

fn digest(code: &str) -> String {
    Sha256::digest(code.as_bytes()).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// After a crash there is the old content or the new, whole.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(folder)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_there_after_a_restart_and_gone_after_a_removal() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("plugins");
        let open = || Modules::open(place.clone()).expect("opens");
        let modules = open();
        let add = |code: &str| modules.add("deploy", code, Timestamp::from_seconds(7)).expect("added");
        assert_eq!(add("one").active, Some(1));
        assert_eq!(add("// @permission fetch a.example\ntwo").active, Some(1));
        assert_eq!(modules.grant("deploy", None).expect("granted").active, Some(2));
        assert_eq!(modules.all(), open().all());
        assert_eq!(modules.roll_back("deploy", None).expect("goes back").active, Some(1));
        assert_eq!(open().get("deploy").and_then(|module| module.active), Some(1));
        modules.add("other", "one", Timestamp::EPOCH).expect("the same text under another name");
        modules.remove("deploy").expect("removed");
        assert!(matches!(modules.remove("deploy"), Err(ModuleError::Missing)));
        assert_eq!(open().all().len(), 1);
        assert_eq!(fs::read_dir(&place).expect("a folder").count(), 2);
    }

    #[test]
    fn what_is_damaged_is_not_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let modules = Modules::open(folder.path().to_owned()).expect("opens");
        let module = modules.add("deploy", "one", Timestamp::EPOCH).expect("added");
        let file = folder.path().join(file_name(&module.versions[0].digest));
        fs::write(&file, "two").expect("written");
        assert!(
            Modules::open(folder.path().to_owned())
                .is_err_and(|error| error.to_string().contains("not what was written"))
        );
        assert!(matches!(Modules::default().add("x", "", Timestamp::EPOCH), Err(ModuleError::Refused(_))));
        assert!(matches!(modules.add("X/..", "", Timestamp::EPOCH), Err(ModuleError::Refused(_))));
        assert!(matches!(modules.roll_back("deploy", None), Err(ModuleError::Refused(_))));
    }
}
