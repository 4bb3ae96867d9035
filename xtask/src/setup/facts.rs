//! Facts about this machine that matter for the set-up.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
};

use crate::{command::CommandLine, vm};

use super::plan::{BPF_TOOLCHAIN, PACKAGES};

/// What was found.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Facts {
    /// Whether this user may install packages.
    pub(crate) root: bool,
    /// Whether `sudo` is installed.
    pub(crate) sudo: bool,
    /// Whether `apt-get` is installed.
    pub(crate) apt: bool,
    /// Whether the package lists offer a Rust compiler for BPF.
    pub(crate) apt_offers_bpf: bool,
    /// Whether this set-up has updated the package lists.
    pub(crate) lists_updated: bool,
    /// Whether `rustup` is installed.
    pub(crate) rustup: bool,
    /// Installed components of the active toolchain, of `clippy` and `rustfmt`.
    pub(crate) components: BTreeSet<String>,
    /// LLVM major of a nightly toolchain, if there is one.
    pub(crate) nightly_llvm: Option<u32>,
    /// Whether that toolchain has the library's sources.
    pub(crate) nightly_rust_src: bool,
    /// LLVM major of the distribution's Rust compiler, if its packages for BPF are installed.
    pub(crate) distribution_llvm: Option<u32>,
    /// LLVM major of the toolchain named `floodgate-bpf`, if it can build for BPF.
    pub(crate) linked_llvm: Option<u32>,
    /// Whether this toolchain is the nightly one.
    pub(crate) linked_is_nightly: bool,
    /// LLVM major that the installed bpf-linker was built for.
    pub(crate) linker_llvm: Option<u32>,
    /// Installed packages, of those that matter.
    pub(crate) packages: BTreeSet<String>,
    /// Whether a BPF file system is mounted in the usual place.
    pub(crate) bpffs: bool,
}

impl Facts {
    /// Gathers the facts.
    pub(crate) fn gather(lists_updated: bool) -> Self {
        let rustup = succeeds("rustup --version");
        let apt = succeeds("apt-get --version");
        let nightly = rustup.then(|| CommandLine::new("rustup run nightly rustc -vV").output()).flatten();
        let nightly_sysroot = sysroot("nightly");
        let linked = CommandLine::new(&format!("rustup run {BPF_TOOLCHAIN} rustc -vV")).output();
        let linked_sysroot = sysroot(BPF_TOOLCHAIN);
        let builds_bpf =
            linked_sysroot.as_deref().is_some_and(|root| has_bpf_core(root) || has_rust_src(root));
        Self {
            root: fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0),
            sudo: succeeds("sudo -V"),
            apt,
            apt_offers_bpf: apt && apt_offers_bpf(),
            lists_updated,
            rustup,
            components: ["clippy", "fmt"]
                .iter()
                .filter(|name| succeeds(&format!("cargo {name} --version")))
                .map(|name| if *name == "fmt" { "rustfmt".to_owned() } else { (*name).to_owned() })
                .collect(),
            nightly_llvm: nightly.as_deref().and_then(llvm_major),
            nightly_rust_src: nightly_sysroot.as_deref().is_some_and(has_rust_src),
            distribution_llvm: distribution_llvm(),
            linked_is_nightly: linked.as_deref().is_some_and(|text| text.contains("-nightly")),
            linked_llvm: linked.as_deref().and_then(llvm_major).filter(|_| builds_bpf),
            linker_llvm: linker_llvm(),
            packages: if apt { installed_packages() } else { BTreeSet::new() },
            bpffs: fs::read_to_string("/proc/mounts")
                .is_ok_and(|mounts| mounts.contains(" /sys/fs/bpf bpf ")),
        }
    }
}

fn succeeds(line: &str) -> bool {
    CommandLine::new(line).output().is_some()
}

fn sysroot(toolchain: &str) -> Option<PathBuf> {
    CommandLine::new(&format!("rustup run {toolchain} rustc --print sysroot")).output().map(PathBuf::from)
}

/// Whether the core library compiled for BPF is installed.
fn has_bpf_core(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/bpfel-unknown-none/lib").is_dir()
}

/// Whether the source of the core library is installed, for compiling it along.
fn has_rust_src(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir()
}

fn distribution_llvm() -> Option<u32> {
    if !has_bpf_core(Path::new("/usr")) {
        return None;
    }
    llvm_major(&CommandLine::new("/usr/bin/rustc -vV").output()?)
}

/// Parses the major in a line `LLVM version: 22.1.8` of `rustc -vV`.
fn llvm_major(version: &str) -> Option<u32> {
    version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.parse().ok()
}

/// Reads cargo's record of what it installed with which features.
fn linker_llvm() -> Option<u32> {
    CommandLine::new("bpf-linker --version").output()?;
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    linker_feature(&fs::read_to_string(home.join(".crates2.json")).ok()?)
}

/// Parses the `llvm-NN` in the entry of bpf-linker: the first after its name.
fn linker_feature(json: &str) -> Option<u32> {
    let entry = &json[json.find("\"bpf-linker ")?..];
    let feature = &entry[entry.find("\"llvm-")? + "\"llvm-".len()..];
    feature.split('"').next()?.parse().ok()
}

fn apt_offers_bpf() -> bool {
    let policy = CommandLine::new("apt-cache policy libstd-rust-web-dev-bpf").output().unwrap_or_default();
    policy.contains("Candidate:") && !policy.contains("Candidate: (none)")
}

fn installed_packages() -> BTreeSet<String> {
    let mut query = CommandLine::new("dpkg-query -W -f ${Package}:${db:Status-Status}\\n");
    query.words.extend(PACKAGES.iter().chain(vm::PACKAGES).map(|package| package.name.to_owned()));
    query.words.push("llvm-*-dev".into());
    // dpkg-query fails if one of the names is unknown, but still reports the others.
    let Ok(output) = query.command().output() else { return BTreeSet::new() };
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_suffix(":installed"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_major_is_read_from_the_compilers_version() {
        assert_eq!(llvm_major("rustc 1.96.0\nhost: x86_64\nLLVM version: 22.1.8"), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0"), None);
    }

    #[test]
    fn the_linkers_llvm_is_read_from_cargos_notes() {
        let notes = r#"{"installs":{"a 1.0":{"features":["llvm-19"]},"bpf-linker 0.13.0 (registry)":{"bins":["bpf-linker"],"features":["llvm-22"]}}}"#;
        assert_eq!(linker_feature(notes), Some(22));
        assert_eq!(linker_feature(r#"{"installs":{}}"#), None);
    }
}
