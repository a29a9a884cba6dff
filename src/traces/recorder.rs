//! Makes spans, and says which messages have any.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, Span as SdkSpan};

use super::export::Exporter;
use super::{Settings, Stage};
use crate::message::{Headers, Message, TraceParent};

/// Bytes of a name that a client chose, in a span.
const LONGEST_VALUE: usize = 256;

#[derive(Clone)]
pub(super) struct Recorder(Arc<Inner>);

struct Inner {
    tracer: SdkTracer,
    exporter: Exporter,
    sample_one_in: u64,
    follow_clients: bool,
    max_open: usize,
    /// What chance is made of.
    chance: AtomicU64,
}

/// Spans that end together; the first one is what all is about.
pub(super) struct Open(Box<Spans>);

struct Spans {
    recorder: Recorder,
    first: SdkSpan,
    others: Vec<SdkSpan>,
}

impl Recorder {
    /// Nothing, without an endpoint.
    pub(super) fn start(settings: &Settings, node: &str) -> Result<Option<Self>, String> {
        let Some(endpoint) = &settings.endpoint else { return Ok(None) };
        let resource = Resource::builder()
            .with_service_name(settings.service.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", node.to_owned()))
            .build();
        let (exporter, queue) = Exporter::start(endpoint, settings, &resource)?;
        // What is recorded is decided below: what is not has no span at all.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource)
            .with_span_processor(queue)
            .build();
        Ok(Some(Recorder(Arc::new(Inner {
            tracer: provider.tracer("stompgate"),
            exporter,
            sample_one_in: u64::from(settings.sample_one_in),
            follow_clients: settings.follow_clients,
            max_open: settings.max_open,
            chance: AtomicU64::new(getrandom::u64().unwrap_or_default()),
        }))))
    }

    pub(super) fn receive(&self, message: &mut Message, session: &str) -> Option<Open> {
        let given = TraceParent::of(&message.headers);
        let is_recorded = match given {
            Some(parent) if self.0.follow_clients => parent.is_sampled,
            _ => self.is_chosen(),
        };
        if !is_recorded {
            if let Some(parent) = given.filter(|parent| parent.is_sampled) {
                TraceParent { is_sampled: false, ..parent }.put(&mut message.headers);
            }
            return None;
        }
        let mut open = self.begin(Stage::Receive, given);
        open.about(message);
        open.note("session.id", session);
        open.context().put(&mut message.headers);
        Some(open)
    }

    pub(super) fn deliver(&self, message: &Arc<Message>) -> Option<(Open, Arc<Message>)> {
        let parent = TraceParent::of(&message.headers).filter(|parent| parent.is_sampled)?;
        let mut open = self.begin(Stage::Deliver, Some(parent));
        open.about(message);
        let mut message = Message::clone(message);
        open.context().put(&mut message.headers);
        Some((open, Arc::new(message)))
    }

    pub(super) fn max_open(&self) -> usize {
        self.0.max_open
    }

    pub(super) fn counts(&self) -> [u64; 3] {
        self.0.exporter.counts()
    }

    pub(super) async fn close(&self) {
        self.0.exporter.close().await;
    }

    fn begin(&self, stage: Stage, parent: Option<TraceParent>) -> Open {
        let context = match parent {
            Some(parent) => Context::new().with_remote_span_context(span_context(parent)),
            None => Context::new(),
        };
        let builder = self.0.tracer.span_builder(stage.as_str()).with_kind(kind(stage));
        let mut first = builder.start_with_context(&self.0.tracer, &context);
        if stage == Stage::Write {
            first.set_status(Status::error("not written")); // unless something else is said of it
        }
        Open(Box::new(Spans { recorder: self.clone(), first, others: Vec::new() }))
    }

    /// One in so many. Which it is nobody can foresee, and no client choose (SplitMix64).
    fn is_chosen(&self) -> bool {
        let mut number = self.0.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (number ^ (number >> 31)).is_multiple_of(self.0.sample_one_in)
    }
}

impl Open {
    pub(super) fn child(&self, stage: Stage) -> Open {
        self.0.recorder.begin(stage, Some(self.context()))
    }

    pub(super) fn step(&self, stage: Stage, headers: &mut Headers) -> Open {
        let own = self.context();
        let parent = TraceParent::of(headers).filter(|parent| parent.trace == own.trace).unwrap_or(own);
        let open = self.0.recorder.begin(stage, Some(parent));
        open.context().put(headers);
        open
    }

    pub(super) fn join(&mut self, other: Open) {
        let Spans { first, others, .. } = *other.0;
        self.0.others.push(first);
        self.0.others.extend(others);
    }

    pub(super) fn note(&mut self, key: &'static str, value: &str) {
        let end = value.floor_char_boundary(LONGEST_VALUE);
        self.0.first.set_attribute(KeyValue::new(key, value[..end].to_owned()));
    }

    pub(super) fn succeed(&mut self) {
        self.set_status(&Status::Ok);
    }

    pub(super) fn fail(&mut self, why: &str) {
        self.set_status(&Status::error(why.to_owned()));
    }

    fn set_status(&mut self, status: &Status) {
        for span in std::iter::once(&mut self.0.first).chain(&mut self.0.others) {
            span.set_status(status.clone());
        }
    }

    fn about(&mut self, message: &Message) {
        self.note("messaging.destination.name", &message.destination.to_string());
        let size = i64::try_from(message.body.len()).unwrap_or(i64::MAX);
        self.0.first.set_attribute(KeyValue::new("messaging.message.body.size", size));
    }

    fn context(&self) -> TraceParent {
        let context = self.0.first.span_context();
        TraceParent {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
            is_sampled: true,
        }
    }
}

fn span_context(parent: TraceParent) -> SpanContext {
    let (trace, span) = (TraceId::from(parent.trace), SpanId::from(parent.span));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::NONE)
}

fn kind(stage: Stage) -> SpanKind {
    match stage {
        Stage::Receive => SpanKind::Server,
        Stage::Publish => SpanKind::Producer,
        Stage::Deliver => SpanKind::Consumer,
        Stage::Chain | Stage::Confirm | Stage::Write | Stage::Acknowledge => SpanKind::Internal,
    }
}
