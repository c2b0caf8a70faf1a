//! Names of images, as Docker reads them (distribution/reference, "Grammar").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::error::{Error, Result};

/// Where a name without a domain belongs.
const DEFAULT_DOMAIN: &str = "docker.io";
/// Where a name of that domain without a directory belongs.
const DEFAULT_DIRECTORY: &str = "library";
/// The tag of a name without one.
const DEFAULT_TAG: &str = "latest";
/// The longest repository that is taken, in bytes.
const MAX_REPOSITORY: usize = 255;

/// A whole name: domain, repository and tag, as in `docker.io/library/busybox:latest`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    repository: String,
    tag: String,
}

impl Reference {
    /// The repository as people write it: what goes without saying is left out.
    pub fn familiar_repository(&self) -> &str {
        let Some(rest) = self.repository.strip_prefix("docker.io/") else { return &self.repository };
        match rest.strip_prefix("library/") {
            Some(name) if !name.contains('/') => name,
            _ => rest,
        }
    }

    /// The tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The name as people write it, as in `busybox:latest`.
    pub fn familiar(&self) -> String {
        format!("{}:{}", self.familiar_repository(), self.tag)
    }
}

/// The whole name; [`Reference::familiar`] is the short one.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.repository, self.tag)
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|rule| Error::BadName { given: text.to_owned(), rule })
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(name: Reference) -> Self {
        name.to_string()
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.contains('@') {
        return Err("a name given to an image has a tag (NAME:TAG), not a digest");
    }
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("64 hexadecimal digits are an identity");
    }
    // A colon before the last slash is that of a port.
    let tag_at = text.rfind(':').filter(|&colon| !text[colon..].contains('/'));
    let (name, tag) = tag_at.map_or((text, DEFAULT_TAG), |colon| (&text[..colon], &text[colon + 1..]));
    if !is_tag(tag) {
        return Err(
            "a tag is 1 to 128 letters, digits, `_`, `.` and `-`, and begins with none of the last two",
        );
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if is_domain(first) => (first, rest.to_owned()),
        _ => (DEFAULT_DOMAIN, name.to_owned()),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    let alone = domain == DEFAULT_DOMAIN && !path.contains('/');
    let path = if alone { format!("{DEFAULT_DIRECTORY}/{path}") } else { path };
    if !path.split('/').all(is_component) {
        return Err(
            "each part of a name is lower-case letters and digits, single `.`, `_` or `-` (also `__`) between them",
        );
    }
    let repository = format!("{domain}/{path}");
    if repository.len() > MAX_REPOSITORY {
        return Err("it is longer than 255 bytes");
    }
    Ok(Reference { repository, tag: tag.to_owned() })
}

/// The first part of a name is a domain if nothing else could look like it.
fn is_domain(part: &str) -> bool {
    let looks = part.contains(['.', ':'])
        || part == "localhost"
        || part.bytes().any(|byte| byte.is_ascii_uppercase());
    let (host, port) = part.rsplit_once(':').unwrap_or((part, "0"));
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    looks && host.split('.').all(label) && !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_component(part: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = part.bytes().next().is_some_and(word) && part.bytes().next_back().is_some_and(word);
    let separators = part.split(|letter: char| letter.is_ascii() && word(letter as u8));
    ends && separators
        .into_iter()
        .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|byte| byte == b'-'))
}

/// Whether an image can have this tag.
pub(super) fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let rest = tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_by_name() {
        for (given, whole, familiar) in [
            ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
            ("index.docker.io/me/app:x", "docker.io/me/app:x", "me/app:x"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("host:5000/a/b:t", "host:5000/a/b:t", "host:5000/a/b:t"),
            ("host:5000/a/b", "host:5000/a/b:latest", "host:5000/a/b:latest"),
            ("ghcr.io/x/y_z--w.v__u", "ghcr.io/x/y_z--w.v__u:latest", "ghcr.io/x/y_z--w.v__u:latest"),
            ("docker.io/a/library/b", "docker.io/a/library/b:latest", "a/library/b:latest"),
        ] {
            let name: Reference = given.parse().unwrap();
            assert_eq!((name.to_string().as_str(), name.familiar().as_str()), (whole, familiar), "{given}");
            assert_eq!(
                name.familiar().parse::<Reference>().unwrap(),
                name,
                "{given}: the short name is the same"
            );
        }
    }

    #[test]
    fn parse_refuses() {
        for given in [
            "",
            ":",
            "a:",
            ":a",
            "A",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "é",
            "a:-t",
            "a:t/u",
            "a@sha256:0",
            "../a",
            "host:port/a",
            &"a".repeat(300),
            &format!("a:{}", "t".repeat(129)),
            &"0".repeat(64),
        ] {
            assert!(given.parse::<Reference>().is_err(), "{given:?}");
        }
    }
}
