//! An embedder without a model, and the contract of the port.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::ports::{EmbedError, EmbedRequest, Embedder, MAX_TEXTS, Purpose, Space, Urgency, Vector};

/// Numbers of a vector.
const DIMENSION: usize = 384;
/// Numbers of a vector that a word adds to: so many that two words hardly ever share all of them.
const PLACES_OF_A_WORD: usize = 8;

/// An embedder whose vectors follow from the words of a text alone: texts that share words are near, texts that share
/// none are nearly at right angles. Case, punctuation and the order of words do not count. Clones share everything.
#[derive(Debug, Clone)]
pub struct FakeEmbedder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    space: Space,
    scripts: Mutex<VecDeque<Script>>,
    asked: Mutex<Vec<EmbedRequest>>,
    begun: watch::Sender<usize>,
}

/// What one request gets instead of vectors.
#[derive(Debug, Clone)]
pub enum Script {
    /// It fails.
    Fail(EmbedError),
    /// It never ends by itself.
    Hang,
}

impl Default for FakeEmbedder {
    fn default() -> Self {
        Self::new("fake")
    }
}

impl FakeEmbedder {
    /// Creates an embedder whose vectors are of `space`.
    pub fn new(space: &str) -> Self {
        Self(Arc::new(Inner {
            space: space.into(),
            scripts: Mutex::default(),
            asked: Mutex::default(),
            begun: watch::Sender::new(0),
        }))
    }

    /// Uses `script` for the next request that has none yet.
    pub fn script(&self, script: Script) {
        self.0.scripts.lock().push_back(script);
    }

    /// Returns the requests so far, failed ones included, in their order.
    pub fn requests(&self) -> Vec<EmbedRequest> {
        self.0.asked.lock().clone()
    }

    /// Returns the number of texts of all requests so far, failed ones included.
    pub fn texts(&self) -> usize {
        self.0.asked.lock().iter().map(|request| request.texts.len()).sum()
    }

    /// Waits until `count` requests have begun.
    pub async fn wait_for(&self, count: usize) {
        // The sender lives in `self`.
        let _ = self.0.begun.subscribe().wait_for(|begun| *begun >= count).await;
    }

    /// Returns the vector of `text`.
    pub fn vector(&self, text: &str) -> Vector {
        let mut values = vec![0.0; DIMENSION];
        // A little of every text, so that one without words has a vector too, as with real models.
        values[0] = 0.01;
        for word in text.split(|letter: char| !letter.is_alphanumeric()) {
            let mut hash = fnv1a(&word.to_lowercase());
            for _ in 0..if word.is_empty() { 0 } else { PLACES_OF_A_WORD } {
                // Knuth's generator (MMIX); its upper bits are the good ones.
                hash = hash
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let sign = if hash >> 63 == 0 { 1.0 } else { -1.0 };
                values[(hash >> 33) as usize % DIMENSION] += sign;
            }
        }
        Vector::unit(&self.0.space, values).expect("whole numbers do not cancel out 0.01")
    }
}

#[async_trait]
impl Embedder for FakeEmbedder {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        request.check()?;
        let vectors = request.texts.iter().map(|text| self.vector(text)).collect();
        self.0.asked.lock().push(request);
        let script = self.0.scripts.lock().pop_front();
        self.0.begun.send_modify(|begun| *begun += 1);
        match script {
            None => Ok(vectors),
            Some(Script::Fail(error)) => Err(error),
            Some(Script::Hang) => std::future::pending().await,
        }
    }
}

/// FNV-1a: the same on every machine and in every version, unlike the standard library's hasher.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Checks that an embedder keeps the port's contract. `alike` are two texts of the same subject, `other` is one of
/// another; `tolerance` is how far from 1 the cosine of two vectors of one text may be.
///
/// # Panics
/// If it does not.
pub async fn contract(embedder: &dyn Embedder, alike: [&str; 2], other: &str, tolerance: f32) {
    let request = |texts: &[&str], purpose, urgency| EmbedRequest {
        texts: texts.iter().map(|text| (*text).to_owned()).collect(),
        purpose,
        urgency,
    };
    let long = format!("{} ", alike[0]).repeat(20);
    let texts = [alike[0], other, &long, alike[1], alike[0], ""];
    for (purpose, urgency) in [
        (Purpose::Passage, Urgency::Foreground),
        (Purpose::Passage, Urgency::Background),
        (Purpose::Query, Urgency::Foreground),
    ] {
        // One vector for each text, in their order, the same alone and among others.
        let together = embedder.embed(request(&texts, purpose, urgency)).await;
        let together = together.expect("the texts can be embedded");
        assert_eq!(together.len(), texts.len());
        for (text, vector) in texts.iter().zip(&together) {
            let alone = embedder.embed(request(&[text], purpose, urgency)).await;
            let alone = alone.expect("a text can be embedded").remove(0);
            let cosine = alone.cosine(vector);
            assert!(cosine > 1.0 - tolerance, "{text:?} alone and among others: {cosine}");
            assert_eq!(alone.space(), together[0].space());
            let length: f32 = vector.values().iter().map(|value| value * value).sum();
            assert!((length - 1.0).abs() < 1e-3, "a length of {}", length.sqrt());
        }
        let (near, far) = (together[0].cosine(&together[3]), together[0].cosine(&together[1]));
        assert!(near > far, "{purpose:?}: {near} to {:?}, {far} to {other:?}", alike[1]);
        assert_eq!(embedder.embed(request(&[], purpose, urgency)).await, Ok(Vec::new()));
    }

    // A question finds the passage of its subject.
    let query = embedder.embed(request(&[alike[1]], Purpose::Query, Urgency::Foreground));
    let query = query.await.expect("a question can be embedded").remove(0);
    let passages = embedder.embed(request(&[alike[0], other], Purpose::Passage, Urgency::Background));
    let passages = passages.await.expect("passages can be embedded");
    assert!(query.cosine(&passages[0]) > query.cosine(&passages[1]));

    // More than the bound is refused rather than cut, and a dropped request leaves nothing behind.
    let many = vec![alike[0]; MAX_TEXTS + 1];
    let refused = embedder.embed(request(&many, Purpose::Passage, Urgency::Background));
    assert!(matches!(refused.await, Err(EmbedError::TooLarge(_))));
    {
        let request = request(&texts, Purpose::Passage, Urgency::Foreground);
        let mut dropped = std::pin::pin!(embedder.embed(request));
        let _ = futures::poll!(&mut dropped);
    }
    let after = embedder.embed(request(&[other], Purpose::Passage, Urgency::Foreground));
    assert!(after.await.is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_fake_keeps_the_contract() {
        let alike = ["How do I reset my password?", "reset the password"];
        contract(&FakeEmbedder::default(), alike, "Holidays in August", 1e-6).await;
    }

    #[test]
    fn texts_are_near_by_the_words_they_share() {
        let fake = FakeEmbedder::default();
        let text = fake.vector("the cat sits on the mat");
        for (other, range) in [
            ("On THE mat: the cat sits!", 0.999..=1.0),
            ("the cat sits on a chair", 0.5..=0.95),
            ("invoices are due every month", -0.2..=0.2),
            ("", -0.2..=0.2),
        ] {
            let cosine = text.cosine(&fake.vector(other));
            assert!(range.contains(&cosine), "{other:?}: {cosine}");
        }
        let elsewhere = FakeEmbedder::new("other").vector("the cat sits on the mat");
        assert!(text.cosine(&elsewhere).abs() < f32::EPSILON, "another space");
    }

    #[tokio::test]
    async fn scripts_come_first_and_requests_are_recorded() {
        let fake = FakeEmbedder::default();
        fake.script(Script::Fail(EmbedError::Busy));
        let ask = || fake.embed(EmbedRequest::to_compare(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(ask().await, Err(EmbedError::Busy));
        assert!(ask().await.is_ok());
        fake.script(Script::Hang);
        assert!(futures::poll!(&mut std::pin::pin!(ask())).is_pending());
        fake.wait_for(3).await;
        assert_eq!((fake.requests().len(), fake.texts()), (3, 6));
    }
}
