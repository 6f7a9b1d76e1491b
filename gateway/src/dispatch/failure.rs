//! Errors for the caller when no provider answered.

use copilotd_actors::domain::failure::FailureClass;
use copilotd_actors::ports::{ModelError, RefusedBy};

use crate::error::{GatewayError, GatewayErrorKind};

/// Converts a failure before anything was released.
pub(super) fn before(error: ModelError, only_keys_failed: bool, attempts: u32) -> GatewayError {
    let refused_by = error.refusal.as_deref().map(|refusal| refusal.by);
    // A missing target (404, 405, 410) says nothing about the request.
    let is_about_request = match refused_by {
        Some(RefusedBy::Adapter) => true,
        Some(RefusedBy::Provider(status)) => matches!(status, 400..=499) && !matches!(status, 404 | 405 | 410),
        None => false,
    };
    let kind = match error.class {
        FailureClass::Key if only_keys_failed => GatewayErrorKind::CredentialsExhausted,
        FailureClass::Rate | FailureClass::Limit => GatewayErrorKind::RateLimited,
        FailureClass::Budget => GatewayErrorKind::BudgetExhausted,
        FailureClass::ContextLength => GatewayErrorKind::ContextTooLong,
        FailureClass::ContentPolicy => GatewayErrorKind::ContentPolicy,
        FailureClass::Rejected if is_about_request => GatewayErrorKind::Invalid,
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
        for (class, refused_by, kind, kind_within) in [
            (Class::Key, None, Kind::CredentialsExhausted, Kind::Cut),
            (Class::Rate, None, Kind::RateLimited, Kind::RateLimited),
            (Class::Overload, None, Kind::Unavailable, Kind::Cut),
            (
                Class::ContextLength,
                Some(RefusedBy::Provider(400)),
                Kind::ContextTooLong,
                Kind::Cut,
            ),
            (
                Class::ContentPolicy,
                Some(RefusedBy::Provider(400)),
                Kind::ContentPolicy,
                Kind::ContentPolicy,
            ),
            (Class::Rejected, None, Kind::Unavailable, Kind::Cut),
            (
                Class::Rejected,
                Some(RefusedBy::Provider(422)),
                Kind::Invalid,
                Kind::Cut,
            ),
            (
                Class::Rejected,
                Some(RefusedBy::Provider(404)),
                Kind::Unavailable,
                Kind::Cut,
            ),
            (
                Class::Rejected,
                Some(RefusedBy::Provider(302)),
                Kind::Unavailable,
                Kind::Cut,
            ),
            (Class::Rejected, Some(RefusedBy::Adapter), Kind::Invalid, Kind::Cut),
            (
                Class::Rejected,
                Some(RefusedBy::Provider(501)),
                Kind::Unavailable,
                Kind::Cut,
            ),
            (Class::TimedOut, None, Kind::Timeout, Kind::Timeout),
            (Class::Cut, None, Kind::Unavailable, Kind::Cut),
            (Class::Malformed, None, Kind::Unavailable, Kind::Cut),
            (Class::Network, None, Kind::Unavailable, Kind::Cut),
        ] {
            let error = ModelError {
                class,
                message: String::new(),
                retry_after: None,
                refusal: refused_by.map(|by| Box::new(Refusal::new(by))),
            };
            assert_eq!(before(error.clone(), true, 1).kind, kind, "{class:?}");
            assert_eq!(within(error, 1).kind, kind_within, "{class:?}");
        }
    }
}
