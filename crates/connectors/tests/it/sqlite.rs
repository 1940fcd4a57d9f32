//! SQLite to SQLite through the contracts, compared by plain queries.

mod capture;
mod loads;
mod shapes;
mod stops;
mod typed;
mod world;
