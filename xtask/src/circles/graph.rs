//! Which file uses which, and circles of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// For each file those that it uses, and a name that it uses of each.
#[derive(Default)]
pub struct Graph(BTreeMap<PathBuf, BTreeMap<PathBuf, String>>);

/// Files of which each uses each, be it by way of others.
pub struct Circle {
    /// A shortest way round: each file with the name that it uses of the next.
    way: Vec<(PathBuf, String)>,
    /// Those that are not on it.
    others: Vec<PathBuf>,
}

impl Graph {
    /// One file uses a name of another.
    pub fn add(&mut self, file: &Path, of: &Path, name: &str) {
        if file != of {
            let used = self.0.entry(file.to_owned()).or_default();
            used.entry(of.to_owned()).or_insert_with(|| name.to_owned());
        }
    }

    pub fn circles(&self) -> Vec<Circle> {
        let reached: BTreeMap<_, _> =
            self.0.keys().map(|file| (file, self.reached(file))).collect();
        let mut circles = Vec::new();
        let mut seen = BTreeSet::new();
        for (file, all) in &reached {
            let back = |other: &&PathBuf| reached.get(other).is_some_and(|all| all.contains(file));
            let circle: BTreeSet<_> = all.iter().copied().filter(back).collect();
            if circle.is_empty() || !seen.insert(circle.clone()) {
                continue;
            }
            let ways = circle.iter().filter_map(|file| self.way_round(file));
            let Some(way) = ways.min_by_key(Vec::len) else { continue };
            let is_on = |file: &&PathBuf| way.iter().any(|(on, _)| on == *file);
            let others =
                circle.iter().filter(|file| !is_on(file)).map(|&file| file.clone()).collect();
            circles.push(Circle { way, others });
        }
        circles
    }

    fn used(&self, file: &Path) -> impl Iterator<Item = (&PathBuf, &String)> {
        self.0.get(file).into_iter().flatten()
    }

    /// All that a file uses, be it by way of others.
    fn reached(&self, file: &Path) -> BTreeSet<&PathBuf> {
        let mut reached = BTreeSet::new();
        let mut due: Vec<_> = self.used(file).collect();
        while let Some((next, _)) = due.pop() {
            if reached.insert(next) {
                due.extend(self.used(next));
            }
        }
        reached
    }

    /// A shortest way from a file back to it.
    fn way_round(&self, start: &Path) -> Option<Vec<(PathBuf, String)>> {
        let mut ways = VecDeque::from([vec![start.to_owned()]]);
        let mut seen = BTreeSet::new();
        while let Some(way) = ways.pop_front() {
            for (next, _) in self.used(way.last()?) {
                if next == start {
                    let nexts = way.iter().skip(1).chain([next]);
                    let steps = way
                        .iter()
                        .zip(nexts)
                        .map(|(file, next)| (file.clone(), self.0[file][next].clone()));
                    return Some(steps.collect());
                }
                if seen.insert(next) {
                    let mut longer = way.clone();
                    longer.push(next.clone());
                    ways.push_back(longer);
                }
            }
        }
        None
    }
}

impl Circle {
    /// The circle in words, with the files' names below a directory.
    pub fn in_words(&self, root: &Path) -> String {
        let shown = |file: &Path| file.strip_prefix(root).unwrap_or(file).display().to_string();
        let mut words = shown(&self.way[0].0);
        for (step, (_, name)) in self.way.iter().enumerate() {
            let next = &self.way[(step + 1) % self.way.len()].0;
            let which = if step == 0 { "" } else { ", which" };
            words += &format!("{which} uses {name} of {}", shown(next));
        }
        if !self.others.is_empty() {
            let others: Vec<_> = self.others.iter().map(|file| shown(file)).collect();
            words += &format!("; in circles with them: {}", others.join(", "));
        }
        words
    }
}
