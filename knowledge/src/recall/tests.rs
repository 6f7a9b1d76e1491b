use copilotd_actors::ports::Vector;
use proptest::prelude::*;

use super::*;

/// Adds a turn of ten tokens without vectors.
fn say(recall: &mut Recall, speaker: Option<&str>, text: &str) -> u64 {
    recall.push(Turn {
        speaker,
        text,
        tokens: 10,
        alone: None,
        after_previous: None,
    })
}

fn selected(recall: &Recall, question: &str, tokens: u64, recent_tokens: u64) -> Vec<(u64, Reason)> {
    let question = Question {
        text: question,
        vector: None,
        before: None,
    };
    let budget = Budget { tokens, recent_tokens };
    let selection = recall.select(question, budget);
    selection.turns.iter().map(|turn| (turn.turn, turn.reason)).collect()
}

/// Returns the turn that bears most on a question.
fn best(recall: &Recall, question: &str) -> Option<u64> {
    let turns = selected(recall, question, 1_000, 0);
    let best = turns.iter().find(|(_, reason)| *reason == Reason::Relevant { rank: 1 });
    best.map(|(turn, _)| *turn)
}

#[test]
fn relevant_turns_come_with_their_neighbours_in_the_order_in_which_they_were_said() {
    let mut recall = Recall::new();
    for text in [
        "Hello!",
        "What will you plant?",
        "Tulips in the garden, I think",
        "Good luck with that",
        "My invoice is wrong",
        "Which one?",
        "The one of May",
        "I see",
    ] {
        say(&mut recall, None, text);
    }
    let relevant = |rank| Reason::Relevant { rank };
    let neighbour = |of| Reason::Neighbour { of };
    for (question, tokens, recent, expected) in [
        ("tulips in the garden", 20, 0, vec![(1, relevant(2)), (2, relevant(1))]),
        (
            "tulips in the garden",
            30,
            0,
            vec![(1, relevant(2)), (2, relevant(1)), (3, relevant(3))],
        ),
        (
            "tulips",
            30,
            10,
            vec![(1, relevant(2)), (2, relevant(1)), (7, Reason::Recent)],
        ),
        ("tulips", 9, 9, vec![]),
        ("zebras", 100, 20, vec![(6, Reason::Recent), (7, Reason::Recent)]),
        ("", 100, 0, vec![]),
    ] {
        assert_eq!(
            selected(&recall, question, tokens, recent),
            expected,
            "{question} {tokens} {recent}"
        );
    }
    // Five turns have to do with it: three by words of their window, two only because of who stands beside them.
    let wide = selected(&recall, "tulips in the garden", 1_000, 0);
    assert_eq!(
        wide.iter()
            .filter(|(_, reason)| matches!(reason, Reason::Neighbour { .. }))
            .count(),
        2
    );
    assert_eq!(wide[0], (0, neighbour(1)));
}

#[test]
fn turns_of_the_speaker_whom_a_question_names_count_more() {
    let mut recall = Recall::new();
    let bo = say(&mut recall, Some("Bo"), "I love painting and painting again");
    say(&mut recall, None, "Then came a lull");
    say(&mut recall, None, "And another lull");
    let ann = say(
        &mut recall,
        Some("Ann"),
        "I love painting, too, on some of the weekends",
    );
    assert_eq!(best(&recall, "Who loves painting?"), Some(bo));
    assert_eq!(best(&recall, "Does Ann love painting?"), Some(ann));
}

#[test]
fn a_long_paste_does_not_displace_everything_else() {
    let mut recall = Recall::new();
    let paste = "tulip ".repeat(100);
    let turn = |text, tokens| Turn {
        speaker: None,
        text,
        tokens,
        alone: None,
        after_previous: None,
    };
    recall.push(turn(&paste, 60));
    recall.push(turn("A tulip", 10));
    assert_eq!(selected(&recall, "tulip", 100, 0).len(), 1);
    assert_eq!(selected(&recall, "tulip", 120, 0).len(), 2);
}

#[test]
fn vectors_find_what_shares_no_word() {
    let space = "m".into();
    let unit = |values: &[f32]| Vector::unit(&space, values.to_vec()).unwrap();
    let mut recall = Recall::new();
    for (text, vector) in [("red", [1.0, 0.0]), ("blue", [0.1, 1.0]), ("green", [1.0, 0.1])] {
        let vector = unit(&vector);
        recall.push(Turn {
            speaker: None,
            text,
            tokens: 10,
            alone: Some(&vector),
            after_previous: Some(&vector),
        });
    }
    let vector = unit(&[0.0, 1.0]);
    let question = Question {
        text: "navy",
        vector: Some(&vector),
        before: None,
    };
    let selection = recall.select(
        question,
        Budget {
            tokens: 20,
            recent_tokens: 0,
        },
    );
    assert_eq!(selection.turns.iter().map(|turn| turn.turn).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(selection.omitted, 1);
}

#[test]
fn turns_that_the_asker_has_are_not_selected_and_count_as_neighbours() {
    let mut recall = Recall::new();
    for text in ["tulips", "I see", "what?", "tulips again"] {
        say(&mut recall, None, text);
    }
    let question = |before| Question {
        text: "tulips",
        vector: None,
        before: Some(before),
    };
    let turns = |before| -> Vec<u64> {
        let selection = recall.select(question(before), Budget::of(1_000));
        selection.turns.iter().map(|turn| turn.turn).collect()
    };
    assert_eq!(turns(0), [] as [u64; 0]);
    assert_eq!(turns(3), [0, 1, 2]);
    assert_eq!(turns(4), turns(99));
    assert!(turns(4).contains(&3));
}

#[test]
fn vectors_that_come_later_are_as_if_they_had_come_first() {
    let vector = |n: u32| {
        let component = |i: u32| ((n * 7_919 + i * i * 31) % 101) as f32 - 50.0;
        Vector::unit(&"m".into(), (0..64).map(component).collect()).unwrap()
    };
    let again = |vector: &Vector| {
        let values = packed(vector).into_iter().map(f32::from).collect();
        Vector::unit(&"m".into(), values).unwrap()
    };
    let build = |late: &[u32]| {
        let mut recall = Recall::new();
        for n in 0..12 {
            let (alone, after_previous) = (vector(n), vector(n + 100));
            let comes = !late.contains(&n);
            recall.push(Turn {
                speaker: None,
                text: "x",
                tokens: 5,
                alone: Some(&alone).filter(|_| comes),
                after_previous: Some(&after_previous).filter(|_| comes),
            });
        }
        // In any order, and with components that were stored with 8 bits.
        for n in late {
            recall.set_vectors(u64::from(*n), &again(&vector(*n)), &again(&vector(n + 100)));
        }
        recall.set_vectors(99, &vector(1), &vector(2));
        recall
    };
    let asked = vector(3);
    let question = Question {
        text: "y",
        vector: Some(&asked),
        before: None,
    };
    let expected = build(&[]).select(question, Budget::of(40));
    assert!(!expected.turns.is_empty());
    for late in [
        &[3, 2, 4][..],
        &[0],
        &[11, 0, 5],
        &[11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0],
    ] {
        assert_eq!(build(late).select(question, Budget::of(40)), expected, "{late:?}");
    }
    assert!(!build(&[]).vectors.is_empty() && !Recall::new().has_vectors());
}

#[test]
fn turns_are_embedded_alone_and_after_the_previous_one() {
    for (turn, previous, expected) in [
        ((None, "Yes"), None, ["Yes", "Yes"]),
        ((None, "Yes"), Some((None, "In May?")), ["Yes", "In May?\nYes"]),
        (
            (Some("Bo"), "Yes"),
            Some((Some("Ann"), "In May?")),
            ["Bo: Yes", "Ann: In May?\nBo: Yes"],
        ),
    ] {
        assert_eq!(Recall::to_embed(turn, previous), expected);
    }
}

#[test]
fn the_oldest_turns_are_forgotten_beyond_the_bound_and_numbers_stay() {
    let mut recall = Recall::new();
    for n in 0..MAX_TURNS {
        say(&mut recall, None, &format!("w{n}"));
    }
    let bytes = recall.bytes();
    assert_eq!(say(&mut recall, None, "last"), MAX_TURNS as u64);
    assert_eq!(recall.len(), MAX_TURNS - MAX_TURNS / 4 + 1);
    assert!(recall.bytes() < bytes);
    assert_eq!(best(&recall, "w17"), None);
    let newer = MAX_TURNS as u64 - 3;
    assert_eq!(best(&recall, &format!("w{newer}")), Some(newer));
}

fn vector_of(text: &str) -> Vector {
    let values = text.bytes().zip(1_u8..).map(|(byte, at)| f32::from(byte ^ at));
    Vector::unit(&"m".into(), values.chain([1.0; 40]).take(12).collect()).unwrap()
}

proptest! {
    #[test]
    fn a_selection_keeps_its_budget_and_the_order_and_is_the_same_every_time(
        turns in prop::collection::vec(("[a-d]{1,2}( [a-d]{1,2}){0,5}", 1_u64..50), 0..40),
        question in "[a-d]{1,2}( [a-d]{1,2}){0,3}",
        tokens in 0_u64..400,
        recent_tokens in 0_u64..500,
    ) {
        let mut recall = Recall::new();
        for (text, tokens) in &turns {
            recall.push(Turn { speaker: None, text, tokens: *tokens, alone: None, after_previous: None });
        }
        let question = Question { text: &question, vector: None, before: None };
        let selection = recall.select(question, Budget { tokens, recent_tokens });
        prop_assert!(selection.tokens <= tokens);
        prop_assert_eq!(selection.tokens, selection.turns.iter().map(|turn| turns[turn.turn as usize].1).sum::<u64>());
        prop_assert!(selection.turns.windows(2).all(|pair| pair[0].turn < pair[1].turn));
        prop_assert_eq!(recall.select(question, Budget { tokens, recent_tokens }), selection);
    }

    #[test]
    fn what_is_left_after_forgetting_is_as_if_the_rest_had_never_been(
        turns in prop::collection::vec("[a-d]{1,2}( [a-d]{1,2}){0,5}", 1..30),
        question in "[a-d]{1,2}( [a-d]{1,2}){0,3}",
        oldest in 0_usize..30,
    ) {
        let oldest = oldest.min(turns.len());
        let vector = vector_of;
        let build = |turns: &[String]| {
            let mut recall = Recall::new();
            for text in turns {
                let vector = vector(text);
                recall.push(Turn { speaker: None, text, tokens: 5, alone: Some(&vector), after_previous: Some(&vector) });
            }
            recall
        };
        let mut forgetful = build(&turns);
        forgetful.forget(oldest);
        let fresh = build(&turns[oldest..]);
        let vector = vector(&question);
        let question = Question { text: &question, vector: Some(&vector), before: None };
        let of = |recall: &Recall| {
            let selection = recall.select(question, Budget::of(40));
            selection.turns.iter().map(|turn| (turn.turn, turn.tokens, turn.score)).collect::<Vec<_>>()
        };
        let expected: Vec<_> = of(&fresh).into_iter().map(|(turn, tokens, score)| (turn + oldest as u64, tokens, score)).collect();
        prop_assert_eq!(of(&forgetful), expected);
        // The same without the newest, and with others in their place.
        let mut cut = build(&turns);
        cut.truncate(oldest);
        prop_assert_eq!(of(&cut), of(&build(&turns[..oldest])));
        for text in &turns[oldest..] {
            let vector = self::vector_of(text);
            cut.push(Turn { speaker: None, text, tokens: 5, alone: Some(&vector), after_previous: Some(&vector) });
        }
        prop_assert_eq!(of(&cut), of(&build(&turns)));
    }
}
