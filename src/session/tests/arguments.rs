//! Arguments of queues and consumers.

use super::*;

/// What a SUBSCRIBE with these headers asks of the broker.
fn opened(headers: &str) -> Request {
    let (_, action) = Script::connected("1.2").asks(&format!("SUBSCRIBE\nid:0\n{headers}\n\n"));
    let Action::Subscribe(_, _, request) = action else { panic!("{action:?}") };
    request
}

fn source(headers: &str) -> Source {
    match opened(headers) {
        Request::Dedicated(Subscribe { source, .. }) => source,
        other => panic!("{other:?} is not dedicated"),
    }
}

#[test]
fn arguments_go_with_a_send_to_a_queue_and_not_with_its_message() {
    let mut script = Script::connected("1.2");
    let (_, action) = script.asks("SEND\ndestination:/queue/q\nx-max-length:5\nx-max-length:6\nx-colour:blue\n\n");
    let Action::Publish(_, message) = action else { panic!("{action:?}") };
    assert_eq!(message.options.arguments, Some(Box::new(Headers::from([("x-max-length", "5")]))));
    assert_eq!(message.headers, Headers::from([("x-colour", "blue"), ("stompgate-user", "ada")]));
}

#[test]
fn an_argument_that_can_have_no_effect_is_refused_by_name() {
    for (frame, name) in [
        ("SEND\ndestination:/topic/a\nx-max-length:5", "x-max-length"),
        ("SEND\ndestination:/amq/queue/a\nx-max-length:5", "x-max-length"),
        ("SEND\ndestination:/queue/a\nx-priority:5", "x-priority"),
        ("SEND\ndestination:/queue/a\nx-queue-name:b", "x-queue-name"),
        ("SUBSCRIBE\nid:0\ndestination:/amq/queue/a\nx-max-length:5", "x-max-length"),
        ("SUBSCRIBE\nid:0\ndestination:/queue/a\nx-queue-name:b", "x-queue-name"),
        ("SUBSCRIBE\nid:0\ndestination:/user/queue/a\nx-max-length:5", "x-max-length"),
        ("SUBSCRIBE\nid:0\ndestination:/temp-queue/a\nx-priority:5", "x-priority"),
        ("SUBSCRIBE\nid:0\ndestination:/topic/a\nx-queue-name:b\nexclusive:true", "exclusive"),
    ] {
        let actions = Script::connected("1.2").client(&format!("{frame}\n\n"));
        assert_eq!(code(&actions), "unsupported", "{frame}");
        let (error, _) = error(&actions);
        assert!(header(error, "message").contains(name), "{frame}: {error:?}");
    }
}

#[test]
fn a_value_that_an_argument_cannot_have_is_refused_when_it_comes() {
    for frame in [
        "SEND\ndestination:/queue/a\nx-max-length:five",
        "SUBSCRIBE\nid:0\ndestination:/queue/a\nx-single-active-consumer:1",
        "SUBSCRIBE\nid:0\ndestination:/queue/a\nx-stream-offset:someday",
        "SUBSCRIBE\nid:0\ndestination:/topic/a\nx-queue-name:stompgate.shared.x",
        "SUBSCRIBE\nid:0\ndestination:/queue/a\nx-dead-letter-exchange:stompgate.user",
    ] {
        assert_eq!(code(&Script::connected("1.2").client(&format!("{frame}\n\n"))), "invalid-header", "{frame}");
    }
}

#[test]
fn a_topic_with_arguments_is_read_by_its_subscription_alone() {
    let topic = Source::Topic(Pattern::canonical("a"));
    assert_eq!(source("destination:/topic/a\nx-max-length:5"), topic);
    assert!(matches!(opened("destination:/topic/a"), Request::Shared(..)));
}

#[test]
fn x_queue_name_names_the_queue_of_a_topic_or_an_exchange() {
    let named = |auto_delete, of| Source::Named { queue: "q".into(), auto_delete, of: Box::new(of) };
    let topic = || Source::Topic(Pattern::canonical("a"));
    for (headers, auto_delete) in [
        ("", false),
        ("\ndurable:true\nauto-delete:false\nexclusive:false", false),
        ("\nauto-delete:true", true),
        ("\ndurable:false", true),
        ("\ndurable:false\nauto-delete:false", false),
        ("\nack:client", false),
    ] {
        let headers = format!("destination:/topic/a\nx-queue-name:q{headers}");
        assert_eq!(source(&headers), named(auto_delete, topic()), "{headers}");
    }
    let exchange = Source::Exchange { exchange: "e".into(), key: "k".into() };
    assert_eq!(source("destination:/exchange/e/k\nx-queue-name:q"), named(false, exchange));
}

#[test]
fn the_receipt_of_a_subscription_carries_the_warning() {
    let mut script = Script::connected("1.2");
    let (ticket, _) = script.asks("SUBSCRIBE\nid:0\ndestination:/queue/a\nx-max-length:5\nreceipt:r\n\n");
    let outcome = Outcome { warning: Some("another x-max-length".to_owned()), ..Outcome::DONE };
    let frame = one_frame(script.input(Input::Done(ticket, Ok(Done::Outcome(outcome)))));
    assert_eq!(header(&frame, "warning"), "another x-max-length");
}
