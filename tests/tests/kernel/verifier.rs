//! What the verifier needs to accept the programs, compared with the last recorded values: a change that comes near a
//! limit on some kernel is noticed before users are affected.

use std::{env, fs::OpenOptions, io::Write, path::Path};

use anyhow::{Context, Result, ensure};
use flood_userspace::bpf::{Filter, FilterOptions, OBJECT};
use floodgate_tests::{
    needs_root,
    skip::{kernel_series, skip, test_name},
};
use object::{Object, ObjectSection, ObjectSymbol};

/// Accepted factor over the recorded values: another compiler of the same age differs by less.
const TOLERANCE: f64 = 1.15;

/// Bytes of stack that a program may have (linux/filter.h, `MAX_BPF_STACK`).
const MAX_STACK: u32 = 512;

#[test]
fn the_verifier_needs_about_what_it_did() -> Result<()> {
    needs_root!();
    let kernel = kernel_series()?;
    let (major, minor) = kernel;
    let mut rows = Vec::new();
    for (program, instructions) in Filter::load(&FilterOptions::default())?.verified_instructions()? {
        let stack = stack_of(program)?;
        ensure!(stack <= MAX_STACK, "{program} has {stack} bytes of stack");
        rows.push((format!("{major}.{minor}\t{program}"), [instructions, stack]));
    }
    if let Some(path) = env::var_os("FLOODGATE_VERIFIED") {
        let mut file = OpenOptions::new().append(true).create(true).open(&path)?;
        for (name, [instructions, stack]) in &rows {
            writeln!(file, "{name}\t{instructions}\t{stack}")?;
        }
    }
    if env::var_os("FLOODGATE_RECORD").is_some() {
        return Ok(()); // these are what is compared with from now on
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/verifier.txt");
    let golden = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    if !golden.lines().any(|line| line.starts_with(&format!("{major}.{minor}\t"))) {
        let why = format!("nothing is recorded for Linux {major}.{minor}: `cargo xtask vm --record`");
        skip(test_name(|| {}), &why);
        return Ok(());
    }
    for (name, measured) in rows {
        let row = golden.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix('\t'));
        let row = row.with_context(|| format!("{name} is not recorded: `cargo xtask vm --record`"))?;
        let recorded = row.split('\t').map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        ensure!(recorded.len() == measured.len(), "a row of {row:?}");
        for ((what, measured), recorded) in
            ["instructions", "bytes of stack"].iter().zip(measured).zip(recorded)
        {
            ensure!(
                f64::from(measured) <= f64::from(recorded) * TOLERANCE,
                "{name}: {measured} {what}, and {recorded} are recorded; if that is meant, `cargo xtask vm --record`"
            );
        }
    }
    Ok(())
}

/// Returns the bytes of stack that a program uses: the lowest address that it reaches from the frame pointer. The
/// kernel reports the number only in the verifier's log.
fn stack_of(program: &str) -> Result<u32> {
    const FRAME_POINTER: u8 = 10;
    const MOVE_REGISTER: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
    const ADD_CONSTANT: u8 = 0x07; // BPF_ALU64 | BPF_ADD | BPF_K

    let object = object::File::parse(OBJECT)?;
    let symbol = object.symbols().find(|symbol| symbol.name() == Ok(program)).context("no such program")?;
    let section = object.section_by_index(symbol.section_index().context("a program in no section")?)?;
    let code = section.data_range(symbol.address(), symbol.size())?.context("a program without code")?;
    let mut deepest = 0;
    let mut copy_of_frame_pointer = None;
    for instruction in code.chunks_exact(8) {
        let &[code, registers, low, high, i0, i1, i2, i3] = instruction else { continue };
        let (to, from) = (registers & 0x0f, registers >> 4);
        let offset = i32::from(i16::from_le_bytes([low, high]));
        let constant = i32::from_le_bytes([i0, i1, i2, i3]);
        let reached = match code & 0x07 {
            0x01 if from == FRAME_POINTER => offset,      // BPF_LDX
            0x02 | 0x03 if to == FRAME_POINTER => offset, // BPF_ST, BPF_STX
            _ if code == ADD_CONSTANT && copy_of_frame_pointer == Some(to) => constant,
            _ => 0,
        };
        deepest = deepest.min(reached);
        copy_of_frame_pointer = (code == MOVE_REGISTER && from == FRAME_POINTER).then_some(to);
    }
    Ok(deepest.unsigned_abs())
}
