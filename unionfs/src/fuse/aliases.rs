//! Further node numbers of one file.
//!
//! The kernel binds an inode to one backing file for as long as anybody has it open by that file
//! (`fs/fuse/iomode.c`). Where the file's content has gone to another one meanwhile, who opens it now is given a new
//! node number, and with it an inode that is bound to nothing: OPEN of the old number is answered with `ESTALE`, upon
//! which the kernel walks the path once more and asks for its names (`do_filp_open` in `fs/namei.c`), and LOOKUP tells
//! the new number. What `stat` shows, `st_ino` too, is the file's, by whichever number.
//!
//! While a file has a further number, the kernel may know it by two, of which each would remember attributes of its
//! own; so they are valid for no time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::RwLock;

use crate::types::Ino;

/// The numbers that are not the file's own. Nothing is locked while there are none, which is nearly always.
#[derive(Debug)]
pub(crate) struct Aliases {
    count: AtomicUsize,
    /// The next one. Identities of files never come near the top (they would have to be hashed there).
    next: AtomicU64,
    table: RwLock<Table>,
}

#[derive(Debug, Default)]
struct Table {
    aliases: HashMap<Ino, Alias>,
    files: HashMap<Ino, Renumbered>,
}

#[derive(Debug)]
struct Alias {
    file: Ino,
    /// How often the kernel was told of it, less what it has given back.
    told: u64,
}

/// A file that has a number besides its own.
#[derive(Debug)]
struct Renumbered {
    /// The one that the kernel is told from now on. It stays, told or not, while an older one is open: between two
    /// lookups of one walk the kernel gives it back (`fuse_dentry_revalidate` in `fs/fuse/dir.c`).
    current: Ino,
    /// Older ones, its own among them, that are still open.
    open: u32,
}

impl Aliases {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self { count: AtomicUsize::new(0), next: AtomicU64::new(u64::MAX), table: RwLock::default() }
    }

    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    fn change<T>(&self, act: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.table.write();
        let done = act(&mut table);
        self.count.store(table.aliases.len(), Ordering::Release);
        done
    }

    /// The file that the kernel means by a number.
    pub(crate) fn file(&self, number: Ino) -> Ino {
        if self.is_empty() { number } else { self.table.read().file(number) }
    }

    /// The number by which the kernel is told of a file now; one more reference to it.
    pub(crate) fn tell(&self, file: Ino) -> Ino {
        if self.is_empty() {
            return file;
        }
        self.change(|table| {
            let Some(&Renumbered { current, .. }) = table.files.get(&file) else { return file };
            table.aliases.entry(current).and_modify(|alias| alias.told += 1);
            current
        })
    }

    /// Takes references back, and says whose they were.
    pub(crate) fn forget(&self, number: Ino, count: u64) -> Ino {
        if self.is_empty() {
            return number;
        }
        self.change(|table| {
            let Some(alias) = table.aliases.get_mut(&number) else { return number };
            let file = alias.file;
            alias.told = alias.told.saturating_sub(count);
            if alias.told == 0 && table.files.get(&file).is_none_or(|file| file.current != number) {
                table.aliases.remove(&number);
            }
            table.tidy(file);
            file
        })
    }

    /// Whether a file has a number besides its own.
    pub(crate) fn has(&self, file: Ino) -> bool {
        !self.is_empty() && self.table.read().aliases.values().any(|alias| alias.file == file)
    }

    /// Whether the kernel is to know the file by another number than this one.
    pub(crate) fn is_outdated(&self, number: Ino) -> bool {
        !self.is_empty() && self.table.read().is_outdated(number)
    }

    /// Gives a file that is open by `number` a new one, unless somebody else just did.
    pub(crate) fn renew(&self, number: Ino) {
        self.change(|table| {
            if table.is_outdated(number) {
                return;
            }
            let Some(current) = Ino::new(self.next.fetch_sub(1, Ordering::Relaxed)) else { return };
            let file = table.file(number);
            table.aliases.insert(current, Alias { file, told: 0 });
            let renumbered = table.files.entry(file).or_insert(Renumbered { current, open: 0 });
            renumbered.current = current;
            renumbered.open += 1;
        });
    }

    /// A file is not open any more by `number`.
    pub(crate) fn closed(&self, number: Ino) {
        if self.is_empty() {
            return;
        }
        self.change(|table| {
            let file = table.file(number);
            if table.is_outdated(number)
                && let Some(renumbered) = table.files.get_mut(&file)
            {
                renumbered.open = renumbered.open.saturating_sub(1);
            }
            table.tidy(file);
        });
    }

    /// All numbers by which the kernel may know a file.
    pub(crate) fn numbers(&self, file: Ino) -> Vec<Ino> {
        let mut numbers = vec![file];
        if !self.is_empty() {
            let table = self.table.read();
            numbers.extend(table.aliases.iter().filter(|(_, alias)| alias.file == file).map(|(&n, _)| n));
        }
        numbers
    }
}

impl Table {
    fn file(&self, number: Ino) -> Ino {
        self.aliases.get(&number).map_or(number, |alias| alias.file)
    }

    fn is_outdated(&self, number: Ino) -> bool {
        let current = |file: &Ino| self.files.get(file).map(|file| file.current);
        match self.aliases.get(&number) {
            Some(alias) => current(&alias.file) != Some(number),
            None => current(&number).is_some(),
        }
    }

    /// Drops the current number of a file if nobody knows it and its own is as good.
    fn tidy(&mut self, file: Ino) {
        let Some(&Renumbered { current, open: 0 }) = self.files.get(&file) else { return };
        if self.aliases.get(&current).is_none_or(|alias| alias.told == 0) {
            self.aliases.remove(&current);
            self.files.remove(&file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ino(raw: u64) -> Ino {
        Ino::new(raw).unwrap()
    }

    #[test]
    fn a_file_is_known_by_its_own_number_until_it_is_renewed() {
        let (aliases, file) = (Aliases::new(), ino(7));
        assert_eq!((aliases.tell(file), aliases.file(file)), (file, file));
        assert!(!aliases.has(file) && !aliases.is_outdated(file));
        aliases.renew(file);
        let second = aliases.tell(file);
        assert_ne!(second, file);
        assert_eq!(aliases.file(second), file);
        assert!(aliases.has(file) && aliases.is_outdated(file) && !aliases.is_outdated(second));
        // Who meant the old number came too late.
        aliases.renew(file);
        assert_eq!(aliases.tell(file), second);
        aliases.renew(second);
        let third = aliases.tell(file);
        assert!(![file, second].contains(&third) && aliases.is_outdated(second));
        assert_eq!(aliases.numbers(file).len(), 3);
    }

    #[test]
    fn a_number_goes_with_its_last_reference_and_the_last_use_of_older_ones() {
        for closed_first in [true, false] {
            let (aliases, file) = (Aliases::new(), ino(7));
            aliases.renew(file);
            let number = aliases.tell(file);
            assert_eq!(aliases.tell(file), number);
            assert_eq!(aliases.forget(file, 1), file);
            if closed_first {
                aliases.closed(file);
            }
            assert_eq!((aliases.forget(number, 1), aliases.tell(file)), (file, number));
            assert_eq!(aliases.forget(number, 2), file);
            if !closed_first {
                assert_eq!((aliases.tell(file), aliases.forget(number, 1)), (number, file));
                aliases.closed(file);
            }
            assert!(aliases.is_empty() && !aliases.has(file) && !aliases.is_outdated(file));
            assert_eq!((aliases.tell(file), aliases.numbers(file)), (file, vec![file]));
        }
    }

    #[test]
    fn an_older_number_stays_outdated_when_the_last_is_gone() {
        let (aliases, file) = (Aliases::new(), ino(7));
        aliases.renew(file);
        let second = aliases.tell(file);
        aliases.renew(second);
        let third = aliases.tell(file);
        aliases.closed(file);
        aliases.closed(second);
        assert_eq!(aliases.forget(third, 1), file);
        assert!(aliases.is_outdated(second) && !aliases.is_outdated(file) && aliases.has(file));
        assert_eq!(aliases.forget(second, 1), file);
        assert!(aliases.is_empty());
    }
}
