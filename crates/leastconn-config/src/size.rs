//! Sizes such as `64KiB`, `512MiB` and `2GiB`.

const UNITS: [(&str, u64); 5] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("B", 1),
];

/// Reason why a text is not a valid size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SizeError {
    #[error("expected a size like \"512MiB\"")]
    Form,
    #[error("unknown unit \"{0}\": the units are B, KiB, MiB, GiB and TiB")]
    UnknownUnit(String),
    #[error("the size is too large")]
    TooLarge,
}

/// Parses a size, and returns it in bytes.
///
/// # Errors
/// Returns an error if the text is not a whole number with a unit.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    let end = text.find(|c: char| !c.is_ascii_digit());
    let (number, unit) = text.split_at(end.ok_or(SizeError::Form)?);
    if number.is_empty() {
        return Err(SizeError::Form);
    }
    let known = UNITS.into_iter().find(|(name, _)| *name == unit);
    let (_, bytes) = known.ok_or_else(|| SizeError::UnknownUnit(unit.to_owned()))?;
    let number = number.parse::<u64>().map_err(|_| SizeError::TooLarge)?;
    number.checked_mul(bytes).ok_or(SizeError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_has_a_number_and_a_unit() {
        assert_eq!(parse("64KiB"), Ok(65_536));
        assert_eq!(parse("2GiB"), Ok(1 << 31));
        assert_eq!(parse("7B"), Ok(7));
        for wrong in ["", "64", "KiB", "-1MiB"] {
            assert_eq!(parse(wrong), Err(SizeError::Form), "{wrong}");
        }
        for wrong in ["64 KiB", "64MB", "1.5GiB", "64kib"] {
            let unknown = matches!(parse(wrong), Err(SizeError::UnknownUnit(_)));
            assert!(unknown, "{wrong}");
        }
        assert_eq!(parse("99999999TiB"), Err(SizeError::TooLarge));
    }
}
