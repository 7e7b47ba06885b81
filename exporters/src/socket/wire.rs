//! What a message is in bytes. Nothing here touches a file descriptor.
//!
//! Every number is little-endian. A message is a header of 16 bytes and a body:
//!
//! | header | |
//! |---|---|
//! | `u32` | `0x6d66_7562`, the letters `bufm` |
//! | `u16` | the version, 1 |
//! | `u16` | the kind |
//! | `u32` | the length of the whole message in bytes |
//! | `u32` | how many file descriptors come with it |
//!
//! | kind | body | file descriptors |
//! |---|---|---|
//! | 1, pool | width, height, format and the number of frames, `u32` each, then the modifier, `u64`; for each frame the number of its planes, `u32`, and for each plane its buffer's number among the descriptors, its offset and its pitch, `u32` each | the buffers |
//! | 2, ready | slot, `u32`, and the frame's number, `u64` | a sync file, or none |
//! | 3, released | slot, `u32` | a sync file, or none |
//! | 4, goodbye | why, `u32`: 0 all is done, 1 the frames are of no use | none |
//!
//! `DRM_FORMAT_MOD_INVALID` stands for a layout that is implicit, as in the kernel's own interfaces.

use crate::frame::{DrmModifier, FrameError, FramePlane, MAX_PLANES, Picture, format_coded};

/// The version of this protocol.
pub const VERSION: u16 = 1;

/// The most frames in a pool.
pub const MAX_FRAMES: usize = 16;

/// The most file descriptors in a message.
pub const MAX_FDS: usize = MAX_FRAMES * MAX_PLANES;

/// The longest message in bytes.
pub const MAX_LEN: usize = HEADER + 24 + MAX_FRAMES * (4 + MAX_PLANES * 12);

const MAGIC: u32 = u32::from_le_bytes(*b"bufm");
const HEADER: usize = 16;

const POOL: u16 = 1;
const READY: u16 = 2;
const RELEASED: u16 = 3;
const GOODBYE: u16 = 4;

/// Why a message is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Fewer bytes than the message needs.
    #[error("{len} bytes are too few for a message; the peer speaks another protocol")]
    Short {
        /// How many there are.
        len: usize,
    },
    /// Other first bytes.
    #[error("a message begins with {found:#010x}; the peer speaks another protocol")]
    Magic {
        /// What was there.
        found: u32,
    },
    /// A version that is not known here.
    #[error("the peer speaks version {found} and this program {VERSION}; use programs of one age")]
    Version {
        /// The peer's.
        found: u16,
    },
    /// A length that is not the number of bytes that came.
    #[error("a message says that it has {told} bytes and has {len}; the peer is at fault")]
    Length {
        /// What it says.
        told: u32,
        /// How many came.
        len: usize,
    },
    /// Bytes after the end of the body.
    #[error("{extra} bytes follow the message's end; the peer is at fault")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// A kind that is not known here.
    #[error("a message of kind {found} is not known; the peer is at fault")]
    Kind {
        /// The kind.
        found: u16,
    },
    /// More or fewer file descriptors than such a message has.
    #[error(
        "{found} file descriptors with a message that has {least} to {most}; the peer is at fault"
    )]
    Fds {
        /// How many it has or says that it has.
        found: usize,
        /// The fewest that it may have.
        least: usize,
        /// The most.
        most: usize,
    },
    /// A pool without frames, or with too many.
    #[error("a pool of {found} frames: it has 1 to {MAX_FRAMES}")]
    Frames {
        /// How many it says.
        found: u32,
    },
    /// A frame without planes, or with too many.
    #[error("frame {frame} has {found} planes: it has 1 to {MAX_PLANES}")]
    Planes {
        /// The frame's slot.
        frame: usize,
        /// How many it says.
        found: u32,
    },
    /// A plane in a buffer that did not come.
    #[error("a plane of frame {frame} lies in buffer {buffer}, and {fds} came")]
    Buffer {
        /// The frame's slot.
        frame: usize,
        /// The buffer's number.
        buffer: u32,
        /// How many there are.
        fds: usize,
    },
    /// A buffer in which no plane lies.
    #[error("no plane lies in buffer {buffer}; the peer is at fault")]
    Unused {
        /// The buffer's number.
        buffer: usize,
    },
    /// A format that `drm_fourcc.h` does not define.
    #[error("{code:#010x} is no pixel format; use programs of one age")]
    Format {
        /// The code.
        code: u32,
    },
    /// A picture that cannot be.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// A reason for leaving that is not known.
    #[error("the peer leaves for reason {found}, which is not known; use programs of one age")]
    Farewell {
        /// The number.
        found: u32,
    },
}

/// Why a side leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Farewell {
    /// All that was to be shown was shown.
    Done,
    /// It cannot use these frames, or cannot make more.
    Refused,
}

/// A message without its file descriptors: buffers are numbers among them.
///
/// ```
/// use exporters::socket::{Text, WireError};
///
/// let text = Text::Ready { slot: 2, number: 77, fence: true };
/// let bytes = text.encode();
/// assert_eq!(Text::parse(&bytes), Ok(text));
/// assert_eq!(Text::parse(&bytes[..27]), Err(WireError::Length { told: 28, len: 27 }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// The frames that there will ever be, and how they lie in the buffers that come along.
    Pool {
        /// What each of them shows.
        picture: Picture,
        /// The planes of each; a frame's place is its slot.
        frames: Vec<Vec<FramePlane<u32>>>,
        /// How many buffers come along.
        fds: usize,
    },
    /// A frame may be read.
    Ready {
        /// Which of the pool.
        slot: u32,
        /// How many frames were before it.
        number: u64,
        /// Whether a sync file comes along, to wait for first.
        fence: bool,
    },
    /// A frame may be written again.
    Released {
        /// Which of the pool.
        slot: u32,
        /// Whether a sync file comes along, to wait for first.
        fence: bool,
    },
    /// Nothing more will come.
    Goodbye(Farewell),
}

impl Text {
    /// How many file descriptors come with it.
    pub fn fds(&self) -> usize {
        match *self {
            Self::Pool { fds, .. } => fds,
            Self::Ready { fence, .. } | Self::Released { fence, .. } => fence.into(),
            Self::Goodbye(_) => 0,
        }
    }

    /// The message in bytes.
    pub fn encode(&self) -> Vec<u8> {
        let kind = match self {
            Self::Pool { .. } => POOL,
            Self::Ready { .. } => READY,
            Self::Released { .. } => RELEASED,
            Self::Goodbye(_) => GOODBYE,
        };
        let mut bytes = Vec::with_capacity(MAX_LEN);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend((self.fds() as u32).to_le_bytes());
        self.encode_body(&mut bytes);
        let len = bytes.len() as u32;
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes
    }

    fn encode_body(&self, bytes: &mut Vec<u8>) {
        let mut words = |words: &[u32]| bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        match self {
            Self::Pool { picture, frames, .. } => {
                let Picture { width, height, format, modifier } = *picture;
                words(&[width, height, format as u32, frames.len() as u32]);
                let modifier: u64 = modifier.unwrap_or(DrmModifier::Invalid).into();
                words(&halves(modifier));
                for planes in frames {
                    words(&[planes.len() as u32]);
                    planes.iter().for_each(|p| words(&[p.buffer, p.offset, p.pitch]));
                }
            }
            Self::Ready { slot, number, .. } => {
                words(&[*slot]);
                words(&halves(*number));
            }
            Self::Released { slot, .. } => words(&[*slot]),
            Self::Goodbye(Farewell::Done) => words(&[0]),
            Self::Goodbye(Farewell::Refused) => words(&[1]),
        }
    }

    /// Reads a message, which ends where the bytes do.
    ///
    /// What passes names each of its file descriptors, and no others; whether those are buffers, and
    /// large enough, is not known here.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader { bytes, len: bytes.len() };
        let magic = reader.u32()?;
        if magic != MAGIC {
            return Err(WireError::Magic { found: magic });
        }
        let word = reader.u32()?;
        let (version, kind) = (word as u16, (word >> 16) as u16);
        if version != VERSION {
            return Err(WireError::Version { found: version });
        }
        let told = reader.u32()?;
        if told as usize != bytes.len() {
            return Err(WireError::Length { told, len: bytes.len() });
        }
        let fds = reader.u32()? as usize;
        let text = reader.body(kind, fds)?;
        match reader.bytes.len() {
            0 => Ok(text),
            extra => Err(WireError::Trailing { extra }),
        }
    }
}

/// The bytes that were not read yet.
struct Reader<'a> {
    bytes: &'a [u8],
    len: usize,
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let short = WireError::Short { len: self.len };
        let (head, rest) = self.bytes.split_first_chunk().ok_or(short)?;
        self.bytes = rest;
        Ok(*head)
    }

    fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_le_bytes(self.take()?))
    }

    fn u64(&mut self) -> Result<u64, WireError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn body(&mut self, kind: u16, fds: usize) -> Result<Text, WireError> {
        let most = |most: usize| match fds <= most {
            true => Ok(fds == 1),
            false => Err(WireError::Fds { found: fds, least: 0, most }),
        };
        match kind {
            POOL => self.pool(fds),
            READY => {
                let fence = most(1)?;
                Ok(Text::Ready { slot: self.u32()?, number: self.u64()?, fence })
            }
            RELEASED => {
                let fence = most(1)?;
                Ok(Text::Released { slot: self.u32()?, fence })
            }
            GOODBYE => {
                most(0)?;
                match self.u32()? {
                    0 => Ok(Text::Goodbye(Farewell::Done)),
                    1 => Ok(Text::Goodbye(Farewell::Refused)),
                    found => Err(WireError::Farewell { found }),
                }
            }
            found => Err(WireError::Kind { found }),
        }
    }

    fn pool(&mut self, fds: usize) -> Result<Text, WireError> {
        if !(1..=MAX_FDS).contains(&fds) {
            return Err(WireError::Fds { found: fds, least: 1, most: MAX_FDS });
        }
        let (width, height, code, count) = (self.u32()?, self.u32()?, self.u32()?, self.u32()?);
        let format = format_coded(code).ok_or(WireError::Format { code })?;
        let modifier = match DrmModifier::from(self.u64()?) {
            DrmModifier::Invalid => None,
            modifier => Some(modifier),
        };
        let picture = Picture { width, height, format, modifier };
        picture.check_format()?;
        if !(1..=MAX_FRAMES as u32).contains(&count) {
            return Err(WireError::Frames { found: count });
        }
        let frames = (0..count as usize).map(|frame| self.planes(frame, fds));
        let frames = frames.collect::<Result<Vec<_>, _>>()?;
        let is_used = |buffer: &usize| {
            frames.iter().flatten().any(|plane: &FramePlane<u32>| plane.buffer as usize == *buffer)
        };
        match (0..fds).find(|buffer| !is_used(buffer)) {
            None => Ok(Text::Pool { picture, frames, fds }),
            Some(buffer) => Err(WireError::Unused { buffer }),
        }
    }

    fn planes(&mut self, frame: usize, fds: usize) -> Result<Vec<FramePlane<u32>>, WireError> {
        let count = self.u32()?;
        if !(1..=MAX_PLANES as u32).contains(&count) {
            return Err(WireError::Planes { frame, found: count });
        }
        let plane = |_| {
            let (buffer, offset, pitch) = (self.u32()?, self.u32()?, self.u32()?);
            match (buffer as usize) < fds {
                true => Ok(FramePlane { buffer, offset, pitch }),
                false => Err(WireError::Buffer { frame, buffer, fds }),
            }
        };
        (0..count).map(plane).collect()
    }
}

/// The low word and the high one.
const fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::DrmFourcc;

    fn pool(frames: Vec<Vec<FramePlane<u32>>>, fds: usize) -> Text {
        Text::Pool { picture: Picture::linear(64, 64, DrmFourcc::Xrgb8888), frames, fds }
    }

    const fn plane(buffer: u32) -> FramePlane<u32> {
        FramePlane { buffer, offset: 0, pitch: 256 }
    }

    /// The bytes of a message, with a word changed.
    fn with(text: &Text, word: usize, to: u32) -> Vec<u8> {
        let mut bytes = text.encode();
        bytes[word * 4..][..4].copy_from_slice(&to.to_le_bytes());
        bytes
    }

    #[test]
    fn the_header_is_what_the_table_says() {
        let bytes = Text::Released { slot: 5, fence: true }.encode();
        let wanted = [b'b', b'u', b'f', b'm', 1, 0, 3, 0, 20, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 0];
        assert_eq!(bytes, wanted);
    }

    #[test]
    fn the_longest_message_is_as_long_as_it_says() {
        let planes = |frame: u32| (0..4).map(|index| plane(frame * 4 + index)).collect();
        let longest = pool((0..16).map(planes).collect(), 64);
        assert_eq!(longest.encode().len(), MAX_LEN);
        assert_eq!(Text::parse(&longest.encode()), Ok(longest));
    }

    #[test]
    fn each_fault_has_its_own_words() {
        let ready = Text::Ready { slot: 0, number: 1, fence: false };
        let one = pool(vec![vec![plane(0)]], 1);
        let cases = [
            (Vec::new(), WireError::Short { len: 0 }),
            (ready.encode()[..15].to_vec(), WireError::Length { told: 28, len: 15 }),
            (with(&ready, 0, 7), WireError::Magic { found: 7 }),
            (with(&ready, 1, 0x0002_0002), WireError::Version { found: 2 }),
            (with(&ready, 1, 0x0005_0001), WireError::Kind { found: 5 }),
            (with(&ready, 2, 29), WireError::Length { told: 29, len: 28 }),
            ([ready.encode(), vec![0]].concat(), WireError::Length { told: 28, len: 29 }),
            ([with(&ready, 2, 32), vec![0; 4]].concat(), WireError::Trailing { extra: 4 }),
            (with(&ready, 3, 2), WireError::Fds { found: 2, least: 0, most: 1 }),
            (with(&Text::Goodbye(Farewell::Done), 4, 2), WireError::Farewell { found: 2 }),
            (
                with(&Text::Goodbye(Farewell::Done), 3, 1),
                WireError::Fds { found: 1, least: 0, most: 0 },
            ),
            (with(&one, 3, 0), WireError::Fds { found: 0, least: 1, most: 64 }),
            (with(&one, 3, 65), WireError::Fds { found: 65, least: 1, most: 64 }),
            (with(&one, 3, 2), WireError::Unused { buffer: 1 }),
            (with(&one, 4, 0), FrameError::Side { width: 0, height: 64 }.into()),
            (with(&one, 5, 32768), FrameError::Side { width: 64, height: 32768 }.into()),
            (with(&one, 6, 0x2020_2020), WireError::Format { code: 0x2020_2020 }),
            (with(&one, 6, 1 << 31), WireError::Format { code: 1 << 31 }),
            (with(&one, 7, 0), WireError::Frames { found: 0 }),
            (with(&one, 7, 17), WireError::Frames { found: 17 }),
            (with(&one, 7, 2), WireError::Short { len: 56 }),
            (with(&one, 10, 0), WireError::Planes { frame: 0, found: 0 }),
            (with(&one, 10, 5), WireError::Planes { frame: 0, found: 5 }),
            (with(&one, 11, 1), WireError::Buffer { frame: 0, buffer: 1, fds: 1 }),
        ];
        for (bytes, wanted) in cases {
            let error = Text::parse(&bytes).expect_err("it is at fault");
            assert!(!error.to_string().is_empty());
            assert_eq!(error, wanted, "{bytes:?}");
        }
    }

    fn any_pool() -> impl Strategy<Value = Text> {
        let plane = (any::<u32>(), any::<u32>());
        let frames = prop::collection::vec(prop::collection::vec(plane, 1..=4), 1..=16);
        (1..=32767u32, 1..=32767u32, any::<Option<u64>>(), frames).prop_map(
            |(width, height, modifier, frames)| {
                let mut fds = 0;
                let mut numbered = |(offset, pitch)| {
                    fds += 1;
                    FramePlane { buffer: fds - 1, offset, pitch }
                };
                let frames: Vec<Vec<_>> = frames
                    .into_iter()
                    .map(|planes| planes.into_iter().map(&mut numbered).collect())
                    .collect();
                let modifier = modifier
                    .map(DrmModifier::from)
                    .filter(|modifier| *modifier != DrmModifier::Invalid);
                let picture = Picture { width, height, format: DrmFourcc::Nv12, modifier };
                Text::Pool { picture, frames, fds: fds as usize }
            },
        )
    }

    fn any_text() -> impl Strategy<Value = Text> {
        prop_oneof![
            any_pool(),
            any::<(u32, u64, bool)>().prop_map(|(slot, number, fence)| Text::Ready {
                slot,
                number,
                fence
            }),
            any::<(u32, bool)>().prop_map(|(slot, fence)| Text::Released { slot, fence }),
            Just(Text::Goodbye(Farewell::Done)),
            Just(Text::Goodbye(Farewell::Refused)),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(text in any_text()) {
            let bytes = text.encode();
            prop_assert!(bytes.len() <= MAX_LEN);
            prop_assert_eq!(Text::parse(&bytes), Ok(text));
        }

        /// A message has one form: what is parsed and encoded again is the same bytes.
        #[test]
        fn what_is_parsed_is_encoded(
            text in any_text(), at: prop::sample::Index, to: u8, cut in 0..3usize,
        ) {
            let mut bytes = text.encode();
            let at = at.index(bytes.len());
            bytes[at] = to;
            bytes.truncate(bytes.len() - cut);
            if let Ok(text) = Text::parse(&bytes) {
                prop_assert_eq!(text.encode(), bytes);
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes: Vec<u8>) {
            prop_assert!(Text::parse(&bytes).is_err());
        }
    }
}
