//! Tenants as metric labels.
//!
//! Invariant: the page shows at most [`TOP`] tenants, however many there are; all others are `other`. The page on the
//! public port names no tenants at all: it must not disclose a company's customers.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use copilotd_actors::domain::ids::TenantId;
use dashmap::DashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::metrics::{Kind, METRICS};

/// Maximum number of tenants shown as labels.
const TOP: usize = 100;
/// The label of all other tenants together.
pub(super) const OTHER: &str = "other";
/// How often tenants are ranked again. Each time, earlier requests count half.
const RANK_EVERY: Duration = Duration::from_secs(60);
/// Metrics counted in billionths of the displayed unit. All of them have a tenant label.
const NANOS: [&str; 1] = ["copilotd_model_cost_usd_total"];
/// State metrics: of several tenants' values the highest is shown, not the sum.
const STATES: [&str; 1] = ["copilotd_breaker_state"];

/// Who the page is rendered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricsView {
    /// The public port: without tenant labels.
    Public,
    /// The admin port: with labels for the most active tenants.
    Tenants,
}

static LABELS: LazyLock<TenantLabels> = LazyLock::new(TenantLabels::default);

/// Counts a request of a tenant.
pub fn count_request(tenant: &TenantId) {
    let label = LABELS.used(tenant);
    metrics::counter!("copilotd_tenant_requests_total", "tenant" => label).increment(1);
}

/// Counts a use by a tenant and returns its label.
pub(super) fn label(tenant: &TenantId) -> String {
    LABELS.used(tenant)
}

/// Rewrites a page for `view`.
pub(super) fn rewrite(page: &str, view: MetricsView) -> String {
    let shown = LABELS.shown.load();
    fold(page, |metric, tenant| match view {
        MetricsView::Public => LineAction::Unlabelled,
        MetricsView::Tenants if tenant == OTHER || shown.contains(tenant) => LineAction::Unchanged,
        // A tenant shown earlier: merging its counter into `other` would make that jump, and fall when it is shown
        // again.
        MetricsView::Tenants if only_grows(metric) => LineAction::Dropped,
        MetricsView::Tenants => LineAction::Other,
    })
}

/// Tracks which tenants are shown as labels: those with the most recent requests.
#[derive(Debug)]
struct TenantLabels {
    scores: DashMap<TenantId, AtomicU64>,
    shown: ArcSwap<HashSet<String>>,
    ranked: Mutex<Instant>,
}

impl Default for TenantLabels {
    fn default() -> Self {
        Self {
            scores: DashMap::new(),
            shown: ArcSwap::default(),
            ranked: Mutex::new(Instant::now()),
        }
    }
}

impl TenantLabels {
    /// Counts a request and returns the tenant's label.
    fn used(&self, tenant: &TenantId) -> String {
        match self.scores.get(tenant) {
            Some(score) => _ = score.fetch_add(1, Ordering::Relaxed),
            None => {
                self.scores
                    .entry(tenant.clone())
                    .or_default()
                    .fetch_add(1, Ordering::Relaxed);
                self.show_if_room(tenant);
            }
        }
        self.rank_if_due();
        if self.shown.load().contains(tenant.as_str()) {
            tenant.to_string()
        } else {
            OTHER.to_owned()
        }
    }

    fn show_if_room(&self, tenant: &TenantId) {
        self.shown.rcu(|shown| {
            let mut more = HashSet::clone(shown);
            if more.len() < TOP && tenant.as_str() != OTHER {
                more.insert(tenant.to_string());
            }
            more
        });
    }

    fn rank_if_due(&self) {
        // If another task is ranking, there is nothing to do.
        let Some(mut ranked) = self.ranked.try_lock() else {
            return;
        };
        if ranked.elapsed() < RANK_EVERY {
            return;
        }
        *ranked = Instant::now();
        let mut all: Vec<(u64, TenantId)> = Vec::new();
        for entry in &self.scores {
            let score = entry.value().load(Ordering::Relaxed);
            entry.value().fetch_sub(score - score / 2, Ordering::Relaxed);
            all.push((score, entry.key().clone()));
        }
        self.scores.retain(|_, score| score.load(Ordering::Relaxed) > 0);
        all.retain(|(score, tenant)| *score > 0 && tenant.as_str() != OTHER);
        all.sort_unstable_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        let shown: HashSet<String> = all
            .into_iter()
            .take(TOP)
            .map(|(_, tenant)| tenant.to_string())
            .collect();
        // Idle tenants stay while there is room: a quiet night must not remove their gauges.
        let mut kept = shown;
        for tenant in self.shown.load().iter() {
            if kept.len() >= TOP {
                break;
            }
            kept.insert(tenant.clone());
        }
        self.shown.store(Arc::new(kept));
    }
}

/// How to rewrite a line with a tenant label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LineAction {
    Unchanged,
    Dropped,
    /// The label is removed.
    Unlabelled,
    /// The label becomes `other`.
    Other,
}

/// Rewrites the lines with a tenant label, and merges those that become the same series.
fn fold(page: &str, line_action: impl Fn(&str, &str) -> LineAction) -> String {
    let mut lines: Vec<Line<'_>> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for text in page.lines() {
        let Some(sample) = sample(text) else {
            lines.push(Line::Text(text));
            continue;
        };
        let series = match line_action(sample.name, sample.tenant) {
            LineAction::Unchanged => sample.series(Some(sample.tenant)),
            LineAction::Other => sample.series(Some(OTHER)),
            LineAction::Unlabelled => sample.series(None),
            LineAction::Dropped => continue,
        };
        let at = *known.entry(series.clone()).or_insert(lines.len());
        match lines.get_mut(at) {
            Some(Line::Sample(_, value, _)) if STATES.contains(&sample.name) => *value = value.max(sample.value),
            Some(Line::Sample(_, value, _)) => *value += sample.value,
            _ => {
                let unit = if NANOS.contains(&sample.name) { 1e9 } else { 1.0 };
                lines.push(Line::Sample(series, sample.value, unit));
            }
        }
    }
    let mut out = String::with_capacity(page.len());
    for line in lines {
        // Writing to a string cannot fail.
        let _ = match line {
            Line::Text(text) => writeln!(out, "{text}"),
            Line::Sample(series, value, unit) => writeln!(out, "{series} {}", value / unit),
        };
    }
    out
}

enum Line<'a> {
    Text(&'a str),
    /// A series, its value, and the divisor of its unit.
    Sample(String, f64, f64),
}

/// A line with a tenant label.
struct Sample<'a> {
    name: &'a str,
    labels: Vec<(&'a str, &'a str)>,
    tenant: &'a str,
    value: f64,
}

impl Sample<'_> {
    fn series(&self, tenant: Option<&str>) -> String {
        let labels = self.labels.iter().filter_map(|(name, value)| match *name {
            "tenant" => tenant.map(|tenant| format!("tenant=\"{tenant}\"")),
            name => Some(format!("{name}=\"{value}\"")),
        });
        let labels: Vec<String> = labels.collect();
        if labels.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}{{{}}}", self.name, labels.join(","))
        }
    }
}

/// Parses a line if it has the label `tenant`. Values stay escaped.
fn sample(line: &str) -> Option<Sample<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (name, mut rest) = line.split_once('{')?;
    let mut labels = Vec::new();
    while !rest.starts_with('}') {
        let (label, after) = rest.trim_start_matches(',').split_once("=\"")?;
        let mut escaped = false;
        let end = after.find(|c: char| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        labels.push((label, &after[..end]));
        rest = &after[end + 1..];
    }
    let value = rest[1..].trim().parse().ok()?;
    let (_, tenant) = *labels.iter().find(|(name, _)| *name == "tenant")?;
    Some(Sample {
        name,
        labels,
        tenant,
        value,
    })
}

/// Whether a sample belongs to a counter or histogram.
fn only_grows(name: &str) -> bool {
    METRICS.iter().any(|metric| match metric.kind {
        Kind::Counter => metric.name == name,
        Kind::Gauge => false,
        Kind::Histogram(_) => name
            .strip_prefix(metric.name)
            .is_some_and(|part| matches!(part, "_bucket" | "_sum" | "_count")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP copilotd_connector_queue Waiting.\n\
        # TYPE copilotd_connector_queue gauge\n\
        copilotd_connector_queue{system=\"slack\",tenant=\"acme\"} 2\n\
        copilotd_connector_queue{system=\"slack\",tenant=\"globex\"} 3\n\
        copilotd_connector_queue{system=\"zendesk\",tenant=\"acme\"} 0\n\
        copilotd_breaker_state{tenant=\"acme\",system=\"slack\"} 1\n\
        copilotd_breaker_state{tenant=\"globex\",system=\"slack\"} 2\n\
        copilotd_breaker_state{tenant=\"initech\",system=\"slack\"} 0.5\n\
        copilotd_tenant_requests_total{tenant=\"acme\"} 5\n\
        copilotd_tenant_requests_total{tenant=\"globex\"} 7\n\
        copilotd_tenant_requests_total{tenant=\"other\"} 1\n\
        odd{target=\"a\\\"tenant=\\\"acme\\\\\"} 1\n\
        odder{target=\"tenant=\",x=\"},{\"} 1\n\
        plain 4\n";

    #[test]
    fn the_public_page_names_no_tenant() {
        let folded = fold(PAGE, |_, _| LineAction::Unlabelled);
        assert_eq!(
            folded,
            "# HELP copilotd_connector_queue Waiting.\n\
             # TYPE copilotd_connector_queue gauge\n\
             copilotd_connector_queue{system=\"slack\"} 5\n\
             copilotd_connector_queue{system=\"zendesk\"} 0\n\
             copilotd_breaker_state{system=\"slack\"} 2\n\
             copilotd_tenant_requests_total 13\n\
             odd{target=\"a\\\"tenant=\\\"acme\\\\\"} 1\n\
             odder{target=\"tenant=\",x=\"},{\"} 1\n\
             plain 4\n"
        );
    }

    #[test]
    fn tenants_that_are_not_shown_count_as_other() {
        let folded = fold(PAGE, |metric, tenant| match tenant {
            "acme" | OTHER => LineAction::Unchanged,
            _ if metric.ends_with("_total") => LineAction::Dropped,
            _ => LineAction::Other,
        });
        let has = |line: &str| folded.lines().any(|known| known == line);
        assert!(
            has("copilotd_connector_queue{system=\"slack\",tenant=\"acme\"} 2"),
            "{folded}"
        );
        assert!(has("copilotd_connector_queue{system=\"slack\",tenant=\"other\"} 3"));
        assert!(has("copilotd_breaker_state{tenant=\"other\",system=\"slack\"} 2"));
        assert!(has("copilotd_tenant_requests_total{tenant=\"other\"} 1"));
        assert!(!folded.contains("globex") && !folded.contains("initech"));
    }

    #[test]
    fn money_is_shown_in_dollars_and_what_only_grows_never_falls() {
        let page = "copilotd_model_cost_usd_total{tenant=\"acme\"} 1500000000\n\
            copilotd_model_cost_usd_total{tenant=\"globex\"} 25\n\
            copilotd_tokens_total{tenant=\"acme\"} 1500000000\n";
        let expected = "copilotd_model_cost_usd_total 1.500000025\ncopilotd_tokens_total 1500000000\n";
        assert_eq!(fold(page, |_, _| LineAction::Unlabelled), expected);
        for (name, grows) in [
            ("copilotd_tokens_total", true),
            ("copilotd_model_call_seconds_bucket", true),
            ("copilotd_model_call_seconds_sum", true),
            ("copilotd_model_call_seconds_count", true),
            ("copilotd_connector_queue", false),
        ] {
            assert_eq!(only_grows(name), grows, "{name}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_tenants_are_labels_and_those_that_are_used_most() {
        let labels = TenantLabels::default();
        let tenant = |n: usize| -> TenantId { format!("t{n}").parse().unwrap() };
        let shown = (0..5_000).filter(|n| labels.used(&tenant(*n)) != OTHER).count();
        assert_eq!((shown, labels.shown.load().len()), (TOP, TOP));
        // The first hundred came first; the last hundred send more requests.
        for _ in 0..3 {
            for n in 4_900..5_000 {
                assert_eq!(labels.used(&tenant(n)), OTHER);
            }
        }
        tokio::time::advance(RANK_EVERY).await;
        labels.used(&tenant(0));
        assert_eq!(labels.shown.load().len(), TOP);
        assert!((4_900..5_000).all(|n| labels.used(&tenant(n)) == format!("t{n}")));
        assert_eq!(labels.used(&tenant(0)), OTHER);
        // A tenant named `other` counts as one of the others.
        assert_eq!(labels.used(&OTHER.parse().unwrap()), OTHER);
        // Idle tenants are forgotten.
        for _ in 0..10 {
            tokio::time::advance(RANK_EVERY).await;
            labels.used(&tenant(1));
        }
        assert!(labels.scores.len() < 200, "{}", labels.scores.len());
        assert_eq!(labels.shown.load().len(), TOP);
    }
}
