//! `docs/configuration.md`, rendered from the sections and keys of [`super::file`], and `docs/reflectors.md`, from the
//! list of mirrors.

use flood_common::{
    reflector::{REFLECTORS, Reflector},
    solicit::{ANSWER_S, DNS_S, SESSION_S},
};

use super::file::{DefaultValue, Key, Section, sections};
use super::limit::{BitLimit, CellLimit, CellName, LimitOrigin, PacketLimit, RateLimit, default_limits};

const PREFACE: &str = "\
# Configuration

<!-- Rendered from flood-userspace/src/config/file.rs; change it there. -->

`floodgate` reads `/etc/floodgate/floodgate.toml`, or the file that `--config` names, in TOML. Every key may
be left out. A key or section that is not on this page is an error, and a file with an error changes nothing:
every error is reported with its line and column. `floodgate check FILE` tells without applying.

Numbers are written with their units, in quotes:

| What | Examples |
|---|---|
| packet rate | `\"20k/s\"`, `\"1.5M/s\"`, `\"200/s\"` |
| bit rate | `\"200Mbit/s\"`, `\"1.2Gbit/s\"`, `\"500kbit/s\"` |
| number of packets | `\"40k\"`, `\"1M\"` |
| number of bits | `\"8Mbit\"`, `\"1Gbit\"` |

`k` is 1000, `M` a million, `G` a thousand million. A rate of 0 is refused, because it would drop everything.
";

const DEFAULTS_PREFACE: &str = "\
This file has what holds when nothing is written. Do not copy its limits: a default that is marked holds only where the
mark says, a written one always.
";

/// The page on the configuration, in Markdown.
pub fn reference() -> String {
    let sections = sections();
    let mut page = format!("{PREFACE}\n{DEFAULTS_PREFACE}\n```toml\n");
    page += &render_defaults(&sections);
    page += "```\n";
    for section in &sections {
        page += &render_section(section);
    }
    page
}

const REFLECTORS_PREFACE: &str = "\
# Mirrors

<!-- Rendered from flood-common/src/reflector.rs; change it there. -->

UDP services that attackers use as mirrors: a small request with the victim's address as its source, a large answer to
the victim. UDP that comes in from these ports passes as any other when it was asked for; how that is told says
[`proof.solicited`](configuration.md#solicited). `sources.reflectors` adds ports, `sources.reflectors_off` takes services
out by name or port.

The factor is how many bytes of answer come for a byte of request. The time is for how long an answer is waited for after
what the host has sent to that port last. TA14-017A is a US-CERT alert. Two have no fixed port and are not here: Kad, and SSDP
that answers from another port than its own, as many devices do.

| service | port | factor | time | source |
|---|---:|---|---:|---|
";

/// The page on mirrors, in Markdown.
pub fn reflectors() -> String {
    let row = |known: &Reflector| {
        let Reflector { name, port, factor, source, is_session } = known;
        let seconds = match (*port, is_session) {
            (53, _) => DNS_S,
            (_, true) => SESSION_S,
            (_, false) => ANSWER_S,
        };
        format!("| `{name}` | {port} | {factor} | {seconds} s | {source} |\n")
    };
    REFLECTORS.iter().map(row).fold(REFLECTORS_PREFACE.to_owned(), |page, row| page + &row)
}

/// A configuration file in which every key with a default has it.
fn render_defaults(sections: &[Section]) -> String {
    let limits = default_limits();
    let blocks = sections.iter().map(render_default_section).chain(limits.iter().map(render_default_limit));
    blocks.filter(|block| !block.is_empty()).collect::<Vec<_>>().join("\n")
}

fn render_default_limit((name, limit): (&CellName, &CellLimit)) -> String {
    let RateLimit { packets, bits } = limit.limit;
    let packets = packets
        .map(|PacketLimit { rate, burst }| format!("packets = \"{rate}\"\npackets_burst = \"{burst}\"\n"));
    let bits = bits.map(|BitLimit { rate, burst }| format!("bits = \"{rate}\"\nbits_burst = \"{burst}\"\n"));
    let mark = if limit.origin == LimitOrigin::Host {
        "# where this host's sockets tell what is wanted\n"
    } else if limit.is_of_ipv6_alone(*name) {
        "# for IPv6\n"
    } else {
        ""
    };
    format!("{mark}[limit.{name}]\n{}{}", packets.unwrap_or_default(), bits.unwrap_or_default())
}

fn render_default_section(section: &Section) -> String {
    if !section.is_one() {
        return String::new(); // limits, which are rendered by their values, and feeds, of which there are none
    }
    let header = if section.name.is_empty() { String::new() } else { format!("[{}]\n", section.name) };
    let keys = section.keys.iter().map(|Key { name, default, .. }| match default {
        DefaultValue::Written(value) => format!("{name} = {value}\n"),
        DefaultValue::Unset(words) => format!("# {name}: {words}\n"),
    });
    keys.fold(header, |block, line| block + &line)
}

fn render_section(section: &Section) -> String {
    let Section { name, doc, keys } = section;
    let title = match *name {
        "" => "Top of the file".to_owned(),
        name if name.ends_with(".feed") => format!("`[[{name}]]`"),
        name => format!("`[{name}]`"),
    };
    let head = format!("\n## {title}\n\n{}\n", render_doc(doc));
    keys.iter().fold(head, |block, key| block + &render_key(key))
}

fn render_key(key: &Key) -> String {
    let Key { name, doc, default, accepts } = key;
    let default = match default {
        DefaultValue::Written(value) => format!("`{value}`"),
        DefaultValue::Unset(words) => (*words).to_owned(),
    };
    format!("\n### `{name}`\n\n{}\n\n- Default: {default}\n- Accepts: {accepts}\n", render_doc(doc))
}

/// The lines of a doc comment, without the blank that stands behind its slashes.
fn render_doc(doc: &[&str]) -> String {
    let lines: Vec<_> = doc.iter().map(|line| line.trim()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::file::accepts;
    use crate::config::{Config, ConfigFile};

    #[test]
    fn the_stated_defaults_are_the_defaults() {
        let text = render_defaults(&sections());
        let mut stated = Config::parse(&text, Path::new("floodgate.toml")).unwrap();
        for (name, limit) in &mut stated.limits {
            assert_eq!(limit.origin, LimitOrigin::Configuration, "{name}: what is written is written");
            limit.origin = default_limits()[name].origin;
        }
        assert_eq!(stated, Config::default(), "{text}");
    }

    #[test]
    fn the_page_in_the_repository_is_this_one() {
        for (name, rendered) in [("configuration.md", reference()), ("reflectors.md", reflectors())] {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
            if std::env::var_os("FLOODGATE_RENDER").is_some() {
                std::fs::write(&path, &rendered).unwrap();
            }
            let page = std::fs::read_to_string(&path).unwrap();
            assert!(page == rendered, "{} is old: FLOODGATE_RENDER=1 cargo test renders it", path.display());
        }
    }

    /// What serde expects in a section, told by its error on a key that does not exist.
    fn expected_by_serde(section: &str) -> Vec<String> {
        let section = section.replace("SCOPE", "source").replace("CLASS", "syn").replace("LIST", "block");
        let header = match section.as_str() {
            "" => String::new(),
            section if section.ends_with(".feed") => format!("[[{section}]]\n"),
            section => format!("[{section}]\n"),
        };
        let error = toml::from_str::<ConfigFile>(&(header + "unheard_of = 1")).unwrap_err();
        let (_, expected) = error.message().split_once("expected").unwrap();
        let prefix = if section.is_empty() { String::new() } else { format!("{section}.") };
        expected.split('`').skip(1).step_by(2).map(|name| format!("{prefix}{name}")).collect()
    }

    #[test]
    fn every_key_that_serde_knows_is_in_the_reference() {
        let mut names: Vec<_> = sections().iter().map(|section| section.name).collect();
        names.push("limit");
        for path in names.iter().flat_map(|section| expected_by_serde(section)) {
            // A key, or a section within this one.
            let is_section = path == "limit" || sections().iter().any(|section| section.is_at(&path));
            assert!(accepts(&path).is_some() || is_section, "{path} is not described");
        }
    }

    #[test]
    fn every_key_has_its_place_on_the_page() {
        let page = reference();
        for section in sections() {
            let name = section.name;
            let headings = [format!("## `[{name}]`"), format!("## `[[{name}]]`")];
            let heading = headings.iter().find_map(|heading| page.find(heading)).unwrap_or(0);
            for key in section.keys {
                assert!(page[heading..].contains(&format!("### `{}`", key.name)), "{}", key.name);
            }
        }
    }
}
