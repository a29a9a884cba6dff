//! Durable subscriptions: sessions with a name, that the broker keeps while nobody reads them.
//!
//! The name is made of who reads what, so that it is found again after a restart and by other gateways. The broker lets in
//! whoever comes last with it. So of two gateways that read the same one, the first is told so, and does not come back.
//! Within one gateway the second is refused.

mod reader;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

pub(super) use self::reader::Durable;
use super::connection::{Connector, Line, Live, Plan, Session, Trial, Witness};
use super::mailbox::{Mailbox, Remains};
use super::names;
use super::properties::Reading;
use super::settings::Settings;
use super::upstream;
use super::wire::Arrival;
use crate::broker::BrokerError;
use crate::message::{DurableName, Pattern};

/// All durable subscriptions that this gateway knows of.
pub(super) struct Durables {
    connector: Arc<Connector>,
    /// The connection that messages are published on.
    witness: Arc<Witness>,
    reading: Reading,
    client_id: String,
    expiry: u32,
    max: usize,
    max_waiting: usize,
    known: Mutex<HashMap<DurableName, Known>>,
}

/// What is known of one.
#[derive(Default)]
struct Known {
    /// Somebody opens, reads or deletes it.
    is_taken: bool,
    /// Its last reader here, as long as it can settle.
    last: Option<Arc<Durable>>,
    /// Its last connection, that may not be closed yet.
    closing: Option<Arc<Line>>,
    /// What it was subscribed to from here.
    filter: Option<String>,
    remains: Remains,
}

/// Frees the name unless it is kept, also when whoever wanted it gives up.
struct Claim<'a> {
    durables: &'a Durables,
    name: &'a DurableName,
    opening: Option<Arc<Durable>>,
}

impl Durables {
    /// None is open.
    pub(super) fn new(
        settings: &Settings,
        connector: &Arc<Connector>,
        witness: &Arc<Witness>,
        reading: Reading,
    ) -> Arc<Self> {
        Arc::new(Durables {
            connector: Arc::clone(connector),
            witness: Arc::clone(witness),
            reading,
            client_id: settings.client_id.clone(),
            expiry: u32::try_from(settings.durable_expiry.as_secs()).unwrap_or(u32::MAX),
            max: settings.max_durable,
            max_waiting: settings.max_waiting,
            known: Mutex::default(),
        })
    }

    /// Opens one for a reader; waits for the broker if need be.
    pub(super) async fn open(
        &self,
        name: &DurableName,
        pattern: Pattern,
        prefetch: u16,
    ) -> Result<Arc<Durable>, BrokerError> {
        let filter = self.reading.names.filter(&pattern)?.filter;
        let mut claim = self.claim(name).await?;
        let (old, remains) = {
            let mut known = self.lock();
            let known = known.entry(name.clone()).or_default();
            (known.filter.clone(), std::mem::take(&mut known.remains))
        };
        let old = old.filter(|old| *old != filter);
        let durable = self.durable(name, pattern, (old, filter), prefetch, remains);
        claim.opening = Some(Arc::clone(&durable));
        let live = upstream::open(&*durable).await?;
        claim.keep();
        let tended = Arc::clone(&durable);
        tokio::spawn(async move { tended.mailbox.end(upstream::tend(&*tended, live).await) });
        Ok(durable)
    }

    /// Takes nothing more, but may be settled until somebody else opens it. The session stays, unless it is to go.
    pub(super) async fn stop(&self, durable: &Arc<Durable>, delete: bool) -> Result<(), BrokerError> {
        durable.mailbox.stop();
        if !delete {
            self.free(durable);
            return Ok(());
        }
        durable.line.end_now().await;
        self.wipe(&durable.name).await?;
        let gone = self.lock().remove(&durable.name);
        drop(gone);
        Ok(())
    }

    /// The reader is gone.
    pub(super) fn leave(&self, durable: &Arc<Durable>) {
        durable.line.end();
        self.keep(durable);
        self.free(durable);
        let mut known = self.lock();
        let gone = known.get_mut(&durable.name).and_then(|known| known.last.take_if(|last| Arc::ptr_eq(last, durable)));
        drop(known);
        drop(gone);
    }

    /// Deletes one that nobody reads here.
    pub(super) async fn delete(&self, name: &DurableName) -> Result<(), BrokerError> {
        let claim = self.claim(name).await?;
        let existed = self.visit(name, Some(self.expiry)).await?;
        self.wipe(name).await?;
        let gone = self.lock().remove(name);
        drop((gone, claim));
        if existed { Ok(()) } else { Err(BrokerError::NotFound(format!("the durable subscription {}", name.name))) }
    }

    /// How many are open.
    pub(super) fn open_ones(&self) -> usize {
        self.lock().values().filter(|known| known.is_taken).count()
    }

    /// The right to open or delete it. What there was before is closed when this returns.
    async fn claim<'a>(&'a self, name: &'a DurableName) -> Result<Claim<'a>, BrokerError> {
        let (claim, last, closing) = {
            let mut known = self.lock();
            self.check_free(&mut known, name)?;
            let entry = known.entry(name.clone()).or_default();
            entry.is_taken = true;
            let claim = Claim { durables: self, name, opening: None };
            (claim, entry.last.take(), entry.closing.take())
        };
        // So what was acknowledged has been sent.
        if let Some(last) = last {
            last.line.end_now().await;
            self.keep(&last);
        }
        if let Some(closing) = closing {
            closing.end_now().await;
        }
        Ok(claim)
    }

    fn check_free(&self, known: &mut HashMap<DurableName, Known>, name: &DurableName) -> Result<(), BrokerError> {
        if known.get(name).is_some_and(|known| known.is_taken) {
            return Err(BrokerError::InUse(name.name.to_string()));
        }
        if known.values().filter(|known| known.is_taken).count() >= self.max {
            let what = "durable subscriptions that are open".to_owned();
            return Err(BrokerError::LimitExceeded { what, limit: self.max, setting: "broker.mqtt.max_durable" });
        }
        if known.len() >= 2 * self.max && !known.contains_key(name) {
            // What is forgotten so is not lost: at worst, something that was settled comes again.
            known.retain(|_, known| known.is_taken || known.last.is_some());
        }
        Ok(())
    }

    /// Keeps what the next reader has to know.
    fn keep(&self, durable: &Durable) {
        let remains = durable.mailbox.remains();
        let mut known = self.lock();
        let Some(known) = known.get_mut(&durable.name) else { return };
        if let Some(remains) = remains {
            known.remains = remains;
        }
        known.closing.get_or_insert_with(|| Arc::clone(&durable.line));
    }

    /// Others may open it.
    fn free(&self, durable: &Arc<Durable>) {
        let mut known = self.lock();
        let own = known.get_mut(&durable.name);
        if let Some(own) = own.filter(|own| own.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, durable))) {
            own.is_taken = false;
        }
    }

    fn durable(
        &self,
        name: &DurableName,
        pattern: Pattern,
        (old, filter): (Option<String>, String),
        prefetch: u16,
        remains: Remains,
    ) -> Arc<Durable> {
        let plan = Plan::named("durable", prefetch, self.session(name, Some(self.expiry)));
        Arc::new_cyclic(|weak: &Weak<Durable>| {
            let weak = weak.clone();
            let sink = move |live: &Arc<Live>, arrival: Arrival| {
                if let Some(durable) = weak.upgrade() {
                    durable.arrived(live, &arrival);
                }
            };
            Durable {
                name: name.clone(),
                pattern,
                filter,
                old,
                reading: self.reading,
                line: Line::start(&self.connector, plan, sink),
                mailbox: Mailbox::after(remains, prefetch, self.max_waiting),
                first: OnceLock::new(),
            }
        })
    }

    /// Has the broker forget it. To begin a session anew is the one way that both versions have.
    async fn wipe(&self, name: &DurableName) -> Result<(), BrokerError> {
        self.visit(name, None).await.map(drop)
    }

    /// Connects, takes nothing, and goes; whether the broker had the session.
    async fn visit(&self, name: &DurableName, lasts: Option<u32>) -> Result<bool, BrokerError> {
        let plan = Plan::named("durable", 1, self.session(name, lasts));
        let line = Line::start(&self.connector, plan, |_, _| {});
        let _trial = Trial::of(&line);
        let resumed = line.up_or_refused().await?.granted.resumed;
        line.end_now().await;
        Ok(resumed)
    }

    fn session(&self, name: &DurableName, lasts: Option<u32>) -> Session {
        let client_id = names::session(&self.client_id, "durable", &[&name.user, &name.client, &name.name]);
        Session { client_id, lasts, witness: Arc::clone(&self.witness) }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DurableName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim<'_> {
    /// It is open.
    fn keep(mut self) {
        let Some(durable) = self.opening.take() else { return };
        let mut known = self.durables.lock();
        let known = known.entry(self.name.clone()).or_default();
        known.filter = Some(durable.filter.clone());
        known.last = Some(durable);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if let Some(durable) = &self.opening {
            durable.line.end();
            self.durables.keep(durable);
        }
        if let Some(known) = self.durables.lock().get_mut(self.name) {
            known.is_taken &= known.last.is_some();
        }
    }
}
