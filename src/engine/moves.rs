//! Reload, the part about sources: channels whose `[source]` changed get it open before they give up the old one, and where they
//! want each other's ports, all of them let go first. A channel whose new source cannot be opened keeps the old one.

use std::sync::Arc;

use crate::channel::{Channel, ChannelSpec, Opened};

/// A channel with a new source.
pub(super) struct Move {
    channel: Arc<Channel>,
    next: Next,
}

enum Next {
    Open(Box<Opened>),
    Refused { spec: Box<ChannelSpec>, error: String },
}

/// A move that could not be made.
pub(super) struct Stuck {
    pub(super) channel: Arc<Channel>,
    pub(super) spec: ChannelSpec,
    pub(super) error: String,
}

impl Move {
    async fn try_open(channel: Arc<Channel>, spec: ChannelSpec) -> Move {
        let next = match channel.open_beside(spec).await {
            Ok(opened) => Next::Open(Box::new(opened)),
            Err(refused) => Next::Refused { spec: Box::new(refused.0), error: refused.1.to_string() },
        };
        Move { channel, next }
    }

    fn new_spec(&self) -> &ChannelSpec {
        match &self.next {
            Next::Open(opened) => opened.spec(),
            Next::Refused { spec, .. } => spec,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self.next, Next::Open(_))
    }

    /// Whether it wants what that channel holds now.
    fn wants_what_is_held_by(&self, other: &Channel) -> bool {
        let held = other.spec().source.resources();
        let wanted = self.new_spec().source.resources();
        wanted.iter().any(|wanted| held.iter().any(|held| held.conflicts_with(wanted)))
    }

    fn stuck(self) -> Stuck {
        match self.next {
            Next::Open(opened) => {
                let error = "the channel that has its port keeps it".to_owned();
                Stuck { channel: self.channel, spec: opened.into_spec(), error }
            }
            Next::Refused { spec, error } => Stuck { channel: self.channel, spec: *spec, error },
        }
    }
}

/// Makes the moves that can be made; gives the channels that moved, and the moves that could not be made. Nothing is closed for
/// a move that has no chance.
pub(super) async fn make(wanted: Vec<(Arc<Channel>, ChannelSpec)>) -> (Vec<Arc<Channel>>, Vec<Stuck>) {
    let mut moves = Vec::new();
    for (channel, spec) in wanted {
        moves.push(Move::try_open(channel, spec).await);
    }
    // Who stays keeps its port, so that who waits for that port stays, too.
    let mut stuck = Vec::new();
    while let Some(at) = moves
        .iter()
        .position(|one| !one.is_open() && !moves.iter().any(|other| one.wants_what_is_held_by(&other.channel)))
    {
        stuck.push(moves.remove(at).stuck());
    }
    let in_the_way = |held: &&Move| moves.iter().any(|one| !one.is_open() && one.wants_what_is_held_by(&held.channel));
    let released: Vec<Arc<Channel>> = moves.iter().filter(in_the_way).map(|held| held.channel.clone()).collect();
    for channel in &released {
        channel.release().await;
    }
    let mut tried = Vec::new();
    for one in moves {
        tried.push(match one.next {
            Next::Refused { spec, .. } => Move::try_open(one.channel, *spec).await,
            Next::Open(_) => one,
        });
    }
    let mut moves = tried;
    while let Some(at) = moves
        .iter()
        .position(|one| !one.is_open() || stuck.iter().any(|stays| one.wants_what_is_held_by(&stays.channel)))
    {
        stuck.push(moves.remove(at).stuck());
    }
    let mut moved = Vec::new();
    for one in moves {
        if let Next::Open(opened) = one.next {
            one.channel.replace_opened(*opened).await;
            moved.push(one.channel);
        }
    }
    for channel in released.iter().filter(|channel| !moved.iter().any(|moved| Arc::ptr_eq(moved, channel))) {
        channel.reopen().await;
    }
    (moved, stuck)
}
