use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{text::MAX_SHOWN_CHARS, *};

/// What a text is read as: format and prefixes, if nothing is wrong with it.
fn read(text: &str) -> (Format, Vec<String>) {
    read_bytes(text.as_bytes())
}

fn read_bytes(bytes: &[u8]) -> (Format, Vec<String>) {
    let import = parse(bytes).unwrap_or_else(|refusal| panic!("{refusal}"));
    assert_eq!(import.bad, [], "in {:?}", String::from_utf8_lossy(bytes));
    (import.format, import.prefixes.iter().map(ToString::to_string).collect())
}

/// Both things that can be wrong, as text.
fn wrong(text: &str) -> String {
    match parse(text.as_bytes()) {
        Err(refusal) => refusal.to_string(),
        Ok(import) => import.bad.iter().map(|line| format!("{line}\n")).collect(),
    }
}

#[test]
fn lines_of_real_lists_are_read() {
    let cases: [(&str, &str, &[&str]); 26] = [
        ("bare address", "192.0.2.7", &["192.0.2.7/32"]),
        ("prefix, indented", "  192.0.2.0/24", &["192.0.2.0/24"]),
        ("Spamhaus DROP", "192.0.2.0/24 ; SBL1", &["192.0.2.0/24"]),
        ("remark without a space", "192.0.2.7#bot", &["192.0.2.7/32"]),
        ("remark of two slashes", "// list\n192.0.2.7//bot", &["192.0.2.7/32"]),
        ("remark of an exclamation mark", "! list: 3 entries\n192.0.2.7", &["192.0.2.7/32"]),
        ("ipsum: address, tab, score", "192.0.2.7\t10", &["192.0.2.7/32"]),
        ("comma separated", "192.0.2.7,443,2026-01-01", &["192.0.2.7/32"]),
        ("trailing space", "2001:db8::/32 ", &["2001:db8::/32"]),
        ("range", "192.0.2.0-192.0.2.127", &["192.0.2.0/25"]),
        ("range with spaces", "192.0.2.0 - 192.0.2.127", &["192.0.2.0/25"]),
        ("range, space before", "192.0.2.0 -192.0.2.127", &["192.0.2.0/25"]),
        ("range, space behind", "192.0.2.0- 192.0.2.127 x", &["192.0.2.0/25"]),
        ("range with a dash of typographers", "192.0.2.0 – 192.0.2.127", &["192.0.2.0/25"]),
        ("netmask", "192.0.2.0/255.255.255.0", &["192.0.2.0/24"]),
        ("in brackets", "[2001:db8::1]", &["2001:db8::1/128"]),
        ("Windows line ends", "192.0.2.7\r\n192.0.2.8\r\n", &["192.0.2.7/32", "192.0.2.8/32"]),
        ("line ends of old Macs", "192.0.2.7\r192.0.2.8\r", &["192.0.2.7/32", "192.0.2.8/32"]),
        ("byte order mark", "\u{FEFF}192.0.2.7", &["192.0.2.7/32"]),
        ("byte order mark before a comment", "\u{FEFF}# list\n192.0.2.7", &["192.0.2.7/32"]),
        ("blanks without width", "192.0.2.7\u{a0}\n\u{200b}192.0.2.8", &["192.0.2.7/32", "192.0.2.8/32"]),
        ("only remarks", "# one\n; two\n\n   \n\t#three", &[]),
        ("nothing", "", &[]),
        ("host bits", "192.0.2.7/24", &["192.0.2.0/24"]),
        ("mapped", "::ffff:192.0.2.7", &["192.0.2.7/32"]),
        ("the sink and a remark", "0.0.0.0 unspecified\n127.0.0.1 loopback", &["0.0.0.0/32", "127.0.0.1/32"]),
    ];
    for (why, input, expected) in cases {
        assert_eq!(
            read(input),
            (Format::Addresses, expected.iter().map(ToString::to_string).collect()),
            "{why}"
        );
    }
}

#[test]
fn each_format_is_found_by_content() {
    let cases: [(&str, Format, &str, &[&str]); 33] = [
        ("uniq -c", Format::Columns, "  12 192.0.2.7\n   1 192.0.2.8", &["192.0.2.7/32", "192.0.2.8/32"]),
        ("date and time first", Format::Columns, "2026-01-01 10:00:00 192.0.2.7", &["192.0.2.7/32"]),
        (
            "CSV with quotes",
            Format::Columns,
            "\"first_seen\",\"dst_ip\",\"port\"\n\"2026-01-01, 10:00\",\"192.0.2.7\",\"443\"",
            &["192.0.2.7/32"],
        ),
        (
            "CSV with words in it",
            Format::Columns,
            "New York,192.0.2.7\nBonn,192.0.2.8",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
        ("tabs", Format::Columns, "country\tcidr\nZZ\t192.0.2.0/24", &["192.0.2.0/24"]),
        ("CSV of the address first", Format::Addresses, "ip,port\n192.0.2.7,443", &["192.0.2.7/32"]),
        ("MaxMind", Format::Addresses, "network,geoname_id\n192.0.2.0/24,1", &["192.0.2.0/24"]),
        (
            "DShield",
            Format::Ranges,
            "#\nStart\tEnd\tNetblock\n192.0.2.0\t192.0.2.255\t24\t9",
            &["192.0.2.0/24"],
        ),
        ("DShield, without names", Format::Ranges, "192.0.2.6\t192.0.2.7\t31\t9", &["192.0.2.6/31"]),
        ("whole blocks", Format::Ranges, "192.0.2.0,192.0.2.255,ZZ", &["192.0.2.0/24"]),
        (
            "DB-IP",
            Format::Ranges,
            "192.0.2.0,192.0.2.191,ZZ\n224.0.0.0,255.255.255.255,ZZ",
            &["192.0.2.0/25", "192.0.2.128/26", "224.0.0.0/3"],
        ),
        (
            "ranges by name",
            Format::Ranges,
            "ip_from,ip_to\n192.0.2.7,192.0.2.8",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
        (
            "a column before ranges",
            Format::Ranges,
            "id;start;end\n7;192.0.2.7;192.0.2.8",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
        (
            "netmasks",
            Format::Netmasks,
            "192.0.2.0 255.255.255.0\n198.51.100.7 255.255.255.255",
            &["192.0.2.0/24", "198.51.100.7/32"],
        ),
        (
            "netmasks by name",
            Format::Netmasks,
            "network,netmask\n240.0.0.0,255.255.255.255",
            &["240.0.0.0/32"],
        ),
        (
            "IP2Location",
            Format::Integers,
            "\"0\",\"16777215\",\"-\"\n\"16777216\",\"16777471\",\"AU\"",
            &["0.0.0.0/8", "1.0.0.0/24"],
        ),
        (
            "integers of IPv6",
            Format::Integers,
            "start,end\n42540766411282592856903984951653826560,42540766411282592856903984951653826567",
            &["2001:db8::/125"],
        ),
        (
            "Spamhaus JSON",
            Format::Json,
            "{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL0\"}\n{\"cidr\":\"2001:db8::/32\"}\n{\"type\":\"metadata\",\"records\":2,\"terms\":\"https://192.0.2.1\"}",
            &["192.0.2.0/24", "2001:db8::/32"],
        ),
        (
            "array",
            Format::Json,
            "[\"192.0.2.7\", \"192.0.2.8-192.0.2.9\"]",
            &["192.0.2.7/32", "192.0.2.8/31"],
        ),
        (
            "AWS",
            Format::Json,
            "{\n\"prefixes\":[{\"ip_prefix\":\"192.0.2.0/24\",\"service\":\"S3\"}],\n\"ipv6_prefixes\":[{\"ipv6_prefix\":\"2001:db8::/32\"}]}",
            &["192.0.2.0/24", "2001:db8::/32"],
        ),
        (
            "Google",
            Format::Json,
            "{\n\"prefixes\":[{\"ipv6Prefix\":\"2001:db8::/32\"},{\"ipv4Prefix\":\"192.0.2.0/24\"}]}",
            &["2001:db8::/32", "192.0.2.0/24"],
        ),
        (
            "ipset save",
            Format::IpsetSave,
            "create bl hash:net family inet hashsize 1024 maxelem 65536\nadd bl 192.0.2.0/24 timeout 3600\nadd bl 192.0.2.7 comment \"nomatch\"",
            &["192.0.2.0/24", "192.0.2.7/32"],
        ),
        (
            "a set for each family",
            Format::IpsetSave,
            "add bl4 192.0.2.7\nadd bl6 2001:db8::7",
            &["192.0.2.7/32", "2001:db8::7/128"],
        ),
        (
            "ipset list",
            Format::IpsetList,
            "Name: bl\nType: hash:net\nRevision: 7\nHeader: family inet hashsize 1024 maxelem 65536\nMembers:\n192.0.2.0/24 timeout 300\n",
            &["192.0.2.0/24"],
        ),
        (
            "nft list set",
            Format::Nft,
            "table inet filter {\n\tset bl {\n\t\ttype ipv4_addr\n\t\tflags interval,timeout\n\t\telements = { 192.0.2.7, 192.0.2.8-192.0.2.9 timeout 1h expires 59m,\n\t\t\t198.51.100.0/24 comment \"a, } b\" }\n\t}\n}\n",
            &["192.0.2.7/32", "192.0.2.8/31", "198.51.100.0/24"],
        ),
        (
            "nft add element",
            Format::Nft,
            "add element inet filter bl { 192.0.2.7, 2001:db8::/32, }",
            &["192.0.2.7/32", "2001:db8::/32"],
        ),
        (
            "nft define",
            Format::Nft,
            "define bl = {\n 192.0.2.7,\n 192.0.2.8\n}",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
        (
            "nginx",
            Format::Deny,
            "deny 192.0.2.7; # bot\ndeny 2001:db8::/32;\nallow all;",
            &["192.0.2.7/32", "2001:db8::/32"],
        ),
        (
            "Apache 2.2",
            Format::Deny,
            "<Limit GET POST>\norder allow,deny\nDeny from 192.0.2.7 192.0.2.8\nallow from all\n</Limit>",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
        (
            "Apache 2.4",
            Format::Deny,
            "<RequireAll>\nRequire all granted\nRequire not ip 192.0.2.0/255.255.255.0\n</RequireAll>",
            &["192.0.2.0/24"],
        ),
        ("P2P", Format::P2p, "# list\nBad: people:192.0.2.7-192.0.2.8", &["192.0.2.7/32", "192.0.2.8/32"]),
        (
            "eMule",
            Format::IpFilter,
            "192.000.002.008 - 192.000.002.009 , 000 , Bad, people",
            &["192.0.2.8/31"],
        ),
        (
            "the copy of a feed",
            Format::Json,
            "# floodgate feed {\"list\":\"block\"}\n{\n\"cidr\":\"192.0.2.7\"}",
            &["192.0.2.7/32"],
        ),
    ];
    for (why, format, input, expected) in cases {
        assert_eq!(read(input), (format, expected.iter().map(ToString::to_string).collect()), "{why}");
    }
    for format in Format::ALL {
        assert!(
            *format == Format::Addresses || cases.iter().any(|(_, tested, ..)| tested == format),
            "{format}"
        );
    }
}

#[test]
fn utf_16_is_read_in_both_orders() {
    let text = "\u{feff}# list – of\r\n192.0.2.7\r\n192.0.2.8\r\n";
    let expected = (Format::Addresses, vec!["192.0.2.7/32".to_owned(), "192.0.2.8/32".to_owned()]);
    let orders: [fn(u16) -> [u8; 2]; 2] = [u16::to_le_bytes, u16::to_be_bytes];
    for order in orders {
        let bytes: Vec<u8> = text.encode_utf16().flat_map(order).collect();
        assert_eq!(read_bytes(&bytes), expected);
        assert_eq!(parse(&bytes[..bytes.len() - 1]).unwrap().prefixes.len(), 2, "cut within a character");
    }
}

/// What would put other addresses on a list than its author has listed is refused, and the line is named.
#[test]
fn nothing_is_guessed() {
    let nft = |element: &str| format!("table inet f {{\n set a {{\n elements = {{ {element} }}\n }}\n}}");
    let set = |options: &str| format!("create a {options}\nadd a 192.0.2.0");
    let cases: Vec<(&str, String, &str)> = vec![
        ("nomatch", "192.0.2.0/24\n192.0.2.7 nomatch".into(), "line 2: `nomatch` excepts"),
        ("negation", "192.0.2.0/24\n!192.0.2.7".into(), "line 2: `!` excepts"),
        ("negation of IPv6", "2001:db8::/32\n! 2001:db8::1".into(), "line 2: `!` excepts"),
        ("nomatch of ipset", "add a 192.0.2.0/24\nadd a 192.0.2.7 nomatch".into(), "line 2: `nomatch` excepts"),
        ("del of ipset", "add a 192.0.2.0/24\ndel a 192.0.2.7".into(), "line 2: `del` excepts"),
        ("ports of ipset", set("hash:ip,port"), "line 1: a set of type hash:ip,port"),
        ("netmask of ipset", set("hash:ip netmask 24"), "line 1: a set with `netmask`"),
        ("lists of ipset", set("list:set"), "line 1: a set of type list:set"),
        ("two sets of ipset", "add black 192.0.2.7\nadd white 192.0.2.8".into(), "line 2: the sets \"black\" and \"white\""),
        ("concatenation of nft", nft("192.0.2.7 . 80"), "line 3: the concatenation"),
        ("map of nft", nft("192.0.2.7 : drop"), "line 3: the entry of a map"),
        ("delete element", "add element f a { 192.0.2.0/24 }\ndelete element f a { 192.0.2.7 }".into(), "line 2: `delete element` excepts"),
        ("cut within a set", "add element f a { 192.0.2.0/24,".into(), "ends within the elements"),
        ("JSON of nft", "{\"nftables\": [{\"set\": {\"elem\": [{\"prefix\": {\"addr\": \"192.0.2.0\", \"len\": 24}}]}}]}".into(), "JSON of nft"),
        ("a length beside an address", "{\"net\": \"192.0.2.0\", \"prefix_len\": 24}".into(), "line 1: \"prefix_len\" beside an address"),
        ("two names in JSON", "{\"good\": [\"192.0.2.7\"],\n\"bad\": [\"192.0.2.8\"]}".into(), "\"bad\" and \"good\""),
        ("a range in JSON", "{\"start\": \"192.0.2.7\", \"end\": \"192.0.2.9\"}".into(), "\"end\" and \"start\""),
        ("no address in JSON", "{\"error\": \"rate limited\"}".into(), "no address in it"),
        ("cut JSON", "[\"192.0.2.7\",\n\"192.0.2.8\"".into(), "line 2: EOF"),
        ("allow of nginx", "deny 192.0.2.0/24;\nallow 192.0.2.7;".into(), "line 2: `allow` excepts"),
        ("deny all of nginx", "allow all;\ndeny all;".into(), "line 2: `deny all`"),
        ("hosts", "# hosts\n192.0.2.7 server\n0.0.0.0 bad.example".into(), "line 3: this is a hosts file"),
        ("hosts of this host", "127.0.0.1 localhost\n".into(), "line 1: this is a hosts file"),
        ("from and to", "192.0.2.8 198.51.100.3\n192.0.2.9 198.51.100.4".into(), "line 2: two addresses"),
        ("from and to, even and odd", "192.0.2.8 198.51.100.3\n192.0.2.10 198.51.100.5".into(), "line 2: two addresses"),
        ("one pair", "192.0.2.8 192.0.2.11 x\n192.0.2.13 198.51.100.5".into(), "line 2: two addresses"),
        ("two neighbours", "192.0.2.8 192.0.2.9".into(), "line 1: two addresses"),
        ("everything, or one address", "0.0.0.0 255.255.255.255".into(), "line 1: two addresses"),
        ("the last block, or one address", "240.0.0.0 255.255.255.255".into(), "line 1: two addresses"),
        ("integers that are times", "1700000000,1700003600\n1700003600,1700007200".into(), "line 1: two addresses"),
        ("integers that are ports", "80,443".into(), "line 1: two addresses"),
        ("two columns with other things between", "when,src,port,dst\n1,192.0.2.7,1,198.51.100.7\n2,192.0.2.8,1,198.51.100.7".into(), "line 2: several columns"),
        ("a page", "<!DOCTYPE html>\n<p>192.0.2.7".into(), "line 1: this is a page of the web"),
        ("compressed", "\x1f".to_owned(), "is not an address"),
        ("two addresses on some lines", "192.0.2.7\n192.0.2.8 192.0.2.9".into(), "line 2: two addresses in two columns: write"),
        ("prose", "Sorry, 192.0.2.7, you are blocked".into(), "line 1: \"Sorry\" is not"),
        ("a log", "Jan 1 00:00:01 host sshd: refused 192.0.2.7 port 22\nJan 1 00:00:02 host sshd: refused 192.0.2.8 port 22".into(), "line 1: \"Jan\" is not"),
        ("a port", "192.0.2.7:80".into(), "has a port"),
        ("a port of IPv6", "[2001:db8::1]:80".into(), "has a port"),
        ("a URL", "http://192.0.2.7/x".into(), "is a URL"),
        ("defanged", "192[.]0[.]2[.]7".into(), "plain dots"),
        ("a short form", "10/8".into(), "is not an address"),
        ("a wildcard", "192.0.2.*".into(), "is not an address"),
        ("a wildcard mask", "192.0.2.0 0.0.0.255".into(), "line 1: two addresses"),
        ("eMule lets in", "192.000.002.008 - 192.000.002.009 , 200 , good".into(), "line 1: level 200"),
    ];
    for (why, text, expected) in cases {
        let wrong = wrong(&text);
        assert!(wrong.contains(expected), "{why}: {wrong:?}");
        if let Ok(import) = parse(text.as_bytes()) {
            assert!(import.prefixes.len() <= 1, "{why}: {:?}", import.prefixes);
        }
    }
    let compressed = parse(b"\x1f\x8b\x08\x00").unwrap_err().to_string();
    assert!(compressed.contains("compressed with gzip"), "{compressed}");
}

#[test]
fn a_bad_line_is_reported_and_the_others_count() {
    let import = parse(b"192.0.2.7\n\x1b[2Jevil\xff\n192.0.2.8\r\n192.0.2.300\r\n").unwrap();
    assert_eq!(import.lines, 4);
    assert_eq!(import.prefixes.len(), 2);
    let shown: Vec<_> = import.bad.iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2);
    assert!(shown[0].starts_with("line 2: ") && shown[0].contains(r"\u{1b}[2Jevil"), "{}", shown[0]);
    assert!(!shown.concat().contains(char::is_control));
    assert!(shown[1].starts_with("line 4: \"192.0.2.300\" is not an address"), "{}", shown[1]);
    assert_eq!(import.bad[1].text, "192.0.2.300");
}

#[test]
fn bad_lines_of_other_formats_are_reported_with_their_line() {
    let cases = [
        (
            "JSON by line",
            "{\"cidr\":\"192.0.2.7\"}\n{\"cidr\":\"x\"}\n{\"cidr\"\n{\"cidr\":\"192.0.2.8\"}",
            [3, 2].as_slice(),
        ),
        ("a document", "[\"192.0.2.7\",\n\"x\",\n\"192.0.2.8\"]", &[2]),
        (
            "a document with escapes",
            r#"{"x\"": [],
                "ips": ["192.0.2.7", "10\/8",
                "x", "192.0.2.8", "\u0078"]}"#,
            &[2, 3, 3],
        ),
        (
            "a document with a name like it",
            "{\"x\": {\"list\": [\n\"192.0.2.7\",\n\"192.0.2.8\",\n\"x\"]}}",
            &[4],
        ),
        ("ipset", "add a 192.0.2.7\nadd a x\nadd a 192.0.2.9 what\nadd a 192.0.2.8", &[2, 3]),
        ("nft", "add element a b { 192.0.2.7,\n x,\n 192.0.2.9 what, 192.0.2.8 }", &[2, 3]),
        ("nginx", "deny 192.0.2.7;\ndeny x;\nproxy_pass y;\ndeny 192.0.2.8;", &[2, 3]),
        ("P2P", "a:192.0.2.7-192.0.2.7\nb:192.0.2.9-192.0.2.1\nx\nc:192.0.2.8-192.0.2.8", &[2, 3]),
        ("ranges", "start,end\n192.0.2.7,192.0.2.7\nx,192.0.2.9\n192.0.2.8,192.0.2.8", &[3]),
        ("columns", "n,ip\n1,192.0.2.7\n2,192.0.2.8\n3,x", &[]),
    ];
    for (why, text, expected) in cases {
        let import = parse(text.as_bytes()).unwrap_or_else(|refusal| panic!("{why}: {refusal}"));
        let lines: Vec<u64> = import.bad.iter().map(|bad| bad.line).collect();
        if !expected.is_empty() {
            assert_eq!(lines, expected, "{why}: {:?}", import.bad);
            assert_eq!(import.prefixes.len(), 2, "{why}");
        }
        assert_eq!(import.bad_lines, import.bad.len() as u64, "{why}");
    }
    // With one line of many that has nothing in the column of the others.
    let mut text = String::from("n,ip\n");
    (1..100).for_each(|n| writeln!(text, "{n},192.0.2.{n}").unwrap());
    let import = parse((text + "100\n101,x\n").as_bytes()).unwrap();
    assert_eq!((import.prefixes.len(), import.bad_lines, import.bad[0].line), (99, 2, 101));
}

#[test]
fn entries_with_an_end_are_counted() {
    let import = parse(b"add a 192.0.2.7 timeout 60\nadd a 192.0.2.8 timeout 0\nadd a 192.0.2.9").unwrap();
    assert_eq!((import.prefixes.len(), import.timeouts), (3, 1));
}

#[test]
fn remarks_may_be_in_any_encoding() {
    let import = parse(b"192.0.2.7 # caf\xe9\n# \xff\xfe\n").unwrap();
    assert_eq!((import.prefixes.len(), import.bad_lines), (1, 0));
    assert_eq!(read(&format!("192.0.2.7 # {}", "x".repeat(5000))).1, ["192.0.2.7/32"], "and of any length");
}

#[test]
fn a_binary_file_costs_bounded_memory() {
    let long = parse(&[b'x'; 3 * LOOKED_AT]).unwrap();
    assert_eq!(long.bad[0].problem, LineProblem::TooLong);
    assert_eq!(long.bad[0].text.len(), MAX_SHOWN_CHARS);

    let many = parse("x\n".repeat(1000).as_bytes()).unwrap();
    assert_eq!((many.lines, many.bad_lines, many.bad.len()), (1000, 1000, MAX_KEPT_BAD_LINES));

    // 254 prefixes from each line.
    let line = "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe\n";
    let refusal = parse(line.repeat(MAX_PREFIXES / 200).as_bytes()).unwrap_err();
    assert_eq!(refusal.why, Why::TooMany);
}

#[test]
fn time_is_linear_in_the_length() {
    /// A quadratic reader takes hours for this.
    const BYTES: usize = 4 << 20;

    let starts = [
        "",
        "1,",
        "{\"cidr\":",
        "[",
        "add a ",
        "add element a b { ",
        "deny ",
        "a:192.0.2.1-192.0.2.2\n",
        "[\"192.0.2.1\",\n",
    ];
    let parts = [
        "1,",
        "\"",
        "\"x\",",
        ",",
        ";",
        "{",
        "[",
        ":",
        "-",
        " ",
        "\t",
        "#",
        "/",
        "192.0.2.1 ",
        "192.0.2.1,\n",
        "a:",
        "\n",
        "\r",
        "\u{feff}",
    ];
    for start in starts {
        for part in parts {
            let text = start.to_owned() + &part.repeat(BYTES / part.len() / 8);
            let begin = Instant::now();
            let _ = parse(text.as_bytes());
            let took = begin.elapsed();
            assert!(took < Duration::from_secs(20), "{start:?} {part:?}: {took:?}");
        }
    }
}

#[test]
fn the_documentation_has_every_format() {
    let page = include_str!("../../../../docs/lists.md");
    for format in Format::ALL {
        let line = format!("| `{format}` | {} |", format.meaning().trim());
        assert!(page.contains(&line), "docs/lists.md lacks the line\n{line}");
    }
}

/// Pieces of all formats, so that they meet in ways that nobody thinks of.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = proptest::sample::select(vec![
        "192.0.2.7",
        "198.51.100.0/24",
        "2001:db8::/32",
        "255.255.255.0",
        "192.0.2.0-192.0.2.9",
        "16777216",
        "24",
        "{",
        "}",
        "[",
        "]",
        "\"",
        ",",
        ";",
        ":",
        "-",
        " - ",
        "=",
        "!",
        "#",
        "//",
        "\t",
        " ",
        "\n",
        "\r\n",
        "\r",
        "create a hash:net ",
        "add a ",
        "timeout 60 ",
        "nomatch",
        "elements = { ",
        "table inet a {",
        "set b {",
        "deny from ",
        "allow ",
        "Require not ip ",
        "\"cidr\":",
        "start,end\n",
        "Members:",
        "Name: a\n",
        "name:",
        "0.0.0.0 bad.example",
        "\u{feff}",
        "\u{2028}",
        "\0",
        "é",
    ]);
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
}

proptest! {
    #[test]
    fn every_line_is_counted_whatever_the_bytes(bytes: Vec<u8>) {
        if let Ok(import) = parse(&bytes) {
            prop_assert!(import.bad_lines <= import.lines);
            prop_assert!(import.lines <= bytes.iter().filter(|&&b| matches!(b, b'\n' | b'\r')).count() as u64 + 1);
        }
    }

    #[test]
    fn text_that_is_nearly_a_list_never_panics(bytes in pieces()) {
        if let Ok(import) = parse(&bytes) {
            prop_assert!(import.prefixes.iter().all(|prefix| prefix.trunc() == *prefix));
            prop_assert!(import.bad.iter().all(|bad| !bad.to_string().contains(char::is_control)));
        }
    }

    #[test]
    fn utf_16_of_any_bytes_never_panics(mut bytes in pieces()) {
        bytes.splice(..0, [0xff, 0xfe]);
        let _ = parse(&bytes);
    }
}
