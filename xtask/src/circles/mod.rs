//! No circle of files: of two files one at most uses names of the other, be it by way of others.
//!
//! Each layer uses only those below it, and so do the files of one. A circle means that something stands in the wrong
//! file: then a type or a function moves to the file that both can use.
//!
//! This is a test of the whole workspace. [`target`] reads the files of each library, program, test and benchmark;
//! [`names`] finds the file that defines a name; [`graph`] finds circles among the files. What stands under
//! `#[cfg(test)]` does not count, nor does a module that only names its children's items anew (`pub use`).

mod graph;
mod names;
mod target;

use std::collections::BTreeSet;
use std::path::Path;

use graph::Circle;
use target::Target;

use crate::child::workspace;
use crate::packaged;

/// The circles among the files of a target, given its first file.
fn circles(first: &Path) -> Vec<Circle> {
    names::uses(&Target::read(first)).circles()
}

#[test]
fn the_workspace_has_no_circle() {
    let metadata = packaged::metadata().unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let targets: BTreeSet<_> = packages
        .flat_map(|package| package["targets"].as_array().unwrap())
        .map(|target| Path::new(target["src_path"].as_str().unwrap()))
        .collect();
    assert!(targets.contains(workspace().join("src/lib.rs").as_path()), "{targets:?}");
    let found: BTreeSet<_> =
        targets.into_iter().flat_map(circles).map(|circle| circle.in_words(workspace())).collect();
    let words: Vec<_> = found.into_iter().collect();
    let fix = "let what both need stand in a file of its own";
    assert!(words.is_empty(), "{fix}:\n{}", words.join("\n"));
}

mod tests {
    use std::fs;

    use super::*;

    /// The circles of a crate of these files, in words.
    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let circles = circles(&directory.path().join("lib.rs"));
        circles.iter().map(|circle| circle.in_words(directory.path())).collect()
    }

    #[test]
    fn a_circle_is_told_by_its_files_and_what_they_use() {
        let files = [
            ("lib.rs", "mod address; mod error; mod user;"),
            ("address.rs", "use crate::error::Error; pub struct Address;"),
            ("error.rs", "pub enum Error { At(super::address::Address) }"),
            ("user.rs", "use crate::address::Address;"),
        ];
        let told = "address.rs uses Error of error.rs, which uses Address of address.rs";
        assert_eq!(found(&files), [told]);
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "use crate::c::C; pub struct B;"),
            ("c.rs", "use crate::{a::A, b::B}; pub struct C;"),
        ];
        let told = "b.rs uses C of c.rs, which uses B of b.rs; \
                    in circles with them: a.rs";
        assert_eq!(found(&files), [told]);
    }

    #[test]
    fn a_module_that_names_its_childrens_items_anew_uses_none_of_them() {
        let files = [
            ("lib.rs", "pub mod m; pub use m::{one::One, Two};"),
            (
                "m/mod.rs",
                "pub mod one; mod two; pub use one::One; pub use two::*; pub fn three() {}",
            ),
            ("m/one.rs", "use super::{Two, three}; use crate::One as Same; pub struct One;"),
            ("m/two.rs", "pub struct Two;"),
        ];
        assert_eq!(found(&files), [""; 0]);
        let other = "mod one; pub use std::fmt::Debug; pub fn f(_: one::One) {}";
        let one = "use super::Debug; pub struct One;";
        assert_eq!(found(&[("lib.rs", "mod m;"), ("m/mod.rs", other), ("m/one.rs", one)]), [""; 0]);
        // By that way too, a name is its own file's.
        let back = ("m/two.rs", "use crate::One; pub struct Two;");
        let told = "m/one.rs uses Two of m/two.rs, which uses One of m/one.rs";
        assert_eq!(found(&[files[0], files[1], files[2], back]), [told]);
    }

    #[test]
    fn names_are_followed_to_the_file_that_defines_them() {
        let files = [
            ("lib.rs", "pub mod m; mod deep;"),
            ("deep.rs", "use crate::m::One; pub struct Deep;"),
            ("m/mod.rs", "mod one; mod two; pub use one::One; pub use two::*;"),
            ("m/one.rs", "use super::Deep; pub struct One;"),
            ("m/two.rs", "pub use crate::deep::Deep;"),
        ];
        let told = "deep.rs uses One of m/one.rs, which uses Deep of deep.rs";
        assert_eq!(found(&files), [told]);
    }

    #[test]
    fn a_module_that_uses_what_it_names_anew_is_like_any_other() {
        let module = "mod one; pub use one::One; pub struct Two(One);";
        let child = "use super::Two; pub struct One;";
        let files = [("lib.rs", "mod m;"), ("m/mod.rs", module), ("m/one.rs", child)];
        assert_eq!(found(&files), ["m/mod.rs uses One of m/one.rs, which uses Two of m/mod.rs"]);
    }

    #[test]
    fn uses_are_found_wherever_they_stand() {
        for uses in [
            "use crate::b::B;",
            "use super::{b::{self, B}};",
            "use super::b::*;",
            "use crate::b as other; fn f() { other::g() }",
            "use crate::b; fn f() -> Option<b::B> { None }",
            "fn f() { use crate::b::B; }",
            "fn f() { println!(\"{}\", [super::b::g()][0]) }",
            "macro_rules! m { () => { crate::b::g() } }",
            "#[derive(Debug)] #[error(\"{}\", crate::b::g())] struct S;",
            "impl super::b::T for u8 {}",
            "mod inner { fn f() { super::super::b::g() } }",
            "mod inner { pub use super::super::b::B; } use inner::B as C;",
        ] {
            let a = format!("{uses} pub struct A;");
            let b = "use crate::a::A; pub struct B; pub trait T {} pub fn g() {}";
            let circles = found(&[("lib.rs", "mod a; mod b;"), ("a.rs", &a), ("b.rs", b)]);
            assert_eq!(circles.len(), 1, "{uses}: {circles:?}");
            assert!(
                circles[0].starts_with("a.rs uses ") && circles[0].contains(" of b.rs"),
                "{circles:?}"
            );
        }
    }

    #[test]
    fn tests_comments_texts_and_visibilities_use_nothing() {
        for harmless in [
            "#[cfg(test)] mod tests { use crate::b::B; }",
            "#[cfg(all(test, unix))] mod tests { use crate::b::B; }",
            "#[cfg(test)] use crate::b::B;",
            "impl A { #[cfg(test)] fn f() { crate::b::g() } }",
            "/// [`B`](crate::b::B)\nfn f() {}",
            "fn f() -> &'static str { \"crate::b::B\" }",
            "pub(in crate::b) fn f() {}",
            "use crate::b;",
            "use b::B; mod b { pub struct B; }",
        ] {
            let a = format!("{harmless} pub struct A;");
            let b = "use crate::a::A; pub struct B; pub fn g() {}";
            assert_eq!(
                found(&[("lib.rs", "mod a; mod b;"), ("a.rs", &a), ("b.rs", b)]),
                [""; 0],
                "{harmless}"
            );
        }
    }

    #[test]
    fn files_are_found_where_the_compiler_finds_them() {
        let b = "use crate::deep::a::A; pub struct B;";
        let a = "use crate::b::B; pub struct A;";
        let files =
            [("lib.rs", "mod deep; #[path = \"other/name.rs\"] mod b;"), ("deep.rs", "pub mod a;")];
        let [first, second] = files;
        let told = "deep/a.rs uses B of other/name.rs, which uses A of deep/a.rs";
        assert_eq!(found(&[first, second, ("deep/a.rs", a), ("other/name.rs", b)]), [told]);
    }
}
