//! Facts about users: 500 turns with planted facts and baits, read by a small model that also lies, repeats, loops and breaks
//! off. See `tests/eval/facts/README.md`.
#![expect(
    clippy::unwrap_used,
    reason = "the set is part of the program, and its test reads all of it"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use copilotd_actors::domain::content::Finish;
use copilotd_actors::domain::ids::{ConversationId, TurnId, UserId};
use copilotd_actors::fakes::log::MemoryLog;
use copilotd_actors::ports::{
    Facts as _, FactsQuery, LearnRequest, Model, ModelError, ModelEvent, ModelRequest, ModelStream,
};
use copilotd_actors::tenancy::TenantScope;
use copilotd_knowledge::facts::FactMemory;
use copilotd_knowledge::fakes::MemoryFacts;
use futures::StreamExt as _;
use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::metrics::Estimate;
use crate::table::{Aim, Line};

#[path = "../facts/set.rs"]
mod set;

use set::{CITIES, Seeded, Turn, alike, answers, turn, written};

const TURNS: usize = 500;

const FIRMS: [&str; 8] = [
    "Acme",
    "Globex",
    "Initech",
    "Hooli",
    "Umbrella",
    "Stark Industries",
    "Wayne Corp",
    "Tyrell",
];
const THINGS: [&str; 10] = [
    "an iPhone",
    "a Kindle",
    "a drone",
    "a boat",
    "a piano",
    "a garden",
    "a greenhouse",
    "a van",
    "a telescope",
    "a sauna",
];
const LIKES: [&str; 10] = [
    "tea",
    "jazz",
    "hiking",
    "board games",
    "spicy food",
    "trains",
    "poetry",
    "rugby",
    "gardening",
    "old films",
];
const NAMES: [&str; 8] = [
    "Ines",
    "Tom Baker",
    "Yara",
    "Luca Conti",
    "Noor",
    "Pavel",
    "Mia Wolf",
    "Sam",
];
const PLANS: [&str; 5] = ["Starter", "Team", "Gold", "Silver", "Enterprise"];

/// Lines in the format of the file: `%c` and the like stand for values.
const TEMPLATES: [&str; 48] = [
    "fact\tHello, [I live in %c].\tUser lives in %c @home\t",
    "fact\t[I live in %c] and work from home.\tUser lives in %c @home\t",
    "correction\tActually [I live in %c], please update that.\tUser lives in %c @home\t",
    "correction\tWe relocated. [I moved to %c yesterday.]\tUser moved to %c yesterday => User moved to %c 2026-03-09 @home\t",
    "fact\t[I work at %f] as of this year.\tUser works at %f @employer\t",
    "fact\tBy the way, [I work for %f].\tUser works for %f @employer\t",
    "fact\t[My name is %n], nice to meet you.\tUser's name is %n @name\t",
    "fact\t[I have %t].\tUser has %t\t",
    "fact\t[I own %t], so I know the problem.\tUser owns %t\t",
    "fact\tJust so you know: [I like %l].\tUser likes %l\t",
    "fact\t[I love %l].\tUser loves %l\t",
    "fact\t[I have %d employees].\tUser has %d employees @employees\t",
    "correction\t[I have %d employees] these days.\tUser has %d employees @employees\t",
    "fact\t[I am on the %p plan].\tUser is on the %p plan @plan\t",
    "correction\tIt changed: [I am on the %p plan].\tUser is on the %p plan @plan\t",
    "negation\t[I don't like %l].\tUser does not like %l\tUser likes %l",
    "negation\t[I do not own %t].\tUser does not own %t\tUser owns %t",
    "negation\tI no longer work at %f.\tUser no longer works at %f\tUser works at %f",
    "negation\tI used to live in %c.\t\tUser lives in %c",
    "negation\tI nearly bought %t.\t\tUser bought %t",
    "joke\tI own all of %c, lol.\t\tUser owns all of %c",
    "joke\tI founded %f. Only joking!\t\tUser founded %f",
    "joke\tI eat %l for lunch haha\t\tUser eats %l for lunch",
    "quote\tThe letter says \"I live in %c\".\t\tUser lives in %c",
    "quote\t> I work at %f\\nPlease answer this one.\t\tUser works at %f",
    "quote\tHe told me I own %t.\t\tUser owns %t",
    "quote\tAccording to the forum I need %t.\t\tUser needs %t",
    "assistant\tYou said I live in %c, that is wrong.\t\tUser lives in %c",
    "assistant\tYour answer claims that I work at %f.\t\tUser works at %f",
    "assistant\tThe assistant wrote that I like %l.\t\tUser likes %l",
    "hypothetical\tIf I move to %c, does my plan change?\t\tUser moved to %c",
    "hypothetical\tMaybe I will buy %t.\t\tUser bought %t",
    "hypothetical\tI would like %l if it were cheaper.\t\tUser likes %l",
    "hypothetical\tAssume I have %d employees.\t\tUser has %d employees",
    "hypothetical\tI wish I had %t.\t\tUser has %t",
    "third\tMy sister lives in %c.\tUser's sister lives in %c\tUser lives in %c",
    "third\tMy friend works at %f and likes %l.\t\tUser works at %f ; User likes %l",
    "third\tShe has %t, and I am jealous.\t\tUser has %t",
    "third\tMy husband is on the %p plan.\tUser's husband is on the %p plan\tUser is on the %p plan",
    "question\tCan I get %t delivered to %c?\t\tUser gets %t ; User lives in %c",
    "question\tDo I work at %f in your records?\t\tUser works at %f",
    "date\t[I ordered %t two days ago.]\tUser ordered %t two days ago => User ordered %t 2026-03-08\t",
    "date\t[I am in %c tomorrow.]\tUser is in %c tomorrow => User is in %c 2026-03-11\t",
    "date\tI bought %t last month.\t\tUser bought %t last month",
    "chat\tThanks a lot!\t\tUser is thankful",
    "chat\tPlease show me the invoice.\t\tUser has an invoice",
    "chat\tI need help with the export.\t\tUser exports data",
    "chat\tNo, the other one.\t\tUser wants the other one",
];

fn generated(count: usize) -> Vec<Turn> {
    let mut seeded = Seeded(20_261_130);
    (0..count)
        .map(|n| {
            let mut line = seeded.pick(&TEMPLATES).to_owned();
            let number = (3 + seeded.below(900)).to_string();
            for (mark, value) in [
                ("%c", seeded.pick(&CITIES)),
                ("%f", seeded.pick(&FIRMS)),
                ("%t", seeded.pick(&THINGS)),
                ("%l", seeded.pick(&LIKES)),
                ("%n", seeded.pick(&NAMES)),
                ("%p", seeded.pick(&PLANS)),
                ("%d", number.as_str()),
            ] {
                line = line.replace(mark, value);
            }
            turn(&format!("user-{}", n / 18), &line)
        })
        .collect()
}

/// The small model: answers with what the test has prepared for the next call.
#[derive(Default)]
struct SmallModel(Mutex<Vec<String>>);

#[async_trait]
impl Model for SmallModel {
    async fn stream(&self, _: ModelRequest) -> Result<ModelStream, ModelError> {
        let answer = self.0.lock().pop().unwrap_or_default();
        let events = [Ok(ModelEvent::Text(answer)), Ok(ModelEvent::Finished(Finish::Stop))];
        Ok(futures::stream::iter(events).boxed())
    }
}

/// What became of the turns.
#[derive(Debug, Default)]
pub struct Figures {
    /// Facts that were stored.
    pub stored: usize,
    /// Those of them that nobody planted, each with its turn.
    pub false_facts: Vec<String>,
    /// Facts that turns planted.
    pub planted: usize,
    /// Those of them that the next turn knew.
    pub found: usize,
    /// The others, each with its turn.
    pub missed: Vec<String>,
    /// Facts that a user has more than once.
    pub duplicates: usize,
    /// Facts that turns were told although a later one had superseded them, each with its turn.
    pub superseded_used: Vec<String>,
    /// Facts that turns were told.
    pub used: usize,
}

impl Figures {
    /// Returns the lines of the table.
    pub fn lines(&self) -> Vec<Line> {
        let line = |name: &str, part, of, aim| Line {
            name: format!("facts: {name}"),
            measured: Estimate::of_share(part, of),
            aim,
            floor: None,
        };
        let right = self.stored - self.false_facts.len();
        let superseded = self.superseded_used.len();
        vec![
            line("precision", right, self.stored, Aim::AtLeast(0.98)),
            line("duplicates", self.duplicates, self.stored, Aim::AtMost(0.01)),
            line("superseded facts used", superseded, self.used, Aim::AtMost(0.0)),
            line("planted facts found", self.found, self.planted, Aim::Shown),
        ]
    }
}

/// Plays the written and the generated turns. The time limits of learning are the product's.
pub async fn measure() -> Figures {
    let mut turns = written();
    turns.extend(generated(TURNS.saturating_sub(turns.len())));
    play(&turns).await
}

#[expect(clippy::disallowed_methods, reason = "an evaluation opens scopes as tests do")]
fn scope() -> TenantScope {
    TenantScope::from_verified("acme".parse().unwrap())
}

/// Plays the turns of all users and measures after each of them.
async fn play(turns: &[Turn]) -> Figures {
    let (model, mut seeded) = (Arc::new(SmallModel::default()), Seeded(7));
    let store = Arc::new(MemoryFacts::default());
    let memory = FactMemory::new(store, Arc::new(MemoryLog::new()), Arc::clone(&model) as _);
    let scope = scope();
    let mut figures = Figures::default();
    // What holds and what does not, by user: the last statement in a slot holds.
    let mut right: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut ended: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut slots: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let start: Timestamp = "2026-03-10T08:00:00Z".parse().unwrap();
    for (n, turn) in turns.iter().enumerate() {
        let user: UserId = turn.user.parse().unwrap();
        let before = memory.list(&scope, &user).await.unwrap();
        let texts: Vec<String> = before.iter().map(|fact| fact.fact.text.clone()).collect();
        let scripted = answers(turn, &texts, n, &mut seeded);
        let attempts = scripted.len();
        *model.0.lock() = scripted;
        let request = LearnRequest {
            user: user.clone(),
            conversation: ConversationId::new(Uuid::from_u128(n as u128 / 5)),
            turn: TurnId::new(Uuid::from_u128(n as u128)),
            message: turn.message.clone(),
            said_at: start + jiff::SignedDuration::from_secs(i64::try_from(n).unwrap()),
            copilot: "support".parse().unwrap(),
            route: "small".to_owned(),
            api_key: None,
        };
        let query = FactsQuery {
            user: user.clone(),
            turn: TurnId::new(Uuid::max()),
            text: turn.message.clone(),
            limit: 500,
        };
        let mut known = Vec::new();
        // A broken answer is asked for again when the turn is handed over again.
        for _ in 0..attempts {
            memory.learn(&scope, request.clone()).await.unwrap();
            known = memory.known(&scope, &query).await.unwrap().facts;
        }
        for planted in &turn.planted {
            let of_user = right.entry(&turn.user).or_default();
            of_user.insert(&planted.stored);
            ended.entry(&turn.user).or_default().remove(planted.stored.as_str());
            let Some(slot) = &planted.slot else { continue };
            let before = slots.insert((&turn.user, slot), &planted.stored);
            if let Some(before) = before.filter(|before| *before != planted.stored) {
                ended.entry(&turn.user).or_default().insert(before);
            }
        }
        let after = memory.list(&scope, &user).await.unwrap();
        for fact in after.iter().filter(|fact| before.iter().all(|old| old.id != fact.id)) {
            figures.stored += 1;
            if !turn
                .planted
                .iter()
                .any(|planted| alike(&planted.stored, &fact.fact.text))
            {
                figures
                    .false_facts
                    .push(format!("[{}] {} -> {}", turn.kind, turn.message, fact.fact.text));
            }
        }
        for planted in &turn.planted {
            figures.planted += 1;
            if known.iter().any(|fact| alike(&planted.stored, &fact.text)) {
                figures.found += 1;
            } else {
                figures
                    .missed
                    .push(format!("[{}] {} -> {}", turn.kind, turn.message, planted.stored));
            }
        }
        figures.used += known.len();
        let of_user = ended.get(turn.user.as_str());
        for fact in &known {
            if of_user.is_some_and(|ended| ended.iter().any(|text| alike(text, &fact.text))) {
                figures.superseded_used.push(format!("{}: {}", turn.message, fact.text));
            }
        }
        let distinct: BTreeSet<String> = known.iter().map(|fact| fact.text.to_lowercase()).collect();
        if n + 1 == turns.len() || turns[n + 1].user != turn.user {
            figures.duplicates += known.len() - distinct.len();
        }
    }
    figures
}
