//! How often the semantic cache hits, how often wrongly, and how long a hit takes. Runs the library in this process,
//! without server and provider.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use copilotd::adapters::embedding::{LocalEmbedder, ModelKind, Threads};
use copilotd_actors::ports::{EmbedError, EmbedRequest, Embedder, Vector};
use copilotd_gateway::cache::veto::veto;
use copilotd_gateway::cache::{
    Audience, Cache, CachedAnswer, Decision, Evidence, Knowledge, Lookup, Question, Rules, Settings, question,
};
use copilotd_gateway::request::body::ChatBody;
use copilotd_gateway::request::call::{CacheControl, Caller, Purpose};
use serde::Deserialize;
use tokio::time::Instant;

use super::Size;
use crate::report::Report;
use crate::stats::{Samples, clopper_pearson};

/// Similarity cuts to try, in the range of the model.
const CUTS: [f32; 8] = [0.70, 0.75, 0.80, 0.85, 0.90, 0.93, 0.95, 0.97];
/// Margins to try.
const MARGINS: [f32; 2] = [0.0, 0.02];
/// Error bounds to try.
const ERRORS: [f64; 3] = [0.01, 0.02, 0.05];

/// A pair of the sets: may an answer to `a` be given to `b`?
#[derive(Debug, Deserialize)]
struct Pair {
    group: String,
    a: String,
    b: String,
    label: u8,
}

impl Pair {
    /// Rules are tuned on one half; the other one is reported. Groups are never split.
    fn is_reported(&self) -> bool {
        self.group.as_bytes().first().is_some_and(|first| *first >= b'8')
    }
}

/// One question against all stored ones.
struct Probe {
    similarity: f32,
    lead: f32,
    vetoed: bool,
    own: bool,
    twin: bool,
    reported: bool,
}

/// Runs the scenario.
pub async fn run(size: &Size) -> anyhow::Result<Report> {
    let data = size
        .data
        .as_deref()
        .context("--data is required: the directory of the semcache_* sets")?;
    let models = size
        .models
        .as_deref()
        .context("--models is required: the directory of the embedding models")?;
    let mut report = Report::new(
        "Semantic cache",
        "`gptcache`: every origin is stored, and every paraphrase is looked up among all of them; a hit on another origin is false, unless that one \
         is in the same group (the set repeats itself): both counts are given. `qqp`: individual pairs, half of them deliberately hard; a hit on a pair of \
         label 0 is false. Rules were tuned only on the half `tune`. The bound is Clopper-Pearson's, one-sided at 97.5%, on false hits \
         (groups counted as one) among all lookups. Learned: pairs in their order, audited when the model is called.",
        &[
            "set",
            "model",
            "half",
            "gates",
            "asked",
            "hits",
            "false (raw)",
            "false",
            "false share, 95% bound",
        ],
    );
    for kind in ModelKind::ALL {
        let embedder = LocalEmbedder::load(kind, models, Threads::default())?;
        let gptcache = pairs(&data.join("semcache_gptcache_mock/dev.jsonl"), usize::MAX)?;
        nearest(&mut report, (kind, &embedder), &gptcache).await?;
        let qqp = pairs(&data.join("semcache_qqp/dev.jsonl"), size.pick(6_242, 1_000))?;
        apart(&mut report, (kind, &embedder), &qqp).await?;
    }
    let latency = latency(size.pick(10_000, 1_000), size.pick(20_000, 1_000)).await?;
    report.row(vec![
        "time of a hit beyond the embedding, p50 / p99 in ms".to_owned(),
        String::new(),
        String::new(),
        format!("near, {} entries of one partition", size.pick(10_000, 1_000)),
        latency.count().to_string(),
        latency.both(),
        String::new(),
        String::new(),
        format!(
            "aim: p99 under 5 ms: {}",
            if latency.percentile(0.99) < Duration::from_millis(5) {
                "yes"
            } else {
                "**no**"
            }
        ),
    ]);
    Ok(report)
}

fn pairs(path: &Path, most: usize) -> anyhow::Result<Vec<Pair>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let read = |line: &str| serde_json::from_str(line).with_context(|| path.display().to_string());
    text.lines().take(most).map(read).collect()
}

async fn vectors(embedder: &LocalEmbedder, texts: impl Iterator<Item = &String>) -> anyhow::Result<Vec<Vector>> {
    let texts: Vec<String> = texts.cloned().collect();
    let mut vectors = Vec::new();
    for batch in texts.chunks(4) {
        vectors.extend(embedder.embed(EmbedRequest::to_compare(batch.to_vec())).await?);
    }
    Ok(vectors)
}

/// The protocol of the GPTCache set.
async fn nearest(
    report: &mut Report,
    (kind, embedder): (ModelKind, &LocalEmbedder),
    pairs: &[Pair],
) -> anyhow::Result<()> {
    let stored = vectors(embedder, pairs.iter().map(|pair| &pair.a)).await?;
    let asked = vectors(embedder, pairs.iter().map(|pair| &pair.b)).await?;
    let mut all = Vec::new();
    for (pair, (place, vector)) in pairs.iter().zip(asked.iter().enumerate()) {
        let mut best = (0, f32::MIN);
        for (at, stored) in stored.iter().enumerate() {
            let similarity = stored.cosine(vector);
            if similarity > best.1 {
                best = (at, similarity);
            }
        }
        let found = &pairs[best.0];
        // The best one with another answer: a question that is stored twice has one answer.
        let second = stored
            .iter()
            .zip(pairs)
            .filter(|(_, other)| other.group != found.group)
            .map(|(stored, _)| stored.cosine(vector))
            .fold(f32::MIN, f32::max);
        all.push(Probe {
            similarity: best.1,
            lead: best.1 - second,
            vetoed: veto(&pair.b, &found.a).is_some(),
            own: best.0 == place,
            twin: found.group == pair.group,
            reported: pair.is_reported(),
        });
    }
    for half in [false, true] {
        let asked: Vec<&Probe> = all.iter().filter(|asked| asked.reported == half).collect();
        for (vetoes, margin) in [(false, MARGINS[0]), (true, MARGINS[0]), (true, MARGINS[1])] {
            for cut in CUTS {
                let hits: Vec<&&Probe> = asked
                    .iter()
                    .filter(|asked| asked.similarity >= cut && asked.lead >= margin && !(vetoes && asked.vetoed))
                    .collect();
                let raw = hits.iter().filter(|hit| !hit.own).count();
                let wrong = hits.iter().filter(|hit| !hit.twin).count();
                let gates = format!("cut {cut}{}{}", if vetoes { ", veto" } else { "" }, shown(margin));
                row(
                    report,
                    "gptcache",
                    kind,
                    half,
                    gates,
                    asked.len(),
                    hits.len(),
                    raw,
                    wrong,
                );
            }
        }
    }
    Ok(())
}

fn shown(margin: f32) -> String {
    if margin > 0.0 {
        format!(", margin {margin}")
    } else {
        String::new()
    }
}

/// Individual pairs: with a cut, and learned.
async fn apart(
    report: &mut Report,
    (kind, embedder): (ModelKind, &LocalEmbedder),
    pairs: &[Pair],
) -> anyhow::Result<()> {
    let stored = vectors(embedder, pairs.iter().map(|pair| &pair.a)).await?;
    let asked = vectors(embedder, pairs.iter().map(|pair| &pair.b)).await?;
    let seen: Vec<(f32, bool, bool, bool)> = pairs
        .iter()
        .zip(stored.iter().zip(&asked))
        .map(|(pair, (a, b))| {
            (
                a.cosine(b),
                veto(&pair.a, &pair.b).is_some(),
                pair.label == 1,
                pair.is_reported(),
            )
        })
        .collect();
    for half in [false, true] {
        let seen: Vec<_> = seen.iter().filter(|seen| seen.3 == half).collect();
        for vetoes in [false, true] {
            for cut in CUTS {
                let hits: Vec<_> = seen
                    .iter()
                    .filter(|seen| seen.0 >= cut && !(vetoes && seen.1))
                    .collect();
                let wrong = hits.iter().filter(|hit| !hit.2).count();
                let gates = format!("cut {cut}{}", if vetoes { ", veto" } else { "" });
                row(report, "qqp", kind, half, gates, seen.len(), hits.len(), wrong, wrong);
            }
        }
        for max_error in ERRORS {
            let mut evidence = Evidence::default();
            let (mut hits, mut wrong, mut state) = (0, 0, 0x2545_F491_4F6C_DD1D_u64);
            for (similarity, vetoed, right, _) in &seen {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let chance = (state >> 11) as f64 / (1_u64 << 53) as f64;
                if *vetoed || *similarity < 0.6 {
                    continue;
                }
                match evidence.decide(*similarity, max_error, chance) {
                    Some(Decision::Serve) => {
                        hits += 1;
                        wrong += usize::from(!right);
                    }
                    _ => evidence.add(*similarity, *right),
                }
            }
            let gates = format!("veto, learned, error {max_error}");
            row(report, "qqp", kind, half, gates, seen.len(), hits, wrong, wrong);
        }
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "they are the columns")]
fn row(
    report: &mut Report,
    set: &str,
    kind: ModelKind,
    reported: bool,
    gates: String,
    asked: usize,
    hits: usize,
    raw: usize,
    wrong: usize,
) {
    let share = |n: usize| format!("{n} ({:.1}%)", 100.0 * n as f64 / asked.max(1) as f64);
    report.row(vec![
        set.to_owned(),
        kind.to_string(),
        if reported { "report" } else { "tune" }.to_owned(),
        gates,
        asked.to_string(),
        share(hits),
        raw.to_string(),
        wrong.to_string(),
        format!(
            "{:.2}%, at most {:.2}%",
            100.0 * wrong as f64 / asked.max(1) as f64,
            100.0 * clopper_pearson(wrong, asked)
        ),
    ]);
}

/// An embedder that costs nothing, so that only the cache is measured.
#[derive(Debug)]
struct Ready;

#[async_trait::async_trait]
impl Embedder for Ready {
    async fn embed(&self, request: EmbedRequest) -> Result<Vec<Vector>, EmbedError> {
        let space = "ready".into();
        let one = |text: String| {
            let number = text
                .split_whitespace()
                .filter(|word| word.starts_with('w'))
                .map(str::len)
                .sum::<usize>();
            let mut state = number as u64 + 1;
            let values = (0..384).map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 40) as f32 / 16_777_216.0 - 0.5
            });
            Vector::unit(&space, values.collect()).ok_or(EmbedError::Busy)
        };
        request.texts.into_iter().map(one).collect()
    }
}

/// Near hits in a partition with many entries: the scan, the veto and the decision, without the embedding.
async fn latency(entries: usize, asked: usize) -> anyhow::Result<Samples> {
    let embedder: Arc<dyn Embedder> = Arc::new(Ready);
    let cache = Cache::new(|| 0.5);
    let settings = |cut| Settings {
        rules: Rules {
            audience: Audience::Tenant,
            max_temperature: 1.0,
        },
        life: Duration::from_secs(3_600),
        max_entries: entries,
        max_error: 0.02,
        cut,
        margin: 0.0,
        audit_share: 0.0,
    };
    let text = |n: usize, polite: &str| format!("{} is what{polite}", "w".repeat(n + 1));
    for n in 0..entries {
        match cache
            .look_up(
                asking(&text(n % 4_000, &" ".repeat(n / 4_000)))?,
                &settings(2.0),
                Some(Arc::clone(&embedder)),
                None,
            )
            .await
        {
            Lookup::Lead(ticket) => _ = ticket.fill(kept()),
            Lookup::Hit(_) => anyhow::bail!("stored twice"),
        }
    }
    let mut samples = Samples::default();
    for n in 0..asked {
        let question = asking(&text(n % entries.min(3_000), " please"))?;
        let start = Instant::now();
        let found = cache
            .look_up(question, &settings(0.9), Some(Arc::clone(&embedder)), None)
            .await;
        samples.add(start.elapsed());
        anyhow::ensure!(matches!(found, Lookup::Hit(_)), "question {n} was a miss");
    }
    Ok(samples)
}

fn kept() -> CachedAnswer {
    CachedAnswer {
        model: "m".to_owned(),
        by: None,
        text: "It is what it is. ".repeat(20),
        usage: Default::default(),
    }
}

fn asking(text: &str) -> anyhow::Result<Question> {
    let body =
        ChatBody::from_value(&serde_json::json!({ "model": "m", "messages": [{ "role": "user", "content": text }] }))?;
    #[expect(
        clippy::disallowed_methods,
        reason = "a benchmark is its own verifier; it touches only this process"
    )]
    let scope = copilotd_actors::tenancy::TenantScope::from_verified("bench".parse()?);
    let caller = Caller {
        copilot: None,
        scope,
        user: "user".parse()?,
        role: None,
        api_key: None,
        conversation: None,
        turn: None,
        purpose: Purpose::Endpoint,
    };
    let rules = Rules {
        audience: Audience::Tenant,
        max_temperature: 1.0,
    };
    question(&caller, "m", &body, Knowledge::default(), CacheControl::Use, &rules)
        .map_err(|skip| anyhow::anyhow!("skipped: {}", skip.code()))
}
