use copilotd::adapters::systems::tools::text::{RESULT_BYTES, clip, fit};
use proptest::prelude::*;
use serde_json::{Value, json};

#[test]
fn short_texts_stay_as_they_are() {
    assert_eq!(clip("Grüße", 7), "Grüße");
    assert_eq!(clip("", 0), "");
}

#[test]
fn what_is_cut_is_counted() {
    assert_eq!(
        clip(&"x".repeat(100), 60),
        format!("{}… [80 more characters]", "x".repeat(20))
    );
}

#[test]
fn a_list_that_does_not_fit_is_cut_and_counted() {
    let items: Vec<Value> = (0..100).map(|n| json!({ "n": n, "text": "y".repeat(1000) })).collect();
    let (kept, left_out) = fit(items, &json!({}));
    assert_eq!(kept.len() + left_out, 100);
    assert!(kept.len() > 15);
    assert!(json!({ "items": kept }).to_string().len() <= RESULT_BYTES);
}

proptest! {
    #[test]
    fn a_clipped_text_needs_no_more_room_than_allowed(text in any::<String>(), max in 80_usize..400) {
        let clipped = clip(&text, max);
        prop_assert!(json!(clipped).to_string().len() <= max + 2);
    }
}
