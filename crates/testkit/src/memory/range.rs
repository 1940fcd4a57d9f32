//! The memory source's own text of a chunk's range.

use std::fmt;

use syncline_core::{Error, Result, RowKey};

/// Which rows of a table a chunk holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Range {
    /// Rows whose first key column is in `[from, to)`; without `to`, everything from `from` on.
    Keys { from: Vec<u8>, to: Option<Vec<u8>> },
    /// Rows `[from, to)` of a table's rows in the order of one snapshot.
    Rows { from: usize, to: usize },
    /// Exactly these keys.
    Exactly(Vec<RowKey>),
}

impl Range {
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let broken = || Error::conflict(format!("`{text}` is not a range of the memory source"));
        let (kind, rest) = text.split_once(':').ok_or_else(broken)?;
        if kind == "exactly" {
            let key = |part: &str| Some(RowKey(unhex(part)?.into_boxed_slice()));
            let keys: Option<Vec<_>> = rest.split(',').filter(|part| !part.is_empty()).map(key).collect();
            return keys.map(Self::Exactly).ok_or_else(broken);
        }
        let (from, to) = rest.split_once("..").ok_or_else(broken)?;
        match kind {
            "keys" => {
                let to = if to == "*" { None } else { Some(unhex(to).ok_or_else(broken)?) };
                Ok(Self::Keys { from: unhex(from).ok_or_else(broken)?, to })
            }
            "rows" => {
                let number = |part: &str| part.parse().map_err(|_| broken());
                Ok(Self::Rows { from: number(from)?, to: number(to)? })
            }
            _ => Err(broken()),
        }
    }

    /// Whether a key range holds this first key value.
    pub(crate) fn holds(&self, first: &[u8]) -> bool {
        match self {
            Self::Keys { from, to } => {
                first >= from.as_slice() && to.as_ref().is_none_or(|to| first < to.as_slice())
            }
            Self::Rows { .. } | Self::Exactly(_) => false,
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys { from, to } => {
                let to = to.as_ref().map_or_else(|| "*".to_owned(), |to| hex(to));
                write!(f, "keys:{}..{to}", hex(from))
            }
            Self::Rows { from, to } => write!(f, "rows:{from}..{to}"),
            Self::Exactly(keys) => {
                let keys: Vec<String> = keys.iter().map(|key| hex(&key.0)).collect();
                write!(f, "exactly:{}", keys.join(","))
            }
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

/// What `covered` leaves of all keys, in order.
pub(crate) fn gaps(covered: &[Range]) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let mut ranges: Vec<(Vec<u8>, Option<Vec<u8>>)> = covered
        .iter()
        .filter_map(|range| match range {
            Range::Keys { from, to } => Some((from.clone(), to.clone())),
            Range::Rows { .. } | Range::Exactly(_) => None,
        })
        .collect();
    ranges.sort();
    let mut gaps = Vec::new();
    let mut at: Option<Vec<u8>> = Some(Vec::new());
    for (from, to) in ranges {
        let Some(start) = at else { break };
        if start < from {
            gaps.push((start, Some(from)));
        }
        at = to;
    }
    if let Some(start) = at {
        gaps.push((start, None));
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_survive_their_text() {
        let key = RowKey(vec![1, 2, 255].into_boxed_slice());
        for range in [
            Range::Keys { from: vec![], to: Some(vec![7]) },
            Range::Keys { from: vec![0, 9], to: None },
            Range::Rows { from: 3, to: 9 },
            Range::Exactly(vec![key.clone(), key]),
        ] {
            assert_eq!(Range::parse(&range.to_string()).unwrap(), range);
        }
        assert!(Range::parse("keys:x..*").is_err());
    }

    #[test]
    fn gaps_and_ranges_are_everything() {
        let range =
            |from: &[u8], to: Option<&[u8]>| Range::Keys { from: from.to_vec(), to: to.map(<[u8]>::to_vec) };
        assert_eq!(gaps(&[]), [(vec![], None)]);
        let loaded = [range(b"m", Some(b"p")), range(b"", Some(b"c"))];
        assert_eq!(gaps(&loaded), [(b"c".to_vec(), Some(b"m".to_vec())), (b"p".to_vec(), None)]);
        assert!(gaps(&[range(b"", None)]).is_empty());
    }
}
