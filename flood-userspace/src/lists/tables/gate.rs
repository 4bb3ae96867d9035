//! Painting the IPv4 gate.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use flood_common::lists::{CELL_BITS, CELLS_PER_WORD};

/// A one in each cell of a word.
const ONES: u64 = u64::MAX / ((1 << CELL_BITS) - 1);

/// Sets or clears `bit` in a range of cells, a word at a time. Nobody else writes the gate.
pub(super) fn paint(gates: &[AtomicU64], cells: Range<u32>, bit: u64, on: bool) {
    let mut cell = cells.start;
    while cell < cells.end {
        let word = cell / CELLS_PER_WORD;
        let end = cells.end.min((word + 1) * CELLS_PER_WORD);
        let skipped = cell % CELLS_PER_WORD * CELL_BITS;
        let width = (end - cell) * CELL_BITS;
        let mask = (ONES * bit) & (u64::MAX >> (u64::BITS - width) << skipped);
        let word = &gates[word as usize];
        let old = word.load(Ordering::Relaxed);
        let new = if on { old | mask } else { old & !mask };
        if new != old {
            word.store(new, Ordering::Release);
        }
        cell = end;
    }
}
