//! What a pack's member is, by what its archive records of it.

use std::fmt;
use std::str::FromStr;

use ::zip::DateTime;
use exporters::outside::outside;
use serde::{Deserialize, Serialize};

/// A member of an archive, by the archive's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Member {
    /// How many bytes its content has.
    pub size: u64,
    /// When its content was last written to; `None` if what the archive records is no time.
    #[serde(default)]
    pub modified: Option<DosTime>,
    /// The CRC-32 of its content that the archive records: every archive does for a stored member. A load
    /// compares it with what it has read ([`Item::checksum`](super::Item::checksum)).
    pub crc32: u32,
}

/// A time as DOS and zip archives record it: from 1980 to 2107, in steps of two seconds, in the time zone of
/// whoever wrote the archive, which is not recorded.
///
/// As text and in JSON it is `2026-11-27T16:50:00`, which is ISO 8601 without a time zone.
///
/// ```
/// use bufmap::format::DosTime;
///
/// let time: DosTime = "2026-11-27T16:50:00".parse()?;
/// assert_eq!((time.year(), time.month(), time.minute()), (2026, 11, 50));
/// # Ok::<(), bufmap::format::NotATime>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct DosTime(DateTime);

impl DosTime {
    pub(super) fn of(time: DateTime) -> Self {
        Self(time)
    }

    /// The year: 1980 to 2107.
    pub fn year(self) -> u16 {
        self.0.year()
    }

    /// The month: 1 to 12.
    pub fn month(self) -> u8 {
        self.0.month()
    }

    /// The day of the month: 1 to 31.
    pub fn day(self) -> u8 {
        self.0.day()
    }

    /// The hour: 0 to 23.
    pub fn hour(self) -> u8 {
        self.0.hour()
    }

    /// The minute: 0 to 59.
    pub fn minute(self) -> u8 {
        self.0.minute()
    }

    /// The second: an even number from 0 to 58.
    pub fn second(self) -> u8 {
        self.0.second()
    }
}

impl fmt::Display for DosTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = (self.year(), self.month(), self.day());
        let (hour, minute, second) = (self.hour(), self.minute(), self.second());
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

/// The text is no time that an archive can record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is no time of an archive: give one as 2026-11-27T16:50:00, from 1980 to 2107, with an even second", outside(.0))]
pub struct NotATime(String);

/// Reads what [`Display`](fmt::Display) writes, and nothing else.
impl FromStr for DosTime {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, NotATime> {
        let is_written_so = |time: &Self| time.to_string() == text;
        parts(text).filter(is_written_so).ok_or_else(|| NotATime(text.to_owned()))
    }
}

/// The time whose parts are these numbers, however they are written.
fn parts(text: &str) -> Option<DosTime> {
    let mut numbers = text.split(['-', 'T', ':']).map(|number| number.parse::<u16>().ok());
    let year = numbers.next()??;
    let mut next = || u8::try_from(numbers.next()??).ok();
    let (month, day, hour, minute, second) = (next()?, next()?, next()?, next()?, next()?);
    DateTime::from_date_and_time(year, month, day, hour, minute, second).ok().map(DosTime)
}

impl From<DosTime> for String {
    fn from(time: DosTime) -> Self {
        time.to_string()
    }
}

impl TryFrom<String> for DosTime {
    type Error = NotATime;

    fn try_from(text: String) -> Result<Self, NotATime> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_time_is_read_as_one() {
        for text in ["1980-01-01T00:00:00", "2024-02-29T23:59:58", "2107-12-31T12:00:02"] {
            assert_eq!(text.parse::<DosTime>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "2026-11-27",
            "2026-11-27 16:50:00",
            "2026-11-27T16:50:01",
            "2026-11-27T16:50:00Z",
            "2026-11-27T16:50:00:00",
            "2026-1-27T16:50:00",
            "2023-02-29T00:00:00",
            "2026-13-01T00:00:00",
            "1979-12-31T00:00:00",
            "2026-11-27T16:50:256",
        ] {
            let words = text.parse::<DosTime>().unwrap_err().to_string();
            assert!(words.starts_with(&format!("`{text}` is no time")), "{words}");
        }
    }

    proptest! {
        /// Of the archive's own 32 bits: what is a time is read again from its text, and what is none is none.
        #[test]
        fn what_an_archive_records_is_written_and_read(date: u16, time: u16) {
            let Ok(recorded) = DateTime::try_from_msdos(date, time) else { return Ok(()) };
            let time = DosTime::of(recorded);
            prop_assert_eq!(time.to_string().parse::<DosTime>().unwrap(), time);
            prop_assert_eq!(time.year(), 1980 + (date >> 9));
        }
    }
}
