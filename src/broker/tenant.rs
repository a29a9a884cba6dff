//! Which virtual host a CONNECT means with its `host` (contract, §7).

use super::BrokerError;
use crate::message::Text;

/// Whether `host` means the one virtual host that there is: none was given, or a host name, or its own name.
pub(super) fn check(host: Option<&Text>, own: &str) -> Result<(), BrokerError> {
    match host {
        Some(host) if **host != *own && !is_host_name(host) => Err(BrokerError::UnknownTenant(host.to_string())),
        _ => Ok(()),
    }
}

/// A host name or address, with or without a port: what STOMP 1.1 and later want in `host`.
fn is_host_name(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_says_nothing_and_another_virtual_host_is_refused() {
        for good in [None, Some("localhost"), Some("[::1]:8080"), Some("/"), Some("shop.example.com")] {
            assert_eq!(check(good.map(Text::from).as_ref(), "/"), Ok(()), "{good:?}");
        }
        for bad in ["/shop", "two words", "shop/eu"] {
            let refused = BrokerError::UnknownTenant(bad.to_owned());
            assert_eq!(check(Some(&Text::from(bad)), "/"), Err(refused));
            assert_eq!(check(Some(&Text::from(bad)), bad), Ok(()), "its own name");
        }
        assert!(check(Some(&Text::from("/")), "shop").is_err());
    }
}
