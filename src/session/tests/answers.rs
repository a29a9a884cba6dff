//! What handlers of the chain answer.

use super::*;
use crate::message::Handled;

fn handled(replies: Vec<Message>, status: Option<u16>) -> Done {
    Done::Handled(Handled { outcome: Outcome::DONE, replies, status })
}

fn answer(destination: Destination) -> Message {
    let headers = Headers::from([("content-type", "text/plain")]);
    Message { destination, headers, body: "42".into(), options: PublishOptions::default() }
}

fn shop(name: &'static str) -> Destination {
    Destination::Application(Pattern::canonical(name))
}

#[test]
fn a_send_to_a_handler_is_published_like_any_other() {
    let mut script = Script::connected("1.2");
    let (_, action) = script.asks("SEND\ndestination:/app/shop.buy\n\nx");
    let Action::Publish(_, message) = action else { panic!("{action:?}") };
    assert_eq!(message.destination, shop("shop/buy"));
}

#[test]
fn the_receipt_carries_the_status_of_a_failure() {
    let mut script = Script::connected("1.2");
    let (ticket, _) = script.asks("SEND\ndestination:/app/shop/buy\nreceipt:r\n\nx");
    let receipt = one_frame(script.input(Input::Done(ticket, Ok(handled(Vec::new(), Some(422))))));
    assert_eq!((header(&receipt, "receipt-id"), header(&receipt, "status")), ("r", "422"));
}

#[test]
fn a_subscription_to_a_handler_is_answered_once_then_the_receipt() {
    let mut script = Script::connected("1.2");
    let (ticket, action) = script.asks("SUBSCRIBE\nid:a\ndestination:/app/shop.items\nreceipt:r\nlimit:5\n\n");
    let Action::Subscribe(_, key, Request::Application(asked)) = action else { panic!("{action:?}") };
    assert_eq!((asked.name.as_str(), asked.headers), ("shop/items", Headers::from([("limit", "5")])));
    assert!(!script.session.is_ready());
    let actions = script.input(Input::Done(ticket, Ok(handled(vec![answer(shop("shop/items"))], None))));
    let [Action::Deliver(deliver), Action::Send(receipt)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((deliver.subscription.as_deref(), &*deliver.destination), (Some("a"), "/app/shop.items"));
    assert_eq!(deliver.ack, None);
    assert_eq!(header(receipt, "receipt-id"), "r");
    let (_, action) = script.asks("UNSUBSCRIBE\nid:a\n\n");
    assert!(matches!(action, Action::Unsubscribe(_, same, false) if same == key));
}

#[test]
fn a_snapshot_goes_to_the_subscription_that_asked() {
    let mut script = Script::connected("1.2");
    let (ticket, action) = script.asks("SUBSCRIBE\nid:a\ndestination:/topic/items\nx-snapshot:/app/shop/items\n\n");
    let Action::Subscribe(_, _, Request::Snapshot(request, _)) = action else { panic!("{action:?}") };
    assert!(matches!(*request, Request::Shared(SharedSource::Topic(_), _)));
    let actions = script.input(Input::Done(ticket, Ok(handled(vec![answer(shop("shop/items"))], None))));
    let [Action::Deliver(deliver)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((deliver.subscription.as_deref(), &*deliver.destination), (Some("a"), "/app/shop/items"));
}

#[test]
fn a_reply_finds_the_subscription_that_reads_it() {
    let mut script = Script::connected("1.2");
    let (ticket, _) = script.asks("SUBSCRIBE\nid:a\ndestination:/user/topic/*\n\n");
    assert_eq!(script.done(ticket).len(), 0);
    let (ticket, _) = script.asks("SUBSCRIBE\nid:e\ndestination:/user/queue/errors\n\n");
    assert_eq!(script.done(ticket).len(), 0);
    let (ticket, _) = script.asks("SEND\ndestination:/app/shop/buy\n\nx");
    let own = |name| Destination::User { user: None, name: Pattern::canonical(name) };
    let replies = vec![answer(own("queue/errors")), answer(own("queue/nobody")), answer(shop("shop/buy"))];
    let actions = script.input(Input::Done(ticket, Ok(handled(replies, None))));
    let [Action::Deliver(deliver)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((deliver.subscription.as_deref(), &*deliver.destination), (Some("e"), "/user/queue/errors"));
}

#[test]
fn a_reply_finds_the_reply_address() {
    let mut script = Script::connected("1.2");
    let (ticket, _) = script.asks("SEND\ndestination:/app/shop/buy\nreply-to:/temp-queue/q\n\nx");
    let actions = script.input(Input::Done(ticket, Ok(Done::ReplyAddress("x1".into()))));
    let [Action::Publish(ticket, message)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(message.headers.get("reply-to").unwrap(), "/reply-queue/x1");
    let reply = answer(Destination::ReplyQueue("x1".into()));
    let actions = script.input(Input::Done(*ticket, Ok(handled(vec![reply], None))));
    let [Action::Deliver(deliver)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(&*deliver.destination, "/temp-queue/q");
}

#[test]
fn what_no_handler_answers_is_refused() {
    for (headers, expected) in [
        ("destination:/app/shop/*", "invalid-destination"),
        ("destination:/app/shop/a\nack:client", "unsupported"),
        ("destination:/app/else", "no-handler"),
        ("destination:/topic/a\nx-snapshot:/app/else", "no-handler"),
        ("destination:/topic/a\nx-snapshot:/topic/b", "invalid-header"),
        ("destination:/queue/a\nx-snapshot:/app/shop", "forbidden-header"),
    ] {
        let actions = Script::connected("1.2").client(&format!("SUBSCRIBE\nid:a\n{headers}\n\n"));
        assert_eq!(code(&actions), expected, "{headers}");
    }
}

#[test]
fn a_transaction_takes_what_a_handler_will_answer() {
    let mut script = Script::connected("1.2");
    assert_eq!(script.client("BEGIN\ntransaction:t\n\n").len(), 0);
    assert_eq!(script.client("SEND\ndestination:/app/shop/buy\ntransaction:t\n\nx").len(), 0);
    let (_, action) = script.asks("COMMIT\ntransaction:t\n\n");
    let Action::Commit(_, transaction) = action else { panic!("{action:?}") };
    assert_eq!(transaction.messages[0].destination, shop("shop/buy"));
}
