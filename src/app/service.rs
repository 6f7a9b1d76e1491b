//! Notifies the service manager (systemd with `Type=notify`) of state changes; does nothing without one.

use sd_notify::NotifyState;

/// Notifies that requests are served.
pub(super) fn ready() {
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Notifies that the process is up as a standby of another process.
pub(super) fn standing_by() {
    notify(&[NotifyState::Ready, NotifyState::Status("standing by")]);
}

/// Notifies that the configuration is being reloaded; [`ready`] has to follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => {
            tracing::debug!(%error, "could not notify the service manager of the reload: no monotonic clock")
        }
    }
}

/// Notifies that the process is stopping, however long its drain takes.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "could not notify the service manager (sd_notify) of a state change");
    }
}
