use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::domain::guardrail::{Rule, RuleSet, Rules, Text, Texts, find};

fn rules() -> Rules {
    let rule = |literal: &str, action| Rule {
        name: literal.to_lowercase(),
        literal: literal.to_owned(),
        action,
        confusables: false,
    };
    Rules {
        input: RuleSet::new([rule("secret", OnMatch::Block)]),
        output: RuleSet::new([
            rule("Bluebird", OnMatch::Redact),
            rule("sk-", OnMatch::Block),
            rule("4111", OnMatch::Redact),
        ]),
    }
}

fn verdict(kind: ContentKind, value: Value) -> Verdict<Value> {
    let rules = rules();
    let value = rules.output.thin(value);
    let findings = find(&rules, kind, &value).unwrap();
    judge(kind, value, &findings)
}

fn at(number: usize, bytes: Range<usize>) -> Finding {
    Finding {
        rule: "pii".to_owned(),
        action: OnMatch::Redact,
        place: Some(Place { number, bytes }),
    }
}

#[test]
fn the_table_of_contents_rules_and_consequences() {
    // Contents with a redacting output rule's literal, a blocking one's, and an input rule's.
    for (kind, expected) in [
        (ContentKind::Prompt, ["passes", "passes", "blocked"]),
        (ContentKind::CallDecision, ["blocked", "blocked", "blocked"]),
        (ContentKind::ToolCall, ["blocked", "blocked", "blocked"]),
        (ContentKind::ToolAnswer, ["redacted", "blocked", "passes"]),
        (ContentKind::RetrievedText, ["redacted", "blocked", "passes"]),
        (ContentKind::Answer, ["redacted", "blocked", "passes"]),
        (ContentKind::ProviderError, ["blocked", "blocked", "passes"]),
    ] {
        let verdicts = ["a Bluebird", "sk-1", "the secret"].map(|text| match verdict(kind, json!(text)) {
            Verdict::Allowed(_) => "passes",
            Verdict::Redacted { .. } => "redacted",
            Verdict::Blocked { .. } => "blocked",
        });
        assert_eq!(verdicts, expected, "{kind:?}");
    }
}

#[test]
fn a_value_is_redacted_or_blocked() {
    let value = json!({ "a": ["Project BLUEBIRD!", 94_111, true], "b": "fine" });
    let Verdict::Redacted { content, rules } = verdict(ContentKind::ToolAnswer, value) else {
        panic!("two rules match")
    };
    assert_eq!(
        content,
        json!({ "a": ["Project [redacted]!", "[redacted]", true], "b": "fine" })
    );
    assert_eq!(rules, ["4111", "bluebird"]);
    for (value, rule) in [
        (json!({ "key": "sk-123" }), "sk-"),
        (json!(["bluebird", "s\u{ad}k-"]), "sk-"),
        (json!({ "Bluebird": 1 }), "bluebird"),
        (json!("{\"a\":\"blue\\u0062ird\"}"), "bluebird"),
        (json!("bluebird {\"a\":\"blue\\u0062ird\"}"), "bluebird"),
    ] {
        let rule = rule.to_owned();
        assert_eq!(
            verdict(ContentKind::ToolAnswer, value.clone()),
            Verdict::Blocked { rule },
            "{value}"
        );
    }
    let untouched = json!({ "a": "\u{200b}" });
    assert_eq!(
        judge(ContentKind::ToolAnswer, untouched.clone(), &[]),
        Verdict::Allowed(untouched)
    );
}

#[test]
fn places_are_replaced_in_their_texts() {
    let value = json!({ "k": ["Ada Lovelace, London", 42], "n": "Ada" });
    for (findings, expected) in [
        (
            vec![at(1, 0..3)],
            json!({ "k": ["[redacted] Lovelace, London", 42], "n": "Ada" }),
        ),
        // Overlapping, nested and adjacent places, in any order.
        (
            vec![at(1, 4..12), at(1, 0..8), at(1, 1..2), at(4, 0..3)],
            json!({ "k": ["[redacted], London", 42], "n": "[redacted]" }),
        ),
        (
            vec![at(1, 0..4), at(1, 4..12)],
            json!({ "k": ["[redacted][redacted], London", 42], "n": "Ada" }),
        ),
        (
            vec![at(2, 0..1)],
            json!({ "k": ["Ada Lovelace, London", "[redacted]"], "n": "Ada" }),
        ),
    ] {
        let Verdict::Redacted { content, rules } = judge(ContentKind::ToolAnswer, value.clone(), &findings) else {
            panic!("{findings:?}")
        };
        assert_eq!((content, rules), (expected, vec!["pii".to_owned()]), "{findings:?}");
    }
}

#[test]
fn what_cannot_be_carried_out_blocks() {
    let value = json!({ "k": "Ada é" });
    let whole = Finding {
        place: None,
        ..at(0, 0..0)
    };
    for findings in [
        vec![at(0, 0..1)],
        vec![at(1, 0..99)],
        vec![at(1, 5..5)],
        vec![at(1, 5..6)],
        vec![at(2, 0..1)],
        vec![at(1, 0..3), whole],
        vec![
            at(1, 0..3),
            Finding {
                action: OnMatch::Block,
                ..at(1, 0..1)
            },
        ],
    ] {
        let verdict = judge(ContentKind::ToolAnswer, value.clone(), &findings);
        assert_eq!(verdict, Verdict::Blocked { rule: "pii".into() }, "{findings:?}");
    }
}

proptest! {
    /// A text is redacted as [`OutputGuard`](super::super::OutputGuard) redacts it while it streams.
    #[test]
    fn a_whole_text_has_the_verdict_of_a_streamed_one(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "a ", "blue", "bird", "ＢＬＵＥ", "s", "k-", "4111", "\u{ad}", "é", "  \n", "\u{e0041}", "\u{301}",
            ]),
            0..24,
        ),
    ) {
        let text = words.concat();
        let mut guard = crate::domain::guardrail::OutputGuard::new(&rules().output, false);
        let streamed = guard.push(&text).and_then(|begun| Ok(begun + &guard.finish()?));
        match (verdict(ContentKind::Answer, json!(text)), streamed) {
            (Verdict::Allowed(whole), Ok(streamed)) => prop_assert_eq!(whole, json!(streamed)),
            (Verdict::Redacted { content, rules }, Ok(streamed)) => {
                prop_assert_eq!(content, json!(streamed));
                let mut triggered = guard.redactions().to_vec();
                triggered.sort_unstable();
                prop_assert_eq!(rules, triggered);
            }
            (Verdict::Blocked { rule }, Err(blocked)) => prop_assert_eq!(rule, blocked.rule),
            (whole, streamed) => prop_assert!(false, "{:?} {:?}", whole, streamed),
        }
    }

    /// No finding, however odd, makes a text longer than its replacements or lets a marked byte through.
    #[test]
    fn marked_bytes_do_not_pass(places in prop::collection::vec((0_usize..4, 0_usize..12, 0_usize..12), 0..8)) {
        let value = json!(["abcdef", "ghijkl"]);
        let findings: Vec<Finding> = places.iter().map(|(number, from, to)| at(*number, *from..*to)).collect();
        let mut texts = Vec::new();
        let _ = value.each(&mut |text: Text<'_>| {
            texts.push(text.text.to_owned());
            std::ops::ControlFlow::Continue(())
        });
        if let Verdict::Redacted { content, .. } = judge(ContentKind::ToolAnswer, value, &findings) {
            let shown = content.to_string().replace("[redacted]", "");
            for finding in findings {
                let Some(Place { number, bytes }) = finding.place else { continue };
                for marked in texts[number][bytes].chars() {
                    prop_assert!(!shown.contains(marked));
                }
            }
        }
    }
}

#[test]
fn places_move_with_what_is_replaced_before_them() {
    let text = "0123456789abcdef";
    let findings = |ranges: &[Range<usize>]| -> Vec<Finding> {
        let finding = |bytes: &Range<usize>| Finding {
            rule: "r".to_owned(),
            action: OnMatch::Redact,
            place: Some(Place {
                number: 0,
                bytes: bytes.clone(),
            }),
        };
        ranges.iter().map(finding).collect()
    };
    for ranges in [
        vec![],
        vec![2..4, 12..13],
        vec![2..6, 4..8],
        vec![2..4, 4..6],
        vec![8..12, 0..1, 2..11],
        vec![3..9, 4..5],
    ] {
        let findings = findings(&ranges);
        let replaced = match judge(ContentKind::Answer, Value::String(text.to_owned()), &findings) {
            Verdict::Allowed(text) | Verdict::Redacted { content: text, .. } => text,
            blocked @ Verdict::Blocked { .. } => panic!("{blocked:?}"),
        };
        let replaced = replaced.as_str().unwrap();
        for at in 0..=text.len() {
            let now = moved(at, &findings);
            let is_inside = ranges.iter().any(|range| range.start < at && at <= range.end);
            if is_inside {
                assert!(replaced[..now].ends_with(REDACTED), "{ranges:?} {at} {now} {replaced}");
            } else if at > 0 {
                assert_eq!(replaced.as_bytes()[now - 1], text.as_bytes()[at - 1], "{ranges:?} {at}");
            }
        }
    }
}
