//! Offsets of fields in the structures of the running kernel, from its type information (Documentation/bpf/btf.rst).
//!
//! The loader's library reads the same data but does not expose them.

use std::{collections::HashMap, fs};

/// The kernel's own type information.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;

/// Kinds of types that have members.
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// Maximum depth of nested structures.
const DEPTH: u32 = 8;

/// A member of a structure.
#[derive(Clone, Copy, Debug)]
struct Member {
    name: u32,
    kind: u32,
    /// Bits from the beginning of the structure.
    offset: u32,
}

/// The structures of a kernel.
#[derive(Debug)]
pub(super) struct Structures {
    /// The members of each structure and union, by type id.
    members: HashMap<u32, Vec<Member>>,
    by_name: HashMap<String, u32>,
    strings: Vec<u8>,
}

impl Structures {
    /// Reads those of the running kernel; `None` if it does not tell them.
    pub(super) fn of_kernel() -> Option<Self> {
        Self::parse(&fs::read(VMLINUX).ok()?)
    }

    fn parse(data: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(data.get(at..at + 4)?.try_into().ok()?));
        let half = |at: usize| Some(u16::from_le_bytes(data.get(at..at + 2)?.try_into().ok()?));
        if half(0)? != MAGIC {
            return None;
        }
        let header = word(4)? as usize;
        let [types_at, types_length, strings_at, strings_length] = [8, 12, 16, 20].map(word);
        let types_at = header + types_at? as usize;
        let types_end = types_at + types_length? as usize;
        let strings_at = header + strings_at? as usize;
        let strings = data.get(strings_at..strings_at + strings_length? as usize)?.to_vec();
        let mut structures = Self { members: HashMap::new(), by_name: HashMap::new(), strings };
        let (mut at, mut number) = (types_at, 1);
        while at < types_end {
            let (name, info) = (word(at)?, word(at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, info as usize & 0xffff);
            at += 12;
            if kind == STRUCT || kind == UNION {
                // If the flag is set, the upper bits of an offset are the size of a bit field.
                let offset_mask = if info >> 31 == 0 { u32::MAX } else { 0x00ff_ffff };
                let member = |index: usize| {
                    let at = at + 12 * index;
                    Some(Member { name: word(at)?, kind: word(at + 4)?, offset: word(at + 8)? & offset_mask })
                };
                structures.members.insert(number, (0..count).map(member).collect::<Option<_>>()?);
                if let Some(name) = structures.string(name).filter(|name| !name.is_empty()) {
                    structures.by_name.entry(name).or_insert(number);
                }
            }
            at += match kind {
                1 | 14 | 17 => 4,                  // integer, variable, declaration tag
                3 => 12,                           // array
                STRUCT | UNION | 19 => 12 * count, // and 64-bit enumeration
                6 | 13 => 8 * count,               // enumeration, function prototype
                15 => 12 * count,                  // section
                _ => 0,
            };
            number += 1;
        }
        Some(structures)
    }

    fn string(&self, at: u32) -> Option<String> {
        let bytes = self.strings.get(at as usize..)?;
        let length = bytes.iter().position(|byte| *byte == 0)?;
        Some(String::from_utf8_lossy(&bytes[..length]).into_owned())
    }

    /// Returns the offset of a field in a structure, bytes.
    pub(super) fn offset(&self, structure: &str, field: &str) -> Option<u32> {
        let bits = self.find(*self.by_name.get(structure)?, field, DEPTH)?;
        bits.is_multiple_of(8).then_some(bits / 8)
    }

    /// Finds the field, also in members without a name.
    fn find(&self, number: u32, field: &str, depth: u32) -> Option<u32> {
        self.members.get(&number)?.iter().find_map(|member| {
            let name = self.string(member.name)?;
            if name == field {
                Some(member.offset)
            } else if name.is_empty() && depth > 0 {
                Some(member.offset + self.find(member.kind, field, depth - 1)?)
            } else {
                None
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int a; union { struct { int b; int c:4; int d; }; long e; }; }`, and a type of each kind before it.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0outer\0a\0b\0c\0d\0e\0";
        let name = |name: &str| {
            let at = strings.windows(name.len() + 2).position(|window| {
                window[0] == 0 && &window[1..=name.len()] == name.as_bytes() && window[name.len() + 1] == 0
            });
            at.map_or(0, |at| at as u32 + 1)
        };
        let mut types: Vec<u32> = Vec::new();
        let mut add = |name: u32, info: u32, size: u32, rest: &[u32]| {
            types.extend([&[name, info, size], rest].concat());
        };
        add(name("int"), 1 << 24, 4, &[32]); // 1
        add(0, 2 << 24, 1, &[]); // 2: pointer
        add(0, 3 << 24, 0, &[1, 1, 4]); // 3: array
        add(0, 6 << 24 | 2, 4, &[0, 0, 0, 1]); // 4: enumeration
        add(0, 13 << 24 | 1, 1, &[0, 1]); // 5: function prototype
        add(0, 19 << 24 | 1, 8, &[0, 0, 0]); // 6: enumeration of 64 bits
        // 7: with bit fields, so sizes above the offsets
        add(0, 1 << 31 | 4 << 24 | 3, 12, &[name("b"), 1, 0, name("c"), 1, 4 << 24 | 32, name("d"), 1, 64]);
        add(0, 5 << 24 | 2, 16, &[0, 7, 0, name("e"), 1, 0]); // 8
        add(name("outer"), 4 << 24 | 2, 24, &[name("a"), 1, 0, 0, 8, 64]); // 9
        let types: Vec<u8> = types.iter().flat_map(|word| word.to_le_bytes()).collect();
        let header = [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        let header: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        [&[0x9f, 0xeb, 1, 0], &header[..], &types, strings].concat()
    }

    #[test]
    fn a_field_is_found_within_members_that_have_no_name() {
        let structures = Structures::parse(&sample()).unwrap();
        for (field, expected) in
            [("a", Some(0)), ("b", Some(8)), ("c", Some(12)), ("d", Some(16)), ("e", Some(8)), ("f", None)]
        {
            assert_eq!(structures.offset("outer", field), expected, "{field}");
        }
        assert_eq!(structures.offset("inner", "a"), None);
    }

    #[test]
    fn what_is_cut_off_or_something_else_says_nothing() {
        let sample = sample();
        for length in 0..sample.len() {
            if let Some(structures) = Structures::parse(&sample[..length]) {
                let _ = structures.offset("outer", "d");
            }
        }
        assert!(Structures::parse(b"\x7fELF and so on and so forth").is_none());
        assert!(Structures::parse(&[]).is_none());
    }
}
