//! Measures of rankings, and their intervals.

use std::collections::HashSet;
use std::hash::Hash;

/// Resamples of a bootstrap.
const RESAMPLES: usize = 2_000;

/// A mean over questions, with the interval that holds 95 % of the means of resampled questions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Number of questions.
    pub questions: usize,
}

/// Returns nDCG with binary relevance: the discounted gain of the first `depth` items in relation to the best possible one
/// (Järvelin and Kekäläinen 2002, as `trec_eval` computes it).
pub fn ndcg<T: Eq + Hash>(ranking: &[T], relevant: &HashSet<T>, depth: usize) -> f64 {
    let gain = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
    let found = ranking.iter().take(depth).enumerate();
    let dcg: f64 = found
        .filter(|(_, item)| relevant.contains(item))
        .map(|(rank, _)| gain(rank))
        .sum();
    let ideal: f64 = (0..relevant.len().min(depth)).map(gain).sum();
    if ideal > 0.0 { dcg / ideal } else { 0.0 }
}

/// Returns the share of the relevant items that are among the first `depth`.
pub fn recall<T: Eq + Hash>(ranking: &[T], relevant: &HashSet<T>, depth: usize) -> f64 {
    let found = ranking
        .iter()
        .take(depth)
        .filter(|item| relevant.contains(item))
        .count();
    if relevant.is_empty() {
        0.0
    } else {
        found as f64 / relevant.len() as f64
    }
}

impl Estimate {
    /// Estimates the mean of the questions' values by a percentile bootstrap. The same values give the same interval.
    pub fn of(values: &[f64]) -> Self {
        let questions = values.len();
        if questions == 0 {
            return Self {
                mean: f64::NAN,
                low: f64::NAN,
                high: f64::NAN,
                questions,
            };
        }
        let mut random = SplitMix(0x5eed);
        let mut means: Vec<f64> = (0..RESAMPLES)
            .map(|_| (0..questions).map(|_| values[random.below(questions)]).sum::<f64>() / questions as f64)
            .collect();
        means.sort_unstable_by(f64::total_cmp);
        Self {
            mean: values.iter().sum::<f64>() / questions as f64,
            low: means[RESAMPLES / 40],
            high: means[RESAMPLES - 1 - RESAMPLES / 40],
            questions,
        }
    }

    /// Estimates a share by Wilson's score interval ("Probable Inference, the Law of Succession, and Statistical Inference",
    /// 1927), which says something also where all or none count: a bootstrap of such values has no width.
    pub fn of_share(part: usize, of: usize) -> Self {
        /// The 97.5 % quantile of the normal distribution.
        const Z: f64 = 1.959_964;
        if of == 0 {
            return Self::of(&[]);
        }
        let (share, n) = (part as f64 / of as f64, of as f64);
        let centre = share + Z * Z / (2.0 * n);
        let spread = Z * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
        let scale = 1.0 + Z * Z / n;
        Self {
            mean: share,
            low: ((centre - spread) / scale).max(0.0),
            high: ((centre + spread) / scale).min(1.0),
            questions: of,
        }
    }
}

/// The SplitMix64 generator of Steele, Lea and Flood (2014): small, and the same everywhere.
struct SplitMix(u64);

impl SplitMix {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Multiply and shift: the bias is far below what a bootstrap can show.
        ((u128::from(z ^ (z >> 31)) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_have_their_known_values() {
        let relevant = HashSet::from([1, 2]);
        for (ranking, ndcg_at_3, recall_at_2) in [
            (vec![1, 2, 3], 1.0, 1.0),
            (vec![3, 1, 2], 1.130_93 / 1.630_93, 0.5),
            (vec![3, 4, 5, 1], 0.0, 0.0),
            (vec![], 0.0, 0.0),
        ] {
            assert!((ndcg(&ranking, &relevant, 3) - ndcg_at_3).abs() < 1e-4, "{ranking:?}");
            assert!(
                (recall(&ranking, &relevant, 2) - recall_at_2).abs() < 1e-9,
                "{ranking:?}"
            );
        }
    }

    #[test]
    fn an_interval_holds_the_mean_and_shrinks_with_more_questions() {
        let values: Vec<f64> = (0..400).map(|n| f64::from(n % 2)).collect();
        let (few, many) = (Estimate::of(&values[..40]), Estimate::of(&values));
        for estimate in [few, many] {
            assert!(estimate.low < estimate.mean && estimate.mean < estimate.high);
        }
        // Two standard errors of a coin are about 1 / sqrt(n).
        assert!((many.high - many.low - 0.098).abs() < 0.02, "{many:?}");
        assert!(few.high - few.low > many.high - many.low);
        assert_eq!(Estimate::of(&values), many);
    }

    #[test]
    fn shares_have_intervals_also_at_their_ends() {
        for (part, of, low, high) in [
            // Newcombe 1998, table I, method 3.
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
            (20, 20, 0.8389, 1.0),
        ] {
            let found = Estimate::of_share(part, of);
            assert!(
                (found.low - low).abs() < 1e-4 && (found.high - high).abs() < 1e-4,
                "{found:?}"
            );
        }
        assert!(Estimate::of_share(0, 0).mean.is_nan());
    }
}
