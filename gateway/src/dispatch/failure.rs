//! Errors for the caller when no provider answered.

use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::ModelError;

use crate::error::{GatewayError, GatewayErrorKind};
use crate::provider::UNSUPPORTED;

/// Converts a failure before anything was released.
pub(super) fn before(error: ModelError, only_keys_failed: bool, attempts: u32) -> GatewayError {
    // A refusal that is not about the request has no status of its own.
    let status = error.refusal.as_deref().map_or(0, |refusal| refusal.status);
    let kind = match error.class {
        FailureClass::Key if only_keys_failed => GatewayErrorKind::CredentialsExhausted,
        FailureClass::Rate | FailureClass::Limit => GatewayErrorKind::RateLimited,
        FailureClass::Budget => GatewayErrorKind::BudgetExhausted,
        FailureClass::ContextLength => GatewayErrorKind::ContextTooLong,
        FailureClass::ContentPolicy => GatewayErrorKind::ContentPolicy,
        FailureClass::Rejected if matches!(status, 400..=499 | UNSUPPORTED) && !matches!(status, 404 | 405 | 410) => {
            GatewayErrorKind::Invalid
        }
        FailureClass::TimedOut => GatewayErrorKind::Timeout,
        FailureClass::Key
        | FailureClass::Rejected
        | FailureClass::Cut
        | FailureClass::Overload
        | FailureClass::Malformed
        | FailureClass::Network => GatewayErrorKind::Unavailable,
    };
    gateway_error(error, kind, attempts)
}

/// Converts a failure of an answer that had begun.
pub(super) fn within(error: ModelError, attempts: u32) -> GatewayError {
    let kind = match error.class {
        FailureClass::TimedOut => GatewayErrorKind::Timeout,
        FailureClass::ContentPolicy => GatewayErrorKind::ContentPolicy,
        FailureClass::Rate => GatewayErrorKind::RateLimited,
        _ => GatewayErrorKind::Cut,
    };
    gateway_error(error, kind, attempts)
}

fn gateway_error(error: ModelError, kind: GatewayErrorKind, attempts: u32) -> GatewayError {
    GatewayError {
        kind,
        message: error.message,
        retry_after: error.retry_after,
        refusal: error.refusal,
        limit: None,
        attempts,
    }
}

#[cfg(test)]
mod tests {
    use copilotd_actors::ports::Refusal;

    use super::*;

    #[test]
    fn each_class_has_its_kind_before_and_after_the_first_content() {
        use FailureClass as Class;
        use GatewayErrorKind as Kind;
        for (class, status, kind, kind_within) in [
            (Class::Key, None, Kind::CredentialsExhausted, Kind::Cut),
            (Class::Rate, None, Kind::RateLimited, Kind::RateLimited),
            (Class::Overload, None, Kind::Unavailable, Kind::Cut),
            (Class::ContextLength, Some(400), Kind::ContextTooLong, Kind::Cut),
            (
                Class::ContentPolicy,
                Some(400),
                Kind::ContentPolicy,
                Kind::ContentPolicy,
            ),
            (Class::Rejected, None, Kind::Unavailable, Kind::Cut),
            (Class::Rejected, Some(422), Kind::Invalid, Kind::Cut),
            (Class::Rejected, Some(404), Kind::Unavailable, Kind::Cut),
            (Class::Rejected, Some(302), Kind::Unavailable, Kind::Cut),
            (Class::Rejected, Some(UNSUPPORTED), Kind::Invalid, Kind::Cut),
            (Class::TimedOut, None, Kind::Timeout, Kind::Timeout),
            (Class::Cut, None, Kind::Unavailable, Kind::Cut),
            (Class::Malformed, None, Kind::Unavailable, Kind::Cut),
            (Class::Network, None, Kind::Unavailable, Kind::Cut),
        ] {
            let error = ModelError {
                class,
                message: String::new(),
                retry_after: None,
                refusal: status.map(|status| {
                    Box::new(Refusal {
                        status,
                        ..Refusal::default()
                    })
                }),
            };
            assert_eq!(before(error.clone(), true, 1).kind, kind, "{class:?}");
            assert_eq!(within(error, 1).kind, kind_within, "{class:?}");
        }
    }
}
