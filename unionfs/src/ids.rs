//! Owners on disk and owners as shown: the id mappings and squashing of fuse-overlayfs, as pure functions.
//!
//! A mapping is a list of ranges `DISK:SHOWN:LENGTH`: id `DISK + n` on the branch is seen as `SHOWN + n`. An id that no
//! range has on disk, but one shows, is shown as it is: podman 4 hands over layers through idmapped mounts, which are
//! mapped already, together with the mapping. All others are shown as the overflow id, as the kernel shows ids that a
//! user namespace does not map (user_namespaces(7)).

/// What an id is shown as that has no counterpart (`/proc/sys/kernel/overflowuid`, user_namespaces(7)).
pub(crate) const OVERFLOW: u32 = 65534;

/// How owners are shown, and which owner on disk a shown one stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ids {
    /// For users.
    pub users: IdRule,
    /// For groups.
    pub groups: IdRule,
}

/// How ids of one kind are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum IdRule {
    /// As they are.
    #[default]
    Same,
    /// By ranges.
    Map(IdMap),
    /// All as this one; the owner on disk cannot be changed.
    Squash(u32),
}

impl IdRule {
    /// What an id on disk is shown as.
    pub fn shown(&self, disk: u32) -> u32 {
        match self {
            Self::Same => disk,
            Self::Map(map) => map.shown(disk).unwrap_or(OVERFLOW),
            Self::Squash(id) => *id,
        }
    }

    /// The id on disk of what is shown; `None` where nothing on disk would be shown so.
    pub fn stored(&self, shown: u32) -> Option<u32> {
        match self {
            Self::Same => Some(shown),
            Self::Map(map) => map.stored(shown),
            Self::Squash(id) => Some(*id),
        }
    }

    /// Whether all ids are shown as one, so that changing one does nothing.
    pub const fn squashes(&self) -> bool {
        matches!(self, Self::Squash(_))
    }
}

impl Ids {
    /// Whether every owner is shown as it is.
    pub const fn is_identity(&self) -> bool {
        matches!((&self.users, &self.groups), (IdRule::Same, IdRule::Same))
    }
}

/// Ranges of ids on disk and what they are shown as; of two ranges that overlap the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMap(Vec<Range>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    disk: u32,
    shown: u32,
    len: u32,
}

/// Why a mapping was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    /// Not a list of three numbers each.
    #[error("write DISK:SHOWN:LENGTH, several joined by ':'")]
    Shape,
    /// A number that is no id, or a range that leaves the ids.
    #[error("ids are numbers below 4294967295, and a range must stay below it")]
    Number,
}

impl IdMap {
    /// Reads `DISK:SHOWN:LENGTH[:DISK:SHOWN:LENGTH]…`; a `:` in front is allowed, for containers/storage writes it.
    ///
    /// # Errors
    ///
    /// See [`IdMapError`].
    pub fn parse(text: &str) -> Result<Self, IdMapError> {
        let text = text.strip_prefix(':').unwrap_or(text);
        let numbers = text
            .split(':')
            .map(|word| word.parse::<u32>().map_err(|_| shape_or_number(word)))
            .collect::<Result<Vec<_>, _>>()?;
        let (triples, rest) = numbers.as_chunks::<3>();
        if !rest.is_empty() {
            return Err(IdMapError::Shape);
        }
        let ranges = triples.iter().map(|&[disk, shown, len]| Range { disk, shown, len });
        let ranges: Vec<_> = ranges.collect();
        // 4294967295 is "no id" to chown(2).
        let fits = |start: u32, len: u32| len > 0 && start.checked_add(len).is_some();
        match ranges.iter().all(|range| fits(range.disk, range.len) && fits(range.shown, range.len)) {
            true => Ok(Self(ranges)),
            false => Err(IdMapError::Number),
        }
    }

    fn shown(&self, disk: u32) -> Option<u32> {
        let offset = |range: &Range| disk.checked_sub(range.disk).filter(|&offset| offset < range.len);
        let mapped = self.0.iter().find_map(|range| Some(range.shown + offset(range)?));
        mapped.or_else(|| self.stored(disk).map(|_| disk))
    }

    fn stored(&self, shown: u32) -> Option<u32> {
        let offset = |range: &Range| shown.checked_sub(range.shown).filter(|&offset| offset < range.len);
        self.0.iter().find_map(|range| Some(range.disk + offset(range)?))
    }
}

fn shape_or_number(word: &str) -> IdMapError {
    let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
    if digits { IdMapError::Number } else { IdMapError::Shape }
}

/// The size of the header of an ACL as an attribute (linux/posix_acl_xattr.h), and of each entry.
const ACL_HEADER: usize = 4;
const ACL_ENTRY: usize = 8;
/// The tags of entries that name a user or a group.
const ACL_USER: u16 = 0x02;
const ACL_GROUP: u16 = 0x08;

/// Translates the ids of an access control list in its form as an attribute (`system.posix_acl_*`).
///
/// `None` where an id has no counterpart, or where the value is no such list.
pub(crate) fn translate_acl(
    value: &[u8],
    user: impl Fn(u32) -> Option<u32>,
    group: impl Fn(u32) -> Option<u32>,
) -> Option<Vec<u8>> {
    let (header, entries) = value.split_at_checked(ACL_HEADER)?;
    let mut translated = header.to_vec();
    if entries.len() % ACL_ENTRY != 0 {
        return None;
    }
    for entry in entries.chunks_exact(ACL_ENTRY) {
        let tag = u16::from_le_bytes([entry[0], entry[1]]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let id = match tag {
            ACL_USER => user(id)?,
            ACL_GROUP => group(id)?,
            _ => id,
        };
        translated.extend_from_slice(&entry[..4]);
        translated.extend_from_slice(&id.to_le_bytes());
    }
    Some(translated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_read_as_callers_write_them() {
        for (case, text, disk, shown) in [
            ("plain", "0:100000:65536", 5, 100_005),
            ("containers/storage's colon", ":0:100000:65536", 0, 100_000),
            ("several ranges, the first", "0:1000:1:1:110000:65536", 0, 1000),
            ("several ranges, the second", "0:1000:1:1:110000:65536", 7, 110_006),
            ("keep-id", ":0:1:1001:1001:0:1:1002:1002:64535", 1001, 0),
            ("the last of a range", "10:20:3", 12, 22),
        ] {
            let rule = IdRule::Map(IdMap::parse(text).expect(case));
            assert_eq!(rule.shown(disk), shown, "{case}");
            assert_eq!(rule.stored(shown), Some(disk), "{case}");
        }
    }

    #[test]
    fn ids_outside_every_range_are_the_overflow_id_or_mapped_already() {
        let rule = IdRule::Map(IdMap::parse("10:20:3").expect("valid"));
        for disk in [0, 9, 13, 23] {
            assert_eq!(rule.shown(disk), OVERFLOW, "{disk}");
        }
        for disk in [20, 22] {
            assert_eq!(rule.shown(disk), disk, "{disk}");
        }
        for shown in [0, 10, 19, 23] {
            assert_eq!(rule.stored(shown), None, "{shown}");
        }
    }

    #[test]
    fn bad_maps_are_refused() {
        for (case, text, want) in [
            ("nothing", "", IdMapError::Shape),
            ("two numbers", "0:1", IdMapError::Shape),
            ("four numbers", "0:1:2:3", IdMapError::Shape),
            ("a word", "0:x:1", IdMapError::Shape),
            ("a hole", "0::1", IdMapError::Shape),
            ("negative", "-1:0:1", IdMapError::Shape),
            ("no length", "0:0:0", IdMapError::Number),
            ("beyond 32 bits", "0:4294967296:1", IdMapError::Number),
            ("leaves the ids", "4294967295:0:1", IdMapError::Number),
            ("shown ids leave the ids", "0:4294967290:6", IdMapError::Number),
        ] {
            assert_eq!(IdMap::parse(text), Err(want), "{case}");
        }
    }

    #[test]
    fn squashing_shows_one_id_and_stores_it() {
        let rule = IdRule::Squash(1000);
        assert_eq!((rule.shown(0), rule.shown(7), rule.stored(5)), (1000, 1000, Some(1000)));
    }

    #[test]
    fn acl_ids_are_translated_and_others_kept() {
        let acl = |entries: &[(u16, u32)]| {
            let mut value = 2_u32.to_le_bytes().to_vec();
            for (tag, id) in entries {
                value.extend_from_slice(&tag.to_le_bytes());
                value.extend_from_slice(&6_u16.to_le_bytes());
                value.extend_from_slice(&id.to_le_bytes());
            }
            value
        };
        let before = acl(&[(0x01, u32::MAX), (ACL_USER, 5), (ACL_GROUP, 6), (0x20, u32::MAX)]);
        let after = acl(&[(0x01, u32::MAX), (ACL_USER, 105), (ACL_GROUP, 206), (0x20, u32::MAX)]);
        let user = |id: u32| id.checked_add(100);
        let group = |id: u32| id.checked_add(200);
        assert_eq!(translate_acl(&before, user, group), Some(after));
        assert_eq!(translate_acl(&before, |_| None, group), None, "no counterpart");
        assert_eq!(translate_acl(&before[..7], user, group), None, "cut short");
    }
}
