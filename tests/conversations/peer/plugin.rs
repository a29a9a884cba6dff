//! The conversations are held with RabbitMQ's own Web STOMP plugin, which stands in the place of a gateway. It has none
//! of the gateway's settings: a test that needs one is not applicable.

use std::cell::RefCell;
use std::future::{Ready, ready};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use stompgate::config::Config;
use tokio::net::{TcpListener, TcpStream};

use crate::rabbitmq::{RabbitMq, Setup, definitions, free_ports};
use crate::support::Place;

/// Shorter than elsewhere: what the plugin does not do is waited for in vain, test by test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// What differs in every conversation is not held against the plugin in each: its frames end with a line end, its
/// MESSAGEs say `redelivered:false`, its ERRORs have no code, other words and no close after them, and DISCONNECT has no
/// RECEIPT.
pub(crate) const IS_A_GATEWAY: bool = false;

/// Whether the RECEIPT of what reaches nobody says so.
pub(crate) const TELLS_UNROUTED: bool = true;

/// As many as all tests together ask for.
const VIRTUAL_HOSTS: usize = 200;
/// The names that the conversations log in with; all with the passcode that the plugin takes for one that is not said.
const USERS: [&str; 5] = ["guest", "ada", "bob", "first", "ada/lovelace@example.com #1"];

thread_local! {
    /// The virtual host of the test that this thread runs.
    static HOST: RefCell<String> = RefCell::new("localhost".to_owned());
}

/// A way to the plugin that counts its connections, and a virtual host of its own.
pub(crate) struct Gateway {
    address: SocketAddr,
    url: String,
    connections: Arc<AtomicUsize>,
}

/// What every gateway of this program is given before the test's own settings.
pub(crate) fn prepare(config: &mut Config) {
    *config = Config::default();
}

/// A queue is made by whoever sends to it.
pub(crate) fn before_sending(_frame: &[u8], _gateway: &Place) -> Ready<()> {
    ready(())
}

/// The `host` of a CONNECT.
pub(crate) fn host() -> String {
    HOST.with_borrow(Clone::clone)
}

impl Gateway {
    /// The tests' word for it.
    #[expect(clippy::needless_pass_by_value, reason = "a gateway keeps it")]
    pub(crate) fn start(config: Config) -> io::Result<Gateway> {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        if config != Config::default() {
            not_applicable("it needs settings of the gateway");
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        assert!(number < VIRTUAL_HOSTS, "more gateways than VIRTUAL_HOSTS");
        HOST.set(name(number));
        let plugin = plugin();
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        tokio::spawn(forward(TcpListener::from_std(listener)?, plugin, Arc::clone(&connections)));
        Ok(Gateway { address, url: format!("ws://{address}/ws"), connections })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// What a client connects to.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Connections to the plugin.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Nothing is shared.
    #[expect(clippy::unused_self, reason = "a gateway has it")]
    pub(crate) fn shared_subscriptions(&self) -> usize {
        not_applicable("it looks inside the gateway")
    }
}

/// What `tests/compare` counts as such.
fn not_applicable(why: &str) -> ! {
    panic!("NOT APPLICABLE: {why}")
}

async fn forward(listener: TcpListener, plugin: SocketAddr, connections: Arc<AtomicUsize>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let connections = Arc::clone(&connections);
        connections.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            if let Ok(mut server) = TcpStream::connect(plugin).await {
                let _ = client.set_nodelay(true);
                let _ = server.set_nodelay(true);
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            }
            connections.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

fn name(number: usize) -> String {
    format!("host-{number}")
}

/// Where the plugin of this program's node listens.
fn plugin() -> SocketAddr {
    static NODE: OnceLock<(RabbitMq, SocketAddr)> = OnceLock::new();
    let start = || {
        let mut hosts = vec!["/".to_owned(), "localhost".to_owned()];
        hosts.extend((0..VIRTUAL_HOSTS).map(name));
        let [web_stomp, stomp] = free_ports();
        let configuration = format!(
            "stomp.listeners.tcp.1 = 127.0.0.1:{stomp}\nstomp.default_user = guest\nstomp.default_pass = guest\n\
             web_stomp.tcp.ip = 127.0.0.1\nweb_stomp.tcp.port = {web_stomp}\n"
        );
        let definitions = definitions(&hosts, &USERS);
        let setup = Setup { plugins: "rabbitmq_web_stomp", configuration, definitions };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, web_stomp));
        runtime.block_on(async {
            let node = RabbitMq::start_with(&setup).await;
            while TcpStream::connect(address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            (node, address)
        })
    };
    NODE.get_or_init(|| std::thread::spawn(start).join().expect("a RabbitMQ")).1
}
