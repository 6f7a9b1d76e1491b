//! Random histories: SQLite answers as the in-memory model does, after every step.

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::event::Event;
use copilotd_actors::domain::ids::TurnId;
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::ports::{Append, EventLog, ListQuery, LogError, Order, Snapshot};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::support::talk::{
    Talk, answered, assembled, cancelled, completed, erased, queued, scope, started, turn, updated,
};

const TENANTS: [&str; 3] = ["acme", "acme", "globex"];

/// One step; numbers choose among what exists at that time.
#[derive(Debug, Clone)]
enum Step {
    Append {
        talk: usize,
        events: Vec<u8>,
        writer: Writer,
    },
    Repeat {
        which: usize,
    },
    Snapshot {
        talk: usize,
        seq: u64,
    },
    Erase {
        talk: usize,
        off: u64,
    },
    Rebuild,
    Restart,
}

/// How much a writer knows of the log it appends to.
#[derive(Debug, Clone, Copy)]
enum Writer {
    Current,
    Stale(usize),
    Ahead,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writer = prop_oneof![
        8 => Just(Writer::Current),
        2 => (1..6_usize).prop_map(Writer::Stale),
        1 => Just(Writer::Ahead),
    ];
    let step = prop_oneof![
        12 => (0..3_usize, prop::collection::vec(0..9_u8, 1..5), writer)
            .prop_map(|(talk, events, writer)| Step::Append { talk, events, writer }),
        2 => any::<usize>().prop_map(|which| Step::Repeat { which }),
        2 => (0..3_usize, 0..30_u64).prop_map(|(talk, seq)| Step::Snapshot { talk, seq }),
        1 => (0..3_usize, 0..3_u64).prop_map(|(talk, off)| Step::Erase { talk, off }),
        1 => Just(Step::Rebuild),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

/// Turns a choice of numbers into events of a conversation with two turns. Only the last may be the tombstone.
fn events(talk: &Talk, choice: &[u8], turns: &[TurnId; 2]) -> Vec<(Option<TurnId>, Event)> {
    let mut events: Vec<_> = match &talk.header {
        None => vec![talk.created()],
        Some(_) => Vec::new(),
    };
    for n in choice {
        let turn = turns[usize::from(n % 2)];
        events.push(match n {
            0 => queued(turn, "prompt"),
            1 => started(turn),
            2 => assembled(turn),
            3 | 4 => answered(turn, "text"),
            5 => completed(turn),
            6 => cancelled(turn),
            _ => updated(&format!("title {}", talk.next())),
        });
    }
    if choice == [8] || choice == [7, 8] {
        events.push(erased());
    }
    events
}

/// The talk as a writer knows it that is some appends behind.
fn as_known_to(writer: Writer, talk: &Talk, appends: &[Append]) -> Talk {
    let own: Vec<&Append> = appends.iter().filter(|append| append.conversation == talk.id).collect();
    let mut known = talk.clone();
    match writer {
        Writer::Current => {}
        Writer::Stale(by) => {
            let kept = own.len().saturating_sub(by);
            known.header = own[..kept].last().map(|append| append.header.clone());
        }
        Writer::Ahead => {
            let unwritten = match &known.header {
                Some(_) => known.draft(vec![updated("never written")]),
                None => known.draft(vec![known.created()]),
            };
            known.written(&unwritten);
        }
    }
    known
}

fn kind<T>(outcome: &Result<T, LogError>) -> String {
    match outcome {
        Ok(_) => "ok".to_owned(),
        Err(LogError::Conflict(seq)) => format!("conflict at {seq}"),
        Err(LogError::Erased) => "erased".to_owned(),
        Err(LogError::Refused(_)) => "refused".to_owned(),
        Err(other) => other.to_string(),
    }
}

async fn run(steps: Vec<Step>) {
    let directory = TempDir::new().unwrap();
    let model = MemoryLog::new();
    let mut log = SqliteLog::open(directory.path()).unwrap();
    let mut talks: Vec<Talk> = TENANTS.iter().map(|tenant| Talk::new(tenant, "ann")).collect();
    let turns: Vec<[TurnId; 2]> = talks.iter().map(|_| [turn(), turn()]).collect();
    let mut appends: Vec<Append> = Vec::new();
    for step in steps {
        match &step {
            Step::Append {
                talk: n,
                events: choice,
                writer,
            } => {
                let known = as_known_to(*writer, &talks[*n], &appends);
                let append = known.draft(events(&known, choice, &turns[*n]));
                let expected = model.append(&known.scope, &append).await;
                let outcome = log.append(&known.scope, &append).await;
                assert_eq!(kind(&outcome), kind(&expected), "{step:?}");
                if outcome.is_ok() {
                    talks[*n].written(&append);
                    appends.push(append);
                }
            }
            Step::Repeat { which } if !appends.is_empty() => {
                let append = &appends[which % appends.len()];
                let scope = scope(append.header.tenant.as_str());
                let expected = model.append(&scope, append).await;
                assert_eq!(kind(&log.append(&scope, append).await), kind(&expected), "{step:?}");
            }
            Step::Repeat { .. } => {}
            Step::Snapshot { talk, seq } => {
                let Talk { scope, id, .. } = &talks[*talk];
                let snapshot = Snapshot {
                    seq: *seq,
                    version: 1,
                    state: seq.to_be_bytes().to_vec(),
                };
                model.save_snapshot(scope, *id, &snapshot).await.unwrap();
                log.save_snapshot(scope, *id, &snapshot).await.unwrap();
            }
            Step::Erase { talk, off } => {
                let talk = &talks[*talk];
                let seq = (talk.next() - 1).saturating_sub(*off);
                let expected = model.erase(&talk.scope, talk.id, seq).await;
                let outcome = log.erase(&talk.scope, talk.id, seq).await;
                assert_eq!(kind(&outcome), kind(&expected), "{step:?}");
            }
            Step::Rebuild => assert_eq!(log.rebuild().await.unwrap(), model.rebuild().await.unwrap()),
            Step::Restart => {
                log.close().await;
                log = SqliteLog::open(directory.path()).unwrap();
            }
        }
        compare(&log, &model, &talks, &turns).await;
    }
}

async fn compare(log: &SqliteLog, model: &MemoryLog, talks: &[Talk], turns: &[[TurnId; 2]]) {
    for (talk, turns) in talks.iter().zip(turns) {
        let Talk { scope, id, .. } = talk;
        let read = log.read(scope, *id, 2, 50).await.unwrap();
        assert_eq!(read, model.read(scope, *id, 2, 50).await.unwrap());
        assert_eq!(
            log.header(scope, *id).await.unwrap(),
            model.header(scope, *id).await.unwrap()
        );
        assert_eq!(
            log.snapshot(scope, *id).await.unwrap(),
            model.snapshot(scope, *id).await.unwrap()
        );
        for order in [Order::Asc, Order::Desc] {
            let page = log.read_messages(scope, *id, Some(7), order, 5).await.unwrap();
            assert_eq!(page, model.read_messages(scope, *id, Some(7), order, 5).await.unwrap());
        }
        for turn in turns {
            assert_eq!(
                log.read_turn(scope, *turn).await.unwrap(),
                model.read_turn(scope, *turn).await.unwrap()
            );
        }
    }
    assert_eq!(
        log.pending(None, 10).await.unwrap(),
        model.pending(None, 10).await.unwrap()
    );
    for erased in [false, true] {
        let query = ListQuery {
            erased,
            limit: 2,
            ..ListQuery::default()
        };
        let listed = log.list(&scope("acme"), &query).await.unwrap();
        assert_eq!(listed, model.list(&scope("acme"), &query).await.unwrap());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sqlite_answers_as_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps));
    }
}
