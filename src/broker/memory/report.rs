//! What the in-memory broker tells whoever asks for metrics.

use super::effects::Reason;
use super::exchange::Exchange;
use super::lock;
use crate::metrics::Figures;

impl Exchange {
    pub(super) fn report(&self, figures: &mut Figures) {
        let queues = self.queues.all().len();
        figures.gauge("stompgate_memory_queues", "Queues that hold messages or have readers.", queues);
        let bytes = self.bytes();
        figures.gauge("stompgate_memory_queue_bytes", "Bytes of all messages that wait in queues.", bytes);
        let durables = lock(&self.durables).len();
        figures.gauge("stompgate_memory_durable_subscriptions", "Durable subscriptions.", durables);
        let (retained, bytes) = lock(&self.retained).size();
        figures.gauge("stompgate_memory_retained_messages", "Topics with a retained message.", retained);
        figures.gauge("stompgate_memory_retained_bytes", "Bytes of all retained messages.", bytes);
        let counters = self.counters();
        figures.counters(
            "stompgate_memory_dead_messages_total",
            "Messages that left a queue without being accepted, by the reason.",
            "reason",
            &[
                (Reason::Rejected.as_str(), counters.rejected),
                (Reason::Expired.as_str(), counters.expired),
                (Reason::MaxLength.as_str(), counters.overflowed),
                (Reason::DeliveryLimit.as_str(), counters.exhausted),
            ],
        );
        figures.counter(
            "stompgate_memory_dead_lettered_total",
            "Of the dead messages, those that the dead-letter destination took.",
            counters.dead_lettered,
        );
    }
}
