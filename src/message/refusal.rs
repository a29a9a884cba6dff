//! Every reason for which the gateway refuses something, with the text that the client reads.
//!
//! The one place where such a text is chosen. Where RabbitMQ has a short text for the same thing, ours is the same, so
//! that migrating users recognise it.

use std::fmt;

/// Why a frame, a session or a handshake is refused: what an ERROR frame and the close after it say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A stable word for programs: the header `code`.
    pub code: &'static str,
    /// A short text for people: the header `message`.
    pub message: String,
    /// What happened, which value, and which header or setting governs it: the body.
    pub detail: String,
    /// The WebSocket close code that follows.
    pub close: CloseCode,
}

/// A WebSocket close code (RFC 6455 §7.4), with those that this gateway defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// Every code that the gateway sends.
    pub const ALL: [CloseCode; 14] = [
        Self::NORMAL,
        Self::SERVICE_RESTART,
        Self::PROTOCOL,
        Self::NOT_UTF8,
        Self::POLICY,
        Self::TOO_BIG,
        Self::INTERNAL,
        Self::OVERLOAD,
        Self::NOT_AUTHENTICATED,
        Self::NOT_AUTHORISED,
        Self::TIMED_OUT,
        Self::RATE,
        Self::BROKER_UNAVAILABLE,
        Self::SLOW_CONSUMER,
    ];

    /// The session ended as it should.
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The gateway stops.
    pub const SERVICE_RESTART: CloseCode = CloseCode(1012);
    /// Against the STOMP or WebSocket protocol.
    pub const PROTOCOL: CloseCode = CloseCode(1002);
    /// A text message that is not UTF-8.
    pub const NOT_UTF8: CloseCode = CloseCode(1007);
    /// Against a rule of this gateway.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// A frame or message over a limit.
    pub const TOO_BIG: CloseCode = CloseCode(1009);
    /// A fault of the gateway.
    pub const INTERNAL: CloseCode = CloseCode(1011);
    /// Too many connections; come back later.
    pub const OVERLOAD: CloseCode = CloseCode(1013);
    /// Not authenticated.
    pub const NOT_AUTHENTICATED: CloseCode = CloseCode(4401);
    /// Authenticated, but not allowed.
    pub const NOT_AUTHORISED: CloseCode = CloseCode(4403);
    /// No CONNECT in time, or silence for too long.
    pub const TIMED_OUT: CloseCode = CloseCode(4408);
    /// More frames or bytes than the client may send.
    pub const RATE: CloseCode = CloseCode(4429);
    /// The broker behind the gateway does not answer.
    pub const BROKER_UNAVAILABLE: CloseCode = CloseCode(4503);
    /// The client does not read fast enough.
    pub const SLOW_CONSUMER: CloseCode = CloseCode(4508);
}

impl Refusal {
    /// The code of a message that the broker did not confirm in time.
    pub const CONFIRM_TIMEOUT: &str = "confirm-timeout";

    fn new(code: &'static str, close: CloseCode, message: impl Into<String>, detail: impl Into<String>) -> Self {
        Refusal { code, message: message.into(), detail: detail.into(), close }
    }

    // --- frames ---

    /// Bytes that are not a STOMP frame.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new("malformed-frame", CloseCode::PROTOCOL, "Malformed frame", detail)
    }

    /// A frame, or a part of one, over a limit. `limit` is in bytes or pieces; `setting` is its full key.
    pub fn too_large(what: &str, limit: usize, setting: &str) -> Self {
        let detail = format!("{what} exceeds the limit of {limit}; the setting {setting} governs it.");
        Self::new("too-large", CloseCode::TOO_BIG, "Frame too large", detail)
    }

    /// A command that clients do not send, or that does not exist.
    pub fn unknown_command(command: &str) -> Self {
        let detail = format!(
            "The command {command:?} is none that a client sends in STOMP 1.0 to 1.2. Commands are written in capitals."
        );
        Self::new("unknown-command", CloseCode::PROTOCOL, "Unknown command", detail)
    }

    /// A header that its command demands is not there, or is empty.
    pub fn missing_header(command: &str, header: &str) -> Self {
        let message =
            if header == "destination" { "Missing destination".to_owned() } else { format!("Missing {header}") };
        let detail = format!("{command} needs the header {header:?}, and it must not be empty.");
        Self::new("missing-header", CloseCode::PROTOCOL, message, detail)
    }

    /// A header whose value cannot be understood.
    pub fn invalid_header(header: &str, value: &str, expected: &str) -> Self {
        let detail = format!("The header {header:?} has the value {value:?}; expected {expected}.");
        Self::new("invalid-header", CloseCode::PROTOCOL, format!("Invalid {header}"), detail)
    }

    /// A header that this command must not carry.
    pub fn forbidden_header(command: &str, header: &str, why: &str) -> Self {
        let detail = format!("{command} must not carry the header {header:?}: {why}.");
        Self::new("forbidden-header", CloseCode::POLICY, format!("Header {header} not allowed"), detail)
    }

    /// A text message of the WebSocket that is not UTF-8 (RFC 6455 §8.1).
    pub fn not_utf8() -> Self {
        let detail = "A WebSocket text message must be UTF-8; send bodies of other bytes in binary messages.";
        Self::new("invalid-utf8", CloseCode::NOT_UTF8, "Text message is not UTF-8", detail)
    }

    /// A compressed message of the WebSocket that cannot be inflated (RFC 7692 §6.2).
    pub fn not_deflate() -> Self {
        let detail = "A WebSocket message with RSV1 must be DEFLATE data that refers to nothing before it: \
                      client_no_context_takeover was agreed on.";
        Self::new("invalid-deflate", CloseCode::NOT_UTF8, "Compressed message is not DEFLATE data", detail)
    }

    /// Anything else against RFC 6455. `what` says what it was.
    pub fn websocket_protocol(what: &str) -> Self {
        Self::new("websocket-protocol", CloseCode::PROTOCOL, "WebSocket protocol error", format!("{what}."))
    }

    // --- connecting ---

    /// A frame before CONNECT.
    pub fn not_connected(command: &str) -> Self {
        let detail = format!("The first frame must be CONNECT or STOMP, and it was {command}.");
        Self::new("not-connected", CloseCode::PROTOCOL, "You must log in using CONNECT first", detail)
    }

    /// A second CONNECT.
    pub fn already_connected() -> Self {
        let detail = "This session is connected already; a second CONNECT or STOMP frame is not allowed.";
        Self::new("already-connected", CloseCode::PROTOCOL, "Bad CONNECT", detail)
    }

    /// No version in common. `offered` is the client's `accept-version`.
    pub fn no_common_version(offered: &str) -> Self {
        let detail = format!("accept-version offers {offered:?}, and this gateway speaks 1.0, 1.1 and 1.2.");
        Self::new("unsupported-version", CloseCode::PROTOCOL, "Supported versions are 1.0,1.1,1.2", detail)
    }

    /// A CONNECT whose `header` cannot be taken.
    pub fn bad_connect(header: &str, value: &str, expected: &str) -> Self {
        let detail = format!("CONNECT has the header {header:?} with the value {value:?}; expected {expected}.");
        Self::new("bad-connect", CloseCode::PROTOCOL, "Bad CONNECT", detail)
    }

    /// A `host` that means no virtual host, or none that this user may use.
    pub fn unknown_host(host: &str) -> Self {
        let detail = format!(
            "The header host in CONNECT means the virtual host {host:?}, which is not there, or not for this user."
        );
        Self::new("unknown-host", CloseCode::NOT_AUTHORISED, format!("Virtual host '{host}' access denied"), detail)
    }

    /// No CONNECT within the time that the setting gives. `seconds` is that time.
    pub fn connect_timeout(seconds: u64) -> Self {
        let detail = format!("No CONNECT came within {seconds} s; the setting session.connect_timeout governs it.");
        Self::new("connect-timeout", CloseCode::TIMED_OUT, "CONNECT timed out", detail)
    }

    /// The login is not accepted.
    pub fn not_authenticated(user: &str) -> Self {
        let detail = "The login or the passcode in CONNECT is not accepted.";
        Self::new(
            "not-authenticated",
            CloseCode::NOT_AUTHENTICATED,
            format!("Access refused for user '{user}'"),
            detail,
        )
    }

    /// The broker does not let this user do something. `what` is what was asked for, a noun.
    pub fn access_refused(user: &str, what: &str) -> Self {
        let detail = format!("The broker's permissions do not allow it to {user:?}: {what}.");
        let message = format!("Access refused for user '{user}'");
        Self::new("access-refused", CloseCode::NOT_AUTHORISED, message, detail)
    }

    /// The rules of this gateway do not let a user do something. `what` is a verb and its object, such as `SEND to
    /// /topic/a`; `because` names the rule.
    pub fn not_allowed(user: &str, what: &str, because: &str) -> Self {
        let detail = format!("The rules of this gateway do not let {user:?} {what}: {because}.");
        let message = format!("Access refused for user '{user}'");
        Self::new("access-refused", CloseCode::NOT_AUTHORISED, message, detail)
    }

    // --- destinations ---

    /// A destination of no known kind. `kinds` lists the valid prefixes.
    pub fn unknown_destination(spelling: &str, kinds: &str) -> Self {
        let detail = format!("The destination {spelling:?} is of no known kind; a destination begins with {kinds}.");
        Self::new("unknown-destination", CloseCode::POLICY, "Unknown destination", detail)
    }

    /// A destination of a known kind with an impossible name.
    pub fn invalid_destination(spelling: &str, why: &str) -> Self {
        let detail = format!("The destination {spelling:?} is not valid: {why}.");
        Self::new("invalid-destination", CloseCode::POLICY, "Invalid destination", detail)
    }

    /// Something that the configured broker cannot do. `what` names it, `why` says what to do instead.
    pub fn unsupported(what: &str, why: &str) -> Self {
        Self::new("unsupported", CloseCode::POLICY, format!("{what} not supported"), format!("{what}: {why}."))
    }

    /// Something that must exist and does not.
    pub fn not_found(what: &str) -> Self {
        Self::new("not-found", CloseCode::POLICY, "Not found", format!("{what} does not exist."))
    }

    /// A SEND or SUBSCRIBE to `/app` for which no handler is registered.
    pub fn no_handler(destination: &str) -> Self {
        let detail = format!("No handler is registered for {destination}.");
        Self::new("no-handler", CloseCode::POLICY, "No handler", detail)
    }

    /// A handler failed where that ends the session: in a transaction, on CONNECT, or with `on_error = "error"`.
    pub fn handler_failed(status: u16, reason: &str) -> Self {
        let detail = format!("The handler answered with status {status}: {reason}");
        Self::new("handler-failed", CloseCode::POLICY, "Handler failed", detail)
    }

    // --- subscriptions, acknowledgement, transactions ---

    /// The same subscription id twice.
    pub fn duplicate_subscription(id: &str) -> Self {
        let detail = format!(
            "A subscription with id {id:?} is open in this session; UNSUBSCRIBE it first or choose another id."
        );
        Self::new("duplicate-subscription", CloseCode::POLICY, "Duplicated subscription identifier", detail)
    }

    /// A durable subscription whose identity another session holds.
    pub fn durable_in_use(name: &str) -> Self {
        let detail =
            format!("The durable subscription {name:?} of this user and client-id is open in another session.");
        Self::new("subscription-in-use", CloseCode::POLICY, "Durable subscription in use", detail)
    }

    /// UNSUBSCRIBE of what is not subscribed.
    pub fn unknown_subscription(id: &str) -> Self {
        let detail = format!("There is no subscription {id:?} in this session.");
        Self::new("unknown-subscription", CloseCode::POLICY, "Subscription not found", detail)
    }

    /// ACK or NACK of what is not there to acknowledge.
    pub fn unknown_ack(header: &str, value: &str) -> Self {
        let detail = format!("{header}:{value} names no delivery of this session that waits for an acknowledgement.");
        Self::new("unknown-ack", CloseCode::POLICY, "Message not found", detail)
    }

    /// COMMIT with acknowledgements of deliveries that were lost with their link.
    pub fn delivery_lost() -> Self {
        let detail = "A delivery that this transaction acknowledges was taken back when the broker's connection broke.";
        Self::new("delivery-lost", CloseCode::BROKER_UNAVAILABLE, "Delivery lost", detail)
    }

    /// BEGIN of a transaction that is open.
    pub fn transaction_open(name: &str) -> Self {
        let detail = format!("BEGIN: the transaction {name:?} is open already.");
        Self::new("transaction-open", CloseCode::POLICY, "Transaction already started", detail)
    }

    /// A frame that names a transaction which is not open.
    pub fn unknown_transaction(command: &str, name: &str) -> Self {
        let detail = format!("{command}: there is no open transaction {name:?}; BEGIN it first.");
        Self::new("unknown-transaction", CloseCode::POLICY, "Transaction not found", detail)
    }

    /// A count or time that the session is held to. `setting` is its full key.
    pub fn limit_exceeded(what: &str, limit: impl fmt::Display, setting: &str) -> Self {
        let detail = format!("{what}: the limit is {limit}; the setting {setting} governs it.");
        Self::new("limit-exceeded", CloseCode::POLICY, "Limit exceeded", detail)
    }

    // --- the broker's answers ---

    /// The broker did not take a message. `why` is for the client.
    pub fn rejected(why: &str) -> Self {
        Self::new("rejected", CloseCode::POLICY, "Message rejected", format!("The broker did not take it: {why}."))
    }

    /// A message in a queue breaks each connection to the broker that it comes on. `what` says where it is.
    pub fn poison(what: &str) -> Self {
        let detail = format!(
            "A message in {what} breaks each connection to the broker that it comes on; a routing key or a property \
             that is not UTF-8 does that, and so does a size that the gateway does not read. Its log says what it is. The \
             message must be removed from there with another program."
        );
        Self::new("poison", CloseCode::POLICY, "Message cannot be read", detail)
    }

    /// The broker cannot be reached.
    pub fn broker_unavailable() -> Self {
        let detail = "The message broker behind this gateway cannot be reached at the moment; try again later.";
        Self::new("broker-unavailable", CloseCode::BROKER_UNAVAILABLE, "Broker unavailable", detail)
    }

    /// The broker gave no answer in time. `seconds` is that time.
    pub fn confirm_timeout(seconds: u64) -> Self {
        let detail = format!(
            "The broker did not confirm within {seconds} s (setting session.confirm_timeout); whether it took the message is unknown."
        );
        Self::new(Self::CONFIRM_TIMEOUT, CloseCode::BROKER_UNAVAILABLE, "Broker did not confirm", detail)
    }

    // --- the session's end ---

    /// The client is silent for longer than it promised. `milliseconds` is the interval agreed on.
    pub fn heartbeat_missed(milliseconds: u128) -> Self {
        let detail = format!("No byte came for twice the {milliseconds} ms that the heart-beat headers agreed on.");
        Self::new("heartbeat-timeout", CloseCode::TIMED_OUT, "Heart-beat missing", detail)
    }

    /// A client that answers no WebSocket Ping. `milliseconds` is the time between two.
    pub fn pings_unanswered(milliseconds: u128) -> Self {
        let detail = format!(
            "No byte came, not even an answer to WebSocket Pings {milliseconds} ms apart (server.ping_interval)."
        );
        Self::new("unresponsive", CloseCode::TIMED_OUT, "No answer to pings", detail)
    }

    /// More waits for this client than its budget allows, or for too long. `budget` names the one that is spent and its setting.
    pub fn slow_consumer(budget: &str) -> Self {
        let detail = format!("This client reads more slowly than its subscriptions deliver: {budget}.");
        Self::new("slow-consumer", CloseCode::SLOW_CONSUMER, "Slow consumer", detail)
    }

    /// The client sends faster than it may. `per_second` counts frames or bytes, whichever `what` names.
    pub fn rate_exceeded(what: &str, per_second: f64, setting: &str) -> Self {
        let detail = format!("More than {per_second} {what} per second came; the setting {setting} governs it.");
        Self::new("rate-exceeded", CloseCode::RATE, "Rate exceeded", detail)
    }

    /// The gateway is full. `whose` names what is counted: all connections, those of one address, those of one user.
    pub fn overload(whose: &str, limit: usize, setting: &str) -> Self {
        let detail = format!("{whose}: {limit} at a time, as the setting {setting} says; try again later.");
        Self::new("overload", CloseCode::OVERLOAD, "Too many connections", detail)
    }

    /// An operator ended the session. `reason` is the operator's word for it, if there was one.
    pub fn removed(reason: Option<&str>) -> Self {
        let detail = match reason {
            Some(reason) => format!("An operator of the gateway ended this session: {reason}."),
            None => "An operator of the gateway ended this session.".to_owned(),
        };
        Self::new("removed", CloseCode::POLICY, "Disconnected by an operator", detail)
    }

    /// The session ended before this did. For interceptors: no client is there to read it.
    pub fn cut_off() -> Self {
        let detail = "The session ended before this did; whether the broker took it is unknown.";
        Self::new("cut-off", CloseCode::NORMAL, "Cut off", detail)
    }

    /// The gateway stops.
    pub fn shutting_down() -> Self {
        Self::new(
            "shutting-down",
            CloseCode::SERVICE_RESTART,
            "Shutting down",
            "The gateway is shutting down; connect again.",
        )
    }

    /// A fault of the gateway itself. What it was stands in the log, not here.
    pub fn internal() -> Self {
        let detail = "The gateway met an internal fault; its log says which.";
        Self::new("internal", CloseCode::INTERNAL, "Internal error", detail)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.detail)
    }
}

impl std::error::Error for Refusal {}
