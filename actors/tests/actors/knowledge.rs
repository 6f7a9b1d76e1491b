//! Turns that draw on documents, and answers that cite them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use copilotd_actors::domain::citation::markers::MarkerCode;
use copilotd_actors::domain::content::Citation;
use copilotd_actors::domain::context::prompt::PromptMessage;
use copilotd_actors::domain::context::replay;
use copilotd_actors::domain::context_record::{ItemKind, Omitted, RetrievalStatus, RetrievalStep};
use copilotd_actors::domain::conversation::command::Command;
use copilotd_actors::domain::event::{Event, GuardAction};
use copilotd_actors::domain::guardrail::{ContentKind, OnMatch, Stage};
use copilotd_actors::domain::ids::{ChunkId, ConversationId, TurnId};
use copilotd_actors::domain::policy::{CitationPolicy, KnowledgePolicy, Policy, Repeat};
use copilotd_actors::domain::usage::Usage;
use copilotd_actors::fakes::detector::FakeDetector;
use copilotd_actors::fakes::knowledge::{FakeAccess, FakeDocument, Script};
use copilotd_actors::fakes::model::{Act, calls, says};
use copilotd_actors::fakes::system::Answer;
use copilotd_actors::ports::KnowledgeError;
use serde_json::json;

use crate::support::{Client, World, copilot, submission, tool};

const NONCE: &str = "00112233445566778899aabbccddeeff";
const VACATION: &str = "Employees have thirty days of vacation a year. Requests go to the team lead.";

fn knowing(policy: Policy) -> Policy {
    let collections = vec!["handbook".parse().unwrap()];
    let citations = CitationPolicy::On;
    Policy {
        knowledge: KnowledgePolicy {
            collections,
            citations,
            replacement: None,
            reranks: false,
        },
        ..policy
    }
}

fn document(id: &str, text: &str, access: Option<FakeAccess>) -> FakeDocument {
    FakeDocument {
        collection: "handbook".parse().unwrap(),
        external_id: id.parse().unwrap(),
        title: format!("About {id}"),
        text: text.to_owned(),
        access,
    }
}

/// A world whose handbook has one document about vacations, and its chunk.
async fn handbook(policy: Policy) -> (World, ChunkId) {
    let world = World::with(knowing(policy)).await;
    let chunk = world
        .knowledge
        .put(world.scope.tenant(), document("vacation", VACATION, None));
    (world, chunk)
}

fn marker(number: u32) -> String {
    MarkerCode::of(NONCE).marker(number)
}

async fn submit(world: &World, id: ConversationId, text: &str, of_user: &[&str]) -> TurnId {
    let turn = world.turn_id();
    let mut command = submission(turn, text);
    if let Command::Submit { roles, nonce, .. } = &mut command {
        *roles = of_user.iter().map(|role| (*role).to_owned()).collect();
        *nonce = Some(NONCE.to_owned());
    }
    world.execute(id, command).await.unwrap();
    turn
}

/// Returns the text and the citations of the last answer of a turn that completed.
async fn answered(world: &World, id: ConversationId, turn: TurnId) -> (String, Vec<Citation>) {
    let end = world.end_of(id, turn).await;
    assert!(matches!(end, Event::TurnCompleted { .. }), "{end:?}");
    let records = world.log.records(id);
    let mut of_turn = records.iter().rev().filter(|record| record.turn == Some(turn));
    let found = of_turn.find_map(|record| match &record.event {
        Event::MessageCompleted { text, citations, .. } => Some((text.clone(), citations.clone())),
        _ => None,
    });
    found.unwrap()
}

/// Returns the texts that the model read in its last call.
fn read_last(world: &World) -> String {
    let requests = world.model.requests();
    let last = requests.iter().rev().find(|request| request.route == "main").unwrap();
    let texts: Vec<&str> = last.messages.iter().filter_map(PromptMessage::text).collect();
    texts.join("\n---\n")
}

#[tokio::test(start_paused = true)]
async fn a_turn_reads_the_documents_and_its_answer_cites_them() {
    let (world, chunk) = handbook(copilot()).await;
    let answer = format!("You have thirty days of vacation {}. Enjoy!", marker(1));
    let pieces: Vec<String> = answer.chars().map(String::from).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    world.model.on("vacation", &[says(&pieces, Duration::from_millis(1))]);
    let id = world.create().await;
    let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer.read_all().await;
    let (text, citations) = answered(&world, id, turn).await;
    assert_eq!(text, "You have thirty days of vacation. Enjoy!");
    let [cited] = citations.as_slice() else {
        panic!("{citations:?}")
    };
    assert_eq!(cited.quote, "Employees have thirty days of vacation a year.");
    assert_eq!((cited.chunk_id.clone(), cited.at), (chunk.to_string(), Some(32)));
    assert_eq!(
        (cited.external_id.as_str(), cited.title.as_str()),
        ("vacation", "About vacation")
    );
    // Readers saw the same, and no marker however the stream was cut.
    let mut client = Client::default();
    client.take(&viewer.events);
    client.has_all(&world.log.records(id), Some(turn));
    assert_eq!(client.texts, [text]);
    let shown = |event: &&crate::support::Seen| event.data.to_string().contains("cite-");
    assert_eq!(viewer.events.iter().filter(shown).count(), 0);
    // The chunk was marked before the message was stored.
    assert_eq!(world.knowledge.cited(world.scope.tenant()), BTreeSet::from([chunk]));
    // The model read the document as data, tagged with its source.
    let read = read_last(&world);
    let tag = format!(
        "<document_excerpt-{NONCE} source=\"handbook\" cite=\"{}\">\nAbout vacation\n{VACATION}",
        marker(1)
    );
    assert!(read.contains(&tag), "{read}");
    // The record says what went in.
    let Event::ContextAssembled {
        retrieved,
        retrieval,
        context,
        ..
    } = world.named(id, "context.assembled").await.event
    else {
        unreachable!("named selected this event")
    };
    assert_eq!(retrieved[0]["chunk_id"], json!(chunk));
    assert_eq!(retrieved[0]["included"], json!(true));
    let retrieval = retrieval.unwrap();
    assert_eq!(
        (retrieval.status, retrieval.rewrite),
        (RetrievalStatus::Completed, None)
    );
    // The log has the very prompt, with the document.
    let prompts = replay::prompts(turn, &world.log.records(id), &[], replay::FactTexts::new());
    let sent = prompts[0].sent.as_ref().expect("it is kept");
    assert!(sent.is_exact);
    assert_eq!(sent.messages, *world.model.requests()[0].messages);
    assert_eq!(sent.tools(), world.model.requests()[0].tools.as_slice());
    let chunks = context
        .unwrap()
        .included
        .into_iter()
        .filter(|item| item.kind == ItemKind::Chunk);
    assert_eq!(
        chunks.map(|item| item.id.unwrap()).collect::<Vec<_>>(),
        [chunk.to_string()]
    );
}

#[tokio::test(start_paused = true)]
async fn a_turn_runs_without_documents_that_cannot_be_searched() {
    for script in [
        Script::Hang,
        Script::Panic,
        Script::Fail(KnowledgeError::Busy),
        Script::Fail(KnowledgeError::Unavailable("gone".to_owned())),
    ] {
        let (world, _) = handbook(copilot()).await;
        world.knowledge.script(script);
        let id = world.create().await;
        let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
        assert_eq!(answered(&world, id, turn).await, ("ok".to_owned(), vec![]));
        let Event::ContextAssembled {
            retrieved, retrieval, ..
        } = world.named(id, "context.assembled").await.event
        else {
            unreachable!("named selected this event")
        };
        assert_eq!(retrieved, [json!(null); 0]);
        assert_eq!(retrieval.unwrap().status, RetrievalStatus::Unavailable);
        assert!(!read_last(&world).contains("thirty days"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_copilot_without_collections_searches_nothing() {
    let (world, _) = handbook(copilot()).await;
    world.policies.set(copilot());
    let id = world.create().await;
    let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
    answered(&world, id, turn).await;
    assert!(world.knowledge.queries().is_empty());
    assert!(!read_last(&world).contains("document_excerpt"));
}

#[tokio::test(start_paused = true)]
async fn access_withdrawn_while_a_turn_waits_holds_for_its_search() {
    let (world, _) = handbook(copilot()).await;
    let budget = |roles: &[&str]| {
        let access = FakeAccess {
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            ..FakeAccess::default()
        };
        document("budget", "The vacation budget is nine million crowns.", Some(access))
    };
    let secret = "nine million";
    world.knowledge.put(world.scope.tenant(), budget(&["finance"]));
    let id = world.create().await;
    let prompt = "Which vacation budget is there in crowns?";
    let turn = submit(&world, id, prompt, &["finance"]).await;
    answered(&world, id, turn).await;
    assert!(read_last(&world).contains(secret));
    let turn = submit(&world, id, prompt, &["sales"]).await;
    answered(&world, id, turn).await;
    assert!(!read_last(&world).contains(secret), "another role");
    // The first turn is under way while the second one is queued; then the access list changes.
    world.model.once("hold", says(&["a", "b"], Duration::from_secs(5)));
    let first = submit(
        &world,
        id,
        "Please hold the line for all vacation budget questions",
        &["finance"],
    )
    .await;
    let second = submit(&world, id, prompt, &["finance"]).await;
    world.knowledge.put(world.scope.tenant(), budget(&["board"]));
    answered(&world, id, first).await;
    answered(&world, id, second).await;
    assert!(
        !read_last(&world).contains(secret),
        "the access list counts when the search runs"
    );
    let query = world.knowledge.queries().pop().unwrap();
    assert_eq!(
        (query.user.unwrap().as_str(), query.roles),
        ("ada", BTreeSet::from(["finance".to_owned()]))
    );
}

#[tokio::test(start_paused = true)]
async fn documents_are_retrieved_once_per_attempt_and_again_after_a_crash() {
    let policy = tool(copilot(), "read", Repeat::Read);
    let (mut world, _) = handbook(policy).await;
    world.system("read").answer_all(Answer::done(Duration::from_secs(2)));
    let end = says(&["done"], Duration::ZERO);
    world.model.on("vacation", &[calls(&[("read", json!({}))]), end]);
    let id = world.create().await;
    let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
    world.named(id, "tool.called").await;
    assert_eq!(world.knowledge.queries().len(), 1);
    answered(&world, id, turn).await;
    assert_eq!(
        world.knowledge.queries().len(),
        1,
        "the second step uses what the first one retrieved"
    );
    assert!(read_last(&world).contains("thirty days"));
    let assembled: Vec<bool> = world
        .log
        .records(id)
        .iter()
        .filter_map(|record| match &record.event {
            Event::ContextAssembled { retrieval, .. } => Some(retrieval.is_some()),
            _ => None,
        })
        .collect();
    assert_eq!(assembled, [true, false], "its cost is recorded once");
    let turn = submit(&world, id, "How many days of vacation do others have?", &[]).await;
    world
        .wait_for(id, |record| {
            record.turn == Some(turn) && record.event.name() == "tool.called"
        })
        .await;
    world.crash().await;
    world.restart().await;
    answered(&world, id, turn).await;
    assert_eq!(world.knowledge.queries().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_is_rewritten_and_the_turn_pays_for_it() {
    let (world, _) = handbook(copilot()).await;
    let id = world.create().await;
    let first = submit(&world, id, "How many days of vacation do I have?", &[]).await;
    answered(&world, id, first).await;
    let usage = Usage {
        prompt_tokens: 50,
        completion_tokens: 9,
        cost: 7,
        ..Usage::default()
    };
    let mut script = vec![Act::Usage(usage)];
    script.extend(says(&["How are vacation requests made?"], Duration::from_millis(30)));
    world.model.on("small", &[script]);
    let second = submit(&world, id, "And how are they requested?", &[]).await;
    answered(&world, id, second).await;
    let texts: Vec<Vec<String>> = world.knowledge.queries().into_iter().map(|query| query.texts).collect();
    assert_eq!(
        texts,
        [
            ["How many days of vacation do I have?"],
            ["How are vacation requests made?"]
        ]
    );
    let Event::TurnCompleted { usage, .. } = world.end_of(id, second).await else {
        unreachable!("it completed")
    };
    assert_eq!((usage.sum.cost, usage.sum.completion_tokens >= 9), (7, true));
    let record = world.wait_for(id, |record| {
        record.turn == Some(second) && record.event.name() == "context.assembled"
    });
    let Event::ContextAssembled { retrieval, .. } = record.await.event else {
        unreachable!("it was selected")
    };
    let steps: Vec<_> = retrieval
        .unwrap()
        .steps
        .into_iter()
        .map(|time| (time.step, time.ms))
        .collect();
    assert_eq!(steps, [(RetrievalStep::Rewrite, 30), (RetrievalStep::Search, 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_follow_up_that_is_not_rewritten_is_searched_with_the_prompt_before() {
    for script in [
        vec![Act::Stall],
        vec![Act::Panic],
        says(&["?!"], Duration::ZERO),
        says(&["w "; 4000], Duration::ZERO),
    ] {
        let (world, _) = handbook(copilot()).await;
        let id = world.create().await;
        let first = submit(&world, id, "How many days of vacation do I have?", &[]).await;
        answered(&world, id, first).await;
        world.model.on("small", &[script]);
        let second = submit(&world, id, "And how are they requested?", &[]).await;
        answered(&world, id, second).await;
        let query = world.knowledge.queries().pop().unwrap();
        assert_eq!(
            query.texts,
            ["How many days of vacation do I have?\nAnd how are they requested?"]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn guardrails_look_at_what_was_retrieved() {
    let redacting = copilot().with_output_rule("thirty", OnMatch::Redact);
    let (world, _) = handbook(redacting).await;
    let answer = format!(
        "Requests go to the team lead {}. And vacation {}.",
        marker(1),
        marker(1)
    );
    world.model.on("vacation", &[says(&[&answer], Duration::ZERO)]);
    let id = world.create().await;
    let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
    let (_, citations) = answered(&world, id, turn).await;
    let read = read_last(&world);
    assert!(
        read.contains("Employees have [redacted] days") && !read.contains("thirty"),
        "{read}"
    );
    // What is quoted occurs in the chunk, so nothing with a replaced part is.
    let quotes: Vec<&str> = citations.iter().map(|citation| citation.quote.as_str()).collect();
    assert_eq!(quotes, ["Requests go to the team lead."]);
    let Event::GuardrailTriggered {
        stage, rule, action, ..
    } = world.named(id, "guardrail.triggered").await.event
    else {
        unreachable!("named selected this event")
    };
    assert_eq!(
        (stage, rule.as_str(), action),
        (Stage::Retrieval, "thirty", GuardAction::Redact)
    );
}

#[tokio::test(start_paused = true)]
async fn a_withheld_chunk_does_not_reach_the_model_and_the_turn_runs() {
    let (mut world, chunk) = handbook(copilot()).await;
    let detector = FakeDetector::new("thirty", OnMatch::Block, [ContentKind::RetrievedText]);
    world.detectors = vec![Arc::new(detector)];
    world.crash().await;
    world.restart().await;
    let id = world.create().await;
    let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
    answered(&world, id, turn).await;
    assert!(!read_last(&world).contains("thirty"));
    let Event::ContextAssembled { context, .. } = world.named(id, "context.assembled").await.event else {
        unreachable!("named selected this event")
    };
    let omitted = context
        .unwrap()
        .omitted
        .into_iter()
        .map(|item| (item.id.unwrap(), item.reason));
    assert_eq!(omitted.collect::<Vec<_>>(), [(chunk.to_string(), Omitted::Guardrail)]);
}

#[tokio::test(start_paused = true)]
async fn a_marker_neither_hides_a_secret_nor_cites_what_was_not_retrieved() {
    let (world, _) = handbook(copilot().with_output_rule("team lead", OnMatch::Redact)).await;
    let pieces = [
        "Thirty days of vac",
        &marker(1),
        "ation. Ask the te",
        &marker(2),
        "am l",
        &marker(7),
        "ead. xs[1] [cite-abc:1]",
    ];
    world.model.on("vacation", &[says(&pieces, Duration::from_millis(5))]);
    let id = world.create().await;
    let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
    let mut viewer = world.viewer(id, Some(turn), "0");
    viewer.read_all().await;
    let (text, citations) = answered(&world, id, turn).await;
    assert_eq!(text, "Thirty days of vacation. Ask the [redacted]. xs[1] [cite-abc:1]");
    assert_eq!(citations.len(), 1);
    let mut client = Client::default();
    client.take(&viewer.events);
    assert_eq!(client.texts, [text]);
}

#[tokio::test(start_paused = true)]
async fn citations_can_be_demanded_or_turned_off() {
    for citations in [CitationPolicy::Off, CitationPolicy::Required] {
        let (world, _) = handbook(copilot()).await;
        let mut policy = knowing(copilot());
        policy.knowledge.citations = citations;
        world.policies.set(policy);
        let answer = format!("Thirty days of vacation{}. The moon is made of cheese.", marker(1));
        world.model.on("vacation", &[says(&[&answer], Duration::ZERO)]);
        let id = world.create().await;
        let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
        let (text, cited) = answered(&world, id, turn).await;
        let Event::MessageCompleted { unsupported, .. } = world.named(id, "message.completed").await.event else {
            unreachable!("named selected this event")
        };
        let unsupported: Vec<&str> = unsupported
            .iter()
            .map(|(from, to)| &text[*from as usize..*to as usize])
            .collect();
        match citations {
            CitationPolicy::Required => {
                assert_eq!((cited.len(), unsupported), (1, vec!["The moon is made of cheese."]));
            }
            _ => {
                assert!(!read_last(&world).contains(&marker(1)));
                assert_eq!((cited.len(), unsupported.len()), (0, 0));
                assert_eq!(text, answer, "without the task, a marker is a text like any other");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_completed_even_if_its_sources_cannot_be_marked() {
    let (world, _) = handbook(copilot()).await;
    let answer = format!("Thirty days of vacation{}.", marker(1));
    world.model.on("vacation", &[says(&[&answer], Duration::from_secs(1))]);
    let id = world.create().await;
    let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
    world.knowledge.wait_for(1).await;
    world.knowledge.script(Script::Hang);
    let (_, citations) = answered(&world, id, turn).await;
    assert_eq!(citations.len(), 1);
    assert!(world.knowledge.cited(world.scope.tenant()).is_empty());
}

/// A handbook of three documents that all speak of vacation, and a copilot that has them ordered.
async fn reranking() -> World {
    let mut policy = knowing(copilot());
    policy.knowledge.reranks = true;
    let world = World::with(policy).await;
    for (id, text) in [
        ("first", "Vacation is vacation, and vacation again."),
        ("second", "Vacation lasts thirty days."),
        ("third", "Vacation is asked for at the team lead."),
    ] {
        world.knowledge.put(world.scope.tenant(), document(id, text, None));
    }
    world
}

/// Returns the documents of a turn's prompt with the best first, by the priority that the record shows.
async fn titles(world: &World, id: ConversationId) -> Vec<String> {
    let Event::ContextAssembled { retrieved, .. } = world.named(id, "context.assembled").await.event else {
        unreachable!("named selected this event")
    };
    let titles = retrieved
        .iter()
        .map(|entry| entry["external_id"].as_str().unwrap().to_owned());
    titles.collect()
}

#[tokio::test(start_paused = true)]
async fn the_small_model_orders_what_was_found() {
    let usual = {
        let world = reranking().await;
        world.model.on("small", &[says(&["I cannot say."], Duration::ZERO)]);
        let id = world.create().await;
        let turn = submit(&world, id, "How long is my vacation?", &[]).await;
        answered(&world, id, turn).await;
        titles(&world, id).await
    };
    assert_eq!(usual.len(), 3);
    let usage = Usage {
        prompt_tokens: 80,
        completion_tokens: 3,
        cost: 5,
        ..Usage::default()
    };
    let world = reranking().await;
    let mut script = vec![Act::Usage(usage)];
    script.extend(says(&["3, 2"], Duration::from_millis(40)));
    world.model.on("small", &[script]);
    let id = world.create().await;
    let turn = submit(&world, id, "How long is my vacation?", &[]).await;
    answered(&world, id, turn).await;
    let expected = [&usual[2], &usual[1], &usual[0]];
    assert_eq!(titles(&world, id).await.iter().collect::<Vec<_>>(), expected);
    let Event::ContextAssembled { retrieval, .. } = world.named(id, "context.assembled").await.event else {
        unreachable!("named selected this event")
    };
    let retrieval = retrieval.unwrap();
    let step = retrieval.steps.iter().find(|step| step.step == RetrievalStep::Rerank);
    assert_eq!(step.map(|step| step.ms), Some(40));
    assert_eq!(retrieval.rerank.map(|cost| cost.usage.cost), Some(5));
    let Event::TurnCompleted { usage, .. } = world.end_of(id, turn).await else {
        unreachable!("it completed")
    };
    assert_eq!(usage.sum.cost, 5);
    // What the model was asked is data, delimited by the turn's code.
    let requests = world.model.requests();
    let asked = requests.iter().find(|request| request.route == "small").unwrap();
    let text = asked.messages[1].text().unwrap();
    assert_eq!(
        text.matches(&format!("</document_excerpt-{NONCE}>")).count(),
        3,
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn without_an_order_that_of_the_search_stays() {
    let mut seen = BTreeSet::new();
    for script in [
        vec![Act::Stall],
        vec![Act::Panic],
        says(&["none of them"], Duration::ZERO),
        says(&["9 "; 4000], Duration::ZERO),
    ] {
        let world = reranking().await;
        world.model.on("small", &[script]);
        let id = world.create().await;
        let turn = submit(&world, id, "How long is my vacation?", &[]).await;
        answered(&world, id, turn).await;
        seen.insert(titles(&world, id).await);
    }
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn sentences_without_a_source_are_replaced_before_anybody_sees_them() {
    let required = |policy: Policy| {
        let mut policy = knowing(policy);
        policy.knowledge.citations = CitationPolicy::Required;
        policy.knowledge.replacement = Some("(no source)".into());
        policy
    };
    let said = format!(
        "The moon is cheese. You have thirty days of vacation {}. Ask me anything about parking.",
        marker(1)
    );
    for (is_searched, expected) in [
        (true, "(no source) You have thirty days of vacation. (no source)"),
        (false, "(no source)"),
    ] {
        let world = World::with(required(copilot())).await;
        world
            .knowledge
            .put(world.scope.tenant(), document("vacation", VACATION, None));
        if !is_searched {
            world.knowledge.script(Script::Fail(KnowledgeError::Busy));
        }
        let pieces: Vec<String> = said.chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        world.model.on("vacation", &[says(&pieces, Duration::from_millis(1))]);
        let id = world.create().await;
        let turn = submit(&world, id, "How many days of vacation do I have?", &[]).await;
        let mut viewer = world.viewer(id, Some(turn), "0");
        viewer.read_all().await;
        let (text, citations) = answered(&world, id, turn).await;
        if is_searched {
            assert_eq!(text, expected);
            assert_eq!(citations.len(), 1);
            let at = usize::try_from(citations[0].at.unwrap()).unwrap();
            assert!(text[..at].ends_with("vacation"), "{at}");
        } else {
            assert!(
                !text.contains("moon") && !text.contains("thirty") && text.contains(expected),
                "{text}"
            );
            assert_eq!(citations, []);
        }
        // Readers saw the same, and nothing else at any time.
        let mut client = Client::default();
        client.take(&viewer.events);
        client.has_all(&world.log.records(id), Some(turn));
        assert_eq!(client.texts, [text]);
        assert!(
            viewer
                .events
                .iter()
                .all(|event| !event.data.to_string().contains("moon"))
        );
        let Event::GuardrailTriggered { rule, action, .. } = world.named(id, "guardrail.triggered").await.event else {
            unreachable!("named selected this event")
        };
        assert_eq!((rule.as_str(), action), ("citations_required", GuardAction::Redact));
    }
}
