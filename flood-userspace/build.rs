//! Builds the filter for the BPF target and leaves the object in `OUT_DIR/filter`.

use std::env;

use aya_build::{Package, Toolchain, build_ebpf};

/// `cargo xtask setup` gives whichever toolchain builds for BPF this name.
const BPF_TOOLCHAIN: &str = "floodgate-bpf";

fn main() {
    println!("cargo:rerun-if-changed=../flood-common/src");
    // SAFETY: a build script that has started no thread. Cargo's progress would appear as warnings otherwise.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    let package = Package { name: "flood-ebpf", root_dir: "../flood-ebpf", ..Package::default() };
    if let Err(error) = build_ebpf([package], Toolchain::Custom(BPF_TOOLCHAIN)) {
        println!(
            "cargo::error=the BPF side cannot be built: `cargo xtask setup` installs what it needs ({error:#})"
        );
    }
}
