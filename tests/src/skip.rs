//! Tests that cannot run here report it, and are counted: a skipped test never passes silently.
//!
//! `cargo xtask test` names a file in `FLOODGATE_SKIPPED`; each skip adds a line `test<TAB>reason` to it.

use std::{
    env,
    fs::{self, OpenOptions},
    io::Write,
    path::PathBuf,
};

use anyhow::{Result, bail};

use crate::lab::slowness;

/// Reports that a test does not run, and why.
pub fn skip(test: &str, reason: &str) {
    println!("SKIPPED {test}: {reason}");
    let Some(path) = env::var_os("FLOODGATE_SKIPPED") else {
        return;
    };
    let written = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{test}\t{reason}"));
    if let Err(error) = written {
        panic!("{}: cannot take note of a skipped test: {error}", PathBuf::from(path).display());
    }
}

/// Returns from a test that needs root if there is none.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::skip::can_use_kernel($crate::skip::test_name(|| {})) {
            return $crate::skip::Outcome::skipped();
        }
    };
}

/// Returns from a test that does not depend on the kernel if it runs for the sake of another kernel.
#[macro_export]
macro_rules! same_on_every_kernel {
    () => {
        if !$crate::skip::needs_no_other_kernel($crate::skip::test_name(|| {})) {
            return $crate::skip::Outcome::skipped();
        }
    };
}

/// Returns from a test that measures if the processor is emulated.
#[macro_export]
macro_rules! measures {
    () => {
        if !$crate::skip::can_measure($crate::skip::test_name(|| {})) {
            return $crate::skip::Outcome::skipped();
        }
    };
}

/// The return type of a test function.
pub trait Outcome {
    /// The value for a skipped test.
    fn skipped() -> Self;
}

impl Outcome for () {
    fn skipped() -> Self {}
}

impl Outcome for Result<()> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Returns the name of the function in which a closure was written, with its modules.
pub fn test_name<T>(_: T) -> &'static str {
    std::any::type_name::<T>().trim_end_matches("::{{closure}}")
}

/// Returns whether a test that needs root can run; skips it otherwise.
pub fn can_use_kernel(test: &str) -> bool {
    // SAFETY: no arguments, no conditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip(test, "needs root, to load BPF programs and to make network namespaces");
    }
    root
}

/// Returns whether a test that measures can run; skips it on an emulated processor.
pub fn can_measure(test: &str) -> bool {
    let real = slowness() == 1;
    if !real {
        skip(test, "measures, and the processor is emulated");
    }
    real
}

/// Returns whether to run a test that does not depend on the kernel; skips it in a machine of `cargo xtask vm`, where
/// the result would be the same as outside.
pub fn needs_no_other_kernel(test: &str) -> bool {
    let outside = env::var_os("FLOODGATE_VM").is_none();
    if !outside {
        skip(test, "says nothing about the kernel, and runs natively");
    }
    outside
}

/// Returns the major and minor number of the running kernel.
pub fn kernel_series() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        _ => bail!("a kernel whose release is {release:?}"),
    }
}

/// Returns the two connected network cards of a machine of `cargo xtask vm`; skips the test elsewhere, where cards of
/// that kind belong to the operator.
pub fn wired_cards(test: &str) -> Result<Option<[String; 2]>> {
    if env::var_os("FLOODGATE_VM").is_none() {
        skip(test, "needs the two virtual network cards, wired to each other, of `cargo xtask vm`");
        return Ok(None);
    }
    let mut cards = Vec::new();
    for entry in fs::read_dir("/sys/class/net")? {
        let entry = entry?;
        let driver = fs::read_link(entry.path().join("device/driver"));
        if driver.is_ok_and(|driver| driver.ends_with("virtio_net")) {
            cards.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    <[String; 2]>::try_from(cards).map(Some).map_err(|cards| anyhow::anyhow!("two cards, not {cards:?}"))
}

/// Returns real captures of a class (`attacks`, `legit`, `torture`), which are not in the repository: the folder that
/// `FLOODGATE_CAPTURES` names holds `CLASS/public/*.pcap`. Skips the test if they are missing.
pub fn captures(test: &str, class: &str) -> Vec<PathBuf> {
    let Some(folder) = env::var_os("FLOODGATE_CAPTURES") else {
        skip(test, "FLOODGATE_CAPTURES names no folder with real captures");
        return Vec::new();
    };
    let folder = PathBuf::from(folder).join(class).join("public");
    let mut captures: Vec<PathBuf> = match folder.read_dir() {
        Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
        Err(error) => {
            skip(test, &format!("{}: {error}", folder.display()));
            return Vec::new();
        }
    };
    captures.retain(|path| {
        path.extension().is_some_and(|extension| extension == "pcap" || extension == "pcapng")
    });
    captures.sort();
    captures
}
