//! Results of a scenario, as Markdown.

use std::fmt;

/// A table with its method.
#[derive(Debug)]
pub struct Report {
    /// Name of the scenario and its question.
    pub title: String,
    /// How it was measured.
    pub method: String,
    /// Column headings.
    pub heads: Vec<&'static str>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
}

impl Report {
    /// Creates a report without rows.
    pub fn new(title: &str, method: &str, heads: &[&'static str]) -> Self {
        Self {
            title: title.to_owned(),
            method: method.to_owned(),
            heads: heads.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Adds a row with a name and a value.
    pub fn fact(&mut self, name: &str, value: impl fmt::Display) {
        self.row(vec![name.to_owned(), value.to_string()]);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n\n{}\n", self.title, self.method)?;
        writeln!(f, "| {} |", self.heads.join(" | "))?;
        writeln!(f, "|{}", " --- |".repeat(self.heads.len()))?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}
