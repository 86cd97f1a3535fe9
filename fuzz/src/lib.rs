//! Code that the fuzz targets share.

pub mod operations;
pub mod protocol;
pub mod sandbox;
