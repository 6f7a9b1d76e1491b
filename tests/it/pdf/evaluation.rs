//! Measurements on a directory of real documents: `COPILOTD_PDF_SET=DIR cargo nextest run --run-ignored only
//! pdf::evaluation --no-capture`. The directory has a `dev.jsonl` that names files and the text that is in them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Instant;

use copilotd::adapters::pdf::{PdfPool, Settings};
use copilotd_actors::domain::ids::TenantId;
use copilotd_knowledge::document::Format;
use copilotd_knowledge::extract::{ExtractError, Extractor, Limits};
use serde_json::Value;

use super::mutations::{Mutator, outcome, strict};
use super::{ample, library, pool};

struct Row {
    name: String,
    content: Vec<u8>,
    needs_password: bool,
    /// Whether the program that made the reference text could open it.
    opens: bool,
    text: String,
}

fn rows() -> Option<Vec<Row>> {
    let directory = std::env::var_os("COPILOTD_PDF_SET").map(PathBuf::from)?;
    let list = std::fs::read_to_string(directory.join("dev.jsonl")).unwrap();
    let rows = list.lines().map(|line| {
        let row: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| row["expect"][name].as_str().map(str::to_owned);
        Row {
            name: row["id"].as_str().unwrap().to_owned(),
            content: std::fs::read(directory.join(row["file"].as_str().unwrap())).unwrap(),
            needs_password: row["password"].is_string(),
            opens: row["expect"]["opens"] == true,
            text: text("gold_text").or_else(|| text("poppler_text")).unwrap_or_default(),
        }
    });
    Some(rows.collect())
}

/// Words in lower case, without punctuation.
fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|char: char| !char.is_alphanumeric() && char != '_');
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The harmonic mean of precision and recall of the words, each counted as often as it occurs.
fn f1(found: &[String], expected: &[String]) -> f64 {
    if found.is_empty() && expected.is_empty() {
        return 1.0;
    }
    let mut left: HashMap<&str, usize> = HashMap::new();
    expected.iter().for_each(|word| *left.entry(word).or_default() += 1);
    let mut both = 0_u32;
    for word in found {
        if let Some(count) = left.get_mut(word.as_str()).filter(|count| **count > 0) {
            *count -= 1;
            both += 1;
        }
    }
    2.0 * f64::from(both) / f64::from(u32::try_from(found.len() + expected.len()).unwrap())
}

#[tokio::test]
#[ignore = "a measurement; needs a set of documents"]
async fn words_of_real_documents() {
    let Some(library) = library() else { return };
    if let Some((found, unread)) = words_found(pool(ample(library))).await {
        assert!(found >= 0.965);
        assert_eq!(unread, 0);
    }
}

#[tokio::test]
#[ignore = "a measurement; needs a set of documents"]
async fn words_of_real_documents_by_the_built_in_reader() {
    if let Some((found, unread)) = words_found(pool(Settings::built_in())).await {
        assert!(found >= 0.85);
        assert!(unread <= 3, "{unread}");
    }
}

/// Returns the mean F1 of the words that a reader finds, and how many documents it refuses that others open; none without
/// documents.
async fn words_found(pool: PdfPool) -> Option<(f64, u32)> {
    let rows = rows()?;
    let extractor = Extractor::new(std::sync::Arc::new(pool), Limits::default());
    let tenant: TenantId = "acme".parse().unwrap();
    let (mut words_sum, mut plain_sum, mut count, mut milliseconds) = (0.0, 0.0, 0.0, Vec::new());
    let mut unread = 0;
    for row in rows {
        let begun = Instant::now();
        let read = extractor.extract(&tenant, row.content, Format::Pdf, None).await;
        milliseconds.push(begun.elapsed().as_millis());
        let text = match read {
            Ok(extracted) => extracted.text,
            // A page of pictures, and the reference found nothing either.
            Err(ExtractError::NoText) if row.text.trim().is_empty() => String::new(),
            Err(error) => {
                println!("{}: {}", row.name, error.code());
                let is_expected = match error {
                    ExtractError::Encrypted => row.needs_password,
                    ExtractError::Damaged => !row.opens,
                    _ => false,
                };
                if !is_expected {
                    unread += 1;
                    count += 1.0;
                }
                continue;
            }
        };
        let split = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let found = f1(&words(&text), &words(&row.text));
        if found < 0.95 {
            println!("{}: {found:.3}", row.name);
        }
        words_sum += found;
        plain_sum += f1(&split(&text), &split(&row.text));
        count += 1.0;
    }
    milliseconds.sort_unstable();
    println!(
        "{count} documents: F1 of words {:.4}, of strings between white space {:.4}; {} ms median, {} ms longest",
        words_sum / count,
        plain_sum / count,
        milliseconds[milliseconds.len() / 2],
        milliseconds[milliseconds.len() - 1]
    );
    Some((words_sum / count, unread))
}

#[tokio::test]
#[ignore = "a measurement; needs a set of documents"]
async fn two_thousand_mutations_of_real_documents() {
    let Some(library) = library() else { return };
    mutated(pool(strict(library))).await;
}

#[tokio::test]
#[ignore = "a measurement; needs a set of documents"]
async fn two_thousand_mutations_by_the_built_in_reader() {
    let settings = Settings {
        processor_seconds: 5,
        ..Settings::built_in()
    };
    mutated(pool(settings)).await;
}

async fn mutated(pool: PdfPool) {
    let Some(rows) = rows() else { return };
    let mut mutator = Mutator::new(20_261_130);
    let (mut outcomes, mut longest): (BTreeMap<&str, u32>, _) = (BTreeMap::new(), std::time::Duration::ZERO);
    for number in 0..2_000 {
        let mutated = mutator.mutate(&rows[number % rows.len()].content);
        let begun = Instant::now();
        *outcomes.entry(outcome(&pool, &mutated).await).or_default() += 1;
        longest = longest.max(begun.elapsed());
    }
    println!("{outcomes:?}; longest {longest:?}");
}
