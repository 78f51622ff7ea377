//! Binary values as text: base64 with the standard alphabet and padding (RFC 4648, section 4).

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `bytes` as text.
pub(super) fn encode(bytes: &[u8], out: &mut String) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let [a, b, c] = [0, 1, 2].map(|i| u32::from(chunk.get(i).copied().unwrap_or(0)));
        let group = a << 16 | b << 8 | c;
        for digit in 0..4 {
            let place = (group >> (18 - 6 * digit) & 63) as usize;
            let letter = ALPHABET.get(place).copied().filter(|_| digit <= chunk.len());
            out.push(char::from(letter.unwrap_or(b'=')));
        }
    }
}

/// Appends the bytes that `text` stands for; `None` if it is not canonical base64, and `out` is left longer then.
pub(super) fn decode(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let text = text.as_bytes();
    if !text.len().is_multiple_of(4) {
        return None;
    }
    out.reserve(text.len() / 4 * 3);
    let digits = text.len() - text.iter().rev().take_while(|letter| **letter == b'=').count();
    let padding = text.len() - digits;
    if padding > 2 {
        return None;
    }
    for chunk in text.get(..digits)?.chunks(4) {
        let mut group = 0;
        for letter in chunk {
            group = group << 6 | value(*letter)?;
        }
        let bits = chunk.len() * 6;
        let spare = bits % 8;
        // What is left over belongs to no byte, and must be zero.
        if chunk.len() == 1 || group & ((1 << spare) - 1) != 0 {
            return None;
        }
        let whole = (group >> spare) << (24 - (bits - spare));
        out.extend(whole.to_be_bytes().iter().skip(1).take(bits / 8));
    }
    Some(())
}

fn value(letter: u8) -> Option<u32> {
    let value = match letter {
        b'A'..=b'Z' => letter - b'A',
        b'a'..=b'z' => letter - b'a' + 26,
        b'0'..=b'9' => letter - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_vectors_of_the_rfc() {
        let vectors =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("fooba", "Zm9vYmE=")];
        for (plain, coded) in vectors {
            let (mut text, mut bytes) = (String::new(), Vec::new());
            encode(plain.as_bytes(), &mut text);
            assert_eq!(text, coded);
            assert_eq!(decode(coded, &mut bytes).map(|()| bytes), Some(plain.as_bytes().to_vec()));
        }
    }

    #[test]
    fn every_byte_comes_back() {
        for len in 0..=255u8 {
            let bytes: Vec<u8> = (0..len).rev().collect();
            let (mut text, mut back) = (String::new(), Vec::new());
            encode(&bytes, &mut text);
            assert_eq!(decode(&text, &mut back).map(|()| back), Some(bytes));
        }
    }

    #[test]
    fn what_is_not_canonical_is_refused() {
        for bad in ["Z", "Zg", "Zg=", "Zh==", "Zm9=", "Z===", "====", "Zg==Zg==", "Zm 9", "Zm9v\n", "Zm9-"] {
            assert_eq!(decode(bad, &mut Vec::new()), None, "{bad:?}");
        }
    }
}
