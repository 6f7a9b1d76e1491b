//! Markdown of models, converted for Slack.

use copilotd::adapters::systems::slack::message::from_markdown;

use super::text::Choices;

const PARTS: &[&str] = &[
    "*",
    "**",
    "_",
    "`",
    "```\n",
    "~~",
    "[",
    "](",
    ")",
    "![",
    "<",
    ">",
    "&",
    "<!channel>",
    "<@U123>",
    "http://x.y/",
    "https://x.y/|z>",
    "javascript:a",
    "\n",
    "\n\n",
    "- ",
    "1. ",
    "> ",
    "| a | b |\n|---|---|\n",
    "# ",
    "\\",
    "&lt;",
    "    ",
    "---\n",
    "x",
    "é",
    "👩‍💻",
    "<b>",
    "</b>",
    "[a]: http://b\n",
    "- [ ] ",
    "\t",
    "^",
    "$$",
    "\u{0}",
];

/// Blocks stay within Slack's limits, and no Slack markup is left that would notify somebody.
#[test]
fn fuzz_markdown() {
    super::fuzz(1024, |input| {
        let (mut choices, mut markdown) = (Choices::new(input), String::new());
        while !choices.is_empty() {
            if choices.byte() < 240 {
                markdown.push_str(choices.of(PARTS));
            } else {
                markdown.push_str(&String::from_utf8_lossy(choices.take(4)));
            }
        }
        let Ok(messages) = from_markdown(&markdown) else { return };
        let blocks = || messages.iter().flat_map(|message| &message.blocks);
        let plain = messages.iter().map(|message| message.text.clone());
        for text in blocks().flat_map(texts).chain(plain) {
            assert!(
                !text.contains("<!") && !text.contains("<@") && !text.contains("<#"),
                "{text:?} of {markdown:?}"
            );
        }
        // Slack's limit for one section; Slack refuses the whole message beyond it.
        let sections = blocks().filter(|block| block["type"] == "section");
        for section in sections {
            let length = section["text"]["text"].as_str().unwrap_or_default().chars().count();
            assert!((1..=3_000).contains(&length), "{length} of {markdown:?}");
        }
    });
}

/// Returns the texts of a block that Slack parses as mrkdwn.
fn texts(block: &serde_json::Value) -> Vec<String> {
    let mut found = Vec::new();
    if block["type"] == "mrkdwn" {
        found.extend(block["text"].as_str().map(str::to_owned));
    }
    match block {
        serde_json::Value::Object(members) => members.values().for_each(|member| found.extend(texts(member))),
        serde_json::Value::Array(items) => items.iter().for_each(|item| found.extend(texts(item))),
        _ => {}
    }
    found
}
