//! Where the result of a route goes.

use super::template::{RoutePattern, Template, Values};
use super::{Cause, Failure, Reply, TargetSettings};
use crate::message::{Destination, Message, Separators, Usage};

/// Where the result of a route goes; with nothing in it, to `/topic/` and what stands after `/app/`.
#[derive(Clone, Debug, Default)]
pub(super) struct Target {
    send_to: Option<Template>,
    /// `/user/{user}/…`, and whether every session of the user gets it.
    send_to_user: Option<(Template, bool)>,
    reply: bool,
    separators: Separators,
}

impl Target {
    /// Reads the settings. The error names the setting and says what is wrong with it.
    pub(super) fn new(
        settings: &TargetSettings,
        pattern: &RoutePattern,
        separators: Separators,
    ) -> Result<Self, (&'static str, String)> {
        let read = |key, text: &str| template(text, pattern, separators).map_err(|why| (key, why));
        let send_to = settings.send_to.as_deref().map(|text| read("send_to", text)).transpose()?;
        let send_to_user = settings.send_to_user.as_deref().map(|name| {
            let template = read("send_to_user", &format!("/user/{{user}}/{}", name.trim_start_matches('/')))?;
            Ok((template, settings.broadcast))
        });
        Ok(Target { send_to, send_to_user: send_to_user.transpose()?, reply: settings.reply, separators })
    }

    /// What is to be done with a result. It has the destination that the frame had.
    ///
    /// # Errors
    /// When a value of a variable makes a name that nobody may use.
    pub(super) fn replies(&self, result: &Message, cause: &Cause, values: &Values<'_>) -> Result<Vec<Reply>, Failure> {
        let to = |destination| Message { destination, ..result.clone() };
        let mut replies = Vec::new();
        if let Some(template) = &self.send_to {
            replies.push(Reply::Publish(to(template.destination(values, self.separators)?)));
        }
        if let Some((template, is_broadcast)) = &self.send_to_user {
            let destination = template.destination(values, self.separators)?;
            replies.push(match destination {
                Destination::User { name, .. } if !is_broadcast => {
                    Reply::Direct(to(Destination::User { user: None, name }))
                }
                destination => Reply::Publish(to(destination)),
            });
        }
        if self.reply {
            replies.push(Reply::Direct(to(cause.reply_address("queue/replies"))));
        }
        if replies.is_empty()
            && let Destination::Application(name) = &result.destination
        {
            replies.push(Reply::Publish(to(Destination::Topic(name.clone()))));
        }
        Ok(replies)
    }
}

/// A template whose every filling is something that can be sent to.
fn template(text: &str, pattern: &RoutePattern, separators: Separators) -> Result<Template, String> {
    let template = Template::parse(text)?;
    template.check(pattern)?;
    match Destination::parse(&template.example("x"), Usage::Send, separators) {
        Ok(Destination::Application(_)) => Err(format!("is {text:?}; a result does not go to /app again")),
        Ok(_) => Ok(template),
        Err(refusal) => Err(refusal.detail),
    }
}
