//! An MQTT 5 broker that says what a test wants it to say, and does nothing else: it delivers no messages.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// What it says.
#[derive(Clone, Default)]
pub(crate) struct Script {
    /// The properties of its CONNACK, as they go over the wire.
    pub(crate) connack: Vec<u8>,
    /// The reason code of each PUBACK.
    pub(crate) puback: u8,
    /// How late each PUBACK is.
    pub(crate) late: Duration,
    /// What becomes of the first SUBSCRIBEs, one after the other.
    pub(crate) subscribes: Vec<Then>,
}

/// What becomes of a SUBSCRIBE.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Then {
    Granted,
    Refused,
    /// And the connection ends with the SUBACK.
    GrantedAndLeft,
    /// The connection ends without one.
    Left,
}

/// A SUBSCRIBE that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) filter: String,
    /// Whether retained messages are wanted.
    pub(crate) retained: bool,
}

/// The broker. Dropping it ends it.
pub(crate) struct Scripted {
    pub(crate) port: u16,
    /// The most messages that were on their way to it at a time.
    pub(crate) most: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
    disconnects: watch::Sender<usize>,
    accepting: JoinHandle<()>,
}

impl Scripted {
    pub(crate) async fn start(script: Script) -> Scripted {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let most = Arc::new(AtomicUsize::new(0));
        let (disconnects, received) = watch::channel(0);
        let counter = Arc::clone(&most);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&asked);
        let accepting = tokio::spawn(async move {
            let connections = Mutex::new(tokio::task::JoinSet::new());
            while let Ok((stream, _)) = listener.accept().await {
                let mut received = received.clone();
                received.mark_unchanged();
                let all = Arc::clone(&all);
                connections.lock().unwrap().spawn(serve(stream, script.clone(), Arc::clone(&counter), all, received));
            }
        });
        Scripted { port, most, asked, disconnects, accepting }
    }

    /// What has been subscribed to so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Says to all who are there that somebody else has logged in under their names.
    pub(crate) fn take_over(&self) {
        self.disconnects.send_modify(|count| *count += 1);
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    stream: TcpStream,
    script: Script,
    most: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
    mut disconnects: watch::Receiver<usize>,
) {
    let (mut reads, mut writes) = stream.into_split();
    let (answers, mut to_write) = mpsc::unbounded_channel::<Vec<u8>>();
    let writing = tokio::spawn(async move {
        while let Some(answer) = to_write.recv().await {
            if writes.write_all(&answer).await.is_err() {
                return;
            }
        }
    });
    let on_their_way = Arc::new(AtomicUsize::new(0));
    loop {
        let packet = tokio::select! {
            packet = read(&mut reads) => packet,
            Ok(()) = disconnects.changed() => {
                let _ = answers.send(vec![0xe0, 2, 0x8e, 0]);
                break;
            }
        };
        let Some((kind, body)) = packet else { break };
        match kind >> 4 {
            1 => {
                let mut connack = vec![0x20, u8::try_from(3 + script.connack.len()).unwrap(), 0, 0];
                connack.push(u8::try_from(script.connack.len()).unwrap());
                connack.extend(&script.connack);
                let _ = answers.send(connack);
            }
            3 if kind & 0b110 != 0 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (high, low) = (body[2 + topic], body[3 + topic]);
                most.fetch_max(1 + on_their_way.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                let (answers, on_their_way, script) = (answers.clone(), Arc::clone(&on_their_way), script.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(script.late).await;
                    on_their_way.fetch_sub(1, Ordering::SeqCst);
                    let _ = answers.send(vec![0x40, 3, high, low, script.puback]);
                });
            }
            // One filter at a time is all that the gateway asks for.
            8 => {
                let before = {
                    let mut asked = asked.lock().unwrap();
                    asked.push(subscription(&body));
                    asked.len() - 1
                };
                let then = script.subscribes.get(before).copied().unwrap_or(Then::Granted);
                if then != Then::Left {
                    let reason = if then == Then::Refused { 0x83 } else { 0 };
                    let _ = answers.send(vec![0x90, 4, body[0], body[1], 0, reason]);
                }
                if matches!(then, Then::Left | Then::GrantedAndLeft) {
                    break;
                }
            }
            10 => drop(answers.send(vec![0xb0, 4, body[0], body[1], 0, 0])),
            12 => drop(answers.send(vec![0xd0, 0])),
            14 => break,
            _ => {}
        }
    }
    drop(answers);
    let _ = writing.await;
}

/// What a SUBSCRIBE asks for.
fn subscription(body: &[u8]) -> Asked {
    let filter = &body[3 + usize::from(body[2])..]; // after the packet's number and its few properties
    let (path, options) = filter[2..].split_at(usize::from(u16::from_be_bytes([filter[0], filter[1]])));
    Asked { filter: String::from_utf8(path.to_vec()).unwrap(), retained: options[0] >> 4 == 0 }
}

/// The next packet: its first byte, and all that follows its length.
pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await.ok()?;
    let (mut length, mut shift) = (0, 0);
    loop {
        let byte = stream.read_u8().await.ok()?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((kind, body))
}
