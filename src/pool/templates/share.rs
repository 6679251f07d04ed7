//! Who has templates when the memory for all of them is not enough for everybody: pure.

use std::time::Instant;

/// What one of a class takes of the memory until one has been looked at, bytes: php-fpm with
/// Debian's extensions takes about 22 MiB.
pub(super) const GUESS: u64 = 24 << 20;

/// What counts of a class when the memory is shared out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim {
    /// When one of its pools last asked for one.
    pub(super) asked: Instant,
    /// How many it is to have.
    pub(super) wanted: usize,
    /// What one takes, bytes; `None`: nobody has looked yet.
    pub(super) each: Option<u64>,
}

/// How many each of `claims` may have within `most` bytes: one for each class, the one that was
/// asked for most recently first, then a second one, and so on.
pub(super) fn share(claims: &[Claim], most: u64) -> Vec<usize> {
    let mut given = vec![0; claims.len()];
    let mut order: Vec<usize> = (0..claims.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(claims[index].asked));
    let mut left = most;
    let rounds = claims.iter().map(|claim| claim.wanted).max().unwrap_or(0);
    for round in 0..rounds {
        for &index in &order {
            let claim = &claims[index];
            if claim.wanted <= round {
                continue;
            }
            if let Some(rest) = left.checked_sub(claim.each.unwrap_or(GUESS)) {
                left = rest;
                given[index] += 1;
            }
        }
    }
    given
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn claims(all: &[(u64, usize, u64)]) -> Vec<Claim> {
        let start = Instant::now();
        let claim = |&(age, wanted, each): &(u64, usize, u64)| Claim {
            asked: start + Duration::from_secs(1000 - age),
            wanted,
            each: Some(each),
        };
        all.iter().map(claim).collect()
    }

    #[test]
    fn everybody_has_one_before_somebody_has_two_and_the_latest_comes_first() {
        let all = claims(&[(30, 2, 10), (10, 2, 10), (20, 2, 10)]);
        assert_eq!(share(&all, 60), [2, 2, 2]);
        assert_eq!(share(&all, 40), [1, 2, 1]);
        assert_eq!(share(&all, 25), [0, 1, 1]);
        assert_eq!(share(&all, 9), [0, 0, 0]);
        assert_eq!(share(&claims(&[(1, 0, 10), (2, 1, 10)]), 10), [0, 1]);
        assert_eq!(
            share(&claims(&[(1, 1, 50), (2, 1, 10)]), 40),
            [0, 1],
            "one that is too large is in the way"
        );
        let unknown = Claim { asked: Instant::now(), wanted: 3, each: None };
        assert_eq!(share(&[unknown], 2 * GUESS), [2]);
    }

    proptest! {
        #[test]
        fn never_more_than_there_is_or_than_is_wanted(
            all in prop::collection::vec((0u64..100, 0usize..5, 1u64..50), 0..8),
            most in 0u64..500,
        ) {
            let all = claims(&all);
            let given = share(&all, most);
            let taken: u64 = given.iter().zip(&all).map(|(n, claim)| *n as u64 * claim.each.unwrap()).sum();
            prop_assert!(taken <= most);
            prop_assert!(given.iter().zip(&all).all(|(n, claim)| *n <= claim.wanted));
            // Nobody has one while somebody who was asked for later, and takes no more, has none.
            for (one, n) in all.iter().zip(&given) {
                for (other, m) in all.iter().zip(&given).filter(|(other, _)| other.each <= one.each) {
                    prop_assert!(!(*n > 0 && *m == 0 && other.wanted > 0 && other.asked > one.asked));
                }
            }
        }
    }
}
