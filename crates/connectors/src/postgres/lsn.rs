//! Log positions: 64-bit byte addresses in the WAL, written `16/B374D848`.

use std::fmt;
use std::str::FromStr;

use syncline_core::{Error, Position, Result};

/// A place in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Lsn(pub(crate) u64);

impl Lsn {
    pub(crate) fn position(self) -> Position {
        Position::from_u64(self.0)
    }

    pub(crate) fn of(position: &Position) -> Result<Self> {
        let number = position.as_u64();
        number.map(Self).ok_or_else(|| Error::conflict(format!("{position} is not a WAL position")))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (high, low) = text.split_once('/')?;
            let (high, low) = (u32::from_str_radix(high, 16).ok()?, u32::from_str_radix(low, 16).ok()?);
            Some(Self(u64::from(high) << 32 | u64::from(low)))
        };
        parse().ok_or_else(|| Error::conflict(format!("`{text}` is not a WAL position")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips() {
        for number in [0, 0x16_B374_D848, u64::MAX] {
            assert_eq!(Lsn(number).to_string().parse::<Lsn>().unwrap(), Lsn(number));
        }
        assert!("16B374".parse::<Lsn>().is_err());
    }
}
