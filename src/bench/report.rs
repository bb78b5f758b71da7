//! Results as a page to look at: one file, with nothing from elsewhere.

use super::results::Results;

/// The page about some runs: the first is the newest, and what the others have is drawn beside it.
#[must_use]
pub fn page(_: &[Results]) -> String {
    String::new()
}
