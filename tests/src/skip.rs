//! Tests that cannot run here say so, and are counted: a skipped test never passes silently.
//!
//! `cargo xtask test` names a file in `FLOODGATE_SKIPPED`; each skip adds a line `test<TAB>reason` to it.

use std::{env, fs::OpenOptions, io::Write, path::PathBuf};

/// Says that a test does not run, and why.
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

/// Leaves a test that needs root when it has none.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::skip::can_use_kernel($crate::skip::test_name(|| {})) {
            return $crate::skip::Outcome::skipped();
        }
    };
}

/// What a test function returns.
pub trait Outcome {
    /// What it returns when it is skipped.
    fn skipped() -> Self;
}

impl Outcome for () {
    fn skipped() -> Self {}
}

impl Outcome for anyhow::Result<()> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// The function in which a closure was written, with its modules.
pub fn test_name<T>(_: T) -> &'static str {
    std::any::type_name::<T>().trim_end_matches("::{{closure}}")
}

/// Whether a test that needs root can run; skips it otherwise.
pub fn can_use_kernel(test: &str) -> bool {
    // SAFETY: no arguments, no conditions.
    let root = unsafe { libc::geteuid() } == 0;
    if !root {
        skip(test, "needs root, to load BPF programs and to make network namespaces");
    }
    root
}

/// Real captures of a class (`attacks`, `legit`, `torture`), which are not in the repository: the folder that
/// `FLOODGATE_CAPTURES` names holds `CLASS/public/*.pcap`. Skips the test when they are not there.
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
