//! What becomes of spans that have ended: they wait in a queue, and a task sends them on in batches.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, Response};
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::Settings;
use crate::outbound::{self, Options};

/// Bytes of an answer; all that it can say is how many spans were refused.
const MAX_ANSWER: usize = 64 * 1024;
/// Time for which a connection to the endpoint is kept open; longer than `traces.interval` usually is.
const KEPT: Duration = Duration::from_secs(30);

/// The task, and what it has counted.
pub(super) struct Exporter {
    counts: Arc<Counts>,
    closing: watch::Sender<bool>,
    task: Mutex<Option<JoinHandle<()>>>,
    timeout: Duration,
}

#[derive(Debug, Default)]
struct Counts {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

/// The way into the queue.
#[derive(Debug)]
pub(super) struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
}

/// What the task works with.
struct Batches {
    spans: mpsc::Receiver<SpanData>,
    closing: watch::Receiver<bool>,
    exporter: OtlpExporter,
    counts: Arc<Counts>,
    max_batch: usize,
    interval: Duration,
    timeout: Duration,
    has_failed: bool,
}

/// HTTP for the exporter, by the client that calls services, too.
#[derive(Debug)]
struct Post(outbound::HttpClient);

impl Exporter {
    pub(super) fn start(endpoint: &str, settings: &Settings, resource: &Resource) -> Result<(Self, Queue), String> {
        let Settings { max_queue, max_batch, interval, timeout, .. } = *settings;
        let options = Options { ca: settings.ca.as_deref(), connect_timeout: timeout, max_idle: 1, idle_timeout: KEPT };
        let client = outbound::client(&options).map_err(|why| format!("traces.ca: {why}"))?;
        let token = settings.token.as_ref().map(|token| format!("Bearer {}", token.reveal()));
        let headers: HashMap<_, _> = token.into_iter().map(|token| ("authorization".to_owned(), token)).collect();
        let exporter = OtlpExporter::builder()
            .with_http()
            .with_http_client(Post(client))
            .with_headers(headers)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .with_timeout(timeout)
            .build();
        let mut exporter = exporter.map_err(|error| format!("traces.endpoint: {error}"))?;
        exporter.set_resource(resource);
        let counts = Arc::new(Counts::default());
        let (sender, spans) = mpsc::channel(max_queue);
        let (closing, closed) = watch::channel(false);
        let batches = Batches {
            spans,
            closing: closed,
            exporter,
            counts: Arc::clone(&counts),
            max_batch,
            interval,
            timeout,
            has_failed: false,
        };
        let task = Mutex::new(Some(tokio::spawn(batches.run())));
        let queue = Queue { spans: sender, counts: Arc::clone(&counts) };
        Ok((Exporter { counts, closing, task, timeout }, queue))
    }

    pub(super) fn counts(&self) -> [u64; 3] {
        let Counts { exported, dropped, failed } = &*self.counts;
        [exported, dropped, failed].map(|count| count.load(Ordering::Relaxed))
    }

    /// Sends what waits, within the time for one export.
    pub(super) async fn close(&self) {
        self.closing.send_replace(true);
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && tokio::time::timeout(self.timeout, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Batches {
    /// Runs until it is told to close; then what waits is sent.
    async fn run(mut self) {
        let mut closing = self.closing.clone();
        let mut batch = Vec::new();
        loop {
            let is_closing = *closing.borrow();
            if is_closing {
                self.spans.close();
            }
            let taken = tokio::select! {
                taken = self.spans.recv_many(&mut batch, self.max_batch) => taken,
                Ok(_) = closing.wait_for(|closing| *closing), if !is_closing => continue,
            };
            if taken == 0 {
                return;
            }
            if !is_closing {
                self.fill(&mut batch).await;
            }
            self.send(std::mem::take(&mut batch)).await;
        }
    }

    /// Waits for more, until the batch is full or its time is up.
    async fn fill(&mut self, batch: &mut Vec<SpanData>) {
        let until = tokio::time::sleep(self.interval);
        tokio::pin!(until);
        while batch.len() < self.max_batch {
            let room = self.max_batch - batch.len();
            tokio::select! {
                taken = self.spans.recv_many(batch, room) => if taken == 0 { return },
                () = &mut until => return,
                _ = self.closing.wait_for(|closing| *closing) => return,
            }
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let sent = tokio::time::timeout(self.timeout, self.exporter.export(batch)).await;
        let why = match sent {
            Ok(Ok(())) => {
                self.counts.exported.fetch_add(spans, Ordering::Relaxed);
                if std::mem::take(&mut self.has_failed) {
                    info!("spans are exported again");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer within traces.timeout".to_owned(),
        };
        self.counts.failed.fetch_add(spans, Ordering::Relaxed);
        if !std::mem::replace(&mut self.has_failed, true) {
            warn!(spans, why, "spans could not be exported; is traces.endpoint right, and does it answer?");
        }
    }
}

#[async_trait]
impl HttpClient for Post {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (parts, body) = request.into_parts();
        let response = self.0.request(Request::from_parts(parts, Full::new(body))).await?;
        let (parts, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }
}
