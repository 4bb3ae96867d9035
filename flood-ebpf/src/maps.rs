//! All maps and set-once values. Names and value types are those of `flood_common::abi`.

use aya_ebpf::{
    Global,
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, LpmTrie, PerCpuArray, ProgramArray, RingBuf, lpm_trie::Key},
};
use flood_common::{
    abi::{
        self, CpuState, FIELDS, InterfaceCounters, LOCAL_PREFIXES, PROVEN_PREFIXES, SettingsPage, trie_key,
    },
    address::Address,
    again::{LINE_BITS, SLICES},
    fragments::FRAGMENT_BITS,
    lists::{
        self,
        ipv6::{MIN_BUCKET_BITS as MIN_NODE_BITS, Memo},
    },
    meter::WAYS,
    open,
    place::MIN_BUCKET_BITS,
    reflector::PORT_WORDS,
    sketch::SKETCH_WORDS,
    solicit::SOLICIT_BITS,
};

use crate::{
    lists::OwnWord,
    lookup::{SketchWord, Word},
};

/// Eight slots, one cache line.
pub(crate) type Bucket = [Word; WAYS];

/// Buckets before user space sets the number.
const DEFAULT_BUCKETS: u32 = 1 << MIN_BUCKET_BITS;

/// Buckets of IPv6 nodes, likewise.
const DEFAULT_NODE_BUCKETS: u32 = 1 << MIN_NODE_BITS;

/// Bytes of the sample ring: 26,000 samples, which user space reads ten times a second. The budgets of processors
/// ([`flood_common::sampler`]) fill it in that time on 256 of them at once.
const SAMPLE_RING: u32 = 1 << 20;

/// Version of the ABI that this object was built with, for the loader to compare.
#[unsafe(no_mangle)]
pub(crate) static ABI: Global<u32> = Global::new(abi::VERSION);

/// Binary logarithm of the number of buckets.
#[unsafe(no_mangle)]
pub(crate) static BUCKET_BITS: Global<u32> = Global::new(MIN_BUCKET_BITS);

/// How much more a packet weighs in the sketch; 0 without a sketch.
#[unsafe(no_mangle)]
pub(crate) static SKETCH_SHIFT: Global<u32> = Global::new(0);

/// Nanoseconds in a tick of the kernel; 0 takes the time from the settings page.
#[unsafe(no_mangle)]
pub(crate) static TICK_NS: Global<u64> = Global::new(0);

/// Binary logarithm of the number of buckets of listed IPv4 addresses.
#[unsafe(no_mangle)]
pub(crate) static LISTED_BITS: Global<u32> = Global::new(MIN_BUCKET_BITS);

/// The keys with which the lists hash IPv6 prefixes.
#[unsafe(no_mangle)]
pub(crate) static LIST_KEYS: [Global<u64>; 4] = [const { Global::new(0) }; 4];

/// The number of buckets for IPv6 nodes.
#[unsafe(no_mangle)]
pub(crate) static NODE_BUCKETS: Global<u32> = Global::new(DEFAULT_NODE_BUCKETS);

macro_rules! fields {
    ($($name:ident)*) => {
        $(
            /// Offset of a field in the running kernel's sockets ([`FIELDS`]); 0 if the kernel does not provide it.
            #[unsafe(no_mangle)]
            pub(crate) static $name: Global<u32> = Global::new(0);
        )*
        const _: () = assert!([$(stringify!($name)),*].len() == FIELDS.len());
    };
}

fields!(SND_UNA WRITE_SEQ RCV_NXT RCV_WND SNT_ISN REQUEST_RCV_NXT TW_SND_NXT TW_RCV_NXT ACK_BACKLOG MAX_ACK_BACKLOG);

/// Settings that may change while the filter runs. Written by the daemon, read per packet.
#[map]
pub(crate) static SETTINGS: Array<SettingsPage> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Interface slot -> counts by reason. Written per packet, read by the daemon.
#[map]
pub(crate) static COUNTERS: PerCpuArray<InterfaceCounters> =
    PerCpuArray::with_max_entries(abi::INTERFACE_SLOTS as u32, 0);

/// State that belongs to one processor. Written per dropped packet, read by the daemon.
#[map]
pub(crate) static CPU_STATE: PerCpuArray<CpuState> = PerCpuArray::with_max_entries(1, 0);

/// Debts: buckets of sources and destinations, of each family. Written per conforming packet, read by the daemon.
#[map]
pub(crate) static DEBTS: Array<Bucket> =
    Array::with_max_entries(abi::DEBT_TABLES * DEFAULT_BUCKETS, BPF_F_MMAPABLE);

/// Debts of sources far below their limits, for each processor. Written per conforming packet of such a source.
#[map]
pub(crate) static SKETCH: Array<[SketchWord; SKETCH_WORDS]> = Array::with_max_entries(1, 0);

/// Host-wide budgets and totals, a cache line each. Written per vital message within its budget, and per lease.
#[map]
pub(crate) static BUDGETS: Array<Bucket> = Array::with_max_entries(abi::BUDGETS, BPF_F_MMAPABLE);

/// The UDP ports of reflectors, one bit each, then those of services that have sessions. Written by the daemon.
#[map]
pub(crate) static REFLECTORS: Array<u64> = Array::with_max_entries(2 * PORT_WORDS as u32, BPF_F_MMAPABLE);

/// Solicited flows. Written per question and per answer.
#[map]
pub(crate) static SOLICITED: Array<Bucket> = Array::with_max_entries(1 << SOLICIT_BITS, BPF_F_MMAPABLE);

/// Flows that the remote side began. Written per packet from a reflector port that reaches a service, a few times
/// in the life of a mark.
#[map]
pub(crate) static BEGUN: Array<Bucket> = Array::with_max_entries(1 << SOLICIT_BITS, 0);

/// Watched sources, and sessions that sockets do not show.
#[map]
pub(crate) static WATCHED: Array<Bucket> = Array::with_max_entries(1 << SOLICIT_BITS, 0);

/// UDP ports of this host. Written by the daemon, and per port that starts to send.
#[map]
pub(crate) static OPEN: Array<Word> = Array::with_max_entries(open::WORDS as u32, BPF_F_MMAPABLE);

/// What happened to first fragments. Written per first fragment.
#[map]
pub(crate) static FRAGMENTS: Array<Bucket> = Array::with_max_entries(1 << FRAGMENT_BITS, 0);

/// Incomplete datagrams. Written per fragment that passes.
#[map]
pub(crate) static DATAGRAMS: Array<Bucket> = Array::with_max_entries(1 << FRAGMENT_BITS, 0);

/// Sources of fragments. Written likewise.
#[map]
pub(crate) static FRAGMENTING: Array<Bucket> = Array::with_max_entries(1 << SOLICIT_BITS, 0);

/// Gates of both address families, and the indices of IPv6 nodes. Written by the daemon.
#[map]
pub(crate) static GATES: Array<Word> =
    Array::with_max_entries(lists::GATE_WORDS + DEFAULT_NODE_BUCKETS, BPF_F_MMAPABLE);

/// Listed IPv4 addresses. Written by the daemon.
#[map]
pub(crate) static LISTED: Array<Bucket> = Array::with_max_entries(DEFAULT_BUCKETS, BPF_F_MMAPABLE);

/// IPv6 nodes of the lists, then their expiry times. Written by the daemon.
#[map]
pub(crate) static NODES: Array<Bucket> = Array::with_max_entries(2 * DEFAULT_NODE_BUCKETS, BPF_F_MMAPABLE);

/// What the lookups of one search for an IPv6 address share.
#[map]
pub(crate) static SEARCH: PerCpuArray<Memo<OwnWord>> = PerCpuArray::with_max_entries(1, 0);

/// Samples of dropped packets.
#[map]
pub(crate) static SAMPLES: RingBuf = RingBuf::with_byte_size(SAMPLE_RING, 0);

/// SYNs that may be retransmitted. Written per SYN over a limit that is not answered.
#[map]
pub(crate) static SYNS: Array<[Word; SLICES]> = Array::with_max_entries(1 << LINE_BITS, 0);

/// The host's own unicast addresses. Written by the daemon.
#[map]
pub(crate) static LOCAL: LpmTrie<[u8; 16], u32> =
    LpmTrie::with_max_entries(LOCAL_PREFIXES, BPF_F_NO_PREALLOC);

/// Sources that pass over the limits by evidence. Written by the daemon.
#[map]
pub(crate) static ALLOW_PROVEN: LpmTrie<[u8; 16], u64> =
    LpmTrie::with_max_entries(PROVEN_PREFIXES, BPF_F_NO_PREALLOC);

/// The key of one address in [`LOCAL`] and [`ALLOW_PROVEN`].
#[inline(always)]
pub(crate) fn key_of(address: Address) -> Key<[u8; 16]> {
    const BITS: u32 = 128;
    Key::new(BITS, trie_key(address))
}

/// The programs that the filter calls. Set by the loader.
#[map]
pub(crate) static NEXT: ProgramArray = ProgramArray::with_max_entries(abi::next::PROGRAMS, 0);
