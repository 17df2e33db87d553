//! Base64 as RFC 4648 defines it (section 4): one text for each sequence of bytes, so any other text is refused.

/// The bytes; `None` if the text has other characters, no padding, or bits that belong to no byte.
pub fn decode(text: &str) -> Option<Vec<u8>> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let digits = &text[..text.len() - padding];
    let mut bytes = Vec::with_capacity(digits.len() / 4 * 3 + 2);
    for group in digits.chunks(4) {
        let mut bits = 0u32;
        for digit in group {
            bits = bits << 6 | value(*digit)?;
        }
        // 2, 3 or 4 digits hold 1, 2 or 3 bytes, and 4, 2 or 0 bits that must be zero.
        let unused = 6 * group.len() % 8;
        if bits & ((1 << unused) - 1) != 0 {
            return None;
        }
        let whole = (bits >> unused).to_be_bytes();
        bytes.extend_from_slice(&whole[5 - group.len()..]);
    }
    Some(bytes)
}

fn value(digit: u8) -> Option<u32> {
    let value = match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of RFC 4648, section 10, and texts that differ from them.
    #[test]
    fn exactly_one_text_stands_for_each_sequence_of_bytes() {
        for (text, bytes) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
        ] {
            assert_eq!(decode(text).as_deref(), Some(bytes.as_bytes()));
        }
        for wrong in
            ["Zg", "Zg=", "Zh==", "Zm9=", "Zm8=\n", " Zm8", "Zm-v", "Z===", "====", "=", "Zg==Zg==", "Zm9v===="]
        {
            assert_eq!(decode(wrong), None, "{wrong:?}");
        }
    }
}
