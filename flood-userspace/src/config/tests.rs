use std::{net::IpAddr, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{
    lists::ListKind,
    quantity::{BitRate, Bits, Packets},
};

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("/etc/floodgate/floodgate.toml"))
}

#[test]
fn a_share_of_all_addresses_is_a_percentage() {
    for share in ["25", "0%", "101%", "%", "-1%", "2.5%", "all"] {
        for section in ["[block]", "[allow]", "[allow_proven]", "[[block.feed]]\nname = \"a\"\npath = \"a\""]
        {
            let text = refusal(&format!("{section}\nmax_coverage = \"{share}\""));
            assert!(text.contains("max_coverage: ") && text.contains("\"100%\""), "{share}: {text}");
        }
    }
}

fn refusal(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn an_empty_file_is_the_default() {
    assert_eq!(parse("").unwrap(), Config::default());
}

#[test]
fn a_full_file_is_read() {
    let config = parse(
        r#"
        interfaces = ["eth0", "eth1"]
        mode = "monitor"
        attach = "native-or-generic"
        state = "/tmp/state"

        [control]
        socket = "/tmp/floodgate.sock"
        metrics = "[::1]:9750"

        [limit.source]
        packets = "5k/s"
        packets_burst = "1k"
        bits = "200Mbit/s"
        bits_burst = "1Gbit"

        [limit.total.udp]
        bits = "1Gbit/s"

        [limit.source.syn]
        packets = "off"

        [limit.protected]
        neighbour_discovery = "2k/s"
        path_mtu = "3k/s"
        link = "4k/s"

        [proof]
        syn = "retransmission"
        host = false
        proven = "8k/s"
        answers = "9k/s"
        retransmissions = "7k/s"
        syncookies = "raise"
        solicited = "socket"

        [sanity]
        land = false
        bogon_source = true
        refuse_protocols = [47, 132]
        refuse_ethertypes = [0x8847, 0]

        [sources]
        table = 32768
        ipv6_prefix = 56
        ipv4_network = 22
        ipv6_network = 40
        nat64 = ["2001:db8:64::/96"]
        reflectors = [7777]
        reflectors_off = ["ntp", 27015]

        [lists]
        ipv4 = 10000000
        ipv6 = 1000

        [block]
        entries = ["203.0.113.0/24", "192.0.2.1-192.0.2.2"]
        files = ["drop.txt", "/var/lib/drop.txt"]
        may_cover_host = true
        max_coverage = "100%"

        [[block.feed]]
        name = "drop"
        url = "https://example.net/drop.txt"
        may_grow = true
        may_cover_host = true
        max_coverage = "40 %"

        [[block.feed]]
        name = "ours"
        path = "ours.txt"
        every = "5m"
        may_shrink = true

        [allow]
        entries = ["2001:db8::7"]
        files = ["allow.txt"]
        max_coverage = "1%"
        "#,
    );
    let written = |name: &str, packets, bits| {
        let limit = RateLimit { packets, bits };
        (name.parse().unwrap(), CellLimit { limit, origin: LimitOrigin::Configuration })
    };
    let expected = Config {
        interfaces: vec!["eth0".parse().unwrap(), "eth1".parse().unwrap()],
        mode: Mode::Monitor,
        attach: AttachMode::NativeOrGeneric,
        force: false,
        state: "/tmp/state".into(),
        control: Control {
            socket: "/tmp/floodgate.sock".into(),
            metrics: Some((IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 9750).into()),
        },
        limits: CellLimits::from_iter(Config::default().limits.into_iter().chain([
            written(
                "source",
                Some(PacketLimit { rate: PacketRate(5_000), burst: Packets(1_000) }),
                Some(BitLimit { rate: BitRate(200_000_000), burst: Bits(1_000_000_000) }),
            ),
            written("source.syn", None, None),
            written("total.udp", None, Some(BitLimit::of_rate(BitRate(1_000_000_000)))),
        ])),
        protected_limits: ProtectedLimits {
            neighbour_discovery: PacketLimit { rate: PacketRate(2_000), burst: Packets(4_000) },
            path_mtu: PacketLimit { rate: PacketRate(3_000), burst: Packets(6_000) },
            link: PacketLimit { rate: PacketRate(4_000), burst: Packets(8_000) },
        },
        proof: Proof {
            syn: SynProof::Retransmission,
            host: HostSays::No,
            proven: PacketLimit { rate: PacketRate(8_000), burst: Packets(16_000) },
            answers: PacketLimit { rate: PacketRate(9_000), burst: Packets(18_000) },
            retransmissions: PacketLimit { rate: PacketRate(7_000), burst: Packets(14_000) },
            syncookies: SyncookieControl::Raise,
            solicited: SolicitedBy::Socket,
        },
        sanity: Sanity {
            checks: Sanity::default()
                .checks
                .into_iter()
                .chain([("land", false), ("bogon_source", true)])
                .collect(),
            refuse_protocols: vec![47, 132],
            refuse_ethertypes: vec![0x8847, 0],
            accept_ethertypes: vec![],
        },
        sources: Sources {
            table: 32_768,
            ipv6_prefix: 56,
            ipv4_network: 22,
            ipv6_network: 40,
            nat64: vec!["2001:db8:64::/96".parse().unwrap()],
            reflectors: vec![7_777],
            reflectors_off: vec![123, 27_015],
        },
        lists: ListRoom { ipv4: 10_000_000, ipv6: 1_000 },
        block: ListInput {
            entries: ["203.0.113.0/24", "192.0.2.1/32", "192.0.2.2/32"].map(|p| p.parse().unwrap()).into(),
            files: vec!["/etc/floodgate/drop.txt".into(), "/var/lib/drop.txt".into()],
            feeds: vec![
                Feed {
                    name: "drop".parse().unwrap(),
                    source: FeedSource::Url("https://example.net/drop.txt".parse().unwrap()),
                    every: Duration::from_secs(3_600),
                    may_shrink: false,
                    may_grow: true,
                    may_cover_host: true,
                    max_coverage: Coverage { ipv4: 40, ipv6: 40 },
                },
                Feed {
                    name: "ours".parse().unwrap(),
                    source: FeedSource::Path("/etc/floodgate/ours.txt".into()),
                    every: Duration::from_secs(300),
                    may_shrink: true,
                    may_grow: false,
                    may_cover_host: false,
                    max_coverage: Coverage::default(),
                },
            ],
            may_cover_host: true,
            max_coverage: Coverage { ipv4: 100, ipv6: 100 },
        },
        allow: ListInput {
            entries: vec!["2001:db8::7/128".parse().unwrap()],
            files: vec!["/etc/floodgate/allow.txt".into()],
            max_coverage: Coverage { ipv4: 1, ipv6: 1 },
            ..ListInput::default()
        },
        allow_proven: ListInput::default(),
    };
    assert_eq!(config.unwrap(), expected);
}

#[test]
fn sources_are_listed_that_pass_by_evidence() {
    let text = "[allow_proven]\nentries = [\"2001:db8::/32\"]\n[[allow_proven.feed]]\nname = \"cdn\"\npath = \"cdn.txt\"\n";
    let config = parse(text).unwrap();
    let ListInput { entries, files, feeds, .. } = config.list(ListKind::AllowProven);
    assert_eq!((entries.as_slice(), files.len()), (&["2001:db8::/32".parse().unwrap()][..], 0));
    assert_eq!(feeds[0].source, FeedSource::Path("/etc/floodgate/cdn.txt".into()));
    assert_eq!(config.allow, ListInput::default());
}

#[test]
fn known_mirrors_are_switched_off_one_by_one() {
    let ports = |text: &str| parse(text).unwrap().sources.reflector_ports();
    let all = ports("");
    assert!(all.contains(&123) && !all.contains(&7_777));
    let some = ports("[sources]\nreflectors = [7777]\nreflectors_off = [\"ntp\", 27015]");
    assert_eq!(some.len(), all.len() - 2 + 1);
    assert!(!some.contains(&123) && !some.contains(&27_015) && some.contains(&7_777));
    for (text, expected) in [
        (
            "reflectors_off = [\"nfs\"]",
            "2:19: sources.reflectors_off: \"nfs\" is no service that is known as a mirror",
        ),
        (
            "reflectors_off = [7777]",
            "2:19: sources.reflectors_off: 7777 is no service that is known as a mirror",
        ),
        (
            "reflectors = [53]\nreflectors_off = [\"dns\"]",
            "3:19: sources.reflectors_off: 53 is among `reflectors`, too",
        ),
    ] {
        let refusal = refusal(&format!("[sources]\n{text}"));
        assert!(refusal.contains(expected), "{refusal}");
    }
    let refusal = refusal("[proof]\nsolicited = \"maybe\"");
    assert!(refusal.contains("2:13: proof.solicited:") && refusal.contains("`auto`"), "{refusal}");
}

#[test]
fn each_check_of_sanity_is_switched_by_its_name() {
    for (reason, is_default) in CHECKS {
        let label = reason.label();
        let made = |text: &str| sanity::Sanity::from(&parse(text).unwrap().sanity).makes(reason);
        assert_eq!(made(""), is_default, "{label}");
        assert!(made(&format!("[sanity]\n{label} = true")), "{label}");
        assert!(!made(&format!("[sanity]\n{label} = false")), "{label}");
        let refusal = refusal(&format!("[sanity]\n{label} = 1"));
        assert!(refusal.contains(&format!("sanity.{label}: invalid type")), "{refusal}");
    }
    let config = parse("[sanity]\nrefuse_protocols = [47, 132]").unwrap();
    let refused: Vec<_> = sanity::Sanity::from(&config.sanity).refused_protocols().collect();
    assert_eq!(refused, [47, 132]);
    for (text, expected) in [
        ("refuse_protocols = [47, 47]", "2:25: sanity.refuse_protocols: protocol 47 is named twice"),
        ("refuse_protocols = [256]", "2:21: sanity.refuse_protocols: invalid value"),
        ("refuse_protocols = [\"gre\"]", "2:21: sanity.refuse_protocols: invalid type"),
    ] {
        let refusal = refusal(&format!("[sanity]\n{text}"));
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn frames_that_are_not_ip_are_refused_or_accepted_by_ethertype() {
    let ethertypes =
        |text: &str| sanity::Sanity::from(&parse(&format!("[sanity]\n{text}")).unwrap().sanity).ethertypes;
    assert_eq!(ethertypes("refuse_ethertypes = [0x8847, 0]"), Ethertypes::refuse(&[0x8847, 0]));
    assert_eq!(ethertypes("accept_ethertypes = [0x0806, 0x88cc]"), Ethertypes::accept(&[0x0806, 0x88cc]));
    assert_eq!(ethertypes("accept_ethertypes = []"), Ethertypes::default());
    let many: Vec<u16> = (0x9001..=0x9011).collect();
    for (text, expected) in [
        (
            "refuse_ethertypes = [0x8847, 0x8847]".to_owned(),
            "2:30: sanity.refuse_ethertypes: 0x8847 is named twice",
        ),
        (
            "refuse_ethertypes = [0x8100]".to_owned(),
            "2:22: sanity.refuse_ethertypes: frames of 0x8100 are judged by",
        ),
        (
            "accept_ethertypes = [0x0800]".to_owned(),
            "2:22: sanity.accept_ethertypes: frames of 0x0800 are judged by",
        ),
        ("refuse_ethertypes = [46]".to_owned(), "2:22: sanity.refuse_ethertypes: 46 is a length"),
        ("refuse_ethertypes = [0x0806]".to_owned(), "2:21: sanity.refuse_ethertypes: 0x0806 is ARP"),
        ("refuse_ethertypes = [0x10000]".to_owned(), "2:22: sanity.refuse_ethertypes: invalid value"),
        (format!("refuse_ethertypes = {many:?}"), "2:21: sanity.refuse_ethertypes: more than 16"),
        (
            "refuse_ethertypes = [0]\naccept_ethertypes = [0x88cc]".to_owned(),
            "3:21: sanity.accept_ethertypes: `refuse_ethertypes` is set, too",
        ),
    ] {
        let refusal = refusal(&format!("[sanity]\n{text}"));
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn the_profiles_are_configurations() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/profiles");
    for name in ["web", "dns", "game"] {
        let config =
            Config::load(&folder.join(name).with_extension("toml")).unwrap_or_else(|error| panic!("{error}"));
        let written =
            config.limits.values().filter(|limit| limit.origin == LimitOrigin::Configuration).count();
        assert!(written > 3, "{name}: {:?}", config.limits);
    }
}

#[test]
fn a_burst_that_is_not_written_follows_its_rate() {
    let cases = [
        ("packets", "packets = \"5k/s\"", Some((5_000, 10_000)), None),
        ("packets off", "packets = \"off\"", None, None),
        ("off keeps the burst for later", "packets = \"off\"\npackets_burst = \"7\"", None, None),
        ("burst alone", "packets_burst = \"1M\"", Some((20_000, 1_000_000)), None),
        ("bits", "packets = \"off\"\nbits = \"1Mbit/s\"", None, Some((1_000_000, 1_000_000))),
        ("few bits", "packets = \"off\"\nbits = \"8kbit/s\"", None, Some((8_000, 73_920))),
    ];
    for (why, keys, packets, bits) in cases {
        let expected = RateLimit {
            packets: packets
                .map(|(rate, burst)| PacketLimit { rate: PacketRate(rate), burst: Packets(burst) }),
            bits: bits.map(|(rate, burst)| BitLimit { rate: BitRate(rate), burst: Bits(burst) }),
        };
        let limits = parse(&format!("[limit.source]\n{keys}")).unwrap().limits;
        assert_eq!(limits[&"source".parse().unwrap()].limit, expected, "{why}");
    }
}

#[test]
fn an_error_names_file_line_column_and_key() {
    let cases = [
        ("not TOML", "mode =\n", "1:7: ", ""),
        ("twice", "mode = \"monitor\"\nmode = \"monitor\"", "2:1: ", "duplicate key"),
        (
            "unknown key",
            "[limit.source]\n packet = \"1/s\"",
            "2:2: limit.source.packet: ",
            "expected one of `packets`, ",
        ),
        ("unknown section", "[limits]", "1:2: limits: ", "expected one of `interfaces`, "),
        ("unknown key in line", "limit = { source = { p = 1 } }", "1:22: limit.source.p: ", "unknown field"),
        ("wrong type", "[sources]\ntable = \"many\"", "2:9: sources.table: ", "a power of two from"),
        ("no section", "control = 7", "1:11: control: ", "expected a section"),
        ("unknown mode", "mode = \"on\"", "1:8: mode: ", "expected `enforce` or `monitor`"),
        (
            "no unit",
            "[limit.source]\npackets = \"20k\"",
            "2:11: limit.source.packets: ",
            "for example \"20k/s\"",
        ),
        (
            "bare number",
            "[limit.source]\npackets = 20000",
            "2:11: limit.source.packets: ",
            "\"off\" or a packet rate",
        ),
        ("dotted", "limit.source.packets = \"0/s\"", "1:24: limit.source.packets: ", "would drop everything"),
        (
            "after wide letters",
            "limit.protected = { path_mtu = \"ü\" }",
            "1:32: limit.protected.path_mtu: ",
            "\"20k/s\"",
        ),
        (
            "burst",
            "[limit.source]\npackets_burst = \"9\"",
            "2:17: limit.source.packets_burst: ",
            "write 800 to 1.2M",
        ),
        (
            "burst without bits",
            "[limit.source]\nbits_burst = \"1Mbit\"",
            "2:14: limit.source.bits_burst: ",
            "no limit for this",
        ),
        (
            "rate",
            "[limit.protected]\npath_mtu = \"1G/s\"",
            "2:12: limit.protected.path_mtu: ",
            "1/s to 100M/s",
        ),
        ("table", "[sources]\ntable = 500000", "2:9: sources.table: ", "for example 524288"),
        ("huge table", "[sources]\ntable = 4294967295", "2:9: sources.table: ", "for example 16777216"),
        ("nat64", "[sources]\nnat64 = [\"2001:db8::/64\"]", "2:10: sources.nat64: ", "/96"),
        (
            "nat64",
            "[sources]\nnat64 = [\"1::/96\",\"2::/96\",\"3::/96\",\"4::/96\"]",
            "2:9: sources.nat64: ",
            "3 can",
        ),
        ("prefix", "[sources]\nipv6_prefix = 65", "2:15: sources.ipv6_prefix: ", "from 48 to 64"),
        ("no room", "[lists]\nipv4 = 0", "2:8: lists.ipv4: ", "from 1 to 25165824"),
        ("too much room", "[lists]\nipv6 = 3000000", "2:8: lists.ipv6: ", "from 1 to 2097152"),
        ("metrics", "[control]\nmetrics = \"0.0.0.0:9750\"", "2:11: control.metrics: ", "\"127.0.0.1:9750\""),
        (
            "metrics by name",
            "[control]\nmetrics = \"localhost:1\"",
            "2:11: control.metrics: ",
            "\"127.0.0.1:9750\"",
        ),
        (
            "no listener here",
            "[proof]\nsyn = \"cookie\"\nhost = false",
            "2:7: proof.syn: ",
            "`proof.host` is false",
        ),
        ("host", "[proof]\nhost = \"yes\"", "2:8: proof.host: ", "`\"auto\"`, `true` or `false`"),
        (
            "no proof",
            "[proof]\nretransmissions = \"0/s\"",
            "2:19: proof.retransmissions: ",
            "would drop everything",
        ),
        ("socket", "[control]\nsocket = \"run.sock\"", "2:10: control.socket: ", "an absolute path"),
        ("interface", "interfaces = [\"eth0\", \"a/b\"]", "1:23: interfaces: ", "cannot be the name"),
        ("interface twice", "interfaces = [\"eth0\", \"eth0\"]", "1:23: interfaces: ", "named twice"),
        ("state", "state = \"here\"", "1:9: state: ", "an absolute path"),
        ("feed without a name", "[[block.feed]]\npath = \"a\"", "1:1: block.feed: ", "needs a `name`"),
        ("feed of nothing", "[[allow.feed]]\nname = \"a\"", "1:1: allow.feed: ", "a `path` or a `url`"),
        (
            "feed of both",
            "[[block.feed]]\nname = \"a\"\npath = \"a\"\nurl = \"http://example.net/\"",
            "4:7: block.feed.url: ",
            "not both",
        ),
        ("feed name", "[[block.feed]]\nname = \"a/b\"\npath = \"a\"", "2:8: block.feed.name: ", "64 letters"),
        (
            "the second feed of a name",
            "[[block.feed]]\nname = \"a\"\npath = \"a\"\n[[allow.feed]]\nname = \"a\"\npath = \"b\"",
            "5:8: allow.feed.name: ",
            "another feed is called a",
        ),
        (
            "feed by another way",
            "[[block.feed]]\nname = \"a\"\nurl = \"ftp://example.net/\"",
            "3:7: block.feed.url: ",
            "http://",
        ),
        (
            "feed too often",
            "[[block.feed]]\nname = \"a\"\npath = \"a\"\nevery = \"1s\"",
            "4:9: block.feed.every: ",
            "from 1m to 30d",
        ),
        (
            "unknown key of a feed",
            "[[block.feed]]\nname = \"a\"\nfile = \"a\"",
            "3:1: block.feed.file: ",
            "expected one of `name`, ",
        ),
        ("entry", "[block]\nentries = [\n  \"203.0.113.0/33\",\n]", "3:3: block.entries: ", "from 0 to 32"),
    ];
    for (why, text, place, what) in cases {
        let error = refusal(text);
        let place = format!("/etc/floodgate/floodgate.toml:{place}");
        println!("{error}");
        assert!(error.starts_with(&place), "{why}: {error}");
        assert!(error.contains(what), "{why}: {error}");
        assert_eq!(error.lines().count(), 1, "{why}: {error}");
    }
}

#[test]
fn all_faults_of_meaning_are_reported_at_once() {
    let error =
        refusal("interfaces = [\"\"]\n[sources]\ntable = 1\nipv6_prefix = 1\n[allow]\nentries = [\"x\"]");
    let keys: Vec<_> = error.lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
    assert_eq!(keys, ["interfaces", "sources.table", "sources.ipv6_prefix", "allow.entries"]);
}

#[test]
fn all_keys_that_do_not_exist_are_reported_with_the_values_that_do_not_fit() {
    let error = refusal(
        "mod = 1\ninterfaces = 7\n[limit.source]\npaket = 1\n[limit.sauce]\nx = 1\n[[block.feed]]\nnmae = \"a\"\n\
         [[block.feed]]\nurk = 1\nname = 2\n[sources]\ntable = true\n",
    );
    let keys: Vec<_> = error.lines().map(|line| line.split(": ").nth(1).unwrap()).collect();
    let expected = [
        "mod",
        "interfaces",
        "limit.source.paket",
        "limit.sauce",
        "block.feed.nmae",
        "block.feed.urk",
        "block.feed.name",
        "sources.table",
    ];
    assert_eq!(keys, expected, "{error}");
}

#[test]
fn very_many_problems_take_no_longer_than_their_number_and_the_first_are_shown() {
    let lines = |line: &dyn Fn(u32) -> String| (0..20_000).map(line).collect::<String>();
    let one_line = format!("interfaces = [{}]", lines(&|n| format!("\"a b{n}\",")));
    let cases = [
        ("keys", lines(&|n| format!("key{n} = 1\n")), 20_000),
        ("sections", lines(&|n| format!("[limit.scope{n}]\nx = 1\n")), 20_000),
        ("entries", format!("[block]\nentries = [\n{}]", lines(&|n| format!("\"x{n}\",\n"))), 20_000),
        ("names in one line", one_line, 20_000),
        ("feeds", lines(&|_| "[[block.feed]]\nevery = \"1s\"\nx = 1\n".into()), 20_000),
        ("no TOML", lines(&|_| "a b\n= 1\n[[[\n".into()), 1),
        ("twice", lines(&|_| "mode = 1\n".into()), 1),
        ("types", lines(&|_| "[[block.feed]]\nname = 1\n".into()), MOST_MISFITS),
    ];
    for (why, text, expected) in cases {
        let begun = std::time::Instant::now();
        let error = parse(&text).unwrap_err();
        let shown = error.to_string();
        let ConfigError::Invalid { problems, .. } = error else { panic!("{why}: {shown}") };
        assert_eq!(problems.len(), expected, "{why}");
        assert!(shown.lines().count() <= MOST_SHOWN + 1 && shown.len() < 100_000, "{why}: {}", shown.len());
        // Quadratic reporting took minutes.
        assert!(begun.elapsed() < Duration::from_secs(10), "{why}: {:?}", begun.elapsed());
    }
}

#[test]
fn a_configuration_that_is_there_and_cannot_be_read_need_not_be_created() {
    let error = Config::load(Path::new("/")).unwrap_err().to_string();
    assert!(!error.contains("create"), "{error}");
    let error = Config::load(Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(error.contains("create it"), "{error}");
    let read = |kind: io::ErrorKind| ConfigError::Read { path: "x".into(), source: kind.into() }.to_string();
    assert!(read(io::ErrorKind::PermissionDenied).contains("sudo"));
    let many = io::Error::from_raw_os_error(libc::EMFILE);
    assert!(!ConfigError::Read { path: "x".into(), source: many }.to_string().contains("create"));
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Path::new("/nonexistent/floodgate.toml")).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/floodgate.toml"));
    assert!(matches!(error, ConfigError::Read { .. }));
    assert!(error.to_string().contains("create it"));
}

#[test]
fn what_helps_depends_on_what_is_wrong() {
    let error = |errno| ConfigError::Read { path: "a".into(), source: io::Error::from_raw_os_error(errno) };
    assert!(error(libc::EACCES).to_string().contains("sudo"));
    // Too many open files: creating another helps nobody.
    assert_eq!(error(libc::EMFILE).to_string(), "cannot read the configuration a");
}

#[test]
fn a_file_is_loaded_and_its_lists_are_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("floodgate.toml");
    std::fs::write(&path, "[block]\nfiles = [\"drop.txt\"]").unwrap();
    assert_eq!(Config::load(&path).unwrap().block.files, [folder.path().join("drop.txt")]);
}

#[test]
fn the_default_obeys_the_rules() {
    let Config { limits, protected_limits, .. } = Config::default();
    for (name, limit) in limits {
        assert_eq!(limit.limit.check(), Ok(()), "{name}");
    }
    assert_eq!(protected_limits.neighbour_discovery.check(), Ok(()));
    assert_eq!(protected_limits.path_mtu.check(), Ok(()));
}

proptest! {
    #[test]
    fn every_text_is_a_configuration_or_has_a_problem_with_a_place(
        text in "((limit|source|packets|block|entries|ü|x)[.= \"\\[\\]{}]{0,4}|[0-9k/s\n]{0,3}|.){0,12}",
    ) {
        if let Err(ConfigError::Invalid { problems, .. }) = parse(&text) {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.iter().all(|problem| problem.line <= text.matches('\n').count() + 1));
        }
    }
}
