//! The event catalogue for those who receive: as an OpenAPI and as an AsyncAPI document.

use crate::call::Call;
use crate::catalogue_document as document;
use crate::error::{self, Error};
use crate::event_type::visible;
use crate::message::AnyObject;
use crate::operation::{Access, Operation};
use axum::response::Response;
use bellwire_model::EventType;
use http::{Method, StatusCode};
use serde_json::Value;
use std::sync::Arc;

const TAG: &str = "Event Type";

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/api/v1/event-type/export/openapi", Access::Reader, openapi)
            .described(
                "v1.event-type.openapi",
                TAG,
                "The event types that the token may see and that are not archived, as the `webhooks` of an OpenAPI 3.1 document, each with its newest \
                 schema and a sample.",
            )
            .answers::<AnyObject>(200),
        Operation::new(Method::GET, "/api/v1/event-type/export/asyncapi", Access::Reader, asyncapi)
            .described(
                "v1.event-type.asyncapi",
                TAG,
                "The event types that the token may see and that are not archived, as the messages of an AsyncAPI 3 document, each with its newest \
                 schema and a sample.",
            )
            .answers::<AnyObject>(200),
    ]
}

async fn openapi(call: Call) -> Result<Response, Error> {
    written(&call, document::openapi).await
}

async fn asyncapi(call: Call) -> Result<Response, Error> {
    written(&call, document::asyncapi).await
}

async fn written(call: &Call, write: fn(&[Arc<EventType>]) -> Value) -> Result<Response, Error> {
    let all: Vec<Arc<EventType>> = {
        let catalogue = call.api.backend().catalogue().read();
        let all = catalogue.event_types_of(call.principal.organisation());
        all.filter(|event_type| !event_type.archived && visible(&call.principal, event_type)).cloned().collect()
    };
    // A large catalogue takes its time.
    let document = tokio::task::spawn_blocking(move || write(&all)).await;
    let document = document.map_err(|error| Error::Internal(format!("writing a document ended: {error}")))?;
    Ok(error::json(StatusCode::OK, &document))
}
