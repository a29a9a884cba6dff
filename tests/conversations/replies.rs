//! Request and reply, and what is sent to one user (contract, §8 and §9).

use crate::support::{Client, gateway};

#[tokio::test]
async fn a_request_is_answered_on_a_temporary_queue() {
    let gateway = gateway();
    let mut responder = Client::connect(&gateway, "1.2").await;
    responder.subscribe("id:0\ndestination:/queue/sums").await;
    for version in ["1.0", "1.1", "1.2"] {
        let mut client = Client::connect(&gateway, version).await;
        client.does("SEND\ndestination:/queue/sums\nreply-to:/temp-queue/foo\ncorrelation-id:c-1\n\n1+1").await;
        let request = responder.expect("MESSAGE").await.saying("1+1").with("correlation-id", "c-1");
        let reply_to = request.get("reply-to");
        assert!(reply_to.starts_with("/reply-queue/"), "{reply_to}");
        assert!(reply_to.len() >= "/reply-queue/".len() + 32, "128 bits: {reply_to}");
        responder.does(&format!("SEND\ndestination:{reply_to}\ncorrelation-id:c-1\n\n2")).await.without("routed");
        let reply = client.expect("MESSAGE").await.saying("2").with("correlation-id", "c-1");
        reply.with("subscription", "/temp-queue/foo").with("destination", "/temp-queue/foo").without("ack");
    }
}

#[tokio::test]
async fn one_name_is_one_address_for_all_requests_of_a_session() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/requests").await;
    let mut addresses = Vec::new();
    for name in ["foo", "foo", "bar"] {
        client.send(format!("SEND\ndestination:/topic/requests\nreply-to:/temp-queue/{name}\n\nx")).await;
        addresses.push(client.expect("MESSAGE").await.get("reply-to"));
    }
    assert_eq!(addresses[0], addresses[1]);
    assert_ne!(addresses[0], addresses[2]);
    for (address, name) in [(&addresses[2], "/temp-queue/bar"), (&addresses[0], "/temp-queue/foo")] {
        client.send(format!("SEND\ndestination:{address}\n\nx")).await;
        client.expect("MESSAGE").await.with("subscription", name).with("destination", name);
    }
}

#[tokio::test]
async fn an_explicit_subscription_gives_replies_its_id() {
    let gateway = gateway();
    let mut responder = Client::connect(&gateway, "1.2").await;
    responder.subscribe("id:0\ndestination:/queue/sums").await;
    for first in ["SUBSCRIBE", "SEND"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        let subscribe = "SUBSCRIBE\nid:mine\ndestination:/temp-queue/foo";
        let send = "SEND\ndestination:/queue/sums\nreply-to:/temp-queue/foo\n\nx";
        for frame in if first == "SEND" { [send, subscribe] } else { [subscribe, send] } {
            client.does(frame).await;
        }
        let reply_to = responder.expect("MESSAGE").await.get("reply-to");
        responder.send(format!("SEND\ndestination:{reply_to}\n\nanswer")).await;
        let reply = client.expect("MESSAGE").await.saying("answer");
        reply.with("subscription", "mine").with("destination", "/temp-queue/foo");
    }
}

#[tokio::test]
async fn a_reply_address_is_never_another_sessions() {
    let gateway = gateway();
    let mut responder = Client::connect(&gateway, "1.2").await;
    responder.subscribe("id:0\ndestination:/queue/sums").await;
    let mut one = Client::connect_with(&gateway, "1.2", "login:ada").await;
    let mut other = Client::connect_with(&gateway, "1.2", "login:ada").await;
    other.subscribe("id:0\ndestination:/temp-queue/foo").await;
    one.send("SEND\ndestination:/queue/sums\nreply-to:/temp-queue/foo\n\nx").await;
    let reply_to = responder.expect("MESSAGE").await.get("reply-to");
    responder.send(format!("SEND\ndestination:{reply_to}\n\nanswer")).await;
    one.expect("MESSAGE").await.saying("answer");
    other.expect_nothing().await;
    other.send(format!("SUBSCRIBE\nid:1\ndestination:{reply_to}")).await;
    other.expect_error("invalid-destination", 1008).await;
}

#[tokio::test]
async fn a_reply_address_goes_with_its_session() {
    let gateway = gateway();
    let mut responder = Client::connect(&gateway, "1.2").await;
    responder.subscribe("id:0\ndestination:/queue/sums").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/queue/sums\nreply-to:/temp-queue/foo\n\nx").await;
    let reply_to = responder.expect("MESSAGE").await.get("reply-to");
    client.disconnect().await;
    crate::support::until("the session to end", || gateway.connections() == 1).await;
    responder.does_until_unrouted(&format!("SEND\ndestination:{reply_to}\n\nlate")).await;
}

#[tokio::test]
async fn nothing_is_sent_to_a_temporary_queue_by_its_name() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.send("SEND\ndestination:/temp-queue/foo\n\nx").await;
    client.expect_error("invalid-destination", 1008).await.about("reply-to");
}

#[tokio::test]
async fn a_reply_to_that_is_no_temporary_queue_is_copied_verbatim() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/requests").await;
    for value in ["/queue/answers", "anything at all"] {
        client.send(format!("SEND\ndestination:/topic/requests\nreply-to:{value}\n\nx")).await;
        client.expect("MESSAGE").await.with("reply-to", value);
    }
}

#[tokio::test]
async fn a_bad_temporary_queue_is_an_error() {
    let gateway = gateway();
    for name in ["/temp-queue/", "/temp-queue/%zz", "/temp-queue/*"] {
        let mut client = Client::connect(&gateway, "1.2").await;
        client.send(format!("SEND\ndestination:/topic/a\nreply-to:{name}\nreceipt:7\n\nx")).await;
        client.expect_error("invalid-destination", 1008).await.with("receipt-id", "7");
    }
}

#[tokio::test]
async fn a_request_in_a_transaction_has_its_address_at_commit() {
    let gateway = gateway();
    let mut responder = Client::connect(&gateway, "1.2").await;
    responder.subscribe("id:0\ndestination:/queue/sums").await;
    let mut client = Client::connect(&gateway, "1.2").await;
    client.does("BEGIN\ntransaction:t").await;
    client.does("SEND\ndestination:/queue/sums\ntransaction:t\nreply-to:/temp-queue/foo\n\nx").await;
    client.does("COMMIT\ntransaction:t").await;
    let reply_to = responder.expect("MESSAGE").await.get("reply-to");
    responder.send(format!("SEND\ndestination:{reply_to}\n\nanswer")).await;
    client.expect("MESSAGE").await.saying("answer");
}

#[tokio::test]
async fn every_session_of_a_user_gets_what_is_sent_to_the_user() {
    let gateway = gateway();
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut session = Client::connect_with(&gateway, "1.2", "login:ada").await;
        session.subscribe("id:0\ndestination:/user/queue/mail").await;
        sessions.push(session);
    }
    let mut bob = Client::connect_with(&gateway, "1.2", "login:bob").await;
    bob.subscribe("id:0\ndestination:/user/queue/mail").await;
    bob.does("SEND\ndestination:/user/ada/queue/mail\n\nhello").await.without("routed");
    for session in &mut sessions {
        let message = session.expect("MESSAGE").await.saying("hello");
        message.with("destination", "/user/queue/mail").with("stompgate-user", "bob");
    }
    bob.expect_nothing().await;
}

#[tokio::test]
async fn user_topics_take_patterns() {
    let gateway = gateway();
    let mut ada = Client::connect_with(&gateway, "1.2", "login:ada").await;
    ada.subscribe("id:0\ndestination:/user/topic/a.*").await;
    ada.send("SEND\ndestination:/user/ada/topic/a/b\n\nx").await;
    ada.expect("MESSAGE").await.with("destination", "/user/topic/a.b");
    ada.does("SEND\ndestination:/user/ada/topic/b\n\nx").await.unrouted();
    ada.does("SEND\ndestination:/topic/a/b\n\nx").await.unrouted();
}

#[tokio::test]
async fn a_users_name_may_hold_any_character() {
    let gateway = gateway();
    let mut ada = Client::connect_with(&gateway, "1.2", "login:ada/lovelace@example.com #1").await;
    ada.subscribe("id:0\ndestination:/user/queue/mail").await;
    ada.send("SEND\ndestination:/user/ada%2Flovelace@example.com %231/queue/mail\n\nx").await;
    ada.expect("MESSAGE").await.with("destination", "/user/queue/mail");
}

#[tokio::test]
async fn nobody_subscribes_to_another_user() {
    let gateway = gateway();
    for destination in ["/user/ada/queue/mail", "/user/ada/topic/a", "/user/mail", "/user/"] {
        let mut client = Client::connect_with(&gateway, "1.2", "login:bob").await;
        client.send(format!("SUBSCRIBE\nid:0\ndestination:{destination}")).await;
        client.expect_error("invalid-destination", 1008).await.about("/user/queue/");
    }
    for destination in ["/user/queue/mail", "/user/ada", "/user//queue/mail", "/user/ada/exchange/e"] {
        let mut client = Client::connect_with(&gateway, "1.2", "login:bob").await;
        client.send(format!("SEND\ndestination:{destination}\n\nx")).await;
        client.expect_error("invalid-destination", 1008).await;
    }
}

#[tokio::test]
async fn a_reply_address_can_be_given_up() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/requests").await;
    let mut addresses = Vec::new();
    for _ in 0..2 {
        client.send("SEND\ndestination:/topic/requests\nreply-to:/temp-queue/foo\n\nx").await;
        addresses.push(client.expect("MESSAGE").await.with("subscription", "0").get("reply-to"));
        client.does("UNSUBSCRIBE\nid:/temp-queue/foo").await;
    }
    for address in &addresses {
        client.does(&format!("SEND\ndestination:{address}\n\nx")).await.unrouted();
    }
    assert_ne!(addresses[0], addresses[1], "a new one each time");
}

#[tokio::test]
async fn one_temporary_queue_may_be_subscribed_to_twice() {
    let gateway = gateway();
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/requests").await;
    client.subscribe("id:1\ndestination:/temp-queue/foo").await;
    client.subscribe("id:2\ndestination:/temp-queue/foo").await;
    // As with any queue, one of them gets each reply.
    for reader in ["1", "2"] {
        client.send("SEND\ndestination:/topic/requests\nreply-to:/temp-queue/foo\n\nx").await;
        let reply_to = client.expect("MESSAGE").await.get("reply-to");
        client.send(format!("SEND\ndestination:{reply_to}\n\nanswer")).await;
        client.expect("MESSAGE").await.saying("answer").with("subscription", reader);
        client.does(&format!("UNSUBSCRIBE\nid:{reader}")).await;
    }
}
