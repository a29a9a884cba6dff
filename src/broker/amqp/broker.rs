//! The broker: which link an identity gets.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::future::join_all;
use lapin::types::ShortString;
use tokio::sync::watch;

use super::connection::Connector;
use super::dial::Dialer;
use super::errors::short;
use super::link::AmqpLink;
use super::settings::{Identity as IdentitySetting, Settings};
use super::users::Users;
use super::window::Window;
use crate::broker::{Broker, BrokerError, Identity, Link, LinkState, tenant};
use crate::message::Text;
use crate::metrics::Figures;

/// An AMQP broker.
pub struct Amqp {
    settings: Settings,
    exchange: ShortString,
    dialer: Dialer,
    /// That of the service account to the virtual host of the URI.
    link: Arc<AmqpLink>,
    /// Of all links together.
    window: Arc<Window>,
    /// Those of the service account to the virtual hosts of the map, made when they are first asked for.
    others: Mutex<HashMap<String, Arc<AmqpLink>>>,
    users: Option<Arc<Users>>,
}

/// Why the settings cannot be carried out. That the broker cannot be reached is no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("setting {key}: {why}")]
pub struct ConnectError {
    /// The full key of the setting.
    pub key: &'static str,
    /// What is wrong with it.
    pub why: String,
}

/// Begins to connect. It needs a tokio runtime. The broker need not be there yet: see [`Broker::state`].
pub fn connect(settings: &Settings) -> Result<Arc<dyn Broker>, ConnectError> {
    let dialer = Dialer::new(settings).map_err(|(key, why)| ConnectError { key, why })?;
    let exchange = short(&settings.exchange, "the exchange")
        .map_err(|why| ConnectError { key: "broker.amqp.exchange", why: why.to_string() })?;
    let connector = Connector::new(dialer.clone(), settings.reconnect_max);
    let window = Window::new(settings);
    let link = Arc::new(AmqpLink::new(settings, &exchange, connector, None, &window));
    link.start();
    let users = match settings.identity {
        IdentitySetting::Service => None,
        IdentitySetting::PerUser => {
            let users = Users::start(settings, &exchange, &dialer, &window);
            let why = "needs random numbers, and the system has none".to_owned();
            Some(users.map_err(|_| ConnectError { key: "broker.amqp.identity", why })?)
        }
    };
    let settings = settings.clone();
    Ok(Arc::new(Amqp { settings, exchange, dialer, link, window, others: Mutex::default(), users }))
}

#[async_trait]
impl Broker for Amqp {
    async fn link(&self, identity: &Identity) -> Result<Arc<dyn Link>, BrokerError> {
        let virtual_host = self.virtual_host(identity.tenant.as_ref())?;
        let service = self.service(virtual_host)?;
        let Some(users) = &self.users else { return Ok(service) };
        let passcode = identity.passcode.as_deref().unwrap_or_default();
        match users.link(virtual_host, &identity.principal.name, passcode, &service).await {
            Ok(link) => Ok(link),
            // In the client's own words: the map is none of its business.
            Err(BrokerError::UnknownTenant(virtual_host)) => {
                let host = identity.tenant.as_ref().map_or(virtual_host, Text::to_string);
                Err(BrokerError::UnknownTenant(host))
            }
            Err(other) => Err(other),
        }
    }

    async fn own_link(&self, tenant: Option<Text>) -> Result<Arc<dyn Link>, BrokerError> {
        Ok(self.service(self.virtual_host(tenant.as_ref())?)?)
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.link.connector().state()
    }

    fn reconnects(&self) -> u64 {
        self.dialer.reconnects()
    }

    fn report(&self, figures: &mut Figures) {
        let links = self.links();
        let connections: usize = links.iter().map(|link| link.connector().connections()).sum();
        figures.gauge("stompgate_amqp_connections", "Connections to the broker.", connections);
        let (messages, bytes) = (self.window.messages(), self.window.bytes());
        figures.gauge("stompgate_amqp_unconfirmed", "Messages that wait for the broker's confirmation.", messages);
        figures.gauge("stompgate_amqp_unconfirmed_bytes", "Bytes that wait for the broker's confirmation.", bytes);
        if let Some(users) = &self.users {
            figures.gauge("stompgate_amqp_user_links", "Links of the broker's own users.", users.links().len());
        }
    }

    async fn close(&self) {
        join_all(self.links().iter().map(|link| link.connector().shut_down())).await;
    }
}

impl Amqp {
    /// The virtual host that CONNECT means with its `host` (contract, §7).
    fn virtual_host(&self, host: Option<&Text>) -> Result<&str, BrokerError> {
        let (own, map) = (self.dialer.virtual_host(), &self.settings.virtual_hosts);
        match host {
            Some(host) if map.contains_key(&**host) => Ok(&map[&**host]),
            Some(host) if !map.is_empty() && **host != *own => Err(BrokerError::UnknownTenant(host.to_string())),
            _ => tenant::check(host, own).map(|()| own),
        }
    }

    /// The link of the service account to this virtual host, which is one of the settings'.
    fn service(&self, virtual_host: &str) -> Result<Arc<AmqpLink>, BrokerError> {
        if self.link.connector().is_closed() {
            return Err(BrokerError::Unavailable);
        }
        if virtual_host == self.dialer.virtual_host() {
            return Ok(Arc::clone(&self.link));
        }
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        let link = others.entry(virtual_host.to_owned()).or_insert_with(|| {
            let connector = Connector::new(self.dialer.to(virtual_host), self.settings.reconnect_max);
            Arc::new(AmqpLink::new(&self.settings, &self.exchange, connector, None, &self.window))
        });
        Ok(Arc::clone(link))
    }

    fn links(&self) -> Vec<Arc<AmqpLink>> {
        let mut links = self.users.as_ref().map_or_else(Vec::new, |users| users.links());
        links.extend(self.others.lock().unwrap_or_else(PoisonError::into_inner).values().cloned());
        links.push(Arc::clone(&self.link));
        links
    }
}

impl Drop for Amqp {
    fn drop(&mut self) {
        self.links().iter().for_each(|link| link.connector().close());
    }
}
