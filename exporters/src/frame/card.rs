//! Test cards: pictures that move and show their number, so that a frame which is late, torn, shifted
//! or another one is seen, by people and by [`TestCard::check`].

use iomap::{BufMap, Plane, PlaneError};

use super::{FrameError, Picture, format};

/// The digits, five rows of three pixels each.
const DIGITS: [[u8; 5]; 10] = [
    [0b111, 0b101, 0b101, 0b101, 0b111],
    [0b010, 0b110, 0b010, 0b010, 0b111],
    [0b111, 0b001, 0b111, 0b100, 0b111],
    [0b111, 0b001, 0b111, 0b001, 0b111],
    [0b101, 0b101, 0b111, 0b001, 0b001],
    [0b111, 0b100, 0b111, 0b001, 0b111],
    [0b111, 0b100, 0b111, 0b101, 0b111],
    [0b111, 0b001, 0b001, 0b001, 0b001],
    [0b111, 0b101, 0b111, 0b101, 0b111],
    [0b111, 0b101, 0b111, 0b001, 0b111],
];

/// How many digits there are.
const PLACES: u32 = 8;

/// What frame `number` of a stream shows, for any format that has rows.
///
/// In its upper left corner are the last eight digits of its number, white on black; behind them colours
/// that no two rows or columns near each other share, and that move from frame to frame. The fourth
/// byte of a pixel is full, so that formats with transparency are opaque.
///
/// ```
/// use exporters::frame::{Picture, TestCard};
/// use iomap::{BufMap, Plane};
///
/// let picture: Picture = "64x48 XR24 LINEAR".parse()?;
/// let mut bytes = vec![0; 64 * 48 * 4];
/// let plane = Plane::packed(BufMap::from_mut_slice(&mut bytes), 64 * 4, 48)?;
/// TestCard::new(picture, 7)?.draw(0, &plane)?;
/// TestCard::new(picture, 7)?.check(0, &plane)?;
/// let error = TestCard::new(picture, 8)?.check(0, &plane).unwrap_err();
/// assert!(error.to_string().contains("frame 8, plane 0, row 0"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestCard {
    picture: Picture,
    planes: &'static [format::PlaneFormat],
    number: u64,
}

/// A frame that is not the one it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CardError {
    /// Other bytes.
    #[error(
        "frame {number}, plane {plane}, row {row}, byte {byte}: {found:#04x} in the place of {wanted:#04x}"
    )]
    Other {
        /// The frame's number.
        number: u64,
        /// The plane.
        plane: usize,
        /// The row.
        row: usize,
        /// The byte in the row.
        byte: usize,
        /// What is there.
        found: u8,
        /// What should be.
        wanted: u8,
    },
    /// A plane of another shape.
    #[error(transparent)]
    Plane(#[from] PlaneError),
    /// A plane whose rows cannot be reached.
    #[error(transparent)]
    Map(#[from] iomap::MapError),
}

impl TestCard {
    /// The card of a frame.
    ///
    /// # Errors
    /// [`FrameError::Format`] for a format whose rows are not known here.
    pub fn new(picture: Picture, number: u64) -> Result<Self, FrameError> {
        Ok(Self { picture, planes: format::planes(picture)?, number })
    }

    /// The bytes of a row of a plane: none of a plane that the format does not have.
    pub fn row(&self, plane: usize, y: usize) -> Vec<u8> {
        let Some(format) = self.planes.get(plane) else { return Vec::new() };
        let pixel = format.bytes as usize;
        let mut row = vec![0; format.row_bytes(self.picture.width) as usize];
        // Colours are the last byte of what is counted.
        let n = usize::from(self.number as u8);
        for (x, bytes) in row.chunks_exact_mut(pixel).enumerate() {
            let across = x + 5 * y + 4 * n + 3 * plane;
            let [down, blocks] = [3 * y + 2 * n, (x / 8 + y / 8) * 8 + n];
            let first = [across as u8, down as u8, blocks as u8, 0xff];
            let second = [across as u8, blocks as u8, down as u8, 0xff];
            for (bytes, colours) in bytes.chunks_mut(4).zip([first, second]) {
                bytes.copy_from_slice(&colours[..bytes.len()]);
            }
        }
        if plane == 0 {
            self.write_number(&mut row, pixel, y);
        }
        row
    }

    /// The part of the number that lies in a row.
    fn write_number(&self, row: &mut [u8], pixel: usize, y: usize) {
        let scale = (self.picture.width as usize / 64).max(1);
        let line = y / scale;
        for place in 0..PLACES {
            let digit = self.number / 10u64.pow(PLACES - 1 - place) % 10;
            for column in 0..4 {
                let lit = match (line, column) {
                    (1..=5, 0..=2) => DIGITS[digit as usize][line - 1] >> (2 - column) & 1 == 1,
                    (0..=6, _) => false,
                    _ => return,
                };
                let x = (1 + place as usize * 4 + column) * scale;
                let bytes = x * pixel..(x + scale) * pixel;
                // What lies beyond a narrow picture's edge is not drawn.
                if let Some(bytes) = row.get_mut(bytes) {
                    bytes.fill(if lit { 0xff } else { 0 });
                    bytes.iter_mut().skip(3).step_by(pixel.max(4)).for_each(|byte| *byte = 0xff);
                }
            }
        }
    }

    /// Draws a plane of it, and not what lies between the rows.
    ///
    /// # Errors
    /// [`CardError::Plane`] and [`CardError::Map`] if the plane is not one of the picture's.
    pub fn draw(&self, index: usize, plane: &Plane<'_>) -> Result<(), CardError> {
        (0..plane.rows())
            .try_for_each(|y| Ok(plane.row(y)?.copy_from_slice(0, &self.row(index, y))?))
    }

    /// Compares a plane with it, byte by byte.
    ///
    /// # Errors
    /// [`CardError::Other`] with the first byte that differs; else as [`draw`](Self::draw).
    pub fn check(&self, index: usize, plane: &Plane<'_>) -> Result<(), CardError> {
        (0..plane.rows()).try_for_each(|y| self.check_row(index, y, plane.row(y)?))
    }

    fn check_row(&self, plane: usize, row: usize, map: BufMap<'_>) -> Result<(), CardError> {
        let wanted = self.row(plane, row);
        let mut found = vec![0; wanted.len()];
        map.copy_to_slice(0, &mut found)?;
        let Some(byte) = (0..found.len()).find(|&at| found[at] != wanted[at]) else {
            return Ok(());
        };
        let (found, wanted) = (found[byte], wanted[byte]);
        Err(CardError::Other { number: self.number, plane, row, byte, found, wanted })
    }
}

#[cfg(test)]
mod tests {
    use super::super::DrmFourcc;
    use super::*;

    fn card(format: DrmFourcc, number: u64) -> TestCard {
        TestCard::new(Picture::linear(64, 48, format), number).expect("a known format")
    }

    /// The corner of a card, as people see it.
    fn corner(card: &TestCard) -> String {
        let lit = |y: usize, x: usize| match card.row(0, y)[x * 4] {
            0xff => '#',
            _ => '.',
        };
        (1..6).map(|y| (25..32).map(|x| lit(y, x)).collect::<String>() + "\n").collect()
    }

    #[test]
    fn the_number_can_be_read() {
        let seen = corner(&card(DrmFourcc::Xrgb8888, 9_999_999_942));
        assert_eq!(seen, "#.#.###\n#.#...#\n###.###\n..#.#..\n..#.###\n");
    }

    #[test]
    fn the_largest_numbers_can_be_drawn() {
        for number in [u64::MAX / 4, u64::MAX - 1, u64::MAX] {
            let (large, small) = (card(DrmFourcc::Nv12, number), number % 256);
            for plane in 0..2 {
                assert_eq!(large.row(plane, 9), card(DrmFourcc::Nv12, small).row(plane, 9));
            }
        }
    }

    #[test]
    fn no_frame_is_its_neighbour_and_no_row_another() {
        for format in [DrmFourcc::Xrgb8888, DrmFourcc::Rgb565, DrmFourcc::Nv12, DrmFourcc::R8] {
            for y in 0..24 {
                let row = |number, plane, y| card(format, number).row(plane, y);
                assert!(
                    (1..64).all(|later| row(5, 0, y + 7) != row(5 + later, 0, y + 7)),
                    "{format}"
                );
                assert!((0..y).all(|before| row(5, 0, before) != row(5, 0, y)), "{format}, {y}");
            }
        }
    }

    #[test]
    fn each_plane_has_rows_of_its_length() {
        let lens = |format| [0, 1, 2].map(|plane| card(format, 1).row(plane, 0).len());
        assert_eq!(lens(DrmFourcc::Xrgb8888), [256, 0, 0]);
        assert_eq!(lens(DrmFourcc::Nv12), [64, 64, 0]);
        assert_eq!(lens(DrmFourcc::Yuv420), [64, 32, 32]);
        let narrow = TestCard::new(Picture::linear(5, 3, DrmFourcc::Argb8888), 1).expect("known");
        assert!((0..3).all(|y| narrow.row(0, y).chunks(4).all(|pixel| pixel[3] == 0xff)));
    }
}
