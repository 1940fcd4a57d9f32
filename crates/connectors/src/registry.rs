//! From a connection URL to its connector.

use std::sync::Arc;

use syncline_core::{Column, Destination, Error, Family, Result, Source};

/// A carried value as a person reads it.
pub type Show = fn(&Column, &[u8]) -> String;

/// Opens a URL in one role.
type Open<Role> = fn(&str) -> Result<Arc<Role>>;

/// What a connector folder offers. A role it does not have is `None`.
pub(crate) struct Connector {
    /// URL schemes, without the colon.
    pub(crate) schemes: &'static [&'static str],
    /// Whose values it carries.
    pub(crate) family: Family,
    /// Opens the URL as a source. Connects to nothing yet.
    pub(crate) source: Option<Open<dyn Source>>,
    /// Opens the URL as a destination. Connects to nothing yet.
    pub(crate) destination: Option<Open<dyn Destination>>,
    /// A carried value as a person reads it.
    pub(crate) show: Show,
}

const CONNECTORS: &[Connector] = &[
    #[cfg(feature = "postgres")]
    crate::postgres::CONNECTOR,
    #[cfg(feature = "sqlite")]
    crate::sqlite::CONNECTOR,
];

/// The source behind a URL.
///
/// # Errors
/// Configuration if no connector reads such URLs or the URL is malformed.
pub fn source(url: &str) -> Result<Arc<dyn Source>> {
    let open = find(url)?.source.ok_or_else(|| unsupported(url, "source"))?;
    open(url)
}

/// The destination behind a URL.
///
/// # Errors
/// Configuration if no connector writes such URLs or the URL is malformed.
pub fn destination(url: &str) -> Result<Arc<dyn Destination>> {
    let open = find(url)?.destination.ok_or_else(|| unsupported(url, "destination"))?;
    open(url)
}

/// The family of this name and how its values are shown, wherever they were read; `None` if no connector here carries them.
#[must_use]
pub fn family(name: &str) -> Option<(Family, Show)> {
    let connector = CONNECTORS.iter().find(|connector| connector.family.0 == name)?;
    Some((connector.family, connector.show))
}

fn find(url: &str) -> Result<&'static Connector> {
    let scheme = scheme(url);
    CONNECTORS.iter().find(|connector| connector.schemes.contains(&scheme)).ok_or_else(|| {
        let known: Vec<_> = CONNECTORS.iter().flat_map(|connector| connector.schemes).copied().collect();
        Error::configuration(format!("no connector for URLs that begin with `{scheme}:`"))
            .with_remedy(format!("use one of: {}", known.join(", ")))
    })
}

/// Never more of the URL than its scheme: the rest may hold a password.
fn scheme(url: &str) -> &str {
    url.split(':').next().unwrap_or_default()
}

fn unsupported(url: &str, role: &str) -> Error {
    Error::configuration(format!("`{}:` cannot be a {role}", scheme(url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_scheme_names_the_known_ones_and_never_the_rest() {
        let error = source("oracle://user:secret@host/db").err().unwrap();
        assert!(!format!("{error} {:?}", error.remedy()).contains("secret"));
    }
}
