//! What a route does with a frame before its handler: one file each, in the order of [`steps`].

mod authorize;
mod rate_limit;
mod set_headers;
mod validate;

use super::Failure;
use super::handler::Request;
use super::settings::RouteSettings;
use super::template::{RoutePattern, Values};
pub use rate_limit::Settings as RateLimit;

/// Looks at a frame on its way to a handler, or changes it.
pub(super) trait Step: Send + Sync {
    /// Lets the frame pass, or says why not.
    fn run(&self, request: &mut Request, values: &Values<'_>) -> Result<(), Failure>;
}

/// The steps that the settings ask for. The error names the setting and says what is wrong with it.
pub(super) fn steps(
    settings: &RouteSettings,
    pattern: &RoutePattern,
) -> Result<Vec<Box<dyn Step>>, (&'static str, String)> {
    let mut steps: Vec<Box<dyn Step>> = Vec::new();
    if !settings.users.is_empty() {
        let users = authorize::Authorize::new(&settings.users, pattern).map_err(|why| ("users", why))?;
        steps.push(Box::new(users));
    }
    if let Some(limit) = &settings.rate_limit {
        let limit = rate_limit::RateLimit::new(limit).map_err(|why| ("rate_limit", why))?;
        steps.push(Box::new(limit));
    }
    if let Some(file) = &settings.validate {
        let schema = validate::Validate::new(file).map_err(|why| ("validate", why))?;
        steps.push(Box::new(schema));
    }
    if !settings.set_headers.is_empty() {
        let reader = if settings.http.is_some() { set_headers::Reader::Service } else { set_headers::Reader::Client };
        let headers = set_headers::SetHeaders::new(&settings.set_headers, pattern, reader);
        let headers = headers.map_err(|why| ("set_headers", why))?;
        steps.push(Box::new(headers));
    }
    Ok(steps)
}
