use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A piece: index, id, name, arguments. Arguments that begin with `=` came as an object.
fn piece(index: Option<u64>, id: &str, name: &str, arguments: &str) -> CallPiece {
    CallPiece {
        index,
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: match arguments.strip_prefix('=') {
            Some(value) => Arguments::Value(value.to_owned()),
            None if arguments.is_empty() => Arguments::None,
            None => Arguments::Text(arguments.to_owned()),
        },
    }
}

fn offers(name: &str) -> Option<bool> {
    Some(["look", "send", "get", "get_time", "get_weather", "aa"].contains(&name))
}

fn read(pieces: &[CallPiece]) -> Result<Vec<(String, String)>, &'static str> {
    let mut calls = Calls::default();
    for piece in pieces {
        calls.take(piece.clone(), None, &offers)?;
    }
    let whole = calls.whole()?;
    Ok(whole.into_iter().map(|call| (call.name, call.arguments)).collect())
}

#[test]
fn calls_are_put_together_in_the_ways_of_many_servers() {
    let (a, b) = (r#"{"x":1}"#, r#"{"y":2}"#);
    let zero = Some(0);
    for (what, pieces, expected) in [
        (
            "index alone",
            vec![
                piece(zero, "i", "look", ""),
                piece(zero, "", "", r#"{"x":"#),
                piece(Some(1), "j", "send", b),
                piece(zero, "", "", "1}"),
            ],
            Ok(vec![("look", a), ("send", b)]),
        ),
        (
            "every index 0, and ids",
            vec![piece(zero, "i", "look", a), piece(zero, "j", "send", b)],
            Ok(vec![("look", a), ("send", b)]),
        ),
        (
            "every index 0, and ids, and no arguments of the first",
            vec![piece(zero, "i", "look", ""), piece(zero, "j", "send", b)],
            Ok(vec![("look", ""), ("send", b)]),
        ),
        (
            "every index 0, ids only first, one after the other",
            vec![
                piece(zero, "i", "look", ""),
                piece(zero, "", "", a),
                piece(zero, "j", "send", ""),
                piece(zero, "", "", b),
            ],
            Ok(vec![("look", a), ("send", b)]),
        ),
        (
            "every index 0, ids only first, mixed",
            vec![
                piece(zero, "i", "look", r#"{"x":"#),
                piece(zero, "j", "send", r#"{"y":"#),
                piece(zero, "", "", "1}"),
            ],
            Err(AMBIGUOUS),
        ),
        (
            "no index, and ids",
            vec![
                piece(None, "i", "look", a),
                piece(None, "j", "send", "{"),
                piece(None, "", "", r#""y":2}"#),
            ],
            Ok(vec![("look", a), ("send", b)]),
        ),
        (
            "neither index nor ids",
            vec![piece(None, "", "look", a), piece(None, "", "send", b)],
            Ok(vec![("look", a), ("send", b)]),
        ),
        (
            "neither index nor ids, late names, and pieces of one call within another",
            vec![
                piece(None, "", "get", r#"{"of":2}"#),
                piece(None, "", "", "{"),
                piece(None, "", "get_time", r#"{"of":3}"#),
                piece(None, "", "", r#""of":1}"#),
                piece(None, "", "", r#"{"of":0}"#),
                piece(None, "", "send", ""),
                piece(None, "", "look", ""),
            ],
            Err(AMBIGUOUS),
        ),
        (
            "neither index nor ids, late names, and one call within another",
            vec![
                piece(None, "", "", r#"{"of":"#),
                piece(None, "", "", r#"{"of":1"#),
                piece(None, "", "look", "0}"),
                piece(None, "", "", "}"),
                piece(None, "", "send", ""),
            ],
            Err(AMBIGUOUS),
        ),
        (
            "an id and nothing else while another call is open",
            vec![
                piece(zero, "i", "", r#"{"of":"#),
                piece(zero, "j", "", ""),
                piece(zero, "", "", r#"{"of":1"#),
                piece(zero, "", "look", "0}"),
                piece(zero, "", "look", "}"),
            ],
            Err(AMBIGUOUS),
        ),
        (
            "arguments that are no JSON, beside a call with another index",
            vec![piece(zero, "", "look", "{x}"), piece(Some(1), "", "send", b)],
            Ok(vec![("look", "{x}"), ("send", b)]),
        ),
        (
            "one id for all, and indexes",
            vec![piece(zero, "i", "look", ""), piece(Some(1), "i", "send", b)],
            Ok(vec![("look", ""), ("send", b)]),
        ),
        (
            "an id for every piece",
            vec![
                piece(zero, "i", "look", r#"{"x":"#),
                piece(zero, "j", "", "1}"),
                piece(zero, "k", "", ""),
            ],
            Ok(vec![("look", a)]),
        ),
        (
            "an id for every piece, and the name",
            vec![piece(zero, "i", "look", r#"{"x":"#), piece(zero, "j", "look", "1}")],
            Ok(vec![("look", a)]),
        ),
        (
            "empty ids later",
            vec![
                piece(zero, "i", "look", r#"{"x":"#),
                piece(zero, "", "", "1"),
                piece(zero, "", "", "}"),
            ],
            Ok(vec![("look", a)]),
        ),
        (
            "a late id",
            vec![piece(zero, "", "look", ""), piece(zero, "i", "", a)],
            Ok(vec![("look", a)]),
        ),
        (
            "a late name",
            vec![piece(zero, "i", "", r#"{"x":"#), piece(zero, "", "look", "1}")],
            Ok(vec![("look", a)]),
        ),
        (
            "a late name, by id alone",
            vec![
                piece(zero, "i", "", a),
                piece(zero, "j", "", b),
                piece(zero, "i", "look", ""),
                piece(zero, "j", "send", ""),
            ],
            Ok(vec![("look", a), ("send", b)]),
        ),
        (
            "a name in pieces",
            vec![
                piece(zero, "i", "get_", ""),
                piece(zero, "", "weather", ""),
                piece(zero, "", "", a),
            ],
            Ok(vec![("get_weather", a)]),
        ),
        (
            "a name that grows",
            vec![piece(zero, "i", "get", ""), piece(zero, "i", "get_weather", a)],
            Ok(vec![("get_weather", a)]),
        ),
        (
            "a name in every piece",
            vec![
                piece(zero, "i", "look", r#"{"x":"#),
                piece(zero, "i", "look", "1}"),
                piece(zero, "i", "look", ""),
            ],
            Ok(vec![("look", a)]),
        ),
        (
            "another tool behind one without arguments, by its name alone",
            vec![piece(zero, "", "look", ""), piece(zero, "", "send", b)],
            Ok(vec![("look", ""), ("send", b)]),
        ),
        (
            "an object",
            vec![piece(zero, "i", "look", r#"={"x":1}"#)],
            Ok(vec![("look", a)]),
        ),
        (
            "an empty object, then a text",
            vec![piece(zero, "i", "look", "={}"), piece(zero, "", "", a)],
            Ok(vec![("look", a)]),
        ),
        (
            "an empty object",
            vec![piece(zero, "i", "look", "={ }")],
            Ok(vec![("look", "{}")]),
        ),
        (
            "an object twice",
            vec![
                piece(zero, "i", "look", r#"={"x":1}"#),
                piece(zero, "i", "look", r#"={"x": 1}"#),
            ],
            Ok(vec![("look", a)]),
        ),
        (
            "two objects",
            vec![
                piece(zero, "i", "look", r#"={"x":1}"#),
                piece(zero, "i", "", r#"={"x":2}"#),
            ],
            Err(TWICE),
        ),
        (
            "the whole call again at the end",
            vec![
                piece(zero, "i", "look", r#"{"x":"#),
                piece(zero, "", "", "1}"),
                piece(zero, "i", "look", a),
            ],
            Ok(vec![("look", a)]),
        ),
        (
            "the same tool twice, with one id",
            vec![piece(zero, "i", "look", a), piece(zero, "i", "look", b)],
            Ok(vec![("look", a), ("look", b)]),
        ),
        ("no name", vec![piece(zero, "i", "", a)], Err(NAMELESS)),
        (
            "nothing at all",
            vec![piece(zero, "i", "", ""), piece(None, "", "", "")],
            Ok(vec![]),
        ),
        (
            "a wild index",
            vec![piece(Some(u64::MAX), "i", "look", a)],
            Ok(vec![("look", a)]),
        ),
        (
            "no index on later pieces",
            vec![
                piece(zero, "i", "look", r#"{"x":"#),
                piece(None, "", "", "1}"),
                piece(Some(1), "j", "send", b),
            ],
            Ok(vec![("look", a), ("send", b)]),
        ),
        (
            "no index on the first piece",
            vec![piece(None, "i", "look", r#"{"x":"#), piece(zero, "", "", "1}")],
            Ok(vec![("look", a)]),
        ),
    ] {
        let expected: Result<Vec<(String, String)>, _> = expected.map(|calls: Vec<(&str, &str)>| {
            let owned = |(name, arguments): (&str, &str)| (name.to_owned(), arguments.to_owned());
            calls.into_iter().map(owned).collect()
        });
        assert_eq!(read(&pieces), expected, "{what}");
    }
    let many: Vec<CallPiece> = (0..=MAX_CALLS as u64).map(|n| piece(Some(n), "", "look", a)).collect();
    assert_eq!(read(&many), Err(TOO_MANY));
    let long = piece(Some(0), "i", "look", &format!("{{\"x\":\"{}\"}}", "y".repeat(70_000)));
    assert_eq!(read(&[long]).unwrap()[0].1, "arguments too long");
}

/// How a server tells calls apart.
#[derive(Debug, Clone, Copy)]
struct CallStyle {
    has_index: bool,
    is_index_same: bool,
    has_id: bool,
    is_id_in_every_piece: bool,
    is_name_late: bool,
    is_name_repeated: bool,
}

/// The pieces of call `n`, in order.
fn pieces_of(n: usize, name: &str, arguments: &str, cuts: &[Index], manner: CallStyle) -> Vec<CallPiece> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(arguments.len() + 1)).collect();
    at.extend([0, arguments.len()]);
    at.sort_unstable();
    let texts: Vec<&str> = at.windows(2).map(|pair| &arguments[pair[0]..pair[1]]).collect();
    let named = if manner.is_name_late { texts.len() - 1 } else { 0 };
    let one = |(number, text): (usize, &&str)| CallPiece {
        index: manner
            .has_index
            .then_some(if manner.is_index_same { 0 } else { n as u64 }),
        id: if manner.has_id && (number == 0 || manner.is_id_in_every_piece) {
            format!("call_{n}")
        } else {
            String::new()
        },
        name: if number == named || (manner.is_name_repeated && number > named) {
            name.to_owned()
        } else {
            String::new()
        },
        arguments: Arguments::Text((*text).to_owned()),
    };
    texts.iter().enumerate().map(one).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// Whatever a server leaves out, a tool runs with its own arguments or not at all; where ids or indexes tell the
    /// calls apart, all of them run. Pieces of several calls in turns that nothing tells apart may read exactly like
    /// those of other calls one after the other: of them only the end is asked for.
    #[test]
    fn a_call_never_gets_anothers_arguments(
        cuts in proptest::collection::vec(proptest::collection::vec(any::<Index>(), 0..4), 2..5),
        order in proptest::collection::vec(any::<Index>(), 64),
        flags in any::<[bool; 6]>(),
        same_tool in any::<bool>(),
        nested in any::<bool>(),
        in_turns in any::<bool>(),
    ) {
        let [has_index, is_index_same, has_id, is_id_in_every_piece, is_name_late, is_name_repeated] = flags;
        let manner = CallStyle { has_index, is_index_same, has_id, is_id_in_every_piece, is_name_late, is_name_repeated };
        // Two calls of one tool with nothing to tell them apart are one as far as anybody can see.
        let same_tool = same_tool && (has_id || (has_index && !is_index_same));
        let names = ["look", "send", "get", "get_time"];
        let wanted: Vec<(String, String)> = (0..cuts.len())
            .map(|n| {
                let name = if same_tool { "look" } else { names[n] };
                let arguments = if nested {
                    format!(r#"{{"of":{{"n":{n},"s":"}}{{{n}"}}}}"#)
                } else {
                    format!(r#"{{"of":{n}}}"#)
                };
                (name.to_owned(), arguments)
            })
            .collect();
        let mut queues: Vec<std::collections::VecDeque<CallPiece>> = wanted
            .iter()
            .enumerate()
            .map(|(n, (name, arguments))| pieces_of(n, name, arguments, &cuts[n], manner).into())
            .collect();
        let (mut pieces, mut turn) = (Vec::new(), 0);
        while queues.iter().any(|queue| !queue.is_empty()) {
            let left: Vec<usize> = (0..queues.len()).filter(|n| !queues[*n].is_empty()).collect();
            let chosen = if in_turns { order[turn % order.len()].index(left.len()) } else { 0 };
            turn += 1;
            pieces.extend(queues[left[chosen]].pop_front());
        }
        let tells_apart = (has_id && is_id_in_every_piece) || (has_index && !is_index_same);
        match read(&pieces) {
            Ok(found) => {
                for (name, arguments) in &found {
                    // What is not JSON runs nothing.
                    let is_read = serde_json::from_str::<serde_json::Value>(arguments).is_ok();
                    if is_read && (tells_apart || !in_turns) {
                        prop_assert!(
                            wanted.iter().any(|(tool, own)| tool == name && own == arguments),
                            "{name} {arguments} of {pieces:?}"
                        );
                    }
                }
                if tells_apart {
                    let mut found = found;
                    let mut wanted = wanted;
                    found.sort();
                    wanted.sort();
                    prop_assert_eq!(found, wanted);
                }
            }
            Err(error) => prop_assert!(!tells_apart, "{error}: {pieces:?}"),
        }
    }

    /// The pieces passed on to a client add up to the same calls, however its own reader joins texts.
    #[test]
    fn a_client_gets_the_same_calls(
        cuts in proptest::collection::vec(any::<Index>(), 0..5),
        is_name_late in any::<bool>(),
        is_name_repeated in any::<bool>(),
        has_id in any::<bool>(),
        is_index_same in any::<bool>(),
    ) {
        let manner = CallStyle {
            has_index: true, is_index_same, has_id, is_id_in_every_piece: has_id, is_name_late, is_name_repeated,
        };
        let (one, two) = (r#"{"of":{"n":1}}"#, r#"{"of":2}"#);
        let mut pieces = pieces_of(0, "look", one, &cuts, manner);
        pieces.extend(pieces_of(1, "send", two, &cuts, manner));
        let mut calls = Calls::new(true);
        let mut told: Vec<(String, String, String)> = Vec::new();
        let mut hear = |delta: String| {
            let delta: serde_json::Value = serde_json::from_str(&delta).unwrap();
            let at = usize::try_from(delta["index"].as_u64().unwrap()).unwrap();
            if told.len() <= at {
                assert!(delta["id"].is_string() && delta["function"]["name"].is_string());
                told.resize(at + 1, Default::default());
            }
            let add = |to: &mut String, value: &serde_json::Value| to.push_str(value.as_str().unwrap_or_default());
            add(&mut told[at].0, &delta["id"]);
            add(&mut told[at].1, &delta["function"]["name"]);
            add(&mut told[at].2, &delta["function"]["arguments"]);
        };
        for piece in pieces {
            let Some(at) = calls.take(piece.clone(), None, &offers).unwrap() else { continue };
            if calls.reads_well(at, &piece) {
                calls.passed(at);
                hear(serde_json::json!({
                    "index": piece.index, "id": piece.id, "function": {"name": piece.name, "arguments": piece.arguments.text()},
                }).to_string());
            } else if let Some(delta) = calls.tell(at) {
                hear(delta);
            }
        }
        calls.tell_rest(true, false).into_iter().for_each(&mut hear);
        let heard: Vec<(&str, &str)> = told.iter().map(|(_, name, arguments)| (name.as_str(), arguments.as_str())).collect();
        prop_assert_eq!(heard, [("look", one), ("send", two)]);
        prop_assert!(told[0].0 != told[1].0 && !told[0].0.is_empty());
    }
}
