//! Names in archives: made clean, or refused.

use super::super::error::Fault;

/// The longest path that is taken, in bytes (`PATH_MAX` less its NUL, limits.h).
const MAX_PATH: usize = 4095;

/// A path below the root of a layer: components joined by single slashes, none of them empty, `.` or `..`, none longer
/// than 255 bytes, no NUL; the root itself is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CleanPath(Vec<u8>);

impl CleanPath {
    /// Takes a name as an archive has it. A slash at the start only means the layer's root.
    pub(super) fn new(raw: &[u8]) -> Result<Self, Fault> {
        let mut clean = Vec::with_capacity(raw.len());
        for component in raw.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(Fault::DotDot),
                _ if component.contains(&0) => return Err(Fault::Nul),
                _ if component.len() > 255 => return Err(Fault::LongName),
                _ if clean.is_empty() => {}
                _ => clean.push(b'/'),
            }
            clean.extend_from_slice(component);
        }
        if clean.len() > MAX_PATH { Err(Fault::LongPath) } else { Ok(Self(clean)) }
    }

    /// Whether it is the layer's root.
    pub(super) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path of the directory it is in, and its last component.
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (b"", &self.0),
        }
    }
}

/// The path of the child `name` of the directory at `dir`.
pub(super) fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, b"/", name].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_by_name() {
        let (long, longer) = ("x".repeat(255), "x".repeat(256));
        let (deep, deeper) = ("a/".repeat(2047) + "a", "a/".repeat(2048) + "a");
        for (case, raw, want) in [
            ("plain", "a/b", Some("a/b")),
            ("dots and slashes", ".//a/./b/", Some("a/b")),
            ("absolute", "//etc/passwd", Some("etc/passwd")),
            ("root", "./", Some("")),
            ("empty", "", Some("")),
            ("dots that are a name", "...", Some("...")),
            ("newline", "a\nb", Some("a\nb")),
            ("parent", "../a", None),
            ("parent inside", "a/../b", None),
            ("parent last", "a/..", None),
            ("NUL", "a\0b", None),
            ("255 bytes", &long, Some(&long)),
            ("256 bytes", &longer, None),
            ("4095 bytes", &deep, Some(&deep)),
            ("4097 bytes", &deeper, None),
        ] {
            let found = CleanPath::new(raw.as_bytes()).ok();
            assert_eq!(found.as_ref().map(|path| path.0.as_slice()), want.map(str::as_bytes), "{case}");
        }
    }
}
