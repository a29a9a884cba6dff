//! The trace that a message belongs to (W3C Trace Context; contract, §2 and §10).

use stompgate::chain::{Answer, Failure};

use crate::support::{Client, builder, gateway};

/// A trace, and where a client stands in it.
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const STATE: &str = "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE";

#[tokio::test]
async fn a_message_stays_in_the_trace_that_it_was_sent_in() {
    let gateway = gateway();
    let mut reader = Client::connect(&gateway, "1.2").await;
    reader.subscribe("id:topic\ndestination:/topic/a").await;
    reader.subscribe("id:queue\ndestination:/queue/a\nack:client-individual").await;
    let mut sender = Client::connect(&gateway, "1.2").await;
    for destination in ["/topic/a", "/queue/a"] {
        sender.does(&format!("SEND\ndestination:{destination}\ntraceparent:{PARENT}\ntracestate:{STATE}\n\nx")).await;
        let message = reader.expect("MESSAGE").await.with("destination", destination);
        message.with("traceparent", PARENT).with("tracestate", STATE);
    }
    sender.send("BEGIN\ntransaction:t").await;
    sender.send(format!("SEND\ndestination:/topic/a\ntransaction:t\ntraceparent:{PARENT}\n\nx")).await;
    sender.does("COMMIT\ntransaction:t").await;
    reader.expect("MESSAGE").await.with("traceparent", PARENT).without("tracestate");
}

#[tokio::test]
async fn what_a_handler_makes_of_a_message_is_in_its_trace_too() {
    let gateway = builder(|_| {})
        .handler("/app/a", |_| async { Ok(Some(Answer::text("a"))) })
        .handler("/app/b", |_| async {
            let mut answer = Answer::text("b");
            answer.headers.push("traceparent", PARENT.replace("00f067aa0ba902b7", "0000000000000007"));
            Ok(Some(answer))
        })
        .handler("/app/c", |_| async { Err(Failure::new(422, "sold out")) })
        .start()
        .expect("a gateway");
    let mut client = Client::connect(&gateway, "1.2").await;
    client.subscribe("id:0\ndestination:/topic/*").await;
    let headers = format!("traceparent:{PARENT}\ntracestate:{STATE}");
    client.send(format!("SEND\ndestination:/app/a\n{headers}\n\n")).await;
    client.expect("MESSAGE").await.with("traceparent", PARENT).with("tracestate", STATE);
    // A handler that is traced itself says where in the trace its answer stands.
    client.send(format!("SEND\ndestination:/app/b\n{headers}\n\n")).await;
    let own = client.expect("MESSAGE").await.without("tracestate");
    own.with("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000007-01");
    // What is no trace is a header like any other, and nothing comes of it.
    client.send("SEND\ndestination:/app/a\ntraceparent:00-0-0-01\n\n").await;
    client.expect("MESSAGE").await.without("traceparent");
    let receipt = client.asks(&format!("SUBSCRIBE\nid:s\ndestination:/app/a\n{headers}")).await;
    client.expect("MESSAGE").await.with("subscription", "s").with("traceparent", PARENT).with("tracestate", STATE);
    client.expect("RECEIPT").await.with("receipt-id", &receipt);
    // So is what tells of a failure.
    client.subscribe("id:e\ndestination:/user/queue/errors").await;
    client.send(format!("SEND\ndestination:/app/c\n{headers}\n\n")).await;
    client.expect("MESSAGE").await.with("status", "422").with("traceparent", PARENT).with("tracestate", STATE);
}
