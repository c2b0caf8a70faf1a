//! What an image runs on, and which of several to choose.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::super::config::{self, Document, null_is_default};
use super::super::error::{Error, Result};

/// An operating system and a processor, as Go names them (OCI image spec, "Image Index").
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Platform {
    /// `GOOS`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub os: String,
    /// `GOARCH`.
    #[serde(default, deserialize_with = "null_is_default")]
    pub architecture: String,
    /// The variant of the processor; empty if it has none.
    #[serde(default, deserialize_with = "null_is_default")]
    pub variant: String,
}

impl Platform {
    /// That of this machine.
    pub fn host() -> Self {
        Self { os: "linux".into(), architecture: config::host_architecture().into(), variant: String::new() }
    }

    /// That which an image is for.
    pub(super) fn of(document: &Document) -> Self {
        let Document { os, architecture, variant, .. } = document.clone();
        Self { os, architecture, variant }
    }

    /// How well an image for `offered` runs here: 0 not at all, more is better.
    pub(super) fn suits(&self, offered: &Self) -> u32 {
        if self.os != offered.os || self.architecture != offered.architecture {
            return 0;
        }
        let (wanted, variant) = (self.usual_variant(), offered.usual_variant());
        match (wanted == variant, self.variant.is_empty()) {
            (true, _) => 3,
            // ARM's variants are levels: a processor runs programs for lower ones. Prefer the highest of them.
            (false, _) if self.architecture == "arm" && level(variant) < level(wanted) => {
                1 + level(variant) / 8
            }
            (false, true) if self.architecture != "arm" => 1,
            (false, _) => 0,
        }
    }

    fn usual_variant(&self) -> &str {
        match (self.architecture.as_str(), self.variant.as_str()) {
            ("arm64", "") => "v8",
            ("arm", "") => "v7",
            ("amd64", "") => "v1",
            (_, variant) => variant,
        }
    }
}

fn level(variant: &str) -> u32 {
    variant.trim_start_matches('v').parse().unwrap_or_default()
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts = text.split('/').map(str::to_owned);
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        match (os, architecture) {
            (Some(os), Some(architecture))
                if !os.is_empty() && !architecture.is_empty() && parts.next().is_none() =>
            {
                Ok(Self { os, architecture, variant: variant.unwrap_or_default() })
            }
            _ => Err(Error::BadName {
                given: text.to_owned(),
                rule: "a platform is OS/ARCHITECTURE[/VARIANT]",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suits_by_variant() {
        let platform = |text: &str| text.parse::<Platform>().unwrap();
        for (wanted, offered, best) in [
            ("linux/amd64", &["linux/arm64", "linux/amd64"][..], Some(1)),
            ("linux/amd64", &["windows/amd64"], None),
            ("linux/amd64", &["linux/amd64/v3", "linux/amd64"], Some(1)),
            ("linux/amd64/v3", &["linux/amd64/v3", "linux/amd64"], Some(0)),
            ("linux/arm64", &["linux/arm64/v8"], Some(0)),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"], Some(1)),
            ("linux/arm/v6", &["linux/arm/v7"], None),
        ] {
            let wanted = platform(wanted);
            let scores: Vec<_> = offered.iter().map(|offered| wanted.suits(&platform(offered))).collect();
            let found = (0..scores.len()).max_by_key(|&at| scores[at]).filter(|&at| scores[at] > 0);
            assert_eq!(found, best, "{wanted} of {offered:?}: {scores:?}");
        }
    }
}
