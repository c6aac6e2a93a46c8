//! Which nodes a task goes to. Pure.

/// A set of nodes by their index, in one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeSet(pub(crate) u64);

impl NodeSet {
    /// Nobody.
    pub(crate) const EMPTY: Self = Self(0);

    /// One node.
    pub(crate) fn one(index: usize) -> Self {
        Self(1 << index)
    }

    /// How many.
    pub(crate) fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Both.
    #[must_use]
    pub(crate) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Without these.
    #[must_use]
    pub(crate) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The indices, lowest first.
    pub(crate) fn iter(self) -> impl Iterator<Item = usize> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            (rest != 0).then(|| {
                let index = rest.trailing_zeros() as usize;
                rest &= rest - 1;
                index
            })
        })
    }
}

/// At most `want` of the candidates. Which of them, `random` decides: a number below its argument. Each candidate is as likely as
/// the others, so that the load of a node that is away spreads over all of them.
pub(crate) fn choose(
    candidates: NodeSet,
    want: usize,
    mut random: impl FnMut(usize) -> usize,
) -> NodeSet {
    let mut chosen = candidates;
    while chosen.len() > want {
        let drop = random(chosen.len());
        let Some(index) = chosen.iter().nth(drop) else {
            // Only a number out of range comes here.
            break;
        };
        chosen = chosen.without(NodeSet::one(index));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_candidates_are_chosen_and_as_many_as_asked(candidates: u64, want in 0..70_usize, seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let candidates = NodeSet(candidates);
            let chosen = choose(candidates, want, |n| random.usize(..n));
            prop_assert!(chosen.without(candidates).is_empty());
            prop_assert_eq!(chosen.len(), want.min(candidates.len()));
        }
    }

    #[test]
    fn every_node_gets_its_share() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut shares = [0; 5];
        for _ in 0..5000 {
            for index in choose(NodeSet(0b11111), 3, |n| random.usize(..n)).iter() {
                shares[index] += 1;
            }
        }
        // 3000 each, with a deviation of about 35.
        assert!(
            shares.iter().all(|n| (2700..3300).contains(n)),
            "{shares:?}"
        );
    }
}
