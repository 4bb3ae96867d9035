//! Writes the kernel's IPv6 list tables so that they match the books.
//!
//! [`Ipv6::plan`] works out what an edit changes, and writes nothing: which nodes are affected
//! ([`population`](super::population)), and what each of their words must say, namely until when its prefix is on
//! the lists by all entries that cover it. [`Ipv6::apply`] writes it:
//!
//! 1. It inserts what is new. Until step 3, every affected word also says what it said before.
//! 2. It makes searches in progress start again.
//! 3. It removes what is gone, and reduces every word to what it must say.
//!
//! So a search finds at least all of the old state, or all of the new one. An entry that says no more than shorter
//! ones do is left out: whatever lies within a prefix that is blocked without end costs nothing.

use std::{collections::BTreeMap, net::Ipv6Addr, ops::Range};

use flood_common::{
    lists::ipv6::{self, CELL_LENGTH},
    place::prefix_hash,
};
use ipnet::{IpNet, Ipv6Net};

use super::{
    Moment, NoPlace,
    nodes::{AllFull, Key, NodeTable, State, Words},
    population::{Guests, Moves, Population, Prefix},
    store,
};
use crate::lists::{Book, Books, Edit, Entry, Full, ListKind, book::Above};

/// Until when something is on each list: 0 if it is not, `u32::MAX` if without end.
type Ends = [u32; 2];

/// On neither list.
const NONE: Ends = [0, 0];

/// State needed to write the tables, besides their content.
pub(super) struct Ipv6 {
    table: NodeTable,
    population: Population,
    /// The entries that are in cells.
    short: BTreeMap<Prefix, Ends>,
    /// Keys of the prefix hash.
    keys: [u64; 4],
    /// Maximum number of buckets.
    buckets: u32,
}

/// Changes to the tables that follow from an edit.
#[derive(Default)]
pub(super) struct Plan {
    writes: Vec<Write>,
    gone: Vec<Key>,
    /// Cells by number, with their new content.
    cells: Vec<(u32, u64)>,
    /// Number of words that do not exist yet.
    new: usize,
}

/// A word, with its content while the tables change, and afterwards.
struct Write {
    prefix: Prefix,
    key: Key,
    meanwhile: State,
    after: State,
}

/// A prefix that may have a word, and until when it is on the lists.
struct Said {
    prefix: Prefix,
    /// By shorter entries, except those in cells.
    shorter: Ends,
    /// By all entries, except those in cells.
    after: Ends,
    /// By all entries, including those that the edit has taken out.
    meanwhile: Ends,
}

impl Ipv6 {
    /// Creates tables in empty memory.
    pub(super) fn new(words: Words<'_>, keys: [u64; 4], buckets: u32) -> Self {
        let table = NodeTable::new(words);
        Self { table, population: Population::default(), short: BTreeMap::new(), keys, buckets }
    }

    /// Works out what an edit of the list `kind` changes. `undo` undoes the edit; the books are in the state after
    /// it.
    pub(super) fn plan(
        &mut self,
        words: Words<'_>,
        books: &Books,
        kind: ListKind,
        undo: &Edit,
        moment: &Moment,
    ) -> Result<Plan, Full> {
        let mut plan = Plan::default();
        let (mut cells, mut long, mut before) = (Vec::new(), Vec::new(), Vec::new());
        for (prefix, entry) in changes(books.book(kind), undo) {
            cells.push(cells_of(prefix));
            if prefix.length() > CELL_LENGTH {
                long.push(prefix);
                before.extend(entry.map(|entry| (IpNet::V6(net(prefix)), entry.clone())));
            } else {
                self.plan_short(words, &mut plan, books, prefix, moment);
            }
        }
        let mut book_before = Book::default();
        book_before.swap(Edit::put(before));
        let before = (kind, &book_before);
        let moves = self.concerned(&long, books, before, moment);
        self.plan_nodes(words, &mut plan, &moves.nodes, books, before, moment);
        for (length, entry) in moves.left {
            let node = Prefix::around(entry.address, length);
            if !matches!(self.population.guests(node), Guests::Lodgers(lodgers) if lodgers.contains(&entry)) {
                plan.gone.push(self.entry_key(node, entry));
            }
        }
        plan.cells = self.plan_cells(cells);
        plan.new = match self.table.used() {
            0 => plan.writes.len(),
            _ => plan.writes.iter().filter(|write| NodeTable::get(words, write.key).is_none()).count(),
        };
        self.check_room(plan)
    }

    fn check_room(&self, plan: Plan) -> Result<Plan, Full> {
        let capacity = NodeTable::most(self.buckets);
        let room = capacity.saturating_sub(self.table.used());
        if plan.new <= room {
            return Ok(plan);
        }
        Err(Full {
            what: "words for IPv6 prefixes, old and new ones together,",
            key: "lists.ipv6",
            needed: plan.new as u64,
            room: room as u64,
            capacity: capacity as u64,
            kept: 0,
        })
    }

    /// Plans an entry of a cell: the table only has its expiry, if it has one.
    fn plan_short(
        &mut self,
        words: Words<'_>,
        plan: &mut Plan,
        books: &Books,
        prefix: Prefix,
        moment: &Moment,
    ) {
        let ends = ListKind::OF_EACH_PACKET.map(|kind| {
            let entry = books.book(kind).get(IpNet::V6(net(prefix)));
            entry.map_or(0, |entry| end(moment, entry))
        });
        if ends == NONE {
            self.short.remove(&prefix);
        } else {
            self.short.insert(prefix, ends);
        }
        let key = self.node_key(prefix);
        let after = State { ends: ends.map(|end| if end == u32::MAX { 0 } else { end }), offsets: 0 };
        if after == State::default() {
            plan.gone.push(key);
        } else {
            let meanwhile = NodeTable::get(words, key).unwrap_or_default().or(after);
            plan.writes.push(Write { prefix, key, meanwhile, after });
        }
    }

    /// Returns the nodes whose words may differ after changes of these sorted prefixes, and the entries that have
    /// left their nodes.
    fn concerned(
        &mut self,
        changed: &[Prefix],
        books: &Books,
        before: (ListKind, &Book),
        moment: &Moment,
    ) -> Moves {
        let is_first = self.population.is_empty();
        let mut walks = ListKind::OF_EACH_PACKET.map(|kind| books.book(kind).walk());
        let (mut entries, mut around) = (changed.to_vec(), Vec::new());
        let mut last: Option<Prefix> = None;
        for prefix in changed {
            if last.is_some_and(|last| last.contains(*prefix)) {
                continue; // already covered with that prefix
            }
            last = Some(*prefix);
            let first = entries.len();
            for walk in &mut walks {
                let mut add = |at| entries.extend(prefix_of(at).filter(|at| at != prefix));
                walk.within(IpNet::V6(net(*prefix)), |at, _| add(at));
            }
            if entries.len() > first {
                around.push(*prefix);
            }
        }
        entries.sort_unstable();
        entries.dedup();
        let mut moves = Moves::default();
        for Said { prefix, shorter, after, meanwhile: _ } in said(&entries, books, before, moment) {
            match (self.population.contains(prefix), after != shorter) {
                (false, true) => self.population.insert(prefix, &mut moves),
                (true, false) => self.population.remove(prefix, &mut moves),
                (false, false) | (true, true) => {}
            }
        }
        if !is_first {
            moves.nodes.extend(changed.iter().map(|prefix| self.population.home(*prefix)));
            for prefix in around {
                moves.nodes.extend(self.population.nodes_within(prefix));
            }
        }
        moves.nodes.sort_unstable();
        moves.nodes.dedup();
        moves
    }

    /// Plans the words of these nodes, which are sorted.
    fn plan_nodes(
        &self,
        words: Words<'_>,
        plan: &mut Plan,
        nodes: &[Prefix],
        books: &Books,
        before: (ListKind, &Book),
        moment: &Moment,
    ) {
        let guests: Vec<Guests> = nodes.iter().map(|node| self.population.guests(*node)).collect();
        let mut prefixes = Vec::with_capacity(2 * nodes.len());
        for (node, guests) in nodes.iter().zip(&guests) {
            prefixes.push(*node);
            if let Guests::Lodgers(lodgers) = guests {
                prefixes.extend(lodgers.iter().filter(|lodger| *lodger != node));
            }
        }
        let mut said = said(&prefixes, books, before, moment).into_iter();
        for (node, guests) in nodes.iter().zip(&guests) {
            let Some(of_node) = said.next() else { return };
            match guests {
                Guests::Crowd(offsets) => plan.writes.push(self.write_node(&of_node, *offsets)),
                Guests::Lodgers(lodgers) => {
                    for lodger in lodgers.iter().filter(|lodger| *lodger != node) {
                        let Some(of_lodger) = said.next() else { return };
                        plan.writes.push(of_lodger.write(self.entry_key(*node, *lodger), 0));
                    }
                    // So that a search that matches none of them need not look for shorter ones.
                    if !lodgers.is_empty() && of_node.after != NONE {
                        plan.writes.push(self.write_node(&of_node, 0));
                    } else if NodeTable::get(words, self.node_key(*node)).is_some() {
                        // Until it is gone it says all there is here, for searches that stop at it.
                        plan.writes.push(self.write_node(&of_node, 0));
                        plan.gone.push(self.node_key(*node));
                    }
                }
            }
        }
    }

    fn write_node(&self, said: &Said, offsets: u32) -> Write {
        said.write(self.node_key(said.prefix), offsets)
    }

    fn plan_cells(&self, mut ranges: Vec<Range<u32>>) -> Vec<(u32, u64)> {
        ranges.sort_unstable_by_key(|range| (range.start, range.end));
        let mut lengths: Vec<u32> = self.short.keys().map(|prefix| prefix.length()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        let mut next = 0;
        let cells = ranges.into_iter().flat_map(|range| {
            let first = range.start.max(next);
            next = next.max(range.end);
            first..range.end
        });
        cells.map(|cell| (cell, self.cell(cell, &lengths))).collect()
    }

    /// Returns the content of a cell, where entries in cells have these lengths.
    fn cell(&self, number: u32, lengths: &[u32]) -> u64 {
        let cell = Prefix::around(u128::from(number) << (128 - CELL_LENGTH), CELL_LENGTH);
        let mut latest: [(u32, Option<u32>); 2] = [(0, None); 2];
        for length in lengths {
            let Some(ends) = self.short.get(&Prefix::around(cell.address, *length)) else { continue };
            for (latest, end) in latest.iter_mut().zip(ends) {
                *latest = (*latest).max((*end, Some(*length)));
            }
        }
        let kinds = ListKind::OF_EACH_PACKET.into_iter().zip(latest).filter(|(_, (end, _))| *end == u32::MAX);
        let kinds = kinds.map(|(kind, _)| kind.bit()).sum();
        let ending = latest.map(|(end, length)| length.filter(|_| end != 0 && end != u32::MAX));
        ipv6::cell(kinds, self.population.offsets(cell), ending)
    }

    /// Writes the plan. A kernel search finds at least all of the old state, or all of the new one.
    pub(super) fn apply(&mut self, words: Words<'_>, mut plan: Plan) -> Result<(), NoPlace> {
        self.table.grow(words, plan.new, self.buckets);
        for write in &mut plan.writes {
            let before = NodeTable::get(words, write.key).unwrap_or_default();
            write.meanwhile.offsets |= before.offsets;
            self.set(words, write.prefix, write.key, write.meanwhile)?;
        }
        for (cell, after) in &plan.cells {
            change_cell(words, *cell, |before| ipv6::cell_meanwhile(before, *after));
        }
        plan.writes.retain(|write| write.after != write.meanwhile);
        NodeTable::next_edition(words);
        for (cell, after) in &plan.cells {
            change_cell(words, *cell, |_| *after);
        }
        for write in &plan.writes {
            self.set(words, write.prefix, write.key, write.after)?;
        }
        for key in plan.gone {
            self.table.unset(words, key);
        }
        self.table.shrink(words);
        Ok(())
    }

    fn set(&mut self, words: Words<'_>, prefix: Prefix, key: Key, state: State) -> Result<(), NoPlace> {
        while let Err(AllFull) = self.table.set(words, key, state) {
            if !self.table.grow_further(words, self.buckets) {
                return Err(NoPlace { prefix: IpNet::V6(net(prefix)) });
            }
        }
        Ok(())
    }

    fn hash(&self, prefix: Prefix) -> u64 {
        prefix_hash(|number| self.keys[number], prefix.halves(), prefix.length())
    }

    fn node_key(&self, node: Prefix) -> Key {
        let hash = self.hash(node);
        let mark = ipv6::mark(hash, node.length(), node.halves(), node.length());
        Key { hash, word: ipv6::node_word(hash), mark }
    }

    fn entry_key(&self, node: Prefix, entry: Prefix) -> Key {
        let hash = self.hash(node);
        let mark = ipv6::mark(hash, node.length(), entry.halves(), entry.length());
        Key { hash, word: ipv6::entry_word(hash, self.hash(entry), entry.length()), mark }
    }
}

impl Said {
    fn write(&self, key: Key, offsets: u32) -> Write {
        let state = |ends| State { ends, offsets };
        Write { prefix: self.prefix, key, meanwhile: state(self.meanwhile), after: state(self.after) }
    }
}

/// Returns the IPv6 prefixes for which an edit makes a difference to packets, with what the book had for them
/// before.
fn changes<'a>(book: &'a Book, undo: &'a Edit) -> impl Iterator<Item = (Prefix, Option<&'a Entry>)> {
    undo.before(book, IpNet::V6(Ipv6Net::default())).filter_map(|(prefix, before)| {
        let expires = |entry: Option<&Entry>| entry.map(|entry| entry.expires);
        let differs = expires(book.get(prefix)) != expires(before);
        differs.then_some((prefix_of(prefix)?, before))
    })
}

/// Returns what the books, and the earlier state of one of them, say about prefixes, in the order of the prefixes.
fn said(prefixes: &[Prefix], books: &Books, before: (ListKind, &Book), moment: &Moment) -> Vec<Said> {
    let (kind, before) = before;
    let mut order: Vec<usize> = (0..prefixes.len()).collect();
    order.sort_by_key(|index| prefixes[*index]);
    let end = |prefix: IpNet, entry: &Entry| match u32::from(prefix.prefix_len()) {
        ..=CELL_LENGTH => 0, // the cell says it
        _ => end(moment, entry),
    };
    let [mut allow, mut block] = ListKind::OF_EACH_PACKET.map(|kind| Above::new(books.book(kind), end));
    let mut before = Above::new(before, end);
    let nothing = |prefix: &Prefix| Said { prefix: *prefix, shorter: NONE, after: NONE, meanwhile: NONE };
    let mut said: Vec<Said> = prefixes.iter().map(nothing).collect();
    for index in order {
        let said = &mut said[index];
        let net = IpNet::V6(net(said.prefix));
        let ([shorter_allow, all_allow], [shorter_block, all_block]) = (allow.at(net), block.at(net));
        said.shorter = [shorter_allow, shorter_block];
        said.after = [all_allow, all_block];
        said.meanwhile = said.after;
        let [_, all_before] = before.at(net);
        said.meanwhile[kind as usize] = said.meanwhile[kind as usize].max(all_before);
    }
    said
}

fn end(moment: &Moment, entry: &Entry) -> u32 {
    ipv6::end(moment.end(entry.expires))
}

fn prefix_of(net: IpNet) -> Option<Prefix> {
    match net {
        IpNet::V4(_) => None,
        IpNet::V6(net) => Some(Prefix::around(net.addr().to_bits(), net.prefix_len().into())),
    }
}

fn net(prefix: Prefix) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from_bits(prefix.address), prefix.length)
}

/// Returns the cells that a prefix touches.
fn cells_of(prefix: Prefix) -> Range<u32> {
    let (first, last) = prefix.addresses().into_inner();
    let cell = |address: u128| (address >> (128 - CELL_LENGTH)) as u32;
    cell(first)..cell(last) + 1
}

fn change_cell(words: Words<'_>, cell: u32, change: impl FnOnce(u64) -> u64) {
    let (word, shift) = ipv6::cell_at(cell);
    let word = &words.gates[word as usize];
    let before = word.load(std::sync::atomic::Ordering::Relaxed);
    let mask = ipv6::CELL_MASK << shift;
    let after = before & !mask | change((before & mask) >> shift) << shift;
    if after != before {
        store(word, after);
    }
}
