//! SQLite as a destination.
use std::sync::Arc;
use syncline_core::{Destination, Error, Result};
pub(super) fn open(_url: &str) -> Result<Arc<dyn Destination>> {
    Err(Error::bug("todo"))
}
