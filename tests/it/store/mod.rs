//! The stores behind `EventLog`: one contract, and what each of them must withstand beyond it.

mod audit;
mod broken_rows;
mod contract;
mod damaged;
mod erased_text;
mod erasing;
mod facts;
mod files;
mod full_disk;
mod history;
mod jobs;
mod killed;
mod measure;
mod memory;
pub mod mongo;
mod mongo_faults;
mod mongo_fence;
mod mongo_lease;
mod paging;
mod projections;
mod quotas;
mod random;
mod revocations;
mod search;
mod sqlite;
mod tenants;
mod usage;

use std::any::Any;
use std::sync::Arc;

use copilotd_actors::ports::EventLog;
use futures::future::BoxFuture;

/// A new, empty store of its own for one test.
pub struct Fixture {
    pub log: Arc<dyn EventLog>,
    /// Deletes everything that can be rebuilt from the log.
    pub drop_projections: Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
    /// Whether the store itself limits the size of an append.
    pub bounded: bool,
    /// Dropped when the test ends.
    pub _guard: Box<dyn Any + Send + Sync>,
}

/// Runs every contract test on the stores that `$open` creates; if it returns `None`, it has printed why.
macro_rules! contract_suite {
    ($open:ident: $($group:ident { $($name:ident)* })*) => {
        $(mod $group {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(store) = super::$open().await {
                    $crate::store::$group::$name(store).await;
                }
            })*
        })*
    };
    ($open:ident) => {
        contract_suite! { $open:
            contract {
                an_append_is_read_back_as_it_was
                an_append_is_all_or_nothing
                malformed_appends_are_refused
                the_second_append_at_a_number_conflicts
                an_append_behind_or_beyond_the_end_conflicts
                a_repeated_append_is_success
                of_concurrent_appends_at_one_number_one_wins
                concurrent_conversations_do_not_disturb_each_other
                numbers_and_key_order_survive
                a_large_append_is_kept_and_a_huge_one_refused
                nothing_crosses_tenants
                an_empty_store_answers
            }
            paging {
                reading_pages_at_every_cut
                a_turn_is_found_among_others
                messages_page_both_ways
                lists_are_newest_first
                lists_filter_by_user_channel_and_erasure
                pending_pages_over_all_tenants
            }
            search {
                titles_prompts_and_answers_are_found
                nobody_finds_what_is_not_their_own
                what_was_erased_is_not_found
                pages_lose_nothing_and_repeat_nothing
                a_long_conversation_is_searched_in_parts
            }
            projections {
                a_header_shows_each_append_at_once
                a_snapshot_replaces_an_older_one
                lost_projections_are_rebuilt_from_the_log
            }
            quotas {
                what_is_kept_is_counted
                erasing_gives_back_what_was_kept
                a_rebuild_counts_the_same
            }
            erasing {
                a_tombstone_refuses_every_append
                erasing_leaves_only_the_tombstone
                erasing_twice_deletes_nothing_more
                only_the_tombstone_can_be_erased_up_to
                a_long_conversation_is_erased_whole
                rebuilding_keeps_what_is_erased_erased
            }
        }
    };
}
pub(crate) use contract_suite;
