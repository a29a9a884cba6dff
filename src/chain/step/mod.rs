//! What a route does with a frame before its handler: one file each, in the order of [`steps`].

mod authorize;
mod rate_limit;
mod set_headers;
mod validate;

use super::Failure;
use super::handler::Request;
use super::settings::RouteSettings;
use super::template::{RoutePattern, Values};
pub use rate_limit::Settings as RateLimit;

/// Looks at a frame on its way to a handler, or changes it.
pub(super) trait Step: Send + Sync {
    /// Lets the frame pass, or says why not.
    fn run(&self, request: &mut Request, values: &Values<'_>) -> Result<(), Failure>;
}

/// The steps that the settings ask for. The error names the setting and says what is wrong with it.
pub(super) fn steps(
    settings: &RouteSettings,
    pattern: &RoutePattern,
) -> Result<Vec<Box<dyn Step>>, (&'static str, String)> {
    let mut steps: Vec<Box<dyn Step>> = Vec::new();
    if !settings.users.is_empty() {
        let users = authorize::Authorize::new(&settings.users, pattern).map_err(|why| ("users", why))?;
        steps.push(Box::new(users));
    }
    if let Some(limit) = &settings.rate_limit {
        let limit = rate_limit::RateLimit::new(limit).map_err(|why| ("rate_limit", why))?;
        steps.push(Box::new(limit));
    }
    if let Some(file) = &settings.validate {
        let schema = validate::Validate::new(file).map_err(|why| ("validate", why))?;
        steps.push(Box::new(schema));
    }
    if !settings.set_headers.is_empty() {
        let reader = if settings.http.is_some() { set_headers::Reader::Service } else { set_headers::Reader::Client };
        let headers = set_headers::SetHeaders::new(&settings.set_headers, pattern, reader);
        let headers = headers.map_err(|why| ("set_headers", why))?;
        steps.push(Box::new(headers));
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chain::RateLimit;
    use crate::chain::handler::Variables;
    use crate::message::{Claims, Destination, Headers, Pattern, Separators};

    /// The pattern of the routes whose steps are tried, and a SEND to `/app/boxes/bob` with this body.
    pub(super) fn pattern() -> RoutePattern {
        RoutePattern::parse("/app/boxes/{owner}", Separators::Both).unwrap()
    }

    pub(super) fn send(body: &str) -> Request {
        Request {
            is_send: true,
            destination: Destination::Application(Pattern::canonical("boxes/bob")),
            variables: Variables(vec![("owner".into(), "bob".to_owned())]),
            headers: Headers::new(),
            body: Bytes::from(body.to_owned()),
        }
    }

    /// What a step does with a frame of this user, who is of two teams.
    pub(super) fn run(step: &dyn Step, request: &mut Request, user: &str) -> Result<(), Failure> {
        let claims: Claims = [("team".into(), vec!["red".into(), "blue".into()])].into_iter().collect();
        let variables = request.variables.clone();
        step.run(request, &Values { variables: &variables, user, session: "s-1", claims: &claims })
    }

    pub(super) fn status(passed: Result<(), Failure>) -> u16 {
        passed.map_or_else(|failure| failure.status, |()| 200)
    }

    #[tokio::test(start_paused = true)]
    async fn who_may_not_costs_nobody_a_frame_and_what_comes_too_often_is_not_looked_at() {
        let schema = std::env::temp_dir().join(format!("stompgate-schema-{}.json", std::process::id()));
        std::fs::write(&schema, "true").unwrap();
        let settings = RouteSettings {
            users: vec!["ada".into(), "bob".into()],
            rate_limit: Some(RateLimit { per_second: 1, burst: 1, ..RateLimit::default() }),
            validate: Some(schema.clone()),
            set_headers: [("x".to_owned(), "set".to_owned())].into(),
            ..RouteSettings::default()
        };
        let steps = steps(&settings, &pattern()).unwrap();
        std::fs::remove_file(schema).unwrap();
        let all =
            |request: &mut Request, user: &str| status(steps.iter().try_for_each(|step| run(&**step, request, user)));
        for (user, body, expected) in [
            ("eve", "{}", 403),
            ("eve", "{}", 403),
            ("ada", "no JSON", 422),
            ("ada", "no JSON", 429),
            ("bob", "{}", 200),
        ] {
            let mut request = send(body);
            assert_eq!(all(&mut request, user), expected, "{user} {body}");
            assert_eq!(request.headers.get("x").is_some(), expected == 200, "{user} {body}");
        }
    }

    #[test]
    fn a_step_that_makes_no_sense_is_named() {
        let named = |settings: RouteSettings| steps(&settings, &pattern()).err().map(|(key, _)| key);
        let (given, nowhere) = (RouteSettings::default, "/nowhere/schema.json");
        assert_eq!(named(RouteSettings { users: vec!["a{owner}".into()], ..given() }), Some("users"));
        let limit = RateLimit { burst: 0, ..RateLimit::default() };
        assert_eq!(named(RouteSettings { rate_limit: Some(limit), ..given() }), Some("rate_limit"));
        assert_eq!(named(RouteSettings { validate: Some(nowhere.into()), ..given() }), Some("validate"));
        let headers = [("ack".to_owned(), String::new())].into();
        assert_eq!(named(RouteSettings { set_headers: headers, ..given() }), Some("set_headers"));
        assert_eq!(named(given()), None);
    }
}
