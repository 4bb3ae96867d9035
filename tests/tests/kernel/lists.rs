//! The lists in the kernel: the same verdicts as a naive scan, large lists in bounded time, no gap during an
//! exchange.

use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun as _, TestRunOptions};
use fastrand::Rng;
use flood_common::{reason::Reason, sanity::Sanity};
use flood_userspace::{
    boot_time::BootTime,
    bpf::{Filter, FilterOptions, RunOutcome},
    feeds::Content,
    lists::{Edit, ListKind, import},
};
use floodgate_tests::{
    lab::{eventually, slowness},
    needs_root,
    packet::from,
    prefixes::{FIRST_V6, of_all_lengths, put, random},
    programs::{Programs, Sources},
    rig::{Rig, entry},
    skip::{skip, test_name},
};
use ipnet::IpNet;

/// Test runs of the harness arrive on an interface that the filter does not guard.
const SLOT: u32 = 0;

/// Room for a million entries.
fn large() -> FilterOptions {
    // Any address may be on a list here.
    let sanity = Sanity::default();
    FilterOptions { listed_ipv4: 1_200_000, listed_ipv6: 262_144, sanity, ..FilterOptions::default() }
}

fn frame(source: IpAddr) -> Vec<u8> {
    from(source).udp(4_000, 4_000).bytes()
}

fn is_dropped(filter: &mut Filter, source: IpAddr) -> Result<bool> {
    Ok(filter.run(&frame(source))? == RunOutcome::Drop)
}

#[test]
fn the_kernel_answers_as_a_scan_over_all_entries_would() {
    const EDITS: usize = 400;

    needs_root!();
    let mut rig = Rig::without_limits();
    let mut random = Rng::with_seed(7);
    // Few bits, so that prefixes often nest and coincide.
    let address = |random: &mut Rng| match random.bool() {
        true => IpAddr::V4(Ipv4Addr::from_bits(0xc633_6400 ^ (random.u32(..8) << random.u32(..30)))),
        false => {
            IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 ^ (random.u128(..8) << random.u32(..125))))
        }
    };
    let mut seen = [0_u32; 3];
    for _ in 0..EDITS {
        let kind = if random.u8(..3) == 0 { ListKind::Allow } else { ListKind::Block };
        let there: Vec<IpNet> = rig.filter().lists.book(kind).iter().map(|(prefix, _)| prefix).collect();
        let edit = if there.len() > 12 || (random.u8(..3) == 0 && !there.is_empty()) {
            Edit::take([there[random.usize(..there.len())], there[random.usize(..there.len())]])
        } else {
            let longest = IpNet::from(address(&mut random));
            put([IpNet::new_assert(longest.addr(), random.u8(..=longest.max_prefix_len()))])
        };
        rig.edit(kind, edit);
        for _ in 0..8 {
            let source = address(&mut random);
            if source.is_unspecified() || source.is_multicast() {
                continue;
            }
            match rig.send(&frame(source)) {
                Some(Reason::Allowed) => seen[0] += 1,
                Some(Reason::Blocked) => seen[1] += 1,
                _ => seen[2] += 1,
            }
        }
    }
    assert!(seen.iter().all(|count| *count > 100), "allowed, blocked, neither: {seen:?}");
}

#[test]
fn an_entry_ends_by_itself_where_the_kernel_has_its_end() {
    needs_root!();
    let mut rig = Rig::without_limits();
    let ends = BootTime::now() + Duration::from_secs(10);
    for text in ["198.51.100.66/32", "203.0.113.0/28", "2001:db8:bad::/47"] {
        rig.edit(ListKind::Block, Edit::put([(text.parse().unwrap(), entry(Some(ends)))]));
    }
    let sources = ["198.51.100.66", "203.0.113.7", "2001:db8:bad::66"];
    for (seconds, expected) in [(9, Reason::Blocked), (2, Reason::Conforming)] {
        rig.advance(Duration::from_secs(seconds));
        for source in sources {
            assert_eq!(rig.send(&frame(source.parse().unwrap())), Some(expected), "{source}");
        }
    }
}

#[test]
fn a_million_entries_are_in_force_soon_and_one_more_at_once() -> Result<()> {
    needs_root!();
    let mut filter = Filter::load(&large())?;
    // Far fewer on a slow processor, which needs as long for them.
    let share = (slowness() * slowness()) as usize;
    let prefixes = random(1_000_000 / share, 200_000 / share, 1);
    let last = prefixes[prefixes.len() - 1].addr();
    let began = Instant::now();
    filter.edit_list(ListKind::Block, put(prefixes.iter().copied()))?;
    ensure!(is_dropped(&mut filter, prefixes[0].addr())? && is_dropped(&mut filter, last)?);
    let filled = began.elapsed();
    println!("{} entries until the first drop: {filled:?}", prefixes.len());
    ensure!(filled < Duration::from_secs(20) * slowness(), "{filled:?}");

    let mut slowest = Duration::ZERO;
    for source in ["203.0.113.7", "2001:db8:600d::7"] {
        let source: IpAddr = source.parse()?;
        ensure!(!is_dropped(&mut filter, source)?, "{source} is not yet on the list");
        for (edit, dropped) in [(put([source.into()]), true), (Edit::take([source.into()]), false)] {
            let began = Instant::now();
            filter.edit_list(ListKind::Block, edit)?;
            slowest = slowest.max(began.elapsed());
            ensure!(is_dropped(&mut filter, source)? == dropped, "{source}");
        }
    }
    println!("one entry more or less: {slowest:?} at most");
    ensure!(slowest < Duration::from_millis(50) * slowness(), "{slowest:?}");

    let everything: Vec<IpNet> =
        filter.lists.book(ListKind::Block).iter().map(|(prefix, _)| prefix).collect();
    let began = Instant::now();
    filter.edit_list(ListKind::Block, Edit::take(everything))?;
    println!("all of them removed: {:?}", began.elapsed());
    ensure!(!is_dropped(&mut filter, last)?);
    Ok(())
}

#[test]
fn ten_thousand_bans_a_second_are_taken_and_end_within_a_second_of_their_time() -> Result<()> {
    const BANS: u32 = 10_000;

    needs_root!();
    // In the same time on a slow processor, which may be slower again by the same factor while other tests run.
    let bans = BANS / slowness();
    let most = Duration::from_secs(1) + Duration::from_millis(500) * (slowness() - 1);
    let lasts = Duration::from_secs(2) + most;
    let mut filter = Filter::load(&large())?;
    let banned = |number: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number * 7));
    let began = Instant::now();
    // One by one, as a detector would add them.
    for number in 0..bans {
        let ends = BootTime::now() + lasts;
        filter.edit_list(ListKind::Block, Edit::put([(banned(number).into(), entry(Some(ends)))]))?;
    }
    let taken = began.elapsed();
    println!("{bans} bans taken in {taken:?}");
    ensure!(taken < most, "{taken:?}");
    let (first, last) = (banned(0), banned(bans - 1));
    ensure!(is_dropped(&mut filter, first)? && is_dropped(&mut filter, last)?);
    eventually("the last ban ends", || is_dropped(&mut filter, last).is_ok_and(|dropped| !dropped))?;
    let ended = began.elapsed();
    println!("the last ended {:?} after its time", ended.saturating_sub(taken + lasts));
    ensure!(ended + Duration::from_millis(20) >= lasts, "too soon, after {ended:?}");
    ensure!(ended < taken + lasts + Duration::from_secs(1) * slowness(), "too late, after {ended:?}");
    let began = Instant::now();
    let expired = filter.lists.book(ListKind::Block).expired(BootTime::now());
    ensure!(expired.changes().len() == bans as usize);
    filter.edit_list(ListKind::Block, expired)?;
    println!("their entries removed in {:?}", began.elapsed());
    Ok(())
}

#[test]
fn the_kernel_finds_entries_of_all_lengths_where_they_lie_close_together() {
    const ENTRIES: usize = 1_500;

    needs_root!();
    let mut rig = Rig::without_limits();
    let mut random = Rng::with_seed(9);
    let address = |random: &mut Rng| {
        let bits = random.u128(..8) << random.u32(..93) | random.u128(..8) << random.u32(..93);
        Ipv6Addr::from_bits(0x2001_0db8_u128 << 96 ^ bits)
    };
    for (kind, entries, lengths) in
        [(ListKind::Block, ENTRIES, 64..=128), (ListKind::Allow, ENTRIES / 4, 96..=128)]
    {
        let prefixes: Vec<IpNet> = (0..entries)
            .map(|_| IpNet::new_assert(address(&mut random).into(), random.u8(lengths.clone())).trunc())
            .collect();
        rig.edit(kind, put(prefixes));
    }
    let mut seen = [0_u32; 3];
    for _ in 0..ENTRIES {
        match rig.send(&frame(address(&mut random).into())) {
            Some(Reason::Allowed) => seen[0] += 1,
            Some(Reason::Blocked) => seen[1] += 1,
            _ => seen[2] += 1,
        }
    }
    assert!(seen.iter().all(|count| *count > 50), "allowed, blocked, neither: {seen:?}");
}

/// The same 4,096 sources expressed in two ways: one by one, and by prefixes of several lengths.
fn two_ways(ipv4: bool) -> [Vec<IpNet>; 2] {
    let prefixes = |count: u32, step: u32, length: u8| {
        (0..count).map(move |number| {
            if ipv4 {
                IpNet::new_assert(Ipv4Addr::from_bits(0x0a01_0000 + number * step).into(), length)
            } else {
                let network = FIRST_V6 + (u64::from(number * step) << 16);
                IpNet::new_assert(Ipv6Addr::from_bits(u128::from(network) << 64).into(), 16 + length)
            }
        })
    };
    let broad = prefixes(8, 256, 24).chain(prefixes(64, 64, 26)).chain(prefixes(2048, 2, 31).skip(512));
    [prefixes(4096, 1, 32).collect(), broad.collect()]
}

/// Exchanges the list for another and back, while packets from sources on both lists are judged. Returns how many
/// packets were judged, and how many of them as the list requires.
fn exchange(kind: ListKind, ipv4: bool, expected: Reason) -> Result<[u64; 2]> {
    const OTHERS: usize = 30_000;
    const EXCHANGES: usize = 6;

    // On a slow processor, one exchange there and back, with fewer other entries.
    let (others, exchanges) = if slowness() > 1 { (OTHERS / 6, 2) } else { (OTHERS, EXCHANGES) };
    let mut filter = Filter::load(&large())?;
    if kind == ListKind::Allow {
        filter.edit_list(ListKind::Block, put(["0.0.0.0/0".parse()?, "::/0".parse()?]))?;
    }
    let mut both = two_ways(ipv4);
    for (list, seed) in both.iter_mut().zip(1..) {
        list.extend(random(others, others / 4, seed));
        if !ipv4 {
            list.extend(of_all_lengths(others / 4, seed));
        }
    }
    filter.edit_list(kind, put(both[0].iter().copied()))?;

    let mut lab = Programs::load()?;
    let first = if ipv4 { 0x0a01_0000 } else { FIRST_V6 };
    lab.set_sources(Sources { first, count: 4096, adjacent: true })?;
    let target = filter.program()?.fd()?.try_clone()?;
    lab.set_target(&target)?;
    let program = lab.program("harness")?;
    let frame = frame(if ipv4 { "10.0.0.1" } else { "2001:db8::1" }.parse()?);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let traffic = scope.spawn(|| -> Result<()> {
            while !over.load(Ordering::Relaxed) {
                let options =
                    TestRunOptions { data_in: Some(&frame), repeat: 10_000, ..TestRunOptions::default() };
                program.test_run(options).context("test run of the harness")?;
            }
            Ok(())
        });
        for turn in 0..exchanges {
            let (old, new) = (&both[turn % 2], &both[(turn + 1) % 2]);
            let leaving = Edit::take(old.iter().copied());
            // As one edit: what is in both lists stays.
            let edit = leaving.then(put(new.iter().copied()));
            if let Err(error) = filter.edit_list(kind, edit) {
                over.store(true, Ordering::Relaxed);
                return Err(error.into());
            }
        }
        over.store(true, Ordering::Relaxed);
        traffic.join().unwrap_or_else(|_| anyhow::bail!("the traffic panicked"))
    })?;
    let done = filter.counters.interface(SLOT)?.done;
    let total = done.iter().map(|count| count.packets).sum();
    Ok([total, done[expected.number() as usize].packets])
}

#[test]
fn a_source_that_is_on_both_lists_is_never_off_while_one_is_exchanged_for_the_other() -> Result<()> {
    needs_root!();
    for (kind, expected) in [(ListKind::Block, Reason::Blocked), (ListKind::Allow, Reason::Allowed)] {
        // On a slow processor, each list with one family.
        let families = if slowness() > 1 { &[kind == ListKind::Block][..] } else { &[true, false] };
        for &ipv4 in families {
            let [total, right] = exchange(kind, ipv4, expected)?;
            println!("{kind:?}, IPv4 {ipv4}: {total} packets");
            ensure!(total > 20_000, "only {total} packets");
            ensure!(right == total, "{kind:?}, IPv4 {ipv4}: {} of {total} packets escaped", total - right);
        }
    }
    Ok(())
}

#[test]
fn real_lists_are_read_to_the_last_line_and_hold() -> Result<()> {
    needs_root!();
    let Some(folder) = env::var_os("FLOODGATE_CAPTURES") else {
        skip(test_name(|| {}), "FLOODGATE_CAPTURES names no folder");
        return Ok(());
    };
    let mut files = 0;
    for file in fs::read_dir(Path::new(&folder).join("lists/public"))? {
        let path = file?.path();
        let imported = import::load(&path)?;
        ensure!(imported.bad_lines == 0, "{}: {:?}", path.display(), imported.bad);
        ensure!(!imported.prefixes.is_empty(), "{}: no entries", path.display());
        let as_feed = Content::read(&fs::read(&path)?);
        ensure!(as_feed.left_out == 0, "{}: {:?}", path.display(), as_feed.problems);
        ensure!(as_feed.check().is_ok(), "{}", path.display());
        let mut filter = Filter::load(&large())?;
        filter.edit_list(ListKind::Block, put(imported.prefixes.iter().copied()))?;
        for prefix in imported.prefixes.iter().step_by(1 + imported.prefixes.len() / 200) {
            for address in [prefix.network(), prefix.broadcast()] {
                ensure!(is_dropped(&mut filter, address)?, "{}: {address} is open", path.display());
            }
        }
        files += 1;
    }
    ensure!(files > 0, "no lists in {}", Path::new(&folder).display());
    Ok(())
}
