//! Quantities in TOML and JSON: always a string, since a bare number would leave the unit to be guessed.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{BitRate, Bits, OrOff, PacketRate, Packets, Quantity};

struct Written<T>(PhantomData<T>);

impl<T: Quantity> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} in quotes, for example \"{}\"", T::KIND, T::EXAMPLE)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

struct WrittenOrOff<T>(PhantomData<T>);

impl<T: Quantity> Visitor<'_> for WrittenOrOff<T> {
    type Value = OrOff<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"off\" or ")?;
        Written::<T>(PhantomData).expecting(f)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<OrOff<T>, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de, T: Quantity> Deserialize<'de> for OrOff<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(WrittenOrOff(PhantomData))
    }
}

impl<T: fmt::Display> Serialize for OrOff<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

macro_rules! written_as_text {
    ($($name:ident),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Written(PhantomData))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

written_as_text!(PacketRate, BitRate, Packets, Bits);
