//! Who may call the API: whoever brings the key.

use hyper::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use hyper::{StatusCode, header::HeaderValue};
use ring::hmac;
use ring::rand::SystemRandom;

use super::answer::{Answer, problem, with};
use crate::settings::Secret;

/// The key of the API, if there is one; only a keyed hash of it is kept.
pub(super) struct Access(Option<Hashed>);

struct Hashed {
    key: hmac::Key,
    hash: hmac::Tag,
}

impl Access {
    /// # Errors
    /// The system has no random numbers.
    pub(super) fn new(secret: Option<&Secret>) -> Result<Self, ring::error::Unspecified> {
        let hashed = secret.map(|secret| {
            let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?;
            let hash = hmac::sign(&key, secret.reveal().as_bytes());
            Ok(Hashed { key, hash })
        });
        hashed.transpose().map(Access)
    }

    /// Lets a call of the API pass, or says why not.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Answer> {
        let Some(Hashed { key, hash }) = &self.0 else {
            let detail =
                "The API is closed: set admin.api_key or admin.api_key_file, and bring that key as a bearer token.";
            return Err(problem(StatusCode::FORBIDDEN, detail));
        };
        // Two hashes are compared, in a time that tells nothing of the key.
        let presented = headers.get(AUTHORIZATION).and_then(bearer).unwrap_or_default();
        hmac::verify(key, presented.as_bytes(), hash.as_ref()).map_err(|_| {
            let detail = "The header authorization must be \"Bearer\" and the key of admin.api_key.";
            with(problem(StatusCode::UNAUTHORIZED, detail), WWW_AUTHENTICATE, "Bearer")
        })
    }
}

/// The token of `Bearer token` (RFC 6750, 2.1).
fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_opens() {
        let access = Access::new(Some(&Secret::from("0123456789abcdef"))).unwrap();
        let status = |value: &'static str| {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))]);
            access.check(&headers).map_err(|answer| answer.status().as_u16())
        };
        assert_eq!(status("Bearer 0123456789abcdef"), Ok(()));
        assert_eq!(status("bearer  0123456789abcdef"), Ok(()));
        for bad in ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "0123456789abcdef"] {
            assert_eq!(status(bad), Err(401), "{bad}");
        }
        assert_eq!(access.check(&HeaderMap::new()).unwrap_err().status(), 401);
        assert_eq!(Access::new(None).unwrap().check(&HeaderMap::new()).unwrap_err().status(), 403);
    }
}
