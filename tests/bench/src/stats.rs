//! Percentiles, and the formatting of figures.

use std::time::Duration;

/// Measured durations.
#[derive(Debug, Default, Clone)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Adds a sample.
    pub fn add(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// Adds all samples of another set.
    pub fn merge(&mut self, other: Samples) {
        self.0.extend(other.0);
    }

    /// Returns the number of samples.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the smallest sample that is not below `share` of all samples.
    pub fn percentile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = ((sorted.len() as f64 * share).ceil() as usize).max(1) - 1;
        sorted
            .get(at.min(sorted.len().saturating_sub(1)))
            .copied()
            .unwrap_or_default()
    }

    /// Formats `p50 / p99` in milliseconds.
    pub fn both(&self) -> String {
        format!("{} / {}", ms(self.percentile(0.5)), ms(self.percentile(0.99)))
    }
}

/// Formats milliseconds with as many digits as are significant.
pub fn ms(time: Duration) -> String {
    decimal(time.as_secs_f64() * 1000.0)
}

/// Formats the difference of two percentiles in milliseconds; may be negative.
pub fn added(with: &Samples, without: &Samples, share: f64) -> String {
    let difference = with.percentile(share).as_secs_f64() - without.percentile(share).as_secs_f64();
    decimal(difference * 1000.0)
}

/// Formats a number with as many digits as are significant.
pub fn decimal(value: f64) -> String {
    if value.abs() < 10.0 {
        format!("{value:.2}")
    } else if value.abs() < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Formats bytes as KiB.
pub fn kib(bytes: f64) -> String {
    decimal(bytes / 1024.0)
}

/// Formats bytes as MiB.
pub fn mib(bytes: f64) -> String {
    decimal(bytes / 1024.0 / 1024.0)
}

/// Returns the upper end of Clopper and Pearson's 95% interval (97.5% one-sided) for `seen` of `all`.
pub fn clopper_pearson(seen: usize, all: usize) -> f64 {
    if seen >= all {
        return 1.0;
    }
    // The probability of at most `seen`, falling in p: the bound is where it is 2.5%.
    let at_most = |p: f64| {
        let mut term = all as f64 * (1.0 - p).ln();
        let mut sum = term.exp();
        for k in 1..=seen {
            term += ((all - k + 1) as f64 / k as f64).ln() + (p / (1.0 - p)).ln();
            sum += term.exp();
        }
        sum
    };
    let (mut low, mut high) = (seen as f64 / all as f64, 1.0 - 1e-12);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at_most(middle) > 0.025 {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}
