//! Header names and values, as slices of the frame that they came in.

use bytes::Bytes;
use bytestring::ByteString;

/// UTF-8 text in shared bytes: a clone or a slice costs a reference count.
pub type Text = ByteString;

/// Headers in order. Where a name repeats, the first one counts (STOMP 1.2, “Repeated Header Entries”).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Text, Text)>);

impl Headers {
    /// No headers.
    pub const fn new() -> Self {
        Headers(Vec::new())
    }

    /// No headers yet, and room for `capacity` of them.
    pub fn with_capacity(capacity: usize) -> Self {
        Headers(Vec::with_capacity(capacity))
    }

    /// Adds a header at the end, even if there is one of that name.
    pub fn push(&mut self, name: impl Into<Text>, value: impl Into<Text>) {
        self.0.push((name.into(), value.into()));
    }

    /// The value of the first header of that name.
    pub fn get(&self, name: &str) -> Option<&Text> {
        self.0.iter().find(|(known, _)| &**known == name).map(|(_, value)| value)
    }

    /// Removes every header of that name.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| &**known != name);
    }

    /// Replaces what is there under that name, or adds it.
    pub fn set(&mut self, name: impl Into<Text>, value: impl Into<Text>) {
        let name = name.into();
        self.remove(&name);
        self.push(name, value);
    }

    /// Name and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Text, &Text)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// How many there are, repeated ones counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes of all names and values.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// Moves all names and values into one allocation of their own.
    pub fn detach(&mut self) {
        let mut block = String::with_capacity(self.size());
        for (name, value) in &self.0 {
            block.push_str(name);
            block.push_str(value);
        }
        let mut rest = Text::from(block);
        for (name, value) in &mut self.0 {
            let (own_name, tail) = rest.split_at(name.len());
            let (own_value, tail) = tail.split_at(value.len());
            (*name, *value, rest) = (own_name, own_value, tail);
        }
    }
}

impl Extend<(Text, Text)> for Headers {
    fn extend<I: IntoIterator<Item = (Text, Text)>>(&mut self, headers: I) {
        self.0.extend(headers);
    }
}

impl IntoIterator for Headers {
    type Item = (Text, Text);
    type IntoIter = std::vec::IntoIter<(Text, Text)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<N: Into<Text>, V: Into<Text>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(headers: I) -> Self {
        Headers(headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

impl<N: Into<Text>, V: Into<Text>, const COUNT: usize> From<[(N, V); COUNT]> for Headers {
    fn from(headers: [(N, V); COUNT]) -> Self {
        headers.into_iter().collect()
    }
}

/// A copy of `text` that shares no buffer with anything.
pub fn detached(text: &Text) -> Text {
    Text::try_from(Bytes::copy_from_slice(text.as_bytes())).unwrap_or_default() // it was text before
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_repeated_header_counts() {
        let headers = Headers::from([("foo", "World"), ("foo", "Hello")]);
        assert_eq!(headers.get("foo").unwrap(), "World");
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn set_leaves_one_of_that_name() {
        let mut headers = Headers::from([("a", "1"), ("b", "2"), ("a", "3")]);
        headers.set("a", "4");
        assert_eq!(headers, Headers::from([("b", "2"), ("a", "4")]));
    }

    #[test]
    fn detached_headers_are_equal_and_share_nothing() {
        let frame = Text::from("name:value");
        let (name, rest) = frame.split_at(4);
        let value = rest.split_at(1).1;
        let mut headers = Headers::from([(name, value)]);
        let before = headers.clone();
        headers.detach();
        assert_eq!(headers, before);
        let frame = frame.as_bytes().as_ptr_range();
        assert!(!frame.contains(&headers.get("name").unwrap().as_bytes().as_ptr()));
    }
}
