//! What a chain makes of its interceptors, without a server.

use std::sync::{Mutex, PoisonError};

use super::*;
use crate::message::{Pattern, PublishOptions};

/// What interceptors were asked, in order.
type Log = Arc<Mutex<Vec<String>>>;

/// Writes down what it is asked, and does with a SEND what its body says under its own name.
struct Named(&'static str, Log);

impl Named {
    fn note(&self, what: &str) {
        self.1.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{} {what}", self.0));
    }
}

#[async_trait]
impl Interceptor for Named {
    fn name(&self) -> &'static str {
        self.0
    }

    fn interest(&self, event: Event<'_>) -> Interest {
        match event {
            Event::Send(Destination::Queue(name)) if **name == *"second-only" && self.0 == "first" => Interest::None,
            Event::Send(Destination::Queue(name)) if **name == *"concurrent" => Interest::Concurrent,
            _ => Interest::Ordered,
        }
    }

    async fn connect(&self, principal: Principal, _: &Context) -> Result<Principal, Rejection> {
        self.note(&format!("connect {}", principal.name));
        match (self.0, &*principal.name) {
            ("second", "ada of first") => Err(Failure::new(500, "no more of them").into()),
            ("second", "eve of first") => Err(Refusal::not_authenticated("eve").into()),
            _ => Ok(Principal::new(format!("{} of {}", principal.name, self.0))),
        }
    }

    async fn send(&self, mut message: Message, _: &Context) -> Result<Verdict, Rejection> {
        self.note("send");
        let body = String::from_utf8_lossy(&message.body).into_owned();
        match body.strip_prefix(self.0) {
            Some(" answers") => Ok(Verdict::Answer(Vec::new())),
            Some(" waits") => std::future::pending().await,
            Some(" fails") => Err(Failure::new(422, "no").into()),
            Some(" moves") => {
                message.destination = Destination::Queue("second-only".into());
                Ok(Verdict::Continue(message))
            }
            _ => {
                message.headers.push("seen-by", self.0);
                Ok(Verdict::Continue(message))
            }
        }
    }

    async fn subscribe(&self, _: &Subscription, _: &Context) -> Result<Option<Answer>, Rejection> {
        self.note("subscribe");
        Ok(None)
    }

    async fn disconnect(&self, cause: &str, context: &Context) {
        self.note(&format!("disconnect {} {cause}", context.principal.name));
        if cause == "never told" {
            std::future::pending::<()>().await;
        }
    }

    fn completed(&self, _: Event<'_>, result: Result<&Outcome, &Refusal>, _: &Context) {
        self.note(&format!("completed {}", result.is_ok()));
    }
}

fn chain(names: &[&'static str]) -> (Chain, Log) {
    let log = Log::default();
    let interceptor = |name: &&'static str| Arc::new(Named(name, Arc::clone(&log))) as Arc<dyn Interceptor>;
    (Chain::new(names.iter().map(interceptor).collect(), &Settings::default()), log)
}

fn context(user: &str) -> Context {
    let (session, principal) = (Text::from_static("s-1"), Principal::new(user.to_owned()));
    Context { session, principal, peer: ([127, 0, 0, 1], 1).into(), tenant: None }
}

fn message(queue: &'static str, body: &'static str) -> Message {
    let destination = Destination::Queue(queue.into());
    Message { destination, headers: Headers::new(), body: body.into(), options: PublishOptions::default() }
}

async fn send(chain: &Chain, queue: &'static str, body: &'static str) -> Result<Verdict, Rejection> {
    chain.send(message(queue, body), &context("ada")).await
}

fn lines(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap_or_else(PoisonError::into_inner))
}

#[tokio::test]
async fn each_sees_what_the_one_before_made_of_it() {
    let (chain, log) = chain(&["first", "second"]);
    let Ok(Verdict::Continue(message)) = send(&chain, "q", "x").await else { panic!("it goes on") };
    let seen: Vec<_> = message.headers.iter().map(|(_, value)| value.to_string()).collect();
    assert_eq!(seen, ["first", "second"]);
    assert_eq!(lines(&log), ["first send", "second send"]);
}

#[tokio::test]
async fn an_answer_or_a_rejection_is_the_end() {
    let (chain, log) = chain(&["first", "second", "third"]);
    let answered = send(&chain, "q", "second answers").await;
    assert!(matches!(&answered, Ok(Verdict::Answer(replies)) if replies.is_empty()), "{answered:?}");
    let failed = send(&chain, "q", "second fails").await.err();
    assert_eq!(failed, Some(Failure::new(422, "no").into()));
    assert_eq!(lines(&log), ["first send", "second send"].repeat(2));
}

#[tokio::test]
async fn interest_is_asked_of_where_the_message_goes_by_then() {
    let (chain, log) = chain(&["second", "first"]);
    assert!(send(&chain, "q", "second moves").await.is_ok());
    assert_eq!(lines(&log), ["second send"], "first has no interest in what it was moved to");
    let interest = |queue: &'static str| chain.interest(Event::Send(&message(queue, "").destination));
    assert_eq!([interest("q"), interest("second-only")], [Interest::Ordered; 2], "the strongest counts");
    assert_eq!(interest("concurrent"), Interest::Concurrent);
    assert_eq!(Chain::new(Vec::new(), &Settings::default()).interest(Event::Connect), Interest::None);
}

#[tokio::test(start_paused = true)]
async fn who_takes_longer_than_the_setting_has_failed_and_who_is_told_is_waited_for_no_longer() {
    let (chain, log) = chain(&["first", "second"]);
    let failed = send(&chain, "q", "first waits").await.err();
    assert!(matches!(failed, Some(Rejection::Failed(Failure { status: 504, .. }))), "{failed:?}");
    lines(&log);
    chain.disconnect("never told", &context("ada")).await;
    assert_eq!(lines(&log), ["first disconnect ada never told", "second disconnect ada never told"]);
}

#[tokio::test]
async fn nobody_has_answered_what_is_for_app() {
    let (chain, _) = chain(&["first"]);
    let destination = Destination::Application(Pattern::canonical("x"));
    let sent = chain.send(Message { destination: destination.clone(), ..message("q", "x") }, &context("ada")).await;
    let subscription = Subscription { number: 0, destination, headers: Headers::new() };
    let asked = chain.subscribe(&subscription, &context("ada")).await;
    for rejection in [sent.err(), asked.err()] {
        assert!(
            matches!(&rejection, Some(Rejection::Refused(refusal)) if refusal.code == "no-handler"),
            "{rejection:?}"
        );
    }
}

#[tokio::test]
async fn a_client_has_the_name_of_the_last_and_who_let_in_a_refused_one_learns_that_it_is_gone() {
    let (chain, log) = chain(&["first", "second", "third"]);
    let named = chain.connect(&context("bob")).await.map(|principal| principal.name.to_string());
    assert_eq!(named.as_deref(), Ok("bob of first of second of third"));
    lines(&log);
    for (user, code) in [("eve", "not-authenticated"), ("ada", "handler-failed")] {
        let refusal = chain.connect(&context(user)).await.err();
        assert_eq!(refusal.map(|refusal| refusal.code), Some(code));
        let expected = ["first connect {}", "second connect {} of first", "first disconnect {} of first refused"];
        assert_eq!(lines(&log), expected.map(|line| line.replace("{}", user)));
    }
}

#[tokio::test]
async fn all_learn_how_it_ended() {
    let (chain, log) = chain(&["first", "second"]);
    let destination = Destination::Queue("q".into());
    let (done, context) = (Outcome::DONE, context("ada"));
    chain.completed(Event::Send(&destination), Ok(&done), &context);
    let refusal = Refusal::no_handler("/app/x");
    chain.completed(Event::Send(&destination), Err(&refusal), &context);
    let expected = ["first completed true", "second completed true", "first completed false", "second completed false"];
    assert_eq!(lines(&log), expected);
}
