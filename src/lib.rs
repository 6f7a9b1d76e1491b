//! copilotd
