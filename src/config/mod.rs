//! Gathers the settings of all parts: defaults, then a file, then the environment, then flags.
//!
//! The settings themselves stand beside the code that they set, with their defaults and checks. This module knows only
//! where values come from, and how to say what is wrong with one: which key, which file and line, variable or flag,
//! and the key that was probably meant. The list of known keys is the serialised defaults, so there is no second one.

mod effective;
mod error;
mod extract;
mod sources;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use error::{ConfigError, Problem};
pub use sources::{Flag, Sources};

use crate::access::{Action, ForeignReply, Naming, Rules};
use crate::message::{Destination, Separators, Text};
use crate::settings::Faults;
use crate::{access, auth, broker, chain, hub, metrics, server, session, telemetry, traces};

/// All settings of a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// `[server]`.
    pub server: server::Settings,
    /// `[session]`.
    pub session: session::Settings,
    /// `[outbox]`.
    pub outbox: hub::Settings,
    /// `[destination]`.
    pub destination: Destinations,
    /// `[auth]`.
    pub auth: auth::Settings,
    /// `[access]`.
    pub access: access::Settings,
    /// `[app]`.
    pub app: chain::Settings,
    /// `[broker]`.
    pub broker: broker::Settings,
    /// `[node]`.
    pub node: Node,
    /// `[admin]`.
    pub admin: server::admin::Settings,
    /// `[metrics]`.
    pub metrics: metrics::Settings,
    /// `[traces]`.
    pub traces: traces::Settings,
    /// `[log]`.
    pub log: telemetry::Settings,
}

/// `[destination]`: how destinations are spelled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Destinations {
    /// Characters that separate the segments of `/topic`, `/user/topic` and `/app`. Default `/.`, which means either.
    pub separators: Separators,
}

/// `[node]`: this running gateway among others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Node {
    /// Its name. Default none, which means a random one per start.
    pub name: Option<String>,
}

/// A configuration, and where each of its values comes from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// By key: `default`, `file stompgate.toml`, a variable or a flag.
    origins: BTreeMap<String, String>,
}

impl Config {
    /// Reads all sources and checks the result. The error holds everything that is wrong, not the first.
    pub fn load(sources: &Sources) -> Result<Loaded, ConfigError> {
        let mut gathered = sources.gather();
        let (config, mut problems) = gathered.extract();
        // A section with a wrong value was completed with defaults: its cross checks would say things nobody wrote.
        let is_sound = |key: &str| !problems.iter().any(|problem| section(&problem.key) == section(key));
        let faults: Vec<_> = config.check().err().into_iter().flatten().filter(|fault| is_sound(&fault.key)).collect();
        problems.extend(faults.into_iter().map(|fault| gathered.problem(fault.key, fault.why)));
        if problems.is_empty() {
            let origins = gathered.origins();
            Ok(Loaded { config, origins })
        } else {
            Err(ConfigError { problems })
        }
    }

    /// Whether the values can be and go together. [`Config::load`] has done this; it is for those who embed the gateway.
    pub fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.join(self.server.check());
        faults.join(self.session.check());
        faults.join(self.outbox.check(self.separators()));
        faults.join(self.auth.check());
        faults.join(self.app.check(self.separators()));
        faults.join(self.check_app());
        faults.join(self.check_access());
        faults.join(self.broker.check());
        faults.join(self.node.check());
        faults.join(self.admin.check());
        faults.join(self.metrics.check(self.separators()));
        faults.join(self.traces.check());
        faults.join(self.log.check());
        faults.join(self.check_trust());
        faults.join(self.check_identity());
        faults.join(self.check_slash());
        faults.into_result()
    }

    /// The keys of all settings that differ, in order. A list is one setting.
    pub fn differences(&self, other: &Config) -> Vec<String> {
        effective::differences(self, other)
    }

    /// How destinations are read: `destination.separators`, and for RabbitMQ `broker.amqp.topic_slash`.
    pub fn separators(&self) -> Separators {
        if self.rejects_slash() { Separators::NoSlashInTopics } else { self.destination.separators }
    }

    /// Who may send and subscribe where.
    ///
    /// # Errors
    /// What is wrong with `[access]`.
    pub fn rules(&self) -> Result<Rules, Faults> {
        let (topic_exchange, foreign_reply) = match self.broker.kind {
            broker::Kind::Memory => (None, ForeignReply::Nothing),
            broker::Kind::Amqp => (Some(Text::from(self.broker.amqp.exchange.as_str())), ForeignReply::Queue),
            broker::Kind::Mqtt => (None, ForeignReply::Topic),
        };
        self.access.rules(&Naming { separators: self.separators(), topic_exchange, foreign_reply })
    }

    fn rejects_slash(&self) -> bool {
        self.broker.kind == broker::Kind::Amqp && self.broker.amqp.topic_slash == broker::amqp::TopicSlash::Reject
    }

    fn check_slash(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand(
            !self.rejects_slash() || self.destination.separators == Separators::Both,
            "broker.amqp.topic_slash",
            "\"reject\" goes with destination.separators = \"/.\" only: set that, or \"accept\"",
        );
        faults.into_result()
    }

    /// A receipt must not run out of time while a handler works.
    fn check_app(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        faults.demand(
            !self.app.is_used() || self.app.timeout < self.session.confirm_timeout,
            "app.timeout",
            "must be shorter than session.confirm_timeout, within which a receipt is given",
        );
        faults.into_result()
    }

    /// Rules that make sense, and leave every route to somebody.
    fn check_access(&self) -> Result<(), Faults> {
        let rules = self.rules()?;
        let mut faults = Faults::default();
        for (index, name) in self.app.patterns(self.separators()) {
            let route = Destination::Application(name);
            let closed = [Action::Send, Action::Subscribe].map(|action| rules.closed(action, &route));
            if let [Some(_), Some(rule)] = closed {
                let why = match rule {
                    Some(rule) => format!("is for nobody: access.rule.{rule} denies it to everybody"),
                    None => "is for nobody: no access.rule allows it to anybody".to_owned(),
                };
                faults.add(&format!("app.route.{index}.pattern"), why);
            }
        }
        faults.into_result()
    }

    fn check_trust(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let is_trusting = self.auth.kind == auth::Kind::Trust;
        let listen = self.server.listen;
        faults.demand(
            !is_trusting || listen.ip().to_canonical().is_loopback() || self.auth.trust_remote,
            "server.listen",
            format!(
                "is {listen}, which other machines can reach, and auth.kind = \"trust\" lets everybody in under any \
                 name without a password; listen on 127.0.0.1, or set auth.trust_remote = true if that is what you want"
            ),
        );
        faults.into_result()
    }
}

impl Config {
    /// The broker can check only logins that are used at it, and must check those that are.
    fn check_identity(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        let is_checked = self.auth.kind == auth::Kind::Broker;
        let is_amqp = self.broker.kind == broker::Kind::Amqp;
        let is_per_user = self.broker.amqp.identity == broker::amqp::Identity::PerUser;
        if is_checked && !is_amqp {
            let why = "is \"broker\", and only RabbitMQ checks logins: set broker.kind = \"amqp\" and \
                       broker.amqp.identity = \"per-user\", or auth.kind = \"trust\"";
            faults.add("auth.kind", why);
        } else if is_checked && !is_per_user {
            let why = "is \"broker\", and with broker.amqp.identity = \"service\" no client logs in at the broker: set \
                       broker.amqp.identity = \"per-user\", or auth.kind = \"trust\"";
            faults.add("auth.kind", why);
        } else if is_per_user && !is_checked {
            let why = "is \"per-user\", and with auth.kind = \"trust\" nobody checks passcodes: set auth.kind = \
                       \"broker\" (with broker.kind = \"amqp\"), or broker.amqp.identity = \"service\"";
            faults.add("broker.amqp.identity", why);
        }
        faults.into_result()
    }
}

impl Node {
    fn check(&self) -> Result<(), Faults> {
        let mut faults = Faults::default();
        if let Some(name) = &self.name {
            let good = (1..=64).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
            faults.demand(good, "node.name", format!("is {name:?}; expected 1 to 64 letters, digits, -, _ or ."));
        }
        faults.into_result()
    }
}

fn section(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}
