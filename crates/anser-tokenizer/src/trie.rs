//! Longest-prefix matching over bytes: a double-array trie whose nodes carry the longest entry on their path.

use std::borrow::Cow;
use std::collections::VecDeque;

use crate::Error;

/// One node, in little-endian:
///
/// ```text
/// bits 0..9    label: the byte that leads here; EMPTY in unused slots and in the root
/// bits 9..32   base: the child by byte b is slot `base ^ b`, if that slot's label is b
/// bits 32..56  id of the longest entry that is a prefix of this node's path
/// bits 56..64  that entry's length in bytes; 0 where there is none
/// ```
///
/// No two nodes with children share a base, so a matching label proves the parent. Base 0 belongs to leaves: nothing
/// ever matches there. Carrying the longest entry in every node makes the walk free of bookkeeping: where it gets
/// stuck, the answer is at hand.
type Node = [u8; 8];

const EMPTY: u32 = 0x100;
const LABEL: u32 = 0x1ff;
const BASE_SHIFT: u32 = 9;
const MAX_SLOTS: usize = 1 << 23;

/// The trie of a vocabulary. Slot 0 is the root; the number of slots is a multiple of 256.
#[derive(Clone)]
pub(crate) struct Trie {
    nodes: Cow<'static, [Node]>,
}

fn node(label: u32, base: usize, id: u32, length: usize) -> Node {
    let low = (base as u32) << BASE_SHIFT | label;
    let high = (length as u32) << 24 | id;
    (u64::from(high) << 32 | u64::from(low)).to_le_bytes()
}

impl Trie {
    /// Uses a finished table in place. Rejects one whose children could lie outside it.
    pub(crate) fn from_nodes(nodes: Cow<'static, [Node]>) -> Result<Trie, Error> {
        if nodes.is_empty() || !nodes.len().is_multiple_of(256) {
            return Err(Error::Table("the number of trie slots is not a multiple of 256"));
        }
        Ok(Trie { nodes })
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Appends the ids of `text` to `ids`, always taking the longest entry that fits. Fails with the position where no
    /// entry fits.
    pub(crate) fn encode(&self, text: &[u8], ids: &mut Vec<u32>) -> Result<(), usize> {
        let nodes = &*self.nodes;
        let Some(&root) = nodes.first() else { return Err(0) };
        let root = u64::from_le_bytes(root);
        let mut position = 0;
        while position < text.len() {
            let mut here = root;
            for &byte in &text[position..] {
                let child = (here as u32 >> BASE_SHIFT) as usize ^ byte as usize;
                // Only a damaged table lacks the slot.
                let Some(&child) = nodes.get(child) else { break };
                let child = u64::from_le_bytes(child);
                if child as u32 & LABEL != u32::from(byte) {
                    break;
                }
                here = child;
            }
            let length = (here >> 56) as usize;
            if length == 0 {
                return Err(position);
            }
            ids.push((here >> 32) as u32 & 0xff_ffff);
            position += length;
        }
        Ok(())
    }

    /// Builds the trie of `entries`, sorted by their bytes, which are unique, not empty and at most 255 long.
    pub(crate) fn build(entries: &[(&[u8], u32)]) -> Result<Trie, Error> {
        let mut slots = Slots { first_free: NONE, last_free: NONE, ..Slots::default() };
        slots.grow()?;
        slots.take(0);

        /// A node whose children are still to be placed: the range of entries that share its path of `depth` bytes.
        struct Pending {
            range: std::ops::Range<usize>,
            depth: usize,
            slot: usize,
            label: u32,
            longest: (u32, usize),
        }
        // Breadth first, so that the short, hot paths lie together at the front.
        let mut queue =
            VecDeque::from([Pending { range: 0..entries.len(), depth: 0, slot: 0, label: EMPTY, longest: (0, 0) }]);
        let (mut labels, mut ranges) = (Vec::new(), Vec::new());
        while let Some(mut parent) = queue.pop_front() {
            // In sorted order the entry that ends here comes first.
            if let Some(&(bytes, id)) = entries[parent.range.clone()].first()
                && bytes.len() == parent.depth
                && parent.depth > 0
            {
                parent.longest = (id, parent.depth);
                parent.range.start += 1;
            }
            labels.clear();
            ranges.clear();
            let mut start = parent.range.start;
            while start < parent.range.end {
                let label = entries[start].0[parent.depth];
                let end = start + entries[start..parent.range.end].partition_point(|e| e.0[parent.depth] == label);
                labels.push(label);
                ranges.push(start..end);
                start = end;
            }
            let base = if labels.is_empty() { 0 } else { slots.place(&labels)? };
            slots.nodes[parent.slot] = node(parent.label, base, parent.longest.0, parent.longest.1);
            for (&label, range) in labels.iter().zip(&ranges) {
                queue.push_back(Pending {
                    range: range.clone(),
                    depth: parent.depth + 1,
                    slot: base ^ label as usize,
                    label: u32::from(label),
                    longest: parent.longest,
                });
            }
        }
        Trie::from_nodes(Cow::Owned(slots.nodes))
    }
}

/// The slots of a trie under construction, the free ones in a doubly linked list.
#[derive(Default)]
struct Slots {
    nodes: Vec<Node>,
    taken: Vec<bool>,
    base_used: Vec<bool>,
    next_free: Vec<usize>,
    previous_free: Vec<usize>,
    /// Ends of the list; `NONE` when it is empty.
    first_free: usize,
    last_free: usize,
}

const NONE: usize = usize::MAX;

/// Free slots tried for one node before the table grows instead: bounds the time to build a crowded table.
const TRIES: usize = 4096;

impl Slots {
    /// Adds 256 free slots.
    fn grow(&mut self) -> Result<(), Error> {
        let start = self.nodes.len();
        if start + 256 > MAX_SLOTS {
            return Err(Error::Vocabulary(format!("more than {MAX_SLOTS} trie nodes")));
        }
        for slot in start..start + 256 {
            self.nodes.push(node(EMPTY, 0, 0, 0));
            self.taken.push(false);
            self.base_used.push(slot == 0);
            self.next_free.push(NONE);
            self.previous_free.push(self.last_free);
            match self.last_free {
                NONE => self.first_free = slot,
                last => self.next_free[last] = slot,
            }
            self.last_free = slot;
        }
        Ok(())
    }

    fn take(&mut self, slot: usize) {
        self.taken[slot] = true;
        let (previous, next) = (self.previous_free[slot], self.next_free[slot]);
        match previous {
            NONE => self.first_free = next,
            p => self.next_free[p] = next,
        }
        match next {
            NONE => self.last_free = previous,
            n => self.previous_free[n] = previous,
        }
    }

    /// Finds a base for these children and takes their slots.
    fn place(&mut self, labels: &[u8]) -> Result<usize, Error> {
        let first = labels[0] as usize;
        let (mut slot, mut tries) = (self.first_free, 0);
        loop {
            if slot == NONE || tries == TRIES {
                // A fresh block of 256 has room for any set of labels, under any base inside it.
                slot = self.nodes.len();
                self.grow()?;
                tries = 0;
            }
            let base = slot ^ first;
            if !self.base_used[base] && labels.iter().all(|&label| !self.taken[base ^ label as usize]) {
                self.base_used[base] = true;
                for &label in labels {
                    self.take(base ^ label as usize);
                }
                return Ok(base);
            }
            slot = self.next_free[slot];
            tries += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trie(entries: &[(&[u8], u32)]) -> Trie {
        let mut sorted = entries.to_vec();
        sorted.sort();
        Trie::build(&sorted).unwrap()
    }

    #[test]
    fn takes_the_longest_entry_and_backs_up() {
        let trie = trie(&[(b"a", 1), (b"ab", 2), (b"abcd", 3), (b"b", 4), (b"c", 5), (b"\0", 6)]);
        let mut ids = Vec::new();
        // "abce": the walk reaches "abc", which is no entry, and goes back to "ab".
        assert_eq!(trie.encode(b"abcdabcb\0", &mut ids), Ok(()));
        assert_eq!(ids, [3, 2, 5, 4, 6]);
        assert_eq!(trie.encode(b"abx", &mut ids), Err(2));
    }

    #[test]
    fn an_empty_vocabulary_encodes_nothing() {
        assert_eq!(trie(&[]).encode(b"a", &mut Vec::new()), Err(0));
        assert_eq!(trie(&[]).encode(b"", &mut Vec::new()), Ok(()));
    }
}
