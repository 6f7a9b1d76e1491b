//! What the memory of a long conversation costs: time on the processor for one turn at message 10,000 in relation to one at
//! message 200.

use std::collections::HashSet;
use std::path::Path;

use anyhow::ensure;
use copilotd_actors::ports::{Purpose, Vector};
use copilotd_knowledge::recall::{Budget, Question, Recall, Turn};
use rustix::time::{ClockId, clock_gettime};

use crate::locomo::{Said, WordPieces, conversations, to_embed};
use crate::metrics::Estimate;
use crate::table::{Aim, Line};
use crate::vectors::Vectors;

const SHORT: usize = 200;
const LONG: usize = 10_000;
/// Turns measured at each length.
const MEASURED: usize = 100;
const BUDGET: u64 = 1_500;

/// A turn ready to be added.
struct Ready {
    said: Said,
    tokens: u64,
    vectors: Option<[Vector; 2]>,
}

/// Measures how search and extension grow. The turns of all conversations are repeated until there are enough.
pub fn measure(data: &Path, pieces: &WordPieces, vectors: Option<&Vectors>) -> anyhow::Result<Vec<Line>> {
    let turns = ready(data, pieces, vectors)?;
    ensure!(!turns.is_empty(), "there are no conversations");
    let mut recall = Recall::new();
    let mut added = (0_usize..).zip(turns.iter().cycle());
    let mut measured = Vec::new();
    for length in [SHORT, LONG] {
        for (_, turn) in added.by_ref().take(length - MEASURED - recall.len()) {
            push(&mut recall, turn);
        }
        let (mut times, mut tokens) = (Vec::new(), Vec::new());
        for (_, turn) in added.by_ref().take(MEASURED) {
            let begun = processor_time();
            let question = Question {
                text: &turn.said.text,
                vector: turn.vectors.as_ref().map(|vectors| &vectors[0]),
                before: None,
            };
            let selection = recall.select(question, Budget::of(BUDGET));
            push(&mut recall, turn);
            times.push((processor_time() - begun) * 1e3);
            tokens.push(selection.tokens as f64);
        }
        measured.push((times, tokens));
    }
    let [(short, short_tokens), (long, long_tokens)] = &measured[..] else {
        anyhow::bail!("two lengths were measured");
    };
    let line = |name: &str, values: &[f64], aim| Line {
        name: name.to_owned(),
        measured: Estimate::of(values),
        aim,
        floor: None,
    };
    let ratios: Vec<f64> = long_tokens.iter().map(|tokens| tokens / mean(short_tokens)).collect();
    Ok(vec![
        line("recall at 200 turns, ms without embedding", short, Aim::Shown),
        line("recall at 10,000 turns, ms without embedding", long, Aim::AtMost(7.0)),
        line("tokens at 10,000 turns / at 200", &ratios, Aim::AtMost(1.05)),
        line(
            "MB of memory for 10,000 turns",
            &[recall.bytes() as f64 / 1e6],
            Aim::Shown,
        ),
    ])
}

fn ready(data: &Path, pieces: &WordPieces, vectors: Option<&Vectors>) -> anyhow::Result<Vec<Ready>> {
    let mut ready = Vec::new();
    let mut seen = HashSet::new();
    for (_, turns) in conversations(data)? {
        for (at, said) in turns
            .iter()
            .enumerate()
            .filter(|(_, said)| seen.insert(said.text.clone()))
        {
            let [alone, after_previous] = to_embed(&turns, at);
            let vectors = match vectors {
                Some(vectors) => Some([
                    vectors.get(Purpose::Passage, &alone)?.clone(),
                    vectors.get(Purpose::Passage, &after_previous)?.clone(),
                ]),
                None => None,
            };
            ready.push(Ready {
                said: said.clone(),
                tokens: pieces.of_turn(&said.text)?,
                vectors,
            });
        }
    }
    Ok(ready)
}

fn push(recall: &mut Recall, turn: &Ready) {
    let vectors = turn.vectors.as_ref();
    recall.push(Turn {
        speaker: None,
        text: &turn.said.text,
        tokens: turn.tokens,
        alone: vectors.map(|vectors| &vectors[0]),
        after_previous: vectors.map(|vectors| &vectors[1]),
    });
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Returns the seconds that this thread has spent on a processor.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
