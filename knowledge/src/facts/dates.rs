//! Dates in facts: resolved when the fact is written, since "yesterday" means something else tomorrow.

use std::collections::BTreeSet;

use jiff::Span;
use jiff::civil::Date;
use unicode_segmentation::UnicodeSegmentation;

use super::Refusal;
use super::words::plain;

/// Words of time that name no date, or none that can be computed without a guess.
const VAGUE: [&str; 25] = [
    "ago",
    "earlier",
    "friday",
    "just",
    "last",
    "lately",
    "later",
    "monday",
    "month's",
    "next",
    "now",
    "recent",
    "recently",
    "saturday",
    "soon",
    "sunday",
    "thursday",
    "today",
    "today's",
    "tomorrow",
    "tonight",
    "tuesday",
    "wednesday",
    "yesterday",
    "yesterday's",
];
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const COUNTS: [&str; 13] = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
];
/// Furthest that a message counts back or ahead, in days: ten years.
const FURTHEST: i64 = 3_660;

/// Returns the text with its relative dates written as dates.
pub(super) fn resolve(text: &str, day: Date) -> String {
    let words: Vec<(usize, &str)> = text.unicode_word_indices().collect();
    let plain: Vec<String> = words.iter().map(|(_, word)| plain(word)).collect();
    let mut resolved = String::with_capacity(text.len());
    let (mut at, mut copied) = (0, 0);
    while at < words.len() {
        let Some((length, date)) = relative(&plain[at..], day) else {
            at += 1;
            continue;
        };
        let last = words[at + length - 1];
        resolved.push_str(&text[copied..words[at].0]);
        resolved.push_str(&date.to_string());
        copied = last.0 + last.1.len();
        at += length;
    }
    resolved.push_str(&text[copied..]);
    resolved
}

/// Refuses dates of the fact that its source does not name, and words of time that name no date. Returns the fact without
/// its dates.
pub(super) fn check(fact: &str, source: &str, day: Date) -> Result<String, Refusal> {
    let known = named(source, day);
    let mut rest = Vec::new();
    for token in fact.split_whitespace() {
        let date = token.trim_matches(|c: char| !c.is_alphanumeric());
        match date.parse::<Date>() {
            Ok(date) if date.to_string() == token.trim_matches(|c: char| !c.is_ascii_digit() && c != '-') => {
                if !known.contains(&date) {
                    return Err(Refusal::Unsupported(date.to_string()));
                }
            }
            _ => rest.push(token),
        }
    }
    // Said without its date, what is to come would be stated as what is.
    let stated = named(fact, day);
    if let Some(ahead) = known.iter().find(|date| **date > day && !stated.contains(date)) {
        return Err(Refusal::Distorted(ahead.to_string()));
    }
    let rest = rest.join(" ");
    match rest
        .unicode_words()
        .map(plain)
        .find(|word| VAGUE.contains(&word.as_str()))
    {
        Some(word) => Err(Refusal::UnresolvedTime(word)),
        None => Ok(rest),
    }
}

/// Returns the dates that a text names: relative ones, ISO dates, and a day with a month in words.
fn named(text: &str, day: Date) -> BTreeSet<Date> {
    let mut dates = BTreeSet::new();
    let words: Vec<String> = text.unicode_words().map(plain).collect();
    for at in 0..words.len() {
        dates.extend(relative(&words[at..], day).map(|(_, date)| date));
        dates.extend(absolute(&words[at..], day));
    }
    dates
}

/// Returns how many words at the beginning name a date relative to `day`, and the date.
fn relative(words: &[String], day: Date) -> Option<(usize, Date)> {
    let word = |at: usize| words.get(at).map(String::as_str);
    let (length, days) = match (word(0)?, word(1), word(2)) {
        ("today" | "tonight", ..) => (1, 0),
        ("this", Some("morning" | "afternoon" | "evening"), _) => (2, 0),
        ("yesterday", ..) => (1, -1),
        ("last", Some("night"), _) => (2, -1),
        ("tomorrow", ..) => (1, 1),
        (count, Some(unit), Some("ago")) => (3, -days(count, unit)?),
        ("in", Some(count), Some(unit)) => (3, days(count, unit)?),
        _ => return None,
    };
    let date = day.checked_add(Span::new().try_days(days).ok()?).ok()?;
    Some((length, date))
}

fn days(count: &str, unit: &str) -> Option<i64> {
    let count = match count {
        "a" => 1,
        word => match COUNTS.iter().position(|count| *count == word) {
            Some(count) => i64::try_from(count).ok()?,
            None => word.parse().ok()?,
        },
    };
    let unit = match unit {
        "day" | "days" => 1,
        "week" | "weeks" => 7,
        _ => return None,
    };
    (0..=FURTHEST / unit).contains(&count).then_some(count * unit)
}

/// Reads a date at the beginning: `2026 05 12` (an ISO date in words), `12 May [2026]`, or `May 12 [2026]`. Without a year it is
/// the nearest such day.
fn absolute(words: &[String], day: Date) -> Option<Date> {
    let number = |at: usize| {
        words
            .get(at)?
            .trim_end_matches(|c: char| c.is_ascii_alphabetic())
            .parse::<i16>()
            .ok()
    };
    let month = |at: usize| {
        let word = words.get(at)?;
        let is_month = |month: &&str| **month == *word || (word.len() == 3 && month.starts_with(word.as_str()));
        i8::try_from(MONTHS.iter().position(is_month)? + 1).ok()
    };
    let year = |at: usize| number(at).filter(|year| (1900..2200).contains(year));
    let day_of = |at: usize| number(at).and_then(|day| i8::try_from(day).ok());
    if let (Some(year), Some(month), Some(day)) = (year(0), day_of(1), day_of(2)) {
        return Date::new(year, month, day).ok();
    }
    let (month, date) = match (month(0), month(1)) {
        (Some(month), _) => (month, day_of(1)?),
        (None, Some(month)) => (month, day_of(0)?),
        (None, None) => return None,
    };
    if let Some(year) = year(2) {
        return Date::new(year, month, date).ok();
    }
    let candidates = (-1..=1).filter_map(|offset| Date::new(day.year() + offset, month, date).ok());
    candidates.min_by_key(|candidate| day.until(*candidate).map_or(i32::MAX, |span| span.get_days().abs()))
}
