//! Samples and what is said about them.

/// Samples of one thing, in one unit, in the order in which they were taken.
#[derive(Debug, Default, Clone)]
pub(crate) struct Samples(pub(crate) Vec<f64>);

impl Samples {
    /// The value below which `share` of the samples lie, between two samples
    /// by their distance; NaN without samples.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
        let place = share * last as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        sorted[below] + (sorted[above] - sorted[below]) * place.fract()
    }

    /// The middle one.
    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The smallest.
    pub(crate) fn minimum(&self) -> f64 {
        self.quantile(0.0)
    }

    /// What is in `self` more than in `floor`, round by round: both were taken
    /// in the same rounds, so that noise which lasts longer than a round falls out.
    pub(crate) fn over(&self, floor: &Self) -> Self {
        Self(self.0.iter().zip(&floor.0).map(|(mine, its)| mine - its).collect())
    }

    /// `self` divided by `floor`, round by round, for the same reason.
    pub(crate) fn of(&self, floor: &Self) -> Self {
        Self(self.0.iter().zip(&floor.0).map(|(mine, its)| mine / its).collect())
    }
}

/// The steps of something that was done several times, in their order, and the samples of each.
#[derive(Debug, Default)]
pub(crate) struct Steps(pub(crate) Vec<(String, Samples)>);

impl Steps {
    /// Adds one sample of each step, ms.
    pub(crate) fn push(&mut self, line: Vec<(String, f64)>) {
        for (step, ms) in line {
            match self.0.iter_mut().find(|(name, _)| *name == step) {
                Some((_, samples)) => samples.0.push(ms),
                None => self.0.push((step, Samples(vec![ms]))),
            }
        }
    }

    /// A line for each, under the name of who took them; none where nobody told.
    pub(crate) fn print(&self, name: &str) {
        if self.0.is_empty() {
            return;
        }
        println!("  where the time of {name} goes, medians, ms:");
        for (step, ms) in &self.0 {
            println!("    {step:<20}{:>8.3}", ms.median());
        }
    }
}

/// One goal beside what was seen.
pub(crate) fn goal(met: bool, words: &str) -> String {
    format!("  {} {words}", if met { "met   " } else { "missed" })
}

/// An order of `count` contestants that differs from round to round, so that
/// nobody always runs in another's wake. The same in every run (xorshift).
pub(crate) fn shuffled(count: usize, round: usize) -> Vec<usize> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(round as u64 + 1);
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(last, (state % (last as u64 + 1)) as usize);
    }
    order
}
