use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{text::MAX_SHOWN_CHARS, *};

/// Returns the format and prefixes of a text, which must be free of errors.
fn read(text: &str) -> (Format, Vec<String>) {
    read_bytes(text.as_bytes())
}

fn read_bytes(bytes: &[u8]) -> (Format, Vec<String>) {
    let import = parse(bytes).unwrap_or_else(|refusal| panic!("{refusal}"));
    assert_eq!(import.bad, [], "in {:?}", String::from_utf8_lossy(bytes));
    (import.format, import.prefixes.iter().map(ToString::to_string).collect())
}

/// Returns all errors, of the file or of its lines, as text.
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
    let cases: [(&str, Format, &str, &[&str]); 46] = [
        (
            "integers before the address",
            Format::Columns,
            "first_seen,last_seen,ip,count\n1704067200,1704070800,192.0.2.7,5\n1704067300,1704071800,192.0.2.8,5",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
        (
            "ports before the address",
            Format::Columns,
            "start_port,end_port,ip\n1024,2047,192.0.2.7",
            &["192.0.2.7/32"],
        ),
        (
            "lengths by name",
            Format::Columns,
            "network,prefix_length\n192.0.2.0,24\n2001:db8::,32",
            &["192.0.2.0/24", "2001:db8::/32"],
        ),
        (
            "a length behind a blank",
            Format::Addresses,
            "192.0.2.0 /24\n198.51.100.0 / 25",
            &["192.0.2.0/24", "198.51.100.0/25"],
        ),
        ("blocks from and to", Format::Ranges, "from,to,name\n192.0.2.0,192.0.2.255,x", &["192.0.2.0/24"]),
        (
            "the same range twice",
            Format::Ranges,
            "192.0.2.0,192.0.2.255\n192.0.2.0,192.0.2.255",
            &["192.0.2.0/24"; 2],
        ),
        (
            "nft, on two lines",
            Format::Nft,
            "add element inet f bad { 192.0.2.7 }\nadd element inet f bad \\\n  { 192.0.2.8 }",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
        (
            "two directives in a line",
            Format::Deny,
            "deny 192.0.2.7 ; deny 192.0.2.8;",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
        ("JSON without entries", Format::Json, "[]", &[]),
        ("a document without entries", Format::Json, "{\"syncToken\": \"1\", \"prefixes\": []}", &[]),
        (
            "a set of nft without elements",
            Format::Nft,
            "table inet f {\n set bad {\n  type ipv4_addr\n }\n}",
            &[],
        ),
        ("a set of ipset without entries", Format::IpsetSave, "create bad hash:net family inet", &[]),
        (
            "rows of JSON with one address each",
            Format::Json,
            "[[\"192.0.2.7\", 1], [\"192.0.2.8\", 1]]",
            &["192.0.2.7/32", "192.0.2.8/32"],
        ),
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
            "start_ip,end_ip\n192.0.2.7,192.0.2.8",
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
            "start_ip,end_ip\n42540766411282592856903984951653826560,42540766411282592856903984951653826567",
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

/// Addresses that a file has, but does not intend to list: the whole file is refused.
#[test]
fn what_is_excepted_or_something_else_is_never_on_a_list() {
    let cases: &[(&str, &str, &str)] = &[
        ("behind a comma", "192.0.2.0/24, !192.0.2.7", "line 1: `!` excepts"),
        ("in braces", "table <bad> persist { 192.0.2.0/24, !192.0.2.7 }", "line 1: `!` excepts"),
        ("in words", "198.51.100.7\n192.0.2.0/24 except 192.0.2.7", "line 2: `except` excepts"),
        (
            "in words, of a service",
            "192.0.2.0/24\nALL: 10.0.0.0/8 EXCEPT 10.1.1.1",
            "line 2: `except` excepts",
        ),
        ("nomatch behind more", "192.0.2.7 x nomatch", "line 1: `nomatch` excepts"),
        (
            "nomatch behind a comment",
            "add b 192.0.2.0/24\nadd b 192.0.2.7 comment \"x y\" nomatch",
            "line 2: `nomatch` excepts",
        ),
        ("nomatch behind no comment", "add b 192.0.2.7 comment \"\" nomatch", "line 1: `nomatch` excepts"),
        ("nomatch behind half a comment", "add b 192.0.2.7 comment \"x nomatch", "line 1: `nomatch` excepts"),
        ("allow behind a blank", "deny 192.0.2.0/24 ; allow 192.0.2.7;", "line 1: `allow` excepts"),
        ("allow in a list", "192.0.2.0/24\nx\nallow 192.0.2.7", "line 3: `allow` excepts"),
        ("not, in deny", "deny from !192.0.2.7", "line 1: `!` excepts"),
        ("Postfix", "192.0.2.0/24 REJECT spam\n198.51.100.7 OK", "line 2: `ok` excepts"),
        ("a verdict", "ip,action\n192.0.2.7,block\n192.0.2.8,Allow", "line 3: `allow` excepts"),
        ("a verdict in quotes", "ip,n,action\n192.0.2.7,1,\"pass\"", "line 2: `pass` excepts"),
        (
            "a verdict in any column",
            "n,ip,x,y\n1,192.0.2.7,x,block\n2,192.0.2.8,x,whitelist",
            "line 3: `whitelist` excepts",
        ),
        ("a verdict before", "verdict\tip\nblock\t192.0.2.7\naccept\t192.0.2.8", "line 3: `accept` excepts"),
        (
            "a map of nginx",
            "geo $bad {\n default 0;\n 192.0.2.0/24 1;\n 192.0.2.7 0;\n}",
            "line 1: this is a map of nginx",
        ),
        ("an included map of nginx", "192.0.2.0/24 1;\n192.0.2.7 0;", "line 2: `0;` excepts"),
        ("a verdict in JSON", r#"[{"c":{"value":"192.0.2.7"},"mode":"whitelist"}]"#, "`whitelist` excepts"),
        ("a flag in JSON", r#"[{"ip":"192.0.2.7","isWhitelisted":true}]"#, "`whitelisted` excepts"),
        ("not, in JSON", r#"["192.0.2.0/24","!192.0.2.7"]"#, "`!` excepts"),
        (
            "a router's connections",
            "deny tcp host 192.0.2.7 host 198.51.100.7 eq 80",
            "line 1: this is the access list of a router",
        ),
        ("a router's wildcards", "deny 192.0.2.0 0.0.0.255", "line 1: this is the access list of a router"),
        ("a router's exceptions", "deny 192.0.2.7\npermit any", "line 2: `permit` excepts"),
        ("a zone of DNS", "; zone\n7.2.0.192 IN A 127.0.0.2", "line 2: this is a zone of DNS"),
        ("a zone of DNS, shorter", "7.2.0.192 300 A 127.0.0.2", "line 1: this is a zone of DNS"),
        (
            "a zone of DNS by its directives",
            "$ORIGIN bl.example.\n7.2.0.192 A x",
            "line 1: this is a zone of DNS",
        ),
        (
            "whois",
            "inetnum:  192.0.2.0 - 192.0.2.255\nnserver: 198.51.100.7",
            "line 1: this is an answer of whois",
        ),
        ("RPSL", "route:  192.0.2.0/24\ndescr: x", "line 1: this is an answer of whois"),
        (
            "from and to by name",
            "from,to,bytes\n192.0.2.7,198.51.100.7,9\n192.0.2.9,198.51.100.3,9",
            "line 2: two addresses",
        ),
        (
            "from and to, within a table",
            "time,from_ip,to_ip\n12:00,192.0.2.7,198.51.100.7",
            "line 2: two addresses",
        ),
        ("first and last", "user,first_ip,last_ip\nx,192.0.2.7,198.51.100.7", "line 2: two addresses"),
        (
            "a range by name that falls",
            "start,end\n192.0.2.7,192.0.2.9\n192.0.2.7,192.0.2.3",
            "line 3: two addresses",
        ),
        ("even and odd", "192.0.2.2 192.0.2.77\n198.51.100.4 198.51.100.9", "line 1: two addresses"),
        (
            "the same, and even and odd",
            "192.0.2.5 192.0.2.5\n198.51.100.4 198.51.100.201",
            "line 1: two addresses",
        ),
        ("blocks that overlap", "192.0.2.0 192.0.2.255\n192.0.2.128 192.0.2.255", "line 2: two addresses"),
        ("integers that are times, by name", "start,end\n1704067200,1704067263", "line 2: two addresses"),
        ("integers of both ends", "ip_from,ip_to\n167772165,167773005", "line 2: two addresses"),
        (
            "two columns, the first first",
            "src,port,dst\n192.0.2.7,1,198.51.100.7\n192.0.2.8,1,198.51.100.7",
            "line 1: several columns",
        ),
        (
            "lengths without a name",
            "192.0.2.0\t24\t64500\n198.51.100.0\t25\t64501",
            "line 1: the numbers beside",
        ),
        (
            "lengths in another column",
            "network,asn,prefix_length\n192.0.2.0,64500,24",
            "line 1: the numbers beside",
        ),
        (
            "rows of JSON",
            r#"{"rows":[["192.0.2.7","198.51.100.7"],["192.0.2.8","198.51.100.7"]]}"#,
            "several columns",
        ),
        (
            "rows on lines of JSON",
            "[\"192.0.2.7\",\"198.51.100.7\"]\n[\"192.0.2.8\",\"198.51.100.7\"]",
            "several columns",
        ),
        ("fields of JSON", r#"{"field4":"192.0.2.7","field6":"198.51.100.7"}"#, "\"field4\" and \"field6\""),
        (
            "addresses as names",
            r#"{"192.0.2.7":{"reporter":"198.51.100.7"}}"#,
            "the address \"192.0.2.7\" is a name",
        ),
        (
            "a version",
            r#"{"version":"1.2.0.4","blocked":{"192.0.2.7":{}}}"#,
            "the address \"192.0.2.7\" is a name",
        ),
        ("a size beside an address", r#"{"address":"192.0.2.0","size":256}"#, "\"size\" beside an address"),
        (
            "two sets of one family",
            "add bad4 192.0.2.7\nadd bad6 192.0.2.8",
            "line 2: the sets \"bad4\" and \"bad6\"",
        ),
    ];
    let failures = cases.iter().filter_map(|(why, text, expected)| match parse(text.as_bytes()) {
        Ok(import) => Some(format!("{why}: {:?}", import.prefixes)),
        Err(refusal) if !refusal.to_string().contains(expected) => Some(format!("{why}: {refusal}")),
        Err(_) => None,
    });
    assert_eq!(failures.collect::<Vec<_>>(), [""; 0]);
    let many: String = (0..2_000).map(|n| format!("\"n{n}\":\"x\",")).collect();
    let refusal = parse(format!("{{{many}\"ip\":\"192.0.2.7\"}}").as_bytes()).unwrap_err().to_string();
    assert!(refusal.contains("more than 1024 names"), "{refusal}");
}

/// Lines whose address is not in the same place as in the others.
#[test]
fn a_line_without_an_entry_where_it_belongs_has_none() {
    let moved = format!("n\tm\tip\n{}\t192.0.2.8\t192.0.2.9", "1\t2\t192.0.2.7\n".repeat(20));
    let cases = [
        (
            "an empty column",
            "src_ip,dst_ip,port\n192.0.2.7,,80\n192.0.2.8,,80\n192.0.2.9,,80\n,198.51.100.7,80",
            3,
        ),
        ("an empty column, with tabs", "192.0.2.7\tx\n192.0.2.8\tx\n\t198.51.100.7\tx", 2),
        ("an empty column before", moved.as_str(), 20),
        ("P2P", "x:192.0.2.7-192.0.2.7\nnserver: 198.51.100.7\ny:198.51.100.7", 1),
        ("eMule lets in", "192.0.2.7 - 192.0.2.7 , 100 , bad\n192.0.2.8 - 192.0.2.9 , 200 , good", 1),
    ];
    for (why, text, expected) in cases {
        let import = parse(text.as_bytes()).unwrap_or_else(|refusal| panic!("{why}: {refusal}"));
        assert_eq!(import.prefixes.len(), expected, "{why}: {:?}", import.prefixes);
        assert!(import.bad_lines > 0, "{why}");
    }
}

#[test]
fn a_long_line_is_read_to_its_end_or_not_at_all() {
    let addresses: Vec<String> = (0..10_000).map(|n| format!("192.0.{}.{}", n / 200, 50 + n % 200)).collect();
    assert_eq!(read(&format!("Deny from {}", addresses[..1_000].join(" "))).1.len(), 1_000);
    // The examined part may end within an address.
    for cut in 0..4 {
        let blank = " ".repeat(cut);
        let filler = "x".repeat(LOOKED_AT - 10 - cut);
        let cases = [
            ("deny", format!("deny 192.0.2.7;\nDeny from {blank}{}\n", addresses.join(" "))),
            ("directives", format!("deny 192.0.2.7;\n{blank}deny {};\n", addresses.join(";deny "))),
            ("P2P", format!("a:192.0.2.7-192.0.2.7\n{filler}:192.0.2.100-192.0.2.199\n")),
            (
                "eMule",
                format!("192.000.002.007 - 192.000.002.007 , 0 , x\n{filler}192.0.2.1 - 192.0.2.2 , 0 , x"),
            ),
            ("columns", format!("name,ip\n{}\"{filler}\",192.0.2.199\n", "a,192.0.2.7\n".repeat(20))),
            ("ipset", format!("add b 192.0.2.7\nadd b 192.0.2.0/24 comment \"{filler}\" nomatch\n")),
            ("addresses", format!("192.0.2.7\n192.0.2.0/24 {filler}, !192.0.2.7\n")),
        ];
        for (why, text) in cases {
            let mut import = parse(text.as_bytes()).unwrap_or_else(|refusal| panic!("{why}: {refusal}"));
            import.prefixes.dedup();
            assert_eq!(import.prefixes, ["192.0.2.7/32".parse().unwrap()], "{why}");
            assert_eq!(import.bad[0].problem, LineProblem::TooLong, "{why}");
        }
    }
}

/// Anything that would list other addresses than the author has listed is refused, naming the line.
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
        ("two names in JSON", "{\"good\": [\"192.0.2.7\"],\n\"bad\": [\"192.0.2.8\"]}".into(), "\"good\" and \"bad\""),
        ("a range in JSON", "{\"start\": \"192.0.2.7\", \"end\": \"192.0.2.9\"}".into(), "\"start\" and \"end\""),
        ("no address in JSON", "{\"error\": \"rate limited\"}".into(), "no address in it"),
        ("cut JSON", "[\"192.0.2.7\",\n\"192.0.2.8\"".into(), "line 2: EOF"),
        ("allow of nginx", "deny 192.0.2.0/24;\nallow 192.0.2.7;".into(), "line 2: `allow` excepts"),
        ("deny all of nginx", "allow all;\ndeny all;".into(), "line 2: `deny all`"),
        ("hosts", "# hosts\n192.0.2.7 server\n0.0.0.0 bad.example".into(), "line 3: this is a hosts file"),
        ("hosts of this host", "127.0.0.1 localhost\n".into(), "line 1: this is a hosts file"),
        ("from and to", "192.0.2.8 198.51.100.3\n192.0.2.9 198.51.100.4".into(), "line 1: two addresses"),
        ("from and to, even and odd", "192.0.2.8 198.51.100.3\n192.0.2.10 198.51.100.5".into(), "line 1: two addresses"),
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
    // One of many lines has nothing in the column of the others.
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
    assert_eq!(
        read(&format!("192.0.2.7 # {}", "x".repeat(2 * LOOKED_AT))).1,
        ["192.0.2.7/32"],
        "and of any length"
    );
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
        &format!("{{\"{}\":[", "k".repeat(BYTES / 8)),
        &format!("{{\"{}\":{{", "k".repeat(BYTES / 8)),
    ];
    let parts = [
        "1,",
        "\"",
        "\"x\",",
        "\"x\":\"x\",",
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

/// Fragments of all formats, so that they combine in unexpected ways.
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
