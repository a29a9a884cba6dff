//! The versions of the protocol, and how two sides agree on one.

use std::fmt;

/// A version of STOMP, the older the smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// STOMP 1.0: headers without escapes, no heart-beats.
    V10,
    /// STOMP 1.1: escapes, heart-beats, NACK.
    V11,
    /// STOMP 1.2: lines may end in CR LF, and acknowledgements name an `ack`.
    V12,
}

impl Version {
    /// Every version, the newest first.
    pub const ALL: [Version; 3] = [Version::V12, Version::V11, Version::V10];

    /// As the headers `version` and `accept-version` write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Version::V10 => "1.0",
            Version::V11 => "1.1",
            Version::V12 => "1.2",
        }
    }

    /// The highest version in common with a client's `accept-version` (STOMP 1.2, “Protocol Negotiation”).
    ///
    /// Without that header the client speaks 1.0 only. Versions that do not exist here are passed over, and spaces
    /// around a comma do no harm.
    pub fn negotiate(accept_version: Option<&str>) -> Option<Self> {
        let Some(offered) = accept_version else { return Some(Version::V10) };
        Self::ALL.into_iter().find(|version| offered.split(',').any(|one| one.trim_matches(' ') == version.as_str()))
    }

    /// The version that a WebSocket sub-protocol stands for (`v12.stomp`).
    pub fn from_subprotocol(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.subprotocol() == name)
    }

    /// The WebSocket sub-protocol that stands for this version, as registered with IANA.
    pub const fn subprotocol(self) -> &'static str {
        match self {
            Version::V10 => "v10.stomp",
            Version::V11 => "v11.stomp",
            Version::V12 => "v12.stomp",
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_version_in_common_is_chosen() {
        assert_eq!(Version::negotiate(Some("1.0,1.1,2.0")), Some(Version::V11));
        assert_eq!(Version::negotiate(Some("1.2,1.1,1.0")), Some(Version::V12));
        assert_eq!(Version::negotiate(Some(" 1.1 , 1.0")), Some(Version::V11));
    }

    #[test]
    fn a_client_that_names_no_version_speaks_1_0() {
        assert_eq!(Version::negotiate(None), Some(Version::V10));
    }

    #[test]
    fn nothing_in_common_is_no_version() {
        for offered in ["", "2.1", "1", "1.20", "v12.stomp", "1.2;1.1"] {
            assert_eq!(Version::negotiate(Some(offered)), None, "{offered}");
        }
    }

    #[test]
    fn subprotocols_name_versions() {
        for version in Version::ALL {
            assert_eq!(Version::from_subprotocol(version.subprotocol()), Some(version));
        }
        assert_eq!(Version::from_subprotocol("v13.stomp"), None);
        assert_eq!(Version::from_subprotocol("V12.STOMP"), None);
    }

    #[test]
    fn newer_versions_are_greater() {
        assert!(Version::V10 < Version::V11 && Version::V11 < Version::V12);
    }
}
