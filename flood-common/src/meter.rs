//! Limits: the generic cell rate algorithm in a set-associative table of debts.
//!
//! A limit is a token bucket in its GCRA form (ITU-T I.371, RFC 2697 in other words): a source has one *theoretical
//! arrival time*, TAT, and its debt is how far the TAT lies ahead of now. A packet exceeds the limit if the debt is
//! above the tolerance; otherwise its cost is added to the debt. This gives the table its properties: a slot whose
//! TAT has passed carries no information and is free without being cleared, an exceeding packet writes nothing, and
//! memory is fixed.
//!
//! A slot is one word, `owner:22 | TAT:42` with the TAT in nanoseconds modulo 2^42 (73 minutes), so that one
//! compare-and-swap inserts and charges. User space clears words that have ended, long before they become
//! ambiguous. ARCHITECTURE.md has the reasons and the measurements.
//!
//! Invariant: a source whose debt is more than half of a limit's tolerance is never evicted to make room for
//! another.

#[cfg(not(target_arch = "bpf"))]
use core::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    class::{CLASS_SLOTS, Cell},
    place::TAG_BITS,
    verifier::opaque,
};

/// Slots in a bucket: one cache line of 64-bit words.
pub const WAYS: usize = 8;

/// Bits of a number that distinguishes a class from other classes and from [accounts](crate::account).
const NUMBER_BITS: u32 = 5;

/// Bits of a slot's owner: the [tag](crate::place::Place::tag) of an address, and what it is charged for.
const OWNER_BITS: u32 = TAG_BITS + NUMBER_BITS + 1;

/// Bits of a TAT.
pub const TAT_BITS: u32 = 64 - OWNER_BITS;
const TAT_MASK: u64 = (1 << TAT_BITS) - 1;

/// Two processors may read the clock this far apart without either taking the other's fresh debt for an ancient
/// one. Without this slack a limit leaks two to nine times over (measured). A second is far more than any skew.
pub const CLOCK_SLACK_NS: u64 = 1_000_000_000;

/// Attempts for a write that loses its race. A source that loses three in a row is racing with itself.
pub(crate) const RACES: usize = 3;

/// One in so many newcomers to a bucket full of debtors is admitted: a heavy source gets in within a few packets, a
/// source that is seen once seldom does (randomised admission, Ben Basat et al. 2017).
const ADMISSION: u32 = 16;

/// The share of a host-wide budget that one owner gets at most, as the binary logarithm of its inverse: an eighth.
pub const SHARE: u32 = 3;

/// Fractional bits of [`Limit::byte_cost`].
pub const BYTE_COST_SHIFT: u32 = 24;

/// The largest frame: an IPv4 or IPv6 packet without jumbo option, Ethernet header, two VLAN tags and PPPoE, bytes.
const LARGEST_FRAME: u32 = 65_575 + 22 + 8;

/// Bytes that every frame occupies on an Ethernet wire beyond those that the kernel sees: preamble and start (8),
/// frame check sequence (4), gap (12) (IEEE 802.3).
pub const WIRE_OVERHEAD: u32 = 24;

/// A limit in the form that the filter computes with; zero costs mean "no such limit".
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Limit {
    /// Nanoseconds that a packet costs: the inverse of the packet rate.
    pub packet_cost_ns: u64,
    /// Debt up to which a packet conforms, if its packet cost decides.
    pub packet_tolerance_ns: u64,
    /// Nanoseconds that a byte costs, with [`BYTE_COST_SHIFT`] fractional bits: the inverse of the bit rate.
    pub byte_cost: u64,
    /// Debt up to which a packet conforms, if its bits decide.
    pub bit_tolerance_ns: u64,
    /// A debt above this is not a debt but a word from before the clock wrapped. It is the same for all limits of a
    /// table.
    pub horizon_ns: u64,
    /// A debt up to this may be evicted to make room for a newcomer: half the smallest tolerance of all limits.
    pub evictable_ns: u64,
}
const _: () = assert!(size_of::<Limit>() == 48);

/// The price of one packet under a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Price {
    /// What the packet adds to the debt.
    pub cost_ns: u64,
    /// The debt up to which it conforms.
    pub tolerance_ns: u64,
    /// See [`Limit::horizon_ns`].
    pub horizon_ns: u64,
    /// See [`Limit::evictable_ns`].
    pub evictable_ns: u64,
    /// Whether its bits cost more than its packet cost.
    pub bits: bool,
}

impl Limit {
    /// Whether it limits anything.
    #[inline(always)]
    pub fn is_set(&self) -> bool {
        self.horizon_ns != 0
    }

    /// Combines two limits: for each unit, takes the one that lets less through.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let packets = if other.packet_cost_ns > self.packet_cost_ns { &other } else { &self };
        let bits = if other.byte_cost > self.byte_cost { &other } else { &self };
        Self {
            packet_cost_ns: packets.packet_cost_ns,
            packet_tolerance_ns: packets.packet_tolerance_ns,
            byte_cost: bits.byte_cost,
            bit_tolerance_ns: bits.bit_tolerance_ns,
            horizon_ns: self.horizon_ns.max(other.horizon_ns),
            evictable_ns: self.evictable_ns.max(other.evictable_ns),
        }
    }

    /// Returns the same limit for an owner that has only a [share](SHARE) of it: a packet costs that owner more.
    #[must_use]
    pub fn shared(self) -> Self {
        if self.is_set() { Self { horizon_ns: self.longest_ns(SHARE), ..self } } else { self }
    }

    /// Returns the largest possible debt if packets cost `2^weight` times as much.
    pub fn longest_ns(&self, weight: u32) -> u64 {
        let largest = (u64::from(LARGEST_FRAME + WIRE_OVERHEAD) * self.byte_cost) >> BYTE_COST_SHIFT;
        self.packet_tolerance_ns.max(self.bit_tolerance_ns)
            + (self.packet_cost_ns.max(largest) << weight)
            + CLOCK_SLACK_NS
    }

    /// Returns the price of a frame of `length` bytes.
    ///
    /// Packets and bits share one debt, and a frame costs the larger of the two. The sum of maxima is at least
    /// either sum, so both limits hold; for a source that mixes very small and very large packets they may be up to
    /// twice as strict. The limit for which the cost is larger gives tolerance and reason.
    #[inline(always)]
    pub fn price(&self, length: u32) -> Price {
        let bits_ns =
            (u64::from(length) + u64::from(WIRE_OVERHEAD)).wrapping_mul(self.byte_cost) >> BYTE_COST_SHIFT;
        if bits_ns > self.packet_cost_ns {
            Price {
                cost_ns: bits_ns,
                tolerance_ns: self.bit_tolerance_ns,
                horizon_ns: self.horizon_ns,
                evictable_ns: self.evictable_ns,
                bits: true,
            }
        } else {
            Price {
                cost_ns: self.packet_cost_ns,
                tolerance_ns: self.packet_tolerance_ns,
                horizon_ns: self.horizon_ns,
                evictable_ns: self.evictable_ns,
                bits: false,
            }
        }
    }
}

/// The result of a charge.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Charge {
    /// Within the limit, and charged.
    Conforming,
    /// Above the limit; nothing was written.
    Exceeding,
    /// Passed without being charged, because there was no slot for the source.
    Unaccounted,
}

/// A word of the table that several processors read and write.
pub trait Slot {
    /// Reads the word.
    fn load(&self) -> u64;
    /// Writes `new` if the word is `expected`; returns the previous word.
    fn compare_swap(&self, expected: u64, new: u64) -> u64;
}

/// Returns the way of the caller's own word in a bucket, and `true`; if there is none, the way of the word that
/// ends first. `left` returns the units for which a word still lasts, 0 if it has ended, and whether it is the
/// caller's own. A word that has ended belongs to nobody.
#[inline(always)]
pub(crate) fn own_or_first_to_end<S: Slot>(
    bucket: &[S; WAYS],
    left: impl Fn(u64) -> (u64, bool),
) -> (usize, bool) {
    // VERIFIER: without a branch, and with the way in the low bits, as in the debt table.
    let mut best = u64::MAX;
    for (way, slot) in bucket.iter().enumerate() {
        let found = slot.load();
        let (left, is_own) = left(found);
        let rank = (1 + left) * u64::from(!is_own || left == 0);
        best = opaque(best.min(rank * WAYS as u64 + way as u64), found);
    }
    (best as usize % WAYS, best < WAYS as u64)
}

/// A word in memory that others may write at the same time.
#[cfg(not(target_arch = "bpf"))]
impl Slot for AtomicU64 {
    fn load(&self) -> u64 {
        // Program order, as the kernel's loads have on x86.
        Self::load(self, Ordering::Acquire)
    }

    fn compare_swap(&self, expected: u64, new: u64) -> u64 {
        match self.compare_exchange(expected, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(seen) | Err(seen) => seen,
        }
    }
}

/// Returns the debt in a word at `now_ns`: 0 for a free slot.
#[inline(always)]
pub fn debt_ns(word: u64, now_ns: u64, horizon_ns: u64) -> u64 {
    let ahead = word.wrapping_sub(now_ns) & TAT_MASK;
    if word == 0 || ahead > horizon_ns { 0 } else { ahead }
}

/// Returns the owner that is charged in a slot of the table: an address by its tag, or its network, for a class or
/// an [account](crate::account), by number. Each owner has its own debt.
#[inline(always)]
pub fn owner(by_network: bool, number: u32, tag: u16) -> u32 {
    (u32::from(by_network) << (TAG_BITS + NUMBER_BITS)) | (number << TAG_BITS) | u32::from(tag)
}

/// Returns the owner in a word.
#[inline(always)]
pub fn owner_of(word: u64) -> u32 {
    (word >> TAT_BITS) as u32
}

/// Returns the tag of an owner.
pub fn tag_of(owner: u32) -> u16 {
    owner as u16
}

/// Converts the bucket of the address that is charged to the bucket of an owner, and back.
#[inline(always)]
pub fn apart(bucket: u32, owner: u32) -> u32 {
    bucket ^ owner >> TAG_BITS
}

/// Returns the cell of an owner in the table of destinations or of sources; `None` for an account.
pub fn cell_of(owner: u32, by_destination: bool) -> Option<Cell> {
    let scope = (u32::from(by_destination) << 1) | (owner >> (TAG_BITS + NUMBER_BITS));
    let class = owner as usize >> TAG_BITS & ((1 << NUMBER_BITS) - 1);
    if class >= CLASS_SLOTS {
        return None;
    }
    u8::try_from(scope as usize * CLASS_SLOTS + class).ok().map(Cell::from_number)
}

/// Returns the word of a source with this debt. It is never 0, which is an untouched slot.
#[inline(always)]
fn word(owner: u32, now_ns: u64, debt_ns: u64) -> u64 {
    let word = (u64::from(owner) << TAT_BITS) | (now_ns.wrapping_add(debt_ns) & TAT_MASK);
    if word == 0 { 1 } else { word }
}

/// Charges a packet to `source`, an [`owner`], in its bucket. `dice` returns random bits and is called only if the
/// bucket is full of debtors.
///
/// Both searches begin at a way that depends on the source, so that newcomers do not all race for the first slot.
#[inline(always)]
pub fn charge<S: Slot>(
    bucket: &[S; WAYS],
    source: u32,
    now_ns: u64,
    price: &Price,
    dice: impl FnOnce() -> u32,
) -> Charge {
    let start = source as usize;
    for step in 0..WAYS {
        let slot = &bucket[(start + step) % WAYS];
        let found = slot.load();
        if owner_of(found) == source && found != 0 {
            return charge_slot(slot, found, source, now_ns, price);
        }
    }
    // VERIFIER: a separate loop. Remembering the first free slot in the loop above makes the verifier follow every
    // pair of a step and a remembered slot: twice the instructions (6.18).
    for step in 0..WAYS {
        let slot = &bucket[(start + step) % WAYS];
        let found = slot.load();
        if debt_ns(found, now_ns, price.horizon_ns) == 0 {
            return take_slot(slot, found, source, now_ns, price);
        }
    }
    admit(bucket, source, now_ns, price, dice())
}

/// Writes a newcomer into a free slot.
#[inline(always)]
fn take_slot<S: Slot>(slot: &S, free: u64, source: u32, now_ns: u64, price: &Price) -> Charge {
    let found = slot.compare_swap(free, word(source, now_ns, price.cost_ns));
    if found == free {
        Charge::Conforming
    } else if owner_of(found) == source {
        charge_slot(slot, found, source, now_ns, price)
    } else {
        Charge::Unaccounted
    }
}

/// Charges the slot that holds, or held a moment ago, this source.
#[inline(always)]
fn charge_slot<S: Slot>(slot: &S, mut found: u64, source: u32, now_ns: u64, price: &Price) -> Charge {
    for _ in 0..RACES {
        let debt = debt_ns(found, now_ns, price.horizon_ns);
        if debt > price.tolerance_ns {
            return Charge::Exceeding;
        }
        let seen = slot.compare_swap(found, word(source, now_ns, debt + price.cost_ns));
        if seen == found {
            return Charge::Conforming;
        }
        if owner_of(seen) != source {
            return Charge::Unaccounted;
        }
        found = seen;
    }
    Charge::Exceeding
}

/// Handles a bucket full of debtors: the newcomer passes, and now and then evicts the smallest debt.
#[inline(always)]
fn admit<S: Slot>(bucket: &[S; WAYS], source: u32, now_ns: u64, price: &Price, dice: u32) -> Charge {
    if !dice.is_multiple_of(ADMISSION) {
        return Charge::Unaccounted;
    }
    // VERIFIER: the way is in the low bits of the debt, so that the smallest is one number, and each step is one
    // comparison. If they are kept apart, 6.1 follows every combination (200,000 instructions).
    let mut smallest = u64::MAX;
    for (way, slot) in bucket.iter().enumerate() {
        let found = slot.load();
        let debt_and_way = debt_ns(found, now_ns, price.horizon_ns) * WAYS as u64 + way as u64;
        smallest = opaque(smallest.min(debt_and_way), found);
    }
    let slot = &bucket[smallest as usize % WAYS];
    let old = slot.load();
    if debt_ns(old, now_ns, price.horizon_ns) > price.evictable_ns {
        return Charge::Unaccounted;
    }
    if slot.compare_swap(old, word(source, now_ns, price.cost_ns)) == old {
        Charge::Conforming
    } else {
        Charge::Unaccounted
    }
}

/// Whether a packet to be charged to `source` exceeds its limit. Writes nothing.
#[inline(always)]
pub fn exceeds<S: Slot>(bucket: &[S; WAYS], source: u32, now_ns: u64, price: &Price) -> bool {
    let start = source as usize;
    for step in 0..WAYS {
        let found = bucket[(start + step) % WAYS].load();
        if owner_of(found) == source && found != 0 {
            return debt_ns(found, now_ns, price.horizon_ns) > price.tolerance_ns;
        }
    }
    false
}

/// Takes back what was charged to a source, if the source is in its bucket.
#[inline(always)]
pub fn pay_back<S: Slot>(bucket: &[S; WAYS], source: u32, now_ns: u64, price: &Price) {
    for slot in bucket {
        let found = slot.load();
        if owner_of(found) == source && found != 0 {
            let debt = debt_ns(found, now_ns, price.horizon_ns).saturating_sub(price.cost_ns);
            // If another packet of the source wins the race, the remaining debt ends by itself.
            slot.compare_swap(found, word(source, now_ns, debt));
            return;
        }
    }
}

/// Takes back what was charged to a budget.
#[inline(always)]
pub fn pay_back_budget<S: Slot>(slot: &S, price: &Price) {
    let mut found = slot.load();
    for _ in 0..RACES {
        let seen = slot.compare_swap(found, found.saturating_sub(price.cost_ns));
        if seen == found {
            return;
        }
        found = seen;
    }
}

/// Returns the debt of a budget. A budget is one word for the whole host: it needs no owner, so its TAT has 64 bits
/// and never wraps.
#[inline(always)]
fn budget_debt_ns(word: u64, now_ns: u64) -> u64 {
    word.saturating_sub(now_ns)
}

/// Whether a packet exceeds a budget. Writes nothing.
#[inline(always)]
pub fn exceeds_budget<S: Slot>(slot: &S, now_ns: u64, price: &Price) -> bool {
    budget_debt_ns(slot.load(), now_ns) > price.tolerance_ns
}

/// Charges a budget. Over the budget nothing is written, so a flood only reads the word.
#[inline(always)]
pub fn charge_budget<S: Slot>(slot: &S, now_ns: u64, price: &Price) -> Charge {
    let mut found = slot.load();
    for _ in 0..RACES {
        let debt = budget_debt_ns(found, now_ns);
        if debt > price.tolerance_ns {
            return Charge::Exceeding;
        }
        let seen = slot.compare_swap(found, now_ns.saturating_add(debt + price.cost_ns));
        if seen == found {
            return Charge::Conforming;
        }
        found = seen;
    }
    Charge::Exceeding
}

/// Packets for which a processor takes a lease from a total at once.
const LEASE_PACKETS: u64 = 32;

/// A lease is at most the burst of the total divided by this.
const LEASE_SHARE: u64 = 16;

/// Whether a packet exceeds a total of which this processor has `lease` left. Writes nothing.
#[inline(always)]
pub fn exceeds_leased<S: Slot>(slot: &S, lease: u64, now_ns: u64, price: &Price) -> bool {
    lease < price.cost_ns && exceeds_budget(slot, now_ns, price)
}

/// Charges a host-wide total. Each processor takes a lease of several packets from it, so that not every packet
/// writes the word that all processors share. `lease` is what remains of this processor's lease, nanoseconds. So a
/// burst may be larger by one lease for each processor.
#[inline(always)]
pub fn charge_leased<S: Slot>(slot: &S, lease: &mut u64, now_ns: u64, price: &Price) -> Charge {
    if *lease >= price.cost_ns {
        *lease -= price.cost_ns;
        return Charge::Conforming;
    }
    let most = (LEASE_PACKETS * price.cost_ns).min(price.tolerance_ns / LEASE_SHARE);
    let taken = most.max(price.cost_ns);
    let charge = charge_budget(slot, now_ns, &Price { cost_ns: taken, ..*price });
    if charge == Charge::Conforming {
        *lease += taken - price.cost_ns;
    }
    charge
}
