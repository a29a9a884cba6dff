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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::step::tests::{pattern, run, send, status};

    fn of(user: &str, users: &[&str]) -> u16 {
        let users: Vec<_> = users.iter().map(|&text| text.to_owned()).collect();
        status(run(&Authorize::new(&users, &pattern()).unwrap(), &mut send(""), user))
    }

    #[test]
    fn those_who_are_named_pass_and_nobody_else() {
        for (user, expected) in [("ada", 200), ("cyd", 200), ("bob", 403), ("Ada", 403), ("ad", 403), ("", 403)] {
            assert_eq!(of(user, &["ada", "cyd"]), expected, "{user:?}");
        }
    }

    #[test]
    fn a_variable_is_whoever_has_the_name_in_its_place() {
        assert_eq!([of("bob", &["{owner}"]), of("ada", &["{owner}"]), of("ada", &["{owner}", "ada"])], [200, 403, 200]);
        assert_eq!([of("red,blue", &["{claim.team}"]), of("", &["{claim.none}"])], [200, 403]);
    }

    #[test]
    fn what_says_nothing_of_a_user_is_refused() {
        for (bad, about) in [("{user}", "everybody"), ("a{owner}", "one {variable}"), ("{other}", "{other}"), ("", "")]
        {
            let why = Authorize::new(&[bad.to_owned()], &pattern()).err().unwrap_or_else(|| panic!("{bad:?}"));
            assert!(why.contains(about), "{why}");
        }
    }
}
