//! Installed modules of one organisation, kept in a folder: each text or component in a file named by its digest, and one index, replaced as
//! a whole.
//!
//! An edit is on the disk before it has an effect, and has it for all shards at once: a run that has begun goes on with the code
//! that it began with, the next one takes the new. What is damaged on the disk is not run.

use crate::fetch::is_host;
use bellwire_model::{Code, Module, ModuleVersion, Permissions, Runs, Timestamp};
use bytes::Bytes;
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
/// A component.
const COMPONENT_BYTES_MAX: usize = 16 * 1024 * 1024;

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
    #[serde(default)]
    is_declared: bool,
    versions: Vec<VersionRow>,
}

#[derive(Serialize, Deserialize)]
struct VersionRow {
    number: u32,
    digest: String,
    added_at_us: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    component: Option<ComponentRow>,
}

/// What is known of a component without reading it.
#[derive(Serialize, Deserialize)]
struct ComponentRow {
    bytes: u64,
    wants_fetch: BTreeSet<String>,
    wants_environment: BTreeSet<String>,
    wants_respond: bool,
    wants_emit: bool,
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

    /// Whether an endpoint of this kind can name this module.
    ///
    /// # Errors
    /// Why not.
    pub(crate) fn check(&self, name: &str, runs: Runs) -> Result<(), String> {
        match self.get(name).and_then(|module| module.runs()) {
            Some(own) if own == runs => Ok(()),
            Some(own) => Err(format!("the module {name} is one for the kind `{}`", own.name())),
            None => Err(format!("no module {name:?} is installed; `bellwire plugin add` installs one")),
        }
    }

    /// The version of a module that runs.
    ///
    /// # Errors
    /// Why none does.
    pub(crate) fn running(&self, name: &str) -> Result<ModuleVersion, String> {
        let module = self.get(name).ok_or_else(|| format!("the module {name} is not installed any more"))?;
        module.running().cloned().ok_or_else(|| {
            format!("no version of the module {name} may run; `bellwire plugin grant {name}` grants what it wants")
        })
    }

    /// Adds a text under a name, as its next version.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn add(&self, name: &str, code: &str, now: Timestamp) -> Result<Arc<Module>, ModuleError> {
        Module::check_name(name).map_err(ModuleError::Refused)?;
        self.install(name, code.as_bytes(), text_version(code, now)?, false)
    }

    /// Adds what the server's hooks file declares, as it was inspected, as the next version. A module that there was not is noted as that
    /// file's in the same write, so that it is not taken for somebody else's after a crash.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn declare(&self, name: &str, code: &[u8], version: ModuleVersion) -> Result<Arc<Module>, ModuleError> {
        Module::check_name(name).map_err(ModuleError::Refused)?;
        self.install(name, code, version, true)
    }

    /// Adds a component in the same way, if `inspect` says that it can be run and what it wants; it is given its digest.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn add_component(
        &self,
        name: &str,
        component: Bytes,
        now: Timestamp,
        inspect: impl FnOnce(&str, Bytes) -> Result<Permissions, String>,
    ) -> Result<Arc<Module>, ModuleError> {
        Module::check_name(name).map_err(ModuleError::Refused)?;
        let version = component_version(&component, now, inspect)?;
        self.install(name, &component, version, false)
    }

    /// The component of this digest, from the disk.
    ///
    /// # Errors
    /// [`ModuleError::Folder`] if it cannot be read, [`ModuleError::Refused`] if it is not what was written.
    pub fn component(&self, wanted: &str) -> Result<Bytes, ModuleError> {
        let folder = self.folder.as_deref().ok_or(ModuleError::Missing)?;
        let name = file_name(wanted, &Code::Component(0));
        let component = fs::read(folder.join(&name))?;
        match digest(&component) == wanted {
            true => Ok(component.into()),
            false => Err(ModuleError::Refused(format!("{name} is not what was written"))),
        }
    }

    fn install(
        &self,
        name: &str,
        bytes: &[u8],
        version: ModuleVersion,
        is_declared: bool,
    ) -> Result<Arc<Module>, ModuleError> {
        let _editing = self.editing.lock();
        let existing = self.get(name);
        if let Some(module) = &existing {
            module.check_runs(version.code.runs()).map_err(ModuleError::Refused)?;
        }
        let folder = self.folder()?;
        write_whole(&folder.join(file_name(&version.digest, &version.code)), bytes)?;
        let (module, gone) = match existing {
            Some(module) => {
                let mut module = Module::clone(&module);
                let gone = module.add(version);
                (module, gone)
            }
            None if self.all.read().len() >= MODULES_MAX => {
                return Err(ModuleError::Refused(format!("there are {MODULES_MAX} modules already")));
            }
            None => (Module { is_declared, ..Module::new(name.to_owned(), version) }, Vec::new()),
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
            let Code::Text(text) = &version.code else {
                return Err(ModuleError::Refused(format!(
                    "the component {} was never the whole server's",
                    module.name
                )));
            };
            write_whole(&folder.join(file_name(&version.digest, &version.code)), text.as_bytes())?;
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

    /// Code that nobody names any more.
    fn forget(&self, digests: impl IntoIterator<Item = String>) {
        let all = self.all.read();
        let named = |digest: &String| all.values().flat_map(|module| &module.versions).any(|v| v.digest == *digest);
        for digest in digests.into_iter().filter(|digest| !named(digest)) {
            if let Some(folder) = &self.folder {
                for code in [Code::Text("".into()), Code::Component(0)] {
                    // One that stays does no harm.
                    let _ = fs::remove_file(folder.join(file_name(&digest, &code)));
                }
            }
        }
    }
}

/// A text as the first version of a module.
///
/// # Errors
/// [`ModuleError::Refused`].
pub(crate) fn text_version(code: &str, now: Timestamp) -> Result<ModuleVersion, ModuleError> {
    check_length("the text", code.len(), CODE_BYTES_MAX)?;
    let wants = Permissions::declared(code).and_then(of_hosts).map_err(ModuleError::Refused)?;
    Ok(ModuleVersion {
        number: 1,
        digest: digest(code.as_bytes()),
        code: Code::Text(code.into()),
        wants,
        added_at: now,
    })
}

/// What is wanted, if it can be fetched from what it names: anything else would be granted and never do.
fn of_hosts(wants: Permissions) -> Result<Permissions, String> {
    match wants.fetch.iter().find(|host| !is_host(host)) {
        Some(host) => Err(format!("{host:?} is not a host such as api.example.com or *.example.com")),
        None => Ok(wants),
    }
}

/// A component as the first version of a module, if `inspect` says that it can be run and what it wants; it is given its digest.
///
/// # Errors
/// [`ModuleError::Refused`].
pub(crate) fn component_version(
    component: &Bytes,
    now: Timestamp,
    inspect: impl FnOnce(&str, Bytes) -> Result<Permissions, String>,
) -> Result<ModuleVersion, ModuleError> {
    check_length("the component", component.len(), COMPONENT_BYTES_MAX)?;
    let digest = digest(component);
    let wants = inspect(&digest, component.clone()).and_then(of_hosts).map_err(ModuleError::Refused)?;
    Ok(ModuleVersion { number: 1, digest, code: Code::Component(component.len() as u64), wants, added_at: now })
}

impl ModuleRow {
    fn of(module: &Module) -> ModuleRow {
        let version = |version: &ModuleVersion| VersionRow {
            number: version.number,
            digest: version.digest.clone(),
            added_at_us: version.added_at.as_micros(),
            component: match version.code {
                Code::Text(_) => None,
                Code::Component(bytes) => Some(ComponentRow {
                    bytes,
                    wants_fetch: version.wants.fetch.clone(),
                    wants_environment: version.wants.environment.clone(),
                    wants_respond: version.wants.respond,
                    wants_emit: version.wants.emit,
                }),
            },
        };
        ModuleRow {
            name: module.name.clone(),
            active: module.active,
            granted_fetch: module.granted.fetch.clone(),
            granted_environment: module.granted.environment.clone(),
            granted_respond: module.granted.respond,
            granted_emit: module.granted.emit,
            is_declared: module.is_declared,
            versions: module.versions.iter().map(version).collect(),
        }
    }

    fn read(self, folder: &Path) -> Result<Module, ModuleError> {
        let version = |row: VersionRow| {
            let (code, wants) = match row.component {
                None => text_of(folder, &row.digest)?,
                Some(component) => component.read(folder, &row.digest)?,
            };
            let added_at = Timestamp::from_micros(row.added_at_us);
            Ok::<_, ModuleError>(ModuleVersion { number: row.number, digest: row.digest, code, wants, added_at })
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
            is_declared: self.is_declared,
        })
    }
}

impl ComponentRow {
    /// Only its length is looked at; all of it is when it is to run.
    fn read(self, folder: &Path, digest: &str) -> Result<(Code, Permissions), ModuleError> {
        let code = Code::Component(self.bytes);
        let file = folder.join(file_name(digest, &code));
        if fs::metadata(&file)?.len() != self.bytes {
            return Err(ModuleError::Refused(format!("{} is not what was written", file.display())));
        }
        let ComponentRow { wants_fetch, wants_environment, wants_respond, wants_emit, .. } = self;
        let wants = Permissions {
            fetch: wants_fetch,
            environment: wants_environment,
            respond: wants_respond,
            emit: wants_emit,
        };
        Ok((code, wants))
    }
}

fn text_of(folder: &Path, wanted: &str) -> Result<(Code, Permissions), ModuleError> {
    let file = folder.join(file_name(wanted, &Code::Text("".into())));
    let text = fs::read_to_string(&file)?;
    if digest(text.as_bytes()) != wanted {
        return Err(ModuleError::Refused(format!("{} is not what was written", file.display())));
    }
    let wants = Permissions::declared(&text).map_err(ModuleError::Refused)?;
    Ok((Code::Text(text.into()), wants))
}

fn check_length(what: &str, bytes: usize, bytes_max: usize) -> Result<(), ModuleError> {
    match bytes <= bytes_max {
        true => Ok(()),
        false => Err(ModuleError::Refused(format!("{what} has {bytes} bytes, at most {bytes_max}"))),
    }
}

fn file_name(digest: &str, code: &Code) -> String {
    match code {
        Code::Text(_) => format!("{digest}.js"),
        Code::Component(_) => format!("{digest}.wasm"),
    }
}

fn digest(code: &[u8]) -> String {
    Sha256::digest(code).iter().fold(String::new(), |mut text, byte| {
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
        let declare = |name: &str| {
            let version = text_version("three", Timestamp::EPOCH).expect("a version");
            modules.declare(name, b"three", version).expect("added");
            open().get(name).expect("is there").is_declared
        };
        assert!(!declare("deploy"), "it was there before");
        assert!(declare("made"));
        modules.remove("made").expect("removed");
        modules.remove("deploy").expect("removed");
        assert!(matches!(modules.remove("deploy"), Err(ModuleError::Missing)));
        assert_eq!(open().all().len(), 1);
        assert_eq!(fs::read_dir(&place).expect("a folder").count(), 2);
    }

    #[test]
    fn what_no_host_is_called_is_not_wanted() {
        for host in ["http://x/", "*"] {
            let code = format!("// @permission fetch a.example {host}\nexport function handle() {{}}");
            let refused = text_version(&code, Timestamp::EPOCH).expect_err(host);
            assert!(refused.to_string().contains("is not a host"), "{refused}");
        }
    }

    #[test]
    fn what_is_damaged_is_not_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let modules = Modules::open(folder.path().to_owned()).expect("opens");
        let module = modules.add("deploy", "one", Timestamp::EPOCH).expect("added");
        let file = folder.path().join(file_name(&module.versions[0].digest, &module.versions[0].code));
        fs::write(&file, "two").expect("written");
        assert!(
            Modules::open(folder.path().to_owned())
                .is_err_and(|error| error.to_string().contains("not what was written"))
        );
        assert!(matches!(Modules::default().add("x", "", Timestamp::EPOCH), Err(ModuleError::Refused(_))));
        assert!(matches!(modules.add("X/..", "", Timestamp::EPOCH), Err(ModuleError::Refused(_))));
        assert!(matches!(modules.roll_back("deploy", None), Err(ModuleError::Refused(_))));
    }

    #[test]
    fn a_component_stays_on_the_disk_until_it_is_asked_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let open = || Modules::open(folder.path().to_owned());
        let modules = open().expect("opens");
        let wants = Permissions { fetch: ["a.example".to_owned()].into(), ..Permissions::default() };
        let module =
            modules.add_component("deploy", "\0asm one".into(), Timestamp::from_seconds(7), |_, _| Ok(wants.clone()));
        let module = module.expect("added");
        assert_eq!((module.active, module.runs()), (None, Some(Runs::Wasm)));
        assert_eq!(open().expect("opens again").all(), [Arc::clone(&module)]);
        let version = &module.versions[0];
        assert_eq!((&version.code, &version.wants), (&Code::Component(8), &wants));
        assert_eq!(modules.component(&version.digest).expect("is there"), "\0asm one");
        let other = modules.add("deploy", "text", Timestamp::EPOCH).expect_err("another language");
        assert!(other.to_string().contains("is one for wasm"), "{other}");
        let file = folder.path().join(file_name(&version.digest, &version.code));
        fs::write(&file, b"\0asm two").expect("written");
        assert!(matches!(modules.component(&version.digest), Err(ModuleError::Refused(_))));
        fs::write(&file, b"shorter").expect("written");
        assert!(open().is_err_and(|error| error.to_string().contains("not what was written")));
        modules.remove("deploy").expect("removed");
        assert!(!file.exists());
    }
}
