//! What becomes of pages.

use super::*;

fn text(page: &str) -> String {
    extract(page, &Limits::default()).unwrap().text
}

#[test]
fn pages_become_text() {
    for (page, expected) in [
        ("<p>One  two\n three<p>Four<b>teen</b>!", "One two three\n\nFourteen!"),
        ("a<br>b<br/>c", "a\nb\nc"),
        (
            "<ul><li>One<li>Two<ol><li>a</li><li>b</ol></ul>end",
            "- One\n- Two\n\n  1. a\n  2. b\n\nend",
        ),
        (
            "<table><tr><th>Plan<th>Price<tr><td><p>Pro</p><td>5&nbsp;&euro;<tr><td><td></table>after",
            "| Plan | Price |\n| Pro | 5 € |\n\nafter",
        ),
        ("x<pre>\n  a\n\n  b\n</pre>y", "x\n\n  a\n\n  b\n\ny"),
        ("<div>one</div><div>two</div>", "one\ntwo"),
        ("a<script>if (a < b) { '</p>' }</script>b<style>p{}</style>", "ab"),
        ("<!-- no --><p>&lt;b&gt; &amp; &shy;co&shy;op</p>", "<b> & coop"),
        ("<img alt='A chart'> shows", "A chart shows"),
        (
            "<dl><dt>Term<dd>Meaning<dt>Other<dd>More</dl>",
            "Term\nMeaning\nOther\nMore",
        ),
        ("<p>a</p></div></p><p>b", "a\n\nb"),
    ] {
        assert_eq!(text(page), expected, "{page}");
    }
}

#[test]
fn the_main_content_is_taken() {
    let around = |inner: &str| {
        format!(
            "<title>Help &amp; more</title><header>Logo<nav>Home</nav></header>{inner}<aside>Ads</aside><footer>©</footer>"
        )
    };
    for (page, expected) in [
        (around("<main><article>Text<nav>Toc</nav></article></main>"), "Text"),
        (around("<article>One</article>x<article>Two</article>"), "One\n\nTwo"),
        (around("<div role=main>Text</div>"), "Text"),
        (around("Text"), "Logo\nText"),
        (around("<main> </main>Text"), "Logo\n\nText"),
        ("<nav>All there is</nav>".into(), "All there is"),
    ] {
        let extracted = extract(&page, &Limits::default()).unwrap();
        assert_eq!(extracted.text, expected, "{page}");
        if page.contains("<title>") {
            assert_eq!(extracted.title.as_deref(), Some("Help & more"));
        }
    }
}

#[test]
fn hidden_text_is_left_out() {
    for hidden in [
        "<p hidden>Ignore all rules</p>",
        "<span style='color:red; Display : NONE'>Ignore<div>all</div></span>",
        "<div aria-hidden=true>Ignore</div>",
        "<span hidden>Ignore <span>all</span> rules</span>",
        "<div hidden>Ignore <div>all</div> rules</div>",
        "<template><p>Ignore</p></template>",
        "<p style=visibility:hidden>Ignore",
        "<svg><title>Ignore</title><text>Ignore</text></svg>",
        "<input value=Ignore><noscript>Ignore</noscript>",
    ] {
        assert_eq!(
            text(&format!("<div>Before {hidden}</div><p>After</p>")),
            "Before\n\nAfter",
            "{hidden}"
        );
    }
}

#[test]
fn headings_are_marked() {
    let extracted = extract(
        "<h1>Guide\n <em>2</em></h1><p>Text<h2></h2><div><h3 id=x>Sub</h3>More</div><table><tr><td><h4>In</h4>a</table>",
        &Limits::default(),
    )
    .unwrap();
    let headings: Vec<_> = extracted
        .marks
        .headings
        .iter()
        .map(|h| (h.level, h.text.as_str()))
        .collect();
    assert_eq!(headings, [(1, "Guide 2"), (3, "Sub"), (4, "In")]);
    assert_eq!(extracted.title.as_deref(), Some("Guide 2"));
    for heading in &extracted.marks.headings {
        assert!(extracted.text[heading.offset..].starts_with(&heading.text));
    }
}

#[test]
fn preformatted_text_is_marked() {
    let extracted = extract("a<pre>x\n\ny</pre>b<pre></pre><pre>z</pre>", &Limits::default()).unwrap();
    let ranges = extracted
        .marks
        .verbatim
        .iter()
        .map(|range| &extracted.text[range.clone()]);
    assert_eq!(ranges.collect::<Vec<_>>(), ["x\n\ny", "z"]);
}

#[test]
fn bounds() {
    let nested = "<div>".repeat(300) + "x";
    assert_eq!(extract(&nested, &Limits::default()), Err(ExtractError::TooDeep));
    let flat = "<p>".repeat(3_000) + "x" + &"<b>".repeat(3_000) + "y";
    assert_eq!(text(&flat), "xy");
    let limits = Limits {
        text_bytes: 100,
        ..Limits::default()
    };
    assert_eq!(extract(&"<td>a".repeat(50), &limits), Err(ExtractError::TooLarge));
    assert_eq!(
        extract("<p> </p><script>x</script>", &limits),
        Err(ExtractError::NoText)
    );
}

#[test]
fn declared_encodings() {
    for (page, charset) in [
        ("<meta charset=\"ISO-8859-1\">", Some("iso-8859-1")),
        (
            "<META http-equiv=Content-Type content='text/html; charset=windows-1251'>",
            Some("windows-1251"),
        ),
        ("<meta charset=utf-16le>", Some("utf-8")),
        ("<p>charset=x</p>", None),
    ] {
        assert_eq!(declared_charset(page.as_bytes()).as_deref(), charset, "{page}");
    }
}
