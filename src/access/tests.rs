use proptest::prelude::*;

use super::*;
use crate::message::{Claims, Usage};
use crate::settings::Fault;

fn naming() -> Naming {
    Naming {
        separators: Separators::Both,
        topic_exchange: Some("amq.topic".into()),
        foreign_reply: ForeignReply::Queue,
    }
}

fn rule(effect: Effect, destinations: &[&str]) -> RuleSettings {
    let destinations = destinations.iter().map(|text| (*text).to_owned()).collect();
    RuleSettings { effect, destinations, ..RuleSettings::default() }
}

fn allow(destinations: &[&str]) -> RuleSettings {
    rule(Effect::Allow, destinations)
}

fn deny(destinations: &[&str]) -> RuleSettings {
    rule(Effect::Deny, destinations)
}

fn rules(rule: impl Into<Vec<RuleSettings>>) -> Rules {
    Settings { default: None, rule: rule.into() }.rules(&naming()).unwrap()
}

fn faults(rule: impl Into<Vec<RuleSettings>>) -> Vec<String> {
    let faults = Settings { default: None, rule: rule.into() }.rules(&naming()).err().into_iter().flatten();
    faults.map(|Fault { key, why }| format!("{key} {why}")).collect()
}

fn ada() -> Principal {
    let claims: Claims = [
        ("roles".into(), vec!["trader".into(), "reader".into()]),
        ("tenant".into(), vec!["acme".into()]),
        ("empty".into(), vec!["".into()]),
    ]
    .into_iter()
    .collect();
    Principal::new("ada").with(claims)
}

fn may_as(rules: &Rules, principal: &Principal, action: Action, spelling: &str) -> bool {
    let usage = if action == Action::Send { Usage::Send } else { Usage::Subscribe };
    let destination = Destination::parse(spelling, usage, Separators::Both).unwrap();
    let checked = rules.check(action, &destination, Subject { principal, session: "s-1" });
    assert!(checked.as_ref().err().is_none_or(|refusal| refusal.code == "access-refused"));
    checked.is_ok()
}

fn may_send(rules: &Rules, spelling: &str) -> bool {
    may_as(rules, &ada(), Action::Send, spelling)
}

fn may_read(rules: &Rules, spelling: &str) -> bool {
    may_as(rules, &ada(), Action::Subscribe, spelling)
}

#[test]
fn decisions_are_counted_and_rules_that_follow_count_on() {
    let first = rules([allow(&["/topic/a"])]);
    assert!(may_send(&first, "/topic/a") && !may_send(&first, "/topic/b"));
    let second = rules([deny(&["/topic/a"])]).counting(first.decisions().clone());
    assert!(!may_send(&second, "/topic/a"));
    assert_eq!(first.decisions().counts(), [("allowed", 1), ("refused", 2)]);
    let open = Rules::open();
    assert!(may_send(&open, "/topic/a"));
    assert_eq!(open.decisions().counts(), [("allowed", 0), ("refused", 0)]);
}

#[test]
fn without_rules_everybody_may_everything_and_with_one_only_what_it_says() {
    assert!(may_send(&Rules::open(), "/queue/x") && rules([]).is_open());
    let some = rules([allow(&["/topic/a"])]);
    assert!(may_send(&some, "/topic/a") && !may_send(&some, "/topic/b") && !may_read(&some, "/queue/a"));
    let open = Settings { default: Some(Effect::Allow), rule: vec![deny(&["/topic/a"])] }.rules(&naming()).unwrap();
    assert!(!may_send(&open, "/topic/a") && may_send(&open, "/topic/b"));
    let shut = Settings { default: Some(Effect::Deny), rule: vec![] }.rules(&naming()).unwrap();
    assert!(!may_send(&shut, "/topic/a") && !shut.is_open());
}

#[test]
fn the_first_rule_that_is_about_it_counts() {
    let some = rules([allow(&["/topic/a/b"]), deny(&["/topic/a/#"]), allow(&["/topic/#"])]);
    assert!(may_read(&some, "/topic/a/b") && !may_read(&some, "/topic/a/c") && may_read(&some, "/topic/b"));
    let refusal = some.check(
        Action::Send,
        &Destination::Topic(crate::message::Pattern::canonical("a/c")),
        Subject { principal: &ada(), session: "s" },
    );
    assert!(refusal.unwrap_err().detail.contains("SEND to /topic/a/c: access.rule.1 denies it"));
}

#[test]
fn a_subscription_with_wildcards_is_judged_by_what_it_covers() {
    let some = rules([deny(&["/topic/a/secret"]), allow(&["/topic/a/#", "/topic/b/*"])]);
    for may in ["/topic/a/b", "/topic/a/b/#", "/topic/a/+/x", "/topic/b/*", "/topic/b/x*"] {
        assert!(may_read(&some, may), "{may}");
    }
    for may_not in ["/topic/#", "/topic/a/#", "/topic/a/*", "/topic/a/s*", "/topic/*/secret", "/topic/b/#", "/topic/+"]
    {
        assert!(!may_read(&some, may_not), "{may_not}");
    }
}

#[test]
fn a_resource_is_judged_whatever_its_spelling() {
    let some = rules([deny(&["/queue/secret", "/topic/a.b"]), allow(&["/#"])]);
    for spelling in ["/queue/secret", "/queue/se%63ret", "/amq/queue/secret", "/amq/queue/%73ecret"] {
        assert!(!may_read(&some, spelling) && !may_send(&some, spelling), "{spelling}");
    }
    for spelling in ["/topic/a/b", "/topic/a.b", "/topic/%61.b", "/exchange/amq.topic/a.b", "/exchange/amq%2Etopic/a.b"]
    {
        assert!(!may_read(&some, spelling) && !may_send(&some, spelling), "{spelling}");
    }
    for spelling in ["/exchange/amq.topic/#", "/exchange/amq.topic/a.*", "/exchange/amq.topic", "/topic/*/b"] {
        assert!(!may_read(&some, spelling), "{spelling}");
    }
    assert!(may_read(&some, "/exchange/amq.direct/a.b") && may_send(&some, "/topic/a%2Eb"));
    assert!(!may_send(&some, "/reply-queue/secret") && may_send(&some, "/reply-queue/other"));
    assert!(may_send(&rules([allow(&["/queue/x"])]), "/reply-queue/stompgate.reply.xyz"));
}

#[test]
fn a_queue_is_one_name_in_which_a_star_is_any_run_of_characters() {
    let some = rules([allow(&["/queue/orders.*", "/amq/queue/a-*-b"])]);
    for may in ["/queue/orders.x", "/queue/orders.x/y", "/amq/queue/orders.", "/queue/a-1-b"] {
        assert!(may_read(&some, may), "{may}");
    }
    assert!(!may_read(&some, "/queue/orders") && !may_read(&some, "/queue/xorders.y"));
    assert!(may_send(&rules([allow(&["/queue/#"])]), "/queue/$x/y.z"));
}

#[test]
fn a_wildcard_that_denies_takes_the_brokers_own_topics_and_one_that_allows_does_not() {
    let some = rules([allow(&["/topic/#"])]);
    assert!(may_read(&some, "/topic/#") && !may_read(&some, "/topic/$SYS/uptime"));
    assert!(may_read(&rules([allow(&["/topic/$SYS/#"])]), "/topic/$SYS/uptime"));
    let closed = Settings { default: Some(Effect::Allow), rule: vec![deny(&["/topic/#"])] }.rules(&naming()).unwrap();
    assert!(!may_read(&closed, "/topic/$SYS/uptime"));
}

#[test]
fn an_exchange_without_a_key_is_all_of_it() {
    let some = rules([allow(&["/exchange/logs/public.#", "/exchange/news"])]);
    assert!(may_read(&some, "/exchange/logs/public.*") && may_send(&some, "/exchange/logs/public.a"));
    assert!(!may_read(&some, "/exchange/logs") && !may_read(&some, "/exchange/logs/#"));
    assert!(
        may_read(&some, "/exchange/news") && may_read(&some, "/exchange/news/a.b") && may_send(&some, "/exchange/news")
    );
}

#[test]
fn users_have_their_own_destinations_by_rules_with_variables() {
    let some = rules([
        allow(&["/user/{user}/#", "/queue/inbox-{user}", "/topic/{claim.tenant}/#", "/topic/s/{session}"]),
        RuleSettings { actions: vec![Action::Send], ..allow(&["/user/*/queue/chat"]) },
        allow(&["/topic/roles/{claim.roles}", "/topic/x/{claim.empty}", "/topic/y/{claim.none}"]),
    ]);
    for may in ["/user/queue/x", "/user/topic/a/#", "/topic/acme/+/b", "/topic/s/s-1", "/queue/inbox-ada"] {
        assert!(may_read(&some, may), "{may}");
    }
    for may_not in ["/topic/other/b", "/topic/+/b", "/topic/s/s-2", "/queue/inbox-bob", "/topic/x/", "/topic/y/"] {
        assert!(!may_read(&some, may_not), "{may_not}");
    }
    assert!(may_read(&some, "/topic/roles/trader") && may_read(&some, "/topic/roles/reader"));
    assert!(may_send(&some, "/user/bob/queue/chat") && !may_send(&some, "/user/bob/queue/other"));
}

#[test]
fn the_value_of_a_variable_is_never_a_pattern() {
    let some = rules([allow(&["/topic/{user}/#", "/queue/{user}", "/user/{user}/#"])]);
    for name in ["*", "#", "a/b", "+", "a.b", "%2A", "**"] {
        let who = Principal::new(name);
        for may_not in ["/topic/#", "/topic/x/y", "/topic/a/b", "/topic/*/x", "/queue/x", "/queue/a"] {
            assert!(!may_as(&some, &who, Action::Subscribe, may_not), "{name} {may_not}");
        }
        assert!(may_as(&some, &who, Action::Subscribe, "/user/queue/x"), "{name}");
        assert!(!may_as(&some, &who, Action::Send, "/user/bob/queue/x"), "{name}");
    }
}

#[test]
fn rules_are_for_users_roles_and_claims() {
    let some = rules([
        RuleSettings { users: vec!["bob".into()], ..allow(&["/topic/bob"]) },
        RuleSettings { roles: vec!["admin".into(), "trader".into()], ..allow(&["/topic/trade"]) },
        RuleSettings { roles: vec!["admin".into()], ..allow(&["/topic/admin"]) },
        RuleSettings { claims: [("tenant".into(), "acme".into())].into(), ..allow(&["/topic/acme"]) },
        RuleSettings {
            users: vec!["ada".into()],
            claims: [("tenant".into(), "other".into())].into(),
            ..allow(&["/topic/both"])
        },
    ]);
    assert!(may_send(&some, "/topic/trade") && may_send(&some, "/topic/acme"));
    for may_not in ["/topic/bob", "/topic/admin", "/topic/both"] {
        assert!(!may_send(&some, may_not), "{may_not}");
    }
    assert!(!may_as(&some, &Principal::new("ada"), Action::Send, "/topic/trade"));
}

#[test]
fn nothing_that_a_frame_names_beside_its_destination_walks_round_the_rules() {
    let some = rules([
        allow(&["/topic/#", "/queue/mine", "/exchange/dead/ok"]),
        RuleSettings { actions: vec![Action::Subscribe], ..allow(&["/queue/read"]) },
    ]);
    let who = ada();
    let subject = Subject { principal: &who, session: "s" };
    for (reply_to, may) in [
        ("/queue/mine", true),
        ("mine", true),
        ("/queue/secret", false),
        ("secret", false),
        ("/queue/read", false),
        ("/reply-queue/stompgate.reply.x", true),
    ] {
        assert_eq!(some.check_reply_to(reply_to, subject).is_ok(), may, "{reply_to}");
    }
    for (arguments, may) in [
        (&[("x-queue-name", "mine")][..], true),
        (&[("x-queue-name", "secret")], false),
        (&[("x-queue-name", "read")], false),
        (&[("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", "mine")], true),
        (&[("x-dead-letter-exchange", ""), ("x-dead-letter-routing-key", "secret")], false),
        (&[("x-dead-letter-exchange", "")], false),
        (&[("x-dead-letter-exchange", "dead"), ("x-dead-letter-routing-key", "ok")], true),
        (&[("x-dead-letter-exchange", "dead")], false),
        (&[("x-dead-letter-exchange", "amq.topic")], true),
        (&[("x-max-length", "1")], true),
    ] {
        let headers: Headers = arguments.iter().copied().collect();
        assert_eq!(some.check_arguments(&headers, subject).is_ok(), may, "{arguments:?}");
    }
}

#[test]
fn on_mqtt_a_foreign_reply_address_is_a_topic_and_on_the_embedded_broker_it_is_nothing() {
    let settings = Settings { default: None, rule: vec![allow(&["/topic/a/#"])] };
    let with = |foreign_reply| settings.rules(&Naming { foreign_reply, ..Naming::default() }).unwrap();
    let topics = with(ForeignReply::Topic);
    assert!(may_send(&topics, "/reply-queue/a/b") && !may_send(&topics, "/reply-queue/b"));
    assert!(may_send(&with(ForeignReply::Nothing), "/reply-queue/b"));
}

#[test]
fn rules_that_make_no_sense_are_named() {
    for bad in [
        "topic/a",
        "/nowhere/x",
        "/topic/",
        "/topic/{who}",
        "/topic/{user",
        "/topic/user}",
        "/queue/{user}*",
        "/queue/{user}-{session}",
        "/user/queue/x",
        "/user/{user}",
        "/temp-queue/x",
        "/reply-queue/x",
        "/exchange/e/a*",
        "/amq/x",
        "/topic/stompgate.x",
        "/topic/%zz",
    ] {
        let found = faults([allow(&[bad])]);
        assert!(found.len() == 1 && found[0].starts_with("access.rule.0.destinations has "), "{bad} {found:?}");
    }
    assert_eq!(faults([RuleSettings { actions: vec![], ..allow(&["/#"]) }]).len(), 1);
    assert_eq!(faults([allow(&[])]).len(), 1);
}

#[test]
fn a_rule_that_never_counts_is_named_with_the_one_before_it() {
    let contrary = faults([allow(&["/topic/#"]), deny(&["/topic/a", "/queue/b"])]);
    assert!(
        contrary.len() == 1
            && contrary[0].contains("\"a\"")
            && contrary[0].contains("access.rule.0, before it, says the contrary"),
        "{contrary:?}"
    );
    let same = faults([allow(&["/user/{user}/#"]), allow(&["/user/{user}/queue/x"])]);
    assert!(same.len() == 1 && same[0].contains("the same"), "{same:?}");
    let only =
        |users: &[&str], rule| RuleSettings { users: users.iter().map(|user| (*user).to_owned()).collect(), ..rule };
    for good in [
        [only(&["ada"], allow(&["/topic/#"])), deny(&["/topic/a"])],
        [RuleSettings { actions: vec![Action::Send], ..allow(&["/topic/#"]) }, deny(&["/topic/a"])],
        [allow(&["/topic/a"]), deny(&["/topic/#"])],
        [allow(&["/topic/{user}"]), deny(&["/topic/{claim.x}"])],
        [allow(&["/topic/#"]), deny(&["/topic/$SYS/#"])],
    ] {
        assert_eq!(faults(good), [""; 0]);
    }
    assert_eq!(faults([only(&["ada", "bob"], allow(&["/topic/#"])), only(&["ada"], deny(&["/topic/a"]))]).len(), 1);
}

#[test]
fn what_is_closed_to_everybody_is_known() {
    let route = |spelling| Destination::parse(spelling, Usage::Subscribe, Separators::Both).unwrap();
    let some = rules([
        RuleSettings { roles: vec!["admin".into()], ..allow(&["/app/admin/#"]) },
        deny(&["/app/admin/#", "/app/old/#"]),
        allow(&["/app/#"]),
    ]);
    for open in ["/app/admin/x", "/app/+/x", "/app/x"] {
        assert_eq!(some.closed(Action::Send, &route(open)), None, "{open}");
    }
    assert_eq!(some.closed(Action::Send, &route("/app/old/+")), Some(Some(1)));
    assert_eq!(rules([allow(&["/topic/#"])]).closed(Action::Send, &route("/app/x")), Some(None));
}

/// Names of up to three segments, and patterns of them.
fn segments(of: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(of.to_vec()), 1..4).prop_map(|segments| segments.join("/"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whoever may subscribe to a pattern may subscribe to each of its names, whatever the rules are.
    #[test]
    fn a_pattern_gives_nothing_that_its_names_do_not(
        written in prop::collection::vec((any::<bool>(), segments(&["a", "b", "a*", "+", "#", "$s"])), 1..5),
        pattern in segments(&["a", "b", "c", "*b", "+", "#"]),
        names in prop::collection::vec(segments(&["a", "b", "c", "ab", "$s"]), 40),
        is_open in any::<bool>(),
    ) {
        let mut settings = Settings { default: is_open.then_some(Effect::Allow), rule: Vec::new() };
        for (is_allowing, destination) in written {
            let effect = if is_allowing { Effect::Allow } else { Effect::Deny };
            settings.rule.push(rule(effect, &[&format!("/topic/{destination}")]));
            if settings.rules(&naming()).is_err() {
                settings.rule.pop(); // it would never count
            }
        }
        let rules = settings.rules(&naming()).unwrap();
        let pattern = format!("/topic/{pattern}");
        let Ok(Destination::Topic(covered)) = Destination::parse(&pattern, Usage::Subscribe, Separators::Both) else {
            return Ok(());
        };
        let all = may_read(&rules, &pattern);
        for name in names {
            let spelling = format!("/topic/{name}");
            if all && covered.matches(&crate::message::Pattern::canonical(name)) {
                prop_assert!(may_read(&rules, &spelling), "{} but not {}", pattern, spelling);
            }
        }
    }
}
