//! The semantics of policies.
