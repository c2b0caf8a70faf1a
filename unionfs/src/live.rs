//! A union whose branches can change while it is served.

use std::path::Path;

use parking_lot::RwLock;

use crate::branch::{BranchSpec, Perm};
use crate::types::Ino;
use crate::union::{InUse, Union};

/// A union behind a gate: requests go through together, a change of the branches goes through alone.
#[derive(Debug)]
pub struct Live(pub(crate) RwLock<Union>);

/// A node that the kernel may have in its caches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The node.
    pub node: Ino,
    /// Whether it is a directory.
    pub dir: bool,
    /// A file that stands for another object since the branches were last changed: its pages are wrong.
    pub changed: bool,
    /// Its directory and name, if it has one.
    pub name: Option<(Ino, Vec<u8>)>,
}

impl Live {
    /// Puts a union behind a gate.
    pub const fn new(union: Union) -> Self {
        Self(RwLock::new(union))
    }

    /// Carries out a change of the branches: `add INDEX SPEC`, `del PATH`, `mod SPEC`.
    ///
    /// # Errors
    ///
    /// One line that says what was wrong and what to do; nothing has changed then.
    pub fn command(&self, words: &[&str], in_use: &InUse) -> Result<(), String> {
        let mut union = self.0.write();
        let done = match words {
            ["add", place, spec] => {
                let place =
                    place.parse().map_err(|_| format!("{place:?} is no place in the list of branches"))?;
                union.add_branch(place, one_spec(spec, Perm::READ_ONLY)?, in_use)
            }
            ["append", spec] => {
                let place = union.branches().count();
                union.add_branch(place, one_spec(spec, Perm::READ_ONLY)?, in_use)
            }
            ["del", path] => union.remove_branch(Path::new(path), in_use),
            ["mod", spec] => {
                let spec = one_spec(spec, Perm::READ_ONLY)?;
                union.change_branch(&spec.path, spec.perm, in_use)
            }
            _ => return Err(format!("unknown command {:?}: use add, append, del or mod", words.join(" "))),
        };
        done.map_err(|error| error.to_string())
    }
}

/// The one branch that a word names; `default` is its permission if it does not say.
fn one_spec(word: &str, default: Perm) -> Result<BranchSpec, String> {
    let specs = BranchSpec::parse_list(word).map_err(|error| error.to_string())?;
    match <[BranchSpec; 1]>::try_from(specs) {
        Ok([spec]) if word.ends_with(&format!("={}", spec.perm)) || word.contains("=r") => Ok(spec),
        Ok([spec]) => Ok(BranchSpec { perm: default, ..spec }),
        Err(_) => Err(format!("{word:?}: name one branch at a time")),
    }
}
