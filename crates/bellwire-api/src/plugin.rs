//! Modules of code that endpoints of the kind `plugin` run by name, and trying a plugin out on a message that is kept.
//!
//! Modules are their organisation's: nobody else sees, runs or changes them. It takes a token of the organisation itself, never of one of
//! its applications.

use crate::backend::{ModuleEdit, ModuleRefusal, NewCode, Tried};
use crate::call::Call;
use crate::document::JsonSchema;
use crate::endpoint_kind::PluginIn;
use crate::error::{self, Error};
use crate::field::Faults;
use crate::operation::{Access, Operation};
use crate::wire::Time;
use axum::response::Response;
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bellwire_model::{Kind, Module, ModuleVersion, Permissions, Plugin};
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::Arc;

const TAG: &str = "Plugin";
/// Of a module that is to be installed: a component of 16 MiB in base64.
const BODY_BYTES_MAX: usize = 24 << 20;

pub(crate) fn operations() -> Vec<Operation> {
    let all = "/api/v1/plugin";
    let one = "/api/v1/plugin/{plugin_name}";
    vec![
        Operation::new(Method::GET, all, Access::Organisation, list)
            .described("v1.plugin.list", TAG, "List the organisation's installed modules with their versions.")
            .answers::<ModulesOut>(200),
        Operation::editing(Method::POST, all, Access::Organisation, add)
            .described(
                "v1.plugin.add",
                TAG,
                "Install a module, or its next version. It runs at once if it wants no more than its module was granted.",
            )
            .body::<ModuleIn>()
            .answers::<ModuleOut>(200),
        Operation::editing(Method::POST, "/api/v1/plugin/{plugin_name}/grant", Access::Organisation, grant)
            .described("v1.plugin.grant", TAG, "Grant a module what its newest version wants, or what the body says.")
            .body_or_nothing::<GrantIn>()
            .answers::<ModuleOut>(200),
        Operation::editing(Method::POST, "/api/v1/plugin/{plugin_name}/rollback", Access::Organisation, roll_back)
            .described("v1.plugin.rollback", TAG, "Let another version run.")
            .body::<RollBackIn>()
            .answers::<ModuleOut>(200),
        Operation::editing(Method::DELETE, one, Access::Organisation, remove)
            .described("v1.plugin.remove", TAG, "Remove a module that no endpoint runs.")
            .answers_nothing(204),
        Operation::new(Method::POST, "/api/v1/app/{app_id}/msg/{msg_id}/plugin-test", Access::Organisation, test)
            .described(
                "v1.plugin.test",
                TAG,
                "Run a plugin once on a message that is kept. It really runs; what it emits is shown and not sent, and no attempt is recorded.",
            )
            .body::<TestIn>()
            .answers::<TriedOut>(200),
    ]
}

#[derive(Deserialize, JsonSchema)]
struct ModuleIn {
    /// What endpoints know it by.
    #[schemars(required, length(min = 1, max = 64), regex(pattern = "^[a-z0-9_-]+$"))]
    name: Option<String>,
    /// JavaScript that defines `handle`; lines such as `// @permission fetch api.example.com` say what it wants: `fetch`, `environment`,
    /// `respond`, `emit`.
    #[schemars(length(max = 1_048_576))]
    code: Option<String>,
    /// Instead of `code`: a WebAssembly component of at most 16 MiB, in base64; its section `bellwire.permissions` says what it wants.
    component: Option<String>,
}

#[derive(Deserialize, JsonSchema, Default)]
#[serde(default)]
struct GrantIn {
    /// Hosts to fetch from.
    fetch: BTreeSet<String>,
    /// Variables of the server's environment, among `plugins.command_environment`.
    environment: BTreeSet<String>,
    /// To answer whoever sent the message and waits.
    respond: bool,
    /// To send messages on behalf of the endpoint's application.
    emit: bool,
}

#[derive(Deserialize, JsonSchema)]
struct RollBackIn {
    /// Which version.
    #[schemars(required)]
    version: Option<u32>,
}

#[derive(Deserialize, JsonSchema)]
struct TestIn {
    /// As an endpoint has it.
    #[schemars(required)]
    plugin: Option<PluginIn>,
}

#[derive(Serialize, JsonSchema)]
struct ModulesOut {
    data: Vec<ModuleOut>,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PluginModuleOut")]
struct ModuleOut {
    name: String,
    /// The version that runs; absent while none may.
    #[serde(skip_serializing_if = "Option::is_none")]
    active: Option<u32>,
    granted: PermissionsOut,
    /// Oldest first.
    versions: Vec<VersionOut>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PluginVersionOut")]
struct VersionOut {
    version: u32,
    /// What runs it: `javascript` or `wasm`.
    runs: &'static str,
    /// SHA-256 of the code, in hex.
    digest: String,
    /// How long the code is.
    bytes: u64,
    wants: PermissionsOut,
    added_at: Time,
}

#[derive(Serialize, JsonSchema)]
#[schemars(rename = "PluginPermissions")]
struct PermissionsOut {
    fetch: BTreeSet<String>,
    environment: BTreeSet<String>,
    respond: bool,
    emit: bool,
}

/// What a plugin did with a message.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PluginTriedOut")]
struct TriedOut {
    /// `ack`, `respond`, `drop`, `retry`, `fail` or `broken`.
    answer: &'static str,
    /// What it said and wrote, as an attempt would keep it.
    output: String,
    duration_ms: u64,
    /// What it wants sent.
    emitted: Vec<EmittedOut>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PluginEmittedOut")]
struct EmittedOut {
    event_type: String,
    /// The text of a JSON value.
    payload: String,
}

impl From<&Permissions> for PermissionsOut {
    fn from(permissions: &Permissions) -> Self {
        let Permissions { fetch, environment, respond, emit } = permissions.clone();
        PermissionsOut { fetch, environment, respond, emit }
    }
}

impl ModuleOut {
    fn of(module: &Module) -> Self {
        let version = |version: &ModuleVersion| VersionOut {
            version: version.number,
            runs: version.code.runs().name(),
            digest: version.digest.clone(),
            bytes: version.code.bytes(),
            wants: (&version.wants).into(),
            added_at: Time(version.added_at),
        };
        ModuleOut {
            name: module.name.clone(),
            active: module.active,
            granted: (&module.granted).into(),
            versions: module.versions.iter().map(version).collect(),
        }
    }
}

async fn list(call: Call) -> Result<Response, Error> {
    let modules = call.api.backend().modules(call.principal.organisation());
    let data = modules.iter().map(|module| ModuleOut::of(module)).collect();
    Ok(error::json(StatusCode::OK, &ModulesOut { data }))
}

async fn edit(call: &Call, name: String, edit: ModuleEdit, place: &str) -> Result<Response, Error> {
    match call.api.backend().edit_module(call.principal.organisation(), name, edit).await {
        Ok(Some(module)) => Ok(error::json(StatusCode::OK, &ModuleOut::of(&module))),
        Ok(None) => Ok(error::bytes(StatusCode::NO_CONTENT, "")),
        Err(ModuleRefusal::Missing) => Err(Error::not_found()),
        Err(ModuleRefusal::Refused(why)) => Err(Error::invalid(&["body", place], why)),
        Err(ModuleRefusal::Failed(why)) => Err(Error::Internal(why)),
    }
}

async fn add(mut call: Call) -> Result<Response, Error> {
    let ModuleIn { name, code, component } = call.long_json(BODY_BYTES_MAX).await?.parse()?;
    let mut faults = Faults::new();
    let name = faults.required("name", name);
    if let Some(Err(why)) = name.as_deref().map(Module::check_name) {
        faults.add("name", why);
    }
    let (code, place) = match (code, component) {
        (Some(code), None) => (NewCode::Text(code), "code"),
        (None, Some(component)) => {
            let decoded = BASE64_STANDARD.decode(&component);
            if decoded.is_err() {
                faults.add("component", "`component` must be base64");
            }
            (NewCode::Component(decoded.unwrap_or_default().into()), "component")
        }
        (None, None) => {
            faults.required::<String>("code", None);
            (NewCode::Text(String::new()), "code")
        }
        (Some(_), Some(_)) => {
            faults.add("code", "either `code` or `component` is installed, not both");
            (NewCode::Text(String::new()), "code")
        }
    };
    faults.end()?;
    edit(&call, name.unwrap_or_default(), ModuleEdit::Add(code), place).await
}

async fn grant(mut call: Call) -> Result<Response, Error> {
    let GrantIn { fetch, environment, respond, emit } = call.json_or_nothing().await?.parse()?;
    let more = Some(Permissions { fetch, environment, respond, emit }).filter(|more| *more != Permissions::default());
    let name = call.param("plugin_name").to_owned();
    edit(&call, name, ModuleEdit::Grant(more), "fetch").await
}

async fn roll_back(mut call: Call) -> Result<Response, Error> {
    let input: RollBackIn = call.json().await?.parse()?;
    let mut faults = Faults::new();
    // Named, so that asking twice is asking once.
    let version = faults.required("version", input.version);
    faults.end()?;
    let name = call.param("plugin_name").to_owned();
    edit(&call, name, ModuleEdit::RollBack(version), "version").await
}

async fn remove(call: Call) -> Result<Response, Error> {
    let name = call.param("plugin_name").to_owned();
    let user = {
        let catalogue = call.api.backend().catalogue().read();
        let mut own = catalogue.applications_of(call.principal.organisation()).flat_map(|entry| &entry.endpoints);
        own.find(|endpoint| runs_module(&endpoint.kind, &name)).map(Arc::clone)
    };
    if let Some(user) = user {
        return Err(Error::invalid(&["path", "plugin_name"], format!("the endpoint {} runs it", user.id)));
    }
    edit(&call, name, ModuleEdit::Remove, "name").await
}

/// Whether an endpoint of this kind runs the module of this name.
pub fn runs_module(kind: &Kind, name: &str) -> bool {
    let Kind::Plugin(plugin) = kind else { return false };
    let settings: serde_json::Value = serde_json::from_str(plugin.settings.reveal()).unwrap_or_default();
    settings["module"] == name
}

async fn test(mut call: Call) -> Result<Response, Error> {
    let application = call.application()?;
    let input: TestIn = call.json().await?.parse()?;
    let mut faults = Faults::new();
    let kind = crate::endpoint_kind::check_plugin(&mut faults, &call.api, &call.principal, input.plugin, &Kind::Push);
    faults.end()?;
    let message = call.message(&application, true).await?;
    if message.payload.is_none() {
        return Err(Error::invalid(&["path", "msg_id"], "the message's payload has expired"));
    }
    let Kind::Plugin(plugin) = kind else { return Err(Error::not_found()) };
    let tried = call.api.backend().try_plugin(Plugin::clone(&plugin), Arc::new(message)).await;
    let Tried { answer, output, duration, emitted } =
        tried.ok_or_else(|| Error::invalid(&["body", "plugin"], "this server runs no plugins"))?;
    let emitted = emitted.into_iter().map(|(event_type, payload)| EmittedOut { event_type, payload });
    let out = TriedOut {
        answer,
        output: String::from_utf8_lossy(&output).into_owned(),
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        emitted: emitted.collect(),
    };
    Ok(error::json(StatusCode::OK, &out))
}
