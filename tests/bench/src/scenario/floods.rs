//! What one tenant's flood does to another tenant: the time to the 202 of a steady trickle of turns, quiet and under
//! each flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::Size;
use super::submit::conversations;
use crate::client::{Client, Pace};
use crate::http::Connection;
use crate::report::Report;
use crate::stats::{Samples, decimal};
use crate::world::{Programs, ServerOptions, Testbed};

/// Callers of the flood, each in a closed loop.
const CALLERS: usize = 16;
/// Time between two turns of the victim.
const TRICKLE: Duration = Duration::from_millis(50);
/// Conversations of the victim, used in turn.
const VICTIMS: usize = 20;
/// Turns of the conversation whose pages are read, with a question and an answer each.
const PAGE_TURNS: usize = 60;
/// Turns that are answered at once.
const SHORT: Pace = Pace {
    words: 5,
    first_ms: 0,
    pace_ms: 0,
};

/// Model calls per caller in the ledger that is reported on.
const LEDGER_CALLS: usize = 200;

/// A flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flood {
    /// Turns
    Turns,
    /// Turns with 60 kB prompts
    Prompts,
    /// Pages of messages
    Pages,
    /// Patches of a conversation
    Patches,
    /// New conversations with an idempotency key each
    Keys,
    /// Gateway calls
    Gateway,
    /// Large gateway calls that a limit rejects
    Refused,
    /// API keys created and revoked
    ApiKeys,
    /// Usage reports, and verifications of the audit log
    Reports,
    /// Feedback
    Feedback,
}

impl Flood {
    fn name(self) -> &'static str {
        match self {
            Self::Turns => "turns",
            Self::Prompts => "turns with 60 kB prompts",
            Self::Pages => "pages of 100 messages",
            Self::Patches => "patches of a conversation",
            Self::Keys => "new conversations, a new idempotency key each",
            Self::Gateway => "gateway calls of 1 KiB",
            Self::Refused => "gateway calls of 1.5 MB, refused by tokens per minute",
            Self::ApiKeys => "API keys made and revoked",
            Self::Reports => "reports of 3,200 model calls, and verifications of the audit log",
            Self::Feedback => "feedback on a turn",
        }
    }
}

/// Results of one run.
struct Run {
    /// The victim before the flood and after it.
    quiet: [Samples; 2],
    /// The victim under the flood.
    flooded: Samples,
    /// Answers to the flood: successful ones, and all.
    answers: [u64; 2],
}

/// Runs the scenario.
pub async fn run(programs: &Programs, size: &Size) -> anyhow::Result<Report> {
    let time = Duration::from_secs(size.pick(20, 3));
    let runs = size.pick(3, 1);
    let mut report = Report::new(
        "floods: another tenant's turns under a tenant's flood",
        "16 callers of one tenant, one user each, each send the next request as soon as the previous one is answered, with default limits. Meanwhile another tenant \
         submits a turn every 50 ms; *quiet* is the same before the flood and after it. The server is pinned to one processor, the \
         generators and the provider to the others. Each flood has a fresh server; the run with the median p50 ratio is shown. The aim: \
         p50 at most 3 times and p99 at most 10 times quiet.",
        &[
            "flood",
            "quiet before p50 / p99 ms",
            "quiet after p50 / p99 ms",
            "flooded p50 / p99 ms",
            "p50 ratio",
            "p99 ratio",
            "granted / answered per second",
            "aim",
        ],
    );
    let floods = match size.floods.as_slice() {
        [] => Flood::value_variants(),
        asked => asked,
    };
    for flood in floods.iter().copied() {
        let mut measured = Vec::new();
        for _ in 0..runs {
            measured.push(measure(programs, flood, time).await.with_context(|| flood.name())?);
        }
        measured.sort_by(|a, b| a.ratio(0.5).total_cmp(&b.ratio(0.5)));
        let middle = measured.swap_remove(runs / 2);
        let (p50, p99) = (middle.ratio(0.5), middle.ratio(0.99));
        let [granted, answered] = middle.answers.map(|count| decimal(count as f64 / time.as_secs_f64()));
        report.row(vec![
            flood.name().to_owned(),
            middle.quiet[0].both(),
            middle.quiet[1].both(),
            middle.flooded.both(),
            decimal(p50),
            decimal(p99),
            format!("{granted} / {answered}"),
            if p50 <= 3.0 && p99 <= 10.0 { "met" } else { "missed" }.to_owned(),
        ]);
    }
    Ok(report)
}

impl Run {
    /// Returns how much longer the victim waits under the flood than on average before and after it.
    fn ratio(&self, share: f64) -> f64 {
        let quiet: f64 = self
            .quiet
            .iter()
            .map(|quiet| quiet.percentile(share).as_secs_f64())
            .sum();
        2.0 * self.flooded.percentile(share).as_secs_f64() / quiet.max(f64::MIN_POSITIVE)
    }
}

async fn measure(programs: &Programs, flood: Flood, time: Duration) -> anyhow::Result<Run> {
    let options = ServerOptions {
        one_core: true,
        tenants: true,
        ..ServerOptions::default()
    };
    let world = Testbed::start(programs, options).await?;
    let flooder = match flood {
        Flood::Refused => world.client_of("initech")?,
        _ => Arc::clone(&world.client),
    };
    let victim = world.client_of("globex")?;
    let victims = conversations(&victim, VICTIMS).await?;
    let callers = Caller::all(&flooder, flood).await?;
    // What the first calls allocate is not to be measured.
    trickle(&victim, &victims, time / 4).await?;
    let before = trickle(&victim, &victims, time).await?;
    let (flooded, answers) = {
        let until = Instant::now() + time;
        let mut tasks = JoinSet::new();
        for caller in callers {
            tasks.spawn(caller.flood(flood, until));
        }
        let flooded = trickle(&victim, &victims, time).await?;
        let mut answers = [0, 0];
        for done in tasks.join_all().await {
            let some = done?;
            answers = [answers[0] + some[0], answers[1] + some[1]];
        }
        (flooded, answers)
    };
    world.quiet().await?;
    let after = trickle(&victim, &victims, time).await?;
    Ok(Run {
        quiet: [before, after],
        flooded,
        answers,
    })
}

/// Submits turns at a steady rate, each on a connection that waits for it, and measures the time to the 202.
async fn trickle(client: &Arc<Client>, conversations: &[String], time: Duration) -> anyhow::Result<Samples> {
    let begun = Instant::now();
    let mut ticks = tokio::time::interval(TRICKLE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tasks = JoinSet::new();
    let mut idle = Vec::new();
    let mut samples = Samples::default();
    let mut next = 0;
    while begun.elapsed() < time {
        ticks.tick().await;
        while let Some(done) = tasks.try_join_next() {
            let (took, connection) = done??;
            samples.add(took);
            idle.push(connection);
        }
        let connection = match idle.pop() {
            Some(connection) => connection,
            None => client.connect().await?,
        };
        let (user, client) = (next % conversations.len(), Arc::clone(client));
        let conversation = conversations[user].clone();
        next += 1;
        tasks.spawn(async move {
            let (mut connection, sent) = (connection, Instant::now());
            client.submit(&mut connection, user, &conversation, SHORT).await?;
            anyhow::Ok((sent.elapsed(), connection))
        });
    }
    for done in tasks.join_all().await {
        samples.add(done?.0);
    }
    Ok(samples)
}

/// One caller of the flood.
struct Caller {
    client: Arc<Client>,
    connection: Connection,
    user: usize,
    conversation: String,
    turn: String,
    body: String,
}

impl Caller {
    /// Prepares all callers.
    async fn all(client: &Arc<Client>, flood: Flood) -> anyhow::Result<Vec<Self>> {
        let made = conversations(client, CALLERS).await?;
        let mut callers = Vec::new();
        for (user, conversation) in made.into_iter().enumerate() {
            let mut connection = client.connect().await?;
            if flood == Flood::Pages {
                for _ in 0..PAGE_TURNS {
                    client.turn(&mut connection, user, &conversation, SHORT).await?;
                }
            }
            if flood == Flood::Reports {
                let call = body(Flood::Gateway);
                for _ in 0..LEDGER_CALLS {
                    let request = ("POST", "/v1/chat/completions");
                    client.send(&mut connection, user, request, "", &call).await?;
                }
            }
            let turn = match flood {
                Flood::Feedback => client.submit(&mut connection, user, &conversation, SHORT).await?,
                _ => String::new(),
            };
            callers.push(Self {
                client: Arc::clone(client),
                connection,
                user,
                conversation,
                turn,
                body: body(flood),
            });
        }
        Ok(callers)
    }

    /// Sends until `until`; returns the numbers of successful answers and of all.
    async fn flood(mut self, flood: Flood, until: Instant) -> anyhow::Result<[u64; 2]> {
        let mut answers = [0, 0];
        while Instant::now() < until {
            match self.once(flood).await {
                Ok(granted) => {
                    answers[0] += u64::from(granted);
                    answers[1] += 1;
                }
                // A server under attack may close the connections of the attacker.
                Err(_) => self.connection = self.client.connect().await?,
            }
        }
        Ok(answers)
    }

    async fn once(&mut self, flood: Flood) -> anyhow::Result<bool> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let conversation = format!("/v1/conversations/{}", self.conversation);
        // A different text each time: no answer may come from something counted or cached before.
        let body = self.body.replacen("@number@", &format!("{number:08}"), 1);
        let (method, path, headers, body) = match flood {
            Flood::Turns | Flood::Prompts => ("POST", format!("{conversation}/turns"), String::new(), body),
            Flood::Pages => ("GET", format!("{conversation}/messages?limit=100"), String::new(), body),
            Flood::Patches => ("PATCH", conversation, String::new(), body),
            Flood::Keys => {
                let key = format!("idempotency-key: key-{number}\r\n");
                ("POST", "/v1/conversations".to_owned(), key, body)
            }
            Flood::Gateway | Flood::Refused => ("POST", "/v1/chat/completions".to_owned(), String::new(), body),
            Flood::ApiKeys => ("POST", "/v1/admin/api-keys".to_owned(), String::new(), body),
            Flood::Reports if number.is_multiple_of(2) => {
                ("GET", "/v1/admin/usage?group_by=user".to_owned(), String::new(), body)
            }
            Flood::Reports => ("GET", "/v1/admin/audit/verify".to_owned(), String::new(), body),
            Flood::Feedback => ("POST", format!("/v1/turns/{}/feedback", self.turn), String::new(), body),
        };
        let (client, user) = (Arc::clone(&self.client), self.user);
        let sent = client
            .send(&mut self.connection, user, (method, &path), &headers, &body)
            .await?;
        if flood == Flood::ApiKeys && sent.0 == 201 {
            let made: Value = serde_json::from_str(&sent.1)?;
            let id = made["id"].as_str().context("the answer has no key id")?;
            let path = format!("/v1/admin/api-keys/{id}");
            client
                .send(&mut self.connection, user, ("DELETE", &path), "", "")
                .await?;
        }
        Ok(sent.0 < 300)
    }
}

/// Request body of a caller; `@number@` is replaced in each request.
fn body(flood: Flood) -> String {
    let directive = "[[sim tokens=5 first_ms=0 pace_ms=0]]";
    let words = |bytes: usize| "lorem ipsum dolor ".repeat(bytes / 18);
    let chat = |bytes: usize| {
        let content = format!("@number@ {} {directive}", words(bytes));
        json!({ "model": "default", "messages": [{ "role": "user", "content": content }], "max_tokens": 16 })
    };
    match flood {
        Flood::Turns => json!({ "input": format!("@number@ {directive}") }),
        Flood::Prompts => json!({ "input": format!("@number@ {} {directive}", words(60_000)) }),
        Flood::Pages | Flood::Reports => return String::new(),
        Flood::Patches => json!({ "title": "@number@" }),
        Flood::Keys => json!({}),
        Flood::Gateway => chat(1024),
        Flood::Refused => chat(1_500_000),
        Flood::ApiKeys => json!({ "name": "flood-@number@", "scopes": ["chat"] }),
        Flood::Feedback => json!({ "rating": 1, "comment": format!("@number@ {}", words(2_000)) }),
    }
    .to_string()
}
