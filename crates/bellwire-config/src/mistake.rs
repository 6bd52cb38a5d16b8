//! What is wrong with the settings: all of it at once, each mistake with its place and with what would be right.

use std::{fmt, path::Path, sync::Arc};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `config.default.toml`.
    Default,
    /// The user's file.
    File {
        /// As it was named.
        path: Arc<Path>,
        /// From 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A command-line flag, dashes included.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("config.default.toml"),
            Origin::File { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Variable(name) => f.write_str(name),
            Origin::Flag(name) => f.write_str(name),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Of which setting, `section.name`, if it is known.
    pub setting: Option<String>,
    /// Where.
    pub origin: Origin,
    /// What, and what would be right. Never a secret.
    pub problem: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.setting {
            Some(setting) => write!(f, "{} ({setting}): {}", self.origin, self.problem),
            None => write!(f, "{}: {}", self.origin, self.problem),
        }
    }
}

/// Everything that is wrong; never empty. Nothing was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [only] => write!(f, "a setting cannot be used: {only}"),
            all => {
                write!(f, "{} settings cannot be used:", all.len())?;
                all.iter().try_for_each(|mistake| write!(f, "\n  {mistake}"))
            }
        }
    }
}

impl std::error::Error for Mistakes {}

/// Which of `known` somebody may have meant by `name`: a clause to append, or nothing.
pub fn did_you_mean<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let cost = |candidate: &str| {
        let moved = name.contains('.') && last(candidate) == last(name);
        if moved { 1 } else { distance(name, candidate) }
    };
    match known.map(|candidate| (cost(candidate), candidate)).min() {
        Some((cost, candidate)) if cost <= 2.max(name.len() / 5) => format!("; did you mean {candidate}?"),
        _ => String::new(),
    }
}

/// How many letters must be changed, added or left out to make one of the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["server.listen", "delivery.timeout", "egress.allow"];
        let ask = |name| did_you_mean(name, known.into_iter());
        assert_eq!(ask("server.lsten"), "; did you mean server.listen?");
        assert_eq!(ask("server.timeout"), "; did you mean delivery.timeout?");
        assert_eq!(ask("egres.alow"), "; did you mean egress.allow?");
        assert_eq!(ask("kafka.brokers"), "");
    }

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("a", "", 1), ("kitten", "sitting", 3), ("abc", "abc", 0)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
