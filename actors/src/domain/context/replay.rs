//! Puts the prompts of a turn together again from the log, for audits.
//!
//! Invariants: nothing is guessed. A prompt of which a part is missing has no messages; one that differs in a byte from
//! the hash that was recorded when it was sent says so. Reading starts at the oldest record that a prompt needs, so that the
//! length of the conversation before it does not matter.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::assemble::Written;
use super::memory::{Block, Memory};
use super::project::{fact_text, summary_text};
use super::prompt::PromptMessage;
use super::recalled::{Speaker, line};
use super::sent;
use crate::domain::context_record::{ContextItem, ContextRecord, ItemKind, Omitted};
use crate::domain::event::{Event, Record};
use crate::domain::ids::{Seq, TurnId};
use crate::domain::sent_prompt::{Fixed, FixedPrompt, SentPrompt, ToolOffer};

/// A prompt of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Sequence number of its `context.assembled`.
    pub seq: Seq,
    /// When it was assembled.
    pub at: Timestamp,
    /// The attempt of the turn.
    pub attempt: u32,
    /// The model step.
    pub step: u32,
    /// The model that answered or failed, or that was to be asked.
    pub model: Option<String>,
    /// Tokens of its messages.
    pub tokens: u64,
    /// What it was made of; none in records of early versions.
    pub context: Option<ContextRecord>,
    /// Messages and tools; none if a part of them is not in the log.
    pub sent: Option<Replayed>,
}

/// Messages and tools of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// The messages.
    pub messages: Vec<PromptMessage>,
    /// System message and tools.
    pub fixed: Arc<FixedPrompt>,
    /// Whether they have the hash that was recorded when they were sent.
    pub is_exact: bool,
}

/// What has to be read to put the prompts of a turn together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// The first record.
    pub from: Seq,
    /// The last record.
    pub upto: Seq,
    /// Single records before the first: those with the fixed parts, and those of recalled messages.
    pub earlier: BTreeSet<Seq>,
}

impl Replayed {
    /// Returns the tools.
    pub fn tools(&self) -> &[ToolOffer] {
        &self.fixed.tools
    }
}

/// Returns what has to be read, given the records of the turn.
pub fn needed(records: &[Record]) -> Needed {
    let (Some(first), Some(last)) = (records.first(), records.last()) else {
        return Needed::default();
    };
    let mut needed = Needed {
        from: first.seq,
        upto: last.seq,
        earlier: BTreeSet::new(),
    };
    for record in records {
        let Event::ContextAssembled { context, sent, .. } = &record.event else {
            continue;
        };
        for item in context.iter().flat_map(|context| &context.included) {
            let from = match item.kind {
                // One with an id was recalled.
                ItemKind::Message => item.from_seq.filter(|_| item.id.is_none()),
                // Its record follows the last one that it covers.
                ItemKind::Summary => item.upto_seq.map(|upto| upto + 1),
                _ => None,
            };
            needed.from = needed.from.min(from.unwrap_or(first.seq));
        }
        let Some(sent) = sent else { continue };
        if let Fixed::At(seq) = sent.fixed {
            needed.earlier.insert(seq);
        }
        needed.earlier.extend(recalled(sent));
    }
    needed.earlier.retain(|seq| *seq < needed.from);
    needed
}

/// Returns the records of a prompt's recalled messages.
fn recalled(sent: &SentPrompt) -> impl Iterator<Item = Seq> {
    let messages = sent.passages.iter().filter(|passage| passage.kind == ItemKind::Message);
    messages.filter_map(|passage| passage.id.parse().ok())
}

/// Facts about the user by id, each with when it was said: the log has none of their texts.
pub type FactTexts = BTreeMap<String, (Timestamp, String)>;

/// Returns whether a prompt of the records has facts, so that [`prompts`] needs those of the user.
pub fn has_facts(records: &[Record]) -> bool {
    let is_fact = |item: &ContextItem<_>| item.kind == ItemKind::Fact;
    records.iter().any(|record| match &record.event {
        Event::ContextAssembled { context, .. } => context
            .as_ref()
            .is_some_and(|context| context.included.iter().any(is_fact)),
        _ => false,
    })
}

/// Returns the prompts of a turn. `records` are those between the bounds of [`needed`], of all turns; `earlier` are the
/// records that it names besides. `facts` are those of the user as they are now: a prompt with one that was deleted since
/// has no messages, and one with a fact that was corrected or said again since differs from its hash.
pub fn prompts(turn: TurnId, records: &[Record], earlier: &[Record], facts: FactTexts) -> Vec<Prompt> {
    let all = Bounds {
        after: 0,
        prompts: usize::MAX,
        bytes: usize::MAX,
    };
    page(turn, records, earlier, facts, all).0
}

/// Which prompts of a turn are put together: a long turn has many, and each has the whole window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Only those that were recorded after this.
    pub after: Seq,
    /// At most so many.
    pub prompts: usize,
    /// No further one once the texts of their messages have so many bytes.
    pub bytes: usize,
}

/// Returns those of the [`prompts`] that the bounds allow, and whether there are more.
pub fn page(
    turn: TurnId,
    records: &[Record],
    earlier: &[Record],
    facts: FactTexts,
    bounds: Bounds,
) -> (Vec<Prompt>, bool) {
    let mut replay = Replay {
        facts,
        ..Replay::default()
    };
    let of_prompts = records.iter().filter(|record| record.turn == Some(turn));
    let sent = of_prompts.filter_map(|record| match &record.event {
        Event::ContextAssembled { sent, .. } => sent.as_ref(),
        _ => None,
    });
    let wanted: BTreeSet<Seq> = sent.flat_map(recalled).collect();
    for record in earlier.iter().chain(records) {
        replay.learn_fixed(record);
        if wanted.contains(&record.seq) {
            replay.learn_message(record);
        }
    }
    for record in records {
        if record.turn == Some(turn) {
            let is_prompt = matches!(record.event, Event::ContextAssembled { .. });
            let is_full = replay.prompts.len() >= bounds.prompts || replay.bytes >= bounds.bytes;
            if is_prompt && is_full {
                return (replay.prompts, true);
            }
            replay.follow(record, bounds.after);
        }
        replay.memory.apply_window(record);
        if let Event::MemoryCompressed { upto_seq, summary, .. } = &record.event {
            replay.summaries.insert(*upto_seq, summary.clone());
        }
    }
    (replay.prompts, false)
}

#[derive(Default)]
struct Replay {
    memory: Memory,
    /// By the last record that each covers.
    summaries: BTreeMap<Seq, String>,
    /// By the record that has them.
    fixed: BTreeMap<Seq, Arc<FixedPrompt>>,
    /// Texts of passages, by attempt, kind and id.
    passages: BTreeMap<(u32, ItemKind, String), String>,
    /// Recalled messages as the model read them, by their records.
    recalled: BTreeMap<Seq, String>,
    facts: FactTexts,
    /// The model that the attempt was started for.
    model: Option<String>,
    prompts: Vec<Prompt>,
    /// Bytes of their messages' texts.
    bytes: usize,
}

impl Replay {
    fn learn_fixed(&mut self, record: &Record) {
        if let Event::ContextAssembled {
            sent: Some(SentPrompt {
                fixed: Fixed::Parts(parts),
                ..
            }),
            ..
        } = &record.event
        {
            self.fixed.insert(record.seq, Arc::clone(parts));
        }
    }

    fn learn_message(&mut self, record: &Record) {
        let said = match &record.event {
            Event::TurnQueued { input, .. } => line(Speaker::User, record.at, &input.text()),
            Event::MessageCompleted { text, .. } => line(Speaker::Assistant, record.at, text),
            _ => return,
        };
        self.recalled.insert(record.seq, said);
    }

    /// Follows a record of the turn.
    fn follow(&mut self, record: &Record, after: Seq) {
        match &record.event {
            Event::TurnStarted { model, .. } => self.model = Some(model.clone()),
            Event::ContextAssembled {
                prompt_tokens,
                attempt,
                step,
                context,
                sent,
                ..
            } => {
                if let Some(sent) = sent {
                    self.learn_passages(*attempt, sent);
                }
                if record.seq <= after {
                    return;
                }
                let sent = sent.as_ref().zip(context.as_ref());
                let sent = sent.and_then(|(sent, context)| self.replay(record.seq, *attempt, sent, context));
                let messages = sent.iter().flat_map(|sent| &sent.messages);
                self.bytes += messages.map(PromptMessage::bytes).sum::<usize>();
                self.prompts.push(Prompt {
                    seq: record.seq,
                    at: record.at,
                    attempt: *attempt,
                    step: *step,
                    model: self.model.clone(),
                    tokens: *prompt_tokens,
                    context: context.clone(),
                    sent,
                });
            }
            Event::ModelFallback { to: model, .. }
            | Event::MessageCompleted { model, .. }
            | Event::OutputRejected { model, .. }
            | Event::ModelFailed { model, .. } => {
                if let Some(prompt) = self.prompts.last_mut() {
                    prompt.model = Some(model.clone());
                }
            }
            _ => {}
        }
    }

    fn learn_passages(&mut self, attempt: u32, sent: &SentPrompt) {
        for passage in &sent.passages {
            if let Some(text) = &passage.text {
                let key = (attempt, passage.kind, passage.id.clone());
                self.passages.insert(key, text.clone());
            }
        }
    }

    /// Puts one prompt together; none if a part of it is missing.
    fn replay(&self, seq: Seq, attempt: u32, sent: &SentPrompt, context: &ContextRecord) -> Option<Replayed> {
        let at = match sent.fixed {
            Fixed::At(earlier) => earlier,
            Fixed::Parts(_) => seq,
        };
        let fixed = Arc::clone(self.fixed.get(&at)?);
        let passages = |kind: ItemKind| -> Option<Vec<&str>> {
            let of_kind = sent.passages.iter().filter(|passage| passage.kind == kind);
            let text = |id: &String| self.passages.get(&(attempt, kind, id.clone()));
            of_kind.map(|passage| text(&passage.id).map(String::as_str)).collect()
        };
        let summary = context.included.iter().find(|item| item.kind == ItemKind::Summary);
        let covered = summary.and_then(|item| item.upto_seq);
        let is_left_out = |item: &&ContextItem<Omitted>| item.kind == ItemKind::Message;
        let left_out = context
            .omitted
            .iter()
            .filter(is_left_out)
            .filter_map(|item| item.upto_seq);
        // Whole turns leave the window, oldest first.
        let absent = left_out.chain(covered).max().unwrap_or_default();
        let in_prompt = |block: &&Block| block.end_seq.is_none_or(|end| end > absent);
        let blocks: Vec<&Block> = self.memory.blocks.iter().filter(in_prompt).collect();
        // The first turn after the summary, also if the budget left it out.
        let is_later = |block: &&Block| block.end_seq.is_none_or(|end| end > covered.unwrap_or_default());
        let first = self.memory.blocks.iter().find(is_later);
        let nonce = first.and_then(|block| block.nonce.as_deref());
        let summary = match covered {
            Some(upto) => Some(summary_text(nonce, self.summaries.get(&upto)?)),
            None => None,
        };
        // Facts have the nonce of the first turn in the window as it was when the attempt began. A summary that takes effect
        // meanwhile moves that window, so the others are tried too; the hash decides.
        let nonces = self.memory.blocks.iter().map(|block| block.nonce.as_deref());
        let mut tried: Vec<Option<&str>> = vec![nonce];
        let mut replayed = None;
        for nonce in std::iter::once(nonce).chain(nonces) {
            if replayed.is_some() && tried.contains(&nonce) {
                continue;
            }
            tried.push(nonce);
            let facts = self.facts(sent, nonce)?;
            let written = Written {
                system: &fixed.system,
                summary: summary.as_deref(),
                facts: facts.iter().map(String::as_str).collect(),
                recalled: recalled(sent)
                    .map(|seq| self.recalled.get(&seq).map(String::as_str))
                    .collect::<Option<_>>()?,
                chunks: passages(ItemKind::Chunk)?,
                files: sent
                    .passages
                    .iter()
                    .filter(|passage| passage.kind == ItemKind::File)
                    .map(|passage| passage.file.as_ref())
                    .collect::<Option<_>>()?,
                blocks: blocks.clone(),
            };
            let messages = written.messages();
            let is_exact = sent::hash(&messages, &fixed) == sent.hash;
            if is_exact || replayed.is_none() {
                replayed = Some((messages, is_exact));
            }
            if is_exact || facts.is_empty() {
                break;
            }
        }
        let (messages, is_exact) = replayed?;
        Some(Replayed {
            messages,
            fixed,
            is_exact,
        })
    }

    /// Writes the facts of a prompt; none if one of them is gone.
    fn facts(&self, sent: &SentPrompt, nonce: Option<&str>) -> Option<Vec<String>> {
        let of_facts = sent.passages.iter().filter(|passage| passage.kind == ItemKind::Fact);
        let written = |id: &String| {
            let (said_at, text) = self.facts.get(id)?;
            Some(fact_text(nonce, *said_at, text))
        };
        of_facts.map(|passage| written(&passage.id)).collect()
    }
}
