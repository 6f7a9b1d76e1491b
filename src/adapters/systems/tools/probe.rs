//! One request of `copilotd check --online` to an external system.

use reqwest::{RequestBuilder, StatusCode};
use serde_json::Value;

use super::http::root_cause;
use crate::response_body::{self, BodyError};

/// Longest answer that is read.
const MAX_ANSWER: usize = 256 * 1024;

/// Sends a request and parses its answer as JSON; null if it is not JSON.
pub(crate) async fn ask(request: RequestBuilder) -> Result<(StatusCode, Value), String> {
    let mut answer = request
        .header("accept", "application/json")
        .send()
        .await
        .map_err(silent)?;
    let status = answer.status();
    let body = response_body::read(&mut answer, MAX_ANSWER).await;
    let body = body.map_err(|error| match error {
        BodyError::Network(error) => silent(error),
        BodyError::TooLarge(_) => "the answer is larger than 256 KiB".to_owned(),
    })?;
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

/// The message for a credential that is not accepted.
pub(crate) fn refused(status: StatusCode) -> String {
    format!("the credential was refused (status {})", status.as_u16())
}

/// Describes why there is no answer by its root cause, without the address, which is printed beside it.
pub(crate) fn silent(error: reqwest::Error) -> String {
    format!("no answer: {}", root_cause(&error.without_url()))
}
