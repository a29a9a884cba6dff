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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chain::handler::Variables;
    use crate::message::{Claims, Headers, Pattern, PublishOptions};

    fn target(settings: &TargetSettings) -> Result<Target, (&'static str, String)> {
        let pattern = RoutePattern::parse("/app/orders/{id}", Separators::Both).unwrap();
        Target::new(settings, &pattern, Separators::Both)
    }

    /// Where the result of a SEND to `/app/orders/…` with this `id` and reply address goes: `+` stands before what is
    /// published, `=` before what is for the sender's session alone, and a user's name before what is for one.
    fn replies(settings: &TargetSettings, id: &str, reply_to: Option<&str>) -> Result<Vec<String>, Failure> {
        let claims: Claims = [("tenant".into(), vec!["ac/me".into()])].into_iter().collect();
        let variables = Variables(vec![("id".into(), id.to_owned())]);
        let values = Values { variables: &variables, user: "a/da", session: "s-1", claims: &claims };
        let destination = Destination::Application(Pattern::canonical("orders/7"));
        let headers: Headers = reply_to.map(|address| ("reply-to", address)).into_iter().collect();
        let cause = Cause::new(&destination, &headers);
        let body = Bytes::from_static(b"done");
        let result = Message { destination, headers: Headers::new(), body, options: PublishOptions::default() };
        let replies = target(settings).unwrap().replies(&result, &cause, &values)?;
        let told = replies.into_iter().map(|reply| {
            let (sign, message) = match reply {
                Reply::Publish(message) => ('+', message),
                Reply::Direct(message) => ('=', message),
            };
            assert_eq!(message.body, "done");
            match &message.destination {
                Destination::User { user: Some(user), .. } => format!("{sign}{user}:{}", message.destination),
                destination => format!("{sign}{destination}"),
            }
        });
        Ok(told.collect())
    }

    fn to(send_to: &str) -> TargetSettings {
        TargetSettings { send_to: Some(send_to.to_owned()), ..TargetSettings::default() }
    }

    #[test]
    fn without_a_word_the_result_goes_to_the_topic_of_the_same_name() {
        assert_eq!(replies(&TargetSettings::default(), "7", Some("/reply-queue/r")).unwrap(), ["+/topic/orders/7"]);
    }

    #[test]
    fn a_destination_is_written_from_variables_and_claims_each_of_which_stays_one_segment() {
        let written = |send_to: &str, id: &str| replies(&to(send_to), id, None);
        assert_eq!(written("/topic/{claim.tenant}/{id}/x", "a.b/*").unwrap(), ["+/topic/ac%2Fme/a%2Eb%2F%2A/x"]);
        assert_eq!(written("/queue/of-{user}-{session}", "7").unwrap(), ["+/queue/of-a/da-s-1"]);
        assert_eq!(written("/topic/{claim.none}", "7").unwrap_err().status, 403);
        assert_eq!(written("/queue/{id}", "").unwrap_err().status, 400);
    }

    #[test]
    fn what_is_for_the_sender_goes_to_all_its_sessions_or_to_its_own() {
        for (broadcast, expected) in [(true, "+a/da:/user/queue/orders"), (false, "=/user/queue/orders")] {
            for name in ["queue/orders", "/queue/orders"] {
                let settings =
                    TargetSettings { send_to_user: Some(name.to_owned()), broadcast, ..TargetSettings::default() };
                assert_eq!(replies(&settings, "7", None).unwrap(), [expected]);
            }
        }
    }

    #[test]
    fn a_reply_goes_to_the_address_that_the_sender_named_or_to_its_replies() {
        let settings = TargetSettings { reply: true, ..TargetSettings::default() };
        assert_eq!(replies(&settings, "7", Some("/reply-queue/r")).unwrap(), ["=/reply-queue/r"]);
        for other in [None, Some("/queue/x")] {
            assert_eq!(replies(&settings, "7", other).unwrap(), ["=/user/queue/replies"]);
        }
    }

    #[test]
    fn a_result_goes_everywhere_that_is_said() {
        let settings = TargetSettings { send_to_user: Some("topic/{id}".to_owned()), reply: true, ..to("/queue/{id}") };
        let all = ["+/queue/7", "+a/da:/user/topic/7", "=/user/queue/replies"];
        assert_eq!(replies(&settings, "7", None).unwrap(), all);
    }

    #[test]
    fn what_nobody_can_send_to_is_refused() {
        for bad in ["/app/x", "/topic/{other}", "/topic/*", "topic/x", "/topic/{id", "/topic/a{id}*"] {
            assert_eq!(target(&to(bad)).err().map(|(key, _)| key), Some("send_to"), "{bad}");
        }
        let settings = TargetSettings { send_to_user: Some("nowhere/x".to_owned()), ..TargetSettings::default() };
        assert_eq!(target(&settings).err().map(|(key, _)| key), Some("send_to_user"));
    }
}
