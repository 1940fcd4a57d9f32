//! The secret that opens an agent. It is read from a file or the environment, never from a command line, and shown nowhere.

use std::fmt;
use std::hint::black_box;
use std::path::Path;

use syncline_core::{Error, Result};

/// Where a token is looked for if no file is named.
pub const TOKEN_VARIABLE: &str = "SYNCLINE_AGENT_TOKEN";

/// Fewer letters can be guessed.
const LETTERS_MIN: usize = 16;
/// More do not fit a greeting.
const LETTERS_MAX: usize = 1_000;

/// A token.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// From a file, else from [`TOKEN_VARIABLE`].
    ///
    /// # Errors
    /// Configuration if there is none, or one that can be guessed.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        let text = match file {
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                Error::configuration(format!("the token file {} cannot be read", path.display()))
                    .with_remedy("name a readable file that holds the token and nothing else")
                    .with_source(error)
            })?,
            None => std::env::var(TOKEN_VARIABLE).map_err(|_| {
                Error::configuration("there is no token for the agent").with_remedy(format!(
                    "set {TOKEN_VARIABLE}, or name a file: --token-file FILE for the agent, ?token-file=FILE in its URL"
                ))
            })?,
        };
        Self::new(text.trim())
    }

    /// Takes a text as a token.
    ///
    /// # Errors
    /// Configuration if it can be guessed, or holds what no token does.
    pub fn new(text: &str) -> Result<Self> {
        let fits =
            (LETTERS_MIN..=LETTERS_MAX).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic());
        if fits {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::configuration(format!(
            "the agent's token must have {LETTERS_MIN} to {LETTERS_MAX} letters, without spaces"
        ))
        .with_remedy("make one: openssl rand -hex 32"))
    }

    /// Whether it is this one. How long that takes says nothing about where they differ.
    #[must_use]
    pub fn is(&self, other: &str) -> bool {
        let (ours, theirs) = (self.0.as_bytes(), other.as_bytes());
        let differing = ours.iter().zip(theirs).fold(0, |differing, (a, b)| black_box(differing | (a ^ b)));
        ours.len() == theirs.len() && black_box(differing) == 0
    }

    /// The secret itself, to be sent.
    pub(crate) fn secret(&self) -> &str {
        &self.0
    }
}

/// Secrets reach no log.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_only_itself_and_is_not_shown() {
        let token = Token::new("0123456789abcdef").unwrap();
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg", "1123456789abcdef"] {
            assert!(!token.is(other), "{other}");
        }
        assert!(!format!("{token:?}").contains("0123"));
        for wrong in ["", "short", "0123456789 abcdef", "0123456789abcdéf"] {
            let error = Token::new(wrong).unwrap_err();
            assert!(error.remedy().is_some() && (wrong.is_empty() || !error.to_string().contains(wrong)));
        }
    }
}
