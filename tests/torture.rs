//! Nothing is lost: every request is answered exactly once, whatever stops,
//! starts and changes meanwhile. `HOWDAH_TEST_LONG=1` runs it at length.
#![allow(missing_docs)]

mod rig;

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rig::Rig;
use rig::port::free_port;
use rig::templates::{keep, stop_before_it_serves, waiting};
use rig::torture::{STOP, Torture, half, make_pool, measure, starts_by_template, write_pool};

/// Pools that are launched cold, and then the same by templates: so many starts have to be by one.
fn cold_and_by_template(torture: impl Fn(&mut Rig, usize)) {
    for templates in [0, 2] {
        let mut rig = Rig::new();
        keep(&rig, templates);
        torture(&mut rig, templates as usize);
        let (by_template, starts) = starts_by_template(&rig);
        match templates {
            0 => assert_eq!(by_template, 0),
            // They are made when it is quiet, which it never is for long.
            _ => assert!(by_template >= 2, "{by_template} of {starts} starts were by a template"),
        }
        assert_eq!(rig.end(), 0);
        rig.assert_nothing_is_left();
    }
}

#[test]
fn nothing_is_lost_when_a_pool_stops_all_the_time() {
    cold_and_by_template(|rig, by_template| {
        let target = make_pool(rig, "blog", None, STOP, "max_children = 3");
        rig.serve();
        Torture::new(vec![target], half(measure(1_500, 20_000)), half(measure(25, 300)))
            .until_by_template(by_template)
            .run(rig, |_| {});
    });
}

#[test]
fn nothing_is_lost_on_tcp_with_static_workers() {
    cold_and_by_template(|rig, by_template| {
        let address = free_port("127.0.0.1");
        let target = make_pool(rig, "blog", Some(address), STOP, "pm = \"static\"\nmax_children = 3");
        rig.serve();
        Torture::new(vec![target], half(measure(400, 5_000)), half(measure(8, 100)))
            .until_by_template(by_template)
            .run(rig, |_| {});
    });
}

#[test]
fn nothing_is_lost_while_workers_come_and_go_by_themselves() {
    cold_and_by_template(|rig, by_template| {
        // Both reasons for a worker to end fall into the same moments as the stops.
        let target = make_pool(
            rig,
            "blog",
            None,
            STOP,
            "pm = \"dynamic\"\nmax_children = 4\nstart_servers = 2\nmin_spare_servers = 1\nmax_spare_servers = 2\n\
         max_requests = 7",
        );
        let other = make_pool(
            rig,
            "shop",
            None,
            STOP,
            "max_children = 3\nmax_requests = 5\nprocess_idle_timeout = \"1s\"",
        );
        rig.serve();
        Torture::new(vec![target, other], half(measure(400, 5_000)), half(measure(8, 100)))
            .until_by_template(by_template)
            .run(rig, |_| {});
    });
}

#[test]
fn nothing_is_lost_while_files_change_and_are_read_again() {
    cold_and_by_template(|rig, by_template| {
        let names = ["blog", "shop", "wiki"];
        let targets: Vec<_> =
            names.iter().map(|name| make_pool(rig, name, None, STOP, "max_children = 3")).collect();
        rig.serve();
        let mut turn = 0;
        let torture = Torture::new(targets, half(measure(400, 6_000)), half(measure(8, 100)));
        torture.until_by_template(by_template).run(rig, |rig| {
            turn += 1;
            if turn % 20 == 0 {
                let name = names[turn / 20 % names.len()];
                write_pool(rig, name, None, STOP, &format!("max_children = {}", 2 + turn / 20 % 3));
                rig.signal(Signal::SIGHUP);
            }
        });
        assert!(rig.log().contains("its file has changed"), "no reload took place:\n{}", rig.log());
    });
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

#[test]
fn nothing_is_lost_while_templates_die_and_stand_still() {
    let mut rig = Rig::new();
    keep(&rig, 2);
    let names = ["blog", "shop", "wiki"];
    let targets: Vec<_> =
        names.iter().map(|name| make_pool(&rig, name, None, STOP, "max_children = 3")).collect();
    rig.serve();
    let (mut last, mut turn, mut used) = (Instant::now(), 0, 0);
    Torture::new(targets, measure(600, 5_000), measure(20, 150)).run(&mut rig, |rig| {
        let pause = Duration::from_millis(200 + 97 * (turn % 9));
        // Some are used between, also where it takes long to make one.
        let by_template = starts_by_template(rig).0;
        if last.elapsed() < pause || (by_template == used && last.elapsed() < Duration::from_secs(3)) {
            return;
        }
        let Some(pid) = waiting(rig).pop() else { return };
        // Also in the moment in which it becomes a pool's: who stands still is ended then.
        if !stop_before_it_serves(rig, pid) {
            return;
        }
        if turn % 2 == 0 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        (last, turn, used) = (Instant::now(), turn + 1, by_template);
    });
    assert!(turn >= 2, "{turn} templates have died");
    let (by_template, starts) = starts_by_template(&rig);
    assert!(by_template > 0 && by_template < starts, "{by_template} of {starts} starts were by a template");
    assert_eq!(rig.end(), 0);
    rig.assert_nothing_is_left();
}
