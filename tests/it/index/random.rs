//! Random histories: an index answers as the model does, after every step.

use std::sync::Arc;

use copilotd_knowledge::fakes::MemoryIndex;
use copilotd_knowledge::index::KnowledgeIndex;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, TestRunner};

use super::Fixture;
use super::library::Library;
use super::programs::{Step, observe, run, steps};

/// Programs that are run, each in a tenant of its own.
const PROGRAMS: usize = 24;

/// Not by the macro of proptest: all programs share an index, so that each finds what the others left.
pub async fn it_answers_as_the_model_does(mut fixture: Fixture) {
    use proptest::strategy::Strategy as _;
    let mut runner = TestRunner::new(Config::default());
    for program in 0..PROGRAMS {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        let model: Arc<dyn KnowledgeIndex> = Arc::new(MemoryIndex::new());
        let tenant = format!("tenant-{program}");
        for (second, step) in (0..).zip(&steps) {
            if matches!(step, Step::Reopen) {
                fixture.reopen();
            }
            let context = || format!("step {second} of {steps:#?}");
            let answer = run(&Library::new(&fixture.index, &tenant), step, second).await;
            let expected = run(&Library::new(&model, &tenant), step, second).await;
            assert_eq!(answer, expected, "{}", context());
            let seen = observe(&Library::new(&fixture.index, &tenant), second).await;
            assert_eq!(
                seen,
                observe(&Library::new(&model, &tenant), second).await,
                "{}",
                context()
            );
        }
        // Waiting versions of this tenant would be in front of the next one's.
        let done = Library::new(&fixture.index, &tenant);
        done.index.erase_tenant(&done.scope).await.unwrap();
    }
}
