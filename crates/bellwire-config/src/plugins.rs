//! `[plugins]`: what code at the receiving end may take, and what it may reach.

use super::{
    layers::Layers,
    value::{Expected, Read, Value, count, duration, list, memory, optional, path, words},
};
use bellwire_plugin::notify::Server;
use std::{collections::BTreeMap, ffi::OsString, path::PathBuf, time::Duration};

/// See `config.default.toml`, and [`bellwire_plugin::Limits`].
#[derive(Clone, Debug)]
pub struct Plugins {
    pub threads: usize,
    pub compute_max: Duration,
    pub memory_max: usize,
    pub commands: Vec<PathBuf>,
    /// DSNs by the names that endpoints know them by.
    pub databases: BTreeMap<String, String>,
    pub smtp: Option<Server>,
    command_environment: Vec<String>,
    /// What these variables are for this process.
    pub environment: BTreeMap<String, String>,
}

impl Plugins {
    pub(super) fn read(layers: &Layers) -> Plugins {
        const LONG: Duration = Duration::from_secs(5);
        Plugins {
            threads: layers.take("plugins.threads", count(2..=256)),
            compute_max: layers.take("plugins.compute_max", duration(Duration::from_millis(1)..=LONG)),
            memory_max: layers.take("plugins.memory_max", memory(1 << 20..=1 << 30)),
            commands: layers.take("plugins.commands", list(path)),
            databases: layers.take("plugins.databases", list(database)).into_iter().collect(),
            smtp: layers.take("plugins.smtp", optional("none", smtp)),
            command_environment: layers.take("plugins.command_environment", list(words)),
            environment: BTreeMap::new(),
        }
    }

    /// Takes of the environment what may be handed on.
    pub(super) fn take_environment(&mut self, environment: &[(OsString, OsString)]) {
        let text = |text: &OsString| text.to_str().map(str::to_owned);
        let named = environment.iter().filter_map(|(name, value)| Some((text(name)?, text(value)?)));
        self.environment = named.filter(|(name, _)| self.command_environment.contains(name)).collect();
    }
}

/// What is said of either never repeats the text: it may hold a password.
fn database(value: &Value) -> Read<(String, String)> {
    let text = words(value)?;
    let (name, dsn) = text.split_once('=').ok_or_else(|| Expected("name=postgres://… or name=sqlite:/…".to_owned()))?;
    let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(usual) {
        return Err(Expected("a name of letters, digits, - and _ before the =".to_owned()));
    }
    bellwire_plugin::sql::check_dsn(dsn)
        .map_err(|expected| Expected(expected.trim_start_matches("expected ").to_owned()))?;
    Ok((name.to_owned(), dsn.to_owned()))
}

fn smtp(value: &Value) -> Read<Server> {
    Server::parse(&words(value)?).map_err(|expected| Expected(expected.trim_start_matches("expected ").to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn databases_have_names_and_what_is_wrong_is_not_repeated() {
        let text = |text: &str| Value::Text(text.into());
        let read = database(&text("orders=postgres://u:p=1@db/orders?sslmode=require")).ok();
        assert_eq!(read, Some(("orders".into(), "postgres://u:p=1@db/orders?sslmode=require".into())));
        assert!(database(&text("local=sqlite:/var/lib/shop.db")).is_ok());
        assert!(smtp(&text("smtp+starttls://u:p%40@mail.example.com")).is_ok());
        for wrong in
            ["postgres://u:hunter2@h/d", "a b=postgres://u:hunter2@h/d", "a=mysql://u:hunter2@h", "a=sqlite:relative"]
        {
            let Err(Expected(what)) = database(&text(wrong)) else { panic!("{wrong}") };
            assert!(!what.contains("hunter2"), "{what}");
        }
        assert!(smtp(&text("http://u:hunter2@h")).is_err_and(|Expected(what)| !what.contains("hunter2")));
    }
}
