//! The API of back ends that have no broker client, on the port for operators.

use serde_json::{Value, json};
use stompgate::config::Config;

use crate::peer::TELLS_UNROUTED;
use crate::support::operator::{self, problem};
use crate::support::raw::Answer;
use crate::support::{Client, Gateway, gateway, gateway_with, until};

/// A gateway whose API is open to [`operator::KEY`].
fn with_key() -> Gateway {
    gateway_with(open)
}

fn open(config: &mut Config) {
    config.admin.api_key = Some(operator::KEY.into());
}

fn admin(gateway: &Gateway) -> String {
    gateway.admin_address().expect("a port for operators").to_string()
}

async fn ask(gateway: &Gateway, request: &str, headers: &str, body: &[u8]) -> Answer {
    operator::ask(&admin(gateway), request, headers, body).await
}

async fn call(gateway: &Gateway, request: &str, body: &Value) -> Answer {
    operator::call(&admin(gateway), request, body).await
}

async fn done(gateway: &Gateway, request: &str, body: Value) -> Value {
    operator::done(&admin(gateway), request, body).await
}

async fn refused(gateway: &Gateway, request: &str, body: Value, status: u16, about: &str) -> Value {
    operator::refused(&admin(gateway), request, body, status, about).await
}

#[tokio::test]
async fn without_a_key_there_is_no_api() {
    let gateway = gateway();
    for request in ["GET /sessions", "POST /messages", "GET /openapi.json", "DELETE /users/ada/sessions"] {
        let answer = ask(&gateway, request, "authorization: Bearer anything\r\n", b"").await;
        problem(&answer, 403, "admin.api_key");
    }
    for request in ["GET /metrics", "GET /healthz", "GET /readyz"] {
        assert_ne!(ask(&gateway, request, "", b"").await.status, 403, "{request}");
    }
}

#[tokio::test]
async fn another_key_is_refused() {
    let gateway = with_key();
    for headers in ["", "authorization: Bearer the-key-of-the-operator\r\n", "authorization: Basic dGhlOmtleQ==\r\n"] {
        let answer = ask(&gateway, "GET /sessions", headers, b"").await;
        problem(&answer, 401, "admin.api_key");
        assert_eq!(answer.get("www-authenticate"), "Bearer");
    }
    assert_eq!(ask(&gateway, "GET /metrics", "", b"").await.status, 200, "open to all");
    done(&gateway, "GET /sessions", Value::Null).await;
}

#[tokio::test]
async fn a_message_comes_to_its_readers() {
    let gateway = with_key();
    let mut reader = Client::connect_with(&gateway, "1.2", "login:ada").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    reader.subscribe("id:1\ndestination:/queue/a\nack:client").await;
    reader.subscribe("id:2\ndestination:/user/queue/mail").await;
    let message = json!({ "destination": "/topic/a", "headers": { "content-type": "text/plain", "x": "a:b\\c" }, "body": "hello" });
    assert_eq!(done(&gateway, "POST /messages", message).await, json!({ "routed": true }));
    let message = reader.expect("MESSAGE").await.saying("hello").with("x", "a:b\\c").with("content-type", "text/plain");
    message.with("destination", "/topic/a").without("stompgate-user");
    let bytes = json!({ "destination": "/queue/a", "body_base64": "AP//" });
    assert_eq!(done(&gateway, "POST /messages", bytes).await, json!({ "routed": true }));
    let message = reader.expect("MESSAGE").await.saying([0, 255, 255]).in_binary();
    reader.does(&format!("ACK\nid:{}", message.get("ack"))).await;
    let mail = json!({ "destination": "queue/mail", "body": "for you" });
    assert_eq!(done(&gateway, "POST /users/ada/messages", mail).await, json!({ "routed": true }));
    reader.expect("MESSAGE").await.saying("for you").with("destination", "/user/queue/mail");
}

#[tokio::test]
async fn a_message_for_nobody_says_so() {
    let gateway = with_key();
    let nobody = json!({ "destination": "/topic/nobody", "body": "x" });
    assert_eq!(done(&gateway, "POST /messages", nobody).await, json!({ "routed": !TELLS_UNROUTED }));
    let nobody = json!({ "destination": "queue/mail", "body": "x" });
    assert_eq!(done(&gateway, "POST /users/no%2Fbody/messages", nobody).await, json!({ "routed": !TELLS_UNROUTED }));
    // Where a reader has been, something waits for the next one, on every broker.
    let mut first = Client::connect(&gateway, "1.2").await;
    first.subscribe("id:0\ndestination:/queue/kept").await;
    first.disconnect().await;
    let kept = json!({ "destination": "/queue/kept", "body": "x" });
    assert_eq!(done(&gateway, "POST /messages", kept).await, json!({ "routed": true }));
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/queue/kept").await;
    reader.expect("MESSAGE").await.saying("x");
}

#[tokio::test]
async fn many_messages_keep_their_order() {
    let gateway = with_key();
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/queue/many").await;
    let numbers = |from: usize| {
        (from..from + 200).map(|number| json!({ "destination": "/queue/many", "body": number.to_string() }))
    };
    for from in [0, 200] {
        let answer =
            done(&gateway, "POST /messages/batch", json!({ "messages": numbers(from).collect::<Vec<_>>() })).await;
        let results = answer["results"].as_array().expect("a list");
        assert!(results.len() == 200 && results.iter().all(|result| *result == json!({ "routed": true })), "{answer}");
    }
    for number in 0..400 {
        reader.expect("MESSAGE").await.saying(number.to_string());
    }
}

#[tokio::test]
async fn a_message_that_is_wrong_is_refused_and_so_are_those_beside_it() {
    let gateway = with_key();
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/a").await;
    for (message, about) in [
        (json!({ "body": "x" }), "destination"),
        (json!({ "destination": "/nowhere/a" }), "unknown-destination"),
        (json!({ "destination": "/topic/*" }), "invalid-destination"),
        (json!({ "destination": "/app/a" }), "no-handler"),
        (json!({ "destination": "/topic/a", "colour": "red" }), "colour"),
        (json!({ "destination": "/topic/a", "body": "x", "body_base64": "eA==" }), "body_base64"),
        (json!({ "destination": "/topic/a", "headers": { "transaction": "t" } }), "forbidden-header"),
        (json!({ "destination": "/topic/a", "headers": { "user-id": "ada" } }), "forbidden-header"),
        (json!({ "destination": "/topic/a", "headers": { "stompgate-user": "ada" } }), "forbidden-header"),
        (json!({ "destination": "/topic/a", "headers": { "reply-to": "/temp-queue/x" } }), "forbidden-header"),
        (json!({ "destination": "/topic/a", "headers": { "expiration": "soon" } }), "invalid-header"),
        (json!({ "destination": "/topic/a", "headers": { "x": "x".repeat(20_000) } }), "session.max_header_bytes"),
        (json!({ "destination": "/topic/a", "headers": { "x": "a\0b" } }), "invalid-header"),
    ] {
        refused(&gateway, "POST /messages", message.clone(), 400, about).await;
        let good = json!({ "destination": "/topic/a", "body": "never" });
        refused(&gateway, "POST /messages/batch", json!({ "messages": [good, message] }), 400, about).await;
    }
    refused(&gateway, "POST /messages/batch", json!({ "messages": [] }), 400, "admin.max_messages").await;
    refused(&gateway, "POST /messages?tenant=a", json!({ "destination": "/topic/a" }), 400, "tenant").await;
    done(&gateway, "POST /messages", json!({ "destination": "/topic/a", "body": "the first" })).await;
    reader.expect("MESSAGE").await.saying("the first");
}

#[tokio::test]
async fn a_call_has_bounds() {
    let gateway = gateway_with(|config| {
        open(config);
        config.admin.max_body = 2000;
        config.admin.max_messages = 2;
    });
    let large = json!({ "destination": "/topic/a", "body": "x".repeat(3000) });
    refused(&gateway, "POST /messages", large, 413, "admin.max_body").await;
    let three = vec![json!({ "destination": "/topic/a" }); 3];
    refused(&gateway, "POST /messages/batch", json!({ "messages": three }), 400, "admin.max_messages").await;
    let key = format!("authorization: Bearer {}\r\n", operator::KEY);
    let answer = ask(&gateway, "POST /messages", &key, b"{}").await;
    problem(&answer, 415, "application/json");
    refused(&gateway, "POST /messages", json!([]), 400, "The body is not what is expected").await;
    refused(&gateway, "GET /sessions?limit=0", Value::Null, 400, "limit").await;
    let answer = call(&gateway, "PUT /messages", &Value::Null).await;
    problem(&answer, 405, "POST");
    assert_eq!(answer.get("allow"), "POST");
}

#[tokio::test]
async fn sessions_and_subscriptions_are_listed_page_by_page() {
    let gateway = with_key();
    let mut clients = Vec::new();
    for user in ["ada", "bob", "ada"] {
        clients.push(Client::connect_with(&gateway, "1.2", &format!("login:{user}")).await);
    }
    let _without_connect = Client::open(&gateway).await;
    let users = |page: &Value| {
        let sessions = page["sessions"].as_array().expect("a list").iter();
        sessions.map(|session| session["user"].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
    };
    let all = done(&gateway, "GET /sessions", Value::Null).await;
    assert_eq!((users(&all), &all["next"]), (vec!["ada".into(), "bob".into(), "ada".into()], &Value::Null));
    let first = done(&gateway, "GET /sessions?limit=2", Value::Null).await;
    assert_eq!(users(&first), ["ada", "bob"]);
    let next = first["next"].as_str().expect("another page");
    let second = done(&gateway, &format!("GET /sessions?limit=2&after={next}"), Value::Null).await;
    assert_eq!((users(&second), &second["next"]), (vec!["ada".to_owned()], &Value::Null));
    assert_eq!(users(&done(&gateway, "GET /sessions?user=bob", Value::Null).await), ["bob"]);
    assert!(users(&done(&gateway, "GET /sessions?user=nobody", Value::Null).await).is_empty());

    let bob = &mut clients[1];
    bob.subscribe("id:a\ndestination:/topic/a").await;
    bob.subscribe("id:b\ndestination:/queue/b\nack:client").await;
    bob.send("SEND\ndestination:/queue/b\n\nx").await;
    bob.expect("MESSAGE").await;
    let id = all["sessions"][1]["id"].as_str().expect("an id");
    let list = format!("GET /sessions/{id}/subscriptions");
    let found = done(&gateway, &list, Value::Null).await;
    let of_b = json!({ "number": 1, "id": "b", "destination": "/queue/b", "ack": "client", "durable": false, "unacknowledged": 1 });
    assert_eq!(found["subscriptions"].as_array().map(Vec::len), Some(2), "{found}");
    assert_eq!(found["subscriptions"][1], of_b);
    let first = done(&gateway, &format!("{list}?limit=1"), Value::Null).await;
    assert_eq!((&first["subscriptions"][0]["id"], &first["next"]), (&json!("a"), &json!("0")));
    let second = done(&gateway, &format!("{list}?limit=1&after=0"), Value::Null).await;
    assert_eq!((&second["subscriptions"], &second["next"]), (&json!([of_b]), &Value::Null));
    refused(&gateway, "GET /sessions/another-7/subscriptions", Value::Null, 404, "another-7").await;
}

#[tokio::test]
async fn a_session_is_ended_and_told_why() {
    let gateway = with_key();
    let mut ada = Client::connect_with(&gateway, "1.2", "login:ada").await;
    let mut bob = Client::connect_with(&gateway, "1.2", "login:bob").await;
    let mut again = Client::connect_with(&gateway, "1.2", "login:ada").await;
    let sessions = done(&gateway, "GET /sessions?user=bob", Value::Null).await;
    let id = sessions["sessions"][0]["id"].as_str().expect("an id").to_owned();
    let ended = done(&gateway, &format!("DELETE /sessions/{id}?reason=moved%20away"), Value::Null).await;
    assert_eq!(ended, json!({ "disconnected": 1 }));
    bob.expect_error("removed", 1008).await.about("moved away");
    until("the session to end", || gateway.connections() == 2).await;
    refused(&gateway, &format!("DELETE /sessions/{id}"), Value::Null, 404, &id).await;
    assert_eq!(done(&gateway, "DELETE /users/ada/sessions", Value::Null).await, json!({ "disconnected": 2 }));
    for client in [&mut ada, &mut again] {
        client.expect_error("removed", 1008).await;
    }
    until("the sessions to end", || gateway.connections() == 0).await;
    assert_eq!(done(&gateway, "DELETE /users/ada/sessions", Value::Null).await, json!({ "disconnected": 0 }));
    refused(&gateway, "DELETE /users/ada/sessions?reason=a%0Ab", Value::Null, 400, "reason").await;
}

#[tokio::test]
async fn every_call_of_the_document_answers() {
    let gateway = with_key();
    let document = done(&gateway, "GET /openapi.json", Value::Null).await;
    assert_eq!(document["openapi"], json!("3.1.0"));
    let paths = document["paths"].as_object().expect("paths");
    for (path, item) in paths {
        let concrete = path.replace("{session}", "nobody-1").replace("{user}", "nobody");
        let methods: Vec<_> =
            ["get", "put", "post", "delete", "patch"].into_iter().filter(|name| item.get(name).is_some()).collect();
        for method in &methods {
            // Which fails for an answer that the document does not tell.
            let answer = call(&gateway, &format!("{} {concrete}", method.to_uppercase()), &Value::Null).await;
            assert!(answer.status != 404 || path.contains("{session}"), "{method} {path}");
            assert_ne!(answer.status, 405, "{method} {path}");
        }
        let other = call(&gateway, &format!("PATCH {concrete}"), &Value::Null).await;
        let allowed: Vec<_> =
            other.get("allow").split(", ").map(str::to_lowercase).filter(|name| name != "head").collect();
        assert_eq!((other.status, allowed), (405, methods.iter().map(|&name| name.to_owned()).collect()), "{path}");
    }
}
