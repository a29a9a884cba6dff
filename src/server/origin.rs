//! Whose pages may connect: the checks of `Host` and `Origin` (contract, §7).

use std::net::IpAddr;

use super::Settings;
use super::settings::is_host;

/// Whether the gateway answers to this `Host`.
///
/// With a list, those on it. Without one, a gateway on a loopback address answers to loopback names only, since a page
/// can make a name of its own resolve to 127.0.0.1 (DNS rebinding); any other gateway answers to every name.
pub(super) fn is_allowed_host(host: &str, settings: &Settings) -> bool {
    if !is_host(host) {
        return false;
    }
    if settings.allowed_hosts.is_empty() {
        return !settings.listen.ip().is_loopback() || is_loopback(name_of(host));
    }
    settings.allowed_hosts.iter().any(|pattern| host_matches(pattern, host))
}

/// Whether pages of this `Origin` may connect to this `Host`.
///
/// With a list, those on it. Without one, pages of the same name and port; and on a loopback address those of every
/// loopback origin, so that a page on `localhost:3000` works. An opaque origin (`null`) only where all may.
pub(super) fn is_allowed_origin(origin: &str, host: &str, settings: &Settings) -> bool {
    let allowed = &settings.allowed_origins;
    if allowed.iter().any(|pattern| pattern == "*") {
        return true;
    }
    let Some((scheme, authority)) = origin.split_once("://").filter(|(_, authority)| is_host(authority)) else {
        return false; // opaque, or with a user name or a path in it, which no browser sends
    };
    if !allowed.is_empty() {
        return allowed.iter().any(|pattern| {
            pattern.split_once("://").is_some_and(|(wanted, pattern)| {
                wanted.eq_ignore_ascii_case(scheme)
                    && host_matches(&with_port(pattern, scheme), &with_port(authority, scheme))
            })
        });
    }
    let same = with_port(authority, scheme).eq_ignore_ascii_case(&with_port(host, scheme));
    same || (settings.listen.ip().is_loopback() && is_loopback(name_of(authority)))
}

/// `*.example.com` stands for every name below it. A pattern without a port stands for every port.
fn host_matches(pattern: &str, host: &str) -> bool {
    let (pattern_name, host_name) = (name_of(pattern), name_of(host));
    let name_matches = match pattern_name.strip_prefix('*') {
        Some(suffix) => host_name.len() > suffix.len() && ends_with_ignoring_case(host_name, suffix),
        None => pattern_name.eq_ignore_ascii_case(host_name),
    };
    let wanted_port = pattern.get(pattern_name.len()..).unwrap_or_default();
    name_matches && (wanted_port.is_empty() || host.get(host_name.len()..) == Some(wanted_port))
}

fn ends_with_ignoring_case(name: &str, suffix: &str) -> bool {
    name.get(name.len() - suffix.len()..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
}

/// The name or address in `name:port`; an IPv6 address keeps its brackets.
fn name_of(authority: &str) -> &str {
    match authority.rfind(']') {
        Some(bracket) => &authority[..=bracket],
        None => authority.split(':').next().unwrap_or_default(),
    }
}

/// Writes out the port that the scheme implies.
fn with_port(authority: &str, scheme: &str) -> String {
    let has_port = authority.len() > name_of(authority).len();
    match scheme {
        _ if has_port => authority.to_owned(),
        "https" | "wss" => format!("{authority}:443"),
        _ => format!("{authority}:80"),
    }
}

fn is_loopback(name: &str) -> bool {
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    address.is_ok_and(|address| address.is_loopback()) || name == "localhost" || name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(listen: &str) -> Settings {
        Settings { listen: listen.parse().unwrap(), ..Settings::default() }
    }

    fn allowing(origins: &[&str]) -> Settings {
        Settings { allowed_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(), ..on("0.0.0.0:80") }
    }

    #[test]
    fn a_loopback_gateway_answers_to_loopback_names_only() {
        let settings = on("127.0.0.1:8080");
        for host in ["localhost", "localhost:8080", "127.0.0.1:8080", "[::1]:8080", "app.localhost:1", "LOCALHOST."] {
            assert!(is_allowed_host(host, &settings), "{host}");
        }
        for host in
            ["localhost:80@evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", ""]
        {
            assert!(!is_allowed_host(host, &settings), "{host}");
        }
    }

    #[test]
    fn a_public_gateway_answers_to_every_name_or_to_those_listed() {
        let mut settings = on("0.0.0.0:8080");
        assert!(is_allowed_host("gateway.example.com", &settings));
        settings.allowed_hosts = vec!["gateway.example.com".into(), "*.example.org:8443".into()];
        assert!(is_allowed_host("Gateway.Example.com:99", &settings));
        assert!(is_allowed_host("a.example.org:8443", &settings));
        for host in ["a.example.org", "example.org:8443", "other.example.com"] {
            assert!(!is_allowed_host(host, &settings), "{host}");
        }
    }

    #[test]
    fn pages_of_the_same_host_may_connect() {
        let settings = on("0.0.0.0:8080");
        assert!(is_allowed_origin("http://a.example:8080", "a.example:8080", &settings));
        assert!(is_allowed_origin("https://a.example", "a.example", &settings));
        assert!(is_allowed_origin("https://a.example", "a.example:443", &settings));
        for origin in ["http://a.example:81", "http://b.example:8080", "null", "", "a.example:8080"] {
            assert!(!is_allowed_origin(origin, "a.example:8080", &settings), "{origin}");
        }
    }

    #[test]
    fn on_loopback_every_loopback_page_may_connect() {
        let settings = on("127.0.0.1:8080");
        assert!(is_allowed_origin("http://localhost:3000", "127.0.0.1:8080", &settings));
        assert!(is_allowed_origin("http://[::1]:3000", "localhost:8080", &settings));
        for origin in ["http://evil.example", "http://localhost:80@evil.example", "http://localhost.evil.example"] {
            assert!(!is_allowed_origin(origin, "localhost:8080", &settings), "{origin}");
        }
        assert!(!is_allowed_origin("null", "localhost:8080", &settings));
    }

    #[test]
    fn a_list_of_origins_is_all_that_counts() {
        let settings = allowing(&["https://app.example.com", "https://*.example.org"]);
        assert!(is_allowed_origin("https://app.example.com", "gateway", &settings));
        assert!(is_allowed_origin("https://a.b.example.org", "gateway", &settings));
        for origin in
            ["http://app.example.com", "https://app.example.com:8443", "https://example.org", "https://gateway", "null"]
        {
            assert!(!is_allowed_origin(origin, "gateway", &settings), "{origin}");
        }
        assert!(is_allowed_origin("null", "gateway", &allowing(&["*"])));
    }
}
