//! Both roads, from nothing to complete.

use super::*;

fn everything_for(road: Road) -> Facts {
    Facts {
        root: true,
        apt: road == Road::Distribution,
        apt_offers_bpf: road == Road::Distribution,
        lists_updated: true,
        rustup: true,
        components: ["clippy", "rustfmt"].map(str::to_owned).into(),
        nightly_llvm: (road == Road::Nightly).then_some(22),
        nightly_rust_src: road == Road::Nightly,
        distribution_llvm: (road == Road::Distribution).then_some(22),
        linked_llvm: Some(22),
        linked_is_nightly: road == Road::Nightly,
        linker_llvm: Some(22),
        packages: PACKAGES
            .iter()
            .map(|package| package.name.to_owned())
            .chain(["llvm-22-dev".into()])
            .collect(),
        bpffs: true,
        ..Facts::default()
    }
}

fn missing(facts: &Facts, wanted: Option<Road>) -> Vec<String> {
    plan(facts, wanted).unwrap().steps.into_iter().map(|step| step.what).collect()
}

#[test]
fn nothing_is_missing_where_a_road_is_complete() {
    for road in [Road::Distribution, Road::Nightly] {
        let plan = plan(&everything_for(road), None).unwrap();
        assert_eq!((plan.road, plan.steps), (road, Vec::new()));
    }
}

#[test]
fn each_missing_thing_is_named() {
    use Road::{Distribution, Nightly};
    type TakeAway = fn(&mut Facts);
    let cases: [(&str, Road, TakeAway, &[&str]); 10] = [
        (
            "a tool for tests, and the package lists may be old",
            Distribution,
            |f| {
                f.packages.remove("ethtool");
                f.lists_updated = false;
            },
            &["package lists", "ethtool"],
        ),
        (
            "everything, and old package lists offer no compiler",
            Distribution,
            |f| *f = Facts { root: true, apt: true, rustup: true, ..Facts::default() },
            &["package lists"],
        ),
        ("a tool for tests", Distribution, |f| _ = f.packages.remove("ethtool"), &["ethtool"]),
        ("the linker", Distribution, |f| f.linker_llvm = None, &["bpf-linker for LLVM 22"]),
        (
            "the linker is of another LLVM, and so are the headers",
            Distribution,
            |f| {
                f.linker_llvm = Some(21);
                f.packages.remove("llvm-22-dev");
            },
            &["llvm-22-dev", "bpf-linker for LLVM 22"],
        ),
        ("the name", Distribution, |f| f.linked_llvm = None, &["the toolchain name floodgate-bpf"]),
        ("the sources", Nightly, |f| f.nightly_rust_src = false, &["nightly Rust with rust-src"]),
        (
            "the compiler, so that the linker cannot be told yet",
            Nightly,
            |f| (f.nightly_llvm, f.linked_llvm, f.linker_llvm) = (None, None, None),
            &["nightly Rust with rust-src"],
        ),
        ("the file system", Nightly, |f| f.bpffs = false, &["a BPF file system at /sys/fs/bpf"]),
        ("a component", Nightly, |f| _ = f.components.remove("clippy"), &["clippy"]),
    ];
    for (why, road, take_away, expected) in cases {
        let mut facts = everything_for(road);
        take_away(&mut facts);
        assert_eq!(missing(&facts, None), expected, "{why}");
    }
}

#[test]
fn a_bare_machine_gets_the_distributions_compiler_where_there_is_one() {
    let facts = Facts {
        root: true,
        apt: true,
        apt_offers_bpf: true,
        lists_updated: true,
        rustup: true,
        ..Facts::default()
    };
    let plan = plan(&facts, None).unwrap();
    assert_eq!(plan.road, Road::Distribution);
    assert_eq!(plan.steps[0].what, "rustc-web");
    assert_eq!(
        plan.steps[0].command.text(),
        "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends rustc-web"
    );
}

#[test]
fn a_bare_machine_gets_nightly_elsewhere() {
    let facts = Facts { root: true, rustup: true, bpffs: true, ..Facts::default() };
    let plan = plan(&facts, None).unwrap();
    assert_eq!(plan.road, Road::Nightly);
    assert_eq!(
        plan.steps[0].command.text(),
        "rustup toolchain install nightly --profile minimal --component rust-src"
    );
}

#[test]
fn the_other_road_can_be_asked_for() {
    let mut facts = everything_for(Road::Distribution);
    facts.nightly_llvm = Some(22);
    facts.nightly_rust_src = true;
    assert_eq!(missing(&facts, Some(Road::Nightly)), ["the toolchain name floodgate-bpf"]);
}

#[test]
fn where_no_road_leads_both_are_named() {
    let error = plan(&Facts { root: true, ..Facts::default() }, None).unwrap_err().to_string();
    assert!(error.contains("libstd-rust-web-dev-bpf") && error.contains("rustup"), "{error}");
}

#[test]
fn without_root_the_command_to_run_as_root_is_named() {
    let mut facts = everything_for(Road::Distribution);
    facts.root = false;
    facts.packages.remove("ethtool");
    let error = plan(&facts, None).unwrap_err().to_string();
    assert!(error.contains("apt-get install") && error.contains("ethtool"), "{error}");
    facts.sudo = true;
    assert!(
        plan(&facts, None).unwrap().steps[0]
            .command
            .text()
            .contains("sudo --non-interactive apt-get install")
    );
}
