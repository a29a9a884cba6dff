//! A real Prometheus scrapes gateways under load: every query of the dashboard, and what every alert looks at, returns
//! data; and when the broker is killed, the alert that says so fires.
#![cfg(all(feature = "amqp", feature = "mqtt"))]

#[expect(dead_code, reason = "it lives to the end")]
#[path = "support/mosquitto.rs"]
mod mosquitto;
#[path = "conversations/peer/memory.rs"]
mod peer;
#[expect(dead_code, reason = "the other tests use the rest of it")]
#[path = "support/rabbitmq.rs"]
mod rabbitmq;
#[expect(dead_code, unused_imports, reason = "the conversations use the rest of it")]
#[path = "conversations/support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use mosquitto::Mosquitto;
use rabbitmq::RabbitMq;
use support::Raw;
use support::program::Program;
use support::raw::{TEXT, masked};

/// Prometheus needs two scrapes for a rate, and a RabbitMQ takes its time to start.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_returns_data_and_the_death_of_the_broker_fires_its_alert() {
    let mut rabbit = RabbitMq::start().await;
    let mosquitto = Mosquitto::start("").await;
    let rabbit_uri = format!("broker.amqp.uri={}", rabbit.uri());
    let mosquitto_uri = format!("broker.mqtt.uri={}", mosquitto.uri());
    let gateways =
        [Program::start(&["broker.kind=amqp", &rabbit_uri]), Program::start(&["broker.kind=mqtt", &mosquitto_uri])];
    let prometheus = Prometheus::start(&gateways);
    let mut queries: Vec<String> = dashboard();
    assert!(queries.len() > 20, "{queries:?}");
    queries.extend(alerts().into_iter().map(|rule| quantity(&rule).to_owned()));
    assert!(queries.len() > 30, "{queries:?}");

    let missing = timeout(PATIENCE, async {
        while !queries.is_empty() {
            for gateway in &gateways {
                load(gateway).await;
            }
            let mut missing = Vec::new();
            for query in queries.drain(..) {
                if prometheus.query(&query).await.is_empty() {
                    missing.push(query);
                }
            }
            queries = missing;
        }
    });
    let is_complete = missing.await.is_ok();
    assert!(is_complete, "no data for {queries:#?}\n{}", prometheus.log());

    assert!(!prometheus.fires("StompgateBrokerUnreachable", &gateways[0].admin).await, "it is there");
    rabbit.kill();
    let fired = timeout(PATIENCE, async {
        while !prometheus.fires("StompgateBrokerUnreachable", &gateways[0].admin).await {
            sleep(Duration::from_millis(50)).await;
        }
    });
    fired.await.unwrap_or_else(|_| panic!("no alert\n{}", prometheus.log()));
    assert!(!prometheus.fires("StompgateBrokerUnreachable", &gateways[1].admin).await, "Mosquitto is alive");
}

/// A little of everything: messages with receipts, acknowledgements, and an ERROR.
async fn load(gateway: &Program) {
    let mut client = gateway.connected().await;
    let says = async |client: &mut Raw, frame: &str| client.write(masked(TEXT, &support::wire(frame))).await;
    for (id, destination, ack) in [(0, "/topic/load", "auto"), (1, "/queue/load", "client-individual")] {
        says(&mut client, &format!("SUBSCRIBE\nid:{id}\ndestination:{destination}\nack:{ack}\nreceipt:r")).await;
        client.expect("RECEIPT").await;
    }
    for destination in ["/topic/load", "/queue/load"] {
        says(&mut client, &format!("SEND\ndestination:{destination}\nreceipt:r\n\nx")).await;
        for _ in 0..2 {
            let frame = client.expect_any().await;
            if let Some(ack) = frame.maybe("ack") {
                says(&mut client, &format!("ACK\nid:{ack}")).await;
            }
        }
    }
    says(&mut client, "BOTHER").await;
    client.expect_error("unknown-command", 1002).await;
}

/// The queries of the dashboard, with its variables replaced.
fn dashboard() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&read("docker/grafana/dashboards/stompgate.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    targets
        .map(|target| target["expr"].as_str().unwrap().replace("$instance", ".+").replace("$__rate_interval", "1m"))
        .collect()
}

/// The expressions of the alerts, on one line each.
fn alerts() -> Vec<String> {
    let rules = read("docker/prometheus/alerts.yml");
    let mut expressions: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in rules.lines().map(str::trim) {
        if let Some(expression) = line.strip_prefix("expr: ") {
            is_open = expression == ">-";
            expressions.push(if is_open { String::new() } else { expression.to_owned() });
        } else if is_open && (line.starts_with("for: ") || line.starts_with("labels: ")) {
            is_open = false;
        } else if is_open {
            let _ = write!(expressions.last_mut().unwrap(), "{line} ");
        }
    }
    assert_eq!(expressions.len(), rules.matches("- alert: ").count());
    expressions
}

/// What an alert compares: a healthy gateway fulfils none of the comparisons.
fn quantity(expression: &str) -> &str {
    let end = [" > ", " == "].iter().filter_map(|operator| expression.rfind(operator)).max();
    &expression[..end.unwrap_or_else(|| panic!("an alert that compares nothing: {expression}"))]
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Starts it and ends it, by its process id, when its standard input ends: it goes with the tests, however these end.
const SCRIPT: &str = r#"
cd "$1" || exit 1
prometheus --config.file=prometheus.yml --storage.tsdb.path=data --web.listen-address="127.0.0.1:$2" \
    </dev/null >server.log 2>&1 &
server=$!
cat >/dev/null
kill -9 "$server"
wait
rm -rf "$1"
"#;

/// Debian's Prometheus with the files of `docker/`, quicker than there.
struct Prometheus {
    folder: PathBuf,
    port: u16,
    child: Child,
}

impl Prometheus {
    fn start(gateways: &[Program]) -> Prometheus {
        let folder = std::env::temp_dir().join(format!("stompgate-prometheus-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let targets: Vec<_> = gateways.iter().map(|gateway| format!("'{}'", gateway.admin)).collect();
        let config = read("docker/prometheus/prometheus.yml");
        let config = config.replace("_interval: 10s", "_interval: 200ms").replace("gateway:9464", &targets.join(", "));
        assert!(config.contains("scrape_interval: 200ms") && config.contains(&gateways[0].admin), "{config}");
        fs::write(folder.join("prometheus.yml"), config).unwrap();
        let rules = read("docker/prometheus/alerts.yml");
        let at_once = |line: &str| match line.split_once("for: ") {
            Some((indent, _)) if indent.trim().is_empty() => format!("{indent}for: 0s\n"),
            _ => format!("{line}\n"),
        };
        fs::write(folder.join("alerts.yml"), rules.lines().map(at_once).collect::<String>()).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT, "sh"]).arg(&folder).arg(port.to_string()).stdin(Stdio::piped());
        let child = command.spawn().expect("a shell");
        Prometheus { folder, port, child }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("server.log")).unwrap_or_default()
    }

    /// The series that a query returns now, but for those that are no number.
    async fn query(&self, query: &str) -> Vec<Value> {
        let mut encoded = String::new();
        for byte in query.bytes() {
            let _ = write!(encoded, "%{byte:02X}");
        }
        let Some(answer) = self.ask(&format!("/api/v1/query?query={encoded}")).await else { return Vec::new() };
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        series.into_iter().filter(|one| one["value"][1] != "NaN").collect()
    }

    /// Whether an alert fires for the gateway with this port for operators.
    async fn fires(&self, name: &str, instance: &str) -> bool {
        let Some(answer) = self.ask("/api/v1/alerts").await else { return false };
        let alerts = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        alerts.iter().any(|alert| {
            let labels = &alert["labels"];
            labels["alertname"] == name && labels["instance"] == instance && alert["state"] == "firing"
        })
    }

    /// Nothing while it does not answer yet.
    async fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        // In HTTP/1.0 an answer ends with its connection.
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
