//! Headers: short names with byte values, stored as `(u8 name_len, name, u16 value_len, value)*`, big-endian.
//!
//! The format is part of the native envelope, so that every engine stores the same bytes.

use std::fmt;

/// Decoded headers, in the order in which they were sent. A name may stand more than once.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, Vec<u8>)>);

/// Why headers cannot be encoded or decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadersError {
    /// A name is empty or longer than 255 bytes.
    #[error("a header name has 1 to 255 bytes, `{name}` has {len}")]
    NameLength {
        /// The first bytes of the name.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
    /// A value is longer than 65,535 bytes.
    #[error("a header value has at most 65535 bytes, that of `{name}` has {len}")]
    ValueLength {
        /// Which header.
        name: String,
        /// Its length in bytes.
        len: usize,
    },
    /// The stored bytes end in the middle of a header.
    #[error("the stored headers are cut off after {at} bytes")]
    CutOff {
        /// Where the whole part ends.
        at: usize,
    },
}

/// Appends one header to encoded headers.
///
/// # Errors
/// If name or value has no place in the format.
pub fn encode(into: &mut Vec<u8>, name: &str, value: &[u8]) -> Result<(), HeadersError> {
    let name_len = match u8::try_from(name.len()) {
        Ok(len) if len > 0 => len,
        _ => {
            let name_start = name.chars().take(40).collect();
            return Err(HeadersError::NameLength {
                name: name_start,
                len: name.len(),
            });
        }
    };
    let value_len = u16::try_from(value.len()).map_err(|_| HeadersError::ValueLength {
        name: name.to_owned(),
        len: value.len(),
    })?;
    into.push(name_len);
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(&value_len.to_be_bytes());
    into.extend_from_slice(value);
    Ok(())
}

/// Walks encoded headers without allocating. Ends at the first that is cut off.
pub fn iter(raw: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = raw;
    std::iter::from_fn(move || {
        let (header, tail) = split_first(rest)?;
        rest = tail;
        Some(header)
    })
}

/// Whether encoded headers end with a whole one. Nothing is decoded.
pub fn is_whole(raw: &[u8]) -> bool {
    let mut rest = raw;
    while let Some((_, tail)) = split_first(rest) {
        rest = tail;
    }
    rest.is_empty()
}

type Split<'a> = ((&'a [u8], &'a [u8]), &'a [u8]);

fn split_first(raw: &[u8]) -> Option<Split<'_>> {
    let (&name_len, rest) = raw.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(name_len))?;
    let (len, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))?;
    Some(((name, value), rest))
}

impl Headers {
    /// Decodes stored headers.
    ///
    /// # Errors
    /// If they end in the middle of one.
    pub fn decode(raw: &[u8]) -> Result<Self, HeadersError> {
        let mut found = Vec::new();
        let mut rest = raw;
        while !rest.is_empty() {
            let Some(((name, value), tail)) = split_first(rest) else {
                return Err(HeadersError::CutOff {
                    at: raw.len() - rest.len(),
                });
            };
            found.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
            rest = tail;
        }
        Ok(Self(found))
    }

    /// Decodes as much as is whole.
    pub fn decode_lossy(raw: &[u8]) -> Self {
        Self(
            iter(raw)
                .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec()))
                .collect(),
        )
    }

    /// Encodes them.
    ///
    /// # Errors
    /// If a name or a value has no place in the format.
    pub fn encode(&self) -> Result<Vec<u8>, HeadersError> {
        let mut raw = Vec::new();
        for (name, value) in &self.0 {
            encode(&mut raw, name, value)?;
        }
        Ok(raw)
    }

    /// Adds one at the end.
    pub fn push(&mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.push((name.into(), value.into()));
    }

    /// The last value of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .rev()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_slice())
    }

    /// The last value of this name, if it is text.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }

    /// All, in the order in which they were sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Headers {
    /// Names and lengths only: values may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(name, value)| (name, value.len())))
            .finish()
    }
}

impl<N: Into<String>, V: Into<Vec<u8>>> FromIterator<(N, V)> for Headers {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(iter: I) -> Self {
        Self(
            iter.into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn headers_come_back_as_they_were_sent(
            sent in proptest::collection::vec(("[a-z-]{1,40}", proptest::collection::vec(any::<u8>(), 0..60)), 0..20)
        ) {
            let headers: Headers = sent.into_iter().collect();
            let raw = headers.encode().expect("within the format");
            prop_assert_eq!(Headers::decode(&raw), Ok(headers));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let whole = Headers::decode(&raw);
            let part = Headers::decode_lossy(&raw);
            prop_assert_eq!(is_whole(&raw), whole.is_ok());
            if let Ok(whole) = whole { prop_assert_eq!(whole, part); }
        }
    }

    #[test]
    fn a_name_without_a_place_in_the_format_is_refused() {
        let mut raw = Vec::new();
        assert!(encode(&mut raw, "", b"x").is_err());
        assert!(encode(&mut raw, &"n".repeat(256), b"x").is_err());
        assert!(encode(&mut raw, "n", &vec![0; 65_536]).is_err());
        assert!(raw.is_empty());
    }
}
