use jiff::Timestamp;
use jiff::civil::date;

use super::*;

/// Proposes a fact that quotes all of the message, or on the part between `[` and `]`.
fn try_to_accept(message: &str, fact: &str) -> Result<String, Refusal> {
    let start = message.find('[');
    let text = message.replace(['[', ']'], "");
    let range = match (start, message.find(']')) {
        (Some(start), Some(end)) => start..end - 1,
        _ => 0..text.len(),
    };
    let message = UserMessage {
        text: &text,
        day: date(2026, 5, 13),
    };
    accept(
        &Proposed {
            text: fact.to_owned(),
            range,
        },
        message,
    )
}

#[test]
fn what_the_user_said_is_accepted() {
    for (message, fact, expected) in [
        ("I live in Berlin.", "User lives in Berlin", "User lives in Berlin"),
        (
            "Hi! I'm Ann Lee. [My order is late].",
            "The user's order is late",
            "The user's order is late",
        ),
        ("I'm Ann Lee", "The user is named Ann Lee", "The user is named Ann Lee"),
        (
            "I moved to Oslo yesterday",
            "User moved to Oslo yesterday.",
            "User moved to Oslo 2026-05-12.",
        ),
        (
            "I moved to Oslo yesterday",
            "User moved to Oslo on 2026-05-12",
            "User moved to Oslo on 2026-05-12",
        ),
        (
            "I moved three days ago",
            "User moved on 2026-05-10",
            "User moved on 2026-05-10",
        ),
        (
            "I was born on May 3rd, 1990",
            "User was born on 1990-05-03",
            "User was born on 1990-05-03",
        ),
        (
            "My contract ends on 2 June",
            "User's contract ends on 2026-06-02",
            "User's contract ends on 2026-06-02",
        ),
        ("We have 5,000 seats", "User has 5000 seats", "User has 5000 seats"),
        ("I have two dogs", "User has 2 dogs", "User has 2 dogs"),
        ("I don't eat meat", "User does not eat meat", "User does not eat meat"),
        (
            "[My email is a@b.org], not the one above",
            "User's email is a@b.org",
            "User's email is a@b.org",
        ),
        (
            "I am away in two weeks",
            "User is away in two weeks",
            "User is away 2026-05-27",
        ),
        (
            "My wife lives in Rome",
            "User's wife lives in Rome",
            "User's wife lives in Rome",
        ),
    ] {
        assert_eq!(try_to_accept(message, fact).as_deref(), Ok(expected), "{message}");
    }
}

#[test]
fn what_the_user_did_not_say_is_refused() {
    let unsupported = |word: &str| Refusal::Unsupported(word.to_owned());
    let distorted = |word: &str| Refusal::Distorted(word.to_owned());
    let not_stated = Refusal::NotStated;
    for (message, fact, refusal) in [
        // Inventions.
        ("I live in Berlin", "User lives in Paris", unsupported("paris")),
        ("I live in Berlin", "User loves living in Berlin", unsupported("loves")),
        ("I have 3 dogs", "User has 4 dogs", unsupported("4")),
        ("I have three dogs", "User has four dogs", unsupported("four")),
        (
            "I moved yesterday",
            "User moved on 2026-05-11",
            unsupported("2026-05-11"),
        ),
        (
            "I moved yesterday",
            "User moved two days ago",
            unsupported("2026-05-11"),
        ),
        (
            "[I live here]. Berlin is nice",
            "User lives in Berlin",
            unsupported("berlin"),
        ),
        ("I live in Berlin", "User is a customer", Refusal::Malformed),
        // Denials and limits, also outside the range.
        ("I do not eat meat", "User eats meat", distorted("not")),
        ("I don\u{2019}t [eat meat]", "User eats meat", distorted("don't")),
        ("I eat meat", "User never eats meat", distorted("never")),
        ("I used to live in Berlin", "User lives in Berlin", distorted("used")),
        ("I almost bought a car", "User bought a car", distorted("almost")),
        (
            "I no longer work at Acme",
            "User does not work at Acme",
            distorted("longer"),
        ),
        // Other people.
        (
            "My brother lives in Rome and I eat fish",
            "User lives in Rome",
            distorted("brother"),
        ),
        ("She likes my blog", "User likes blog", distorted("she")),
        (
            "He lives in Rome",
            "User lives in Rome",
            not_stated(NotStated::NotAboutUser),
        ),
        ("Paris is big", "User likes Paris", not_stated(NotStated::NotAboutUser)),
        // Questions, guesses, jokes, quotations.
        (
            "Do I live in Berlin?",
            "User lives in Berlin",
            not_stated(NotStated::Question),
        ),
        (
            "If I live in Berlin, do tell",
            "User lives in Berlin",
            not_stated(NotStated::Hypothetical),
        ),
        (
            "I am the king of France, lol",
            "User is the king of France",
            not_stated(NotStated::Hypothetical),
        ),
        (
            "[I am the king of France]. Just kidding!",
            "User is the king of France",
            not_stated(NotStated::Hypothetical),
        ),
        (
            "Maybe I live in Berlin",
            "User lives in Berlin",
            not_stated(NotStated::Hypothetical),
        ),
        (
            "You said I live in Berlin",
            "User lives in Berlin",
            not_stated(NotStated::Reported),
        ),
        (
            "\u{201c}I live in Berlin\u{201d} was my line",
            "User lives in Berlin",
            not_stated(NotStated::Reported),
        ),
        (
            "He yelled \"Go. [I live in Berlin]. Go.\" at noon",
            "User lives in Berlin",
            not_stated(NotStated::Reported),
        ),
        (
            "> [I live in Berlin]\nWhat a thing",
            "User lives in Berlin",
            not_stated(NotStated::Reported),
        ),
        // A quoted line at the beginning of the range, other subjects, what is to come, and denials that are no contrast.
        (
            "> I live in Berlin\nWhat a thing",
            "User lives in Berlin",
            not_stated(NotStated::Reported),
        ),
        (
            "The sign reads: I am closed",
            "User is closed",
            not_stated(NotStated::Reported),
        ),
        (
            "Our customers like pizza",
            "User likes pizza",
            not_stated(NotStated::NotAboutUser),
        ),
        (
            "Please show me the invoice",
            "User has the invoice",
            not_stated(NotStated::NotAboutUser),
        ),
        ("I am away in two weeks", "User is away", distorted("2026-05-27")),
        ("I eat meat, not!", "User eats meat", distorted("not")),
        ("I eat meat, not really", "User eats meat", distorted("not")),
        (
            "I work, not at Acme but at Hooli",
            "User works at Acme",
            distorted("not"),
        ),
        // Times without a date.
        (
            "I moved last week",
            "User moved last week",
            Refusal::UnresolvedTime("last".to_owned()),
        ),
        (
            "I leave on Monday",
            "User leaves on Monday",
            Refusal::UnresolvedTime("monday".to_owned()),
        ),
        // Shape.
        ("I live in Berlin", "", Refusal::Malformed),
        ("I live in Berlin", "User lives in\nBerlin", Refusal::Malformed),
        ("I live in Berlin[]", "User lives in Berlin", Refusal::OutOfRange),
    ] {
        assert_eq!(try_to_accept(message, fact), Err(refusal), "{message} / {fact}");
    }
}

#[test]
fn a_range_must_lie_within_the_message() {
    let message = UserMessage {
        text: "I like \u{e4}pfel",
        day: date(2026, 5, 13),
    };
    for range in [0..100, 8..9, 5..5, 100..200] {
        let proposed = Proposed {
            text: "User likes \u{e4}pfel".to_owned(),
            range,
        };
        assert_eq!(accept(&proposed, message), Err(Refusal::OutOfRange));
    }
}

/// Stores a fact as its admission says.
fn store(facts: &mut Vec<Fact>, text: &str, attribute: Option<Attribute>, second: i64) -> Admission {
    let at = Timestamp::from_second(second).unwrap();
    let admission = admit(facts, text, attribute, at);
    match &admission {
        Admission::New { supersedes, valid_to } => {
            supersedes.iter().for_each(|index| facts[*index].valid_to = Some(at));
            facts.push(Fact {
                text: text.to_owned(),
                attribute,
                valid_from: at,
                said_at: at,
                valid_to: *valid_to,
            });
        }
        Admission::Known(index) => facts[*index].said_at = facts[*index].said_at.max(at),
        Admission::Full => {}
    }
    admission
}

#[test]
fn newer_facts_supersede_what_they_contradict() {
    let new = |supersedes: &[usize]| Admission::New {
        supersedes: supersedes.to_vec(),
        valid_to: None,
    };
    let mut facts = Vec::new();
    let home = Some(Attribute::Home);
    for (second, text, attribute, expected) in [
        (0, "User lives in Berlin", home, new(&[])),
        (1, "The user lives in Berlin.", home, Admission::Known(0)),
        (2, "User lives in Oslo", home, new(&[0])),
        (3, "User eats meat", None, new(&[])),
        (4, "User does not eat meat", None, new(&[2])),
        (5, "User doesn't eat meat", None, Admission::Known(3)),
        (6, "User eats fish", None, new(&[])),
        (7, "User lives in Berlin", home, new(&[1])),
        (8, "User has 12 seats", None, new(&[])),
        (9, "User has 15 seats", None, new(&[6])),
        (10, "User's shop opens at 7", None, new(&[])),
        (11, "User's shop opens at 8", None, new(&[8])),
        (12, "User has account 12", None, new(&[])),
        (13, "User has account 15", None, new(&[])),
    ] {
        assert_eq!(store(&mut facts, text, attribute, second), expected, "{text}");
    }
    let valid: Vec<&str> = facts
        .iter()
        .filter(|fact| fact.valid_to.is_none())
        .map(|fact| fact.text.as_str())
        .collect();
    assert_eq!(
        valid,
        [
            "User does not eat meat",
            "User eats fish",
            "User lives in Berlin",
            "User has 15 seats",
            "User's shop opens at 8",
            "User has account 12",
            "User has account 15"
        ]
    );
    assert_eq!(facts[0].valid_to, Some(facts[1].valid_from), "intervals touch");
}

#[test]
fn proposing_facts_again_stores_nothing() {
    let texts = ["User lives in Berlin", "User has 2 dogs", "User does not eat meat"];
    let mut facts = Vec::new();
    for round in 0..100 {
        for text in texts {
            store(&mut facts, text, None, round);
        }
    }
    assert_eq!(facts.len(), texts.len());
}

#[test]
fn a_user_has_a_bounded_number_of_facts() {
    let mut facts = Vec::new();
    for n in 0..book::MAX_FACTS {
        assert_eq!(
            store(&mut facts, &format!("User owns car {n}"), None, 0),
            Admission::New {
                supersedes: vec![],
                valid_to: None
            }
        );
    }
    assert_eq!(store(&mut facts, "User owns a boat", None, 1), Admission::Full);
    assert_eq!(
        store(&mut facts, "User does not own car 7", None, 1),
        Admission::New {
            supersedes: vec![7],
            valid_to: None
        }
    );
}

#[test]
fn what_was_said_last_holds_in_whatever_order_it_is_learned() {
    let said = [
        (1, "User lives in Berlin"),
        (2, "User lives in Oslo"),
        (3, "User lives in Berlin"),
        (4, "User lives in Rome"),
        (5, "User likes tea"),
        (6, "User does not like tea"),
    ];
    let mut order: Vec<usize> = (0..said.len()).collect();
    // All 720 orders, by Heap's algorithm.
    let mut counters = vec![0; order.len()];
    let mut at = 0;
    loop {
        let mut facts = Vec::new();
        for index in &order {
            let (second, text) = said[*index];
            store(&mut facts, text, Attribute::of(text), second);
        }
        let valid: std::collections::BTreeSet<&str> = facts
            .iter()
            .filter(|fact| fact.valid_to.is_none())
            .map(|fact| fact.text.as_str())
            .collect();
        assert_eq!(
            valid,
            ["User does not like tea", "User lives in Rome"].into(),
            "{order:?}: {facts:?}"
        );
        while at < order.len() && counters[at] >= at {
            counters[at] = 0;
            at += 1;
        }
        if at == order.len() {
            break;
        }
        let other = if at % 2 == 0 { 0 } else { counters[at] };
        order.swap(other, at);
        counters[at] += 1;
        at = 0;
    }
}

#[test]
fn a_value_has_the_attribute_that_its_words_name() {
    for (text, expected) in [
        ("User lives in Berlin", Some(Attribute::Home)),
        ("The user lives in Berlin.", Some(Attribute::Home)),
        ("User moved to Oslo 2026-05-12", Some(Attribute::Home)),
        ("User's wife lives in Rome", None),
        ("User does not live in Berlin", None),
        ("User no longer works at Acme", None),
        ("User works at Acme", Some(Attribute::Employer)),
        ("User works for Acme", Some(Attribute::Employer)),
        ("User works as a nurse", Some(Attribute::Role)),
        ("User's name is Ann", Some(Attribute::Name)),
        ("User is called Ann", Some(Attribute::Name)),
        ("User's email is a@b.c", Some(Attribute::Email)),
        ("User's email address is a@b.c", Some(Attribute::Email)),
        ("User's phone number is 5", Some(Attribute::Phone)),
        ("User is 40 years old", Some(Attribute::Age)),
        ("User's birthday is 1990-05-03", Some(Attribute::Birthday)),
        ("User was born on 1990-05-03", Some(Attribute::Birthday)),
        ("User was born in Rome", None),
        ("User's time zone is CET", Some(Attribute::TimeZone)),
        ("User is on the Pro plan", Some(Attribute::Plan)),
        ("User prefers answers in German", Some(Attribute::Language)),
        ("User has 2 dogs", None),
        ("Name", None),
    ] {
        assert_eq!(Attribute::of(text), expected, "{text}");
    }
}
