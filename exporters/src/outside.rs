//! Names and words from outside, as a terminal can bear them.
//!
//! A name of a file, a tensor, a drive or a GPU is whatever somebody wrote there: it may hold an escape sequence that
//! repaints the screen, a character that reverses the text around it, a line end that forges a second message, or five
//! megabytes. **Whatever this program did not write itself goes through [`outside`] where it enters a message**, in an
//! error's text as in a table; [`report`] is the second fence, for a text that is complete.
//!
//! ```
//! use exporters::outside::outside;
//! use std::path::Path;
//!
//! #[derive(Debug, thiserror::Error)]
//! #[error("{}: no tensor is named `{}`", outside(path), outside(name))]
//! struct NoTensor<'a> {
//!     path: &'a Path,
//!     name: String,
//! }
//!
//! let error = NoTensor { path: Path::new("größe/模型.bin"), name: "a\x1b[2J\u{202e}b".into() };
//! assert_eq!(error.to_string(), r"größe/模型.bin: no tensor is named `a\u{1b}[2J\u{202e}b`");
//! ```
//!
//! | in the name | shown as |
//! |---|---|
//! | letters, marks, signs and spaces of any script, emoji, `\` | themselves |
//! | C0, DEL and C1 control characters, line and paragraph separators | `\n`, `\t`, `\r`, `\u{1b}` |
//! | bidirectional controls and all else that is invisible, private or not assigned | `\u{202e}` |
//! | a joiner between two characters beyond ASCII, as Persian and emoji need it | itself |
//! | bytes that are no UTF-8 | `\xff` |
//! | more than [`LIMIT`] characters | its beginning, `…`, its end, and its length in bytes |
//!
//! A `\` stays as it is, so that what went through once is not changed by a second time. Where a name must be told exactly,
//! JSON tells it.

use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter, Write};
use std::os::unix::ffi::OsStrExt;

/// The most characters of one name that are shown; as many as the longest name of a file has bytes.
pub const LIMIT: usize = 255;

/// What stands for the middle of a name that is too long.
const CUT: char = '…';

/// A name or a text from outside, for a message: on one line, harmless, and not longer than [`LIMIT`] characters.
///
/// Takes what a path, a string or a system's string is; for bytes see [`Outside::bytes`].
pub fn outside<T: AsRef<OsStr> + ?Sized>(name: &T) -> Outside<'_> {
    Outside::bytes(name.as_ref().as_bytes())
}

/// What [`outside`] returns: shown by its `Display`.
#[derive(Clone, Copy, Debug)]
pub struct Outside<'a>(&'a [u8]);

impl<'a> Outside<'a> {
    /// A name that is bytes, of which not all need be UTF-8.
    pub fn bytes(name: &'a [u8]) -> Self {
        Self(name)
    }
}

impl Display for Outside<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.plain().map(Into::into).or_else(|| self.whole()) {
            Some(shown) => f.pad(&shown),
            None => f.pad(&self.cut()),
        }
    }
}

impl Outside<'_> {
    /// All of it, if nothing is to be done, as for most names.
    fn plain(&self) -> Option<&str> {
        let is_plain =
            self.0.len() <= LIMIT && self.0.iter().all(|byte| matches!(byte, b' '..=b'~'));
        is_plain.then(|| str::from_utf8(self.0).ok()).flatten()
    }

    /// All of it, if it is short enough.
    fn whole(&self) -> Option<String> {
        const LONGEST_CHARACTER: usize = 4;
        if self.0.len() > LIMIT * LONGEST_CHARACTER {
            return None;
        }
        let mut shown = String::new();
        let mut left = LIMIT;
        for piece in pieces(self.0) {
            left = left.checked_sub(piece.width())?;
            piece.push_to(&mut shown);
        }
        Some(shown)
    }

    /// Its two ends and its length, together at most [`LIMIT`] characters.
    fn cut(&self) -> String {
        let note = format!(" ({} bytes)", self.0.len());
        let half = (LIMIT - CUT.len_utf8() - note.len()) / 2;
        let mut shown = String::new();
        for piece in fitting(pieces(first_bytes(self.0, 4 * half)), half) {
            piece.push_to(&mut shown);
        }
        shown.push(CUT);
        let end: Vec<_> = pieces(last_bytes(self.0, 4 * half)).collect();
        let fits = fitting(end.iter().rev().copied(), half).count();
        for piece in &end[end.len() - fits..] {
            piece.push_to(&mut shown);
        }
        shown + &note
    }
}

/// A complete text of several lines, without the characters that [`outside`] escapes, but for the line ends.
///
/// Its parts went through [`outside`] already; this is for what was forgotten, and for the words of other libraries.
pub fn report(text: &str) -> Report<'_> {
    Report(text)
}

/// What [`report`] returns: shown by its `Display`.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a>(&'a str);

impl Display for Report<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        for (number, line) in self.0.split('\n').enumerate() {
            if number > 0 {
                f.write_char('\n')?;
            }
            let mut shown = String::with_capacity(line.len());
            pieces(line.as_bytes()).for_each(|piece| piece.push_to(&mut shown));
            f.write_str(&shown)?;
        }
        Ok(())
    }
}

/// Whether a terminal shows this character as a sign or a space and does nothing else for it.
///
/// Beside control characters, these are not: what has no shape (formats, fillers, bidirectional controls), private use,
/// and what the standard library's version of Unicode does not know.
pub fn is_harmless(c: char) -> bool {
    match c {
        ' '..='~' => true,
        '\u{2028}' | '\u{2029}' => false,
        // Marks and letters by their category, and invisible all the same.
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' => {
            false
        }
        '\u{3164}' | '\u{ffa0}' => false,
        c if c.is_control() => false,
        c => c.is_whitespace() || is_printable(c),
    }
}

/// What the standard library prints as itself in `{:?}`, behind another character: marks stay on their letters then.
fn is_printable(c: char) -> bool {
    let mut buffer = [b'a'; 5];
    let len = c.encode_utf8(&mut buffer[1..]).len();
    let text = str::from_utf8(&buffer[..=len]).unwrap_or_default();
    text.escape_debug().nth(1) == Some(c)
}

/// One character or byte, as it is shown.
#[derive(Clone, Copy)]
enum Piece {
    Plain(char),
    Escaped(char),
    Byte(u8),
}

impl Piece {
    /// How many characters it is shown by.
    fn width(self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Escaped(c) => c.escape_default().len(),
            Self::Byte(_) => 4,
        }
    }

    fn push_to(self, shown: &mut String) {
        match self {
            Self::Plain(c) => shown.push(c),
            Self::Escaped(c) => shown.extend(c.escape_default()),
            Self::Byte(byte) => shown.push_str(&format!("\\x{byte:02x}")),
        }
    }
}

fn pieces(bytes: &[u8]) -> impl Iterator<Item = Piece> {
    bytes.utf8_chunks().flat_map(|chunk| {
        let invalid = chunk.invalid().iter().map(|&byte| Piece::Byte(byte));
        characters(chunk.valid()).chain(invalid)
    })
}

fn characters(text: &str) -> impl Iterator<Item = Piece> {
    let mut before = None;
    let mut left = text.chars();
    std::iter::from_fn(move || {
        let c = left.next()?;
        let after = left.clone().next();
        let joins = is_joiner(c) && is_joined(before) && is_joined(after);
        before = Some(c);
        Some(if joins || is_harmless(c) { Piece::Plain(c) } else { Piece::Escaped(c) })
    })
}

/// The zero-width joiner and non-joiner, without which Persian, Hindi and many emoji are misspelt.
fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200c}' | '\u{200d}')
}

fn is_joined(neighbour: Option<char>) -> bool {
    neighbour.is_some_and(|c| !c.is_ascii() && is_harmless(c))
}

/// The first of `pieces` that take no more than `width` characters together.
fn fitting(pieces: impl Iterator<Item = Piece>, width: usize) -> impl Iterator<Item = Piece> {
    pieces.scan(width, |left, piece| {
        *left = left.checked_sub(piece.width())?;
        Some(piece)
    })
}

fn first_bytes(bytes: &[u8], most: usize) -> &[u8] {
    &bytes[..bytes.len().min(most)]
}

/// The last `most` bytes, or up to three fewer, so as not to begin within a character.
fn last_bytes(bytes: &[u8], most: usize) -> &[u8] {
    let end = &bytes[bytes.len().saturating_sub(most)..];
    let within = end.iter().take(3).take_while(|byte| **byte & 0xC0 == 0x80).count();
    &end[within..]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::path::Path;

    fn shown(name: &str) -> String {
        outside(name).to_string()
    }

    #[test]
    fn what_people_write_stays_as_it_is() {
        for name in [
            "model.layers.0.weight",
            "Größe, l'été \"x\" \\ / ~",
            "e\u{301}\u{323}",
            "模型　一",
            "モデル",
            "한국어 नमस्ते עברית",
            "می\u{200c}خواهم",
            "👩\u{200d}👩\u{200d}👧 ❤\u{fe0f} 👍🏽",
            "Screenshot at 3.45\u{202f}PM",
            "",
        ] {
            assert_eq!(shown(name), name);
        }
    }

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        for (name, expected) in [
            ("a\x1b]8;;http://x\x1b\\b", r"a\u{1b}]8;;http://x\u{1b}\b"),
            ("\0\x07\x08\x7f", r"\u{0}\u{7}\u{8}\u{7f}"),
            ("a\nb\rc\td", r"a\nb\rc\td"),
            ("\u{9b}31m\u{85}", r"\u{9b}31m\u{85}"),
            ("\u{202a}\u{202e}\u{2066}\u{2069}", r"\u{202a}\u{202e}\u{2066}\u{2069}"),
            ("\u{200e}\u{200f}\u{61c}", r"\u{200e}\u{200f}\u{61c}"),
            ("\u{200b}\u{2060}\u{feff}\u{ad}", r"\u{200b}\u{2060}\u{feff}\u{ad}"),
            ("\u{2028}\u{2029}", r"\u{2028}\u{2029}"),
            ("\u{e0041}\u{3164}\u{e000}", r"\u{e0041}\u{3164}\u{e000}"),
            ("a\u{200d}b", r"a\u{200d}b"),
            ("é\u{200d}", r"é\u{200d}"),
            ("\u{200d}\u{200d}", r"\u{200d}\u{200d}"),
        ] {
            assert_eq!(shown(name), expected);
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_told() {
        let name = OsStr::from_bytes(b"a\xff\xe6\xa8b\xf0\x9f\x98\x80");
        assert_eq!(outside(Path::new(name)).to_string(), r"a\xff\xe6\xa8b😀");
        assert_eq!(Outside::bytes(b"\x9b1m").to_string(), r"\x9b1m");
    }

    #[test]
    fn a_long_name_is_cut_in_its_middle_and_its_length_told() {
        let name = format!("model.{}.weight", "模".repeat(LIMIT));
        let shown = shown(&name);
        assert!(shown.starts_with("model.模模"), "{shown}");
        assert!(shown.ends_with(&format!("模.weight ({} bytes)", name.len())), "{shown}");
        assert_eq!(shown.matches(CUT).count(), 1);
        assert!(!shown.contains("\\x"), "cut between characters: {shown}");
        assert_eq!(super::outside(&"a".repeat(LIMIT)).to_string(), "a".repeat(LIMIT));
    }

    #[test]
    fn escapes_count_by_what_is_shown() {
        let shown = shown(&"\x1b".repeat(5 << 20));
        assert!(shown.len() <= LIMIT, "{}", shown.len());
        assert!(shown.starts_with(r"\u{1b}\u{1b}") && shown.ends_with(" (5242880 bytes)"));
    }

    #[test]
    fn a_width_is_kept() {
        assert_eq!(format!("[{:>6}] [{:6}]", outside("a\n"), outside("b")), r"[   a\n] [b     ]");
    }

    #[test]
    fn a_report_keeps_its_lines() {
        let text = "one  two\nthree\x1b[0m\r\n\nfour";
        assert_eq!(report(text).to_string(), "one  two\nthree\\u{1b}[0m\\r\n\nfour");
        let long = "word ".repeat(LIMIT);
        assert_eq!(report(&long).to_string(), long);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_one_short_harmless_line(
            name in proptest::collection::vec(any::<u8>(), 0..4 * LIMIT),
        ) {
            let shown = Outside::bytes(&name).to_string();
            prop_assert!(shown.chars().all(|c| is_harmless(c) || is_joiner(c)), "{shown:?}");
            prop_assert!(shown.chars().count() <= LIMIT);
            prop_assert_eq!(report(&shown).to_string(), shown.as_str());
            prop_assert_eq!(outside(&shown).to_string(), shown);
        }
    }
}
