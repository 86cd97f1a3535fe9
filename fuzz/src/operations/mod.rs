//! Files, adapters, guards, and everything that can be done with them, beside a plain model in memory: for the targets
//! `operations` and `faults`.

mod calls;
mod judge;
mod language;
mod model;
mod world;

pub use self::language::{Faults, Op};
pub use self::world::World;
