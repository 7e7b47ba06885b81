//! Pictures in memory: rows at a pitch, rectangles, up to four planes.
//!
//! A [`Plane`] is a [`BufMap`] read as rows: `row_bytes` bytes each, the next one `pitch` bytes
//! further on. A rectangle of a plane is a plane again, so there is one kind of copy, between two
//! planes of one shape, and everything else is choosing them. [`Planes`] holds the planes of one
//! picture (Y, U and V; or a colour plane and its compression data), as many as a dma-buf framebuffer
//! can have.
//!
//! Widths are in bytes, for this layer knows no pixel formats: multiply by the bytes of a pixel.

use crate::BufMap;
use crate::map::MapError;

/// Why a plane, or a copy between planes, was refused. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaneError {
    /// Rows that overlap.
    #[error(
        "rows of {row_bytes} bytes at a pitch of {pitch} bytes overlap: the pitch must be at least a row"
    )]
    Pitch {
        /// The distance from row to row in bytes.
        pitch: usize,
        /// The bytes of a row.
        row_bytes: usize,
    },
    /// The plane reaches past the end of the map.
    #[error(
        "{rows} rows of {row_bytes} bytes at a pitch of {pitch} bytes reach past the end of a map of \
         {map_len} bytes"
    )]
    TooShort {
        /// The distance from row to row in bytes.
        pitch: usize,
        /// The bytes of a row.
        row_bytes: usize,
        /// How many rows.
        rows: usize,
        /// The map's length in bytes.
        map_len: usize,
    },
    /// The rectangle reaches past the edge of the plane.
    #[error("{rect:?} reaches past the edge of a plane of {rows} rows of {row_bytes} bytes")]
    OutOfBounds {
        /// The rectangle.
        rect: Rect,
        /// The bytes of a row of the plane.
        row_bytes: usize,
        /// How many rows it has.
        rows: usize,
    },
    /// Two planes that must be of one shape are not.
    #[error(
        "a copy of {} rows of {} bytes to {} rows of {} bytes: both planes must be of one shape",
        src.1, src.0, dst.1, dst.0
    )]
    Shape {
        /// The source's bytes a row, and rows.
        src: (usize, usize),
        /// The destination's.
        dst: (usize, usize),
    },
    /// Planes of different pitch that share bytes: no order of rows would copy them right. Copy
    /// through a third plane.
    #[error(
        "the planes overlap and have different pitches, {src} and {dst} bytes: copy by way of another"
    )]
    Overlap {
        /// The source's pitch in bytes.
        src: usize,
        /// The destination's pitch in bytes.
        dst: usize,
    },
    /// More planes than a picture has, or unlike numbers of them.
    #[error("{got} planes where {wanted} are wanted")]
    Count {
        /// How many there are.
        got: usize,
        /// How many there must be, or may be at most.
        wanted: usize,
    },
    /// The map refused.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// A rectangle of a plane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Where it begins in its rows, in bytes.
    pub x: usize,
    /// Its first row.
    pub y: usize,
    /// Its width in bytes.
    pub width: usize,
    /// Its height in rows.
    pub height: usize,
}

/// Rows in a map.
///
/// ```
/// use iomap::{BufMap, Plane, Rect};
///
/// // A tile of 4 x 2 pixels of 4 bytes into a screen of 16 x 9, whose rows are padded to 128 bytes.
/// let mut screen = vec![0; 128 * 9];
/// let screen = Plane::new(BufMap::from_mut_slice(&mut screen), 128, 16 * 4, 9)?;
/// let tile = vec![7; 16 * 2];
/// let tile = Plane::packed(BufMap::from_slice(&tile), 4 * 4, 2)?;
///
/// let place = Rect { x: 8 * 4, y: 3, width: 4 * 4, height: 2 };
/// screen.rect(place)?.copy_from(&tile)?;
/// assert_eq!(screen.row(4)?.read::<u8>(8 * 4)?, 7);
/// assert_eq!(screen.row(5)?.read::<u8>(8 * 4)?, 0);
/// # Ok::<(), iomap::PlaneError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    map: BufMap<'a>,
    pitch: usize,
    row_bytes: usize,
    rows: usize,
}

impl<'a> Plane<'a> {
    /// `rows` rows of `row_bytes` bytes, each `pitch` bytes behind the one before. The last row need
    /// not be padded to the pitch.
    ///
    /// # Errors
    /// [`PlaneError::Pitch`], [`PlaneError::TooShort`].
    pub fn new(
        map: BufMap<'a>,
        pitch: usize,
        row_bytes: usize,
        rows: usize,
    ) -> Result<Self, PlaneError> {
        if pitch < row_bytes {
            return Err(PlaneError::Pitch { pitch, row_bytes });
        }
        match span(pitch, row_bytes, rows) {
            Some(len) if len <= map.len() => {
                Ok(Self { map: map.subrange(..len)?, pitch, row_bytes, rows })
            }
            _ => Err(PlaneError::TooShort { pitch, row_bytes, rows, map_len: map.len() }),
        }
    }

    /// Rows with nothing between them.
    ///
    /// # Errors
    /// [`PlaneError::TooShort`].
    pub fn packed(map: BufMap<'a>, row_bytes: usize, rows: usize) -> Result<Self, PlaneError> {
        Self::new(map, row_bytes, row_bytes, rows)
    }

    /// The bytes of a row.
    pub const fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// How many rows there are.
    pub const fn rows(&self) -> usize {
        self.rows
    }

    /// The distance from row to row in bytes.
    pub const fn pitch(&self) -> usize {
        self.pitch
    }

    /// One row.
    ///
    /// # Errors
    /// [`PlaneError::OutOfBounds`].
    pub fn row(&self, y: usize) -> Result<BufMap<'a>, PlaneError> {
        Ok(self.rect(Rect { x: 0, y, width: self.row_bytes, height: 1 })?.map)
    }

    /// A rectangle, as a plane of the same pitch.
    ///
    /// # Errors
    /// [`PlaneError::OutOfBounds`].
    pub fn rect(&self, rect: Rect) -> Result<Self, PlaneError> {
        let fits =
            |start: usize, len, limit| start.checked_add(len).is_some_and(|end| end <= limit);
        let Rect { x, y, width, height } = rect;
        if !fits(x, width, self.row_bytes) || !fits(y, height, self.rows) {
            return Err(PlaneError::OutOfBounds {
                rect,
                row_bytes: self.row_bytes,
                rows: self.rows,
            });
        }
        let len = span(self.pitch, width, height).unwrap_or(0);
        let start = if len == 0 { 0 } else { y * self.pitch + x };
        let map = self.map.subrange(start..start + len)?;
        Ok(Self { map, pitch: self.pitch, row_bytes: width, rows: height })
    }

    /// Copies all of `src`, which must be of the same shape. Planes of one pitch may overlap.
    ///
    /// # Errors
    /// [`PlaneError::Shape`], [`PlaneError::Overlap`], or [`PlaneError::Map`] if this is read-only.
    pub fn copy_from(&self, src: &Plane<'_>) -> Result<(), PlaneError> {
        self.check(src)?;
        if self.is_contiguous() && src.is_contiguous() {
            return Ok(self.map.copy_from(&src.map)?);
        }
        // Where the planes overlap, each row is read before a row of the other overwrites it.
        let down = self.map.as_ptr() > src.map.as_ptr();
        for y in 0..self.rows {
            let y = if down { self.rows - 1 - y } else { y };
            self.row(y)?.copy_from(&src.row(y)?)?;
        }
        Ok(())
    }

    /// Sets every byte of every row to `byte`; what lies between the rows stays.
    ///
    /// # Errors
    /// [`PlaneError::Map`] if this is read-only.
    pub fn fill(&self, byte: u8) -> Result<(), PlaneError> {
        if self.is_contiguous() {
            return Ok(self.map.fill(byte)?);
        }
        (0..self.rows).try_for_each(|y| Ok(self.row(y)?.fill(byte)?))
    }

    /// Whether there is nothing between the rows.
    fn is_contiguous(&self) -> bool {
        self.pitch == self.row_bytes || self.rows <= 1 || self.row_bytes == 0
    }

    /// Whether [`copy_from`](Self::copy_from) would succeed.
    fn check(&self, src: &Plane<'_>) -> Result<(), PlaneError> {
        let shape = |plane: &Plane<'_>| (plane.row_bytes, plane.rows);
        if shape(self) != shape(src) {
            return Err(PlaneError::Shape { src: shape(src), dst: shape(self) });
        }
        self.map.check_writable()?;
        let ends = |map: &BufMap<'_>| (map.as_ptr() as usize, map.as_ptr() as usize + map.len());
        let ((a, a_end), (b, b_end)) = (ends(&self.map), ends(&src.map));
        if self.pitch != src.pitch && self.rows > 1 && a < b_end && b < a_end {
            return Err(PlaneError::Overlap { src: src.pitch, dst: self.pitch });
        }
        Ok(())
    }
}

/// The bytes from the first of a plane to one past its last, absent if they overflow.
fn span(pitch: usize, row_bytes: usize, rows: usize) -> Option<usize> {
    if row_bytes == 0 || rows == 0 {
        return Some(0);
    }
    pitch.checked_mul(rows - 1)?.checked_add(row_bytes)
}

/// The planes of one picture: one to four.
///
/// ```
/// use iomap::{BufMap, Plane, Planes};
///
/// // 8 x 4 pixels in NV12: a plane of luma, and one of chroma with half the rows.
/// let mut picture = vec![0; 8 * 4 + 8 * 2];
/// let (luma, chroma) = BufMap::from_mut_slice(&mut picture).split_at(8 * 4)?;
/// let planes = Planes::new(&[Plane::packed(luma, 8, 4)?, Plane::packed(chroma, 8, 2)?])?;
/// assert_eq!(planes.iter().map(Plane::rows).sum::<usize>(), 6);
/// # Ok::<(), iomap::PlaneError>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Planes<'a> {
    planes: [Option<Plane<'a>>; Planes::MAX],
}

impl<'a> Planes<'a> {
    /// How many planes a picture may have.
    pub const MAX: usize = 4;

    /// A picture of these planes.
    ///
    /// # Errors
    /// [`PlaneError::Count`] if there are none or more than four.
    pub fn new(planes: &[Plane<'a>]) -> Result<Self, PlaneError> {
        if planes.is_empty() || planes.len() > Self::MAX {
            return Err(PlaneError::Count { got: planes.len(), wanted: Self::MAX });
        }
        Ok(Self { planes: std::array::from_fn(|i| planes.get(i).copied()) })
    }

    /// How many planes there are.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// One plane.
    pub fn get(&self, index: usize) -> Option<&Plane<'a>> {
        self.planes.get(index)?.as_ref()
    }

    /// The planes, one by one.
    pub fn iter(&self) -> impl Iterator<Item = &Plane<'a>> {
        self.planes.iter().flatten()
    }

    /// Copies all planes of `src`, which must be as many and of the same shapes. All is checked
    /// before the first byte is copied.
    ///
    /// # Errors
    /// [`PlaneError::Count`], and as [`Plane::copy_from`].
    pub fn copy_from(&self, src: &Planes<'_>) -> Result<(), PlaneError> {
        if self.len() != src.len() {
            return Err(PlaneError::Count { got: src.len(), wanted: self.len() });
        }
        self.iter().zip(src.iter()).try_for_each(|(dst, src)| dst.check(src))?;
        self.iter().zip(src.iter()).try_for_each(|(dst, src)| dst.copy_from(src))
    }
}
