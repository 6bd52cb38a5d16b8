//! What is known about tokens, held in memory whole, so that a request is checked without a query.
//!
//! Part of the [`Catalogue`](crate::Catalogue): filled at a start, changed with each commit that changes it. It is bounded by the
//! limits here, which whoever makes new entries asks first, and by [`TokenRegister::owed`], which says what may be
//! forgotten. The last use of a registered token is noted in memory at each request, and written down with the rest of
//! what is owed, now and then.

use bellwire_model::{
    ApiToken, ApplicationId, Cutoff, Fingerprint, OrganisationId, Sequence, Timestamp, TokenChange, TokenId,
};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// So many registered tokens an organisation can have, ended ones that are still listed included.
const TOKENS_PER_ORGANISATION_MAX: usize = 10_000;
/// So many tokens can be taken back one by one and not have ended by themselves yet.
const LOGOUTS_MAX: usize = 250_000;
/// So many cutoffs there can be, of all applications and sessions together,
const CUTOFFS_MAX: usize = 250_000;
/// and so many of one application or session.
const CUTOFFS_OF_ONE_MAX: usize = 32;
/// A registered token that has ended is listed so long.
const LISTED_AFTER_END: Duration = Duration::from_secs(30 * 24 * 3600);
/// A token with a session lives no longer than this, so a cutoff for a session need not, either.
const SESSION_MAX: Duration = Duration::from_secs(8 * 24 * 3600);

/// What a token says about itself, as its signature proves it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// It claims to be registered under this id.
    pub registered: Option<TokenId>,
    /// The application that it is limited to.
    pub application: Option<ApplicationId>,
    /// The session that it belongs to.
    pub session: Option<String>,
    /// When it was issued; zero if it does not say.
    pub issued: Sequence,
    /// What it is known by if it is not registered.
    pub fingerprint: Fingerprint,
}

/// Why a token that proves itself is refused all the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TakenBack {
    /// It says that it is registered, and is not, or not any more.
    Unknown,
    /// It was registered until now.
    Expired,
    /// It was logged out, or expired with the others of its application.
    LoggedOut,
}

/// A registered token and its last use.
#[derive(Debug)]
pub struct Registered {
    /// Its row.
    pub token: ApiToken,
    /// In microseconds; 0 for never.
    used: AtomicI64,
}

impl Registered {
    /// Notes a use, in memory.
    pub fn use_at(&self, now: Timestamp) {
        // A store only if it tells something new keeps the line shared between cores.
        if now.as_micros().saturating_sub(self.used.load(Ordering::Relaxed)) >= 1_000_000 {
            self.used.fetch_max(now.as_micros(), Ordering::Relaxed);
        }
    }

    /// When it was last used, to the second.
    pub fn last_used_at(&self) -> Option<Timestamp> {
        Some(self.used.load(Ordering::Relaxed)).filter(|at| *at != 0).map(Timestamp::from_micros)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub struct TokenRegister {
    tokens: HashMap<TokenId, Arc<Registered>>,
    of_organisation: BTreeSet<(OrganisationId, TokenId)>,
    logouts: HashMap<Fingerprint, Timestamp>,
    cutoffs: HashMap<ApplicationId, Vec<Cutoff>>,
    cutoff_count: usize,
}

impl TokenRegister {
    /// Whether a token is good at `now`. Answers its row if it is registered.
    ///
    /// # Errors
    /// Why not.
    pub fn standing(&self, token: &Credential, now: Timestamp) -> Result<Option<&Arc<Registered>>, TakenBack> {
        if let Some(id) = token.registered {
            let registered = self.tokens.get(&id).ok_or(TakenBack::Unknown)?;
            if registered.token.expires_at.is_some_and(|end| end <= now) {
                return Err(TakenBack::Expired);
            }
            return Ok(Some(registered));
        }
        if !self.logouts.is_empty() && self.logouts.contains_key(&token.fingerprint) {
            return Err(TakenBack::LoggedOut);
        }
        if let Some(application) = token.application
            && let Some(cutoffs) = self.cutoffs.get(&application)
            && cutoffs.iter().any(|cutoff| stops(cutoff, token, now))
        {
            return Err(TakenBack::LoggedOut);
        }
        Ok(None)
    }

    /// A registered token of `organisation`.
    pub fn find(&self, organisation: &OrganisationId, id: TokenId) -> Option<&Arc<Registered>> {
        self.tokens.get(&id).filter(|registered| registered.token.organisation == *organisation)
    }

    /// The registered tokens of an organisation by rising id, which is the order in which they were made.
    pub fn of_organisation<'a>(
        &'a self,
        organisation: &OrganisationId,
    ) -> impl DoubleEndedIterator<Item = &'a Arc<Registered>> + use<'a> {
        let id = |byte| TokenId(bellwire_model::Ksuid::from_bytes([byte; 20]));
        let range = (organisation.clone(), id(0))..=(organisation.clone(), id(0xff));
        self.of_organisation.range(range).filter_map(|(_, id)| self.tokens.get(id))
    }

    /// Whether one more token can be registered.
    pub fn has_room_for_token(&self, organisation: &OrganisationId) -> bool {
        self.of_organisation(organisation).count() < TOKENS_PER_ORGANISATION_MAX
    }

    /// Whether one more token can be taken back by itself.
    pub fn has_room_for_logout(&self) -> bool {
        self.logouts.len() < LOGOUTS_MAX
    }

    /// Whether `cutoff` can be added. One that takes effect at once always can, if it is not about a session: it covers others.
    pub fn has_room_for_cutoff(&self, cutoff: &Cutoff, more: usize) -> bool {
        let of_application = self.cutoffs.get(&cutoff.application).into_iter().flatten();
        let of_one = of_application.filter(|c| c.session == cutoff.session && !cutoff.covers(c)).count();
        of_one < CUTOFFS_OF_ONE_MAX && (self.cutoff_count + more <= CUTOFFS_MAX || cutoff.session.is_none())
    }

    /// Brings the register up to a durable change.
    pub fn apply(&mut self, change: &TokenChange) {
        match change {
            TokenChange::Put(token) => self.put(token),
            TokenChange::Used(uses) => {
                for (id, at) in uses {
                    let Some(registered) = self.tokens.get_mut(id) else { continue };
                    let token = ApiToken { last_used_at: Some(*at), ..registered.token.clone() };
                    let used = AtomicI64::new(registered.used.load(Ordering::Relaxed).max(at.as_micros()));
                    *registered = Arc::new(Registered { token, used });
                }
            }
            TokenChange::Logout(logout) => drop(self.logouts.insert(logout.fingerprint, logout.until)),
            TokenChange::Cut(cutoff) => {
                self.forget_cutoffs(cutoff.application, |old| cutoff.covers(old));
                self.cutoffs.entry(cutoff.application).or_default().push(cutoff.clone());
                self.cutoff_count += 1;
            }
            TokenChange::ForgetToken(id) => {
                if let Some(registered) = self.tokens.remove(id) {
                    self.of_organisation.remove(&(registered.token.organisation.clone(), *id));
                }
            }
            TokenChange::ForgetLogout(fingerprint) => drop(self.logouts.remove(fingerprint)),
            TokenChange::ForgetCutoff(cutoff) => self.forget_cutoffs(cutoff.application, |old| old == cutoff),
        }
    }

    /// What is to be written down at `now`: last uses, and what may be forgotten. At most `max` changes.
    pub fn owed(&self, now: Timestamp, exists: impl Fn(ApplicationId) -> bool, max: usize) -> Vec<TokenChange> {
        let mut uses = Vec::new();
        let mut owed = Vec::new();
        for (id, registered) in &self.tokens {
            let token = &registered.token;
            let gone = token.application.is_some_and(|application| !exists(application));
            if gone || token.expires_at.is_some_and(|end| end.plus(LISTED_AFTER_END) <= now) {
                owed.push(TokenChange::ForgetToken(*id));
            } else if let Some(used) = registered.last_used_at()
                && token.last_used_at.is_none_or(|written| written < used)
            {
                uses.push((*id, used));
            }
        }
        let ended = self.logouts.iter().filter(|(_, until)| **until <= now);
        owed.extend(ended.map(|(fingerprint, _)| TokenChange::ForgetLogout(*fingerprint)));
        for (application, cutoffs) in &self.cutoffs {
            let in_effect = |c: &&Cutoff| c.from <= now;
            for cutoff in cutoffs {
                let newer =
                    |other: &Cutoff| other.session == cutoff.session && other.issued_before > cutoff.issued_before;
                let session_over = cutoff.session.is_some() && cutoff.from.plus(SESSION_MAX) <= now;
                let replaced = cutoff.from <= now && cutoffs.iter().filter(in_effect).any(newer);
                if !exists(*application) || session_over || replaced {
                    owed.push(TokenChange::ForgetCutoff(cutoff.clone()));
                }
            }
        }
        owed.truncate(max);
        if !uses.is_empty() {
            uses.sort_unstable();
            owed.push(TokenChange::Used(uses));
        }
        owed
    }

    fn put(&mut self, token: &Arc<ApiToken>) {
        let known = self.tokens.get(&token.id).and_then(|before| before.last_used_at());
        let last = known.max(token.last_used_at).map_or(0, Timestamp::as_micros);
        let registered = Registered { token: ApiToken::clone(token), used: AtomicI64::new(last) };
        self.of_organisation.insert((token.organisation.clone(), token.id));
        self.tokens.insert(token.id, Arc::new(registered));
    }

    fn forget_cutoffs(&mut self, application: ApplicationId, which: impl Fn(&Cutoff) -> bool) {
        let Some(cutoffs) = self.cutoffs.get_mut(&application) else { return };
        let before = cutoffs.len();
        cutoffs.retain(|cutoff| !which(cutoff));
        self.cutoff_count -= before - cutoffs.len();
        if cutoffs.is_empty() {
            self.cutoffs.remove(&application);
        }
    }
}

fn stops(cutoff: &Cutoff, token: &Credential, now: Timestamp) -> bool {
    cutoff.from <= now
        && token.issued < cutoff.issued_before
        && cutoff.session.as_ref().is_none_or(|session| token.session.as_ref() == Some(session))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{Logout, Scope};

    fn application(n: u8) -> ApplicationId {
        ApplicationId::from_parts(Sequence::ZERO, [n; 12])
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_seconds(1_800_000_000 + seconds)
    }

    fn credential(issued: i64, session: Option<&str>) -> Credential {
        Credential {
            registered: None,
            application: Some(application(1)),
            session: session.map(str::to_owned),
            issued: Sequence::first_at(at(issued)),
            fingerprint: Fingerprint([1; 32]),
        }
    }

    fn cutoff(before: i64, from: i64, session: Option<&str>) -> Cutoff {
        Cutoff {
            application: application(1),
            session: session.map(str::to_owned),
            issued_before: Sequence::first_at(at(before)),
            from: at(from),
        }
    }

    fn token(n: u8) -> ApiToken {
        ApiToken {
            id: TokenId::from_parts(Sequence::from_u64(u64::from(n)), [n; 12]),
            organisation: OrganisationId::parse("org_x").expect("an organisation"),
            application: None,
            name: None,
            scopes: vec![Scope::Full],
            hint: "abcd".to_owned(),
            created_at: at(0),
            expires_at: None,
            last_used_at: None,
        }
    }

    #[test]
    fn a_cutoff_stops_what_was_issued_before_and_nothing_else() {
        let mut register = TokenRegister::default();
        register.apply(&TokenChange::Cut(cutoff(10, 70, None)));
        let refused = |register: &TokenRegister, token: &Credential, now| register.standing(token, at(now)).is_err();
        assert!(!refused(&register, &credential(5, None), 69), "not before its time");
        assert!(refused(&register, &credential(5, None), 70));
        assert!(!refused(&register, &credential(10, None), 70), "issued afterwards");
        let other = Credential { application: Some(application(2)), ..credential(5, None) };
        assert!(!refused(&register, &other, 70));
        let organisation = Credential { application: None, ..credential(5, None) };
        assert!(!refused(&register, &organisation, 70));
        // A later, milder one does not undo it, and both hold.
        register.apply(&TokenChange::Cut(cutoff(20, 500, None)));
        assert!(refused(&register, &credential(5, None), 70) && !refused(&register, &credential(15, None), 70));
        assert!(refused(&register, &credential(15, None), 500));
    }

    #[test]
    fn a_session_ends_alone() {
        let mut register = TokenRegister::default();
        register.apply(&TokenChange::Cut(cutoff(10, 10, Some("a"))));
        assert_eq!(register.standing(&credential(5, Some("a")), at(10)).err(), Some(TakenBack::LoggedOut));
        assert!(register.standing(&credential(5, Some("b")), at(10)).is_ok());
        assert!(register.standing(&credential(5, None), at(10)).is_ok());
    }

    #[test]
    fn what_no_token_can_need_any_more_is_owed_to_be_forgotten() {
        let mut register = TokenRegister::default();
        let logout = Logout { fingerprint: Fingerprint([1; 32]), until: at(100) };
        register.apply(&TokenChange::Logout(logout));
        register.apply(&TokenChange::Cut(cutoff(10, 10, None)));
        register.apply(&TokenChange::Cut(cutoff(20, 30, None)));
        register.apply(&TokenChange::Cut(cutoff(20, 30, Some("s"))));
        register.apply(&TokenChange::Put(Arc::new(ApiToken { expires_at: Some(at(50)), ..token(1) })));
        let all = |_| true;
        assert_eq!(register.owed(at(29), all, 100), []);
        let first = TokenChange::ForgetCutoff(cutoff(10, 10, None));
        assert_eq!(register.owed(at(30), all, 100), [first], "the second has taken its place");
        let month = 31 * 24 * 3600;
        let owed = register.owed(at(month), all, 100);
        assert_eq!(owed.len(), 4, "{owed:?}");
        owed.iter().for_each(|change| register.apply(change));
        assert_eq!(register.owed(at(month), all, 100), []);
        assert!(register.standing(&credential(15, None), at(month)).is_err(), "an application's cutoff stays");
        let gone = register.owed(at(month), |_| false, 100);
        gone.iter().for_each(|change| register.apply(change));
        assert_eq!((register.cutoff_count, register.cutoffs.len(), register.tokens.len()), (0, 0, 0));
    }

    #[test]
    fn a_use_is_seen_at_once_and_owed_once() {
        let mut register = TokenRegister::default();
        register.apply(&TokenChange::Put(Arc::new(token(1))));
        let credential = Credential { registered: Some(token(1).id), application: None, ..credential(0, None) };
        register.standing(&credential, at(1)).expect("it is good").expect("it is registered").use_at(at(1));
        assert_eq!(register.tokens[&token(1).id].last_used_at(), Some(at(1)));
        let owed = register.owed(at(2), |_| true, 100);
        assert_eq!(owed, [TokenChange::Used(vec![(token(1).id, at(1))])]);
        owed.iter().for_each(|change| register.apply(change));
        assert_eq!(register.owed(at(2), |_| true, 100), []);
        // Replacing the row, as an edit does, loses no use.
        register.tokens[&token(1).id].use_at(at(9));
        register.apply(&TokenChange::Put(Arc::new(ApiToken { expires_at: Some(at(20)), ..token(1) })));
        assert_eq!(register.tokens[&token(1).id].last_used_at(), Some(at(9)));
        assert_eq!(register.standing(&credential, at(20)).err(), Some(TakenBack::Expired));
        register.apply(&TokenChange::ForgetToken(token(1).id));
        assert_eq!(register.standing(&credential, at(1)).err(), Some(TakenBack::Unknown));
        assert_eq!(register.of_organisation(&token(1).organisation).count(), 0);
    }
}
