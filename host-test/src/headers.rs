//! Header maps and the form in which the ABI passes them.
//!
//! The form: the number of pairs, then each pair's two lengths, then each key and value with a zero
//! byte after it; all numbers are 32 bits, little endian.

/// A header map: pairs in order, names in lower case.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Headers(Vec<(Vec<u8>, Vec<u8>)>);

impl Headers {
    pub(crate) fn new(pairs: &[(&str, &str)]) -> Self {
        Self(
            pairs
                .iter()
                .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
                .collect(),
        )
    }

    /// Reads the ABI's form. Like Envoy, malformed bytes are an empty map.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self::try_read(bytes).unwrap_or_default()
    }

    fn try_read(bytes: &[u8]) -> Option<Self> {
        let word = |index: usize| {
            let at = index.checked_mul(4)?;
            let bytes = bytes.get(at..at.checked_add(4)?)?;
            usize::try_from(u32::from_le_bytes(bytes.try_into().ok()?)).ok()
        };
        let count = word(0)?;
        let mut at = count.checked_mul(8)?.checked_add(4)?;
        let mut text = |length: usize| {
            let end = at.checked_add(length)?;
            let text = bytes.get(at..end)?.to_vec();
            at = end.checked_add(1)?;
            Some(text)
        };
        let mut pairs = Vec::new();
        for index in 0..count {
            let name = text(word(1 + 2 * index)?)?.to_ascii_lowercase();
            pairs.push((name, text(word(2 + 2 * index)?)?));
        }
        Some(Self(pairs))
    }

    /// The ABI's form.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        let mut bytes = word(self.0.len()).to_vec();
        for (name, value) in &self.0 {
            bytes.extend_from_slice(&word(name.len()));
            bytes.extend_from_slice(&word(value.len()));
        }
        for (name, value) in &self.0 {
            for text in [name, value] {
                bytes.extend_from_slice(text);
                bytes.push(0);
            }
        }
        bytes
    }

    /// The first value of `name`, which is compared in lower case.
    pub(crate) fn value(&self, name: &[u8]) -> Option<&[u8]> {
        let pair = self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        pair.map(|(_, value)| value.as_slice())
    }

    /// Puts a value in the place of all that `name` had.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(known, _)| !known.eq_ignore_ascii_case(name.as_bytes()));
        self.extend(Self::new(&[(name, value)]));
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_survives_the_abis_form() {
        let headers = Headers::new(&[("x-envoy-original-dst-host", "10.0.0.1:6379"), ("te", "")]);
        assert_eq!(Headers::read(&headers.to_bytes()), headers);
        assert_eq!(headers.value(b"TE"), Some(b"".as_slice()));
    }

    #[test]
    fn malformed_bytes_are_an_empty_map_and_reserve_nothing() {
        let whole = Headers::new(&[("name", "value")]).to_bytes();
        for length in 0..whole.len() - 1 {
            assert_eq!(Headers::read(&whole[..length]).len(), 0, "{length} bytes");
        }
        assert_eq!(Headers::read(&[0xff; 16]).len(), 0);
    }
}
