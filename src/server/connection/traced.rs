//! Acknowledgements that are recorded: from the MESSAGE to the client's word.

use std::collections::VecDeque;

use super::Connection;
use crate::message::{DeliveryId, Settlement};
use crate::traces::Span;

/// Spans of deliveries that wait for an acknowledgement. A delivery may become void without one, and so the oldest make
/// room (`traces.max_open`).
pub(super) type Unacknowledged = VecDeque<(DeliveryId, Span)>;

impl Connection {
    pub(super) fn await_acknowledgement(&mut self, delivery: DeliveryId, span: Span) {
        if span.is_none() {
            return;
        }
        while self.unacknowledged.len() >= self.services.traces.max_open() {
            self.unacknowledged.pop_front();
        }
        self.unacknowledged.push_back((delivery, span));
    }

    pub(super) fn acknowledged(&mut self, deliveries: &[DeliveryId], settlement: Settlement) {
        if self.unacknowledged.is_empty() {
            return;
        }
        for delivery in deliveries {
            let place = self.unacknowledged.iter().position(|(known, _)| known == delivery);
            if let Some((_, mut span)) = place.and_then(|place| self.unacknowledged.remove(place)) {
                span.note("stompgate.settlement", name(settlement));
            }
        }
    }
}

fn name(settlement: Settlement) -> &'static str {
    match settlement {
        Settlement::Accept => "accept",
        Settlement::Requeue => "requeue",
        Settlement::Reject => "reject",
    }
}
