//! The one place where a client's task waits, for everything at once.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::Stream;

use super::Connection;
use super::event::Event;

/// Deliveries of dedicated subscriptions that are gathered for one write.
const DELIVERIES_AT_A_TIME: usize = 64;

impl Connection {
    /// The next event; or `None`, after other tasks had their turn, if there is more to do without one.
    pub(super) async fn next_event(&mut self, has_more: bool) -> Option<Event> {
        let mut has_yielded = false;
        poll_fn(|context| match self.spanned(|this| this.poll(context)) {
            Poll::Ready(event) => Poll::Ready(Some(event)),
            Poll::Pending if has_more && has_yielded => Poll::Ready(None),
            Poll::Pending => {
                if has_more {
                    has_yielded = true;
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        })
        .await
    }

    /// Waits for whatever comes first. The order is what keeps one kind of event from starving another:
    ///
    /// 1. After each batch of deliveries and after a few writes, the client and the clock have a turn, however much there
    ///    is to send.
    /// 2. Deliveries are gathered, a batch at most, before anything is written.
    /// 3. All that waits is written.
    /// 4. Then everything else.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if std::mem::take(&mut self.inbound_first)
            && let Poll::Ready(event) = self.poll_inbound(context)
        {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.poll_consumers(context) {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.poll_outbound(context) {
            return Poll::Ready(event);
        }
        if let Some(operation) = &mut self.operation
            && let Poll::Ready(completed) = operation.as_mut().poll(context)
        {
            self.operation = None;
            return Poll::Ready(Event::Completed(completed));
        }
        if let Some(interception) = &mut self.interception
            && let Poll::Ready(intercepted) = interception.as_mut().poll(context)
        {
            self.interception = None;
            return Poll::Ready(Event::Intercepted(intercepted));
        }
        if !self.confirmations.is_empty()
            && let Poll::Ready(Some(confirmed)) = Pin::new(&mut self.confirmations).poll_next(context)
        {
            let (ticket, published, result) = confirmed;
            return Poll::Ready(Event::Confirmed(ticket, published, result));
        }
        if let Poll::Ready((ticket, published, result)) = self.calls.poll_next(context) {
            return Poll::Ready(Event::Answered(ticket, published, result));
        }
        self.poll_inbound(context)
    }

    /// The client first, then the clock: what has come, but was not read yet, is no silence.
    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if self.is_reading()
            && let Poll::Ready(message) = self.socket.poll_read(context)
        {
            return Poll::Ready(Event::Inbound(message));
        }
        self.poll_timer(context)
    }

    /// Deliveries are gathered, so that they leave in one write, but not for so long that the first one waits for many.
    fn poll_consumers(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if self.consumers.is_empty() || self.interception.is_some() {
            return Poll::Pending;
        }
        self.held_back = !self.outbox.has_room();
        if self.gathered < DELIVERIES_AT_A_TIME
            && !self.held_back
            && let Poll::Ready((key, event)) = self.consumers.poll_next(context)
        {
            self.gathered += 1;
            return Poll::Ready(Event::Consumer(key, event));
        }
        if std::mem::take(&mut self.gathered) == DELIVERIES_AT_A_TIME {
            self.inbound_first = true;
            context.waker().wake_by_ref(); // there may be more, and nobody else says so
        }
        Poll::Pending
    }

    /// Until CONNECT is answered nothing more is read than CONNECT.
    pub(super) fn is_reading(&self) -> bool {
        !self.undecoded && (self.session.is_ready() || self.session.is_connected())
    }
}
