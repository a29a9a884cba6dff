//! Reading the settings again.

use hyper::StatusCode;
use serde_json::json;

use super::answer::{self, Answer, problem};

/// Why settings are not read again where nobody knows where they come from.
pub const UNREADABLE: &str = "the settings are those of the program which embeds the gateway";

/// Whoever can read the settings again.
pub trait Reload: Send + Sync {
    /// Puts in force what can be.
    ///
    /// # Errors
    /// Why everything stays as it was.
    fn reload(&self) -> Result<Reloaded, String>;
}

/// What has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The keys of settings that have changed. Files that settings name have been read again in any case.
    pub applied: Vec<String>,
    /// The keys of those that only a restart changes.
    pub restart: Vec<String>,
}

pub(super) fn carry_out(reload: Option<&dyn Reload>) -> Result<Answer, Answer> {
    let Some(reload) = reload else {
        return Err(problem(StatusCode::NOT_IMPLEMENTED, &format!("They cannot be read again: {UNREADABLE}.")));
    };
    match reload.reload() {
        Ok(Reloaded { applied, restart }) => {
            Ok(answer::json(StatusCode::OK, &json!({ "applied": applied, "restart": restart })))
        }
        Err(why) => Err(problem(StatusCode::UNPROCESSABLE_ENTITY, &format!("Everything stays as it was: {why}"))),
    }
}
