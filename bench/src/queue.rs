//! One producer with pipelined receipts, and consumers that acknowledge in each of the ways that STOMP has.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::client::Client;
use crate::plan::Plan;
use crate::process::Gateway;
use crate::report::Report;
use crate::wire;

const DESTINATION: &str = "/queue/bench";
/// As in the header `ack` of SUBSCRIBE: not at all, all that came in one read at once, every message by itself.
const MODES: [&str; 3] = ["auto", "client", "client-individual"];
/// Receipts that the producer waits for at a time.
const RECEIPTS: u64 = 100;
/// Messages that may be in the queue and on their way.
const BACKLOG: u64 = 1000;

/// What all clients of the queue know together.
#[derive(Default)]
struct Progress {
    sent: Cell<u64>,
    receipts: Cell<u64>,
    consumed: Cell<u64>,
    seen: RefCell<Vec<bool>>,
    failure: RefCell<Option<io::Error>>,
    changed: Notify,
}

/// Runs the scenario with one consumer and with four, in each mode.
pub async fn run(gateway: &Gateway, plan: &Plan, report: &mut Report) -> io::Result<()> {
    for (mode, consumers) in MODES.into_iter().flat_map(|mode| [(mode, 1), (mode, 4)]) {
        let server = gateway.start()?;
        let progress = Rc::new(Progress::default());
        for _ in 0..consumers {
            let client = Client::subscribe(server.address(), 0, DESTINATION, mode).await?;
            tokio::task::spawn_local(watch(consume(client, mode, Rc::clone(&progress)), Rc::clone(&progress)));
        }
        let producer = Rc::new(Client::connect(server.address(), 0).await?);
        let receipts = count_receipts(Rc::clone(&producer), Rc::clone(&progress));
        tokio::task::spawn_local(watch(receipts, Rc::clone(&progress)));
        let (mut rate, mut cpu, mut own) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            let meter = server.meter()?;
            let messages = produce(&producer, &progress, plan.round).await? as f64;
            let usage = meter.read(&server)?;
            rate.push(messages / usage.seconds);
            cpu.push(usage.server / messages);
            own.push(usage.own);
        }
        let scenario = format!("queue, receipts, {consumers} × {mode}");
        report.add(&scenario, "messages/s", rate, &[]);
        report.add(&scenario, "CPU per message, µs", cpu, &[]);
        report.add(&scenario, "load generator's CPU, % of a core", own, &[]);
    }
    Ok(())
}

/// Sends for so long, and waits until all is confirmed and consumed. Returns how many messages that were.
async fn produce(producer: &Client, progress: &Progress, time: Duration) -> io::Result<u64> {
    let (start, first) = (Instant::now(), progress.sent.get());
    let mut out = Vec::new();
    while start.elapsed() < time {
        let (sent, receipts) = (progress.sent.get(), progress.receipts.get());
        let room = (receipts + RECEIPTS).min(progress.consumed.get() + BACKLOG).saturating_sub(sent);
        if room == 0 {
            progress.changed().await?;
            continue;
        }
        out.clear();
        for number in sent..sent + room {
            out.extend(wire::send(DESTINATION, Some(number), number, 0));
        }
        progress.sent.set(sent + room);
        producer.send(&out).await?;
    }
    while progress.receipts.get().min(progress.consumed.get()) < progress.sent.get() {
        progress.changed().await?;
    }
    Ok(progress.sent.get() - first)
}

async fn count_receipts(producer: Rc<Client>, progress: Rc<Progress>) -> io::Result<()> {
    loop {
        let mut receipts = progress.receipts.get();
        producer
            .read(|frame| {
                receipts += u64::from(frame.starts_with(b"RECEIPT\n"));
                Ok(())
            })
            .await?;
        progress.receipts.set(receipts);
        progress.changed.notify_one();
    }
}

async fn consume(client: Client, mode: &str, progress: Rc<Progress>) -> io::Result<()> {
    let mut last = None;
    let mut acks = Vec::new();
    loop {
        acks.clear();
        client
            .read(|frame| {
                let number = wire::number(frame)?;
                if last.is_some_and(|last| number <= last) {
                    return Err(io::Error::other(format!("message {number} came after {last:?}")));
                }
                last = Some(number);
                progress.consumed(number)?;
                if mode == "auto" {
                    return Ok(());
                }
                if mode == "client" {
                    acks.clear(); // this one is for those before it, too
                }
                let id = wire::header(frame, "ack").ok_or_else(|| io::Error::other("a MESSAGE without ack"))?;
                wire::push_message(&[b"ACK\nid:", id, b"\n\n\0"].concat(), &mut acks);
                Ok(())
            })
            .await?;
        progress.changed.notify_one();
        if !acks.is_empty() {
            client.send(&acks).await?;
        }
    }
}

/// Runs a client's task, and tells the producer if it fails.
async fn watch(task: impl Future<Output = io::Result<()>>, progress: Rc<Progress>) {
    if let Err(error) = task.await {
        progress.failure.replace(Some(error));
        progress.changed.notify_one();
    }
}

impl Progress {
    fn consumed(&self, number: u64) -> io::Result<()> {
        let mut seen = self.seen.borrow_mut();
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let sent = usize::try_from(self.sent.get()).unwrap_or(usize::MAX);
        seen.resize(sent, false);
        match seen.get_mut(index) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(io::Error::other(format!("message {number} came twice or was never sent"))),
        }
        self.consumed.set(self.consumed.get() + 1);
        Ok(())
    }

    async fn changed(&self) -> io::Result<()> {
        if let Some(error) = self.failure.take() {
            return Err(error);
        }
        self.changed.notified().await;
        Ok(())
    }
}
