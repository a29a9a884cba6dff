//! Claims as JSON: what a service says of a principal, and what it is told.

use serde_json::{Map, Value};

use crate::message::{Claims, Text};

/// Claims that a service may give.
const MAX_CLAIMS: usize = 64;
/// Bytes of their names and values: they stay as long as the session, and go along with every call.
const MAX_BYTES: usize = 8 * 1024;

/// Reads `{"roles": ["a", "b"], "tenant": "acme", "level": 3}`, beside what was known.
///
/// # Errors
/// What is wrong, for the log of the service's owner.
pub(super) fn read(known: &Claims, given: &Map<String, Value>) -> Result<Claims, String> {
    let mut all: Vec<(Text, Vec<Text>)> = known.iter().map(|(name, values)| (name.clone(), values.to_vec())).collect();
    for (name, value) in given {
        let values = match value {
            Value::Array(values) => values.iter().map(scalar).collect::<Option<Vec<_>>>(),
            Value::Null => Some(Vec::new()),
            value => scalar(value).map(|value| vec![value]),
        };
        let values = values.filter(|values| !values.iter().any(|value| value.contains(char::is_control)));
        let values = values.ok_or_else(|| {
            format!(
                "the claim {name:?} is neither text without control characters, number or flag, nor a list of these"
            )
        })?;
        all.push((Text::from(name.as_str()), values));
    }
    let bytes: usize =
        all.iter().map(|(name, values)| name.len() + values.iter().map(|value| value.len()).sum::<usize>()).sum();
    if all.len() > MAX_CLAIMS || bytes > MAX_BYTES {
        return Err(format!("there are more than {MAX_CLAIMS} claims or {MAX_BYTES} bytes of them"));
    }
    Ok(all.into_iter().collect())
}

fn scalar(value: &Value) -> Option<Text> {
    match value {
        Value::String(text) => Some(Text::from(text.as_str())),
        Value::Number(number) => Some(Text::from(number.to_string())),
        Value::Bool(flag) => Some(Text::from(flag.to_string())),
        _ => None,
    }
}

/// An object with a list of values for each claim, in visible ASCII: JSON leaves U+007F as it is, a header cannot have it.
pub(super) fn written(claims: &Claims) -> Option<String> {
    let object = json(claims)?.to_string();
    let mut ascii = String::with_capacity(object.len());
    for character in object.chars() {
        if character.is_ascii() && !character.is_ascii_control() {
            ascii.push(character);
        } else {
            ascii.extend(character.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    Some(ascii)
}

/// The same as a value; nothing if there are no claims.
pub(super) fn json(claims: &Claims) -> Option<Value> {
    let list = |values: &[Text]| values.iter().map(|value| Value::from(&**value)).collect::<Vec<_>>();
    let object: Map<_, _> = claims.iter().map(|(name, values)| (name.to_string(), list(values).into())).collect();
    (!object.is_empty()).then_some(Value::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read_json(given: &Value) -> Result<Claims, String> {
        read(&Claims::default(), given.as_object().unwrap())
    }

    #[test]
    fn a_claim_is_a_scalar_or_a_list_of_them() {
        let claims =
            read_json(&json!({"roles": ["a", "b"], "tenant": "ä😀", "level": 3, "vip": true, "none": null})).unwrap();
        assert_eq!(
            written(&claims).unwrap(),
            r#"{"level":["3"],"roles":["a","b"],"tenant":["\u00e4\ud83d\ude00"],"vip":["true"]}"#
        );
        assert_eq!(json(&claims).unwrap()["tenant"], json!(["ä😀"]));
        let more = read(&claims, json!({"level": 4, "roles": null}).as_object().unwrap()).unwrap();
        assert_eq!((more.get("level"), more.get("roles").len(), more.has("vip", "true")), (&["4".into()][..], 0, true));
        assert_eq!(written(&Claims::default()), None);
        let odd = read_json(&json!({"a\u{7f}b": "x"})).unwrap();
        assert_eq!(written(&odd).unwrap(), r#"{"a\u007fb":["x"]}"#);
    }

    #[test]
    fn what_is_none_or_too_much_is_refused() {
        let many: Map<_, _> = (0..65).map(|number| (number.to_string(), json!(1))).collect();
        for bad in [
            json!({"a": {}}),
            json!({"a": [[]]}),
            json!({"a": "x\ny"}),
            json!({"a": "x".repeat(9000)}),
            Value::Object(many),
        ] {
            assert!(read_json(&bad).is_err());
        }
    }
}
