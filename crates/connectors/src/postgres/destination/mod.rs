//! PostgreSQL as a destination.

use std::sync::Arc;

use syncline_core::{Destination, Error, Result};

/// Opens a URL. Connects to nothing yet.
pub(crate) fn open(_url: &str) -> Result<Arc<dyn Destination>> {
    Err(Error::configuration("not written yet"))
}
