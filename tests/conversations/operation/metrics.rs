//! What the metrics say after what happened.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use stompgate::access::RuleSettings;
use stompgate::chain::{Answer, Failure, HttpSettings, LifecycleSettings, Moment, RateLimit, Request, RouteSettings};
use stompgate::gateway::{Builder, Gateway};
use stompgate::hub::{OutboxPolicy, WhenFull};

use super::scraped;
use crate::support::raw::request;
use crate::support::service::{self, Service, answer};
use crate::support::{Client, Raw, builder, gateway, gateway_with, soon};

/// The value of a series, which must be there.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} in {text}")).parse().expect("a number")
}

#[track_caller]
fn assert_values(text: &str, expected: &[(&str, f64)]) {
    for (series, expected) in expected {
        let found = value(text, series);
        assert!((found - expected).abs() < 1e-9, "{series} is {found}, not {expected}");
    }
}

/// Waits until a series has this value: what a client has seen is counted a moment later.
async fn reaches(gateway: &Gateway, series: &str, expected: f64) -> String {
    soon(series, async {
        loop {
            let text = scraped(gateway).await;
            if (value(&text, series) - expected).abs() < 1e-9 {
                return text;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_conversation_shows() {
    let gateway = gateway();
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    reader.subscribe("id:1\ndestination:/queue/a\nack:client").await;
    let mut other = Client::connect(&gateway, "1.2").await;
    other.subscribe("id:0\ndestination:/topic/a").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    writer.does("SEND\ndestination:/topic/a\n\nhello").await;
    reader.expect("MESSAGE").await;
    other.expect("MESSAGE").await;
    writer.does("SEND\ndestination:/topic/nobody\n\nhello").await;
    writer.does("SEND\ndestination:/queue/a\n\nhello").await;
    let delivery = reader.expect("MESSAGE").await.get("ack");
    let text = reaches(&gateway, "stompgate_frames_total{command=\"MESSAGE\",direction=\"out\"}", 3.0).await;
    assert_values(
        &text,
        &[
            ("stompgate_connections", 3.0),
            ("stompgate_sessions", 3.0),
            ("stompgate_handshakes_total{outcome=\"upgraded\"}", 3.0),
            ("stompgate_connects_total{outcome=\"connected\"}", 3.0),
            ("stompgate_authentications_total{outcome=\"accepted\"}", 3.0),
            ("stompgate_subscriptions{kind=\"shared\"}", 2.0),
            ("stompgate_subscriptions{kind=\"dedicated\"}", 1.0),
            ("stompgate_upstream_subscriptions", 1.0),
            ("stompgate_unacknowledged_deliveries", 1.0),
            ("stompgate_frames_total{command=\"SEND\",direction=\"in\"}", 3.0),
            ("stompgate_frames_total{command=\"CONNECTED\",direction=\"out\"}", 3.0),
            ("stompgate_publishes_total{outcome=\"confirmed\"}", 2.0),
            ("stompgate_publishes_total{outcome=\"unroutable\"}", 1.0),
            ("stompgate_receipt_seconds_count", 3.0),
            ("stompgate_broker_state{state=\"up\"}", 1.0),
            ("stompgate_memory_queues", 1.0),
        ],
    );
    let bytes = value(&text, "stompgate_frame_bytes_total{command=\"SEND\",direction=\"in\"}");
    assert!(bytes > 3.0 * 35.0 && bytes < 3.0 * 100.0, "{bytes} of three frames");
    assert!(value(&text, "stompgate_delivery_seconds_count") >= 2.0);
    assert!(value(&text, "process_resident_memory_bytes") > 0.0);

    reader.does(&format!("ACK\nid:{delivery}")).await;
    reaches(&gateway, "stompgate_unacknowledged_deliveries", 0.0).await;
    reader.does("UNSUBSCRIBE\nid:1").await;
    reaches(&gateway, "stompgate_subscriptions{kind=\"dedicated\"}", 0.0).await;
    reader.disconnect().await;
    other.disconnect().await;
    writer.vanish();
    let text = reaches(&gateway, "stompgate_connections", 0.0).await;
    assert_values(
        &text,
        &[
            ("stompgate_sessions", 0.0),
            ("stompgate_subscriptions{kind=\"shared\"}", 0.0),
            ("stompgate_upstream_subscriptions", 0.0),
            ("stompgate_closes_total{code=\"1000\"}", 2.0),
            ("stompgate_closes_total{code=\"client\"}", 1.0),
        ],
    );
}

#[tokio::test]
async fn what_goes_wrong_is_counted_by_its_code() {
    let gateway = gateway_with(|config| {
        config.session.max_frames_per_second = 1;
        config.server.max_connections = 1;
    });
    let mut refused = Raw::tcp(&gateway).await;
    refused.write(request("GET /nowhere HTTP/1.1", &[])).await;
    assert_eq!(refused.answer().await.status, 404);
    let mut first = Client::connect(&gateway, "1.2").await;
    let mut second = Client::open(&gateway).await;
    second.expect_error("overload", 1013).await;
    for _ in 0..10 {
        if first.try_send_message("SEND\ndestination:/topic/a\n\n\0").await.is_err() {
            break;
        }
    }
    first.expect_error("rate-exceeded", 4429).await;
    let text = reaches(&gateway, "stompgate_closes_total{code=\"4429\"}", 1.0).await;
    assert_values(
        &text,
        &[
            ("stompgate_handshakes_total{outcome=\"refused\"}", 1.0),
            ("stompgate_connects_total{outcome=\"refused\"}", 1.0),
            ("stompgate_errors_total{code=\"overload\"}", 1.0),
            ("stompgate_errors_total{code=\"rate-exceeded\"}", 1.0),
        ],
    );
}

#[tokio::test]
async fn decisions_of_rules_are_counted() {
    let gateway = gateway_with(|config| {
        let destinations = vec!["/topic/open".to_owned()];
        config.access.rule = vec![RuleSettings { destinations, ..RuleSettings::default() }];
    });
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/open").await;
    let mut writer = Client::connect(&gateway, "1.2").await;
    writer.does("SEND\ndestination:/topic/open\n\nx").await;
    writer.send("SEND\ndestination:/topic/secret\n\nx").await;
    writer.expect_error("access-refused", 4403).await;
    assert_values(
        &scraped(&gateway).await,
        &[
            ("stompgate_authorizations_total{outcome=\"allowed\"}", 2.0),
            ("stompgate_authorizations_total{outcome=\"refused\"}", 1.0),
        ],
    );
}

#[tokio::test]
async fn a_message_that_a_queue_has_no_room_for_is_rejected() {
    let gateway = gateway_with(|config| config.broker.memory.max_queue_length = 1);
    let mut writer = Client::connect(&gateway, "1.2").await;
    writer.does("SEND\ndestination:/queue/a\n\nx").await;
    writer.send("SEND\ndestination:/queue/a\nreceipt:1\n\nx").await;
    writer.expect_error("rejected", 1008).await;
    reaches(&gateway, "stompgate_publishes_total{outcome=\"rejected\"}", 1.0).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_shows_with_its_policy() {
    for (when_full, name) in [(WhenFull::DropNewest, "drop-newest"), (WhenFull::DropOldest, "drop-oldest")] {
        let gateway = gateway_with(|config| {
            config.outbox.max_bytes = 64 * 1024;
            config.outbox.policy = vec![OutboxPolicy { destination: "/topic/flood".to_owned(), when_full, key: None }];
        });
        let mut slow = Client::connect_narrow(&gateway, "1.2").await;
        slow.subscribe("id:0\ndestination:/topic/flood").await;
        let mut writer = Client::connect(&gateway, "1.2").await;
        let body = "x".repeat(16 * 1024);
        let dropped = format!("stompgate_messages_dropped_total{{reason=\"{name}\"}}");
        soon("a message to be dropped", async {
            while value(&scraped(&gateway).await, &dropped) < 3.0 {
                writer.does(&format!("SEND\ndestination:/topic/flood\n\n{body}")).await;
            }
        })
        .await;
        let text = scraped(&gateway).await;
        assert!(value(&text, &format!("stompgate_outbox_overruns_total{{policy=\"{name}\"}}")) >= 3.0, "{text}");
        assert!(value(&text, "stompgate_outbox_waiting_bytes") > 0.0, "{text}");
    }
}

#[tokio::test]
async fn destinations_that_are_listed_are_counted_and_no_others() {
    let gateway = gateway_with(|config| {
        let listed = ["/topic/prices.eu", "/topic/prices/#", "/queue/orders", "/user/queue/mail"];
        config.metrics.destinations = listed.map(str::to_owned).to_vec();
    });
    let mut clients = [Client::connect(&gateway, "1.2").await, Client::connect(&gateway, "1.1").await];
    for client in &mut clients {
        client.subscribe("id:0\ndestination:/topic/prices.*").await;
    }
    let [mut ada, _] = clients;
    ada.subscribe("id:1\ndestination:/queue/orders").await;
    for destination in ["/topic/prices/eu", "/topic/prices/us", "/topic/prices/us", "/queue/orders", "/topic/other"] {
        ada.send(format!("SEND\ndestination:{destination}\n\nx")).await;
    }
    for frame in ["BEGIN\ntransaction:t", "SEND\ntransaction:t\ndestination:/queue/orders", "COMMIT\ntransaction:t"] {
        ada.send(frame).await;
    }
    for _ in 0..5 {
        ada.expect("MESSAGE").await;
    }
    let text = scraped(&gateway).await;
    let series = |destination: &str, direction: &str| {
        let labels = format!("{{destination=\"{destination}\",direction=\"{direction}\"}}");
        value(&text, &format!("stompgate_destination_messages_total{labels}"))
    };
    let expected = [("/topic/prices.eu", 1.0, 2.0), ("/topic/prices/#", 2.0, 4.0), ("/queue/orders", 2.0, 2.0)];
    for (destination, inwards, outwards) in expected {
        let found = (series(destination, "in"), series(destination, "out"));
        assert_eq!(found, (inwards, outwards), "{destination}");
    }
    assert!(!text.contains("/topic/other"), "{text}");
}

#[tokio::test]
async fn calls_of_handlers_are_counted_by_their_route() {
    let gateway = builder(|config| {
        let limit = RateLimit { per_second: 1, burst: 1, ..RateLimit::default() };
        let route =
            RouteSettings { pattern: "/app/rare".to_owned(), rate_limit: Some(limit), ..RouteSettings::default() };
        config.app.route = vec![route];
        config.app.timeout = Duration::from_millis(50);
    });
    let handler = |request: Request| async move {
        match request.variables.get("how") {
            Some("well") => Ok(Some(Answer::text("x"))),
            Some("slowly") => std::future::pending().await,
            Some("badly") => Err(Failure::new(422, "no")),
            _ => Err(Failure::new(502, "no")),
        }
    };
    let gateway = builder_started(gateway.handler("/app/do/{how}", handler));
    let mut client = Client::connect(&gateway, "1.2").await;
    for path in ["do/well", "do/slowly", "do/badly", "do/nothing"] {
        client.does(&format!("SEND\ndestination:/app/{path}\n\nx")).await;
    }
    client.send_message(b"SEND\ndestination:/app/rare\n\nx\0".repeat(50)).await;
    client.does("SEND\ndestination:/topic/a\n\nx").await;
    let text = scraped(&gateway).await;
    let calls = |route: &str, outcome: &str| {
        format!("stompgate_handler_calls_total{{outcome=\"{outcome}\",route=\"{route}\"}}")
    };
    let of = |outcome| calls("/app/do/{how}", outcome);
    let expected = [
        (of("answered"), 1.0),
        (of("unfinished"), 1.0),
        (of("refused"), 1.0),
        (of("failed"), 1.0),
        ("stompgate_handler_seconds_count{route=\"/app/do/{how}\"}".to_owned(), 4.0),
    ];
    for (series, expected) in expected {
        assert_values(&text, &[(&series, expected)]);
    }
    assert!(value(&text, &calls("/app/rare", "answered")) >= 1.0, "{text}");
    assert!(value(&text, &calls("/app/rare", "rate-limited")) >= 1.0, "{text}");
}

#[tokio::test]
async fn a_service_that_is_not_told_in_time_who_went_is_counted() {
    let service = Service::start([answer("204 No Content", ""), service::Answer::Silence]).await;
    let gateway = gateway_with(|config| {
        config.app.timeout = Duration::from_millis(500);
        let (url, timeout) = (format!("http://{}/", service.address), config.app.timeout);
        let http = HttpSettings { url, timeout, retries: 1, ..HttpSettings::default() };
        config.app.lifecycle = Some(LifecycleSettings { on: vec![Moment::Subscribe, Moment::Disconnect], http });
    });
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    client.disconnect().await;
    let gone = "stompgate_handler_calls_total{outcome=\"unfinished\",route=\"disconnect\"}";
    let text = reaches(&gateway, gone, 1.0).await;
    assert_values(&text, &[("stompgate_handler_calls_total{outcome=\"answered\",route=\"subscribe\"}", 1.0)]);
}

fn builder_started(builder: Builder) -> Gateway {
    builder.start().expect("a gateway that starts")
}

#[tokio::test]
async fn prometheus_finds_nothing_to_say_against_the_names() {
    let text = scraped(&gateway()).await;
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus, which tests/run installs");
    child.stdin.take().expect("its input").write_all(text.as_bytes()).expect("a reader");
    let output = child.wait_with_output().expect("an end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}{}", String::from_utf8_lossy(&output.stdout));
}
