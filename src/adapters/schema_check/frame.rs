//! The protocol between the pool and its workers: a length of four bytes, little-endian, then JSON.

use std::io::{Error, Read};

use copilotd_actors::domain::schema::Violation;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest request. An answer is bounded by its copilot's limits and can take six times its length as JSON text.
pub const MAX_REQUEST: usize = 64 * 1024 * 1024;
/// Longest reply.
pub const MAX_REPLY: usize = 1024 * 1024;

/// A request to a worker.
#[derive(Serialize)]
pub struct Request<'a> {
    pub schema: &'a Value,
    /// The answer to be checked; `None` if the schema is only to be compiled.
    pub answer: Option<&'a str>,
}

/// The same, as received.
#[derive(Deserialize)]
pub struct Job {
    pub schema: Value,
    pub answer: Option<String>,
}

/// A worker's reply.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The schema compiles, and the answer satisfies it.
    Fine,
    /// The answer does not satisfy the schema.
    Invalid(String),
    /// The schema does not compile.
    Unusable(WireViolation),
}

/// A violation in transferable form.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct WireViolation {
    pointer: String,
    message: String,
}

impl From<Violation> for WireViolation {
    fn from(Violation { pointer, message }: Violation) -> Self {
        Self { pointer, message }
    }
}

impl From<WireViolation> for Violation {
    fn from(WireViolation { pointer, message }: WireViolation) -> Self {
        Self { pointer, message }
    }
}

/// Encodes a frame.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, Error> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let length = u32::try_from(frame.len() - 4).map_err(Error::other)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Reads a frame; `None` at the end of the input.
pub fn read(input: &mut impl Read) -> Result<Option<Vec<u8>>, Error> {
    let mut length = [0; 4];
    if input.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    input.read_exact(&mut length[1..])?;
    let length = usize::try_from(u32::from_le_bytes(length)).map_err(Error::other)?;
    if length > MAX_REQUEST {
        return Err(Error::other("the request is too long"));
    }
    let mut frame = vec![0; length];
    input.read_exact(&mut frame)?;
    Ok(Some(frame))
}
