//! `sqlite:path`: relative, absolute, or with the two slashes of a URL (`sqlite:///absolute/path`).
//!
//! Nothing is decoded and no query is read: what follows the scheme is a path, whatever characters it has.

use std::path::PathBuf;

use syncline_core::{Error, Result};

/// The path in a URL.
pub(super) fn path_of(url: &str) -> Result<PathBuf> {
    let path = url.strip_prefix("sqlite:").unwrap_or(url);
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() || path == ":memory:" || path.ends_with('/') {
        return Err(Error::configuration("a SQLite URL needs the path of a file")
            .with_remedy("write sqlite:path/to/file.db or sqlite:///absolute/path/to/file.db"));
    }
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let path = |url: &str| path_of(url).unwrap().to_str().unwrap().to_owned();
        assert_eq!(path("sqlite:a b/c?d.db"), "a b/c?d.db");
        assert_eq!(path("sqlite:/abs/x.db"), "/abs/x.db");
        assert_eq!(path("sqlite:///abs/x.db"), "/abs/x.db");
        assert_eq!(path("sqlite://rel/x.db"), "rel/x.db");
        for bad in ["sqlite:", "sqlite://", "sqlite::memory:", "sqlite:dir/"] {
            assert!(path_of(bad).is_err(), "{bad}");
        }
    }
}
