//! The lists, with the tables that mirror them.

use std::fmt;

use flood_common::abi::PROVEN_PREFIXES;
use thiserror::Error;

use super::{
    Book, Edit, ListKind, Origin, Places,
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
    /// Returns one of the books.
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

    /// Returns the places taken by the two lists in which each packet is looked up.
    pub fn places(&self) -> Places {
        self.allow.places().plus(self.block.places())
    }
}

/// Places are reserved in sixteenths.
const PARTS: u64 = 16;

/// Returns how many sixteenths of all places an edit may use: all if it was typed, at run time or in the
/// configuration. One sixteenth is closed to files, imports and feeds, so that they cannot block an operator;
/// another is closed to those of the block list, so that they cannot block the allow list.
fn parts(kind: ListKind, edit: &Edit) -> u64 {
    let mut puts = edit.changes().iter().filter_map(|(_, change)| change.put());
    let is_typed = puts.all(|entry| matches!(*entry.note.origin, Origin::Operator | Origin::Config));
    match (is_typed, kind) {
        (true, _) => PARTS,
        (false, ListKind::Allow | ListKind::AllowProven) => PARTS - 1,
        (false, ListKind::Block) => PARTS - 2,
    }
}

/// The edit does not fit into the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub struct Full {
    /// What would take the places.
    pub what: &'static str,
    /// The configuration key that sets the number of places.
    pub key: &'static str,
    /// Additional places needed.
    pub needed: u64,
    /// Places that are free for this edit.
    pub room: u64,
    /// Total places.
    pub capacity: u64,
    /// Places reserved for typed entries and for the allow list.
    pub kept: u64,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, key, needed, room, capacity, kept } = self;
        write!(
            f,
            "the lists have no room for this: {what} would take {needed} places, and {room} are free of {capacity}"
        )?;
        if *kept > 0 {
            write!(f, ", of which {kept} are kept for what is typed and for the allow list")?;
        }
        write!(f, "; nothing is changed. Raise `{key}`, or join entries to shorter prefixes")
    }
}

/// Why a list was not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EditError {
    /// There is no room in the tables.
    #[error(transparent)]
    Full(#[from] Full),
    /// There are too many allow-proven prefixes.
    #[error(
        "the list allow-proven has room for {most} prefixes, and this would make {prefixes}; nothing is changed. Join \
         entries to shorter prefixes"
    )]
    TooMany {
        /// Number of prefixes after the edit.
        prefixes: usize,
        /// Maximum number.
        most: u64,
    },
    /// No place was found for a word.
    #[error(transparent)]
    NoPlace(#[from] NoPlace),
}

/// Checks that all edits fit into empty lists with this capacity.
pub fn check_room(edits: &[(ListKind, &Edit)], capacity: Places) -> Result<(), EditError> {
    let mut taken = Places::default();
    for (kind, edit) in edits {
        if *kind == ListKind::AllowProven {
            check_proven(edit, edit.prefixes().count())?;
        } else {
            let after = taken.plus(edit.places());
            check_places(*kind, edit, [taken, after], taken, capacity)?;
            taken = after;
        }
    }
    Ok(())
}

/// Checks that there is room for an edit that changes the places of a list from `before` to `after`, where both
/// lists together take `taken`.
fn check_places(
    kind: ListKind,
    edit: &Edit,
    [before, after]: [Places; 2],
    taken: Places,
    capacity: Places,
) -> Result<(), Full> {
    let parts = parts(kind, edit);
    let ipv4 = (before.ipv4, after.ipv4, taken.ipv4, capacity.ipv4);
    let ipv6 = (before.ipv6, after.ipv6, taken.ipv6, capacity.ipv6);
    for (what, key, (before, after, taken, capacity)) in [
        ("IPv4 addresses in prefixes longer than /24", "lists.ipv4", ipv4),
        ("IPv6 prefixes", "lists.ipv6", ipv6),
    ] {
        let kept = capacity - capacity * parts / PARTS;
        let room = (capacity - kept).saturating_sub(taken);
        if after > before && after - before > room {
            return Err(Full { what, key, needed: after - before, room, capacity, kept });
        }
    }
    Ok(())
}

/// Checks that the allow-proven list may have this many prefixes after an edit.
fn check_proven(edit: &Edit, prefixes: usize) -> Result<(), EditError> {
    let most = u64::from(PROVEN_PREFIXES) * parts(ListKind::AllowProven, edit) / PARTS;
    if prefixes as u64 > most { Err(EditError::TooMany { prefixes, most }) } else { Ok(()) }
}

/// All books, and the tables that mirror them, except that allow-proven has no table here
/// ([`proven`](super::proven)).
pub struct Lists<M> {
    books: Books,
    tables: Tables<M>,
}

impl<M: Memory> Lists<M> {
    /// Creates empty lists.
    pub fn new(tables: Tables<M>) -> Self {
        Self { books: Books::default(), tables }
    }

    /// Returns one of the lists.
    pub fn book(&self, kind: ListKind) -> &Book {
        self.books.book(kind)
    }

    /// Returns all books.
    pub fn books(&self) -> &Books {
        &self.books
    }

    /// Returns the tables.
    pub fn tables(&self) -> &Tables<M> {
        &self.tables
    }

    /// Changes a list, in the book and in the tables: completely, or not at all. Returns the edit that undoes it.
    pub fn edit(&mut self, kind: ListKind, edit: Edit, moment: &Moment) -> Result<Edit, EditError> {
        if kind == ListKind::AllowProven {
            return self.edit_proven(edit);
        }
        self.check_room(kind, &edit)?;
        let undo = self.books.book_mut(kind).swap(edit);
        if let Err(error) = self.tables.follow(&self.books, kind, &undo, moment) {
            let undone = self.books.book_mut(kind).swap(undo);
            // The first error already tells the cause, and undoing needs no room.
            let _ = self.tables.follow(&self.books, kind, &undone, moment);
            return Err(error);
        }
        Ok(undo)
    }

    fn edit_proven(&mut self, edit: Edit) -> Result<Edit, EditError> {
        let book = self.books.book_mut(ListKind::AllowProven);
        let before = book.len_ipv4() + book.len_ipv6();
        let after = book.len_after(&edit);
        if after > before {
            check_proven(&edit, after)?;
        }
        Ok(book.swap(edit))
    }

    fn check_room(&self, kind: ListKind, edit: &Edit) -> Result<(), Full> {
        let (taken, capacity) = (self.books.places(), self.tables.layout().capacity());
        let book = self.book(kind);
        let before = book.places();
        // Some of the entries may already exist, or others in the edit may make room.
        check_places(kind, edit, [before, before.plus(edit.places())], taken, capacity)
            .or_else(|_| check_places(kind, edit, [before, book.places_after(edit)], taken, capacity))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use crate::boot_time::BootTime;

    use super::*;
    use crate::lists::{Entry, Note};

    /// Checks the room for `count` addresses of an origin, where `taken` of 1,600 places are in use.
    fn room(kind: ListKind, origin: Origin, taken: u64, count: u32) -> Result<(), Full> {
        let note = Note { origin: Arc::new(origin), reason: None, added: BootTime::START, added_by: None };
        let entry = Entry { expires: None, note: Arc::new(note) };
        let prefix = |number: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 + number);
        let edit = Edit::put(
            (0..count).map(|number| (std::net::IpAddr::from(prefix(number)).into(), entry.clone())),
        );
        let taken = Places { ipv4: taken, ipv6: 0 };
        let capacity = Places { ipv4: 1_600, ipv6: 1_600 };
        check_places(kind, &edit, [taken, taken.plus(edit.places())], taken, capacity)
    }

    #[test]
    fn full_feeds_leave_room_for_the_operator_and_for_the_allow_list() {
        let feed = || Origin::Feed("drop".parse().unwrap());
        assert_eq!(room(ListKind::Block, feed(), 0, 1_400), Ok(()));
        let full = room(ListKind::Block, feed(), 0, 1_401).unwrap_err();
        assert_eq!((full.needed, full.room, full.capacity, full.kept), (1_401, 1_400, 1_600, 200));
        assert!(full.to_string().contains("of which 200 are kept for what is typed"), "{full}");
        for other in [Origin::File("list".into()), Origin::Import("list".into())] {
            assert!(room(ListKind::Block, other.clone(), 1_400, 1).is_err());
            assert_eq!(room(ListKind::Allow, other, 1_400, 100), Ok(()));
        }
        assert!(room(ListKind::Allow, feed(), 1_500, 1).is_err());
        for typed in [Origin::Operator, Origin::Config] {
            assert_eq!(room(ListKind::Block, typed.clone(), 1_500, 100), Ok(()));
            assert!(room(ListKind::Allow, typed, 1_600, 1).is_err());
        }
    }
}
