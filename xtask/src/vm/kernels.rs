//! Distribution kernels: fetched from Debian's signed packages, unpacked into the cache, never installed.
//!
//! apt fetches them with a state of its own: the machine's package sources and lists are not touched, and signatures
//! and hashes are checked. The mirror is the one that the machine's own apt uses.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use crate::command::CommandLine;

/// Maximum number of bytes that one call downloads: four kernels are about 120 MB.
const DOWNLOAD_CAP: u64 = 220_000_000;

/// The keys that sign the packages.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// A series of kernels.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Series {
    /// The name that `--kernel` takes.
    pub(crate) name: &'static str,
    /// What it represents.
    pub(crate) about: &'static str,
    /// Whether Floodgate supports it; if not, only the refusal is tested.
    pub(crate) supported: bool,
    archive: Archive,
    suite: &'static str,
    /// The part of a release before the patch level; `None` for the newest available.
    version: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Archive {
    Main,
    Security,
}

/// All series, the oldest first.
pub(crate) const SERIES: &[Series] = &[
    Series {
        name: "5.10",
        about: "Debian 11; not supported, and has to be refused by name",
        supported: false,
        archive: Archive::Security,
        suite: "bullseye-security",
        version: Some("5.10"),
    },
    Series {
        name: "6.1",
        about: "Debian 12; the oldest that is supported",
        supported: true,
        archive: Archive::Security,
        suite: "bookworm-security",
        version: Some("6.1"),
    },
    Series {
        name: "6.12",
        about: "Debian 13",
        supported: true,
        archive: Archive::Security,
        suite: "bookworm-security",
        version: Some("6.12"),
    },
    Series {
        name: "newest",
        about: "the newest in Debian 13's backports",
        supported: true,
        archive: Archive::Main,
        suite: "trixie-backports",
        version: None,
    },
];

/// A kernel in the cache.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Kernel {
    /// The output of `uname -r`.
    pub(crate) release: String,
    /// The image. Modules lie beside it, where virtme-ng looks for them.
    pub(crate) image: PathBuf,
}

/// Whether a series can be run.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Availability {
    /// It can.
    Ready(Kernel),
    /// It cannot; the reason.
    Missing(String),
}

fn folder(cache: &Path, series: &Series) -> PathBuf {
    cache.join("kernels").join(series.name)
}

/// Returns the kernel of a series if it is in the cache. The release is written last, so its presence means that the
/// rest is complete.
pub(crate) fn cached(cache: &Path, series: &Series) -> Option<Kernel> {
    let folder = folder(cache, series);
    let release = fs::read_to_string(folder.join("release")).ok()?;
    let image = folder.join("boot").join(format!("vmlinuz-{release}"));
    Some(Kernel { release, image })
}

/// Fetches what is not in the cache.
pub(crate) fn fetch(
    cache: &Path,
    wanted: &[&'static Series],
) -> Result<Vec<(&'static Series, Availability)>> {
    let mut apt = None;
    let mut left = DOWNLOAD_CAP;
    let mut fetched = Vec::new();
    for series in wanted {
        let availability = match cached(cache, series) {
            Some(kernel) => Availability::Ready(kernel),
            None => {
                // The lists are fetched once, and only if something is missing.
                let apt = apt.get_or_insert_with(|| Apt::open(cache));
                let kernel = apt.as_ref().map_err(|error| format!("{error:#}")).and_then(|apt| {
                    fetch_one(cache, apt, series, &mut left).map_err(|error| format!("{error:#}"))
                });
                kernel.map_or_else(Availability::Missing, Availability::Ready)
            }
        };
        fetched.push((*series, availability));
    }
    Ok(fetched)
}

fn fetch_one(cache: &Path, apt: &Apt, series: &Series, left: &mut u64) -> Result<Kernel> {
    let names = apt.kernel_packages()?;
    let (release, packages) = newest(&names, series.version)
        .with_context(|| format!("{} has no kernel of this series", series.suite))?;
    let uris = apt.line("apt-get --print-uris download").args(&packages).output();
    let size = download_size(&uris.context("asking apt for the size of the packages")?);
    ensure!(
        size <= *left,
        "{release} is {} MB, and only {} MB of the download cap of {} MB are left",
        size / 1_000_000,
        *left / 1_000_000,
        DOWNLOAD_CAP / 1_000_000
    );
    *left -= size;
    eprintln!("vm: kernel {release}: {} MB, for the series {}", size / 1_000_000, series.name);

    let folder = folder(cache, series);
    let _ = fs::remove_dir_all(&folder); // what an interrupted call left
    fs::create_dir_all(&folder)?;
    apt.line("apt-get -qq download").args(&packages).within(&folder).run()?;
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            CommandLine::new("dpkg -x")
                .args(&[&path, &folder].map(|path| path.display().to_string()))
                .run()?;
            fs::remove_file(&path)?;
        }
    }
    arrange(&folder, &release)?;
    cached(cache, series).context("the kernel that was just unpacked is not there")
}

/// Puts image and modules where they were before Debian split its packages (6.19), and where virtme-ng looks.
fn arrange(folder: &Path, release: &str) -> Result<()> {
    let image = folder.join("boot").join(format!("vmlinuz-{release}"));
    if !image.exists() {
        fs::create_dir_all(folder.join("boot"))?;
        fs::rename(folder.join("usr/lib/modules").join(release).join("vmlinuz"), &image)
            .context("the packages hold no kernel image")?;
    }
    if !folder.join("lib/modules").exists() {
        fs::create_dir_all(folder.join("lib"))?;
        symlink("../usr/lib/modules", folder.join("lib/modules"))?;
    }
    CommandLine::new("depmod -b").args(&[folder.display().to_string(), release.to_owned()]).run()?;
    fs::write(folder.join("release"), release)?;
    Ok(())
}

/// Returns the release with the highest number and its packages, of the releases that are complete. The `cloud`
/// flavour has every driver of a virtual machine and a third of the size.
fn newest(names: &[String], version: Option<&str>) -> Option<(String, Vec<String>)> {
    let has = |name: &str| names.iter().any(|other| other == name);
    let candidates = names.iter().filter_map(|name| {
        let release = name.strip_prefix("linux-image-")?;
        let number = release.strip_suffix("-cloud-amd64")?;
        let fits = match version {
            Some(version) => number.strip_prefix(version).is_some_and(|rest| rest.starts_with(['.', '-'])),
            None => true,
        };
        // Rebuilds for an older release of the distribution are marked in the name, and do not belong to the series.
        (fits && number.starts_with(|c: char| c.is_ascii_digit()) && number.contains('.'))
            .then_some((release, name))
    });
    let mut whole: Vec<(Vec<u32>, String, Vec<String>)> = candidates
        .filter_map(|(release, image)| {
            let split = [
                format!("linux-binary-{release}"),
                format!("linux-modules-{release}"),
                format!("linux-base-{release}"),
            ];
            let packages = if !has(&split[0]) {
                vec![image.clone()]
            } else if split.iter().all(|name| has(name)) {
                split.to_vec()
            } else {
                return None; // superseded: its modules are gone
            };
            Some((numbers(release), release.to_owned(), packages))
        })
        .collect();
    whole.sort();
    whole.pop().map(|(_, release, packages)| (release, packages))
}

/// The numbers in a release: `6.12.117+deb12-cloud-amd64` is 6, 12, 117, 12, 64.
fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Sums the sizes that `apt-get --print-uris` prints: `'URI' NAME SIZE HASH`.
fn download_size(uris: &str) -> u64 {
    uris.lines().filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok()).sum()
}

/// apt with a state of its own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn open(cache: &Path) -> Result<Self> {
        ensure!(
            Path::new(KEYRING).exists(),
            "kernels come from Debian's packages, and {KEYRING} is missing (package debian-archive-keyring)"
        );
        let state = cache.join("apt");
        for name in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(state.join(name))?;
        }
        fs::write(state.join("status"), "")?;
        let sources = state.join("sources.list");
        fs::write(&sources, source_list(&mirrors()?))?;
        let set = |name: &str, path: &Path| format!("-o{name}={}", path.display());
        let options = vec![
            set("Dir::Etc::SourceList", &sources),
            set("Dir::Etc::SourceParts", Path::new("/dev/null")),
            set("Dir::Etc::PreferencesParts", Path::new("/dev/null")),
            set("Dir::State", &state),
            set("Dir::State::Status", &state.join("status")),
            set("Dir::Cache", &state),
            "-oAPT::Sandbox::User=root".into(),
            "-oAcquire::Languages=none".into(),
            "-oAcquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            "-oAcquire::Retries=3".into(),
        ];
        let apt = Self { options };
        // A suite that is gone from the mirror is reported when its kernel is looked up.
        let _ = apt.line("apt-get -qq update").status()?;
        Ok(apt)
    }

    fn line(&self, line: &str) -> CommandLine {
        let mut words = line.split_whitespace();
        CommandLine::new(words.next().unwrap_or_default())
            .args(&self.options)
            .args(&words.collect::<Vec<_>>())
    }

    fn kernel_packages(&self) -> Result<Vec<String>> {
        let names = self.line("apt-cache pkgnames linux-").output().context("asking apt for kernels")?;
        Ok(names.lines().map(str::to_owned).collect())
    }
}

/// Returns the mirrors that the machine's own apt uses: of the distribution, and of its security updates.
fn mirrors() -> Result<[String; 2]> {
    let targets = CommandLine::new("apt-get indextargets --format $(ORIGIN)|$(CODENAME)|$(SITE)");
    let text = targets.args(&["Created-By: Packages"]).output().context("asking apt for its mirrors")?;
    let find = |security: bool| {
        text.lines().find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
            ["Debian", codename, site] if codename.ends_with("-security") == security => {
                Some(site.to_owned())
            }
            _ => None,
        })
    };
    match (find(false), find(true)) {
        (Some(main), Some(security)) => Ok([main, security]),
        _ => bail!("kernels come from Debian's packages, and this machine's apt knows no mirror of them"),
    }
}

fn source_list([main, security]: &[String; 2]) -> String {
    let mut suites: Vec<(&str, &str)> = SERIES
        .iter()
        .map(|series| match series.archive {
            Archive::Main => (main.as_str(), series.suite),
            Archive::Security => (security.as_str(), series.suite),
        })
        .collect();
    suites.dedup();
    suites
        .iter()
        .map(|(mirror, suite)| format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_newest_release_that_can_be_had_whole_is_taken() {
        let offered = names(&[
            "linux-image-6.1.0-9-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.12.117+deb12-cloud-amd64",
            "linux-image-7.3.4+deb13-cloud-amd64",
            "linux-binary-7.3.4+deb13-cloud-amd64",
            "linux-modules-7.3.4+deb13-cloud-amd64",
            "linux-base-7.3.4+deb13-cloud-amd64",
            "linux-image-7.10.1+deb13-cloud-amd64",
            "linux-binary-7.10.1+deb13-cloud-amd64",
            "linux-image-cloud-amd64",
            "linux-image-6.1-cloud-amd64",
            "linux-image-9.9.9-amd64",
        ]);
        let release =
            |version| newest(&offered, version).map(|(release, packages)| (release, packages.len()));
        let cases = [
            ("56 is more than 9", Some("6.1"), Some(("6.1.0-56-cloud-amd64", 1))),
            ("6.12 is no 6.1", Some("6.12"), Some(("6.12.117+deb12-cloud-amd64", 1))),
            ("7.10.1 has lost its modules", None, Some(("7.3.4+deb13-cloud-amd64", 3))),
            ("there is none", Some("5.10"), None),
        ];
        for (why, version, expected) in cases {
            assert_eq!(release(version), expected.map(|(name, count)| (name.to_owned(), count)), "{why}");
        }
    }

    #[test]
    fn the_download_is_added_up_before_it_begins() {
        let uris = "'http://mirror/a.deb' a.deb 1000 SHA256:00\n'http://mirror/b.deb' b.deb 234 SHA256:11\n";
        assert_eq!(download_size(uris), 1_234);
    }
}
