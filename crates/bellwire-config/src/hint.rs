//! What went wrong, with what to do about it.

use std::fmt;

/// What went wrong, with what to do about it: a context for an error.
#[derive(Debug)]
pub struct Hint {
    what: String,
    hint: String,
}

impl Hint {
    /// `what` is the error's own clause, `hint` what the user could do.
    pub fn new(what: impl Into<String>, hint: impl Into<String>) -> Hint {
        Hint { what: what.into(), hint: hint.into() }
    }

    /// What the user could do.
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Hint {}
