//! Content addresses: SHA-256 digests, and readers that compute them on the way.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::error::{Error, Result};

/// A SHA-256 digest, written `sha256:` and 64 hexadecimal digits (OCI image spec, "Digests").
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest that these 64 hexadecimal digits (lower case) spell.
    pub fn from_hex(hex: &str) -> Option<Self> {
        let digits = hex.as_bytes();
        if digits.len() != 64 || digits.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        let mut raw = [0; 32];
        for (byte, pair) in raw.iter_mut().zip(digits.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        // from_str_radix also takes a sign.
        digits.iter().all(u8::is_ascii_hexdigit).then_some(Self(raw))
    }

    /// The 64 digits without the algorithm.
    pub fn hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The first 12 digits, as Docker shows an identity to people.
    pub fn short(self) -> String {
        self.hex()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        text.strip_prefix("sha256:")
            .and_then(Self::from_hex)
            .ok_or_else(|| Error::NoDigest { given: text.to_owned() })
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Digest);

        impl $name {
            /// The 64 digits without the algorithm.
            pub fn hex(self) -> String {
                self.0.hex()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

identity! {
    /// The identity of an image: the digest of its configuration, byte for byte.
    ImageId
}

identity! {
    /// The identity of a layer: the digest of its tar stream before compression.
    DiffId
}

/// A reader that digests what passes through it.
pub(super) struct Hashing<R> {
    inner: R,
    hasher: Option<Sha256>,
    bytes: u64,
}

impl<R: Read> Hashing<R> {
    /// Digests what is read from `inner` from here on.
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hasher: Some(Sha256::new()), bytes: 0 }
    }

    /// Only counts what is read; the digest is that of nothing.
    pub(super) fn counting(inner: R) -> Self {
        Self { inner, hasher: None, bytes: 0 }
    }

    /// The digest of what was read so far, and how many bytes that was.
    pub(super) fn so_far(&self) -> (Digest, u64) {
        let hasher = self.hasher.clone().unwrap_or_default();
        (Digest(hasher.finalize().into()), self.bytes)
    }

    /// What it reads from.
    pub(super) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..count]);
        }
        self.bytes += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn parse_by_spelling() {
        for (case, text, good) in [
            ("right", format!("sha256:{EMPTY}"), true),
            ("no algorithm", EMPTY.to_owned(), false),
            ("other algorithm", format!("sha512:{EMPTY}"), false),
            ("short", format!("sha256:{}", &EMPTY[1..]), false),
            ("upper case", format!("sha256:{}", EMPTY.to_uppercase()), false),
            ("sign", format!("sha256:+{}", &EMPTY[1..]), false),
            ("not ASCII", format!("sha256:é{}", &EMPTY[2..]), false),
        ] {
            assert_eq!(text.parse::<Digest>().is_ok(), good, "{case}");
        }
    }

    #[test]
    fn hashing_counts_and_digests() {
        let mut reader = Hashing::new(&b"abc"[..]);
        assert_eq!(reader.so_far().0.hex(), EMPTY);
        io::copy(&mut reader, &mut io::sink()).unwrap();
        assert_eq!(reader.so_far(), (Digest::of(b"abc"), 3));
    }
}
