//! Determines what has to be done, given the facts. It neither looks at the machine nor changes it.

use anyhow::{Result, bail};

use crate::command::CommandLine;

use super::facts::Facts;

/// The rustup name of the toolchain that builds for BPF.
pub(crate) const BPF_TOOLCHAIN: &str = "floodgate-bpf";

/// The bpf-linker version that was tested with both roads.
const LINKER_VERSION: &str = "0.13.0";

/// A way to get the BPF toolchain.
#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Road {
    /// The distribution's Rust compiler, with a core library compiled for BPF.
    Distribution,
    /// A nightly compiler by rustup, which compiles the core library along.
    Nightly,
}

impl Road {
    /// Describes it for people.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Distribution => "the distribution's packages",
            Self::Nightly => "rustup's nightly with rust-src",
        }
    }
}

/// What to do.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Plan {
    /// The road that was chosen.
    pub(crate) road: Road,
    /// What is missing and can be done now, in order.
    pub(crate) steps: Vec<Step>,
}

/// One thing to do.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// What is missing.
    pub(crate) what: String,
    /// What it is needed for.
    pub(crate) why: &'static str,
    /// The command that provides it.
    pub(crate) command: CommandLine,
    /// Whether the set-up fails without it.
    pub(crate) required: bool,
}

impl Step {
    fn installs_package(&self) -> bool {
        self.command.words.iter().any(|word| word == "apt-get")
    }
}

/// A package that is used, and its purpose.
pub(crate) struct Package {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its purpose.
    pub(crate) why: &'static str,
    road: Option<Road>,
}

impl Package {
    /// A package that every road needs.
    pub(crate) const fn new(name: &'static str, why: &'static str) -> Self {
        Self { name, why, road: None }
    }

    const fn of(road: Road, name: &'static str, why: &'static str) -> Self {
        Self { name, why, road: Some(road) }
    }
}

/// The packages except LLVM, whose name depends on its version.
pub(crate) const PACKAGES: &[Package] = &[
    Package::of(Road::Distribution, "rustc-web", "a Rust compiler that can build for BPF"),
    Package::of(Road::Distribution, "cargo-web", "the cargo that goes with it"),
    Package::of(Road::Distribution, "libstd-rust-web-dev-bpf", "the core library, compiled for BPF"),
    Package::new("iproute2", "tests and demo make network namespaces and veth pairs with `ip`"),
    Package::new("ethtool", "tests and demo switch checksum offload off on veth"),
    Package::new("curl", "tests fetch pages and metrics with a real client"),
    Package::new("nftables", "tests translate ports, as a host of containers does"),
];

/// Plans the next steps.
pub(crate) fn plan(facts: &Facts, wanted: Option<Road>) -> Result<Plan> {
    let stale = facts.apt && !facts.lists_updated;
    let undecided = wanted.is_none() && facts.linked_llvm.is_none() && facts.distribution_llvm.is_none();
    if stale && undecided && !facts.apt_offers_bpf {
        return Ok(Plan { road: Road::Distribution, steps: vec![update_lists(facts)?] });
    }
    let road = choose(facts, wanted)?;
    let mut steps = Vec::new();
    install_packages(facts, road, &mut steps)?;
    toolchain(facts, road, &mut steps)?;
    components(facts, &mut steps);
    if !facts.bpffs {
        let mut mount = privileged(facts, "mount -t bpf bpf /sys/fs/bpf", &[])?;
        mount.required = false;
        mount.what = "a BPF file system at /sys/fs/bpf".into();
        mount.why = "tools such as bpftool look there for what programs pin";
        steps.push(mount);
    }
    if stale && steps.iter().any(Step::installs_package) {
        steps.insert(0, update_lists(facts)?);
    }
    Ok(Plan { road, steps })
}

fn choose(facts: &Facts, wanted: Option<Road>) -> Result<Road> {
    let linked =
        facts.linked_llvm.map(|_| if facts.linked_is_nightly { Road::Nightly } else { Road::Distribution });
    if let Some(road) = wanted.or(linked) {
        return Ok(road);
    }
    if facts.distribution_llvm.is_some() || facts.apt_offers_bpf {
        return Ok(Road::Distribution);
    }
    if facts.rustup {
        return Ok(Road::Nightly);
    }
    bail!(
        "no way to a Rust compiler for BPF: this distribution packages none (Debian 12 and newer have \
         libstd-rust-web-dev-bpf), and rustup is not installed (https://rustup.rs)"
    )
}

fn install_packages(facts: &Facts, road: Road, steps: &mut Vec<Step>) -> Result<()> {
    if !facts.apt {
        return Ok(());
    }
    for package in PACKAGES {
        let wanted = package.road.is_none_or(|only| only == road);
        if wanted && !facts.packages.contains(package.name) {
            steps.push(install(facts, package.name, package.why)?);
        }
    }
    Ok(())
}

/// Plans the compiler, the linker for its LLVM, and the name that build scripts know.
fn toolchain(facts: &Facts, road: Road, steps: &mut Vec<Step>) -> Result<()> {
    let nightly = road == Road::Nightly;
    if nightly && (facts.nightly_llvm.is_none() || !facts.nightly_rust_src) {
        steps.push(Step {
            what: "nightly Rust with rust-src".into(),
            why: "a Rust compiler that can build for BPF, and the core library to build along",
            command: CommandLine::new(
                "rustup toolchain install nightly --profile minimal --component rust-src",
            ),
            required: true,
        });
    }
    let Some(llvm) = (if nightly { facts.nightly_llvm } else { facts.distribution_llvm }) else {
        return Ok(()); // which linker is needed shows when the compiler is there
    };
    linker(facts, llvm, steps)?;
    if facts.rustup && (facts.linked_llvm.is_none() || facts.linked_is_nightly != nightly) {
        let target = if nightly { "\"$(rustc +nightly --print sysroot)\"" } else { "/usr" };
        let link = CommandLine::new("rustup toolchain link").args(&[BPF_TOOLCHAIN, target]);
        // The nightly's folder is only known to rustup.
        let command = if nightly { CommandLine::new("sh -c").args(&[link.text()]) } else { link };
        let why = "the one name by which build scripts know the compiler for BPF";
        steps.push(Step {
            what: format!("the toolchain name {BPF_TOOLCHAIN}"),
            why,
            command,
            required: true,
        });
    }
    Ok(())
}

fn linker(facts: &Facts, llvm: u32, steps: &mut Vec<Step>) -> Result<()> {
    if facts.linker_llvm == Some(llvm) {
        return Ok(());
    }
    let headers = format!("llvm-{llvm}-dev");
    let mut build = CommandLine::new(&format!(
        "cargo install bpf-linker --version {LINKER_VERSION} --locked --force --no-default-features --features llvm-{llvm}"
    ));
    if facts.apt {
        if !facts.packages.contains(&headers) {
            steps.push(install(facts, &headers, "bpf-linker is built with the LLVM of the compiler")?);
        }
        build = build.env("LLVM_PREFIX", &format!("/usr/lib/llvm-{llvm}"));
    }
    steps.push(Step {
        what: format!("bpf-linker for LLVM {llvm}"),
        why: "links Rust crates into a BPF object; must be of the compiler's LLVM",
        command: build,
        required: true,
    });
    Ok(())
}

fn components(facts: &Facts, steps: &mut Vec<Step>) {
    for (name, why) in [("clippy", "`cargo xtask lint`"), ("rustfmt", "`cargo xtask lint`")] {
        if facts.rustup && !facts.components.contains(name) {
            let command = CommandLine::new(&format!("rustup component add {name}"));
            steps.push(Step { what: name.into(), why, command, required: false });
        }
    }
}

fn update_lists(facts: &Facts) -> Result<Step> {
    let mut step = privileged(facts, "apt-get update", &[])?;
    step.what = "package lists".into();
    step.why = "old ones offer packages that are gone, and lack those that came since";
    step.required = false; // one broken source among many is no reason to stop
    Ok(step)
}

/// Installs a package.
pub(crate) fn install(facts: &Facts, package: &str, why: &'static str) -> Result<Step> {
    let mut step = privileged(facts, "apt-get install --yes --no-install-recommends", &[package])?;
    step.command = step.command.env("DEBIAN_FRONTEND", "noninteractive");
    step.what = package.into();
    step.why = why;
    Ok(step)
}

/// Creates a step that needs root.
fn privileged(facts: &Facts, line: &str, arguments: &[&str]) -> Result<Step> {
    let command = match (facts.root, facts.sudo) {
        (true, _) => CommandLine::new(line),
        (false, true) => {
            CommandLine::new("sudo --non-interactive").args(&line.split(' ').collect::<Vec<_>>())
        }
        (false, false) => {
            bail!("`{line} {}` needs root: run it as root, then set up again", arguments.join(" "))
        }
    };
    Ok(Step { what: String::new(), why: "", command: command.args(arguments), required: true })
}

#[cfg(test)]
mod tests;
