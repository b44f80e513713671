//! Fuzzes what terms are stored as: the files of `proctab_nif` that convert them, over a [`vm`] of our own.
//!
//! The input is a program that builds a term, and a byte of it to be changed for a second term. Whatever the two are:
//! - what is stored comes back, bit for bit, as a value and as a key, and its encoding is read to the last byte;
//! - as keys they are the same just when the VM holds them equal, and then their hashes are the same;
//! - what a look-up searches for is the same as what is stored.

#![no_main]
// What the files of `proctab_nif` have beside the conversions.
#![allow(dead_code, unexpected_cfgs, unused_imports, unused_macros)]

#[path = "../../terms/src/binaries.rs"]
mod binaries;
#[path = "../../terms/src/call.rs"]
mod call;
#[path = "../../terms/src/call_times.rs"]
mod call_times;
#[path = "../../terms/src/conversion.rs"]
mod conversion;
#[path = "../../terms/src/copied.rs"]
mod copied;
#[path = "../../terms/src/cost.rs"]
mod cost;
#[path = "../../terms/src/encoding.rs"]
mod encoding;
mod vm;

mod atoms {
    /// Stands in for the atom that a panic would raise; here a panic ends the program.
    pub fn nif_panicked() -> rustler::types::atom::Atom {
        unreachable!()
    }
}

use std::cell::RefCell;
use std::ffi::CStr;
use std::hash::{BuildHasher, Hash};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

use proctab_table::datum::{Datum, View};
use proctab_table::Seed;

use call::{enter, Answer, Call, Fault, Function};
use copied::Copied;
use encoding::Scratch;
use vm::{Builder, Environment};

fuzz_target!(|input: &[u8]| {
    let [signed_zeros, place, difference, program @ ..] = input else {
        return;
    };
    vm::tell_signed_zeros(signed_zeros % 2 == 1);
    let mut changed = program.to_vec();
    if let Some(byte) = changed.get_mut(*place as usize) {
        *byte ^= difference;
    }
    let mut giver = Environment::default();
    conversion::learn(giver.as_raw());
    let given = [program, &changed].map(|program| Builder::new(program).build(&mut giver));
    let mut reader = Environment::default();
    let expected = given.map(|term| reader.copy(term));
    // SAFETY: an environment and its terms live until the call has returned.
    unsafe { enter::<Storing, true>(giver.as_raw(), 2, given.as_ptr()) };
    drop(giver);
    // SAFETY: as above.
    unsafe { enter::<Reading, true>(reader.as_raw(), 2, expected.as_ptr()) };
});

/// A term as it is stored: as a key, and as a value.
type Stored = [Datum<Copied>; 2];

thread_local! {
    static STORED: RefCell<Vec<Stored>> = const { RefCell::new(Vec::new()) };
}

/// Stores its arguments.
struct Storing;

impl Function for Storing {
    const NAME: &'static CStr = c"storing";

    fn run(call: &Call) -> Answer {
        let stored = [stored(call, 0)?, stored(call, 1)?];
        STORED.set(Vec::from(stored));
        Ok(call.nil())
    }
}

/// Compares its arguments with what was stored of equal terms, which are gone.
struct Reading;

impl Function for Reading {
    const NAME: &'static CStr = c"reading";

    fn run(call: &Call) -> Answer {
        let terms = [call.argument(0)?, call.argument(1)?];
        let read = STORED.with_borrow(|stored| {
            let [key, other] = [&stored[0][0], &stored[1][0]];
            let equal = vm::is_identical(terms[0], terms[1]);
            assert_eq!(
                key == other,
                equal,
                "{} and {}",
                vm::show(terms[0]),
                vm::show(terms[1])
            );
            assert!(!equal || hash(key) == hash(other));
            let read = stored.iter().flatten().map(|datum| read(call, datum));
            read.collect::<Result<Vec<_>, _>>()
        })?;
        // What was read outlives what is stored.
        drop(STORED.take());
        for (term, read) in terms.iter().zip(read.chunks(2)) {
            for read in read {
                assert!(
                    vm::is_exactly(*term, *read),
                    "{} is read as {}",
                    vm::show(*term),
                    vm::show(*read)
                );
            }
        }
        Ok(call.nil())
    }
}

/// An argument as it is stored. A look-up of the same term finds the key.
fn stored(call: &Call, place: usize) -> Result<Stored, Fault> {
    let term = call.argument(place)?;
    let key = call.owned_key(term)?;
    let mut scratch = Scratch::new();
    let searched = call.key(term, &mut scratch)?;
    assert!(searched.same(key.borrow()));
    assert_eq!(hash(searched), hash(&key));
    Ok([key, call.datum(term)?])
}

fn hash(datum: impl Hash) -> u64 {
    static SEED: LazyLock<Seed> = LazyLock::new(Seed::default);
    SEED.hash_one(datum)
}

/// A stored term, whose encoding is read to the last byte.
fn read(call: &Call, datum: &Datum<Copied>) -> Answer {
    let term = call.make(datum)?;
    if let (View::Bytes(_, mut bytes), false) = (datum.view(), vm::is_binary(term)) {
        call.decode(&mut bytes);
        assert!(
            bytes.is_empty(),
            "{bytes:?} of {} were not read",
            vm::show(term)
        );
    }
    Ok(term)
}
