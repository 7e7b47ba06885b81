//! A display of a card's that is to show what a test says.

use bufmap::exporters::drm::{Card, Framebuffer, Node};
use drm::Device as _;
use drm::control::{Device as _, Mode, connector, crtc};
use libtest_mimic::Failed;

use crate::Outcome;
use crate::drm_file::DrmFile;

/// The first display of a card, at 640 x 480 pixels.
#[derive(Debug)]
pub struct Display {
    /// The card, whose displays' master it is.
    pub card: Card,
    /// What reads the framebuffer out.
    pub crtc: crtc::Handle,
    connector: connector::Handle,
    mode: Mode,
}

impl Display {
    /// The display of the driver's card.
    ///
    /// # Errors
    /// Fails the test if there is none, or if another program has it.
    pub fn of(driver: &str) -> Result<Self, Failed> {
        let card = Card::find(driver, Node::Primary)?;
        let file = DrmFile(&card);
        file.acquire_master_lock()?;
        let resources = file.resource_handles()?;
        let connector = *resources.connectors().first().ok_or("no connector")?;
        let crtc = *resources.crtcs().first().ok_or("no CRTC")?;
        let modes = file.get_connector(connector, true)?.modes().to_vec();
        let small = modes.iter().find(|mode| mode.size() == (640, 480));
        let mode = *small.ok_or("no mode of 640 x 480")?;
        Ok(Self { card, crtc, connector, mode })
    }

    /// Shows a framebuffer.
    ///
    /// # Errors
    /// Fails the test if the driver refuses.
    pub fn show(&self, framebuffer: &Framebuffer) -> Outcome {
        let (id, mode) = (Some(framebuffer.id().into()), Some(self.mode));
        Ok(DrmFile(&self.card).set_crtc(self.crtc, id, (0, 0), &[self.connector], mode)?)
    }

    /// Lets another program be the displays' master. What is shown stays.
    ///
    /// # Errors
    /// Fails the test if the driver refuses.
    pub fn let_go(&self) -> Outcome {
        Ok(DrmFile(&self.card).release_master_lock()?)
    }
}
