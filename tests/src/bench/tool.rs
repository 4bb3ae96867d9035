//! Third-party programs that the bench needs, and their packages.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// A third-party program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tool {
    /// The program.
    pub program: &'static str,
    /// The Debian package.
    pub package: &'static str,
}

/// A filter to compare with.
pub(super) const XDP_FILTER: Tool = Tool { program: "xdp-filter", package: "xdp-tools" };
/// A filter to compare with.
pub(super) const NFT: Tool = Tool { program: "nft", package: "nftables" };

/// A filter to compare with.
pub(super) const IPTABLES: Tool = Tool { program: "iptables", package: "iptables" };
/// A filter to compare with.
pub(super) const IPSET: Tool = Tool { program: "ipset", package: "ipset" };

/// Services on the flooded host and on its peers.
pub(super) const SERVICES: [Tool; 3] = [
    Tool { program: "nginx", package: "nginx-light" },
    Tool { program: "unbound", package: "unbound" },
    Tool { program: "dnsmasq", package: "dnsmasq-base" },
];

/// All third-party programs.
pub const TOOLS: [Tool; 7] = [XDP_FILTER, NFT, IPTABLES, IPSET, SERVICES[0], SERVICES[1], SERVICES[2]];

impl Tool {
    /// Whether it is installed.
    pub fn is_installed(&self) -> bool {
        Command::new(self.program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
    }

    /// Installs its package.
    pub fn install(&self) -> Result<()> {
        let status = Command::new("apt-get")
            .args(["install", "--yes", "--no-install-recommends", self.package])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("starting apt-get")?;
        ensure!(status.success(), "`apt-get install {}` failed; `apt-get update` first?", self.package);
        Ok(())
    }
}
