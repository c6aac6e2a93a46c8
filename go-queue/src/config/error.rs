//! What can be wrong with a configuration: one problem with its place, all problems as one report, and remarks that do not
//! stop anybody.

use std::fmt;

use super::At;

/// One problem of the configuration: where, at which key, what is wrong and what to do.
///
/// Prints as `config.yaml:3:5: dq.redis.hst: unknown key; did you mean `host`?`. Never holds a secret or the value of a variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    at: Option<At>,
    key: String,
    what: String,
    remedy: Option<String>,
}

impl ConfigError {
    /// A problem at a place; its key is the place's own.
    pub fn at(at: &At, what: impl Into<String>) -> Self {
        Self {
            at: Some(at.clone()),
            key: at.key.to_string(),
            what: what.into(),
            remedy: None,
        }
    }

    /// A problem of a key that stands nowhere, such as one that is missing; an empty key names none.
    pub fn of(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self {
            at: None,
            key: key.into(),
            what: what.into(),
            remedy: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// Where it is, if it stands anywhere.
    pub fn place(&self) -> Option<&At> {
        self.at.as_ref()
    }

    /// The path of its key; empty if it has none.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.at {
            write!(f, "{at}: ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.what)?;
        match &self.remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// All problems of a configuration, in the order of the file. Never empty.
///
/// Prints as one report: the problem alone if it is one, else a line with their number and one line for each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `Ok` with the value if there are no problems, else all of them.
    pub fn check<T>(value: T, problems: Vec<ConfigError>) -> Result<T, Self> {
        if problems.is_empty() {
            Ok(value)
        } else {
            Err(Self::sorted(problems))
        }
    }

    fn sorted(mut problems: Vec<ConfigError>) -> Self {
        problems.sort_by_key(|problem| problem.at.as_ref().map(|at| (at.line, at.column)));
        problems.dedup();
        Self(problems)
    }

    /// The problems.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }

    /// How many there are: at least one.
    #[expect(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(problem: ConfigError) -> Self {
        Self(vec![problem])
    }
}

impl IntoIterator for ConfigErrors {
    type Item = ConfigError;
    type IntoIter = std::vec::IntoIter<ConfigError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [only] = &self.0[..] {
            return write!(f, "{only}");
        }
        write!(f, "the configuration has {} problems", self.0.len())?;
        for problem in &self.0 {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// How much a remark matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Note,
    /// Probably not what was meant.
    Warning,
}

/// Something to say at start that stops nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// How much it matters.
    pub severity: Severity,
    /// Where, if it stands anywhere.
    pub at: Option<At>,
    /// What; never a secret.
    pub text: String,
}

impl Remark {
    /// Good to know.
    pub fn note(at: Option<&At>, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Note,
            at: at.cloned(),
            text: text.into(),
        }
    }

    /// Probably not what was meant.
    pub fn warning(at: Option<&At>, text: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::note(at, text)
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            Some(at) if !at.key.is_empty() => write!(f, "{at}: {}: {}", at.key, self.text),
            Some(at) => write!(f, "{at}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}
