//! The host's apt sources: which mirror of Debian it uses, and which key it trusts for it.
//!
//! Both forms of `sources.list(5)` are read: one-line `.list` files and deb822 `.sources` files. Only what is needed
//! to write a source for another suite of the same mirror is kept.

use std::fs;
use std::path::{Path, PathBuf};

/// A mirror of Debian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Where the archive is, such as `http://HOST/debian`.
    pub uri: String,
    /// The value of `Signed-By`: a key file, a fingerprint, or a key itself over several lines.
    pub signed_by: Option<String>,
}

impl Mirror {
    /// A deb822 source for one suite of this mirror.
    pub fn source(&self, suite: &str) -> String {
        let Mirror { uri, signed_by } = self;
        let key = signed_by.as_ref().map(|key| format!("Signed-By: {key}\n")).unwrap_or_default();
        format!(
            "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nTargets: Packages\n{key}"
        )
    }
}

/// The mirror of Debian in apt's configuration below `etc` (`/etc/apt` on a running system), if it names one.
pub fn debian_mirror(etc: &Path) -> Option<Mirror> {
    let mut mirrors = Vec::new();
    for file in source_files(etc) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        let deb822 = file.extension().is_some_and(|extension| extension == "sources");
        let sources = if deb822 { deb822_sources(&text) } else { one_line_sources(&text) };
        mirrors.extend(sources.into_iter().filter(Source::is_debian).map(|source| source.mirror));
    }
    // Other vendors name their suites after Debian's too; Debian's own archive lies in `debian` nearly everywhere.
    let own =
        mirrors.iter().position(|mirror| mirror.uri.trim_end_matches('/').ends_with("/debian"));
    (!mirrors.is_empty()).then(|| mirrors.swap_remove(own.unwrap_or(0)))
}

/// `sources.list`, then the files of `sources.list.d` that apt would read, in its order.
fn source_files(etc: &Path) -> Vec<PathBuf> {
    let parts = fs::read_dir(etc.join("sources.list.d")).into_iter().flatten().flatten();
    let mut parts: Vec<_> = parts.map(|entry| entry.path()).collect();
    parts.retain(|path| path.extension().is_some_and(|end| end == "list" || end == "sources"));
    parts.sort();
    [etc.join("sources.list")].into_iter().chain(parts).collect()
}

/// One archive in apt's configuration.
#[derive(Debug, PartialEq, Eq)]
struct Source {
    mirror: Mirror,
    suites: Vec<String>,
    components: Vec<String>,
}

impl Source {
    /// Whether this is a Debian release, by the names of its suites, and not a side archive such as security's.
    fn is_debian(&self) -> bool {
        const SUITES: [&str; 9] = [
            "oldstable",
            "stable",
            "testing",
            "unstable",
            "bullseye",
            "bookworm",
            "trixie",
            "forky",
            "sid",
        ];
        self.components.iter().any(|component| component == "main")
            && self.suites.iter().any(|suite| SUITES.contains(&suite.as_str()))
    }
}

/// `deb [option=value …] URI SUITE COMPONENT…`, one a line.
fn one_line_sources(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line_source).collect()
}

fn one_line_source(line: &str) -> Option<Source> {
    let line = line.split('#').next()?.trim();
    let rest = line.strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?,
        None => ("", rest),
    };
    let signed_by = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
    let mut words = rest.split_whitespace().map(str::to_owned);
    let mirror = Mirror { uri: words.next()?, signed_by: signed_by.map(str::to_owned) };
    Some(Source { mirror, suites: vec![words.next()?], components: words.collect() })
}

/// Stanzas of `Field: value` with continuation lines, divided by empty lines.
fn deb822_sources(text: &str) -> Vec<Source> {
    let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.split(|line| line.trim().is_empty()).filter_map(deb822_source).collect()
}

fn deb822_source(stanza: &[&str]) -> Option<Source> {
    let field = |name: &str| -> Option<String> {
        let mut lines = stanza.iter().skip_while(|line| !is_field(line, name));
        let (_name, first) = lines.next()?.split_once(':')?;
        let more = lines.take_while(|line| line.starts_with([' ', '\t']));
        let value = more.fold(first.trim().to_owned(), |value, line| value + "\n" + line);
        Some(value)
    };
    let words = |name: &str| -> Vec<String> {
        field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    };
    let disabled =
        field("Enabled").is_some_and(|value| ["no", "false", "0"].contains(&value.as_str()));
    if disabled || !words("Types").iter().any(|kind| kind == "deb") {
        return None;
    }
    let mirror = Mirror { uri: words("URIs").into_iter().next()?, signed_by: field("Signed-By") };
    Some(Source { mirror, suites: words("Suites"), components: words("Components") })
}

/// Whether `line` opens the field `name`; deb822 field names have no case.
fn is_field(line: &str, name: &str) -> bool {
    line.split_once(':').is_some_and(|(field, _)| field.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt(files: &[(&str, &str)]) -> tempfile::TempDir {
        let etc = tempfile::tempdir().unwrap();
        fs::create_dir(etc.path().join("sources.list.d")).unwrap();
        for (name, text) in files {
            fs::write(etc.path().join(name), text).unwrap();
        }
        etc
    }

    fn mirror_of(files: &[(&str, &str)]) -> Option<(String, Option<String>)> {
        debian_mirror(apt(files).path()).map(|mirror| (mirror.uri, mirror.signed_by))
    }

    #[test]
    fn one_line_form() {
        let list = "# deb http://commented.example/debian bookworm main\n\
                    deb-src http://source.example/debian bookworm main\n\
                    deb [ arch=amd64 signed-by=/k.gpg ] http://a.example/debian/ bookworm main # why\n";
        let found = mirror_of(&[("sources.list", list)]);
        assert_eq!(found, Some(("http://a.example/debian/".into(), Some("/k.gpg".into()))));
        let plain = mirror_of(&[("sources.list", "deb\thttp://a.example/debian sid main contrib")]);
        assert_eq!(plain, Some(("http://a.example/debian".into(), None)));
    }

    #[test]
    fn deb822_form() {
        let sources = "Types: deb\n# a comment\nURIs: http://a.example/debian-security\n\
                       Suites: bookworm-security\nComponents: main\n\n\
                       Types: deb-src\nURIs: http://b.example/debian\nSuites: bookworm\nComponents: main\n\n\
                       Enabled: no\nTypes: deb\nURIs: http://c.example/debian\nSuites: bookworm\nComponents: main\n\
                       \x20\n\
                       types: deb deb-src\nuris: http://d.example/debian\n  http://e.example/debian\n\
                       suites: bookworm bookworm-updates\ncomponents:\n main\nsigned-by: /usr/k.gpg\n";
        let found = mirror_of(&[("sources.list.d/debian.sources", sources)]);
        assert_eq!(found, Some(("http://d.example/debian".into(), Some("/usr/k.gpg".into()))));
    }

    #[test]
    fn a_key_inside_the_source_is_kept_whole() {
        let key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mDME\n -----END PGP PUBLIC KEY BLOCK-----";
        let stanza = format!(
            "Types: deb\nURIs: http://a.example/debian\nSuites: trixie\nComponents: main\nSigned-By:{key}\n"
        );
        let etc = apt(&[("sources.list.d/d.sources", &stanza)]);
        let mirror = debian_mirror(etc.path()).unwrap();
        assert_eq!(mirror.signed_by.as_deref(), Some(key));
        let again = apt(&[("sources.list.d/d.sources", &mirror.source("trixie"))]);
        assert_eq!(debian_mirror(again.path()), Some(mirror));
    }

    #[test]
    fn debians_own_archive_goes_before_other_vendors() {
        let vendor = "deb https://apt.vendor.example bookworm main\n";
        let own = "deb https://mirror.example/pub/debian bookworm main\n";
        let found = mirror_of(&[("sources.list", vendor), ("sources.list.d/own.list", own)]);
        assert_eq!(found.unwrap().0, "https://mirror.example/pub/debian");
        let only =
            mirror_of(&[("sources.list.d/cloud.list", "deb mirror+file:/m.list trixie main")]);
        assert_eq!(only.unwrap().0, "mirror+file:/m.list");
    }

    #[test]
    fn what_is_not_debian_or_not_read_by_apt_gives_no_mirror() {
        let ubuntu = "deb http://a.example/ubuntu noble main universe\n";
        let docker = "deb [arch=amd64] https://a.example/linux/debian bookworm stable # not main\n";
        let off = "deb http://a.example/debian bookworm main\n";
        let files = [
            ("sources.list", ubuntu),
            ("sources.list.d/docker.list", docker),
            ("sources.list.d/debian.list.disabled", off),
            ("sources.list.d/broken.list", "deb [arch=amd64 http://a.example/debian bookworm main"),
            ("sources.list.d/broken.sources", "Types deb\n:\nURIs:\n"),
        ];
        assert_eq!(mirror_of(&files), None);
        assert_eq!(debian_mirror(Path::new("/nonexistent")), None);
    }
}
