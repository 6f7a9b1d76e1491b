//! Reads sets: one JSON object a line.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A document of a retrieval set.
#[derive(Debug, Deserialize)]
pub struct Document {
    /// Its id.
    #[serde(rename = "_id")]
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its text.
    pub text: String,
}

/// A question with the documents that answer it.
#[derive(Debug, Deserialize)]
pub struct Query<M = serde_json::Value> {
    /// The question.
    pub query: String,
    /// The documents that answer it, each with its grade.
    pub relevant: HashMap<String, u32>,
    /// What else the set says.
    pub meta: M,
}

/// Reads all rows of a file.
pub fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<Vec<T>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let rows = BufReader::new(file).lines().zip(1..).map(|(line, number)| {
        let line = line?;
        serde_json::from_str(&line).with_context(|| format!("line {number} of {} is not a row", path.display()))
    });
    rows.collect()
}
