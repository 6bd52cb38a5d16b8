//! All kinds behind one door.

use crate::answer::Ran;
use crate::command::warden::Warden;
use crate::command::{Allowed, Command};
use crate::event::Event;
use crate::installed::Installed;
use crate::javascript::{Handlers, Javascript};
use crate::modules::{self, ModuleError};
use crate::notify::{Bursts, Mail, Notify, Way};
use crate::queue::Queue;
use crate::settings::{self, Fault};
use crate::sql::{Files, Named, Pools, Sql, tls::Tls};
#[cfg(feature = "wasm")]
use crate::wasm::{Components, Wasm};
use bellwire_egress::{Client, Proxy, TlsSettings};
use bellwire_model::{
    AttemptNumber, EndpointKey, FailureClass, Message, Module, ModuleVersion, OrganisationId, Plugin, Runs, Timestamp,
};
use bellwire_queue::Publishers;
use bellwire_shape::ScriptLimits;
use bytes::Bytes;
use serde_json::Value;
use std::sync::Arc;

/// A setting that only the operator's own files may have; see [`Shared::check`].
const TRUSTED: &str = "trusted";

#[cfg(not(feature = "wasm"))]
const NOT_BUILT_IN: &str =
    "this server was built without WebAssembly; one built with `cargo build --release --features wasm` has it";

/// What the operator allows and bounds.
#[derive(Clone, Default)]
pub struct Limits {
    /// Of JavaScript.
    pub scripts: ScriptLimits,
    /// Of programs.
    pub commands: Allowed,
    /// Databases that endpoints can name.
    pub databases: Named,
    /// TLS to databases; by default there is none.
    pub tls: Tls,
    /// The same for a library that makes TLS of its own.
    pub tls_settings: TlsSettings,
    /// Of mail.
    pub mail: Mail,
    /// The proxy that requests go by. What cannot go by it is refused.
    pub proxy: Option<Proxy>,
}

impl std::fmt::Debug for Limits {
    /// Without the DSNs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Limits")
            .field("scripts", &self.scripts)
            .field("commands", &self.commands)
            .finish_non_exhaustive()
    }
}

/// What all shards share.
#[derive(Debug)]
pub struct Shared {
    limits: Limits,
    handlers: Handlers,
    #[cfg(feature = "wasm")]
    components: Components,
    warden: Warden,
    modules: Installed,
    files: Arc<Files>,
}

/// Runs plugins, on one thread.
pub struct Plugins {
    client: Client,
    shared: Arc<Shared>,
    pools: Pools,
    bursts: Bursts,
    publishers: Publishers,
}

/// Whoever counts the attempts in flight: one that only waits need not keep its place.
pub trait InFlight {
    /// It waits, and has nothing on its way.
    fn rests(&self);

    /// It has waited, and makes its exchange.
    fn goes_on(&self);
}

/// Nobody counts.
impl InFlight for () {
    fn rests(&self) {}

    fn goes_on(&self) {}
}

/// Settings, read.
#[derive(Clone, PartialEq, Debug)]
enum Program {
    Javascript(Javascript),
    Command(Command),
    Sql(Sql),
    Notify(Notify),
    Queue(Queue),
    #[cfg(feature = "wasm")]
    Wasm(Wasm),
}

/// A plugin as it is kept beside its settings.
struct Prepared {
    program: Result<Program, Fault>,
    trusted: bool,
}

impl Shared {
    /// Starts nothing yet.
    pub fn new(limits: Limits, warden: Warden, modules: Installed) -> Arc<Shared> {
        Arc::new(Shared {
            handlers: Handlers::new(limits.scripts),
            #[cfg(feature = "wasm")]
            components: Components::new(limits.scripts),
            limits,
            warden,
            modules,
            files: Arc::default(),
        })
    }

    /// Installs a script for an organisation under a name, as its next version, if it loads. Blocks until that is known.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn add_script(
        &self,
        own: &OrganisationId,
        name: &str,
        code: &str,
        now: Timestamp,
    ) -> Result<Arc<Module>, ModuleError> {
        self.handlers.check(&code.into()).map_err(|error| ModuleError::Refused(error.to_string()))?;
        self.modules.of(own).add(name, code, now)
    }

    /// A script as a version of a module that is not there yet, if it loads. Blocks until that is known; installs nothing.
    ///
    /// # Errors
    /// [`ModuleError::Refused`].
    pub fn inspect_script(&self, code: &str, now: Timestamp) -> Result<ModuleVersion, ModuleError> {
        let version = modules::text_version(code, now)?;
        self.handlers.check(&code.into()).map_err(|error| ModuleError::Refused(error.to_string()))?;
        Ok(version)
    }

    /// A WebAssembly component in the same way, if it can be run. Blocks while it is compiled.
    ///
    /// # Errors
    /// [`ModuleError::Refused`].
    #[cfg(feature = "wasm")]
    pub fn inspect_component(&self, component: &Bytes, now: Timestamp) -> Result<ModuleVersion, ModuleError> {
        let inspect = |digest: &str, component| self.components.inspect(digest, component);
        modules::component_version(component, now, inspect)
    }

    /// Refuses a WebAssembly component, which this server cannot run.
    ///
    /// # Errors
    /// [`ModuleError::Refused`], always.
    #[cfg(not(feature = "wasm"))]
    pub fn inspect_component(&self, component: &Bytes, now: Timestamp) -> Result<ModuleVersion, ModuleError> {
        modules::component_version(component, now, |_, _| Err(NOT_BUILT_IN.to_owned()))
    }

    /// Installs a WebAssembly component in the same way, if it can be run. Blocks while it is compiled.
    ///
    /// # Errors
    /// [`ModuleError`].
    #[cfg(feature = "wasm")]
    pub fn add_component(
        &self,
        own: &OrganisationId,
        name: &str,
        component: Bytes,
        now: Timestamp,
    ) -> Result<Arc<Module>, ModuleError> {
        let inspect = |digest: &str, component| self.components.inspect(digest, component);
        self.modules.of(own).add_component(name, component, now, inspect)
    }

    /// Refuses a WebAssembly component, which this server cannot run.
    ///
    /// # Errors
    /// [`ModuleError::Refused`], always.
    #[cfg(not(feature = "wasm"))]
    pub fn add_component(
        &self,
        _own: &OrganisationId,
        _name: &str,
        _component: Bytes,
        _now: Timestamp,
    ) -> Result<Arc<Module>, ModuleError> {
        Err(ModuleError::Refused(NOT_BUILT_IN.to_owned()))
    }

    /// Has the components compiled that these plugins run, in the background, so that their first messages need not wait for that.
    pub fn warm_up<'a>(&self, plugins: impl Iterator<Item = (&'a OrganisationId, &'a Plugin)>) {
        #[cfg(not(feature = "wasm"))]
        drop(plugins);
        #[cfg(feature = "wasm")]
        {
            let wanted =
                plugins.filter(|(_, plugin)| plugin.runs == Runs::Wasm).filter_map(|(organisation, plugin)| {
                    match &Prepared::of(plugin).program {
                        Ok(Program::Wasm(wasm)) => wasm.wanted(&self.modules.of(organisation)),
                        _ => None,
                    }
                });
            self.components.warm_up(wanted.collect());
        }
    }

    /// The installed modules of all organisations.
    pub fn modules(&self) -> &Installed {
        &self.modules
    }

    #[cfg(all(test, feature = "wasm"))]
    pub(crate) fn components(&self) -> &Components {
        &self.components
    }

    /// Databases that the operator has named.
    pub fn databases(&self) -> &Named {
        &self.limits.databases
    }

    /// The proxy that requests go by.
    pub fn proxy(&self) -> Option<&Proxy> {
        self.limits.proxy.as_ref()
    }

    /// TLS to databases.
    pub fn tls(&self) -> Tls {
        self.limits.tls.clone()
    }

    /// Whether a plugin can be run with these settings, a JSON object, for this organisation. Settings from the operator's own files may say
    /// `"trusted": true`, and then run any program; `operator` says that these are such.
    ///
    /// Blocks while a script is loaded.
    ///
    /// # Errors
    /// All that is wrong with them.
    pub fn check(
        &self,
        organisation: &OrganisationId,
        runs: Runs,
        settings: &Value,
        operator: bool,
    ) -> Result<(), Vec<Fault>> {
        if settings.get(TRUSTED).is_some() && !operator {
            return Err(vec![Fault::new(&[TRUSTED], "only the operator's own files can say this")]);
        }
        let Prepared { program, trusted } = Prepared::read(runs, settings.clone());
        let mut faults = Vec::new();
        match program {
            Err(fault) => faults.push(fault),
            Ok(Program::Javascript(script)) => {
                script.check(&self.handlers, &self.modules.of(organisation), &mut faults)
            }
            Ok(Program::Command(command)) => command.check(&self.limits.commands, trusted, &mut faults),
            Ok(Program::Sql(sql)) => sql.check(&self.limits.databases, trusted, &mut faults),
            Ok(Program::Notify(notify)) => notify.check(&self.limits.mail, &mut faults),
            Ok(Program::Queue(queue)) => queue.check(self.limits.proxy.as_ref(), &mut faults),
            #[cfg(feature = "wasm")]
            Ok(Program::Wasm(wasm)) => wasm.check(&self.modules.of(organisation), &mut faults),
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

impl Plugins {
    /// Reaches out by `client`, which must belong to this thread's runtime. `wall` is the wall clock, in Unix seconds.
    pub fn new(client: Client, shared: Arc<Shared>, wall: fn() -> i64) -> Self {
        let pools = Pools::new(shared.limits.tls.clone(), &shared.limits.tls_settings);
        let publishers = Publishers::new(client.clone(), wall);
        Plugins { client, pools, shared, bursts: Bursts::default(), publishers }
    }

    /// The server stops: what only waits for more to come is done at once.
    pub fn hurry(&self) {
        self.bursts.hurry();
    }

    /// Gives a message to a plugin of this organisation, for attempt `number` of the endpoint of this key. `in_flight` is told while it only waits.
    pub async fn run(
        &self,
        organisation: &OrganisationId,
        key: EndpointKey,
        plugin: &Plugin,
        message: &Message,
        number: AttemptNumber,
        in_flight: &dyn InFlight,
    ) -> Ran {
        let event = &Event::new(message, number);
        let prepared = Prepared::of(plugin);
        let Shared { limits, handlers, warden, modules, files, .. } = &*self.shared;
        let ran = match &prepared.program {
            Err(fault) => {
                let text =
                    format!("the settings of the plugin cannot be used: {}: {}", fault.path.join("."), fault.text);
                Ran::broken(FailureClass::Unsendable, text)
            }
            Ok(Program::Javascript(script)) => {
                script
                    .run(event, key, handlers, &modules.of(organisation), &limits.commands.environment, &self.client)
                    .await
            }
            Ok(Program::Command(command)) => command.run(event, &limits.commands, prepared.trusted, warden).await,
            Ok(Program::Sql(sql)) => sql.run(event, &limits.databases, files, &self.pools, &self.client).await,
            Ok(Program::Notify(notify)) => {
                let way = Way { mail: &limits.mail, client: &self.client };
                notify.run(event, key, &self.bursts, way, in_flight).await
            }
            Ok(Program::Queue(queue)) => queue.run(event, key, &self.publishers).await,
            #[cfg(feature = "wasm")]
            Ok(Program::Wasm(wasm)) => {
                let components = &self.shared.components;
                wasm.run(event, key, components, &modules.of(organisation), &limits.commands.environment, &self.client)
                    .await
            }
        };
        ran.checked()
    }
}

impl Prepared {
    fn of(plugin: &Plugin) -> Arc<Prepared> {
        plugin.prepared.get_or_make(|| {
            let settings = serde_json::from_str(plugin.settings.reveal()).unwrap_or_default();
            Prepared::read(plugin.runs, settings)
        })
    }

    fn read(runs: Runs, mut settings: Value) -> Prepared {
        let trusted = settings.as_object_mut().and_then(|members| members.remove(TRUSTED)) == Some(true.into());
        let program = match runs {
            Runs::Javascript => settings::read(&settings).map(Program::Javascript),
            Runs::Command => settings::read(&settings).map(Program::Command),
            Runs::Sql => settings::read(&settings).map(Program::Sql),
            Runs::Notify => Notify::read(&settings).map(Program::Notify),
            Runs::Queue => Queue::read(&settings).map(Program::Queue),
            #[cfg(feature = "wasm")]
            Runs::Wasm => settings::read(&settings).map(Program::Wasm),
            #[cfg(not(feature = "wasm"))]
            Runs::Wasm => Err(Fault::new(&["runs"], NOT_BUILT_IN)),
        };
        Prepared { program, trusted }
    }
}
