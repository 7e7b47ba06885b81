//! Framebuffers: buffers with the format that makes a picture of them, for a display to show.
//!
//! It goes both ways: [`Card::framebuffer`] makes one of GEM handles, imported ones too, and
//! [`Card::framebuffer_planes`] takes the one that is on a screen apart into dma-bufs. To show one is
//! *mode setting*, which the crate `drm` does on [`Card`]'s file by the framebuffer's
//! [`id`](Framebuffer::id).

use std::num::NonZeroU32;

use drm::control::Device as _;
use drm::{buffer, control};
use drm_fourcc::{DrmFourcc, DrmModifier};

use super::{Card, DrmError, Gem};
use crate::Absent;
use crate::frame::{Frame, FramePlane, MAX_PLANES, Picture};

/// A framebuffer, with the handles of its buffers. It is removed when dropped, and a display that
/// shows it goes dark.
#[derive(Debug)]
pub struct Framebuffer {
    id: control::framebuffer::Handle,
    card: Card,
}

impl Framebuffer {
    /// Its number on the card, for mode setting.
    pub fn id(&self) -> NonZeroU32 {
        self.id.into()
    }
}

impl Drop for Framebuffer {
    fn drop(&mut self) {
        // Refused only to a number that is no framebuffer, and this one is ours alone.
        let _ = self.card.device().destroy_framebuffer(self.id);
    }
}

impl Card {
    /// Makes a framebuffer of one to four planes (`DRM_IOCTL_MODE_ADDFB2`). It keeps the buffers
    /// alive, so that the handles may be dropped. The kernel checks that the planes lie within their
    /// buffers.
    ///
    /// # Errors
    /// [`DrmError::OtherFile`] for a handle of another card; [`DrmError::Planes`] for no plane or
    /// more than four; [`DrmError::Kernel`] for what the driver does not show.
    ///
    /// ```no_run
    /// use exporters::drm::{Card, Node};
    /// use exporters::frame::{DrmFourcc, FramePlane, Picture};
    /// # fn frame_of_another_process() -> exporters::DmaBuf { unimplemented!() }
    ///
    /// let card = Card::find("bochs-drm", Node::Primary)?;
    /// let frame = card.import(&frame_of_another_process())?;
    /// let format = DrmFourcc::Xrgb8888;
    /// let picture = Picture { width: 1280, height: 800, format, modifier: None };
    /// let planes = [FramePlane { buffer: &frame, offset: 0, pitch: 5120 }];
    /// println!("framebuffer {}", card.framebuffer(picture, &planes)?.id());
    /// # Ok::<(), exporters::drm::DrmError>(())
    /// ```
    pub fn framebuffer(
        &self,
        picture: Picture,
        planes: &[FramePlane<&Gem>],
    ) -> Result<Framebuffer, DrmError> {
        if !(1..=MAX_PLANES).contains(&planes.len()) {
            return Err(DrmError::Planes { card: self.path().to_owned(), count: planes.len() });
        }
        planes.iter().try_for_each(|plane| self.must_be(plane.buffer.card()))?;
        // `DRM_FORMAT_MOD_INVALID` says "implicit", and is said by leaving the modifier out.
        let modifier = picture.modifier.filter(|modifier| *modifier != DrmModifier::Invalid);
        let flags = match modifier {
            Some(_) => control::FbCmd2Flags::MODIFIERS,
            None => control::FbCmd2Flags::empty(),
        };
        let planar = Planar { picture: Picture { modifier, ..picture }, planes };
        let id = self.device().add_planar_framebuffer(&planar, flags);
        let id = id.map_err(self.failed("DRM_IOCTL_MODE_ADDFB2"))?;
        Ok(Framebuffer { id, card: self.clone() })
    }

    /// Takes a framebuffer of any process apart: the picture, and its planes as dma-bufs
    /// (`DRM_IOCTL_MODE_GETFB2`, since Linux 5.7). Its number is found by mode setting, at the CRTC
    /// or plane that shows it.
    ///
    /// # Errors
    /// [`DrmError::Unavailable`] to whoever is neither the master of the displays nor root, to whom
    /// the kernel does not tell the buffers, and for a format that the crate `drm-fourcc` does not
    /// know; [`DrmError::Kernel`] for a number that is no framebuffer.
    pub fn framebuffer_planes(&self, id: NonZeroU32) -> Result<Frame, DrmError> {
        let (found, gems) = self.framebuffer_buffers(id)?;
        let (width, height) = found.size();
        let (format, modifier) = (found.pixel_format(), found.modifier());
        let mut planes = Vec::new();
        for (index, gem) in gems.iter().enumerate() {
            planes.push(FramePlane {
                buffer: gem.dma_buf()?,
                offset: found.offsets()[index],
                pitch: found.pitches()[index],
            });
        }
        if planes.is_empty() {
            return Err(DrmError::Unavailable(Absent::new(
                format!("the buffers of framebuffer {id} are kept from this user"),
                "be root, or the master of the card's displays",
            )));
        }
        Ok(Frame { picture: Picture { width, height, format, modifier }, planes })
    }

    /// The kernel makes new handles for whoever asks, one a buffer however many planes are in it.
    fn framebuffer_buffers(
        &self,
        id: NonZeroU32,
    ) -> Result<(control::framebuffer::PlanarInfo, Vec<Gem>), DrmError> {
        use control::GetPlanarFramebufferError::{Io, UnrecognizedFourcc};
        Gem::own_all(self, || {
            let found = self.device().get_planar_framebuffer(id.into());
            let found = found.map_err(|e| match e {
                Io(e) => self.failed("DRM_IOCTL_MODE_GETFB2")(e),
                UnrecognizedFourcc(e) => DrmError::Unavailable(Absent::new(
                    format!("framebuffer {id} has a format that is not known: {e}"),
                    "take a newer drm-fourcc",
                )),
            })?;
            let handles = found.buffers().into_iter().flatten().map(Into::into).collect();
            Ok((found, handles))
        })
    }
}

/// A picture and its planes as the crate `drm` takes them.
struct Planar<'a> {
    picture: Picture,
    planes: &'a [FramePlane<&'a Gem>],
}

impl Planar<'_> {
    fn of_each<T: Default + Copy>(
        &self,
        field: impl Fn(&FramePlane<&Gem>) -> T,
    ) -> [T; MAX_PLANES] {
        let mut all = [T::default(); MAX_PLANES];
        for (slot, plane) in all.iter_mut().zip(self.planes) {
            *slot = field(plane);
        }
        all
    }
}

impl buffer::PlanarBuffer for Planar<'_> {
    fn size(&self) -> (u32, u32) {
        (self.picture.width, self.picture.height)
    }

    fn format(&self) -> DrmFourcc {
        self.picture.format
    }

    fn modifier(&self) -> Option<DrmModifier> {
        self.picture.modifier
    }

    fn pitches(&self) -> [u32; 4] {
        self.of_each(|plane| plane.pitch)
    }

    fn handles(&self) -> [Option<buffer::Handle>; 4] {
        self.of_each(|plane| Some(plane.buffer.handle().into()))
    }

    fn offsets(&self) -> [u32; 4] {
        self.of_each(|plane| plane.offset)
    }
}
