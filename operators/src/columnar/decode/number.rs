//! Numbers without rounding: whole ones in floating-point dress, and decimals.

/// The whole number that a floating-point number is. Beyond 2^53 not all whole numbers can be told apart, and none is
/// believed.
pub(super) fn exact_int(value: f64) -> Option<i64> {
    // 2^53 itself could be 2^53 + 1, rounded.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "whole, and less than 2^53")]
    (value.fract() == 0.0 && value.abs() < EXACT).then_some(value as i64)
}

/// A decimal number as a count of its last digits: `12.3` with scale 2 is 1230.
///
/// # Errors
/// What is wrong with it, to be put behind it: it is no number, has too many digits, or more of them behind the point
/// than the scale. Zeros at the end do not count.
pub(super) fn decimal(text: &str, precision: u8, scale: i8) -> Result<i128, &'static str> {
    const NO_NUMBER: &str = "is no number";
    const TOO_LARGE: &str = "has too many digits";
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().map_err(|_| TOO_LARGE)?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, mantissa),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = || whole.bytes().chain(fraction.bytes());
    if whole.is_empty() || !all().all(|byte| byte.is_ascii_digit()) || digits.ends_with('.') {
        return Err(NO_NUMBER);
    }
    let places = i64::try_from(fraction.len()).map_err(|_| TOO_LARGE)?;
    // How many zeros must be added behind all digits, or may be taken away.
    let shift = exponent.checked_add(scale.into()).and_then(|shift| shift.checked_sub(places)).ok_or(TOO_LARGE)?;
    let count = whole.len() + fraction.len();
    let kept = match usize::try_from(shift.saturating_neg()) {
        Ok(dropped) => count.saturating_sub(dropped),
        Err(_) => count,
    };
    if all().skip(kept).any(|digit| digit != b'0') {
        return Err("has more digits behind the point");
    }
    let limit = 10i128.checked_pow(precision.into()).ok_or(TOO_LARGE)?;
    let mut value = 0i128;
    let behind = |value: i128, digit: u8| {
        let longer = value.checked_mul(10)?.checked_add(i128::from(digit - b'0'))?;
        (longer < limit).then_some(longer)
    };
    for digit in all().take(kept) {
        value = behind(value, digit).ok_or(TOO_LARGE)?;
    }
    if value != 0 {
        for _ in 0..shift.max(0) {
            value = behind(value, b'0').ok_or(TOO_LARGE)?;
        }
    }
    Ok(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_believed_up_to_two_to_the_53rd() {
        assert_eq!(exact_int(-3.0), Some(-3));
        assert_eq!(exact_int(9_007_199_254_740_991.0), Some(9_007_199_254_740_991));
        for no in [0.5, f64::NAN, f64::INFINITY, 1e16, -1e300] {
            assert_eq!(exact_int(no), None, "{no}");
        }
    }

    #[test]
    fn decimals_keep_every_digit() {
        for (text, scale, value) in [
            ("12.3", 2, 1230),
            ("-0.01", 2, -1),
            ("1e2", 0, 100),
            ("1.5e1", 0, 15),
            ("150e-2", 1, 15),
            ("0e99999", 2, 0),
            ("100", -2, 1),
            ("0.000", 2, 0),
            ("00012", 0, 12),
            ("1.2300000000000000000000000000000000000000", 2, 123),
        ] {
            assert_eq!(decimal(text, 10, scale), Ok(value), "{text}");
        }
        assert_eq!(decimal(&"9".repeat(38), 38, 0), Ok(10i128.pow(38) - 1));
        for (text, why) in [
            ("", "no number"),
            ("-", "no number"),
            ("1.", "no number"),
            (".5", "no number"),
            ("1x", "no number"),
            ("+1", "no number"),
            ("0.001", "behind the point"),
            ("1e-3", "behind the point"),
            ("1e-9999999999", "behind the point"),
            ("123456789.0", "too many"),
            ("1e9223372036854775807", "too many"),
            ("1e99999999999999999999", "too many"),
        ] {
            assert!(decimal(text, 10, 2).unwrap_err().contains(why), "{text}: {:?}", decimal(text, 10, 2));
        }
    }
}
