//! The port that turns texts into vectors: a model in this process, or a provider's.
//!
//! Invariants: a [`Vector`] has length 1, so that a cosine is a dot product. It knows its model and has no similarity
//! to a vector of another one.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::tenancy::TenantScope;

/// Most texts of one request.
pub const MAX_TEXTS: usize = 256;
/// Most bytes of one text; a longer one is refused rather than cut silently.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Turns texts into vectors.
#[async_trait]
pub trait Embedder: Send + Sync + fmt::Debug {
    /// Embeds the texts of a request, in their order.
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError>;

    /// Returns what embeds for a tenant, with its model access and charged to it; `None` if this one embeds for all, such
    /// as a model in this process. One that embeds for tenants only denies requests made to itself.
    fn of_tenant(&self, _scope: &TenantScope) -> Option<Arc<dyn Embedder>> {
        None
    }

    /// Whether the last request was answered, as far as it was the model's fault.
    fn is_ready(&self) -> bool {
        true
    }
}

/// Texts to embed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbedRequest {
    /// At most [`MAX_TEXTS`], each of at most [`MAX_TEXT_BYTES`]. A model reads only as much of a text as it can.
    pub texts: Vec<String>,
    /// What the vectors are for.
    pub purpose: Purpose,
    /// Who is waiting.
    pub urgency: Urgency,
}

/// What a vector is for: some models are trained to read a question differently from what answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A question, whose vector is compared with those of passages.
    Query,
    /// A passage to be found, or one of several texts of the same kind that are compared with each other.
    Passage,
}

/// Who waits for vectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody: whatever is `Foreground` goes first.
    Background,
    /// A request.
    Foreground,
}

impl EmbedRequest {
    /// Returns a request for texts that are compared with each other and that somebody waits for.
    pub fn to_compare(texts: Vec<String>) -> Self {
        Self {
            texts,
            purpose: Purpose::Passage,
            urgency: Urgency::Foreground,
        }
    }
}

/// What made a vector: a local model by its name and version, or a target as `provider/model`, since two providers may
/// give two models the same name. Vectors of one space are comparable.
pub type Space = Arc<str>;

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// The queue is full: retry later, or do without.
    #[error("the embedding queue is full")]
    Busy,
    /// It took too long.
    #[error("embedding timed out")]
    Timeout,
    /// The request exceeds a bound, or the model refuses its texts: it will never be answered.
    #[error("{0}")]
    TooLarge(String),
    /// The tenant may not use the model, its budget is exhausted, or the model keeps failing and is left alone for a moment:
    /// retry later, not at once.
    #[error("{0}")]
    Denied(String),
    /// The model failed.
    #[error("the embedding model failed: {0}")]
    Failed(String),
}

/// The embedding of a text.
#[derive(Clone, PartialEq)]
pub struct Vector {
    space: Space,
    values: Arc<[f32]>,
}

impl Vector {
    /// Scales `values`, which the model `space` made, to length 1. `None` if they have no direction: all zero, or not
    /// numbers.
    pub fn unit(space: &Space, mut values: Vec<f32>) -> Option<Self> {
        let length = values.iter().map(|value| value * value).sum::<f32>().sqrt();
        if !length.is_finite() || length <= f32::EPSILON {
            return None;
        }
        values.iter_mut().for_each(|value| *value /= length);
        Some(Self {
            space: Arc::clone(space),
            values: values.into(),
        })
    }

    /// Returns the cosine of the angle to `other`; 0 if they are of different models.
    pub fn cosine(&self, other: &Self) -> f32 {
        let same = Arc::ptr_eq(&self.space, &other.space) || self.space == other.space;
        if same { self.cosine_to_unit(&other.values) } else { 0.0 }
    }

    /// Returns the cosine of the angle to a vector of the same model, given as its components; 0 if it has another number
    /// of them. For stores, which compare many vectors without creating each.
    pub fn cosine_to_unit(&self, other: &[f32]) -> f32 {
        if self.values.len() != other.len() {
            return 0.0;
        }
        // Eight independent sums let the compiler use vector instructions.
        let mut sums = [0.0_f32; 8];
        let (ours, theirs) = (self.values.chunks_exact(8), other.chunks_exact(8));
        let rest: f32 = ours
            .remainder()
            .iter()
            .zip(theirs.remainder())
            .map(|(a, b)| a * b)
            .sum();
        for (a, b) in ours.zip(theirs) {
            for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
                *sum += a * b;
            }
        }
        (sums.iter().sum::<f32>() + rest).clamp(-1.0, 1.0)
    }

    /// Returns the space of the vector.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Returns the components.
    pub fn values(&self) -> &[f32] {
        &self.values
    }
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vector({} numbers of {})", self.values.len(), self.space)
    }
}

impl EmbedRequest {
    /// Checks the texts against the bounds of a request.
    pub fn check(&self) -> Result<(), EmbedError> {
        let texts = &self.texts;
        if texts.len() > MAX_TEXTS {
            return Err(EmbedError::TooLarge(format!(
                "at most {MAX_TEXTS} texts can be embedded per request"
            )));
        }
        if texts.iter().any(|text| text.len() > MAX_TEXT_BYTES) {
            return Err(EmbedError::TooLarge(format!(
                "a text to embed may have at most {MAX_TEXT_BYTES} bytes"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> Space {
        "m".into()
    }

    #[test]
    fn a_vector_has_length_one_or_is_none() {
        for (values, expected) in [
            (vec![3.0, 4.0], Some(vec![0.6, 0.8])),
            (vec![0.0, 0.0], None),
            (vec![f32::NAN, 1.0], None),
            (vec![], None),
        ] {
            assert_eq!(
                Vector::unit(&space(), values).map(|vector| vector.values().to_vec()),
                expected
            );
        }
    }

    #[test]
    fn cosines_match_known_values() {
        let unit = |values: &[f32]| Vector::unit(&space(), values.to_vec()).unwrap();
        assert!((unit(&[1.0, 0.0]).cosine(&unit(&[1.0, 1.0])) - 0.5_f32.sqrt()).abs() < 1e-6);
        let long: Vec<f32> = (1..=19_u8).map(f32::from).collect();
        assert!((unit(&long).cosine(&unit(&long)) - 1.0).abs() < 1e-6);
        assert!(unit(&[1.0]).cosine(&unit(&[1.0, 1.0])).abs() < 1e-6, "other dimensions");
        let other = Vector::unit(&"n".into(), vec![1.0, 0.0]).unwrap();
        assert!(unit(&[1.0, 0.0]).cosine(&other).abs() < 1e-6, "another model");
    }
}
