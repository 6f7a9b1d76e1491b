//! A conversation of 10,000 messages beside one of 200: a turn's prompt has as many tokens, earlier messages come back, and a
//! process that has just started continues it.

use copilotd::adapters::store::sqlite::SqliteLog;
use copilotd_actors::domain::context::tokens;
use serde_json::Value;

use super::{INSTRUCTIONS, Models, ask, configured};
use crate::documents::{Client, serve};
use crate::support::talk::{Talk, answered, assembled, completed, queued, started, turn};

const BUDGET: u64 = 1_500;
/// Turns of one append.
const AT_ONCE: usize = 250;
/// Turns after which a process that has just started must have read the whole conversation.
const PATIENCE: usize = 100;

const THINGS: [&str; 11] = [
    "invoice", "parcel", "printer", "contract", "password", "warranty", "meeting", "licence", "refund", "router",
    "badge",
];
const PLACES: [&str; 13] = [
    "Oslo", "Lima", "Quito", "Turin", "Leeds", "Cork", "Nantes", "Bergen", "Austin", "Perth", "Kobe", "Accra", "Porto",
];
const STATES: [&str; 7] = [
    "late",
    "missing",
    "wrong",
    "expired",
    "damaged",
    "incomplete",
    "unreadable",
];

/// Words of more weight than others: some turns have several, most have none.
const DETAILS: [&str; 9] = [
    "urgently",
    "again",
    "yesterday",
    "the second floor",
    "the blue box",
    "reception",
    "a signature",
    "the old address",
    "a spare key",
];

/// What was said in a turn: two sentences, whose words are spread over the whole conversation without any pattern.
fn said(turn: usize) -> [String; 2] {
    // The high bits of a product with an odd number (Knuth's multiplicative hashing).
    let mixed = |salt: usize| ((turn + salt * 10_007 + 1).wrapping_mul(2_654_435_761) >> 13) & 0xffff;
    let (thing, place, state) = (THINGS[mixed(1) % 11], PLACES[mixed(2) % 13], STATES[mixed(3) % 7]);
    let other = THINGS[mixed(4) % 11];
    let details: Vec<&str> = (0..mixed(5) % 4).map(|salt| DETAILS[mixed(6 + salt) % 9]).collect();
    let details = details.join(" and ");
    [
        format!(
            "The {thing} for {place} with number {turn} is {state}. Can you look at it before the next {other}? {details}"
        ),
        format!(
            "I looked at {thing} {turn}: the office in {place} had it marked as {state}. {details}. A colleague sends another {other}."
        ),
    ]
}

/// Writes a conversation of so many turns. `planted` are what the user said in some of them.
async fn written(log: &SqliteLog, turns: usize, planted: &[(usize, &str)]) -> Talk {
    let mut talk = Talk::new("acme", "ada");
    talk.open(log).await;
    for first in (0..turns).step_by(AT_ONCE) {
        let mut events = Vec::new();
        for number in first..(first + AT_ONCE).min(turns) {
            let [mut asked, answer] = said(number);
            if let Some((_, text)) = planted.iter().find(|(at, _)| *at == number) {
                asked = (*text).to_owned();
            }
            let id = turn();
            let answer = answered(id, &answer);
            events.extend([queued(id, &asked), started(id), assembled(id), answer, completed(id)]);
        }
        talk.write(log, events).await;
    }
    talk
}

fn text(message: &Value) -> &str {
    message["content"].as_str().unwrap()
}

/// Returns the tokens of what a prompt holds of the conversation, without instructions and question.
fn of_conversation(prompt: &[Value]) -> u64 {
    let [system, conversation @ .., question] = prompt else {
        panic!("{prompt:?}")
    };
    assert_eq!((&system["role"], &question["role"]), (&"system".into(), &"user".into()));
    assert!(text(system).starts_with(INSTRUCTIONS), "{system}");
    conversation
        .iter()
        .map(|message| tokens::count(text(message)) + tokens::PER_MESSAGE)
        .sum()
}

fn holds(prompt: &[Value], what: &str) -> bool {
    // Not in the question.
    prompt[..prompt.len() - 1]
        .iter()
        .any(|message| text(message).contains(what))
}

/// Asks some questions about many things and returns the tokens of the prompts' conversation.
async fn measured(models: &Models, client: &Client, conversation: &str) -> u64 {
    let mut sum = 0;
    for question in [
        "What was wrong with the printer for Turin?",
        "Which parcel is missing in Perth?",
        "Was a badge for Quito expired, or a licence for Cork?",
        "Please list what I said about the contract.",
        "Who sends another router?",
    ] {
        ask(client, conversation, question).await;
        let prompt = models.last_prompt().await;
        let tokens = of_conversation(&prompt);
        assert!(tokens <= BUDGET, "{tokens} of {BUDGET}");
        sum += tokens;
    }
    sum
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_turn_at_message_10_000_has_the_tokens_of_one_at_200() {
    let models = Models::start().await;
    let directory = configured(&models, &format!("budget_tokens = {BUDGET}"));
    let early = (37, "The gate code of the Aldgate depot is 7391-QX.");
    let late = (4_800, "The gate code of the Marlow depot is 5520-LT.");
    let data = directory.path().join("data");
    let log = SqliteLog::open(&data).unwrap();
    let short = written(&log, 100, &[early]).await;
    let long = written(&log, 5_000, &[early, late]).await;
    log.close().await;
    let whole: u64 = (0..5_000)
        .flat_map(said)
        .map(|text| tokens::count(&text) + tokens::PER_MESSAGE)
        .sum();
    assert!(whole > 10 * BUDGET, "{whole}");

    let (mut child, client) = serve(directory.path()).await;
    let (short, long) = (short.id.to_string(), long.id.to_string());
    // The first turn of a process that knows nothing yet searches the older part of the conversation.
    ask(&client, &long, "What is the gate code of the Aldgate depot?").await;
    let prompt = models.last_prompt().await;
    let first = of_conversation(&prompt);
    assert!(first <= BUDGET, "{first}");
    // It reads the rest in the background.
    let mut turns = 0;
    loop {
        ask(&client, &long, "What is the gate code of the Marlow depot?").await;
        let prompt = models.last_prompt().await;
        assert!(of_conversation(&prompt) <= BUDGET);
        if holds(&prompt, "5520-LT") {
            break;
        }
        turns += 1;
        assert!(turns < PATIENCE, "{prompt:#?}");
    }
    for conversation in [&short, &long] {
        ask(&client, conversation, "And the gate code of the Aldgate depot?").await;
        assert!(
            holds(&models.last_prompt().await, "7391-QX"),
            "{:#?}",
            models.last_prompt().await
        );
    }

    let at_200 = measured(&models, &client, &short).await;
    let at_10_000 = measured(&models, &client, &long).await;
    println!(
        "tokens of five prompts: {at_200} at 200 messages, {at_10_000} at 10,000; the whole conversation has {whole}"
    );
    assert!(
        at_10_000 * 100 <= at_200 * 105,
        "{at_10_000} at 10,000 messages, {at_200} at 200"
    );
    assert!(at_10_000 / 5 * 10 <= whole, "{at_10_000} of {whole}");

    // Cold again, now with snapshots and a summary.
    child.kill().await;
    let (mut child, client) = serve(directory.path()).await;
    ask(&client, &long, "Thank you. Is there anything else?").await;
    let tokens = of_conversation(&models.last_prompt().await);
    assert!(tokens <= BUDGET, "{tokens}");
    child.kill().await;
}
