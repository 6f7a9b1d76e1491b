//! A strict parser of the Prometheus text format 0.0.4, with the applicable rules of `promtool check metrics`.

use std::collections::BTreeMap;

/// A parsed page.
#[derive(Debug, Default)]
pub struct Page {
    pub types: BTreeMap<String, String>,
    pub help: BTreeMap<String, String>,
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Page {
    /// Parses a page; panics at its first fault.
    pub fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'));
        let mut page = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, about) = rest.split_once(' ').expect(line);
                assert!(page.help.insert(name.to_owned(), about.to_owned()).is_none(), "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                assert!(matches!(kind, "counter" | "gauge" | "histogram"), "{line}");
                assert!(page.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                assert!(!line.starts_with('#'), "{line}");
                page.samples.push(sample(line));
            }
        }
        page.lint();
        page
    }

    fn lint(&self) {
        for sample in &self.samples {
            let family = self.family(sample);
            assert!(self.help.contains_key(&family), "{family} has no help");
            let kind = &self.types[&family];
            assert_eq!(kind == "counter", family.ends_with("_total"), "{family} is a {kind}");
            let twins = self
                .samples
                .iter()
                .filter(|other| other.name == sample.name && other.labels == sample.labels);
            assert_eq!(twins.count(), 1, "{sample:?} twice");
            assert!(sample.value.is_finite() && sample.value >= 0.0, "{sample:?}");
        }
        for (family, kind) in &self.types {
            // In OpenMetrics a counter's family is its name without the suffix.
            let bare = family.strip_suffix("_total");
            assert!(
                !bare.is_some_and(|bare| self.types.contains_key(bare)),
                "{family} clashes"
            );
            if kind == "histogram" {
                self.lint_histogram(family);
            }
        }
    }

    /// Buckets grow, end at infinity, and match the count.
    fn lint_histogram(&self, family: &str) {
        let mut series: BTreeMap<BTreeMap<String, String>, Vec<(f64, f64)>> = BTreeMap::new();
        for sample in self
            .samples
            .iter()
            .filter(|sample| sample.name == format!("{family}_bucket"))
        {
            let mut labels = sample.labels.clone();
            let bound = labels.remove("le").expect("a bucket has a bound");
            let bound = if bound == "+Inf" {
                f64::INFINITY
            } else {
                bound.parse().unwrap()
            };
            series.entry(labels).or_default().push((bound, sample.value));
        }
        for (labels, buckets) in series {
            assert!(
                buckets.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1),
                "{family} {labels:?} {buckets:?}"
            );
            let (bound, all) = *buckets.last().unwrap();
            assert!(bound.is_infinite(), "{family} {labels:?}");
            let count = self
                .samples
                .iter()
                .find(|sample| sample.name == format!("{family}_count") && sample.labels == labels);
            assert_eq!(count.map(|count| count.value), Some(all), "{family} {labels:?}");
        }
    }

    fn family(&self, sample: &Sample) -> String {
        for suffix in ["_bucket", "_sum", "_count"] {
            if let Some(family) = sample.name.strip_suffix(suffix)
                && self.types.get(family).is_some_and(|kind| kind == "histogram")
            {
                return family.to_owned();
            }
        }
        assert!(self.types.contains_key(&sample.name), "{} has no type", sample.name);
        sample.name.clone()
    }

    /// Sum of all samples of that name with these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        self.samples.iter().filter(fits).map(|sample| sample.value).sum()
    }
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_lowercase())
        && bytes.all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn sample(line: &str) -> Sample {
    let (head, value) = line.rsplit_once(' ').expect(line);
    let value = value.parse().expect(line);
    let (name, list) = match head.split_once('{') {
        Some((name, list)) => (name, list.strip_suffix('}').expect(line)),
        None => (head, ""),
    };
    assert!(is_name(name), "{line}");
    let mut labels = BTreeMap::new();
    let mut rest = list;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"").expect(line);
        assert!(is_name(label), "{line}");
        // Our label values contain no quotes or backslashes.
        let (value, after) = after.split_once('"').expect(line);
        assert!(!value.contains('\\'), "{line}");
        assert!(labels.insert(label.to_owned(), value.to_owned()).is_none(), "{line}");
        rest = after.strip_prefix(',').unwrap_or(after);
    }
    Sample {
        name: name.to_owned(),
        labels,
        value,
    }
}
