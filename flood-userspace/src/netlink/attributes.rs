//! Netlink attributes that no library parses. Each has a kind and a value, which may contain attributes again.
//! Numbers are in network byte order unless stated otherwise.

use netlink_packet_core::{DecodeError, NlasIterator};
use netlink_packet_route::link::{LinkAttribute, LinkMessage};

/// Returns a NUL-terminated string.
pub(crate) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// Returns the number in an attribute of this kind.
pub(crate) fn number(attributes: &[u8], kind: u16) -> Result<Option<u32>, DecodeError> {
    Ok(value(attributes, kind)?.and_then(|value| value.try_into().ok()).map(u32::from_be_bytes))
}

/// Returns the string in an attribute of this kind.
pub(crate) fn word(attributes: &[u8], kind: u16) -> Result<Option<String>, DecodeError> {
    Ok(value(attributes, kind)?.map(|value| text(&value)))
}

/// Returns the value of an attribute of this kind.
pub(crate) fn value(attributes: &[u8], kind: u16) -> Result<Option<Vec<u8>>, DecodeError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(Some(attribute.value().to_vec()));
        }
    }
    Ok(None)
}

/// Returns the name of an interface.
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
