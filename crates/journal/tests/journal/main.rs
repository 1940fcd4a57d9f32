//! The journal through its public face, on real files.

mod budget;
mod damage;
mod disk_full;
mod freeing;
mod history;
mod reading;
