use std::fmt::{Debug, Display};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

#[test]
fn rates_and_counts_read_as_people_write_them() {
    let cases = [
        ("no prefix", "200/s", 200),
        ("thousand", "20k/s", 20_000),
        ("a capital K can mean nothing else", "20K/s", 20_000),
        ("a fraction of a million", "1.5M/s", 1_500_000),
        ("trailing zeros are no fraction", "1.000k/s", 1_000),
        ("zeros before the point", "0.5k/s", 500),
        ("all digits", "20000/s", 20_000),
        ("a space before the unit", " 20 k/s ", 20_000),
        ("the largest", "18446744073709551615/s", u64::MAX),
    ];
    for (why, input, expected) in cases {
        assert_eq!(input.parse(), Ok(PacketRate(expected)), "{why}: {input}");
    }
    assert_eq!("1.2Gbit/s".parse(), Ok(BitRate(1_200_000_000)));
    assert_eq!("500kbit/s".parse(), Ok(BitRate(500_000)));
    assert_eq!("40k".parse(), Ok(Packets(40_000)));
    assert_eq!("8Mbit".parse(), Ok(Bits(8_000_000)));
}

#[test]
fn a_refusal_says_why_and_shows_a_right_value() {
    let cases = [
        ("no unit", "20k", "it must end in \"/s\""),
        ("another spelling of the unit", "20kpps", "it must end in \"/s\""),
        ("per minute", "20/m", "it must end in \"/s\""),
        ("small m", "20m/s", "write M for million"),
        ("unknown prefix", "20x/s", "\"x\" is none of k"),
        ("zero", "0/s", "would drop everything"),
        ("zero with a fraction", "0.0k/s", "would drop everything"),
        ("half a packet", "0.5/s", "not a whole number"),
        ("finer than the prefix", "1.2345k/s", "not a whole number"),
        ("2^64", "18446744073709551616/s", "too large"),
        ("2^64 by the prefix", "18446744073.709551616G/s", "too large"),
        ("empty", "", "does not begin with a number"),
        ("negative", "-1/s", "does not begin with a number"),
        ("no whole part", ".5k/s", "does not begin with a number"),
        ("no fraction", "5.k/s", "does not begin with a number"),
        ("two points", "1.2.3k/s", "does not begin with a number"),
    ];
    for (why, input, expected) in cases {
        let error = input.parse::<PacketRate>().unwrap_err().to_string();
        assert!(error.contains(expected), "{why}: {error}");
        assert!(error.contains("\"20k/s\""), "{why}: {error}");
    }
}

#[test]
fn bytes_are_not_bits() {
    let error = "25MB/s".parse::<BitRate>().unwrap_err();
    assert_eq!(
        error.to_string(),
        r#""25MB/s" cannot be a bit rate: it must end in "bit/s"; write for example "200Mbit/s""#
    );
}

#[test]
fn display_is_the_shortest_exact_form() {
    let cases = [
        (0, "0/s"),
        (100, "100/s"),
        (1_000, "1k/s"),
        (1_234, "1234/s"),
        (1_500, "1.5k/s"),
        (20_000, "20k/s"),
        (500_000, "500k/s"),
        (1_500_000, "1.5M/s"),
        (1_200_000_000, "1.2G/s"),
        (u64::MAX, "18446744073709551615/s"),
    ];
    for (value, expected) in cases {
        assert_eq!(PacketRate(value).to_string(), expected);
    }
    assert_eq!(format!("{:>8}", Packets(40_000)), "     40k");
}

#[test]
fn off_is_a_value_of_a_setting_that_can_be_switched_off() {
    assert_eq!("off".parse(), Ok(OrOff::<PacketRate>(None)));
    assert_eq!("1k/s".parse(), Ok(OrOff(Some(PacketRate(1000)))));
    assert_eq!(OrOff::<PacketRate>(None).to_string(), "off");
    assert!("of".parse::<OrOff<PacketRate>>().is_err());
}

#[test]
fn a_bare_number_is_refused_with_a_right_example() {
    let error = serde_json::from_str::<PacketRate>("20000").unwrap_err().to_string();
    assert!(error.contains(r#"expected a packet rate in quotes, for example "20k/s""#), "{error}");
    let error = serde_json::from_str::<OrOff<BitRate>>("20000").unwrap_err().to_string();
    assert!(error.contains(r#"expected "off" or a bit rate in quotes, for example "200Mbit/s""#), "{error}");
}

#[test]
fn durations_are_those_of_humantime_except_zero() {
    let day = 86_400;
    for (input, seconds) in [("90s", 90), ("10m", 600), ("24h", day), ("7d", 7 * day), ("1h 30m", 5_400)] {
        assert_eq!(parse_duration(input), Ok(Duration::from_secs(seconds)), "{input}");
    }
    for input in ["0s", "10", "", "-1s", "ten"] {
        let error = parse_duration(input).unwrap_err().to_string();
        assert!(error.ends_with("write for example \"10m\""), "{error}");
    }
}

fn check_round_trip<Q>(value: Q) -> Result<(), TestCaseError>
where
    Q: Quantity + Display + Debug + PartialEq + Copy + ::serde::Serialize + ::serde::de::DeserializeOwned,
{
    prop_assert_eq!(value.to_string().parse::<Q>(), Ok(value));
    let json = serde_json::to_string(&value).unwrap();
    prop_assert_eq!(serde_json::from_str::<Q>(&json).unwrap(), value);
    Ok(())
}

proptest! {
    #[test]
    fn what_is_printed_reads_back_as_the_same_number(digits in 1_u64..=u64::MAX, zeros in 0_u32..19) {
        let value = (digits / 10_u64.pow(zeros)).max(1) * 10_u64.pow(zeros);
        check_round_trip(PacketRate(value))?;
        check_round_trip(BitRate(value))?;
        check_round_trip(Packets(value))?;
        check_round_trip(Bits(value))?;
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[0-9.]{0,30}[ a-zA-Z/µ]{0,8}|.{0,40}") {
        let _ = text.parse::<BitRate>();
        let _ = text.parse::<Packets>();
        let _ = parse_duration(&text);
    }
}
