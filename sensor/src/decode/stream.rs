//! The start of a TCP stream, put together from its segments.
