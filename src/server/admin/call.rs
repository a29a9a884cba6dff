//! One call of the API: what it brings, read within bounds.

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::CONTENT_TYPE;
use hyper::http::request::Parts;
use hyper::{HeaderMap, StatusCode};
use serde::de::DeserializeOwned;

use super::answer::{Answer, problem};
use crate::message::decode;

/// Items of a list in one answer, unless the call asks for less or more.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
const LONGEST_REASON: usize = 200;

/// What a call brings beside its path.
pub(super) struct Call {
    query: Vec<(String, String)>,
    body: Bytes,
}

impl Call {
    /// Reads the body, `max_body` bytes at most.
    ///
    /// # Errors
    /// The answer to a call that cannot be read.
    pub(super) async fn read<B>(parts: &Parts, body: B, max_body: usize) -> Result<Self, Answer>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let query = query(parts.uri.query().unwrap_or_default())?;
        let body = Limited::new(body, max_body).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                let detail =
                    format!("The body is longer than {max_body} bytes; the setting admin.max_body governs it.");
                return problem(StatusCode::PAYLOAD_TOO_LARGE, &detail);
            }
            problem(StatusCode::BAD_REQUEST, "The body broke off.")
        })?;
        let body = body.to_bytes();
        if !body.is_empty() && !is_json(&parts.headers) {
            return Err(problem(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The content-type of a body must be application/json.",
            ));
        }
        Ok(Call { query, body })
    }

    /// Refuses what the endpoint does not know.
    pub(super) fn expect(self, parameters: &[&str]) -> Result<Self, Answer> {
        match self.query.iter().find(|(name, _)| !parameters.contains(&name.as_str())) {
            None => Ok(self),
            Some((name, _)) if parameters.is_empty() => Err(bad(&format!("There is no parameter {name:?} here."))),
            Some((name, _)) => {
                Err(bad(&format!("There is no parameter {name:?}; there are {}.", parameters.join(", "))))
            }
        }
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// How many items the answer may list.
    pub(super) fn limit(&self) -> Result<usize, Answer> {
        let Some(text) = self.parameter("limit") else { return Ok(PAGE) };
        let limit = text.parse().ok().filter(|limit| (1..=LARGEST_PAGE).contains(limit));
        limit.ok_or_else(|| bad(&format!("The parameter limit is {text:?}; expected 1 to {LARGEST_PAGE}.")))
    }

    /// What the client is to be told.
    pub(super) fn reason(&self) -> Result<Option<&str>, Answer> {
        let reason = self.parameter("reason");
        match reason {
            Some(text) if text.len() > LONGEST_REASON || text.chars().any(char::is_control) => {
                Err(bad(&format!("The parameter reason must be at most {LONGEST_REASON} bytes, in one line.")))
            }
            _ => Ok(reason),
        }
    }

    /// The body as a document of this shape.
    pub(super) fn document<T: DeserializeOwned>(&self) -> Result<T, Answer> {
        serde_json::from_slice(&self.body).map_err(|error| bad(&format!("The body is not what is expected: {error}.")))
    }
}

/// An answer to a call that is wrong in itself.
pub(super) fn bad(detail: &str) -> Answer {
    problem(StatusCode::BAD_REQUEST, detail)
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

fn query(text: &str) -> Result<Vec<(String, String)>, Answer> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name)?.into_owned(), decode(value)?.into_owned()))
    });
    pairs.collect::<Option<_>>().ok_or_else(|| bad("The query has a %XX that cannot be read."))
}
