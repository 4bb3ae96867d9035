//! The only place that claims that a type may be copied to and from a map.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// A value of a map. The bounds enforce what `aya::Pod` only requires as a promise.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Plain<T>(pub(super) T);

// SAFETY: `T` has no padding, no pointers and no invalid bit pattern, as its derives prove.
unsafe impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> aya::Pod for Plain<T> {}
