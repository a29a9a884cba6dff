//! A program with a gateway in it: a handler for `/app/marco`, an interceptor and an authenticator of its own.
//!
//! `cargo run --example embed`, then connect as `ada` with the passcode `lovelace`, subscribe to `/topic/marco` and send
//! anything to `/app/marco`.

use async_trait::async_trait;
use stompgate::auth::Authenticator;
use stompgate::chain::{Answer, Context, Event, Interceptor, Interest, Rejection, Verdict};
use stompgate::config::Config;
use stompgate::gateway::{Builder, Gateway};
use stompgate::message::{Credentials, Message, Principal, Refusal};

/// One user, one passcode.
struct OnlyAda;

#[async_trait]
impl Authenticator for OnlyAda {
    async fn authenticate(&self, credentials: &Credentials, _session: &str) -> Result<Principal, Refusal> {
        match (credentials.login.as_deref(), credentials.passcode.as_deref()) {
            (Some("ada"), Some("lovelace")) => Ok(Principal::new("ada")),
            (login, _) => Err(Refusal::not_authenticated(login.unwrap_or("nobody"))),
        }
    }
}

/// Adds a header to every message.
struct Stamp;

#[async_trait]
impl Interceptor for Stamp {
    fn name(&self) -> &'static str {
        "stamp"
    }

    fn interest(&self, event: Event<'_>) -> Interest {
        if matches!(event, Event::Send(_)) { Interest::Ordered } else { Interest::None }
    }

    async fn send(&self, mut message: Message, context: &Context) -> Result<Verdict, Rejection> {
        message.headers.set("sent-by", context.session.clone());
        Ok(Verdict::Continue(message))
    }
}

/// The handler's answer goes to `/topic/marco`.
pub(crate) fn with_marco(gateway: Builder) -> Builder {
    let marco = |_| async { Ok(Some(Answer::text("Polo!"))) };
    gateway.handler("/app/marco", marco).interceptor(Stamp).authenticator(OnlyAda)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let gateway = with_marco(Gateway::builder(Config::default())).start()?;
    println!("listening on {}", gateway.url());
    tokio::signal::ctrl_c().await?;
    gateway.shut_down().await;
    Ok(())
}
