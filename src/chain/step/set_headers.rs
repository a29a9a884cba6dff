//! `set_headers`: headers that a route adds or replaces.

use std::collections::BTreeMap;

use super::Step;
use crate::chain::Failure;
use crate::chain::handler::Request;
use crate::chain::template::{RoutePattern, Template, Values};
use crate::message::Text;

/// Sets headers to texts with `{variables}`.
pub(super) struct SetHeaders(Vec<(Text, Template)>);

impl SetHeaders {
    pub(super) fn new(headers: &BTreeMap<String, String>, pattern: &RoutePattern) -> Result<Self, String> {
        let read = |(name, text): (&String, &String)| {
            let is_name = !name.is_empty() && !name.contains([':', '\n', '\r', '\0']);
            if !is_name || name.starts_with("stompgate-") || OWN.contains(&name.as_str()) {
                return Err(format!("has {name:?}, which is no name of a header, or one that is the gateway's own"));
            }
            let template = Template::parse(text)?;
            template.check(pattern)?;
            Ok((Text::from(name.as_str()), template))
        };
        headers.iter().map(read).collect::<Result<_, _>>().map(SetHeaders)
    }
}

/// Headers that mean something else than they say.
const OWN: [&str; 8] =
    ["destination", "message-id", "subscription", "content-length", "receipt", "transaction", "ack", "reply-to"];

impl Step for SetHeaders {
    fn run(&self, request: &mut Request, values: &Values<'_>) -> Result<(), Failure> {
        for (name, template) in &self.0 {
            let value = template.fill(values, |value| Ok(value.to_owned()))?;
            request.headers.set(name.clone(), value);
        }
        Ok(())
    }
}
