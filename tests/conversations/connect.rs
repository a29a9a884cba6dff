//! CONNECT, CONNECTED and DISCONNECT (contract, §6 and §7).

use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;

use crate::support::{Client, Raw, connect_frame, gateway, gateway_with, wire};

#[tokio::test]
async fn connected_says_version_session_heart_beat_server_and_user_name() {
    let gateway = gateway();
    let mut client = Client::open(&gateway).await;
    let connected = client.login("1.2", "login:ada\npasscode:secret\nheart-beat:0,0").await;
    let connected = connected.with("heart-beat", "0,0").with("user-name", "ada").saying("").in_text();
    assert!(connected.get("server").starts_with("stompgate/"));
    assert!(!connected.get("session").is_empty());
}

#[tokio::test]
async fn stomp_is_another_name_for_connect() {
    let gateway = gateway();
    let mut client = Client::open(&gateway).await;
    client.send("STOMP\naccept-version:1.2\nhost:localhost").await;
    client.expect("CONNECTED").await.with("version", "1.2");
}

#[tokio::test]
async fn connect_may_end_its_lines_with_cr_lf() {
    let gateway = gateway();
    let mut client = Client::open(&gateway).await;
    client.send("CONNECT\r\naccept-version:1.1\r\nhost:localhost\r\nlogin:ada\r\n\r\n").await;
    client.expect("CONNECTED").await.with("version", "1.1").with("user-name", "ada");
}

#[tokio::test]
async fn the_highest_version_in_common_is_chosen() {
    let gateway = gateway();
    for (offered, chosen) in [("1.0,1.1,1.2", "1.2"), ("1.3,1.1,1.0", "1.1"), ("1.0", "1.0"), ("2.0, 1.2", "1.2")] {
        let mut client = Client::open(&gateway).await;
        client.send(connect_frame(offered, "")).await;
        client.expect("CONNECTED").await.with("version", chosen);
    }
    let mut client = Client::open(&gateway).await;
    client.send("CONNECT").await;
    client.expect("CONNECTED").await.with("version", "1.0");
}

#[tokio::test]
async fn no_version_in_common_is_an_error_that_lists_ours() {
    let gateway = gateway();
    for offered in ["1.3", "2.0,3.0", "x", ""] {
        let mut client = Client::open(&gateway).await;
        client.send(connect_frame(offered, "")).await;
        let error = client.expect_error("unsupported-version", 1002).await;
        error.with("message", "Supported versions are 1.0,1.1,1.2").with("version", "1.0,1.1,1.2");
    }
}

#[tokio::test]
async fn host_may_be_absent_or_a_host_name() {
    let gateway = gateway();
    for host in ["", "\nhost:", "\nhost:gateway.example.com", "\nhost:localhost:8080", "\nhost:[::1]"] {
        let mut client = Client::open(&gateway).await;
        client.send(format!("CONNECT\naccept-version:1.2{host}")).await;
        client.expect("CONNECTED").await;
    }
}

#[tokio::test]
async fn any_other_host_is_denied_in_the_words_of_rabbitmq() {
    let gateway = gateway();
    for host in ["/production", "a b", "täglich"] {
        let mut client = Client::open(&gateway).await;
        client.send(format!("CONNECT\naccept-version:1.2\nhost:{host}")).await;
        let error = client.expect_error("unknown-host", 4403).await;
        error.with("message", &format!("Virtual host '{host}' access denied"));
    }
}

#[tokio::test]
async fn without_a_login_nobody_shares_a_name() {
    let gateway = gateway();
    let (mut one, mut other) = (Client::open(&gateway).await, Client::open(&gateway).await);
    for client in [&mut one, &mut other] {
        let connected = client.login("1.2", "login:").await;
        assert_eq!(connected.get("user-name"), format!("anonymous-{}", connected.get("session")));
    }
    assert_ne!(one.session, other.session);
}

#[tokio::test]
async fn a_name_has_128_bytes_and_no_control_characters() {
    let gateway = gateway();
    let longest = "n".repeat(128);
    Client::open(&gateway).await.login("1.2", &format!("login:{longest}")).await.with("user-name", &longest);
    for name in ["n".repeat(129), "a\tb".to_owned(), "a\u{7f}".to_owned()] {
        let mut client = Client::open(&gateway).await;
        client.send(connect_frame("1.2", &format!("login:{name}"))).await;
        client.expect_error("bad-connect", 1002).await.with("message", "Bad CONNECT").about("login");
    }
}

#[tokio::test]
async fn connect_and_connected_are_never_escaped() {
    let gateway = gateway();
    for version in ["1.1", "1.2"] {
        let connected = Client::open(&gateway).await.login(version, r"login:a\cb\x:c").await;
        connected.with("user-name", r"a\cb\x:c");
    }
}

#[tokio::test]
async fn the_first_of_a_repeated_header_counts() {
    let gateway = gateway();
    let connected = Client::open(&gateway).await.login("1.2", "login:first\nlogin:second").await;
    connected.with("user-name", "first");
}

#[tokio::test]
async fn a_frame_before_connect_is_refused() {
    let gateway = gateway();
    for frame in [
        "SEND\ndestination:/topic/a\n\nx",
        "SUBSCRIBE\nid:0\ndestination:/topic/a",
        "DISCONNECT",
        "BEGIN\ntransaction:t",
    ] {
        let mut client = Client::open(&gateway).await;
        client.send(frame).await;
        let error = client.expect_error("not-connected", 1002).await;
        error.with("message", "You must log in using CONNECT first");
    }
}

#[tokio::test]
async fn a_second_connect_is_refused() {
    let gateway = gateway();
    for command in ["CONNECT", "STOMP"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("{command}\naccept-version:1.2\nhost:localhost\nreceipt:7")).await;
        client.expect_error("already-connected", 1002).await.with("message", "Bad CONNECT").with("receipt-id", "7");
    }
}

#[tokio::test]
async fn what_follows_connect_in_one_message_is_handled_after_it() {
    let gateway = gateway();
    let mut client = Client::open(&gateway).await;
    let first = "CONNECT\naccept-version:1.2\nhost:localhost\n\n\0";
    let second = "SUBSCRIBE\nid:a\\cb\ndestination:/topic/a\nreceipt:1\n\n\0";
    client.send_message([first, second, "SEND\ndestination:/topic/a\n\nhello\0"].concat().into_bytes()).await;
    client.expect("CONNECTED").await;
    client.speaks("1.2");
    client.expect("RECEIPT").await.with("receipt-id", "1");
    client.expect("MESSAGE").await.with("subscription", "a:b").saying("hello");
}

#[tokio::test]
async fn a_heart_beat_header_that_is_none_is_refused() {
    let gateway = gateway();
    for value in ["", "1000", "a,b", "-1,0", "1,2,3"] {
        let mut client = Client::open(&gateway).await;
        client.send(connect_frame("1.2", &format!("heart-beat:{value}"))).await;
        client.expect_error("bad-connect", 1002).await.with("message", "Bad CONNECT").about("heart-beat");
    }
}

#[tokio::test]
async fn connect_must_come_in_time() {
    let gateway = gateway_with(|config| config.session.connect_timeout = Duration::from_millis(30));
    let mut client = Client::open(&gateway).await;
    client.expect_error("connect-timeout", 4408).await.about("session.connect_timeout");
}

#[tokio::test]
async fn heart_beats_do_not_put_off_the_time_for_connect() {
    let gateway = gateway_with(|config| config.session.connect_timeout = Duration::from_millis(100));
    let mut client = Client::open(&gateway).await;
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let _ = client.try_send_message("\n").await;
    }
    client.expect_error("connect-timeout", 4408).await;
}

#[tokio::test]
async fn before_connect_16_kib_are_read_and_no_more() {
    let gateway = gateway();
    let mut client = Client::open(&gateway).await;
    client.send(connect_frame("1.2", &format!("x:{}", "y".repeat(17_000)))).await;
    client.expect_error("too-large", 1009).await.about("session.max_connect_bytes");
    let mut client = Client::open(&gateway).await;
    client.send_message(vec![b'\n'; 17_000]).await;
    client.expect_error("too-large", 1009).await.about("session.max_connect_bytes");
    Client::connect_with(&gateway, "1.2", &format!("x:{}", "y".repeat(15_000))).await.disconnect().await;
}

#[tokio::test]
async fn the_limit_before_connect_ends_with_connected() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/a").await;
    let body = "y".repeat(100_000);
    client.send(format!("SEND\ndestination:/topic/a\n\n{body}")).await;
    client.expect("MESSAGE").await.saying(body);
}

#[tokio::test]
async fn disconnect_is_answered_with_its_receipt_and_a_normal_close() {
    let gateway = gateway();
    for version in ["1.0", "1.1", "1.2"] {
        let mut client = Client::connect(&gateway, version).await;
        client.does("DISCONNECT").await;
        client.expect_close(1000).await;
    }
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("DISCONNECT").await;
    client.expect_close(1000).await;
}

#[tokio::test]
async fn disconnect_finishes_what_came_before_and_takes_nothing_after() {
    let gateway = gateway();
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    let frames = [
        "SEND\ndestination:/topic/a\nreceipt:1\n\nbefore\0",
        "DISCONNECT\nreceipt:2\n\n\0",
        "SEND\ndestination:/topic/a\nreceipt:3\n\nafter\0",
    ];
    client.send_message(frames.concat().into_bytes()).await;
    client.expect("RECEIPT").await.with("receipt-id", "1");
    client.expect("RECEIPT").await.with("receipt-id", "2");
    client.expect_close(1000).await;
    reader.expect("MESSAGE").await.saying("before");
    reader.expect_nothing().await;
}

#[tokio::test]
async fn a_ping_is_answered_with_a_pong_of_the_same_bytes() {
    let gateway = gateway();
    let mut client = Client::open(&gateway).await;
    client.send_websocket(Message::Ping("are you there".into())).await;
    assert_eq!(client.next_websocket("a pong").await, Some(Message::Pong("are you there".into())));
}

#[tokio::test]
async fn a_close_of_the_client_is_answered_with_its_own_code() {
    let gateway = gateway();
    for code in [1000_u16, 1001, 3000, 4999] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.close(code).await;
        client.expect_close(code).await;
    }
}

#[tokio::test]
async fn a_session_that_has_ended_is_no_connection_any_more() {
    let gateway = gateway();
    let client = Client::connect(&gateway, "1.2").await;
    assert_eq!(gateway.connections(), 1);
    client.disconnect().await;
    crate::support::until("the connection to be forgotten", || gateway.connections() == 0).await;
}

#[tokio::test]
async fn the_gateway_lets_go_as_soon_as_both_sides_have_closed() {
    let gateway = gateway_with(|config| config.server.close_timeout = Duration::from_hours(1));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("DISCONNECT").await;
    client.expect_close(1000).await;
    let mut other = Client::connect(&gateway, "1.2").await;
    other.close(1000).await;
    other.expect_close(1000).await;
    crate::support::until("both connections to be forgotten", || gateway.connections() == 0).await;
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_close_is_let_go_after_a_while() {
    let gateway = gateway_with(|config| config.server.close_timeout = Duration::from_millis(100));
    let mut raw = Raw::connected(&gateway, "1.2").await;
    raw.text(wire("DISCONNECT")).await;
    crate::support::until("the connection to be forgotten", || gateway.connections() == 0).await;
}
