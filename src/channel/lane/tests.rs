//! The pure half of a lane: what may leave now, and what a result means.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration as StdDuration, Instant};

use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;

use super::judge::{Policy, Verdict};
use super::window::{Gate, Window};
use crate::channel::{OnPoison, Retry};
use crate::config::Duration;
use crate::destination::{Delivered, FaultClass, Rules, SendError};
use crate::journal::{Attempt, DeliveryId, DeliveryState, Holding, OrderKey, Queued};
use crate::message::MessageIds;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn at(seconds: i64) -> Timestamp {
    NOW + SignedDuration::from_secs(seconds)
}

fn key(number: u64) -> Option<OrderKey> {
    Some(OrderKey::of(&number.to_string()))
}

fn queued(sequence: u64, key: Option<OrderKey>) -> Queued {
    let id = DeliveryId { message: MessageIds::default().next(), destination: "peer".to_owned() };
    Queued { id, sequence, key, attempts: 0, next_at: None, received_at: NOW }
}

/// The journal's queue, in memory.
#[derive(Default)]
struct Queue(BTreeMap<u64, Queued>);

impl Queue {
    fn of(keys: &[Option<OrderKey>]) -> Queue {
        Queue((1..).zip(keys).map(|(sequence, key)| (sequence, queued(sequence, *key))).collect())
    }

    /// Lets the window read all that it wants.
    fn fill(&self, window: &mut Window) {
        while let Some((after, limit)) = window.wants() {
            let found: Vec<Queued> = self.0.range(after + 1..).take(limit).map(|(_, queued)| queued.clone()).collect();
            let before = window.wants();
            window.read(limit, found, Instant::now());
            if window.wants() == before {
                return;
            }
        }
    }
}

fn leave(window: &mut Window, now: Timestamp, gate: Gate) -> Vec<u64> {
    std::iter::from_fn(|| window.next(now, gate)).map(|(queued, _)| queued.sequence).collect()
}

fn filled(keyed: bool, parallel: usize, keys: &[Option<OrderKey>]) -> (Window, Queue) {
    let (mut window, queue) = (Window::new(keyed, parallel), Queue::of(keys));
    queue.fill(&mut window);
    (window, queue)
}

#[test]
fn without_keys_one_leaves_after_the_other() {
    let (mut window, _) = filled(false, 1, &[None, key(1), key(2)]);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [1]);
    assert_eq!(window.peek().map(|next| next.sequence), Some(2));
    window.sent(1);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [2]);
    window.back(2, Some(Queued { next_at: Some(at(5)), ..queued(2, key(1)) }), Instant::now());
    assert_eq!(leave(&mut window, at(4), Gate::Open), [0; 0], "it waits for its retry, and the rest for it");
    assert_eq!(window.next_due(Gate::Open), Some(at(5)));
    assert_eq!(leave(&mut window, at(5), Gate::Open), [2]);
    window.back(2, None, Instant::now());
    assert_eq!(leave(&mut window, at(5), Gate::Open), [3]);
}

#[test]
fn with_keys_only_the_own_key_waits() {
    let keys = [key(1), key(1), key(2), key(3), key(4), key(2)];
    let (mut window, _) = filled(true, 3, &keys);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [1, 3, 4]);
    window.back(1, Some(Queued { next_at: Some(at(9)), ..queued(1, key(1)) }), Instant::now());
    window.sent(3);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [5, 6]);
    window.sent(4);
    assert_eq!(leave(&mut window, at(8), Gate::Open), [0; 0], "the second of key 1 waits for the first");
    assert_eq!(leave(&mut window, at(9), Gate::Open), [1]);
}

#[test]
fn a_delivery_without_key_is_in_order_with_all_where_there_are_keys() {
    let (mut window, queue) = filled(true, 4, &[key(1), key(2), None, key(1), key(3)]);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [1, 2]);
    window.sent(1);
    queue.fill(&mut window);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [0; 0]);
    window.sent(2);
    queue.fill(&mut window);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [3]);
    queue.fill(&mut window);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [0; 0]);
    window.sent(3);
    queue.fill(&mut window);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [4, 5]);
}

#[test]
fn a_destination_that_is_down_is_tried_with_one() {
    let (mut window, _) = filled(true, 4, &[key(1), key(2), key(3)]);
    let gate = Gate::Probe(at(10));
    assert_eq!(leave(&mut window, at(9), gate), [0; 0]);
    assert_eq!(window.next_due(gate), Some(at(10)));
    assert_eq!(leave(&mut window, at(10), gate), [1]);
    assert_eq!(window.next_due(gate), None, "until it is known how that went");
    window.sent(1);
    assert_eq!(leave(&mut window, at(10), Gate::Open), [2, 3]);
}

#[test]
fn a_dead_letter_holds_up_what_comes_after_it() {
    let holding = |sequence, key| [Holding { id: queued(sequence, key).id, sequence, key }];
    let keys = [key(1), key(2), key(3), key(2)];
    for (on_poison, held, free) in [
        (OnPoison::HoldKey, holding(2, key(2)), vec![1, 3]),
        (OnPoison::Block, holding(2, key(2)), vec![1]),
        (OnPoison::HoldKey, holding(2, None), vec![1]),
        (OnPoison::DeadLetter, holding(2, key(2)), vec![1, 3, 4]),
    ] {
        let (mut window, mut queue) = filled(true, 4, &keys);
        // The dead letter itself waits no more.
        queue.0.remove(&2);
        window.start_over();
        queue.fill(&mut window);
        window.hold(&held, on_poison);
        assert_eq!(leave(&mut window, NOW, Gate::Open), free, "{on_poison:?}");
        free.iter().for_each(|place| window.sent(*place));
        // Somebody retries it: it has its place again.
        queue.0.insert(2, queued(2, held[0].key));
        queue.0.retain(|place, _| !free.contains(place));
        window.hold(&[], on_poison);
        window.start_over();
        queue.fill(&mut window);
        assert_eq!(leave(&mut window, NOW, Gate::Open).first(), Some(&2), "{on_poison:?}");
    }
}

#[test]
fn what_is_on_its_way_or_sent_is_not_read_again() {
    let (mut window, queue) = filled(true, 2, &[key(1), key(2), key(3)]);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [1, 2]);
    window.sent(1);
    window.start_over();
    queue.fill(&mut window);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [3]);
    window.settled(1);
    window.sent(2);
    window.sent(3);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [0; 0]);
}

#[test]
fn a_long_queue_is_read_in_parts() {
    for (keyed, limit) in [(false, 64), (true, 10_000)] {
        let keys: Vec<_> = (0..30_000).map(|number| if keyed { key(number % 5000) } else { None }).collect();
        let (mut window, queue) = filled(keyed, 1, &keys);
        let mut most = window.len();
        for place in 1..=keys.len() as u64 {
            assert_eq!(leave(&mut window, NOW, Gate::Open), [place]);
            window.sent(place);
            window.settled(place);
            queue.fill(&mut window);
            most = most.max(window.len());
        }
        assert!(most <= limit && most > limit / 2, "{most}");
        assert_eq!(window.len(), 0);
    }
}

#[test]
fn what_a_held_key_holds_up_takes_no_room() {
    let keys: Vec<_> = (0..40_000).map(|number| if number == 39_999 { key(2) } else { key(1) }).collect();
    let (mut window, mut queue) = (Window::new(true, 4), Queue::of(&keys));
    queue.0.remove(&1);
    window.hold(&[Holding { id: queued(1, key(1)).id, sequence: 1, key: key(1) }], OnPoison::HoldKey);
    queue.fill(&mut window);
    assert_eq!(leave(&mut window, NOW, Gate::Open), [40_000]);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Queue(u64),
    Sent,
    Retried,
    Died,
    Released,
    StartOver,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..5_u64).prop_map(Step::Queue),
        4 => Just(Step::Sent),
        2 => Just(Step::Retried),
        1 => Just(Step::Died),
        1 => Just(Step::Released),
        1 => Just(Step::StartOver),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Whatever happens in whatever order: each key keeps its order, nothing leaves twice at once, and in the end all is sent.
    #[test]
    fn order_is_kept_per_key(steps in steps(), keyed: bool, parallel in 1..5_usize) {
        let parallel = if keyed { parallel } else { 1 };
        let on_poison = if keyed { OnPoison::HoldKey } else { OnPoison::Block };
        let (mut window, mut queue) = (Window::new(keyed, parallel), Queue::default());
        let (mut sequence, mut leaving) = (0, Vec::new());
        let mut holding: Vec<Holding> = Vec::new();
        let mut sent: HashMap<Option<OrderKey>, u64> = HashMap::new();
        let finale = std::iter::repeat_n([Step::Released, Step::Sent], 800).flatten();
        for (turn, step) in (0..).zip(steps.into_iter().chain(finale)) {
            match step {
                Step::Queue(number) => {
                    sequence += 1;
                    queue.0.insert(sequence, queued(sequence, key(number).filter(|_| number > 0)));
                    window.queued();
                }
                Step::StartOver => window.start_over(),
                Step::Released => if let Some(released) = holding.pop() {
                    queue.0.insert(released.sequence, queued(released.sequence, released.key));
                    window.hold(&holding, on_poison);
                    window.start_over();
                },
                Step::Sent | Step::Retried | Step::Died if leaving.is_empty() => {}
                Step::Sent => {
                    let one: Queued = leaving.remove(0);
                    let order = one.key.filter(|_| keyed);
                    let before = sent.insert(order, one.sequence);
                    prop_assert!(before < Some(one.sequence), "{:?} was overtaken by {before:?}", one.sequence);
                    window.sent(one.sequence);
                    queue.0.remove(&one.sequence);
                    window.settled(one.sequence);
                }
                Step::Retried => {
                    let one: Queued = leaving.remove(0);
                    let again = Queued { next_at: Some(at(turn + 3)), ..one };
                    queue.0.insert(again.sequence, again.clone());
                    window.back(again.sequence, Some(again), Instant::now());
                }
                Step::Died => {
                    let one: Queued = leaving.remove(0);
                    queue.0.remove(&one.sequence);
                    holding.push(Holding { id: one.id, sequence: one.sequence, key: one.key });
                    holding.sort_by_key(|holding| holding.sequence);
                    window.hold(&holding, on_poison);
                    window.back(one.sequence, None, Instant::now());
                }
            }
            queue.fill(&mut window);
            while let Some((one, _)) = window.next(at(turn), Gate::Open) {
                leaving.push(one);
            }
            let orders: HashSet<_> = leaving.iter().map(|one| one.key.filter(|_| keyed)).collect();
            prop_assert!(leaving.len() <= parallel && orders.len() == leaving.len());
        }
        prop_assert!(queue.0.is_empty() && leaving.is_empty(), "{} are left", queue.0.len());
    }
}

fn policy(retry: Retry, on_poison: OnPoison) -> Policy {
    Policy { rules: Rules::default(), retry, on_poison }
}

fn attempt() -> Attempt {
    Attempt {
        started_at: NOW,
        duration_ms: 1,
        state: DeliveryState::Sent,
        next_at: None,
        error: None,
        counted: true,
        holds: false,
        to: None,
        answered: None,
        response: None,
    }
}

fn judge(policy: &Policy, error: SendError, attempts: u32, in_a_row: u32, now: i64) -> Verdict {
    let queued = Queued { attempts, ..queued(1, None) };
    policy.judge(Err(error), &queued, attempt(), in_a_row, (at(now), 1.0))
}

fn error(class: FaultClass) -> SendError {
    SendError::new(class, "no")
}

fn retry() -> Retry {
    Retry { attempts: Some(3), first: Duration::from_secs(10), longest: Duration::from_secs(60), max_age: None }
}

#[test]
fn a_success_is_sent() {
    let policy = policy(retry(), OnPoison::Block);
    let verdict = policy.judge(Ok(Delivered::default()), &queued(1, None), attempt(), 3, (NOW, 1.0));
    assert_eq!((verdict.attempt.state, verdict.down_until), (DeliveryState::Sent, None));
}

#[test]
fn a_fault_is_retried_until_its_attempts_are_used_up() {
    let policy = policy(retry(), OnPoison::Block);
    for (attempts, state, next_at) in [
        (0, DeliveryState::Retrying, Some(at(10))),
        (1, DeliveryState::Retrying, Some(at(20))),
        (2, DeliveryState::Dead, None),
    ] {
        let verdict = judge(&policy, error(FaultClass::Ae), attempts, 0, 0);
        let Attempt { state: found, next_at: due, counted, holds, .. } = verdict.attempt;
        assert_eq!((found, due, counted), (state, next_at, true), "{attempts}");
        assert_eq!(holds, state == DeliveryState::Dead);
        assert_eq!((verdict.down_until, verdict.pauses), (None, false), "one message says nothing of the destination");
    }
}

#[test]
fn a_destination_at_fault_is_down_and_a_pause_burns_no_attempts() {
    let policy = policy(retry(), OnPoison::DeadLetter);
    let refused = judge(&policy, error(FaultClass::Refused), 0, 2, 0);
    assert_eq!(refused.down_until, Some(at(40)), "the third fault in a row");
    assert_eq!((refused.attempt.state, refused.attempt.counted), (DeliveryState::Retrying, true));
    let last = judge(&policy, error(FaultClass::Refused), 2, 2, 0);
    assert_eq!((last.attempt.state, last.attempt.holds), (DeliveryState::Dead, false));
    assert_eq!(last.down_until, Some(at(40)), "the next one waits, too");
    let paused = judge(&policy, error(FaultClass::Authentication), 99, 0, 0);
    assert!(paused.pauses && !paused.attempt.counted && paused.attempt.state == DeliveryState::Retrying);
    assert_eq!(paused.down_until, Some(at(60)));
    let rejected = judge(&policy, error(FaultClass::Ar), 0, 0, 0);
    assert_eq!((rejected.attempt.state, rejected.down_until), (DeliveryState::Dead, None));
}

#[test]
fn what_is_too_old_is_given_up_also_when_the_destination_was_paused() {
    let policy = policy(Retry { max_age: Some(Duration::from_secs(100)), ..retry() }, OnPoison::Block);
    for (class, attempts) in [(FaultClass::Ae, 0), (FaultClass::Dns, 7)] {
        let young = judge(&policy, error(class), attempts, 0, 95);
        assert_eq!(young.attempt.next_at, Some(at(100)), "{class:?}: one more try when the age is reached");
        assert_eq!(judge(&policy, error(class), attempts, 0, 100).attempt.state, DeliveryState::Dead, "{class:?}");
    }
}

#[test]
fn a_peers_wish_for_when_to_come_back_is_honoured() {
    let policy = policy(retry(), OnPoison::Block);
    let hours = |hours: u64| StdDuration::from_secs(3600 * hours);
    for (wish, next_at) in [(1, at(3600)), (1000, at(24 * 3600)), (0, at(10))] {
        let verdict = judge(&policy, error(FaultClass::Status(429)).after(hours(wish)), 0, 0, 0);
        assert_eq!((verdict.attempt.next_at, verdict.down_until), (Some(next_at), Some(next_at)), "{wish} h");
    }
}
