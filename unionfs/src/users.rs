//! Who uses a mount: what /proc tells of open files, mappings and directories.

use std::fs;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};

use crate::union::InUse;

/// One use of one inode by one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The process.
    pub pid: u32,
    /// Its name (`/proc/PID/comm`).
    pub comm: String,
    /// `st_ino` of what it uses.
    pub ino: u64,
    /// Whether it may write to it.
    pub writes: bool,
}

/// A mounted filesystem, as `st_dev` tells it apart: major and minor.
pub type Device = (u32, u32);

/// The device of what is mounted at `path`, without asking the filesystem itself (proc_pid_mountinfo(5)).
pub fn device_of_mount(path: &Path) -> Option<Device> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // The last line wins: it lies on top.
    table.lines().rev().find_map(|line| parse_mount(line, path))
}

fn parse_mount(line: &str, path: &Path) -> Option<Device> {
    let mut fields = line.split(' ');
    let device = fields.nth(2)?;
    let point = fields.nth(1)?;
    if unescape(point) != path.to_string_lossy() {
        return None;
    }
    let (major, minor) = device.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `\040` and the like in /proc/PID/mountinfo.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain + rest
}

/// All uses of a mount by processes whose /proc entries may be read; none of them sends the mount a message.
pub fn users(device: Device) -> Vec<User> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.flat_map(|pid: u32| users_of(pid, device)).collect()
}

fn users_of(pid: u32, device: Device) -> Vec<User> {
    let base = format!("/proc/{pid}");
    let comm = fs::read_to_string(format!("{base}/comm")).unwrap_or_default().trim_end().to_owned();
    let user = |ino, writes| User { pid, comm: comm.clone(), ino, writes };
    let mut found = Vec::new();
    for link in ["cwd", "root"] {
        found.extend(inode(CWD, &format!("{base}/{link}"), device).map(|ino| user(ino, false)));
    }
    for entry in fs::read_dir(format!("{base}/fd")).into_iter().flatten().flatten() {
        let Some(fd) = entry.file_name().to_str().map(str::to_owned) else { continue };
        if let Some(ino) = inode(CWD, &format!("{base}/fd/{fd}"), device) {
            let info = fs::read_to_string(format!("{base}/fdinfo/{fd}")).unwrap_or_default();
            found.push(user(ino, opened_to_write(&info)));
        }
    }
    let maps = fs::read_to_string(format!("{base}/maps")).unwrap_or_default();
    found.extend(
        maps.lines().filter_map(|line| parse_map(line, device)).map(|(ino, writes)| user(ino, writes)),
    );
    found
}

/// `st_ino` of what a link of /proc leads to, if it is on the device; from the kernel's memory (`AT_STATX_DONT_SYNC`).
fn inode(dir: impl AsFd, path: &str, device: Device) -> Option<u64> {
    let stat = statx(dir, path, AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT, StatxFlags::INO).ok()?;
    ((stat.stx_dev_major, stat.stx_dev_minor) == device).then_some(stat.stx_ino)
}

/// `flags:` of /proc/PID/fdinfo/N are octal open(2) flags.
fn opened_to_write(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok()).unwrap_or_default();
    flags & 0o3 != 0
}

/// A line of /proc/PID/maps: `ADDR PERMS OFFSET MAJOR:MINOR INODE PATH`, device numbers in hexadecimal.
fn parse_map(line: &str, device: Device) -> Option<(u64, bool)> {
    let mut fields = line.split_ascii_whitespace();
    let perms = fields.nth(1)?;
    let (major, minor) = fields.nth(1)?.split_once(':')?;
    let mapped = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let ino = fields.next()?.parse().ok()?;
    (mapped == device).then_some((ino, perms.as_bytes().get(1) == Some(&b'w') && perms.ends_with('s')))
}

/// The same as sets of inodes.
pub fn in_use(users: &[User]) -> InUse {
    InUse {
        open: users.iter().map(|user| user.ino).collect(),
        writing: users.iter().filter(|user| user.writes).map(|user| user.ino).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_lines_are_read() {
        let line = r"36 35 0:47 / /mnt/a\040b rw,noatime shared:1 - fuse.unionfs A=rw rw";
        assert_eq!(parse_mount(line, Path::new("/mnt/a b")), Some((0, 47)));
        assert_eq!(parse_mount(line, Path::new("/mnt/a")), None);
        let map = "7f12-7f13 rw-s 00000000 00:2f 10035531                   /mnt/a b/f";
        assert_eq!(parse_map(map, (0, 47)), Some((10_035_531, true)));
        assert_eq!(parse_map("7f12-7f13 r-xp 00000000 00:2f 7 /x", (0, 47)), Some((7, false)));
        assert_eq!(parse_map("7f12-7f13 r-xp 00000000 08:01 7 /x", (0, 47)), None);
        assert!(opened_to_write("pos:\t0\nflags:\t0100002\n"));
        assert!(!opened_to_write("pos:\t0\nflags:\t0100000\n"));
    }

    #[test]
    fn own_files_are_found() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let file = fs::File::create(dir.path().join("f")).expect("file");
        let stat = statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::INO).expect("statx");
        let me = std::process::id();
        let found = users((stat.stx_dev_major, stat.stx_dev_minor));
        assert!(found.iter().any(|user| user.pid == me && user.ino == stat.stx_ino && user.writes));
    }
}
