//! Scripts to begin with: requests, and the messages that change what runs.

/// Has the device work.
const WORK: [u8; 2] = [5, 0];

fn request(queue: u8, kind: u8, sectors: u8, sector: u8) -> Vec<u8> {
    vec![0, queue, kind, sectors, sector]
}

/// Inputs of [`super::vhost_user`] to begin with.
pub fn vhost_user_seeds() -> Vec<Vec<u8>> {
    let work = || WORK.to_vec();
    let read = |queue| request(queue, 0, 2, 4);
    let mut seeds = Vec::new();
    let mut seed = |steps: &[Vec<u8>]| seeds.push(steps.concat());
    let kinds = [0, 1, 4, 8, 11, 13, 77];
    seed(&kinds.map(|kind| [request(0, kind, 1, 8), work()].concat()));
    seed(&[read(0), read(1), request(1, 1, 7, 0), work()]);
    // A queue is left, and goes on.
    seed(&[read(0), work(), read(0), vec![12, 0], vec![13, 0], work()]);
    seed(&[read(0), vec![15, 0], work(), vec![15, 2], work()]);
    // Memory goes and comes.
    let (add, remove) = (vec![8, 0x31], vec![8, 0x32]);
    seed(&[read(0), work(), add, remove, read(1), work()]);
    seed(&[read(0), vec![8, 0x30], work(), vec![8, 0x33], read(0), work()]);
    // Records of requests in flight, as new and with something in them.
    let (get, set) = (vec![17, 0], vec![17, 2]);
    let leave = |at: u16, bytes: &[u8]| {
        let count = u8::try_from(bytes.len()).unwrap_or_default();
        [&[17, 1 | count << 2][..], &at.to_le_bytes(), bytes].concat()
    };
    seed(&[get.clone(), set.clone(), read(0), work(), vec![19, 0], read(0), work()]);
    let header = leave(8, &[1, 0, 64, 0, 3, 0, 1, 0]);
    let entry = leave(16, &[1, 0, 0, 0, 0, 0, 9, 0, 7, 0, 0, 0]);
    seed(&[get, read(0), header, entry, set, work(), vec![19, 0], work()]);
    // The configuration, features, a reset.
    seed(&[
        vec![16, 1, 0, 32, 0, 1, 0],
        read(0),
        work(),
        vec![18, 4],
        vec![18, 7],
        read(1),
        work(),
    ]);
    // Descriptors and indices that lead elsewhere.
    let loose = vec![2, 0, 1, 17, 0, 16, 0, 0, 1, 0, 1, 0, 1, 0];
    seed(&[loose, vec![3, 0, 1, 0], work(), vec![3, 0, 0xff, 0xff], work(), vec![18, 7]]);
    seeds
}
