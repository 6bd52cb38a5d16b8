//! Whether the server can accept: for load balancers, without a token.

use crate::Api;
use crate::error::Error;
use crate::operation::Operation;
use axum::response::Response;
use http::{Method, StatusCode};

const TAG: &str = "Health";

pub(crate) fn operations() -> Vec<Operation> {
    vec![
        Operation::open(Method::GET, "/api/v1/health", ready)
            .described("v1.health.get", TAG, "Verify the API server is up and running, and can store.")
            .answers_nothing(204),
        Operation::open(Method::GET, "/api/v1/health/ping", |_| async { Ok(no_content()) })
            .described("v1.health.ping", TAG, "Verify the API server is up and running.")
            .answers_nothing(204),
    ]
}

async fn ready(api: Api) -> Result<Response, Error> {
    match api.backend().ready() {
        Ok(()) => Ok(no_content()),
        Err(reason) => {
            tracing::warn!(%reason, "not ready");
            Err(Error::Later {
                status: StatusCode::SERVICE_UNAVAILABLE,
                code: "not_ready",
                detail: "The server cannot store at the moment.",
                after_seconds: 5,
            })
        }
    }
}

fn no_content() -> Response {
    let mut answer = Response::default();
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}
