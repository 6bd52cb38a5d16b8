//! An operation of the API, declared once: its route, who may call it, and how it is documented.
//!
//! There is no way to declare one without saying who may call it.

use crate::Api;
use crate::call::{Call, Unchecked};
use crate::document::{JsonSchema, SchemaOf, named, whole};
use crate::error::Error;
use crate::permission::Permission;
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use http::Method;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Who may call an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// The organisation only; 403 for an application's token.
    Organisation,
    /// The organisation, and a registered token of the application of the path; 403 for its portal's.
    Sender,
    /// The organisation, and the application of the path; 404 for another's token.
    Application,
    /// Every valid token; the handler shows each what it may see.
    Reader,
}

impl Access {
    /// As the document has it, in `x-access`.
    #[cfg(feature = "document")]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Access::Organisation => "organisation",
            Access::Sender => "sender",
            Access::Application => "application",
            Access::Reader => "reader",
        }
    }
}

/// See the module.
#[cfg_attr(not(feature = "document"), expect(dead_code, reason = "the document reads what describes it"))]
pub(crate) struct Operation {
    pub(crate) method: Method,
    pub(crate) path: &'static str,
    pub(crate) access: Option<Access>,
    pub(crate) route: MethodRouter<Api>,
    pub(crate) id: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) queries: Vec<SchemaOf>,
    pub(crate) event_types: bool,
    pub(crate) body: Option<SchemaOf>,
    pub(crate) body_required: bool,
    pub(crate) answers: Vec<(u16, Option<SchemaOf>)>,
}

impl Operation {
    /// One that may be given up when its client hangs up.
    pub(crate) fn new<F, R>(method: Method, path: &'static str, access: Access, handler: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, Error>> + Send + 'static,
    {
        let needed = Permission::of(&method, path);
        let route = looking(&method, access, needed, Arc::new(move |call| Box::pin(handler(call))));
        Self::with_route(method, path, Some(access), route)
    }

    /// One that changes configuration: it runs to its end even if its client hangs up.
    pub(crate) fn editing<F, R>(method: Method, path: &'static str, access: Access, handler: F) -> Self
    where
        F: Fn(Call) -> R + Send + Sync + 'static,
        R: Future<Output = Result<Response, Error>> + Send + 'static,
    {
        let needed = Permission::of(&method, path);
        let route = editing(&method, access, needed, Arc::new(move |call| Box::pin(handler(call))));
        Self::with_route(method, path, Some(access), route)
    }

    /// One without a token.
    pub(crate) fn open<F, R>(method: Method, path: &'static str, handler: F) -> Self
    where
        F: Fn(Api) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Response, Error>> + Send,
    {
        let route = on(filter(&method), move |axum::extract::State(api): axum::extract::State<Api>| handler(api));
        Self::with_route(method, path, None, route)
    }

    fn with_route(method: Method, path: &'static str, access: Option<Access>, route: MethodRouter<Api>) -> Self {
        Operation {
            method,
            path,
            access,
            route,
            id: "",
            tag: "",
            summary: "",
            queries: Vec::new(),
            event_types: false,
            body: None,
            body_required: true,
            answers: Vec::new(),
        }
    }

    /// Its id as SDK generators know it, its tag, and what it does.
    pub(crate) fn described(mut self, id: &'static str, tag: &'static str, summary: &'static str) -> Self {
        (self.id, self.tag, self.summary) = (id, tag, summary);
        self
    }

    /// Takes the members of `T` in its query.
    pub(crate) fn query<T: JsonSchema>(mut self) -> Self {
        self.queries.push(whole::<T>());
        self
    }

    /// Takes `event_types` in its query, in all the ways that a list can be written there.
    pub(crate) fn filters_event_types(mut self) -> Self {
        self.event_types = true;
        self
    }

    /// Takes a `T` as its body, or no body at all.
    pub(crate) fn body_or_nothing<T: JsonSchema>(mut self) -> Self {
        self.body_required = false;
        self.body::<T>()
    }

    /// Takes a `T` as its body.
    pub(crate) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(named::<T>());
        self
    }

    /// Answers a `T`.
    pub(crate) fn answers<T: JsonSchema>(mut self, status: u16) -> Self {
        self.answers.push((status, Some(named::<T>())));
        self
    }

    /// Answers without a body.
    pub(crate) fn answers_nothing(mut self, status: u16) -> Self {
        self.answers.push((status, None));
        self
    }
}

/// A handler behind a pointer: what is around it is compiled once, not once for each of two hundred operations.
type Handling = Arc<dyn Fn(Call) -> Answering + Send + Sync>;
type Answering = Pin<Box<dyn Future<Output = Result<Response, Error>> + Send>>;

fn looking(method: &Method, access: Access, needed: Permission, handler: Handling) -> MethodRouter<Api> {
    on(filter(method), move |unchecked: Unchecked| {
        let handler = Arc::clone(&handler);
        async move { handler(unchecked.check(access, needed)?).await }
    })
}

fn editing(method: &Method, access: Access, needed: Permission, handler: Handling) -> MethodRouter<Api> {
    on(filter(method), move |unchecked: Unchecked| {
        let handler = Arc::clone(&handler);
        async move {
            match tokio::spawn(handler(unchecked.check(access, needed)?)).await {
                Ok(answer) => answer,
                Err(error) => Err(Error::Internal(format!("a handler ended: {error}"))),
            }
        }
    })
}

/// GET serves HEAD as well.
pub(crate) fn filter(method: &Method) -> MethodFilter {
    MethodFilter::try_from(method.clone()).expect("operations have one of the methods of RFC 9110 or PATCH")
}
