//! The prompt of a question at the end of a conversation, made as the product makes it: memory, plan, selection, assembly.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, ensure};
use copilotd_actors::domain::content::{Finish, Input};
use copilotd_actors::domain::context::assemble::{Budget, assemble};
use copilotd_actors::domain::context::gathered::{Gathered, Passage, PassageKind};
use copilotd_actors::domain::context::memory::Memory;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::context::recalled::{Speaker, line};
use copilotd_actors::domain::context::recent;
use copilotd_actors::domain::context::tokens;
use copilotd_actors::domain::context_record::ItemKind;
use copilotd_actors::domain::event::{CompressionMethod, Event, Record};
use copilotd_actors::domain::ids::{MessageId, Seq, TurnId};
use copilotd_actors::domain::policy::{MemoryPolicy, Policy};
use copilotd_actors::domain::usage::{TotalUsage, Usage};
use copilotd_actors::ports::Vector;
use copilotd_knowledge::recall;
use copilotd_knowledge::recall::{Question, Recall, Turn};
use jiff::Timestamp;
use uuid::Uuid;

use crate::locomo::{Said, WordPieces};

/// Context size of the model.
const CONTEXT: u64 = 128_000;
/// The random part of delimiters is that long.
const NONCE: &str = "00112233445566778899aabbccddeeff";

/// What stands for the turns that left the window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compressed {
    /// Nothing was compressed: the window is the whole history.
    No,
    /// A summary of the greatest length stands for all but the last turns.
    Yes,
}

/// A conversation, ready for prompts.
#[derive(Debug)]
pub struct Conversation {
    memory: Memory,
    /// For each message its record, the record with which it was said, who said it, and its text.
    said: Vec<(Seq, Seq, Speaker, String)>,
    recall: Recall,
    next: Seq,
}

/// What a prompt contains of a conversation.
#[derive(Debug)]
pub struct Found {
    /// Numbers of the messages that are in the prompt verbatim.
    pub messages: HashSet<u64>,
    /// Tokens of the conversation's text, by the product's own count.
    pub tokens: u64,
    /// The same in word pieces plus 8 for each message.
    pub pieces: u64,
}

impl Conversation {
    /// Builds a conversation: whoever speaks first is the user. `vectors` are of each message.
    pub fn build(turns: &[Said], vectors: &[Option<[Vector; 2]>]) -> Self {
        let mut conversation = Self {
            memory: Memory::default(),
            said: Vec::new(),
            recall: Recall::new(),
            next: 1,
        };
        let mut running: Option<TurnId> = None;
        for (number, said) in (0_u128..).zip(turns) {
            let is_user = turns.first().is_some_and(|first| first.speaker == said.speaker);
            let (seq, said_seq, speaker) = if is_user || running.is_none() {
                conversation.end(running.take());
                let turn = TurnId::new(Uuid::from_u128(number + 1));
                running = Some(turn);
                let (seq, said_seq) = conversation.begin(turn, &said.text);
                (seq, said_seq, Speaker::User)
            } else {
                let seq = conversation.answer(running, &said.text);
                (seq, seq, Speaker::Assistant)
            };
            let vectors = vectors.get(conversation.said.len()).and_then(Option::as_ref);
            conversation.recall.push(Turn {
                speaker: Some(&said.speaker),
                text: &said.text,
                tokens: tokens::count(&line(speaker, Timestamp::UNIX_EPOCH, &said.text)) + 1,
                alone: vectors.map(|vectors| &vectors[0]),
                after_previous: vectors.map(|vectors| &vectors[1]),
            });
            conversation.said.push((seq, said_seq, speaker, said.text.clone()));
        }
        conversation.end(running);
        conversation
    }

    fn apply(&mut self, turn: Option<TurnId>, event: Event) -> Seq {
        let seq = self.next;
        self.memory.apply(&Record {
            seq,
            at: Timestamp::UNIX_EPOCH,
            turn,
            event,
        });
        self.next += 1;
        seq
    }

    fn begin(&mut self, turn: TurnId, text: &str) -> (Seq, Seq) {
        let queued = Event::TurnQueued {
            input: Input::Text(text.to_owned()),
            metadata: serde_json::Map::new(),
            response_schema: None,
            idempotency: None,
            trace: None,
            api_key: None,
            roles: Vec::new(),
            nonce: Some(NONCE.to_owned()),
            next: false,
            replaces: None,
            client_tools: Vec::new(),
        };
        let started = Event::TurnStarted {
            attempt: 1,
            model: "m".to_owned(),
        };
        (self.apply(Some(turn), queued), self.apply(Some(turn), started))
    }

    fn answer(&mut self, turn: Option<TurnId>, text: &str) -> Seq {
        let completed = Event::MessageCompleted {
            message_id: MessageId::new(Uuid::from_u128(u128::from(self.next))),
            text: text.to_owned(),
            citations: Vec::new(),
            unsupported: Vec::new(),
            tool_calls: Vec::new(),
            finish: Finish::Stop,
            structured: None,
            step: 1,
            model: "m".to_owned(),
            usage: Usage::default(),
            first_token_ms: None,
        };
        self.apply(turn, completed)
    }

    fn end(&mut self, turn: Option<TurnId>) {
        if turn.is_some() {
            let usage = TotalUsage::default();
            let ended = Event::TurnCompleted {
                usage,
                first_token_ms: None,
            };
            self.apply(turn, ended);
        }
    }

    /// Returns the text to embed for a question.
    pub fn question_to_embed(&self, question: &str) -> String {
        self.recall.question_to_embed(question)
    }

    /// Returns the memory at the question, and the policy of a copilot with this budget.
    fn asked(&self, question: &str, budget: u64, compressed: Compressed) -> anyhow::Result<(Memory, Policy)> {
        let memory = MemoryPolicy::for_context(CONTEXT, CONTEXT).with_budget(budget);
        let policy = Policy {
            memory,
            ..Policy::removed(None)
        };
        let mut asked = Self {
            memory: self.memory.clone(),
            said: Vec::new(),
            recall: Recall::new(),
            next: self.next,
        };
        if compressed == Compressed::Yes {
            let kept = asked.memory.blocks.len().saturating_sub(8);
            let last = asked.memory.blocks.get(kept).context("a short conversation")?;
            let all: Vec<&str> = self.said.iter().map(|(.., text)| text.as_str()).collect();
            let summary = tokens::clip(&all.join("\n"), policy.memory.summary_tokens).to_owned();
            let compressed = Event::MemoryCompressed {
                upto_seq: last.end_seq.context("a turn that has not ended")?,
                tokens_before: 1,
                tokens_after: 1,
                summary,
                method: CompressionMethod::Summarised,
                model: "m".to_owned(),
                usage: Usage::default(),
            };
            asked.apply(None, compressed);
        }
        asked.begin(TurnId::new(Uuid::from_u128(u128::MAX)), question);
        Ok((asked.memory, policy))
    }

    /// Makes the prompt of a question within a budget.
    pub fn prompt(
        &self,
        question: &str,
        vector: Option<&Vector>,
        budget: u64,
        compressed: Compressed,
        pieces: &WordPieces,
    ) -> anyhow::Result<Found> {
        let (memory, policy) = self.asked(question, budget, compressed)?;
        let mut gathered = Gathered::count(memory.clone(), false, &policy, None);
        if let Some(plan) = recent::plan(memory, false, &policy) {
            let before = self.said.partition_point(|(_, said_seq, ..)| *said_seq <= plan.before) as u64;
            let question = Question {
                text: question,
                vector,
                before: Some(before),
            };
            let share = recall::Budget {
                tokens: plan.budget_tokens,
                recent_tokens: 0,
            };
            let selection = self.recall.select(question, share);
            let passage = |turn: &recall::Selected| {
                let (seq, _, speaker, text) = &self.said[usize::try_from(turn.turn).unwrap_or(usize::MAX)];
                let text = line(*speaker, Timestamp::UNIX_EPOCH, text);
                Passage::count(PassageKind::Recalled, seq.to_string(), text, 1, Some(turn.score))
            };
            gathered.passages = selection.turns.iter().map(passage).collect();
        }
        let assembled = assemble(&gathered, Budget::of(&policy.memory))?;
        let texts: Vec<&str> = assembled.messages.iter().filter_map(text_of).collect();
        let all = texts.join("\n");
        let numbers: BTreeMap<Seq, u64> = (0..).zip(&self.said).map(|(n, (seq, ..))| (*seq, n)).collect();
        let mut messages = HashSet::new();
        for item in assembled
            .record
            .included
            .iter()
            .filter(|item| item.kind == ItemKind::Message)
        {
            match (&item.id, item.from_seq, item.upto_seq) {
                (Some(id), ..) => {
                    let seq: Seq = id.parse().context("a sequence number")?;
                    messages.extend(numbers.get(&seq));
                }
                (None, Some(from), Some(upto)) => messages.extend(numbers.range(from..=upto).map(|(_, n)| *n)),
                // The question itself.
                (None, ..) => {}
            }
        }
        let verbatim = |number: &u64| all.contains(self.said[usize::try_from(*number).unwrap_or(0)].3.trim());
        ensure!(messages.iter().all(verbatim), "a message is not in the prompt verbatim");
        let mut sum = 0;
        for number in &messages {
            sum += pieces.of_turn(&self.said[usize::try_from(*number)?].3)?;
        }
        let around = gathered.current.system_tokens + gathered.current.blocks.back().map_or(0, |block| block.tokens());
        Ok(Found {
            messages,
            tokens: assembled.tokens - around,
            pieces: sum,
        })
    }

    /// Returns the tokens of sending the whole history, by the product's own count.
    pub fn tokens(&self) -> u64 {
        self.memory.blocks.iter().map(|block| block.tokens()).sum()
    }
}

fn text_of(message: &PromptMessage) -> Option<&str> {
    match message {
        PromptMessage::System { text } | PromptMessage::User { text } | PromptMessage::Assistant { text, .. } => {
            Some(text)
        }
        PromptMessage::Tool { .. } | PromptMessage::Files { .. } => None,
    }
}
