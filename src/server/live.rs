//! What a reload can change.

use std::io;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::registry::Limits;
use super::{SPARE_CONNECTIONS, Settings, tls};
use crate::access::Rules;
use crate::auth::Authenticator;
use crate::chain::Chain;
use crate::message::Handlers;
use crate::{hub, session};

/// What a reload can change. A client keeps what there was when it came, but for rules, routes and handlers: those change
/// for all, and what a session holds is put to the new rules, see `Connection::adopt`.
pub struct Live {
    /// `[server]`.
    pub server: Settings,
    /// `[session]`.
    pub session: Arc<session::Settings>,
    /// `[outbox]`.
    pub outbox: Arc<hub::Settings>,
    /// `[auth] max_sessions_per_user`.
    pub max_sessions_per_user: usize,
    /// Who may send and subscribe where.
    pub rules: Arc<Rules>,
    /// Finds out who a client is.
    pub authenticator: Arc<dyn Authenticator>,
    /// The interceptors.
    pub chain: Chain,
    /// The same, as sessions see it.
    pub handlers: Arc<dyn Handlers>,
    pub(super) tls: Option<TlsAcceptor>,
}

impl Live {
    /// # Errors
    /// TLS files that cannot be used; the text names the setting.
    pub fn new(
        server: Settings,
        session: session::Settings,
        outbox: hub::Settings,
        max_sessions_per_user: usize,
        rules: Rules,
        authenticator: Arc<dyn Authenticator>,
        chain: Chain,
    ) -> io::Result<Self> {
        let tls = server.tls.files().map(|(certificate, key)| tls::acceptor(certificate, key)).transpose()?;
        let (session, outbox) = (Arc::new(session), Arc::new(outbox));
        let (rules, handlers) = (Arc::new(rules), Arc::new(chain.clone()));
        Ok(Live { server, session, outbox, max_sessions_per_user, rules, authenticator, chain, handlers, tls })
    }

    pub(super) fn limits(&self) -> Limits {
        Limits {
            all: self.server.max_connections,
            per_address: self.server.max_connections_per_address,
            per_user: self.max_sessions_per_user,
        }
    }

    /// Sockets at a time, those that are only told that there are too many among them.
    pub(super) fn sockets(&self) -> usize {
        self.server.max_connections + SPARE_CONNECTIONS
    }

    /// Bytes of the largest WebSocket message: the largest frame, with room for command and line ends.
    pub(super) fn max_websocket_message(&self) -> usize {
        self.session.max_body + self.session.max_header_bytes + 1024
    }

    pub(super) fn websocket_config(&self) -> WebSocketConfig {
        let largest = self.max_websocket_message();
        WebSocketConfig::default()
            .read_buffer_size(self.server.read_buffer)
            .write_buffer_size(self.server.write_buffer)
            .max_message_size(Some(largest))
            .max_frame_size(Some(largest))
    }
}
