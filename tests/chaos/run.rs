//! One run: everything is set up, users and faults follow their schedule, everything ends, and is checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;

use crate::check::{self, UncertainPeriods};
use crate::client::{Client, Shared};
use crate::config::{configuration, user_key};
use crate::findings::{Findings, Promise};
use crate::history::History;
use crate::schedule::{Dependency, Fault, FaultKind, Schedule};
use crate::server::{Server, UnexpectedEnd};
use crate::stage::Stage;
use crate::user::{CreatedIds, UserConversation, live};

/// Time after the last fault in which everything must end.
const AFTERMATH: Duration = Duration::from_secs(120);
/// Time in which the checker must get its answers.
const CHECKING: Duration = Duration::from_secs(120);
/// Time after the end in which erased text must be gone: the reconciler runs every few seconds.
const ERASING: Duration = Duration::from_secs(90);
/// Time after a fault of its store, or a stop, in which a process may end by itself: it had to wait for the lease.
const GRACE: Duration = Duration::from_secs(90);

/// A turn that ends while the process is killed may be reported as ended before its ledger entries are stored.
const BOOKING: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
pub struct Settings {
    pub seed: u64,
    pub seconds: u64,
}

impl Settings {
    /// Reads `COPILOTD_CHAOS_SEED` (default 1) and `COPILOTD_CHAOS_SECONDS` (default 60).
    pub fn from_env() -> Self {
        let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
        Self {
            seed: number("COPILOTD_CHAOS_SEED", 1),
            seconds: number("COPILOTD_CHAOS_SECONDS", 60),
        }
    }
}

/// Runs a schedule; panics with everything that is known if a promise was broken.
pub async fn run(settings: Settings, mongodb: Option<PathBuf>) {
    let schedule = Schedule::new(settings.seed, settings.seconds);
    let store = if mongodb.is_some() { "mongodb" } else { "sqlite" };
    let command = format!(
        "scripts/chaos --seed {} --seconds {} --store {store}",
        settings.seed, settings.seconds
    );
    println!(
        "{command}: {} faults, {} users",
        schedule.faults.len(),
        schedule.users.len()
    );
    let scratch = tempfile::Builder::new().prefix("copilotd-chaos-").tempdir().unwrap();
    let history = Arc::new(History::new());
    let stage = Stage::start(scratch.path(), mongodb, Arc::clone(&history)).await;
    let data = scratch.path().join("data");
    let config = scratch.path().join("copilotd.toml");
    let log = scratch.path().join("server.log");
    std::fs::write(&config, configuration(&stage.addresses(), &data)).unwrap();
    let server = Server::start(config, log.clone(), Arc::clone(&history));
    let shared = Arc::new(Shared {
        history: Arc::clone(&history),
        findings: Findings::default(),
        life: server.life(),
        end: Instant::now() + schedule.lasts + AFTERMATH,
        deadline: Instant::now() + schedule.lasts + AFTERMATH + CHECKING,
    });

    let talks = perform(&schedule, &stage, &server, &shared).await;
    history.note("users and faults have finished");
    let doubtful = doubtful(&schedule, &server.deaths(), store);
    let summary = check::conversations(&talks, &stage, &doubtful).await;
    check::copies(&talks).await;
    history.note("conversations were checked");
    let secrets: Vec<String> = talks
        .iter()
        .filter(|talk| talk.erased)
        .map(|talk| talk.secret.clone())
        .collect();
    erased(&data, &stage, &secrets, &shared).await;
    // Open streams delay a clean stop.
    drop(talks);
    let past = server.terminate().await;
    let findings = &shared.findings;
    if past.status != 0 {
        findings.add(
            Promise::Process,
            None,
            format!("the server exited with status {} after SIGTERM", past.status),
        );
    }
    process(
        &schedule,
        &past.ends,
        &std::fs::read_to_string(&log).unwrap(),
        store,
        findings,
    );
    let traces = check::everywhere(&[&data], None, &secrets).await;
    if !traces.0.is_empty() {
        findings.add(Promise::Erased, None, format!("found after the end: {traces}"));
    }
    println!("{summary:#?}");
    if let Some(report) = findings.report(&history) {
        let kept = scratch.keep();
        panic!(
            "{report}\nfiles of the run: {}\nto run it again: {command}",
            kept.display()
        );
    }
    stage.end_store().await;
}

/// Lets users and faults follow the schedule; returns every conversation.
async fn perform(schedule: &Schedule, stage: &Stage, server: &Server, shared: &Arc<Shared>) -> Vec<UserConversation> {
    let others = Arc::new(CreatedIds::default());
    let begun = Instant::now();
    let users = schedule.users.iter().map(|user| {
        let client = Client::new(Arc::clone(shared), user_key(user.tenant), user.name.clone());
        tokio::spawn(live(
            client,
            user.clone(),
            schedule.seed,
            schedule.lasts,
            Arc::clone(&others),
        ))
    });
    let users: Vec<_> = users.collect();
    let faults = schedule.faults.iter().map(|fault| async {
        tokio::time::sleep_until(begun + fault.at).await;
        stage.play(server, *fault).await;
    });
    let (talks, _) = tokio::join!(join_all(users), join_all(faults));
    talks
        .into_iter()
        .flat_map(|talks| talks.expect("a user does not panic"))
        .collect()
}

/// Returns the periods in which ledger entries may be lost: each death, and the time before it in which the store was
/// unavailable.
fn doubtful(schedule: &Schedule, deaths: &[Duration], store: &str) -> UncertainPeriods {
    let mut times: Vec<(Duration, Duration)> = deaths.iter().map(|at| (*at, *at + BOOKING)).collect();
    let of_store = |fault: &&Fault| {
        store == "mongodb" && matches!(fault.kind, FaultKind::Lose(Dependency::Store, _) | FaultKind::Stop)
    };
    let away = schedule.faults.iter().filter(of_store);
    times.extend(away.map(|fault| (fault.at, fault.at + fault.lasts + GRACE)));
    UncertainPeriods(times)
}

/// Waits until no erased text is found.
async fn erased(data: &Path, stage: &Stage, secrets: &[String], shared: &Shared) {
    let deadline = Instant::now() + ERASING;
    let store = stage.store_url();
    loop {
        let traces = check::everywhere(&[data], store.as_deref(), secrets).await;
        if traces.0.is_empty() {
            let count = secrets.len();
            return shared
                .history
                .note(format!("no text is left of {count} erased conversations"));
        }
        if Instant::now() > deadline {
            return shared.findings.add(Promise::Erased, None, traces);
        }
        // There is no event to wait for: another process deletes.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The process may end by itself only where it has to: without its store it cannot keep its lease and does not start.
fn process(schedule: &Schedule, ends: &[UnexpectedEnd], log: &str, store: &str, findings: &Findings) {
    for ended in ends {
        let excuses = |fault: &&Fault| {
            let kind = match fault.kind {
                FaultKind::Lose(Dependency::Store, _) | FaultKind::Stop => store == "mongodb",
                FaultKind::Kill => store == "mongodb" && ended.starting,
                FaultKind::Lose(..) => false,
            };
            kind && fault.at <= ended.at && ended.at <= fault.at + fault.lasts + GRACE
        };
        if !schedule.faults.iter().any(|fault| excuses(&fault)) {
            findings.add(Promise::Process, None, ended);
        }
    }
    for line in log
        .lines()
        .filter(|line| line.contains("panicked at") || line.contains("secret-"))
    {
        findings.add(Promise::Process, None, format!("found in the server's log: {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_without_a_reason_is_told() {
        let mut schedule = Schedule::new(1, 60);
        let ended = |at, starting| UnexpectedEnd {
            at: Duration::from_secs(at),
            status: 1,
            starting,
            last_words: String::new(),
        };
        let told = |schedule: &Schedule, ended: UnexpectedEnd, store: &str| {
            let findings = Findings::default();
            process(schedule, &[ended], "", store, &findings);
            findings.report(&History::new()).is_some()
        };
        schedule.faults = vec![Fault {
            at: Duration::from_secs(10),
            lasts: Duration::from_secs(5),
            kind: FaultKind::Stop,
        }];
        assert!(told(&schedule, ended(12, false), "sqlite"));
        assert!(!told(&schedule, ended(12, false), "mongodb"));
        assert!(told(&schedule, ended(5, false), "mongodb"), "before the fault");
        schedule.faults[0].kind = FaultKind::Lose(Dependency::Limits, crate::schedule::FailureMode::Refused);
        assert!(told(&schedule, ended(12, true), "sqlite"));
    }
}
