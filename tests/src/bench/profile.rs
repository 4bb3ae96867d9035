//! The examples of configurations in docs/profiles.

/// A name, and what the configuration says.
pub(super) type Profile = (&'static str, &'static str);

pub(super) const WEB: Profile = ("web", include_str!("../../../docs/profiles/web.toml"));
pub(super) const DNS: Profile = ("dns", include_str!("../../../docs/profiles/dns.toml"));
pub(super) const GAME: Profile = ("game", include_str!("../../../docs/profiles/game.toml"));
