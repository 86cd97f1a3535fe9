//! Files, adapters, guards, and all operations on them, compared with a plain model in memory. The targets `operations`
//! and `faults` use this.

mod calls;
mod judge;
mod language;
mod model;
mod world;

pub use self::language::{Faults, Op};
pub use self::world::World;
