//! The two versions of MQTT, in words of ours: what differs between them is known in here only.

mod blank;
mod v4;
mod v5;

use std::fmt;
use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::mqttbytes::QoS;
use tokio::sync::watch;

use super::address::{Address, Scheme};
use super::names::NOBODY;
use super::settings::Version;
use crate::broker::BrokerError;
use crate::message::Text;

/// Requests that are written to a socket at once.
const BATCH: usize = 64;
/// Messages that may be on their way without their acknowledgement; a broker may want fewer.
const WINDOW: u16 = 1_000;

/// Where to look when the broker refuses a login.
const LOGIN_HINT: &str = "; look at the login in broker.mqtt.uri";
/// And when it does not like a name.
const CLIENT_ID_HINT: &str = "; look at broker.mqtt.client_id";

/// Where to connect, and how.
pub(super) struct Endpoint {
    pub(super) version: Version,
    pub(super) address: Address,
    /// Without it, nothing is encrypted.
    pub(super) tls: Option<Arc<rustls::ClientConfig>>,
    pub(super) keep_alive: u16,
    pub(super) connect_timeout: Duration,
    pub(super) max_packet: u32,
}

/// What the library connects to.
enum Place<'a> {
    Host(&'a str, u16),
    /// By WebSocket.
    Url(String),
}

/// What a connection of ours is for.
#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) client_id: String,
    /// The session of that name is gone on with, and kept by the broker for so many seconds without a connection.
    /// `None`: a new one, that ends with its connection.
    pub(super) lasts: Option<u32>,
    /// Messages that may be on their way to us without their acknowledgement, if that is to be bounded.
    pub(super) receive_maximum: Option<u16>,
    /// Nothing is acknowledged but by [`Client::acknowledge`].
    pub(super) is_manual: bool,
}

/// What the broker said in its CONNACK; under 3.1.1, what is usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// So many messages may be on their way to the broker.
    pub(super) receive_maximum: u16,
    pub(super) max_qos: u8,
    pub(super) retain: bool,
    pub(super) wildcards: bool,
    /// Whether it has shared subscriptions. `None`: it did not say, and cannot.
    pub(super) shared: Option<bool>,
    /// Whether a message says which subscription it is for.
    pub(super) identifiers: bool,
    /// The broker goes on with a session that it has kept.
    pub(super) resumed: bool,
    /// It keeps sessions beyond their connections.
    pub(super) keeps_sessions: bool,
    pub(super) max_packet: Option<u32>,
}

/// The way to the broker as long as one connection holds. A clone is another handle to the same one.
#[derive(Clone)]
pub(super) struct Client {
    library: Library,
    /// Ends with the driver. What has been handed over and not sent keeps its answer open beyond that.
    alive: watch::Receiver<()>,
}

/// What drives a connection; it does nothing unless it is polled.
pub(super) struct Driver {
    events: Events,
    /// Held for its drop.
    _alive: watch::Sender<()>,
}

#[derive(Clone)]
enum Library {
    V5(rumqttc::AsyncClient),
    V4(rumqttc_v4::AsyncClient),
}

enum Events {
    V5(Box<rumqttc::EventLoop>),
    V4(Box<rumqttc_v4::EventLoop>),
}

/// What happens on a connection.
pub(super) enum Event {
    /// It is there.
    Up(Granted),
    /// A message came.
    Arrived(Arrival),
    /// Nothing that anybody wants to know.
    Other,
}

/// Why a connection is gone, or was never there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The broker said no to the connection, and why.
    Refused(String),
    /// The other side has closed it without a word.
    Closed(String),
    /// Somebody else has connected under the same name.
    TakenOver,
    /// What came by it cannot be read here.
    Unreadable(String),
    /// Anything else.
    Lost(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Refused(why) => write!(formatter, "the broker does not accept the connection: {why}"),
            Fault::Closed(why) => write!(formatter, "the broker has closed the connection without a word ({why})"),
            Fault::TakenOver => formatter.write_str("somebody else has connected under the same client name"),
            Fault::Unreadable(why) => write!(formatter, "what the broker sends cannot be read: {why}"),
            Fault::Lost(why) => write!(formatter, "the broker cannot be reached: {why}"),
        }
    }
}

/// A message on its way to the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) topic: String,
    pub(super) qos: u8,
    pub(super) retain: bool,
    pub(super) properties: Properties,
    pub(super) payload: Bytes,
}

/// A message that came from the broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) topic: Text,
    pub(super) qos: u8,
    /// Names it to the broker until it is acknowledged; 0 if there is nothing to acknowledge.
    pub(super) packet: u16,
    /// The broker has sent it before.
    pub(super) dup: bool,
    /// It is the last value of its topic, sent because we have subscribed.
    pub(super) retain: bool,
    pub(super) properties: Properties,
    /// Which of our subscriptions it is for.
    pub(super) subscriptions: Vec<usize>,
    pub(super) payload: Bytes,
}

/// What MQTT 5 says of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    pub(super) content_type: Option<String>,
    pub(super) correlation_data: Option<Bytes>,
    pub(super) response_topic: Option<String>,
    /// In seconds.
    pub(super) expiry: Option<u32>,
    /// The payload is said to be UTF-8.
    pub(super) is_text: bool,
    pub(super) user: Vec<(String, String)>,
}

/// What to subscribe to.
#[derive(Clone, Debug)]
pub(super) struct Filter {
    pub(super) path: String,
    pub(super) qos: u8,
    /// Whether the last values of its topics are to come.
    pub(super) retained: bool,
    /// What the messages of this subscription will carry.
    pub(super) identifier: Option<usize>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Published {
    /// The broker has it. `false`: and nobody has subscribed to it.
    Taken(bool),
    /// The broker does not want it; the reason's name.
    Refused(String),
    /// The connection is gone before it said.
    Lost,
}

/// What became of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subscribed {
    /// At this quality of service.
    Granted(u8),
    /// Not allowed.
    Forbidden,
    /// The broker does not do it; the reason's name.
    Refused(String),
    /// The connection is gone before it said.
    Lost,
}

/// An answer of the broker, on its way.
pub(super) type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A client that will connect when its driver is polled.
pub(super) fn open(endpoint: &Endpoint, options: &Options) -> Result<(Client, Driver), String> {
    let (library, events) = match endpoint.version {
        Version::V5 => v5::open(endpoint, options)?,
        Version::V311 => v4::open(endpoint, options)?,
    };
    let (sender, alive) = watch::channel(());
    Ok((Client { library, alive }, Driver { events, _alive: sender }))
}

impl Endpoint {
    fn place(&self) -> Place<'_> {
        let Address { scheme, host, port, path, .. } = &self.address;
        match scheme {
            Scheme::Mqtt | Scheme::Mqtts => Place::Host(host.trim_matches(['[', ']']), *port),
            Scheme::Ws => Place::Url(format!("ws://{host}:{port}{path}")),
            Scheme::Wss => Place::Url(format!("wss://{host}:{port}{path}")),
        }
    }
}

impl Driver {
    /// The next event. After a fault nothing more comes of it.
    pub(super) async fn next(&mut self) -> Result<Event, Fault> {
        match &mut self.events {
            Events::V5(events) => events.poll().await.map(v5::event).map_err(|error| v5::fault(&error)),
            Events::V4(events) => events.poll().await.map(v4::event).map_err(|error| v4::fault(&error)),
        }
    }
}

impl Client {
    /// Hands a message over, at once and in order.
    pub(super) fn publish(&self, packet: Packet) -> Answer<Published> {
        let answer = match &self.library {
            Library::V5(client) => v5::publish(client, packet),
            Library::V4(client) => v4::publish(client, packet),
        };
        self.while_alive(answer, Published::Lost)
    }

    /// Subscribes.
    pub(super) fn subscribe(&self, filter: &Filter) -> Answer<Subscribed> {
        let answer = match &self.library {
            Library::V5(client) => v5::subscribe(client, filter),
            Library::V4(client) => v4::subscribe(client, filter),
        };
        self.while_alive(answer, Subscribed::Lost)
    }

    /// Ends a subscription; whether the broker has answered. If not, the connection is gone, and the subscription with it.
    pub(super) fn unsubscribe(&self, path: String) -> Answer<bool> {
        let answer = match &self.library {
            Library::V5(client) => v5::unsubscribe(client, path),
            Library::V4(client) => v4::unsubscribe(client, path),
        };
        self.while_alive(answer, false)
    }

    /// Whether the broker answers on this connection.
    pub(super) fn answers(&self) -> Answer<bool> {
        self.unsubscribe(NOBODY.to_owned())
    }

    /// Acknowledges a message of quality of service 1.
    pub(super) fn acknowledge(&self, packet: u16) {
        // An error is that the connection is gone, and nobody waits for it any more.
        let _ = match &self.library {
            Library::V5(client) => client.try_manual_ack(v5::acknowledgement(packet)).is_ok(),
            Library::V4(client) => client.try_manual_ack(v4::acknowledgement(packet)).is_ok(),
        };
    }

    /// Whether the connection holds, as far as is known.
    pub(super) fn is_alive(&self) -> bool {
        self.alive.has_changed().is_ok()
    }

    /// Comes back when the connection is gone.
    pub(super) async fn gone(&self) {
        let mut alive = self.alive.clone();
        while alive.changed().await.is_ok() {}
    }

    /// Says good-bye after all that was handed over; the driver ends when that is written.
    pub(super) fn disconnect(&self) {
        // An error is that the connection is gone already.
        let _ = match &self.library {
            Library::V5(client) => client.try_disconnect().is_ok(),
            Library::V4(client) => client.try_disconnect().is_ok(),
        };
    }
}

impl Client {
    fn while_alive<T: Send + 'static>(&self, answer: Answer<T>, lost: T) -> Answer<T> {
        let mut alive = self.alive.clone();
        Box::pin(async move {
            tokio::select! {
                biased;
                answer = answer => answer,
                _ = alive.changed() => lost,
            }
        })
    }
}

impl Subscribed {
    /// What to tell of one that was not granted.
    pub(super) fn told(self, what: &str) -> BrokerError {
        match self {
            Subscribed::Forbidden => {
                BrokerError::Rejected(format!("{what}: the MQTT broker does not let the gateway read it"))
            }
            Subscribed::Refused(reason) => BrokerError::Rejected(format!("{what}: {reason}")),
            Subscribed::Granted(_) | Subscribed::Lost => BrokerError::Unavailable,
        }
    }
}

/// Why bytes come no more. What a WebSocket or TLS makes of an end has many names; the rest is no doing of the other side.
fn broken(error: &io::Error) -> Fault {
    match error.kind() {
        ErrorKind::TimedOut | ErrorKind::InvalidData | ErrorKind::InvalidInput => Fault::Lost(error.to_string()),
        _ => Fault::Closed(error.to_string()),
    }
}

/// The same, where there may never have been a connection.
fn not_made(error: &io::Error) -> Fault {
    match error.kind() {
        ErrorKind::ConnectionAborted
        | ErrorKind::ConnectionReset
        | ErrorKind::UnexpectedEof
        | ErrorKind::BrokenPipe => Fault::Closed(error.to_string()),
        _ => Fault::Lost(error.to_string()),
    }
}

/// The answer to what could not even be handed over.
fn at_once<T: Send + 'static>(answer: T) -> Answer<T> {
    Box::pin(std::future::ready(answer))
}

/// The same for both versions, which share this type of the library's.
fn quality(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
