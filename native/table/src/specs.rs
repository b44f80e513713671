//! Specs that many children have in common, and so share.
//!
//! The children of a zone often differ in their names alone. So a new child shares the spec of an
//! earlier one, if that is equal. It looks at one place, which its name selects: with many places,
//! threads that start children at the same time rarely share a reference count.

use parking_lot::Mutex;

use crate::datum::{Datum, Foreign, View};
use crate::shards::Shards;

/// Places.
const PLACES: usize = 128;

/// Bytes of the longest spec that is shared. It is compared while its place is locked.
const MAX_BYTES: usize = 128;

/// At each place the spec that a child had last.
pub(crate) struct Specs<F>(Shards<Mutex<Option<Datum<F>>>>);

impl<F> Default for Specs<F> {
    fn default() -> Self {
        Specs(Shards::new(PLACES))
    }
}

impl<F: Foreign> Specs<F> {
    /// Returns an equal spec, that of an earlier child if there is one. `hash` is that of the name.
    pub fn share(&self, spec: &Datum<F>, hash: u64) -> Datum<F> {
        let is_short = matches!(spec.view(), View::Bytes(_, bytes) if bytes.len() <= MAX_BYTES);
        if !is_short {
            return spec.clone();
        }
        let place = (hash >> 32) as usize % PLACES;
        let mut last = self.0.get_or_make(place, || Mutex::new(None)).lock();
        if let Some(last) = last.as_ref().filter(|last| *last == spec) {
            return last.clone();
        }
        let before = last.replace(spec.clone());
        drop(last);
        drop(before);
        spec.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Kind;
    use crate::testing::Text;

    const KIND: Kind = Kind::new(4);

    fn address(spec: &Datum<Text>) -> *const u8 {
        match spec.view() {
            View::Bytes(_, bytes) => bytes.as_ptr(),
            _ => panic!("not bytes"),
        }
    }

    #[test]
    fn equal_specs_are_shared_and_others_are_not() {
        let specs = Specs::default();
        let share = |length: usize, byte: u8, hash: u64| {
            let spec = Datum::bytes(KIND, &vec![byte; length]);
            let shared = specs.share(&spec, hash << 32);
            assert!(shared == spec);
            shared
        };
        let first = share(100, 1, 7);
        assert_eq!(address(&share(100, 1, 7)), address(&first));
        // At another place, and after another spec.
        assert_ne!(address(&share(100, 1, 8)), address(&first));
        let other = share(100, 2, 7);
        assert_ne!(address(&share(100, 1, 7)), address(&first));
        assert_ne!(address(&share(100, 2, 7)), address(&other));
        let long = share(MAX_BYTES + 1, 1, 7);
        assert_ne!(address(&share(MAX_BYTES + 1, 1, 7)), address(&long));
    }
}
