//! A change of configuration: from reading the catalogue to the commit, one at a time, and kept under its idempotency key.
//!
//! Since edits are one at a time, equal requests at the same moment need no waiting room: the second one finds the
//! answer of the first. Handlers that edit run on a task of their own ([`crate::operation`]), so that a client that
//! hangs up does not let the next edit begin before this one is in the catalogue.

use crate::Api;
use crate::error::{self, Error};
use crate::idempotency::{KEPT_FOR, Once};
use axum::response::Response;
use bellwire_store::{Change, KeptAnswer};
use bytes::Bytes;
use http::StatusCode;
use serde::Serialize;
use tokio::sync::MutexGuard;

/// What a request with an idempotency key finds.
pub(crate) enum Begun<'a> {
    /// It is new.
    New(Edit<'a>),
    /// It was done before; this was the answer.
    Kept(Response),
}

/// Holds the lock on configuration.
pub(crate) struct Edit<'a> {
    api: &'a Api,
    once: Option<Once>,
    changes: Vec<Change>,
    _one_at_a_time: MutexGuard<'a, ()>,
}

impl Api {
    /// Begins an edit that no idempotency key belongs to.
    pub(crate) async fn edit(&self) -> Edit<'_> {
        let guard = self.backend().configuration().lock().await;
        Edit { api: self, once: None, changes: Vec::new(), _one_at_a_time: guard }
    }

    /// Begins an edit, unless it was done before.
    ///
    /// # Errors
    /// 409 if its key was used with another body.
    pub(crate) async fn edit_once(&self, once: Option<Once>) -> Result<Begun<'_>, Error> {
        let edit = Edit { once, ..self.edit().await };
        let Some(Once { key, digest }) = once else { return Ok(Begun::New(edit)) };
        let now = self.backend().now();
        match self.read(move |store| store.find_answer(key, now)).await? {
            None => Ok(Begun::New(edit)),
            Some(kept) if kept.digest != digest => Err(Error::key_reused()),
            Some(kept) => {
                let status = StatusCode::from_u16(kept.status)
                    .map_err(|_| Error::Internal(format!("a kept answer has the status {}", kept.status)))?;
                Ok(Begun::Kept(answer(status, kept.body)))
            }
        }
    }
}

impl Edit<'_> {
    /// Adds a change; all become durable together.
    pub(crate) fn put(&mut self, change: Change) {
        self.changes.push(change);
    }

    /// Commits, and answers.
    pub(crate) async fn answer<T: Serialize>(self, status: StatusCode, value: &T) -> Result<Response, Error> {
        let body = serde_json::to_vec(value)
            .map_err(|error| Error::Internal(format!("an answer could not be written: {error}")))?;
        self.finish(status, body.into()).await
    }

    /// As [`Edit::answer`], for an answer that must not be stored: what is kept instead is `kept`, from which whoever
    /// finds it makes the answer again.
    pub(crate) async fn answer_keeping<T: Serialize>(
        self,
        status: StatusCode,
        value: &T,
        kept: &impl Serialize,
    ) -> Result<Response, Error> {
        let kept = serde_json::to_vec(kept)
            .map_err(|error| Error::Internal(format!("an answer could not be written: {error}")))?;
        self.finish(status, kept.into()).await?;
        Ok(error::json(status, value))
    }

    /// Commits, and answers 204.
    pub(crate) async fn no_content(self) -> Result<Response, Error> {
        self.finish(StatusCode::NO_CONTENT, Bytes::new()).await
    }

    async fn finish(mut self, status: StatusCode, body: Bytes) -> Result<Response, Error> {
        if let Some(Once { key, digest }) = self.once {
            let expires_at = self.api.backend().now().plus(KEPT_FOR);
            let kept = KeptAnswer { key, digest, status: status.as_u16(), body: body.clone(), expires_at };
            self.changes.push(Change::KeepAnswer(kept));
        }
        if !self.changes.is_empty() {
            self.api.backend().change(std::mem::take(&mut self.changes)).await?;
        }
        Ok(answer(status, body))
    }
}

fn answer(status: StatusCode, body: Bytes) -> Response {
    if status == StatusCode::NO_CONTENT {
        let mut answer = Response::default();
        *answer.status_mut() = status;
        return answer;
    }
    error::bytes(status, body)
}
