//! What one client holds, as its part of gauges that all clients share.

use std::sync::Arc;

use prometheus::IntGauge;

use super::Metrics;

/// One client's part of the gauges. It is taken back when this is dropped.
#[derive(Debug)]
pub struct Holdings {
    metrics: Arc<Metrics>,
    shared: u32,
    dedicated: u32,
    unacknowledged: u32,
}

impl Holdings {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Holdings { metrics, shared: 0, dedicated: 0, unacknowledged: 0 }
    }

    /// Shared and dedicated subscriptions, and deliveries that wait for an ACK or NACK, as they are now.
    pub fn set(&mut self, shared: usize, dedicated: usize, unacknowledged: usize) {
        let [all_shared, all_dedicated] = &self.metrics.subscriptions;
        change(all_shared, &mut self.shared, shared);
        change(all_dedicated, &mut self.dedicated, dedicated);
        change(&self.metrics.unacknowledged, &mut self.unacknowledged, unacknowledged);
    }
}

impl Drop for Holdings {
    fn drop(&mut self) {
        self.set(0, 0, 0);
    }
}

/// Nearly always there is nothing to change.
fn change(gauge: &IntGauge, known: &mut u32, count: usize) {
    let count = u32::try_from(count).unwrap_or(u32::MAX);
    if count != *known {
        gauge.add(i64::from(count) - i64::from(*known));
        *known = count;
    }
}
