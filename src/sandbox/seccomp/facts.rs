//! What earlier tests have shown about the words of `struct seccomp_data`.

use super::diagram::{Look, Test};

/// What is known on one way through the program.
#[derive(Debug, Clone, Default)]
pub(super) struct Facts(Vec<Word>);

/// What is known of one word.
#[derive(Debug, Clone)]
struct Word {
    offset: u32,
    /// Bits that are known, and what they are.
    mask: u32,
    value: u32,
    /// It is at least and at most this.
    least: u32,
    most: u32,
    /// Tests of it that failed.
    failed: Vec<Test>,
}

impl Facts {
    /// The outcome of `test`, where it is known.
    pub(super) fn decide(&self, test: Test) -> Option<bool> {
        let word = self.0.iter().find(|word| word.offset == test.offset())?;
        if word.failed.contains(&test) {
            return Some(false);
        }
        match test {
            Test::AtLeast(_, bound) if word.least >= bound => Some(true),
            Test::AtLeast(_, bound) if word.most < bound => Some(false),
            Test::AtLeast(..) => None,
            Test::Equal(Look { mask, .. }, value) => {
                let both = mask & word.mask;
                let whole = mask == u32::MAX;
                if word.value & both != value & both || whole && !(word.least..=word.most).contains(&value) {
                    Some(false)
                } else {
                    (both == mask).then_some(true)
                }
            }
        }
    }

    /// These facts, and that `test` has come out like `holds`.
    pub(super) fn and(&self, test: Test, holds: bool) -> Self {
        let mut facts = self.clone();
        let offset = test.offset();
        let at = facts.0.iter().position(|word| word.offset == offset).unwrap_or_else(|| {
            let (least, most) = (0, u32::MAX);
            facts.0.push(Word { offset, mask: 0, value: 0, least, most, failed: Vec::new() });
            facts.0.len() - 1
        });
        let word = &mut facts.0[at];
        match (test, holds) {
            (Test::AtLeast(_, bound), true) => word.least = word.least.max(bound),
            // Nothing is less than 0: such a test does not fail.
            (Test::AtLeast(_, bound), false) => word.most = word.most.min(bound.saturating_sub(1)),
            (Test::Equal(Look { mask, .. }, value), true) => {
                word.mask |= mask;
                word.value = word.value & !mask | value & mask;
                if word.mask == u32::MAX {
                    (word.least, word.most) = (word.value, word.value);
                }
            }
            (Test::Equal(..), false) => word.failed.push(test),
        }
        facts
    }
}

impl Test {
    fn offset(self) -> u32 {
        match self {
            Self::Equal(Look { offset, .. }, _) | Self::AtLeast(offset, _) => offset,
        }
    }
}
