//! Gate (e): whether an entry may answer a question of this similarity, learned from audits.
//!
//! The idea is that of vCache (arXiv 2502.03771), derived independently. Let the chance that the entry is right at
//! similarity `s` be `σ(g·(s − t))`, with slope `g` and midpoint `t` of its own. Both are estimated from audited pairs
//! (similarity, right?) by maximum likelihood. The estimate of `t` has a standard error; with confidence `1 − ε` the
//! true midpoint is below `t + z(ε)·se`, and so the entry is right with a chance of at least `p = (1 − ε)·σ(g·(s − t −
//! z(ε)·se))`, for every `ε`: the best one counts. If the model is called instead with chance `a`, at most `(1 − a)·(1
//! − p)` of the questions are answered wrongly; that stays below the bound `d` for `a ≥ 1 − d/(1 − p)`.
//!
//! Invariant: with fewer than [`FEWEST`] pairs nothing is decided here. Chance is passed in as a number: the same pairs
//! and the same number give the same decision.

/// Fewest pairs for a decision.
pub const FEWEST: usize = 6;
/// Most pairs that are stored; the oldest are dropped first.
const MOST: usize = 64;
/// Number of values of ε that are tried.
const STEPS: u32 = 50;

/// Audit results of one entry, or of a whole partition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Evidence {
    pairs: Vec<(f64, bool)>,
}

/// What to do with a near entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Answer from the entry.
    Serve,
    /// Call the model, and learn.
    Explore,
}

impl Evidence {
    /// Adds an audit result.
    pub fn add(&mut self, similarity: f32, right: bool) {
        if self.pairs.len() >= MOST {
            self.pairs.remove(0);
        }
        self.pairs.push((f64::from(similarity), right));
    }

    /// Number of results.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there are no results.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Whether the entry was wrong at this similarity or a higher one.
    pub fn wrong_at(&self, similarity: f32) -> bool {
        self.pairs
            .iter()
            .any(|(known, right)| !right && *known >= f64::from(similarity))
    }

    /// Returns the chance with which the model must be called at `similarity`, so that at most `max_error` of the
    /// questions are answered wrongly. `None` if there are too few results.
    pub fn explore_chance(&self, similarity: f32, max_error: f64) -> Option<f64> {
        if self.pairs.len() < FEWEST {
            return None;
        }
        let fit = Fit::of(&self.pairs);
        let right = (1..STEPS)
            .map(|step| f64::from(step) / f64::from(STEPS) * 0.5)
            .map(|doubt| {
                let midpoint = fit.midpoint + quantile(1.0 - doubt) * fit.error;
                (1.0 - doubt) * sigmoid(fit.slope * (f64::from(similarity) - midpoint))
            })
            .chain(self.laplace_bound(similarity))
            .fold(0.0, f64::max);
        let wrong = 1.0 - right;
        Some(if wrong <= max_error {
            0.0
        } else {
            1.0 - max_error / wrong
        })
    }

    /// Decides by `chance`, a uniform number from 0 to 1.
    pub fn decide(&self, similarity: f32, max_error: f64, chance: f64) -> Option<Decision> {
        let asking = self.explore_chance(similarity, max_error)?;
        Some(if chance < asking {
            Decision::Explore
        } else {
            Decision::Serve
        })
    }

    /// Where nothing was wrong, the curve has no slope to estimate. Without one: above the nearest wrong pair, `n`
    /// right results in a row give a chance of being right of `(n + 1)/(n + 2)` (Laplace's rule of succession). It
    /// holds for similarities of at least the audited ones, since being nearer is no worse.
    fn laplace_bound(&self, similarity: f32) -> Option<f64> {
        let similarity = f64::from(similarity);
        let wrong = self.pairs.iter().filter(|(_, right)| !right).map(|(known, _)| *known);
        let nearest_wrong = wrong.fold(f64::NEG_INFINITY, f64::max);
        let above = self
            .pairs
            .iter()
            .filter(|(known, _)| *known > nearest_wrong && *known <= similarity);
        let right = above.count() as f64;
        (right > 0.0).then(|| (right + 1.0) / (right + 2.0))
    }
}

/// The curve fitted to the pairs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fit {
    slope: f64,
    midpoint: f64,
    /// Standard error of the midpoint.
    error: f64,
}

impl Fit {
    /// Fits by Newton's method on the penalised likelihood. The small penalty keeps the slope finite when the pairs are
    /// perfectly separable.
    fn of(pairs: &[(f64, bool)]) -> Self {
        // Centred at 0.9 and scaled by ten, so that both coefficients are of similar size.
        let scaled = |similarity: f64| (similarity - 0.9) * 10.0;
        let penalty = 0.02;
        let (mut a, mut b) = (0.0, 1.0);
        let mut information = [[penalty, 0.0], [0.0, penalty]];
        for _ in 0..50 {
            let mut gradient = [-penalty * a, -penalty * (b - 1.0)];
            information = [[penalty, 0.0], [0.0, penalty]];
            for (similarity, right) in pairs {
                let x = scaled(*similarity);
                let p = sigmoid(a + b * x);
                let residual = f64::from(u8::from(*right)) - p;
                gradient[0] += residual;
                gradient[1] += residual * x;
                let weight = p * (1.0 - p);
                information[0][0] += weight;
                information[0][1] += weight * x;
                information[1][1] += weight * x * x;
            }
            information[1][0] = information[0][1];
            let [da, db] = solve(information, gradient);
            let step = 4.0 / (da.abs() + db.abs()).max(4.0);
            a += step * da;
            // Being nearer is never worse: the slope stays positive.
            b = (b + step * db).max(0.05);
            if da.abs() + db.abs() < 1e-9 {
                break;
            }
        }
        // The midpoint is -a/b; its variance by the delta method.
        let direction = [-1.0 / b, a / (b * b)];
        let [va, vb] = solve(information, direction);
        let variance = direction[0] * va + direction[1] * vb;
        Self {
            slope: b * 10.0,
            midpoint: 0.9 - a / b / 10.0,
            error: variance.max(0.0).sqrt() / 10.0,
        }
    }
}

/// Solves two linear equations.
fn solve(matrix: [[f64; 2]; 2], right: [f64; 2]) -> [f64; 2] {
    let [[a, b], [c, d]] = matrix;
    let determinant = (a * d - b * c).max(1e-12);
    [
        (d * right[0] - b * right[1]) / determinant,
        (a * right[1] - c * right[0]) / determinant,
    ]
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Returns the normal distribution's quantile for 0.5 ≤ p < 1, to three digits (Abramowitz and Stegun, 26.2.23).
fn quantile(p: f64) -> f64 {
    let t = (-2.0 * (1.0 - p).ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    t - above / below
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn evidence(pairs: &[(f32, bool)]) -> Evidence {
        let mut evidence = Evidence::default();
        for (similarity, right) in pairs {
            evidence.add(*similarity, *right);
        }
        evidence
    }

    #[test]
    fn quantiles_match_the_published_table() {
        for (p, expected) in [(0.5, 0.0), (0.9, 1.2816), (0.975, 1.96), (0.99, 2.3263)] {
            assert!((quantile(p) - expected).abs() < 1e-3, "{p}");
        }
    }

    #[test]
    fn decisions_follow_what_audits_said() {
        let good = [(0.95, true); 60];
        let bad = [(0.95, false); 60];
        let split: Vec<_> = (0..32).flat_map(|_| [(0.99, true), (0.90, false)]).collect();
        for (name, pairs, similarity, asks) in [
            ("too few", &good[..5], 0.95, None),
            ("always right", &good[..], 0.96, Some(false)),
            ("always wrong", &bad[..], 0.95, Some(true)),
            ("far below what was right", &good[..], 0.3, Some(true)),
            ("right above", &split[..], 0.99, Some(false)),
            ("wrong below", &split[..], 0.90, Some(true)),
        ] {
            let chance = evidence(pairs).explore_chance(similarity, 0.05);
            assert_eq!(chance.map(|chance| chance > 0.5), asks, "{name}: {chance:?}");
        }
    }

    #[test]
    fn a_lower_bound_asks_more() {
        let evidence = evidence(&[
            (0.9, true),
            (0.92, true),
            (0.95, true),
            (0.8, false),
            (0.97, true),
            (0.85, false),
            (0.9, true),
        ]);
        let mut last = 1.0;
        for max_error in [0.001, 0.01, 0.05, 0.2] {
            let chance = evidence.explore_chance(0.95, max_error).unwrap();
            assert!(chance <= last, "{max_error}");
            last = chance;
        }
    }

    #[test]
    fn no_more_is_kept_than_is_bounded() {
        assert_eq!(evidence(&[(0.9, true); 1_000]).len(), MOST);
    }

    proptest! {
        /// For any true curve of the family, the wrong answers served while learning stay within the bound (plus four
        /// standard deviations of the count).
        #[test]
        fn what_is_served_wrongly_stays_within_the_bound(
            slope in 15.0..80.0_f64, midpoint in 0.6..1.0_f64, max_error in 0.02..0.1_f64, seed in any::<u64>()
        ) {
            let mut state = seed | 1;
            let mut draw = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 11) as f64 / (1_u64 << 53) as f64
            };
            let mut evidence = Evidence::default();
            let (asked, mut wrong) = (3_000, 0);
            for _ in 0..asked {
                let similarity = 0.6 + 0.4 * draw();
                let right = draw() < sigmoid(slope * (similarity - midpoint));
                match evidence.decide(similarity as f32, max_error, draw()) {
                    Some(Decision::Serve) => wrong += usize::from(!right),
                    _ => evidence.add(similarity as f32, right),
                }
            }
            let allowed = max_error * f64::from(asked);
            prop_assert!((wrong as f64) < allowed + 4.0 * allowed.sqrt(), "{wrong} of {asked}, {allowed} allowed");
        }

        #[test]
        fn no_pairs_break_the_fit(pairs in prop::collection::vec((-1.0..1.0_f32, any::<bool>()), 0..80), similarity in -1.0..1.0_f32) {
            if let Some(chance) = evidence(&pairs).explore_chance(similarity, 0.02) {
                prop_assert!((0.0..=1.0).contains(&chance), "{chance}");
            }
        }
    }
}
