//! Who may send and subscribe where: the one place where that is decided (contract, §10).
//!
//! Rules speak of resources, never of spellings: a queue is one resource whether a client writes `/queue/N`,
//! `/amq/queue/N`, `x-queue-name:N` or the default exchange's dead-letter key, and `/exchange/amq.topic/a.b` is the topic
//! `a.b`. The first rule that is about an action, a resource and a user counts. A SUBSCRIBE with wildcards stands for many
//! resources: a rule that allows must allow them all, and one that denies any of them denies it.
//!
//! No IO, no clock. A session asks for each frame, and once more for all that it holds when the rules change.

mod decisions;
mod overview;
mod place;
mod resource;
mod settings;

use crate::message::{Destination, Headers, Principal, Refusal, Separators, Text};

pub use decisions::Decisions;
use place::{Place, Reach};
use resource::Resource;
pub use settings::{Effect, RuleSettings, Settings};

/// What a client does to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It sends there.
    Send,
    /// It reads from there.
    Subscribe,
}

/// Whose frame it is.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Who it is.
    pub principal: &'a Principal,
    /// The name of the session.
    pub session: &'a str,
}

/// What destinations mean at the broker, as far as two of them can mean one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Naming {
    /// Which characters separate segments.
    pub separators: Separators,
    /// The exchange behind `/topic`, where there are exchanges.
    pub topic_exchange: Option<Text>,
    /// What a `/reply-queue` is that no gateway handed out.
    pub foreign_reply: ForeignReply,
}

/// What a `/reply-queue` is that no gateway handed out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForeignReply {
    /// Nothing: nobody else hands out addresses.
    #[default]
    Nothing,
    /// The queue of that name.
    Queue,
    /// The topic of that name.
    Topic,
}

/// All rules, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    all: Vec<Rule>,
    /// What holds where no rule is about it.
    default: Effect,
    naming: Naming,
    decisions: Decisions,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    effect: Effect,
    actions: Vec<Action>,
    who: Who,
    places: Vec<Place>,
}

/// Whom a rule is about: all that is given must hold, and of users and of roles one is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Who {
    users: Vec<String>,
    roles: Vec<String>,
    claims: Vec<(String, String)>,
}

/// The claim that has a principal's roles.
const ROLES: &str = "roles";

impl Rules {
    /// Everybody may do everything.
    pub fn open() -> Self {
        Rules { all: Vec::new(), default: Effect::Allow, naming: Naming::default(), decisions: Decisions::default() }
    }

    /// The same, which count on where others count.
    #[must_use]
    pub fn counting(self, decisions: Decisions) -> Self {
        Rules { decisions, ..self }
    }

    /// How often they let something pass, and how often not; nothing is decided where they are [open](Rules::is_open).
    pub fn decisions(&self) -> &Decisions {
        &self.decisions
    }

    /// Whether everybody may do everything, so that nobody need be asked.
    pub fn is_open(&self) -> bool {
        self.all.is_empty() && self.default == Effect::Allow
    }

    /// Lets a SEND or a SUBSCRIBE pass.
    ///
    /// # Errors
    /// `access-refused`, with the rule that refuses it.
    pub fn check(&self, action: Action, destination: &Destination, subject: Subject<'_>) -> Result<(), Refusal> {
        if self.is_open() {
            return Ok(());
        }
        match Resource::of(destination, action, subject, &self.naming) {
            Some(resource) => self.decide(action, &resource, subject, || destination_of(destination, subject)),
            None => Ok(()),
        }
    }

    /// Lets an answer be sent to where a `reply-to` says: who asks for it must be allowed to send there.
    ///
    /// # Errors
    /// As [`Rules::check`].
    pub fn check_reply_to(&self, reply_to: &str, subject: Subject<'_>) -> Result<(), Refusal> {
        if self.is_open() {
            return Ok(());
        }
        match Resource::of_reply_to(reply_to, subject, &self.naming) {
            Some(resource) => self.decide(Action::Send, &resource, subject, || format!("{reply_to} (reply-to)")),
            None => Ok(()),
        }
    }

    /// Lets arguments of queues pass that name other places: dead letters go where one may send; and a queue of one's own
    /// naming is read and filled.
    ///
    /// # Errors
    /// As [`Rules::check`].
    pub fn check_arguments(&self, arguments: &Headers, subject: Subject<'_>) -> Result<(), Refusal> {
        if self.is_open() {
            return Ok(());
        }
        if let Some(queue) = arguments.get("x-queue-name") {
            self.check_named_queue(queue, subject)?;
        }
        match arguments.get("x-dead-letter-exchange") {
            Some(exchange) => {
                let key = arguments.get("x-dead-letter-routing-key").map(|key| &**key);
                let resource = Resource::of_dead_letters(exchange, key, &self.naming);
                let shown = || format!("/exchange/{exchange}/{} (x-dead-letter-exchange)", key.unwrap_or("#"));
                self.decide(Action::Send, &resource, subject, shown)
            }
            None => Ok(()),
        }
    }

    /// Lets a topic or an exchange be read through the queue of this name (`x-queue-name`).
    ///
    /// # Errors
    /// As [`Rules::check`].
    pub fn check_named_queue(&self, queue: &Text, subject: Subject<'_>) -> Result<(), Refusal> {
        let queue = Destination::Queue(queue.clone());
        self.check(Action::Subscribe, &queue, subject)?;
        self.check(Action::Send, &queue, subject)
    }

    fn decide(
        &self,
        action: Action,
        resource: &Resource,
        subject: Subject<'_>,
        shown: impl Fn() -> String,
    ) -> Result<(), Refusal> {
        self.decisions.count(self.first_about(action, resource, subject, shown))
    }

    /// The first rule that is about it counts.
    fn first_about(
        &self,
        action: Action,
        resource: &Resource,
        subject: Subject<'_>,
        shown: impl Fn() -> String,
    ) -> Result<(), Refusal> {
        let refused = |because: &str| {
            let verb = if action == Action::Send { "SEND to" } else { "SUBSCRIBE to" };
            Err(Refusal::not_allowed(&subject.principal.name, &format!("{verb} {}", shown()), because))
        };
        for (index, rule) in self.all.iter().enumerate() {
            if rule.actions.contains(&action) && rule.who.is(subject.principal) && rule.takes(resource, subject) {
                return match rule.effect {
                    Effect::Allow => Ok(()),
                    Effect::Deny => refused(&format!("access.rule.{index} denies it")),
                };
            }
        }
        match self.default {
            Effect::Allow => Ok(()),
            Effect::Deny => refused("no access.rule allows all of it"),
        }
    }
}

impl Rule {
    /// Whether this rule decides: to allow, it must be about all of the resource; to deny, about any of it.
    fn takes(&self, resource: &Resource, subject: Subject<'_>) -> bool {
        let reach = match self.effect {
            Effect::Allow => Reach::All,
            Effect::Deny => Reach::Any,
        };
        self.places.iter().any(|place| place.takes(resource, reach, subject))
    }
}

impl Who {
    fn is(&self, principal: &Principal) -> bool {
        (self.users.is_empty() || self.users.iter().any(|user| *user == *principal.name))
            && (self.roles.is_empty() || self.roles.iter().any(|role| principal.claims.has(ROLES, role)))
            && self.claims.iter().all(|(name, value)| principal.claims.has(name, value))
    }
}

/// As a reader of the ERROR knows it: a user's destination with the user's name.
fn destination_of(destination: &Destination, subject: Subject<'_>) -> String {
    match destination {
        Destination::User { user, name } => {
            format!("/user/{}/{name}", user.as_ref().unwrap_or(&subject.principal.name))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
