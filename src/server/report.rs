//! What is told of the edge, the hub and the broker when somebody asks for metrics.

use super::Services;
use crate::broker::LinkState;
use crate::metrics::Figures;

impl Services {
    /// All metrics in Prometheus's text format.
    pub(super) fn render_metrics(&self) -> String {
        let mut figures = Figures::default();
        self.report(&mut figures);
        self.traces.report(&mut figures);
        self.broker.report(&mut figures);
        self.metrics.render(figures)
    }

    fn report(&self, figures: &mut Figures) {
        let census = self.registry.census();
        figures.gauge("stompgate_connections", "WebSockets that are open.", census.connections);
        figures.gauge(
            "stompgate_connections_limit",
            "The setting server.max_connections.",
            self.live().server.max_connections,
        );
        figures.gauge("stompgate_sessions", "Sessions that are authenticated.", census.sessions);
        figures.gauge("stompgate_outbox_waiting_bytes", "Bytes that wait for all clients together.", census.waiting);
        figures.gauge(
            "stompgate_upstream_subscriptions",
            "Destinations that the gateway reads at the broker, each for any number of clients.",
            self.hub.sources(),
        );
        figures.gauge(
            "stompgate_draining",
            "1 from the beginning of a shutdown on, else 0.",
            u8::from(self.is_draining()),
        );
        figures.counters(
            "stompgate_authorizations_total",
            "Decisions of access.rule by their outcome.",
            "outcome",
            &self.live().rules.decisions().counts(),
        );
        figures.counter(
            "stompgate_broker_reconnects_total",
            "Connections to the broker that were made again after they broke.",
            self.broker.reconnects(),
        );
        let state = self.broker_state();
        figures.gauges(
            "stompgate_broker_state",
            "1 for the state that the connection to the broker is in, 0 for the others.",
            "state",
            &LinkState::ALL.map(|known| (known.as_str(), u8::from(known == state))),
        );
    }
}
