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
        let read = fs::read_to_string(file).map_err(|error| error.to_string());
        read.and_then(|text| Self::of(&text)).map_err(|why| format!("{}: {why}", file.display()))
    }

    fn of(schema: &str) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(schema).map_err(|error| error.to_string())?;
        jsonschema::validator_for(&schema).map(Validate).map_err(|error| error.to_string())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::step::tests::{run, send, status};

    const ORDER: &str = r#"{
        "type": "object", "required": ["items"],
        "properties": {"items": {"type": "array", "items": {"type": "integer", "minimum": 1}}}
    }"#;

    #[test]
    fn a_document_of_the_schema_passes_and_faults_are_named_by_their_path() {
        let schema = Validate::of(ORDER).unwrap();
        assert_eq!(run(&schema, &mut send(r#"{"items": [1, 2]}"#), "ada"), Ok(()));
        for (body, about) in [
            ("{", &["the body is no JSON"][..]),
            ("", &["the body is no JSON"]),
            ("{}", &["the document: ", "items"]),
            (r#"{"items": [1, 0, "x"]}"#, &["/items/1: ", "\n/items/2: "]),
        ] {
            let failure = run(&schema, &mut send(body), "ada").unwrap_err();
            assert_eq!(failure.status, 422);
            assert!(about.iter().all(|about| failure.reason.contains(about)), "{body}: {}", failure.reason);
        }
    }

    #[test]
    fn only_the_first_faults_are_told_and_nothing_of_what_was_sent() {
        let body = format!(r#"{{"items": [{}]}}"#, [r#""hush""#; 50].join(","));
        let reason = run(&Validate::of(ORDER).unwrap(), &mut send(&body), "ada").unwrap_err().reason;
        assert_eq!(reason.lines().count(), MAX_FAULTS, "{reason}");
        assert!(!reason.contains("hush"), "{reason}");
    }

    #[test]
    fn a_subscription_has_no_body_to_look_at() {
        let mut request = send("");
        request.is_send = false;
        assert_eq!(run(&Validate::of(ORDER).unwrap(), &mut request, "ada"), Ok(()));
    }

    #[test]
    fn what_is_no_schema_or_refers_elsewhere_is_refused() {
        for bad in
            ["{", r#"{"type": "colour"}"#, r#"{"$ref": "http://127.0.0.1:1/x"}"#, r#"{"$ref": "file:///etc/passwd"}"#]
        {
            assert!(Validate::of(bad).is_err(), "{bad}");
        }
        assert!(Validate::new(Path::new("/nowhere.json")).err().unwrap().contains("/nowhere.json"));
        let inner = Validate::of(r##"{"$defs": {"n": {"type": "null"}}, "$ref": "#/$defs/n"}"##).unwrap();
        assert_eq!([run(&inner, &mut send("null"), ""), run(&inner, &mut send("1"), "")].map(status), [200, 422]);
    }
}
