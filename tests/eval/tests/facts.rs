//! That facts about users are precise, single and current; see `tests/eval/facts/README.md`.

use copilotd_eval::table::Table;

#[tokio::test(start_paused = true)]
async fn facts_are_precise_single_and_current() {
    let figures = copilotd_eval::facts::measure().await;
    assert!(figures.stored >= 200, "{figures:#?}");
    let table = Table(figures.lines());
    println!("{table}");
    assert!(table.is_met(), "{table}{figures:#?}");
}
