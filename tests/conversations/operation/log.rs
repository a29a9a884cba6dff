//! What the program logs: whose line it is, never a secret or a body, and more of whom an operator watches.

use serde_json::{Value, json};

use crate::support::operator::{KEY, done, refused};
use crate::support::program::Program;
use crate::support::raw::{TEXT, masked};
use crate::support::{Raw, wire};

const PASSCODE: &str = "a-passcode-that-nobody-sees";
const BODY: &str = "a-body-that-nobody-sees";

fn program(level: &str) -> Program {
    let [level, key] = [format!("log.level={level}"), format!("admin.api_key={KEY}")];
    Program::start(&[&level, &key])
}

/// A client with a secret, and the name of its session.
async fn client(program: &Program, login: &str) -> (Raw, String) {
    let headers = format!("login:{login}\npasscode:{PASSCODE}\nauthorization:{PASSCODE}");
    program.connected_with(&headers).await
}

/// It sends itself a message with a body and a header of its own.
async fn talks(client: &mut Raw, destination: &str) {
    for frame in [
        format!("SUBSCRIBE\nid:{destination}\ndestination:{destination}\nreceipt:1"),
        format!("SEND\ndestination:{destination}\nmy-token:{PASSCODE}\n\n{BODY}"),
    ] {
        client.write(masked(TEXT, &wire(frame))).await;
    }
    client.expect("RECEIPT").await;
    client.expect("MESSAGE").await.saying(BODY);
    let unsubscribe = format!("UNSUBSCRIBE\nid:{destination}\nreceipt:2");
    client.write(masked(TEXT, &wire(unsubscribe))).await;
    client.expect("RECEIPT").await;
}

/// The lines that the log has so far.
fn lines(program: &Program) -> Vec<Value> {
    let log = program.log();
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
}

#[tokio::test]
async fn every_line_of_a_session_says_whose_it_is_and_the_last_one_how_it_ended() {
    let program = program("info");
    let (mut ada, session) = client(&program, "ada").await;
    talks(&mut ada, "/topic/a").await;
    ada.write(masked(TEXT, b"BOTHER\n\n\0")).await;
    ada.expect_error("unknown-command", 1002).await;
    program.logs("disconnected").await;
    let lines = lines(&program);
    let of_session: Vec<_> = lines.iter().filter(|line| line["span"]["id"] == json!(session)).collect();
    assert_eq!(of_session.len(), 2, "{lines:?}");
    for line in &of_session {
        assert_eq!((&line["span"]["name"], &line["span"]["user"]), (&json!("session"), &json!("ada")), "{line}");
        assert!(line["span"]["peer"].as_str().expect("an address").starts_with("127.0.0.1:"), "{line}");
    }
    assert_eq!(of_session[1]["span"]["end"], json!("unknown-command"));
    assert_eq!(of_session[1]["fields"]["code"], json!(1002));
}

#[tokio::test]
async fn no_level_shows_a_passcode_or_a_body() {
    for level in ["debug", "trace"] {
        let program = program(level);
        let (mut ada, _) = client(&program, "ada").await;
        talks(&mut ada, "/topic/a").await;
        talks(&mut ada, "/queue/a").await;
        ada.write(masked(TEXT, &wire(format!("SEND\ndestination:/topic/a\nuser-id:other\n\n{BODY}")))).await;
        ada.expect_error("forbidden-header", 1008).await;
        let message = json!({ "destination": "/topic/a", "body": BODY });
        done(&program.admin, "POST /messages", message).await;
        let (mut wrong, _) = client(&program, "wrong").await;
        wrong.write(masked(TEXT, format!("{BODY}\nno frame").as_bytes())).await;
        wrong.expect_error("unknown-command", 1002).await;
        program.logs("disconnected").await;
        let log = program.log();
        for secret in [PASSCODE, BODY, KEY] {
            assert!(!log.contains(secret), "{secret} in {log}");
        }
        assert_eq!(log.contains("SEND destination:"), level == "trace", "{log}");
    }
}

#[cfg(feature = "otlp")]
#[tokio::test]
async fn spans_show_no_passcode_and_no_body_and_the_log_no_token_of_the_collector() {
    use crate::support::service::{Service, answer};

    const TOKEN: &str = "a-token-that-nobody-sees";
    // It says what it was given, as some do.
    let collector = Service::start([answer("401 Unauthorized", &format!("who is {TOKEN}?"))]).await;
    let endpoint = format!("traces.endpoint=http://{}/v1/traces", collector.address);
    let [level, token] = ["log.level=trace".to_owned(), format!("traces.token={TOKEN}")];
    let program = Program::start(&[&level, &endpoint, &token, "traces.sample_one_in=1", "traces.interval=1ms"]);
    let (mut ada, session) = client(&program, "ada").await;
    talks(&mut ada, "/topic/a").await;
    program.logs("spans could not be exported").await;
    let calls = collector.calls();
    assert!(calls.iter().all(|call| call.headers("authorization") == [format!("Bearer {TOKEN}")]));
    let told: String = calls.iter().map(|call| call.body.as_str()).collect();
    assert!(told.contains("/topic/a") && told.contains(&session), "{told:?}");
    assert!(!told.contains(PASSCODE) && !told.contains(BODY), "{told:?}");
    assert!(!program.log().contains(TOKEN), "{}", program.log());
}

#[tokio::test]
async fn the_level_is_changed_while_the_program_runs() {
    let program = program("warn");
    let (mut ada, _) = client(&program, "ada").await;
    assert_eq!(done(&program.admin, "GET /log", Value::Null).await, json!({ "level": "warn", "sessions": [] }));
    assert!(program.log().is_empty(), "{}", program.log());
    let changed = done(&program.admin, "PUT /log", json!({ "level": "info" })).await;
    assert_eq!(changed, json!({ "level": "info", "sessions": [] }));
    client(&program, "bob").await;
    program.logs("\"user\":\"bob\"").await;
    for (change, about) in [
        (json!({ "level": "inof" }), "inof"),
        (json!({ "levels": "info" }), "levels"),
        (json!({ "sessions": ["a}=trace"] }), "not the name of a session"),
        (json!({ "sessions": (0..17).map(|number| format!("n-{number}")).collect::<Vec<_>>() }), "16"),
    ] {
        refused(&program.admin, "PUT /log", change, 400, about).await;
    }
    assert_eq!(done(&program.admin, "GET /log", Value::Null).await, changed, "what is wrong changes nothing");
    done(&program.admin, "PUT /log", json!({ "level": "off" })).await;
    let before = program.log();
    talks(&mut ada, "/topic/a").await;
    client(&program, "carl").await;
    assert_eq!(program.log(), before);
}

#[tokio::test]
async fn one_session_is_watched_and_no_other() {
    let program = program("warn");
    let (mut ada, watched) = client(&program, "ada").await;
    let (mut bob, other) = client(&program, "bob").await;
    talks(&mut ada, "/topic/before").await;
    let change = json!({ "sessions": [watched] });
    assert_eq!(
        done(&program.admin, "PUT /log", change.clone()).await,
        json!({ "level": "warn", "sessions": [watched] })
    );
    talks(&mut bob, "/topic/other").await;
    talks(&mut ada, "/topic/watched").await;
    program.logs("SEND destination:\\\"/topic/watched\\\"").await;
    let log = program.log();
    assert!(!log.contains(PASSCODE) && !log.contains(BODY) && !log.contains("/topic/before"), "{log}");
    assert!(!log.contains("/topic/other") && !log.contains(&format!("\"id\":\"{other}\"")), "{log}");
    assert!(lines(&program).iter().any(|line| line["span"]["user"] == json!("ada")), "{log}");
    done(&program.admin, "PUT /log", json!({ "sessions": [] })).await;
    talks(&mut ada, "/topic/after").await;
    assert!(!program.log().contains("/topic/after"), "{}", program.log());
}
