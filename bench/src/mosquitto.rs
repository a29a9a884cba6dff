//! A Mosquitto from Debian's package, for as long as it is measured.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SERVER: &str = "/usr/sbin/mosquitto";
const PATIENCE: Duration = Duration::from_mins(1);

/// A broker. It ends when this is dropped.
#[derive(Debug)]
pub struct Mosquitto {
    child: Child,
    folder: PathBuf,
    address: SocketAddr,
}

impl Mosquitto {
    /// Starts one on a free port, which drops nothing that waits; comes back when it accepts.
    pub fn start() -> io::Result<Mosquitto> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("stompgate-bench-mosquitto-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        // The user is asked for only where root starts it.
        let configuration = format!(
            "listener {} 127.0.0.1\nallow_anonymous true\nuser root\nmax_queued_messages 0\n\
             max_inflight_messages 0\nset_tcp_nodelay true\nlog_dest none\n",
            address.port()
        );
        let file = folder.join("mosquitto.conf");
        fs::write(&file, configuration)?;
        let mut command = Command::new(SERVER);
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| io::Error::new(error.kind(), format!("{SERVER}: {error}")))?;
        let broker = Mosquitto { child, folder, address };
        let begun = Instant::now();
        while let Err(error) = TcpStream::connect(address) {
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::new(error.kind(), format!("Mosquitto does not start: {error}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(broker)
    }

    /// Where it accepts.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}
