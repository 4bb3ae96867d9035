//! Builds the laboratory's BPF programs and leaves the object in `OUT_DIR/lab`.

use std::env;

use aya_build::{Package, Toolchain, build_ebpf};

fn main() {
    println!("cargo:rerun-if-changed=../flood-common/src");
    // SAFETY: a build script that has started no thread. Cargo's progress would appear as warnings otherwise.
    unsafe { env::set_var("CARGO_TERM_QUIET", "true") };
    let package =
        Package { name: "flood-ebpf", root_dir: "../flood-ebpf", features: &["lab"], ..Package::default() };
    // The toolchain's name is explained in flood-userspace/build.rs.
    if let Err(error) = build_ebpf([package], Toolchain::Custom("floodgate-bpf")) {
        println!(
            "cargo::error=the BPF side cannot be built: `cargo xtask setup` installs what it needs ({error:#})"
        );
    }
}
