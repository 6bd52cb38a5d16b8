//! A server's configuration to try changes on: a copy of who exists, and nothing behind it.
//!
//! Asks the real backend whether a URL, a certificate or a plugin can be used; changes only the copy; accepts no message.

use super::apply::{Caller, Done};
use super::file::{Document, Fault, Faults};
use super::plan::{Plan, plan};
use anyhow::Context;
use bellwire_api::Settings;
use bellwire_api::backend::{
    AcceptError, Accepted, Answer, Backend, ModuleEdit, ModuleRefusal, NewCode, PluginFault, Shaped, Unshaped,
};
use bellwire_api::pipe::Pipes;
use bellwire_config::Config;
use bellwire_config::organisation_default;
use bellwire_engine::{Catalogue, Draft};
use bellwire_model::{Endpoint, Message, Module, ModuleVersion, OrganisationId, Runs, Sequence, Source, Timestamp};
use bellwire_node::wiring;
use bellwire_shape::Scripts;
use bellwire_store::{Change, Store};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// See the module.
pub(crate) struct Rehearsal {
    real: Arc<dyn Backend>,
    catalogue: RwLock<Catalogue>,
    /// What the file installs or, as `None`, removes, in front of what is installed.
    modules: RwLock<BTreeMap<String, Option<Arc<Module>>>>,
    configuration: tokio::sync::Mutex<()>,
    sequence: AtomicU64,
    key: AtomicU32,
}

impl Rehearsal {
    /// On a copy of what `organisation` has at `real`.
    pub(crate) fn of(real: Arc<dyn Backend>, organisation: &OrganisationId) -> Rehearsal {
        let copy = {
            let catalogue = real.catalogue().read();
            let (mut applications, mut endpoints) = (Vec::new(), Vec::new());
            for entry in catalogue.applications_of(organisation) {
                applications.push(Arc::clone(&entry.application));
                endpoints.extend(entry.endpoints.iter().cloned());
            }
            let event_types = catalogue.event_types_of(organisation).cloned().collect();
            let mut copy = Catalogue::new(applications, endpoints, event_types);
            catalogue
                .sources()
                .of_organisation(organisation)
                .for_each(|source| copy.sources_mut().put(Arc::clone(source)));
            copy
        };
        Rehearsal {
            sequence: AtomicU64::new(Sequence::first_at(real.now()).as_u64()),
            real,
            catalogue: RwLock::new(copy),
            modules: RwLock::default(),
            configuration: tokio::sync::Mutex::new(()),
            // Far from keys that were given out.
            key: AtomicU32::new(u32::MAX / 2),
        }
    }
}

/// Declares what a file says on an empty server with these settings, which is gone afterwards.
///
/// # Errors
/// The outer one: there is no room for such a server. The inner one: what is wrong with the file.
pub(crate) async fn on_nothing(file: &Path, config: &Config) -> anyhow::Result<Result<Done, Faults>> {
    let folder = tempfile::tempdir().context("cannot make a folder to try it in")?;
    let real = bellwire_node::empty::doors(config, folder.path())?;
    // Its secret for tokens is asked by nobody; the data folder, which may not exist, stays as it is.
    let settings = wiring::api_for_nobody(config, &wiring::scripts(config));
    let tried = match super::keeper::read(file) {
        Ok(document) => rehearse(&document, real, &settings).await,
        Err(faults) => Err(faults),
    };
    Ok(tried.map(|(_, done)| done))
}

/// Declares what a file says on a copy of what there is at `real`. Answers what is to be done there, and what was done here.
///
/// # Errors
/// All that is wrong with the file, as far as one go can find it.
pub(super) async fn rehearse(
    document: &Document,
    real: Arc<dyn Backend>,
    settings: &Settings,
) -> Result<(Plan, Done), Faults> {
    let (plan, faults) = plan(document);
    let organisation = organisation_default();
    let copy: Arc<dyn Backend> = Arc::new(Rehearsal::of(real, &organisation));
    let tried = Caller::new(copy, settings, organisation).trying().apply(document, &plan).await;
    // Where something is lost, whatever else is said of it says that it is not there; and what we have said ourselves, we say better.
    let lost = |place: &str| {
        document
            .lost
            .iter()
            .any(|lost| place.strip_prefix(&*lost.place).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
    };
    let known = |fault: &Fault| faults.iter().any(|own| own.place == fault.place);
    let more: Vec<Fault> = match &tried {
        Ok(_) => Vec::new(),
        Err(refused) => {
            let all = document.lost.iter().chain(&faults).chain(&refused.all);
            let wrong: BTreeSet<&str> =
                all.filter_map(|fault| fault.place.strip_prefix("plugins.")?.split('.').next()).collect();
            // A plugin that is wrong is not there for the endpoints that name it.
            let text_at = |place: &str| {
                place
                    .split('.')
                    .try_fold(&document.value, |value, step| value.get(step))
                    .and_then(|value| value.as_str())
            };
            let follows = |fault: &Fault| {
                fault.place.ends_with(".plugin.module")
                    && text_at(&fault.place).is_some_and(|name| wrong.contains(name))
            };
            refused.all.iter().filter(|fault| !known(fault) && !follows(fault)).cloned().collect()
        }
    };
    let all: Vec<Fault> = faults.iter().chain(&more).filter(|fault| !lost(&fault.place)).cloned().collect();
    let all = Faults::new(&document.path, document.lost.iter().cloned().chain(all).collect());
    match tried {
        Ok(done) if all.all.is_empty() => Ok((plan, done)),
        _ => Err(all),
    }
}

impl Backend for Rehearsal {
    fn now(&self) -> Timestamp {
        self.real.now()
    }

    fn catalogue(&self) -> &RwLock<Catalogue> {
        &self.catalogue
    }

    fn store(&self) -> &Arc<dyn Store> {
        self.real.store()
    }

    fn accept(&self, _: Draft) -> Answer<'_, Result<Accepted, AcceptError>> {
        Box::pin(std::future::ready(Err(AcceptError::Closed)))
    }

    fn change(&self, changes: Vec<Change>) -> Answer<'_, Result<(), AcceptError>> {
        let mut catalogue = self.catalogue.write();
        for change in &changes {
            catalogue.apply(change);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn settle(&self, _: Vec<Change>) -> Answer<'_, Result<(), AcceptError>> {
        Box::pin(std::future::ready(Err(AcceptError::Closed)))
    }

    fn shape<'a>(
        &'a self,
        endpoint: &'a Endpoint,
        message: &'a Message,
        scripts: &'a Scripts,
    ) -> Answer<'a, Result<Option<Shaped>, Unshaped>> {
        self.real.shape(endpoint, message, scripts)
    }

    fn pipes(&self) -> &Pipes {
        self.real.pipes()
    }

    fn configuration(&self) -> &tokio::sync::Mutex<()> {
        &self.configuration
    }

    fn sequence(&self) -> Sequence {
        Sequence::from_u64(self.sequence.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn next_key(&self) -> u32 {
        self.key.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn random(&self, bytes: &mut [u8]) {
        self.real.random(bytes);
    }

    fn throttled_since(&self, _: &Endpoint) -> Answer<'_, Option<Timestamp>> {
        Box::pin(std::future::ready(None))
    }

    fn check_url(&self, url: &url::Url) -> Result<(), String> {
        self.real.check_url(url)
    }

    fn check_tls(&self, identity: Option<&str>, authorities: Option<&str>) -> Result<(), String> {
        self.real.check_tls(identity, authorities)
    }

    fn check_source(&self, source: &Source) -> Result<(), Vec<PluginFault>> {
        self.real.check_source(source)
    }

    fn check_plugin(
        &self,
        organisation: &OrganisationId,
        runs: Runs,
        settings: &serde_json::Value,
    ) -> Result<(), Vec<PluginFault>> {
        let module = settings["module"].as_str().and_then(|name| self.modules.read().get(name).cloned());
        let Some(Some(module)) = module else { return self.real.check_plugin(organisation, runs, settings) };
        let about_it = |fault: &PluginFault| fault.path == ["module"];
        let mut faults = self.real.check_plugin(organisation, runs, settings).err().unwrap_or_default();
        faults.retain(|fault| !about_it(fault));
        if module.runs() != Some(runs) {
            let text = format!("the module {} is not one for the kind `{}`", module.name, runs.name());
            faults.push(PluginFault { path: vec!["module".to_owned()], text });
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn modules(&self, organisation: &OrganisationId) -> Vec<Arc<Module>> {
        let mut all: BTreeMap<String, Arc<Module>> =
            self.real.modules(organisation).into_iter().map(|module| (module.name.clone(), module)).collect();
        for (name, module) in &*self.modules.read() {
            match module {
                Some(module) => drop(all.insert(name.clone(), Arc::clone(module))),
                None => drop(all.remove(name)),
            }
        }
        all.into_values().collect()
    }

    fn inspect_module(&self, code: NewCode) -> Answer<'_, Result<ModuleVersion, ModuleRefusal>> {
        self.real.inspect_module(code)
    }

    fn edit_module(
        &self,
        organisation: &OrganisationId,
        name: String,
        edit: ModuleEdit,
    ) -> Answer<'_, Result<Option<Arc<Module>>, ModuleRefusal>> {
        let there = self.modules(organisation).into_iter().find(|module| module.name == name);
        Box::pin(async move {
            let module = match (edit, there) {
                (ModuleEdit::Declare(code), there) => {
                    let version = self.real.inspect_module(code).await?;
                    match there {
                        None => Module { is_declared: true, ..Module::new(name, version) },
                        Some(there) => {
                            there.check_runs(version.code.runs()).map_err(ModuleRefusal::Refused)?;
                            let mut module = Module::clone(&there);
                            module.add(version);
                            module
                        }
                    }
                }
                (ModuleEdit::Grant(Some(more)), Some(there)) => {
                    let mut module = Module::clone(&there);
                    module.grant(more);
                    module
                }
                (ModuleEdit::Remove, Some(_)) => {
                    self.modules.write().insert(name, None);
                    return Ok(None);
                }
                _ => return Err(ModuleRefusal::Missing),
            };
            let module = Arc::new(module);
            self.modules.write().insert(module.name.clone(), Some(Arc::clone(&module)));
            Ok(Some(module))
        })
    }

    fn ready(&self) -> Result<(), String> {
        self.real.ready()
    }
}
