//! An MQTT broker that says what a test wants it to say, in the version that it is spoken to in, and does nothing else: it
//! delivers no messages.

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
    /// The return code of its CONNACK; 0 accepts.
    pub(crate) refusal: u8,
    /// The properties of its CONNACK, as they go over the wire. MQTT 5 only.
    pub(crate) connack: Vec<u8>,
    /// The reason code of each PUBACK. MQTT 5 only.
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
    /// Whether retained messages are wanted; by 3.1.1 they always are.
    pub(crate) retained: bool,
}

/// What came from all connections.
#[derive(Default)]
struct Heard {
    asked: Mutex<Vec<Asked>>,
    /// The names of clients, each time that one logged in.
    logins: Mutex<Vec<String>>,
}

/// The broker. Dropping it ends it.
pub(crate) struct Scripted {
    pub(crate) port: u16,
    /// The most messages that were on their way to it at a time.
    pub(crate) most: Arc<AtomicUsize>,
    heard: Arc<Heard>,
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
        let heard = Arc::new(Heard::default());
        let all = Arc::clone(&heard);
        let accepting = tokio::spawn(async move {
            let connections = Mutex::new(tokio::task::JoinSet::new());
            while let Ok((stream, _)) = listener.accept().await {
                let mut received = received.clone();
                received.mark_unchanged();
                let all = Arc::clone(&all);
                connections.lock().unwrap().spawn(serve(stream, script.clone(), Arc::clone(&counter), all, received));
            }
        });
        Scripted { port, most, heard, disconnects, accepting }
    }

    /// What has been subscribed to so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.heard.asked.lock().unwrap().clone()
    }

    /// The names of the clients that have logged in so far.
    pub(crate) fn logins(&self) -> Vec<String> {
        self.heard.logins.lock().unwrap().clone()
    }

    /// Ends all connections, and says by MQTT 5 that somebody else has logged in under their names.
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
    heard: Arc<Heard>,
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
    let mut is_5 = true;
    loop {
        let came = tokio::select! {
            came = read(&mut reads) => came,
            Ok(()) = disconnects.changed() => {
                if is_5 {
                    let _ = answers.send(vec![0xe0, 2, 0x8e, 0]);
                }
                break;
            }
        };
        let Some((kind, body)) = came else { break };
        match kind >> 4 {
            1 => {
                is_5 = body[6] == 5;
                heard.logins.lock().unwrap().push(client_id(&body, is_5));
                let mut properties = vec![u8::try_from(script.connack.len()).unwrap()];
                properties.extend(&script.connack);
                let _ = answers.send(packet(0x20, &[0, script.refusal], if is_5 { &properties } else { &[] }));
            }
            3 if kind & 0b110 != 0 => {
                let topic = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let (high, low) = (body[2 + topic], body[3 + topic]);
                most.fetch_max(1 + on_their_way.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
                let (answers, on_their_way, script) = (answers.clone(), Arc::clone(&on_their_way), script.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(script.late).await;
                    on_their_way.fetch_sub(1, Ordering::SeqCst);
                    let _ = answers.send(packet(0x40, &[high, low], &if is_5 { vec![script.puback] } else { vec![] }));
                });
            }
            // One filter at a time is all that the gateway asks for.
            8 => {
                let before = {
                    let mut asked = heard.asked.lock().unwrap();
                    asked.push(subscription(&body, is_5));
                    asked.len() - 1
                };
                let then = script.subscribes.get(before).copied().unwrap_or(Then::Granted);
                if then != Then::Left {
                    let refused = if is_5 { 0x83 } else { 0x80 };
                    let code = if then == Then::Refused { refused } else { 1 };
                    let _ = answers.send(packet(0x90, &body[..2], &if is_5 { vec![0, code] } else { vec![code] }));
                }
                if matches!(then, Then::Left | Then::GrantedAndLeft) {
                    break;
                }
            }
            10 => drop(answers.send(packet(0xb0, &body[..2], if is_5 { &[0, 0] } else { &[] }))),
            12 => drop(answers.send(vec![0xd0, 0])),
            14 => break,
            _ => {}
        }
    }
    drop(answers);
    let _ = writing.await;
}

/// A short packet: what both versions say, and what this one adds.
fn packet(kind: u8, both: &[u8], more: &[u8]) -> Vec<u8> {
    let length = u8::try_from(both.len() + more.len()).unwrap();
    [&[kind, length], both, more].concat()
}

/// The name in a CONNECT.
fn client_id(body: &[u8], is_5: bool) -> String {
    let rest = &body[10..]; // after protocol, flags, and keep-alive
    text(if is_5 { &rest[1 + usize::from(rest[0])..] } else { rest }).0
}

/// What a SUBSCRIBE asks for.
fn subscription(body: &[u8], is_5: bool) -> Asked {
    let rest = &body[2..]; // after the packet's number
    let (filter, options) = text(if is_5 { &rest[1 + usize::from(rest[0])..] } else { rest });
    Asked { filter, retained: options[0] >> 4 == 0 }
}

/// A text, and what follows it.
fn text(bytes: &[u8]) -> (String, &[u8]) {
    let (text, rest) = bytes[2..].split_at(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])));
    (String::from_utf8(text.to_vec()).unwrap(), rest)
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
