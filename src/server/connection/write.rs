//! What goes to the client: all that waits, in as few writes as it takes.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tracing::trace;

use super::event::Event;
use super::{Connection, now};
use crate::hub::outbox::Item;
use crate::message::{DeliveryId, Settlement};
use crate::metrics::Run;
use crate::traces::Span;

/// Writes to one client's socket before what it sends has its turn.
const WRITES_AT_A_TIME: usize = 16;

#[derive(Default)]
pub(super) struct Writing {
    pub(super) batch: VecDeque<Item>,
    /// Something other than a Ping is being written: pages do not see Pings, and expect their heart-beats.
    pub(super) spoken: bool,
    /// To be settled once what was given to the socket has been flushed.
    pub(super) settle: Vec<DeliveryId>,
    /// What ends then.
    pub(super) traces: Span,
}

impl Connection {
    /// Everything that waits goes to the socket in one write, and again while the socket takes it.
    pub(super) fn poll_outbound(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        for _ in 0..WRITES_AT_A_TIME {
            let before = self.socket.stream().sent();
            if let Some(signal) = self.outbox.poll(context, self.live.server.write_buffer, &mut self.writing.batch) {
                return Poll::Ready(Event::Signal(signal));
            }
            match self.poll_write(context) {
                Poll::Ready(Ok(true)) => {}
                Poll::Ready(Ok(false)) => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Event::WriteFailed(error)),
                Poll::Pending => {
                    if self.socket.stream().sent() > before {
                        self.outbox.progressed(now());
                    }
                    return Poll::Pending;
                }
            }
            std::mem::take(&mut self.writing.traces).succeed();
            let now = now();
            if let Some(written) = self.outbox.written(now) {
                self.services.metrics.written(written.waiting, written.age);
            }
            if std::mem::take(&mut self.writing.spoken) {
                self.session.sent(now);
            }
            if self.undecoded || self.held_back || !self.writing.settle.is_empty() {
                self.inbound_first = true;
                return Poll::Ready(Event::Written);
            }
        }
        self.inbound_first = true;
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes the batch; and says whether there was anything to write.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, WebSocketError>> {
        let mut run = Run::default();
        let fed = loop {
            match self.socket.poll_feed(context) {
                Poll::Ready(Ok(())) => {}
                unfinished => break unfinished,
            }
            let Some(Item { frame, command, text, settle, compressed, trace }) = self.writing.batch.pop_front() else {
                break Poll::Ready(Ok(()));
            };
            if let Some(command) = command {
                trace!(%command, bytes = frame.len(), "sent");
            }
            if let Some(ended) = run.add(command, frame.len()) {
                self.services.metrics.sent(ended);
            }
            let size = frame.len();
            if let Some(deflated) = self.socket.begin(frame, text, compressed.as_ref()) {
                self.services.metrics.deflated(size, deflated);
            }
            self.writing.spoken = true;
            self.writing.settle.extend(settle);
            self.writing.traces.join(trace);
        };
        if !run.is_empty() {
            self.services.metrics.sent(run);
        }
        ready!(fed)?;
        if self.socket.is_flushed() {
            return Poll::Ready(Ok(false));
        }
        self.writing.batch = VecDeque::new(); // most clients are idle, and an idle one keeps no memory for lists
        self.socket.poll_flush(context).map_ok(|()| true)
    }

    /// Settles what was delivered with `ack:auto`, now that it has been written.
    pub(super) fn settle_written(&mut self) {
        if self.writing.settle.is_empty() {
            return;
        }
        if let Some(link) = &self.link {
            // A delivery that is void comes again; there is nobody to tell.
            drop(link.settle(&self.writing.settle, Settlement::Accept));
        }
        self.writing.settle.clear();
        self.consumers.drop_forgotten(&[]);
    }

    pub(super) async fn write_all(&mut self) -> Result<(), WebSocketError> {
        loop {
            let event = poll_fn(|context| match self.poll_outbound(context) {
                Poll::Ready(event) => Poll::Ready(Some(event)),
                Poll::Pending if self.socket.is_flushed() && self.outbox.is_empty() => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            match event.await {
                None => return Ok(()),
                Some(Event::WriteFailed(error)) => return Err(error),
                Some(_) => self.settle_written(),
            }
        }
    }
}
