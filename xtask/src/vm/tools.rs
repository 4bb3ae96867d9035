//! What runs the machines: QEMU from the distribution, virtme-ng and virtiofsd in the cache.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{
    command::CommandLine,
    setup::{self, Facts, Package, Step, install},
};

/// The tested version of virtme-ng, which boots a kernel on this machine's own files, read-only.
const VIRTME_NG: &str = "1.42";

/// The tested version of virtiofsd, which shares those files with the machine.
const VIRTIOFSD: &str = "1.14.0";

/// Packages that the machines need.
pub(crate) const PACKAGES: &[Package] = &[
    Package::new("qemu-system-x86", "runs the machines"),
    Package::new("busybox-static", "virtme-ng's first process in a machine is made of it"),
    Package::new("kmod", "`depmod` lists the modules of a fetched kernel, and a machine loads them"),
    Package::new("udev", "brings up the devices of a machine, its way to print among them"),
    Package::new("libcap-ng-dev", "virtiofsd is built with it"),
    Package::new("libseccomp-dev", "virtiofsd is built with it"),
    Package::new("python3-venv", "virtme-ng is a Python program, and gets a folder of its own"),
];

/// The folder with virtme-ng, a Python environment.
fn environment(cache: &Path) -> PathBuf {
    cache.join("tools")
}

/// The folder with the tools' programs.
pub(crate) fn programs(cache: &Path) -> PathBuf {
    environment(cache).join("bin")
}

/// Installs what is missing.
pub(crate) fn ensure(cache: &Path) -> Result<()> {
    let steps = plan(cache, &Facts::gather(true))?;
    setup::carry_out(&steps)
}

fn plan(cache: &Path, facts: &Facts) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for package in PACKAGES.iter().filter(|package| facts.apt && !facts.packages.contains(package.name)) {
        steps.push(install(facts, package.name, package.why)?);
    }
    let folder = environment(cache);
    let at = |program: &str| programs(cache).join(program);
    let mut tool = |program: &str, what: String, why, commands: Vec<CommandLine>| {
        if !at(program).exists() {
            let steps_of_tool =
                commands.into_iter().map(|command| Step { what: what.clone(), why, command, required: true });
            steps.extend(steps_of_tool);
        }
    };
    tool(
        "vng",
        format!("virtme-ng {VIRTME_NG}"),
        "boots a kernel on this machine's own files",
        vec![
            // The distribution's Python, which python3-venv belongs to; another one may come first in the path.
            CommandLine::new("/usr/bin/python3 -m venv").args(&[folder.display().to_string()]),
            CommandLine::program(&at("pip")).args(&[
                "install",
                "--quiet",
                &format!("virtme-ng=={VIRTME_NG}"),
            ]),
        ],
    );
    tool(
        "virtiofsd",
        format!("virtiofsd {VIRTIOFSD}"),
        "shares this machine's files with the one that is booted",
        vec![
            CommandLine::new(&format!(
                "cargo install virtiofsd --quiet --version {VIRTIOFSD} --locked --root"
            ))
            .args(&[folder.display().to_string()]),
        ],
    );
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_tool_is_named_and_nothing_else() {
        let cache = Path::new("/nonexistent");
        let all = || PACKAGES.iter().map(|package| package.name.to_owned()).collect();
        let facts = Facts { root: true, apt: true, packages: all(), ..Facts::default() };
        let what = |facts: &Facts| -> Vec<String> {
            plan(cache, facts).unwrap().into_iter().map(|step| step.what).collect()
        };
        let tools = ["virtme-ng 1.42", "virtme-ng 1.42", "virtiofsd 1.14.0"];
        assert_eq!(what(&facts), tools);
        let mut without = facts.clone();
        without.packages.remove("udev");
        assert_eq!(what(&without), [&["udev"], &tools[..]].concat());
    }
}
