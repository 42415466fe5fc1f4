//! A shared disk through vhost-user-scsi, used by unmodified Debian guests at the same time. These
//! tests need hardware KVM and the guests' files, like those of `linux.rs`.

use std::path::PathBuf;

use cohort_tests::Cohort;
use cohort_tests::cohort::Running;
use cohort_tests::node::{Node, scenarios, through_socket};
use cohort_tests::processes::Signal;

/// A server of a fresh disk, and so many nodes with a socket each.
struct Cluster<const N: usize> {
    server: Running,
    sockets: [PathBuf; N],
    nodes: [Node; N],
}

impl<const N: usize> Cluster<N> {
    fn start(names: [&str; N]) -> Cluster<N> {
        let mut server = Cohort::new(["shared-disk", "serve", "scratch=64M"]);
        let sockets = names.map(|name| server.folder().join(format!("{name}.sock")));
        for socket in &sockets {
            server = server.arg("--vhost-user-scsi").arg(socket);
        }
        let server = server.start();
        server.wait_for("control: ");
        let guests = std::array::from_fn(|index| (names[index], through_socket(&sockets[index])));
        let nodes = Node::start_all(guests);
        Cluster { server, sockets, nodes }
    }

    /// Ends a guest, and starts one in its place that uses the same socket.
    fn restart(mut self, index: usize) -> Cluster<N> {
        let mut number = 0;
        self.nodes = self.nodes.map(|node| {
            number += 1;
            if number != index + 1 {
                return node;
            }
            let name = node.name.clone();
            node.stop();
            let [node] = Node::start_all([(&name, through_socket(&self.sockets[index]))]);
            node
        });
        self
    }

    fn stop(self) {
        self.nodes.into_iter().for_each(Node::stop);
        self.server.signal(Signal::TERM);
        self.server.finish().expect_status(128 + 15);
    }
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn every_type_of_reservation_holds_between_debian_guests_and_across_a_restart() {
    let mut cluster = Cluster::start(["holder", "registered", "other"]);
    scenarios::reservations_hold(cluster.nodes.each_mut());
    scenarios::reserve(&mut cluster.nodes[0]);
    let mut cluster = cluster.restart(0);
    let [holder, _, other] = &mut cluster.nodes;
    scenarios::reservation_is_known(holder, other);
    cluster.stop();
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn four_debian_guests_count_up_with_compare_and_write_and_lose_nothing() {
    let mut cluster = Cluster::start(["one", "two", "three", "four"]);
    scenarios::compare_and_write_loses_nothing(&mut cluster.nodes, 25);
    cluster.stop();
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn fence_scsi_keeps_a_debian_guest_from_writing() {
    let mut cluster = Cluster::start(["survivor", "victim"]);
    let [survivor, victim] = &mut cluster.nodes;
    scenarios::fencing_holds(survivor, victim);
    cluster.stop();
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn a_lease_of_sanlock_is_one_debian_guests_at_a_time() {
    let mut cluster = Cluster::start(["one", "other"]);
    let [one, other] = &mut cluster.nodes;
    scenarios::leases_exclude(one, other);
    cluster.stop();
}
