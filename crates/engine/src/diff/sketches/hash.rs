//! Keyed hashes: what rows and keys are to a comparison.
//!
//! A hash key is drawn for each comparison and known to its two sides only, so that nobody can prepare rows whose hashes
//! collide, and so that an accident does not happen twice. The function is XXH3 with secrets derived from the key. It is
//! not a proven pseudo-random function: it holds against data written without knowledge of the key, not against somebody
//! who is shown hashes and may choose rows by them.
//!
//! A row hash has 96 of the function's 128 bits. Cells add row hashes up in 128 bits, so that a sum of up to 2³² equal
//! rows does not wrap and gives its row back by a division ([`super::cell`]). Two given rows have the same hash with
//! probability 2⁻⁹⁶: over 10⁹ changed rows, one of them is missed with a probability below 2⁻⁶⁶.

use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use syncline_core::digests::{DigestSalt, ROW_HASH_BYTES};
use xxhash_rust::xxh3::{xxh3_64_with_secret, xxh3_64_with_seed, xxh3_128_with_secret};

use super::sketch::SUB_TABLES;

/// Bytes of a secret, as XXH3 wants it.
const SECRET_BYTES: usize = 192;

/// Bits of the row hash from which its place in one sub-table is taken.
const PLACE_BITS: u32 = RowHash::BITS / 4;

const _: () = assert!(SUB_TABLES == 4 && super::sketch::SketchSize::MAX.bits() - 2 <= PLACE_BITS);

type Secret = [u8; SECRET_BYTES];

/// The secret key of one comparison, the same on both sides. Cheap to clone.
#[derive(Clone)]
pub struct HashKey {
    secrets: Arc<Secrets>,
}

/// One secret per use, so that no hash says anything about another.
struct Secrets {
    /// What they were derived from.
    bytes: [u8; 32],
    function: Function,
    row: Secret,
    key: Secret,
    check: Secret,
}

/// How rows and keys are hashed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Function {
    /// Where this process, or one like it, hashes.
    Xxh3,
    /// Where databases do: no other of their functions is in all of them, and none of theirs is keyed.
    Sha256,
}

/// The hash of a row: the canonical encoding of all its columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowHash(u128);

/// The hash of a key: the canonical encoding of the key columns; for a table without a key, a hash of the row hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash(pub u64);

impl HashKey {
    /// Derives the secrets from 32 random bytes, which the caller draws for each comparison.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self::with(bytes, Function::Xxh3)
    }

    /// As [`Self::new`], with the hashes that databases compute ([`syncline_core::digests`]).
    #[must_use]
    pub fn sha256(bytes: [u8; 32]) -> Self {
        Self::with(bytes, Function::Sha256)
    }

    fn with(bytes: [u8; 32], function: Function) -> Self {
        let [row, key, check] = [1, 2, 3].map(|purpose| derive(&bytes, purpose));
        Self { secrets: Arc::new(Secrets { bytes, function, row, key, check }) }
    }

    /// What the hashes of databases begin with, if it is they who hash.
    #[must_use]
    pub fn salt(&self) -> Option<DigestSalt> {
        let mut salt = DigestSalt { row: [0; 16], key: [0; 16] };
        salt.row.copy_from_slice(&self.secrets.bytes[..16]);
        salt.key.copy_from_slice(&self.secrets.bytes[16..]);
        (self.secrets.function == Function::Sha256).then_some(salt)
    }

    /// What it was derived from: for the other side of the comparison, and for nobody else.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.secrets.bytes
    }

    /// The hash of a row's encoding.
    #[inline]
    #[must_use]
    pub fn row(&self, row: &[u8]) -> RowHash {
        match self.secrets.function {
            Function::Xxh3 => RowHash(xxh3_128_with_secret(row, &self.secrets.row) >> (128 - RowHash::BITS)),
            Function::Sha256 => RowHash::of_bytes(salted(&self.secrets.bytes[..16], row)),
        }
    }

    /// The hash of a key's encoding.
    #[inline]
    #[must_use]
    pub fn key(&self, key: &[u8]) -> KeyHash {
        match self.secrets.function {
            Function::Xxh3 => KeyHash(xxh3_64_with_secret(key, &self.secrets.key)),
            Function::Sha256 => KeyHash(u64::from_be_bytes(salted(&self.secrets.bytes[16..], key))),
        }
    }

    /// The key hash of a row of a table without a key. It must not share bits with the row hash: a range of key hashes
    /// would else use a part of each sub-table only.
    #[inline]
    #[must_use]
    pub fn key_of_row(&self, row: RowHash) -> KeyHash {
        match self.secrets.function {
            Function::Xxh3 => self.key(&row.0.to_le_bytes()),
            Function::Sha256 => self.key(&row.to_bytes()),
        }
    }

    /// A number that belongs to a row hash and is not a linear function of it: sums of several row hashes do not have the
    /// sum of their checks.
    #[inline]
    pub(super) fn check(&self, row: RowHash) -> u64 {
        xxh3_64_with_secret(&row.0.to_le_bytes(), &self.secrets.check)
    }

    /// A number that both sides have in common only if they have this key and the same `terms`.
    pub(super) fn fingerprint(&self, terms: &[u8]) -> u64 {
        // Longer than what `check` hashes, so that no fingerprint is a check.
        let mut bytes = b"syncline diff".to_vec();
        bytes.extend_from_slice(&[0; 16]);
        bytes.extend_from_slice(terms);
        xxh3_64_with_secret(&bytes, &self.secrets.check)
    }
}

/// The first bytes of SHA-256 over a salt and a value.
fn salted<const N: usize>(salt: &[u8], value: &[u8]) -> [u8; N] {
    let hash: [u8; 32] = Sha256::new().chain_update(salt).chain_update(value).finalize().into();
    std::array::from_fn(|at| hash[at])
}

fn derive(bytes: &[u8; 32], purpose: u8) -> Secret {
    let mut secret = [0; SECRET_BYTES];
    for (word, place) in (0u8..).zip(secret.chunks_exact_mut(8)) {
        let mut input = [0; 34];
        input[..32].copy_from_slice(bytes);
        input[32..].copy_from_slice(&[purpose, word]);
        place.copy_from_slice(&xxh3_64_with_seed(&input, 0x5379_6e63_6c69_6e65).to_le_bytes());
    }
    secret
}

/// Secrets reach no log.
impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey")
    }
}

impl RowHash {
    /// Bits that are used.
    pub const BITS: u32 = 96;

    /// `None` if the number has more bits than a row hash.
    #[must_use]
    pub fn new(number: u128) -> Option<Self> {
        (number >> Self::BITS == 0).then_some(Self(number))
    }

    /// The hash of these bytes, as one number.
    #[must_use]
    pub fn of_bytes(bytes: [u8; ROW_HASH_BYTES]) -> Self {
        let mut number = [0; 16];
        number[16 - ROW_HASH_BYTES..].copy_from_slice(&bytes);
        Self(u128::from_be_bytes(number))
    }

    /// Its bytes, the first ones of [`Self::number`] big-endian left out.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ROW_HASH_BYTES] {
        let number = self.0.to_be_bytes();
        std::array::from_fn(|at| number[16 - ROW_HASH_BYTES + at])
    }

    /// The hash as a number below 2⁹⁶.
    #[must_use]
    pub fn number(self) -> u128 {
        self.0
    }

    /// The row's place in a sub-table of 2^`bits` cells: the top bits of the sub-table's own part of the hash, so that
    /// halving the sub-table joins neighbours.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the part is cut to 24 bits first")]
    pub(super) fn place(self, sub_table: u32, bits: u32) -> u32 {
        let part = (self.0 >> (sub_table * PLACE_BITS)) as u32 & ((1 << PLACE_BITS) - 1);
        part >> (PLACE_BITS - bits)
    }
}
