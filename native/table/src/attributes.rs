//! The attributes of one name: a persistent map from key to value.
//!
//! A published map never changes: a writer makes a new one that shares what stays the same. At most
//! 16 attributes are in one flat leaf, which is searched linearly. A larger map is a tree of 16-way
//! branches over such leaves, with four bits of the key's hash for each level, so that a writer
//! copies one path whatever the size.
//!
//! Integers are the exception: they are [counters](crate::value::Counter) in the leaf. A writer
//! that copies a leaf freezes its counters, so that no addition is lost between copy and
//! publication.

use std::hash::BuildHasher;

use papaya::Equivalent;
use smallvec::SmallVec;
use triomphe::ThinArc;

use crate::datum::{Borrowed, Datum, Foreign};
use crate::hashing::Seed;
use crate::value::Value;

/// Attributes of a leaf at most. With more it becomes a branch.
const LEAF: usize = 16;
/// Children of a branch, and bits of the hash that select one.
const FANOUT: usize = 16;
const BITS: u32 = 4;

/// A key and its value.
pub struct Attribute<F> {
    /// The key.
    pub key: Datum<F>,
    /// The value.
    pub value: Value<F>,
}

impl<F: Foreign> Attribute<F> {
    fn is_heavy(&self) -> bool {
        let heavy = matches!(&self.value, Value::Fixed(datum) if datum.is_heavy());
        heavy || self.key.is_heavy()
    }
}

enum Slot<F> {
    Attribute(Attribute<F>),
    Child(Attributes<F>),
    Empty,
}

struct Header {
    branch: bool,
    /// Whether a key or a value in this node or below is [heavy](Foreign::is_heavy).
    heavy: bool,
    /// Attributes in this node and below.
    count: u32,
}

/// A persistent map of attributes. It is never empty: without attributes there is no map.
pub struct Attributes<F>(ThinArc<Header, Slot<F>>);

/// Attributes to set. Of two with the same key, the later one counts.
pub type Changes<F> = SmallVec<[Attribute<F>; 4]>;

const _: () = assert!(size_of::<Slot<String>>() == 32);

impl<F> Clone for Attributes<F> {
    fn clone(&self) -> Self {
        Attributes(ThinArc::clone(&self.0))
    }
}

impl<F> Attributes<F> {
    /// Returns the number of attributes.
    #[inline]
    pub fn count(&self) -> usize {
        self.0.header.header.count as usize
    }

    /// Whether a key or a value is [heavy](Foreign::is_heavy).
    pub(crate) fn is_heavy(&self) -> bool {
        self.0.header.header.heavy
    }

    fn is_branch(&self) -> bool {
        self.0.header.header.branch
    }

    fn slots(&self) -> &[Slot<F>] {
        &self.0.slice
    }

    /// Reads a word of each slot, and returns something that depends on all of them.
    pub fn touch(&self) -> usize {
        let is_full = |slot: &Slot<F>| usize::from(!matches!(slot, Slot::Empty));
        self.slots().iter().map(is_full).sum()
    }

    /// Calls `visit` with each attribute.
    pub fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a Attribute<F>)) {
        for slot in self.slots() {
            match slot {
                Slot::Attribute(attribute) => visit(attribute),
                Slot::Child(child) => child.for_each(visit),
                Slot::Empty => (),
            }
        }
    }

    /// Returns the number of counters.
    pub fn counters(&self) -> usize {
        let mut count = 0;
        self.for_each(&mut |attribute| {
            count += usize::from(matches!(attribute.value, Value::Integer(_)));
        });
        count
    }

    /// Returns the bytes that the map takes with all that is in it.
    pub fn bytes(&self) -> usize
    where
        F: Foreign,
    {
        let slots = self.slots();
        let below = slots.iter().map(|slot| match slot {
            Slot::Attribute(Attribute { key, value }) => {
                key.size() + value.datum().map_or(0, Datum::size)
            }
            Slot::Child(child) => child.bytes(),
            Slot::Empty => 0,
        });
        size_of::<Header>() + 16 + size_of_val(slots) + below.sum::<usize>()
    }

    /// Returns shares of the children of a branch.
    fn children(&self) -> [Option<Self>; FANOUT] {
        std::array::from_fn(|index| self.child(index).cloned())
    }

    fn child(&self, index: usize) -> Option<&Self> {
        match &self.slots()[index] {
            Slot::Child(child) => Some(child),
            _ => None,
        }
    }

    /// Appends the attributes for a copy, without those whose key satisfies `leave_out`. Freezes
    /// their counters.
    fn carry_over(&self, leave_out: impl Fn(&Datum<F>) -> bool, into: &mut Vec<Attribute<F>>) {
        self.for_each(&mut |attribute| {
            if !leave_out(&attribute.key) {
                into.push(Attribute {
                    key: attribute.key.clone(),
                    value: attribute.value.carry_over(),
                });
            }
        });
    }

    /// Converts the map to a raw pointer.
    pub(crate) fn into_raw(self) -> *mut () {
        ThinArc::into_raw(self.0).cast_mut().cast()
    }

    /// Converts a raw pointer back to a map.
    ///
    /// # Safety
    /// `raw` came from [`into_raw`](Self::into_raw) of the same type, and the map is dropped at
    /// most once.
    pub(crate) unsafe fn from_raw(raw: *mut ()) -> Self {
        // SAFETY: the caller vouches for it.
        Attributes(unsafe { ThinArc::from_raw(raw.cast_const().cast()) })
    }
}

impl<F: Foreign> Attributes<F> {
    fn leaf(attributes: Vec<Attribute<F>>) -> Option<Self> {
        let header = Header {
            branch: false,
            heavy: attributes.iter().any(Attribute::is_heavy),
            count: attributes.len() as u32,
        };
        (!attributes.is_empty()).then(|| {
            let slots = attributes.into_iter().map(Slot::Attribute);
            Attributes(ThinArc::from_header_and_iter(header, slots))
        })
    }

    fn branch(children: [Option<Self>; FANOUT]) -> Option<Self> {
        let count: usize = children.iter().flatten().map(Attributes::count).sum();
        let header = Header {
            branch: true,
            heavy: children.iter().flatten().any(Attributes::is_heavy),
            count: count as u32,
        };
        (count > 0).then(|| {
            let slots = children
                .into_iter()
                .map(|child| child.map_or(Slot::Empty, Slot::Child));
            Attributes(ThinArc::from_header_and_iter(header, slots))
        })
    }

    /// Returns the value of a key.
    #[inline]
    pub fn get(&self, key: Borrowed<'_, F>, seed: &Seed) -> Option<&Value<F>> {
        self.attribute(key, seed).map(|attribute| &attribute.value)
    }

    /// Whether a key or its value is [heavy](Foreign::is_heavy); `false` if the key is missing.
    pub(crate) fn is_heavy_at(&self, key: Borrowed<'_, F>, seed: &Seed) -> bool {
        let attribute = self.attribute(key, seed);
        attribute.is_some_and(Attribute::is_heavy)
    }

    #[inline]
    fn attribute(&self, key: Borrowed<'_, F>, seed: &Seed) -> Option<&Attribute<F>> {
        let mut node = self;
        if node.is_branch() {
            let hash = seed.hash_one(key);
            let mut shift = 0;
            while node.is_branch() {
                node = node.child(child_index(hash, shift))?;
                shift += BITS;
            }
        }
        node.slots().iter().find_map(|slot| match slot {
            Slot::Attribute(attribute) if key.equivalent(&attribute.key) => Some(attribute),
            _ => None,
        })
    }

    /// Returns a map with `changes` made to `before`.
    pub(crate) fn with(before: Option<&Self>, changes: Changes<F>, seed: &Seed) -> Option<Self> {
        Self::with_below(before, changes, seed, 0)
    }

    fn with_below(
        before: Option<&Self>,
        changes: Changes<F>,
        seed: &Seed,
        shift: u32,
    ) -> Option<Self> {
        if let Some(branch) = before.filter(|node| node.is_branch()) {
            return Self::with_spread(branch.children(), changes.into_iter(), seed, shift);
        }
        if let (Some(leaf), 1) = (before, changes.len()) {
            let change = &changes[0];
            let index = leaf.index_of(change.key.borrow());
            if index.is_some() || leaf.count() < LEAF {
                return changes
                    .into_iter()
                    .next()
                    .map(|change| leaf.with_one(index, change));
            }
        }
        if changes.len() > LEAF && shift < u64::BITS {
            // Too many for a leaf, unless keys repeat; a branch is correct in either case.
            let mut attributes = Vec::new();
            if let Some(leaf) = before {
                let replaced = |key: &Datum<F>| changes.iter().any(|change| change.key == *key);
                leaf.carry_over(replaced, &mut attributes);
            }
            let all = attributes.into_iter().chain(changes);
            return Self::with_spread(Default::default(), all, seed, shift);
        }
        let mut attributes = Vec::with_capacity(changes.len() + before.map_or(0, Self::count));
        if let Some(leaf) = before {
            let replaced = |key: &Datum<F>| changes.iter().any(|change| change.key == *key);
            leaf.carry_over(replaced, &mut attributes);
        }
        for change in changes {
            match attributes.iter_mut().find(|old| old.key == change.key) {
                Some(old) => *old = change,
                None => attributes.push(change),
            }
        }
        if attributes.len() > LEAF && shift < u64::BITS {
            return Self::with_spread(Default::default(), attributes.into_iter(), seed, shift);
        }
        Self::leaf(attributes)
    }

    /// Returns the index of a key in a leaf.
    fn index_of(&self, key: Borrowed<'_, F>) -> Option<usize> {
        self.slots()
            .iter()
            .position(|slot| matches!(slot, Slot::Attribute(old) if key.equivalent(&old.key)))
    }

    /// Returns a copy of a leaf with `change` at this index, or at its end.
    fn with_one(&self, index: Option<usize>, change: Attribute<F>) -> Self {
        let slots = self.slots();
        let changed = index.unwrap_or(slots.len());
        let heavy = |(other, slot): (usize, &Slot<F>)| {
            other != changed && matches!(slot, Slot::Attribute(attribute) if attribute.is_heavy())
        };
        let count = slots.len().max(changed + 1);
        let header = Header {
            branch: false,
            heavy: change.is_heavy() || self.is_heavy() && slots.iter().enumerate().any(heavy),
            count: count as u32,
        };
        let mut change = Some(change);
        let slots = (0..count).map(|index| match slots.get(index) {
            Some(Slot::Attribute(kept)) if index != changed => Slot::Attribute(Attribute {
                key: kept.key.clone(),
                value: kept.value.carry_over(),
            }),
            _ => change.take().map_or(Slot::Empty, Slot::Attribute),
        });
        Attributes(ThinArc::from_header_and_iter(header, slots))
    }

    /// Returns a branch over `children`, with each change made to the child that it belongs to.
    fn with_spread(
        mut children: [Option<Self>; FANOUT],
        changes: impl Iterator<Item = Attribute<F>>,
        seed: &Seed,
        shift: u32,
    ) -> Option<Self> {
        let mut spread: [Changes<F>; FANOUT] = Default::default();
        for change in changes {
            spread[child_index(seed.hash_one(&change.key), shift)].push(change);
        }
        for (child, changes) in children.iter_mut().zip(spread) {
            if !changes.is_empty() {
                *child = Self::with_below(child.as_ref(), changes, seed, shift + BITS);
            }
        }
        Self::branch(children)
    }

    /// Returns a map without `key`, which `self` has.
    pub(crate) fn without(&self, key: Borrowed<'_, F>, seed: &Seed) -> Option<Self> {
        self.without_below(key, seed.hash_one(key), 0)
    }

    fn without_below(&self, key: Borrowed<'_, F>, hash: u64, shift: u32) -> Option<Self> {
        if !self.is_branch() || self.count() <= LEAF / 2 {
            // A branch that has become small becomes a leaf.
            let mut rest = Vec::with_capacity(self.count());
            self.carry_over(|candidate| key.equivalent(candidate), &mut rest);
            return Self::leaf(rest);
        }
        let mut children = self.children();
        let child = &mut children[child_index(hash, shift)];
        *child = child
            .as_ref()
            .and_then(|child| child.without_below(key, hash, shift + BITS));
        Self::branch(children)
    }

    /// Reads all counters at one moment, in the order of [`for_each`](Self::for_each). The caller
    /// holds the row's lock.
    pub(crate) fn freeze_and_thaw(&self) -> Integers {
        let mut integers = Integers::new();
        self.for_each(&mut |attribute| {
            if let Value::Integer(counter) = &attribute.value {
                integers.push(counter.freeze());
            }
        });
        self.for_each(&mut |attribute| attribute.value.thaw());
        integers
    }
}

/// The values of counters at one moment.
pub type Integers = SmallVec<[i64; 16]>;

fn child_index(hash: u64, shift: u32) -> usize {
    (hash >> shift) as usize % FANOUT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::{Kind, View};
    use crate::testing::Text;
    use crate::value::Counter;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const KIND: Kind = Kind::new(0);

    fn key(number: u16) -> Datum<Text> {
        Datum::word(KIND, u64::from(number))
    }

    fn change(number: u16, value: i64) -> Attribute<Text> {
        Attribute {
            key: key(number),
            // Odd values are counters, even ones are not.
            value: match value % 2 {
                0 => Value::Fixed(Datum::word(KIND, value as u64)),
                _ => Value::Integer(Counter::new(value).unwrap()),
            },
        }
    }

    fn contents(attributes: Option<&Attributes<Text>>) -> HashMap<u16, i64> {
        let mut contents = HashMap::new();
        if let Some(attributes) = attributes {
            attributes.for_each(&mut |attribute| {
                let View::Word(_, key) = attribute.key.view() else {
                    panic!("not a word")
                };
                let value = match &attribute.value {
                    Value::Integer(counter) => counter.get(),
                    Value::Fixed(datum) => match datum.view() {
                        View::Word(_, word) => word as i64,
                        _ => panic!("not a word"),
                    },
                };
                assert!(contents.insert(key as u16, value).is_none(), "{key} twice");
            });
            assert_eq!(attributes.count(), contents.len());
        }
        contents
    }

    #[derive(Clone, Debug)]
    enum Step {
        Set(Vec<(u16, i64)>),
        Delete(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => prop::collection::vec((0u16..400, 0i64..1000), 1..40).prop_map(Step::Set),
            1 => (0u16..400).prop_map(Step::Delete),
        ]
    }

    proptest! {
        #[test]
        fn any_history_agrees_with_a_plain_map(steps in prop::collection::vec(step(), 1..60)) {
            let seed = Seed::default();
            let mut model = HashMap::new();
            let mut attributes: Option<Attributes<Text>> = None;
            for step in steps {
                let before = attributes.clone();
                let contents_before = contents(before.as_ref());
                match step {
                    Step::Set(pairs) => {
                        let changes = pairs.iter().map(|(key, value)| change(*key, *value));
                        let changes = changes.collect();
                        attributes = Attributes::with(attributes.as_ref(), changes, &seed);
                        model.extend(pairs);
                    }
                    Step::Delete(number) => {
                        let key = key(number);
                        if let Some(map) = attributes.take() {
                            attributes = match map.get(key.borrow(), &seed) {
                                Some(_) => map.without(key.borrow(), &seed),
                                None => Some(map),
                            };
                        }
                        model.remove(&number);
                    }
                }
                prop_assert_eq!(contents(attributes.as_ref()), model.clone());
                // The map before the step has not changed.
                prop_assert_eq!(contents(before.as_ref()), contents_before);
                for number in 0..400 {
                    let key = key(number);
                    let found = attributes.as_ref().and_then(|map| map.get(key.borrow(), &seed));
                    prop_assert_eq!(found.is_some(), model.contains_key(&number));
                }
            }
        }
    }

    #[test]
    fn keys_that_collide_in_every_bit_share_a_leaf() {
        let seed = Seed::default();
        let changes = (0..100)
            .map(|number| Attribute {
                key: Datum::foreign(Text(vec![number])),
                value: Value::Fixed(Datum::word(KIND, u64::from(number))),
            })
            .collect();
        let map = Attributes::with(None, changes, &seed).unwrap();
        assert_eq!(map.count(), 100);
        for number in 0..100 {
            let key = Datum::foreign(Text(vec![number]));
            assert!(map.get(key.borrow(), &seed).is_some());
        }
    }
}
