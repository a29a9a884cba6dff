//! What can be asked for: the one table of methods and paths.

use std::borrow::Cow;

use hyper::Method;

use crate::message::decode;

/// What answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Metrics,
    Alive,
    Ready,
    /// A call of the API, which wants the key.
    Api(Api),
}

/// The calls of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Api {
    Document,
    Publish,
    PublishMany,
    PublishToUser,
    Sessions,
    EndSession,
    Subscriptions,
    EndSessions,
    Log,
    ChangeLog,
    Reload,
}

/// Every route; a test compares them with `src/server/admin/openapi.json`.
pub(super) const ROUTES: &[(&str, &str, Endpoint)] = &[
    ("GET", "/metrics", Endpoint::Metrics),
    ("GET", "/healthz", Endpoint::Alive),
    ("GET", "/readyz", Endpoint::Ready),
    ("GET", "/openapi.json", Endpoint::Api(Api::Document)),
    ("POST", "/messages", Endpoint::Api(Api::Publish)),
    ("POST", "/messages/batch", Endpoint::Api(Api::PublishMany)),
    ("GET", "/log", Endpoint::Api(Api::Log)),
    ("PUT", "/log", Endpoint::Api(Api::ChangeLog)),
    ("POST", "/reload", Endpoint::Api(Api::Reload)),
    ("GET", "/sessions", Endpoint::Api(Api::Sessions)),
    ("DELETE", "/sessions/{session}", Endpoint::Api(Api::EndSession)),
    ("GET", "/sessions/{session}/subscriptions", Endpoint::Api(Api::Subscriptions)),
    ("POST", "/users/{user}/messages", Endpoint::Api(Api::PublishToUser)),
    ("DELETE", "/users/{user}/sessions", Endpoint::Api(Api::EndSessions)),
];

/// What a request names.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found<'a> {
    /// An endpoint, and what stands in the place of the variable in its path.
    Endpoint(Endpoint, Cow<'a, str>),
    /// The path is there, but for these methods.
    OtherMethods(String),
    Nothing,
}

/// What a method and a path name. What can be read with GET can be asked for with HEAD.
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Found<'a> {
    let mut others = Vec::new();
    for &(known, pattern, endpoint) in ROUTES {
        let Some(variable) = matched(pattern, path) else { continue };
        if method.as_str() == known || (known == "GET" && method == Method::HEAD) {
            return Found::Endpoint(endpoint, variable);
        }
        others.push(if known == "GET" { "GET, HEAD" } else { known });
    }
    if others.is_empty() { Found::Nothing } else { Found::OtherMethods(others.join(", ")) }
}

/// The value of the pattern's variable, which is one segment; empty where it has none.
fn matched<'a>(pattern: &str, path: &'a str) -> Option<Cow<'a, str>> {
    let Some((before, after)) =
        pattern.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?.1)))
    else {
        return (pattern == path).then_some(Cow::Borrowed(""));
    };
    let segment = path.strip_prefix(before)?.strip_suffix(after)?;
    (!segment.is_empty() && !segment.contains('/')).then(|| decode(segment)).flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_path_finds_its_endpoint() {
        let find = |method: Method, path: &'static str| find(&method, path);
        assert_eq!(find(Method::HEAD, "/metrics"), Found::Endpoint(Endpoint::Metrics, "".into()));
        assert_eq!(find(Method::POST, "/metrics"), Found::OtherMethods("GET, HEAD".to_owned()));
        assert_eq!(
            find(Method::DELETE, "/sessions/n-1"),
            Found::Endpoint(Endpoint::Api(Api::EndSession), "n-1".into())
        );
        let found = find(Method::POST, "/users/ada%2Fb/messages");
        assert_eq!(found, Found::Endpoint(Endpoint::Api(Api::PublishToUser), "ada/b".into()));
        for nothing in ["/sessions/", "/sessions/a/b", "/users//sessions", "/users/%zz/sessions", "/metrics/", "/"] {
            assert_eq!(find(Method::GET, nothing), Found::Nothing, "{nothing}");
        }
    }

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(super::super::DOCUMENT).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let told: BTreeSet<_> = paths
            .iter()
            .flat_map(|(path, item)| {
                let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
                methods.map(move |method| (method.to_ascii_uppercase(), path.clone()))
            })
            .collect();
        let known: BTreeSet<_> =
            ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
        assert_eq!(told, known);
    }
}
