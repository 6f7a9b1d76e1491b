//! The search again, written for reading instead of speed: what it must return, to the bit.

use std::collections::HashMap;

use copilotd_actors::ports::Vector;
use proptest::prelude::*;

use super::*;
use crate::fusion::{best_first, reciprocal_rank};
use crate::lexical::{Statistics, idf, terms, weight};

/// More than the products that are added up side by side, and no multiple of their number.
const DIMENSIONS: usize = 70;

/// A turn of a random conversation.
#[derive(Debug, Clone)]
struct Said {
    speaker: Option<&'static str>,
    text: String,
    tokens: u64,
    vectors: Option<[Vector; 2]>,
}

/// Returns the BM25 scores of texts whose terms are counted.
fn bm25(texts: &[HashMap<String, u32>], question: &str) -> Vec<f64> {
    let length = |text: &HashMap<String, u32>| text.values().map(|count| u64::from(*count)).sum::<u64>();
    let statistics = Statistics {
        chunks: texts.len() as u64,
        terms: texts.iter().map(length).sum(),
    };
    let mut scores = vec![0.0; texts.len()];
    for (term, _) in terms(question) {
        let containing = texts.iter().filter(|text| text.contains_key(&term)).count() as u64;
        for (score, text) in scores.iter_mut().zip(texts) {
            if let Some(count) = text.get(&term) {
                *score +=
                    idf(statistics.chunks, containing) * weight(*count, length(text), statistics.average_length());
            }
        }
    }
    scores
}

/// Returns for each turn what the turns from the one before to the one after have together.
fn with_neighbours(texts: &[HashMap<String, u32>]) -> Vec<HashMap<String, u32>> {
    let around = |turn: usize| &texts[turn.saturating_sub(1)..(turn + 2).min(texts.len())];
    let sum = |texts: &[HashMap<String, u32>]| {
        let mut sum = HashMap::new();
        for (term, count) in texts.iter().flatten() {
            *sum.entry(term.clone()).or_insert(0) += count;
        }
        sum
    };
    (0..texts.len()).map(|turn| sum(around(turn))).collect()
}

fn product(one: &(Vec<i8>, f32), other: &(Vec<i8>, f32)) -> f32 {
    let products = one.0.iter().zip(&other.0).map(|(a, b)| i32::from(*a) * i32::from(*b));
    products.sum::<i32>() as f32 * one.1 * other.1
}

/// Returns the cosines of a question with the turns, with what was embedded after the one before, and with the means.
fn cosines(turns: &[Said], question: &Vector) -> [Vec<f64>; 3] {
    let packed = |which: usize| -> Vec<(Vec<i8>, f32)> {
        let pack = |said: &Said| match &said.vectors {
            Some(vectors) => vectors::pack(vectors[which].values()),
            None => (vec![0; question.values().len()], 0.0),
        };
        turns.iter().map(pack).collect()
    };
    let question = vectors::pack(question.values());
    let (alone, after_previous) = (packed(0), packed(1));
    let of = |packed: &[(Vec<i8>, f32)]| -> Vec<f64> {
        packed
            .iter()
            .map(|vector| f64::from(product(vector, &question)))
            .collect()
    };
    let cosines = of(&alone);
    let has = |turn: usize| f64::from(u8::from(alone[turn].1 > 0.0));
    let between = |one: usize, other: usize| 2.0 * f64::from(product(&alone[one], &alone[other]));
    let mean = |turn: usize| {
        let (mut sum, mut square) = (cosines[turn], has(turn));
        if turn > 0 {
            sum += cosines[turn - 1];
            square += has(turn - 1) + between(turn - 1, turn);
        }
        if turn + 1 < turns.len() {
            sum += cosines[turn + 1];
            square += has(turn + 1) + between(turn, turn + 1);
            if turn > 0 {
                square += between(turn - 1, turn + 1);
            }
        }
        if square > f64::EPSILON {
            sum / square.sqrt()
        } else {
            0.0
        }
    };
    let means = (0..turns.len()).map(mean).collect();
    [cosines, of(&after_previous), means]
}

/// Selects as [`Recall::select`] does.
fn select(turns: &[Said], named: Option<&str>, question: Question<'_>, budget: Budget) -> Selection {
    let texts: Vec<HashMap<String, u32>> = turns
        .iter()
        .map(|said| terms(&super::said(said.speaker, &said.text)).into_iter().collect())
        .collect();
    let mut scores = vec![
        bm25(&texts, question.text),
        bm25(&with_neighbours(&texts), question.text),
    ];
    if let Some(vector) = question
        .vector
        .filter(|_| turns.iter().any(|said| said.vectors.is_some()))
    {
        scores.extend(cosines(turns, vector));
    }
    let ranking = |scores: &Vec<f64>| -> Vec<usize> {
        let scored = scores.iter().copied().enumerate().filter(|(_, score)| *score > 0.0);
        best_first(scored.collect())
            .into_iter()
            .map(|(turn, _)| turn)
            .take(1_000)
            .collect()
    };
    let rankings: Vec<Vec<usize>> = scores.iter().map(ranking).collect();
    let rankings: Vec<&[usize]> = rankings.iter().map(Vec::as_slice).collect();
    let mut own = vec![0.0; turns.len()];
    for (turn, score) in reciprocal_rank(&rankings) {
        own[turn] = score;
    }
    let end = usize::try_from(question.before.unwrap_or(u64::MAX))
        .unwrap_or(usize::MAX)
        .min(turns.len());
    let at = |turn: Option<usize>| turn.and_then(|turn| own.get(turn)).copied().unwrap_or_default();
    let score = |turn: usize| {
        let factor = if named.is_some() && turns[turn].speaker == named {
            1.75
        } else {
            1.0
        };
        (own[turn] + 0.25 * (at(turn.checked_sub(1)) + at(Some(turn + 1)))) * factor
    };
    let selected = |turn: usize, score, reason| Selected {
        turn: turn as u64,
        tokens: turns[turn].tokens,
        score,
        reason,
    };
    let (mut chosen, mut left, mut omitted) = (vec![None; turns.len()], budget.tokens, 0);
    let mut recent = budget.recent_tokens.min(budget.tokens);
    for turn in (0..end).rev() {
        let Some(rest) = recent.checked_sub(turns[turn].tokens) else {
            break;
        };
        recent = rest;
        left -= turns[turn].tokens;
        chosen[turn] = Some(selected(turn, own[turn], Reason::Recent));
    }
    let scored = (0..end)
        .map(|turn| (turn, score(turn)))
        .filter(|(_, score)| *score > 0.0);
    for (rank, (turn, score)) in (1..).zip(best_first(scored.collect())) {
        let tokens = turns[turn].tokens;
        if chosen[turn].is_some() {
            continue;
        }
        if left < 10 || tokens > left || tokens > budget.tokens / 2 {
            omitted += 1;
            continue;
        }
        let (before, after) = (at(turn.checked_sub(1)), at(Some(turn + 1)));
        let (neighbour, theirs) = match turn.checked_sub(1) {
            Some(previous) if after <= before => (previous, before),
            None if turns.len() == 1 => (turn, 0.0),
            _ => (turn + 1, after),
        };
        let reason = match own[turn] < 0.25 * theirs {
            true => Reason::Neighbour { of: neighbour as u64 },
            false => Reason::Relevant { rank },
        };
        left -= tokens;
        chosen[turn] = Some(selected(turn, score, reason));
    }
    let turns: Vec<Selected> = chosen.into_iter().flatten().collect();
    Selection {
        tokens: turns.iter().map(|turn| turn.tokens).sum(),
        turns,
        omitted,
    }
}

fn vector(values: &[i8]) -> Option<Vector> {
    Vector::unit(&"m".into(), values.iter().map(|value| f32::from(*value)).collect())
}

fn turn() -> impl Strategy<Value = Said> {
    let vectors = prop::array::uniform2(prop::collection::vec(any::<i8>(), DIMENSIONS));
    let vectors = prop_oneof![1 => Just(None), 4 => vectors.prop_map(Some)];
    let speaker = prop_oneof![Just(None), Just(Some("Ann")), Just(Some("Bo"))];
    // Few words, so that they are in most turns, in some, and in hardly any.
    let text = "([a-e]|[a-z][a-e]|w{1,3})( ([a-e]|[a-z][a-e]|w{1,3})){0,8}";
    (speaker, text, 1_u64..50, vectors).prop_map(|(speaker, text, tokens, vectors)| Said {
        speaker,
        text,
        tokens,
        vectors: vectors
            .and_then(|[alone, after]| vector(&alone).zip(vector(&after)))
            .map(<[Vector; 2]>::from),
    })
}

fn built(turns: &[Said]) -> Recall {
    let mut recall = Recall::new();
    for said in turns {
        recall.push(Turn {
            speaker: said.speaker,
            text: &said.text,
            tokens: said.tokens,
            alone: said.vectors.as_ref().map(|vectors| &vectors[0]),
            after_previous: said.vectors.as_ref().map(|vectors| &vectors[1]),
        });
    }
    recall
}

/// Checks that both select the same. `turns` are repeated: a conversation longer than a ranking has many ties.
fn check(turns: &[Said], copies: usize, question: Question<'_>, budget: Budget) -> Result<(), TestCaseError> {
    let turns: Vec<Said> = turns.iter().cycle().take(turns.len() * copies).cloned().collect();
    let names: Vec<&str> = ["Ann", "Bo"]
        .into_iter()
        .filter(|name| question.text.contains(name))
        .collect();
    let named = match names[..] {
        [name] if turns.iter().any(|said| said.speaker == Some(name)) => Some(name),
        _ => None,
    };
    let selection = built(&turns).select(question, budget);
    prop_assert_eq!(selection, select(&turns, named, question, budget));
    Ok(())
}

fn question() -> impl Strategy<Value = (String, Option<Vector>)> {
    let vector = prop::option::of(prop::collection::vec(any::<i8>(), DIMENSIONS));
    let text = "(Ann )?([a-e]|[a-z][a-e]|w{1,3})( ([a-e]|[a-z][a-e]|w{1,3})){0,4}";
    (text, vector).prop_map(|(text, values)| (text, values.and_then(|values| self::vector(&values))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_search_returns_what_the_plain_one_returns(
        turns in prop::collection::vec(turn(), 0..60),
        (text, vector) in question(),
        before in prop::option::of(0_u64..70),
        tokens in 0_u64..600,
        recent_tokens in 0_u64..200,
    ) {
        let question = Question { text: &text, vector: vector.as_ref(), before };
        check(&turns, 1, question, Budget { tokens, recent_tokens })?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_search_of_a_long_conversation_returns_what_the_plain_one_returns(
        turns in prop::collection::vec(turn(), 1..120),
        (text, vector) in question(),
        tokens in 0_u64..60_000,
        recent_tokens in 0_u64..200,
    ) {
        let question = Question { text: &text, vector: vector.as_ref(), before: None };
        check(&turns, 2_400 / turns.len(), question, Budget { tokens, recent_tokens })?;
    }
}
