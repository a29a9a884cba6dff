//! A frame and its command.

use std::fmt;

use bytes::Bytes;

use crate::message::{Headers, Text};

/// What a frame asks for or tells (STOMP 1.2, “Augmented BNF”). Commands are case sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// Opens a session.
    Connect,
    /// Opens a session; the other name of CONNECT, since 1.1.
    Stomp,
    /// Sends a message to a destination.
    Send,
    /// Asks for the messages of a destination.
    Subscribe,
    /// Ends a subscription.
    Unsubscribe,
    /// A message has been consumed.
    Ack,
    /// A message has not been consumed; since 1.1.
    Nack,
    /// Opens a transaction.
    Begin,
    /// Carries out a transaction.
    Commit,
    /// Gives up a transaction.
    Abort,
    /// Ends the session.
    Disconnect,
    /// The server's answer to CONNECT.
    Connected,
    /// A message for a subscription.
    Message,
    /// What the client asked a receipt for has been done.
    Receipt,
    /// Something went wrong; the server closes after it.
    Error,
}

impl Command {
    /// Every command there is.
    pub const ALL: [Command; 15] = [
        Command::Send,
        Command::Message,
        Command::Ack,
        Command::Nack,
        Command::Subscribe,
        Command::Unsubscribe,
        Command::Receipt,
        Command::Begin,
        Command::Commit,
        Command::Abort,
        Command::Connect,
        Command::Stomp,
        Command::Disconnect,
        Command::Connected,
        Command::Error,
    ];

    /// As it stands in the first line of a frame.
    pub const fn as_str(self) -> &'static str {
        match self {
            Command::Connect => "CONNECT",
            Command::Stomp => "STOMP",
            Command::Send => "SEND",
            Command::Subscribe => "SUBSCRIBE",
            Command::Unsubscribe => "UNSUBSCRIBE",
            Command::Ack => "ACK",
            Command::Nack => "NACK",
            Command::Begin => "BEGIN",
            Command::Commit => "COMMIT",
            Command::Abort => "ABORT",
            Command::Disconnect => "DISCONNECT",
            Command::Connected => "CONNECTED",
            Command::Message => "MESSAGE",
            Command::Receipt => "RECEIPT",
            Command::Error => "ERROR",
        }
    }

    /// The command of that name.
    pub fn from_bytes(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.as_str().as_bytes() == name)
    }

    /// Whether a client sends it, rather than a server.
    pub const fn is_client(self) -> bool {
        !matches!(self, Command::Connected | Command::Message | Command::Receipt | Command::Error)
    }

    /// Whether it may carry a body since 1.1 (STOMP 1.2, “Body”).
    pub const fn may_have_body(self) -> bool {
        matches!(self, Command::Send | Command::Message | Command::Error)
    }

    /// Whether it is read before both sides know their version, and so is never escaped (STOMP 1.2, “Value Encoding”).
    pub const fn is_handshake(self) -> bool {
        matches!(self, Command::Connect | Command::Stomp | Command::Connected)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One frame, with its headers as they are meant, not as they are escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it asks for or tells.
    pub command: Command,
    /// Its headers, in the order of the wire; the first of a name counts.
    pub headers: Headers,
    /// Its body, without the NUL that ends it.
    pub body: Bytes,
}

impl Frame {
    /// A frame without headers and body.
    pub const fn new(command: Command) -> Self {
        Frame { command, headers: Headers::new(), body: Bytes::new() }
    }

    /// The same frame with one header more.
    #[must_use]
    pub fn with(mut self, name: impl Into<Text>, value: impl Into<Text>) -> Self {
        self.headers.push(name, value);
        self
    }

    /// The same frame with this body.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// The value of the first header of that name.
    pub fn header(&self, name: &str) -> Option<&Text> {
        self.headers.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_only() {
        for command in Command::ALL {
            assert_eq!(Command::from_bytes(command.as_str().as_bytes()), Some(command));
            assert_eq!(Command::from_bytes(command.as_str().to_lowercase().as_bytes()), None);
        }
        assert_eq!(Command::from_bytes(b""), None);
    }

    #[test]
    fn eleven_commands_are_the_clients() {
        assert_eq!(Command::ALL.into_iter().filter(|command| command.is_client()).count(), 11);
    }

    #[test]
    fn a_frame_is_built_step_by_step() {
        let frame = Frame::new(Command::Send).with("destination", "/queue/a").with_body("hello");
        assert_eq!(frame.header("destination").unwrap(), "/queue/a");
        assert_eq!(frame.body, "hello");
    }
}
