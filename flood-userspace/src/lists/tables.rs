//! The kernel's tables of the lists, written so that they say what the books say.
//!
//! What they look like is in `flood_common::lists`. [`Tables::follow`] is told which prefixes of a book have changed,
//! and works out from the book what holds now for each address there: an address is on a list until the latest end
//! of all entries that cover it. Every write is one word, from what held to what holds, and they come in this order:
//!
//! 1. prefixes up to /24 that are new are painted,
//! 2. single IPv4 addresses are taken out: the gate first, then the word,
//! 3. single IPv4 addresses are put in: the word first, then the gate,
//! 4. prefixes up to /24 that are gone are painted over, except where others lie within,
//!
//! and for IPv6 what is new, then what is gone. So no address that is on a list before and after is off it in
//! between, and a list can be exchanged for another without room for both (IPv6 needs it: the hash map has it).

mod buckets;
mod gate;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::SystemTime,
};

use flood_common::{
    address::Address,
    lists::{
        self, CELL_LENGTH, CELL_LENGTH_V6, CLOSER, LENGTH_STEP, NEVER, Prefix, cell_v6, everywhere,
        length_bit, word,
    },
    meter::WAYS,
    place::Seeds,
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Book, Books, Edit, ListKind, Places, book::Walk};
use buckets::{Buckets, USABLE};

pub use buckets::NoPlace;

/// Addresses in a cell of the IPv4 gate.
const CELL_ADDRESSES: usize = 1 << (32 - CELL_LENGTH);

/// Where the tables are: in the kernel, or for tests in ordinary memory.
pub trait Memory {
    /// Why an IPv6 prefix could not be written.
    type Error: From<NoPlace>;

    /// The words of both gates.
    fn gates(&self) -> &[AtomicU64];
    /// The buckets of IPv4 addresses.
    fn buckets(&self) -> &[AtomicU64];
    /// Writes the words of IPv6 prefixes, one for each list.
    fn set_prefixes(&mut self, prefixes: &[Prefix], words: &[[u64; 2]]) -> Result<(), Self::Error>;
    /// Removes IPv6 prefixes, as far as they are there.
    fn unset_prefixes(&mut self, prefixes: &[Prefix]) -> Result<(), Self::Error>;
}

/// What is chosen when the tables are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    /// Secrets.
    pub seeds: Seeds,
    /// Binary logarithm of the number of buckets of IPv4 addresses.
    pub bucket_bits: u32,
    /// Binary logarithm of the number of cells of the IPv6 gate: two for each prefix.
    pub cell_bits: u32,
}

impl Layout {
    /// Memory that is always taken: gates, buckets, and the kernel's table of its hash map.
    pub fn bytes(&self) -> u64 {
        /// A lock and the head of a list for each element that there may be (kernel/bpf/hashtab.c, `struct bucket`).
        const HASH_BUCKET: u64 = 16;

        let words = u64::from(lists::gate_words(self.cell_bits)) + ((WAYS as u64) << self.bucket_bits);
        words * size_of::<u64>() as u64 + (HASH_BUCKET << self.cell_bits)
    }

    /// What fits.
    pub fn capacity(&self) -> Places {
        Places { ipv4: USABLE << self.bucket_bits, ipv6: 1 << (self.cell_bits - 1) }
    }
}

/// Two clocks at one moment, for the ends of entries.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The wall clock.
    pub wall: SystemTime,
    /// The filter's, nanoseconds.
    pub filter_ns: u64,
}

impl Moment {
    /// The end of an entry, as the tables have it.
    fn end(&self, expires: Option<SystemTime>) -> u64 {
        let Some(at) = expires else { return NEVER };
        let ahead = match at.duration_since(self.wall) {
            Ok(ahead) if !ahead.is_zero() => u64::try_from(ahead.as_nanos()),
            Ok(_) | Err(_) => return lists::end(0), // long ago
        };
        lists::end(ahead.map_or(u64::MAX, |ahead| self.filter_ns.saturating_add(ahead)))
    }
}

/// The tables.
pub struct Tables<M> {
    memory: M,
    layout: Layout,
    /// The IPv6 prefixes in the tables.
    prefixes: HashMap<Prefix, [u64; 2]>,
    /// How many of them are behind a length in a word of the gate.
    lengths: HashMap<(u32, u64), u32>,
}

impl<M: Memory> Tables<M> {
    /// Tables in memory that is empty.
    pub fn new(memory: M, layout: Layout) -> Self {
        Self { memory, layout, prefixes: HashMap::new(), lengths: HashMap::new() }
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
    /// only whether it needs the gate to stay open.
    pub fn follow(
        &mut self,
        books: &Books,
        kind: ListKind,
        edit: &Edit,
        moment: &Moment,
    ) -> Result<(), M::Error> {
        let book = books.book(kind);
        let (mut painted, mut single, mut ipv6) = (Vec::new(), Vec::new(), Vec::new());
        for (prefix, _) in edit.changes() {
            match prefix {
                IpNet::V4(v4) if u32::from(v4.prefix_len()) <= CELL_LENGTH => painted.push(*v4),
                IpNet::V4(v4) => single.push(*v4),
                IpNet::V6(v6) => ipv6.push(*v6),
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
        self.follow_v6(book, kind, &ipv6, moment)
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
            if !ListKind::ALL.into_iter().any(|kind| has_single(books.book(kind), cell)) {
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

    fn follow_v6(
        &mut self,
        book: &Book,
        kind: ListKind,
        changed: &[Ipv6Net],
        moment: &Moment,
    ) -> Result<(), M::Error> {
        let index = kind as usize;
        let (mut set, mut set_to, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for prefix in changed.iter().flat_map(|prefix| expanded(*prefix)) {
            let before = self.prefixes.get(&prefix).copied();
            let mut words = before.unwrap_or_default();
            words[index] = match end_v6(book, &prefix, moment) {
                Some(end) => word(0, kind.bit(), end),
                None => 0,
            };
            if words == [0, 0] {
                gone.push(prefix);
            } else if before != Some(words) {
                // Noted before it is written: whatever becomes of that, it can be undone.
                self.note(prefix, words);
                set.push(prefix);
                set_to.push(words);
            }
        }
        self.memory.set_prefixes(&set, &set_to)?;
        for prefix in set {
            let (gate, length) = self.behind(&prefix);
            self.memory.gates()[gate as usize].fetch_or(length, Ordering::Release);
        }
        gone.retain(|prefix| self.forget(prefix));
        self.memory.unset_prefixes(&gone)
    }

    fn note(&mut self, prefix: Prefix, words: [u64; 2]) {
        if self.prefixes.insert(prefix, words).is_none() {
            *self.lengths.entry(self.behind(&prefix)).or_default() += 1;
        }
    }

    /// Closes the gate behind which a prefix was the last. Returns whether the prefix was there.
    fn forget(&mut self, prefix: &Prefix) -> bool {
        if self.prefixes.remove(prefix).is_none() {
            return false;
        }
        let (gate, length) = self.behind(prefix);
        if let Some(count) = self.lengths.get_mut(&(gate, length)) {
            *count -= 1;
            if *count == 0 {
                self.lengths.remove(&(gate, length));
                self.memory.gates()[gate as usize].fetch_and(!length, Ordering::Release);
            }
        }
        true
    }

    /// The word of the gate that a prefix is behind, and what stands there for its length.
    fn behind(&self, prefix: &Prefix) -> (u32, u64) {
        let Layout { seeds, cell_bits, .. } = &self.layout;
        let length = prefix.length as u32;
        let gate = if length < CELL_LENGTH_V6 {
            everywhere(*cell_bits)
        } else {
            cell_v6(seeds, prefix.network, *cell_bits)
        };
        (gate, length_bit(length))
    }
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

/// The prefixes of the next length that is looked up, of which this one is made.
fn expanded(prefix: Ipv6Net) -> impl Iterator<Item = Prefix> {
    let length = u32::from(prefix.prefix_len()).next_multiple_of(LENGTH_STEP);
    let parts = 1u128 << (length - u32::from(prefix.prefix_len()));
    let first = u128::from(prefix.network());
    (0..parts).map(move |part| {
        // A shift of 128 bits occurs only for part 0 of ::/0.
        let address = first | part.checked_shl(128 - length).unwrap_or(0);
        Prefix::around((address >> 64) as u64, address as u64, length)
    })
}

/// Until when a prefix is on the list by the entries that are looked up in its length; nothing if it is not.
fn end_v6(book: &Book, prefix: &Prefix, moment: &Moment) -> Option<u64> {
    let address = Address::V6 { network: prefix.network, interface: prefix.interface };
    let length = prefix.length as u8;
    let prefix = IpNet::new_assert(address.into(), length);
    let shorter = u32::from(length).saturating_sub(LENGTH_STEP);
    let looked_up_here =
        book.cover(prefix).filter(|(entry, _)| length == 0 || u32::from(entry.prefix_len()) > shorter);
    looked_up_here.map(|(_, entry)| moment.end(entry.expires)).max()
}
