//! A TCP proxy that does to a connection what networks do: cuts it, delays it, swallows it, refuses it.
//!
//! It knows nothing of what it carries, so it fits in front of any broker. Every order holds for the connections that
//! are there and for those that come, until the next one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// A proxy on a port of its own. Dropping it ends it and all that it carries.
pub(crate) struct Proxy {
    port: u16,
    orders: watch::Sender<Orders>,
    accepted: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Both sides are told in order.
    Fin,
    /// Both sides are told with a TCP reset.
    Reset,
}

/// What happens to what comes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Every chunk waits so long before it goes on.
    Pass(Duration),
    /// Connections are accepted and stay open, and nothing comes through, not even their end.
    BlackHole,
    /// Nobody listens.
    Refuse,
}

#[derive(Clone, Copy)]
struct Orders {
    mode: Mode,
    /// How many cuts there were, and how the last one was made.
    cuts: (usize, Cut),
    /// The last cut was for connections that were accepted after so many.
    spared: usize,
}

/// One connection's view of the orders.
#[derive(Clone)]
struct Wire {
    orders: watch::Receiver<Orders>,
    /// How many were accepted before it.
    number: usize,
}

impl Proxy {
    /// A proxy before this port of the machine's own, that passes everything.
    pub(crate) fn before(port: u16) -> Proxy {
        let (orders, received) =
            watch::channel(Orders { mode: Mode::Pass(Duration::ZERO), cuts: (0, Cut::Fin), spared: 0 });
        // Bound and never listening: nobody else gets the port while connections are refused.
        let claim = bound(0);
        let port_of_ours = claim.local_addr().unwrap().port();
        let accepted = Arc::new(AtomicUsize::new(0));
        let listener = listen(port_of_ours);
        let target = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let accepting = tokio::spawn(accept(claim, listener, target, received, Arc::clone(&accepted)));
        Proxy { port: port_of_ours, orders, accepted, accepting }
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many connections it has accepted since it was started.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Everything goes through, and what a black hole held, too.
    pub(crate) fn pass(&self) {
        self.set(Mode::Pass(Duration::ZERO));
    }

    /// Everything goes through so much later.
    pub(crate) fn delay(&self, by: Duration) {
        self.set(Mode::Pass(by));
    }

    /// Nothing goes through, and nobody is told.
    pub(crate) fn black_hole(&self) {
        self.set(Mode::BlackHole);
    }

    /// Nobody can connect. Connections that are there stay.
    pub(crate) fn refuse(&self) {
        self.set(Mode::Refuse);
    }

    /// Ends all connections that are there now.
    pub(crate) fn cut(&self, how: Cut) {
        self.cut_after(0, how);
    }

    /// Ends those that are there now, but for the first so many that it has accepted.
    #[allow(dead_code, reason = "most faults are everybody's")]
    pub(crate) fn cut_after(&self, spared: usize, how: Cut) {
        self.orders.send_modify(|orders| (orders.cuts, orders.spared) = ((orders.cuts.0 + 1, how), spared));
    }

    fn set(&self, mode: Mode) {
        self.orders.send_modify(|orders| orders.mode = mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort(); // and the connections with it: it owns them
    }
}

async fn accept(
    _claim: TcpSocket,
    listener: TcpListener,
    target: SocketAddr,
    mut orders: watch::Receiver<Orders>,
    accepted: Arc<AtomicUsize>,
) {
    let port = listener.local_addr().unwrap().port();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refusing = orders.borrow_and_update().mode == Mode::Refuse;
        match (&listener, refusing) {
            (Some(_), true) => listener = None,
            (None, false) => listener = Some(listen(port)),
            _ => {}
        }
        let incoming = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok((client, _)) = incoming => {
                // Whoever sees it counted can cut it.
                let cuts = orders.borrow().cuts.0;
                let number = accepted.fetch_add(1, Ordering::SeqCst);
                connections.spawn(carry(client, target, Wire { orders: orders.clone(), number }, cuts));
            }
            changed = orders.changed() => if changed.is_err() { return },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Carries one connection until one side ends it, or a cut does: one after so many.
async fn carry(mut client: TcpStream, target: SocketAddr, wire: Wire, cuts: usize) {
    let mut server = None;
    let passing = async {
        wire.clone().open().await;
        let Ok(connected) = TcpStream::connect(target).await else { return };
        let server = server.insert(connected);
        let ((client_reads, client_writes), (server_reads, server_writes)) = (client.split(), server.split());
        tokio::join!(pump(client_reads, server_writes, wire.clone()), pump(server_reads, client_writes, wire.clone()));
    };
    let cut = tokio::select! {
        cut = wire.clone().cut(cuts) => cut,
        // A broker that is not there: whoever connected is told so as plainly as we can.
        () = passing => Cut::Reset,
    };
    if cut == Cut::Reset {
        for stream in [Some(client), server].into_iter().flatten() {
            let _ = stream.set_zero_linger(); // a socket that is gone already
        }
    }
}

/// Carries one direction until its end, which is passed on like everything else.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut wire: Wire) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or_default();
        let arrived = Instant::now();
        let delay = wire.open().await;
        sleep_until(arrived + delay).await;
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            let _ = to.shutdown().await; // it may be gone
            return;
        }
    }
}

impl Wire {
    /// Waits until something can pass; and says how long each chunk takes.
    async fn open(&mut self) -> Duration {
        let delay = |orders: &Orders| match orders.mode {
            Mode::Pass(delay) => Some(delay),
            Mode::Refuse => Some(Duration::ZERO), // that is for new connections
            Mode::BlackHole => None,
        };
        let now = self.orders.wait_for(|orders| delay(orders).is_some()).await.map(|orders| *orders);
        match now {
            Ok(orders) => delay(&orders).unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for a cut after so many.
    async fn cut(mut self, known: usize) -> Cut {
        let number = self.number;
        let is_meant = |orders: &Orders| orders.cuts.0 > known && number >= orders.spared;
        let now = self.orders.wait_for(is_meant).await.map(|orders| orders.cuts);
        match now {
            Ok((_, how)) => how,
            Err(_) => std::future::pending().await,
        }
    }
}

fn bound(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    socket
}

fn listen(port: u16) -> TcpListener {
    bound(port).listen(128).unwrap()
}

mod tests {
    use std::io::ErrorKind;

    use tokio::time::timeout;

    use super::*;

    /// A server that says everything once more, and a proxy before it.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    let _ = tokio::io::copy(&mut reads, &mut writes).await;
                });
            }
        });
        Proxy::before(port)
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.unwrap()
    }

    async fn echoes(stream: &mut TcpStream) {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn connections_are_cut_both_ways_and_new_ones_pass() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        echoes(&mut stream).await;
        proxy.cut(Cut::Fin);
        assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
        let mut stream = connect(&proxy).await;
        echoes(&mut stream).await;
        proxy.cut(Cut::Reset);
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let mut spared = connect(&proxy).await;
        echoes(&mut spared).await;
        assert_eq!(proxy.accepted(), 3);
        let mut meant = connect(&proxy).await;
        echoes(&mut meant).await;
        proxy.cut_after(3, Cut::Fin);
        assert_eq!(meant.read(&mut [0]).await.unwrap(), 0);
        echoes(&mut spared).await;
    }

    #[tokio::test]
    async fn a_black_hole_takes_all_and_gives_it_back_when_it_ends() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        echoes(&mut old).await;
        proxy.black_hole();
        let mut new = connect(&proxy).await;
        for stream in [&mut old, &mut new] {
            stream.write_all(b"y").await.unwrap();
            assert!(timeout(Duration::from_millis(50), stream.read_u8()).await.is_err());
        }
        proxy.pass();
        assert_eq!(old.read_u8().await.unwrap(), b'y');
        assert_eq!(new.read_u8().await.unwrap(), b'y');
    }

    #[tokio::test]
    async fn refused_is_refused_and_keeps_its_port() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        echoes(&mut old).await;
        proxy.refuse();
        while let Err(error) | Ok(Err(error)) =
            TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.map(|_| Err::<(), _>(ErrorKind::Other.into()))
        {
            if error.kind() == ErrorKind::ConnectionRefused {
                break;
            }
            tokio::task::yield_now().await;
        }
        echoes(&mut old).await;
        proxy.pass();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).await.is_err() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn what_is_delayed_comes_later() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        proxy.delay(Duration::from_millis(20));
        let begun = Instant::now();
        echoes(&mut stream).await;
        assert!(begun.elapsed() >= Duration::from_millis(40));
    }
}
