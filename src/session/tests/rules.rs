//! Rules of who may do what: every way into a resource is judged (contract, §10).

use super::*;
use crate::access::{Action as Access, Effect, ForeignReply, Naming, RuleSettings, Settings as Rulebook};

fn rules(rule: impl Into<Vec<RuleSettings>>) -> Arc<Rules> {
    let naming =
        Naming { topic_exchange: Some("amq.topic".into()), foreign_reply: ForeignReply::Queue, ..Naming::default() };
    Arc::new(Rulebook { default: None, rule: rule.into() }.rules(&naming).unwrap())
}

fn allow(actions: &[Access], destinations: &[&str]) -> RuleSettings {
    let destinations = destinations.iter().map(|text| (*text).to_owned()).collect();
    RuleSettings { actions: actions.to_vec(), destinations, ..RuleSettings::default() }
}

const BOTH: &[Access] = &[Access::Send, Access::Subscribe];

/// A session that these rules hold for.
fn under(rules: &Arc<Rules>) -> Script {
    let mut script = Script::connected("1.2");
    assert!(script.input(Input::Rules(Arc::clone(rules))).is_empty());
    script
}

#[track_caller]
fn refused(actions: &[Action]) {
    let [Action::Send(error), Action::Close(code, _)] = actions else { panic!("{actions:?}") };
    assert_eq!(
        (error.headers.get("code").map(|code| &**code), *code),
        (Some("access-refused"), CloseCode::NOT_AUTHORISED)
    );
}

#[test]
fn no_way_into_a_secret_queue_is_open() {
    let rules = rules([
        RuleSettings { effect: Effect::Deny, ..allow(BOTH, &["/queue/secret", "/topic/secret/#", "/app/shop/secret"]) },
        allow(BOTH, &["/#"]),
    ]);
    for frame in [
        "SEND\ndestination:/queue/secret",
        "SEND\ndestination:/amq/queue/secret",
        "SEND\ndestination:/reply-queue/secret",
        "SEND\ndestination:/queue/open\nreply-to:/queue/secret",
        "SEND\ndestination:/queue/open\nreply-to:secret",
        "SEND\ndestination:/queue/open\nx-dead-letter-exchange:\nx-dead-letter-routing-key:secret",
        "SEND\ndestination:/exchange/amq.topic/secret.a",
        "SEND\ndestination:/app/shop/secret",
        "SUBSCRIBE\nid:0\ndestination:/queue/secret",
        "SUBSCRIBE\nid:0\ndestination:/amq/queue/s%65cret",
        "SUBSCRIBE\nid:0\ndestination:/topic/a\nx-queue-name:secret",
        "SUBSCRIBE\nid:0\ndestination:/exchange/e/a\nx-queue-name:secret",
        "SUBSCRIBE\nid:0\ndestination:/topic/#",
        "SUBSCRIBE\nid:0\ndestination:/topic/*/x\nack:client",
        "SUBSCRIBE\nid:0\ndestination:/topic/secret.x\ndurable:true",
        "SUBSCRIBE\nid:0\ndestination:/exchange/amq.topic/#",
        "SUBSCRIBE\nid:0\ndestination:/app/shop/secret",
        "SUBSCRIBE\nid:0\ndestination:/topic/a\nx-snapshot:/app/shop/secret",
    ] {
        let mut script = under(&rules);
        refused(&script.client(&format!("{frame}\n\n")));
    }
    for frame in [
        "SEND\ndestination:/queue/open\nreply-to:/queue/other",
        "SEND\ndestination:/reply-queue/stompgate.reply.x",
        "SUBSCRIBE\nid:0\ndestination:/topic/a\nx-queue-name:open",
        "SUBSCRIBE\nid:0\ndestination:/temp-queue/x",
    ] {
        under(&rules).asks(&format!("{frame}\n\n"));
    }
}

#[test]
fn in_a_transaction_a_send_is_refused_when_it_arrives() {
    let mut script = under(&rules([allow(BOTH, &["/topic/a"])]));
    script.client("BEGIN\ntransaction:t\n\n");
    assert!(script.client("SEND\ndestination:/topic/a\ntransaction:t\n\n").is_empty());
    refused(&script.client("SEND\ndestination:/topic/b\ntransaction:t\n\n"));
}

#[test]
fn a_will_is_refused_at_connect() {
    let mut script = Script::new();
    script.input(Input::Rules(rules([allow(BOTH, &["/topic/a"])])));
    let actions = script.client("CONNECT\naccept-version:1.2\nwill-destination:/topic/b\n\n");
    let [Action::Authenticate(ticket, _)] = &actions[..] else { panic!("{actions:?}") };
    let done = Done::Authenticated(Principal::new("ada"), EVERYTHING);
    refused(&script.input(Input::Done(*ticket, Ok(done))));
}

#[test]
fn what_is_open_is_held_against_new_rules() {
    let narrow = rules([allow(&[Access::Subscribe], &["/topic/a", "/user/{user}/#"])]);
    for frame in ["id:0\ndestination:/topic/a", "id:0\ndestination:/user/queue/x"] {
        let mut script = Script::connected("1.2");
        script.subscribe(frame);
        assert!(script.input(Input::Rules(Arc::clone(&narrow))).is_empty());
    }
    for frame in [
        "id:0\ndestination:/topic/b",
        "id:0\ndestination:/topic/#",
        "id:0\ndestination:/queue/q\nack:client",
        "id:0\ndestination:/topic/a\nx-queue-name:q",
    ] {
        let mut script = Script::connected("1.2");
        script.subscribe(frame);
        refused(&script.input(Input::Rules(Arc::clone(&narrow))));
        assert!(script.session.is_ended());
    }
    let sends = rules([allow(&[Access::Send], &["/topic/a", "/queue/a", "/queue/dead"])]);
    for (headers, is_allowed) in [
        ("destination:/topic/a", true),
        ("destination:/topic/b", false),
        ("destination:/topic/a\nreply-to:/queue/dead", true),
        ("destination:/topic/a\nreply-to:/queue/other", false),
        ("destination:/queue/a\nx-dead-letter-exchange:\nx-dead-letter-routing-key:dead", true),
        ("destination:/queue/a\nx-dead-letter-exchange:\nx-dead-letter-routing-key:other", false),
    ] {
        let mut script = Script::connected("1.2");
        script.client("BEGIN\ntransaction:t\n\n");
        assert!(script.client(&format!("SEND\n{headers}\ntransaction:t\n\n")).is_empty(), "{headers}");
        let actions = script.input(Input::Rules(Arc::clone(&sends)));
        if is_allowed {
            assert!(actions.is_empty(), "{headers}");
        } else {
            refused(&actions);
        }
    }
    let mut script = Script::connected("1.2");
    script.subscribe("id:0\ndestination:/topic/b");
    let (ticket, _) = script.asks("UNSUBSCRIBE\nid:0\n\n");
    script.done(ticket);
    assert!(script.input(Input::Rules(narrow)).is_empty(), "it is not open any more");
}

#[test]
fn a_will_that_may_not_be_sent_any_more_is_not_sent() {
    let mut script = Script::new();
    script.connect("CONNECT\naccept-version:1.2\nwill-destination:/topic/b\n\n");
    refused(&script.input(Input::Rules(rules([allow(BOTH, &["/topic/a"])]))));
}
