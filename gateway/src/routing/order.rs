//! The order in which the targets of a route are tried.

/// What the order depends on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranking {
    /// Share among adjacent targets that have a weight too.
    pub weight: Option<u32>,
    /// Expected latency cost of a call; less is better.
    pub score: f64,
}

/// Returns the indices of `standings` in the order to try. Targets keep their configured order. Among adjacent targets
/// with weights two are drawn by weight and the better one goes first; the others follow by score. `draw(n)` is random
/// below `n`.
pub fn order(standings: &[Ranking], mut draw: impl FnMut(u64) -> u64) -> Vec<usize> {
    let mut order = Vec::with_capacity(standings.len());
    let mut at = 0;
    while at < standings.len() {
        let equals = standings[at..]
            .iter()
            .take_while(|standing| standing.weight.is_some())
            .count();
        if equals < 2 {
            order.push(at);
            at += 1;
            continue;
        }
        let mut group: Vec<usize> = (at..at + equals).collect();
        let first = draw_one(&group, standings, &mut draw);
        let others: Vec<usize> = group.iter().copied().filter(|&index| index != first).collect();
        let second = draw_one(&others, standings, &mut draw);
        let best = if standings[second].score < standings[first].score {
            second
        } else {
            first
        };
        group.retain(|&index| index != best);
        group.sort_by(|&a, &b| standings[a].score.total_cmp(&standings[b].score));
        order.push(best);
        order.append(&mut group);
        at += equals;
    }
    order
}

/// Draws one of `group`, which is not empty, by weight. Zero weights are drawn only if all are zero.
fn draw_one(group: &[usize], standings: &[Ranking], draw: &mut impl FnMut(u64) -> u64) -> usize {
    let weight = |index: usize| u64::from(standings[index].weight.unwrap_or(0));
    let sum: u64 = group.iter().map(|&index| weight(index)).sum();
    if sum == 0 {
        return group[0];
    }
    let mut left = draw(sum);
    for &index in group {
        if left < weight(index) {
            return index;
        }
        left -= weight(index);
    }
    group[0]
}

#[cfg(test)]
mod tests {
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    fn standing(weight: Option<u32>, score: f64) -> Ranking {
        Ranking { weight, score }
    }

    #[test]
    fn preference_stands_and_equals_are_drawn() {
        let none = |score| standing(None, score);
        let some = |weight, score| standing(Some(weight), score);
        for (standings, draws, expected) in [
            (vec![none(9.0), none(1.0)], vec![], vec![0, 1]),
            // A single one with a weight has no equals.
            (vec![none(9.0), some(1, 1.0), none(1.0)], vec![], vec![0, 1, 2]),
            // Drawn: the first, then the second; the better one goes first.
            (vec![some(1, 9.0), some(1, 1.0)], vec![0, 0], vec![1, 0]),
            (vec![some(1, 1.0), some(1, 9.0)], vec![0, 0], vec![0, 1]),
            // Of three, the best one was not drawn: it comes after the better of the two.
            (
                vec![some(1, 5.0), some(1, 7.0), some(1, 1.0)],
                vec![0, 0],
                vec![0, 2, 1],
            ),
            (
                vec![some(0, 1.0), some(3, 9.0), some(3, 8.0), none(0.0)],
                vec![0, 0],
                vec![2, 0, 1, 3],
            ),
            (vec![some(0, 2.0), some(0, 1.0)], vec![], vec![1, 0]),
        ] {
            let mut draws = draws.into_iter();
            let got = order(&standings, |_| draws.next().expect("no more draws"));
            assert_eq!(got, expected, "{standings:?}");
        }
    }

    #[test]
    fn weights_decide_among_equals_and_a_slow_one_is_avoided() {
        let mut random = rand::rngs::StdRng::seed_from_u64(7);
        let mut firsts = |standings: &[Ranking]| {
            let mut counts = vec![0; standings.len()];
            for _ in 0..10_000 {
                counts[order(standings, |n| random.random_range(0..n))[0]] += 1;
            }
            counts
        };
        let twins = firsts(&[standing(Some(1), 5.0), standing(Some(1), 5.0), standing(Some(2), 5.0)]);
        assert!((4_700..5_300).contains(&twins[2]), "{twins:?}");
        let slow = firsts(&[standing(Some(1), 1.0), standing(Some(1), 1.0), standing(Some(1), 9.0)]);
        assert_eq!(slow[2], 0, "{slow:?}");
    }
}
