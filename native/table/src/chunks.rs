//! A list in chunks, which never move: to add an item to a long list copies no more than a chunk.

/// Items of a chunk at most.
const CHUNK: usize = 1024;

/// A list to whose end items are added and taken from.
pub(crate) struct Chunks<T> {
    /// All chunks before that of the last item are full, and all after it are empty.
    chunks: Vec<Vec<T>>,
    count: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Chunks {
            chunks: Vec::new(),
            count: 0,
        }
    }
}

impl<T> Chunks<T> {
    /// Returns the number of items.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Returns an item, which can be replaced.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.chunks.get_mut(index / CHUNK)?.get_mut(index % CHUNK)
    }

    /// Returns an iterator over the items from this index on.
    pub fn iter_from(&self, index: usize) -> impl Iterator<Item = &T> {
        let mut chunks = self.chunks.get(index / CHUNK..).unwrap_or_default().iter();
        let first = chunks.next().and_then(|chunk| chunk.get(index % CHUNK..));
        first.into_iter().chain(chunks.map(Vec::as_slice)).flatten()
    }

    /// Adds an item.
    pub fn push(&mut self, item: T) {
        let chunk = self.count / CHUNK;
        if chunk == self.chunks.len() {
            self.chunks.push(Vec::new());
        }
        self.chunks[chunk].push(item);
        self.count += 1;
    }

    /// Takes the last item. The memory is kept.
    pub fn pop(&mut self) -> Option<T> {
        let last = self.count.checked_sub(1)?;
        self.count = last;
        self.chunks[last / CHUNK].pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::iter;

    proptest! {
        #[test]
        fn chunks_agree_with_a_vector(
            steps in prop::collection::vec((0..3usize, 0..2_000usize), 0..20)
        ) {
            let mut chunks = Chunks::default();
            let mut plain = Vec::new();
            for (step, number) in steps {
                match step {
                    0 => (0..number).for_each(|item| {
                        chunks.push(item);
                        plain.push(item);
                    }),
                    1 => (0..number).for_each(|_| assert_eq!(chunks.pop(), plain.pop())),
                    _ => {
                        let (item, plain) = (chunks.get_mut(number), plain.get_mut(number));
                        prop_assert_eq!(&item, &plain);
                        iter::zip(item, plain).for_each(|(item, plain)| {
                            (*item, *plain) = (number, number);
                        });
                    }
                }
                prop_assert_eq!(chunks.len(), plain.len());
                let from = number.min(plain.len());
                prop_assert!(chunks.iter_from(number).eq(&plain[from..]));
            }
        }
    }
}
