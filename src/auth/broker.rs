//! The broker's own users: who may log in is for it to say, when a link is asked for.

use async_trait::async_trait;

use super::Authenticator;
use crate::message::{Credentials, Principal, Refusal};

/// Demands a login, and leaves it to the broker whether that and the passcode are good.
#[derive(Clone, Copy, Debug, Default)]
pub struct Broker;

#[async_trait]
impl Authenticator for Broker {
    async fn authenticate(&self, credentials: &Credentials, _session: &str) -> Result<Principal, Refusal> {
        match credentials.login.clone() {
            Some(name) => Ok(Principal::new(name)),
            None => Err(Refusal::not_authenticated("")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_login_nobody_is_let_in() {
        let refused = Broker.authenticate(&Credentials::default(), "s-1").await;
        assert_eq!(refused, Err(Refusal::not_authenticated("")));
        let credentials = Credentials { login: Some("ada".into()), ..Credentials::default() };
        assert_eq!(Broker.authenticate(&credentials, "s-1").await.unwrap().name, "ada");
    }
}
