//! The indexes behind `KnowledgeIndex`: one contract, and what each of them must withstand beyond it.

mod access;
mod contract;
mod erased_bytes;
mod full_disk;
mod ingesting;
mod killed;
mod library;
mod memory;
mod neighbours;
mod postgres;
mod programs;
mod random;
mod sqlite;
mod turn_vectors;
mod vectors;

use std::any::Any;
use std::sync::Arc;

use copilotd_knowledge::index::KnowledgeIndex;

/// Opens an index again.
type Reopen = dyn Fn(Arc<dyn KnowledgeIndex>) -> Arc<dyn KnowledgeIndex> + Send + Sync;

/// A new, empty index of its own for one test.
pub struct Fixture {
    pub index: Arc<dyn KnowledgeIndex>,
    /// Opens the index again after its only reference was dropped; for an index in memory it is the same one.
    pub reopen: Box<Reopen>,
    /// Dropped when the test ends.
    pub _guard: Box<dyn Any + Send + Sync>,
}

impl Fixture {
    /// Closes the index and opens it again.
    pub fn reopen(&mut self) {
        let closed: Arc<dyn KnowledgeIndex> = Arc::new(copilotd_knowledge::fakes::MemoryIndex::new());
        let index = std::mem::replace(&mut self.index, closed);
        self.index = (self.reopen)(index);
    }
}

/// Runs every contract test on the indexes that `$open` creates; if it returns `None`, it has printed why.
macro_rules! index_suite {
    ($open:ident: $($group:ident { $($name:ident)* })*) => {
        $(mod $group {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if let Some(index) = super::$open().await {
                    $crate::index::$group::$name(index).await;
                }
            })*
        })*
    };
    ($open:ident) => {
        index_suite! { $open:
            contract {
                an_empty_index_answers
                content_waits_until_it_is_published
                the_same_content_is_no_work
                the_title_that_a_content_states_stands_in_for_the_tenants
                content_that_failed_is_accepted_again
                quotas_refuse_what_is_too_much
                attributes_are_in_force_from_the_next_search
                documents_page_by_external_id
                everything_is_there_after_a_reopen
                jobs_are_forgotten_when_they_ended
                positions_of_sources_are_kept_and_erased
            }
            ingesting {
                calls_for_an_older_version_change_nothing
                staged_chunks_are_hidden_and_survive
                an_update_keeps_what_did_not_change
                cited_chunks_stay_readable
                a_cited_chunk_can_return
                what_is_not_stored_is_not_published
                a_failure_keeps_the_version_before
                tenants_take_turns
                a_newer_version_waits_in_the_same_place
                attempts_count_until_there_is_progress
            }
            access {
                each_reader_sees_what_it_may
                filters_apply_inside_the_search
                a_reader_of_one_percent_finds_all_of_it
                limits_and_ties_are_exact
            }
            vectors {
                vectors_follow_for_each_space
                every_tenant_gets_a_share_of_the_vectors
                spaces_are_never_mixed
            }
            neighbours {
                two_tenants_with_the_same_document
                ids_of_another_tenant_are_unknown
                deleting_and_erasing_leave_nothing
            }
            programs {
                two_tenants_together_are_each_as_alone
            }
            random {
                it_answers_as_the_model_does
            }
        }
    };
}
pub(crate) use index_suite;
