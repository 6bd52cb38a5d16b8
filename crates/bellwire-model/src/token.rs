//! Tokens that can be taken back.
//!
//! A token is a signed text and proves itself; what is kept is what the text cannot say. Of a *registered* token that is a
//! row: its name, its scopes, when it ends, when it was last used. Of every other token (those of Svix, those of a
//! portal) nothing is kept until it is taken back: by itself ([`Logout`]), or with all others of its application that
//! were issued before some moment ([`Cutoff`]).

use crate::application::OrganisationId;
use crate::clock::Timestamp;
use crate::id::{ApplicationId, Sequence, TokenId};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// What a registered token may do; several add up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Scope {
    /// Everything that its principal may.
    Full,
    /// See everything but secrets, change nothing.
    ReadOnly,
    /// Create messages, and see nothing.
    SendOnly,
}

impl Scope {
    /// All of them.
    pub const ALL: [Scope; 3] = [Scope::Full, Scope::ReadOnly, Scope::SendOnly];

    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Scope::Full => "full",
            Scope::ReadOnly => "read-only",
            Scope::SendOnly => "send-only",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Scope::ALL.into_iter().find(|scope| scope.name() == text).ok_or(())
    }
}

/// A registered token, without its text: that is shown once, when it is made.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiToken {
    /// Its id; the text carries it as `jti`.
    pub id: TokenId,
    /// Whose data it is about.
    pub organisation: OrganisationId,
    /// The only application that it is good for, if there is one.
    pub application: Option<ApplicationId>,
    /// For people.
    pub name: Option<String>,
    /// What it may do; never empty.
    pub scopes: Vec<Scope>,
    /// The last characters of its text, by which people recognise it.
    pub hint: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends or ended; never if absent. A token is taken back by moving this.
    pub expires_at: Option<Timestamp>,
    /// When it was last used, as far as that has been written down.
    pub last_used_at: Option<Timestamp>,
}

/// SHA-256 of what a token's signature covers: the same for every spelling of one token, and for no other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// One unregistered token that was taken back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Logout {
    /// Of the token.
    pub fingerprint: Fingerprint,
    /// When it would have ended by itself; afterwards nobody need remember this.
    pub until: Timestamp,
}

/// All unregistered tokens of an application, or of one of its sessions, that were issued before a moment.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cutoff {
    /// Whose tokens.
    pub application: ApplicationId,
    /// Only those of this session.
    pub session: Option<String>,
    /// Only those issued before this.
    pub issued_before: Sequence,
    /// From when on they are refused.
    pub from: Timestamp,
}

impl Cutoff {
    /// Whether `other` adds nothing to this: it is about the same tokens, or fewer, and takes effect no earlier.
    pub fn covers(&self, other: &Cutoff) -> bool {
        self.application == other.application
            && self.session == other.session
            && self.issued_before >= other.issued_before
            && self.from <= other.from
    }
}

/// A change of what is kept about tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TokenChange {
    /// Registers or replaces. What is kept of its last use stays, if it is later.
    Put(Arc<ApiToken>),
    /// Notes when registered tokens were last used, and nothing else of their rows.
    Used(Vec<(TokenId, Timestamp)>),
    /// Takes one back.
    Logout(Logout),
    /// Takes many back. What it covers is forgotten.
    Cut(Cutoff),
    /// Forgets a registered token, which is then refused as unknown.
    ForgetToken(TokenId),
    /// Forgets that a token was taken back; it has ended by itself.
    ForgetLogout(Fingerprint),
    /// Forgets exactly this.
    ForgetCutoff(Cutoff),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_its_name() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
        }
        assert_eq!("Full".parse::<Scope>(), Err(()));
    }

    #[test]
    fn a_cutoff_covers_what_is_milder() {
        let cutoff = |session: Option<&str>, before, from| Cutoff {
            application: ApplicationId::from_parts(Sequence::ZERO, [0; 12]),
            session: session.map(str::to_owned),
            issued_before: Sequence::from_u64(before),
            from: Timestamp::from_seconds(from),
        };
        let strict = cutoff(None, 10, 5);
        assert!(strict.covers(&strict) && strict.covers(&cutoff(None, 9, 6)));
        for other in [cutoff(None, 11, 6), cutoff(None, 9, 4), cutoff(Some("s"), 9, 6)] {
            assert!(!strict.covers(&other), "{other:?}");
        }
    }
}
