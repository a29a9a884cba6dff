//! Dependencies point down only: reads `src/` and fails on a path that points up, or on a crate in a room it is not for.
//!
//! The rooms and what each may use are in [`ROOMS`]; whoever adds a module adds a line. Test code is not looked at.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module of the crate's root, and the ones that it may use beside itself; `None` is all of them.
const ROOMS: &[(&str, Option<&[&str]>)] = &[
    // 0: the words that every layer shares
    ("settings", Some(&[])),
    ("message", Some(&[])),
    ("access", Some(&["settings", "message"])),
    // 1: the protocol
    ("stomp", Some(&["message"])),
    // 2: the session
    ("session", Some(&["settings", "message", "stomp", "access"])),
    // 3: the ports; not each other
    ("broker", Some(&["settings", "message", "metrics"])),
    ("chain", Some(&["settings", "message", "metrics", "outbound"])),
    ("auth", Some(&["settings", "message", "metrics"])),
    // 4: the hub
    ("hub", Some(&["settings", "message", "stomp", "broker", "metrics", "traces"])),
    // 5: the edge
    (
        "server",
        Some(&[
            "settings",
            "message",
            "stomp",
            "access",
            "session",
            "broker",
            "chain",
            "auth",
            "hub",
            "metrics",
            "telemetry",
            "traces",
        ]),
    ),
    // 6: the wiring
    ("config", None),
    ("gateway", None),
    ("lib", None),
    ("main", None),
    // aside
    ("metrics", Some(&["settings", "message", "stomp"])),
    ("outbound", Some(&[])),
    ("telemetry", Some(&["settings"])),
    ("traces", Some(&["settings", "message", "metrics", "outbound"])),
];

/// What must not be named outside of these folders.
const AT_HOME: &[(&str, &str)] = &[
    ("lapin", "broker/amqp"),
    ("rumqttc", "broker/mqtt"),
    ("rumqttc_v4", "broker/mqtt"),
    ("flate2", "server/deflate"),
    ("opentelemetry", "traces"),
    ("opentelemetry_sdk", "traces"),
];

/// What must not be named in the rooms that do no IO and read no clock.
const OUTSIDE: &[&str] = &["tokio", "tracing", "Instant::now", "SystemTime"];
const PURE: &[&str] = &["settings", "message", "access", "stomp", "session"];

#[test]
fn dependencies_point_down() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    assert!(files.len() > 10, "too few files: {files:?}");
    let violations: Vec<_> = files
        .iter()
        .flat_map(|file| {
            let path = file.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
            violations(&path, &fs::read_to_string(file).unwrap())
        })
        .collect();
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap();
        if name == "tests" {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What a file, named by its path below `src`, does against the rules.
fn violations(path: &str, text: &str) -> Vec<String> {
    let modules: Vec<&str> = path.trim_end_matches(".rs").trim_end_matches("/mod").split('/').collect();
    let room = modules[0];
    let Some((_, allowed)) = ROOMS.iter().find(|(name, _)| *name == room) else {
        return vec![format!("{path}: the module {room} is not in the table of tests/layers.rs")];
    };
    let tokens = without_tests(&tokens(text));
    let mut found = Vec::new();
    for used in used_rooms(&tokens, modules.len()) {
        let is_room = ROOMS.iter().any(|(name, _)| *name == used);
        if is_room && used != room && allowed.is_some_and(|allowed| !allowed.contains(&used.as_str())) {
            found.push(format!("{path}: {room} must not use crate::{used}"));
        }
    }
    for (name, home) in AT_HOME {
        if !path.trim_end_matches(".rs").starts_with(home) && names(&tokens, name) {
            found.push(format!("{path}: {name} belongs to src/{home}"));
        }
    }
    for name in OUTSIDE {
        if PURE.contains(&room) && names(&tokens, name) {
            found.push(format!("{path}: {room} must not know {name}"));
        }
    }
    found
}

/// The modules of the crate's root that are named by `crate::…`, or by as many `super::` as lead there.
fn used_rooms(tokens: &[String], depth: usize) -> Vec<String> {
    let mut used = Vec::new();
    let mut supers = 0;
    for index in 0..tokens.len() {
        let is_path = tokens.get(index + 1).is_some_and(|token| token == "::");
        supers = match tokens[index].as_str() {
            "super" if is_path => supers + 1,
            "::" => supers,
            _ => 0,
        };
        if is_path && (tokens[index] == "crate" || (supers > 0 && supers >= depth)) {
            heads(&tokens[index + 2..], &mut used);
        }
    }
    used
}

/// The first names after `crate::`: one, or those of a group in braces.
fn heads(tokens: &[String], used: &mut Vec<String>) {
    if tokens.first().is_none_or(|token| token != "{") {
        used.extend(tokens.first().cloned());
        return;
    }
    let mut depth = 0;
    let mut starts = false;
    for token in tokens {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," => {}
            name if starts => used.push(name.to_owned()),
            _ => {}
        }
        starts = depth == 1 && (token == "," || token == "{");
        if depth == 0 {
            return;
        }
    }
}

/// Whether a path such as `Instant::now`, or a single name, occurs.
fn names(tokens: &[String], path: &str) -> bool {
    let parts: Vec<&str> = path.split("::").flat_map(|part| ["::", part]).skip(1).collect();
    tokens.windows(parts.len()).any(|window| window == parts)
}

/// Leaves out every item marked `#[cfg(test)]`.
fn without_tests(tokens: &[String]) -> Vec<String> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut kept = Vec::new();
    let mut rest = tokens;
    while let Some(first) = rest.first() {
        if rest.len() > MARK.len() && rest[..MARK.len()] == MARK {
            rest = after_item(&rest[MARK.len()..]);
        } else {
            kept.push(first.clone());
            rest = &rest[1..];
        }
    }
    kept
}

/// What follows an item: after its `;`, or after the brace that closes it.
fn after_item(tokens: &[String]) -> &[String] {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate() {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 && (token == "}" || token == ";") {
            return &tokens[index + 1..];
        }
    }
    &[]
}

/// Names and punctuation of Rust code; comments and literals are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let is_name = |character: char| character.is_alphanumeric() || character == '_';
        let (length, is_code) = if rest.starts_with("//") {
            (rest.find('\n').unwrap_or(rest.len()), false)
        } else if rest.starts_with("/*") {
            (block_comment(rest), false)
        } else if let Some(length) = literal(rest) {
            (length, false)
        } else if is_name(first) {
            (rest.find(|character| !is_name(character)).unwrap_or(rest.len()), true)
        } else if rest.starts_with("::") {
            (2, true)
        } else {
            (first.len_utf8(), !first.is_whitespace())
        };
        if is_code {
            tokens.push(rest[..length].to_owned());
        }
        rest = &rest[length..];
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut index) = (0, 0);
    while index < text.len() {
        match &text.as_bytes()[index..] {
            [b'/', b'*', ..] => (depth, index) = (depth + 1, index + 2),
            [b'*', b'/', ..] => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            return index;
        }
    }
    text.len()
}

/// Length of the string or character that the text begins with, if it does.
fn literal(text: &str) -> Option<usize> {
    let unprefixed = text.trim_start_matches(['b', 'c']);
    let prefix = text.len() - unprefixed.len();
    if let Some(raw) = unprefixed.strip_prefix('r')
        && prefix <= 1
    {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        if raw[hashes..].starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = prefix + 1 + hashes + 1;
            return Some(text[start..].find(&end).map_or(text.len(), |index| start + index + end.len()));
        }
    }
    let quote = unprefixed.chars().next().filter(|&quote| prefix <= 1 && (quote == '"' || quote == '\''))?;
    let body = &unprefixed[1..];
    if quote == '\'' {
        // 'a' is a character, 'a alone is a lifetime.
        let mut characters = body.chars();
        let first = characters.next()?;
        if first != '\\' && characters.next() != Some('\'') {
            return None;
        }
    }
    let mut escaped = false;
    let end = body.char_indices().find(|&(_, character)| {
        let closes = !escaped && character == quote;
        escaped = !escaped && character == '\\';
        closes
    });
    Some(end.map_or(text.len(), |(index, _)| prefix + 1 + index + 1))
}

// --- the test's own test ---

#[test]
fn a_planted_violation_is_found() {
    for (path, text, expected) in [
        ("broker/memory.rs", "use crate::hub::Hub;", "broker must not use crate::hub"),
        (
            "broker/memory/queue.rs",
            "use crate::{message::Text, session::Session};",
            "broker must not use crate::session",
        ),
        ("broker/mod.rs", "use crate::{message::{self, Text}, chain};", "broker must not use crate::chain"),
        ("stomp/mod.rs", "fn f() { crate::broker::x() }", "stomp must not use crate::broker"),
        ("stomp/decoder.rs", "use super::super::server::Server;", "stomp must not use crate::server"),
        ("hub.rs", "use super::session::Session;", "hub must not use crate::session"),
        ("server/mod.rs", "pub(crate) use crate::config::Config;", "server must not use crate::config"),
        ("session/mod.rs", "use tokio::sync::mpsc;", "session must not know tokio"),
        ("session/mod.rs", "let now = std::time::Instant::now();", "session must not know Instant::now"),
        ("message/mod.rs", "tracing::info!(\"x\");", "message must not know tracing"),
        ("stomp/mod.rs", "#[cfg(test)] mod tests { } use tracing::info;", "stomp must not know tracing"),
        ("stomp/mod.rs", "const Q: char = '\"'; use tracing::info; // \"", "stomp must not know tracing"),
        ("stomp/mod.rs", "fn f<'a>(x: &'a str) { crate::hub::f('b') }", "stomp must not use crate::hub"),
        ("broker/memory.rs", "use lapin::Channel;", "lapin belongs to src/broker/amqp"),
        ("server/mod.rs", "use rumqttc::Client;", "rumqttc belongs to src/broker/mqtt"),
        ("cellar.rs", "", "the module cellar is not in the table of tests/layers.rs"),
    ] {
        assert_eq!(violations(path, text), [format!("{path}: {expected}")], "{text}");
    }
}

#[test]
fn what_is_allowed_is_not_found() {
    for (path, text) in [
        ("session/mod.rs", "use crate::stomp::Frame; use std::time::Instant; use super::session::Settings;"),
        ("stomp/decoder.rs", "use super::frame::Frame; use crate::message::Text;"),
        (
            "stomp/mod.rs",
            "//! See [`crate::hub`].\n/* use crate::hub; /* tokio */ */ const A: &str = r#\"crate::hub::\"#;",
        ),
        (
            "stomp/mod.rs",
            "const A: &str = \"\\\" crate::hub::x\"; const B: u8 = b'\\''; const C: &[u8] = b\"tokio::x\";",
        ),
        (
            "session/mod.rs",
            "#[cfg(test)]\n#[allow(x)]\nmod tests { use tokio::time; mod a { } } #[cfg(test)] use crate::hub::X;",
        ),
        ("broker/amqp/link.rs", "use lapin::Channel; use tokio::sync::watch; tracing::info!(\"x\");"),
        ("gateway.rs", "use crate::{server, hub, broker};"),
        ("message/mod.rs", "use crate::message::Text; pub(super) fn x() {}"),
    ] {
        assert_eq!(violations(path, text), [""; 0], "{text}");
    }
}
