//! PostgreSQL as a source.

use std::sync::Arc;

use syncline_core::{Error, Result, Source};

/// Opens a URL. Connects to nothing yet.
pub(crate) fn open(_url: &str) -> Result<Arc<dyn Source>> {
    Err(Error::configuration("not written yet"))
}
