//! `/app` with handlers that are HTTP services (contract, §10).

use std::time::Duration;

use stompgate::access::RuleSettings;
use stompgate::chain::{HttpSettings, LifecycleSettings, Moment, OnError, Order, RateLimit, RouteSettings};
use stompgate::config::Config;
use stompgate::gateway::Gateway;

use crate::app::{gate, gated};
use crate::support::service::{Answer, Service, answer, answer_with};
use crate::support::{Client, builder, gateway_with, until};

/// A route to this path of a service.
fn route(service: &Service, pattern: &str, path: &str) -> RouteSettings {
    let url = format!("http://{}{path}", service.address);
    RouteSettings {
        pattern: pattern.into(),
        http: Some(HttpSettings { url, ..HttpSettings::default() }),
        ..RouteSettings::default()
    }
}

fn gateway_of(routes: impl Into<Vec<RouteSettings>>) -> Gateway {
    gateway_with(|config| config.app.route = routes.into())
}

fn with_http(mut route: RouteSettings, change: impl FnOnce(&mut HttpSettings)) -> RouteSettings {
    change(route.http.as_mut().expect("a service"));
    route
}

async fn errors(gateway: &Gateway) -> Client {
    let mut client = Client::connect_with(gateway, "1.2", "login:ada").await;
    client.subscribe("id:e\ndestination:/user/queue/errors").await;
    client
}

/// Sends to `/app/x`, and gives back the status and the reason that the sender is told.
async fn failure(client: &mut Client) -> (String, String) {
    let receipt = client.asks("SEND\ndestination:/app/x\n\nbody").await;
    let told = client.expect("MESSAGE").await.with("subscription", "e");
    let status = told.get("status");
    client.expect("RECEIPT").await.with("receipt-id", &receipt).with("status", &status);
    (status, told.body())
}

#[tokio::test]
async fn a_service_is_called_with_what_the_gateway_knows_and_its_result_is_published() {
    let service = Service::start([answer_with("200 OK", "content-type: application/json\r\n", "{\"ok\":1}")]).await;
    let gateway = gateway_of([route(&service, "/app/orders/{id}", "/orders/{id}?by={user}")]);
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:0\ndestination:/topic/orders/*").await;
    let mut client = Client::connect_with(&gateway, "1.2", "login:a da").await;
    let headers = "content-type:text/x\ncorrelation-id:7\nhost:evil\nauthorization:x\nother:y\ntraceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\ntracestate:a=1";
    client.does(&format!("SEND\ndestination:/app/orders.7%2E1\n{headers}\n\nbody")).await.without("status");
    let message = reader.expect("MESSAGE").await.with("destination", "/topic/orders/7%2E1").saying("{\"ok\":1}");
    message.with("content-type", "application/json").with("correlation-id", "7").with("stompgate-user", "a da");

    let call = service.last();
    assert_eq!((call.line(), call.body.as_str()), ("POST /orders/7%2E1?by=a%20da HTTP/1.1", "body"));
    for (name, value) in [
        ("host", service.address.to_string().as_str()),
        ("content-type", "text/x"),
        ("correlation-id", "7"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "a=1"),
        ("stompgate-event", "send"),
        ("stompgate-user", "a%20da"),
        ("stompgate-session", client.session.as_str()),
        ("stompgate-destination", "/app/orders/7%2E1"),
    ] {
        assert_eq!(call.headers(name), [value], "{name}");
    }
    for name in ["authorization", "other", "stompgate-signature", "stompgate-claims"] {
        assert_eq!(call.headers(name), [""; 0], "{name}");
    }
}

#[tokio::test]
async fn a_client_cannot_forge_what_the_gateway_says() {
    let service = Service::start([answer("204 No Content", "")]).await;
    let gateway = gateway_of([route(&service, "/app/x", "/x")]);
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.does("SEND\ndestination:/app/x\nStompgate-User:root\nIdempotency-Key:1\ncontent-type:a\\nb:c\n\n").await;
    let call = service.last();
    assert_eq!(call.headers("stompgate-user"), ["ada"]);
    assert_eq!(call.headers("idempotency-key").len(), 1);
    assert_ne!(call.headers("idempotency-key"), ["1"]);
    assert_eq!((call.headers("content-type"), call.headers("b")), (vec![], vec![]));
    client.send("SEND\ndestination:/app/x\nstompgate-user:root\n\n").await;
    client.expect_error("forbidden-header", 1008).await;
}

#[tokio::test]
async fn a_service_gets_the_headers_that_the_route_sets_and_not_the_clients_own() {
    let service = Service::start([answer("204 No Content", "")]).await;
    let gateway = gateway_of([RouteSettings {
        set_headers: [
            ("X-Room".to_owned(), "room {id} of {user}".to_owned()),
            ("authorization".to_owned(), "Bearer abc".to_owned()),
        ]
        .into(),
        ..route(&service, "/app/rooms/{id}", "/x")
    }]);
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.does("SEND\ndestination:/app/rooms/a%0D%0Ab%25\nX-Room:forged\nx-room:forged\nother:1\n\n").await;
    let call = service.last();
    assert_eq!(call.headers("x-room"), ["room a%0D%0Ab%25 of ada"]);
    assert_eq!(call.headers("authorization"), ["Bearer abc"]);
    assert_eq!(call.headers("other"), Vec::<String>::new());
    client.subscribe("id:0\ndestination:/user/queue/errors").await;
    client.send("SUBSCRIBE\nid:1\ndestination:/app/rooms/7\nX-Room:forged").await;
    client.expect("MESSAGE").await.with("status", "404");
    assert_eq!(service.last().headers("x-room"), ["room 7 of ada"]);
}

#[tokio::test]
async fn without_a_result_nothing_is_published() {
    let service = Service::start([answer("204 No Content", "")]).await;
    let gateway = gateway_of([route(&service, "/app/x", "/x")]);
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/#").await;
    client.does("SEND\ndestination:/app/x\n\n").await.without("status").without("routed");
}

#[tokio::test]
async fn every_way_of_failing_is_told_and_the_session_goes_on() {
    let large = "x".repeat(2000);
    let service = Service::start([
        answer("422 Unprocessable Content", "no such item"),
        answer("500 Internal Server Error", "oops"),
        answer("503 Service Unavailable", ""),
        answer_with("302 Found", "location: http://127.0.0.1:1/\r\n", ""),
        answer("200 OK", &large),
        Answer::Last(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf".to_vec()),
        Answer::Last(b"rubbish\r\n\r\n".to_vec()),
        Answer::Last(Vec::new()),
        answer("404 Not Found", &large),
        Answer::Silence,
    ])
    .await;
    let settings = with_http(route(&service, "/app/x", "/x"), |http| {
        http.max_response = 1500;
        http.timeout = Duration::from_millis(300);
        http.breaker_failures = 0;
    });
    let gateway = gateway_of([settings]);
    let mut client = errors(&gateway).await;
    for (status, reason) in [
        ("422", "no such item"),
        ("502", "oops"),
        ("503", "503"),
        ("502", "redirect"),
        ("502", "larger than 1500 bytes"),
        ("502", "broke off"),
        ("502", "cannot be reached"),
        ("502", "cannot be reached"),
        ("404", "404"),
        ("504", "did not answer in time"),
    ] {
        let (found, text) = failure(&mut client).await;
        assert!(found == status && text.contains(reason), "{found} {text}: {status} {reason}");
    }
    drop(service);
    assert_eq!(failure(&mut client).await.0, "502");
}

#[tokio::test]
async fn a_service_that_fails_is_called_again_with_the_same_key_if_the_route_says_so() {
    let service = Service::start([
        answer("500 Internal Server Error", ""),
        answer("500 Internal Server Error", ""),
        answer("200 OK", "third time"),
        answer("422 Unprocessable Content", "never again"),
    ])
    .await;
    let settings = with_http(route(&service, "/app/x", "/x"), |http| {
        http.retries = 2;
        http.backoff = Duration::from_millis(1);
    });
    let gateway = gateway_of([settings]);
    let mut client = errors(&gateway).await;
    client.subscribe("id:0\ndestination:/topic/x").await;
    client.send("SEND\ndestination:/app/x\n\nbody").await;
    client.expect("MESSAGE").await.saying("third time");
    let keys: Vec<_> = service.calls().iter().flat_map(|call| call.headers("idempotency-key")).collect();
    assert!(keys.len() == 3 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    assert_eq!(failure(&mut client).await, ("422".into(), "never again".into()));
    assert_eq!(service.calls().len(), 4, "what is wrong stays wrong");
}

#[tokio::test]
async fn a_service_that_fails_too_often_is_left_alone() {
    let service = Service::start([answer("500 Internal Server Error", "")]).await;
    let settings = with_http(route(&service, "/app/x", "/x"), |http| {
        http.breaker_failures = 2;
        http.breaker_pause = Duration::from_hours(1);
    });
    let gateway = gateway_of([settings]);
    let mut client = errors(&gateway).await;
    for expected in ["502", "502", "503", "503"] {
        assert_eq!(failure(&mut client).await.0, expected);
    }
    assert_eq!(service.calls().len(), 2);
}

#[tokio::test]
async fn a_subscription_asks_the_service() {
    let service = Service::start([answer("200 OK", "items"), answer("204 No Content", "")]).await;
    let gateway = gateway_of([route(&service, "/app/items/{shop}", "/items/{shop}")]);
    let mut client = errors(&gateway).await;
    client.send("SUBSCRIBE\nid:a\ndestination:/app/items/7").await;
    client.expect("MESSAGE").await.with("subscription", "a").saying("items");
    assert_eq!(service.last().headers("stompgate-event"), ["subscribe"]);
    client.send("SUBSCRIBE\nid:b\ndestination:/app/items/8").await;
    client.expect("MESSAGE").await.with("subscription", "e").with("status", "404");
}

#[tokio::test]
async fn calls_are_signed_with_the_secret() {
    let service = Service::start([answer("204 No Content", "")]).await;
    let settings = with_http(route(&service, "/app/x", "/x?y=1"), |http| http.secret = Some("0123456789abcdef".into()));
    let gateway = gateway_of([settings]);
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.does("SEND\ndestination:/app/x\n\nbody").await;
    let call = service.last();
    let signature = call.headers("stompgate-signature").concat();
    let (seconds, found) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    let key = call.headers("idempotency-key").concat();
    let session = &client.session;
    let signed = format!("{seconds}\nPOST\n/x?y=1\nsend\nada\n{session}\n\n/app/x\n{key}\nbody");
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"0123456789abcdef");
    let expected = ring::hmac::sign(&key, signed.as_bytes());
    let hexadecimal: Vec<_> = expected.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(found, hexadecimal.concat());
}

#[tokio::test]
async fn a_value_that_could_lead_elsewhere_reaches_no_service() {
    let service = Service::start([answer("200 OK", "x")]).await;
    let gateway = gateway_of([route(&service, "/app/files/{name}", "/files/{name}")]);
    let mut client = Client::connect(&gateway, "1.2").await;
    for name in ["%2E%2E", "%2E", "..%2F..%2Fetc", "a%5Cb"] {
        client
            .does(&format!("SEND\ndestination:/app/files/{}\n\n", name.replace('.', "%2E")))
            .await
            .with("status", "400");
    }
    assert_eq!(service.calls().len(), 0);
}

#[tokio::test]
async fn the_first_route_that_matches_counts_and_steps_come_before_the_service() {
    let service = Service::start([answer("200 OK", "x")]).await;
    let schema = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("order-{}.json", std::process::id()));
    let text = r#"{"type":"object","required":["count"],"properties":{"count":{"type":"integer","minimum":1}}}"#;
    std::fs::write(&schema, text).unwrap();
    let gateway = gateway_of([
        RouteSettings { users: vec!["{owner}".into()], ..route(&service, "/app/boxes/{owner}", "/boxes") },
        RouteSettings { validate: Some(schema), ..route(&service, "/app/orders", "/orders") },
        RouteSettings {
            rate_limit: Some(RateLimit { per_second: 1, burst: 1, ..RateLimit::default() }),
            order: Order::Concurrent,
            ..route(&service, "/app/often", "/often")
        },
        RouteSettings { on_error: OnError::Error, users: vec!["nobody".into()], ..route(&service, "/app/*", "/other") },
    ]);
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.does("SEND\ndestination:/app/boxes/bob\n\n").await.with("status", "403");
    client.does("SEND\ndestination:/app/boxes/%61da\n\n").await.without("status");
    client.subscribe("id:e\ndestination:/user/queue/errors").await;
    for (body, reason) in [("no", "no JSON"), ("{}", "count"), ("{\"count\":0}", "/count")] {
        client.send(format!("SEND\ndestination:/app/orders\n\n{body}")).await;
        client.expect("MESSAGE").await.with("status", "422").about(reason);
    }
    client.does("SEND\ndestination:/app/orders\n\n{\"count\":1}").await.without("status");
    client.does("UNSUBSCRIBE\nid:e").await;
    client.does("SEND\ndestination:/app/often\n\n").await.without("status");
    client.does("SEND\ndestination:/app/often\n\n").await.with("status", "429");
    let lines: Vec<_> = service.calls().iter().map(|call| call.line().to_owned()).collect();
    assert_eq!(lines, ["POST /boxes HTTP/1.1", "POST /orders HTTP/1.1", "POST /often HTTP/1.1"]);
    client.send("SEND\ndestination:/app/else\n\n").await;
    client.expect_error("handler-failed", 1008).await.about("403");
}

#[tokio::test]
async fn without_a_service_the_message_itself_goes_on() {
    let gateway = gateway_of([RouteSettings {
        pattern: "/app/chat/{room}".into(),
        set_headers: [("room".to_owned(), "{room} of {user}".to_owned())].into(),
        send_to: Some("/topic/rooms/{room}".into()),
        ..RouteSettings::default()
    }]);
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.subscribe("id:0\ndestination:/topic/rooms/#").await;
    client.send("SEND\ndestination:/app/chat/a%2Fb\nroom:forged\nown:1\n\nhello").await;
    let message = client.expect("MESSAGE").await.with("destination", "/topic/rooms/a%2Fb").saying("hello");
    message.with("room", "a/b of ada").with("own", "1").with("stompgate-user", "ada");
}

#[tokio::test]
async fn a_thousand_sessions_wait_for_a_slow_handler_while_heart_beats_and_deliveries_go_on() {
    const SESSIONS: u32 = 1000;
    let gate = gate();
    let gateway =
        builder(|config| config.app.timeout = Duration::from_secs(29)).route(gated("/app/slow", &gate)).start();
    let gateway = gateway.expect("a gateway that starts");
    let mut clients = Vec::new();
    for _ in 0..SESSIONS {
        let mut client = Client::connect_with(&gateway, "1.2", "heart-beat:0,1000").await;
        client.subscribe("id:0\ndestination:/topic/news").await;
        clients.push(client);
    }
    for client in &mut clients {
        client.send("SEND\ndestination:/app/slow\nreceipt:slow\n\n").await;
    }
    gate.waiting.acquire_many(SESSIONS).await.expect("handlers").forget();
    let mut publisher = Client::connect(&gateway, "1.2").await;
    publisher.does("SEND\ndestination:/topic/news\n\nnews").await;
    for client in &mut clients {
        client.expect("MESSAGE").await.saying("news");
    }
    // Between two of them is a second: the handlers take longer than that.
    for client in &mut clients {
        client.expect_heartbeat().await;
        client.expect_heartbeat().await;
    }
    gate.open.add_permits(SESSIONS as usize);
    for client in &mut clients {
        client.expect("RECEIPT").await.with("receipt-id", "slow").with("routed", "false");
    }
}

#[test]
fn routes_that_make_no_sense_are_named() {
    let http = |url: &str| Some(HttpSettings { url: url.into(), ..HttpSettings::default() });
    let named = |pattern: &str| RouteSettings { pattern: pattern.into(), ..RouteSettings::default() };
    let mut config = Config::default();
    config.app.route = vec![
        named("/topic/x"),
        RouteSettings { http: http("ftp://x"), ..named("/app/a") },
        RouteSettings { send_to: Some("/topic/{b}".into()), ..named("/app/{a}/b") },
        named("/app/x/#"),
        named("/app/x/{y}"),
        RouteSettings { broadcast: false, ..named("/app/b") },
        RouteSettings { validate: Some("/nowhere.json".into()), ..named("/app/c") },
        RouteSettings { users: vec!["{user}".into()], ..named("/app/d") },
        RouteSettings { set_headers: [("destination".into(), "x".into())].into(), ..named("/app/e") },
        RouteSettings { rate_limit: Some(RateLimit { per_second: 0, ..RateLimit::default() }), ..named("/app/f") },
        RouteSettings { set_headers: [("Host".into(), "x".into())].into(), http: http("http://x/"), ..named("/app/g") },
        RouteSettings { set_headers: [("a".into(), "\n".into())].into(), http: http("http://x/"), ..named("/app/h") },
        RouteSettings { set_headers: [("Host".into(), "x\n".into())].into(), ..named("/app/i") },
        with_http(RouteSettings { http: http("http://x/"), ..named("/app/j") }, |http| {
            http.timeout = Duration::from_secs(11);
        }),
    ];
    let keys: Vec<_> = config.check().unwrap_err().into_iter().map(|fault| fault.key).collect();
    let expected = [
        "0.pattern",
        "1.http.url",
        "2.send_to",
        "5.broadcast",
        "6.validate",
        "7.users",
        "8.set_headers",
        "9.rate_limit",
        "10.set_headers",
        "11.set_headers",
        "4.pattern",
        "13.http.timeout",
    ];
    assert_eq!(keys, expected.map(|key| format!("app.route.{key}")));
}

fn with_lifecycle(service: &Service) -> Gateway {
    gateway_with(|config| {
        let url = format!("http://{}/sessions/{{session}}", service.address);
        let http = HttpSettings { url, ..HttpSettings::default() };
        let on = vec![Moment::Connect, Moment::Disconnect, Moment::Subscribe, Moment::Unsubscribe];
        config.app.lifecycle = Some(LifecycleSettings { on, http });
    })
}

#[tokio::test]
async fn a_service_learns_who_comes_and_goes_and_what_they_read() {
    let service = Service::start([answer("204 No Content", "")]).await;
    let gateway = with_lifecycle(&service);
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.subscribe("id:a\ndestination:/topic/a.b").await;
    client.does("UNSUBSCRIBE\nid:a").await;
    client.subscribe("id:b\ndestination:/queue/q").await;
    let session = client.session.clone();
    client.vanish();
    until("the session to end", || gateway.connections() == 0).await;
    let calls: Vec<serde_json::Value> =
        service.calls().iter().map(|call| serde_json::from_str(&call.body).unwrap()).collect();
    assert!(calls.iter().all(|call| call["user"] == "ada" && call["session"] == *session));
    let told: Vec<_> =
        calls.iter().map(|call| (call["event"].as_str().unwrap(), call["destination"].as_str())).collect();
    let expected = [
        ("connect", None),
        ("subscribe", Some("/topic/a/b")),
        ("unsubscribe", Some("/topic/a/b")),
        ("subscribe", Some("/queue/q")),
        ("disconnect", None),
    ];
    assert_eq!(told, expected);
    assert_eq!(calls[4]["cause"], "lost");
    assert_eq!(service.last().line(), format!("POST /sessions/{session} HTTP/1.1"));
}

#[tokio::test]
async fn a_service_names_and_refuses_clients_and_who_was_refused_never_went() {
    let service = Service::start([
        answer("200 OK", "{\"user\":\"Ada Lovelace\"}"),
        answer("403 Forbidden", ""),
        answer("500 Internal Server Error", ""),
        answer("204 No Content", ""),
    ])
    .await;
    let gateway = with_lifecycle(&service);
    let mut ada = Client::open(&gateway).await;
    ada.login("1.2", "login:ada").await.with("user-name", "Ada Lovelace");
    for (code, close) in [("not-authenticated", 4401), ("handler-failed", 1008)] {
        let mut client = Client::open(&gateway).await;
        client.send("CONNECT\naccept-version:1.2\nlogin:eve").await;
        client.expect_error(code, close).await;
    }
    until("the refused ones to go", || gateway.connections() == 1).await;
    ada.disconnect().await;
    until("the session to end", || gateway.connections() == 0).await;
    let events: Vec<_> = service.calls().iter().map(|call| call.headers("stompgate-event").concat()).collect();
    assert_eq!(events, ["connect", "connect", "connect", "disconnect"]);
    assert!(service.last().body.contains("\"cause\":\"disconnect\""));
}

#[tokio::test]
async fn the_claims_that_a_service_gives_reach_rules_variables_and_services() {
    let service = Service::start([
        answer("200 OK", r#"{"claims":{"roles":["trader","reader"],"tenant":"ac/me","city":"Köln"}}"#),
        answer("200 OK", "done"),
    ])
    .await;
    let orders = route(&service, "/app/orders", "/tenants/x?of={claim.roles}");
    let gateway = gateway_with(|config| {
        let url = format!("http://{}/", service.address);
        let http = HttpSettings { url, ..HttpSettings::default() };
        config.app.lifecycle = Some(LifecycleSettings { on: vec![Moment::Connect], http });
        config.app.route = vec![
            RouteSettings {
                send_to: Some("/topic/{claim.tenant}/orders".into()),
                set_headers: [("of".to_owned(), "{claim.city}".to_owned())].into(),
                ..orders
            },
            RouteSettings { send_to: Some("/topic/{claim.none}".into()), ..route(&service, "/app/none", "/") },
        ];
        let destinations = vec!["/topic/{claim.tenant}/#".into(), "/app/#".into()];
        config.access.rule =
            vec![RuleSettings { destinations, roles: vec!["trader".into()], ..RuleSettings::default() }];
    });
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.subscribe("id:0\ndestination:/topic/ac%2Fme/#").await;
    client.send("SEND\ndestination:/app/orders\n\nx").await;
    client.expect("MESSAGE").await.with("destination", "/topic/ac%2Fme/orders").saying("done");
    let call = service.last();
    assert_eq!(call.headers("of"), ["K%C3%B6ln"], "set by the route");
    assert_eq!(call.line(), "POST /tenants/x?of=trader%2Creader HTTP/1.1");
    let claims = r#"{"city":["K\u00f6ln"],"roles":["trader","reader"],"tenant":["ac/me"]}"#;
    assert_eq!(call.headers("stompgate-claims"), [claims]);
    assert_eq!(call.headers("traceparent").concat().len(), 55, "made, since the client had none");
    client.does("SEND\ndestination:/app/none\n\nx").await.with("status", "403");
    client.send("SUBSCRIBE\nid:1\ndestination:/topic/other/x").await;
    client.expect_error("access-refused", 4403).await;
}

#[tokio::test]
async fn a_service_refuses_subscriptions() {
    let service = Service::start([answer("204 No Content", ""), answer("403 Forbidden", "not for you")]).await;
    let gateway = with_lifecycle(&service);
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:a\ndestination:/topic/secret\nreceipt:r").await;
    client.expect_error("handler-failed", 1008).await.with("receipt-id", "r").about("not for you");
}

/// A program that ends with the test.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn the_service_of_the_readme_answers_as_the_readme_says() {
    let readme = include_str!("../../README.md");
    let code = readme.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a service");
    let route = readme.split("# stompgate.toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a route");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    assert!(code.contains("3000") && route.contains("3000"));
    let mut python = std::process::Command::new("python3");
    python.arg("-c").arg(code.replace("3000", &port)).stderr(std::process::Stdio::null());
    let _service = Program(python.spawn().expect("python3"));
    until("the service to listen", || std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()).await;

    let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("readme-{port}.toml"));
    std::fs::write(&file, route.replace("3000", &port)).unwrap();
    let sources = stompgate::config::Sources { file: Some(file), ..stompgate::config::Sources::default() };
    let app = Config::load(&sources).unwrap().config.app;
    let gateway = gateway_with(|config| config.app = app);
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.subscribe("id:0\ndestination:/topic/greeting").await;
    for body in ["World", "again"] {
        client.send(format!("SEND\ndestination:/app/greeting\n\n{body}")).await;
        client.expect("MESSAGE").await.saying(format!("Hello {body} from ada!"));
    }
}
