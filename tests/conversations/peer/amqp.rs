//! The conversations are held with a gateway in front of a RabbitMQ, where each gateway has a virtual host of its own.

use std::future::{Ready, ready};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use stompgate::broker::{Kind, amqp::Uri};
use stompgate::config::Config;

pub(crate) use stompgate::gateway::Gateway;

use crate::rabbitmq::{RabbitMq, Setup, definitions};
use crate::support::Place;

/// As many as all tests together have gateways. Making one costs the broker a tenth of a second.
const VIRTUAL_HOSTS: usize = 400;

/// Long enough for the slowest machine: what takes longer hangs.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The details that only a gateway has are looked at, too.
pub(crate) const IS_A_GATEWAY: bool = true;

/// Whether the RECEIPT of what reaches nobody says so.
pub(crate) const TELLS_UNROUTED: bool = true;

/// What every gateway of this program is given before the test's own settings.
pub(crate) fn prepare(config: &mut Config) {
    config.broker.kind = Kind::Amqp;
    config.broker.amqp.uri = vec![own_virtual_host()];
    // What nobody reads any more is unbound at once, as the rules of `routed:false` are told without it.
    config.broker.amqp.linger = Duration::ZERO;
}

/// A queue is made by whoever sends to it.
pub(crate) fn before_sending(_frame: &[u8], _gateway: &Place) -> Ready<()> {
    ready(())
}

/// The `host` of a CONNECT: the gateway's own name, whatever virtual host is behind it.
pub(crate) fn host() -> &'static str {
    "localhost"
}

/// What puts gateways in front of one broker.
pub(crate) fn at_one_broker() -> impl Fn(&mut Config) {
    let host = own_virtual_host();
    move |config| config.broker.amqp.uri = vec![host.clone()]
}

/// A virtual host that no other gateway has.
pub(crate) fn own_virtual_host() -> Uri {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(number < VIRTUAL_HOSTS, "more gateways than VIRTUAL_HOSTS");
    Uri(node().uri_of(&name(number)))
}

fn name(number: usize) -> String {
    format!("host-{number}")
}

/// The RabbitMQ of this program. Tests wait for it on threads of their own, so it is started on another.
fn node() -> &'static RabbitMq {
    static NODE: OnceLock<RabbitMq> = OnceLock::new();
    NODE.get_or_init(|| {
        let names: Vec<_> = (0..VIRTUAL_HOSTS).map(name).collect();
        let setup = Setup { definitions: definitions(&names, &["guest"]), ..Setup::default() };
        let start = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(RabbitMq::start_with(&setup))
        };
        std::thread::spawn(start).join().expect("a RabbitMQ")
    })
}
