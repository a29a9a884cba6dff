//! `/app` and the interceptor chain, with handlers in Rust (contract, §10).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use stompgate::chain::{
    Answer, Context, Event, Failure, Interceptor, Interest, Rejection, Request, Route, Subscription, TargetSettings,
    Verdict, handler,
};
use stompgate::config::Config;
use stompgate::gateway::{Builder, Gateway};
use stompgate::message::{Destination, Message, Outcome, Principal, Refusal, Separators, Settlement};
use tokio::sync::Semaphore;

use crate::peer::TELLS_UNROUTED;
use crate::support::{Client, builder, until};

const MARCO: &str = "{\"message\":\"Marco!\"}";

fn started(builder: Builder) -> Gateway {
    builder.start().expect("a gateway that starts")
}

/// Answers `/app/marco`.
fn with_marco() -> Gateway {
    started(builder(|_| {}).handler("/app/marco", |request| async move {
        let body = String::from_utf8_lossy(&request.body).into_owned();
        Ok(Some(Answer::text(format!("Polo! {body}"))))
    }))
}

async fn reader(gateway: &Gateway, destination: &str) -> Client {
    let mut reader = Client::connect(gateway, "1.2").await;
    reader.subscribe(&format!("id:0\ndestination:{destination}")).await;
    reader
}

#[tokio::test]
async fn a_handler_is_called_and_its_result_goes_to_the_topic_of_that_name() {
    let gateway = with_marco();
    let mut reader = reader(&gateway, "/topic/marco").await;
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    for destination in ["/app/marco", "/app/ma%72co"] {
        client
            .does(&format!("SEND\ndestination:{destination}\ncorrelation-id:7\nother:x\n\nMarco!"))
            .await
            .without("routed");
        let message = reader.expect("MESSAGE").await.with("destination", "/topic/marco").saying("Polo! Marco!");
        message
            .with("content-type", "text/plain")
            .with("correlation-id", "7")
            .with("stompgate-user", "ada")
            .without("other");
    }
}

/// The example of Spring's documentation, *Flow of Messages*: a `GreetingController` with `@MessageMapping("/greeting")`.
#[tokio::test]
async fn springs_documented_greeting_comes_to_its_topic() {
    let gateway = started(builder(|_| {}).handler("/app/greeting", |request| async move {
        let greeting = String::from_utf8_lossy(&request.body).into_owned();
        Ok(Some(Answer::text(format!("[12:00: {greeting}"))))
    }));
    let mut reader = reader(&gateway, "/topic/greeting").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/app/greeting\ncontent-type:text/plain\n\nHello").await;
    reader.expect("MESSAGE").await.with("destination", "/topic/greeting").saying("[12:00: Hello");
}

#[tokio::test]
async fn in_a_transaction_handlers_run_at_commit_and_none_on_abort() {
    let gateway = with_marco();
    let mut reader = reader(&gateway, "/topic/marco").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    let send = format!("SEND\ndestination:/app/marco\ntransaction:tx-0\ncontent-length:20\n\n{MARCO}");
    client.does("BEGIN\ntransaction:tx-0").await;
    client.does(&send).await;
    reader.expect_nothing().await;
    client.does("COMMIT\ntransaction:tx-0").await.without("routed");
    reader.expect("MESSAGE").await.saying(format!("Polo! {MARCO}"));

    client.does("BEGIN\ntransaction:tx-0").await;
    client.does(&send).await;
    client.does("ABORT\ntransaction:tx-0").await;
    reader.expect_nothing().await;
}

#[tokio::test]
async fn a_handler_that_fails_at_commit_publishes_nothing_and_ends_the_session() {
    let gateway = started(
        builder(|_| {})
            .handler("/app/good", |_| async { Ok(Some(Answer::text("good"))) })
            .handler("/app/bad", |_| async { Err(Failure::new(422, "no such item")) }),
    );
    let mut reader = reader(&gateway, "/topic/#").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("BEGIN\ntransaction:t").await;
    for destination in ["/topic/a", "/app/good", "/app/bad"] {
        client.does(&format!("SEND\ndestination:{destination}\ntransaction:t\n\nx")).await;
    }
    let receipt = client.asks("COMMIT\ntransaction:t").await;
    let error = client.expect_error("handler-failed", 1008).await;
    error.with("receipt-id", &receipt).about("422").about("no such item");
    Client::connect(&gateway, "1.2").await.does("SEND\ndestination:/topic/end\n\n").await;
    reader.expect("MESSAGE").await.with("destination", "/topic/end");
}

#[tokio::test]
async fn a_failure_is_told_in_a_message_and_in_the_receipt_and_the_session_goes_on() {
    let gateway = started(builder(|_| {}).handler("/app/buy", |_| async { Err(Failure::new(422, "sold out")) }));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/app/buy\n\nx").await.with("status", "422");

    client.subscribe("id:e\ndestination:/user/queue/errors").await;
    let receipt = client.asks("SEND\ndestination:/app/buy\ncorrelation-id:8\n\nx").await;
    let told = client.expect("MESSAGE").await.with("subscription", "e").with("destination", "/user/queue/errors");
    told.with("status", "422").with("correlation-id", "8").with("stompgate-destination", "/app/buy").saying("sold out");
    client.expect("RECEIPT").await.with("receipt-id", &receipt).with("status", "422");

    let receipt = client.asks("SEND\ndestination:/app/buy\nreply-to:/temp-queue/r\n\nx").await;
    client.expect("MESSAGE").await.with("subscription", "/temp-queue/r").with("status", "422").saying("sold out");
    client.expect("RECEIPT").await.with("receipt-id", &receipt).with("status", "422");
}

#[tokio::test]
async fn a_failure_is_for_the_session_that_sent_and_no_other_of_the_user() {
    let gateway = started(builder(|_| {}).handler("/app/buy", |_| async { Err(Failure::new(422, "sold out")) }));
    let mut other = Client::connect_with(&gateway, "1.2", "login:ada").await;
    other.subscribe("id:e\ndestination:/user/queue/errors").await;
    let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
    client.does("SEND\ndestination:/app/buy\n\nx").await.with("status", "422");
    other.expect_nothing().await;
}

#[tokio::test]
async fn a_route_may_fail_hard() {
    let failing = handler(|_| async { Err(Failure::new(503, "out of order")) });
    let route = Route::new("/app/x", Separators::Both).unwrap().handled_by(failing).failing_hard();
    let gateway = started(builder(|_| {}).route(route));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/app/x\nreceipt:r\n\nx").await;
    client.expect_error("handler-failed", 1008).await.with("receipt-id", "r").about("out of order");
}

#[tokio::test]
async fn what_takes_too_long_is_a_failure_of_its_own_kind() {
    let gateway = started(
        builder(|config| config.app.timeout = Duration::from_millis(20))
            .handler("/app/never", |_| std::future::pending()),
    );
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/app/never\n\nx").await.with("status", "504");
}

#[tokio::test]
async fn a_subscription_to_a_handler_is_answered_once() {
    let gateway = started(builder(|_| {}).handler("/app/items/{shop}", |request: Request| async move {
        assert!(!request.is_send);
        Ok(Some(Answer::text(request.variables.get("shop").unwrap_or_default().to_owned())))
    }));
    let mut other = reader(&gateway, "/topic/#").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    let receipt = client.asks("SUBSCRIBE\nid:a\ncorrelation-id:9\ndestination:/app/items.7").await;
    let answer = client.expect("MESSAGE").await.with("subscription", "a").with("destination", "/app/items.7");
    answer.with("correlation-id", "9").without("ack").saying("7");
    client.expect("RECEIPT").await.with("receipt-id", &receipt);
    client.does("UNSUBSCRIBE\nid:a").await;
    client.expect_nothing().await;
    other.expect("MESSAGE").await.with("destination", "/topic/nobody-listens-here");
}

#[tokio::test]
async fn a_snapshot_comes_before_everything_and_nothing_is_missed() {
    let (asked, answer) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let (ask, wait) = (Arc::clone(&asked), Arc::clone(&answer));
    let gateway = started(builder(|_| {}).handler("/app/items", move |_| {
        let (ask, wait) = (Arc::clone(&ask), Arc::clone(&wait));
        async move {
            ask.add_permits(1);
            wait.acquire().await.expect("a test that answers").forget();
            Ok(Some(Answer::text("snapshot")))
        }
    }));
    let mut publisher = Client::connect(&gateway, "1.2").await;
    for ack in ["auto", "client"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        let receipt =
            client.asks(&format!("SUBSCRIBE\nid:a\nack:{ack}\ndestination:/topic/items\nx-snapshot:/app/items")).await;
        asked.acquire().await.expect("a gateway that asks").forget();
        for body in ["1", "2"] {
            publisher.does(&format!("SEND\ndestination:/topic/items\n\n{body}")).await.without("routed");
        }
        answer.add_permits(1);
        client.expect("MESSAGE").await.with("subscription", "a").with("destination", "/app/items").saying("snapshot");
        // The receipt may come before or after what was held back.
        let mut seen = Vec::new();
        for _ in 0..3 {
            let frame = client.expect_any().await;
            match frame.maybe("receipt-id") {
                Some(id) => assert_eq!(id, receipt),
                None => seen.push(frame.of("MESSAGE").with("destination", "/topic/items").body()),
            }
        }
        assert_eq!(seen, ["1", "2"]);
        publisher.does("SEND\ndestination:/topic/items\n\n3").await;
        client.expect("MESSAGE").await.saying("3");
        client.vanish();
        until("the client to go", || gateway.connections() == 1).await;
    }
}

#[tokio::test]
async fn a_snapshot_that_fails_hard_ends_the_session_and_nothing_follows_the_error() {
    let gate = gate();
    let waiting = Arc::clone(&gate);
    let failing = handler(move |_| {
        let gate = Arc::clone(&waiting);
        async move {
            gate.waiting.add_permits(1);
            gate.open.acquire().await.expect("a test that opens").forget();
            Err(Failure::new(500, "out of order"))
        }
    });
    let route = Route::new("/app/items", Separators::Both).unwrap().handled_by(failing).failing_hard();
    let gateway = started(builder(|_| {}).route(route));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SUBSCRIBE\nid:a\ndestination:/topic/items\nx-snapshot:/app/items").await;
    gate.waiting.acquire().await.expect("a handler").forget();
    Client::connect(&gateway, "1.2").await.does("SEND\ndestination:/topic/items\n\nheld").await.without("routed");
    gate.open.add_permits(1);
    client.expect_error("handler-failed", 1008).await.about("out of order");
}

#[tokio::test]
async fn results_go_where_the_route_says() {
    let settings = TargetSettings {
        send_to: Some("/queue/orders-{id}".into()),
        send_to_user: Some("queue/orders".into()),
        broadcast: true,
        reply: true,
    };
    let route = |settings: &TargetSettings| {
        let answering = handler(|_| async { Ok(Some(Answer::text("done"))) });
        let route = Route::new("/app/orders/{id}", Separators::Both).unwrap().handled_by(answering);
        route.answering(settings, Separators::Both).unwrap()
    };
    for is_broadcast in [true, false] {
        let gateway =
            started(builder(|_| {}).route(route(&TargetSettings { broadcast: is_broadcast, ..settings.clone() })));
        let mut queue = reader(&gateway, "/queue/orders-a%2Eb").await;
        let mut other = Client::connect_with(&gateway, "1.2", "login:ada").await;
        other.subscribe("id:0\ndestination:/user/queue/orders").await;
        let mut client = Client::connect_with(&gateway, "1.2", "login:ada").await;
        client.subscribe("id:0\ndestination:/user/queue/orders").await;
        client.subscribe("id:1\ndestination:/user/queue/replies").await;
        client.send("SEND\ndestination:/app/orders/a%2Eb\n\nx").await;
        let mut seen = [client.expect("MESSAGE").await, client.expect("MESSAGE").await].map(|message| {
            assert_eq!(message.body(), "done");
            message.get("destination")
        });
        seen.sort();
        assert_eq!(seen, ["/user/queue/orders", "/user/queue/replies"]);
        queue.expect("MESSAGE").await.saying("done");
        if is_broadcast {
            other.expect("MESSAGE").await.with("destination", "/user/queue/orders");
        }
        other.expect_nothing().await;
    }
}

/// Answers when it is told to, and counts how many wait.
pub(crate) struct Gate {
    pub(crate) waiting: Semaphore,
    pub(crate) open: Semaphore,
}

pub(crate) fn gated(pattern: &str, gate: &Arc<Gate>) -> Route {
    let gate = Arc::clone(gate);
    let waiting = handler(move |request: Request| {
        let gate = Arc::clone(&gate);
        async move {
            gate.waiting.add_permits(1);
            gate.open.acquire().await.expect("a test that opens").forget();
            Ok(Some(Answer::new("text/plain", request.body)))
        }
    });
    Route::new(pattern, Separators::Both).unwrap().handled_by(waiting)
}

pub(crate) fn gate() -> Arc<Gate> {
    Arc::new(Gate { waiting: Semaphore::new(0), open: Semaphore::new(0) })
}

#[tokio::test]
async fn a_slow_handler_holds_up_neither_deliveries_nor_heart_beats_but_what_follows_it() {
    let gate = gate();
    let gateway = started(
        builder(|config| config.session.heartbeat_min = Duration::from_millis(10)).route(gated("/app/slow", &gate)),
    );
    let mut reader = reader(&gateway, "/topic/#").await;
    let mut client = Client::connect_with(&gateway, "1.2", "heart-beat:0,20").await;
    client.subscribe("id:0\ndestination:/topic/news").await;
    client.send("SEND\ndestination:/app/slow\n\nfirst").await;
    client.send("SEND\ndestination:/topic/after\n\nsecond").await;
    gate.waiting.acquire().await.expect("a handler").forget();
    client.expect_heartbeat().await;
    let mut publisher = Client::connect(&gateway, "1.2").await;
    publisher.does("SEND\ndestination:/topic/news\n\nnews").await;
    client.expect("MESSAGE").await.saying("news");
    reader.expect("MESSAGE").await.saying("news");
    gate.open.add_permits(1);
    assert_eq!(reader.bodies(2).await, ["first", "second"]);
}

#[tokio::test]
async fn a_concurrent_route_holds_up_nothing_until_too_many_calls_are_under_way() {
    let gate = gate();
    let gateway =
        started(builder(|config| config.app.max_concurrent = 2).route(gated("/app/slow", &gate).concurrent()));
    let mut reader = reader(&gateway, "/topic/#").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    for body in ["1", "2"] {
        client.send(format!("SEND\ndestination:/app/slow\n\n{body}")).await;
    }
    client.does("SEND\ndestination:/topic/a\n\nafter two").await;
    reader.expect("MESSAGE").await.saying("after two");
    client.send("SEND\ndestination:/app/slow\n\n3").await;
    client.send("SEND\ndestination:/topic/a\n\nafter three").await;
    gate.waiting.acquire_many(3).await.expect("handlers").forget();
    gate.open.add_permits(3);
    let mut seen = reader.bodies(4).await;
    let place = |body: &str| seen.iter().position(|seen| seen == body).expect("it came");
    assert!(place("3") < place("after three"), "{seen:?}");
    seen.sort();
    assert_eq!(seen, ["1", "2", "3", "after three"]);
}

/// Writes down what it sees, and refuses what it is told to.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl Interceptor for Diary {
    fn name(&self) -> &'static str {
        "diary"
    }

    fn interest(&self, event: Event<'_>) -> Interest {
        match event {
            Event::Send(Destination::Topic(name)) if name.as_str() == "unseen" => Interest::None,
            Event::Message(Destination::Topic(name)) if name.first() != "shown" => Interest::None,
            Event::Message(Destination::User { .. }) => Interest::None,
            _ => Interest::Ordered,
        }
    }

    async fn connect(&self, principal: Principal, context: &Context) -> Result<Principal, Rejection> {
        assert_eq!(context.principal, principal);
        match &*principal.name {
            "eve" => Err(Refusal::not_authenticated("eve").into()),
            "bob" => Ok(Principal::new("robert")),
            _ => Ok(principal),
        }
    }

    async fn send(&self, mut message: Message, _: &Context) -> Result<Verdict, Rejection> {
        match &*message.body {
            b"consume" => return Ok(Verdict::Answer(Vec::new())),
            b"refuse" => return Err(Refusal::rejected("it is not wanted").into()),
            _ => {}
        }
        message.headers.push("seen-by", "diary");
        Ok(Verdict::Continue(message))
    }

    async fn subscribe(&self, subscription: &Subscription, _: &Context) -> Result<Option<Answer>, Rejection> {
        if subscription.destination.to_string() == "/topic/secret" {
            return Err(Failure::new(403, "secret").into());
        }
        self.note(format!("subscribe {} {}", subscription.number, subscription.destination));
        Ok(None)
    }

    async fn unsubscribe(&self, subscription: &Subscription, _: &Context) {
        self.note(format!("unsubscribe {} {}", subscription.number, subscription.destination));
    }

    async fn disconnect(&self, cause: &str, context: &Context) {
        self.note(format!("disconnect {} {cause}", context.principal.name));
    }

    async fn acknowledge(
        &self,
        settlement: Settlement,
        deliveries: usize,
        subscription: &Subscription,
        _: &Context,
    ) -> Result<Settlement, Rejection> {
        self.note(format!("{settlement:?} {deliveries} of {}", subscription.destination));
        match &subscription.destination {
            Destination::Queue(name) if name == "kept" => Err(Refusal::rejected("it is to be kept").into()),
            Destination::Queue(name) if name == "again" && settlement == Settlement::Accept => Ok(Settlement::Requeue),
            _ => Ok(settlement),
        }
    }

    async fn message(
        &self,
        mut message: Message,
        subscription: &Subscription,
        context: &Context,
    ) -> Result<Option<Message>, Rejection> {
        match &*message.body {
            b"hidden" => return Ok(None),
            b"broken" => return Err(Failure::new(500, "it cannot be shown").into()),
            b"end" => return Err(Refusal::rejected("not for you").into()),
            _ => {}
        }
        message.headers.set("shown-to", context.principal.name.clone());
        message.headers.set("through", subscription.destination.to_string());
        Ok(Some(message))
    }

    fn completed(&self, event: Event<'_>, result: Result<&Outcome, &Refusal>, _: &Context) {
        let result = result.map(|outcome| outcome.routed).map_err(|refusal| refusal.code);
        match event {
            Event::Send(destination) => self.note(format!("completed {destination} {result:?}")),
            Event::Subscribe(destination) => self.note(format!("opened {destination} {result:?}")),
            Event::Acknowledge(destination) => self.note(format!("settled {destination} {result:?}")),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn an_interceptor_sees_and_changes_what_acknowledgements_do() {
    let diary = Diary::default();
    let gateway = started(builder(|_| {}).interceptor(diary.clone()));
    let mut client = Client::connect(&gateway, "1.2").await;
    for body in ["1", "2"] {
        client.does(&format!("SEND\ndestination:/queue/again\n\n{body}")).await;
    }
    client.subscribe("id:0\ndestination:/queue/again\nack:client").await;
    client.expect("MESSAGE").await.saying("1");
    let last = client.expect("MESSAGE").await.saying("2").get("ack");
    client.send(format!("ACK\nid:{last}")).await;
    client.expect("MESSAGE").await.saying("1").with("redelivered", "true");
    let last = client.expect("MESSAGE").await.saying("2").with("redelivered", "true").get("ack");
    client.does("BEGIN\ntransaction:t").await;
    client.does(&format!("NACK\nid:{last}\nrequeue:false\ntransaction:t")).await;
    client.does("COMMIT\ntransaction:t").await;
    client.does("SEND\ndestination:/queue/kept\n\nx").await;
    client.subscribe("id:1\ndestination:/queue/kept\nack:client-individual").await;
    let kept = client.expect("MESSAGE").await.get("ack");
    client.does("UNSUBSCRIBE\nid:1").await;
    client.send(format!("ACK\nid:{kept}")).await;
    client.expect_error("rejected", 1008).await.about("to be kept");
    let seen = |word: &str| diary.lines().into_iter().filter(|line| line.contains(word)).collect::<Vec<_>>();
    assert_eq!(seen(" of "), ["Accept 2 of /queue/again", "Reject 2 of /queue/again", "Accept 1 of /queue/kept"]);
    let settled = ["/queue/again Ok(true)", "/queue/again Ok(true)", "/queue/kept Err(\"rejected\")"];
    assert_eq!(seen("settled"), settled.map(|line| format!("settled {line}")));
}

#[tokio::test]
async fn an_interceptor_that_asks_for_it_sees_what_subscribers_get() {
    let gateway = started(builder(|_| {}).interceptor(Diary::default()));
    let mut reader = Client::connect_with(&gateway, "1.2", "login:ada").await;
    reader.subscribe("id:0\ndestination:/topic/shown/#").await;
    reader.subscribe("id:1\ndestination:/topic/plain").await;
    reader.subscribe("id:2\ndestination:/queue/q").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    for body in ["1", "hidden", "broken", "2"] {
        client.does(&format!("SEND\ndestination:/topic/shown/a\n\n{body}")).await.without("routed");
        client.does(&format!("SEND\ndestination:/queue/q\n\n{body}")).await;
    }
    let mut told = Vec::new();
    for _ in 0..4 {
        let message = reader.expect("MESSAGE").await.with("shown-to", "ada");
        told.push((message.get("through"), message.body()));
    }
    told.sort();
    let expected = [("/queue/q", "1"), ("/queue/q", "2"), ("/topic/shown/#", "1"), ("/topic/shown/#", "2")];
    assert_eq!(told, expected.map(|(through, body)| (through.to_owned(), body.to_owned())));
    client.does("SEND\ndestination:/topic/plain\n\nhidden").await;
    reader.expect("MESSAGE").await.with("subscription", "1").without("shown-to").saying("hidden");
    client.does("SEND\ndestination:/topic/shown/b\n\nend").await;
    reader.expect_error("rejected", 1008).await.about("not for you");
}

/// Sees what is sent to users and to reply addresses, and holds back what says so.
struct Letters;

#[async_trait]
impl Interceptor for Letters {
    fn name(&self) -> &'static str {
        "letters"
    }

    fn interest(&self, event: Event<'_>) -> Interest {
        match event {
            Event::Message(Destination::User { .. } | Destination::TemporaryQueue(_)) => Interest::Ordered,
            _ => Interest::None,
        }
    }

    async fn message(
        &self,
        mut message: Message,
        subscription: &Subscription,
        _: &Context,
    ) -> Result<Option<Message>, Rejection> {
        if message.body == "hidden" {
            return Ok(None);
        }
        message.headers.set("through", subscription.destination.to_string());
        Ok(Some(message))
    }
}

#[tokio::test]
async fn an_interceptor_sees_what_is_sent_to_users_and_to_reply_addresses() {
    let gateway = started(builder(|_| {}).interceptor(Letters));
    let mut ada = Client::connect_with(&gateway, "1.2", "login:ada").await;
    ada.subscribe("id:0\ndestination:/user/queue/letters").await;
    ada.subscribe("id:1\ndestination:/topic/questions").await;
    let mut bob = Client::connect_with(&gateway, "1.2", "login:bob").await;
    for body in ["hidden", "1", "hidden", "2"] {
        bob.does(&format!("SEND\ndestination:/user/ada/queue/letters\n\n{body}")).await.without("routed");
    }
    for body in ["1", "2"] {
        let letter = ada.expect("MESSAGE").await.with("destination", "/user/queue/letters").with("subscription", "0");
        letter.with("through", "/user/queue/letters").with("stompgate-user", "bob").saying(body);
    }
    bob.does("SEND\ndestination:/topic/questions\nreply-to:/temp-queue/r\n\n?").await;
    let address = ada.expect("MESSAGE").await.without("through").get("reply-to");
    for body in ["hidden", "answer"] {
        ada.does(&format!("SEND\ndestination:{address}\n\n{body}")).await;
    }
    bob.expect("MESSAGE").await.with("through", "/temp-queue/r").saying("answer");
    ada.does("UNSUBSCRIBE\nid:0").await;
    bob.does("SEND\ndestination:/user/ada/queue/letters\n\nlate").await;
    bob.does("SEND\ndestination:/topic/questions\n\nafter").await;
    ada.expect("MESSAGE").await.saying("after");
}

#[tokio::test]
async fn an_interceptor_changes_consumes_and_refuses_and_learns_how_it_ended() {
    let diary = Diary::default();
    let gateway = started(builder(|_| {}).interceptor(diary.clone()));
    let mut reader = reader(&gateway, "/topic/a").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("SEND\ndestination:/topic/a\n\nx").await;
    reader.expect("MESSAGE").await.with("seen-by", "diary");
    client.does("SEND\ndestination:/topic/a\n\nconsume").await;
    client.does("SEND\ndestination:/topic/nobody\n\nx").await.unrouted();
    client.does("SEND\ndestination:/topic/unseen\n\nx").await;
    client.send("SEND\ndestination:/topic/a\n\nrefuse").await;
    client.expect_error("rejected", 1008).await;
    let completed: Vec<_> = diary.lines().into_iter().filter(|line| line.starts_with("completed")).collect();
    let nobody = format!("/topic/nobody Ok({})", !TELLS_UNROUTED);
    let expected = ["/topic/a Ok(true)", "/topic/a Ok(true)", &nobody, "/topic/a Err(\"rejected\")"];
    assert_eq!(completed, expected.map(|line| format!("completed {line}")));
}

#[tokio::test]
async fn an_interceptor_names_and_refuses_clients() {
    let gateway = started(builder(|_| {}).interceptor(Diary::default()));
    let mut bob = Client::open(&gateway).await;
    bob.login("1.2", "login:bob").await.with("user-name", "robert");
    let mut eve = Client::open(&gateway).await;
    eve.send("CONNECT\naccept-version:1.2\nlogin:eve").await;
    eve.expect_error("not-authenticated", 4401).await;
}

#[tokio::test]
async fn an_interceptor_sees_who_reads_what_and_may_refuse_it() {
    let diary = Diary::default();
    let gateway = started(builder(|_| {}).interceptor(diary.clone()));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:a\ndestination:/topic/x.y").await;
    client.subscribe("id:b\ndestination:/queue/q").await;
    client.does("UNSUBSCRIBE\nid:b").await;
    client.does("UNSUBSCRIBE\nid:a").await;
    let seen = [
        "subscribe 0 /topic/x/y",
        "opened /topic/x/y Ok(true)",
        "subscribe 1 /queue/q",
        "opened /queue/q Ok(true)",
        "unsubscribe 1 /queue/q",
        "unsubscribe 0 /topic/x/y",
    ];
    until("the last one to be told", || diary.lines().len() == seen.len()).await;
    assert_eq!(diary.lines(), seen);
    client.send("SUBSCRIBE\nid:c\ndestination:/topic/sec%72et").await;
    client.expect_error("handler-failed", 1008).await.about("secret");
    until("its end to be told", || diary.lines().len() == seen.len() + 2).await;
    assert_eq!(diary.lines()[seen.len()], "opened /topic/secret Err(\"handler-failed\")");
}

#[tokio::test]
async fn an_interceptor_learns_how_subscriptions_to_handlers_and_those_that_the_broker_refuses_ended() {
    let diary = Diary::default();
    let gateway = builder(|_| {}).interceptor(diary.clone());
    let gateway = started(gateway.handler("/app/items", |_| async { Ok(Some(Answer::text("items"))) }));
    let mut client = Client::connect(&gateway, "1.2").await;
    for frame in ["id:a\ndestination:/app/items", "id:b\ndestination:/topic/items\nx-snapshot:/app/items"] {
        client.send(format!("SUBSCRIBE\n{frame}")).await;
        client.expect("MESSAGE").await.saying("items");
    }
    let durable = "id:c\ndestination:/topic/kept\ndurable:true";
    let mut ada = Client::connect_with(&gateway, "1.2", "login:ada\nclient-id:c").await;
    ada.subscribe(durable).await;
    let mut other = Client::connect_with(&gateway, "1.2", "login:ada\nclient-id:c").await;
    other.send(format!("SUBSCRIBE\n{durable}")).await;
    other.expect_error("subscription-in-use", 1008).await;
    ada.does("UNSUBSCRIBE\nid:c\ndurable:true").await;
    let opened: Vec<_> = diary.lines().into_iter().filter(|line| line.starts_with("opened")).collect();
    let expected = [
        "/app/items Ok(true)",
        "/topic/items Ok(true)",
        "/app/items Ok(true)",
        "/topic/kept Ok(true)",
        "/topic/kept Err(\"subscription-in-use\")",
    ];
    assert_eq!(opened, expected.map(|line| format!("opened {line}")));
}

/// Writes down how SENDs ended, and holds up nothing.
#[derive(Clone, Default)]
struct Ends(Diary);

#[async_trait]
impl Interceptor for Ends {
    fn name(&self) -> &'static str {
        "ends"
    }

    fn interest(&self, event: Event<'_>) -> Interest {
        if matches!(event, Event::Send(_)) { Interest::Concurrent } else { Interest::None }
    }

    fn completed(&self, event: Event<'_>, result: Result<&Outcome, &Refusal>, context: &Context) {
        self.0.completed(event, result, context);
    }
}

#[tokio::test]
async fn an_interceptor_learns_how_a_send_ended_although_its_session_did_before() {
    let (ends, gate) = (Ends::default(), gate());
    let gateway = builder(|_| {}).route(gated("/app/ordered", &gate)).route(gated("/app/beside", &gate).concurrent());
    let gateway = started(gateway.interceptor(ends.clone()));
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/app/beside\n\nx").await;
    client.send("SEND\ndestination:/app/ordered\n\nx").await;
    gate.waiting.acquire_many(2).await.expect("handlers").forget();
    client.vanish();
    gate.open.add_permits(2);
    until("the session to end", || gateway.connections() == 0).await;
    let mut lines = ends.0.lines();
    lines.sort();
    assert_eq!(
        lines,
        ["beside", "ordered"].map(|name| format!("completed /app/{name} Ok({})", !TELLS_UNROUTED)),
        "once for each"
    );
}

#[tokio::test]
async fn a_session_ends_although_its_handler_has_not_and_says_what_was_cut_off() {
    let (diary, gate) = (Ends::default(), gate());
    let gateway = builder(|config| {
        config.app.timeout = Duration::from_mins(9);
        config.session.confirm_timeout = Duration::from_mins(10);
        config.session.heartbeat_min = Duration::from_millis(10);
        config.server.close_timeout = Duration::from_millis(100);
    });
    let gateway = started(gateway.route(gated("/app/ordered", &gate)).interceptor(diary.clone()));
    for (number, is_silent) in [(1, false), (2, true)] {
        let beat = if is_silent { "heart-beat:20,0" } else { "heart-beat:0,0" };
        let mut client = Client::connect_with(&gateway, "1.2", beat).await;
        client.send("SEND\ndestination:/app/ordered\n\nx").await;
        client.send_message(b"\n".to_vec()).await; // a heart-beat
        gate.waiting.acquire().await.expect("a handler").forget();
        if is_silent {
            client.expect_error("heartbeat-timeout", 4408).await;
        } else {
            client.vanish();
        }
        until("the session to end", || gateway.connections() == 0).await;
        assert_eq!(diary.0.lines(), vec!["completed /app/ordered Err(\"cut-off\")"; number]);
    }
}

#[tokio::test]
async fn every_end_of_a_session_is_told_once_with_its_cause() {
    let diary = Diary::default();
    let gateway = started(builder(|_| {}).interceptor(diary.clone()));
    let mut expected = Vec::new();
    for (name, cause) in [("ada", "disconnect"), ("bea", "lost"), ("cyd", "unknown-command")] {
        let mut client = Client::connect_with(&gateway, "1.2", &format!("login:{name}")).await;
        expected.push(format!("disconnect {name} {cause}"));
        match cause {
            "disconnect" => client.disconnect().await,
            "lost" => client.vanish(),
            _ => {
                client.send("FOO").await;
                client.expect_error("unknown-command", 1002).await;
            }
        }
        until("the session to end", || gateway.connections() == 0).await;
    }
    let mut client = Client::connect_with(&gateway, "1.2", "login:dan").await;
    expected.push("disconnect dan shutdown".to_owned());
    tokio::join!(gateway.shut_down(), client.expect_close(1012));
    assert_eq!(diary.lines(), expected);
}

#[tokio::test]
async fn nobody_there_is_refused_before_anything_else_happens() {
    let gateway = with_marco();
    for frame in ["SEND\ndestination:/app/polo\n\nx", "SUBSCRIBE\nid:a\ndestination:/app/polo"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(frame).await;
        client.expect_error("no-handler", 1008).await;
    }
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("BEGIN\ntransaction:t").await;
    client.send("SEND\ndestination:/app/polo\ntransaction:t\n\nx").await;
    client.expect_error("no-handler", 1008).await;
}

#[test]
fn settings_of_a_route_that_make_no_sense_are_named() {
    let route = Route::new("/app/{id}", Separators::Both).unwrap();
    for (send_to, why) in
        [("/app/x", "/app again"), ("/topic/{name}", "{name}"), ("/topic/*", "wildcard"), ("topic/x", "no known kind")]
    {
        let settings = TargetSettings { send_to: Some(send_to.into()), ..TargetSettings::default() };
        let (key, found) = route.clone().answering(&settings, Separators::Both).err().expect("a fault");
        assert_eq!(key, "send_to");
        assert!(found.contains(why), "{found}");
    }
    assert!(Config::default().check().is_ok());
}
