//! Builds the parts from a [`Config`], joins them, and runs until shutdown.

use std::io;

use crate::config::Config;

/// Runs a gateway until it is told to stop.
#[expect(clippy::unused_async, reason = "the parts that it waits for are not joined yet")]
pub async fn run(_config: Config) -> Result<(), io::Error> {
    Err(io::Error::other("the parts of the gateway are not joined yet"))
}
