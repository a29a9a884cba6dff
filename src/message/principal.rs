//! Who a session is.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Text;

/// Who a session is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// 1 to 128 bytes, without control characters.
    pub name: Text,
    /// What else is known of it.
    pub claims: Claims,
}

/// What is known of a principal beside its name: by name, one or more values. The claim `roles` has its roles.
///
/// Costs nothing where there is none; a clone is another handle to the same claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(Option<Arc<BTreeMap<Text, Vec<Text>>>>);

impl Principal {
    /// A principal of whom nothing is known but the name.
    pub fn new(name: impl Into<Text>) -> Self {
        Principal { name: name.into(), claims: Claims::default() }
    }

    /// With these claims instead.
    #[must_use]
    pub fn with(self, claims: Claims) -> Self {
        Principal { claims, ..self }
    }
}

impl Claims {
    /// The values of a claim; none if it is not there.
    pub fn get(&self, name: &str) -> &[Text] {
        self.0.as_ref().and_then(|claims| claims.get(name)).map_or(&[], Vec::as_slice)
    }

    /// Whether a claim has this value, among others.
    pub fn has(&self, name: &str, value: &str) -> bool {
        self.get(name).iter().any(|known| **known == *value)
    }

    /// Name and values of each, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &[Text])> {
        self.0.iter().flat_map(|claims| claims.iter()).map(|(name, values)| (name, values.as_slice()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl FromIterator<(Text, Vec<Text>)> for Claims {
    /// A claim without a value is none; of one that comes twice the later counts.
    fn from_iter<I: IntoIterator<Item = (Text, Vec<Text>)>>(claims: I) -> Self {
        let mut claims: BTreeMap<_, _> = claims.into_iter().collect();
        claims.retain(|_, values| !values.is_empty());
        Claims((!claims.is_empty()).then(|| Arc::new(claims)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_has_one_value_or_more_or_is_none() {
        let claims: Claims =
            [("roles".into(), vec!["a".into(), "b".into()]), ("empty".into(), vec![])].into_iter().collect();
        assert!(claims.has("roles", "b") && !claims.has("roles", "c"));
        assert_eq!((claims.get("empty").len(), claims.get("other").len(), claims.iter().count()), (0, 0, 1));
        assert!(Claims::default().is_empty() && Claims::from_iter([("x".into(), vec![])]).is_empty());
    }
}
