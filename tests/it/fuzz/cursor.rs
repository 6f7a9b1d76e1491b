//! Cursors of pages.

use copilotd::http::page::{cursor, position};

/// A cursor decodes to what was encoded, only for its own list; anything else is refused.
#[test]
fn fuzz_cursor() {
    super::fuzz(256, |input| {
        let text = String::from_utf8_lossy(input).into_owned();
        let at = (input.len() as u64, text.clone());
        let written = cursor("conversations", &at);
        assert_eq!(position::<(u64, String)>("conversations", &written).unwrap(), at);
        assert!(position::<(u64, String)>("messages", &written).is_err());
        if let Ok(read) = position::<(u64, String)>("conversations", &text) {
            let again = cursor("conversations", &read);
            assert_eq!(position::<(u64, String)>("conversations", &again).unwrap(), read);
        }
    });
}
