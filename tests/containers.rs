//! What stands in `docker/`, as far as it can be held without an engine: names, settings, queries, and the program that
//! the image runs.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// `promtool`, of Debian's package `prometheus`, which `tests/run` installs.
fn promtool(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).current_dir(root()).output().expect("promtool");
    assert!(output.status.success(), "promtool {arguments:?}: {output:?}");
}

fn stompgate(arguments: &[&str], environment: &[(String, String)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stompgate"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STOMPGATE_")) {
        command.env_remove(name);
    }
    command.args(arguments).envs(environment.iter().cloned()).output().expect("the program")
}

/// Names in Prometheus's language that may be those of metrics of ours.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !character.is_ascii_alphanumeric() && character != '_');
    words.filter(|word| word.starts_with("stompgate_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// The metrics that there are: the table in the README, which another test compares with the registry.
fn metrics() -> BTreeSet<String> {
    let readme = read("README.md");
    let section = readme.split("### Metrics").nth(1).and_then(|rest| rest.split("\n## ").next()).expect("a section");
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
    let mut metrics = names(&rows.iter().map(|row| row.split('|').nth(1).unwrap()).collect::<Vec<_>>().join(" "));
    for row in rows.iter().filter(|row| row.contains("| histogram |")) {
        for name in names(row.split('|').nth(1).unwrap()) {
            metrics.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    metrics
}

/// The queries of the dashboard, with its variables replaced.
fn queries() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("docker/grafana/dashboards/stompgate.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    targets
        .map(|target| target["expr"].as_str().unwrap().replace("$instance", ".*").replace("$__rate_interval", "1m"))
        .collect()
}

/// `NAME=VALUE` of the image, and `NAME: value` of the gateway in a compose file.
fn environment(compose: &str) -> Vec<(String, String)> {
    let dockerfile = read("docker/Dockerfile");
    let image = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV ")?.split_once('='));
    let compose = read(compose);
    let service = compose.lines().map(str::trim).filter(|line| line.starts_with("STOMPGATE_"));
    let service = service.map(|line| line.split_once(": ").expect("NAME: value"));
    image.chain(service).map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_there_are() {
    let metrics = metrics();
    assert!(metrics.len() > 30, "{metrics:?}");
    let queries = queries();
    assert!(queries.len() > 20, "{queries:?}");
    let rules = read("docker/prometheus/alerts.yml");
    let unknown: Vec<_> =
        names(&(queries.join("\n") + &rules)).into_iter().filter(|name| !metrics.contains(name)).collect();
    assert!(unknown.is_empty(), "no such metrics: {unknown:?}");
}

#[test]
fn prometheus_can_read_its_files_and_the_alerts_fire_when_they_should() {
    promtool(&["check", "config", "docker/prometheus/prometheus.yml"]);
    promtool(&["test", "rules", "docker/prometheus/alerts.test.yml"]);
}

#[test]
fn prometheus_can_read_every_query_of_the_dashboard() {
    let rule = |(number, query): (usize, &String)| {
        format!("  - record: query_{number}\n    expr: {}\n", Value::from(query.as_str()))
    };
    let rules: String = queries().iter().enumerate().map(rule).collect();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard.yml");
    fs::write(&file, format!("groups:\n- name: dashboard\n  rules:\n{rules}")).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}

#[test]
fn the_image_is_made_of_files_that_are_sent_to_the_engine() {
    let dockerfile = read("docker/Dockerfile");
    let ignored = read(".dockerignore");
    let sent: BTreeSet<_> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let copied =
        dockerfile.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--from"));
    let mut count = 0;
    for line in copied {
        let mut words: Vec<_> = line.split(' ').collect();
        words.pop();
        for file in words {
            assert!(root().join(file).exists() && sent.contains(file), "{file}");
            count += 1;
        }
    }
    assert_eq!(count, sent.len(), "nothing is sent for nothing");
    for part in ["\nUSER ", "\nHEALTHCHECK ", "\nENTRYPOINT [\"stompgate\"]"] {
        assert!(dockerfile.contains(part), "{part}");
    }
}

#[test]
fn the_settings_of_the_containers_are_good() {
    for entry in fs::read_dir(root().join("docker")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("compose.") {
            let environment = environment(&format!("docker/{name}"));
            assert!(environment.iter().any(|(name, _)| name == "STOMPGATE_BROKER__KIND"), "{environment:?}");
            let checked = stompgate(&["check"], &environment);
            assert!(checked.status.success(), "{name}: {checked:?}");
        }
    }
}

#[test]
fn every_file_that_a_container_is_given_is_there() {
    let mut brokers = BTreeSet::new();
    for entry in fs::read_dir(root().join("docker")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(broker) = name.strip_prefix("compose.").and_then(|rest| rest.strip_suffix(".yml")) else { continue };
        let compose = read(&format!("docker/{name}"));
        let given = compose.lines().filter_map(|line| line.trim().strip_prefix("- ./")?.split_once(':'));
        let mut count = 0;
        for (file, _) in given {
            assert!(root().join("docker").join(file).exists(), "{name}: {file}");
            count += 1;
        }
        assert!(count >= 3, "{name}: Prometheus and Grafana have their files");
        for service in ["gateway", broker, "prometheus", "grafana"] {
            assert!(compose.contains(&format!("\n  {service}:\n    ")), "{name}: {service}");
        }
        assert!(compose.contains(&format!("@{broker}:")) || compose.contains(&format!("//{broker}:")), "{name}");
        brokers.insert(broker.to_owned());
    }
    assert_eq!(brokers, BTreeSet::from(["mosquitto".to_owned(), "rabbitmq".to_owned()]));
}

/// A gateway as a container runs it, on free ports.
struct Gateway {
    child: Child,
    admin: String,
}

impl Gateway {
    fn start() -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stompgate"));
        command.args(["--listen", "127.0.0.1:0", "--set", "admin.listen=127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let admin = line.split("http://").nth(1).unwrap_or_else(|| panic!("{line}")).trim().trim_end_matches(')');
        Gateway { admin: admin.to_owned(), child }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[test]
fn the_health_check_says_whether_the_gateway_lives() {
    let gateway = Gateway::start();
    let setting = format!("admin.listen={}", gateway.admin);
    let healthy = stompgate(&["health", "--set", &setting], &[]);
    assert!(healthy.status.success() && String::from_utf8_lossy(&healthy.stdout).contains("alive"), "{healthy:?}");
    drop(gateway);
    let gone = stompgate(&["health", "--set", &setting], &[]);
    assert_eq!(gone.status.code(), Some(1), "{gone:?}");
    assert!(String::from_utf8_lossy(&gone.stderr).contains("admin.listen"), "{gone:?}");
    let off = stompgate(&["health", "--set", "admin.enabled=false"], &[]);
    assert!(!off.status.success() && String::from_utf8_lossy(&off.stderr).contains("admin.enabled"), "{off:?}");
}
