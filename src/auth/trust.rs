//! Trust: the login is taken as the name, as PostgreSQL's method of that name does.

use async_trait::async_trait;

use super::Authenticator;
use crate::message::{Credentials, Principal, Refusal, Text};

/// Believes every login. Without one, the session is its own principal, never a name that others share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trust;

#[async_trait]
impl Authenticator for Trust {
    async fn authenticate(&self, credentials: &Credentials, session: &str) -> Result<Principal, Refusal> {
        let name = credentials.login.clone().unwrap_or_else(|| Text::from(format!("anonymous-{session}")));
        Ok(Principal::new(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_login_is_the_name() {
        let credentials = Credentials { login: Some("ada".into()), ..Credentials::default() };
        assert_eq!(Trust.authenticate(&credentials, "s-1").await.unwrap().name, "ada");
    }

    #[tokio::test]
    async fn without_a_login_nobody_shares_a_name() {
        let credentials = Credentials::default();
        let one = Trust.authenticate(&credentials, "s-1").await.unwrap();
        let other = Trust.authenticate(&credentials, "s-2").await.unwrap();
        assert_eq!(one.name, "anonymous-s-1");
        assert_ne!(one, other);
    }
}
