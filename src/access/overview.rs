//! What can be said of rules before anybody is there: which never count, and what is closed to everybody.

use super::place::{Place, Reach};
use super::resource::Resource;
use super::{Action, Effect, Rule, Rules, Subject, Who};
use crate::message::{Destination, Principal};
use crate::settings::Faults;

impl Rules {
    /// Names destinations of rules about which earlier rules have said all there is to say: they repeat or contradict them.
    pub(super) fn find_idle(&self, faults: &mut Faults) {
        for (index, rule) in self.all.iter().enumerate() {
            for place in &rule.places {
                let said: Option<Vec<_>> =
                    rule.actions.iter().map(|action| self.said_before(index, *action, place)).collect();
                let Some(earlier) = said.and_then(|said| said.into_iter().max()) else { continue };
                let is_same = self.all[earlier].effect == rule.effect;
                let why = if is_same { "the same" } else { "the contrary" };
                let place = place.blank().as_str().trim_start_matches("-/").replace('\0', "");
                let why =
                    format!("never counts for {place:?}: access.rule.{earlier}, before it, says {why} of all of it");
                faults.add(&format!("access.rule.{index}.destinations"), why);
            }
        }
    }

    /// The first rule before this one that has decided all that this one could.
    fn said_before(&self, index: usize, action: Action, place: &Place) -> Option<usize> {
        let who = &self.all[index].who;
        self.all[..index].iter().position(|earlier| {
            let reach = if earlier.effect == Effect::Allow { Reach::All } else { Reach::Any };
            earlier.actions.contains(&action)
                && earlier.who.includes(who)
                && earlier.places.iter().any(|known| known.covers(place, reach))
        })
    }

    /// The rule that closes a destination to everybody; the outer `Some` without one says that no rule opens it.
    pub fn closed(&self, action: Action, destination: &Destination) -> Option<Option<usize>> {
        let nobody = Principal::new("");
        let subject = Subject { principal: &nobody, session: "" };
        let resource = Resource::of(destination, action, subject, &self.naming)?;
        for (index, rule) in self.all.iter().enumerate().filter(|(_, rule)| rule.actions.contains(&action)) {
            match rule.effect {
                Effect::Allow if rule.may_reach(&resource) => return None,
                Effect::Deny if rule.who == Who::default() && rule.reaches_all(&resource) => return Some(Some(index)),
                _ => {}
            }
        }
        (self.default == Effect::Deny).then_some(None)
    }
}

impl Rule {
    fn may_reach(&self, resource: &Resource) -> bool {
        let reaches = |place: &Place| place.is_open() || place.blank().overlaps(&resource.pattern);
        self.places.iter().any(|place| place.kind == resource.kind && reaches(place))
    }

    fn reaches_all(&self, resource: &Resource) -> bool {
        self.places.iter().any(|place| place.kind == resource.kind && place.blank().covers(&resource.pattern))
    }
}

impl Who {
    /// Whether all whom `other` is about are among those whom this is about.
    fn includes(&self, other: &Who) -> bool {
        let includes = |ours: &[String], theirs: &[String]| {
            ours.is_empty() || (!theirs.is_empty() && theirs.iter().all(|name| ours.contains(name)))
        };
        includes(&self.users, &other.users)
            && includes(&self.roles, &other.roles)
            && self.claims.iter().all(|claim| other.claims.contains(claim))
    }
}
