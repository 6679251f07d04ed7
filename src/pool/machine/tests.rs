//! The table row by row, then whole lives, then what must hold whatever happens.
//! No process, no socket, no sleep: every instant is a number of milliseconds after one start.

use std::collections::VecDeque;
use std::mem::discriminant;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::Action::*;
use super::Event::*;
use super::State::*;
use super::*;

fn at(ms: u64) -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_millis(ms)
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

// ---- Machines to begin with.

fn timing() -> Timing {
    Timing { start_timeout: ms(10_000), stop: Some(ms(80_000)), look: ms(10_000) }
}

/// A pool in `state` that nobody wants to end; it answers 503 in backoff.
fn calm(state: State) -> Machine {
    Machine { state, ..Machine::new(timing(), true, 0.0) }
}

const DRAIN_FROM: u64 = 100_000;
const DRAIN_HALF: u64 = 115_000;
const DRAIN_END: u64 = 130_000;

/// A pool in `state` that drains from `DRAIN_FROM` to `DRAIN_END`.
fn draining(state: State) -> Machine {
    let drain = super::Drain { since: at(DRAIN_FROM), until: at(DRAIN_END), quit_sent: false };
    Machine { drain: Some(drain), ..calm(state) }
}

/// As `draining`, after its SIGQUIT.
fn told_to_quit(state: State) -> Machine {
    let drain = super::Drain { since: at(DRAIN_FROM), until: at(DRAIN_END), quit_sent: true };
    Machine { drain: Some(drain), ..calm(state) }
}

/// Its last generation has failed.
fn failed_before(machine: Machine) -> Machine {
    Machine { failures: 1, ..machine }
}

/// `on_failure = "hold"`.
fn holding(machine: Machine) -> Machine {
    Machine { answers_503: false, ..machine }
}

/// `stop = "never"`.
fn unstopped(machine: Machine) -> Machine {
    Machine { timing: Timing { stop: None, ..timing() }, ..machine }
}

fn launched(since: u64) -> State {
    Starting { since: at(since), ready: false, pause: ms(1) }
}

fn ready(since: u64, pause: u64) -> State {
    Starting { since: at(since), ready: true, pause: ms(pause) }
}

fn warm(quiet_since: u64, since: u64) -> State {
    Warm { quiet_since: at(quiet_since), since: at(since) }
}

fn freezing(since: u64, warm_since: u64) -> State {
    Freezing { since: at(since), warm_since: at(warm_since) }
}

fn stopping(then: After) -> State {
    Stopping { then }
}

fn backoff(until: u64) -> State {
    Backoff { until: at(until) }
}

fn drain(until: u64, waiting: bool) -> Event {
    Event::Drain { until: at(until), waiting }
}

fn exited(waiting: bool) -> Event {
    Exited { waiting }
}

fn inspected(busy: bool) -> Event {
    Inspected { busy }
}

fn looked(active: bool) -> Event {
    Looked { active }
}

// ---- The table, row by row.

/// One row: this machine, this event at this millisecond, that state and those actions.
struct Row {
    before: Machine,
    event: Event,
    now: u64,
    after: State,
    actions: Vec<Action>,
}

fn row(before: Machine, event: Event, now: u64, after: State, actions: &[Action]) -> Row {
    Row { before, event, now, after, actions: actions.to_vec() }
}

fn check(rows: Vec<Row>) {
    for Row { before, event, now, after, actions } in rows {
        let mut machine = before.clone();
        let told = machine.on(event, at(now));
        assert_eq!((machine.state, told), (after, actions), "{event:?} at {now} ms on {before:?}");
    }
}

fn cold_rows() -> Vec<Row> {
    vec![
        row(calm(Cold), Connection, 5, launched(5), &[Unwatch, Launch]),
        row(calm(Cold), drain(90, false), 5, Ended, &[StopListening, Unwatch, Refuse]),
        row(calm(Cold), drain(90, true), 5, launched(5), &[StopListening, Unwatch, Launch]),
        row(holding(calm(Cold)), drain(90, false), 5, Ended, &[StopListening, Unwatch]),
        row(holding(calm(Cold)), drain(90, true), 5, launched(5), &[StopListening, Unwatch, Launch]),
    ]
}

fn starting_rows() -> Vec<Row> {
    let late = stopping(After::Backoff);
    vec![
        row(calm(launched(0)), Ready, 5, ready(0, 1), &[AskAccepted]),
        row(calm(ready(0, 4)), Ready, 5, ready(0, 4), &[AskAccepted]),
        row(calm(ready(0, 8)), Relaunched, 7, launched(7), &[]),
        row(calm(launched(0)), Relaunched, 7, launched(7), &[]),
        row(calm(ready(0, 1)), Accepted(true), 7, warm(7, 7), &[ReportStarted]),
        row(calm(ready(0, 1)), Accepted(false), 7, ready(0, 2), &[]),
        row(calm(ready(0, 32)), Accepted(false), 7, ready(0, 64), &[]),
        row(calm(ready(0, 64)), Accepted(false), 7, ready(0, 64), &[]),
        row(calm(ready(0, 2)), Deadline, 9_999, ready(0, 2), &[AskAccepted]),
        row(calm(ready(0, 2)), Deadline, 10_000, late, &[ReportTimeout, Kill]),
        row(calm(launched(0)), Deadline, 10_000, late, &[ReportTimeout, Kill]),
        row(calm(launched(0)), exited(true), 5, backoff(1_005), &[ReportExit, Watch]),
        row(calm(ready(0, 1)), exited(false), 5, backoff(1_005), &[ReportExit, Watch]),
        row(holding(calm(launched(0))), exited(true), 5, backoff(1_005), &[ReportExit]),
        row(calm(launched(0)), LaunchFailed, 5, backoff(1_005), &[Watch]),
        row(holding(calm(launched(0))), LaunchFailed, 5, backoff(1_005), &[]),
        row(calm(launched(0)), drain(90, true), 5, launched(0), &[StopListening]),
        row(calm(ready(0, 8)), drain(90, false), 5, ready(0, 8), &[StopListening]),
    ]
}

fn starting_rows_while_draining() -> Vec<Row> {
    let launched = launched(125_000);
    let ready = |pause| ready(125_000, pause);
    let over = stopping(After::Ended);
    let early = Starting { since: at(DRAIN_FROM), ready: false, pause: ms(1) };
    vec![
        row(draining(launched), Ready, 125_005, ready(1), &[AskAccepted]),
        row(draining(ready(1)), Accepted(true), 125_006, warm(125_006, 125_006), &[ReportStarted]),
        row(draining(ready(1)), Accepted(false), 125_006, ready(2), &[]),
        row(draining(ready(2)), Deadline, 125_007, ready(2), &[AskAccepted]),
        row(draining(early), Deadline, 110_000, over, &[ReportTimeout, Kill]),
        row(draining(launched), Deadline, DRAIN_END, over, &[ReportCut, Kill]),
        row(draining(launched), exited(true), 125_005, Ended, &[ReportExit, Refuse]),
        row(holding(draining(launched)), exited(true), 125_005, Ended, &[ReportExit]),
        row(draining(launched), LaunchFailed, 125_005, Ended, &[Refuse]),
        row(holding(draining(launched)), LaunchFailed, 125_005, Ended, &[]),
        row(draining(launched), drain(DRAIN_END, true), 125_005, launched, &[StopListening]),
    ]
}

fn warm_rows() -> Vec<Row> {
    vec![
        row(calm(warm(0, 0)), Deadline, 10_000, warm(0, 0), &[Look]),
        row(unstopped(calm(warm(0, 0))), Deadline, 10_000, warm(0, 0), &[]),
        row(calm(warm(0, 0)), looked(true), 10_000, warm(10_000, 0), &[]),
        row(calm(warm(0, 0)), looked(true), 80_000, warm(80_000, 0), &[]),
        row(calm(warm(0, 0)), looked(false), 79_999, warm(0, 0), &[]),
        row(calm(warm(0, 0)), looked(false), 80_000, freezing(80_000, 0), &[Freeze]),
        row(unstopped(calm(warm(0, 0))), looked(false), 900_000, warm(0, 0), &[]),
        row(calm(warm(0, 0)), exited(true), 59_999, Cold, &[ReportExit, Watch]),
        row(failed_before(calm(warm(0, 0))), exited(true), 59_999, backoff(61_999), &[ReportExit, Watch]),
        row(failed_before(holding(calm(warm(0, 0)))), exited(true), 59_999, backoff(61_999), &[ReportExit]),
        row(calm(warm(0, 0)), exited(false), 60_000, Cold, &[ReportExit, Watch]),
        row(failed_before(calm(warm(0, 0))), exited(false), 60_000, Cold, &[ReportExit, Watch]),
        row(holding(calm(warm(0, 0))), exited(true), 60_000, Cold, &[ReportExit, Watch]),
        row(calm(warm(0, 0)), drain(90, false), 5, freezing(5, 0), &[StopListening, Freeze]),
        row(calm(warm(0, 0)), drain(90, true), 5, freezing(5, 0), &[StopListening, Freeze]),
    ]
}

fn warm_rows_while_draining() -> Vec<Row> {
    let warm = warm(95_000, 0);
    let young = Warm { quiet_since: at(95_000), since: at(95_000) };
    let again = launched(110_000);
    let cut = stopping(After::Ended);
    vec![
        row(draining(warm), Deadline, DRAIN_HALF - 1, freezing(DRAIN_HALF - 1, 0), &[Freeze]),
        row(draining(warm), Deadline, DRAIN_HALF, warm, &[Quit]),
        row(told_to_quit(warm), Deadline, DRAIN_HALF, freezing(DRAIN_HALF, 0), &[Freeze]),
        row(told_to_quit(warm), Deadline, DRAIN_END - 1, freezing(DRAIN_END - 1, 0), &[Freeze]),
        row(told_to_quit(warm), Deadline, DRAIN_END, cut, &[ReportCut, Kill]),
        row(draining(warm), Deadline, DRAIN_END, cut, &[ReportCut, Kill]),
        row(draining(warm), looked(false), 110_000, warm, &[]),
        row(draining(warm), looked(true), 110_000, Warm { quiet_since: at(110_000), since: at(0) }, &[]),
        row(draining(young), exited(true), 110_000, again, &[ReportExit, Unwatch, Launch]),
        row(failed_before(draining(young)), exited(true), 110_000, Ended, &[ReportExit, Refuse]),
        row(draining(warm), exited(true), 110_000, again, &[ReportExit, Unwatch, Launch]),
        row(draining(warm), exited(true), DRAIN_END, Ended, &[ReportExit, Refuse]),
        row(draining(warm), exited(false), 110_000, Ended, &[ReportExit, Refuse]),
        row(told_to_quit(young), exited(true), 110_000, again, &[Unwatch, Launch]),
        row(told_to_quit(warm), exited(false), 120_000, Ended, &[Refuse]),
        row(draining(warm), drain(DRAIN_END, true), 110_000, freezing(110_000, 0), &[StopListening, Freeze]),
    ]
}

fn freezing_rows() -> Vec<Row> {
    let freezing = |warm_since| freezing(80_000, warm_since);
    vec![
        row(calm(freezing(0)), inspected(false), 80_005, stopping(After::Cold), &[Kill]),
        row(calm(freezing(0)), inspected(true), 80_005, warm(80_005, 0), &[Thaw]),
        row(calm(freezing(0)), FreezeFailed, 80_005, warm(80_005, 0), &[Thaw]),
        row(calm(freezing(0)), Deadline, 80_500, warm(80_500, 0), &[Thaw]),
        row(calm(freezing(0)), exited(false), 80_005, Cold, &[ReportExit, Watch]),
        row(calm(freezing(50_000)), exited(false), 80_005, Cold, &[ReportExit, Watch]),
        row(
            failed_before(calm(freezing(50_000))),
            exited(false),
            80_005,
            backoff(82_005),
            &[ReportExit, Watch],
        ),
        row(calm(freezing(0)), drain(90_000, true), 80_005, freezing(0), &[StopListening]),
    ]
}

fn freezing_rows_while_draining() -> Vec<Row> {
    let frozen = freezing(110_000, 0);
    let young = freezing(110_000, 95_000);
    let again = launched(110_005);
    vec![
        row(draining(frozen), inspected(false), 110_005, stopping(After::Cold), &[Kill]),
        row(draining(frozen), inspected(true), 110_005, warm(110_005, 0), &[Thaw]),
        row(draining(frozen), FreezeFailed, 110_005, warm(110_005, 0), &[Thaw]),
        row(draining(frozen), Deadline, 110_500, warm(110_500, 0), &[Thaw]),
        row(draining(frozen), exited(true), 110_005, again, &[ReportExit, Unwatch, Launch]),
        row(draining(frozen), exited(false), 110_005, Ended, &[ReportExit, Refuse]),
        row(draining(young), exited(true), 110_005, again, &[ReportExit, Unwatch, Launch]),
        row(failed_before(draining(young)), exited(true), 110_005, Ended, &[ReportExit, Refuse]),
        row(told_to_quit(young), exited(true), 110_005, again, &[Unwatch, Launch]),
        row(told_to_quit(young), exited(false), 110_005, Ended, &[Refuse]),
        row(draining(frozen), drain(DRAIN_END, true), 110_005, frozen, &[StopListening]),
    ]
}

fn stopping_rows() -> Vec<Row> {
    let idle = stopping(After::Cold);
    let failed = stopping(After::Backoff);
    let over = stopping(After::Ended);
    vec![
        row(calm(idle), exited(false), 5, Cold, &[Watch]),
        row(calm(idle), exited(true), 5, Cold, &[Watch]),
        row(calm(failed), exited(true), 5, backoff(1_005), &[Watch]),
        row(holding(calm(failed)), exited(true), 5, backoff(1_005), &[]),
        row(calm(idle), drain(90, true), 5, idle, &[StopListening]),
        row(calm(failed), drain(90, true), 5, failed, &[StopListening]),
        row(draining(idle), exited(true), DRAIN_END - 1, launched(DRAIN_END - 1), &[Unwatch, Launch]),
        row(draining(idle), exited(true), DRAIN_END, Ended, &[Refuse]),
        row(draining(idle), exited(false), 110_000, Ended, &[Refuse]),
        row(draining(failed), exited(true), 110_000, Ended, &[Refuse]),
        row(draining(over), exited(true), 110_000, Ended, &[Refuse]),
        row(holding(draining(over)), exited(true), 110_000, Ended, &[]),
        row(draining(over), drain(DRAIN_END, true), 110_000, over, &[StopListening]),
    ]
}

fn backoff_rows() -> Vec<Row> {
    let failed = backoff(1_000);
    vec![
        row(calm(failed), Connection, 5, failed, &[Refuse]),
        row(holding(calm(failed)), Connection, 5, failed, &[Unwatch]),
        row(calm(failed), Deadline, 1_000, Cold, &[Watch]),
        row(holding(calm(failed)), Deadline, 1_000, Cold, &[Watch]),
        row(calm(failed), drain(90, true), 5, Ended, &[StopListening, Unwatch, Refuse]),
        row(calm(failed), drain(90, false), 5, Ended, &[StopListening, Unwatch, Refuse]),
        row(holding(calm(failed)), drain(90, true), 5, Ended, &[StopListening, Unwatch]),
    ]
}

fn ended_rows() -> Vec<Row> {
    vec![
        row(calm(Ended), drain(90, true), 5, Ended, &[StopListening]),
        row(draining(Ended), drain(90, false), 5, Ended, &[StopListening]),
    ]
}

#[test]
fn a_cold_pool_starts_at_the_first_connection_and_ends_when_drained() {
    check(cold_rows());
}

#[test]
fn a_starting_pool_becomes_warm_once_it_has_accepted_and_backs_off_when_it_fails() {
    check(starting_rows());
}

#[test]
fn a_draining_start_serves_what_made_it_start_and_never_backs_off() {
    check(starting_rows_while_draining());
}

#[test]
fn a_warm_pool_is_looked_at_and_frozen_when_it_was_quiet_for_long_enough() {
    check(warm_rows());
}

#[test]
fn a_draining_warm_pool_is_frozen_then_told_to_quit_then_cut() {
    check(warm_rows_while_draining());
}

#[test]
fn a_frozen_pool_is_killed_only_when_nobody_is_in_it() {
    check(freezing_rows());
}

#[test]
fn a_draining_frozen_pool_is_killed_only_when_nobody_is_in_it() {
    check(freezing_rows_while_draining());
}

#[test]
fn what_follows_a_stop_is_what_was_meant_to_unless_the_pool_drains() {
    check(stopping_rows());
}

#[test]
fn a_pool_in_backoff_answers_503_or_lets_wait_and_then_tries_again() {
    check(backoff_rows());
}

#[test]
fn an_ended_pool_stays_ended() {
    check(ended_rows());
}

fn table() -> Vec<Row> {
    let calm = [cold_rows(), starting_rows(), warm_rows(), freezing_rows(), stopping_rows(), backoff_rows()];
    let drained =
        [starting_rows_while_draining(), warm_rows_while_draining(), freezing_rows_while_draining()];
    calm.into_iter().chain(drained).flatten().chain(ended_rows()).collect()
}

fn every_event() -> Vec<Event> {
    let mut events = vec![Connection, LaunchFailed, Ready, FreezeFailed, Deadline];
    for flag in [false, true] {
        events.extend([Accepted(flag), looked(flag), inspected(flag), exited(flag), drain(DRAIN_END, flag)]);
    }
    events
}

fn every_machine() -> Vec<Machine> {
    let running = [
        launched(0),
        ready(0, 1),
        warm(0, 0),
        freezing(0, 0),
        stopping(After::Cold),
        stopping(After::Backoff),
        stopping(After::Ended),
        Ended,
    ];
    let resting = [Cold, backoff(1_000)].map(calm);
    resting.into_iter().chain(running.map(calm)).chain(running.map(draining)).collect()
}

#[test]
fn whatever_stands_in_no_row_changes_nothing() {
    let key = |machine: &Machine, event: &Event| {
        (discriminant(&machine.state), machine.is_draining(), discriminant(event))
    };
    let told: Vec<_> = table().iter().map(|row| key(&row.before, &row.event)).collect();
    let mut untold = 0;
    for before in every_machine() {
        for event in every_event().into_iter().filter(|event| !told.contains(&key(&before, event))) {
            let mut after = before.clone();
            let actions = after.on(event, at(50));
            assert_eq!(actions, [], "{event:?} on {before:?}");
            assert_eq!(format!("{after:?}"), format!("{before:?}"), "{event:?}");
            untold += 1;
        }
    }
    assert!(untold > 100, "only {untold} pairs were tried");
}

#[test]
fn each_state_has_the_word_that_ps_shows() {
    let words = |machine: &Machine| machine.state().word();
    let calm: Vec<_> = every_machine().iter().take(10).map(words).collect();
    let stopping = ["stopping"; 3];
    let running = ["starting", "starting", "warm", "warm"];
    assert_eq!(calm, [&["cold", "backoff"][..], &running, &stopping, &["ended"]].concat());
}

// ---- Deadlines.

/// The deadline after one event.
fn deadline_after(mut machine: Machine, event: Event, now: u64) -> Option<Instant> {
    machine.on(event, at(now));
    machine.deadline()
}

#[test]
fn a_pool_that_waits_for_others_has_no_deadline() {
    let states = [Cold, Ended, stopping(After::Cold), stopping(After::Backoff), stopping(After::Ended)];
    for state in states {
        assert_eq!(calm(state).deadline(), None, "{state:?}");
        assert_eq!(draining(state).deadline(), None, "{state:?} while draining");
    }
}

#[test]
fn a_start_has_until_its_timeout_to_become_ready() {
    assert_eq!(deadline_after(calm(Cold), Connection, 5), Some(at(10_005)));
    assert_eq!(deadline_after(calm(Cold), drain(90_000, true), 5), Some(at(10_005)));
    assert_eq!(deadline_after(calm(Cold), drain(4_000, true), 5), Some(at(4_000)));
}

#[test]
fn acceptance_is_asked_for_after_1_2_4_up_to_64_ms_and_never_past_the_timeout() {
    let mut machine = calm(ready(0, 1));
    let mut now = at(9_000);
    let mut waits = vec![];
    while now < at(10_000) {
        machine.on(Accepted(false), now);
        let next = machine.deadline().unwrap();
        waits.push((next - now).as_millis());
        now = next;
    }
    assert_eq!(waits[..9], [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    assert_eq!(now, at(10_000));
    assert_eq!(machine.on(Deadline, now), [ReportTimeout, Kill]);
}

#[test]
fn a_warm_pool_is_next_looked_at_one_look_later() {
    let next = Some(at(15_000));
    assert_eq!(deadline_after(calm(ready(0, 1)), Accepted(true), 5_000), next);
    assert_eq!(deadline_after(calm(warm(0, 0)), looked(true), 5_000), next);
    assert_eq!(deadline_after(calm(warm(0, 0)), looked(false), 5_000), next);
    assert_eq!(deadline_after(unstopped(calm(warm(0, 0))), Deadline, 5_000), None);
    for thaws in [inspected(true), FreezeFailed, Deadline] {
        assert_eq!(deadline_after(calm(freezing(4_500, 0)), thaws, 5_000), next, "{thaws:?}");
    }
}

#[test]
fn a_draining_warm_pool_is_next_looked_at_10_ms_later_and_not_past_the_end() {
    let next = Some(at(DRAIN_HALF + 10));
    let frozen = freezing(DRAIN_HALF - 500, 0);
    assert_eq!(deadline_after(draining(ready(DRAIN_FROM, 1)), Accepted(true), DRAIN_HALF), next);
    assert_eq!(deadline_after(draining(warm(0, 0)), Deadline, DRAIN_HALF), next);
    assert_eq!(deadline_after(draining(warm(DRAIN_FROM, 0)), looked(false), DRAIN_HALF), next);
    let rest = Some(at(DRAIN_HALF + 500));
    for (thaws, next) in [(inspected(true), next), (FreezeFailed, next), (Deadline, rest)] {
        assert_eq!(deadline_after(draining(frozen), thaws, DRAIN_HALF), next, "{thaws:?}");
        let last = deadline_after(draining(frozen), thaws, DRAIN_END - 5);
        assert_eq!(last, Some(at(DRAIN_END)), "{thaws:?} near the end");
    }
}

#[test]
fn a_generation_may_take_half_a_second_to_stand_still() {
    assert_eq!(deadline_after(calm(warm(0, 0)), looked(false), 80_000), Some(at(80_500)));
    assert_eq!(draining(freezing(110_000, 0)).deadline(), Some(at(110_500)));
    assert_eq!(draining(freezing(DRAIN_END - 5, 0)).deadline(), Some(at(DRAIN_END)));
}

#[test]
fn a_backoff_has_its_end_as_deadline() {
    assert_eq!(calm(backoff(1_000)).deadline(), Some(at(1_000)));
    assert_eq!(deadline_after(calm(launched(0)), LaunchFailed, 5), Some(at(1_005)));
}

#[test]
fn looks_are_an_eighth_of_the_stop_or_half_of_a_workers_idle_time() {
    let look = |stop, worker_idle| Timing::new(ms(1), stop, worker_idle).look;
    assert_eq!(look(Some(ms(8_000)), ms(10_000)), ms(1_000));
    assert_eq!(look(Some(ms(600_000)), ms(10_000)), ms(5_000));
    assert_eq!(look(Some(ms(0)), ms(10_000)), ms(1));
    assert_eq!(look(None, ms(10_000)), Duration::from_secs(3600));
}

// ---- Whole lives, in a world that brings every deadline on time.

/// The machine and whoever answers its actions; nothing here takes time but deadlines.
struct World<F> {
    machine: Machine,
    now: Instant,
    done: Vec<(Instant, Action)>,
    answer: F,
}

impl<F: FnMut(Instant, Action) -> Option<Event>> World<F> {
    fn new(machine: Machine, now: Instant, answer: F) -> Self {
        Self { machine, now, done: vec![], answer }
    }

    /// An event, the answers to what it made the machine do, the answers to those …
    fn deliver(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for action in self.machine.on(event, self.now) {
                self.done.push((self.now, action));
                events.extend((self.answer)(self.now, action));
            }
        }
    }

    /// Brings the deadline, on time, and checks that it was good for something.
    fn tick(&mut self) {
        let Some(due) = self.machine.deadline() else { return };
        let before = *self.machine.state();
        self.now = self.now.max(due);
        self.deliver(Deadline);
        let moved = *self.machine.state() != before;
        let next = self.machine.deadline();
        assert!(moved || next.is_none_or(|next| next > self.now), "a busy loop in {before:?}");
    }

    fn run_until(&mut self, end: Instant) {
        let mut at_this_instant = 0;
        while self.machine.deadline().is_some_and(|due| due <= end) {
            let before = self.now;
            self.tick();
            at_this_instant = if self.now == before { at_this_instant + 1 } else { 1 };
            assert!(at_this_instant <= 3, "a busy loop in {:?}", self.machine.state());
        }
        self.now = end;
    }

    /// When this was done.
    fn times(&self, action: Action) -> Vec<Instant> {
        self.done.iter().filter(|(_, done)| *done == action).map(|(when, _)| *when).collect()
    }
}

/// The answers of a world in which all goes well and nobody is in the pool.
fn obliging(action: Action) -> Option<Event> {
    match action {
        Launch => Some(Ready),
        AskAccepted => Some(Accepted(true)),
        Look => Some(looked(false)),
        Freeze => Some(inspected(false)),
        Kill => Some(exited(false)),
        Watch | Unwatch | ReportStarted | ReportTimeout | ReportExit | Thaw | ReportCut | Quit | Refuse
        | StopListening => None,
    }
}

/// As `obliging`, with one request in the pool until then.
fn occupied(until: Instant) -> impl FnMut(Instant, Action) -> Option<Event> {
    move |now, action| if action == Freeze { Some(inspected(now < until)) } else { obliging(action) }
}

#[test]
fn an_unused_pool_stops_on_the_dot_and_is_cold_again() {
    let mut world = World::new(calm(Cold), at(0), |_, action| obliging(action));
    world.deliver(Connection);
    world.run_until(at(200_000));
    let done: Vec<_> =
        world.done.iter().map(|(_, action)| *action).filter(|action| *action != Look).collect();
    assert_eq!(done, [Unwatch, Launch, AskAccepted, ReportStarted, Freeze, Kill, Watch]);
    assert_eq!(world.times(Kill), [at(80_000)]);
    assert_eq!(*world.machine.state(), Cold);
}

#[test]
fn a_pool_that_never_stops_is_never_looked_at_nor_frozen() {
    let mut world = World::new(unstopped(calm(Cold)), at(0), |_, action| obliging(action));
    world.deliver(Connection);
    world.run_until(at(1_000_000));
    assert_eq!(*world.machine.state(), warm(0, 0));
    assert_eq!(world.done.len(), 4, "{:?}", world.done);
}

#[test]
fn a_long_request_is_never_killed_and_its_pool_stops_once_it_is_over() {
    let (over, stop) = (at(36_000_000), ms(80_000));
    let mut world = World::new(calm(Cold), at(0), occupied(over));
    world.deliver(Connection);
    world.run_until(over - ms(1));
    assert_eq!(world.times(Kill), []);
    assert_eq!(world.times(Thaw), world.times(Freeze));
    assert_eq!(world.times(Thaw).len(), 449, "asked once for each idle time");
    world.run_until(over + stop);
    assert_eq!(world.times(Kill).len(), 1);
}

#[test]
fn a_pool_that_cannot_be_frozen_goes_on_serving() {
    let mut world = World::new(calm(Cold), at(0), |_, action| match action {
        Freeze => Some(FreezeFailed),
        _ => obliging(action),
    });
    world.deliver(Connection);
    world.run_until(at(1_000_000));
    assert_eq!(world.times(Kill), []);
    assert_eq!(world.times(Freeze).len(), 12);
    assert_eq!(world.times(Thaw), world.times(Freeze));
}

#[test]
fn a_start_that_is_ready_but_never_accepts_is_killed_at_its_timeout() {
    let mut world = World::new(calm(Cold), at(0), |_, action| match action {
        AskAccepted => Some(Accepted(false)),
        _ => obliging(action),
    });
    world.deliver(Connection);
    world.run_until(at(10_000));
    assert_eq!(world.times(ReportTimeout), [at(10_000)]);
    assert_eq!(world.times(Kill), [at(10_000)]);
    assert_eq!(*world.machine.state(), backoff(11_000));
}

proptest! {
    #[test]
    fn an_idle_pool_stops_not_before_its_time_and_at_most_a_quarter_later(
        stop in 100..7_200_000u64, looks in 3..40u64, pauses in prop::collection::vec(0.0..1.2f64, 0..12),
    ) {
        let timing = Timing::new(ms(10_000), Some(ms(stop)), ms(stop * 2 / looks));
        let moments = pauses.iter().scan(at(0), |last, pause| {
            *last += ms(stop).mul_f64(*pause);
            Some(*last)
        });
        let served: Vec<Instant> = std::iter::once(at(0)).chain(moments).collect();
        let seen = served.clone();
        let mut last_look = at(0);
        let mut world = World::new(Machine::new(timing, true, 0.0), at(0), move |now, action| match action {
            Look => {
                let active = seen.iter().any(|moment| last_look < *moment && *moment <= now);
                last_look = now;
                Some(looked(active))
            }
            _ => obliging(action),
        });
        world.deliver(Connection);
        world.run_until(at(stop * 20));
        let killed = world.times(Kill)[0];
        let last = *served.iter().filter(|moment| **moment <= killed).max().unwrap();
        prop_assert!(killed >= last + ms(stop), "{:?} too early", last + ms(stop) - killed);
        prop_assert!(killed <= last + ms(stop).mul_f64(1.25), "{:?} after its last use", killed - last);
    }
}

// ---- Backoff.

/// The lengths of the backoffs of a pool whose launch always fails.
fn backoffs(machine: &mut Machine, count: usize) -> Vec<Duration> {
    let mut now = at(0);
    let mut lengths = vec![];
    for _ in 0..count {
        machine.on(Connection, now);
        machine.on(LaunchFailed, now);
        let Backoff { until } = *machine.state() else { panic!("{machine:?}") };
        lengths.push(until - now);
        now = until;
        machine.on(Deadline, now);
    }
    lengths
}

fn seconds(list: &[u64]) -> Vec<Duration> {
    list.iter().copied().map(Duration::from_secs).collect()
}

#[test]
fn backoffs_double_from_one_second_to_one_minute_and_stay_there() {
    let mut machine = calm(Cold);
    assert_eq!(backoffs(&mut machine, 9), seconds(&[1, 2, 4, 8, 16, 32, 60, 60, 60]));
    assert_eq!(machine.failures(), 9);
    machine.failures = 1_000_000;
    assert_eq!(backoffs(&mut machine, 1), seconds(&[60]));
}

#[test]
fn jitter_beyond_its_range_counts_as_its_end() {
    let first = |jitter| backoffs(&mut Machine::new(timing(), true, jitter), 1);
    assert_eq!(first(-3.0), [ms(1_000)]);
    assert_eq!(first(1.0), [ms(750)]);
    assert_eq!(first(7.0), [ms(750)]);
}

proptest! {
    #[test]
    fn jitter_shortens_each_backoff_by_at_most_a_quarter(jitter in 0.0..=1.0f64) {
        let whole = backoffs(&mut calm(Cold), 8);
        let short = backoffs(&mut Machine::new(timing(), true, jitter), 8);
        for (whole, short) in whole.into_iter().zip(short) {
            prop_assert!(short <= whole && short >= whole * 3 / 4, "{short:?} of {whole:?}");
        }
    }
}

/// A cold pool with three failures behind it.
fn unlucky() -> Machine {
    Machine { failures: 3, ..calm(Cold) }
}

#[test]
fn an_idle_stop_makes_the_next_backoff_short_again() {
    let mut world = World::new(unlucky(), at(0), |_, action| obliging(action));
    world.deliver(Connection);
    assert_eq!(world.machine.failures(), 3, "a start alone proves nothing");
    world.run_until(at(80_000));
    assert_eq!(world.machine.failures(), 0);
    assert_eq!(backoffs(&mut world.machine, 2), seconds(&[1, 2]));
}

#[test]
fn a_minute_of_service_makes_the_next_backoff_short_again() {
    let mut world = World::new(unlucky(), at(0), |_, action| obliging(action));
    world.deliver(Connection);
    world.now = at(60_000);
    world.deliver(exited(true));
    assert_eq!((world.machine.state(), world.machine.failures()), (&Cold, 0));
}

#[test]
fn an_end_within_the_first_minute_is_one_failure_more() {
    let mut world = World::new(unlucky(), at(0), |_, action| obliging(action));
    world.deliver(Connection);
    world.now = at(59_999);
    world.deliver(exited(true));
    assert_eq!((world.machine.state(), world.machine.failures()), (&backoff(67_999), 4));
}

#[test]
fn the_first_end_within_a_minute_costs_no_backoff_and_the_second_does() {
    let mut world = World::new(calm(Cold), at(0), |_, action| obliging(action));
    for (failures, state) in [(1, Cold), (2, backoff(4_000))] {
        world.deliver(Connection);
        world.now += ms(1_000);
        world.deliver(exited(true));
        assert_eq!((world.machine.state(), world.machine.failures()), (&state, failures));
    }
}

#[test]
fn connections_in_backoff_are_refused_each_time() {
    let mut machine = calm(backoff(1_000));
    for now in [1, 2, 999] {
        assert_eq!(machine.on(Connection, at(now)), [Refuse]);
    }
    assert_eq!(machine.on(Deadline, at(1_000)), [Watch]);
    assert_eq!(machine.on(Connection, at(1_001)), [Unwatch, Launch]);
}

#[test]
fn a_held_connection_waits_out_the_backoff_unwatched_and_then_starts_the_pool() {
    let mut machine = holding(calm(launched(0)));
    assert_eq!(machine.on(LaunchFailed, at(5)), []);
    assert_eq!(machine.on(Deadline, at(1_005)), [Watch]);
    assert_eq!(machine.on(Connection, at(1_005)), [Unwatch, Launch]);
}

// ---- Drain.

/// A drain of `machine` from `DRAIN_FROM` to `DRAIN_END` in a world that answers so.
fn drained<F: FnMut(Instant, Action) -> Option<Event>>(
    machine: Machine,
    waiting: bool,
    answer: F,
) -> World<F> {
    let mut world = World::new(machine, at(DRAIN_FROM), answer);
    world.deliver(drain(DRAIN_END, waiting));
    world.run_until(at(DRAIN_END));
    world
}

#[test]
fn an_idle_pool_drains_at_once() {
    let world = drained(calm(warm(0, 0)), false, |_, action| obliging(action));
    let now = at(DRAIN_FROM);
    assert_eq!(world.done, [StopListening, Freeze, Kill, Refuse].map(|action| (now, action)));
    assert_eq!(*world.machine.state(), Ended);
}

#[test]
fn a_short_request_ends_before_its_draining_pool_does() {
    let over = at(DRAIN_FROM + 205);
    let world = drained(calm(warm(0, 0)), false, occupied(over));
    assert_eq!(world.times(Kill), [at(DRAIN_FROM + 210)]);
    assert_eq!(world.times(Freeze).len(), 22);
    assert_eq!((world.times(Quit), world.times(ReportCut)), (vec![], vec![]));
}

#[test]
fn a_long_request_gets_sigquit_once_at_half_time_and_its_end_is_the_end() {
    let mut world = World::new(calm(warm(0, 0)), at(DRAIN_FROM), occupied(at(DRAIN_END)));
    world.deliver(drain(DRAIN_END, false));
    world.run_until(at(DRAIN_HALF + 5_000));
    assert_eq!(world.times(Quit), [at(DRAIN_HALF)]);
    world.deliver(exited(false));
    assert_eq!(*world.machine.state(), Ended);
    assert_eq!((world.times(ReportExit), world.times(ReportCut)), (vec![], vec![]));
}

#[test]
fn a_request_that_outlasts_the_drain_is_cut_and_told_of() {
    let world = drained(calm(warm(0, 0)), false, occupied(at(DRAIN_END + 1)));
    let last: Vec<_> = world.done.iter().rev().take(3).rev().copied().collect();
    assert_eq!(last, [ReportCut, Kill, Refuse].map(|action| (at(DRAIN_END), action)));
    assert_eq!(world.times(Quit).len(), 1);
    assert_eq!(*world.machine.state(), Ended);
}

#[test]
fn a_generation_that_does_not_stand_still_is_cut_at_the_end_of_the_drain() {
    let world = drained(calm(warm(0, 0)), false, |_, action| match action {
        Freeze => None,
        _ => obliging(action),
    });
    assert_eq!((world.times(ReportCut), world.times(Kill)), (vec![at(DRAIN_END)], vec![at(DRAIN_END)]));
    let [quit] = world.times(Quit)[..] else { panic!("{:?}", world.times(Quit)) };
    assert!(quit >= at(DRAIN_HALF) && quit <= at(DRAIN_HALF + 510));
}

#[test]
fn connections_that_wait_when_the_drain_begins_are_served_by_a_cold_pool() {
    let world = drained(calm(Cold), true, |_, action| obliging(action));
    let done: Vec<_> = world.done.iter().map(|(_, action)| *action).collect();
    let start = [StopListening, Unwatch, Launch, AskAccepted, ReportStarted];
    assert_eq!(done, [&start[..], &[Freeze, Kill, Refuse]].concat());
    assert_eq!(world.times(Kill), [at(DRAIN_FROM + 10)]);
}

#[test]
fn connections_that_came_before_the_door_was_shut_get_one_more_generation() {
    let mut kills = 0;
    let world = drained(calm(warm(0, 0)), false, move |_, action| match action {
        Kill => {
            kills += 1;
            Some(exited(kills == 1))
        }
        _ => obliging(action),
    });
    assert_eq!(world.times(Launch), [at(DRAIN_FROM)]);
    assert_eq!(world.times(Kill), [at(DRAIN_FROM), at(DRAIN_FROM + 10)]);
    assert_eq!(*world.machine.state(), Ended);
}

#[test]
fn connections_that_wait_at_the_end_of_the_drain_get_no_more_generation() {
    let world = drained(calm(warm(0, 0)), false, |_, action| match action {
        Freeze => Some(inspected(true)),
        Kill => Some(exited(true)),
        _ => obliging(action),
    });
    assert_eq!(world.times(Launch), []);
    assert_eq!(world.done.last(), Some(&(at(DRAIN_END), Refuse)));
}

#[test]

fn a_generation_launched_after_the_sigquit_of_another_does_not_crash_in_silence() {
    let mut world = World::new(calm(warm(0, 0)), at(DRAIN_FROM), occupied(at(DRAIN_END)));
    world.deliver(drain(DRAIN_END, false));
    world.run_until(at(DRAIN_HALF));
    world.deliver(exited(true));
    assert_eq!(world.times(Launch), [at(DRAIN_HALF)], "for the connection that waits");
    world.deliver(exited(true));
    assert_eq!(world.times(ReportExit), [at(DRAIN_HALF)], "nobody told this one to end");
    assert_eq!(world.times(Launch), [at(DRAIN_HALF); 2], "its first failure");
    world.deliver(exited(true));
    assert_eq!(*world.machine.state(), Ended, "as before the SIGQUIT: no third try for a young one");
}

#[test]
fn a_second_drain_never_puts_the_end_of_the_first_off() {
    let mut world = World::new(calm(warm(0, 0)), at(DRAIN_FROM), occupied(at(DRAIN_END + 1)));
    world.deliver(drain(DRAIN_END, false));
    world.now = at(DRAIN_FROM + 5);
    world.deliver(drain(DRAIN_END * 2, false));
    world.run_until(at(DRAIN_END * 2));
    assert_eq!(world.times(ReportCut), [at(DRAIN_END)]);
}

#[test]
fn a_drain_from_any_state_ends_the_pool_in_time() {
    let since = DRAIN_FROM - 100;
    let states = [
        Cold,
        launched(since),
        ready(since, 1),
        warm(since, 0),
        freezing(since, 0),
        stopping(After::Cold),
        stopping(After::Backoff),
        backoff(DRAIN_FROM + 500),
        Ended,
    ];
    for (state, waiting) in states.into_iter().flat_map(|state| [(state, false), (state, true)]) {
        let asked = Machine { next_look: Some(at(DRAIN_FROM + 1)), ..calm(state) };
        let mut world = drained(asked, waiting, |_, action| obliging(action));
        if matches!(world.machine.state(), Stopping { .. }) {
            world.deliver(exited(waiting));
        }
        assert_eq!(*world.machine.state(), Ended, "from {state:?}");
        assert!(world.machine.is_draining());
        assert_eq!(world.times(ReportCut), [], "from {state:?}");
    }
}

// ---- Whatever happens.

/// What has been done so far, and what may therefore not be done now.
struct Witness {
    watching: bool,
    alive: bool,
    killed: bool,
    frozen: bool,
    quit: bool,
}

impl Witness {
    fn new() -> Self {
        Self { watching: true, alive: false, killed: false, frozen: false, quit: false }
    }

    /// Delivers the event and checks each action against what went before.
    fn deliver(&mut self, machine: &mut Machine, event: Event, now: Instant) -> Vec<Action> {
        let before = *machine.state();
        self.note_event(before, event);
        let actions = machine.on(event, now);
        for action in &actions {
            self.note_action(machine, before, *action);
            check_reason(machine, before, event, *action, now);
        }
        assert_eq!(self.frozen, matches!(machine.state(), Freezing { .. }), "no Thaw or Kill after Freeze");
        assert!(before != Ended || *machine.state() == Ended, "{before:?} is no end");
        actions
    }

    fn note_event(&mut self, before: State, event: Event) {
        let over = match event {
            Exited { .. } => {
                matches!(before, Starting { .. } | Warm { .. } | Freezing { .. } | Stopping { .. })
            }
            LaunchFailed => matches!(before, Starting { .. }),
            _ => false,
        };
        if over {
            (self.alive, self.frozen) = (false, false);
        }
    }

    fn note_action(&mut self, machine: &Machine, before: State, action: Action) {
        match action {
            Watch => {
                assert!(!machine.is_draining(), "Watch in a drain");
                self.watching = true;
            }
            Unwatch => self.watching = false,
            Launch => {
                assert!(!self.watching, "Launch before Unwatch");
                assert!(!self.alive, "Launch beside a generation");
                (self.alive, self.killed, self.quit) = (true, false, false);
            }
            Freeze => {
                assert!(matches!(before, Warm { .. }), "Freeze in {before:?}");
                assert!(self.alive && !self.frozen, "Freeze of nothing, or twice");
                self.frozen = true;
            }
            Thaw => {
                assert!(self.frozen, "Thaw without Freeze");
                self.frozen = false;
            }
            Kill => {
                assert!(self.alive && !self.killed, "Kill of nothing, or twice");
                (self.killed, self.frozen) = (true, false);
            }
            Quit => {
                assert!(matches!(before, Warm { .. }) && !self.quit, "Quit in {before:?}, or twice");
                self.quit = true;
            }
            AskAccepted | ReportStarted | ReportTimeout | ReportExit | Look | ReportCut | Refuse
            | StopListening => {}
        }
    }
}

/// Some actions need a reason, at whatever point of a life.
fn check_reason(machine: &Machine, before: State, event: Event, action: Action, now: Instant) {
    let over = machine.drain.is_some_and(|drain| now >= drain.until);
    match action {
        Kill => {
            let nobody = event == inspected(false);
            let late = event == Deadline && (over || matches!(before, Starting { .. }));
            assert!(nobody || late, "Kill at {event:?} in {before:?}");
            assert!(matches!(machine.state(), Stopping { .. }));
        }
        ReportCut => assert!(over, "ReportCut before the end of a drain"),
        Quit | StopListening => assert!(machine.is_draining(), "{action:?} without a drain"),
        Refuse => assert!(machine.answers_503 && matches!(machine.state(), Backoff { .. } | Ended)),
        AskAccepted => assert!(matches!(machine.state(), Starting { .. })),
        Look => assert!(matches!(machine.state(), Warm { .. })),
        Watch | Unwatch | Launch | ReportStarted | ReportTimeout | ReportExit | Freeze | Thaw => {}
    }
}

/// Any event but a drain, sensible or not.
fn any_calm_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Deadline),
        3 => Just(Connection),
        3 => Just(Ready),
        3 => Just(Accepted(true)),
        2 => any::<bool>().prop_map(Accepted),
        2 => any::<bool>().prop_map(looked),
        3 => any::<bool>().prop_map(inspected),
        2 => any::<bool>().prop_map(exited),
        1 => Just(LaunchFailed),
        1 => Just(FreezeFailed),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let drain = (0..400_000u64, any::<bool>()).prop_map(|(until, waiting)| drain(until, waiting));
    prop_oneof![26 => any_calm_event(), 1 => drain]
}

/// Events, each with the time since the one before.
fn life_of(event: impl Strategy<Value = Event>) -> impl Strategy<Value = Vec<(u64, Event)>> {
    let pause = prop_oneof![Just(0), 1..100u64, 100..20_000u64, 20_000..100_000u64];
    prop::collection::vec((pause, event), 0..80)
}

fn any_machine() -> impl Strategy<Value = Machine> {
    let stop = prop_oneof![Just(None), (0..100_000u64).prop_map(|stop| Some(ms(stop)))];
    (stop, 1..20_000u64, any::<bool>(), 0.0..1.0f64).prop_map(|(stop, worker_idle, answers_503, jitter)| {
        Machine::new(Timing::new(ms(10_000), stop, ms(worker_idle)), answers_503, jitter)
    })
}

/// The answers of a world that rolls dice. Whether it was accepted or active is known at once;
/// everything else may go wrong, or not be told.
fn fickle(dice: Vec<u8>) -> impl FnMut(Instant, Action) -> Option<Event> {
    let mut dice = dice.into_iter().cycle();
    move |_, action| {
        let roll = dice.next().unwrap_or(0);
        let even = roll % 2 == 0;
        match (action, roll % 4) {
            (AskAccepted, _) => Some(Accepted(even)),
            (Look, _) => Some(looked(even)),
            (Freeze, 0 | 1) => Some(inspected(even)),
            (Freeze, 2) => Some(FreezeFailed),
            (Launch, 0 | 1) => Some(Ready),
            (Launch, 2) => Some(LaunchFailed),
            (Quit, 0) | (Kill, 0 | 1) => Some(exited(roll % 8 < 4)),
            _ => None,
        }
    }
}

proptest! {
    #[test]
    fn no_order_of_events_makes_it_do_what_it_must_not(machine in any_machine(), life in life_of(any_event())) {
        let (mut machine, mut witness, mut now) = (machine, Witness::new(), 0);
        for (pause, event) in life {
            now += pause;
            witness.deliver(&mut machine, event, at(now));
        }
    }

    #[test]
    fn no_request_is_killed_without_a_drain(machine in any_machine(), life in life_of(any_calm_event())) {
        let (mut machine, mut now) = (machine, 0);
        for (pause, event) in life {
            now += pause;
            let served = matches!(machine.state(), Warm { .. } | Freezing { .. });
            let killed = machine.on(event, at(now)).contains(&Kill);
            prop_assert!(!(served && killed) || event == inspected(false));
            prop_assert!(!machine.is_draining() && *machine.state() != Ended);
        }
    }

    #[test]
    fn no_world_makes_it_a_busy_loop(
        machine in any_machine(), life in life_of(any_event()), dice in prop::collection::vec(any::<u8>(), 1..50),
    ) {
        let mut world = World::new(machine, at(0), fickle(dice));
        for (pause, event) in life {
            let end = world.now + ms(pause.min(5_000));
            world.run_until(end);
            world.deliver(event);
        }
    }

    #[test]
    fn a_drain_always_ends_in_time(
        machine in any_machine(), life in life_of(any_calm_event()), dice in prop::collection::vec(any::<u8>(), 1..50),
        patience in 0..5_000u64, waiting in any::<bool>(),
    ) {
        let mut world = World::new(machine, at(0), fickle(dice));
        for (pause, event) in life {
            world.now += ms(pause);
            world.deliver(event);
        }
        let until = world.now + ms(patience);
        world.deliver(Event::Drain { until, waiting });
        while *world.machine.state() != Ended {
            if matches!(world.machine.state(), Stopping { .. }) {
                world.deliver(exited(waiting));
            } else {
                prop_assert!(world.machine.deadline().is_some_and(|due| due <= until));
                world.tick();
            }
        }
        prop_assert!(world.now <= until);
    }
}
