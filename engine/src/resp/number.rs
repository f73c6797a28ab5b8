//! Numbers as Redis reads them.

/// The value of a decimal number in its only spelling: no plus sign, no leading zero, no `-0`.
///
/// The rule is that of Redis' `string2ll`, which also hiredis applies to replies.
pub(crate) fn parse_decimal(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [] | [b'0', ..] => return None,
        _ => {}
    }
    // Counted downwards, because i64::MIN has no positive counterpart.
    let mut value = 0_i64;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_sub(i64::from(digit - b'0'))?;
    }
    if negative { Some(value) } else { value.checked_neg() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_i64_has_one_spelling() {
        for value in [0, 1, 9, 10, -1, -10, 1_048_576, i64::MAX, i64::MIN] {
            assert_eq!(parse_decimal(value.to_string().as_bytes()), Some(value));
        }
    }

    #[test]
    fn other_spellings_are_refused() {
        let refused = [
            "",
            "-",
            "+1",
            "01",
            "00",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1a",
            "0x1",
            "--1",
            "1.0",
            "\0",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
        ];
        for text in refused {
            assert_eq!(parse_decimal(text.as_bytes()), None, "{text:?}");
        }
    }
}
