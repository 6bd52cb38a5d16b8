//! A module: code that is installed under a name, version by version, for plugins to run.
//!
//! A version is known by the digest of its code and says in its code what it wants to reach; the operator grants that, once and for all
//! versions. A version that wants more than is granted waits, and the one before it goes on.

use crate::clock::Timestamp;
use crate::kind::Runs;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Versions that are kept; the oldest that is not active goes first.
const VERSIONS_MAX: usize = 20;
const NAME_MAX: usize = 64;
const WANTED_MAX: usize = 64;
/// What a line begins with that says what a module wants.
const MARK: &str = "// @permission ";

/// What code may reach beyond what it is given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Permissions {
    /// Hosts to fetch from; `*.example.com` for all below.
    pub fetch: BTreeSet<String>,
    /// Variables of the server's environment.
    pub environment: BTreeSet<String>,
    /// To answer whoever sent the message and waits.
    pub respond: bool,
    /// To send messages on behalf of the application.
    pub emit: bool,
}

impl Permissions {
    /// What a text says that it wants: lines such as `// @permission fetch api.example.com` or `// @permission respond`.
    ///
    /// # Errors
    /// What is wrong with a line, with its number.
    pub fn declared(code: &str) -> Result<Permissions, String> {
        Permissions::read(code, |line| line.strip_prefix(MARK), MARK)
    }

    /// What a text says that is nothing but such lines, without what they begin with: `fetch api.example.com`.
    ///
    /// # Errors
    /// What is wrong with a line, with its number.
    pub fn listed(text: &str) -> Result<Permissions, String> {
        Permissions::read(text, |line| Some(line).filter(|line| !line.is_empty()), "")
    }

    fn read(text: &str, wish: impl Fn(&str) -> Option<&str>, mark: &str) -> Result<Permissions, String> {
        let mut wanted = Permissions::default();
        for (number, line) in text.lines().enumerate() {
            let Some(rest) = wish(line.trim_start()) else { continue };
            let mut words = rest.split_whitespace();
            let (what, more) = (words.next(), words.clone().next().is_some());
            let all = match (what, more) {
                (Some("fetch"), true) => &mut wanted.fetch,
                (Some("environment"), true) => &mut wanted.environment,
                (Some("respond"), false) => {
                    wanted.respond = true;
                    continue;
                }
                (Some("emit"), false) => {
                    wanted.emit = true;
                    continue;
                }
                _ => {
                    let forms = ["fetch HOST…", "environment NAME…", "respond", "emit"];
                    let forms = forms.map(|form| format!("`{mark}{form}`")).join(", ");
                    return Err(format!("line {}: expected one of {forms}", number + 1));
                }
            };
            all.extend(words.map(str::to_owned));
            if all.len() > WANTED_MAX {
                return Err(format!("line {}: more than {WANTED_MAX} of a kind", number + 1));
            }
        }
        Ok(wanted)
    }

    /// Everything in `wanted` is here.
    pub fn cover(&self, wanted: &Permissions) -> bool {
        self.fetch.is_superset(&wanted.fetch)
            && self.environment.is_superset(&wanted.environment)
            && (self.respond || !wanted.respond)
            && (self.emit || !wanted.emit)
    }
}

/// What a module is written in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Code {
    /// JavaScript: its text.
    Text(Arc<str>),
    /// A WebAssembly component: its length in bytes. It stays on the disk, where its digest finds it.
    Component(u64),
}

impl Code {
    /// Its length in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Code::Text(text) => text.len() as u64,
            Code::Component(bytes) => *bytes,
        }
    }

    /// What runs it.
    pub fn runs(&self) -> Runs {
        match self {
            Code::Text(_) => Runs::Javascript,
            Code::Component(_) => Runs::Wasm,
        }
    }
}

/// A text or a component of a module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ModuleVersion {
    /// Counted from 1.
    pub number: u32,
    /// SHA-256 of the code, in hex.
    pub digest: String,
    /// The code.
    pub code: Code,
    /// What it wants.
    pub wants: Permissions,
    /// When it was added.
    pub added_at: Timestamp,
}

/// Code under a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Module {
    /// What endpoints know it by.
    pub name: String,
    /// Oldest first; at least one.
    pub versions: Vec<ModuleVersion>,
    /// Which of them runs; `None` while none may.
    pub active: Option<u32>,
    /// What the operator has granted.
    pub granted: Permissions,
    /// It was made by the server's hooks file, and goes when that does not declare it any more.
    pub is_declared: bool,
}

impl Module {
    /// With its first version, which waits for what it wants to be granted.
    pub fn new(name: String, first: ModuleVersion) -> Module {
        let mut module =
            Module { name, versions: Vec::new(), active: None, granted: Permissions::default(), is_declared: false };
        module.add(first);
        module
    }

    /// Whether a name can be one.
    ///
    /// # Errors
    /// What is expected.
    pub fn check_name(name: &str) -> Result<(), String> {
        let usual = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_');
        match !name.is_empty() && name.len() <= NAME_MAX && name.chars().all(usual) {
            true => Ok(()),
            false => Err(format!("a module's name has 1 to {NAME_MAX} small letters, digits, - and _")),
        }
    }

    /// The version that runs.
    pub fn running(&self) -> Option<&ModuleVersion> {
        self.active.and_then(|number| self.version(number))
    }

    /// What runs its versions: all the same.
    pub fn runs(&self) -> Option<Runs> {
        self.newest().map(|newest| newest.code.runs())
    }

    /// Whether something that is run so can be its next version: all its versions are in one language.
    ///
    /// # Errors
    /// Why not.
    pub fn check_runs(&self, runs: Runs) -> Result<(), String> {
        match self.runs().filter(|own| *own != runs) {
            None => Ok(()),
            Some(own) => Err(format!("the module {} is one for {}; give this one another name", self.name, own.name())),
        }
    }

    /// The newest.
    pub fn newest(&self) -> Option<&ModuleVersion> {
        self.versions.last()
    }

    fn version(&self, number: u32) -> Option<&ModuleVersion> {
        self.versions.iter().find(|version| version.number == number)
    }

    /// Adds a text, as the version after the newest; it runs at once if it wants no more than is granted. A text that is the newest
    /// already is not added again. Answers the digests of texts that are no longer kept.
    pub fn add(&mut self, mut version: ModuleVersion) -> Vec<String> {
        let same = self.newest().is_some_and(|newest| newest.digest == version.digest);
        if !same {
            version.number = self.newest().map_or(1, |newest| newest.number + 1);
            self.versions.push(version);
        }
        self.take_up();
        let mut gone = Vec::new();
        while self.versions.len() > VERSIONS_MAX {
            let Some(oldest) = self.versions.iter().position(|version| Some(version.number) != self.active) else {
                break;
            };
            gone.push(self.versions.remove(oldest).digest);
        }
        gone.retain(|digest| !self.versions.iter().any(|version| version.digest == *digest));
        gone
    }

    /// Grants more; the newest version runs if that is what it waited for.
    pub fn grant(&mut self, more: Permissions) {
        self.granted.fetch.extend(more.fetch);
        self.granted.environment.extend(more.environment);
        self.granted.respond |= more.respond;
        self.granted.emit |= more.emit;
        self.take_up();
    }

    fn take_up(&mut self) {
        if let Some(newest) = self.newest()
            && self.granted.cover(&newest.wants)
        {
            self.active = Some(newest.number);
        }
    }

    /// Lets another version run: this one, or the one before the active one.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn roll_back(&mut self, to: Option<u32>) -> Result<(), String> {
        let before = |active| self.versions.iter().rev().find(|version| version.number < active);
        let wanted = match to {
            Some(number) => self.version(number).ok_or_else(|| format!("there is no version {number}"))?,
            None => self.active.and_then(before).ok_or("there is no version before the one that runs")?,
        };
        if !self.granted.cover(&wanted.wants) {
            return Err(format!("version {} wants more than is granted", wanted.number));
        }
        self.active = Some(wanted.number);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(code: &str) -> ModuleVersion {
        let wants = Permissions::declared(code).expect("declares");
        let digest = code.to_owned();
        ModuleVersion { number: 0, digest, code: Code::Text(code.into()), wants, added_at: Timestamp::EPOCH }
    }

    fn fetch(host: &str) -> Permissions {
        Permissions { fetch: [host.to_owned()].into(), ..Permissions::default() }
    }

    #[test]
    fn a_text_says_what_it_wants() {
        let wanted =
            Permissions::declared("// @permission fetch a.example b.example\n  // @permission environment REGION\nx");
        let wanted = wanted.expect("declares");
        assert_eq!(wanted.fetch.into_iter().collect::<Vec<_>>(), ["a.example", "b.example"]);
        assert_eq!(wanted.environment.into_iter().collect::<Vec<_>>(), ["REGION"]);
        for wrong in ["x\n// @permission files /", "x\n// @permission fetch", "x\n// @permission respond always"] {
            assert!(Permissions::declared(wrong).is_err_and(|why| why.starts_with("line 2")), "{wrong}");
        }
        let both = Permissions::declared("// @permission respond\n// @permission emit").expect("declares");
        assert_eq!(both, Permissions { respond: true, emit: true, ..Permissions::default() });
        assert!(both.cover(&Permissions::default()) && !Permissions::default().cover(&both));
        let listed = Permissions::listed("\nfetch a.example\n environment REGION\n").expect("lists");
        assert_eq!(listed.environment.into_iter().collect::<Vec<_>>(), ["REGION"]);
        assert!(Permissions::listed("fetch a.example\n// files").is_err_and(|why| why.starts_with("line 2")));
    }

    #[test]
    fn a_version_that_wants_more_waits_and_the_one_before_goes_on() {
        let mut module = Module::new("deploy".to_owned(), version("one"));
        assert_eq!(module.active, Some(1));
        module.add(version("// @permission fetch a.example"));
        assert_eq!((module.active, module.versions.len()), (Some(1), 2));
        module.grant(fetch("b.example"));
        assert_eq!(module.active, Some(1));
        module.grant(fetch("a.example"));
        assert_eq!(module.active, Some(2));
        module.add(version("three"));
        module.add(version("three"));
        assert_eq!((module.active, module.versions.len()), (Some(3), 3));
        module.roll_back(None).expect("goes back");
        assert_eq!(module.active, Some(2));
        module.roll_back(Some(1)).expect("goes back");
        assert!(module.roll_back(None).is_err() && module.roll_back(Some(9)).is_err());
        assert_eq!(module.active, Some(1));
    }

    #[test]
    fn old_versions_go_but_not_the_one_that_runs() {
        let mut module = Module::new("deploy".to_owned(), version("0"));
        for n in 1..30 {
            module.add(version(&format!("// @permission fetch {n}.example")));
        }
        assert_eq!((module.versions.len(), module.active), (VERSIONS_MAX, Some(1)));
        assert_eq!(module.running().map(|version| &*version.digest), Some("0"));
    }

    #[test]
    fn names_can_stand_in_a_url() {
        assert!(Module::check_name("build-2_x").is_ok());
        for wrong in ["", "A", "a/b", "..", &"a".repeat(65)] {
            assert!(Module::check_name(wrong).is_err(), "{wrong}");
        }
    }
}
