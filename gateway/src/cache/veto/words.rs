//! Word lists. Small on purpose: what is missing here is left to the learned decision.

use std::collections::{BTreeSet, HashSet};

/// Number words.
pub(super) fn number(word: &str) -> Option<&'static str> {
    Some(match word {
        "zero" => "0",
        "two" | "twice" => "2",
        "three" => "3",
        "four" => "4",
        "five" => "5",
        "six" => "6",
        "seven" => "7",
        "eight" => "8",
        "nine" => "9",
        "ten" => "10",
        "eleven" => "11",
        "twelve" | "dozen" => "12",
        "hundred" => "100",
        "thousand" => "1000",
        "million" => "1000000",
        "billion" => "1000000000",
        _ => return None,
    })
}

/// Months, days and relative dates. ("may" is too often a verb.)
pub(super) fn date(word: &str) -> Option<&str> {
    let word = word.strip_suffix("'s").unwrap_or(word);
    const DAYS: [&str; 7] = [
        "monday",
        "tuesday",
        "wednesday",
        "thursday",
        "friday",
        "saturday",
        "sunday",
    ];
    const OTHERS: [&str; 17] = [
        "january",
        "february",
        "april",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
        "today",
        "yesterday",
        "tomorrow",
        "tonight",
        "q1",
        "q2",
        "q3",
    ];
    let single = word.strip_suffix('s').filter(|single| DAYS.contains(single));
    single.or_else(|| (DAYS.contains(&word) || OTHERS.contains(&word)).then_some(word))
}

/// Units, each in one spelling. One-letter units are left out.
pub(super) fn unit(word: &str) -> Option<&'static str> {
    Some(match word {
        "km" | "kilometer" | "kilometers" | "kilometre" | "kilometres" => "km",
        "cm" | "centimeter" | "centimeters" | "centimetre" | "centimetres" => "cm",
        "mm" | "millimeter" | "millimeters" => "mm",
        "meter" | "meters" | "metre" | "metres" => "m",
        "mile" | "miles" => "mile",
        "inch" | "inches" => "inch",
        "feet" | "foot" | "ft" => "foot",
        "kg" | "kilo" | "kilos" | "kilogram" | "kilograms" => "kg",
        "gram" | "grams" => "g",
        "pound" | "pounds" | "lb" | "lbs" => "lb",
        "ounce" | "ounces" => "oz",
        "liter" | "liters" | "litre" | "litres" => "l",
        "gallon" | "gallons" => "gallon",
        "celsius" => "celsius",
        "fahrenheit" => "fahrenheit",
        "kb" | "kilobyte" | "kilobytes" => "kb",
        "mb" | "megabyte" | "megabytes" => "mb",
        "gb" | "gigabyte" | "gigabytes" => "gb",
        "tb" | "terabyte" | "terabytes" => "tb",
        "second" | "seconds" => "second",
        "minute" | "minutes" => "minute",
        "hour" | "hours" => "hour",
        "day" | "days" => "day",
        "week" | "weeks" => "week",
        "month" | "months" => "month",
        "year" | "years" => "year",
        "usd" | "dollar" | "dollars" | "$" => "usd",
        "eur" | "euro" | "euros" | "€" => "eur",
        "gbp" | "£" => "gbp",
        "inr" | "rupee" | "rupees" | "₹" => "inr",
        "yen" | "¥" => "yen",
        "percent" | "%" => "percent",
        _ => return None,
    })
}

/// Whether a word negates.
pub(super) fn negates(word: &str) -> bool {
    word.ends_with("n't")
        || matches!(
            word,
            "not"
                | "no"
                | "never"
                | "none"
                | "nobody"
                | "nothing"
                | "neither"
                | "nor"
                | "without"
                | "cannot"
                | "cant"
                | "dont"
                | "doesnt"
                | "isnt"
                | "wont"
                | "except"
        )
}

/// Opposites, by stem.
const OPPOSITES: [(&str, &str); 60] = [
    ("enable", "disable"),
    ("increase", "decrease"),
    ("increase", "reduce"),
    ("raise", "lower"),
    ("gain", "lose"),
    ("gain", "loss"),
    ("add", "remove"),
    ("add", "delete"),
    ("create", "delete"),
    ("install", "uninstall"),
    ("open", "close"),
    ("start", "stop"),
    ("begin", "end"),
    ("start", "end"),
    ("first", "last"),
    ("before", "after"),
    ("above", "below"),
    ("over", "under"),
    ("up", "down"),
    ("left", "right"),
    ("in", "out"),
    ("on", "off"),
    ("buy", "sell"),
    ("import", "export"),
    ("upload", "download"),
    ("upgrade", "downgrade"),
    ("encrypt", "decrypt"),
    ("encode", "decode"),
    ("lock", "unlock"),
    ("accept", "reject"),
    ("approve", "reject"),
    ("approve", "deny"),
    ("allow", "forbid"),
    ("allow", "deny"),
    ("allow", "block"),
    ("grant", "revoke"),
    ("send", "receive"),
    ("push", "pull"),
    ("login", "logout"),
    ("subscribe", "unsubscribe"),
    ("minimum", "maximum"),
    ("min", "max"),
    ("most", "least"),
    ("more", "less"),
    ("best", "worst"),
    ("good", "bad"),
    ("better", "worse"),
    ("high", "low"),
    ("highest", "lowest"),
    ("long", "short"),
    ("large", "small"),
    ("fast", "slow"),
    ("hot", "cold"),
    ("old", "new"),
    ("male", "female"),
    ("men", "women"),
    ("man", "woman"),
    ("boy", "girl"),
    ("advantage", "disadvantage"),
    ("positive", "negative"),
];
/// Prefixes that invert a word.
const INVERTING_PREFIXES: [&str; 8] = ["un", "dis", "non", "in", "im", "il", "ir", "de"];

/// Whether one text has a word and the other its opposite, and neither has both.
pub(super) fn opposed(a: &BTreeSet<String>, b: &BTreeSet<String>) -> bool {
    let stems = |words: &BTreeSet<String>, others: &BTreeSet<String>| -> HashSet<String> {
        words.difference(others).map(|word| stem(word).to_owned()).collect()
    };
    let (only_a, only_b) = (stems(a, b), stems(b, a));
    let listed = OPPOSITES.iter().any(|(x, y)| {
        let (x, y) = (stem(x), stem(y));
        (only_a.contains(x) && only_b.contains(y)) || (only_b.contains(x) && only_a.contains(y))
    });
    listed || is_inverted(&only_a, &only_b) || is_inverted(&only_b, &only_a)
}

/// Whether one of `words` is one of `others` with an inverting prefix.
fn is_inverted(words: &HashSet<String>, others: &HashSet<String>) -> bool {
    words.iter().any(|word| {
        let bare = INVERTING_PREFIXES.iter().filter_map(|prefix| word.strip_prefix(prefix));
        bare.filter(|bare| bare.len() >= 4).any(|bare| others.contains(bare))
    })
}

/// Strips the commonest endings. Rough: it only has to treat both sides alike.
pub(super) fn stem(word: &str) -> &str {
    let word = word.strip_suffix("'s").unwrap_or(word);
    for ending in ["ing", "ed", "es", "s", "e"] {
        if let Some(cut) = word.strip_suffix(ending)
            && cut.chars().count() >= 3
        {
            return cut;
        }
    }
    word
}

/// Filler words, which never matter for order or names.
pub(super) fn is_filler(word: &str) -> bool {
    matches!(
        word,
        "a" | "an"
            | "the"
            | "is"
            | "are"
            | "was"
            | "were"
            | "be"
            | "do"
            | "does"
            | "did"
            | "can"
            | "could"
            | "would"
            | "should"
            | "i"
            | "you"
            | "we"
            | "of"
            | "it"
            | "and"
            | "or"
            | "that"
            | "this"
            | "there"
            | "what"
            | "which"
            | "how"
    )
}
