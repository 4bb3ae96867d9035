//! The position of a source's slot in the debt table.
//!
//! A place is a bucket and a tag within it, computed with secrets that user space draws at load, so that nobody
//! outside can target one bucket. For IPv4 the computation is a permutation of the 32-bit address: bucket and tag
//! together are the address in another form, the table is exact, and user space can name every debtor by inverting
//! the permutation ([`Seeds::v4_address`]). An IPv6 prefix has more bits than a place: there two prefixes share a
//! place with a probability of 2^-16 for each source in the same bucket.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bits of a tag; the rest of a 64-bit word is the time.
pub const TAG_BITS: u32 = 16;

/// The fewest bits of a bucket number: with fewer, an IPv4 address would not fit into bucket and tag.
pub const MIN_BUCKET_BITS: u32 = 32 - TAG_BITS;

/// The most bits of a bucket number: 2^22 buckets are 256 MiB for each address family.
pub const MAX_BUCKET_BITS: u32 = 22;

/// A bucket and the tag of a source in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Place {
    /// Number of the bucket.
    pub bucket: u32,
    /// Distinguishes the sources in a bucket.
    pub tag: u16,
}

/// Secrets of the permutation (IPv4) and the hash (IPv6). Any bits will do; multipliers are made odd in use.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Seeds {
    /// Added, and multiplied with, before and after the mixing step of the IPv4 permutation.
    pub v4: [u32; 4],
    /// Pair-multiply-shift keys for the two halves of an IPv6 prefix, an addend, and the multiplier of the mixing.
    pub v6: [u64; 4],
}
const _: () = assert!(size_of::<Seeds>() == 48);

impl Seeds {
    /// The place of an IPv4 address among `2^bucket_bits` buckets ([`MIN_BUCKET_BITS`] to [`MAX_BUCKET_BITS`]).
    ///
    /// Multiplication by a secret odd number is universal in its upper bits (Dietzfelbinger et al. 1997), and the
    /// bucket is taken from those; the second round hides the arithmetic structure of neighbouring addresses.
    #[inline(always)]
    pub fn place_v4(&self, address: u32, bucket_bits: u32) -> Place {
        let [add, first, second, flip] = self.v4;
        let mut x = address.wrapping_add(add).wrapping_mul(first | 1);
        x ^= x >> 16;
        x = x.wrapping_mul(second | 1) ^ flip;
        let tag_bits = 32 - bucket_bits;
        Place { bucket: x >> tag_bits, tag: (x & ((1 << tag_bits) - 1)) as u16 }
    }

    /// The IPv4 address that has this place: the inverse of [`place_v4`](Self::place_v4).
    pub fn v4_address(&self, place: Place, bucket_bits: u32) -> u32 {
        let [add, first, second, flip] = self.v4;
        let mut x = (place.bucket << (32 - bucket_bits)) | u32::from(place.tag);
        x = (x ^ flip).wrapping_mul(inverse(second | 1));
        x ^= x >> 16;
        x.wrapping_mul(inverse(first | 1)).wrapping_sub(add)
    }

    /// The place of an IPv6 prefix, given as the upper 64 bits of its addresses with the host part cleared.
    #[inline(always)]
    pub fn place_v6(&self, prefix: u64, bucket_bits: u32) -> Place {
        let [high, low, add, mix] = self.v6;
        let mut x = high
            .wrapping_add(prefix >> 32)
            .wrapping_mul(low.wrapping_add(prefix & 0xffff_ffff))
            .wrapping_add(add);
        x ^= x >> 32;
        x = x.wrapping_mul(mix | 1);
        Place { bucket: (x >> (64 - bucket_bits)) as u32, tag: (x >> (48 - bucket_bits)) as u16 }
    }
}

/// Returns the hash of the IPv6 prefix of this length that contains an address, given as its two halves. There are
/// four keys, by number.
///
/// Over all keys, two prefixes have the same hash with a probability of 2^-32 at most, whatever they are
/// (pair-multiply-shift, Dietzfelbinger 1996), and of about 2^-64 unless they differ in one bit.
///
/// VERIFIER: each key is fetched where it is used, so that the keys take no stack.
#[inline(always)]
pub fn prefix_hash(key: impl Fn(usize) -> u64, [network, interface]: [u64; 2], length: u32) -> u64 {
    /// Makes a prefix differ from the same one followed by zeros: 2^64 over the golden ratio.
    const LENGTH: u64 = 0x9e37_79b9_7f4a_7c15;

    let product = |bits: u64, pair: usize| {
        let (upper, lower) = (bits >> 32, bits & 0xffff_ffff);
        key(pair).wrapping_add(upper).wrapping_mul(key(pair + 1).wrapping_add(lower))
    };
    let mut sum = LENGTH.wrapping_mul(length.into());
    let upper = if length < 64 {
        network & !(u64::MAX >> length)
    } else {
        let lower = if length < 128 { interface & !(u64::MAX >> (length & 63)) } else { interface };
        sum = sum.wrapping_add(product(lower, 2));
        network
    };
    sum = sum.wrapping_add(product(upper, 0));
    sum ^= sum >> 32;
    sum = sum.wrapping_mul(key(3) | 1);
    sum ^ sum >> 32
}

/// The inverse of an odd number modulo 2^32, by Newton's iteration: each step doubles the number of correct bits.
fn inverse(odd: u32) -> u32 {
    let mut x = odd; // correct in 3 bits, since odd * odd = 1 modulo 8
    for _ in 0..4 {
        x = x.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(x)));
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seeds() -> impl Strategy<Value = Seeds> {
        (any::<[u32; 4]>(), any::<[u64; 4]>()).prop_map(|(v4, v6)| Seeds { v4, v6 })
    }

    proptest! {
        #[test]
        fn an_ipv4_place_names_its_address(seeds in seeds(), address: u32, bits in MIN_BUCKET_BITS..=MAX_BUCKET_BITS) {
            let place = seeds.place_v4(address, bits);
            prop_assert!(place.bucket < 1 << bits);
            prop_assert_eq!(seeds.v4_address(place, bits), address);
        }

        #[test]
        fn an_ipv6_place_lies_in_the_table(seeds in seeds(), prefix: u64, bits in MIN_BUCKET_BITS..=MAX_BUCKET_BITS) {
            prop_assert!(seeds.place_v6(prefix, bits).bucket < 1 << bits);
        }
    }

    /// Its name, and the address that it derives from a number.
    type Pattern = (&'static str, fn(u32) -> u32);

    /// What an attacker can choose without knowing the secret: neighbours, strides, one address per /8.
    #[test]
    fn chosen_addresses_spread_over_the_buckets() {
        let seeds = Seeds {
            v4: [0x1f12_3bb5, 0x9e37_79b1, 0x85eb_ca77, 0x27d4_eb2f],
            v6: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0x2545_f491_4f6c_dd1d],
        };
        let patterns: [Pattern; 4] = [
            ("neighbours", |n| 0xc000_0200 + n),
            ("one per /24", |n| n << 8),
            ("one per /16", |n| n.rotate_left(16)),
            ("stride of 2^10 + 1", |n| n.wrapping_mul(1025)),
        ];
        for (why, pattern) in patterns {
            let mut fill_v4 = vec![0u32; 1 << MIN_BUCKET_BITS];
            let mut fill_v6 = fill_v4.clone();
            for n in 0..1 << MIN_BUCKET_BITS {
                fill_v4[seeds.place_v4(pattern(n), MIN_BUCKET_BITS).bucket as usize] += 1;
                let prefix = 0x2001_0db8_0000_0000 | u64::from(pattern(n));
                fill_v6[seeds.place_v6(prefix, MIN_BUCKET_BITS).bucket as usize] += 1;
            }
            // One source per bucket on average; Poisson gives 9 or 10 as the largest of 65,536.
            let largest = |fill: &[u32]| *fill.iter().max().unwrap();
            assert!(largest(&fill_v4) <= 16, "{why}: {} IPv4 sources in one bucket", largest(&fill_v4));
            assert!(largest(&fill_v6) <= 16, "{why}: {} IPv6 sources in one bucket", largest(&fill_v6));
        }
    }
}
