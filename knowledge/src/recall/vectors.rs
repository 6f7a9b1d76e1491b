//! Vectors of turns with 8 bits a component.

use copilotd_actors::ports::{Space, Vector};

/// The vectors of all turns.
#[derive(Debug, Default)]
pub(super) struct TurnVectors {
    /// Of the first vector that came; vectors of other spaces count as none.
    space: Option<Space>,
    alone: Packed,
    after_previous: Packed,
    /// For each turn the cosines of its vector with those of the next turn and of the one after that.
    onward: Vec<[f32; 2]>,
    /// For each turn the length of the sum of its vector and its neighbours'; 0 if they have none.
    sums: Vec<f64>,
}

/// Cosines of the question with each turn; 0 where a vector is missing.
pub(super) struct Cosines {
    /// With the turn.
    pub alone: Vec<f64>,
    /// With the turn read after the one before.
    pub after_previous: Vec<f64>,
    /// With the mean of the turn, the one before and the one after.
    pub mean: Vec<f64>,
}

/// Vectors of length 1, each scaled so that its largest component is 127.
#[derive(Debug, Default)]
struct Packed {
    dimensions: usize,
    values: Vec<i8>,
    /// What a product of components is multiplied with; 0 where there is no vector.
    scales: Vec<f32>,
}

impl TurnVectors {
    pub(super) fn push(&mut self, alone: Option<&Vector>, after_previous: Option<&Vector>) {
        self.begin(alone.or(after_previous));
        let (first, second) = (self.usable(alone), self.usable(after_previous));
        self.alone.push(first);
        self.after_previous.push(second);
        self.onward.push([0.0; 2]);
        self.sums.push(0.0);
        self.measure_around(self.onward.len() - 1);
    }

    /// Sets the vectors of a turn that has none.
    pub(super) fn set(&mut self, turn: usize, alone: &Vector, after_previous: &Vector) {
        self.begin(Some(alone));
        let (first, second) = (self.usable(Some(alone)), self.usable(Some(after_previous)));
        self.alone.set(turn, first);
        self.after_previous.set(turn, second);
        self.measure_around(turn);
    }

    /// Returns whether any turn has a vector.
    pub(super) fn is_empty(&self) -> bool {
        self.space.is_none()
    }

    /// Takes the space of the first vector.
    fn begin(&mut self, first: Option<&Vector>) {
        if self.space.is_none()
            && let Some(vector) = first
        {
            self.space = Some(vector.space().clone());
            for packed in [&mut self.alone, &mut self.after_previous] {
                packed.begin(vector.values().len());
            }
        }
    }

    fn usable(&self, vector: Option<&Vector>) -> Option<(Vec<i8>, f32)> {
        let is_ours = |vector: &&Vector| {
            Some(vector.space()) == self.space.as_ref() && vector.values().len() == self.alone.dimensions
        };
        vector.filter(is_ours).map(|vector| pack(vector.values()))
    }

    /// Measures the cosines of a turn with those around it, and the sums in which it is.
    fn measure_around(&mut self, turn: usize) {
        let last = self.onward.len() - 1;
        for first in turn.saturating_sub(2)..=turn {
            for step in 1..=2.min(last - first) {
                self.onward[first][step - 1] = self.alone.cosine(first, first + step);
            }
        }
        for middle in turn.saturating_sub(1)..=last.min(turn + 1) {
            self.sums[middle] = self.sum_length(middle);
        }
    }

    /// Returns the length of the sum of a turn's vector and its neighbours'. It follows from the cosines among the three.
    fn sum_length(&self, turn: usize) -> f64 {
        let has = |turn: usize| f64::from(u8::from(self.alone.scales[turn] > 0.0));
        let mut square = has(turn);
        let before = turn.checked_sub(1);
        if let Some(before) = before {
            square += has(before) + 2.0 * f64::from(self.onward[before][0]);
        }
        let after = turn + 1;
        if after < self.onward.len() {
            square += has(after) + 2.0 * f64::from(self.onward[turn][0]);
            if let Some(before) = before {
                square += 2.0 * f64::from(self.onward[before][1]);
            }
        }
        if square > f64::EPSILON { square.sqrt() } else { 0.0 }
    }

    /// Returns the cosines with a question; none if its vector is of another space, or there are no vectors.
    pub(super) fn cosines(&self, question: &Vector) -> Option<Cosines> {
        let same = self.space.as_ref() == Some(question.space()) && question.values().len() == self.alone.dimensions;
        if !same {
            return None;
        }
        let (values, scale) = pack(question.values());
        let values: Vec<i16> = values.into_iter().map(i16::from).collect();
        let alone = self.alone.cosines(&values, scale);
        let mean = (0..alone.len()).map(|turn| self.mean(turn, &alone)).collect();
        Some(Cosines {
            after_previous: self.after_previous.cosines(&values, scale),
            mean,
            alone,
        })
    }

    /// Returns the cosine with the mean of a turn and its neighbours: the products are linear, so that only the length of
    /// the sum is needed.
    fn mean(&self, turn: usize, cosines: &[f64]) -> f64 {
        let length = self.sums[turn];
        if length <= 0.0 {
            return 0.0;
        }
        let before = turn.checked_sub(1).map_or(0.0, |before| cosines[before]);
        let after = cosines.get(turn + 1).copied().unwrap_or_default();
        (cosines[turn] + before + after) / length
    }

    pub(super) fn forget(&mut self, oldest: usize) {
        self.alone.forget(oldest);
        self.after_previous.forget(oldest);
        self.onward.drain(..oldest);
        self.sums.drain(..oldest);
        // The first one has lost the turn before it.
        if !self.sums.is_empty() {
            self.sums[0] = self.sum_length(0);
        }
    }

    pub(super) fn truncate(&mut self, len: usize) {
        self.alone.truncate(len);
        self.after_previous.truncate(len);
        self.onward.truncate(len);
        self.sums.truncate(len);
        // The last two have lost a turn after them.
        for (step, turn) in [(0, len.checked_sub(1)), (1, len.checked_sub(2))] {
            if let Some(turn) = turn {
                self.onward[turn][step..].fill(0.0);
            }
        }
        if let Some(last) = len.checked_sub(1) {
            self.sums[last] = self.sum_length(last);
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let packed = |packed: &Packed| packed.values.capacity() + packed.scales.capacity() * 4;
        packed(&self.alone) + packed(&self.after_previous) + (self.onward.capacity() + self.sums.capacity()) * 8
    }
}

impl Packed {
    /// Sets the dimensions; turns that came before have no vector.
    fn begin(&mut self, dimensions: usize) {
        self.dimensions = dimensions;
        self.values = vec![0; dimensions * self.scales.len()];
    }

    fn push(&mut self, vector: Option<(Vec<i8>, f32)>) {
        if let Some((values, scale)) = vector {
            self.values.extend_from_slice(&values);
            self.scales.push(scale);
        } else {
            self.values.resize(self.values.len() + self.dimensions, 0);
            self.scales.push(0.0);
        }
    }

    fn set(&mut self, turn: usize, vector: Option<(Vec<i8>, f32)>) {
        if let Some((values, scale)) = vector {
            self.values[turn * self.dimensions..(turn + 1) * self.dimensions].copy_from_slice(&values);
            self.scales[turn] = scale;
        }
    }

    fn values(&self, turn: usize) -> &[i8] {
        &self.values[turn * self.dimensions..(turn + 1) * self.dimensions]
    }

    fn cosine(&self, a: usize, b: usize) -> f32 {
        product(self.values(a), self.values(b)) * self.scales[a] * self.scales[b]
    }

    fn cosines(&self, question: &[i16], scale: f32) -> Vec<f64> {
        let turns = 0..self.scales.len();
        turns
            .map(|turn| f64::from(product(self.values(turn), question) * self.scales[turn] * scale))
            .collect()
    }

    fn forget(&mut self, oldest: usize) {
        self.values.drain(..oldest * self.dimensions);
        self.scales.drain(..oldest);
    }

    fn truncate(&mut self, len: usize) {
        self.values.truncate(len * self.dimensions);
        self.scales.truncate(len);
    }
}

/// Packs a vector. Packing what was packed gives the same components.
#[expect(clippy::cast_possible_truncation, reason = "components are scaled to -127..=127")]
pub(super) fn pack(values: &[f32]) -> (Vec<i8>, f32) {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    if largest <= 0.0 {
        return (vec![0; values.len()], 0.0);
    }
    let packed: Vec<i8> = values
        .iter()
        .map(|value| (value / largest * 127.0).round() as i8)
        .collect();
    // Rounding changes the length a little: the scale makes it 1 again.
    let length = product(&packed, &packed).sqrt();
    (packed, 1.0 / length)
}

/// Products that are added up side by side: so many that compilers use the instructions that multiply pairs of 16 bits and
/// add them, on every processor. Measured: a third of the instructions of a plain sum.
const LANES: usize = 32;

/// Returns the sum of products. A question's components are widened once, not for each turn.
#[expect(
    clippy::cast_precision_loss,
    reason = "the rounding of a float is far below that of the components"
)]
fn product<B: Copy + Into<i16>>(a: &[i8], b: &[B]) -> f32 {
    let multiply = |a: i8, b: B| i32::from(a) * i32::from(b.into());
    let (mut sums, a, b) = ([0_i32; LANES], a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = (a.remainder().iter().zip(b.remainder()))
        .map(|(a, b)| multiply(*a, *b))
        .sum::<i32>();
    for (a, b) in a.zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += multiply(*a, *b);
        }
    }
    (sums.into_iter().sum::<i32>() + rest) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(values: &[f32]) -> Vector {
        Vector::unit(&"m".into(), values.to_vec()).unwrap()
    }

    #[test]
    fn cosines_are_those_of_floats_up_to_rounding() {
        let component = |n: u32, i: u32| (n * 7_919 + i * i * 31 % 997) % 101;
        let values = |n: u32| (0..384).map(|i| component(n, i) as f32 - 50.0).collect::<Vec<f32>>();
        let texts: Vec<Vector> = (0..20).map(|n| vector(&values(n))).collect();
        let mut vectors = TurnVectors::default();
        texts.iter().for_each(|text| vectors.push(Some(text), Some(text)));
        for question in &texts {
            let cosines = vectors.cosines(question).unwrap();
            for (turn, text) in texts.iter().enumerate() {
                assert!((cosines.alone[turn] - f64::from(question.cosine(text))).abs() < 0.01);
                let window = &texts[turn.saturating_sub(1)..(turn + 2).min(texts.len())];
                let sum = (0..384)
                    .map(|i| window.iter().map(|text| text.values()[i]).sum())
                    .collect::<Vec<f32>>();
                assert!((cosines.mean[turn] - f64::from(question.cosine(&vector(&sum)))).abs() < 0.01);
            }
        }
    }

    #[test]
    fn missing_and_foreign_vectors_have_no_similarity() {
        let mut vectors = TurnVectors::default();
        let foreign = Vector::unit(&"n".into(), vec![1.0, 0.0]).unwrap();
        vectors.push(None, None);
        vectors.push(Some(&vector(&[1.0, 0.0])), None);
        vectors.push(Some(&foreign), Some(&vector(&[1.0, 0.0, 0.0])));
        let cosines = vectors.cosines(&vector(&[1.0, 0.0])).unwrap();
        assert_eq!(
            cosines.alone.iter().map(|cosine| *cosine > 0.99).collect::<Vec<_>>(),
            [false, true, false]
        );
        assert!(cosines.after_previous.iter().all(|cosine| cosine.abs() < 1e-9));
        assert!(cosines.mean.iter().all(|cosine| (cosine - 1.0).abs() < 1e-3));
        assert!(vectors.cosines(&foreign).is_none());
    }
}
