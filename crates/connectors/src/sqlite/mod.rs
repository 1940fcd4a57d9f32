//! SQLite as source and destination.

use std::sync::Arc;

use syncline_core::{Destination, Error, Result, Source};

use crate::registry::Connector;

pub(crate) const CONNECTOR: Connector =
    Connector { schemes: &["sqlite"], source: Some(open_source), destination: Some(open_destination) };

fn open_source(_url: &str) -> Result<Arc<dyn Source>> {
    Err(Error::configuration("not written yet"))
}

fn open_destination(_url: &str) -> Result<Arc<dyn Destination>> {
    Err(Error::configuration("not written yet"))
}
