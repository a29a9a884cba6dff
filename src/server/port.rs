//! Sockets that listen.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;

/// Connections that the kernel keeps for a gateway that is busy: a crowd that comes back after a restart.
const BACKLOG: u32 = 4096;

/// Listens on the address that the setting `key` names.
pub(super) fn listen(address: SocketAddr, key: &str) -> io::Result<TcpListener> {
    let listen = || {
        let socket = socket(address)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(named(address, key))
}

/// The same with a socket for each runtime, among which the kernel spreads those who connect.
pub(super) fn listen_shared(address: SocketAddr, key: &str, runtimes: &[Handle]) -> io::Result<Vec<TcpListener>> {
    let listen_all = || -> io::Result<Vec<TcpListener>> {
        let first = socket(address)?;
        // Only then may others share the port, so that a second gateway is told that the address is in use.
        first.bind(address)?;
        let address = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..runtimes.len() {
            sockets[0].set_reuseport(true)?;
            let further = socket(address)?;
            further.set_reuseport(true)?;
            further.bind(address)?;
            sockets.push(further);
        }
        let listen = |(socket, runtime): (TcpSocket, &Handle)| {
            let _runtime = runtime.enter(); // which will be told of those who connect
            socket.listen(BACKLOG)
        };
        sockets.into_iter().zip(runtimes).map(listen).collect()
    };
    listen_all().map_err(named(address, key))
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    Ok(socket)
}

fn named(address: SocketAddr, key: &str) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{key}: cannot listen on {address}: {error}"))
}
