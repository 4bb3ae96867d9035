//! Attributes of messages that no library reads: a number for what each is, and what it holds, which may be attributes again.
//! Numbers in them are in the byte order of networks unless said otherwise.

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

/// A string that ends with a zero.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The number that an attribute of this kind has.
pub(crate) fn number(attributes: &[u8], kind: u16) -> Result<Option<u32>, DecodeError> {
    Ok(value(attributes, kind)?.and_then(|value| value.try_into().ok()).map(u32::from_be_bytes))
}

/// The string that an attribute of this kind has.
pub(crate) fn word(attributes: &[u8], kind: u16) -> Result<Option<String>, DecodeError> {
    Ok(value(attributes, kind)?.map(|value| text(&value)))
}

/// What an attribute of this kind has.
pub(crate) fn value(attributes: &[u8], kind: u16) -> Result<Option<Vec<u8>>, DecodeError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(Some(attribute.value().to_vec()));
        }
    }
    Ok(None)
}

/// The name of an interface.
pub(crate) fn link_name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    /// An attribute as the kernel writes it.
    pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }
}
