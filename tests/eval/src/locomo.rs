//! LoCoMo (Maharana et al. 2024): conversations of some 600 turns over months, and questions with the turns that hold the
//! answer. Measured is which share of these turns is in the prompt, verbatim.
//!
//! The budget is the conversation's text in the prompt, without instructions and question: BERT word pieces plus 8 per turn.
//! All questions count, also those that cannot be answered, whose evidence is what misleads.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use copilotd_actors::ports::{Embedder, Purpose, Vector};
use copilotd_knowledge::recall::{Budget, Question, Recall, Turn};
use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::assembled::{Compressed, Conversation as Prompts};
use crate::metrics::Estimate;
use crate::rows::read;
use crate::table::{Aim, Line};
use crate::vectors::Vectors;

/// Tokens that each turn takes beside its text.
const PER_TURN: u64 = 8;
/// Tokens of the prompt, with the aims and floors of all questions and of multi-hop questions.
const BUDGETS: [(u64, [(f64, f64); 2]); 2] = [
    (1_500, [(0.86, 0.837), (0.75, 0.642)]),
    (4_000, [(0.94, 0.924), (0.88, 0.819)]),
];

/// Once a history has more than this many budgets, a prompt has to leave out all but [`MOST_OF_LONG`] of it.
const LONG_BUDGETS: u64 = 10;
/// Part of a long history that a prompt may have.
const MOST_OF_LONG: f64 = 0.1;

#[derive(Debug, Deserialize)]
struct Conversation {
    id: String,
    sessions: Vec<Session>,
}

#[derive(Debug, Deserialize)]
struct Session {
    turns: Vec<Said>,
}

/// A turn of a conversation.
#[derive(Debug, Clone, Deserialize)]
pub struct Said {
    id: String,
    /// Who said it.
    pub speaker: String,
    /// What was said.
    pub text: String,
}

#[derive(Debug, Deserialize)]
struct Asked {
    conversation: String,
    question: String,
    evidence: Vec<String>,
    meta: Meta,
}

#[derive(Debug, Deserialize)]
struct Meta {
    category: String,
}

/// A conversation and its index.
struct Indexed {
    recall: Recall,
    /// The same conversation as the product holds it.
    prompts: Prompts,
    /// Number of each turn.
    numbers: HashMap<String, u64>,
    tokens: u64,
}

/// Counts word pieces.
#[derive(Debug)]
pub struct WordPieces(Tokenizer);

impl WordPieces {
    /// Loads a BERT model's `tokenizer.json`.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let failed = |error| anyhow!("cannot load {}: {error}", path.display());
        let mut tokenizer = Tokenizer::from_file(path).map_err(failed)?;
        tokenizer.with_truncation(None).map_err(failed)?;
        tokenizer.with_padding(None);
        Ok(Self(tokenizer))
    }

    /// Returns what a turn takes of a budget.
    pub fn of_turn(&self, text: &str) -> anyhow::Result<u64> {
        let pieces = self
            .0
            .encode_fast(text, false)
            .map_err(|error| anyhow!("cannot tokenize: {error}"))?;
        Ok(pieces.get_ids().len() as u64 + PER_TURN)
    }
}

/// Reads the turns of each conversation.
pub fn conversations(data: &Path) -> anyhow::Result<Vec<(String, Vec<Said>)>> {
    let conversations: Vec<Conversation> = read(&data.join("memory_locomo/conversations.jsonl"))?;
    let turns = |sessions: Vec<Session>| sessions.into_iter().flat_map(|session| session.turns).collect();
    Ok(conversations
        .into_iter()
        .map(|conversation| (conversation.id, turns(conversation.sessions)))
        .collect())
}

/// Returns the texts to embed for a turn of a conversation.
pub fn to_embed(turns: &[Said], at: usize) -> [String; 2] {
    let parts = |turn: &'_ Said| (Some(turn.speaker.clone()), turn.text.clone());
    let (speaker, text) = parts(&turns[at]);
    let previous = at.checked_sub(1).map(|before| parts(&turns[before]));
    let previous = previous
        .as_ref()
        .map(|(speaker, text)| (speaker.as_deref(), text.as_str()));
    Recall::to_embed((speaker.as_deref(), &text), previous)
}

/// Measures at most `sample` questions.
pub async fn measure(
    data: &Path,
    pieces: &WordPieces,
    vectors: Option<&mut Vectors>,
    embedder: Option<&dyn Embedder>,
    sample: usize,
) -> anyhow::Result<Vec<Line>> {
    let conversations = conversations(data)?;
    let mut asked: Vec<Asked> = read(&data.join("memory_locomo/dev.jsonl"))?;
    asked.truncate(sample);
    let needed: HashSet<&str> = asked.iter().map(|asked| asked.conversation.as_str()).collect();
    let mut vectors = vectors;
    let mut indexed: HashMap<String, Indexed> = HashMap::new();
    for (id, turns) in conversations.into_iter().filter(|(id, _)| needed.contains(id.as_str())) {
        if let Some(vectors) = vectors.as_deref_mut() {
            let texts: Vec<String> = (0..turns.len()).flat_map(|at| to_embed(&turns, at)).collect();
            vectors
                .ensure(embedder, Purpose::Passage, texts.iter().map(String::as_str))
                .await?;
        }
        indexed.insert(id, index(&turns, pieces, vectors.as_deref())?);
    }
    let of = |asked: &Asked| {
        indexed
            .get(&asked.conversation)
            .with_context(|| format!("no conversation {}", asked.conversation))
    };
    if let Some(vectors) = vectors.as_deref_mut() {
        let questions: anyhow::Result<Vec<String>> = asked
            .iter()
            .map(|asked| Ok(of(asked)?.recall.question_to_embed(&asked.question)))
            .collect();
        vectors
            .ensure(embedder, Purpose::Query, questions?.iter().map(String::as_str))
            .await?;
    }
    let mut lines = assembled(&asked, &indexed, pieces, vectors.as_deref())?;
    for (tokens, [all, multi_hop]) in BUDGETS {
        let (mut recalls, mut hops, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        for asked in &asked {
            let conversation = of(asked)?;
            let evidence = evidence(&asked.evidence, &conversation.numbers);
            if evidence.is_empty() {
                continue;
            }
            let (found, used) = found(conversation, &asked.question, tokens, vectors.as_deref())?;
            let recall = evidence.intersection(&found).count() as f64 / evidence.len() as f64;
            recalls.push(recall);
            if asked.meta.category == "multi-hop" {
                hops.push(recall);
            }
            shares.push(used as f64 / conversation.tokens as f64);
        }
        let line = |name: &str, values: &[f64], aim, floor| Line {
            name: format!("LoCoMo {name}, {tokens} tokens, selection alone"),
            measured: Estimate::of(values),
            aim,
            floor,
        };
        lines.push(line("evidence recall", &recalls, Aim::AtLeast(all.0), Some(all.1)));
        lines.push(line(
            "multi-hop recall",
            &hops,
            Aim::AtLeast(multi_hop.0),
            Some(multi_hop.1),
        ));
        let aim = of_share(indexed.values().map(|conversation| conversation.tokens), tokens);
        lines.push(line("share of the history", &shares, aim, None));
    }
    Ok(lines)
}

/// Returns the aim for the share of histories that prompts have: one only if all of them are long.
fn of_share(histories: impl Iterator<Item = u64>, budget: u64) -> Aim {
    let shortest = histories.min().unwrap_or_default();
    if shortest > LONG_BUDGETS * budget {
        Aim::AtMost(MOST_OF_LONG)
    } else {
        Aim::Shown
    }
}

fn index(turns: &[Said], pieces: &WordPieces, vectors: Option<&Vectors>) -> anyhow::Result<Indexed> {
    let of = |at: usize| -> anyhow::Result<Option<[Vector; 2]>> {
        let texts = to_embed(turns, at);
        let vector = |text: &String| {
            vectors
                .map(|vectors| vectors.get(Purpose::Passage, text).cloned())
                .transpose()
        };
        Ok(match (vector(&texts[0])?, vector(&texts[1])?) {
            (Some(alone), Some(after_previous)) => Some([alone, after_previous]),
            _ => None,
        })
    };
    let of_turns = (0..turns.len()).map(of).collect::<anyhow::Result<Vec<_>>>()?;
    let mut indexed = Indexed {
        recall: Recall::new(),
        prompts: Prompts::build(turns, &of_turns),
        numbers: HashMap::new(),
        tokens: 0,
    };
    for (at, said) in turns.iter().enumerate() {
        let [alone, after_previous] = to_embed(turns, at);
        let vector = |text: &str| vectors.map(|vectors| vectors.get(Purpose::Passage, text)).transpose();
        let tokens = pieces.of_turn(&said.text)?;
        let number = indexed.recall.push(Turn {
            speaker: Some(&said.speaker),
            text: &said.text,
            tokens,
            alone: vector(&alone)?,
            after_previous: vector(&after_previous)?,
        });
        indexed.numbers.insert(said.id.clone(), number);
        indexed.tokens += tokens;
    }
    Ok(indexed)
}

/// Measures whole prompts, made as the product makes them with `memory.budget_tokens`. What counts as a found turn is in the
/// prompt verbatim, as a message or among the recalled ones.
fn assembled(
    asked: &[Asked],
    indexed: &HashMap<String, Indexed>,
    pieces: &WordPieces,
    vectors: Option<&Vectors>,
) -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (tokens, [all, multi_hop]) in BUDGETS {
        for compressed in [Compressed::No, Compressed::Yes] {
            let (mut recalls, mut hops, mut shares) = (Vec::new(), Vec::new(), Vec::new());
            let (mut own, mut theirs) = (0.0_f64, 0.0_f64);
            for asked in asked {
                let Some(conversation) = indexed.get(&asked.conversation) else {
                    continue;
                };
                let evidence = evidence(&asked.evidence, &conversation.numbers);
                if evidence.is_empty() {
                    continue;
                }
                let text = conversation.prompts.question_to_embed(&asked.question);
                let vector = vectors.map(|vectors| vectors.get(Purpose::Query, &text)).transpose()?;
                let found = conversation
                    .prompts
                    .prompt(&asked.question, vector, tokens, compressed, pieces)?;
                let recall = evidence.intersection(&found.messages).count() as f64 / evidence.len() as f64;
                recalls.push(recall);
                if asked.meta.category == "multi-hop" {
                    hops.push(recall);
                }
                shares.push(found.tokens as f64 / conversation.prompts.tokens() as f64);
                own = own.max(found.tokens as f64 / tokens as f64);
                theirs = theirs.max(found.pieces as f64 / tokens as f64);
            }
            let of = match compressed {
                Compressed::No => "",
                Compressed::Yes => " beside a full summary",
            };
            let line = |name: &str, values: &[f64], aim, floor| Line {
                name: format!("LoCoMo prompt: {name}, {tokens} tokens{of}"),
                measured: Estimate::of(values),
                aim,
                floor,
            };
            let (aims, floor) = match compressed {
                Compressed::No => ([Aim::AtLeast(all.0), Aim::AtLeast(multi_hop.0)], Some(all.1)),
                Compressed::Yes => ([Aim::Shown, Aim::Shown], None),
            };
            let [of_all, of_hops] = aims;
            lines.push(line("evidence recall", &recalls, of_all, floor));
            lines.push(line("multi-hop recall", &hops, of_hops, floor.map(|_| multi_hop.1)));
            let histories = indexed.values().map(|conversation| conversation.prompts.tokens());
            lines.push(line("share of the history", &shares, of_share(histories, tokens), None));
            lines.push(line(
                "largest part of the budget, own tokens",
                &[own],
                Aim::AtMost(1.0),
                None,
            ));
            lines.push(line(
                "largest part of the budget, word pieces + 8",
                &[theirs],
                Aim::AtMost(1.0),
                None,
            ));
        }
    }
    Ok(lines)
}

/// Returns the turns that a prompt of so many tokens holds, and the tokens that they take.
fn found(
    conversation: &Indexed,
    question: &str,
    tokens: u64,
    vectors: Option<&Vectors>,
) -> anyhow::Result<(HashSet<u64>, u64)> {
    let text = conversation.recall.question_to_embed(question);
    let vector = vectors.map(|vectors| vectors.get(Purpose::Query, &text)).transpose()?;
    let question = Question {
        text: question,
        vector,
        before: None,
    };
    let selection = conversation.recall.select(question, Budget::of(tokens));
    Ok((selection.turns.iter().map(|turn| turn.turn).collect(), selection.tokens))
}

/// Returns the turns that hold the answer. Some rows name several in one string, and some name turns that do not exist.
fn evidence(ids: &[String], numbers: &HashMap<String, u64>) -> HashSet<u64> {
    let ids = ids.iter().flat_map(|ids| ids.split([';', ',', ' ']));
    ids.filter_map(|id| numbers.get(id).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_an_aim_if_all_histories_are_long() {
        for (histories, expected) in [
            (vec![15_001, 40_000], Aim::AtMost(0.1)),
            (vec![15_000, 40_000], Aim::Shown),
            (vec![], Aim::Shown),
        ] {
            assert_eq!(of_share(histories.into_iter(), 1_500), expected);
        }
    }

    #[test]
    fn evidence_is_read_however_it_is_written() {
        let numbers = HashMap::from([("D1:1".to_owned(), 0), ("D1:2".to_owned(), 1), ("D2:1".to_owned(), 2)]);
        for (ids, expected) in [
            (vec!["D1:1"], vec![0]),
            (vec!["D1:1; D2:1"], vec![0, 2]),
            (vec!["D1:1 D1:2", "D1:2"], vec![0, 1]),
            (vec!["D9:9", "D"], vec![]),
        ] {
            let ids: Vec<String> = ids.into_iter().map(str::to_owned).collect();
            assert_eq!(evidence(&ids, &numbers), expected.into_iter().collect());
        }
    }
}
