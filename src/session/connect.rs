//! CONNECT: versions, heart-beats, credentials and the will.

use super::headers::flag;
use super::send::{check_publishable, check_supported};
use super::{Context, Principal};
use crate::access;
use crate::message::{
    Capabilities, Credentials, Destination, Headers, Message, PublishOptions, Refusal, Text, Usage, detached,
};
use crate::stomp::{Command, Frame, Heartbeat, Version};

/// What CONNECT settles for the rest of the session.
#[derive(Debug)]
pub(super) struct Connect {
    pub(super) version: Version,
    pub(super) heartbeat: Heartbeat,
    /// The header `client-id`, or empty: part of the identity of durable subscriptions.
    pub(super) client_id: Text,
    /// Published when the session ends without DISCONNECT.
    pub(super) will: Option<Box<Message>>,
}

impl Connect {
    /// Reads a CONNECT or STOMP frame.
    ///
    /// # Errors
    /// Versions that are not ours, a `heart-beat` that is none, a login that is no name, a will that could not be
    /// published. What `host` means, the broker says.
    pub(super) fn read(frame: &Frame, context: &Context) -> Result<(Self, Credentials), Refusal> {
        // Copies: these stay for as long as the session, the read buffer that they came in need not.
        let get = |header: &str| frame.headers.get(header).map(detached);
        let offered = get("accept-version");
        let version = Version::negotiate(offered.as_deref())
            .ok_or_else(|| Refusal::no_common_version(offered.as_deref().unwrap_or_default()))?;

        let settings = &context.settings;
        let asked = get("heart-beat");
        let heartbeat = Heartbeat::negotiate(asked.as_deref(), settings.heartbeat_min, settings.heartbeat_max)
            .ok_or_else(|| {
                let expected = "two whole numbers of milliseconds such as 10000,10000";
                Refusal::bad_connect("heart-beat", asked.as_deref().unwrap_or_default(), expected)
            })?;

        let host = get("host").filter(|host| !host.is_empty());
        let login = get("login").filter(|login| !login.is_empty());
        if let Some(login) = &login
            && !is_name(login)
        {
            return Err(Refusal::bad_connect("login", login, "1 to 128 bytes without control characters"));
        }
        let connect = Connect {
            version,
            heartbeat,
            client_id: get("client-id").unwrap_or_default(),
            will: will(frame, context)?.map(Box::new),
        };
        Ok((connect, Credentials { login, passcode: get("passcode"), host }))
    }

    /// Refuses a will that the broker behind the gateway cannot publish, or that its sender may not send.
    pub(super) fn check_will(
        &self,
        capabilities: Capabilities,
        principal: &Principal,
        context: &Context,
    ) -> Result<(), Refusal> {
        let Some(will) = &self.will else { return Ok(()) };
        context.allow(access::Action::Send, &will.destination, principal)?;
        check_supported(&will.destination, capabilities)
    }

    /// The CONNECTED frame.
    pub(super) fn connected(&self, session: &Text, principal: &Principal) -> Frame {
        let (outbound, inbound) = self.heartbeat.header;
        let headers = Headers::from([
            ("version", Text::from_static(self.version.as_str())),
            ("session", session.clone()),
            ("heart-beat", format!("{outbound},{inbound}").into()),
            ("server", Text::from_static(concat!("stompgate/", env!("CARGO_PKG_VERSION")))),
            ("user-name", principal.name.clone()),
        ]);
        Frame { command: Command::Connected, headers, body: bytes::Bytes::new() }
    }
}

/// The will (contract, §7): resolved now, so that a client learns at once that it could not be published.
fn will(frame: &Frame, context: &Context) -> Result<Option<Message>, Refusal> {
    let Some(spelling) = frame.headers.get("will-destination") else { return Ok(None) };
    let destination = Destination::parse(spelling, Usage::Send, context.separators)?;
    check_publishable(&destination)?;
    let persistent = flag(frame, "will-persistent")?;
    let options = PublishOptions {
        persistent: persistent.unwrap_or(matches!(destination, Destination::Queue(_))),
        ..PublishOptions::default()
    };
    let mut headers = Headers::new();
    if let Some(content_type) = frame.headers.get("will-content-type") {
        headers.push("content-type", content_type.clone());
    }
    let body = frame.headers.get("will-body").map(|body| body.as_bytes().clone()).unwrap_or_default();
    let mut will = Message { destination, headers, body, options };
    will.detach(); // it stays for as long as the session, the CONNECT frame's buffer need not
    Ok(Some(will))
}

fn is_name(login: &str) -> bool {
    (1..=128).contains(&login.len()) && !login.chars().any(char::is_control)
}
