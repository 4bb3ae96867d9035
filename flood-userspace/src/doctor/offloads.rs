//! Offloads of a card that prevent native XDP: merging of received packets in the card, and virtual cards whose host
//! merges packets and cannot be told to stop.

use std::{ffi::CStr, fs, io};

use crate::{bpf::interface::Interface, host::ethtool};

/// Merging of received packets by the card, as `ethtool -k` and the kernel name it (net/ethtool/common.c), and as
/// `ethtool -K` names it.
const MERGING: [(&str, &str); 2] = [("rx-lro", "lro"), ("rx-gro-hw", "rx-gro-hw")];

/// Returns which of [`MERGING`] are on, as `ethtool -K` names them.
pub(super) fn merging(interface: &str) -> io::Result<Vec<&'static str>> {
    let (names, active) = (feature_names(interface)?, active_features(interface)?);
    let is_on = |feature: &str| {
        let bit = names.iter().position(|name| name == feature);
        bit.is_some_and(|bit| active.get(bit / 32).is_some_and(|word| word >> (bit % 32) & 1 != 0))
    };
    Ok(MERGING.into_iter().filter(|(feature, _)| is_on(feature)).map(|(_, switch)| switch).collect())
}

/// Whether this is a virtual card (virtio) whose host merges packets, or leaves out checksums, and cannot be told to stop:
/// its driver refuses XDP (`virtnet_xdp_set`, drivers/net/virtio_net.c).
pub(super) fn virtio_host_merges(interface: &Interface) -> bool {
    let features = || fs::read_to_string(interface.sysfs("device/features")?).ok();
    interface.driver() == "virtio_net" && features().is_some_and(|features| host_merges(features.trim()))
}

/// Decides the same from the features of the device, one digit each.
fn host_merges(features: &str) -> bool {
    /// linux/virtio_net.h.
    const CTRL_GUEST_OFFLOADS: usize = 2;
    const OFFLOADS: [(usize, &str); 7] =
        [(1, "CSUM"), (7, "TSO4"), (8, "TSO6"), (9, "ECN"), (10, "UFO"), (54, "USO4"), (55, "USO6")];

    let has = |bit: usize| features.as_bytes().get(bit) == Some(&b'1');
    !has(CTRL_GUEST_OFFLOADS) && OFFLOADS.into_iter().any(|(bit, _)| has(bit))
}

/// Returns the names of the features that this kernel knows, in the order of their bits.
fn feature_names(interface: &str) -> io::Result<Vec<String>> {
    /// linux/ethtool.h.
    const GET_SET_SIZES: u32 = 0x37;
    const GET_STRINGS: u32 = 0x1b;
    const FEATURES: u32 = 4;
    const STRING_WORDS: usize = 8;

    let mut sizes = [GET_SET_SIZES, 0, 1 << FEATURES, 0, 0];
    ethtool(interface, &mut sizes)?;
    let count = sizes[4] as usize;
    let mut strings = vec![0; 3 + count * STRING_WORDS];
    strings[..3].copy_from_slice(&[GET_STRINGS, FEATURES, sizes[4]]);
    ethtool(interface, &mut strings)?;
    let text = |words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        CStr::from_bytes_until_nul(&bytes).map_or(String::new(), |name| name.to_string_lossy().into_owned())
    };
    Ok(strings[3..].chunks(STRING_WORDS).map(text).collect())
}

/// Returns which features are active, 32 to a word.
fn active_features(interface: &str) -> io::Result<Vec<u32>> {
    /// linux/ethtool.h.
    const GET_FEATURES: u32 = 0x3a;
    /// Words of 32 features for which there is room: the kernel has two or three.
    const WORDS: usize = 8;
    /// Words for each group: available, requested, active, never changed.
    const EACH: usize = 4;

    let mut request = [0; 2 + WORDS * EACH];
    request[..2].copy_from_slice(&[GET_FEATURES, WORDS as u32]);
    ethtool(interface, &mut request)?;
    let words = (request[1] as usize).min(WORDS);
    Ok(request[2..].chunks(EACH).take(words).map(|word| word[2]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_card_is_fit_whose_host_does_not_merge_or_can_be_told_so() {
        let with = |bits: &[usize]| -> String {
            (0..128).map(|bit| if bits.contains(&bit) { '1' } else { '0' }).collect()
        };
        let cases = [
            ("merges, and cannot be told", with(&[0, 1, 5, 7, 8, 10]), true),
            ("leaves out checksums alone", with(&[1]), true),
            ("merges UDP alone", with(&[54]), true),
            ("merges, and can be told", with(&[0, 1, 2, 7, 8]), false),
            ("does not merge", with(&[0, 5, 11, 12]), false),
            ("says nothing", String::new(), false),
        ];
        for (why, features, expected) in cases {
            assert_eq!(host_merges(&features), expected, "{why}");
        }
    }

    #[test]
    fn the_loopback_interface_merges_nothing() {
        assert!(feature_names("lo").unwrap().iter().any(|name| name == "rx-lro"));
        assert_eq!(merging("lo").unwrap(), [""; 0]);
        assert!(merging("nowhere0").is_err());
    }
}
