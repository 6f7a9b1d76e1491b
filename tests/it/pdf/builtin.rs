//! The reader that is part of the program, in the same kind of process as PDFium.

use std::time::Duration;

use copilotd::adapters::pdf::Settings;
use copilotd_knowledge::document::Format;
use copilotd_knowledge::extract::{ExtractError, Extractor, Limits};

use super::documents::{all, burning, document, encrypted, pages};
use super::mutations::{Mutator, outcome};
use super::{PATIENCE, pool, read, read_within, sandboxed, tenant};

/// Settings under which only what a test is about ends a document.
fn ample() -> Settings {
    Settings {
        workers: 2,
        deadline: PATIENCE,
        wait: PATIENCE,
        processor_seconds: PATIENCE.as_secs(),
        ..Settings::built_in()
    }
}

#[tokio::test]
async fn documents_have_pages_and_a_title() {
    let pool = pool(ample());
    assert_eq!(pool.probe().await, Ok(()));
    let content = pages(&["Refunds take five days.", "", "Second page"], "/Title(The Handbook)");
    let read = read(&pool, &content).await.unwrap();
    assert_eq!(read.title.as_deref(), Some("The Handbook"));
    let texts: Vec<&str> = read.pages.iter().map(|page| page.trim()).collect();
    assert_eq!(texts, ["Refunds take five days.", "", "Second page"]);
}

/// Draws a content with a font that has widths, and a form with text of its own.
fn drawing(content: &str) -> Vec<u8> {
    let widths = ["500"; 95].join(" ");
    let font = format!("<</Type/Font/Subtype/Type1/BaseFont/Helvetica/FirstChar 32/Widths[{widths}]>>");
    let stream =
        |attributes: &str, text: &str| format!("<<{attributes}/Length {}>>\nstream\n{text}\nendstream", text.len());
    document(
        &[
            "<</Type/Catalog/Pages 2 0 R>>",
            "<</Type/Pages/Kids[4 0 R]/Count 1>>",
            &font,
            "<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Contents 5 0 R/Resources<</Font<</F 3 0 R>>/XObject<</X 6 0 R>>>>>>",
            &stream("", content),
            &stream(
                "/Type/XObject/Subtype/Form/BBox[0 0 600 800]/Matrix[1 0 0 1 0 -50]/Resources<</Font<</G 3 0 R>>>>",
                "BT /G 10 Tf 20 600 Td (in a form) Tj ET",
            ),
        ],
        "",
    )
}

#[tokio::test]
async fn strings_are_words_and_lines_by_their_places() {
    let extractor = Extractor::new(std::sync::Arc::new(pool(ample())), Limits::default());
    for (content, expected) in [
        ("BT /F 10 Tf 20 700 Td (one) Tj (two) Tj ET", "onetwo"),
        ("BT /F 10 Tf 20 700 Td (one) Tj 18 0 Td (two) Tj ET", "one two"),
        ("BT /F 10 Tf 20 700 Td (one) Tj 16 0 Td (two) Tj ET", "onetwo"),
        ("BT /F 10 Tf 20 700 Td [(o) 100 (ne) -300 (two)] TJ ET", "one two"),
        ("BT /F 10 Tf 20 700 Td (one) Tj 0 -12 Td (two) Tj ET", "one\ntwo"),
        (
            "BT /F 10 Tf 12 TL 20 700 Td (one) Tj T* (two) Tj (three) ' ET",
            "one\ntwo\nthree",
        ),
        ("BT /F 10 Tf 20 700 Td (H) Tj 5 -3 Td (2) Tj 5 3 Td (O) Tj ET", "H2O"),
        ("BT /F 10 Tf 20 700 Td (trans-) Tj 0 -12 Td (port) Tj ET", "transport"),
        ("BT /F 10 Tf 20 700 Td (Mar-) Tj 0 -12 Td (No) Tj ET", "Mar-\nNo"),
        (
            "q 2 0 0 2 0 0 cm BT /F 10 Tf 20 300 Td (one) Tj ET Q BT /F 10 Tf 40 500 Td (two) Tj ET",
            "one\ntwo",
        ),
        ("BT /F 10 Tf 20 700 Td (before) Tj ET /X Do", "before\nin a form"),
        (
            "BT /F 10 Tf 20 700 Td (no such font) Tj /G 10 Tf (lost) Tj ET",
            "no such font",
        ),
    ] {
        let read = extractor
            .extract(&tenant("acme"), drawing(content), Format::Pdf, None)
            .await;
        assert_eq!(read.unwrap().text, expected, "{content}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_has_a_named_error() {
    let pool = pool(ample());
    let tight = Limits {
        pages: 2,
        text_bytes: 40,
        ..Limits::default()
    };
    for (what, content, expected) in [
        ("nothing", Vec::new(), ExtractError::Damaged),
        ("no PDF", b"GIF89a".repeat(1_000), ExtractError::Damaged),
        ("no page", pages(&[], ""), ExtractError::Damaged),
        ("encrypted", encrypted(), ExtractError::Encrypted),
        ("many pages", pages(&["a", "b", "c"], ""), ExtractError::TooManyPages),
        (
            "much text",
            pages(&["This is a page of more than forty bytes."; 2], ""),
            ExtractError::TooLarge,
        ),
    ] {
        assert_eq!(read_within(&pool, &content, &tight).await, Err(expected), "{what}");
    }
}

#[tokio::test]
async fn a_document_that_takes_too_much_is_ended() {
    let heavy = burning();
    let slow = pool(Settings {
        processor_seconds: 1,
        ..ample()
    });
    assert_eq!(read(&slow, &heavy).await, Err(ExtractError::TimedOut));
    let late = pool(Settings {
        deadline: Duration::from_secs(2),
        ..ample()
    });
    assert_eq!(read(&late, &heavy).await, Err(ExtractError::TimedOut));
    let small = pool(Settings {
        memory: 32 * 1024 * 1024,
        ..ample()
    });
    let mut large = document(&["<</Type/Catalog>>"], "");
    large.resize(64 * 1024 * 1024, b' ');
    assert_eq!(read(&small, &large).await, Err(ExtractError::OutOfMemory));
    assert!(read(&small, &pages(&["Still there"], "")).await.is_ok());
}

#[tokio::test]
async fn it_has_no_network_no_files_and_no_environment() {
    sandboxed(ample(), burning()).await;
}

#[tokio::test]
async fn mutated_documents_end_in_time() {
    let pool = pool(Settings {
        deadline: Duration::from_secs(20),
        processor_seconds: 5,
        memory: 128 * 1024 * 1024,
        ..ample()
    });
    let mut mutator = Mutator::new(7);
    let documents = all();
    for number in 0..120 {
        outcome(&pool, &mutator.mutate(&documents[number % documents.len()])).await;
    }
}
