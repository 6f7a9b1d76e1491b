//! The set about facts over HTTP: a simulated small model proposes everything that was planted and every bait, lies, repeats,
//! loops and breaks off. What is stored, what the answering model reads, and what erasing leaves behind.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Models, ask, configured};
use crate::documents::{Client, serve};

#[path = "../../eval/facts/set.rs"]
mod set;

use set::{Planted, Seeded, Turn, alike, answers, written};

const FACTS: &str = "/v1/memory/facts?limit=100";
/// What a user says who states nothing.
const NOTHING: &str = "Please show me the invoice.";
const REPLAYS: u64 = 100;

async fn stored(client: &Client) -> Vec<String> {
    let facts = client.get(FACTS).await;
    let facts = facts["data"].as_array().unwrap();
    facts
        .iter()
        .map(|fact| fact["text"].as_str().unwrap().to_owned())
        .collect()
}

/// Returns what the answering model read about the user in its last prompt.
async fn read(models: &Models) -> String {
    let prompt = models.last_prompt().await;
    let texts = prompt
        .iter()
        .map(|message| message["content"].as_str().unwrap_or_default());
    texts.filter(|text| text.contains("<user_fact")).collect()
}

/// What a user's turns have come to.
#[derive(Default)]
struct Figures {
    stored: usize,
    wrong: Vec<String>,
    duplicates: usize,
    planted: usize,
    found: usize,
}

/// Plays the turns of one user in one conversation.
async fn play(models: &Models, client: &Client, turns: &[(usize, &Turn)], seeded: &mut Seeded, figures: &mut Figures) {
    let conversation = client.post(201, "/v1/conversations", json!({})).await;
    let conversation = conversation["id"].as_str().unwrap();
    let (mut ended, mut before): (BTreeSet<&str>, Vec<&Planted>) = (BTreeSet::new(), Vec::new());
    for (n, turn) in turns {
        let known = stored(client).await;
        let mut answers = answers(turn, &known, *n, seeded);
        // The next one is at the end.
        answers.reverse();
        models.script("sim-small", &turn.message, &answers, 1).await;
        ask(client, conversation, &turn.message).await;
        let prompt = read(models).await;
        for planted in &before {
            // What was stored of the turn before is in this one's prompt.
            let is_stored = stored(client).await.iter().any(|text| alike(text, &planted.stored));
            let is_read = prompt.contains(planted.stored.trim_end_matches('.'));
            assert!(
                is_read || !is_stored || ended.contains(planted.stored.as_str()),
                "{}, before [{}] {}: {prompt}",
                planted.stored,
                turn.kind,
                turn.message
            );
            figures.found += usize::from(is_read);
        }
        for text in &ended {
            assert!(!prompt.contains(text), "{text} was superseded: {prompt}");
        }
        // What this turn plants counts from the next one on.
        before.clear();
        for planted in &turn.planted {
            ended.remove(planted.stored.as_str());
            let earlier = turns
                .iter()
                .take_while(|(at, _)| at < n)
                .flat_map(|(_, turn)| &turn.planted);
            let same = |other: &&Planted| planted.slot.is_some() && other.slot == planted.slot;
            ended.extend(
                earlier
                    .filter(same)
                    .map(|other| other.stored.as_str())
                    .filter(|text| *text != planted.stored),
            );
            before.push(planted);
        }
        if answers.len() > 1 || answers.iter().any(|answer| answer.len() > 8 * 1024) {
            // It broke off or looped: it is asked again, and anything may be true until then.
            before.clear();
            ended.clear();
            models.settle(answers.len() - 1).await;
        } else {
            models.settle(0).await;
        }
    }
    // The last turn's are in the prompt of this one.
    ask(client, conversation, "Thank you for now.").await;
    let stored = stored(client).await;
    let planted: Vec<&Planted> = turns.iter().flat_map(|(_, turn)| &turn.planted).collect();
    figures.planted += planted.len();
    figures.stored += stored.len();
    for text in &stored {
        if !planted.iter().any(|planted| alike(&planted.stored, text)) {
            figures.wrong.push(text.clone());
        }
    }
    let distinct: BTreeSet<String> = stored.iter().map(|text| text.to_lowercase()).collect();
    figures.duplicates += stored.len() - distinct.len();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_model_that_lies_loops_and_repeats_teaches_only_what_users_said() {
    let models = Models::start().await;
    let directory = configured(&models, "facts = true");
    let (mut child, client) = serve(directory.path()).await;
    // Without what depends on the day, which is fixed in the set.
    let is_dated = |turn: &Turn| turn.planted.iter().any(|planted| planted.stored != planted.proposed);
    let turns: Vec<Turn> = written().into_iter().filter(|turn| !is_dated(turn)).collect();
    let mut users: Vec<Vec<(usize, &Turn)>> = Vec::new();
    for (n, turn) in turns.iter().enumerate() {
        match users.last_mut().filter(|turns| turns[0].1.user == turn.user) {
            Some(turns) => turns.push((n, turn)),
            None => users.push(vec![(n, turn)]),
        }
    }
    let (mut seeded, mut figures) = (Seeded(7), Figures::default());
    for turns in &users {
        models.reset().await;
        play(&models, &client.of(&turns[0].1.user), turns, &mut seeded, &mut figures).await;
    }
    let Figures {
        stored: count,
        wrong,
        duplicates,
        planted,
        found,
    } = figures;
    println!(
        "{} turns: {count} facts stored, {} wrong, {duplicates} twice; of {planted} planted, {found} were read in the next turn",
        turns.len(),
        wrong.len()
    );
    wrong.iter().for_each(|text| println!("wrong: {text}"));
    assert!(count * 2 >= planted, "{count} of {planted}");
    assert!(wrong.len() * 50 <= count, "{wrong:?}");
    assert!(duplicates * 100 <= count, "{duplicates} of {count}");

    // The same facts, proposed again and again for a message that states none of them, and for one that repeats them all.
    let ada = client.of(&turns[0].user);
    let known = stored(&ada).await;
    assert!(!known.is_empty());
    let conversation = ada.post(201, "/v1/conversations", json!({})).await;
    let conversation = conversation["id"].as_str().unwrap();
    let repeated = format!("You wrote: {}. Is that so?", known.join(". "));
    for message in [NOTHING, &repeated] {
        models.reset().await;
        let items: Vec<Value> = known
            .iter()
            .map(|text| json!({ "text": text, "quote": message }))
            .collect();
        let replay = json!({ "facts": items }).to_string();
        models.script("sim-small", message, &[replay], REPLAYS / 2).await;
        for _ in 0..REPLAYS / 2 {
            ask(&ada, conversation, message).await;
        }
        models.settle(0).await;
    }
    ask(&ada, conversation, "Thank you.").await;
    assert_eq!(stored(&ada).await, known);
    child.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasing_a_conversation_erases_what_was_learned_from_it() {
    let models = Models::start().await;
    let directory = configured(&models, "facts = true");
    let (mut child, client) = serve(directory.path()).await;
    let teach = async |message: &str, fact: &str| {
        let conversation = client.post(201, "/v1/conversations", json!({})).await;
        let conversation = conversation["id"].as_str().unwrap().to_owned();
        let answer = json!({ "facts": [{ "text": fact, "quote": message }] }).to_string();
        models.script("sim-small", message, &[answer], 1).await;
        ask(&client, &conversation, message).await;
        models.settle(0).await;
        ask(&client, &conversation, NOTHING).await;
        assert!(read(&models).await.contains(fact));
        conversation
    };
    let first = teach("I live in Oslo.", "User lives in Oslo").await;
    let second = teach("I work at Nordlys.", "User works at Nordlys").await;
    let delete = client.request("DELETE", &format!("/v1/conversations/{first}"));
    client.done(204, delete).await;
    // The reconciler erases after the answer.
    while stored(&client).await.len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(stored(&client).await, ["User works at Nordlys"]);
    ask(&client, &second, NOTHING).await;
    let prompt = read(&models).await;
    assert!(prompt.contains("Nordlys") && !prompt.contains("Oslo"), "{prompt}");
    let receipt = |log: &str| {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut receipts =
            lines.filter(|line| line["conversation"] == first && line.to_string().contains("sqlite.facts"));
        receipts.next()
    };
    let receipt = child
        .wait_for(receipt)
        .await
        .unwrap_or_else(|| panic!("{}", child.output()));
    assert!(receipt.to_string().contains("records"), "{receipt}");
    child.kill().await;
}
