//! What nodes do with the disk that they share, and what must come of it, however the disk comes to
//! them. Each is done with the tools that clusters use, and prints a trace.

use super::{Answer, Node};

/// Keys by which nodes register.
const KEYS: [&str; 2] = ["a1", "b2"];

/// How a READ and a WRITE end.
const FREE: &str = "ok/ok";
const READ_ONLY: &str = "ok/conflict";
const EXCLUDED: &str = "conflict/conflict";

/// Types of persistent reservations (SPC-4 table 66), and what they leave to registered nodes that
/// do not hold them, and to nodes that are not registered (SPC-4 table 62).
const TYPES: [(u8, &str, &str, &str); 6] = [
    (1, "write exclusive", READ_ONLY, READ_ONLY),
    (3, "exclusive access", EXCLUDED, EXCLUDED),
    (5, "write exclusive, registrants only", FREE, READ_ONLY),
    (6, "exclusive access, registrants only", FREE, EXCLUDED),
    (7, "write exclusive, all registrants", FREE, READ_ONLY),
    (8, "exclusive access, all registrants", FREE, EXCLUDED),
];

/// Every type of reservation allows and refuses what it should.
pub fn reservations_hold([holder, registered, other]: [&mut Node; 3]) {
    let mut wrong = Vec::new();
    println!("read/write under:                  holder, registered, unregistered");
    for (kind, name, for_registered, for_others) in TYPES {
        for (node, key) in [&mut *holder, &mut *registered].into_iter().zip(KEYS) {
            node.succeed(&reserve_out(&format!("--register-ignore --param-sark={key}")));
        }
        let own = format!("--param-rk={}", KEYS[0]);
        holder.succeed(&reserve_out(&format!("--reserve {own} --prout-type={kind}")));
        let found =
            [&mut *holder, &mut *registered, &mut *other].map(|node| node.succeed("try-both"));
        println!("{name:<34} {}", found.join(", "));
        if found != [FREE, for_registered, for_others] {
            wrong.push(name);
        }
        holder.succeed(&reserve_out(&format!("--clear {own}")));
    }
    assert_eq!(wrong, [""; 0], "these do not hold");
    assert_eq!(other.succeed("try-both"), FREE, "after CLEAR");
}

/// A node takes the disk for itself.
pub fn reserve(node: &mut Node) {
    let key = KEYS[0];
    node.succeed(&reserve_out(&format!("--register-ignore --param-sark={key}")));
    node.succeed(&reserve_out(&format!("--reserve --param-rk={key} --prout-type=3")));
}

/// The node that did so is known by the disk, even if its guest is another by now; and others are
/// kept away.
pub fn reservation_is_known(node: &mut Node, other: &mut Node) {
    let found = [&mut *node, other].map(|node| node.succeed("try-both"));
    println!("after a restart of {}: {}", node.name, found.join(", "));
    assert_eq!(found, [FREE, EXCLUDED]);
    let held = node.succeed("sg_persist --no-inquiry --in --read-reservation /dev/sda");
    assert!(held.contains(&format!("Key=0x{}", KEYS[0])), "{held}");
}

fn reserve_out(arguments: &str) -> String {
    // The first command after a unit attention fails with it.
    format!("sg_turs /dev/sda >/dev/null 2>&1; sg_persist --no-inquiry --out {arguments} /dev/sda")
}

/// Where nodes count, and where they write: blocks of the disk.
const COUNTER: u32 = 64;
const JOURNAL: u32 = 128;

/// Nodes that count up together lose nothing, with COMPARE AND WRITE alone to keep them apart.
pub fn compare_and_write_loses_nothing(nodes: &mut [Node], times: u32) {
    write(&mut nodes[0], COUNTER, "0");
    let begun: Vec<_> =
        nodes.iter_mut().map(|node| node.tell(&format!("count-up {COUNTER} {times}"))).collect();
    for node in nodes.iter_mut() {
        let Answer { status, said } = node.answer();
        println!("{}: {said}", node.name);
        assert_eq!(status, 0, "{}: {said}", node.name);
    }
    let counted = read(&mut nodes[0], COUNTER);
    println!("{} nodes counted {times} up each: the disk says {counted}", begun.len());
    assert_eq!(counted, (begun.len() * times as usize).to_string());
}

/// How Linux tells a program of RESERVATION CONFLICT: EBADE.
const CONFLICT: &str = "Invalid exchange";

/// A node that writes all the time writes nothing more once `fence_scsi` has fenced it, until it is
/// let in again.
pub fn fencing_holds(survivor: &mut Node, victim: &mut Node) {
    let fence = |key: &str, action: &str| {
        format!("fence_scsi --devices=/dev/sda --key={key} --action={action}")
    };
    let trace = |node: &Node, text: &str| println!("{}: {}", node.name, text.replace('\n', "; "));
    for (node, key) in [&mut *survivor, &mut *victim].into_iter().zip(KEYS) {
        let said = node.succeed(&fence(key, "on"));
        trace(node, &format!("fence_scsi --action=on of key {key}: {said}"));
    }
    write(victim, JOURNAL, "0");
    victim.succeed(&format!("write-on {JOURNAL} >/dev/null 2>&1 &"));
    // The victim is at work when it is fenced.
    survivor.succeed(&format!("until [ \"$({})\" -ge 100 ]; do :; done", get(JOURNAL)));
    trace(victim, "writes 1, 2, 3 and so on");

    // What the disk says is read as soon as the fence is up.
    let off = survivor.succeed(&format!("{} && {}", fence(KEYS[1], "off"), get(JOURNAL)));
    let (said, fenced_at) = off.rsplit_once('\n').expect("a line of fence_scsi and a number");
    trace(survivor, &format!("fence_scsi --action=off of key {}: {said}", KEYS[1]));
    trace(survivor, &format!("the disk says {fenced_at}"));
    let refused = victim.succeed("until [ -s refused ]; do usleep 10000; done; cat refused");
    trace(victim, &refused);
    let written = victim.succeed("cat written");
    trace(victim, &format!("wrote {written} before"));
    // A victim that does not give up changes nothing either.
    for _ in 0..3 {
        let tried = victim.run(&put(JOURNAL, "9999"));
        assert_ne!(tried.status, 0, "a fenced node writes: {}", tried.said);
        assert_eq!(victim.succeed("try-both"), READ_ONLY);
    }
    survivor.succeed("sleep 1");
    let later = read(survivor, JOURNAL);
    trace(survivor, &format!("the disk still says {later}"));
    assert_eq!(later, fenced_at, "a write of the fenced node arrived after it was fenced");
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text:?}: a number"));
    // The write in flight as the fence fell may have been done, without the victim's knowing.
    let in_flight = number(&later).checked_sub(number(&written));
    assert!(matches!(in_flight, Some(0 | 1)), "{written} was written, the disk says {later}");
    assert!(refused.contains(CONFLICT), "the write failed in another way: {refused}");
    let status = survivor.run(&fence(KEYS[1], "status"));
    trace(survivor, &format!("fence_scsi --action=status of key {}: {}", KEYS[1], status.said));
    assert_eq!(status.status, 2, "{}", status.said);

    let said = victim.succeed(&fence(KEYS[1], "on"));
    trace(victim, &format!("fence_scsi --action=on of key {}: {said}", KEYS[1]));
    write(victim, JOURNAL, "7");
    let let_in = read(survivor, JOURNAL);
    trace(survivor, &format!("the disk says {let_in}"));
    assert_eq!(let_in, "7", "a node that was let in again does not write");
    survivor.succeed(&reserve_out(&format!("--clear --param-rk={}", KEYS[0])));
}

/// Seconds that an access to the disk may take before sanlock takes it for failed. Its other times
/// are multiples of this.
const IO_TIMEOUT: u32 = 2;
/// A lockspace of sanlock's, and a resource in it, with their places on the disk.
const LOCKSPACE: (&str, &str) = ("cluster", "/dev/sda:1048576");
const RESOURCE: &str = "cluster:volume:/dev/sda:2097152";

/// What sanlock says where the lease's owner is alive (SANLK_ACQUIRE_IDLIVE).
const HELD: &str = "acquire done -243";

/// A lease of sanlock's is one node's at a time.
pub fn leases_exclude(one: &mut Node, other: &mut Node) {
    let (space, place) = LOCKSPACE;
    one.succeed(&format!("sanlock direct init -s {space}:0:{place} -o {IO_TIMEOUT}"));
    one.succeed(&format!("sanlock direct init -r {RESOURCE} -o {IO_TIMEOUT}"));
    let join = |node: &mut Node, host: u32| {
        node.tell(&format!(
            "sanlock daemon -w 0 -U root -G root -o {IO_TIMEOUT} -e node-{host} && \
             until sanlock client status >/dev/null 2>&1; do usleep 50000; done && \
             sanlock client add_lockspace -s {space}:{host}:{place} -o {IO_TIMEOUT}"
        ));
    };
    join(one, 1);
    join(other, 2);
    for node in [&mut *one, &mut *other] {
        let Answer { status, said } = node.answer();
        assert_eq!(status, 0, "{}: {said}", node.name);
        println!("{}: is a host of the lockspace", node.name);
    }
    // Holds the lease as long as the program runs that it then becomes.
    let hold = format!("sanlock client command -r {RESOURCE} -c /bin/sh -c 'touch held; sleep 90'");
    let held = "until [ -e held ]; do usleep 50000; done";
    one.succeed(&format!("{hold} >hold 2>&1 & echo $! >holder; {held}"));
    println!("{}: holds the lease", one.name);
    let refused = other.run(&format!("{hold} 2>&1; [ ! -e held ]"));
    println!("{}: {}", other.name, refused.said.replace('\n', "; "));
    assert_eq!(refused.status, 0, "both hold it: {}", refused.said);
    assert!(refused.said.contains(HELD), "refused for another reason: {}", refused.said);

    one.succeed("kill $(cat holder)");
    // The daemon sees that the program is gone, and gives the lease back.
    let again = format!(
        "for attempt in 1 2 3 4 5 6 7 8 9; do {hold} >hold 2>&1 & sleep 2; [ ! -e held ] || break; \
         done; cat hold; {held}"
    );
    other.succeed(&again);
    println!("{}: the program of {} was killed: holds the lease", other.name, one.name);
    let leases = other.succeed("sanlock client status");
    println!("{}: {}", other.name, leases.replace('\n', "; "));
    assert!(leases.contains(RESOURCE), "{leases}");
}

/// Shell commands that write a text to a block and read it, past every cache.
fn put(block: u32, text: &str) -> String {
    format!(
        "printf %-512s {text} >block && \
         dd if=block of=/dev/sda bs=512 seek={block} count=1 oflag=direct conv=notrunc 2>&1"
    )
}

#[track_caller]
fn write(node: &mut Node, block: u32, text: &str) {
    node.succeed(&put(block, text));
}

fn get(block: u32) -> String {
    format!("dd if=/dev/sda bs=512 skip={block} count=1 iflag=direct 2>/dev/null | tr -d ' '")
}

#[track_caller]
fn read(node: &mut Node, block: u32) -> String {
    node.succeed(&get(block))
}
