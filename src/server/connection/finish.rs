//! The end of a client: what waits is sent, what it held goes back, and who took part is told.

use std::sync::Arc;
use std::time::Duration;

use tracing::field::display;
use tracing::{Span, info};

use super::Connection;
use crate::broker::Link;
use crate::message::{CloseCode, Message, Text};
use crate::server::chained::Chained;
use crate::server::operation::{Completed, Operation};

impl Connection {
    /// The end. What waits is sent before the close (contract, §6), within `server.close_timeout`. Meanwhile everything of
    /// this session goes back to where it came from, after the operation under way, and then the will is published.
    pub(super) async fn finish(&mut self) {
        self.memberships.clear();
        self.writing.settle.clear();
        self.writing.batch.retain(|item| item.settle.is_none());
        self.outbox.discard_unsettled(|_| true);
        let within = self.live.server.close_timeout;
        let closing = self.closing.take();
        self.count_end(closing.as_ref().map(|(code, _)| *code));
        let (link, will) = (self.link.clone(), self.will.take().map(|will| *will));
        let (operation, consumers) = (self.operation.take(), std::mem::take(&mut self.consumers));
        // What a COMMIT settles, and nothing else, needs the subscriptions that it was delivered to.
        let consumers = self.session.is_committing().then_some(consumers);
        let confirm_within = self.live.session.confirm_timeout;
        let (mut chained, calls) = (self.chained.take(), std::mem::take(&mut self.calls));
        let cause = self.cause(closing.as_ref().map(|(code, _)| *code));
        let end = cause.clone();
        let accounts = async move {
            if let Some(operation) = operation {
                let is_authenticating = link.is_none();
                chained = finish_operation(operation, is_authenticating, chained, within).await;
            }
            let _ = tokio::time::timeout(within, calls.finish()).await;
            drop(consumers);
            publish_will(link, will, confirm_within).await;
            if let Some(chained) = chained {
                chained.disconnect(&cause).await;
            }
        };
        let goodbye = tokio::time::timeout(within, self.say_goodbye(closing.as_ref()));
        let (goodbye, ()) = tokio::join!(goodbye, accounts);
        let (code, reason) = match &closing {
            Some((code, reason)) => (Some(code.0), reason.as_str()),
            None => (None, "closed by the client"),
        };
        let in_time = goodbye.is_ok();
        let dropped = self.outbox.dropped();
        Span::current().record("end", display(&end));
        info!(code, reason, in_time, dropped, "disconnected");
    }

    /// Why the session ended, in a word: `disconnect`, `shutdown`, `lost`, or the code of its ERROR.
    fn cause(&self, close: Option<CloseCode>) -> Text {
        match (close, &self.error) {
            (_, Some(code)) => code.clone(),
            (None, None) => Text::from_static("lost"),
            (Some(CloseCode::NORMAL), None) => Text::from_static("disconnect"),
            (Some(_), None) => Text::from_static("shutdown"),
        }
    }

    /// Sends what waits, then the close; or, where the client has closed already, the answer to that.
    async fn say_goodbye(&mut self, closing: Option<&(CloseCode, String)>) {
        match closing {
            Some((code, reason)) => {
                if self.write_all().await.is_ok() {
                    self.socket.close(*code, reason).await;
                }
            }
            None => self.socket.answer_close().await,
        }
    }
}

/// A SEND that was taken, or a COMMIT, should not fail because its sender left. And who has been let in by the chain must
/// be reported as gone: then there is a chain now.
async fn finish_operation(
    operation: Operation,
    is_authenticating: bool,
    chained: Option<Chained>,
    within: Duration,
) -> Option<Chained> {
    if !is_authenticating {
        let finished = async {
            if let Completed::Sent(_, Ok(sent)) = operation.await {
                let _ = sent.settle().await; // the chain learns of it
            }
        };
        let _ = tokio::time::timeout(within, finished).await;
        return chained;
    }
    // To its end, which has a bound of its own: who was let in is also to be let go.
    match operation.await {
        Completed::Authenticated(_, Ok((_, _, chained))) => chained,
        _ => chained,
    }
}

async fn publish_will(link: Option<Arc<dyn Link>>, will: Option<Message>, within: Duration) {
    let (Some(link), Some(will)) = (link, will) else { return };
    let published = tokio::time::timeout(within, async move {
        let permit = link.reserve().await?;
        link.publish(permit, will).await
    });
    match published.await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => info!(%error, "a will was not published"),
        Err(_) => info!("a will was not confirmed within session.confirm_timeout"),
    }
}
