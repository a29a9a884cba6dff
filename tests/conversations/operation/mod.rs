//! What operators see: metrics and health.

mod health;
mod log;
mod metrics;
#[cfg(all(feature = "amqp", feature = "mqtt"))]
mod names;

use stompgate::gateway::Gateway;

use crate::support::Raw;
use crate::support::raw::Answer;

/// What the port for operators answers.
pub(crate) async fn ask(gateway: &Gateway, request: &str) -> Answer {
    let mut raw = Raw::tcp_to(gateway.admin_address().expect("a port for operators")).await;
    raw.write(format!("{request} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    raw.answer().await
}

/// The metrics, as a text.
async fn scraped(gateway: &Gateway) -> String {
    let answer = ask(gateway, "GET /metrics").await;
    assert_eq!((answer.status, answer.get("content-type")), (200, "text/plain; version=0.0.4; charset=utf-8"));
    answer.body
}
