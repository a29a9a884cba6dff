//! What one reader of a topic wants to see.

use super::Version;
use crate::message::{Spelling, Text};

/// How one reader wants its MESSAGE frames. Readers that are equal get the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reader {
    /// The header `subscription`; absent only in STOMP 1.0.
    pub subscription: Option<Text>,
    /// How destinations are spelled.
    pub spelling: Spelling,
    /// The version to encode for.
    pub version: Version,
}
