//! Requests to the server, repeated while it is busy.

use std::time::Duration;

use bytes::Bytes;
use copilotd_actors::domain::ids::{CollectionName, ExternalId};
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{CONTENT_TYPE, HeaderMap, LOCATION};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::cli::Failure;
use crate::cli::args::ServerArgs;
use crate::cli::remote::problem_text;
use crate::response_body;
use crate::retry_after;

/// Longest time for one request, the sending of its document included.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Longest answer that is read.
const MAX_ANSWER: usize = 16 * 1024 * 1024;
/// Longest time that a document waits because the server is busy; then it has failed.
const PATIENCE: Duration = Duration::from_secs(15 * 60);
/// Longest wait that the server may ask for at once.
const LONGEST_WAIT: Duration = Duration::from_secs(5 * 60);
/// Wait of a busy server that does not say how long, and after a failure; doubled with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Attempts at a request that fails.
const ATTEMPTS: u32 = 5;
/// What is not encoded in an address.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A content to store.
pub(super) enum Content {
    /// A document as a file, with attributes.
    File {
        bytes: Vec<u8>,
        media_type: &'static str,
        attributes: Value,
    },
    /// The JSON of the API.
    Json(Bytes),
}

impl Content {
    pub fn size(&self) -> usize {
        match self {
            Self::File { bytes, .. } => bytes.len(),
            Self::Json(json) => json.len(),
        }
    }

    /// Returns the body of the request and its media type. Files are sent as a form: a JSON file would otherwise be read
    /// as a document of the API.
    fn into_body(self) -> (Bytes, String) {
        let (bytes, media_type, attributes) = match self {
            Self::Json(json) => return (json, "application/json".to_owned()),
            Self::File {
                bytes,
                media_type,
                attributes,
            } => (bytes, media_type, attributes),
        };
        // Random, so that no document contains it.
        let boundary = format!("{:032x}", rand::random::<u128>());
        let part = |name: &str, media_type: &str| {
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\nContent-Type: {media_type}\r\n\r\n"
            )
        };
        let mut body = part("attributes", "application/json").into_bytes();
        body.extend_from_slice(attributes.to_string().as_bytes());
        body.extend_from_slice(format!("\r\n{}", part("document", media_type)).as_bytes());
        body.extend_from_slice(&bytes);
        body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        (body.into(), format!("multipart/form-data; boundary={boundary}"))
    }
}

/// What became of a content.
pub(super) struct Stored {
    /// Whether it is new.
    pub is_new: bool,
    /// The job that ingests it, if that has not ended.
    pub job: Option<String>,
}

/// How far a job has come.
pub(super) enum Ended {
    NotYet,
    Yes,
    /// With the reason.
    Failed(String),
}

/// Why a request had no success.
#[derive(Debug)]
pub(super) enum Refused {
    /// Only this document; others may have success.
    Document(String),
    /// Every other request would fail too.
    Everything(String),
    /// The user stopped the import.
    Cancelled,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

/// One collection of a server.
pub(super) struct Client {
    http: reqwest::Client,
    server: String,
    collection: CollectionName,
    credential: SecretString,
    /// Until when the server wants no request.
    busy_until: Mutex<Instant>,
    cancelled: watch::Receiver<bool>,
}

impl Client {
    pub fn new(
        server: &ServerArgs,
        collection: CollectionName,
        cancelled: watch::Receiver<bool>,
    ) -> Result<Self, Failure> {
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(TIMEOUT / 12)
            .build();
        Ok(Self {
            http: http.map_err(|error| Failure::failed(format!("cannot create an HTTP client: {error}")))?,
            server: server.server.trim_end_matches('/').to_owned(),
            collection,
            credential: server.credential.clone(),
            busy_until: Mutex::new(Instant::now()),
            cancelled,
        })
    }

    pub fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Completes when the user has stopped the import.
    pub fn cancelled(&self) -> impl Future<Output = ()> + use<> {
        let mut cancelled = self.cancelled.clone();
        async move {
            if cancelled.wait_for(|cancelled| *cancelled).await.is_err() {
                std::future::pending().await
            }
        }
    }

    /// Stores a document.
    pub async fn put(&self, id: &ExternalId, content: Content) -> Result<Stored, Refused> {
        let (body, media_type) = content.into_body();
        let answer = self
            .send(Method::PUT, &self.document(id), Some((body, media_type)))
            .await?;
        let text = |name: &str| answer.body[name].as_str().map(str::to_owned);
        match answer.status {
            StatusCode::OK => {
                // An earlier import may have been interrupted after it sent the document.
                let job = text("job_id").filter(|_| answer.body["status"] == "pending");
                Ok(Stored { is_new: false, job })
            }
            StatusCode::ACCEPTED => {
                let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
                let named = location.and_then(|path| path.rsplit('/').next()).map(str::to_owned);
                Ok(Stored {
                    is_new: true,
                    job: text("id").or(named),
                })
            }
            status => Err(refused(status, &answer.body)),
        }
    }

    /// Deletes a document; one that is gone is deleted.
    pub async fn delete(&self, id: &ExternalId) -> Result<(), Refused> {
        let answer = self.send(Method::DELETE, &self.document(id), None).await?;
        match answer.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_FOUND => Ok(()),
            status => Err(refused(status, &answer.body)),
        }
    }

    /// Returns a page of the collection's documents, and where the next one begins.
    pub async fn page(&self, cursor: Option<&str>) -> Result<(Vec<Value>, Option<String>), Refused> {
        let after = cursor.map(|cursor| format!("&cursor={}", utf8_percent_encode(cursor, PLAIN)));
        let path = format!(
            "/v1/knowledge/{}/documents?limit=100{}",
            self.collection,
            after.unwrap_or_default()
        );
        let mut answer = self.send(Method::GET, &path, None).await?;
        if answer.status != StatusCode::OK {
            return Err(refused(answer.status, &answer.body));
        }
        let Value::Array(documents) = answer.body["data"].take() else {
            return Err(Refused::Everything(
                "the server answered a list without data".to_owned(),
            ));
        };
        Ok((documents, answer.body["next_cursor"].as_str().map(str::to_owned)))
    }

    /// Returns how far a job has come.
    pub async fn job(&self, id: &str) -> Result<Ended, Refused> {
        let answer = self.send(Method::GET, &format!("/v1/jobs/{id}"), None).await?;
        match (answer.status, answer.body["status"].as_str()) {
            // It ended more than a day ago, or the document was deleted.
            (StatusCode::NOT_FOUND, _) | (StatusCode::OK, Some("completed")) => Ok(Ended::Yes),
            (StatusCode::OK, Some("failed")) => {
                let reason = answer.body["error"].as_str().unwrap_or("it could not be ingested");
                Ok(Ended::Failed(reason.to_owned()))
            }
            (StatusCode::OK, _) => Ok(Ended::NotYet),
            (status, _) => Err(refused(status, &answer.body)),
        }
    }

    fn document(&self, id: &ExternalId) -> String {
        let id = utf8_percent_encode(id.as_str(), PLAIN);
        format!("/v1/knowledge/{}/documents/{id}", self.collection)
    }

    /// Sends a request until it has an answer other than that the server is busy.
    async fn send(&self, method: Method, path: &str, body: Option<(Bytes, String)>) -> Result<Answer, Refused> {
        let (started, mut wait, mut failures) = (Instant::now(), FIRST_WAIT, 0);
        loop {
            self.until_free().await?;
            let (reason, is_network, asked) = match self.once(&method, path, body.clone()).await {
                Ok(answer) => match answer.status {
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                        let asked =
                            retry_after::read(&answer.headers, retry_after::sent_at(&answer.headers), LONGEST_WAIT);
                        if started.elapsed() + asked.unwrap_or_default() > PATIENCE {
                            return Err(Refused::Document(problem_text(answer.status, &answer.body)));
                        }
                        (String::new(), false, Some(asked.unwrap_or(wait)))
                    }
                    status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                        (problem_text(status, &answer.body), false, None)
                    }
                    _ => return Ok(answer),
                },
                Err(reason) => (reason, true, None),
            };
            match asked {
                Some(asked) => {
                    let mut until = self.busy_until.lock();
                    *until = (*until).max(Instant::now() + asked);
                }
                None => {
                    failures += 1;
                    if failures >= ATTEMPTS {
                        return Err(match is_network {
                            true => Refused::Everything(reason),
                            false => Refused::Document(reason),
                        });
                    }
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.cancelled() => return Err(Refused::Cancelled),
                    }
                }
            }
            wait = (wait * 2).min(Duration::from_secs(30));
        }
    }

    /// Waits until the server wants requests again.
    async fn until_free(&self) -> Result<(), Refused> {
        loop {
            let until = *self.busy_until.lock();
            if until <= Instant::now() {
                break;
            }
            tokio::select! {
                () = sleep_until(until) => {}
                () = self.cancelled() => return Err(Refused::Cancelled),
            }
        }
        match self.is_cancelled() {
            true => Err(Refused::Cancelled),
            false => Ok(()),
        }
    }

    async fn once(&self, method: &Method, path: &str, body: Option<(Bytes, String)>) -> Result<Answer, String> {
        let silent = |error: reqwest::Error| {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            format!("no answer from {}: {why}", self.server)
        };
        let request = self.http.request(method.clone(), format!("{}{path}", self.server));
        let mut request = request.bearer_auth(self.credential.expose_secret());
        if let Some((body, media_type)) = body {
            request = request.header(CONTENT_TYPE, media_type).body(body);
        }
        let mut response = request.send().await.map_err(silent)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response_body::read(&mut response, MAX_ANSWER).await;
        let body = body.map_err(|error| format!("no whole answer from {}: {error}", self.server))?;
        Ok(Answer {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        })
    }
}

fn refused(status: StatusCode, problem: &Value) -> Refused {
    let text = problem_text(status, problem);
    // Without a problem document it was not copilotd that answered.
    let is_ours = problem["code"].is_string();
    let is_credential = status == StatusCode::UNAUTHORIZED || problem["code"] == "forbidden";
    match is_credential || !is_ours {
        true => Refused::Everything(text),
        false => Refused::Document(text),
    }
}
