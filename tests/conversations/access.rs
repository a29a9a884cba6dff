//! Rules of who may send and subscribe where (contract, §10), with a whole gateway.

use stompgate::access::{Action, Effect, RuleSettings};
use stompgate::chain::RouteSettings;
use stompgate::config::Config;

use crate::support::{Client, Gateway, gateway_with};

fn rule(effect: Effect, actions: &[Action], destinations: &[&str]) -> RuleSettings {
    let destinations = destinations.iter().map(|text| (*text).to_owned()).collect();
    RuleSettings { effect, actions: actions.to_vec(), destinations, ..RuleSettings::default() }
}

const BOTH: &[Action] = &[Action::Send, Action::Subscribe];

fn with_rules(rules: impl Into<Vec<RuleSettings>>) -> Gateway {
    gateway_with(|config| config.access.rule = rules.into())
}

/// Each user reads its own, and `/topic/public`, and sends to everybody's chat.
fn chat() -> Gateway {
    with_rules([
        rule(Effect::Deny, &[Action::Send], &["/topic/public/notices"]),
        rule(Effect::Allow, BOTH, &["/topic/public/#", "/user/{user}/#", "/queue/of-{user}"]),
        rule(Effect::Allow, &[Action::Send], &["/user/*/queue/chat"]),
    ])
}

async fn ada(gateway: &Gateway) -> Client {
    Client::connect_with(gateway, "1.2", "login:ada").await
}

#[tokio::test]
async fn what_the_rules_allow_works() {
    let gateway = chat();
    let mut bob = Client::connect_with(&gateway, "1.2", "login:bob").await;
    bob.subscribe("id:0\ndestination:/user/queue/chat").await;
    let mut ada = ada(&gateway).await;
    ada.subscribe("id:0\ndestination:/topic/public/#").await;
    ada.does("SEND\ndestination:/user/bob/queue/chat\n\nhello").await.without("routed");
    bob.expect("MESSAGE").await.saying("hello");
    ada.does("SEND\ndestination:/queue/of-ada\n\nx").await;
    ada.subscribe("id:1\ndestination:/queue/of-ada\nack:client").await;
    ada.expect("MESSAGE").await.saying("x");
}

#[tokio::test]
async fn what_they_do_not_allow_ends_the_session_with_access_refused() {
    let gateway = chat();
    for (frame, about) in [
        ("SEND\ndestination:/topic/public.notices", "access.rule.0"),
        ("SEND\ndestination:/queue/of-bob", "no access.rule"),
        ("SEND\ndestination:/user/bob/queue/other", "/user/bob/queue/other"),
        ("SUBSCRIBE\nid:0\ndestination:/topic/#", "no access.rule"),
        ("SUBSCRIBE\nid:0\ndestination:/queue/%6ff-bob", "/queue/of-bob"),
        ("SEND\ndestination:/topic/public/x\nreply-to:/queue/of-bob", "reply-to"),
        ("SEND\ndestination:/nowhere/x", ""),
    ] {
        let mut client = ada(&gateway).await;
        let receipt = client.asks(&format!("{frame}\n\n")).await;
        let (code, close) = if about.is_empty() { ("unknown-destination", 1008) } else { ("access-refused", 4403) };
        client.expect_error(code, close).await.with("receipt-id", &receipt).about(about);
    }
    let mut client = Client::open(&gateway).await;
    client.send("CONNECT\naccept-version:1.2\nlogin:ada\nwill-destination:/queue/of-bob").await;
    client.expect_error("access-refused", 4403).await.with("message", "Access refused for user 'ada'");
}

#[tokio::test]
async fn an_answer_needs_no_rule() {
    let gateway = with_rules([
        RuleSettings { users: vec!["ada".into()], ..rule(Effect::Allow, &[Action::Send], &["/queue/sums"]) },
        RuleSettings { users: vec!["service".into()], ..rule(Effect::Allow, &[Action::Subscribe], &["/queue/sums"]) },
    ]);
    let mut service = Client::connect_with(&gateway, "1.2", "login:service").await;
    service.subscribe("id:0\ndestination:/queue/sums").await;
    let mut ada = ada(&gateway).await;
    ada.send("SEND\ndestination:/queue/sums\nreply-to:/temp-queue/r\n\n1+1").await;
    let address = service.expect("MESSAGE").await.get("reply-to");
    service.does(&format!("SEND\ndestination:{address}\n\n2")).await.without("routed");
    ada.expect("MESSAGE").await.with("subscription", "/temp-queue/r").saying("2");
}

#[test]
fn a_route_that_the_rules_leave_to_nobody_is_a_mistake() {
    let route = |pattern: &str| RouteSettings { pattern: pattern.into(), ..RouteSettings::default() };
    let mut config = Config::default();
    config.app.route = vec![route("/app/orders/{id}"), route("/app/old/#"), route("/app/news")];
    config.access.rule = vec![
        rule(Effect::Deny, BOTH, &["/app/old/#"]),
        rule(Effect::Allow, &[Action::Subscribe], &["/app/orders/#"]),
        rule(Effect::Allow, &[Action::Send], &["/app/old/x"]),
    ];
    let faults = config.check().unwrap_err();
    let faults: Vec<_> = faults.into_iter().map(|fault| format!("{} {}", fault.key, fault.why)).collect();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].starts_with("access.rule.2.destinations never counts"), "{faults:?}");
    config.access.rule.pop();
    let faults: Vec<_> = config.check().unwrap_err().into_iter().map(|fault| (fault.key, fault.why)).collect();
    let [(old, why), (other, none)] = &faults[..] else { panic!("{faults:?}") };
    assert_eq!((old.as_str(), other.as_str()), ("app.route.1.pattern", "app.route.2.pattern"));
    assert!(why.contains("access.rule.0") && none.contains("no access.rule"), "{faults:?}");
}
