//! What happened in a run, in the order in which it was seen, to be shown where a promise was broken.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

/// Lines of a conversation that a failure shows.
const SHOWN: usize = 150;

pub struct History {
    begun: Instant,
    begun_at: Timestamp,
    lines: Mutex<Vec<Line>>,
}

struct Line {
    at: Duration,
    /// The conversation it is about; none for faults and lives of the server, which are shown with each.
    about: Option<String>,
    text: String,
}

impl History {
    pub fn new() -> Self {
        Self {
            begun: Instant::now(),
            begun_at: Timestamp::now(),
            lines: Mutex::default(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// When it began, by the clock on the wall.
    pub fn begun_at(&self) -> Timestamp {
        self.begun_at
    }

    /// Notes what concerns everybody, and prints it: a run can be watched.
    pub fn note(&self, text: impl Display) {
        println!("{:8.3} {text}", self.elapsed().as_secs_f64());
        self.push(None, text.to_string());
    }

    /// Notes what concerns one conversation.
    pub fn about(&self, conversation: &str, text: impl Display) {
        self.push(Some(conversation.to_owned()), text.to_string());
    }

    fn push(&self, about: Option<String>, text: String) {
        let at = self.elapsed();
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(Line { at, about, text });
    }

    /// What concerns a conversation, with the faults around it.
    pub fn of(&self, conversation: &str) -> String {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |line: &&Line| line.about.as_deref() == Some(conversation);
        let first = lines.iter().find(own).map_or(Duration::ZERO, |line| line.at);
        let shown: Vec<String> = lines
            .iter()
            .filter(|line| {
                own(line) || (line.about.is_none() && line.at >= first.saturating_sub(Duration::from_secs(15)))
            })
            .map(|line| format!("{:8.3} {}", line.at.as_secs_f64(), line.text))
            .collect();
        shown[shown.len().saturating_sub(SHOWN)..].join("\n")
    }
}
