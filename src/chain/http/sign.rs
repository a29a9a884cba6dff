//! Signatures, by which a service knows that a call is the gateway's.

use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::hmac;

/// Signs calls with a secret that only the gateway and the service know.
#[derive(Clone, Debug)]
pub(super) struct Signer(hmac::Key);

impl Signer {
    pub(super) fn new(secret: &str) -> Self {
        Signer(hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()))
    }

    /// The value of `stompgate-signature` for a call at this moment.
    pub(super) fn sign(&self, lines: &[&str], body: &[u8]) -> String {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.sign_at(seconds, lines, body)
    }

    /// `t=<seconds>,v1=<hexadecimal>`: HMAC-SHA256 over the seconds and each line, with a line feed after each, and the
    /// body.
    fn sign_at(&self, seconds: u64, lines: &[&str], body: &[u8]) -> String {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(format!("{seconds}\n").as_bytes());
        for line in lines {
            context.update(line.as_bytes());
            context.update(b"\n");
        }
        context.update(body);
        let mut signature = format!("t={seconds},v1=");
        for byte in context.sign().as_ref() {
            let _ = write!(signature, "{byte:02x}"); // a String takes everything
        }
        signature
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_other_programs_make_of_the_same() {
        // printf '1700000000\nPOST\n/x\nbody' | openssl dgst -sha256 -hmac secret
        let signed = Signer::new("secret").sign_at(1_700_000_000, &["POST", "/x"], b"body");
        assert_eq!(signed, "t=1700000000,v1=730c242e058fc8e82ca7156f4d03fb5d9ba88ba7fb14962fd20f7c4d9d68c28c");
    }
}
