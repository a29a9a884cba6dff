//! Counting what rules have decided.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How often rules let something pass, and how often not. Rules that follow others at a reload go on with their count.
#[derive(Clone, Debug, Default)]
pub struct Decisions(Arc<[AtomicU64; 2]>);

/// Equal is what counts together.
impl PartialEq for Decisions {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Decisions {}

impl Decisions {
    /// The names of both outcomes and how often each was decided.
    pub fn counts(&self) -> [(&'static str, u64); 2] {
        let [allowed, refused] = self.0.each_ref().map(|count| count.load(Ordering::Relaxed));
        [("allowed", allowed), ("refused", refused)]
    }

    pub(super) fn count<T, E>(&self, decided: Result<T, E>) -> Result<T, E> {
        self.0[usize::from(decided.is_err())].fetch_add(1, Ordering::Relaxed);
        decided
    }
}
