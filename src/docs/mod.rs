//! What is too long for the page of a type: the protocol on disk, how the promises were tested, and how fast it is.
//!
//! Each page is a file of Markdown in `src/docs`, which can be read there, too. Its links are defined twice: here, for
//! rustdoc, which takes the first definition, and at the end of the file, for those who read it in the repository.

pub mod protocol {
    #![doc = include_str!("protocol.md")]
}

pub mod proofs {
    //! [contributing]: https://docs.rs/crate/atomic-file-adapter/latest/source/CONTRIBUTING.md
    //! [fuzz]: https://docs.rs/crate/atomic-file-adapter/latest/source/CONTRIBUTING.md
    //! [root]: crate::Builder::lock_root
    #![doc = include_str!("proofs.md")]
}

pub mod comparison {
    //! [speed]: crate::docs::speed
    #![doc = include_str!("comparison.md")]
}

pub mod speed {
    //! [chart]: #pictures
    //! [curves]: #pictures
    #![doc = include_str!("speed.md")]
    //!
    //! # Pictures
    //!
    #![doc = include_str!("../../benches/chart.svg")]
    //!
    #![doc = include_str!("../../benches/curves.svg")]
}
