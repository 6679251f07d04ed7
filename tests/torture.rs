//! Nothing is lost: every request is answered exactly once, whatever stops,
//! starts and changes meanwhile. `HOWDAH_TEST_LONG=1` runs it at length.
#![allow(missing_docs)]

mod rig;

use nix::sys::signal::Signal;
use rig::Rig;
use rig::port::free_port;
use rig::torture::{STOP, Torture, make_pool, measure, write_pool};

#[test]
fn nothing_is_lost_when_a_pool_stops_all_the_time() {
    let mut rig = Rig::new();
    let target = make_pool(&rig, "blog", None, STOP, "max_children = 3");
    rig.serve();
    Torture::new(vec![target], measure(1_500, 20_000), measure(25, 300)).run(&mut rig, |_| {});
    assert_eq!(rig.end(), 0);
}

#[test]
fn nothing_is_lost_on_tcp_with_static_workers() {
    let mut rig = Rig::new();
    let address = free_port("127.0.0.1");
    let target = make_pool(&rig, "blog", Some(address), STOP, "pm = \"static\"\nmax_children = 3");
    rig.serve();
    Torture::new(vec![target], measure(400, 5_000), measure(8, 100)).run(&mut rig, |_| {});
    assert_eq!(rig.end(), 0);
}

#[test]
fn nothing_is_lost_while_workers_come_and_go_by_themselves() {
    let mut rig = Rig::new();
    // Both reasons for a worker to end fall into the same moments as the stops.
    let target = make_pool(
        &rig,
        "blog",
        None,
        STOP,
        "pm = \"dynamic\"\nmax_children = 4\nstart_servers = 2\nmin_spare_servers = 1\nmax_spare_servers = 2\n\
         max_requests = 7",
    );
    let other = make_pool(
        &rig,
        "shop",
        None,
        STOP,
        "max_children = 3\nmax_requests = 5\nprocess_idle_timeout = \"1s\"",
    );
    rig.serve();
    Torture::new(vec![target, other], measure(400, 5_000), measure(8, 100)).run(&mut rig, |_| {});
    assert_eq!(rig.end(), 0);
}

#[test]
fn nothing_is_lost_while_files_change_and_are_read_again() {
    let mut rig = Rig::new();
    let names = ["blog", "shop", "wiki"];
    let targets: Vec<_> =
        names.iter().map(|name| make_pool(&rig, name, None, STOP, "max_children = 3")).collect();
    rig.serve();
    let mut turn = 0;
    Torture::new(targets, measure(400, 6_000), measure(8, 100)).run(&mut rig, |rig| {
        turn += 1;
        if turn % 20 == 0 {
            let name = names[turn / 20 % names.len()];
            write_pool(rig, name, None, STOP, &format!("max_children = {}", 2 + turn / 20 % 3));
            rig.signal(Signal::SIGHUP);
        }
    });
    assert!(rig.log().contains("its file has changed"), "no reload took place:\n{}", rig.log());
    assert_eq!(rig.end(), 0);
}

#[test]
fn nothing_is_lost_where_there_is_no_cgroup_and_signals_do_the_freezing() {
    let mut rig = Rig::new().rootless();
    let target = make_pool(&rig, "blog", None, STOP, "max_children = 3");
    rig.serve();
    Torture::new(vec![target], measure(400, 5_000), measure(8, 100)).run(&mut rig, |_| {});
    assert!(!rig.cgroup().exists(), "it has a cgroup");
    assert_eq!(rig.end(), 0);
}
