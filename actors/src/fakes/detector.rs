//! A scripted detector, and the contract of the port.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::domain::guardrail::content::{Unreadable, Visit};
use crate::domain::guardrail::{ContentKind, Finding, OnMatch, Place, TextRole, Texts};
use crate::ports::{Content, Detector, DetectorError};
use crate::tenancy::TenantScope;

/// A detector of one word, which it finds in texts as it is spelt. Clones share everything.
#[derive(Debug, Clone)]
pub struct FakeDetector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    word: String,
    action: OnMatch,
    kinds: Vec<ContentKind>,
    scripts: Mutex<VecDeque<Script>>,
    begun: watch::Sender<usize>,
}

/// What one inspection does instead of looking.
#[derive(Debug, Clone)]
pub enum Script {
    /// It fails.
    Fail(DetectorError),
    /// It never ends by itself.
    Hang,
    /// It answers for one content fewer.
    Omit,
}

impl FakeDetector {
    /// Creates a detector of `word`, which looks at contents of these kinds.
    pub fn new(word: &str, action: OnMatch, kinds: impl IntoIterator<Item = ContentKind>) -> Self {
        Self(Arc::new(Inner {
            word: word.to_owned(),
            action,
            kinds: kinds.into_iter().collect(),
            scripts: Mutex::default(),
            begun: watch::Sender::new(0),
        }))
    }

    /// Uses `script` for the next inspection that has none yet.
    pub fn script(&self, script: Script) {
        self.0.scripts.lock().push_back(script);
    }

    /// Returns the number of inspections that were started.
    pub fn begun(&self) -> usize {
        *self.0.begun.borrow()
    }

    /// Waits until `count` inspections were started.
    pub async fn wait_for(&self, count: usize) {
        // The sender lives in `self`.
        let _ = self.0.begun.subscribe().wait_for(|begun| *begun >= count).await;
    }

    fn look(&self, content: &Content) -> Result<Vec<Finding>, Unreadable> {
        let mut findings = Vec::new();
        content.texts.each(&mut |text| {
            for (start, word) in text.text.match_indices(&self.0.word) {
                let bytes = start..start + word.len();
                let number = text.number;
                findings.push(Finding {
                    rule: format!("fake: {word}"),
                    action: self.0.action,
                    place: (text.role == TextRole::Text).then_some(Place { number, bytes }),
                });
            }
            ControlFlow::Continue(())
        })?;
        Ok(findings)
    }
}

#[async_trait]
impl Detector for FakeDetector {
    fn name(&self) -> &str {
        "fake"
    }

    fn looks_at(&self, kind: ContentKind) -> bool {
        self.0.kinds.contains(&kind)
    }

    async fn inspect(&self, _: &TenantScope, contents: &[Content]) -> Result<Vec<Vec<Finding>>, DetectorError> {
        self.0.begun.send_modify(|begun| *begun += 1);
        let script = self.0.scripts.lock().pop_front();
        let wanted = match script {
            Some(Script::Fail(error)) => return Err(error),
            Some(Script::Hang) => std::future::pending().await,
            Some(Script::Omit) => &contents[1..],
            None => contents,
        };
        let found: Result<_, _> = wanted.iter().map(|content| self.look(content)).collect();
        Ok(found?)
    }
}

/// A content that nothing can read.
#[derive(Debug)]
struct Ambiguous;

impl Texts for Ambiguous {
    fn each(&self, _: &mut Visit<'_>) -> Result<(), Unreadable> {
        Err(Unreadable("a member has a name twice".to_owned()))
    }
}

/// Checks that a detector keeps the port's contract. It looks at `kind`, finds something in `offending` and nothing in
/// `harmless`.
///
/// # Panics
/// If it does not.
pub async fn contract(
    detector: &dyn Detector,
    scope: &TenantScope,
    kind: ContentKind,
    offending: &str,
    harmless: &str,
) {
    assert!(!detector.name().is_empty());
    assert!(!detector.timeout().is_zero());
    assert!(detector.looks_at(kind), "{kind:?}");
    let content = |text: &str| Content::new(kind, text.to_owned(), text.len());
    let contents = [content(harmless), content(offending), content(""), content(offending)];

    // One list for each content, in their order.
    let found = detector.inspect(scope, &contents).await;
    let found = found.expect("the contents can be inspected");
    assert_eq!(found.len(), contents.len());
    assert_eq!((&found[0], &found[2]), (&Vec::new(), &Vec::new()));
    assert!(!found[1].is_empty(), "{offending:?}");
    assert_eq!(found[1], found[3], "the same content, the same findings");
    assert_eq!(detector.inspect(scope, &[]).await, Ok(Vec::new()));

    // A place is within a text of the content, at the borders of characters; a rule's name quotes nothing.
    for finding in &found[1] {
        assert!(!finding.rule.is_empty());
        if let Some(Place { number, bytes }) = &finding.place {
            assert_eq!(*number, 0);
            assert!(
                !bytes.is_empty() && offending.get(bytes.clone()).is_some(),
                "{finding:?}"
            );
        }
    }

    // A dropped inspection leaves nothing behind.
    {
        let mut dropped = std::pin::pin!(detector.inspect(scope, &contents));
        let _ = futures::poll!(&mut dropped);
    }
    assert_eq!(detector.inspect(scope, &contents).await, Ok(found));

    // What cannot be read is an error, not a content without findings.
    let ambiguous = Content::new(kind, Ambiguous, 1);
    let mixed = [content(harmless), ambiguous];
    assert!(matches!(
        detector.inspect(scope, &mixed).await,
        Err(DetectorError::Unreadable(_))
    ));
}
