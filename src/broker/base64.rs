//! Base64 for names: RFC 4648, section 5, without padding. Any text becomes letters, digits, `-` and `_`.

/// These bytes as text.
#[cfg(any(feature = "amqp", feature = "mqtt"))]
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|index| u32::from(chunk.get(index).copied().unwrap_or_default()));
        let bits = a << 16 | b << 8 | c;
        for index in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * index) & 63) as usize]));
        }
    }
    text
}

/// The bytes that [`base64url`] made this text of. The alphabet of section 4, and padding, are read as well.
pub(crate) fn decoded(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for character in text.bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'-' | b'+' => 62,
            b'_' | b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    (count < 6).then_some(bytes)
}

#[cfg(all(test, any(feature = "amqp", feature = "mqtt")))]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_rfc_both_ways() {
        for (plain, encoded) in
            [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("foob", "Zm9vYg"), ("ä?>", "w6Q_Pg")]
        {
            assert_eq!(base64url(plain.as_bytes()), encoded);
            assert_eq!(decoded(encoded).unwrap(), plain.as_bytes());
        }
        assert_eq!(decoded("w6Q/Pg==").unwrap(), "ä?>".as_bytes());
        assert_eq!((decoded("a"), decoded("a b")), (None, None));
    }
}
