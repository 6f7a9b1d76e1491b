//! Who finds what: the filters work inside both searches.

use std::collections::BTreeMap;

use copilotd_knowledge::document::{Access, Attributes, Reader};
use copilotd_knowledge::index::{Hit, Search};
use serde_json::{Value, json};

use super::Fixture;
use super::library::{Library, caller, chunks, collection, embed, key, listed, readable_by, terms};

const ADMIN: Reader = Reader::Administrator;

pub async fn each_reader_sees_what_it_may(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let accesses = [
        ("everyone", Access::Everyone),
        ("ann", listed(&["ann"], &[])),
        ("staff", listed(&[], &["staff", "board"])),
        ("both", listed(&["ann"], &["staff"])),
        ("nobody", listed(&[], &[])),
        // A user that is named like a role is not one.
        ("confused", listed(&["staff"], &["ann"])),
    ];
    let mut ids = Vec::new();
    for (second, (name, access)) in (1..).zip(&accesses) {
        let text = format!("alpha {name}");
        let document = acme.put(&key(name), &text, readable_by(access.clone()), second).await;
        ids.extend(chunks(document.id, &text).into_iter().map(|(chunk, _)| chunk.id));
    }
    for reader in [
        ADMIN,
        caller(None, &[]),
        caller(None, &["staff"]),
        caller(Some("ann"), &[]),
        caller(Some("ann"), &["staff"]),
        caller(Some("bob"), &["board", "other"]),
        caller(Some("eve"), &[]),
    ] {
        let allowed = accesses.iter().filter(|(_, access)| reader.may_read(access));
        let mut allowed: Vec<String> = allowed.map(|(name, _)| format!("alpha {name}")).collect();
        let (mut lexical, mut semantic) = acme.texts("alpha", &reader).await;
        let read = acme.index.read(&acme.scope, &reader, &ids).await.unwrap();
        let mut read: Vec<String> = read.into_iter().map(|chunk| chunk.draft.text).collect();
        for found in [&mut allowed, &mut lexical, &mut semantic, &mut read] {
            found.sort();
        }
        assert_eq!(
            (&lexical, &semantic, &read),
            (&allowed, &allowed, &allowed),
            "{reader:?}"
        );
    }
}

pub async fn filters_apply_inside_the_search(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    let metadata = |pairs: &[(&str, Value)]| Attributes {
        metadata: pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect::<BTreeMap<_, _>>(),
        ..Attributes::default()
    };
    let documents = [
        ("a", metadata(&[("lang", json!("de")), ("year", json!(2026))])),
        ("b", metadata(&[("lang", json!("de")), ("year", json!("2026"))])),
        ("c", metadata(&[("lang", json!("en")), ("public", json!(true))])),
        ("d", metadata(&[])),
    ];
    for (second, (name, attributes)) in (1..).zip(&documents) {
        // The best match is never the one that is wanted.
        let text = format!("alpha {}", "beta ".repeat(second));
        acme.put(&key(name), &text, attributes.clone(), i64::try_from(second).unwrap())
            .await;
    }
    let mut elsewhere = key("e");
    elsewhere.collection = collection("other");
    acme.put(&elsewhere, "alpha elsewhere", documents[0].1.clone(), 9).await;
    for (filter, expected) in [
        (vec![("lang", json!("de"))], "ab"),
        (vec![("lang", json!("de")), ("year", json!(2026))], "a"),
        (vec![("year", json!("2026"))], "b"),
        (vec![("public", json!(true))], "c"),
        (vec![("public", json!(false))], ""),
        (vec![("lang", json!("de")), ("public", json!(true))], ""),
        (vec![("unknown", json!(1))], ""),
        (vec![], "abcd"),
    ] {
        for limit in [1, 9] {
            let found = acme.search_with("alpha", &ADMIN, &filter, limit).await;
            for hits in [&found.lexical, &found.semantic] {
                let ids: Vec<_> = hits.iter().map(|hit| hit.chunk).collect();
                let read = acme.index.read(&acme.scope, &ADMIN, &ids).await.unwrap();
                let mut names: Vec<&str> = read.iter().map(|chunk| chunk.key.external_id.as_str()).collect();
                names.sort_unstable();
                assert_eq!(names.len(), expected.len().min(limit), "{filter:?}");
                assert!(
                    names.iter().all(|name| expected.contains(name)),
                    "{filter:?}: {names:?}"
                );
            }
        }
    }
    let mut search = Search {
        collections: Vec::new(),
        reader: ADMIN,
        filter: Vec::new(),
        terms: vec!["alpha".to_owned()],
        vector: Some(embed(&acme.space, "alpha")),
        limit: 9,
    };
    for (names, expected) in [
        (vec![], 0),
        (vec!["other"], 1),
        (vec!["other", "handbook", "other"], 5),
        (vec!["missing"], 0),
    ] {
        search.collections = names.iter().map(|name| collection(name)).collect();
        let found = acme.index.search(&acme.scope, &search).await.unwrap();
        assert_eq!(
            (found.lexical.len(), found.semantic.len()),
            (expected, expected),
            "{names:?}"
        );
    }
    search.vector = None;
    search.collections = vec![collection("handbook")];
    let found = acme.index.search(&acme.scope, &search).await.unwrap();
    assert_eq!((found.lexical.len(), found.semantic.len()), (4, 0));
}

/// 400 chunks nearer to the question than any of the four that the reader may see.
pub async fn a_reader_of_one_percent_finds_all_of_it(fixture: Fixture) {
    let (acme, noisy) = (
        Library::new(&fixture.index, "acme"),
        Library::new(&fixture.index, "noisy"),
    );
    let question = "alpha beta gamma";
    let own: Vec<String> = (0..4)
        .map(|n| format!("own {n} alpha {}", "filler ".repeat(n + 1)))
        .collect();
    for (second, text) in (1..).zip(&own) {
        acme.put(
            &key(&format!("own{second}")),
            text,
            readable_by(listed(&["ann"], &[])),
            second,
        )
        .await;
    }
    let passages = |from: usize| {
        let passages: Vec<String> = (from..from + 20).map(|n| format!("alpha beta gamma {n}")).collect();
        passages.join("\n\n")
    };
    for n in 0..20 {
        let others = readable_by(listed(&["bob"], &["staff"]));
        let (name, text) = (key(&format!("other{n}")), passages(20 * n));
        let second = 10 + i64::try_from(n).unwrap();
        acme.put(&name, &text, others.clone(), second).await;
        noisy.put(&name, &text, Attributes::default(), second).await;
    }
    let ann = caller(Some("ann"), &[]);
    for limit in [4, 10, 500] {
        let found = acme.search(question, &ann, limit).await;
        for hits in [&found.lexical, &found.semantic] {
            let mut texts = acme.texts_of(hits).await;
            texts.sort();
            assert_eq!(texts, own);
        }
        // In the exact order, by the exact scores.
        let exact = |text: &str| f64::from(embed(&acme.space, text).cosine(&embed(&acme.space, question)));
        for Hit { chunk, score } in &found.semantic {
            let read = acme.index.read(&acme.scope, &ADMIN, &[*chunk]).await.unwrap();
            assert_eq!(exact(&read[0].draft.text).to_bits(), score.to_bits());
        }
        assert!(found.semantic.is_sorted_by(|a, b| a.score >= b.score));
    }
}

pub async fn limits_and_ties_are_exact(fixture: Fixture) {
    let acme = Library::new(&fixture.index, "acme");
    for n in 0..30 {
        // The same text in 30 documents: all scores tie.
        acme.put(&key(&n.to_string()), "alpha beta", Attributes::default(), n)
            .await;
    }
    acme.put(&key("best"), "alpha", Attributes::default(), 40).await;
    let all = acme.search("alpha", &ADMIN, 100).await;
    for hits in [&all.lexical, &all.semantic] {
        assert_eq!(hits.len(), 31);
        assert!(hits[1..].is_sorted_by_key(|hit| hit.chunk));
        assert!(hits[0].score > hits[1].score);
    }
    for limit in [0, 1, 2, 17, 31] {
        let some = acme.search("alpha", &ADMIN, limit).await;
        assert_eq!(some.lexical, all.lexical[..limit]);
        assert_eq!(some.semantic, all.semantic[..limit]);
    }
    // No term of the question, or none that is known.
    let none = acme.search("omega", &ADMIN, 9).await;
    assert_eq!((none.lexical.len(), none.semantic.len()), (0, 9));
    assert_eq!(terms("alpha alpha"), [("alpha".to_owned(), 2)]);
}
