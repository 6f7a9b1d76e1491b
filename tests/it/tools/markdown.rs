use copilotd::adapters::systems::slack::message::{self, Message};
use proptest::prelude::*;

/// A text that fits into one message.
fn from_markdown(text: &str) -> Result<Message, copilotd_actors::ports::ToolError> {
    let mut messages = message::from_markdown(text)?;
    assert_eq!(messages.len(), 1);
    Ok(messages.remove(0))
}

/// The sections of all messages.
fn all_sections(text: &str) -> Vec<String> {
    message::from_markdown(text)
        .unwrap()
        .iter()
        .flat_map(sections)
        .collect()
}

fn sections(message: &Message) -> Vec<String> {
    let texts = message.blocks.iter().map(|block| block["text"]["text"].as_str());
    texts.map(|text| text.unwrap_or("---").to_owned()).collect()
}

#[test]
fn markdown_becomes_mrkdwn() {
    for (markdown, mrkdwn) in [
        ("plain words", "plain words"),
        ("**bold** and *italic* and ~~gone~~", "*bold* and _italic_ and ~gone~"),
        ("# Title\n\nText", "*Title*\n\nText"),
        ("## A **bold** title", "*A bold title*"),
        ("one\ntwo", "one\ntwo"),
        ("first\n\nsecond", "first\n\nsecond"),
        ("- a\n- b", "• a\n• b"),
        ("- a\n  - b\n    - c\n- d", "• a\n    • b\n        • c\n• d"),
        ("3. a\n4. b", "3. a\n4. b"),
        ("- a\n\n  more of a", "• a\n  more of a"),
        ("- [x] done\n- [ ] open", "• ☑ done\n• ☐ open"),
        ("> said\n> so", "> said\n> so"),
        ("`code`", "`code`"),
        ("`` a`b ``", "`a'b`"),
        ("```rust\nlet a = 1 < 2;\n```", "```\nlet a = 1 &lt; 2;\n```"),
        ("[here](https://a.test/?a=1&b=2)", "<https://a.test/?a=1&amp;b=2|here>"),
        ("<https://a.test/>", "<https://a.test/>"),
        ("[**bold** link](https://a.test/)", "<https://a.test/|*bold* link>"),
        ("![a picture](https://a.test/p.png)", "<https://a.test/p.png|a picture>"),
        ("[![in](https://b.test/)](https://a.test/)", "<https://a.test/|in>"),
        ("[mail](mailto:a@b.test)", "<mailto:a@b.test|mail>"),
        (
            "| a | bb |\n|---|---|\n| ccc | <d> |",
            "```\na   | bb\n----|----\nccc | &lt;d&gt;\n```",
        ),
        ("5 < 6 & 7 > 3", "5 &lt; 6 &amp; 7 &gt; 3"),
        ("text\n\n---\n\nmore", "text§---§more"),
    ] {
        assert_eq!(
            sections(&from_markdown(markdown).unwrap()).join("§"),
            mrkdwn,
            "{markdown}"
        );
    }
}

#[test]
fn nothing_in_a_text_can_ping_anybody() {
    for (markdown, mrkdwn) in [
        ("<!channel> look", "&lt;!channel&gt; look"),
        ("<!here|here>", "&lt;!here|here&gt;"),
        ("<@U12345678>", "&lt;@U12345678&gt;"),
        ("&lt;!channel&gt;", "&lt;!channel&gt;"),
        ("&#60;!channel&#62;", "&lt;!channel&gt;"),
        ("\\<!channel\\>", "&lt;!channel&gt;"),
        ("[x](!channel)", "x"),
        ("[x](@U12345678)", "x"),
        ("[x](<!subteam^S1>)", "x"),
        ("[x](javascript:alert(1))", "x"),
        (
            "[a > <!channel> b](https://a.test/)",
            "<https://a.test/|a &gt; &lt;!channel&gt; b>",
        ),
        (
            "[x](<https://a.test/> <!channel>>)",
            "[x](<https://a.test/> &lt;!channel&gt;&gt;)",
        ),
        ("[x](<https://a.test/|y>)", "<https://a.test/%7Cy|x>"),
        ("`<!channel>`", "`&lt;!channel&gt;`"),
        ("```\n<!channel>\n```", "```\n&lt;!channel&gt;\n```"),
        (
            "~~~\n```\n<!channel>\n~~~",
            "```\n`\u{200b}`\u{200b}`\n&lt;!channel&gt;\n```",
        ),
    ] {
        let message = from_markdown(markdown).unwrap();
        assert_eq!(sections(&message).join("§"), mrkdwn, "{markdown}");
        assert_harmless(&message);
    }
}

#[test]
fn a_long_message_is_split_within_slacks_limits() {
    let words = "lorem ipsum & dolor <sit> amet ".repeat(1000);
    let code = format!("```\n{}```\n", "let a = 1 && 2;\n".repeat(1000));
    let links = "[a link](https://a.test/a/very/long/path/that/takes/room) ".repeat(100);
    for markdown in [&words, &code, &links, &"x".repeat(40_000), &"&".repeat(20_000)] {
        for message in message::from_markdown(markdown).unwrap() {
            assert_limits(&message);
            assert_harmless(&message);
        }
    }
    let kept: String = all_sections(&words).join(" ");
    assert_eq!(kept.matches("dolor").count(), 1000, "nothing is lost");
    let code = all_sections(&code);
    assert!(
        code.iter()
            .all(|section| section.starts_with("```\n") && section.ends_with("\n```"))
    );
    assert_eq!(code.concat().matches("let a").count(), 1000);
}

/// The tool offers 40,000 characters: whatever they are, they are posted, and nothing of them is missing.
#[test]
fn forty_thousand_characters_are_a_bounded_number_of_messages() {
    let full = |text: &str| text.repeat(40_000 / text.chars().count());
    for (markdown, most) in [
        (full("lorem ipsum dolor sit amet "), 6),
        (full("x"), 6),
        (full("&"), 25),
        (full("\u{1}x"), 6),
        (full("日本語"), 6),
        (full("👩‍👩‍👧‍👦"), 12),
        (full("a\n\n---\n\n"), 16),
        (full("- a\n"), 12),
        (full("# a\n\n"), 12),
        (full("`a` *b* **c** "), 6),
        (full("[a](https://a.test/b) "), 12),
        (full("\"\\\n\n"), 16),
        (format!("```\n{}```\n", full("let a = 1;\n")), 8),
    ] {
        let messages = message::from_markdown(&markdown).unwrap();
        let beginning: String = markdown.chars().take(12).collect();
        assert!(messages.len() <= most, "{beginning:?}: {}", messages.len());
        for message in &messages {
            assert_limits(message);
            assert_harmless(message);
        }
        let wanted = |c: &char| c.is_alphabetic() && *c != '\u{fffd}';
        let before = markdown.chars().filter(wanted).count();
        let after = messages.iter().flat_map(sections).collect::<String>();
        assert!(
            after.chars().filter(wanted).count() >= before.saturating_sub(1),
            "{beginning:?}"
        );
    }
}

#[test]
fn what_is_drawn_as_one_character_is_not_cut() {
    for family in ["👩‍👩‍👧‍👦", "👍🏽", "e\u{301}", "1\u{fe0f}\u{20e3}"] {
        for before in 0..4 {
            let text = format!("{}{}", "x".repeat(before), family.repeat(2_000));
            for section in all_sections(&text) {
                assert!(section.trim_start_matches('x').starts_with(family), "{family}");
                assert!(section.ends_with(family), "{family}");
            }
        }
    }
}

#[test]
fn a_short_text_cannot_become_an_enormous_message() {
    let nested = format!("{}x\n{}", "- ".repeat(10_000), "y\n".repeat(5_000));
    let table = format!(
        "| {} | b |\n|---|---|\n{}",
        "w".repeat(10_000),
        "| a | b |\n".repeat(2_000)
    );
    let quotes = format!("{}x", "> ".repeat(10_000));
    for markdown in [&nested, &table, &quotes] {
        match message::from_markdown(markdown) {
            Ok(messages) => {
                assert!(messages.len() <= 30);
                messages.iter().for_each(assert_limits);
            }
            Err(error) => assert!(error.message.contains("nothing was posted"), "{error}"),
        }
    }
    assert!(message::from_markdown(&format!("```\n{}\n```", " ".repeat(9_000))).is_err());
}

#[test]
fn rules_become_dividers_until_there_are_too_many() {
    let message = from_markdown("a\n\n---\n\nb").unwrap();
    assert_eq!(message.blocks[1]["type"], "divider");
    let messages = message::from_markdown(&"text\n\n---\n\n".repeat(100)).unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(sections(&messages[0]).concat().matches("text").count(), 100);
    let messages = message::from_markdown(&"text\n\n---\n\n".repeat(40)).unwrap();
    assert_eq!(messages.len(), 2, "fifty blocks each");
    assert_eq!(messages.iter().map(|message| message.blocks.len()).sum::<usize>(), 80);
}

#[test]
fn names_are_not_turned_into_mentions_and_long_texts_not_folded() {
    let message = from_markdown("ask @here in #support").unwrap();
    assert_eq!(message.blocks[0]["text"]["verbatim"], true);
    assert_eq!(message.blocks[0]["expand"], true);
    assert_eq!(message.text, "ask @here in #support");
}

#[test]
fn a_message_without_text_is_refused() {
    for nothing in ["", "  \n", "---", "\u{1}\u{2}"] {
        assert!(message::from_markdown(nothing).is_err(), "{nothing:?}");
    }
}

fn assert_limits(message: &Message) {
    assert!(message.blocks.len() <= 50);
    let json = serde_json::to_string(&message.blocks).unwrap();
    assert!(json.encode_utf16().count() <= 11_000, "{}", json.len());
    assert!(!message.text.trim().is_empty());
    assert!(message.text.encode_utf16().count() <= 4000);
    for section in sections(message) {
        assert!(section.encode_utf16().count() <= 3000, "{}", section.len());
        assert!(!section.is_empty());
    }
}

/// Every `<` opens a link to the outside, and every `&` is one of Slack's three entities.
fn assert_harmless(message: &Message) {
    for text in sections(message).iter().chain([&message.text]) {
        for (at, _) in text.match_indices('<') {
            let rest = &text[at + 1..];
            let outside = ["http://", "https://", "http:", "https:", "mailto:"];
            let lower = rest.to_lowercase();
            assert!(outside.iter().any(|scheme| lower.starts_with(scheme)), "{text}");
            let inside = rest.split('>').next().unwrap();
            assert!(rest.contains('>') && !inside.contains('<'), "{text}");
        }
        for (at, _) in text.match_indices('&') {
            let known = ["&amp;", "&lt;", "&gt;"];
            assert!(known.iter().any(|entity| text[at..].starts_with(entity)), "{text}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_ever_becomes_markup_of_slacks_own(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "<", ">", "!", "@U1", "channel", "&", "&lt;", "&amp;", "|", "[", "]", "(", ")", "`", "```", "~~~", "\n",
                "\n\n", "*", "**", "_", "- ", "1. ", "> ", "# ", "https://a.test/", "mailto:a@b.c", "<!", "<!--", "<@",
                "<div>", "| a | b |\n|---|---|\n", "\\", " ", "x", "é", "😀", "---\n", "    ", "&#60;", "![",
            ]),
            0..60,
        )
    ) {
        for message in message::from_markdown(&parts.concat()).unwrap_or_default() {
            assert_harmless(&message);
            assert_limits(&message);
        }
    }

    #[test]
    fn any_length_keeps_the_limits(text in "[a-z<>&*` \n😀\\[\\]()|-]{0,9000}") {
        for message in message::from_markdown(&text).unwrap_or_default() {
            assert_harmless(&message);
            assert_limits(&message);
        }
    }
}
