//! One conversation, read from its log and ready to be searched. Pure.
//!
//! Invariant: what it holds is a function of the records up to [`Remembered::upto_seq`] and of the vectors that were set:
//! one that was built in one go is equal to one that was extended turn by turn.

use std::collections::{HashMap, VecDeque};

use copilotd_actors::domain::context::recalled::{SaidMessage, Speaker, Transcript, line};
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::event::{Event, Record};
use copilotd_actors::domain::ids::{Seq, TurnId};
use copilotd_actors::ports::{RecallReason, RecalledMessage, Vector};
use jiff::Timestamp;

use crate::recall::{Budget, Question, Reason, Recall, Turn};
use crate::turn_vectors::TurnVector;

/// Longest message that can be recalled, in bytes. Of a longer one the beginning is searched, so that its neighbours are
/// found; it would displace everything else in a prompt.
const MAX_MESSAGE_BYTES: usize = 16 * 1024;
/// Most bytes of texts that are kept of one conversation; beyond, the oldest cannot be recalled.
const MAX_TEXT_BYTES: usize = 32 * 1024 * 1024;
/// Longest text that is embedded, in bytes. Models read a few hundred tokens.
const MAX_EMBEDDED_BYTES: usize = 4 * 1024;
/// Tokens of a message that is too long to be recalled: more than any budget.
const TOO_LONG: u64 = 1 << 40;

/// A conversation, ready to be searched.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    recall: Recall,
    transcript: Transcript,
    /// The last record that was read.
    upto_seq: Seq,
    /// The first record that the next page's messages may come from: a prompt that is queued.
    queued_from: Option<Seq>,
    /// The turns that `recall` holds, in its order.
    said: VecDeque<Said>,
    /// Number of the first of them.
    first: u64,
    /// Bytes of their texts.
    text_bytes: usize,
    /// Number of the first message of which the text is kept.
    texts_from: u64,
    /// Number of the first message that may have no vectors: those before it have some.
    vectors_upto: u64,
    is_erased: bool,
}

/// A message.
#[derive(Debug)]
struct Said {
    seq: Seq,
    said_seq: Seq,
    turn: TurnId,
    at: Timestamp,
    speaker: Speaker,
    /// Its text, or the beginning of a long one.
    text: String,
    has_vectors: bool,
}

/// A message that has no vectors yet, and the texts to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unembedded {
    pub number: u64,
    pub seq: Seq,
    pub texts: [String; 2],
}

impl Remembered {
    /// Returns the last record that was read.
    pub(super) fn upto_seq(&self) -> Seq {
        self.upto_seq
    }

    /// Returns whether the log ends with the erasure of the conversation.
    pub(super) fn is_erased(&self) -> bool {
        self.is_erased
    }

    /// Returns whether any message has vectors.
    pub(super) fn has_vectors(&self) -> bool {
        self.recall.has_vectors()
    }

    /// Returns the number of messages.
    pub(super) fn len(&self) -> usize {
        self.said.len()
    }

    /// Returns about how many bytes of memory it takes.
    pub(super) fn bytes(&self) -> usize {
        self.recall.bytes() + self.text_bytes + self.said.capacity() * size_of::<Said>() + size_of::<Self>()
    }

    /// Returns the first record of which [`apply`](Self::apply) may need the stored vectors, when it reads from `next` on.
    pub(super) fn vectors_from(&self, next: Seq) -> Seq {
        self.queued_from.map_or(next, |queued| queued.min(next))
    }

    /// Applies the records after [`upto_seq`](Self::upto_seq), up to and including `upto`, with those vectors that are
    /// stored.
    pub(super) fn apply(&mut self, records: Vec<Record>, mut vectors: HashMap<Seq, TurnVector>, upto: Seq) {
        for record in records {
            let seq = record.seq;
            match &record.event {
                Event::ConversationErased { .. } => {
                    *self = Self {
                        is_erased: true,
                        ..Self::default()
                    };
                }
                Event::TurnReplaced { .. } => record.turn.into_iter().for_each(|turn| self.withdraw(turn)),
                Event::TurnQueued { .. } => self.queued_from = self.queued_from.or(Some(seq)),
                _ => {}
            }
            let said = self.transcript.take(record);
            if !self.transcript.has_queued() {
                self.queued_from = None;
            }
            if let Some(said) = said {
                let vectors = vectors.remove(&said.seq);
                self.push(said, vectors.as_ref());
            }
            self.upto_seq = seq;
        }
        self.upto_seq = self.upto_seq.max(upto);
    }

    fn push(&mut self, said: SaidMessage, vectors: Option<&TurnVector>) {
        let is_short = said.text.len() <= MAX_MESSAGE_BYTES;
        let mut text = said.text;
        text.truncate(text.floor_char_boundary(MAX_MESSAGE_BYTES));
        let tokens = if is_short {
            tokens::estimate(&line(said.speaker, said.at, &text)) + 1
        } else {
            TOO_LONG
        };
        let number = self.recall.push(Turn {
            speaker: None,
            text: &text,
            tokens,
            alone: vectors.map(|vectors| &vectors.alone),
            after_previous: vectors.map(|vectors| &vectors.after_previous),
        });
        self.text_bytes += text.len();
        self.said.push_back(Said {
            seq: said.seq,
            said_seq: said.said_seq,
            turn: said.turn,
            at: said.at,
            speaker: said.speaker,
            text,
            has_vectors: vectors.is_some(),
        });
        while self.said.len() > self.recall.len() {
            let forgotten = self.said.pop_front();
            self.text_bytes -= forgotten.map_or(0, |said| said.text.len());
        }
        self.first = number + 1 - self.said.len() as u64;
        self.texts_from = self.texts_from.max(self.first);
        while self.text_bytes > MAX_TEXT_BYTES
            && let Some(place) = self.place(self.texts_from)
        {
            let said = &mut self.said[place];
            self.text_bytes -= std::mem::take(&mut said.text).len();
            // It has no text to embed.
            said.has_vectors = true;
            self.texts_from += 1;
        }
        self.advance_vectors();
    }

    /// Removes the messages of a replaced turn. They are the newest: only the last turn is replaced.
    fn withdraw(&mut self, turn: TurnId) {
        while let Some(withdrawn) = self.said.pop_back_if(|said| said.turn == turn) {
            self.text_bytes -= withdrawn.text.len();
        }
        self.recall.truncate(self.said.len());
        let end = self.first + self.said.len() as u64;
        self.texts_from = self.texts_from.min(end);
        self.vectors_upto = self.vectors_upto.min(end);
    }

    /// Returns the last record before the messages of the newest turn: it may turn out to be replaced by a record that is
    /// not read yet.
    pub(super) fn before_newest_turn(&self) -> Seq {
        let newest = self.said.back().map(|said| said.turn);
        let first = self
            .said
            .iter()
            .rev()
            .take_while(|said| Some(said.turn) == newest)
            .last();
        first.map_or(Seq::MAX, |said| said.said_seq - 1)
    }

    /// Moves on to the first message without vectors, so that it need not be looked for by each search.
    fn advance_vectors(&mut self) {
        self.vectors_upto = self.vectors_upto.max(self.first);
        while let Some(place) = self.place(self.vectors_upto)
            && self.said[place].has_vectors
        {
            self.vectors_upto += 1;
        }
    }

    fn place(&self, number: u64) -> Option<usize> {
        let place = usize::try_from(number.checked_sub(self.first)?).ok()?;
        (place < self.said.len()).then_some(place)
    }

    /// Returns the first messages without vectors, at most `most`; of the newest `newest` that were said up to `before`.
    pub(super) fn unembedded(&self, before: Seq, newest: usize, most: usize) -> Vec<Unembedded> {
        let end = self.end(before);
        let first = usize::try_from(self.vectors_upto - self.first).unwrap_or(usize::MAX);
        let places = end.saturating_sub(newest).max(first)..end;
        let without = places.filter(|place| !self.said[*place].has_vectors);
        without.take(most).map(|place| self.to_embed(place)).collect()
    }

    fn to_embed(&self, place: usize) -> Unembedded {
        let text = |said: &Said| said.text[..said.text.floor_char_boundary(MAX_EMBEDDED_BYTES)].to_owned();
        let (said, previous) = (
            &self.said[place],
            place.checked_sub(1).map(|place| text(&self.said[place])),
        );
        Unembedded {
            number: self.first + place as u64,
            seq: said.seq,
            texts: Recall::to_embed((None, &text(said)), previous.as_deref().map(|text| (None, text))),
        }
    }

    /// Sets the vectors of a message.
    pub(super) fn set_vectors(&mut self, number: u64, vectors: &TurnVector) {
        let Some(place) = self.place(number).filter(|place| self.said[*place].seq == vectors.seq) else {
            return;
        };
        self.recall.set_vectors(number, &vectors.alone, &vectors.after_previous);
        self.said[place].has_vectors = true;
        self.advance_vectors();
    }

    /// Returns the place after the last message that was said up to a record.
    fn end(&self, before: Seq) -> usize {
        self.said.partition_point(|said| said.said_seq <= before)
    }

    /// Returns the text to embed for a question.
    pub(super) fn question_to_embed(&self, question: &str) -> String {
        self.recall.question_to_embed(question)
    }

    /// Selects the messages that bear on a question, of those said up to `before`, oldest first; also returns how many
    /// others had no place.
    pub(super) fn select(
        &self,
        question: &str,
        vector: Option<&Vector>,
        before: Seq,
        budget_tokens: u64,
        limit: usize,
    ) -> (Vec<RecalledMessage>, u64) {
        let question = Question {
            text: question,
            vector,
            before: Some(self.first + self.end(before) as u64),
        };
        // What is newest stays in the prompt as messages.
        let budget = Budget {
            tokens: budget_tokens,
            recent_tokens: 0,
        };
        let selection = self.recall.select(question, budget);
        let mut selected = selection.turns;
        let found = selected.len();
        selected.retain(|turn| turn.turn >= self.texts_from);
        if selected.len() > limit {
            selected.sort_by(|one, other| other.score.total_cmp(&one.score).then(one.turn.cmp(&other.turn)));
            selected.truncate(limit);
            selected.sort_by_key(|turn| turn.turn);
        }
        let omitted = selection.omitted + (found - selected.len()) as u64;
        let messages = selected.into_iter().filter_map(|turn| {
            let said = &self.said[self.place(turn.turn)?];
            Some(RecalledMessage {
                seq: said.seq,
                speaker: said.speaker,
                at: said.at,
                text: said.text.clone(),
                tokens: turn.tokens,
                // Enough to compare; digits beyond only take room in the record.
                score: (turn.score * 1e5).round() / 1e5,
                reason: match turn.reason {
                    Reason::Relevant { .. } | Reason::Recent => RecallReason::Relevant,
                    Reason::Neighbour { .. } => RecallReason::Neighbour,
                },
            })
        });
        (messages.collect(), omitted)
    }
}
