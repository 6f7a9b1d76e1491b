//! The vectors of one partition in one block, quantised to bytes: candidates are found there first and then compared by
//! the exact vectors. A scan of ten thousand then reads a quarter of the memory.
//!
//! Invariant: [`Matrix::candidates`] misses none of the two nearest. The distance between a vector and its bytes is
//! known, so that a product of bytes bounds the product of the vectors from both sides.

use std::collections::HashMap;

use tokio::time::Instant;

use copilotd_actors::ports::{Space, Vector};

/// Vectors as bytes, by space.
#[derive(Debug, Default)]
pub(super) struct Matrix {
    spaces: HashMap<Space, Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    /// Dimensions of a vector.
    width: usize,
    bytes: Vec<i8>,
    rows: Vec<Row>,
    index_by_id: HashMap<u64, usize>,
}

#[derive(Debug, Clone, Copy)]
struct Row {
    id: u64,
    expires: Instant,
    rounded: Rounding,
}

/// How bytes represent numbers.
#[derive(Debug, Clone, Copy)]
struct Rounding {
    /// Factor from byte to number.
    scale: f32,
    /// Length of the difference between the vector and its bytes.
    error: f32,
}

impl Matrix {
    /// Adds the vector of a new entry.
    pub(super) fn insert(&mut self, id: u64, vector: &Vector, expires: Instant) {
        let values = vector.values();
        let rows = self.spaces.entry(Space::clone(vector.space())).or_default();
        if rows.rows.is_empty() {
            rows.width = values.len();
        }
        // Another number of dimensions means another model under the same name: it finds nothing here.
        if rows.width != values.len() {
            return;
        }
        let rounded = round(values, &mut rows.bytes);
        rows.index_by_id.insert(id, rows.rows.len());
        rows.rows.push(Row { id, expires, rounded });
    }

    /// Removes the vector of an entry, if it has one.
    pub(super) fn remove(&mut self, id: u64, space: &Space) {
        let Some(rows) = self.spaces.get_mut(space) else { return };
        let Some(index) = rows.index_by_id.remove(&id) else {
            return;
        };
        let last = rows.rows.len() - 1;
        rows.rows.swap_remove(index);
        let width = rows.width;
        rows.bytes.copy_within(last * width.., index * width);
        rows.bytes.truncate(last * width);
        if let Some(moved) = rows.rows.get(index) {
            rows.index_by_id.insert(moved.id, index);
        }
        if rows.rows.is_empty() {
            self.spaces.remove(space);
        }
    }

    /// Lists unexpired entries among which the two nearest are, in no order.
    pub(super) fn candidates(&self, vector: &Vector, now: Instant) -> Vec<u64> {
        let Some(rows) = self.spaces.get(vector.space()) else {
            return Vec::new();
        };
        let values = vector.values();
        if rows.width != values.len() {
            return Vec::new();
        }
        let mut asked = Vec::with_capacity(rows.width);
        let question = round(values, &mut asked);
        // Lower bounds of the similarity of the two nearest.
        let mut sure = [f32::MIN; 2];
        let mut possible = Vec::with_capacity(rows.rows.len());
        for (row, bytes) in rows.rows.iter().zip(rows.bytes.chunks_exact(rows.width.max(1))) {
            if row.expires <= now {
                continue;
            }
            #[expect(
                clippy::cast_precision_loss,
                reason = "below 2^24 for vectors of 1,000 numbers, and within the bound beyond"
            )]
            let near = product(bytes, &asked) as f32 * row.rounded.scale * question.scale;
            // |ab - a'b'| = |(a - a')b + a'(b - b')|, where a and b have length 1.
            let bound = row.rounded.error + (1.0 + row.rounded.error) * question.error + 1e-5;
            if near - bound > sure[0] {
                sure = [near - bound, sure[0]];
            } else if near - bound > sure[1] {
                sure[1] = near - bound;
            }
            if near + bound >= sure[1] {
                possible.push((row.id, near + bound));
            }
        }
        let is_near = |(id, most): (u64, f32)| (most >= sure[1]).then_some(id);
        possible.into_iter().filter_map(is_near).collect()
    }
}

/// Appends `values` as bytes.
#[expect(
    clippy::cast_possible_truncation,
    reason = "what is rounded lies between -127 and 127"
)]
fn round(values: &[f32], bytes: &mut Vec<i8>) -> Rounding {
    let most = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let scale = most.max(f32::MIN_POSITIVE) / 127.0;
    let mut error = 0.0;
    for value in values {
        let byte = (value / scale).round();
        error += (value - byte * scale).powi(2);
        bytes.push(byte as i8);
    }
    Rounding {
        scale,
        error: error.sqrt(),
    }
}

fn product(a: &[i8], b: &[i8]) -> i32 {
    let pairs = a.iter().zip(b);
    pairs.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn vector(space: &str, values: &[f32]) -> Option<Vector> {
        Vector::unit(&space.into(), values.to_vec())
    }

    /// The two nearest, by the exact vectors.
    fn nearest(all: &[(u64, Vector)], asked: &Vector) -> Vec<u64> {
        let mut near: Vec<(u64, f32)> = all.iter().map(|(id, vector)| (*id, vector.cosine(asked))).collect();
        near.sort_by(|(a, x), (b, y)| y.total_cmp(x).then(a.cmp(b)));
        near.iter().take(2).map(|(id, _)| *id).collect()
    }

    proptest! {
        #[test]
        fn the_two_nearest_are_among_the_candidates(
            stored in prop::collection::vec(prop::collection::vec(-1.0_f32..1.0, 24), 0..60),
            gone in prop::collection::hash_set(0_u64..60, 0..30),
            asked in prop::collection::vec(-1.0_f32..1.0, 24),
            steep in 0.0_f32..3.0,
        ) {
            let now = Instant::now();
            // Some vectors have a few large numbers, which leave little resolution for the others.
            let bend = |values: &[f32]| values.iter().map(|value| value * value.abs().powf(steep)).collect::<Vec<_>>();
            let Some(asked) = vector("m", &bend(&asked)) else { return Ok(()) };
            let mut matrix = Matrix::default();
            let mut left = Vec::new();
            for (id, values) in (0..).zip(&stored) {
                let Some(vector) = vector("m", &bend(values)) else { continue };
                matrix.insert(id, &vector, now + Duration::from_secs(1));
                left.push((id, vector));
            }
            for id in &gone {
                matrix.remove(*id, &"m".into());
            }
            left.retain(|(id, _)| !gone.contains(id));
            let candidates = matrix.candidates(&asked, now);
            for id in nearest(&left, &asked) {
                prop_assert!(candidates.contains(&id), "{id} is not among {candidates:?}");
            }
            prop_assert!(candidates.iter().all(|id| left.iter().any(|(known, _)| known == id)));
            prop_assert!(matrix.candidates(&asked, now + Duration::from_secs(2)).is_empty(), "they have expired");
        }
    }

    #[test]
    fn few_are_looked_at_twice_and_none_of_another_model() {
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let mut matrix = Matrix::default();
        let angle = |degrees: u16| {
            let (sin, cos) = f32::from(degrees).to_radians().sin_cos();
            [cos, sin]
        };
        for id in 0..90 {
            matrix.insert(u64::from(id), &vector("m", &angle(id)).unwrap(), later);
            matrix.insert(100 + u64::from(id), &vector("n", &angle(id)).unwrap(), later);
        }
        let candidates = matrix.candidates(&vector("m", &angle(40)).unwrap(), now);
        assert!(candidates.contains(&40) && candidates.len() <= 20, "{candidates:?}");
        assert!(candidates.iter().all(|id| *id < 90));
        assert_eq!(matrix.candidates(&vector("m", &[1.0, 0.0, 0.0]).unwrap(), now), [0; 0]);
    }
}
