//! What is too long for the page of a type: recipes, limits, the protocol on disk, how the promises were tested, how fast it is.
//!
//! Each page is a file of Markdown in `src/docs`, and can be read there, too. Its links are defined twice: here, for rustdoc,
//! which takes the first definition, and at the end of the file, for readers of the repository.

pub mod recipes {
    //! [protocol]: crate::docs::protocol
    //! [python]: https://docs.rs/crate/atomic-file-adapter/latest/source/tests/interop/atomic_file.py
    #![doc = include_str!("recipes.md")]
}

pub mod limits {
    //! [calls]: crate::docs::system_calls#on-nfs
    //! [failing]: crate::docs::proofs#a-device-that-fails
    //! [matrix]: crate::docs::proofs#on-which-file-systems
    //! [proofs]: crate::docs::proofs
    //! [protocol]: crate::docs::protocol
    #![doc = include_str!("limits.md")]
}

pub mod system_calls {
    #![doc = include_str!("system_calls.md")]
}

pub mod protocol {
    //! [python]: https://docs.rs/crate/atomic-file-adapter/latest/source/tests/interop/atomic_file.py
    //! [vectors]: https://docs.rs/crate/atomic-file-adapter/latest/source/tests/vectors/README.md
    #![doc = include_str!("protocol.md")]
}

pub mod proofs {
    //! [contributing]: https://docs.rs/crate/atomic-file-adapter/latest/source/CONTRIBUTING.md
    //! [fuzz]: https://docs.rs/crate/atomic-file-adapter/latest/source/CONTRIBUTING.md
    //! [limits]: crate::docs::limits#containers-fuse
    //! [power]: crate::docs::limits#the-power-goes
    //! [promise]: crate#the-promise
    //! [root]: crate::Builder::lock_root
    #![doc = include_str!("proofs.md")]
}

pub mod speed {
    //! [calls]: crate::docs::system_calls
    //! [chart]: #pictures
    //! [crash]: crate::docs::proofs#every-crash-state
    //! [curves]: #pictures
    #![doc = include_str!("speed.md")]
    //!
    //! # Pictures
    //!
    #![doc = include_str!("../../benches/chart.svg")]
    //!
    #![doc = include_str!("../../benches/curves.svg")]
}

pub mod comparison {
    //! [speed]: crate::docs::speed
    #![doc = include_str!("comparison.md")]
}
