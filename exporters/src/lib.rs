//! Where buffers come from, and how they leave the process.
