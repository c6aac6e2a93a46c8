//! Names of tubes, topics and groups: one rule, checked at compile time in attributes and at start in YAML.
//!
//! The rule is the intersection of what beanstalkd and Kafka accept, so that a name that works on the
//! embedded engine works on every other one.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name in bytes. beanstalkd takes 200; Kafka takes 249, of which `-dlt` needs four.
pub const MAX_NAME_LEN: usize = 200;

/// Why a text is not a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing stands there.
    #[error("a name must not be empty")]
    Empty,
    /// More than [`MAX_NAME_LEN`] bytes.
    #[error("a name has at most 200 bytes")]
    TooLong,
    /// A byte outside of `A-Z a-z 0-9 . _ -`.
    #[error("a name may hold only letters, digits, `.`, `_` and `-`")]
    BadByte,
    /// beanstalkd refuses names that begin with `-`.
    #[error("a name must not begin with `-`")]
    LeadingDash,
    /// Kafka refuses `.` and `..`.
    #[error("`.` and `..` are not names")]
    Dots,
}

/// Checks a name by the one rule: 1 to 200 bytes of `A-Z a-z 0-9 . _ -`, not beginning with `-`, not `.` or `..`.
///
/// # Errors
/// Says which part of the rule is broken.
pub const fn check_name(text: &str) -> Result<(), NameError> {
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return Err(NameError::Empty);
    }
    if bytes.len() > MAX_NAME_LEN {
        return Err(NameError::TooLong);
    }
    if bytes[0] == b'-' {
        return Err(NameError::LeadingDash);
    }
    let mut dots = 0;
    let mut i = 0;
    while i < bytes.len() {
        match bytes[i] {
            b'.' => dots += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => {}
            _ => return Err(NameError::BadByte),
        }
        i += 1;
    }
    if dots == bytes.len() && dots <= 2 {
        return Err(NameError::Dots);
    }
    Ok(())
}

/// The name of a tube, topic or group. Cloning is cheap: a literal is borrowed, anything else is shared.
#[derive(Clone)]
pub struct Name(Repr);

#[derive(Clone)]
enum Repr {
    Literal(&'static str),
    Shared(Arc<str>),
}

impl Name {
    /// A name from a literal, checked at compile time where it stands in a `const`.
    ///
    /// # Panics
    /// If the text breaks the rule of [`check_name`]; in a `const` that is a compile error.
    #[expect(
        clippy::panic,
        reason = "evaluated at compile time by the attributes and by `Tube::new`"
    )]
    pub const fn literal(text: &'static str) -> Self {
        match check_name(text) {
            Ok(()) => Self(Repr::Literal(text)),
            Err(NameError::Empty) => panic!("a name must not be empty"),
            Err(NameError::TooLong) => panic!("a name has at most 200 bytes"),
            Err(NameError::BadByte) => {
                panic!("a name may hold only letters, digits, `.`, `_` and `-`")
            }
            Err(NameError::LeadingDash) => panic!("a name must not begin with `-`"),
            Err(NameError::Dots) => panic!("`.` and `..` are not names"),
        }
    }

    /// A name from text known at run time.
    ///
    /// # Errors
    /// If the text breaks the rule of [`check_name`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        check_name(text)?;
        Ok(Self(Repr::Shared(Arc::from(text))))
    }

    /// A name from text of the program, which is not copied.
    ///
    /// # Errors
    /// If the text breaks the rule of [`check_name`].
    pub(crate) fn of_program(text: &'static str) -> Result<Self, NameError> {
        check_name(text)?;
        Ok(Self(Repr::Literal(text)))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Repr::Literal(text) => text,
            Repr::Shared(text) => text,
        }
    }
}

impl std::ops::Deref for Name {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl std::borrow::Borrow<str> for Name {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq for Name {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Name {}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.as_str() == other
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl TryFrom<&str> for Name {
    type Error = NameError;
    fn try_from(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(serde::de::Error::custom)
    }
}

/// Where messages wait: a tube (tasks) or a topic (a log).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// Tasks, each for one consumer, now or later.
    Tube(Name),
    /// A log of records, read by any number of groups.
    Topic(Name),
}

impl Place {
    /// The name without its kind.
    pub fn name(&self) -> &Name {
        match self {
            Self::Tube(name) | Self::Topic(name) => name,
        }
    }

    /// Which side of the framework it belongs to.
    pub fn side(&self) -> Side {
        match self {
            Self::Tube(_) => Side::Tasks,
            Self::Topic(_) => Side::Topics,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tube(name) => write!(f, "tube `{name}`"),
            Self::Topic(name) => write!(f, "topic `{name}`"),
        }
    }
}

/// The two sides: tasks (`dq`) and topics (`kq`). An engine may serve one or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// `dq`: tubes.
    Tasks,
    /// `kq`: topics.
    Topics,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tasks => "dq",
            Self::Topics => "kq",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_is_the_intersection_of_beanstalkd_and_kafka() {
        for good in ["a", "orders", "a.b_c-9", "...", &"x".repeat(200)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", NameError::Empty),
            (&"x".repeat(201)[..], NameError::TooLong),
            ("a b", NameError::BadByte),
            ("a/b", NameError::BadByte),
            ("a\r\ndelete 1", NameError::BadByte),
            ("Ä", NameError::BadByte),
            ("-a", NameError::LeadingDash),
            (".", NameError::Dots),
            ("..", NameError::Dots),
        ] {
            assert_eq!(check_name(bad), Err(why), "{bad:?}");
        }
    }

    #[test]
    fn a_literal_and_a_shared_name_are_equal() {
        const LITERAL: Name = Name::literal("orders");
        assert_eq!(LITERAL, Name::new("orders").expect("a good name"));
    }
}
