//! Paints the IPv4 gate, its summary and the overview.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use flood_common::lists::{
    ALLOWED, BLOCKED, CELL_BITS, CELL_ONES, CELLS_PER_OVERVIEW, CELLS_PER_WORD, gate_cell, overview,
    overview_cell, overviewed, summary, summary_cell,
};

use super::store;

/// Sets or clears `bit` in a range of cells, one word at a time. Nobody else writes the gate.
///
/// Summary and overview follow. A reader that reads them first never finds less than was there before or is there
/// now.
pub(super) fn paint(gates: &[AtomicU64], cells: Range<u32>, bit: u64, on: bool) {
    let mut cell = cells.start;
    let mut changed = false;
    while cell < cells.end {
        let first = cell / CELLS_PER_WORD * CELLS_PER_WORD;
        let end = cells.end.min(first + CELLS_PER_WORD);
        let width = (end - cell) * CELL_BITS;
        let (word, skipped) = gate_cell(cell);
        let mask = (CELL_ONES * bit) & (u64::MAX >> (u64::BITS - width) << skipped);
        if let Some(painted) = change(&gates[word as usize], mask, if on { mask } else { 0 }) {
            let (word, shift) = summary_cell(first);
            change(&gates[word as usize], u64::from(u32::MAX) << shift, summary(painted) << shift);
            changed = true;
        }
        if changed && (end == cells.end || end.is_multiple_of(CELLS_PER_OVERVIEW)) {
            let words = overviewed(cell).map(|word| gates[word as usize].load(Ordering::Relaxed));
            let (word, shift) = overview_cell(cell);
            change(&gates[word as usize], (ALLOWED | BLOCKED) << shift, overview(words) << shift);
            changed = false;
        }
        cell = end;
    }
}

/// Changes some bits of a word. Returns the word, if it has changed.
fn change(word: &AtomicU64, mask: u64, bits: u64) -> Option<u64> {
    let old = word.load(Ordering::Relaxed);
    let new = old & !mask | bits;
    (new != old).then(|| store(word, new))?;
    Some(new)
}
