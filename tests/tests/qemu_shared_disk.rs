//! A shared disk over iSCSI, used by unmodified Debian guests of QEMU: the initiator (libiscsi), the
//! kernel and the tools of clusters are others' work. `cargo xtask test` makes the guests' files.

use cohort_tests::iscsi::SharedDisk;
use cohort_tests::node::{Node, scenarios, through_iscsi};
use cohort_tests::processes::Signal;
use cohort_tests::{Cohort, linux};

#[test]
fn debian_nodes_of_qemu_reserve_count_fence_and_lease_over_iscsi() {
    if !linux::files_are_there() {
        return;
    }
    let shared = SharedDisk::serve(Cohort::new(["shared-disk", "serve", "scratch=64M"]));
    let guest = |name| (name, through_iscsi(&shared.urls[0], &format!("iqn.2026-11.test:{name}")));
    let mut nodes = Node::start_all([guest("a"), guest("b"), guest("c")]);
    scenarios::reservations_hold(nodes.each_mut());
    scenarios::compare_and_write_loses_nothing(&mut nodes, 20);
    let [a, b, c] = &mut nodes;
    scenarios::fencing_holds(a, b);
    scenarios::leases_exclude(b, c);
    nodes.into_iter().for_each(Node::stop);
    shared.server.signal(Signal::TERM);
    shared.server.finish().expect_status(128 + 15);
}
