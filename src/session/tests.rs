//! Scripts: inputs, made-up instants, and the actions that must follow.

mod arguments;
mod rules;

use std::time::{Duration, Instant};

use super::*;
use crate::message::{
    Capabilities, DeliveryId, Destination, DurableName, Message, Pattern, PublishOptions, Settlement, SharedSource,
    Source, Subscribe, Transaction,
};
use crate::stomp::{Decoder, Item, Limits};

const EVERYTHING: Capabilities = Capabilities {
    exchanges: true,
    arguments: true,
    retain: true,
    durable: true,
    atomic_transactions: true,
    user_id: false,
    reports_unrouted: true,
    keeps_queues: true,
};

/// Handlers for whatever begins with `/app/shop`.
#[derive(Debug)]
struct Shop;

impl Handlers for Shop {
    fn can_send(&self, destination: &Destination) -> bool {
        matches!(destination, Destination::Application(name) if name.first() == "shop")
    }

    fn can_subscribe(&self, destination: &Destination) -> bool {
        self.can_send(destination)
    }
}

/// A session and the time in which it lives.
struct Script {
    session: Session,
    now: Instant,
}

impl Script {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant to begin with; the rest is made up")]
        let now = Instant::now();
        let rules = Arc::new(Rules::open());
        let session = Session::new("s-1".into(), Arc::new(settings), Separators::Both, Arc::new(Shop), rules, now);
        Script { session, now }
    }

    /// A session of this version that has been connected as `ada`.
    fn connected(version: &str) -> Self {
        let mut script = Self::new();
        script.connect(&format!("CONNECT\naccept-version:{version}\n\n"));
        script
    }

    fn connect(&mut self, frame: &str) -> Frame {
        let actions = self.client(frame);
        let [Action::Authenticate(ticket, _)] = &actions[..] else { panic!("{actions:?}") };
        let principal = Principal::new("ada");
        one_frame(self.input(Input::Done(*ticket, Ok(Done::Authenticated(principal, EVERYTHING)))))
    }

    fn input(&mut self, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        self.session.handle(input, self.now, &mut actions);
        actions
    }

    fn client(&mut self, text: &str) -> Vec<Action> {
        assert!(self.session.is_ready(), "the session is not ready for {text:?}");
        let frame = frame(text, self.session.version());
        self.input(Input::Frame(frame))
    }

    /// A frame that leads to one action with a ticket.
    fn asks(&mut self, text: &str) -> (Ticket, Action) {
        let mut actions = self.client(text);
        assert_eq!(actions.len(), 1, "{actions:?}");
        let action = actions.remove(0);
        let ticket = match &action {
            Action::Publish(ticket, _)
            | Action::Subscribe(ticket, ..)
            | Action::Unsubscribe(ticket, ..)
            | Action::DeleteDurable(ticket, _)
            | Action::Settle(ticket, ..)
            | Action::Commit(ticket, _) => *ticket,
            other => panic!("{other:?}"),
        };
        (ticket, action)
    }

    fn done(&mut self, ticket: Ticket) -> Vec<Action> {
        self.input(Input::Done(ticket, Ok(Done::Outcome(Outcome::DONE))))
    }

    /// Opens a subscription, and says under which key.
    fn subscribe(&mut self, headers: &str) -> SubscriptionKey {
        let (ticket, action) = self.asks(&format!("SUBSCRIBE\n{headers}\n\n"));
        let Action::Subscribe(_, key, _) = action else { panic!("{action:?}") };
        assert!(self.done(ticket).is_empty());
        key
    }

    fn deliver(&mut self, key: SubscriptionKey, tag: u64) -> Deliver {
        let mut actions = self.input(Input::Delivery(key, delivery(tag)));
        assert_eq!(actions.len(), 1);
        let Action::Deliver(deliver) = actions.remove(0) else { panic!() };
        deliver
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.input(Input::Deadline)
    }
}

fn frame(text: &str, version: Version) -> Frame {
    let mut decoder = Decoder::new(Limits { headers: 100, header_bytes: 16384, body: 16384, frame: None });
    decoder.set_version(version);
    decoder.push(format!("{text}\0").into());
    match decoder.next() {
        Ok(Some(Item::Frame(frame))) => frame,
        other => panic!("{text:?} is {other:?}"),
    }
}

fn delivery(tag: u64) -> Delivery {
    let destination = Destination::Queue("q".into());
    let (headers, options) = (Headers::new(), PublishOptions::default());
    let message = Message { destination, headers, body: "body".into(), options };
    Delivery { message: Arc::new(message), id: Some(id(tag)), redelivered: false, gap: false }
}

fn id(tag: u64) -> DeliveryId {
    DeliveryId { consumer: 7, tag }
}

fn one_frame(mut actions: Vec<Action>) -> Frame {
    assert_eq!(actions.len(), 1, "{actions:?}");
    let Action::Send(frame) = actions.remove(0) else { panic!() };
    frame
}

fn receipt(actions: Vec<Action>) -> String {
    let frame = one_frame(actions);
    assert_eq!(frame.command, Command::Receipt);
    frame.headers.get("receipt-id").unwrap().to_string()
}

/// The ERROR and the close that end a session; nothing else.
fn error(actions: &[Action]) -> (&Frame, CloseCode) {
    match actions {
        [Action::Send(frame), Action::Close(code, _)] if frame.command == Command::Error => (frame, *code),
        other => panic!("{other:?}"),
    }
}

fn code(actions: &[Action]) -> &str {
    error(actions).0.headers.get("code").unwrap()
}

fn header<'a>(frame: &'a Frame, name: &str) -> &'a str {
    frame.headers.get(name).unwrap_or_else(|| panic!("no {name} in {frame:?}"))
}

fn settled(action: Action) -> (Vec<u64>, Settlement) {
    let Action::Settle(_, deliveries, settlement) = action else { panic!("{action:?}") };
    (deliveries.iter().map(|id| id.tag).collect(), settlement)
}

fn published(action: Action) -> Message {
    let Action::Publish(_, message) = action else { panic!("{action:?}") };
    message
}

const SECOND: Duration = Duration::from_secs(1);

mod answers;

mod connecting {
    use super::*;

    #[test]
    fn connected_says_what_was_agreed_on() {
        let mut script = Script::new();
        let connected = script.connect("CONNECT\naccept-version:1.0,1.1,1.2\nheart-beat:5000,4000\n\n");
        assert_eq!(connected.command, Command::Connected);
        for (name, value) in [("version", "1.2"), ("session", "s-1"), ("heart-beat", "4000,5000"), ("user-name", "ada")]
        {
            assert_eq!(header(&connected, name), value);
        }
    }

    #[test]
    fn without_accept_version_it_is_1_0() {
        let mut script = Script::new();
        assert_eq!(header(&script.connect("CONNECT\n\n"), "version"), "1.0");
    }

    #[test]
    fn no_common_version_lists_ours() {
        let actions = Script::new().client("CONNECT\naccept-version:2.0\n\n");
        let (frame, close) = error(&actions);
        assert_eq!(header(frame, "message"), "Supported versions are 1.0,1.1,1.2");
        assert_eq!(header(frame, "version"), "1.0,1.1,1.2");
        assert_eq!(close, CloseCode::PROTOCOL);
    }

    #[test]
    fn nothing_goes_before_connect_and_no_second_connect() {
        assert_eq!(code(&Script::new().client("SEND\ndestination:/topic/a\n\n")), "not-connected");
        assert_eq!(code(&Script::connected("1.2").client("CONNECT\naccept-version:1.2\n\n")), "already-connected");
    }

    #[test]
    fn while_connect_is_checked_nothing_is_taken() {
        let mut script = Script::new();
        script.client("CONNECT\n\n");
        assert!(!script.session.is_ready());
    }

    #[test]
    fn a_refused_login_gets_4401() {
        let mut script = Script::new();
        let actions = script.client("CONNECT\nlogin:eve\npasscode:x\n\n");
        let [Action::Authenticate(ticket, credentials)] = &actions[..] else { panic!() };
        assert!(!format!("{credentials:?}").contains('x'), "a passcode must not be printed");
        let actions = script.input(Input::Done(*ticket, Err(Refusal::not_authenticated("eve"))));
        assert_eq!(error(&actions).1, CloseCode::NOT_AUTHENTICATED);
        assert_eq!(header(error(&actions).0, "message"), "Access refused for user 'eve'");
    }

    #[test]
    fn impossible_headers_of_connect_are_named() {
        for (headers, code_expected) in [
            ("heart-beat:now", "bad-connect"),
            ("will-destination:/nowhere", "unknown-destination"),
            ("will-destination:/app/x", "no-handler"),
        ] {
            assert_eq!(code(&Script::new().client(&format!("CONNECT\n{headers}\n\n"))), code_expected, "{headers}");
        }
        let long = "x".repeat(129);
        assert_eq!(code(&Script::new().client(&format!("CONNECT\nlogin:{long}\n\n"))), "bad-connect");
    }

    #[test]
    fn what_host_means_is_for_the_broker_to_say() {
        for host in ["/", "localhost", "two words"] {
            let actions = Script::new().client(&format!("CONNECT\nhost:{host}\n\n"));
            let [Action::Authenticate(_, credentials)] = &actions[..] else { panic!() };
            assert_eq!(credentials.host.as_deref(), Some(host));
        }
    }

    #[test]
    fn without_connect_in_time_the_session_ends() {
        let mut script = Script::new();
        assert_eq!(script.session.deadline(), Some(script.now + 10 * SECOND));
        assert!(script.pass(9 * SECOND).is_empty());
        let actions = script.pass(SECOND);
        assert_eq!(error(&actions).1, CloseCode::TIMED_OUT);
    }
}

mod sending {
    use super::*;

    #[test]
    fn a_receipt_follows_the_brokers_confirmation() {
        let mut script = Script::connected("1.2");
        let (ticket, action) = script.asks("SEND\ndestination:/queue/q\nreceipt:r\nfoo:bar\n\nhello");
        let message = published(action);
        assert_eq!(message.destination, Destination::Queue("q".into()));
        assert_eq!(message.headers, Headers::from([("foo", "bar"), ("stompgate-user", "ada")]));
        assert!(message.options.persistent);
        assert_eq!(receipt(script.done(ticket)), "r");
    }

    #[test]
    fn sends_are_pipelined_and_receipts_come_as_they_are_confirmed() {
        let mut script = Script::connected("1.2");
        let (one, _) = script.asks("SEND\ndestination:/queue/q\nreceipt:1\n\n");
        let (two, _) = script.asks("SEND\ndestination:/queue/q\nreceipt:2\n\n");
        assert_eq!(receipt(script.done(two)), "2");
        assert_eq!(receipt(script.done(one)), "1");
    }

    #[test]
    fn an_unroutable_message_has_a_receipt_that_says_so() {
        let mut script = Script::connected("1.2");
        let (ticket, _) = script.asks("SEND\ndestination:/topic/a\nreceipt:r\n\n");
        let frame = one_frame(script.input(Input::Done(ticket, Ok(Done::Outcome(Outcome::UNROUTED)))));
        assert_eq!(header(&frame, "routed"), "false");
    }

    #[test]
    fn a_rejected_message_names_its_receipt_and_those_still_open() {
        let mut script = Script::connected("1.2");
        let (_, _) = script.asks("SEND\ndestination:/queue/q\nreceipt:first\n\n");
        let (ticket, _) = script.asks("SEND\ndestination:/queue/q\nreceipt:second\n\n");
        let actions = script.input(Input::Done(ticket, Err(Refusal::rejected("the queue is full"))));
        let (frame, _) = error(&actions);
        assert_eq!(header(frame, "receipt-id"), "second");
        assert!(String::from_utf8_lossy(&frame.body).contains("Receipts still open: first"));
    }

    #[test]
    fn a_confirmation_that_does_not_come_ends_the_session_with_4503() {
        let mut script = Script::connected("1.2");
        script.asks("SEND\ndestination:/queue/q\nreceipt:r\n\n");
        assert_eq!(script.session.deadline(), Some(script.now + 30 * SECOND));
        let actions = script.pass(30 * SECOND);
        assert_eq!(error(&actions).1, CloseCode::BROKER_UNAVAILABLE);
        assert_eq!(code(&actions), "confirm-timeout");
    }

    #[test]
    fn only_so_many_confirmations_may_be_open() {
        let mut script = Script::with(Settings { max_unconfirmed: 2, ..Settings::default() });
        script.connect("CONNECT\naccept-version:1.2\n\n");
        let (ticket, _) = script.asks("SEND\ndestination:/queue/q\n\n");
        script.asks("SEND\ndestination:/queue/q\n\n");
        assert!(!script.session.is_ready());
        script.done(ticket);
        assert!(script.session.is_ready());
    }

    #[test]
    fn headers_that_speak_to_the_gateway_do_not_travel() {
        let mut script = Script::connected("1.2");
        let consumed = "receipt:r\ntransaction-not:1\nlogin:a\npasscode:b\nauthorization:c\nsubscription:d\nack:e\n\
            redelivered:true\ndurable:true\nauto-delete:true\nexclusive:true\nCC:x\nBCC:y\nx-death:z\n\
            x-first-death-queue:w\nuser-id:ada\nstompgate-user:ada";
        let (_, action) = script.asks(&format!("SEND\ndestination:/topic/a\n{consumed}\n\n"));
        assert_eq!(published(action).headers, Headers::from([("transaction-not", "1"), ("stompgate-user", "ada")]));
    }

    #[test]
    fn the_first_of_a_repeated_header_travels() {
        let mut script = Script::connected("1.2");
        let (_, action) = script.asks("SEND\ndestination:/topic/a\nfoo:1\nfoo:2\n\n");
        assert_eq!(published(action).headers, Headers::from([("foo", "1"), ("stompgate-user", "ada")]));
    }

    #[test]
    fn headers_that_would_lie_are_refused() {
        for header in ["message-id:1", "user-id:eve", "stompgate-user:eve", "stompgate-republished:true"] {
            let actions = Script::connected("1.2").client(&format!("SEND\ndestination:/topic/a\n{header}\n\n"));
            assert_eq!(code(&actions), "forbidden-header", "{header}");
        }
    }

    #[test]
    fn options_are_read_and_nonsense_is_named() {
        let mut script = Script::connected("1.2");
        let headers = "persistent:true\nretain:true\npriority:7\nexpiration:1500\nqos:2\ntimestamp:1";
        let (_, action) = script.asks(&format!("SEND\ndestination:/topic/a\n{headers}\n\n"));
        let expected = PublishOptions {
            persistent: true,
            retain: true,
            priority: Some(7),
            expiration: Some(Duration::from_millis(1500)),
            qos: Some(2),
            arguments: None,
        };
        assert_eq!(published(action).options, expected);
        for header in
            ["persistent:yes", "retain:1", "priority:256", "priority:+1", "expiration:abc", "qos:3", "timestamp:-1"]
        {
            let actions = Script::connected("1.2").client(&format!("SEND\ndestination:/topic/a\n{header}\n\n"));
            assert_eq!(code(&actions), "invalid-header", "{header}");
        }
        let actions = Script::connected("1.2").client("SEND\ndestination:/queue/a\nretain:true\n\n");
        assert_eq!(code(&actions), "forbidden-header");
    }

    #[test]
    fn persistence_is_the_default_for_queues_and_receipts() {
        for (headers, expected) in [
            ("destination:/queue/q", true),
            ("destination:/queue/q\npersistent:false", false),
            ("destination:/topic/a", false),
            ("destination:/topic/a\nreceipt:1", true),
        ] {
            let (_, action) = Script::connected("1.2").asks(&format!("SEND\n{headers}\n\n"));
            assert_eq!(published(action).options.persistent, expected, "{headers}");
        }
    }

    #[test]
    fn a_destination_must_be_there_and_mean_something() {
        for (headers, expected) in [
            ("foo:bar", "missing-header"),
            ("destination:", "missing-header"),
            ("destination:/nowhere/x", "unknown-destination"),
            ("destination:/topic/a.*", "invalid-destination"),
            ("destination:/app/x", "no-handler"),
        ] {
            let actions = Script::connected("1.2").client(&format!("SEND\n{headers}\nreceipt:r\n\n"));
            assert_eq!(code(&actions), expected, "{headers}");
            assert_eq!(header(error(&actions).0, "receipt-id"), "r");
        }
    }

    #[test]
    fn the_first_use_of_a_temporary_queue_opens_a_reply_address() {
        let mut script = Script::connected("1.2");
        let request = "SEND\ndestination:/queue/rpc\nreply-to:/temp-queue/foo\nreceipt:r\n\n";
        let (ticket, action) = script.asks(request);
        let Action::Subscribe(_, key, Request::Dedicated(Subscribe { source: Source::Reply, .. })) = action else {
            panic!("{action:?}")
        };
        assert!(!script.session.is_ready(), "the SEND comes first");
        let mut actions = script.input(Input::Done(ticket, Ok(Done::ReplyAddress("secret".into()))));
        let message = published(actions.remove(0));
        assert_eq!(message.headers.get("reply-to").unwrap(), "/reply-queue/secret");

        let (_, again) = script.asks(request);
        assert_eq!(published(again).headers.get("reply-to").unwrap(), "/reply-queue/secret");

        let deliver = script.deliver(key, 1);
        assert_eq!(deliver.subscription.unwrap(), "/temp-queue/foo");
        assert_eq!(deliver.destination, "/temp-queue/foo");
        assert!(script.client("SUBSCRIBE\nid:mine\ndestination:/temp-queue/foo\n\n").is_empty());
        assert_eq!(script.deliver(key, 2).subscription.unwrap(), "mine");
    }

    #[test]
    fn a_reply_to_of_somebody_else_travels_verbatim() {
        let (_, action) =
            Script::connected("1.2").asks("SEND\ndestination:/queue/rpc\nreply-to:amq.rabbitmq.reply-to.x\n\n");
        assert_eq!(published(action).headers.get("reply-to").unwrap(), "amq.rabbitmq.reply-to.x");
    }

    #[test]
    fn more_frames_than_allowed_get_4429() {
        let mut script = Script::with(Settings { max_frames_per_second: 2, ..Settings::default() });
        script.connect("CONNECT\naccept-version:1.2\n\n");
        for _ in 0..3 {
            assert_eq!(script.client("SEND\ndestination:/topic/a\n\n").len(), 1);
        }
        script.now += SECOND;
        for _ in 0..2 {
            assert_eq!(script.client("SEND\ndestination:/topic/a\n\n").len(), 1);
        }
        assert_eq!(error(&script.client("SEND\ndestination:/topic/a\n\n")).1, CloseCode::RATE);
    }
}

mod subscribing {
    use super::*;

    fn request(script: &mut Script, headers: &str) -> Request {
        let (ticket, action) = script.asks(&format!("SUBSCRIBE\n{headers}\n\n"));
        script.done(ticket);
        match action {
            Action::Subscribe(_, _, request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_plain_topic_is_shared_and_all_else_is_dedicated() {
        let mut script = Script::connected("1.2");
        let Request::Shared(source, reader) = request(&mut script, "id:a\ndestination:/topic/x.#") else { panic!() };
        assert_eq!(source, SharedSource::Topic(Pattern::canonical("x/#")));
        assert_eq!(reader.subscription.unwrap(), "a");
        let Request::Shared(source, _) = request(&mut script, "id:b\ndestination:/user/queue/x") else { panic!() };
        assert_eq!(source, SharedSource::User { user: "ada".into(), name: Pattern::canonical("queue/x") });
        let Request::Shared(source, _) = request(&mut script, "id:x\ndestination:/exchange/e/k") else { panic!() };
        assert_eq!(source, SharedSource::Exchange { exchange: "e".into(), key: "k".into() });
        let exchange = || Source::Exchange { exchange: "e".into(), key: "k".into() };
        for (headers, expected) in [
            ("id:c\ndestination:/queue/q", Source::Queue("q".into())),
            ("id:d\ndestination:/topic/x\nack:client", Source::Topic(Pattern::canonical("x"))),
            ("id:e\ndestination:/amq/queue/q", Source::ExistingQueue("q".into())),
            ("id:f\ndestination:/exchange/e/k\nack:client", exchange()),
            ("id:g\ndestination:/exchange/e/k\nx-max-length:10", exchange()),
        ] {
            let Request::Dedicated(Subscribe { source, prefetch, .. }) = request(&mut script, headers) else {
                panic!()
            };
            assert_eq!((source, prefetch), (expected, 100), "{headers}");
        }
    }

    #[test]
    fn durable_subscriptions_are_spelled_in_two_ways() {
        let name = |client: &str, name: &str| DurableName {
            user: "ada".into(),
            client: Text::from(client),
            name: Text::from(name),
        };
        for (headers, expected) in [
            ("id:a\ndestination:/topic/x\ndurable:true", name("", "a")),
            ("id:b\ndestination:/topic/x\nclient-id:c\ndurable-subscription-name:n", name("c", "n")),
        ] {
            let mut script = Script::connected("1.2");
            let Request::Dedicated(Subscribe { source, .. }) = request(&mut script, headers) else { panic!() };
            assert_eq!(source, Source::Durable(expected, Pattern::canonical("x")), "{headers}");
        }
        let mut script = Script::new();
        script.connect("CONNECT\naccept-version:1.2\nclient-id:laptop\n\n");
        let (_, action) = script.asks("UNSUBSCRIBE\nid:a\ndurable:true\n\n");
        let Action::DeleteDurable(_, durable) = action else { panic!("{action:?}") };
        assert_eq!(durable, name("laptop", "a"));
    }

    #[test]
    fn subscribe_finishes_before_the_next_frame() {
        let mut script = Script::connected("1.2");
        let (ticket, _) = script.asks("SUBSCRIBE\nid:a\ndestination:/queue/q\nreceipt:r\n\n");
        assert!(!script.session.is_ready());
        assert_eq!(receipt(script.done(ticket)), "r");
        assert!(script.session.is_ready());
    }

    #[test]
    fn an_id_is_demanded_from_1_1_on_and_used_once() {
        assert_eq!(code(&Script::connected("1.1").client("SUBSCRIBE\ndestination:/queue/q\n\n")), "missing-header");
        let mut script = Script::connected("1.2");
        script.subscribe("id:a\ndestination:/queue/q");
        script.subscribe("id:b\ndestination:/queue/q");
        let actions = script.client("SUBSCRIBE\nid:a\ndestination:/topic/t\n\n");
        assert_eq!(header(error(&actions).0, "message"), "Duplicated subscription identifier");
    }

    #[test]
    fn in_1_0_the_destination_may_stand_for_the_id() {
        let mut script = Script::connected("1.0");
        let key = script.subscribe("destination:/queue/q");
        assert_eq!(script.deliver(key, 1).subscription, None);
        let (_, action) = script.asks("UNSUBSCRIBE\ndestination:/queue/q\n\n");
        assert!(matches!(action, Action::Unsubscribe(_, unsubscribed, false) if unsubscribed == key));
    }

    #[test]
    fn what_no_broker_does_is_refused_by_name() {
        for (headers, expected) in [
            ("destination:/topic/a\nselector:x = 1", "unsupported"),
            ("destination:/user/queue/a\nack:client", "unsupported"),
            ("destination:/temp-queue/a\nack:client", "unsupported"),
            ("destination:/topic/a\nack:sometimes", "invalid-header"),
            ("destination:/topic/a\nprefetch-count:-1", "invalid-header"),
            ("destination:/reply-queue/a", "invalid-destination"),
            ("destination:/app/a", "no-handler"),
        ] {
            let actions = Script::connected("1.2").client(&format!("SUBSCRIBE\nid:a\n{headers}\n\n"));
            assert_eq!(code(&actions), expected, "{headers}");
        }
    }

    #[test]
    fn prefetch_is_held_to_its_maximum() {
        for (asked, expected) in [("1", 1), ("5000", 1000), ("0", 1000)] {
            let headers = format!("id:a\ndestination:/queue/q\nprefetch-count:{asked}");
            let Request::Dedicated(subscribe) = request(&mut Script::connected("1.2"), &headers) else { panic!() };
            assert_eq!(subscribe.prefetch, expected);
        }
    }

    #[test]
    fn the_number_of_subscriptions_is_bounded() {
        let mut script = Script::with(Settings { max_subscriptions: 1, ..Settings::default() });
        script.connect("CONNECT\naccept-version:1.2\n\n");
        script.subscribe("id:a\ndestination:/topic/a");
        assert_eq!(code(&script.client("SUBSCRIBE\nid:b\ndestination:/topic/a\n\n")), "limit-exceeded");
    }

    #[test]
    fn unsubscribing_what_is_not_there_is_an_error() {
        assert_eq!(code(&Script::connected("1.2").client("UNSUBSCRIBE\nid:a\n\n")), "unknown-subscription");
        assert_eq!(code(&Script::connected("1.2").client("UNSUBSCRIBE\ndestination:/topic/a\n\n")), "missing-header");
    }
}

mod acknowledging {
    use super::*;

    fn delivered(version: &str, ack: &str, count: u64) -> (Script, SubscriptionKey, Vec<Deliver>) {
        let mut script = Script::connected(version);
        let key = script.subscribe(&format!("id:a\ndestination:/queue/q\nack:{ack}"));
        let deliveries = (0..count).map(|tag| script.deliver(key, tag)).collect();
        (script, key, deliveries)
    }

    #[test]
    fn auto_is_settled_when_it_has_been_written() {
        let (_, _, deliveries) = delivered("1.2", "auto", 1);
        assert_eq!(deliveries[0].settle_when_written, Some(id(0)));
        assert_eq!(deliveries[0].ack, None);
    }

    #[test]
    fn each_version_names_deliveries_in_its_own_way() {
        let (mut script, _, deliveries) = delivered("1.2", "client-individual", 2);
        let ack = deliveries[1].ack.clone().unwrap();
        let (_, action) = script.asks(&format!("ACK\nid:{ack}\n\n"));
        assert_eq!(settled(action), (vec![1], Settlement::Accept));

        let (mut script, _, deliveries) = delivered("1.1", "client-individual", 2);
        assert_eq!(deliveries[1].ack, None);
        let message_id = &deliveries[1].message_id;
        let (_, action) = script.asks(&format!("ACK\nmessage-id:{message_id}\nsubscription:a\n\n"));
        assert_eq!(settled(action), (vec![1], Settlement::Accept));
        let other = &deliveries[0].message_id;
        assert_eq!(code(&script.client(&format!("ACK\nmessage-id:{other}\nsubscription:b\n\n"))), "unknown-ack");

        let (mut script, _, deliveries) = delivered("1.0", "client-individual", 1);
        let message_id = &deliveries[0].message_id;
        let (_, action) = script.asks(&format!("ACK\nmessage-id:{message_id}\n\n"));
        assert_eq!(settled(action), (vec![0], Settlement::Accept));
    }

    #[test]
    fn client_mode_is_cumulative_within_its_subscription() {
        let (mut script, _, deliveries) = delivered("1.2", "client", 3);
        let other = script.subscribe("id:b\ndestination:/queue/q\nack:client");
        let others = script.deliver(other, 10);
        let (_, action) = script.asks(&format!("ACK\nid:{}\n\n", deliveries[1].message_id));
        assert_eq!(settled(action), (vec![0, 1], Settlement::Accept));
        let (_, action) = script.asks(&format!("NACK\nid:{}\n\n", deliveries[2].message_id));
        assert_eq!(settled(action), (vec![2], Settlement::Requeue));
        let (_, action) = script.asks(&format!("NACK\nid:{}\nrequeue:false\n\n", others.message_id));
        assert_eq!(settled(action), (vec![10], Settlement::Reject));
    }

    #[test]
    fn what_is_settled_or_unknown_cannot_be_acknowledged() {
        for ack in ["0-0", "0-9", "9-0", "x", "-", "0-", "T5", "00-0x", "+0-+0"] {
            let (mut script, _, _) = delivered("1.2", "client", 1);
            let (_, action) = script.asks("ACK\nid:0-0\n\n");
            assert_eq!(settled(action).0, [0]);
            assert_eq!(code(&script.client(&format!("ACK\nid:{ack}\n\n"))), "unknown-ack", "{ack}");
        }
    }

    #[test]
    fn a_delivery_outlives_its_subscription_until_it_is_settled() {
        let (mut script, key, _) = delivered("1.2", "client", 1);
        let (ticket, _) = script.asks("UNSUBSCRIBE\nid:a\nreceipt:r\n\n");
        assert_eq!(receipt(script.done(ticket)), "r");
        assert!(script.input(Input::Delivery(key, delivery(1))).is_empty());
        let actions = script.client("ACK\nid:0-0\n\n");
        assert!(matches!(&actions[..], [Action::Settle(..), Action::Forget(forgotten)] if *forgotten == key));
    }

    #[test]
    fn a_settled_subscription_is_forgotten_with_unsubscribe() {
        let (mut script, key, _) = delivered("1.2", "auto", 1);
        let (ticket, _) = script.asks("UNSUBSCRIBE\nid:a\n\n");
        assert!(matches!(&script.done(ticket)[..], [Action::Forget(forgotten)] if *forgotten == key));
    }

    #[test]
    fn what_went_with_its_link_is_acknowledged_quietly() {
        let (mut script, key, _) = delivered("1.2", "client", 2);
        script.input(Input::Interrupted(key));
        let frame = one_frame(script.client("ACK\nid:0-1\nreceipt:r\n\n"));
        assert_eq!(header(&frame, "settled"), "false");
        let again = script.deliver(key, 7);
        let (_, action) = script.asks(&format!("ACK\nid:{}\n\n", again.message_id));
        assert_eq!(settled(action).0, [7]);
    }

    #[test]
    fn what_waited_too_long_is_acknowledged_quietly_and_the_rest_is_not() {
        let (mut script, key, names) = delivered("1.2", "client-individual", 3);
        script.input(Input::Returned(key, id(1)));
        for name in &names[..2] {
            let frame = one_frame(script.client(&format!("ACK\nid:{}\nreceipt:r\n\n", name.message_id)));
            assert_eq!(header(&frame, "settled"), "false");
        }
        assert_eq!(script.session.unsettled(), 1);
        let (_, action) = script.asks(&format!("ACK\nid:{}\n\n", names[2].message_id));
        assert_eq!(settled(action).0, [2]);
    }
}

mod transacting {
    use super::*;

    fn committed(actions: Vec<Action>) -> (Ticket, Transaction) {
        let mut actions = actions.into_iter();
        match actions.next() {
            Some(Action::Commit(ticket, transaction)) => (ticket, transaction),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commit_hands_over_everything_in_order() {
        let mut script = Script::connected("1.2");
        let key = script.subscribe("id:a\ndestination:/queue/q\nack:client");
        script.deliver(key, 0);
        script.deliver(key, 1);
        assert_eq!(receipt(script.client("BEGIN\ntransaction:t\nreceipt:1\n\n")), "1");
        assert_eq!(receipt(script.client("SEND\ndestination:/queue/b\ntransaction:t\nreceipt:2\n\nx")), "2");
        assert_eq!(receipt(script.client("ACK\nid:0-1\ntransaction:t\nreceipt:3\n\n")), "3");
        let (ticket, transaction) = committed(script.client("COMMIT\ntransaction:t\nreceipt:4\n\n"));
        assert_eq!(transaction.messages.len(), 1);
        assert_eq!(transaction.settlements, [(vec![id(0), id(1)], Settlement::Accept)]);
        assert!(!script.session.is_ready(), "COMMIT finishes before the next frame");
        assert_eq!(receipt(script.done(ticket)), "4");
    }

    #[test]
    fn abort_gives_acknowledgements_back_in_their_order() {
        let mut script = Script::connected("1.2");
        let key = script.subscribe("id:a\ndestination:/queue/q\nack:client");
        (0..3).for_each(|tag| drop(script.deliver(key, tag)));
        script.client("BEGIN\ntransaction:t\n\n");
        script.client("ACK\nid:0-1\ntransaction:t\n\n");
        assert_eq!(receipt(script.client("ABORT\ntransaction:t\nreceipt:r\n\n")), "r");
        let (_, action) = script.asks("ACK\nid:0-2\n\n");
        assert_eq!(settled(action).0, [0, 1, 2]);
    }

    #[test]
    fn a_cumulative_ack_is_fixed_when_it_arrives() {
        let mut script = Script::connected("1.2");
        let key = script.subscribe("id:a\ndestination:/queue/q\nack:client");
        script.deliver(key, 0);
        script.client("BEGIN\ntransaction:t\n\n");
        script.client("ACK\nid:0-0\ntransaction:t\n\n");
        script.deliver(key, 1);
        let (_, transaction) = committed(script.client("COMMIT\ntransaction:t\n\n"));
        assert_eq!(transaction.settlements, [(vec![id(0)], Settlement::Accept)]);
    }

    #[test]
    fn a_cancelled_subscription_is_kept_for_the_transaction_that_needs_it() {
        let mut script = Script::connected("1.2");
        let key = script.subscribe("id:a\ndestination:/queue/q\nack:client");
        script.deliver(key, 0);
        script.client("BEGIN\ntransaction:t\n\n");
        script.client("ACK\nid:0-0\ntransaction:t\n\n");
        let (ticket, _) = script.asks("UNSUBSCRIBE\nid:a\n\n");
        assert!(script.done(ticket).is_empty());
        let (ticket, _) = committed(script.client("COMMIT\ntransaction:t\n\n"));
        assert!(matches!(&script.done(ticket)[..], [Action::Forget(forgotten)] if *forgotten == key));
    }

    #[test]
    fn what_waited_too_long_in_a_transaction_is_not_committed_and_not_given_back() {
        for (end, succeeds) in [("COMMIT", false), ("ABORT", true)] {
            let mut script = Script::connected("1.2");
            let key = script.subscribe("id:a\ndestination:/queue/q\nack:client-individual");
            (0..2).for_each(|tag| drop(script.deliver(key, tag)));
            script.client("BEGIN\ntransaction:t\n\n");
            script.client("ACK\nid:0-0\ntransaction:t\n\n");
            script.input(Input::Returned(key, id(0)));
            let frame = script.client(&format!("{end}\ntransaction:t\nreceipt:e\n\n"));
            if succeeds {
                assert_eq!(receipt(frame), "e");
                let frame = one_frame(script.client("ACK\nid:0-0\nreceipt:r\n\n"));
                assert_eq!(header(&frame, "settled"), "false");
                let (_, action) = script.asks("ACK\nid:0-1\n\n");
                assert_eq!(settled(action).0, [1]);
            } else {
                assert!(matches!(&frame[..], [Action::Send(error), _] if header(error, "code") == "delivery-lost"));
            }
        }
    }

    #[test]
    fn an_aborted_transaction_lets_go_of_what_was_lost_and_unsubscribed() {
        let mut script = Script::connected("1.2");
        let key = script.subscribe("id:a\ndestination:/queue/q\nack:client");
        script.deliver(key, 0);
        script.client("BEGIN\ntransaction:t\n\n");
        script.client("ACK\nid:0-0\ntransaction:t\n\n");
        script.input(Input::Interrupted(key));
        let (ticket, _) = script.asks("UNSUBSCRIBE\nid:a\n\n");
        assert!(script.done(ticket).is_empty());
        let actions = script.client("ABORT\ntransaction:t\n\n");
        assert!(matches!(&actions[..], [Action::Forget(forgotten)] if *forgotten == key), "{actions:?}");
    }

    #[test]
    fn deliveries_lost_before_commit_are_an_error() {
        let mut script = Script::connected("1.2");
        let key = script.subscribe("id:a\ndestination:/queue/q\nack:client");
        script.deliver(key, 0);
        script.client("BEGIN\ntransaction:t\n\n");
        script.client("ACK\nid:0-0\ntransaction:t\n\n");
        script.input(Input::Interrupted(key));
        assert_eq!(code(&script.client("COMMIT\ntransaction:t\n\n")), "delivery-lost");
    }

    #[test]
    fn names_are_open_once_and_until_they_end() {
        let mut script = Script::connected("1.2");
        script.client("BEGIN\ntransaction:t\n\n");
        assert_eq!(code(&script.client("BEGIN\ntransaction:t\n\n")), "transaction-open");
        for frame in [
            "COMMIT\ntransaction:t\n\n",
            "ABORT\ntransaction:t\n\n",
            "SEND\ndestination:/topic/a\ntransaction:t\n\n",
            "ACK\nid:0-0\ntransaction:t\n\n",
        ] {
            assert_eq!(code(&Script::connected("1.2").client(frame)), "unknown-transaction", "{frame}");
        }
        assert_eq!(code(&Script::connected("1.2").client("BEGIN\n\n")), "missing-header");
    }

    #[test]
    fn every_bound_of_a_transaction_has_its_setting() {
        let settings = Settings {
            max_transactions: 1,
            max_transaction_frames: 2,
            max_transaction_bytes: 1000,
            ..Settings::default()
        };
        let begun = || {
            let mut script = Script::with(settings.clone());
            script.connect("CONNECT\naccept-version:1.2\n\n");
            script.client("BEGIN\ntransaction:t\n\n");
            script
        };
        let says = |actions: Vec<Action>, setting: &str| {
            let (frame, _) = error(&actions);
            assert!(String::from_utf8_lossy(&frame.body).contains(setting), "{frame:?}");
        };
        says(begun().client("BEGIN\ntransaction:u\n\n"), "session.max_transactions");
        let mut script = begun();
        script.client("SEND\ndestination:/topic/a\ntransaction:t\n\n");
        script.client("SEND\ndestination:/topic/a\ntransaction:t\n\n");
        says(script.client("SEND\ndestination:/topic/a\ntransaction:t\n\n"), "session.max_transaction_frames");
        let large = "x".repeat(1000);
        says(
            begun().client(&format!("SEND\ndestination:/topic/a\ntransaction:t\n\n{large}")),
            "session.max_transaction_bytes",
        );
        says(begun().pass(300 * SECOND), "session.transaction_timeout");
    }

    #[test]
    fn a_wrong_frame_in_a_transaction_is_refused_when_it_arrives() {
        let mut script = Script::connected("1.2");
        script.client("BEGIN\ntransaction:t\n\n");
        assert_eq!(code(&script.client("SEND\ndestination:/nowhere\ntransaction:t\n\n")), "unknown-destination");
    }
}

mod living_and_ending {
    use super::*;

    fn beating() -> Script {
        let mut script = Script::new();
        script.connect("CONNECT\naccept-version:1.2\nheart-beat:10000,4000\n\n");
        script
    }

    #[test]
    fn a_heartbeat_goes_out_when_nothing_else_did() {
        let mut script = beating();
        assert_eq!(script.session.deadline(), Some(script.now + 4 * SECOND * 15 / 16));
        script.now += 3 * SECOND;
        script.session.sent(script.now);
        assert!(script.pass(3 * SECOND).is_empty());
        assert!(matches!(script.pass(SECOND)[..], [Action::Heartbeat]));
        assert!(script.pass(SECOND).is_empty());
    }

    #[test]
    fn silence_for_twice_the_interval_ends_the_session() {
        let mut script = beating();
        script.now += 19 * SECOND;
        script.session.received(1, script.now).unwrap();
        script.session.sent(script.now);
        assert!(matches!(script.pass(19 * SECOND)[..], [Action::Heartbeat]));
        assert_eq!(error(&script.pass(SECOND)).1, CloseCode::TIMED_OUT);
    }

    #[test]
    fn without_heartbeats_nothing_is_due() {
        assert_eq!(Script::connected("1.2").session.deadline(), None);
    }

    #[test]
    fn disconnect_waits_for_what_came_before() {
        let mut script = Script::connected("1.2");
        let (ticket, _) = script.asks("SEND\ndestination:/queue/q\nreceipt:1\n\n");
        assert!(script.client("DISCONNECT\nreceipt:2\n\n").is_empty());
        assert!(!script.session.is_ready());
        let actions = script.done(ticket);
        let [Action::Send(first), Action::Send(second), Action::Close(CloseCode::NORMAL, _)] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!((header(first, "receipt-id"), header(second, "receipt-id")), ("1", "2"));
        assert!(script.session.is_ended());
    }

    #[test]
    fn shutdown_waits_too_and_closes_with_1012() {
        let mut script = Script::connected("1.2");
        let (ticket, _) = script.asks("SEND\ndestination:/queue/q\nreceipt:1\n\n");
        assert!(script.input(Input::Shutdown).is_empty());
        let actions = script.done(ticket);
        assert!(matches!(&actions[..], [Action::Send(_), Action::Close(CloseCode::SERVICE_RESTART, _)]), "{actions:?}");
        let actions = Script::new().input(Input::Shutdown);
        assert!(matches!(&actions[..], [Action::Close(CloseCode::SERVICE_RESTART, _)]));
    }

    #[test]
    fn nothing_follows_an_error() {
        let mut script = Script::connected("1.2");
        let (ticket, _) = script.asks("SEND\ndestination:/queue/q\nreceipt:1\n\n");
        script.client("SEND\n\n");
        assert!(script.session.is_ended());
        assert!(script.done(ticket).is_empty());
        assert!(script.input(Input::Frame(frame("SEND\n\n", Version::V12))).is_empty());
        assert!(script.input(Input::Refused(Refusal::internal())).is_empty());
        assert!(script.pass(1000 * SECOND).is_empty());
        assert_eq!(script.session.deadline(), None);
    }

    #[test]
    fn a_server_command_from_a_client_is_an_error() {
        assert_eq!(code(&Script::connected("1.2").client("MESSAGE\nsubscription:a\n\n")), "unknown-command");
    }

    const WILL: &str = "CONNECT\naccept-version:1.2\nwill-destination:/topic/gone\nwill-body:bye\n\
        will-content-type:text/plain\n\n";

    #[test]
    fn a_will_is_published_when_the_client_leaves_without_a_word() {
        let mut script = Script::new();
        script.connect(WILL);
        let actions = script.input(Input::Gone);
        let [Action::PublishWill(will)] = &actions[..] else { panic!("{actions:?}") };
        assert_eq!(will.destination, Destination::Topic(Pattern::canonical("gone")));
        assert_eq!((&will.body[..], will.headers.get("content-type").unwrap().as_ref()), (&b"bye"[..], "text/plain"));
    }

    #[test]
    fn a_will_is_published_with_an_error_and_not_with_disconnect() {
        let mut script = Script::new();
        script.connect(WILL);
        let actions = script.client("SEND\n\n");
        assert!(matches!(&actions[..], [Action::Send(_), Action::PublishWill(_), Action::Close(..)]), "{actions:?}");
        let mut script = Script::new();
        script.connect(WILL);
        let actions = script.client("DISCONNECT\n\n");
        assert!(matches!(&actions[..], [Action::Close(CloseCode::NORMAL, _)]), "{actions:?}");
    }

    #[test]
    fn disconnect_takes_the_will_back_whatever_follows() {
        let mut script = Script::new();
        script.connect(WILL);
        let (ticket, _) = script.asks("SEND\ndestination:/queue/q\nreceipt:1\n\n");
        assert!(script.client("DISCONNECT\n\n").is_empty());
        let actions = script.input(Input::Done(ticket, Err(Refusal::rejected("the queue is full"))));
        assert_eq!(code(&actions), "rejected");
    }
}
