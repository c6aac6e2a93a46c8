//! Where something stands in the configuration, so that any later check can point at it.

use std::fmt;
use std::sync::Arc;

/// A place in the configuration: file, line and column, and the path of keys that leads there.
///
/// Prints as `config.yaml:7:5`. What was given on the command line has no line and prints as `command line`.
#[derive(Clone, PartialEq, Eq)]
pub struct At {
    /// The file as it was named.
    pub file: Arc<str>,
    /// From 1; 0 on the command line.
    pub line: u32,
    /// In characters, from 1; 0 on the command line.
    pub column: u32,
    /// The keys from the top, such as `dq.redis.host` or `dq.beanstalks[0].endpoint`.
    pub key: Arc<str>,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            f.write_str(&self.file)
        } else {
            write!(f, "{}:{}:{}", self.file, self.line, self.column)
        }
    }
}

impl fmt::Debug for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A value that somebody wrote, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: At,
}

impl<T> Given<T> {
    /// A value with its place.
    pub const fn new(value: T, at: At) -> Self {
        Self { value, at }
    }

    /// The same place with another value.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Given<U> {
        Given {
            value: change(self.value),
            at: self.at,
        }
    }
}
