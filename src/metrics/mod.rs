//! Every metric: its name, its help, its labels, and one method for each event.
//!
//! What happens is counted where it happens, by a method of [`Metrics`]. What merely is, such as the number of
//! connections, is a figure: its owner tells it to [`Figures`] when somebody asks. Every counter is found once, when
//! [`Metrics`] is made; no method that is called for each message looks anything up by a label. Labels have a fixed set of
//! values, or those that the settings list, and what a client chose is never one.

mod figures;
mod handler;
mod holdings;
mod process;
mod settings;
#[cfg(test)]
mod tests;
mod traffic;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder,
};

use crate::message::{CloseCode, Destination, Separators};
use crate::stomp::Command;
pub use figures::Figures;
pub use handler::{Call, Meter};
pub use holdings::Holdings;
pub use settings::Settings;
pub use traffic::Run;
use traffic::{Deflated, Traffic};

/// The type of what [`Metrics::render`] returns.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// From a tenth of a millisecond to the default of `session.confirm_timeout`, in seconds.
const TIMES: [f64; 17] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// From a short frame to sixteen times the default of `outbox.max_bytes`.
const SIZES: [f64; 9] =
    [256.0, 1_024.0, 4_096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// The counters of one gateway.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// `metrics.messages`.
    counts_messages: bool,
    handshakes: [IntCounter; Handshake::NAMES.len()],
    connects: [IntCounter; Connect::NAMES.len()],
    authentications: [IntCounter; Authentication::NAMES.len()],
    closes: IntCounterVec,
    errors: IntCounterVec,
    received: Traffic,
    sent: Traffic,
    publishes: [IntCounter; Publish::NAMES.len()],
    receipt_seconds: Histogram,
    delivery_seconds: Histogram,
    outbox_bytes: Histogram,
    overruns: [IntCounter; Overrun::NAMES.len()],
    dropped: [IntCounter; Dropped::NAMES.len()],
    headers_left_out: IntCounter,
    deflated: Deflated,
    subscriptions: [IntGauge; 2],
    unacknowledged: IntGauge,
    handler_calls: IntCounterVec,
    handler_seconds: HistogramVec,
    /// What each is about, and its counters inwards and outwards.
    destinations: Vec<(Destination, [IntCounter; 2])>,
}

/// How an opening handshake ended.
#[derive(Clone, Copy, Debug)]
pub enum Handshake {
    /// It became a WebSocket.
    Upgraded,
    /// It was answered with an HTTP error.
    Refused,
    /// It broke off, or its bytes were no TLS or HTTP.
    Failed,
    /// It took longer than `server.handshake_timeout`.
    TimedOut,
    /// The socket was closed at once: far more than `server.max_connections`.
    Overload,
}

/// What became of a WebSocket's CONNECT.
#[derive(Clone, Copy, Debug)]
pub enum Connect {
    /// CONNECTED was sent.
    Connected,
    /// ERROR was sent.
    Refused,
    /// The client left, or the gateway stopped, before either.
    Abandoned,
}

/// How a login ended.
#[derive(Clone, Copy, Debug)]
pub enum Authentication {
    /// The principal is known.
    Accepted,
    /// The credentials are wrong, or the broker does not let this principal in.
    Refused,
    /// It could not be found out.
    Failed,
}

/// What became of a message that a client sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Publish {
    /// The broker has it.
    Confirmed,
    /// The broker took it, and nobody was there for it.
    Unroutable,
    /// The broker, or a limit, refused it.
    Rejected,
    /// The broker gave no answer within `session.confirm_timeout`.
    TimedOut,
    /// The broker could not be reached.
    Unavailable,
    /// The session ended before the answer came.
    Abandoned,
}

/// What was done about a client whose outbox had no room.
#[derive(Clone, Copy, Debug)]
pub enum Overrun {
    /// It was disconnected.
    Disconnect,
    /// Older messages made room.
    DropOldest,
    /// The message was not taken.
    DropNewest,
    /// Older messages of the same key made room.
    Conflate,
}

/// Why a message was not delivered to one client.
#[derive(Clone, Copy, Debug)]
pub enum Dropped {
    /// It was the oldest when others needed room.
    DropOldest,
    /// There was no room for it.
    DropNewest,
    /// A newer one of the same key took its place.
    Conflate,
    /// It is larger than `outbox.max_delivery`.
    TooLarge,
}

impl Handshake {
    const NAMES: [&str; 5] = ["upgraded", "refused", "failed", "timed-out", "overload"];
}

impl Connect {
    const NAMES: [&str; 3] = ["connected", "refused", "abandoned"];
}

impl Authentication {
    const NAMES: [&str; 3] = ["accepted", "refused", "failed"];
}

impl Publish {
    const NAMES: [&str; 6] = ["confirmed", "unroutable", "rejected", "timed-out", "unavailable", "abandoned"];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Whether the broker has the message.
    pub fn is_success(self) -> bool {
        matches!(self, Publish::Confirmed | Publish::Unroutable)
    }
}

impl Overrun {
    const NAMES: [&str; 4] = ["disconnect", "drop-oldest", "drop-newest", "conflate"];
}

impl Dropped {
    const NAMES: [&str; 4] = ["drop-oldest", "drop-newest", "conflate", "too-large"];
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        Self::with(&Settings::default(), Separators::default())
    }

    /// The same, with what the settings have counted.
    pub fn with(settings: &Settings, separators: Separators) -> Self {
        let families = Families(Registry::new());
        let messages = families.vector(
            "stompgate_destination_messages_total",
            "Messages from and to clients, by the entry of metrics.destinations that is about them.",
            &["destination", "direction"],
        );
        let counters = |label: &str| ["in", "out"].map(|direction| messages.with_label_values(&[label, direction]));
        let frames = families.traffic_vector("stompgate_frames_total", "STOMP frames, heart-beats among them.");
        let bytes = families.traffic_vector("stompgate_frame_bytes_total", "Bytes of STOMP frames.");
        let metrics = Metrics {
            handshakes: families.counters(
                "stompgate_handshakes_total",
                "Opening handshakes by how they ended.",
                "outcome",
                Handshake::NAMES,
            ),
            connects: families.counters(
                "stompgate_connects_total",
                "WebSockets by what became of their CONNECT.",
                "outcome",
                Connect::NAMES,
            ),
            authentications: families.counters(
                "stompgate_authentications_total",
                "Logins by how they ended.",
                "outcome",
                Authentication::NAMES,
            ),
            closes: families.vector(
                "stompgate_closes_total",
                "Ended connections by the close code that was sent, or client where the client went first.",
                &["code"],
            ),
            errors: families.vector("stompgate_errors_total", "ERROR frames by their code.", &["code"]),
            received: Traffic::new("in", &frames, &bytes),
            sent: Traffic::new("out", &frames, &bytes),
            publishes: families.counters(
                "stompgate_publishes_total",
                "Messages that clients and back ends sent, by what became of them.",
                "outcome",
                Publish::NAMES,
            ),
            receipt_seconds: families.histogram(
                "stompgate_receipt_seconds",
                "Time from a SEND, or COMMIT, to the broker's confirmation, which is when its RECEIPT leaves.",
                &TIMES,
            ),
            delivery_seconds: families.histogram(
                "stompgate_delivery_seconds",
                "Time from a message's arrival in the gateway to its write to a client: the longest of each write.",
                &TIMES,
            ),
            outbox_bytes: families.histogram(
                "stompgate_outbox_bytes",
                "Bytes that waited for one client, those being written among them, at each write.",
                &SIZES,
            ),
            overruns: families.counters(
                "stompgate_outbox_overruns_total",
                "Times that a client's outbox had no room, by what the policy did.",
                "policy",
                Overrun::NAMES,
            ),
            dropped: families.counters(
                "stompgate_messages_dropped_total",
                "Messages that one of their readers did not get, by the reason.",
                "reason",
                Dropped::NAMES,
            ),
            headers_left_out: families.counter(
                "stompgate_headers_left_out_total",
                "Headers that a reader's version of STOMP cannot express.",
            ),
            deflated: Deflated::new(&families),
            subscriptions: families.gauges(
                "stompgate_subscriptions",
                "Open subscriptions: those that share what the gateway reads, and those with a broker's queue of their own.",
                "kind",
                ["shared", "dedicated"],
            ),
            unacknowledged: families
                .gauge("stompgate_unacknowledged_deliveries", "Deliveries that wait for a client's ACK or NACK."),
            handler_calls: families.vector(
                "stompgate_handler_calls_total",
                "Calls of handlers under /app, by the pattern of their route and by how they ended; those of app.lifecycle by event.",
                &["route", "outcome"],
            ),
            handler_seconds: families.histogram_vector(
                "stompgate_handler_seconds",
                "Time of a call of a handler, with all attempts, by the pattern of its route.",
                &["route"],
                &TIMES,
            ),
            destinations: settings.parsed(separators).map(|(label, about)| (about, counters(label))).collect(),
            registry: families.0,
            counts_messages: settings.messages,
        };
        metrics.begin_at_zero();
        metrics
    }

    /// Close codes and errors that are looked up when they happen stand at zero before, so that a first one shows as
    /// an increase.
    fn begin_at_zero(&self) {
        for code in CloseCode::ALL {
            self.closes.with_label_values(&[&code.0.to_string()]);
        }
        self.closes.with_label_values(&["client"]);
        for code in ["internal", "overload", "rate-exceeded", "slow-consumer", "broker-unavailable", "confirm-timeout"]
        {
            self.errors.with_label_values(&[code]);
        }
    }

    /// A socket's opening handshake ended.
    pub fn handshake(&self, outcome: Handshake) {
        self.handshakes[outcome as usize].inc();
    }

    /// A WebSocket's CONNECT was answered, or never will be.
    pub fn connect(&self, outcome: Connect) {
        self.connects[outcome as usize].inc();
    }

    /// A login was decided.
    pub fn authentication(&self, outcome: Authentication) {
        self.authentications[outcome as usize].inc();
    }

    /// A connection ended with this close code, or `None` where the client went first.
    pub fn closed(&self, code: Option<CloseCode>) {
        let code = code.map_or_else(|| "client".to_owned(), |code| code.0.to_string());
        self.closes.with_label_values(&[&code]).inc();
    }

    /// An ERROR frame was made. `code` is one of the gateway's own, so there are few.
    pub fn error(&self, code: &str) {
        self.errors.with_label_values(&[code]).inc();
    }

    /// A frame came, or a heart-beat (`None`).
    pub fn received(&self, command: Option<Command>, bytes: usize) {
        if self.counts_messages {
            self.received.count(command, 1, bytes);
        }
    }

    /// Frames of one command, or heart-beats, were given to a socket.
    pub fn sent(&self, run: Run) {
        if self.counts_messages {
            self.sent.count(run.command, run.frames, run.bytes);
        }
    }

    /// So many messages, published as one, came to their end after `time`.
    pub fn published(&self, outcome: Publish, messages: usize, time: Duration) {
        if !self.counts_messages {
            return;
        }
        self.publishes[outcome as usize].inc_by(messages as u64);
        if !matches!(outcome, Publish::TimedOut | Publish::Abandoned) {
            self.receipt_seconds.observe(time.as_secs_f64());
        }
    }

    /// What waited for a client was written: how much there was, and how long the oldest MESSAGE had waited.
    pub fn written(&self, waiting: usize, age: Option<Duration>) {
        if !self.counts_messages {
            return;
        }
        #[expect(clippy::cast_precision_loss, reason = "no outbox holds 2^52 bytes")]
        self.outbox_bytes.observe(waiting as f64);
        if let Some(age) = age {
            self.delivery_seconds.observe(age.as_secs_f64());
        }
    }

    /// An outbox had no room.
    pub fn overrun(&self, policy: Overrun) {
        self.overruns[policy as usize].inc();
    }

    /// So many messages were not delivered to one client.
    pub fn dropped(&self, reason: Dropped, messages: u64) {
        self.dropped[reason as usize].inc_by(messages);
    }

    /// A frame was sent compressed.
    pub fn deflated(&self, plain: usize, sent: usize) {
        if self.counts_messages {
            self.deflated.count(plain, sent);
        }
    }

    /// So many headers of a message could not be expressed.
    pub fn headers_left_out(&self, headers: usize) {
        if headers > 0 {
            self.headers_left_out.inc_by(headers as u64);
        }
    }

    /// What counts the calls of a route with this pattern.
    pub fn meter(&self, pattern: &str) -> Meter {
        let calls = Meter::OUTCOMES.map(|outcome| self.handler_calls.with_label_values(&[pattern, outcome]));
        Meter::new(calls, self.handler_seconds.with_label_values(&[pattern]))
    }

    /// A client, or a back end, sent a message there.
    pub fn arrived(&self, destination: &Destination) {
        self.count_message(destination, 0, 1);
    }

    /// So many clients are given a message from there.
    pub fn delivered(&self, destination: &Destination, clients: usize) {
        self.count_message(destination, 1, clients);
    }

    fn count_message(&self, destination: &Destination, direction: usize, messages: usize) {
        if !self.counts_messages {
            return;
        }
        let counted = self.destinations.iter().find(|(about, _)| about.is_about(destination));
        if let Some((_, counters)) = counted {
            counters[direction].inc_by(messages as u64);
        }
    }

    /// What one client holds, nothing at first.
    pub fn holdings(self: &Arc<Self>) -> Holdings {
        Holdings::new(Arc::clone(self))
    }

    /// Everything in Prometheus's text format, with the figures that were told.
    pub fn render(&self, mut figures: Figures) -> String {
        process::report(&mut figures);
        let mut text = String::new();
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            let _ = writeln!(text, "# {error}");
        }
        text.push_str(&figures.into_text());
        text
    }
}

/// Makes families and registers them.
struct Families(Registry);

impl Families {
    /// Registers a family. Every name stands in this file once, and is a name; so this cannot fail, which the tests hold.
    fn register<T: prometheus::core::Collector + Clone + 'static>(&self, made: prometheus::Result<T>) -> T {
        #[expect(clippy::expect_used, reason = "see above")]
        let family = made.expect("names and labels that Prometheus allows");
        #[expect(clippy::expect_used, reason = "see above")]
        self.0.register(Box::new(family.clone())).expect("a name that stands here once");
        family
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::new(name, help))
    }

    fn vector(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn traffic_vector(&self, name: &str, help: &str) -> IntCounterVec {
        self.vector(name, help, &["direction", "command"])
    }

    fn counters<const N: usize>(&self, name: &str, help: &str, label: &str, values: [&str; N]) -> [IntCounter; N] {
        let vector = self.vector(name, help, &[label]);
        values.map(|value| vector.with_label_values(&[value]))
    }

    fn gauges<const N: usize>(&self, name: &str, help: &str, label: &str, values: [&str; N]) -> [IntGauge; N] {
        let vector = self.register(prometheus::IntGaugeVec::new(Opts::new(name, help), &[label]));
        values.map(|value| vector.with_label_values(&[value]))
    }

    fn histogram_vector(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }
}
