//! What is recorded of the way of messages: spans of W3C traces, which are exported by OTLP.
//!
//! ```text
//! client ──► receive ┬► chain ──► what the handler records
//!                    └► publish ──► confirm ┄┄ broker ┄┄► deliver ┬► write
//!                                                                 └► ack
//! ```
//!
//! A span is the child of the one that its message names in `traceparent`, and the message names it from then on; that is
//! how a trace goes through handlers, brokers, other gateways and other programs.
//!
//! All of this is with the feature `otlp` and `traces.endpoint`. Without the setting, each call is a look at an [`Option`]
//! that is empty; without the feature it is one that the compiler knows to be empty, and that takes no place.

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod recorder;
mod settings;

use std::fmt;
use std::sync::Arc;

use crate::message::{Headers, Message};
use crate::metrics::Figures;
#[cfg(not(feature = "otlp"))]
use absent::{Open, Recorder};
#[cfg(feature = "otlp")]
use recorder::{Open, Recorder};
pub use settings::Settings;

/// The spans of one gateway. A clone is another handle to the same; the one that is there by default records nothing.
#[derive(Clone, Default)]
pub struct Traces(Option<Recorder>);

/// One or more spans that have begun. They end when this is dropped.
#[derive(Default)]
#[must_use = "it ends when it is dropped"]
pub struct Span(Option<Open>);

/// What a span is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A SEND, from its frame to the broker's answer.
    Receive,
    /// What the interceptors and handlers do with it.
    Chain,
    /// What comes of it, until it has been handed to the broker.
    Publish,
    /// Until the broker has answered.
    Confirm,
    /// A message from the broker, until it has been put where it waits for its readers.
    Deliver,
    /// Until one of them has been written to.
    Write,
    /// Until one of them has acknowledged it.
    Acknowledge,
}

impl Stage {
    /// The name of such spans.
    pub const fn as_str(self) -> &'static str {
        match self {
            Stage::Receive => "receive",
            Stage::Chain => "chain",
            Stage::Publish => "publish",
            Stage::Confirm => "confirm",
            Stage::Deliver => "deliver",
            Stage::Write => "write",
            Stage::Acknowledge => "ack",
        }
    }
}

impl Traces {
    /// Begins to export, if the settings name an endpoint; inside a tokio runtime.
    ///
    /// # Errors
    /// A setting that cannot be carried out, by name.
    pub fn start(settings: &Settings, node: &str) -> Result<Self, String> {
        Recorder::start(settings, node).map(Traces)
    }

    /// A SEND has come. If it is to be recorded, its message belongs to the span from now on.
    pub fn receive(&self, message: &mut Message, session: &str) -> Span {
        Span(self.0.as_ref().and_then(|recorder| recorder.receive(message, session)))
    }

    /// A message has come from the broker. If it is recorded, what its readers get is another one, which belongs to the
    /// span.
    pub fn deliver(&self, message: &Arc<Message>) -> (Span, Option<Arc<Message>>) {
        match self.0.as_ref().and_then(|recorder| recorder.deliver(message)) {
            Some((span, message)) => (Span(Some(span)), Some(message)),
            None => (Span(None), None),
        }
    }

    /// `traces.max_open`; 0 where nothing is recorded.
    pub fn max_open(&self) -> usize {
        self.0.as_ref().map_or(0, Recorder::max_open)
    }

    /// Exports what waits, for as long as `traces.timeout`. Nothing is recorded after that.
    pub async fn close(&self) {
        if let Some(recorder) = &self.0 {
            recorder.close().await;
        }
    }

    /// Tells how many spans there have been.
    pub fn report(&self, figures: &mut Figures) {
        let [exported, dropped, failed] = self.0.as_ref().map_or([0; 3], Recorder::counts);
        figures.counters(
            "stompgate_spans_total",
            "Spans for traces.endpoint by what became of them.",
            "outcome",
            &[("exported", exported), ("dropped", dropped), ("failed", failed)],
        );
    }
}

impl Span {
    /// Whether there is nothing to record.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// A span within this one.
    pub fn child(&self, stage: Stage) -> Span {
        Span(self.0.as_ref().map(|open| open.child(stage)))
    }

    /// A span within this one, or within what the message has come to since, if that is of the same trace. The message
    /// belongs to it from now on.
    pub fn step(&self, stage: Stage, headers: &mut Headers) -> Span {
        Span(self.0.as_ref().map(|open| open.step(stage, headers)))
    }

    /// Ends this one, and begins one within it.
    pub fn then(self, stage: Stage) -> Span {
        self.child(stage)
    }

    /// From now on `other` ends with this one.
    pub fn join(&mut self, other: Span) {
        match (&mut self.0, other.0) {
            (Some(open), Some(other)) => open.join(other),
            (None, other) => self.0 = other,
            (Some(_), None) => {}
        }
    }

    /// Notes something about it.
    pub fn note(&mut self, key: &'static str, value: &str) {
        if let Some(open) = &mut self.0 {
            open.note(key, value);
        }
    }

    /// Notes that it has come to a good end, whatever was said before.
    pub fn succeed(&mut self) {
        if let Some(open) = &mut self.0 {
            open.succeed();
        }
    }

    /// Notes that it has failed, and why: a word, never a secret.
    pub fn fail(&mut self, why: &str) {
        if let Some(open) = &mut self.0 {
            open.fail(why);
        }
    }
}

impl fmt::Debug for Traces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Traces").field(&self.0.is_some()).finish()
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.0.is_some()).finish()
    }
}

#[cfg(all(test, not(feature = "otlp")))]
mod tests {
    use super::*;

    #[test]
    fn without_the_feature_nothing_takes_any_place() {
        assert_eq!((size_of::<Traces>(), size_of::<Span>()), (0, 0));
    }
}
