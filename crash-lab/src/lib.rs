//! A laboratory for power cuts: what a program writes is recorded on its way to the disk, and then each disk that a power
//! cut could have left is mounted and looked at.
//!
//! | module | |
//! |---|---|
//! | [`commit`] | the commits of a file system that the sync of a file is not |
//! | [`disk`] | a disk that records what is written to it, its flushes, and the marks of a test, in one order |
//! | [`device`] | how that disk behaves: as it should, as one that fails, or as one that lies |
//! | [`file_system`] | which file systems there are, and how they are made, mounted and checked |
//! | [`lab`] | a real file system on a loop device on that disk |
//! | [`viewer`] | a device in memory, on which many disks are looked at, faster than on that disk |
//! | [`others`] | more file systems, which few people use |
//! | [`states`] | from the record, the disks that a power cut may leave |
//! | [`loop_device`] | a loop device, which makes a block device of a file |
//! | [`verdict`] | what may be there after a power cut, and what may not |
//! | [`calls`] | another program, stopped before each of its system calls that changes the file system |
//! | [`random`] | numbers that are the same in every run with the same seed |
//!
//! The program of the same name judges other programs with it: `crash-lab --help`. All of it needs Linux, root, `/dev/fuse`,
//! loop devices, and the programs of the file system.
#![cfg(target_os = "linux")]

pub mod calls;
pub mod commit;
pub mod device;
pub mod disk;
pub mod file_system;
pub mod lab;
pub mod loop_device;
pub mod others;
pub mod random;
pub mod states;
pub mod verdict;
pub mod viewer;
