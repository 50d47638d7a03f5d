//! A request of the kernel is what a plain reading of its header says, or it is refused; nothing is read beyond its end.
#![no_main]

use instantmirror_fuse::fuzzing::{Decoded, decode_request};
use libfuzzer_sys::fuzz_target;

fn u32_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().expect("four bytes")).into())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + 8)?;
    Some(u64::from_ne_bytes(bytes.try_into().expect("eight bytes")))
}

/// The bytes up to the first NUL.
fn name_at(bytes: &[u8], at: usize) -> Option<Vec<u8>> {
    let rest = bytes.get(at..)?;
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let name = parts.next()?;
    parts.next().map(|_| name.to_vec())
}

/// Name and numbers, by the offsets of `<linux/fuse.h>`; the header has 40 bytes.
fn plainly(opcode: u64, bytes: &[u8]) -> Option<(Option<Vec<u8>>, Vec<u64>)> {
    let has = |len: usize| (bytes.len() >= 40 + len).then_some(());
    Some(match opcode {
        1 => (Some(name_at(bytes, 40)?), vec![]),
        2 | 36 => (None, vec![u64_at(bytes, 40)?]),
        14 => {
            has(8)?;
            (None, vec![u32_at(bytes, 40)?])
        }
        15 => {
            has(40)?;
            (None, vec![u64_at(bytes, 40)?, u64_at(bytes, 48)?, u32_at(bytes, 56)?])
        }
        28 | 44 => {
            has(40)?;
            (None, vec![u64_at(bytes, 48)?, u32_at(bytes, 56)?])
        }
        18 => {
            has(24)?;
            (None, vec![u64_at(bytes, 40)?])
        }
        22 => {
            has(8)?;
            (Some(name_at(bytes, 48)?), vec![u32_at(bytes, 40)?])
        }
        23 => {
            has(8)?;
            (None, vec![u32_at(bytes, 40)?])
        }
        26 => {
            let flags = u32_at(bytes, 52)?;
            let more = if flags & (1 << 30) == 0 { 0 } else { u32_at(bytes, 56)? };
            (None, vec![u32_at(bytes, 40)?, u32_at(bytes, 44)?, u32_at(bytes, 48)?, flags | more << 32])
        }
        42 => {
            has(8)?;
            let count = usize::try_from(u32_at(bytes, 40)?).ok()?;
            (None, (0..count * 2).map(|at| u64_at(bytes, 48 + at * 8)).collect::<Option<_>>()?)
        }
        _ => (None, vec![]),
    })
}

fn plain_request(bytes: &[u8]) -> Option<Decoded> {
    if bytes.len() < 40 || u32_at(bytes, 0)? != bytes.len() as u64 {
        return None;
    }
    let opcode = u32_at(bytes, 4)?;
    let (name, numbers) = plainly(opcode, bytes)?;
    let known = [1, 2, 3, 5, 14, 15, 17, 18, 22, 23, 26, 27, 28, 29, 36, 38, 42, 44];
    Some(Decoded {
        unique: u64_at(bytes, 8)?,
        inode: u64_at(bytes, 16)?,
        name,
        numbers,
        is_known: known.contains(&opcode),
    })
}

fuzz_target!(|data: &[u8]| {
    assert_eq!(decode_request(data), plain_request(data));
    // With a header that says what it should, most inputs get as far as their operation.
    let mut request = data.to_vec();
    if let Some(len) = request.get_mut(..4) {
        len.copy_from_slice(&u32::try_from(data.len()).expect("a short input").to_ne_bytes());
        if let Some(opcode) = request.get_mut(5..8) {
            opcode.fill(0);
        }
        assert_eq!(decode_request(&request), plain_request(&request));
    }
});
