//! What answers a frame to `/app`: an HTTP service, or a Rust function of the program that embeds the gateway.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Context, Failure};
use crate::message::{Destination, Headers, Text};

/// Answers frames to `/app`.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The result, if there is one. Where it goes, the route says.
    async fn handle(&self, request: Request, context: &Context) -> Result<Option<Answer>, Failure>;
}

/// A frame to `/app`.
#[derive(Clone, Debug)]
pub struct Request {
    /// Whether it is a SEND; else it is a SUBSCRIBE, and has no body.
    pub is_send: bool,
    /// Where to.
    pub destination: Destination,
    /// What stands in the place of the pattern's `{variables}`, decoded.
    pub variables: Variables,
    /// The headers that travel with it.
    pub headers: Headers,
    /// The body as it came.
    pub body: Bytes,
}

/// Values by name, in the order in which the pattern has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables(pub(super) Vec<(Text, String)>);

/// A handler's result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its headers; `content-type` above all.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
}

impl Variables {
    /// The value of `{name}`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| **known == *name).map(|(_, value)| value.as_str())
    }
}

impl Answer {
    /// An answer in plain text.
    pub fn text(text: impl Into<String>) -> Self {
        Self::new("text/plain", Bytes::from(text.into()))
    }

    /// An answer of this content type.
    pub fn new(content_type: &str, body: impl Into<Bytes>) -> Self {
        Answer { headers: Headers::from([("content-type", content_type)]), body: body.into() }
    }
}

/// An async function as a handler.
pub fn handler<F, R>(function: F) -> Arc<dyn Handler>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Option<Answer>, Failure>> + Send + 'static,
{
    Arc::new(Function(function))
}

struct Function<F>(F);

#[async_trait]
impl<F, R> Handler for Function<F>
where
    F: Fn(Request) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Option<Answer>, Failure>> + Send + 'static,
{
    async fn handle(&self, request: Request, _context: &Context) -> Result<Option<Answer>, Failure> {
        (self.0)(request).await
    }
}
