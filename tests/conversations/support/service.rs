//! An HTTP service for the gateway to call: real sockets, and answers that a test writes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) head: String,
    pub(crate) body: String,
    pub(crate) bytes: Vec<u8>,
}

/// A service that answers each request with the next of some texts, and at last with the last one over and over.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    calls: Arc<Mutex<Vec<Call>>>,
    connections: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

/// What a service does with a request.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Writes these bytes.
    Bytes(Vec<u8>),
    /// Writes these bytes and closes.
    Last(Vec<u8>),
    /// Never answers.
    Silence,
    /// Writes these bytes when it gets a permit.
    Held(Arc<Semaphore>, Vec<u8>),
    /// Writes the first bytes, and then the others over and over.
    Endless(Vec<u8>, Vec<u8>),
}

/// A whole answer.
pub(crate) fn answer(status: &str, body: &str) -> Answer {
    answer_with(status, "content-type: text/plain\r\n", body)
}

/// A whole answer with these headers.
pub(crate) fn answer_with(status: &str, headers: &str, body: &str) -> Answer {
    Answer::Bytes(format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes())
}

impl Service {
    pub(crate) async fn start(answers: impl Into<Vec<Answer>>) -> Self {
        Self::start_with(None, answers.into(), None).await
    }

    /// Where another was before.
    pub(crate) async fn start_at(address: SocketAddr, answers: impl Into<Vec<Answer>>) -> Self {
        Self::start_with(Some(address), answers.into(), None).await
    }

    /// The same over TLS.
    pub(crate) async fn start_tls(answers: impl Into<Vec<Answer>>, acceptor: TlsAcceptor) -> Self {
        Self::start_with(None, answers.into(), Some(acceptor)).await
    }

    async fn start_with(address: Option<SocketAddr>, answers: Vec<Answer>, acceptor: Option<TlsAcceptor>) -> Self {
        let address = address.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (calls, answers) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(answers)));
        let connections = Arc::new(AtomicUsize::new(0));
        let (noted, accepted) = (Arc::clone(&calls), Arc::clone(&connections));
        let serving = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, Ordering::SeqCst);
                let (acceptor, noted, answers) = (acceptor.clone(), Arc::clone(&noted), Arc::clone(&answers));
                clients.spawn(async move {
                    match acceptor {
                        None => serve(stream, noted, answers).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, noted, answers).await;
                            }
                        }
                    }
                });
            }
        });
        Service { address, calls, connections, serving }
    }

    /// The requests that came, in their order.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    /// How many connections it has accepted.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The last request that came.
    pub(crate) fn last(&self) -> Call {
        self.calls().pop().expect("a request")
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Call {
    /// The line with method and path.
    pub(crate) fn line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    /// All values of a header.
    pub(crate) fn headers(&self, name: &str) -> Vec<String> {
        let pairs = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        pairs.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).collect()
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    calls: Arc<Mutex<Vec<Call>>>,
    answers: Arc<Mutex<Vec<Answer>>>,
) {
    let mut bytes = Vec::new();
    loop {
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut call = Call { head, body: String::new(), bytes: Vec::new() };
        let length: usize = call.headers("content-length").first().map_or(0, |length| length.parse().unwrap());
        while bytes.len() < end + 4 + length {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        }
        call.bytes = bytes[end + 4..end + 4 + length].to_vec();
        call.body = String::from_utf8_lossy(&call.bytes).into_owned();
        bytes.drain(..end + 4 + length);
        calls.lock().unwrap().push(call);
        let next = {
            let mut answers = answers.lock().unwrap();
            if answers.len() > 1 { answers.remove(0) } else { answers[0].clone() }
        };
        match next {
            Answer::Bytes(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Answer::Last(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
                return;
            }
            Answer::Endless(first, others) => {
                let mut is_read = stream.write_all(&first).await.is_ok();
                while is_read {
                    is_read = stream.write_all(&others).await.is_ok();
                }
                return;
            }
            Answer::Silence => std::future::pending().await,
            Answer::Held(permits, bytes) => {
                permits.acquire().await.expect("a test that lets go").forget();
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
    }
}
