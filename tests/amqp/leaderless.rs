//! A quorum queue that no node leads, as after a crash or while it has no majority: RabbitMQ ends the whole connection
//! of whoever begins to read it, with error 541. No message is to blame, and nobody else is to suffer.

use stompgate::broker::amqp::Settings;
use stompgate::broker::{Event, Source, Subscribe};
use stompgate::message::{Headers, Settlement};

use crate::amqp_wire::both;
use crate::harness::{Client, Heard, Reader, in_time, text};
use crate::rabbitmq;

/// Stops or restarts the server of a quorum queue; its queue stays in RabbitMQ's books.
async fn server(client: &Client, what: &str) {
    let find =
        format!("{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{}/q\">>))", client.mark);
    let code = format!("{find}, ok = ra:{what}_server(quorum_queues, amqqueue:get_pid(Q)).");
    rabbitmq::shared().await.control(&["eval", &code]).await;
}

fn quorum(client: &Client) -> Subscribe {
    let source = Source::Queue(format!("{}/q", client.mark).into());
    Subscribe { source, prefetch: 10, arguments: Headers::from([("x-queue-type", "quorum")]) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_without_a_leader_waits_for_one_and_costs_the_others_one_break_at_most() {
    let (client, _connection, _channel) = both(Settings { queue_arguments: Some(true), ..Settings::default() }).await;
    let node = rabbitmq::shared().await;
    let mut early = Reader::of(in_time(client.link.subscribe(quorum(&client))).await.unwrap(), &client);
    client.send("/queue/q", "before").await;
    early.take("before").await;
    client.send("/queue/q", "held").await;
    early.expect("held").await;
    let mut well = client.read("/queue/well").await;
    let (_guard, topic) = client.listen("/topic/t").await;

    let endings = || node.log().matches("Non-AMQP exit reason '{{badmatch,{error,noproc}}").count();
    server(&client, "stop").await;
    drop(early);
    // Whoever reads it waits, however many they are.
    let ended = endings();
    let mut waiting = Vec::from([(); 3].map(|()| {
        let (link, request) = (client.link.clone(), quorum(&client));
        tokio::spawn(async move { link.subscribe(request).await })
    }));
    let mut breaks = 0;
    for number in 0.. {
        // Tried again and again, each time the broker ends a connection for it.
        if endings() >= ended + 10 {
            break;
        }
        let body = number.to_string();
        client.send("/queue/well", &body).await;
        loop {
            match well.event().await {
                Event::Interrupted => breaks += 1,
                Event::Restored => {}
                Event::Delivery(delivery) => {
                    // One that was accepted when the connection broke may come again.
                    let is_it = text(&delivery.message) == body;
                    assert!(is_it || delivery.redelivered);
                    if client.settle(&[&delivery], Settlement::Accept).await && is_it {
                        break;
                    }
                }
                other => panic!("{body} was expected, not {other:?}"),
            }
        }
    }
    assert!(breaks <= 1, "one break tells enough, not {breaks}");
    assert!(!topic.heard().contains(&Heard::Restored), "topics have a connection of their own");

    server(&client, "restart").await;
    let mut reader = Reader::of(in_time(waiting.remove(0)).await.unwrap().unwrap(), &client);
    waiting.drain(..).for_each(|other| other.abort());
    assert!(reader.take("held").await.redelivered);
    client.send("/queue/q", "after").await;
    reader.take("after").await;
}
