//! The lists, with the tables that follow them.

use flood_common::abi::PROVEN_PREFIXES;
use thiserror::Error;

use super::{
    Book, Edit, ListKind, Places,
    tables::{Memory, Moment, NoPlace, Tables},
};

/// All books.
#[derive(Debug, Clone, Default)]
pub struct Books {
    allow: Book,
    block: Book,
    allow_proven: Book,
}

impl Books {
    /// One of them.
    pub fn book(&self, kind: ListKind) -> &Book {
        match kind {
            ListKind::Allow => &self.allow,
            ListKind::Block => &self.block,
            ListKind::AllowProven => &self.allow_proven,
        }
    }

    fn book_mut(&mut self, kind: ListKind) -> &mut Book {
        match kind {
            ListKind::Allow => &mut self.allow,
            ListKind::Block => &mut self.block,
            ListKind::AllowProven => &mut self.allow_proven,
        }
    }

    /// The places that those take in which each packet is looked up.
    pub fn places(&self) -> Places {
        self.allow.places().plus(self.block.places())
    }
}

/// More than fits into the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the lists have no room for this: {what} would take {needed} places, and {room} are free of {capacity}; nothing is \
     changed. Raise `{key}`, or join entries to shorter prefixes"
)]
pub struct Full {
    /// What takes places.
    pub what: &'static str,
    /// The key of the configuration that says how many there are.
    pub key: &'static str,
    /// Places that are wanted in addition.
    pub needed: u64,
    /// Places that are free.
    pub room: u64,
    /// Places that there are.
    pub capacity: u64,
}

/// Why a list stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EditError {
    /// There is no room.
    #[error(transparent)]
    Full(#[from] Full),
    /// There are too many of another kind of entry.
    #[error(
        "the list allow-proven has room for {PROVEN_PREFIXES} prefixes, and this would make {0}; nothing is changed. Join entries \
         to shorter prefixes"
    )]
    TooMany(usize),
    /// No place has been found.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
}

impl EditError {
    /// Whether a list would have so many entries that it does not take them.
    pub fn of_many(kind: ListKind, entries: usize) -> Option<Self> {
        (kind == ListKind::AllowProven && entries > PROVEN_PREFIXES as usize)
            .then_some(Self::TooMany(entries))
    }
}

/// All books, and the tables that say what they say; but for allow-proven, which has none here ([`proven`](super::proven)).
pub struct Lists<M> {
    books: Books,
    tables: Tables<M>,
}

impl<M: Memory> Lists<M> {
    /// Empty lists.
    pub fn new(tables: Tables<M>) -> Self {
        Self { books: Books::default(), tables }
    }

    /// One of the lists.
    pub fn book(&self, kind: ListKind) -> &Book {
        self.books.book(kind)
    }

    /// All.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// The tables.
    pub fn tables(&self) -> &Tables<M> {
        &self.tables
    }

    /// Changes a list, in the book and in the tables: all of it, or nothing. Returns the edit that undoes it.
    pub fn edit(&mut self, kind: ListKind, edit: Edit, moment: &Moment) -> Result<Edit, EditError> {
        if kind == ListKind::AllowProven {
            return self.edit_proven(edit);
        }
        self.check_room(kind, &edit)?;
        let undo = self.books.book_mut(kind).swap(edit);
        if let Err(error) = self.tables.follow(&self.books, kind, &undo, moment) {
            let undone = self.books.book_mut(kind).swap(undo);
            // The first error says it already, and what is undone needs no room.
            let _ = self.tables.follow(&self.books, kind, &undone, moment);
            return Err(error);
        }
        Ok(undo)
    }

    fn edit_proven(&mut self, edit: Edit) -> Result<Edit, EditError> {
        let book = self.books.book_mut(ListKind::AllowProven);
        let undo = book.swap(edit);
        let entries = book.len_ipv4() + book.len_ipv6();
        if let Some(error) = EditError::of_many(ListKind::AllowProven, entries) {
            book.swap(undo);
            return Err(error);
        }
        Ok(undo)
    }

    fn check_room(&self, kind: ListKind, edit: &Edit) -> Result<(), Full> {
        let (taken, capacity) = (self.books.places(), self.tables.layout().capacity());
        let most = taken.plus(edit.places());
        if most.ipv4 <= capacity.ipv4 && most.ipv6 <= capacity.ipv6 {
            return Ok(());
        }
        // Some of it may be there, or other entries may make room for it.
        let (before, after) = (self.book(kind).places(), self.book(kind).places_after(edit));
        let ipv4 = (before.ipv4, after.ipv4, taken.ipv4, capacity.ipv4);
        let ipv6 = (before.ipv6, after.ipv6, taken.ipv6, capacity.ipv6);
        for (what, key, (before, after, taken, capacity)) in [
            ("IPv4 addresses in prefixes longer than /24", "lists.ipv4", ipv4),
            ("IPv6 prefixes", "lists.ipv6", ipv6),
        ] {
            let room = capacity.saturating_sub(taken);
            if after > before && after - before > room {
                return Err(Full { what, key, needed: after - before, room, capacity });
            }
        }
        Ok(())
    }
}
