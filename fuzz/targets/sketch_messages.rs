//! Whatever the other side sends is refused by an error or ends in bounded work, at either end of a comparison.
//!
//! The first byte says how the rest is used: as a message behind an honest header, or laid over the honest replies of a whole
//! conversation, so that what is hostile comes after a good beginning.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use syncline_engine::diff::sketches::{
    Asker, HashKey, Identity, KeyRange, Scan, Scanner, SketchSize, Step, answer_bytes,
};

static OURS: LazyLock<Scan> = LazyLock::new(|| scan(0..90));
static THEIRS: LazyLock<Scan> = LazyLock::new(|| scan(40..200));

/// A sketch that is too small for the difference: the conversation has several rounds.
fn scan(rows: std::ops::Range<u64>) -> Scan {
    let size = SketchSize::from_bits(9).expect("a size in bounds");
    let mut scan = Scanner::new(HashKey::new([7; 32]), Identity::Key, KeyRange::ALL, size);
    for row in rows {
        let key = [&8_i32.to_be_bytes()[..], &row.to_be_bytes()].concat();
        scan.add_row(&key, &[&key[..], &[0, 0, 0, 1, 42]].concat());
    }
    scan.finish()
}

/// Version, kind and fingerprint: before them nothing is looked at.
const HEADER_BYTES: usize = 10;

fuzz_target!(|bytes: &[u8]| {
    let Some((&way, bytes)) = bytes.split_first() else { return };
    if way & 1 == 0 {
        return converse(bytes);
    }
    let (mut asker, request) = Asker::new(&OURS, 4);
    let mut message = asker.send(request);
    message.truncate(HEADER_BYTES);
    message[1] = way >> 1;
    message.extend(bytes);
    let _ = answer_bytes(&OURS, &message);
    let _ = asker.receive_bytes(&message);
});

/// The asking end with replies of which some bytes are turned over: three bytes of `changes` say where, and which bits.
fn converse(changes: &[u8]) {
    let (mut asker, mut request) = Asker::new(&OURS, 4);
    let mut changes = changes.chunks_exact(3);
    for _ in 0..16 {
        let Ok(mut reply) = answer_bytes(&THEIRS, &asker.send(request)) else { return };
        for change in changes.by_ref().take(2) {
            let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % reply.len();
            reply[at] ^= change[2];
        }
        match asker.receive_bytes(&reply) {
            Ok(Step::Ask(next)) => request = next,
            Ok(Step::Done(_)) | Err(_) => return,
        }
    }
    panic!("a conversation that does not end");
}
