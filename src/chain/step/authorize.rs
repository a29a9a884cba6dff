//! `users`: who may use a route.

use super::Step;
use crate::chain::Failure;
use crate::chain::handler::Request;
use crate::chain::template::{Piece, RoutePattern, Template, Values};

/// Lets these users pass. `{owner}`, the name of a variable, is whoever has the name that stands in its place.
pub(super) struct Authorize(Vec<Template>);

impl Authorize {
    pub(super) fn new(users: &[String], pattern: &RoutePattern) -> Result<Self, String> {
        let read = |text: &String| {
            let template = Template::parse(text)?;
            template.check(pattern)?;
            match template.pieces() {
                [Piece::Variable(name)] if name == "user" => {
                    Err("has {user}, which everybody is; name a variable of the pattern, or leave users out".to_owned())
                }
                [Piece::Variable(_) | Piece::Text(_)] => Ok(template),
                _ => Err(format!("has {text:?}; expected a name, or one {{variable}}")),
            }
        };
        users.iter().map(read).collect::<Result<_, _>>().map(Authorize)
    }
}

impl Step for Authorize {
    fn run(&self, _: &mut Request, values: &Values<'_>) -> Result<(), Failure> {
        let is_named = |template: &Template| match template.pieces() {
            [Piece::Text(name)] => name == values.user,
            [Piece::Variable(name)] => values.get(name).is_some_and(|value| value == values.user),
            _ => false,
        };
        if self.0.iter().any(is_named) { Ok(()) } else { Err(Failure::new(403, "this user may not do that")) }
    }
}
