//! The modules that a plan installs, grants and removes.

use super::Work;
use crate::hooks::plan::{DeclaredPlugin, Plan};
use crate::hooks::refusal::told;
use bellwire_api::backend::{ModuleEdit, ModuleRefusal};
use bellwire_api::runs_module;
use bellwire_model::{Module, Permissions};
use http::Method;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;

impl Work<'_> {
    /// Installs its newest version, if that is another one, and grants what it wants.
    pub(super) async fn plugin(&mut self, declared: &DeclaredPlugin) {
        let DeclaredPlugin { name, code, digest, permissions } = declared;
        let there = self.module(name);
        let wants = |module: &Module| module.newest().map(|newest| newest.wants.clone()).unwrap_or_default();
        if let Some(module) = &there
            && module.newest().is_some_and(|newest| newest.digest == *digest)
            && module.granted.cover(&wants(module))
            && permissions.cover(&wants(module))
        {
            self.done.unchanged += 1;
            return;
        }
        let edit = ModuleEdit::Declare(code.clone());
        if let Err(refusal) = self.caller.backend.edit_module(&self.caller.organisation, name.clone(), edit).await {
            let (member, text) = match refusal {
                ModuleRefusal::Refused(why) => (Some("file"), told(&why)),
                ModuleRefusal::Failed(why) => (None, why),
                ModuleRefusal::Missing => (None, "it is not there".to_owned()),
            };
            let place: Vec<&str> = ["plugins", name].into_iter().chain(member).collect();
            self.faults.push(self.document.fault(&place, text, None));
            return;
        }
        let wanted = self.module(name).map(|module| wants(&module)).unwrap_or_default();
        if !permissions.cover(&wanted) {
            let all: Vec<String> = listed(&wanted).iter().map(|line| format!("\"{line}\"")).collect();
            let text = format!("it wants more than it is granted: {}", listed(&wanted).join(", "));
            let hint = format!("permissions = [{}], if it may", all.join(", "));
            self.faults.push(self.document.fault(&["plugins", name, "permissions"], text, Some(hint)));
            return;
        }
        if wanted != Permissions::default() {
            let Permissions { fetch, environment, respond, emit } = wanted;
            let grant = json!({ "fetch": fetch, "environment": environment, "respond": respond, "emit": emit });
            let grant = grant.as_object().cloned().unwrap_or_default();
            let (status, answer) = self.caller.call(Method::POST, &format!("/plugin/{name}/grant"), Some(&grant)).await;
            if !self.expect(status, &answer, &["plugins", name]) {
                return;
            }
        }
        match there {
            None => self.done.created += 1,
            Some(_) => self.done.updated += 1,
        }
    }

    /// Removes modules that an earlier file made and this one does not declare. One that something else runs stays until nothing does.
    pub(super) async fn remove_plugins(&mut self, plan: &Plan) {
        let is_declared = |name: &str| plan.plugins.iter().any(|plugin| plugin.name == name);
        let modules = self.caller.backend.modules(&self.caller.organisation);
        for module in modules.iter().filter(|module| module.is_declared && !is_declared(&module.name)) {
            let name = &module.name;
            let user = {
                let catalogue = self.caller.backend.catalogue().read();
                let mut all = catalogue.applications_of(&self.caller.organisation).flat_map(|entry| &entry.endpoints);
                all.find(|endpoint| runs_module(&endpoint.kind, name)).map(|endpoint| endpoint.id)
            };
            match user {
                Some(endpoint) if self.caller.tries => {
                    tracing::warn!(module = %name, endpoint.id = %endpoint, "a module is not declared any more, and stays because an endpoint runs it");
                }
                Some(_) => {}
                None => {
                    let (status, answer) = self.caller.call(Method::DELETE, &format!("/plugin/{name}"), None).await;
                    if self.expect(status, &answer, &[]) {
                        self.done.removed += 1;
                    }
                }
            }
        }
    }

    fn module(&self, name: &str) -> Option<Arc<Module>> {
        self.caller.backend.modules(&self.caller.organisation).into_iter().find(|module| module.name == name)
    }
}

/// Permissions as the file has them.
fn listed(permissions: &Permissions) -> Vec<String> {
    let Permissions { fetch, environment, respond, emit } = permissions;
    let named = |what: &str, names: &BTreeSet<String>| {
        (!names.is_empty())
            .then(|| format!("{what} {}", names.iter().map(String::as_str).collect::<Vec<_>>().join(" ")))
    };
    let bare = |what: &str, wanted: bool| wanted.then(|| what.to_owned());
    [named("fetch", fetch), named("environment", environment), bare("respond", *respond), bare("emit", *emit)]
        .into_iter()
        .flatten()
        .collect()
}
