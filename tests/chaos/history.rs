//! What happened in a run, in the order in which it was observed, shown with broken promises.

use std::fmt::Display;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
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
    /// Conversation concerned; `None` for faults and server starts and ends, which are shown with every conversation.
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

    /// Returns the start of the run by the wall clock.
    pub fn begun_at(&self) -> Timestamp {
        self.begun_at
    }

    /// Records what concerns everything, and prints it so that a run can be watched.
    pub fn note(&self, text: impl Display) {
        println!("{:8.3} {text}", self.elapsed().as_secs_f64());
        self.push(None, text.to_string());
    }

    /// Records what concerns one conversation.
    pub fn about(&self, conversation: &str, text: impl Display) {
        self.push(Some(conversation.to_owned()), text.to_string());
    }

    fn push(&self, about: Option<String>, text: String) {
        let at = self.elapsed();
        let mut lines = self.lines.lock();
        lines.push(Line { at, about, text });
    }

    /// Returns what concerns a conversation, with the faults around it.
    pub fn of(&self, conversation: &str) -> String {
        let lines = self.lines.lock();
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
