//! What a service manager (systemd with `Type=notify`) is told. Without one nothing is.

use sd_notify::NotifyState;

/// Says that requests are served.
pub(super) fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving")]);
}

/// Says that the process is up and waits for another one, which serves.
pub(super) fn standing_by() {
    tell(&[NotifyState::Ready, NotifyState::Status("standing by")]);
}

/// Says that the configuration is being read again; [`ready`] has to follow.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => {
            tracing::debug!(%error, "the service manager is not told of the reload: there is no monotonic clock")
        }
    }
}

/// Says that the process is about to end, however long its drain takes.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "the service manager could not be told of the state of the process");
    }
}
