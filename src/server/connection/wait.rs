//! The one place where a client's task waits, for everything at once.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::Stream;
use tracing::level_filters::LevelFilter;

use super::Connection;
use super::event::Event;

/// Deliveries of dedicated subscriptions, and confirmations, that are gathered for one write.
const GATHERED_AT_A_TIME: usize = 64;

impl Connection {
    /// Does all there is to do, until the connection's end. What is done is done within the session's span. Entering that
    /// costs as much as a good part of a delivery, and so a turn that only writes does without.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut event = Poll::Pending;
        if self.is_quiet() {
            event = self.poll_event(context);
            if event.is_pending() {
                return Poll::Pending;
            }
        }
        self.spanned(|this| this.go_on(event, context))
    }

    /// Nothing but an event can give this task something to do that the log would hear of.
    fn is_quiet(&self) -> bool {
        let is_at_rest = self.actions.is_empty() && !self.undecoded;
        let is_alone = self.operation.is_none() && self.interception.is_none() && self.calls.is_empty();
        // What a broker's subscription has to say of itself, it says while it is asked for deliveries.
        let reads_no_queue = self.consumers.is_empty();
        let is_open = self.closing.is_none() && !self.session.is_ended();
        is_at_rest && is_alone && reads_no_queue && is_open && LevelFilter::current() <= LevelFilter::INFO
    }

    fn go_on(&mut self, mut event: Poll<Event>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Poll::Ready(event) = event {
                let span = self.span.id();
                self.on_event(event);
                if self.span.id() != span {
                    context.waker().wake_by_ref(); // to go on in the new span
                    return Poll::Pending;
                }
            }
            let is_cut_short = self.advance();
            if self.closing.is_some() || (self.session.is_ended() && self.actions.is_empty()) {
                return Poll::Ready(());
            }
            event = self.poll_event(context);
            if event.is_pending() {
                if is_cut_short {
                    context.waker().wake_by_ref(); // after other tasks had their turn
                }
                return Poll::Pending;
            }
        }
    }

    /// Waits for whatever comes first. The order is what keeps one kind of event from starving another:
    ///
    /// 1. After each batch of deliveries or confirmations and after a few writes, the client and the clock have a turn,
    ///    however much there is to send.
    /// 2. Deliveries and confirmations are gathered, a batch at most, before anything is written.
    /// 3. All that waits is written.
    /// 4. Then everything else; the client and the clock only if they woke the task, or something is due earlier now.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if std::mem::take(&mut self.inbound_first)
            && let Poll::Ready(event) = self.poll_inbound(context)
        {
            return Poll::Ready(event);
        }
        if let Poll::Ready(event) = self.poll_gathered(context) {
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
        if !self.calls.is_empty()
            && let Poll::Ready((ticket, published, result)) = self.calls.poll_next(context)
        {
            return Poll::Ready(Event::Answered(ticket, published, result));
        }
        if self.arrivals.are_none(context.waker()) && self.deadline() >= self.due {
            return Poll::Pending;
        }
        self.poll_inbound(context)
    }

    /// The client first, then the clock: what has come, but was not read yet, is no silence. When only the clock has woken
    /// the task, the client is at rest.
    fn poll_inbound(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        let waker = self.arrivals.await_by(context.waker());
        let context = &mut Context::from_waker(&waker);
        let is_reading = self.is_reading();
        if is_reading && let Poll::Ready(message) = self.socket.poll_read(context, self.timer.is_elapsed()) {
            self.arrivals.expect_more();
            return Poll::Ready(Event::Inbound(message));
        }
        let event = self.poll_timer(context);
        if !is_reading || event.is_ready() {
            self.arrivals.expect_more();
        }
        event
    }

    /// What is sent to the client is gathered, so that it leaves in one write, but not for so long that the first of it
    /// waits for many.
    fn poll_gathered(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if self.gathered < GATHERED_AT_A_TIME
            && let Poll::Ready(event) = self.poll_sources(context)
        {
            self.gathered += 1;
            return Poll::Ready(event);
        }
        if std::mem::take(&mut self.gathered) == GATHERED_AT_A_TIME {
            self.inbound_first = true;
            context.waker().wake_by_ref(); // there may be more, and nobody else says so
        }
        Poll::Pending
    }

    /// Where that comes from: confirmations, and dedicated subscriptions while there is room for their deliveries.
    fn poll_sources(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        if let Some(confirmations) = &mut self.confirmations {
            match Pin::new(confirmations).poll_next(context) {
                Poll::Ready(Some((ticket, published, result))) => {
                    return Poll::Ready(Event::Confirmed(ticket, published, result));
                }
                Poll::Ready(None) => self.confirmations = None, // an idle client keeps no memory for lists
                Poll::Pending => {}
            }
        }
        if self.consumers.is_empty() || self.interception.is_some() {
            return Poll::Pending;
        }
        self.held_back = !self.outbox.has_room();
        if !self.held_back
            && let Poll::Ready((key, event)) = self.consumers.poll_next(context)
        {
            return Poll::Ready(Event::Consumer(key, event));
        }
        Poll::Pending
    }

    /// Until CONNECT is answered nothing more is read than CONNECT.
    pub(super) fn is_reading(&self) -> bool {
        !self.undecoded && (self.session.is_ready() || self.session.is_connected())
    }
}
