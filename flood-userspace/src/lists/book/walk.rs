//! Traverses a book in the order of prefixes. Where the prefixes lie close together, this goes from entry to
//! entry, which is much faster than a search for each.

use std::{collections::btree_map::Range, iter::Peekable, ops::Bound};

use ipnet::IpNet;

use super::{Book, Entry};

/// This many steps take as long as a search.
const STEPS: usize = 16;

/// Visits the entries within prefixes.
pub struct Walk<'a> {
    book: &'a Book,
    ahead: Peekable<Range<'a, IpNet, Entry>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(book: &'a Book) -> Self {
        Self { book, ahead: book.entries.range(..).peekable() }
    }

    /// Calls `each` with all entries within a prefix, by address, broader before narrower.
    pub fn within(&mut self, prefix: IpNet, mut each: impl FnMut(IpNet, &'a Entry)) {
        let mut steps = 0;
        while self.ahead.next_if(|(at, _)| **at < prefix).is_some() {
            steps += 1;
            if steps == STEPS {
                self.ahead = self.book.entries.range(prefix..).peekable();
            }
        }
        while let Some((at, entry)) = self.ahead.next_if(|(at, _)| prefix.contains(*at)) {
            each(*at, entry);
        }
    }
}

/// Visits the entries that cover prefixes, to find the maximum of a number that each entry has.
pub struct Above<'a, F> {
    book: &'a Book,
    number: F,
    ahead: Peekable<Range<'a, IpNet, Entry>>,
    /// The entries that cover the last prefix, broadest first, each with the maximum up to it.
    above: Vec<(IpNet, u32)>,
}

impl<'a, F: Fn(IpNet, &Entry) -> u32> Above<'a, F> {
    /// Starts before all prefixes.
    pub fn new(book: &'a Book, number: F) -> Self {
        Self { book, number, ahead: book.entries.range(..).peekable(), above: Vec::new() }
    }

    /// Returns the maximum over the entries that cover a prefix: over shorter ones only, and over all. 0 if there
    /// is none. Prefixes must be passed in order.
    pub fn at(&mut self, prefix: IpNet) -> [u32; 2] {
        while self.above.pop_if(|(above, _)| !above.contains(&prefix)).is_some() {}
        let mut steps = 0;
        while let Some((at, entry)) = self.ahead.next_if(|(at, _)| **at <= prefix) {
            if at.contains(&prefix) {
                self.push(*at, entry);
            }
            steps += 1;
            if steps == STEPS {
                self.search(prefix);
                break;
            }
        }
        match self.above.as_slice() {
            [] => [0, 0],
            [.., (_, shorter), (last, all)] if *last == prefix => [*shorter, *all],
            [(last, all)] if *last == prefix => [0, *all],
            [.., (_, all)] => [*all, *all],
        }
    }

    fn search(&mut self, prefix: IpNet) {
        self.above.clear();
        for (at, entry) in self.book.cover(prefix) {
            self.push(at, entry);
        }
        self.ahead = self.book.entries.range((Bound::Excluded(prefix), Bound::Unbounded)).peekable();
    }

    fn push(&mut self, at: IpNet, entry: &Entry) {
        let above = self.above.last().map_or(0, |(_, number)| *number);
        self.above.push((at, above.max((self.number)(at, entry))));
    }
}
