//! Which writable branch a new object, or a copy, goes to: aufs's and mergerfs's policies, as pure functions.
//!
//! | word | a new object goes to, of the writable branches that may take it |
//! |---|---|
//! | `tdp` | the highest that has the parent directory, else the highest ("top-down-parent", aufs(5)) |
//! | `ff` | the highest ("first found", mergerfs) |
//! | `rr` | each in turn ("round robin") |
//! | `mfs[:SEC]` | the one with most free space, looked at every SEC seconds |
//! | `pmfs[:SEC]` | of those that have the parent directory, the one with most free space |
//! | `lfs` | the one with least free space that is still enough |
//! | `rand` | any |
//!
//! Branches with less than the minimum free space (`minfreespace=`) are left out as long as another is left.

use std::str::FromStr;
use std::time::Duration;

use crate::types::BranchIndex;

/// How the branch of a new object is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CreatePolicy {
    /// `tdp`: the highest branch that has the parent directory.
    #[default]
    TopDownParent,
    /// `ff`: the highest branch.
    FirstFound,
    /// `rr`: each in turn.
    RoundRobin,
    /// `mfs[:SEC]`: most free space, looked at again after a time.
    MostFree(Duration),
    /// `pmfs[:SEC]`: most free space among those that have the parent directory.
    ParentMostFree(Duration),
    /// `lfs`: least free space.
    LeastFree,
    /// `rand`: any.
    Random,
}

/// How the branch of a copy is chosen, above the branch of the original.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CopyupPolicy {
    /// `tdp`: the highest branch that has the parent directory.
    #[default]
    TopDownParent,
    /// `bup`: the nearest branch above that has the parent directory.
    BottomUpParent,
    /// `bu`: the nearest branch above.
    BottomUp,
}

/// A word that is no policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown policy {0:?}: use {1}")]
pub struct UnknownPolicy(String, &'static str);

/// How long aufs believes what it found out about free space ("mfs", aufs(5)).
const DEFAULT_SAMPLING: Duration = Duration::from_secs(30);

impl FromStr for CreatePolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        let unknown = || UnknownPolicy(text.to_owned(), "tdp, ff, rr, mfs[:SEC], pmfs[:SEC], lfs or rand");
        let (word, sampling) = match text.split_once(':') {
            Some((word, secs)) => (word, Some(Duration::from_secs(secs.parse().map_err(|_| unknown())?))),
            None => (text, None),
        };
        match (word, sampling) {
            ("tdp", None) => Ok(Self::TopDownParent),
            ("ff", None) => Ok(Self::FirstFound),
            ("rr", None) => Ok(Self::RoundRobin),
            ("mfs", sampling) => Ok(Self::MostFree(sampling.unwrap_or(DEFAULT_SAMPLING))),
            ("pmfs", sampling) => Ok(Self::ParentMostFree(sampling.unwrap_or(DEFAULT_SAMPLING))),
            ("lfs", None) => Ok(Self::LeastFree),
            ("rand", None) => Ok(Self::Random),
            _ => Err(unknown()),
        }
    }
}

impl FromStr for CopyupPolicy {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        match text {
            "tdp" => Ok(Self::TopDownParent),
            "bup" => Ok(Self::BottomUpParent),
            "bu" => Ok(Self::BottomUp),
            _ => Err(UnknownPolicy(text.to_owned(), "tdp, bup or bu")),
        }
    }
}

/// A writable branch that may take an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub branch: BranchIndex,
    /// Bytes free for users.
    pub free: u64,
    /// It has the parent directory.
    pub parent: bool,
}

impl CreatePolicy {
    /// How long knowledge of free space is good; nothing if the policy does not ask for it.
    pub(crate) const fn sampling(self) -> Option<Duration> {
        match self {
            Self::MostFree(sampling) | Self::ParentMostFree(sampling) => Some(sampling),
            Self::LeastFree => Some(Duration::ZERO),
            _ => None,
        }
    }

    /// Chooses among the candidates, highest branch first. `turn` counts the choices made so far, `random` is one
    /// number drawn at random.
    pub fn choose(
        self,
        candidates: &[Candidate],
        min_free: u64,
        turn: usize,
        random: usize,
    ) -> Option<BranchIndex> {
        let roomy: Vec<_> = candidates.iter().copied().filter(|one| one.free >= min_free).collect();
        let all = if roomy.is_empty() { candidates } else { &roomy };
        let with_parent: Vec<_> = all.iter().copied().filter(|one| one.parent).collect();
        let of_parent = if with_parent.is_empty() { all } else { &with_parent };
        // Of equals the higher branch wins.
        let most = |of: &[Candidate]| of.iter().rev().max_by_key(|one| one.free).copied();
        let nth = |at: usize| if all.is_empty() { None } else { all.get(at % all.len()).copied() };
        let chosen = match self {
            Self::TopDownParent => of_parent.first().copied(),
            Self::FirstFound => all.first().copied(),
            Self::RoundRobin => nth(turn),
            Self::MostFree(_) => most(all),
            Self::ParentMostFree(_) => most(of_parent),
            Self::LeastFree => all.iter().min_by_key(|one| one.free).copied(),
            Self::Random => nth(random),
        };
        chosen.map(|one| one.branch)
    }
}

impl CopyupPolicy {
    /// Chooses among the writable branches above the original, highest first.
    pub fn choose(self, candidates: &[Candidate]) -> Option<BranchIndex> {
        let chosen = match self {
            Self::TopDownParent => candidates.iter().find(|one| one.parent).or_else(|| candidates.first()),
            Self::BottomUpParent => {
                candidates.iter().rev().find(|one| one.parent).or_else(|| candidates.last())
            }
            Self::BottomUp => candidates.last(),
        };
        chosen.map(|one| one.branch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(facts: &[(u64, bool)]) -> Vec<Candidate> {
        let one = |(at, &(free, parent)): (usize, &(u64, bool))| Candidate {
            branch: BranchIndex::new(u16::try_from(at).expect("few")),
            free,
            parent,
        };
        facts.iter().enumerate().map(one).collect()
    }

    #[test]
    fn create_policies_choose_as_aufs_and_mergerfs_do() {
        let facts = candidates(&[(10, false), (30, true), (20, true)]);
        for (case, word, min_free, turn, want) in [
            ("tdp: highest with the parent", "tdp", 0, 0, 1),
            ("ff: highest", "ff", 0, 0, 0),
            ("ff: highest with room", "ff", 15, 0, 1),
            ("nobody has room: all count", "ff", 99, 0, 0),
            ("rr: first turn", "rr", 0, 0, 0),
            ("rr: fifth turn", "rr", 0, 4, 1),
            ("mfs", "mfs", 0, 0, 1),
            ("pmfs", "pmfs:5", 0, 0, 1),
            ("lfs", "lfs", 0, 0, 0),
            ("lfs with room", "lfs", 15, 0, 2),
            ("rand takes what was drawn", "rand", 0, 0, 2),
        ] {
            let policy: CreatePolicy = word.parse().expect(case);
            let chosen = policy.choose(&facts, min_free, turn, 2).expect(case);
            assert_eq!(chosen.get(), want, "{case}");
        }
        assert_eq!(CreatePolicy::RoundRobin.choose(&[], 0, 0, 0), None);
    }

    #[test]
    fn copyup_policies_choose_as_aufs_does() {
        for (case, word, facts, want) in [
            ("tdp", "tdp", &[(0, false), (0, true), (0, true)][..], 1),
            ("bup", "bup", &[(0, true), (0, true), (0, false)], 1),
            ("bu", "bu", &[(0, true), (0, true), (0, false)], 2),
            ("tdp, nobody has the parent", "tdp", &[(0, false), (0, false)], 0),
        ] {
            let policy: CopyupPolicy = word.parse().expect(case);
            assert_eq!(policy.choose(&candidates(facts)).expect(case).get(), want, "{case}");
        }
    }

    #[test]
    fn unknown_policies_are_refused() {
        for word in ["", "mfs:x", "tdp:3", "epmfs"] {
            assert!(word.parse::<CreatePolicy>().is_err(), "{word}");
        }
        assert!("up".parse::<CopyupPolicy>().is_err());
    }
}
