//! The configuration as its users meet it: the file that documents it, and the program's answers to mistakes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use stompgate::config::{Config, Sources};

// --- config/stompgate.toml ---

fn documented() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config/stompgate.toml")
}

#[test]
fn the_documented_file_equals_the_defaults() {
    let sources = Sources { file: Some(documented()), ..Sources::default() };
    assert_eq!(Config::load(&sources).unwrap().config, Config::default());
}

#[test]
fn every_key_stands_in_the_documented_file_and_has_a_comment() {
    let text = fs::read_to_string(documented()).unwrap();
    let mut keys = BTreeSet::new();
    let mut section = String::new();
    let mut previous = Line::Other;
    for line in text.lines() {
        let current = Line::of(line);
        match &current {
            Line::Section(name) => section.clone_from(name),
            Line::Key(name) => {
                assert!(matches!(previous, Line::Comment), "{section}.{name} has no comment above it");
                keys.insert(format!("{section}.{name}"));
            }
            _ => {}
        }
        previous = current;
    }
    for list in ["outbox.policy", "access.rule", "app.route"] {
        keys.retain(|key| !key.starts_with(&format!("{list}.")));
        keys.insert(list.to_owned());
        assert!(text.contains(&format!("# [[{list}]]")));
    }

    let shown = stdout(&stompgate(&["config"], &[]));
    let known = shown.lines().map(|line| line.trim_start_matches("# ").split(' ').next().unwrap().to_owned());
    assert_eq!(keys, known.collect());
}

enum Line {
    Section(String),
    Key(String),
    Comment,
    Other,
}

impl Line {
    fn of(line: &str) -> Self {
        let plain = line.strip_prefix("# ").unwrap_or(line);
        let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_lowercase() || b"_.".contains(&byte));
        if plain.starts_with('[') {
            return Line::Section(plain.trim_matches(['[', ']']).to_owned());
        }
        match plain.split_once(" = ") {
            Some((name, _)) if is_name(name) => Line::Key(name.to_owned()),
            _ if line.starts_with("# ") => Line::Comment,
            _ => Line::Other,
        }
    }
}

// --- the program ---

/// Runs the program with these arguments and no environment but this.
fn stompgate(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stompgate"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What a refused configuration prints, one problem a line.
fn problems(output: &Output) -> Vec<String> {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(output.stdout, b"");
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.lines().skip(1).map(|line| line.trim().to_owned()).collect()
}

/// The line of `stompgate config` for one key.
fn shown(key: &str, arguments: &[&str], environment: &[(&str, &str)]) -> String {
    let text = stdout(&stompgate(&[&["config"], arguments].concat(), environment));
    let line = text.lines().find(|line| line.starts_with(&format!("{key} = ")));
    line.unwrap_or_else(|| panic!("{key} in {text}")).to_owned()
}

/// A file with this text, of its own for each test.
fn file(name: &str, text: &str) -> String {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.toml"));
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_good_configuration_is_confirmed_in_one_line() {
    let text = stdout(&stompgate(&["check", "--config", documented().to_str().unwrap()], &[]));
    assert_eq!(text.lines().count(), 1);
    assert!(text.contains("ws://127.0.0.1:8080/ws"), "{text}");
    assert!(stompgate(&["check"], &[]).status.success(), "no file is needed");
}

#[test]
fn a_typo_names_key_and_place_and_the_key_that_was_meant() {
    let file = file("typo", "[server]\n# a comment\nlisen = \"127.0.0.1:1\"\n");
    assert_eq!(
        problems(&stompgate(&["check", "--config", &file], &[])),
        [format!("server.lisen (file {file}, line 3): unknown key; did you mean server.listen?")]
    );
    assert_eq!(
        problems(&stompgate(&["check"], &[("STOMPGATE_SEVER__LISTEN", "127.0.0.1:1")])),
        ["sever.listen (STOMPGATE_SEVER__LISTEN): unknown key; did you mean server.listen?"]
    );
    assert_eq!(
        problems(&stompgate(&["check", "--set", "session.max_bodies=5", "--set", "auth.colour=red"], &[])),
        [
            "auth.colour (--set): unknown key; there are auth.kind, auth.trust_remote, auth.max_sessions_per_user, \
             auth.cache",
            "session.max_bodies (--set): unknown key; did you mean session.max_body?"
        ]
    );
}

#[test]
fn a_key_without_its_section_is_recognised() {
    let file = file("top", "listen = \"127.0.0.1:1\"\n");
    let found = problems(&stompgate(&["check", "--config", &file], &[]));
    assert_eq!(
        found,
        [format!("listen (file {file}, line 1): unknown key; did you mean admin.listen or server.listen?")]
    );
}

#[test]
fn a_wrong_type_names_key_and_place() {
    let file = file("type", "[server]\nmax_connections = \"many\"\n");
    assert_eq!(
        problems(&stompgate(&["check", "--config", &file], &[])),
        [format!("server.max_connections (file {file}, line 2): expected a whole number, 0 or more, found \"many\"")]
    );
    assert_eq!(
        problems(&stompgate(&["check"], &[("STOMPGATE_SESSION__CONNECT_TIMEOUT", "10")])),
        ["session.connect_timeout (STOMPGATE_SESSION__CONNECT_TIMEOUT): expected a time with its unit, \
          such as \"10s\", \"5m\" or \"250ms\", found \"10\""]
    );
    assert_eq!(
        problems(&stompgate(&["--listen", "everywhere", "check"], &[])),
        ["server.listen (--listen): expected an address and port, such as \"127.0.0.1:8080\", found \"everywhere\""]
    );
    assert_eq!(
        problems(&stompgate(&["check", "--set", "broker.kind=1"], &[])),
        ["broker.kind (--set): \"1\" is none of \"memory\", \"amqp\", \"mqtt\""]
    );
}

#[test]
fn a_number_in_a_file_is_no_string_and_no_name() {
    let file = file("number", "[node]\nname = 5\n[broker]\nkind = 0\n");
    assert_eq!(
        problems(&stompgate(&["check", "--config", &file], &[])),
        [
            format!("broker.kind (file {file}, line 4): \"0\" is none of \"memory\", \"amqp\", \"mqtt\""),
            format!("node.name (file {file}, line 2): expected a string, found 5"),
        ]
    );
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let file = file(
        "many",
        "[server]\npath = 5\nport = 1\n[session]\nprefetch = 2000\n[[outbox.policy]]\nwhen_full = \"conflate\"\n",
    );
    let found = problems(&stompgate(&["check", "--config", &file], &[("STOMPGATE_LOG__LEVEL", "loud")]));
    let keys: Vec<_> = found.iter().map(|problem| problem.split([' ', ':']).next().unwrap()).collect();
    assert_eq!(
        keys,
        [
            "server.path",
            "server.port",
            "session.prefetch",
            "outbox.policy.0.destination",
            "outbox.policy.0.key",
            "log.level"
        ]
    );
}

#[test]
fn a_file_that_is_missing_or_no_toml_stops_the_start() {
    let found = problems(&stompgate(&["check", "--config", "/nowhere/x.toml"], &[]));
    assert_eq!(found, ["--config: cannot read /nowhere/x.toml: No such file or directory (os error 2)"]);

    let file = file("syntax", "[server]\npath = \"/ws\"\npasscode = hunter2\n");
    let found = problems(&stompgate(&["check", "--config", &file], &[]));
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with(&format!("file {file}, line 3: ")), "{found:?}");
    assert!(!found[0].contains("hunter2"), "{found:?}");
}

#[test]
fn variables_that_are_no_settings_are_not_looked_at() {
    let kubernetes = [
        ("STOMPGATE_PORT", "tcp://10.0.0.1:8080"),
        ("STOMPGATE_SERVICE_HOST", "10.0.0.1"),
        ("STOMPGATE_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("SERVER__LISTEN", "nonsense"),
    ];
    assert!(stompgate(&["check"], &kubernetes).status.success());
}

#[test]
fn a_string_setting_takes_what_looks_like_something_else() {
    for (text, toml) in
        [("12345", "\"12345\""), ("true", "\"true\""), ("1.50", "\"1.50\""), ("2024-01-01", "\"2024-01-01\"")]
    {
        let environment = [("STOMPGATE_NODE__NAME", text)];
        assert_eq!(shown("node.name", &[], &environment), format!("node.name = {toml}  # STOMPGATE_NODE__NAME"));
        let flag = format!("node.name={text}");
        assert_eq!(shown("node.name", &["--set", &flag], &[]), format!("node.name = {toml}  # --set"));
    }
    // A path: the refusal is that of the file system, for the name as it was written.
    let tls = [("STOMPGATE_SERVER__TLS__KEY", "12345"), ("STOMPGATE_SERVER__TLS__CERTIFICATE", "true")];
    let found = problems(&stompgate(&["check"], &tls)).join("\n");
    assert!(found.contains("server.tls.key (STOMPGATE_SERVER__TLS__KEY): cannot read 12345: "), "{found}");
    assert!(
        found.contains("server.tls.certificate (STOMPGATE_SERVER__TLS__CERTIFICATE): cannot read true: "),
        "{found}"
    );
    // A name from a list: it is refused for what it says, not for its type.
    let found = problems(&stompgate(&["check"], &[("STOMPGATE_LOG__FORMAT", "true")]));
    assert_eq!(found, ["log.format (STOMPGATE_LOG__FORMAT): \"true\" is none of \"auto\", \"text\", \"json\""]);
}

#[test]
fn a_list_in_a_variable_is_written_as_in_toml() {
    let environment = [("STOMPGATE_SERVER__ALLOWED_ORIGINS", "[\"https://a.example.com\", \"https://*.example.org\"]")];
    assert_eq!(
        shown("server.allowed_origins", &[], &environment),
        "server.allowed_origins = [\"https://a.example.com\", \"https://*.example.org\"]  \
         # STOMPGATE_SERVER__ALLOWED_ORIGINS"
    );
}

#[test]
fn later_sources_win() {
    let file = file("order", "[server]\npath = \"/file\"\n");
    let variable = [("STOMPGATE_SERVER__PATH", "/variable")];
    assert_eq!(shown("server.path", &[], &[]), "server.path = \"/ws\"  # default");
    assert_eq!(shown("server.path", &["--config", &file], &[]), format!("server.path = \"/file\"  # file {file}"));
    assert_eq!(
        shown("server.path", &["--config", &file], &variable),
        "server.path = \"/variable\"  # STOMPGATE_SERVER__PATH"
    );
    assert_eq!(
        shown("server.path", &["--config", &file, "--set", "server.path=/flag"], &variable),
        "server.path = \"/flag\"  # --set"
    );
    assert_eq!(
        shown("server.listen", &["--listen", "127.0.0.1:9"], &[("STOMPGATE_SERVER__LISTEN", "127.0.0.1:1")]),
        "server.listen = \"127.0.0.1:9\"  # --listen"
    );
}

#[test]
fn flags_stand_before_or_after_the_command() {
    let before = stdout(&stompgate(&["--listen", "127.0.0.1:9", "config"], &[]));
    let after = stdout(&stompgate(&["config", "--listen", "127.0.0.1:9"], &[]));
    assert_eq!(before, after);
}

#[test]
fn what_is_printed_can_be_read_again() {
    let policy = "outbox.policy=[{ destination = \"/topic/a\", when_full = \"conflate\", key = \"b\" }]";
    let arguments = ["config", "--set", policy, "--set", "node.name=n", "--set", "session.prefetch=7"];
    let printed = stdout(&stompgate(&arguments, &[]));
    let again = file("printed", &printed);
    let strip = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.rsplit_once("  # ").unwrap().0.to_owned()).collect()
    };
    assert_eq!(strip(&stdout(&stompgate(&["config", "--config", &again], &[]))), strip(&printed));
}

#[test]
fn a_passcode_in_an_address_is_never_printed() {
    let found = problems(&stompgate(&["check", "--set", "server.listen=amqp://user:hunter2@host"], &[])).join("\n");
    assert!(found.contains("amqp://user:***@host") && !found.contains("hunter2"), "{found}");
    let found = problems(&stompgate(&["check", "--set", "server.passcode=hunter2"], &[])).join("\n");
    assert!(!found.contains("hunter2"), "{found}");
}

#[test]
fn the_key_of_the_api_is_never_printed_and_may_come_from_a_file() {
    let key = "hunter2-hunter2-hunter2";
    let flag = format!("admin.api_key={key}");
    for command in ["check", "config"] {
        let output = stompgate(&["--set", &flag, command], &[]);
        assert!(output.status.success() && !stdout(&output).contains("hunter2"), "{output:?}");
    }
    for bad in ["hunter2", "hunter2 hunter2 hunter2", "12345"] {
        let output = stompgate(&["--set", &format!("admin.api_key={bad}"), "check"], &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("admin.api_key (--set): "), "{said}");
        assert!(!said.contains("hunter2") && !said.contains("12345"), "{said}");
    }
    let held = file("api-key", &format!("{key}\n"));
    assert!(stompgate(&["--set", &format!("admin.api_key_file={held}"), "check"], &[]).status.success());
    let both = stompgate(&["--set", &format!("admin.api_key_file={held}"), "--set", &flag, "check"], &[]);
    assert!(problems(&both)[0].contains("one place"), "{both:?}");
}

#[test]
fn the_token_of_the_collector_is_never_printed() {
    let environment = [("STOMPGATE_TRACES__TOKEN", "let-me-in")];
    assert_eq!(shown("traces.token", &[], &environment), "traces.token = \"***\"  # STOMPGATE_TRACES__TOKEN");
    let refused = problems(&stompgate(&["check"], &[("STOMPGATE_TRACES__TOKEN", "let me in")]));
    assert_eq!(refused, ["traces.token (STOMPGATE_TRACES__TOKEN): must be letters, digits and signs, without blanks"]);
}

#[test]
fn trust_stays_on_this_machine_unless_told_otherwise() {
    let found = problems(&stompgate(&["run", "--listen", "0.0.0.0:0"], &[]));
    assert_eq!(found.len(), 1);
    for part in ["server.listen (--listen)", "0.0.0.0:0", "auth.kind = \"trust\"", "auth.trust_remote = true"] {
        assert!(found[0].contains(part), "{part} in {found:?}");
    }
    let remote = ["check", "--listen", "[::]:8080", "--set", "auth.trust_remote=true"];
    assert!(stompgate(&remote, &[]).status.success());
    for loopback in ["[::1]:8080", "127.0.0.2:8080", "[::ffff:127.0.0.1]:8080"] {
        assert!(stompgate(&["check", "--listen", loopback], &[]).status.success(), "{loopback}");
    }
}

#[cfg(feature = "mqtt")]
#[test]
fn an_mqtt_broker_is_named_by_a_uri_that_is_checked() {
    let kind = ("STOMPGATE_BROKER__KIND", "mqtt");
    let uri = ("STOMPGATE_BROKER__MQTT__URI", "mqtts://shop:hunter2@broker");
    let shown = stdout(&stompgate(&["config"], &[kind, uri]));
    assert!(shown.contains("broker.mqtt.uri = \"mqtts://shop:***@broker\""), "{shown}");
    let found =
        problems(&stompgate(&["check"], &[kind, ("STOMPGATE_BROKER__MQTT__URI", "http://shop:hunter2@broker")]));
    assert_eq!(found.len(), 1);
    assert!(found[0].ends_with("must begin with mqtt://, mqtts://, ws:// or wss://"), "{found:?}");
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/mosquitto.toml");
    assert!(stompgate(&["--config", example, "check"], &[]).status.success());
}

#[cfg(feature = "amqp")]
#[test]
fn a_broker_can_be_named_by_one_uri_and_its_passcode_stays_secret() {
    let uri = ("STOMPGATE_BROKER__AMQP__URI", "amqp://shop:hunter2@rabbit/prod");
    let shown = stdout(&stompgate(&["config", "--set", "broker.kind=amqp"], &[uri]));
    assert!(shown.contains("broker.amqp.uri = [\"amqp://shop:***@rabbit/prod\"]"), "{shown}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let bad = ("STOMPGATE_BROKER__AMQP__URI", "amqp://shop:hunter2@rabbit:port/prod");
    let found = problems(&stompgate(&["check", "--set", "broker.kind=amqp"], &[bad]));
    assert!(found.len() == 1 && found[0].starts_with("broker.amqp.uri ("), "{found:?}");
    assert!(!found[0].contains("hunter2"), "{found:?}");
}

#[cfg(feature = "amqp")]
#[test]
fn virtual_hosts_are_one_setting_however_their_names_are_written() {
    let file = file("hosts", "[broker.amqp.virtual_hosts]\n\"shop.example.com\" = \"shop\"\nblog = \"/blog\"\n");
    let line =
        format!("broker.amqp.virtual_hosts = {{ blog = \"/blog\", \"shop.example.com\" = \"shop\" }}  # file {file}");
    assert_eq!(shown("broker.amqp.virtual_hosts", &["--config", &file], &[]), line);
    let variable = [("STOMPGATE_BROKER__AMQP__VIRTUAL_HOSTS", "{ \"shop.example.com\" = \"shop\" }")];
    let shown = shown("broker.amqp.virtual_hosts", &[], &variable);
    assert!(shown.starts_with("broker.amqp.virtual_hosts = { \"shop.example.com\" = \"shop\" }"), "{shown}");
    let found = problems(&stompgate(&["check", "--set", "broker.amqp.virtual_hosts=shop"], &[]));
    assert!(found.len() == 1 && found[0].starts_with("broker.amqp.virtual_hosts (--set): expected "), "{found:?}");
}

#[cfg(feature = "amqp")]
#[test]
fn logins_are_checked_where_they_are_used_or_not_at_all() {
    let set = |settings: &[&str]| {
        let flags = settings.iter().flat_map(|setting| ["--set", setting]);
        stompgate(&["check"].into_iter().chain(flags).collect::<Vec<_>>(), &[])
    };
    let (amqp, broker, per_user) = ("broker.kind=amqp", "auth.kind=broker", "broker.amqp.identity=per-user");
    let remote = "server.listen=0.0.0.0:0";
    assert!(set(&[amqp, broker, per_user, remote]).status.success(), "and it may listen everywhere");
    for (settings, key) in [
        (&[amqp, broker] as &[&str], "auth.kind (--set): "),
        (&[broker], "auth.kind (--set): "),
        (&[broker, per_user], "auth.kind (--set): "),
        (&[amqp, per_user], "broker.amqp.identity (--set): "),
        (&[per_user], "broker.amqp.identity (--set): "),
    ] {
        let found = problems(&set(settings));
        assert!(found.len() == 1 && found[0].starts_with(key), "{settings:?}: {found:?}");
        for part in ["auth.kind", "broker.amqp.identity"] {
            assert!(found[0].contains(part), "{part} in {found:?}");
        }
    }
}

#[test]
fn the_time_of_handlers_binds_only_where_there_are_some() {
    let set = |settings: &[&str]| {
        let flags = settings.iter().flat_map(|setting| ["--set", setting]);
        stompgate(&["check"].into_iter().chain(flags).collect::<Vec<_>>(), &[])
    };
    let (short, route) = ("session.confirm_timeout=2s", r#"app.route=[{pattern="/app/x", send_to="/topic/x"}]"#);
    assert!(set(&[short]).status.success(), "nothing is called");
    let found = problems(&set(&[short, route]));
    assert!(found.len() == 1 && found[0].starts_with("app.timeout"), "{found:?}");
}

#[cfg(feature = "amqp")]
#[test]
fn the_example_for_rabbitmq_is_good() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/config/rabbitmq.toml");
    let checked = stompgate(&["--config", file, "check"], &[]);
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn version_and_help_are_as_people_expect() {
    let version = stdout(&stompgate(&["--version"], &[]));
    assert_eq!(version.trim(), format!("stompgate {}", env!("CARGO_PKG_VERSION")));
    let help = stdout(&stompgate(&["--help"], &[]));
    for part in
        ["Usage: stompgate", "--config <FILE>", "--listen", "--set", "check", "STOMPGATE_SECTION__KEY", "Examples:"]
    {
        assert!(help.contains(part), "{part} in {help}");
    }
    assert_eq!(stompgate(&["--colour"], &[]).status.code(), Some(2));
    assert_eq!(stompgate(&["--set", "nonsense", "check"], &[]).status.code(), Some(2));
}
