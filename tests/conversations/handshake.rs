//! The opening handshake: HTTP, sub-protocols, Host and Origin (contract, §7; RFC 6455, §4).

use std::time::Duration;

use stompgate::config::Config;

use crate::support::raw::{ACCEPT, Answer, KEY, TEXT, masked, request};
use crate::support::{Gateway, Raw, connect_frame, gateway, gateway_with, wire};

const GET: &str = "GET /ws HTTP/1.1";

async fn asked(gateway: &Gateway, request: impl AsRef<[u8]>) -> Answer {
    let mut raw = Raw::tcp(gateway).await;
    raw.write(request).await;
    raw.answer().await
}

/// The answer to a request that is changed in these headers.
async fn with(gateway: &Gateway, changes: &[(&str, &str)]) -> Answer {
    asked(gateway, request(GET, changes)).await
}

fn listening_everywhere(change: impl FnOnce(&mut Config)) -> Gateway {
    gateway_with(|config| {
        config.server.listen = "0.0.0.0:0".parse().expect("an address");
        config.auth.trust_remote = true;
        change(config);
    })
}

#[tokio::test]
async fn a_good_handshake_is_answered_with_101_and_the_key_of_the_rfc() {
    let gateway = gateway();
    let answer = with(&gateway, &[]).await;
    assert_eq!(answer.status, 101);
    assert_eq!(answer.get("sec-websocket-accept"), ACCEPT);
    assert!(answer.get("upgrade").eq_ignore_ascii_case("websocket"));
    assert!(answer.get("connection").eq_ignore_ascii_case("upgrade"));
    assert_eq!(answer.maybe("sec-websocket-protocol"), None, "none was offered");
    assert_eq!(answer.maybe("sec-websocket-extensions"), None, "none is spoken");
}

#[tokio::test]
async fn tokens_may_be_spelled_in_any_case_and_stand_among_others() {
    let gateway = gateway();
    let answer = with(&gateway, &[("upgrade", "h2c, WebSocket"), ("connection", "keep-alive, UPGRADE")]).await;
    assert_eq!(answer.status, 101);
    assert_eq!(asked(&gateway, request("GET /ws?token=1 HTTP/1.1", &[])).await.status, 101, "a query does no harm");
}

#[tokio::test]
async fn the_best_sub_protocol_offered_is_echoed() {
    let gateway = gateway();
    for (offered, chosen) in [
        ("v10.stomp, v11.stomp, v12.stomp", "v12.stomp"),
        ("v11.stomp,v10.stomp", "v11.stomp"),
        ("v10.stomp", "v10.stomp"),
        ("mqtt, v11.stomp, v99.stomp", "v11.stomp"),
    ] {
        let answer = with(&gateway, &[("sec-websocket-protocol", offered)]).await;
        assert_eq!((answer.status, answer.get("sec-websocket-protocol")), (101, chosen), "{offered}");
    }
    let lines = &[("sec-websocket-protocol", "v10.stomp"), ("sec-websocket-protocol", "v12.stomp")];
    assert_eq!(with(&gateway, lines).await.get("sec-websocket-protocol"), "v12.stomp");
}

#[tokio::test]
async fn only_unknown_sub_protocols_are_a_400() {
    let gateway = gateway();
    let answer = with(&gateway, &[("sec-websocket-protocol", "mqtt, v13.stomp")]).await;
    assert_eq!(answer.status, 400);
    assert!(answer.body.contains("v12.stomp"), "{}", answer.body);
}

#[tokio::test]
async fn another_path_is_a_404_that_names_the_right_one() {
    let gateway = gateway();
    for path in ["/", "/ws/", "/WS", "/wss"] {
        let answer = asked(&gateway, request(&format!("GET {path} HTTP/1.1"), &[])).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/ws"), "{}", answer.body);
    }
    let elsewhere = gateway_with(|config| config.server.path = "/stomp".to_owned());
    assert_eq!(asked(&elsewhere, request(GET, &[])).await.status, 404);
    assert_eq!(asked(&elsewhere, request("GET /stomp HTTP/1.1", &[])).await.status, 101);
}

#[tokio::test]
async fn another_method_is_a_405_that_allows_get() {
    let gateway = gateway();
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = asked(&gateway, request(&format!("{method} /ws HTTP/1.1"), &[("content-length", "0")])).await;
        assert_eq!((answer.status, answer.get("allow")), (405, "GET"), "{method}");
    }
}

#[tokio::test]
async fn a_request_that_asks_for_no_websocket_is_a_426() {
    let gateway = gateway();
    for change in [("upgrade", ""), ("connection", ""), ("upgrade", "h2c"), ("connection", "keep-alive")] {
        let answer = with(&gateway, &[change]).await;
        assert_eq!((answer.status, answer.get("upgrade")), (426, "websocket"), "{change:?}");
    }
}

#[tokio::test]
async fn another_websocket_version_is_a_426_that_names_13() {
    let gateway = gateway();
    for version in ["", "12", "8", "013", "13, 8", "x"] {
        let answer = with(&gateway, &[("sec-websocket-version", version)]).await;
        assert_eq!((answer.status, answer.get("sec-websocket-version")), (426, "13"), "{version:?}");
    }
}

#[tokio::test]
async fn a_key_that_is_missing_doubled_or_no_key_is_a_400() {
    let gateway = gateway();
    for key in ["", "c2hvcnQ=", "dGhlIHNhbXBsZSBub25jZQ=", "dGhlIHNhbXBsZSBub25j!!==", "AAAAAAAAAAAAAAAAAAAAAAAAAAAA=="]
    {
        assert_eq!(with(&gateway, &[("sec-websocket-key", key)]).await.status, 400, "{key:?}");
    }
    let doubled = [("sec-websocket-key", KEY), ("sec-websocket-key", KEY)];
    assert_eq!(with(&gateway, &doubled).await.status, 400);
}

#[tokio::test]
async fn http_1_0_is_a_400() {
    let gateway = gateway();
    assert_eq!(asked(&gateway, request("GET /ws HTTP/1.0", &[])).await.status, 400);
}

#[tokio::test]
async fn what_is_no_http_is_a_400_and_the_end() {
    let gateway = gateway();
    for bytes in [
        "CONNECT\naccept-version:1.2\n\n\0\r\n\r\n",
        "\0\0\0\0\r\n\r\n",
        "GET\r\n\r\n",
        "GET /ws HTTP/1.1\r\nbad header\r\n\r\n",
    ] {
        let mut raw = Raw::tcp(&gateway).await;
        raw.write(bytes).await;
        assert_eq!(raw.answer().await.status, 400, "{bytes:?}");
        raw.expect_end().await;
    }
}

#[tokio::test]
async fn headers_that_are_too_large_are_a_431() {
    let gateway = gateway();
    let mut raw = Raw::tcp(&gateway).await;
    raw.try_write(format!("GET /ws HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "y".repeat(40_000))).await;
    assert_eq!(raw.answer().await.status, 431);
}

#[tokio::test]
async fn a_connection_whose_first_request_was_refused_may_try_again() {
    let gateway = gateway();
    let mut raw = Raw::tcp(&gateway).await;
    raw.write(request("GET /elsewhere HTTP/1.1", &[])).await;
    assert_eq!(raw.answer().await.status, 404);
    raw.write(request(GET, &[])).await;
    assert_eq!(raw.answer().await.status, 101);
}

#[tokio::test]
async fn what_is_sent_right_behind_the_request_is_not_lost() {
    let gateway = gateway();
    let mut raw = Raw::tcp(&gateway).await;
    let connect = masked(TEXT, &wire(connect_frame("1.2", "")));
    raw.write([request(GET, &[]).into_bytes(), connect].concat()).await;
    assert_eq!(raw.answer().await.status, 101);
    raw.expect("CONNECTED").await;
}

#[tokio::test]
async fn on_loopback_host_must_be_a_loopback_name() {
    let gateway = gateway();
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1:8080", "[::1]", "app.localhost"] {
        assert_eq!(with(&gateway, &[("host", host)]).await.status, 101, "{host}");
    }
    for host in ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1"] {
        let answer = with(&gateway, &[("host", host)]).await;
        assert_eq!(answer.status, 403, "{host}");
        assert!(answer.body.contains("server.allowed_hosts"), "{}", answer.body);
    }
    assert_eq!(with(&gateway, &[("host", "")]).await.status, 400, "no Host at all");
}

#[tokio::test]
async fn two_host_headers_are_a_400() {
    // RFC 9112, 3.2: two of them let a proxy and the gateway disagree on which one was checked.
    let gateway = gateway();
    assert_eq!(with(&gateway, &[("host", "localhost"), ("host", "evil.example")]).await.status, 400);
}

#[tokio::test]
async fn elsewhere_every_host_is_served_or_those_listed() {
    let open = listening_everywhere(|_| {});
    assert_eq!(with(&open, &[("host", "gateway.example.com")]).await.status, 101);
    let listed = listening_everywhere(|config| config.server.allowed_hosts = vec!["*.example.com".to_owned()]);
    assert_eq!(with(&listed, &[("host", "gateway.example.com:8080")]).await.status, 101);
    assert_eq!(with(&listed, &[("host", "example.com")]).await.status, 403);
}

#[tokio::test]
async fn a_request_without_origin_is_accepted_unless_the_setting_refuses_it() {
    assert_eq!(with(&gateway(), &[]).await.status, 101);
    let strict = gateway_with(|config| config.server.require_origin = true);
    let answer = with(&strict, &[]).await;
    assert_eq!(answer.status, 403);
    assert!(answer.body.contains("server.require_origin"), "{}", answer.body);
    assert_eq!(with(&strict, &[("origin", "http://localhost")]).await.status, 101);
}

#[tokio::test]
async fn on_loopback_every_loopback_page_may_connect_and_no_other() {
    let gateway = gateway();
    for origin in ["http://localhost:3000", "http://127.0.0.1:5173", "https://[::1]:1", "http://app.localhost"] {
        assert_eq!(with(&gateway, &[("origin", origin)]).await.status, 101, "{origin}");
    }
    for origin in ["null", "http://evil.example", "http://localhost.evil.example", "file://", "localhost"] {
        let answer = with(&gateway, &[("origin", origin)]).await;
        assert_eq!(answer.status, 403, "{origin}");
        assert!(answer.body.contains("server.allowed_origins"), "{}", answer.body);
    }
}

#[tokio::test]
async fn two_origin_headers_are_refused() {
    let gateway = gateway();
    let answer = with(&gateway, &[("origin", "http://localhost"), ("origin", "http://evil.example")]).await;
    assert_eq!(answer.status, 400);
}

#[tokio::test]
async fn elsewhere_origin_is_compared_with_host_by_name_and_port() {
    let gateway = listening_everywhere(|_| {});
    let host = ("host", "gateway.example.com:8080");
    for (origin, status) in [
        ("http://gateway.example.com:8080", 101),
        ("http://GATEWAY.example.com:8080", 101),
        ("http://gateway.example.com", 403),
        ("http://gateway.example.com:8081", 403),
        ("http://other.example.com:8080", 403),
        ("http://localhost:8080", 403),
        ("null", 403),
    ] {
        assert_eq!(with(&gateway, &[host, ("origin", origin)]).await.status, status, "{origin}");
    }
    let implied = [("host", "gateway.example.com"), ("origin", "https://gateway.example.com")];
    assert_eq!(with(&gateway, &implied).await.status, 101);
}

#[tokio::test]
async fn a_list_of_origins_may_have_wildcards() {
    let gateway = listening_everywhere(|config| {
        config.server.allowed_origins =
            vec!["https://*.example.com".to_owned(), "http://app.example.org:81".to_owned()];
    });
    for (origin, status) in [
        ("https://app.example.com", 101),
        ("https://a.b.example.com", 101),
        ("http://app.example.org:81", 101),
        ("http://app.example.com", 403),
        ("https://example.com", 403),
        ("http://app.example.org", 403),
        ("null", 403),
    ] {
        assert_eq!(with(&gateway, &[("host", "x"), ("origin", origin)]).await.status, status, "{origin}");
    }
}

#[tokio::test]
async fn a_handshake_that_takes_too_long_is_given_up() {
    let gateway = gateway_with(|config| config.server.handshake_timeout = Duration::from_millis(100));
    for beginning in ["", "GET /ws HTTP/1.1\r\nhost: loc"] {
        let mut raw = Raw::tcp(&gateway).await;
        raw.write(beginning).await;
        raw.read_to_end().await;
    }
    assert_eq!(gateway.connections(), 0);
}
