//! A laboratory for power cuts. It records what a program writes to the disk. Then it mounts each disk that a power cut
//! could have left, and looks at it.
//!
//! | module | |
//! |---|---|
//! | [`commit`] | commits of a file system that the sync of a file does not make |
//! | [`disk`] | a disk that records writes, flushes and the marks of a test in one order |
//! | [`device`] | the behaviour of that disk: it works, it fails, or it lies |
//! | [`file_system`] | the file systems, and how they are made, mounted and checked |
//! | [`lab`] | a real file system on a loop device on that disk |
//! | [`mounted`] | a mounted file system |
//! | [`viewer`] | a device in memory for looking at many disks, faster than the recording disk |
//! | [`others`] | more file systems that few people use |
//! | [`states`] | the disks that a power cut may leave, from the record |
//! | [`loop_device`] | a loop device, which makes a file a block device |
//! | [`verdict`] | which versions may exist after a power cut |
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
pub mod mounted;
pub mod others;
pub mod random;
pub mod states;
pub mod verdict;
pub mod viewer;
