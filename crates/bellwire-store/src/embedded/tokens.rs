//! Registered tokens, and what takes others back: small tables, read whole at a start.

use super::codec::{self, integer};
use super::fault::Fault;
use super::message_log::array;
use crate::RecoveredTokens;
use bellwire_model::{
    ApiToken, ApplicationId, Cutoff, Fingerprint, Ksuid, Logout, OrganisationId, Scope, Timestamp, TokenChange, TokenId,
};
use rusqlite::{Connection, Row, params};
use std::sync::Arc;

const WHAT: &str = "a token";

pub(super) fn change(connection: &Connection, change: &TokenChange) -> Result<(), Fault> {
    match change {
        TokenChange::Put(token) => put(connection, token),
        TokenChange::Used(uses) => {
            let mut update = connection.prepare_cached("UPDATE api_token SET last_used_at = ?2 WHERE id = ?1")?;
            for (id, at) in uses {
                update.execute(params![id.0.as_bytes().as_slice(), at.as_micros()])?;
            }
            Ok(())
        }
        TokenChange::Logout(logout) => {
            connection
                .prepare_cached("INSERT OR REPLACE INTO token_logout VALUES (?1, ?2)")?
                .execute(params![logout.fingerprint.0.as_slice(), logout.until.as_micros()])?;
            Ok(())
        }
        TokenChange::Cut(cutoff) => {
            delete_cutoffs(connection, cutoff, "issued_before <= ?3 AND starts_at >= ?4")?;
            connection.prepare_cached("INSERT INTO token_cutoff VALUES (?1, ?2, ?3, ?4)")?.execute(columns(cutoff))?;
            Ok(())
        }
        TokenChange::ForgetToken(id) => {
            connection.prepare_cached("DELETE FROM api_token WHERE id = ?1")?.execute([id.0.as_bytes().as_slice()])?;
            Ok(())
        }
        TokenChange::ForgetLogout(fingerprint) => {
            connection
                .prepare_cached("DELETE FROM token_logout WHERE fingerprint = ?1")?
                .execute([fingerprint.0.as_slice()])?;
            Ok(())
        }
        TokenChange::ForgetCutoff(cutoff) => {
            delete_cutoffs(connection, cutoff, "issued_before = ?3 AND starts_at = ?4")
        }
    }
}

pub(super) fn read(connection: &Connection) -> Result<RecoveredTokens, Fault> {
    let mut tokens = RecoveredTokens::default();
    let mut statement = connection.prepare(
        "SELECT id, organisation, application, name, scopes, hint, created_at, expires_at, last_used_at FROM api_token",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        tokens.registered.push(Arc::new(token_from(row)?));
    }
    let mut statement = connection.prepare("SELECT fingerprint, until FROM token_logout")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let fingerprint = Fingerprint(array(row, 0)?);
        tokens.logouts.push(Logout { fingerprint, until: Timestamp::from_micros(row.get(1)?) });
    }
    let mut statement =
        connection.prepare("SELECT application, session, issued_before, starts_at FROM token_cutoff")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        tokens.cutoffs.push(Cutoff {
            application: ApplicationId(Ksuid::from_bytes(array(row, 0)?)),
            session: Some(row.get::<_, String>(1)?).filter(|session| !session.is_empty()),
            issued_before: codec::sequence(row.get(2)?),
            from: Timestamp::from_micros(row.get(3)?),
        });
    }
    Ok(tokens)
}

fn put(connection: &Connection, token: &ApiToken) -> Result<(), Fault> {
    let scopes: Vec<_> = token.scopes.iter().map(|scope| scope.name()).collect();
    connection
        .prepare_cached(
            "INSERT INTO api_token VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (id) DO UPDATE SET \
             organisation = ?2, application = ?3, name = ?4, scopes = ?5, hint = ?6, created_at = ?7, expires_at = ?8, \
             last_used_at = max(coalesce(last_used_at, ?9), coalesce(?9, last_used_at))",
        )?
        .execute(params![
            token.id.0.as_bytes().as_slice(),
            token.organisation.as_str(),
            token.application.as_ref().map(|application| application.0.as_bytes().as_slice()),
            token.name,
            codec::json(&scopes),
            token.hint,
            token.created_at.as_micros(),
            token.expires_at.map(Timestamp::as_micros),
            token.last_used_at.map(Timestamp::as_micros),
        ])?;
    Ok(())
}

fn token_from(row: &Row<'_>) -> Result<ApiToken, Fault> {
    let organisation: String = row.get(1)?;
    let application =
        match row.get_ref(2)?.as_blob_or_null().map_err(|error| Fault::damaged(WHAT, error.to_string()))? {
            None => None,
            Some(_) => Some(ApplicationId(Ksuid::from_bytes(array(row, 2)?))),
        };
    let scopes: Vec<String> = codec::from_json(WHAT, &row.get::<_, String>(4)?)?;
    let scope = |name: String| {
        name.parse::<Scope>()
            .map_err(|()| Fault::damaged(WHAT, format!("{name} is not a scope that this version knows")))
    };
    let time = |column| Ok::<_, Fault>(row.get::<_, Option<i64>>(column)?.map(Timestamp::from_micros));
    Ok(ApiToken {
        id: TokenId(Ksuid::from_bytes(array(row, 0)?)),
        organisation: OrganisationId::parse(&organisation)
            .ok_or_else(|| Fault::damaged(WHAT, format!("{organisation} is not an organisation")))?,
        application,
        name: row.get(3)?,
        scopes: scopes.into_iter().map(scope).collect::<Result<_, _>>()?,
        hint: row.get(5)?,
        created_at: Timestamp::from_micros(row.get(6)?),
        expires_at: time(7)?,
        last_used_at: time(8)?,
    })
}

fn delete_cutoffs(connection: &Connection, cutoff: &Cutoff, which: &str) -> Result<(), Fault> {
    let sql = format!("DELETE FROM token_cutoff WHERE application = ?1 AND session = ?2 AND {which}");
    connection.prepare_cached(&sql)?.execute(columns(cutoff))?;
    Ok(())
}

fn columns(cutoff: &Cutoff) -> (&[u8], &str, i64, i64) {
    let session = cutoff.session.as_deref().unwrap_or_default();
    (cutoff.application.0.as_bytes(), session, integer(cutoff.issued_before), cutoff.from.as_micros())
}
