//! What the text says after what happened.

use std::sync::Arc;
use std::time::Duration;

use super::*;

fn text(metrics: &Metrics) -> String {
    metrics.render(Figures::default())
}

fn value(metrics: &Metrics, series: &str) -> f64 {
    let text = text(metrics);
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} in {text}")).parse().unwrap()
}

fn assert_value(metrics: &Metrics, series: &str, expected: f64) {
    let found = value(metrics, series);
    assert!((found - expected).abs() < 1e-9, "{series} is {found}, not {expected}");
}

#[test]
fn each_event_moves_its_own_counter() {
    let metrics = Metrics::new();
    metrics.handshake(Handshake::TimedOut);
    metrics.connect(Connect::Refused);
    metrics.authentication(Authentication::Failed);
    metrics.closed(Some(CloseCode::SLOW_CONSUMER));
    metrics.closed(None);
    metrics.error("too-large");
    metrics.overrun(Overrun::Conflate);
    metrics.dropped(Dropped::TooLarge, 3);
    metrics.headers_left_out(2);
    metrics.deflated(1000, 300);
    for (series, expected) in [
        ("stompgate_handshakes_total{outcome=\"timed-out\"}", 1.0),
        ("stompgate_deflate_plain_bytes_total", 1000.0),
        ("stompgate_deflate_sent_bytes_total", 300.0),
        ("stompgate_handshakes_total{outcome=\"upgraded\"}", 0.0),
        ("stompgate_connects_total{outcome=\"refused\"}", 1.0),
        ("stompgate_authentications_total{outcome=\"failed\"}", 1.0),
        ("stompgate_closes_total{code=\"4508\"}", 1.0),
        ("stompgate_closes_total{code=\"client\"}", 1.0),
        ("stompgate_closes_total{code=\"1000\"}", 0.0),
        ("stompgate_errors_total{code=\"too-large\"}", 1.0),
        ("stompgate_outbox_overruns_total{policy=\"conflate\"}", 1.0),
        ("stompgate_messages_dropped_total{reason=\"too-large\"}", 3.0),
        ("stompgate_headers_left_out_total", 2.0),
    ] {
        assert_value(&metrics, series, expected);
    }
}

#[test]
fn messages_are_not_counted_if_nobody_wants_that() {
    let metrics = Metrics::with(&Settings { messages: false, ..Settings::default() }, Separators::default());
    metrics.received(Some(Command::Send), 7);
    let mut run = Run::default();
    assert!(run.add(Some(Command::Message), 10).is_none());
    metrics.sent(run);
    metrics.published(Publish::Confirmed, 1, Duration::from_millis(1));
    metrics.written(10, Some(Duration::from_millis(1)));
    for series in [
        "stompgate_frames_total{command=\"SEND\",direction=\"in\"}",
        "stompgate_frames_total{command=\"MESSAGE\",direction=\"out\"}",
        "stompgate_publishes_total{outcome=\"confirmed\"}",
        "stompgate_receipt_seconds_count",
        "stompgate_delivery_seconds_count",
        "stompgate_outbox_bytes_count",
    ] {
        assert_value(&metrics, series, 0.0);
    }
    metrics.connect(Connect::Connected);
    assert_value(&metrics, "stompgate_connects_total{outcome=\"connected\"}", 1.0);
}

#[test]
fn frames_are_counted_by_command_and_direction() {
    let metrics = Metrics::new();
    for command in Command::ALL {
        metrics.received(Some(command), 7);
    }
    metrics.received(None, 1);
    let mut run = Run::default();
    assert!(run.add(Some(Command::Message), 10).is_none());
    assert!(run.add(Some(Command::Message), 20).is_none());
    metrics.sent(run.add(None, 1).expect("the messages before"));
    metrics.sent(run);
    for command in Command::ALL {
        assert_value(&metrics, &format!("stompgate_frames_total{{command=\"{command}\",direction=\"in\"}}"), 1.0);
        assert_value(&metrics, &format!("stompgate_frame_bytes_total{{command=\"{command}\",direction=\"in\"}}"), 7.0);
    }
    assert_value(&metrics, "stompgate_frames_total{command=\"heart-beat\",direction=\"in\"}", 1.0);
    assert_value(&metrics, "stompgate_frames_total{command=\"MESSAGE\",direction=\"out\"}", 2.0);
    assert_value(&metrics, "stompgate_frame_bytes_total{command=\"MESSAGE\",direction=\"out\"}", 30.0);
    assert_value(&metrics, "stompgate_frames_total{command=\"heart-beat\",direction=\"out\"}", 1.0);
}

#[test]
fn only_an_answer_of_the_broker_has_a_time() {
    let metrics = Metrics::new();
    metrics.published(Publish::Confirmed, 3, Duration::from_millis(2));
    metrics.published(Publish::TimedOut, 1, Duration::from_secs(30));
    assert_value(&metrics, "stompgate_publishes_total{outcome=\"confirmed\"}", 3.0);
    assert_value(&metrics, "stompgate_publishes_total{outcome=\"timed-out\"}", 1.0);
    assert_value(&metrics, "stompgate_receipt_seconds_count", 1.0);
    assert_value(&metrics, "stompgate_receipt_seconds_bucket{le=\"0.0025\"}", 1.0);
    assert_value(&metrics, "stompgate_receipt_seconds_bucket{le=\"0.001\"}", 0.0);
}

#[test]
fn what_a_client_held_is_taken_back_with_it() {
    let metrics = Arc::new(Metrics::new());
    let mut ada = metrics.holdings();
    let mut ben = metrics.holdings();
    ada.set(2, 1, 5);
    ben.set(1, 0, 0);
    ada.set(1, 1, 7);
    assert_value(&metrics, "stompgate_subscriptions{kind=\"shared\"}", 2.0);
    assert_value(&metrics, "stompgate_subscriptions{kind=\"dedicated\"}", 1.0);
    assert_value(&metrics, "stompgate_unacknowledged_deliveries", 7.0);
    drop(ada);
    assert_value(&metrics, "stompgate_subscriptions{kind=\"shared\"}", 1.0);
    assert_value(&metrics, "stompgate_unacknowledged_deliveries", 0.0);
}

#[test]
fn a_figure_cannot_break_out_of_its_label() {
    let mut figures = Figures::default();
    figures.gauges("a", "b", "c", &[("\"} 1\nevil", 1)]);
    assert_eq!(figures.into_text(), "# HELP a b\n# TYPE a gauge\na{c=\"\\\"} 1\\nevil\"} 1\n");
}
