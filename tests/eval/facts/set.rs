//! The turns of `written.tsv`, and what a small model that cannot be trusted proposes for each. Included by the tests that play
//! them: in process, and with a simulated model over HTTP.

use serde_json::{Value, json};

const WRITTEN: &str = include_str!("written.tsv");

/// A fact that a turn plants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planted {
    /// What the model proposes.
    pub proposed: String,
    /// What is stored.
    pub stored: String,
    /// What it is the value of.
    pub slot: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Turn {
    pub user: String,
    pub kind: String,
    pub message: String,
    pub quote: String,
    pub planted: Vec<Planted>,
    pub baits: Vec<String>,
}

pub fn turn(user: &str, line: &str) -> Turn {
    let fields: Vec<&str> = line.split('\t').collect();
    let [kind, message, facts, baits] = fields.as_slice() else {
        panic!("four fields: {line}")
    };
    let message = message.replace("\\n", "\n");
    let quote = match (message.find('['), message.find(']')) {
        (Some(start), Some(end)) => message[start + 1..end].to_owned(),
        _ => message.clone(),
    };
    let planted = facts.split(" ; ").filter(|fact| !fact.is_empty()).map(|fact| {
        let (fact, slot) = match fact.split_once(" @") {
            Some((fact, slot)) => (fact, Some(slot.to_owned())),
            None => (fact, None),
        };
        let (proposed, stored) = fact.split_once(" => ").unwrap_or((fact, fact));
        Planted {
            proposed: proposed.to_owned(),
            stored: stored.to_owned(),
            slot,
        }
    });
    Turn {
        user: user.to_owned(),
        kind: (*kind).to_owned(),
        quote,
        planted: planted.collect(),
        baits: baits
            .split(" ; ")
            .filter(|bait| !bait.is_empty())
            .map(str::to_owned)
            .collect(),
        message: message.replace(['[', ']'], ""),
    }
}

pub fn written() -> Vec<Turn> {
    let mut user = String::new();
    let mut turns = Vec::new();
    for line in WRITTEN.lines() {
        match line.strip_prefix("# ") {
            Some(name) => name.clone_into(&mut user),
            None => turns.push(turn(&user, line)),
        }
    }
    turns
}

/// Numbers with a fixed seed (SplitMix64).
pub struct Seeded(pub u64);

impl Seeded {
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }

    pub fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

pub const CITIES: [&str; 12] = [
    "Oslo", "Lima", "Quito", "Turin", "Leeds", "Cork", "Nantes", "Bergen", "Austin", "Perth", "Kobe", "Accra",
];
/// Everything that the model proposes for a turn. It believes everything; every third turn it misbehaves besides.
pub fn answers(turn: &Turn, stored: &[String], n: usize, seeded: &mut Seeded) -> Vec<String> {
    let item = |text: &str, quote: &str| json!({ "text": text, "quote": quote });
    let own = turn.planted.iter().map(|planted| item(&planted.proposed, &turn.quote));
    let baits = turn.baits.iter().map(|bait| item(bait, &turn.message));
    let mut items: Vec<Value> = own.chain(baits).collect();
    let mut first = None;
    match n % 9 {
        // Repeats what it read in the prompt's facts or said before.
        2 => items.extend(stored.iter().take(5).map(|text| item(text, &turn.message))),
        // Invents, with a quote that is there and one that is not.
        5 => {
            let city = seeded.pick(&CITIES);
            items.push(item(&format!("User lives in {city}"), &turn.message));
            items.push(item(&format!("User lives in {city}"), &format!("I live in {city}")));
        }
        // Loops or breaks off, and is asked again with a later turn.
        8 if seeded.below(2) == 0 => items = items.iter().cycle().take(items.len() * 60).cloned().collect(),
        8 => first = Some(r#"{"facts":[{"text":"User li"#.to_owned()),
        _ => {}
    }
    let answer = json!({ "facts": items }).to_string();
    // Popped from the end.
    first.into_iter().fold(vec![answer], |mut all, broken| {
        all.push(broken);
        all
    })
}

pub fn alike(one: &str, other: &str) -> bool {
    one.trim_end_matches('.')
        .eq_ignore_ascii_case(other.trim_end_matches('.'))
}
