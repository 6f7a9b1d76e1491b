//! A sample of the evaluation, by words alone, in a few seconds: that the sets are read, searched and measured as they were,
//! and that lexical ranking does not get worse unnoticed. Runs where `COPILOTD_EVAL_DATA` names the sets.

use std::path::PathBuf;

use copilotd_eval::table::Line;
use copilotd_eval::{banking, scifact};

#[expect(clippy::disallowed_methods, reason = "tests are configured by the environment")]
fn data() -> Option<PathBuf> {
    std::env::var_os("COPILOTD_EVAL_DATA").map(PathBuf::from)
}

fn assert_at_least(lines: &[Line], expected: [f64; 2]) {
    for (line, least) in lines.iter().zip(expected) {
        assert!(line.measured.mean >= least, "{}: {:?}", line.name, line.measured);
    }
}

#[tokio::test]
async fn words_alone_rank_as_well_as_they_did() {
    let Some(data) = data() else {
        eprintln!("COPILOTD_EVAL_DATA is not set: nothing to measure");
        return;
    };
    assert_at_least(&scifact::measure(&data, None, None, 60).await.unwrap(), [0.70, 0.95]);
    assert_at_least(&banking::measure(&data, None, None, 30).await.unwrap(), [0.12, 0.35]);
}
