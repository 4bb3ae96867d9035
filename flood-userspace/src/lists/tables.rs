//! Writes the kernel's list tables so that they match the books.
//!
//! `flood_common::lists` describes their layout. [`Tables::follow`] is told which prefixes of a book have changed,
//! and derives from the book what now holds for each address there: an address is on a list until the latest
//! expiry of all entries that cover it. Every write replaces one word, old state by new state. For IPv4 the order
//! is:
//!
//! 1. paint new prefixes up to /24,
//! 2. remove single addresses: the gate first, then the word,
//! 3. insert single addresses: the word first, then the gate,
//! 4. clear prefixes up to /24 that are gone, except where others lie within.
//!
//! [`ipv6`] describes the order for IPv6. So no address that is on a list before and after is off it in between,
//! and a list can be exchanged for another without room for both (IPv6 needs that room).

mod buckets;
mod gate;
mod ipv6;
mod nodes;
mod population;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicU64, Ordering};

use flood_common::{
    lists::{
        self, CELL_LENGTH, CLOSER, GATE_WORDS, NEVER,
        ipv6::{MAX_BUCKET_BITS, PLACES},
    },
    meter::WAYS,
    place::{self, Seeds},
};
use ipnet::{IpNet, Ipv4Net};
use thiserror::Error;

use crate::boot_time::BootTime;

use super::{Book, Books, Edit, EditError, ListKind, Places, book::Walk};
use buckets::{Buckets, USABLE};
use ipv6::Ipv6;
use nodes::Words;

/// IPv6 words that each entry may need: one for itself, one for its node, and its share of the nodes on the way
/// there. At most eight of those have more than [`LODGERS`](lists::ipv6::LODGERS), so each is shared by six
/// entries. That is 3.3.
const WORDS_PER_PREFIX: u64 = 4;

/// A word found no place although there should be enough room: practically impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the buckets of {prefix} are full by chance; please start anew, which draws other ones")]
pub struct NoPlace {
    prefix: IpNet,
}

/// Addresses in a cell of the IPv4 gate.
const CELL_ADDRESSES: usize = 1 << (32 - CELL_LENGTH);

/// Where the tables are: in the kernel, or in ordinary memory for tests.
pub trait Memory {
    /// Returns the words of both gates, and the indices of the IPv6 node buckets.
    fn gates(&self) -> &[AtomicU64];
    /// Returns the buckets of IPv4 addresses.
    fn buckets(&self) -> &[AtomicU64];
    /// Returns the buckets of IPv6 nodes, followed by as many buckets of ends.
    fn nodes(&self) -> &[AtomicU64];
}

/// Parameters chosen when the tables are created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Secret seeds.
    pub seeds: Seeds,
    /// Binary logarithm of the number of buckets of IPv4 addresses.
    pub bucket_bits: u32,
    /// Number of buckets of IPv6 nodes.
    pub node_buckets: u32,
}

impl Layout {
    /// Returns a layout with room for at least `places`.
    pub fn with_room(seeds: Seeds, places: Places) -> Self {
        let node_buckets = Self::node_buckets(places.ipv6);
        let mut layout = Self { seeds, bucket_bits: place::MIN_BUCKET_BITS, node_buckets };
        while layout.capacity().ipv4 < places.ipv4 && layout.bucket_bits < place::MAX_BUCKET_BITS {
            layout.bucket_bits += 1;
        }
        layout
    }

    /// Returns the number of buckets for this many IPv6 prefixes of any lengths.
    pub fn node_buckets(prefixes: u64) -> u32 {
        let buckets = (prefixes * WORDS_PER_PREFIX).div_ceil(PLACES as u64);
        u32::try_from(buckets).unwrap_or(u32::MAX).clamp(nodes::LEAST, (1 << MAX_BUCKET_BITS) - 1)
    }

    /// Returns the memory size of the tables.
    pub fn bytes(&self) -> u64 {
        let buckets = (1 << self.bucket_bits) + 2 * u64::from(self.node_buckets);
        let gates = u64::from(GATE_WORDS + self.node_buckets);
        (gates + buckets * WAYS as u64) * size_of::<u64>() as u64
    }

    /// Returns how much fits.
    pub fn capacity(&self) -> Places {
        Places {
            ipv4: USABLE << self.bucket_bits,
            ipv6: u64::from(self.node_buckets) * PLACES as u64 / WORDS_PER_PREFIX,
        }
    }
}

/// Two clocks at the same moment, for converting expiries.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The clock of the entries' expiries.
    pub now: BootTime,
    /// The filter's clock, nanoseconds.
    pub filter_ns: u64,
}

impl Moment {
    /// Returns the expiry of an entry as stored in the tables.
    fn end(&self, expires: Option<BootTime>) -> u64 {
        if expires.is_none() { NEVER } else { lists::end(self.end_ns(expires)) }
    }

    /// Returns the expiry of an entry on the filter's clock, nanoseconds; 0 if it has passed.
    pub(super) fn end_ns(&self, expires: Option<BootTime>) -> u64 {
        let Some(at) = expires else { return u64::MAX };
        let ahead = at.since(self.now);
        if ahead.is_zero() {
            return 0;
        }
        u64::try_from(ahead.as_nanos()).map_or(u64::MAX, |ahead| self.filter_ns.saturating_add(ahead))
    }
}

/// The tables.
pub struct Tables<M> {
    memory: M,
    layout: Layout,
    ipv6: Ipv6,
}

impl<M: Memory> Tables<M> {
    /// Creates tables in empty memory.
    pub fn new(memory: M, layout: Layout) -> Self {
        let ipv6 = Ipv6::new(words(&memory), layout.seeds.v6, layout.node_buckets);
        Self { memory, layout, ipv6 }
    }

    /// Returns the parameters.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Returns the memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Writes what the book of `kind` now says about the prefixes that an edit changed. The other book shows what
    /// else holds there.
    pub fn follow(
        &mut self,
        books: &Books,
        kind: ListKind,
        edit: &Edit,
        moment: &Moment,
    ) -> Result<(), EditError> {
        let book = books.book(kind);
        // Check for room before anything is written.
        let ipv6 = self.ipv6.plan(words(&self.memory), books, kind, edit, moment)?;
        let (mut painted, mut single) = (Vec::new(), Vec::new());
        for prefix in edit.prefixes() {
            match prefix {
                IpNet::V4(v4) if u32::from(v4.prefix_len()) <= CELL_LENGTH => painted.push(v4),
                IpNet::V4(v4) => single.push(v4),
                IpNet::V6(_) => {}
            }
        }
        let (new, gone): (Vec<Ipv4Net>, Vec<Ipv4Net>) =
            painted.into_iter().partition(|prefix| book.get((*prefix).into()).is_some());
        let addresses = addresses(book, &single, moment);

        for prefix in new {
            gate::paint(self.memory.gates(), cells(prefix), kind.bit(), true);
        }
        self.take_out(books, kind, &addresses);
        self.put_in(kind, &addresses)?;
        for prefix in gone {
            self.paint_over(book, kind, prefix);
        }
        Ok(self.ipv6.apply(words(&self.memory), ipv6)?)
    }

    fn buckets(&self) -> Buckets<'_> {
        Buckets { words: self.memory.buckets(), seeds: &self.layout.seeds, bits: self.layout.bucket_bits }
    }

    fn take_out(&self, books: &Books, kind: ListKind, addresses: &[(u32, Option<u64>)]) {
        for (cell, addresses) in by_cell(addresses) {
            let leaving = addresses.iter().filter(|(_, end)| end.is_none());
            let leaving: Vec<u32> = leaving.map(|(address, _)| *address).collect();
            if leaving.is_empty() {
                continue;
            }
            if !ListKind::OF_EACH_PACKET.into_iter().any(|kind| has_single(books.book(kind), cell)) {
                gate::paint(self.memory.gates(), cell..cell + 1, CLOSER, false);
            }
            for address in leaving {
                self.buckets().unset(address, kind.bit());
            }
        }
    }

    fn put_in(&self, kind: ListKind, addresses: &[(u32, Option<u64>)]) -> Result<(), NoPlace> {
        for (cell, addresses) in by_cell(addresses) {
            let mut staying =
                addresses.iter().filter_map(|(address, end)| Some((*address, (*end)?))).peekable();
            let any = staying.peek().is_some();
            for (address, end) in staying {
                self.buckets().set(address, kind.bit(), end)?;
            }
            if any {
                gate::paint(self.memory.gates(), cell..cell + 1, CLOSER, true);
            }
        }
        Ok(())
    }

    /// Clears the cells of a prefix that is no longer in the book, except where another prefix paints them.
    fn paint_over(&self, book: &Book, kind: ListKind, gone: Ipv4Net) {
        if book.cover(gone.into()).next().is_some() {
            return;
        }
        let clear = |cells| gate::paint(self.memory.gates(), cells, kind.bit(), false);
        let mut next = cells(gone).start;
        for (inner, _) in book.within(gone.into()) {
            if let IpNet::V4(inner) = inner
                && u32::from(inner.prefix_len()) <= CELL_LENGTH
            {
                let inner = cells(inner);
                clear(next..inner.start);
                next = next.max(inner.end);
            }
        }
        clear(next..cells(gone).end);
    }
}

fn words<M: Memory>(memory: &M) -> Words<'_> {
    Words { gates: memory.gates(), nodes: memory.nodes() }
}

/// Writes a word that others read concurrently.
fn store(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Release);
}

/// Returns what the book says about each address of these prefixes: its expiry, or `None` if it is not on the
/// list. The prefixes must be sorted and longer than a cell. The result is sorted.
fn addresses(book: &Book, prefixes: &[Ipv4Net], moment: &Moment) -> Vec<(u32, Option<u64>)> {
    let mut addresses = Vec::with_capacity(prefixes.len());
    let mut walk = book.walk();
    for prefixes in prefixes.chunk_by(|a, b| cells(*a) == cells(*b)) {
        let cell = cells(prefixes[0]).start;
        let ends = ends_in_cell(&mut walk, cell, moment);
        let mut next = 0;
        for prefix in prefixes {
            let indices = within_cell(*prefix);
            // A prefix within an earlier one was handled with it.
            let first = next.max(*indices.start());
            next = next.max(*indices.end() + 1);
            for (index, end) in ends.iter().enumerate().take(next).skip(first) {
                addresses.push((cell << (32 - CELL_LENGTH) | index as u32, *end));
            }
        }
    }
    addresses
}

/// Returns until when each address of a cell is listed individually, ignoring painted prefixes.
fn ends_in_cell(walk: &mut Walk<'_>, cell: u32, moment: &Moment) -> [Option<u64>; CELL_ADDRESSES] {
    let mut ends = [None; CELL_ADDRESSES];
    walk.within(cell_prefix(cell), |prefix, entry| {
        if let Some(prefix) = single(prefix) {
            let end = Some(moment.end(entry.expires));
            for index in within_cell(prefix) {
                ends[index] = ends[index].max(end);
            }
        }
    });
    ends
}

fn cell_prefix(cell: u32) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert((cell << (32 - CELL_LENGTH)).into(), CELL_LENGTH as u8))
}

/// Returns the prefix if it is longer than a cell, and so looked up address by address.
fn single(prefix: IpNet) -> Option<Ipv4Net> {
    match prefix {
        IpNet::V4(v4) if u32::from(v4.prefix_len()) > CELL_LENGTH => Some(v4),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

fn has_single(book: &Book, cell: u32) -> bool {
    book.within(cell_prefix(cell)).any(|(prefix, _)| single(prefix).is_some())
}

/// Groups sorted addresses by cell.
fn by_cell<T>(addresses: &[(u32, T)]) -> impl Iterator<Item = (u32, &[(u32, T)])> {
    let cell = |address: u32| address >> (32 - CELL_LENGTH);
    addresses.chunk_by(move |a, b| cell(a.0) == cell(b.0)).map(move |chunk| (cell(chunk[0].0), chunk))
}

/// Returns the cells of the gate that a prefix touches.
fn cells(prefix: Ipv4Net) -> std::ops::Range<u32> {
    let cell = |address: std::net::Ipv4Addr| u32::from(address) >> (32 - CELL_LENGTH);
    cell(prefix.network())..cell(prefix.broadcast()) + 1
}

/// Returns the addresses of a prefix, as indices within its cell.
fn within_cell(prefix: Ipv4Net) -> std::ops::RangeInclusive<usize> {
    let index = |address: std::net::Ipv4Addr| u32::from(address) as usize % CELL_ADDRESSES;
    index(prefix.network())..=index(prefix.broadcast())
}
