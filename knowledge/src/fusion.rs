//! Fusion of several rankings into one, and removal of what says the same twice.

use std::collections::HashMap;
use std::hash::Hash;

use unicode_normalization::UnicodeNormalization;

/// The constant of reciprocal rank fusion: Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet
/// and individual Rank Learning Methods" (SIGIR 2009).
const RANK_CONSTANT: f64 = 60.0;

/// Fuses rankings, each best first and without repetition, by reciprocal rank: an item's score is the sum of
/// 1 / (60 + rank) over the rankings that contain it, ranks counted from 1. Best first; ties in the items' own order.
///
/// All rankings weigh the same. Scores of the rankings themselves do not matter, so that BM25 sums and cosines, which
/// have different scales, need no calibration.
pub fn reciprocal_rank<T: Copy + Eq + Hash + Ord>(rankings: &[&[T]]) -> Vec<(T, f64)> {
    let mut scores: HashMap<T, f64> = HashMap::new();
    for ranking in rankings {
        for (rank, item) in (1_u32..).zip(*ranking) {
            *scores.entry(*item).or_default() += of_rank(rank);
        }
    }
    best_first(scores.into_iter().collect())
}

/// Returns what a rank, counted from 1, adds to an item's score.
pub fn of_rank(rank: u32) -> f64 {
    1.0 / (RANK_CONSTANT + f64::from(rank))
}

/// Sorts scored items: best first, ties in the items' own order.
pub fn best_first<T: Ord>(mut scored: Vec<(T, f64)>) -> Vec<(T, f64)> {
    scored.sort_unstable_by(|(a, a_score), (b, b_score)| b_score.total_cmp(a_score).then_with(|| a.cmp(b)));
    scored
}

/// Returns for each passage, best first, whether it says something that no better passage says in the same words.
///
/// Two passages are the same only if they differ in nothing but spacing, case, width of characters, and the punctuation
/// and emphasis around words; a passage that occurs inside a better one is left out too. Passages that share *most* words
/// are kept: help articles that differ in one amount or one "not" are the ones a question is about.
pub fn distinct(passages: &[&str]) -> Vec<bool> {
    let mut kept: Vec<String> = Vec::new();
    let mut is_distinct = Vec::with_capacity(passages.len());
    for passage in passages {
        let normal = normal_form(passage);
        let is_new = !kept.iter().any(|better| better.contains(&normal));
        if is_new {
            kept.push(normal);
        }
        is_distinct.push(is_new);
    }
    is_distinct
}

/// Returns the words of a passage, each between two spaces, so that whole words are compared.
fn normal_form(passage: &str) -> String {
    const BEFORE: &[char] = &['"', '\'', '(', '[', '{', '*', '_', '`', '#', '\u{201c}', '\u{2018}'];
    const AFTER: &[char] = &[
        '.', ',', ';', ':', '!', '?', '"', '\'', ')', ']', '}', '*', '_', '`', '\u{201d}', '\u{2019}',
    ];
    let folded = passage.nfkc().collect::<String>().to_lowercase();
    let mut normal = String::with_capacity(folded.len() + 2);
    for word in folded.split_whitespace() {
        let word = word.trim_start_matches(BEFORE).trim_end_matches(AFTER);
        if !word.is_empty() {
            normal.push(' ');
            normal.push_str(word);
        }
    }
    normal.push(' ');
    normal
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rankings_are_fused_by_reciprocal_rank() {
        let both = 1.0 / 61.0 + 1.0 / 62.0;
        for (rankings, expected) in [
            (vec![], vec![]),
            (vec![vec![7, 8]], vec![(7, 1.0 / 61.0), (8, 1.0 / 62.0)]),
            (vec![vec![7, 8], vec![8, 7]], vec![(7, both), (8, both)]),
            (
                vec![vec![7, 8], vec![8, 9]],
                vec![(8, both), (7, 1.0 / 61.0), (9, 1.0 / 62.0)],
            ),
            (vec![vec![], vec![9, 3]], vec![(9, 1.0 / 61.0), (3, 1.0 / 62.0)]),
        ] {
            let rankings: Vec<&[i32]> = rankings.iter().map(Vec::as_slice).collect();
            let fused = reciprocal_rank(&rankings);
            assert_eq!(
                fused.iter().map(|(item, _)| *item).collect::<Vec<_>>(),
                expected.iter().map(|(item, _)| *item).collect::<Vec<_>>()
            );
            assert!(
                fused
                    .iter()
                    .zip(&expected)
                    .all(|((_, a), (_, b))| (a - b).abs() < 1e-12)
            );
        }
    }

    #[test]
    fn only_what_says_the_same_is_left_out() {
        for (passages, expected) in [
            (vec!["The fee is $5.", "the  fee\nis **$5**"], vec![true, false]),
            (vec!["The fee is $5.", "The fee is $50."], vec![true, true]),
            (vec!["The fee is $5.", "The fee is 5 points."], vec![true, true]),
            (
                vec!["Refunds are possible.", "Refunds are not possible."],
                vec![true, true],
            ),
            (
                vec!["Open it. The fee is $5. Done.", "The fee is $5"],
                vec![true, false],
            ),
            (vec!["The fee is $5", "Open it. The fee is $5. Done."], vec![true, true]),
            (vec!["art", "start"], vec![true, true]),
            (vec!["start", "art"], vec![true, true]),
            (vec!["costs 3.14", "costs 314"], vec![true, true]),
            (vec!["\u{ff21}\u{ff22}", "ab", "AB!"], vec![true, false, false]),
        ] {
            assert_eq!(distinct(&passages), expected, "{passages:?}");
        }
    }

    proptest! {
        #[test]
        fn a_fusion_holds_every_item_once_and_never_rises(
            rankings in prop::collection::vec(prop::collection::hash_set(0_u8..40, 0..30), 0..5),
        ) {
            let rankings: Vec<Vec<u8>> = rankings.into_iter().map(|set| set.into_iter().collect()).collect();
            let slices: Vec<&[u8]> = rankings.iter().map(Vec::as_slice).collect();
            let fused = reciprocal_rank(&slices);
            let mut items: Vec<u8> = rankings.concat();
            items.sort_unstable();
            items.dedup();
            let mut found: Vec<u8> = fused.iter().map(|(item, _)| *item).collect();
            found.sort_unstable();
            prop_assert_eq!(found, items);
            prop_assert!(fused.windows(2).all(|pair| pair[0].1 > pair[1].1 || (pair[0].1 >= pair[1].1 && pair[0].0 < pair[1].0)));
            prop_assert_eq!(reciprocal_rank(&slices), fused);
        }
    }
}
