//! URLs with `{variables}`: each fills one segment of the path or one value of the query, and nothing else.

use hyper::Uri;

use crate::chain::Failure;
use crate::chain::template::{RoutePattern, Template, Values, encoded};

/// A URL with `{variables}`.
#[derive(Clone, Debug)]
pub(super) struct Url {
    /// Scheme, host and path.
    path: Template,
    query: Option<Template>,
}

impl Url {
    /// Reads a URL; the error says what is wrong with it.
    pub(super) fn parse(text: &str, pattern: &RoutePattern) -> Result<Self, String> {
        let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        let rest = rest.ok_or_else(|| format!("is {text:?}; expected http://… or https://…"))?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.is_empty() || authority.contains(['{', '}', '@', '#']) {
            return Err(format!("is {text:?}; expected a host, and no variable, login or # before its path"));
        }
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (text, None),
        };
        let is_whole = |part: &str| !part.contains(['{', '}']) || is_variable(part);
        let segments = rest.split('?').next().unwrap_or_default().split('/').skip(1);
        if !segments.into_iter().all(is_whole) {
            return Err(format!("is {text:?}; a variable is a whole segment of the path"));
        }
        let is_pair = |pair: &str| match pair.split_once('=') {
            Some((name, value)) => !name.contains(['{', '}']) && is_whole(value),
            None => !pair.contains(['{', '}']),
        };
        if !query.unwrap_or_default().split('&').all(is_pair) {
            return Err(format!("is {text:?}; a variable is a whole value of the query"));
        }
        let template = |text: &str| {
            let template = Template::parse(text)?;
            template.check(pattern).map(|()| template)
        };
        let url = Url { path: template(path)?, query: query.map(template).transpose()? };
        let example = text.replace(['{', '}'], "");
        example.parse::<Uri>().map_err(|error| format!("is {text:?}: {error}"))?;
        Ok(url)
    }

    /// The URL with each value in its place.
    ///
    /// # Errors
    /// 400 for a value that could lead a service somewhere else: an empty segment, `.` and `..`, one with a slash or a
    /// backslash, which some services decode before they look at paths.
    pub(super) fn fill(&self, values: &Values<'_>) -> Result<Uri, Failure> {
        let segment = |value: &str| {
            let leads_elsewhere = matches!(value, "" | "." | "..") || value.contains(['/', '\\']);
            if leads_elsewhere || value.contains(char::is_control) {
                return Err(Failure::new(400, "a part of the destination cannot be part of a path"));
            }
            Ok(encoded(value))
        };
        let mut text = self.path.fill(values, segment)?;
        if let Some(query) = &self.query {
            text.push('?');
            text.push_str(&query.fill(values, |value| Ok(encoded(value)))?);
        }
        text.parse().map_err(|_| Failure::new(400, "the destination is too long for a URL"))
    }
}

fn is_variable(part: &str) -> bool {
    let name = part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.contains(['{', '}']))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::handler::Variables;
    use crate::message::{Claims, Separators};
    use proptest::prelude::*;

    fn url(text: &str) -> Result<Url, String> {
        Url::parse(text, &RoutePattern::parse("/app/{id}/{q}", Separators::Both).unwrap())
    }

    fn fill(text: &str, id: &str, q: &str) -> Result<Uri, Failure> {
        let variables = Variables(vec![("id".into(), id.to_owned()), ("q".into(), q.to_owned())]);
        url(text).unwrap().fill(&Values {
            variables: &variables,
            user: "ada",
            session: "s",
            claims: &Claims::default(),
        })
    }

    #[test]
    fn a_variable_is_a_whole_segment_or_a_whole_value() {
        assert_eq!(fill("http://h:1/a/{id}?q={q}", "7", "x y").unwrap(), "http://h:1/a/7?q=x%20y");
        assert_eq!(fill("http://h/{user}", "", "").unwrap(), "http://h/ada");
        for bad in [
            "ftp://h/",
            "http://",
            "http://{id}/",
            "http://h:{id}/",
            "http://u:p@h/",
            "http://h/a-{id}",
            "http://h/?{q}=1",
            "http://h/?q=a{q}",
            "http://h/{other}",
            "http://h#{id}",
            "http://h/{id",
            "http://h/ x",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_value_that_could_lead_elsewhere_is_refused() {
        for bad in ["", ".", "..", "a/b", "..\\..", "a\nb"] {
            assert_eq!(fill("http://h/x/{id}", bad, "").unwrap_err().status, 400, "{bad:?}");
        }
        assert_eq!(fill("http://h/x?q={q}", "", "../&a=b#").unwrap(), "http://h/x?q=%2E%2E%2F%26a%3Db%23");
    }

    proptest! {
        #[test]
        fn a_value_never_leaves_its_place(id in "[^\0]{1,12}", q in "[^\0]{0,12}") {
            if let Ok(uri) = fill("https://host:8443/a/{id}/b?q={q}&r=1", &id, &q) {
                prop_assert_eq!(uri.authority().unwrap().as_str(), "host:8443");
                prop_assert_eq!(uri.scheme_str(), Some("https"));
                let segments: Vec<_> = uri.path().split('/').collect();
                prop_assert_eq!(segments.len(), 4);
                prop_assert_eq!((segments[1], segments[3]), ("a", "b"));
                let pairs: Vec<_> = uri.query().unwrap().split('&').collect();
                prop_assert_eq!(pairs.len(), 2);
                prop_assert_eq!(pairs[1], "r=1");
            }
        }
    }
}
