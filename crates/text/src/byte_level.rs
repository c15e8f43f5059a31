//! The alphabet in which byte-level BPE spells bytes.
//!
//! Printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards in their order.
//! Source: `bytes_to_unicode` in OpenAI's GPT-2 `encoder.py`.

/// The bytes of a token of a byte-level vocabulary.
///
/// A token with any character outside the alphabet, such as an added token, is its own UTF-8: the
/// rule of the library's `ByteLevel` decoder.
pub(crate) fn token_bytes(token: &str) -> Vec<u8> {
    token
        .chars()
        .map(byte)
        .collect::<Option<Vec<u8>>>()
        .unwrap_or_else(|| token.as_bytes().to_vec())
}

fn byte(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        // The bytes without a printable character of their own: 00-20, 7f-a0, ad.
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_exactly_one_character() {
        let mut seen = vec![0; 256];
        for code in 0..0x400 {
            if let Some(byte) = char::from_u32(code).and_then(byte) {
                seen[usize::from(byte)] += 1;
            }
        }
        assert_eq!(seen, vec![1; 256]);
    }

    #[test]
    fn a_token_outside_the_alphabet_is_its_own_text() {
        assert_eq!(token_bytes("Ġa"), b" a");
        assert_eq!(token_bytes("ä½ł"), "你".as_bytes());
        assert_eq!(token_bytes("<|end of text|>"), b"<|end of text|>");
    }
}
