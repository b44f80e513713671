//! The registrations of one process, by the names that it is registered under.
//!
//! Most processes have one registration or a few. These are in one piece of memory, the first one
//! in the process itself, and are searched in order. More are in a map.

use std::mem;

use indexmap::IndexMap;
use smallvec::SmallVec;

use crate::datum::{Datum, Foreign};
use crate::hashing::{moved_by_add, Seed};

/// The most registrations that are searched in order.
const FEW: usize = 8;

/// A registration of a process under a name.
pub(crate) enum Registration {
    /// A caller has begun it and not ended it.
    Begun { caller: u64 },
    /// The process is registered, so many times.
    Made { times: u64, announced: bool },
}

impl Registration {
    pub fn made(announced: bool) -> Self {
        Registration::Made {
            times: 1,
            announced,
        }
    }

    pub fn is_made(&self) -> bool {
        matches!(self, Registration::Made { .. })
    }

    pub fn is_begun_by(&self, caller: u64) -> bool {
        matches!(self, Registration::Begun { caller: by } if *by == caller)
    }
}

/// The registrations of a process. Removing one moves the last one to its place.
pub(crate) enum Registrations<F: Foreign> {
    Few(SmallVec<[(Datum<F>, Registration); 1]>),
    Many(Box<IndexMap<Datum<F>, Registration, Seed>>),
}

impl<F: Foreign> Default for Registrations<F> {
    fn default() -> Self {
        Registrations::Few(SmallVec::new())
    }
}

impl<F: Foreign> Registrations<F> {
    /// Returns their number.
    pub fn len(&self) -> usize {
        match self {
            Registrations::Few(few) => few.len(),
            Registrations::Many(many) => many.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of entries that are moved when one is added.
    pub fn moved_by_add(&self) -> usize {
        match self {
            Registrations::Few(_) => 0,
            Registrations::Many(many) => moved_by_add(many),
        }
    }

    /// Returns the registration under a name.
    pub fn get_mut(&mut self, name: &Datum<F>) -> Option<&mut Registration> {
        match self {
            Registrations::Few(few) => {
                let mut few = few.iter_mut();
                let found = few.find(|(other, _)| other == name);
                found.map(|(_, registration)| registration)
            }
            Registrations::Many(many) => many.get_mut(name),
        }
    }

    /// Adds a registration under a name that has none.
    pub fn insert(&mut self, name: Datum<F>, registration: Registration) {
        match self {
            Registrations::Few(few) if few.len() < FEW => few.push((name, registration)),
            Registrations::Few(few) => {
                let mut many = IndexMap::with_capacity_and_hasher(2 * FEW, Seed::default());
                many.extend(mem::take(few));
                many.insert(name, registration);
                *self = Registrations::Many(Box::new(many));
            }
            Registrations::Many(many) => {
                many.insert(name, registration);
            }
        }
    }

    /// Removes the registration under a name, and returns the name.
    pub fn remove(&mut self, name: &Datum<F>) -> Option<Datum<F>> {
        match self {
            Registrations::Few(few) => {
                let position = few.iter().position(|(other, _)| other == name)?;
                Some(few.swap_remove(position).0)
            }
            Registrations::Many(many) => many.swap_remove_entry(name).map(|(name, _)| name),
        }
    }

    /// Removes the registrations that satisfy `is_taken`, and returns their names.
    pub fn extract(
        &mut self,
        is_taken: impl Fn(&Datum<F>, &Registration) -> bool,
    ) -> Vec<Datum<F>> {
        match self {
            Registrations::Few(few) => {
                let (taken, rest): (Vec<_>, Vec<_>) = mem::take(few)
                    .into_iter()
                    .partition(|(name, registration)| is_taken(name, registration));
                *few = rest.into();
                taken.into_iter().map(|(name, _)| name).collect()
            }
            Registrations::Many(many) => many
                .extract_if(.., |name, registration| is_taken(name, registration))
                .map(|(name, _)| name)
                .collect(),
        }
    }

    /// Returns an iterator over the names and their registrations, the last one first.
    pub fn iter_reversed(&self) -> impl Iterator<Item = (&Datum<F>, &Registration)> {
        let (few, many) = match self {
            Registrations::Few(few) => (Some(few), None),
            Registrations::Many(many) => (None, Some(many)),
        };
        let few = few.into_iter().flat_map(|few| few.iter().rev());
        let many = many.into_iter().flat_map(|many| many.iter().rev());
        few.map(|(name, registration)| (name, registration))
            .chain(many)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Kind;
    use crate::testing::Text;
    use proptest::prelude::*;

    fn name(number: u64) -> Datum<Text> {
        Datum::word(Kind::new(1), number)
    }

    fn begun(caller: u64) -> Registration {
        Registration::Begun { caller }
    }

    fn caller(registration: &Registration) -> u64 {
        match registration {
            Registration::Begun { caller } => *caller,
            Registration::Made { .. } => 0,
        }
    }

    /// Returns the names and callers, in order.
    fn all(registrations: &Registrations<Text>) -> Vec<(Datum<Text>, u64)> {
        let mut all: Vec<_> = registrations
            .iter_reversed()
            .map(|(name, registration)| (name.clone(), caller(registration)))
            .collect();
        all.reverse();
        all
    }

    proptest! {
        /// Few and many registrations behave like a plain vector.
        #[test]
        fn registrations_agree_with_a_vector(
            steps in prop::collection::vec((0..4u8, 0..30u64), 0..200)
        ) {
            let mut registrations = Registrations::<Text>::default();
            let mut plain: Vec<(Datum<Text>, u64)> = Vec::new();
            for (step, number) in steps {
                let position = plain.iter().position(|(other, _)| *other == name(number));
                match (step, position) {
                    (0 | 1, None) => {
                        registrations.insert(name(number), begun(number % 3 + 1));
                        plain.push((name(number), number % 3 + 1));
                    }
                    (2, _) => {
                        let removed = position.map(|position| plain.swap_remove(position).0);
                        prop_assert_eq!(registrations.remove(&name(number)), removed);
                    }
                    (3, _) if number < 3 => {
                        let taken = registrations.extract(|_, one| one.is_begun_by(number + 1));
                        let (expected, rest) =
                            plain.into_iter().partition(|(_, caller)| *caller == number + 1);
                        plain = rest;
                        let expected: Vec<(Datum<Text>, u64)> = expected;
                        let expected: Vec<_> = expected.into_iter().map(|(name, _)| name).collect();
                        prop_assert_eq!(taken, expected);
                    }
                    _ => (),
                }
                let found = registrations.get_mut(&name(number)).map(|one| caller(one));
                let expected = plain.iter().find(|(other, _)| *other == name(number));
                prop_assert_eq!(found, expected.map(|(_, caller)| *caller));
                prop_assert_eq!(registrations.len(), plain.len());
                prop_assert_eq!(registrations.is_empty(), plain.is_empty());
                prop_assert_eq!(all(&registrations), plain.clone());
            }
        }
    }

    #[test]
    fn a_process_with_one_registration_is_small() {
        assert!(size_of::<Registrations<Text>>() <= 48);
    }
}
