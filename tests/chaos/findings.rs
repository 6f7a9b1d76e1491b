//! Broken promises.

use std::fmt::Display;

use parking_lot::Mutex;

use crate::history::History;

/// The promises; the numbers are those of the list in `docs/extend/chaos.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// Nothing that was acknowledged is lost, and everything ends.
    Kept = 1,
    /// No effect happens twice, and reported outcomes are true.
    Effects = 2,
    /// A stream shows each event once, in order, byte for byte.
    Streams = 3,
    /// Usage is what the provider counted.
    Usage = 4,
    /// Erased text is nowhere.
    Erased = 5,
    /// No stream is silent.
    Silence = 6,
    /// Tenants and users never see each other's ids.
    Tenants = 7,
    /// The server does not end by itself, panic, or answer with a 5xx other than 503.
    Process = 8,
}

/// Number of broken promises of a kind that are shown in full; the others are only counted.
const SHOWN: usize = 5;

#[derive(Default)]
pub struct Findings(Mutex<Vec<Finding>>);

struct Finding {
    promise: Promise,
    conversation: Option<String>,
    what: String,
}

impl Findings {
    pub fn add(&self, promise: Promise, conversation: Option<&str>, what: impl Display) {
        let finding = Finding {
            promise,
            conversation: conversation.map(str::to_owned),
            what: what.to_string(),
        };
        println!("BROKEN {promise:?} {}: {}", conversation.unwrap_or("-"), finding.what);
        self.0.lock().push(finding);
    }

    /// Returns all findings with the history of the conversation concerned, or `None` if there are none.
    pub fn report(&self, history: &History) -> Option<String> {
        let mut findings = self.0.lock();
        findings.sort_by_key(|finding| finding.promise);
        let mut text = String::new();
        for kind in findings.chunk_by(|a, b| a.promise == b.promise) {
            text += &format!("\n{:?}, {} times:\n", kind[0].promise, kind.len());
            for finding in kind.iter().take(SHOWN) {
                let conversation = finding.conversation.as_deref().unwrap_or("-");
                text += &format!("\n* {conversation}: {}\n", finding.what);
                if finding.conversation.is_some() {
                    text += &format!("{}\n", history.of(conversation));
                }
            }
        }
        (!findings.is_empty()).then_some(text)
    }
}
