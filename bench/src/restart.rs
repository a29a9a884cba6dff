//! RabbitMQ is killed under a gateway with many clients, and started again: from the moment at which it accepts, until every
//! topic comes to every subscriber again. Beside the time that a bare AMQP program takes to bind one queue to as many topics.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use lapin::options::{BasicPublishOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel};

use crate::bridge::{self, Anything};
use crate::client::{self, Client, IN_FLIGHT};
use crate::plan::Plan;
use crate::process::Gateway;
use crate::rabbitmq::RabbitMq;
use crate::report::{BINDING, Report};

const TOPICS: usize = 1000;
/// Between messages to topics that nothing has come from yet.
const PAUSE: Duration = Duration::from_millis(50);

/// How long it took.
pub const TIME: &str = "until all is restored, s";

/// What the scenario is called.
pub fn name(clients: usize) -> String {
    format!("restart of RabbitMQ, {clients} clients, {TOPICS} topics")
}

/// How many clients of each topic have got nothing yet.
type Missing = Rc<RefCell<Vec<usize>>>;

/// Runs the scenario, with a new RabbitMQ for each round.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    let (mut restored, mut binding) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        let mut server = gateway.start_before(RabbitMq::start()?)?;
        let (address, next) = (server.address(), Rc::new(Cell::new(0)));
        let subscribe = move || {
            let topic = next.replace(next.get() + 1) % TOPICS;
            async move { Client::subscribe(address, 0, &format!("/topic/restart.{topic}"), "auto").await }
        };
        let mut readers = tokio::task::JoinSet::new();
        let readers_of = |topic| (plan.clients + TOPICS - 1 - topic) / TOPICS;
        let missing: Missing = Rc::new(RefCell::new((0..TOPICS).map(readers_of).collect()));
        for client in client::many(plan.clients, IN_FLIGHT, subscribe).await? {
            readers.spawn_local(until_it_comes(client, Rc::clone(&missing)));
        }
        let broker = server.broker_mut().ok_or_else(|| io::Error::other("no broker"))?;
        let uri = broker.uri();
        binding.push(bind(&uri).await.map_err(io::Error::other)?);
        broker.kill()?;
        broker.start_again()?;
        let begun = Instant::now();
        let channel = loop {
            match bridge::connect(&uri).await {
                Ok(channel) => break channel,
                Err(_) => tokio::time::sleep(PAUSE).await, // it accepts before it answers
            }
        };
        while !readers.is_empty() {
            publish(&channel, &missing).await.map_err(io::Error::other)?;
            tokio::time::sleep(PAUSE).await;
            while let Some(ended) = readers.try_join_next() {
                ended??;
            }
        }
        restored.push(begun.elapsed().as_secs_f64());
    }
    report.add_beside(BINDING, &name(plan.clients), TIME, restored, &binding);
    Ok(())
}

/// Ends with the first message; a client that is disconnected is an error.
async fn until_it_comes(client: Client, missing: Missing) -> io::Result<()> {
    let topic = Cell::new(None);
    while topic.get().is_none() {
        client
            .read(|frame| {
                let name = crate::wire::header(frame, "destination").and_then(|name| std::str::from_utf8(name).ok());
                topic.set(name.and_then(|name| name.rsplit('.').next()?.parse::<usize>().ok()));
                if topic.get().is_some() { Ok(()) } else { Err(io::Error::other("not a message of a topic")) }
            })
            .await?;
    }
    if let Some(left) = missing.borrow_mut().get_mut(topic.get().unwrap_or(TOPICS)) {
        *left -= 1;
    }
    Ok(())
}

/// A message to each topic that some client still waits for.
async fn publish(channel: &Channel, missing: &Missing) -> Result<(), Anything> {
    let waiting: HashSet<_> =
        missing.borrow().iter().enumerate().filter(|(_, left)| **left > 0).map(|(topic, _)| topic).collect();
    for topic in waiting {
        let (exchange, key) = (ShortString::from("amq.topic"), ShortString::try_new(format!("restart.{topic}"))?);
        let sent =
            channel.basic_publish(exchange, key, BasicPublishOptions::default(), b"x", BasicProperties::default());
        drop(sent.await?);
    }
    Ok(())
}

/// How long a bare program takes, in seconds.
async fn bind(uri: &str) -> Result<f64, Anything> {
    let (channel, none, begun) = (bridge::connect(uri).await?, FieldTable::default(), Instant::now());
    let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare(ShortString::default(), options, none.clone()).await?.name().clone();
    for topic in 0..TOPICS {
        let options = QueueBindOptions { nowait: topic + 1 < TOPICS };
        let key = ShortString::try_new(format!("restart.{topic}"))?;
        channel.queue_bind(queue.clone(), "amq.topic".into(), key, options, none.clone()).await?;
    }
    Ok(begun.elapsed().as_secs_f64())
}
