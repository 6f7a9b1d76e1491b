//! Random programs of calls, and everything that can be seen of a tenant afterwards.

use std::fmt::{Debug, Write as _};
use std::sync::Arc;

use copilotd_actors::ports::LogError;
use copilotd_knowledge::document::{Access, AttributeChanges, Attributes, IngestFailure, Reader};
use copilotd_knowledge::fakes::MemoryIndex;
use copilotd_knowledge::index::{Contents, KnowledgeIndex, Quota, Search};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use super::Fixture;
use super::library::{
    AMPLE, Library, at, caller, changes_to, chunks, collection, embed, job, key, listed, space, submission,
};

/// Documents of a program.
const DOCUMENTS: usize = 4;
/// Passages that contents are made of.
const PASSAGES: [&str; 6] = [
    "alpha beta",
    "alpha gamma gamma",
    "beta beta beta delta",
    "# Chapter",
    "delta epsilon alpha",
    "zeta",
];

/// One call; numbers choose among what there is.
#[derive(Debug, Clone)]
pub enum Step {
    Submit {
        document: usize,
        content: u8,
        attributes: u8,
        is_tight: bool,
    },
    ChangeAttributes {
        document: usize,
        attributes: u8,
    },
    Start {
        document: usize,
        stale: u64,
    },
    Stage {
        document: usize,
        stale: u64,
        part: u8,
        model: Option<bool>,
    },
    Publish {
        document: usize,
        stale: u64,
        is_tight: bool,
    },
    Fail {
        document: usize,
        stale: u64,
    },
    /// Stages and publishes whatever waits.
    Ingest {
        document: usize,
        model: Option<bool>,
    },
    Delete {
        document: usize,
    },
    Cite {
        document: usize,
        content: u8,
    },
    PutVectors {
        document: usize,
        content: u8,
        model: bool,
    },
    DropSpaces {
        keep: Option<bool>,
    },
    ForgetJobs,
    Erase,
    Reopen,
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let document = 0..DOCUMENTS;
    let stale = prop_oneof![9 => Just(0_u64), 1 => Just(1_u64)];
    let model = prop_oneof![1 => Just(None), 3 => Just(Some(false)), 1 => Just(Some(true))];
    let is_tight = prop::bool::weighted(0.1);
    let step = prop_oneof![
        8 => (document.clone(), 0..64_u8, 0..14_u8, is_tight)
            .prop_map(|(document, content, attributes, is_tight)| Step::Submit { document, content, attributes, is_tight }),
        2 => (document.clone(), 0..14_u8).prop_map(|(document, attributes)| Step::ChangeAttributes { document, attributes }),
        2 => (document.clone(), stale.clone()).prop_map(|(document, stale)| Step::Start { document, stale }),
        3 => (document.clone(), stale.clone(), any::<u8>(), model.clone())
            .prop_map(|(document, stale, part, model)| Step::Stage { document, stale, part, model }),
        2 => (document.clone(), stale.clone(), is_tight)
            .prop_map(|(document, stale, is_tight)| Step::Publish { document, stale, is_tight }),
        1 => (document.clone(), stale).prop_map(|(document, stale)| Step::Fail { document, stale }),
        8 => (document.clone(), model).prop_map(|(document, model)| Step::Ingest { document, model }),
        1 => document.clone().prop_map(|document| Step::Delete { document }),
        2 => (document.clone(), 0..64_u8).prop_map(|(document, content)| Step::Cite { document, content }),
        2 => (document, 0..64_u8, any::<bool>())
            .prop_map(|(document, content, model)| Step::PutVectors { document, content, model }),
        1 => prop_oneof![Just(None), any::<bool>().prop_map(Some)].prop_map(|keep| Step::DropSpaces { keep }),
        1 => Just(Step::ForgetJobs),
        1 => Just(Step::Reopen),
        1 => prop::bool::weighted(0.3).prop_map(|erase| if erase { Step::Erase } else { Step::ForgetJobs }),
    ];
    prop::collection::vec(step, 1..40)
}

fn text(content: u8) -> String {
    let chosen = (0..).zip(PASSAGES).filter(|(bit, _)| content >> bit & 1 == 1);
    let passages: Vec<&str> = chosen.map(|(_, passage)| passage).collect();
    passages.join("\n\n")
}

fn attributes(number: u8) -> Attributes {
    let mut attributes = Attributes {
        title: (number == 1).then(|| "Title".to_owned()),
        uri: (number == 2).then(|| "https://example.test/a".to_owned()),
        ..Attributes::default()
    };
    attributes.access = match number {
        3 => listed(&["ann"], &[]),
        4 => listed(&["bob"], &["staff"]),
        5 => listed(&[], &[]),
        _ => Access::Everyone,
    };
    if number.is_multiple_of(2) {
        attributes.metadata.insert("n".to_owned(), json!(number));
    }
    attributes
}

/// Some change everything, others only a part.
fn changes(number: u8) -> AttributeChanges {
    let mut changes = changes_to(attributes(number % 7));
    if number >= 7 {
        changes.title = None;
        changes.metadata = None;
    }
    if number >= 10 {
        changes.users = None;
    }
    changes
}

fn model(is_second: bool) -> copilotd_actors::ports::Space {
    space(if is_second { "model-b" } else { "model-a" })
}

fn told<T: Debug>(outcome: Result<T, LogError>) -> String {
    match outcome {
        Ok(value) => format!("{value:?}"),
        Err(LogError::Refused(_)) => "refused".to_owned(),
        Err(error) => format!("failed: {error}"),
    }
}

fn quota(is_tight: bool) -> Quota {
    let tight = Quota {
        documents: 2,
        bytes: 60,
        chunks: 3,
    };
    if is_tight { tight } else { AMPLE }
}

/// Makes a call for the tenant of a library, except for opening again; tells what came of it.
pub async fn run(library: &Library, step: &Step, second: i64) -> String {
    let (index, scope) = (&library.index, &library.scope);
    let names = ["a", "b", "c", "d"].map(key);
    // The newest version, or one that is not.
    let version = async |document: usize, stale: u64| {
        let known = library.document(&names[document]).await;
        known.map_or(7, |known| known.version.wrapping_sub(stale))
    };
    let id = |document: usize| names[document].id(scope.tenant());
    match step {
        Step::Submit {
            document,
            content,
            attributes: number,
            is_tight,
        } => {
            let mut submission = submission(&names[*document], &text(*content), Attributes::default(), second);
            submission.changes = changes(*number);
            told(index.submit(scope, submission, &quota(*is_tight)).await)
        }
        Step::ChangeAttributes {
            document,
            attributes: number,
        } => told(
            index
                .change_attributes(scope, &names[*document], &changes(*number), at(second))
                .await,
        ),
        Step::Start { document, stale } => {
            let version = version(*document, *stale).await;
            told(index.start(scope, id(*document), version, 3).await)
        }
        Step::Stage {
            document,
            stale,
            part,
            model: of,
        } => {
            let version = version(*document, *stale).await;
            let cut = chunks(id(*document), &text(*part));
            let new: Vec<_> = cut.into_iter().map(|(chunk, _)| chunk).collect();
            let vectors = of.map(|of| new.iter().map(|chunk| embed(&model(of), &chunk.draft.text)).collect());
            told(
                index
                    .stage(scope, id(*document), version, new, vectors.unwrap_or_default())
                    .await,
            )
        }
        Step::Publish {
            document,
            stale,
            is_tight,
        } => {
            let version = version(*document, *stale).await;
            let content = waiting(library, *document).await.unwrap_or_default();
            let cut = chunks(id(*document), &content);
            let places: Vec<_> = cut.into_iter().map(|(chunk, place)| (chunk.id, place)).collect();
            told(
                index
                    .publish(
                        scope,
                        id(*document),
                        version,
                        places.into(),
                        &quota(*is_tight),
                        at(second),
                    )
                    .await,
            )
        }
        Step::Fail { document, stale } => {
            let version = version(*document, *stale).await;
            let failure = IngestFailure {
                code: "broken".to_owned(),
                message: "It is broken.".to_owned(),
            };
            told(index.fail(scope, id(*document), version, failure, at(second)).await)
        }
        Step::Ingest { document, model: of } => {
            let Some(content) = waiting(library, *document).await else {
                return "nothing waits".to_owned();
            };
            let version = version(*document, 0).await;
            let cut = chunks(id(*document), &content);
            let ids: Vec<_> = cut.iter().map(|(chunk, _)| chunk.id).collect();
            let space = of.map(model);
            let known = index
                .known_chunks(scope, id(*document), &ids, space.as_ref())
                .await
                .unwrap();
            let new: Vec<_> = cut
                .iter()
                .map(|(chunk, _)| chunk)
                .filter(|chunk| !known.contains(&chunk.id))
                .collect();
            let vectors = space.map(|space| new.iter().map(|chunk| embed(&space, &chunk.draft.text)).collect());
            let new = new.into_iter().cloned().collect();
            let staged = index
                .stage(scope, id(*document), version, new, vectors.unwrap_or_default())
                .await;
            let contents = Contents {
                title: content.split_whitespace().next().map(str::to_owned),
                chunks: cut.into_iter().map(|(chunk, place)| (chunk.id, place)).collect(),
            };
            let published = index
                .publish(scope, id(*document), version, contents, &AMPLE, at(second))
                .await;
            format!("{known:?} {} {}", told(staged), told(published))
        }
        Step::Delete { document } => told(index.delete(scope, &names[*document], at(second)).await),
        Step::Cite { document, content } => {
            let cut = chunks(id(*document), &text(*content));
            let ids: Vec<_> = cut.into_iter().map(|(chunk, _)| chunk.id).collect();
            told(index.cite(scope, &ids).await)
        }
        Step::PutVectors {
            document,
            content,
            model: of,
        } => {
            let cut = chunks(id(*document), &text(*content)).into_iter();
            let vectors = cut.map(|(chunk, _)| (chunk.id, embed(&model(*of), &chunk.draft.text)));
            told(index.put_vectors(scope, vectors.collect()).await)
        }
        Step::DropSpaces { keep } => {
            let keep: Vec<_> = keep.iter().map(|keep| model(*keep)).collect();
            told(index.drop_spaces(&keep).await)
        }
        // How many were forgotten counts all tenants.
        Step::ForgetJobs => told(index.forget_jobs(at(second - 10)).await.map(|_| ())),
        Step::Erase => told(index.erase_tenant(scope).await),
        Step::Reopen => String::new(),
    }
}

/// Returns the content of a document that waits, if it is the tenant's next one; otherwise what `pending` would return
/// later.
async fn waiting(library: &Library, document: usize) -> Option<String> {
    let name = ["a", "b", "c", "d"][document];
    let pending = library.index.pending(&[], 1_000).await.unwrap();
    let own = pending.into_iter().find(|pending| pending.scope == library.scope)?;
    let is_next = own.document.key == key(name);
    is_next.then(|| String::from_utf8(own.content).unwrap())
}

/// Describes all that can be seen of a tenant, to the last bit of every score.
pub async fn observe(library: &Library, seconds: i64) -> String {
    let (index, scope) = (&library.index, &library.scope);
    let mut seen = String::new();
    macro_rules! see {
        ($call:expr) => {
            writeln!(seen, "{:?}", $call.await.unwrap()).unwrap()
        };
    }
    let ann = caller(Some("ann"), &["board"]);
    let staff = caller(Some("cy"), &["staff"]);
    let readers = [Reader::Administrator, ann, staff, caller(None, &[])];
    see!(index.totals(scope));
    see!(index.documents(scope, &collection("handbook"), None, 9));
    for second in 0..seconds {
        see!(index.job(scope, job(1_000 + u128::try_from(second).unwrap())));
    }
    let pending = index.pending(&[], 1_000).await.unwrap();
    let own = pending.iter().find(|pending| pending.scope == *scope);
    writeln!(seen, "{:?}", own.map(|own| (&own.document, &own.content))).unwrap();
    for name in ["a", "b", "c", "d"].map(key) {
        see!(index.chunks(scope, &name, 1, 3));
        let id = name.id(scope.tenant());
        let cut = chunks(id, &text(63)).into_iter().chain(chunks(id, &text(0b11_0111)));
        let ids: Vec<_> = cut.map(|(chunk, _)| chunk.id).collect();
        for space in [None, Some(model(false)), Some(model(true))] {
            see!(index.known_chunks(scope, id, &ids, space.as_ref()));
        }
        for reader in &readers {
            see!(index.read(scope, reader, &ids));
        }
    }
    for of in [false, true] {
        let mut missing: Vec<_> = index.unembedded(&model(of), &[], 1_000).await.unwrap();
        missing.retain(|one| one.scope == *scope);
        let mut missing: Vec<_> = missing.into_iter().map(|one| (one.chunk, one.text)).collect();
        missing.sort();
        writeln!(seen, "{missing:?}").unwrap();
    }
    for reader in readers {
        for filter in [
            Vec::new(),
            vec![("n".to_owned(), json!(2))],
            vec![("n".to_owned(), json!(4))],
        ] {
            for (words, of, limit) in [("alpha delta", false, 2), ("gamma beta", true, 50), ("zeta", false, 50)] {
                let search = Search {
                    collections: vec![collection("handbook")],
                    reader: reader.clone(),
                    filter: filter.clone(),
                    terms: words.split(' ').map(str::to_owned).collect(),
                    vector: Some(embed(&model(of), words)),
                    limit,
                };
                see!(index.search(scope, &search));
            }
        }
    }
    seen
}

/// Draws programs that are the same in every run.
pub fn draw(count: usize) -> Vec<Vec<Step>> {
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let tree = |_| steps().new_tree(&mut runner).unwrap().current();
    (0..count).map(tree).collect()
}

pub async fn two_tenants_together_are_each_as_alone(mut fixture: Fixture) {
    for (round, pair) in (0..).zip(draw(24).chunks(2)) {
        let [first, second] = pair else {
            unreachable!("they come in pairs")
        };
        let names = [format!("acme-{round}"), format!("globex-{round}")];
        let alone: Vec<Arc<dyn KnowledgeIndex>> = vec![Arc::new(MemoryIndex::new()), Arc::new(MemoryIndex::new())];
        let length = first.len().max(second.len());
        for n in 0..length {
            let now = i64::try_from(n).unwrap();
            for (tenant, steps) in [first, second].into_iter().enumerate() {
                let Some(step) = steps.get(n) else { continue };
                // These concern all tenants.
                if matches!(step, Step::DropSpaces { .. } | Step::ForgetJobs) {
                    continue;
                }
                if matches!(step, Step::Reopen) {
                    fixture.reopen();
                }
                let together = run(&Library::new(&fixture.index, &names[tenant]), step, now).await;
                let expected = run(&Library::new(&alone[tenant], &names[tenant]), step, now).await;
                assert_eq!(together, expected, "{step:?} of {} in round {round}", names[tenant]);
            }
            if n % 5 == 4 || n + 1 == length {
                for (tenant, alone) in alone.iter().enumerate() {
                    let together = observe(&Library::new(&fixture.index, &names[tenant]), now).await;
                    let expected = observe(&Library::new(alone, &names[tenant]), now).await;
                    assert_eq!(together, expected, "{} after step {n} of round {round}", names[tenant]);
                }
            }
        }
    }
}
