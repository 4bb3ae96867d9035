//! The kernel's tables of the lists, written so that they say what the books say.
//!
//! What they look like is in `flood_common::lists`. [`Tables::follow`] is told which prefixes of a book have changed,
//! and works out from the book what holds now for each address there: an address is on a list until the latest end
//! of all entries that cover it. Every write is one word, from what held to what holds. For IPv4 they come in this order:
//!
//! 1. prefixes up to /24 that are new are painted,
//! 2. single addresses are taken out: the gate first, then the word,
//! 3. single addresses are put in: the word first, then the gate,
//! 4. prefixes up to /24 that are gone are painted over, except where others lie within.
//!
//! [`ipv6`] has that of IPv6. So no address that is on a list before and after is off it in between, and a list can be
//! exchanged for another without room for both (IPv6 needs it).

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

/// Words of IPv6 that each entry may need: one for itself and one for its node, and the nodes on the way to it, of which
/// eight at most have more than [`LODGERS`](lists::ipv6::LODGERS), so that each is one for six entries. That is 3.3.
const WORDS_PER_PREFIX: u64 = 4;

/// A word has found no place although there should be enough: as good as impossible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the buckets of {prefix} are full by chance; please start anew, which draws other ones")]
pub struct NoPlace {
    prefix: IpNet,
}

/// Addresses in a cell of the IPv4 gate.
const CELL_ADDRESSES: usize = 1 << (32 - CELL_LENGTH);

/// Where the tables are: in the kernel, or for tests in ordinary memory.
pub trait Memory {
    /// The words of both gates, and the indices of the buckets of IPv6 nodes.
    fn gates(&self) -> &[AtomicU64];
    /// The buckets of IPv4 addresses.
    fn buckets(&self) -> &[AtomicU64];
    /// The buckets of IPv6 nodes, then as many of ends.
    fn nodes(&self) -> &[AtomicU64];
}

/// What is chosen when the tables are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Secrets.
    pub seeds: Seeds,
    /// Binary logarithm of the number of buckets of IPv4 addresses.
    pub bucket_bits: u32,
    /// Number of buckets of IPv6 nodes.
    pub node_buckets: u32,
}

impl Layout {
    /// One in which so much fits at least.
    pub fn with_room(seeds: Seeds, places: Places) -> Self {
        let node_buckets = Self::node_buckets(places.ipv6);
        let mut layout = Self { seeds, bucket_bits: place::MIN_BUCKET_BITS, node_buckets };
        while layout.capacity().ipv4 < places.ipv4 && layout.bucket_bits < place::MAX_BUCKET_BITS {
            layout.bucket_bits += 1;
        }
        layout
    }

    /// Buckets for so many IPv6 prefixes, of whatever lengths.
    pub fn node_buckets(prefixes: u64) -> u32 {
        let buckets = (prefixes * WORDS_PER_PREFIX).div_ceil(PLACES as u64);
        u32::try_from(buckets).unwrap_or(u32::MAX).clamp(nodes::LEAST, (1 << MAX_BUCKET_BITS) - 1)
    }

    /// Memory of the tables.
    pub fn bytes(&self) -> u64 {
        let buckets = (1 << self.bucket_bits) + 2 * u64::from(self.node_buckets);
        let gates = u64::from(GATE_WORDS + self.node_buckets);
        (gates + buckets * WAYS as u64) * size_of::<u64>() as u64
    }

    /// What fits.
    pub fn capacity(&self) -> Places {
        Places {
            ipv4: USABLE << self.bucket_bits,
            ipv6: u64::from(self.node_buckets) * PLACES as u64 / WORDS_PER_PREFIX,
        }
    }
}

/// Two clocks at one moment, for the ends of entries.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// That by which entries end.
    pub now: BootTime,
    /// The filter's, nanoseconds.
    pub filter_ns: u64,
}

impl Moment {
    /// The end of an entry, as the tables have it.
    fn end(&self, expires: Option<BootTime>) -> u64 {
        if expires.is_none() { NEVER } else { lists::end(self.end_ns(expires)) }
    }

    /// The end of an entry on the filter's clock, nanoseconds; 0 if it was before.
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
    /// Tables in memory that is empty.
    pub fn new(memory: M, layout: Layout) -> Self {
        let ipv6 = Ipv6::new(words(&memory), layout.seeds.v6, layout.node_buckets);
        Self { memory, layout, ipv6 }
    }

    /// The choices.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Writes what the book of `kind` now says about the prefixes that an edit has changed. The other book is asked
    /// what else holds there.
    pub fn follow(
        &mut self,
        books: &Books,
        kind: ListKind,
        edit: &Edit,
        moment: &Moment,
    ) -> Result<(), EditError> {
        let book = books.book(kind);
        // What does not fit is known before anything is written.
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

    /// Clears the cells of a prefix that is no longer in the book, where no other prefix paints them.
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

/// Writes a word that others read.
fn store(word: &AtomicU64, value: u64) {
    word.store(value, Ordering::Release);
}

/// What the book says about each address of these prefixes, which are sorted and longer than a cell: its end, or
/// nothing if it is not on the list. Sorted.
fn addresses(book: &Book, prefixes: &[Ipv4Net], moment: &Moment) -> Vec<(u32, Option<u64>)> {
    let mut addresses = Vec::with_capacity(prefixes.len());
    let mut walk = book.walk();
    for prefixes in prefixes.chunk_by(|a, b| cells(*a) == cells(*b)) {
        let cell = cells(prefixes[0]).start;
        let ends = ends_in_cell(&mut walk, cell, moment);
        let mut next = 0;
        for prefix in prefixes {
            let indices = within_cell(*prefix);
            // What lies within another has been there with it.
            let first = next.max(*indices.start());
            next = next.max(*indices.end() + 1);
            for (index, end) in ends.iter().enumerate().take(next).skip(first) {
                addresses.push((cell << (32 - CELL_LENGTH) | index as u32, *end));
            }
        }
    }
    addresses
}

/// Until when each address of a cell is on the list by itself, the prefixes that are painted left out.
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

/// A prefix that is longer than a cell, and so looked up address by address.
fn single(prefix: IpNet) -> Option<Ipv4Net> {
    match prefix {
        IpNet::V4(v4) if u32::from(v4.prefix_len()) > CELL_LENGTH => Some(v4),
        IpNet::V4(_) | IpNet::V6(_) => None,
    }
}

fn has_single(book: &Book, cell: u32) -> bool {
    book.within(cell_prefix(cell)).any(|(prefix, _)| single(prefix).is_some())
}

/// Sorted addresses, cell by cell.
fn by_cell<T>(addresses: &[(u32, T)]) -> impl Iterator<Item = (u32, &[(u32, T)])> {
    let cell = |address: u32| address >> (32 - CELL_LENGTH);
    addresses.chunk_by(move |a, b| cell(a.0) == cell(b.0)).map(move |chunk| (cell(chunk[0].0), chunk))
}

/// The cells of the gate that a prefix touches.
fn cells(prefix: Ipv4Net) -> std::ops::Range<u32> {
    let cell = |address: std::net::Ipv4Addr| u32::from(address) >> (32 - CELL_LENGTH);
    cell(prefix.network())..cell(prefix.broadcast()) + 1
}

/// The addresses of a prefix within its cell.
fn within_cell(prefix: Ipv4Net) -> std::ops::RangeInclusive<usize> {
    let index = |address: std::net::Ipv4Addr| u32::from(address) as usize % CELL_ADDRESSES;
    index(prefix.network())..=index(prefix.broadcast())
}
