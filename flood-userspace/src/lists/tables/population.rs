//! Which IPv6 entries are at which nodes.
//!
//! This follows from the entries alone: an entry is at all nodes on the search path to it, up to the first that
//! has no more than [`LODGERS`] of them, where it lodges. So inserting or removing an entry affects at most ten
//! nodes, plus the few entries that move when one of these nodes becomes a crowd or ceases to be one.

use std::{collections::BTreeSet, iter, ops::RangeInclusive};

use flood_common::lists::ipv6::{CELL_LENGTH, LODGERS, next, offsets};

/// Number of bits in an address.
const LONGEST: u32 = 128;

/// An IPv6 prefix of an entry or a node. Ordered by address, shorter before longer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Prefix {
    /// Its first address.
    pub address: u128,
    /// Length in bits.
    pub length: u8,
}

impl Prefix {
    /// Returns the prefix of this length that contains an address.
    pub(super) fn around(address: u128, length: u32) -> Self {
        Self { address: address & !rest(length), length: length as u8 }
    }

    /// Returns its addresses.
    pub(super) fn addresses(self) -> RangeInclusive<u128> {
        self.address..=self.address | rest(self.length.into())
    }

    /// Returns whether another prefix lies within it, or is the same.
    pub(super) fn contains(self, other: Self) -> bool {
        self.length <= other.length && self.addresses().contains(&other.address)
    }

    /// Returns the upper and the lower half of its first address.
    pub(super) fn halves(self) -> [u64; 2] {
        [(self.address >> 64) as u64, self.address as u64]
    }

    /// Returns its length.
    pub(super) fn length(self) -> u32 {
        self.length.into()
    }
}

/// Returns a mask of the bits outside a prefix of this length.
fn rest(length: u32) -> u128 {
    u128::MAX.checked_shr(length).unwrap_or(0)
}

/// The presence of an entry at a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Stay {
    /// Prefix length of the node.
    node: u8,
    entry: Prefix,
}

/// What insertions and removals of entries affect.
#[derive(Default, Debug)]
pub(super) struct Moves {
    /// Affected nodes, some of them more than once.
    pub nodes: Vec<Prefix>,
    /// Entries that no longer lodge with a node, with the length of that node.
    pub left: Vec<(u32, Prefix)>,
}

/// The entries at a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Guests {
    /// These entries lodge there, if any.
    Lodgers(Vec<Prefix>),
    /// More than can lodge. Further on, they are at nodes at these offsets.
    Crowd(u32),
}

/// All entries of both lists that are longer than a cell's and say more than shorter ones do, and where they are.
#[derive(Debug)]
pub(super) struct Population {
    stays: BTreeSet<Stay>,
    /// Number of stays at nodes of each length.
    at_length: [usize; LONGEST as usize + 1],
}

impl Default for Population {
    fn default() -> Self {
        Self { stays: BTreeSet::new(), at_length: [0; LONGEST as usize + 1] }
    }
}

impl Population {
    /// Returns whether an entry is present.
    pub(super) fn contains(&self, entry: Prefix) -> bool {
        let first = next(CELL_LENGTH, entry.length());
        self.stays.contains(&Stay { node: first as u8, entry })
    }

    /// Adds an entry that is not present.
    pub(super) fn insert(&mut self, entry: Prefix, moves: &mut Moves) {
        self.settle(entry, CELL_LENGTH, moves);
    }

    /// Adds an entry at the nodes after `from`, up to the one where it lodges.
    fn settle(&mut self, entry: Prefix, mut from: u32, moves: &mut Moves) {
        while from < entry.length() {
            from = next(from, entry.length());
            let node = Prefix::around(entry.address, from);
            let before = self.count(node);
            let lodgers: Vec<Prefix> = if before == LODGERS { self.at(node).collect() } else { Vec::new() };
            self.stays.insert(Stay { node: node.length, entry });
            self.at_length[from as usize] += 1;
            moves.nodes.push(node);
            for lodger in lodgers {
                moves.left.push((from, lodger));
                self.settle(lodger, from, moves);
            }
            if before < LODGERS {
                return;
            }
        }
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, entry: Prefix, moves: &mut Moves) {
        self.unsettle(entry, CELL_LENGTH, moves);
    }

    /// Removes an entry from all nodes after `from`.
    fn unsettle(&mut self, entry: Prefix, mut from: u32, moves: &mut Moves) {
        while from < entry.length() {
            from = next(from, entry.length());
            let node = Prefix::around(entry.address, from);
            if !self.stays.remove(&Stay { node: node.length, entry }) {
                return;
            }
            self.at_length[from as usize] -= 1;
            moves.nodes.push(node);
            let others = self.count(node);
            if others < LODGERS {
                moves.left.push((from, entry));
                return;
            }
            if others == LODGERS {
                // The others lodge here from now on.
                for other in self.at(node).collect::<Vec<_>>() {
                    self.unsettle(other, from, moves);
                }
            }
        }
    }

    /// Returns the entries at a node.
    fn at(&self, node: Prefix) -> impl Iterator<Item = Prefix> {
        self.within(node.length, node).map(|stay| stay.entry)
    }

    /// Returns the number of entries at a node, at most [`LODGERS`] + 1, which means more than can lodge.
    fn count(&self, node: Prefix) -> usize {
        self.at(node).take(LODGERS + 1).count()
    }

    /// Returns the stays at nodes of this length whose entries are within a prefix.
    fn within(&self, node: u8, prefix: Prefix) -> impl Iterator<Item = &Stay> {
        let (first, last) = prefix.addresses().into_inner();
        let stay = |address, length| Stay { node, entry: Prefix { address, length } };
        self.stays.range(stay(first, 0)..=stay(last, u8::MAX))
    }

    /// Returns the entries at a node.
    pub(super) fn guests(&self, node: Prefix) -> Guests {
        if self.count(node) > LODGERS {
            Guests::Crowd(self.offsets(node))
        } else {
            Guests::Lodgers(self.at(node).collect())
        }
    }

    /// Returns the offsets from a crowded node or a cell at which entries within it are at nodes.
    pub(super) fn offsets(&self, node: Prefix) -> u32 {
        let all = offsets(node.length());
        (0..all.count_ones()).map(|bit| 1 << bit).filter(|offset| self.is_inhabited(node, *offset)).sum()
    }

    fn is_inhabited(&self, node: Prefix, offset: u32) -> bool {
        let length = node.length() + offset;
        self.at_length[length as usize] > 0 && self.within(length as u8, node).next().is_some()
    }

    /// Returns the node where an entry lodges, or the node that is the entry itself.
    pub(super) fn home(&self, entry: Prefix) -> Prefix {
        let lengths = iter::successors(Some(CELL_LENGTH), |from| {
            (*from < entry.length()).then(|| next(*from, entry.length()))
        });
        let mut nodes = lengths.skip(1).map(|length| Prefix::around(entry.address, length));
        nodes.find(|node| self.count(*node) <= LODGERS).unwrap_or(entry)
    }

    /// Returns the nodes within a prefix, excluding the prefix itself.
    pub(super) fn nodes_within(&self, prefix: Prefix) -> impl Iterator<Item = Prefix> {
        let lengths = (prefix.length() + 1..=LONGEST).filter(|length| self.at_length[*length as usize] > 0);
        lengths.flat_map(move |length| {
            let mut last = None;
            let nodes =
                self.within(length as u8, prefix).map(move |stay| Prefix::around(stay.entry.address, length));
            nodes.filter(move |node| last.replace(*node) != Some(*node))
        })
    }

    /// Returns whether there are no entries.
    pub(super) fn is_empty(&self) -> bool {
        self.stays.is_empty()
    }
}
