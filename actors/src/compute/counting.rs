//! Token counting on the pool, slice by slice, so that other tenants' jobs run between the slices of a long prompt.

use std::ops::Range;
use std::sync::Arc;

use super::{ComputeError, run};
use crate::domain::context::tokens;
use crate::domain::ids::TenantId;

/// Bytes of text counted as one job: about ten milliseconds.
pub const SLICE: usize = 64 * 1024;

/// Counts the tokens of the texts in `source`, stopping once there are more than `most`: the result is then above
/// `most` and below the full count. If a cheap lower bound exceeds `most` already, nothing is tokenized.
pub async fn count_tokens<S: Send + Sync + 'static>(
    tenant: Option<&TenantId>,
    source: &Arc<S>,
    texts: for<'a> fn(&'a S) -> Vec<&'a str>,
    most: u64,
) -> Result<u64, ComputeError> {
    let slices = slices(&texts(source));
    let bytes: usize = slices.iter().flatten().map(|(_, range)| range.len()).sum();
    if most < u64::MAX {
        let source = Arc::clone(source);
        let bound = move || texts(&source).into_iter().map(tokens::at_least).sum::<u64>();
        let least = run(tenant, bytes, bound).await?;
        if least > most {
            return Ok(least);
        }
    }
    let mut counted = 0;
    for slice in slices {
        let (source, left) = (Arc::clone(source), most - counted);
        let bytes: usize = slice.iter().map(|(_, range)| range.len()).sum();
        let count = move || {
            let texts = texts(&source);
            let mut sum = 0;
            for (text, range) in slice {
                let part = texts.get(text).and_then(|text| text.get(range)).unwrap_or_default();
                sum += tokens::count_up_to(part, left.saturating_sub(sum));
                if sum > left {
                    break;
                }
            }
            sum
        };
        counted += run(tenant, bytes * tokens::COST_PER_BYTE, count).await?;
        if counted > most {
            break;
        }
    }
    Ok(counted)
}

/// Divides texts into slices of about [`SLICE`] bytes: parts of long texts, or many short texts together.
fn slices(texts: &[&str]) -> Vec<Vec<(usize, Range<usize>)>> {
    let mut slices = Vec::new();
    let (mut slice, mut room) = (Vec::new(), SLICE);
    for (number, text) in texts.iter().enumerate() {
        let mut from = 0;
        while from < text.len() {
            let end = from + tokens::cut(&text[from..], room.max(tokens::PIECE));
            slice.push((number, from..end));
            room = room.saturating_sub(end - from);
            from = end;
            if room == 0 || from < text.len() {
                slices.push(std::mem::take(&mut slice));
                room = SLICE;
            }
        }
    }
    if !slice.is_empty() {
        slices.push(slice);
    }
    slices
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::ptr_arg, reason = "must be the type in the `Arc`")]
    fn texts(texts: &Vec<String>) -> Vec<&str> {
        texts.iter().map(String::as_str).collect()
    }

    #[test]
    fn slices_hold_every_byte_once_and_are_bounded() {
        for source in [
            vec![],
            vec![String::new()],
            vec!["a".repeat(5), String::new(), "b".repeat(3)],
            vec!["word ".repeat(100_000)],
            vec!["é".repeat(SLICE), "x".repeat(SLICE - 1), "y".repeat(SLICE)],
            vec!["short".to_owned(); 100_000],
        ] {
            let all = texts(&source);
            let slices = slices(&all);
            let found: String = slices
                .iter()
                .flatten()
                .map(|(text, range)| &all[*text][range.clone()])
                .collect();
            assert!(found == all.concat());
            for slice in slices {
                let bytes: usize = slice.iter().map(|(_, range)| range.len()).sum();
                assert!(bytes <= SLICE + tokens::PIECE, "{bytes}");
            }
        }
    }

    #[tokio::test]
    async fn counting_stops_at_the_limit() {
        let source = Arc::new(vec!["plain words of a prompt ".repeat(20_000), "and more".to_owned()]);
        let whole: u64 = source.iter().map(|text| tokens::count(text)).sum();
        let count = |most| count_tokens(None, &source, texts, most);
        assert_eq!(count(u64::MAX).await, Ok(whole));
        assert_eq!(count(whole).await, Ok(whole));
        // The words alone exceed this limit.
        let early = count(1_000).await.unwrap();
        assert!(early > 1_000 && early <= whole);
        // A long run of letters has no useful cheap bound; it is counted up to the limit and no further.
        let run = Arc::new(vec!["a".repeat(1_000_000)]);
        let stopped = count_tokens(None, &run, texts, 10_000).await.unwrap();
        assert!((10_001..12_000).contains(&stopped), "{stopped}");
    }
}
