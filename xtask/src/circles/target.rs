//! The files of a library, a program or a test, and what each module in them defines, imports and names.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{
    Attribute, Expr, ImplItemFn, Item, ItemMod, ItemUse, Lit, Macro, Meta, UseTree, Visibility,
};

/// A path of names, `crate::pci::Address`.
pub type Names = Vec<String>;

/// A name that a module has from elsewhere.
pub struct Import {
    pub path: Names,
    /// The name here; `None` for all that is there.
    pub name: Option<String>,
    /// Whether it is for others: `pub use`.
    pub anew: bool,
}

/// A module, in a file of its own or in one with its parent.
pub struct Module {
    pub file: PathBuf,
    pub parent: Option<usize>,
    pub children: BTreeMap<String, usize>,
    pub defined: BTreeSet<String>,
    pub imports: Vec<Import>,
    /// The paths in its code.
    pub paths: BTreeSet<Names>,
}

/// All modules of a target. The first is its root.
#[derive(Default)]
pub struct Target {
    pub modules: Vec<Module>,
}

impl Target {
    /// Reads a target, given its first file.
    pub fn read(first: &Path) -> Self {
        let mut target = Self::default();
        target.read_file(first, first.parent().unwrap(), None);
        target
    }

    /// Adds the module in a file, whose children have their files in a directory.
    fn read_file(&mut self, file: &Path, directory: &Path, parent: Option<usize>) -> usize {
        let text = fs::read_to_string(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let parsed = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        self.add(&parsed.items, file, directory, parent)
    }

    fn add(
        &mut self,
        items: &[Item],
        file: &Path,
        directory: &Path,
        parent: Option<usize>,
    ) -> usize {
        let mut module = Module {
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            defined: items.iter().filter_map(defined).collect(),
            imports: Vec::new(),
            paths: BTreeSet::new(),
        };
        items.iter().for_each(|item| module.visit_item(item));
        let index = self.modules.len();
        self.modules.push(module);
        for item in items {
            if let Item::Mod(child) = item
                && !is_test(&child.attrs)
            {
                let added = self.add_child(child, file, directory, index);
                self.modules[index].children.insert(child.ident.to_string(), added);
            }
        }
        index
    }

    fn add_child(
        &mut self,
        child: &ItemMod,
        file: &Path,
        directory: &Path,
        parent: usize,
    ) -> usize {
        let own = directory.join(child.ident.to_string());
        if let Some((_, items)) = &child.content {
            return self.add(items, file, &own, Some(parent));
        }
        if let Some(path) = child.attrs.iter().find_map(path_attribute) {
            let path = file.parent().unwrap().join(path);
            return self.read_file(&path, path.parent().unwrap(), Some(parent));
        }
        let (beside, inside) = (own.with_extension("rs"), own.join("mod.rs"));
        let file = if beside.exists() { beside } else { inside };
        self.read_file(&file, &own, Some(parent))
    }
}

/// The name that an item gives to something in its module.
fn defined(item: &Item) -> Option<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Macro(item) => item.ident.as_ref()?,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        _ => return None,
    };
    Some(ident.to_string())
}

/// The file in `#[path = "…"]`.
fn path_attribute(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(meta) = &attribute.meta else { return None };
    match &meta.value {
        Expr::Lit(value) if meta.path.is_ident("path") => match &value.lit {
            Lit::Str(path) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

/// Whether something is for tests alone: `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(cfg) => cfg.path.is_ident("cfg") && begins_with_test(cfg.tokens.clone()),
        _ => false,
    })
}

fn begins_with_test(condition: TokenStream) -> bool {
    let mut tokens = condition.into_iter();
    match (tokens.next(), tokens.next()) {
        (Some(TokenTree::Ident(ident)), None) => ident == "test",
        (Some(TokenTree::Ident(all)), Some(TokenTree::Group(group))) if all == "all" => {
            let first = group.stream().into_iter().next();
            matches!(first, Some(TokenTree::Ident(ident)) if ident == "test")
        }
        _ => false,
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

impl Visit<'_> for Module {
    fn visit_item(&mut self, item: &Item) {
        if !is_test(attributes(item)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &ImplItemFn) {
        if !is_test(&function.attrs) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    /// A module by itself.
    fn visit_item_mod(&mut self, _: &ItemMod) {}

    fn visit_visibility(&mut self, _: &Visibility) {}

    fn visit_item_use(&mut self, item: &ItemUse) {
        let anew = !matches!(item.vis, Visibility::Inherited);
        self.import(&mut Vec::new(), &item.tree, anew);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        self.paths.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &Macro) {
        visit::visit_macro(self, call);
        self.tokens(call.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone());
        }
    }
}

impl Module {
    fn import(&mut self, before: &mut Names, tree: &UseTree, anew: bool) {
        let (path, name) = match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(before, &path.tree, anew);
                before.pop();
                return;
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(before, tree, anew));
            }
            UseTree::Glob(_) => (before.clone(), None),
            UseTree::Name(name) => {
                ([&before[..], &[name.ident.to_string()]].concat(), Some(&name.ident))
            }
            UseTree::Rename(new) => {
                ([&before[..], &[new.ident.to_string()]].concat(), Some(&new.rename))
            }
        };
        let (mut path, mut name) = (path, name.map(ToString::to_string));
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
            name = name.filter(|name| name != "self").or_else(|| path.last().cloned());
        }
        self.imports.push(Import { path, name, anew });
    }

    /// The paths among tokens that are no code yet: names with `::` between them.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Names::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.paths.insert(std::mem::take(&mut path));
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(colon) if colon.as_char() == ':' => colons += 1,
                other => {
                    self.paths.insert(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
        }
        self.paths.insert(path);
    }
}
