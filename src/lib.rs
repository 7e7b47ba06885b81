//! One handle on a buffer wherever it lives, and files moved into it by DMA.

pub mod load;
