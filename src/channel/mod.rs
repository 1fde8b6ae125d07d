//! A channel: one file that says where messages come in, what becomes of them and where they go.

mod conflicts;
mod dispatch;
mod document;
mod doors;
mod lane;
mod links;
mod options;
mod output;
mod retry;
mod runtime;
mod schema;
mod spec;
mod split;
pub mod test;
mod worker;

pub use dispatch::{Dispatch, OnPoison};
pub use document::{Set, check_secrets, check_tests, load_folder, load_folder_beside, load_paths, parse};
pub use doors::Doors;
pub use lane::{HeldBy, LaneStatus};
pub use options::options_in_markdown;
pub use retry::Retry;
pub(crate) use runtime::Opened;
pub use runtime::{Channel, ChannelContext, State, TRANSFORMING_CHANNELS};
pub use schema::json_schema;
pub use spec::{ChannelSpec, DestinationSpec, Name};
