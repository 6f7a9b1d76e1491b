use proptest::prelude::*;

use super::*;

fn plain(text: &str) -> String {
    fold(text, Form::Plain)
}

#[test]
fn spellings_of_one_word() {
    let word = plain("Bluebird");
    for spelling in [
        "bluebird",
        "BLUEBIRD",
        "ｂｌｕｅｂｉｒｄ",
        "𝐁𝐥𝐮𝐞𝐛𝐢𝐫𝐝",
        "𝓑𝓵𝓾𝓮𝓫𝓲𝓻𝓭",
        "ⓑⓛⓤⓔⓑⓘⓡⓓ",
        "blue\u{200b}bird",
        "b\u{200d}l\u{200c}u\u{2060}ebird",
        "blue\u{ad}bird",
        "\u{feff}bluebird",
        "blu\u{fe0f}e\u{34f}bird",
        "b\u{e0062}l\u{e006c}uebird",
        "\u{202e}bluebird\u{202c}",
        "blue\u{0}b\u{8}ird\u{7f}",
        "b̷l̶u̲e̳bird",
        "blue\u{180e}bird",
        "blue\u{2064}bird",
        "blue\u{3164}bird",
        "blue\u{fff9}bird",
        "ᴮluebird",
        "blueb\u{130}rd",
        "\u{1d41b}luebird",
        "blue\u{115f}bird",
        "blue\u{61c}bird",
        "blue\u{e0100}bird",
        "🄱luebird",
        "bl\u{2066}uebird",
        "🅱🅻🆄🅴🅱🅸🆁🅳",
        "🅑🅛🅤🅔🅑🅘🅡🅓",
        "🄑🄛🄤🄔🄑🄘🄡🄓",
        "⒝⒧⒰⒠⒝⒤⒭⒟",
        "🇧🇱🇺🇪🇧🇮🇷🇩",
        "bluebırd",
        "blueb\u{1d6a4}rd",
        "🅱\u{488}luebird",
        "b\u{e48}l\u{e49}u\u{e31}ebird",
        "b\u{93c}l\u{93f}u\u{903}e\u{94d}bird",
        "b\u{3099}l\u{ff9e}uebird",
        "b\u{1b35}l\u{17b6}u\u{f39}ebird",
    ] {
        assert_eq!(plain(spelling), word, "{spelling:?}");
    }
    for between in [
        '\u{483}',
        '\u{488}',
        '\u{489}',
        '\u{5b0}',
        '\u{711}',
        '\u{951}',
        '\u{1d167}',
        '\u{1e8d0}',
        '\u{302a}',
        '\u{a670}',
        '\u{a8e0}',
        '\u{fdd0}',
        '\u{fdef}',
        '\u{fffe}',
        '\u{ffff}',
        '\u{10ffff}',
        '\u{2800}',
        '\u{20dd}',
    ] {
        let spelling: String = "bluebird".chars().flat_map(|c| [c, between]).collect();
        assert_eq!(plain(&spelling), word, "{between:?}");
        assert_eq!(
            fold(&spelling, Form::LookAlike),
            fold("bluebird", Form::LookAlike),
            "{between:?}"
        );
    }
    for (symbols, word) in [("🆗", "ok"), ("🆎🅾🆄t", "about"), ("b🆄g 🔟", "bug 10"), ("⓫❿", "1110")] {
        assert_eq!(plain(symbols), word);
        assert_eq!(fold(symbols, Form::LookAlike), fold(word, Form::LookAlike));
    }
    for digits in ["⑷⑴⑴⑴", "❹❶❶❶", "➃➀➀➀", "➍➊➊➊", "⓸⓵⓵⓵"] {
        assert_eq!(plain(digits), "4111");
    }
    assert_eq!(fold("🅱l🇺ebırd", Form::LookAlike), fold("bluebird", Form::LookAlike));
    for (one, other) in [("か", "が"), ("क", "क़"), ("क", "क्"), ("ก", "ก่")] {
        assert_ne!(plain(one), plain(other));
    }
    for other in ["blue bird", "bluébird", "blue-bird", "вluebird"] {
        assert_ne!(plain(other), word, "{other:?}");
    }
    for (text, folded) in [
        ("Straße", "strasse"),
        ("STRASSE", "strasse"),
        ("ﬁle", "file"),
        ("ſecret", "secret"),
        ("K", "k"),
        ("Å", "å"),
        ("e\u{200b}\u{301}", "é"),
        ("É", "é"),
        ("a \t\r\n\u{a0}\u{3000} b", "a b"),
        ("각", "각"),
        ("\u{1100}\u{1161}\u{11a8}", "각"),
        ("ｶﾞ", "ガ"),
        ("Σς", "σσ"),
        ("½", "1\u{2044}2"),
        ("don´t", "don´t"),
        ("日本語", "日本語"),
        ("Привет", "привет"),
        ("", ""),
        ("\u{200b}", ""),
    ] {
        assert_eq!(plain(text), folded, "{text:?}");
    }
}

#[test]
fn what_looks_alike() {
    let looks = |text: &str| fold(text, Form::LookAlike);
    for (literal, spellings) in [
        (
            "Bluebird",
            &[
                "bluebird",
                "вluebird",
                "bluеbіrd",
                "BIuebird",
                "B1uebird",
                "b|uebird",
                "blüebïrd",
                "ВLUEBIRD",
                "ʙʟᴜᴇʙɪʀᴅ",
                "BLUΕΒΙRD",
                "ｂluebird",
            ][..],
        ),
        ("secret", &["ѕесrеt", "śéçrèt", "SECRET", "secre\u{200b}t"]),
        ("modern", &["modem", "rnodern", "ΜΟDΕRΝ"]),
        ("no 0o", &["nо oO", "NO 00"]),
    ] {
        for spelling in spellings {
            assert_eq!(looks(spelling), looks(literal), "{spelling:?}");
        }
    }
    assert_ne!(looks("bluebird"), looks("greenbird"));
}

#[test]
fn at_most_sixteen_ignorable_characters_in_a_row_are_kept() {
    let many = "\u{200b}".repeat(100);
    let text = format!("a{many}b\u{301}{}c", "\u{337}".repeat(50));
    let whole = IgnorableFilter::default().pass(&text).into_owned();
    assert_eq!(whole, format!("a{}b\u{301}{}c", &many[..16 * 3], "\u{337}".repeat(15)));
    let mut thin = IgnorableFilter::default();
    let pieces: String = text.chars().map(|c| thin.pass(&c.to_string()).into_owned()).collect();
    assert_eq!(pieces, whole);
    assert!(matches!(IgnorableFilter::default().pass("plain"), Cow::Borrowed(_)));
}

#[test]
fn tag_characters_are_kept_in_flags_only() {
    let scotland = "🏴\u{e0067}\u{e0062}\u{e0073}\u{e0063}\u{e0074}\u{e007f}";
    for (text, kept) in [
        (scotland.to_owned(), scotland.to_owned()),
        (format!("{scotland}\u{e0061}b"), format!("{scotland}b")),
        ("a\u{e0001}\u{e0062}c".to_owned(), "ac".to_owned()),
        ("🏴a\u{e0062}".to_owned(), "🏴a".to_owned()),
    ] {
        assert_eq!(IgnorableFilter::default().pass(&text), kept);
        let mut thin = IgnorableFilter::default();
        let pieces: String = text.chars().map(|c| thin.pass(&c.to_string()).into_owned()).collect();
        assert_eq!(pieces, kept);
    }
}

/// Marks that compose with a letter of `bluebird` make another letter of it; all others change nothing, whatever their
/// script and class.
#[test]
fn no_mark_of_another_script_hides_a_latin_word() {
    let word = plain("bluebird");
    for mark in ('\u{370}'..=char::MAX).filter(|c| is_mark(*c)) {
        let spelling: String = "bluebird".chars().flat_map(|c| [c, mark]).collect();
        assert_eq!(plain(&spelling), word, "{mark:?}");
        let looks = fold(&spelling, Form::LookAlike);
        assert_eq!(looks, fold("bluebird", Form::LookAlike), "{mark:?}");
    }
}

#[test]
fn marks_of_a_script_count_in_its_own_texts() {
    for (one, other) in [
        ("ก\u{e48}าน", "กาน"),
        ("น\u{e49}ำ", "นำ"),
        ("ก\u{e31}น", "กน"),
        ("क\u{93f}", "क"),
        ("क\u{93f}", "का"),
        ("ज\u{93c}", "ज"),
        ("র\u{9be}", "র"),
        ("ရ\u{103e}", "ရ"),
        ("ក\u{17b6}", "ក"),
        ("は\u{3099}", "は"),
        ("ｶﾞ", "ｶ"),
        ("כל", "כלב"),
    ] {
        assert_ne!(plain(one), plain(other));
        assert_eq!(plain(one), plain(&format!("{one}\u{200b}")));
    }
    // Another script's mark between them changes nothing here either.
    assert_eq!(plain("ก\u{e48}\u{93c}าน"), plain("ก\u{e48}าน"));
}

#[test]
fn white_space_is_one_space_at_any_length() {
    for between in [
        " ".repeat(34),
        "\n".repeat(100_000),
        " \u{200b}".repeat(500),
        " \t\u{a0}\u{3000}\u{e31}\u{301}".repeat(300),
    ] {
        assert_eq!(plain(&format!("drop{between}table")), "drop table");
    }
}

#[test]
fn segments_are_bounded() {
    for text in [
        "a\u{200b}".repeat(9),
        format!("e{}", "\u{fb1e}".repeat(1000)),
        "\u{1161}".repeat(500),
        "ก".to_owned() + &"\u{e48}".repeat(500),
    ] {
        let mut whole = String::new();
        segments(&text, |segment| {
            assert!(segment.chars().count() <= 1 + MAX_ATTACHED, "{segment:?}");
            whole += segment;
        });
        assert_eq!(whole, text);
    }
}

/// Returns the segments and the folded form, by the tables, and what the filter remembers.
fn by_the_tables(text: &str) -> (Vec<&str>, String, String) {
    let (mut filter, mut all, mut folded) = (IgnorableFilter::default(), Vec::new(), String::new());
    assert_eq!(filter.pass_any(text), text);
    segments_any(text, |segment| {
        all.push(segment);
        fold_segment(segment, Form::Plain, &mut folded);
    });
    (all, folded, format!("{filter:?}"))
}

#[test]
fn simple_texts_are_those_without_invisible_characters() {
    for byte in 0..=u8::MAX {
        let c = char::from(byte);
        let expected = c.is_ascii() && matches!(class(c), Class::Base | Class::Space);
        assert_eq!(is_simple(&format!("abc{c}def")), expected, "{c:?}");
        assert!(!expected || is_space(byte) == (class(c) == Class::Space), "{c:?}");
    }
}

proptest! {
    #[test]
    fn a_simple_text_folds_as_by_the_tables(text in "[ -~\t-\r]{0,40}", cut in 0_usize..40) {
        prop_assert!(is_simple(&text));
        let (segments_by_tables, folded_by_tables, filter_by_tables) = by_the_tables(&text);
        let mut filter = IgnorableFilter::default();
        prop_assert_eq!(filter.pass(&text), text.as_str());
        prop_assert_eq!(format!("{filter:?}"), filter_by_tables);
        let mut all = Vec::new();
        segments(&text, |segment| all.push(segment));
        prop_assert_eq!(all, segments_by_tables);
        let (one, other) = text.split_at(cut.min(text.len()));
        let mut folded = String::new();
        let in_space = fold_simple(one, false, &mut folded);
        fold_simple(other, in_space, &mut folded);
        prop_assert_eq!(folded, folded_by_tables);
    }

    #[test]
    fn a_simple_piece_leaves_the_filter_as_any_piece_does(before in ".{0,24}", text in "[ -~\t-\r]{0,8}", after in ".{0,24}") {
        let (mut by_tables, mut filter) = (IgnorableFilter::default(), IgnorableFilter::default());
        for piece in [&before, &text, &after] {
            prop_assert_eq!(filter.pass(piece), by_tables.pass_any(piece));
            prop_assert_eq!(format!("{filter:?}"), format!("{by_tables:?}"));
        }
    }
}
