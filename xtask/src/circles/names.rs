//! Which file defines a name.

use super::graph::Graph;
use super::target::{Import, Module, Names, Target};

/// Names lead to names no further than this.
const FURTHEST: usize = 16;

/// What a path leads to.
enum Found {
    Module(usize),
    /// An item of a module, or what belongs to one.
    Item(usize),
}

/// Which file of a target uses names of which others.
pub fn uses(target: &Target) -> Graph {
    let mut graph = Graph::default();
    for (index, module) in target.modules.iter().enumerate() {
        let mut add = |path: &Names, all: bool| {
            let of = match target.find(index, path, FURTHEST) {
                Some(Found::Item(of)) => of,
                Some(Found::Module(of)) if all => of,
                _ => return,
            };
            let name = if all { "all" } else { path.last().map_or("", String::as_str) };
            graph.add(&module.file, &target.modules[of].file, name);
        };
        module.imports.iter().filter(|import| !import.anew).for_each(|import| {
            add(&import.path, import.name.is_none());
        });
        module.paths.iter().for_each(|path| add(path, false));
    }
    graph
}

impl Target {
    /// What a path in a module leads to; `None` for what is another crate's, or a local variable.
    fn find(&self, from: usize, path: &[String], further: usize) -> Option<Found> {
        let (first, rest) = path.split_first()?;
        let module = &self.modules[from];
        let start = match first.as_str() {
            "crate" => 0,
            "self" => from,
            "super" => module.parent?,
            name => match module.children.get(name) {
                Some(&child) => child,
                None => return self.imported(module, from, name, rest, further),
            },
        };
        self.find_below(start, rest, further)
    }

    /// What the path leads to, from a module of which all names are seen.
    fn find_below(&self, start: usize, path: &[String], further: usize) -> Option<Found> {
        let Some((first, rest)) = path.split_first() else { return Some(Found::Module(start)) };
        let module = &self.modules[start];
        if first == "super" {
            return self.find_below(module.parent?, rest, further);
        }
        if let Some(&child) = module.children.get(first) {
            return self.find_below(child, rest, further);
        }
        if module.defined.contains(first) {
            return Some(Found::Item(start));
        }
        let is_imported = module.imports.iter().any(|import| import.name.as_ref() == Some(first));
        match self.imported(module, start, first, rest, further) {
            // A macro has made it.
            None if !is_imported => Some(Found::Item(start)),
            found => found,
        }
    }

    /// What an import of a module leads to.
    fn imported(
        &self,
        module: &Module,
        from: usize,
        name: &str,
        rest: &[String],
        further: usize,
    ) -> Option<Found> {
        let further = further.checked_sub(1)?;
        let named = module.imports.iter().filter(|import| import.name.as_deref() == Some(name));
        for import in named.filter(|import| import.path[..] != [name]) {
            match self.find(from, &import.path, further) {
                Some(Found::Module(there)) => return self.find_below(there, rest, further),
                found @ Some(Found::Item(_)) => return found,
                None => {}
            }
        }
        module.imports.iter().filter(|import| import.name.is_none()).find_map(|import| {
            // What all is imported from is itself imported by name, or not at all.
            let found = self.find(from, &import.path, further.min(1))?;
            let Found::Module(there) = found else { return None };
            let target = &self.modules[there];
            let anew = |import: &Import| import.anew && import.name.as_deref() == Some(name);
            let has = target.defined.contains(name)
                || target.children.contains_key(name)
                || target.imports.iter().any(anew);
            let path = [&[name.to_owned()], rest].concat();
            has.then(|| self.find_below(there, &path, further))?
        })
    }
}
