//! What policies are about together: those that never match, and those that match too much.

use super::{Config, problem::Problem, read::PolicyPlaces};

/// What is doubtful about the policies of a configuration that has no error.
pub(super) fn problems(_config: &Config, _places: &[PolicyPlaces]) -> Vec<Problem> {
    Vec::new()
}
