//! Usage of an attempt: as its provider reported it, and what must be counted where it did not.
//!
//! Invariant: an attempt on which a provider may have worked is never free, and what we count is marked as estimated.

use copilotd_actors::compute;
use copilotd_actors::domain::context::tokens::Sample;
use copilotd_actors::domain::ids::TenantId;
use copilotd_actors::domain::usage::Usage;

use crate::meter::Outcome;
use crate::provider::{ProgressSnapshot, ProviderWork};

/// What is known of an attempt that ended.
#[derive(Debug)]
pub(super) struct KnownUsage {
    /// Whether content arrived.
    pub began: bool,
    /// The provider's last usage report.
    pub reported: Option<Usage>,
    /// Bytes of the answer.
    pub written: u64,
    pub outcome: Outcome,
    pub seen: ProgressSnapshot,
}

/// Usage of an attempt.
#[derive(Debug)]
pub(super) enum AttemptUsage {
    KnownUsage(Usage),
    NeedsCount(PendingCount),
}

/// What must be counted of an attempt.
#[derive(Debug)]
pub(super) struct PendingCount {
    /// What the provider reported.
    reported: Usage,
    /// Whether the prompt must be counted.
    pub(super) prompt: bool,
    answer: Sample,
    /// Bytes of the answer that are missing from the sample.
    unseen: u64,
}

impl KnownUsage {
    /// Decides the usage. A provider that refused did no work. One that had begun to answer, went silent, or was
    /// dropped while it may have worked bills what it did, whether it reports that or not.
    pub(super) fn used(self) -> AttemptUsage {
        let is_free = !self.began
            && match self.outcome {
                Outcome::Failed(class) => self.seen.did_nothing(class),
                Outcome::Left => self.seen.work == ProviderWork::Nothing,
                Outcome::Finished(_) | Outcome::Lost => false,
            };
        let unseen = self.written.saturating_sub(self.seen.answer.written());
        let count = |reported: Usage| PendingCount {
            prompt: reported.prompt_tokens == 0,
            reported,
            answer: self.seen.answer,
            unseen,
        };
        match (self.reported, self.outcome) {
            (Some(reported), Outcome::Finished(_)) => AttemptUsage::KnownUsage(reported),
            // Some providers report the prompt at the beginning and the answer only at the end.
            (Some(reported), _) => AttemptUsage::NeedsCount(count(reported)),
            (None, _) if is_free => AttemptUsage::KnownUsage(Usage::default()),
            (None, _) => AttemptUsage::NeedsCount(count(Usage::default())),
        }
    }
}

impl PendingCount {
    /// Whether the answer is quick to count.
    pub(super) fn is_short(&self) -> bool {
        self.answer.cost() <= compute::INLINE_COST
    }

    /// Counts the answer's tokens on this thread.
    pub(super) fn answer_now(&self) -> u64 {
        self.answer.count() + self.unseen.div_ceil(4)
    }

    /// Estimates the answer without the tokenizer.
    pub(super) fn coarse(&self) -> u64 {
        self.answer.coarse() + self.unseen.div_ceil(4)
    }

    /// Counts the answer on the compute pool.
    pub(super) async fn answer(&self, tenant: &TenantId) -> u64 {
        let answer = self.answer.clone();
        let counted = compute::run(Some(tenant), answer.cost(), move || answer.count()).await;
        // A rough number is better than none.
        counted.unwrap_or(self.answer.coarse()) + self.unseen.div_ceil(4)
    }

    /// Merges the counts into the reported usage. For the answer, the larger number wins.
    pub(super) fn with(&self, prompt_tokens: u64, answer: u64) -> Usage {
        let mut usage = self.reported;
        if self.prompt {
            usage.prompt_tokens = prompt_tokens;
            usage.estimated |= prompt_tokens > 0;
        }
        if usage.completion_tokens < answer {
            usage.completion_tokens = answer;
            usage.estimated = true;
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use copilotd_actors::domain::content::Finish;
    use copilotd_actors::domain::failure::FailureClass;

    use super::*;

    /// Text of 11 tokens and 41 bytes.
    const ANSWER: &str = "Thirty days hath September, April, June.\n";

    #[test]
    fn an_attempt_for_which_a_provider_may_have_worked_is_never_free() {
        use FailureClass::{Cut, Key, Malformed, Network, Overload, Rate, TimedOut};
        let reported = |completion_tokens| {
            Some(Usage {
                prompt_tokens: 90,
                completion_tokens,
                ..Usage::default()
            })
        };
        let failed = Outcome::Failed;
        let done = Outcome::Finished(Finish::Stop);
        let answered = copilotd_actors::domain::context::tokens::count(ANSWER);
        let all = (100, answered, true);
        let prompt = (100, 0, true);
        let nothing = (0, 0, false);
        let cases = [
            // Name, outcome, whether content arrived, what was reported, whether the provider worked; what is recorded.
            (
                "reported at the end",
                done,
                true,
                reported(10),
                ProviderWork::Accepted,
                (90, 10, false),
            ),
            (
                "fewer than we would count",
                done,
                true,
                reported(3),
                ProviderWork::Accepted,
                (90, 3, false),
            ),
            ("finished without a word", done, true, None, ProviderWork::Accepted, all),
            (
                "cut without a word",
                failed(Cut),
                true,
                None,
                ProviderWork::Accepted,
                all,
            ),
            (
                "silent in the middle",
                failed(TimedOut),
                true,
                None,
                ProviderWork::Accepted,
                all,
            ),
            (
                "reset in the middle",
                failed(Network),
                true,
                None,
                ProviderWork::Accepted,
                all,
            ),
            (
                "overloaded in the middle",
                failed(Overload),
                true,
                None,
                ProviderWork::Nothing,
                all,
            ),
            (
                "cut after the prompt was reported",
                failed(Cut),
                true,
                reported(1),
                ProviderWork::Accepted,
                (90, answered, true),
            ),
            (
                "cut after all was reported",
                failed(Cut),
                true,
                reported(20),
                ProviderWork::Accepted,
                (90, 20, false),
            ),
            (
                "left without a word",
                Outcome::Left,
                true,
                None,
                ProviderWork::Accepted,
                all,
            ),
            (
                "left after the prompt was reported",
                Outcome::Left,
                true,
                reported(1),
                ProviderWork::Accepted,
                (90, answered, true),
            ),
            (
                "left before it began",
                Outcome::Left,
                false,
                None,
                ProviderWork::Accepted,
                prompt,
            ),
            (
                "left while it was sent",
                Outcome::Left,
                false,
                None,
                ProviderWork::Unknown,
                prompt,
            ),
            (
                "left before it was sent",
                Outcome::Left,
                false,
                None,
                ProviderWork::Nothing,
                nothing,
            ),
            (
                "silent from the start",
                failed(TimedOut),
                false,
                None,
                ProviderWork::Accepted,
                prompt,
            ),
            (
                "silent without a head",
                failed(TimedOut),
                false,
                None,
                ProviderWork::Unknown,
                prompt,
            ),
            (
                "no connection in time",
                failed(TimedOut),
                false,
                None,
                ProviderWork::Nothing,
                nothing,
            ),
            (
                "no connection",
                failed(Network),
                false,
                None,
                ProviderWork::Nothing,
                nothing,
            ),
            (
                "reset before an answer",
                failed(Network),
                false,
                None,
                ProviderWork::Unknown,
                prompt,
            ),
            (
                "an empty answer",
                failed(Cut),
                false,
                None,
                ProviderWork::Accepted,
                prompt,
            ),
            (
                "nonsense",
                failed(Malformed),
                false,
                None,
                ProviderWork::Accepted,
                prompt,
            ),
            ("refused", failed(Key), false, None, ProviderWork::Nothing, nothing),
            ("limited", failed(Rate), false, None, ProviderWork::Unknown, nothing),
            (
                "overloaded",
                failed(Overload),
                false,
                None,
                ProviderWork::Nothing,
                nothing,
            ),
            (
                "no room to read what came",
                failed(Overload),
                false,
                None,
                ProviderWork::Accepted,
                prompt,
            ),
            (
                "refused after the prompt was reported",
                failed(Overload),
                false,
                reported(0),
                ProviderWork::Nothing,
                (90, 0, false),
            ),
        ];
        for (name, outcome, began, reported, work, expected) in cases {
            let mut answer = Sample::default();
            if began {
                answer.add(ANSWER);
            }
            let known = KnownUsage {
                began,
                reported,
                written: answer.written(),
                outcome,
                seen: ProgressSnapshot {
                    work,
                    reported: None,
                    answer,
                },
            };
            let usage = match known.used() {
                AttemptUsage::KnownUsage(usage) => usage,
                AttemptUsage::NeedsCount(count) => {
                    assert!(count.is_short());
                    count.with(100, count.answer_now())
                }
            };
            let got = (usage.prompt_tokens, usage.completion_tokens, usage.estimated);
            assert_eq!(got, expected, "{name}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_counted_by_the_tokenizer_and_what_nobody_kept_by_its_length() {
        let text = "7 ".repeat(500);
        let mut answer = Sample::default();
        answer.add(&text);
        let count = PendingCount {
            reported: Usage::default(),
            prompt: true,
            answer,
            unseen: 10,
        };
        let expected = copilotd_actors::domain::context::tokens::count(&text) + 3;
        assert!(expected > 500, "{expected}: four bytes a token would be half of it");
        let tenant = "acme".parse().unwrap();
        assert_eq!((count.answer_now(), count.answer(&tenant).await), (expected, expected));
    }
}
