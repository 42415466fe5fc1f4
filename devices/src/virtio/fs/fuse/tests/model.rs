//! Random operations against a model in memory, by two guests that share a folder.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::messages::{Opcode, ROOT};
use super::client::*;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    Create(usize),
    Write { name: usize, at: u64, len: usize, byte: u8 },
    Append { name: usize, byte: u8 },
    Truncate { name: usize, to: u64 },
    Read { name: usize, at: u64, len: u32 },
    Rename { from: usize, to: usize, flags: u32 },
    Unlink(usize),
    Link { from: usize, to: usize },
    List { plus: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..NAMES.len();
    prop_oneof![
        2 => name.clone().prop_map(Step::Create),
        4 => (name.clone(), 0u64..20_000, 1usize..9000, 1u8..)
            .prop_map(|(name, at, len, byte)| Step::Write { name, at, len, byte }),
        1 => (name.clone(), 1u8..).prop_map(|(name, byte)| Step::Append { name, byte }),
        2 => (name.clone(), 0u64..20_000).prop_map(|(name, to)| Step::Truncate { name, to }),
        4 => (name.clone(), 0u64..25_000, 0u32..25_000)
            .prop_map(|(name, at, len)| Step::Read { name, at, len }),
        2 => (name.clone(), name.clone(), 0u32..3)
            .prop_map(|(from, to, flags)| Step::Rename { from, to, flags }),
        1 => name.clone().prop_map(Step::Unlink),
        1 => (name.clone(), name).prop_map(|(from, to)| Step::Link { from, to }),
        1 => any::<bool>().prop_map(|plus| Step::List { plus }),
    ]
}

/// Names, and the files they lead to.
#[derive(Default)]
struct Model {
    names: BTreeMap<usize, usize>,
    files: Vec<Vec<u8>>,
}

impl Model {
    fn get(&mut self, name: usize) -> Result<&mut Vec<u8>, i32> {
        let file = self.names.get(&name).ok_or(libc::ENOENT)?;
        Ok(&mut self.files[*file])
    }

    fn rename(&mut self, from: usize, to: usize, flags: u32) -> Result<(), i32> {
        let old = *self.names.get(&from).ok_or(libc::ENOENT)?;
        let new = self.names.get(&to).copied();
        match (flags, new) {
            (1, Some(_)) => return Err(libc::EEXIST),
            (2, None) => return Err(libc::ENOENT),
            (2, Some(new)) => {
                self.names.insert(from, new);
            }
            // Two names of one file both stay.
            (_, Some(new)) if new == old => return Ok(()),
            _ => {
                self.names.remove(&from);
            }
        }
        self.names.insert(to, old);
        Ok(())
    }
}

/// Opens a file by name, uses it, and closes it.
fn with_open<T>(
    client: &Client,
    name: usize,
    act: impl FnOnce(u64, u64) -> Result<T, i32>,
) -> Result<T, i32> {
    let node = client.lookup(ROOT, NAMES[name])?;
    let handle = client.open(node, libc::O_RDWR).unwrap();
    let result = act(node, handle);
    client.release(handle);
    client.forget(node, 1);
    result
}

fn check(client: &Client, model: &mut Model, step: &Step) {
    match *step {
        Step::Create(name) => {
            let made = client.create(ROOT, NAMES[name], libc::O_RDWR | libc::O_EXCL);
            if model.names.contains_key(&name) {
                assert_eq!(made, Err(libc::EEXIST));
                return;
            }
            let (node, handle) = made.unwrap();
            client.release(handle);
            client.forget(node, 1);
            model.names.insert(name, model.files.len());
            model.files.push(Vec::new());
        }
        Step::Write { name, at, len, byte } => {
            let data = vec![byte; len];
            let got = with_open(client, name, |_, handle| client.write(handle, at, &data));
            let wanted = model.get(name).map(|file| {
                let at = usize::try_from(at).unwrap();
                file.resize(file.len().max(at + len), 0);
                file[at..at + len].copy_from_slice(&data);
                u32::try_from(len).unwrap()
            });
            assert_eq!(got, wanted);
        }
        Step::Append { name, byte } => {
            let append = |_, handle| client.write_with(handle, 0, &[byte], 0, libc::O_APPEND);
            let wanted = model.get(name).map(|file| file.push(byte));
            assert_eq!(with_open(client, name, append).map(drop), wanted);
        }
        Step::Truncate { name, to } => {
            let cut = |node, _| client.set(node, 1 << 3, to, 0, 0).map(|attr| u64_at(&attr, 8));
            let wanted = model.get(name).map(|file| {
                file.resize(usize::try_from(to).unwrap(), 0);
                to
            });
            assert_eq!(with_open(client, name, cut), wanted);
        }
        Step::Read { name, at, len } => {
            let got = with_open(client, name, |_, handle| client.read(handle, at, len));
            let wanted = model.get(name).map(|file| {
                let from = file.len().min(usize::try_from(at).unwrap());
                let to = file.len().min(from + usize::try_from(len).unwrap());
                file[from..to].to_vec()
            });
            assert_eq!(got, wanted);
        }
        Step::Rename { from, to, flags } => {
            if from == to {
                return;
            }
            let got = client.rename((ROOT, NAMES[from]), (ROOT, NAMES[to]), flags);
            assert_eq!(got, model.rename(from, to, flags));
        }
        Step::Unlink(name) => {
            let got = client.call(Opcode::Unlink, ROOT, arguments().text(NAMES[name]));
            assert_eq!(got.map(drop), model.names.remove(&name).ok_or(libc::ENOENT).map(drop));
        }
        Step::Link { from, to } => {
            let got = with_open(client, from, |node, _| {
                let with = arguments().u64(node).text(NAMES[to]);
                let entry = client.call(Opcode::Link, ROOT, with)?;
                client.forget(u64_at(&entry, 0), 1);
                Ok(())
            });
            let wanted = match model.names.get(&from).copied() {
                None => Err(libc::ENOENT),
                Some(_) if model.names.contains_key(&to) => Err(libc::EEXIST),
                Some(file) => {
                    model.names.insert(to, file);
                    Ok(())
                }
            };
            assert_eq!(got, wanted);
        }
        Step::List { plus } => {
            let wanted: Vec<&str> = model.names.keys().map(|name| NAMES[*name]).collect();
            assert_eq!(client.names(ROOT, plus).unwrap(), wanted);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn two_guests_see_one_folder(
        steps in proptest::collection::vec((any::<bool>(), step()), 1..80),
    ) {
        let (folder, one) = share();
        let mut few = writable(folder.path());
        few.limits.descriptors = 2;
        // Fewer descriptors than files, where that works.
        let by_handle = rustix::process::geteuid().is_root();
        let two = Client::new(if by_handle { few } else { writable(folder.path()) });
        let mut model = Model::default();
        for (first, step) in &steps {
            check(if *first { &one } else { &two }, &mut model, step);
        }
        for client in [&one, &two] {
            prop_assert_eq!(client.server.inodes.counts(), (1, 0));
            prop_assert_eq!(client.server.handles.len(), 0);
        }
    }
}
