//! The rows of the fault matrix that are about the process, the disk, the clock, MLLP and the destinations (F01 to F58): each
//! does the fault to the real engine and then checks the same invariant, see [`scene`]. `docs/faults.md` lists which row is
//! which test, and why some rows have none.

mod clock;
mod destinations;
mod disk;
mod kill;
mod limits;
mod mllp;
pub(crate) mod mounts;
mod network;
mod power;
mod process;
mod recovery;
mod scene;
mod shim;
mod tls;
