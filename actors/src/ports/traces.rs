//! Traces that continue across a stored record.

/// Continues a trace across a stored record: takes the request's `traceparent` and returns a span with that parent.
pub trait Traces: Send + Sync {
    /// Opens the span of a turn's work as a child of the request that submitted it.
    fn resume(&self, traceparent: Option<&str>) -> tracing::Span;
}
