//! Fuzzes the conversion of terms in `proctab_terms`, over a [`vm`] of its own.
//!
//! The input is a program that builds a term, and the change of one byte of it for a second term.
//! For any two terms:
//!
//! - each is read back as it was, bit for bit, as a value and as a key, and decoding reads its
//!   encoding to the last byte;
//! - their keys are equal if and only if the VM takes the terms for equal, and then so are the
//!   hashes;
//! - a lookup of a term finds its key, whose hash is known without the VM.

#![no_main]

mod vm;

use std::cell::RefCell;
use std::ffi::CStr;
use std::hash::{BuildHasher, Hash};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use rustler::Env;

use proctab_table::datum::{Datum, View};
use proctab_table::Seed;
use proctab_terms::call::{enter, Function};
use proctab_terms::{Answer, Call, Copied, Fault, Scratch, Term};
use vm::{Builder, Environment};

fuzz_target!(
    // SAFETY: no other thread runs yet, and `vm` exports all functions of this version of the VM.
    init: unsafe { rustler::codegen_runtime::internal_write_symbols() },
    |input: &[u8]| {
        let [signed_zeros, place, difference, program @ ..] = input else {
            return;
        };
        vm::tell_signed_zeros(signed_zeros % 2 == 1);
        let mut changed = program.to_vec();
        if let Some(byte) = changed.get_mut(*place as usize) {
            *byte ^= difference;
        }
        let mut giver = Environment::default();
        // SAFETY: the environment is alive until the call below has returned.
        proctab_terms::reading::learn_signed_zeros(unsafe { Env::new(&(), giver.as_raw()) });
        let given = [program, &changed].map(|program| Builder::new(program).build(&mut giver));
        let mut reader = Environment::default();
        let expected = given.map(|term| reader.copy(term));
        // SAFETY: the environment and its terms live until the call has returned.
        unsafe { enter::<Storing, true>(giver.as_raw(), 2, given.as_ptr()) };
        drop(giver);
        // SAFETY: as above.
        unsafe { enter::<Reading, true>(reader.as_raw(), 2, expected.as_ptr()) };
    }
);

/// A stored term: as a key, and as a value.
type Stored = [Datum<Copied>; 2];

thread_local! {
    static STORED: RefCell<Vec<Stored>> = const { RefCell::new(Vec::new()) };
}

/// Stores its arguments.
struct Storing;

impl Function for Storing {
    const NAME: &'static CStr = c"storing";

    fn run(call: Call<'_>) -> Answer<'_> {
        let stored = [stored(call, 0)?, stored(call, 1)?];
        STORED.set(Vec::from(stored));
        Ok(call.nil())
    }
}

/// Compares its arguments with terms that were stored before; the originals were freed.
struct Reading;

impl Function for Reading {
    const NAME: &'static CStr = c"reading";

    fn run(call: Call<'_>) -> Answer<'_> {
        let terms = [call.argument(0)?, call.argument(1)?];
        let read = STORED.with_borrow(|stored| {
            let [key, other] = [&stored[0][0], &stored[1][0]];
            let equal = vm::is_identical(terms[0].raw(), terms[1].raw());
            assert_eq!(
                key == other,
                equal,
                "{} and {}",
                show(terms[0]),
                show(terms[1])
            );
            assert!(!equal || hash(key) == hash(other));
            let read = stored.iter().flatten().map(|datum| read(call, datum));
            read.collect::<Result<Vec<_>, _>>()
        })?;
        // The terms that were read outlive the stored ones.
        drop(STORED.take());
        for (term, read) in terms.iter().zip(read.chunks(2)) {
            for read in read {
                assert!(
                    vm::is_exactly(term.raw(), read.raw()),
                    "{} is read as {}",
                    show(*term),
                    show(*read)
                );
            }
        }
        Ok(call.nil())
    }
}

/// Stores an argument. A lookup of the same term finds the key.
fn stored(call: Call<'_>, position: usize) -> Result<Stored, Fault> {
    let term = call.argument(position)?;
    let key = call.to_key(term)?;
    let mut scratch = Scratch::new();
    let lookup = call.lookup_key(term, &mut scratch)?;
    assert!(lookup.same(key.borrow()));
    let expected = hash(lookup);
    let hashed = vm::hashed();
    assert_eq!(hash(&key), expected);
    assert_eq!(vm::hashed(), hashed, "a stored key was hashed again");
    Ok([key, call.to_datum(term)?])
}

fn hash(datum: impl Hash) -> u64 {
    static SEED: LazyLock<Seed> = LazyLock::new(Seed::default);
    SEED.hash_one(datum)
}

/// Makes the term of a stored one, and reads its encoding to the last byte.
fn read<'c>(call: Call<'c>, datum: &Datum<Copied>) -> Answer<'c> {
    let term = call.make(datum)?;
    if let (View::Bytes(_, mut bytes), false) = (datum.view(), vm::is_binary(term.raw())) {
        call.decode(&mut bytes);
        assert!(
            bytes.is_empty(),
            "{bytes:?} of {} were not read",
            show(term)
        );
    }
    Ok(term)
}

fn show(term: Term<'_>) -> String {
    vm::show(term.raw())
}
