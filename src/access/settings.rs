//! `[access]`: who may send and subscribe where.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::place::Place;
use super::{Action, Decisions, Naming, Rule, Rules, Who};
use crate::settings::Faults;

/// `[access]`: who may send and subscribe where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// What holds where no rule is about it. Default none: `deny` if there are rules, `allow` if there are none.
    pub default: Option<Effect>,
    /// `[[access.rule]]`: the first that is about an action, a resource and a user counts. Default none.
    pub rule: Vec<RuleSettings>,
}

/// One `[[access.rule]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RuleSettings {
    /// What it does. Default `allow`.
    pub effect: Effect,
    /// What it is about. Default both, `send` and `subscribe`.
    pub actions: Vec<Action>,
    /// Destinations with wildcards, `{user}`, `{session}` and `{claim.NAME}`; `/#` is all.
    pub destinations: Vec<String>,
    /// Names of users. Default everybody.
    pub users: Vec<String>,
    /// Roles, of which a user must have one. Default whoever.
    pub roles: Vec<String>,
    /// Claims that a user must have, with these values. Default whoever.
    pub claims: BTreeMap<String, String>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It lets it pass.
    #[default]
    Allow,
    /// It refuses it.
    Deny,
}

impl Default for RuleSettings {
    fn default() -> Self {
        RuleSettings {
            effect: Effect::Allow,
            actions: vec![Action::Send, Action::Subscribe],
            destinations: Vec::new(),
            users: Vec::new(),
            roles: Vec::new(),
            claims: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// The rules, in their order.
    ///
    /// # Errors
    /// Everything that is wrong with any of them; destinations of a rule about which an earlier one has said all.
    pub fn rules(&self, naming: &Naming) -> Result<Rules, Faults> {
        let mut faults = Faults::default();
        let rules: Vec<_> =
            self.rule.iter().enumerate().map(|(index, rule)| rule.read(index, naming, &mut faults)).collect();
        let default = if rules.is_empty() { Effect::Allow } else { Effect::Deny };
        let default = self.default.unwrap_or(default);
        let rules = Rules { all: rules, default, naming: naming.clone(), decisions: Decisions::default() };
        rules.find_idle(&mut faults);
        faults.into_result().map(|()| rules)
    }
}

impl RuleSettings {
    fn read(&self, index: usize, naming: &Naming, faults: &mut Faults) -> Rule {
        let key = |name: &str| format!("access.rule.{index}.{name}");
        faults.demand(!self.actions.is_empty(), &key("actions"), "is empty; expected \"send\", \"subscribe\" or both");
        faults.demand(
            !self.destinations.is_empty(),
            &key("destinations"),
            "is empty, so that the rule is about nothing",
        );
        let mut places = Vec::new();
        for text in &self.destinations {
            match Place::parse(text, naming) {
                Ok(read) => places.extend(read),
                Err(why) => faults.add(&key("destinations"), why),
            }
        }
        let claims = self.claims.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        let who = Who { users: self.users.clone(), roles: self.roles.clone(), claims };
        Rule { effect: self.effect, actions: self.actions.clone(), who, places }
    }
}
