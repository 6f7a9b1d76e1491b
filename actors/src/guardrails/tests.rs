use std::time::Duration;

use serde_json::json;

use super::*;
use crate::domain::content::ToolStatus;
use crate::domain::guardrail::{OnMatch, Rule, RuleSet};
use crate::domain::ids::{CallId, TurnId};
use crate::fakes::detector::{FakeDetector, Script, contract};
use crate::fakes::policy::policy;

fn scope() -> TenantScope {
    #[expect(clippy::disallowed_methods, reason = "tests open scopes")]
    TenantScope::from_verified("acme".parse().unwrap())
}

fn rules(literal: &str, action: OnMatch) -> Rules {
    let rule = Rule {
        name: "deny".to_owned(),
        literal: literal.to_owned(),
        action,
        confusables: false,
    };
    let set = RuleSet::new([rule]);
    Rules {
        input: set.clone(),
        output: set,
    }
}

fn text(kind: ContentKind, text: &str) -> Content {
    Content::new(kind, text.to_owned(), text.len())
}

#[tokio::test(start_paused = true)]
async fn both_detectors_keep_the_contract() {
    for kind in ContentKind::ALL {
        for action in [OnMatch::Block, OnMatch::Redact] {
            let deny = DenyRules::new(&rules("secret", action));
            contract(&deny, &scope(), kind, "é the secret é", "é nothing").await;
            let fake = FakeDetector::new("secret", action, [kind]);
            contract(&fake, &scope(), kind, "é the secret é", "é nothing").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_content_keeps_the_contract_on_the_compute_pool() {
    let (offending, harmless) = (format!("{} secret", "x ".repeat(60_000)), "x ".repeat(60_000));
    let deny = DenyRules::new(&rules("secret", OnMatch::Redact));
    contract(&deny, &scope(), ContentKind::ToolAnswer, &offending, &harmless).await;
}

#[tokio::test(start_paused = true)]
async fn each_detector_sees_its_kinds_and_all_findings_are_merged() {
    let fake = FakeDetector::new("bird", OnMatch::Redact, [ContentKind::ToolAnswer]);
    let guardrails = Guardrails::new([Arc::new(fake.clone()) as Arc<dyn Detector>]);
    assert!(guardrails.looks_at(ContentKind::ToolAnswer) && !guardrails.looks_at(ContentKind::Prompt));
    let contents = [
        text(ContentKind::Prompt, "a blue bird"),
        text(ContentKind::ToolAnswer, "a blue bird"),
    ];
    let found = guardrails
        .inspect(&scope(), &rules("blue", OnMatch::Redact), &contents)
        .await
        .unwrap();
    let names = |number: usize| -> Vec<&str> { found[number].iter().map(|finding| finding.rule.as_str()).collect() };
    assert_eq!((names(0), names(1)), (vec!["deny"], vec!["deny", "fake: bird"]));
    assert_eq!(fake.begun(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_content_that_a_detector_did_not_inspect_does_not_pass() {
    let fake = FakeDetector::new("bird", OnMatch::Redact, ContentKind::ALL);
    let guardrails = Guardrails::new([Arc::new(fake.clone()) as Arc<dyn Detector>]);
    for (script, cause) in [
        (Script::Fail(DetectorError::Busy), DetectorError::Busy),
        (Script::Hang, DetectorError::TimedOut(Duration::from_secs(5))),
        (
            Script::Omit,
            DetectorError::Unavailable("1 contents, 0 answers".to_owned()),
        ),
    ] {
        fake.script(script);
        let contents = [text(ContentKind::Prompt, "hello")];
        let unchecked = guardrails.inspect(&scope(), &Rules::default(), &contents).await;
        let detector = "fake".to_owned();
        assert_eq!(unchecked, Err(Unchecked { detector, cause }));
    }
    assert!(
        guardrails
            .inspect(&scope(), &Rules::default(), &[])
            .await
            .unwrap()
            .is_empty()
    );
}

/// The deny rules have the same result when they run inside the core and as a detector.
#[tokio::test(start_paused = true)]
async fn screening_with_and_without_detectors_agrees() {
    let mut copilot = policy("support".parse().unwrap());
    copilot.rules = rules("blue", OnMatch::Redact);
    let copilot = Arc::new(copilot);
    let answer = |result| Command::ToolReplied {
        turn: TurnId::new(uuid::Uuid::nil()),
        call: CallId::new(uuid::Uuid::nil()),
        status: ToolStatus::Succeeded,
        result: Some(result),
        error: Some("a blue error".to_owned()),
    };
    for value in [json!("fine"), json!(["a blue bird", 7]), json!({ "blue": 1 })] {
        let inside = answer(value.clone()).screen(&copilot, None);
        let (guardrails, scope) = (Guardrails::default(), scope());
        let outside = guardrails.screen(&scope, answer(value.clone()), &copilot, None);
        assert_eq!(
            format!("{inside:?}"),
            format!("{:?}", outside.await.unwrap()),
            "{value}"
        );
    }
}
