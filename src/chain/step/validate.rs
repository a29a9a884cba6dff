//! `validate`: bodies must be JSON of a schema.

use std::fs;
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

use super::Step;
use crate::chain::Failure;
use crate::chain::handler::Request;
use crate::chain::template::Values;

/// Faults that are named at a time.
const MAX_FAULTS: usize = 5;

/// A JSON Schema for the bodies of SENDs.
pub(super) struct Validate(Validator);

impl Validate {
    /// Reads a schema. It cannot refer to anything outside of itself.
    pub(super) fn new(file: &Path) -> Result<Self, String> {
        let bad = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
        let text = fs::read_to_string(file).map_err(|error| bad(&error))?;
        let schema: Value = serde_json::from_str(&text).map_err(|error| bad(&error))?;
        jsonschema::validator_for(&schema).map(Validate).map_err(|error| bad(&error))
    }
}

impl Step for Validate {
    fn run(&self, request: &mut Request, _: &Values<'_>) -> Result<(), Failure> {
        if !request.is_send {
            return Ok(());
        }
        let document: Value = serde_json::from_slice(&request.body)
            .map_err(|error| Failure::new(422, format!("the body is no JSON: {error}")))?;
        let faults: Vec<_> = self
            .0
            .iter_errors(&document)
            .take(MAX_FAULTS)
            .map(|error| match error.instance_path().as_str() {
                "" => format!("the document: {}", error.masked()),
                path => format!("{path}: {}", error.masked()),
            })
            .collect();
        if faults.is_empty() { Ok(()) } else { Err(Failure::new(422, faults.join("\n"))) }
    }
}
