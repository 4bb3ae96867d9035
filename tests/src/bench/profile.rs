//! The example configurations in docs/profiles.

/// A name, and the text of the configuration.
pub(super) type Profile = (&'static str, &'static str);

pub(super) const WEB: Profile = ("web", include_str!("../../../docs/profiles/web.toml"));
pub(super) const DNS: Profile = ("dns", include_str!("../../../docs/profiles/dns.toml"));
pub(super) const GAME: Profile = ("game", include_str!("../../../docs/profiles/game.toml"));
