//! The attributes of one name: a persistent map from key to value.
//!
//! At most 16 attributes are in one flat leaf, which is searched linearly. A larger map is a tree
//! of 16-way branches over such leaves, with four bits of the key's hash for each level.
//!
//! The keys of a published map never change: a writer that adds or removes one makes a new map,
//! which shares what stays the same, so that it copies one path whatever the size. The values are
//! [atomic words](crate::value), which are replaced and added to in place. A writer that copies a
//! leaf freezes its counters, so that no addition is lost between copy and publication.
//!
//! # Small and large maps
//!
//! A map of at most 128 attributes is *small*. A thread that reads or copies all of it holds the
//! row's lock meanwhile, which does not take long, and counters are added to without the lock.
//!
//! To read or copy a larger map, a thread *shares* it under the lock, and then works without the
//! lock. Sharing increments the *generation* of the row. A node has the generation in which it was
//! made, and a value is replaced or added to in place only in a leaf of the present generation, and
//! only by the holder of the lock. So a map that was shared never changes, and a writer copies a
//! path of it.
//!
//! A small map that becomes large, and a large one that becomes small, are copied whole, so that no
//! leaf of a large map was ever part of a small one.

use std::hash::BuildHasher;
use std::ptr;

use papaya::Equivalent;
use smallvec::SmallVec;
use triomphe::ThinArc;

use crate::datum::{Borrowed, Datum, Foreign, View};
use crate::hashing::Seed;
use crate::reclaim::Guard;
use crate::value::{Seen, Value};

/// Attributes of a leaf at most. With more it becomes a branch.
const LEAF: usize = 16;
/// Children of a branch, and bits of the hash that select one.
const FANOUT: usize = 16;
const BITS: u32 = 4;

/// Attributes of a small map at most.
pub(crate) const SMALL: usize = 128;

/// Attributes at most that are set while the row is locked.
pub(crate) const FEW: usize = 64;

/// What is needed to make nodes of a map.
#[derive(Clone, Copy)]
pub(crate) struct Making<'a> {
    pub seed: &'a Seed,
    /// The generation of the row.
    pub generation: u32,
}

/// More nodes than allowed would have to be merged.
#[derive(Debug)]
pub(crate) struct TooMuch;

/// A key and its value.
pub struct Attribute<F> {
    /// The key.
    pub key: Datum<F>,
    /// The value.
    pub value: Value<F>,
}

impl<F: Foreign> Attribute<F> {
    fn is_heavy(&self) -> bool {
        is_heavy(self.value.see()) || self.key.is_heavy()
    }
}

/// Whether a value is [heavy](Foreign::is_heavy).
pub(crate) fn is_heavy<F: Foreign>(value: Seen<'_, F>) -> bool {
    matches!(value, Seen::Fixed(View::Foreign(foreign)) if foreign.is_heavy())
}

enum Slot<F> {
    Attribute(Attribute<F>),
    Child(Attributes<F>),
    Empty,
}

struct Header {
    /// The generation in the upper bits, and two flags.
    marks: u32,
    /// Attributes in this node and below.
    count: u32,
}

/// The flag of a branch.
const BRANCH: u32 = 0b01;
/// The flag of a node that has, or had, something [heavy](Foreign::is_heavy) in it or below.
const HEAVY: u32 = 0b10;
/// Bits of the flags. The others are enough for a generation not to come again while somebody reads
/// a map of it.
const FLAG_BITS: u32 = 2;

impl Header {
    fn new(branch: bool, heavy: bool, count: usize, making: Making<'_>) -> Self {
        let flags = if branch { BRANCH } else { 0 } | if heavy { HEAVY } else { 0 };
        Header {
            marks: (making.generation << FLAG_BITS) | flags,
            count: count as u32,
        }
    }
}

/// A persistent map of attributes. It is never empty: without attributes there is no map.
pub struct Attributes<F>(ThinArc<Header, Slot<F>>);

/// Attributes to set. Of two with the same key, the later one counts.
pub type Changes<F> = SmallVec<[Attribute<F>; 4]>;

const _: () = assert!(size_of::<Slot<String>>() == 24);

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

    /// Whether a key or a value is [heavy](Foreign::is_heavy), or was.
    pub(crate) fn is_heavy(&self) -> bool {
        self.0.header.header.marks & HEAVY != 0
    }

    #[inline]
    fn is_branch(&self) -> bool {
        self.0.header.header.marks & BRANCH != 0
    }

    /// Whether the map is small: see the [module](self).
    #[inline]
    pub(crate) fn is_small(&self) -> bool {
        self.count() <= SMALL
    }

    /// Whether the node was made in the present generation.
    fn is_of(&self, making: Making<'_>) -> bool {
        self.0.header.header.marks >> FLAG_BITS == (making.generation << FLAG_BITS) >> FLAG_BITS
    }

    /// Whether two maps are the same node.
    fn is(&self, other: &Self) -> bool {
        ptr::eq(self.slots().as_ptr(), other.slots().as_ptr())
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
    pub(crate) fn for_each<'a>(&'a self, visit: &mut impl FnMut(&'a Attribute<F>)) {
        for slot in self.slots() {
            match slot {
                Slot::Attribute(attribute) => visit(attribute),
                Slot::Child(child) => child.for_each(visit),
                Slot::Empty => (),
            }
        }
    }

    /// Returns the bytes that the map takes with all that is in it.
    pub(crate) fn bytes(&self, guard: &Guard) -> usize
    where
        F: Foreign,
    {
        let slots = self.slots();
        let below = slots.iter().map(|slot| match slot {
            Slot::Attribute(Attribute { key, value }) => {
                key.size()
                    + match value.see_under(guard) {
                        Seen::Fixed(view) => view.size(),
                        Seen::Integer(_) => 0,
                    }
            }
            Slot::Child(child) => child.bytes(guard),
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
    fn leaf(attributes: Vec<Attribute<F>>, making: Making<'_>) -> Option<Self> {
        let heavy = attributes.iter().any(Attribute::is_heavy);
        let header = Header::new(false, heavy, attributes.len(), making);
        (!attributes.is_empty()).then(|| {
            let slots = attributes.into_iter().map(Slot::Attribute);
            Attributes(ThinArc::from_header_and_iter(header, slots))
        })
    }

    fn branch(children: [Option<Self>; FANOUT], making: Making<'_>) -> Option<Self> {
        let count: usize = children.iter().flatten().map(Attributes::count).sum();
        let heavy = children.iter().flatten().any(Attributes::is_heavy);
        let header = Header::new(true, heavy, count, making);
        (count > 0).then(|| {
            let slots = children
                .into_iter()
                .map(|child| child.map_or(Slot::Empty, Slot::Child));
            Attributes(ThinArc::from_header_and_iter(header, slots))
        })
    }

    /// Returns the value of a key.
    #[inline]
    pub(crate) fn get(&self, key: Borrowed<'_, F>, seed: &Seed) -> Option<&Value<F>> {
        self.attribute(key, seed).map(|attribute| &attribute.value)
    }

    /// Whether a key or its value is [heavy](Foreign::is_heavy); `false` if the key is missing.
    pub(crate) fn is_heavy_at(&self, key: Borrowed<'_, F>, seed: &Seed, guard: &Guard) -> bool {
        let attribute = self.attribute(key, seed).filter(|_| self.is_heavy());
        attribute.is_some_and(|Attribute { key, value }| {
            key.is_heavy() || is_heavy(value.see_under(guard))
        })
    }

    /// Returns the value of a key, if `new` may replace it in place.
    ///
    /// That is not so if the leaf is shared, nor if `new` alone would make the map
    /// [heavy](Self::is_heavy), which is said in all nodes above it.
    #[inline]
    pub(crate) fn replaceable(
        &self,
        key: Borrowed<'_, F>,
        new: &Value<F>,
        making: Making<'_>,
    ) -> Option<&Value<F>> {
        let (leaf, attribute) = self.leaf_and_attribute(key, making.seed)?;
        let is_own = self.is_small() || leaf.is_of(making);
        (is_own && (leaf.is_heavy() || !is_heavy(new.see()))).then_some(&attribute.value)
    }

    /// Returns the attribute of a key.
    #[inline]
    pub(crate) fn attribute(&self, key: Borrowed<'_, F>, seed: &Seed) -> Option<&Attribute<F>> {
        let (_, attribute) = self.leaf_and_attribute(key, seed)?;
        Some(attribute)
    }

    #[inline]
    fn leaf_and_attribute(
        &self,
        key: Borrowed<'_, F>,
        seed: &Seed,
    ) -> Option<(&Self, &Attribute<F>)> {
        self.search(key, seed, 0)
    }

    /// Returns the attribute of a key, and its leaf, below a node at this depth.
    #[inline]
    fn search(
        &self,
        key: Borrowed<'_, F>,
        seed: &Seed,
        mut shift: u32,
    ) -> Option<(&Self, &Attribute<F>)> {
        let mut node = self;
        if node.is_branch() {
            let hash = seed.hash_one(key);
            while node.is_branch() {
                node = node.child(child_index(hash, shift))?;
                shift += BITS;
            }
        }
        node.slots().iter().find_map(|slot| match slot {
            Slot::Attribute(attribute) if key.equivalent(&attribute.key) => Some((node, attribute)),
            _ => None,
        })
    }

    /// Returns a map with `changes` made to `before`. The caller holds the row's lock.
    pub(crate) fn with(
        before: Option<&Self>,
        changes: Changes<F>,
        making: Making<'_>,
    ) -> Option<Self> {
        match before.filter(|before| before.is_small()) {
            Some(small) if small.count() + changes.len() > SMALL => {
                let changes = Self::with_below(None, changes, making, 0);
                changes.and_then(|changes| changes.over(small, making))
            }
            _ => Self::with_below(before, changes, making, 0),
        }
    }

    /// Returns a map of these changes alone.
    pub(crate) fn of(changes: Changes<F>, making: Making<'_>) -> Option<Self> {
        Self::with_below(None, changes, making, 0)
    }

    /// Returns a map with all attributes of `self`, and those of a small map whose keys `self` does
    /// not have. It shares nothing with the small map. The caller holds the row's lock.
    pub(crate) fn over(&self, small: &Self, making: Making<'_>) -> Option<Self> {
        let mut kept = Vec::with_capacity(small.count());
        small.carry_over(|key| self.has(key, making), &mut kept);
        Self::with_below(Some(self), kept.into_iter().collect(), making, 0)
    }

    fn has(&self, key: &Datum<F>, making: Making<'_>) -> bool {
        self.attribute(key.borrow(), making.seed).is_some()
    }

    /// Returns the attributes of `before` with those of `changes`, which count where both have a
    /// key. Both are shared, or nobody else has them. Merges at most `allowed` leaves.
    pub(crate) fn union(
        before: Option<&Self>,
        changes: Option<&Self>,
        making: Making<'_>,
        mut allowed: usize,
    ) -> Result<Option<Self>, TooMuch> {
        Self::union_below(before, changes, making, 0, &mut allowed)
    }

    fn union_below(
        before: Option<&Self>,
        changes: Option<&Self>,
        making: Making<'_>,
        shift: u32,
        allowed: &mut usize,
    ) -> Result<Option<Self>, TooMuch> {
        let (before, changes) = match (before, changes) {
            (Some(before), Some(changes)) => (before, changes),
            (one, other) => return Ok(one.or(other).cloned()),
        };
        if before.is_branch() && changes.is_branch() {
            return Self::branch_of(making, |index| {
                let (before, changes) = (before.child(index), changes.child(index));
                Self::union_below(before, changes, making, shift + BITS, allowed)
            });
        }
        *allowed = allowed.checked_sub(1).ok_or(TooMuch)?;
        let mut added = Vec::new();
        if changes.is_branch() {
            before.carry_over(|key| changes.has_below(key, making, shift), &mut added);
            let added = added.into_iter().collect();
            return Ok(Self::with_below(Some(changes), added, making, shift));
        }
        changes.carry_over(|_| false, &mut added);
        let added = added.into_iter().collect();
        Ok(Self::with_below(Some(before), added, making, shift))
    }

    /// Returns the union of `current` and `changes`, given that `after` is that of `before` and
    /// `changes`. Looks only at what differs between `before` and `current`, and merges at most
    /// `allowed` leaves of it.
    pub(crate) fn rebase(
        [before, current, after, changes]: [Option<&Self>; 4],
        making: Making<'_>,
        mut allowed: usize,
    ) -> Result<Option<Self>, TooMuch> {
        Self::rebase_below([before, current, after, changes], making, 0, &mut allowed)
    }

    fn rebase_below(
        [before, current, after, changes]: [Option<&Self>; 4],
        making: Making<'_>,
        shift: u32,
        allowed: &mut usize,
    ) -> Result<Option<Self>, TooMuch> {
        match (before, current, changes) {
            (_, _, None) => return Ok(current.cloned()),
            (None, None, _) => return Ok(after.cloned()),
            (Some(before), Some(current), _) if before.is(current) => return Ok(after.cloned()),
            _ => (),
        }
        let nodes = [before, current, after, changes];
        if !nodes.iter().all(|node| node.is_some_and(Self::is_branch)) {
            return Self::union_below(current, changes, making, shift, allowed);
        }
        Self::branch_of(making, |index| {
            let children = nodes.map(|node| node?.child(index));
            Self::rebase_below(children, making, shift + BITS, allowed)
        })
    }

    /// Returns a branch of the children that `child` makes.
    fn branch_of(
        making: Making<'_>,
        mut child: impl FnMut(usize) -> Result<Option<Self>, TooMuch>,
    ) -> Result<Option<Self>, TooMuch> {
        let mut children: [Option<Self>; FANOUT] = Default::default();
        for (index, place) in children.iter_mut().enumerate() {
            *place = child(index)?;
        }
        Ok(Self::branch(children, making))
    }

    /// Whether a node at this depth has a key.
    fn has_below(&self, key: &Datum<F>, making: Making<'_>, shift: u32) -> bool {
        let (_, attribute) = self.search(key.borrow(), making.seed, shift).unzip();
        attribute.is_some()
    }

    fn with_below(
        before: Option<&Self>,
        changes: Changes<F>,
        making: Making<'_>,
        shift: u32,
    ) -> Option<Self> {
        if let Some(branch) = before.filter(|node| node.is_branch()) {
            return Self::with_spread(branch.children(), changes.into_iter(), making, shift);
        }
        if let (Some(leaf), 1) = (before, changes.len()) {
            let change = &changes[0];
            let index = leaf.index_of(change.key.borrow());
            if index.is_some() || leaf.count() < LEAF {
                return changes
                    .into_iter()
                    .next()
                    .map(|change| leaf.with_one(index, change, making));
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
            return Self::with_spread(Default::default(), all, making, shift);
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
            return Self::with_spread(Default::default(), attributes.into_iter(), making, shift);
        }
        Self::leaf(attributes, making)
    }

    /// Returns the index of a key in a leaf.
    fn index_of(&self, key: Borrowed<'_, F>) -> Option<usize> {
        self.slots()
            .iter()
            .position(|slot| matches!(slot, Slot::Attribute(old) if key.equivalent(&old.key)))
    }

    /// Returns a copy of a leaf with `change` at this index, or at its end.
    fn with_one(&self, index: Option<usize>, change: Attribute<F>, making: Making<'_>) -> Self {
        let slots = self.slots();
        let changed = index.unwrap_or(slots.len());
        let count = slots.len().max(changed + 1);
        let heavy = change.is_heavy() || self.is_heavy();
        let header = Header::new(false, heavy, count, making);
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
        making: Making<'_>,
        shift: u32,
    ) -> Option<Self> {
        let mut spread: [Changes<F>; FANOUT] = Default::default();
        for change in changes {
            spread[child_index(making.seed.hash_one(&change.key), shift)].push(change);
        }
        for (child, changes) in children.iter_mut().zip(spread) {
            if !changes.is_empty() {
                *child = Self::with_below(child.as_ref(), changes, making, shift + BITS);
            }
        }
        Self::branch(children, making)
    }

    /// Returns a map without `key`, which `self` has.
    pub(crate) fn without(&self, key: Borrowed<'_, F>, making: Making<'_>) -> Option<Self> {
        if self.count() == SMALL + 1 {
            let mut rest = Vec::with_capacity(SMALL);
            self.carry_over(|candidate| key.equivalent(candidate), &mut rest);
            return Self::with_below(None, rest.into_iter().collect(), making, 0);
        }
        self.without_below(key, making.seed.hash_one(key), making, 0)
    }

    fn without_below(
        &self,
        key: Borrowed<'_, F>,
        hash: u64,
        making: Making<'_>,
        shift: u32,
    ) -> Option<Self> {
        if !self.is_branch() || self.count() <= LEAF / 2 {
            // A branch that has become small becomes a leaf.
            let mut rest = Vec::with_capacity(self.count());
            self.carry_over(|candidate| key.equivalent(candidate), &mut rest);
            return Self::leaf(rest, making);
        }
        let mut children = self.children();
        let child = &mut children[child_index(hash, shift)];
        *child = child
            .as_ref()
            .and_then(|child| child.without_below(key, hash, making, shift + BITS));
        Self::branch(children, making)
    }

    /// Reads all values at one moment, in the order of [`for_each`](Self::for_each). The caller
    /// holds the row's lock.
    pub(crate) fn values<'g>(&self, guard: &'g Guard) -> SmallVec<[Seen<'g, F>; 16]> {
        let (mut values, mut counters) = (SmallVec::new(), 0);
        self.for_each(&mut |attribute| {
            let value = attribute.value.see_under(guard);
            counters += usize::from(value.counted().is_some());
            values.push(value);
        });
        if counters > 1 {
            // One counter is read at one moment in any case.
            self.for_each(&mut |attribute| attribute.value.freeze());
            values.clear();
            self.for_each(&mut |attribute| values.push(attribute.value.see_under(guard)));
            self.for_each(&mut |attribute| attribute.value.thaw());
        }
        values
    }
}

fn child_index(hash: u64, shift: u32) -> usize {
    (hash >> shift) as usize % FANOUT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::Kind;
    use crate::testing::Text;
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
                0 => Value::fixed(Datum::word(KIND, value as u64)),
                _ => Value::counter(value).unwrap(),
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
                let value = match attribute.value.see() {
                    Seen::Integer(integer) => integer,
                    Seen::Fixed(View::Word(_, word)) => word as i64,
                    Seen::Fixed(_) => panic!("not a word"),
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
            let making = Making { seed: &seed, generation: 1 };
            let mut model = HashMap::new();
            let mut attributes: Option<Attributes<Text>> = None;
            for step in steps {
                let before = attributes.clone();
                let contents_before = contents(before.as_ref());
                match step {
                    Step::Set(pairs) => {
                        let changes = pairs.iter().map(|(key, value)| change(*key, *value));
                        let changes = changes.collect();
                        attributes = Attributes::with(attributes.as_ref(), changes, making);
                        model.extend(pairs);
                    }
                    Step::Delete(number) => {
                        let key = key(number);
                        if let Some(map) = attributes.take() {
                            attributes = match map.get(key.borrow(), &seed) {
                                Some(_) => map.without(key.borrow(), making),
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

    /// Returns the map of these pairs, and the plain map of them. Of two with the same key, the
    /// later one counts.
    fn map_of(
        pairs: &[(u16, i64)],
        making: Making<'_>,
    ) -> (Option<Attributes<Text>>, HashMap<u16, i64>) {
        let changes = pairs.iter().map(|(key, value)| change(*key, *value));
        let map = Attributes::of(changes.collect(), making);
        (map, pairs.iter().copied().collect())
    }

    fn pairs() -> impl Strategy<Value = Vec<(u16, i64)>> {
        prop::collection::vec((0u16..600, 0i64..1000), 0..500)
    }

    proptest! {
        #[test]
        fn a_union_has_what_both_maps_have(before in pairs(), changes in pairs()) {
            let seed = Seed::default();
            let making = Making { seed: &seed, generation: 1 };
            let ((before, mut model), (changes, changed)) =
                (map_of(&before, making), map_of(&changes, making));
            let union = Attributes::union(before.as_ref(), changes.as_ref(), making, usize::MAX);
            let over = match (&changes, &before) {
                (Some(changes), Some(before)) => changes.over(before, making),
                (one, other) => one.as_ref().or(other.as_ref()).cloned(),
            };
            model.extend(changed);
            prop_assert_eq!(contents(union.unwrap_or_default().as_ref()), model.clone());
            prop_assert_eq!(contents(over.as_ref()), model);
        }

        #[test]
        fn a_rebased_union_is_the_union_of_the_present_map(
            before in pairs(),
            changes in pairs(),
            steps in prop::collection::vec(step(), 0..10),
        ) {
            let seed = Seed::default();
            let making = Making { seed: &seed, generation: 1 };
            let ((before, mut model), (changes, changed)) =
                (map_of(&before, making), map_of(&changes, making));
            let after = Attributes::union(before.as_ref(), changes.as_ref(), making, usize::MAX);
            let after = after.unwrap_or_default();
            let mut current = before.clone();
            for step in steps {
                match step {
                    Step::Set(pairs) => {
                        let changes = pairs.iter().map(|(key, value)| change(*key, *value));
                        current = Attributes::with(current.as_ref(), changes.collect(), making);
                        model.extend(pairs);
                    }
                    Step::Delete(number) => {
                        let key = key(number);
                        if let Some(map) = current.take() {
                            current = match map.get(key.borrow(), &seed) {
                                Some(_) => map.without(key.borrow(), making),
                                None => Some(map),
                            };
                        }
                        model.remove(&number);
                    }
                }
            }
            model.extend(changed);
            let nodes = [&before, &current, &after, &changes].map(Option::as_ref);
            let rebased = Attributes::rebase(nodes, making, usize::MAX).unwrap_or_default();
            prop_assert_eq!(contents(rebased.as_ref()), model);
        }
    }

    #[test]
    fn only_so_many_leaves_are_merged_as_are_allowed() {
        let seed = Seed::default();
        let making = Making {
            seed: &seed,
            generation: 1,
        };
        let many: Vec<_> = (0..2_000).map(|number| (number, 1)).collect();
        let ((before, _), (changes, _)) = (map_of(&many, making), map_of(&many, making));
        let union = |allowed| {
            let union = Attributes::union(before.as_ref(), changes.as_ref(), making, allowed);
            union.is_ok()
        };
        assert!(!union(64));
        assert!(union(2_000));
        // A node that both maps have is not visited.
        let nodes = [&before, &before, &before, &changes].map(Option::as_ref);
        assert!(Attributes::rebase(nodes, making, 0).is_ok());
    }

    #[test]
    fn what_no_change_belongs_to_is_taken_over_as_it_is() {
        let seed = Seed::default();
        let making = Making {
            seed: &seed,
            generation: 1,
        };
        let pairs = |numbers: std::ops::Range<u16>, value| -> Vec<_> {
            numbers.map(|number| (number, value)).collect()
        };
        let first = |number: &u16| child_index(seed.hash_one(key(*number)), 0) == 0;
        let changed: Vec<_> = (0..2_000).filter(first).map(|number| (number, 3)).collect();
        let ((before, _), (current, _), (changes, _)) = (
            map_of(&pairs(0..2_000, 1), making),
            map_of(&pairs(1_000..3_000, 2), making),
            map_of(&changed, making),
        );
        let maps = [before.as_ref(), current.as_ref(), changes.as_ref()];
        let [before, current, changes] = maps.map(Option::unwrap);
        let after = Attributes::union(Some(before), Some(changes), making, usize::MAX);
        let after = after.unwrap_or_default();
        let nodes = [Some(before), Some(current), after.as_ref(), Some(changes)];
        let rebased = Attributes::rebase(nodes, making, usize::MAX).unwrap_or_default();
        let rebased = rebased.unwrap();
        for index in 1..FANOUT {
            let (one, other) = (rebased.child(index), current.child(index));
            assert!(one.unwrap().is(other.unwrap()), "{index}");
        }
    }

    #[test]
    fn keys_that_collide_in_every_bit_share_a_leaf() {
        let seed = Seed::default();
        let changes = (0..100)
            .map(|number| Attribute {
                key: Datum::foreign(Text(vec![number])),
                value: Value::fixed(Datum::word(KIND, u64::from(number))),
            })
            .collect();
        let making = Making {
            seed: &seed,
            generation: 1,
        };
        let map = Attributes::with(None, changes, making).unwrap();
        assert_eq!(map.count(), 100);
        for number in 0..100 {
            let key = Datum::foreign(Text(vec![number]));
            assert!(map.get(key.borrow(), &seed).is_some());
        }
    }
}
