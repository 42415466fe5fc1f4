//! One guest of a lab: the keys of `[vm.NAME]`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cohort_guest::script::Script;

use super::disk;
use super::expand::{Scope, expand};
use super::fields::{Field, Fields};
use super::files;
use super::mistake::Collector;
use super::pmem;
use super::share;
use super::{Lab, SharedDisk, SharedSource};
use crate::machine::{features, layout};
use crate::spec::{
    BUILTIN_SCRIPT, CPUS_MAX, ConsoleInput, KernelSource, LINUX_CMDLINE, MEMORY_DEFAULT, VmSpec,
};
use crate::units::{parse_duration, parse_memory};

/// The keys of a guest's table.
pub(super) const KEYS: &[&str] = &[
    "count", "kernel", "initrd", "cmdline", "script", "memory", "cpus", "cpu-mask", "disks",
    "pmem", "shares", "timeout", "expect",
];

/// What the strings of one guest are read with.
pub(super) struct Reader<'a, 'm> {
    pub(super) scope: Scope<'a>,
    /// The folder that relative paths start from.
    dir: &'a Path,
    /// The disks that guests can share.
    pub(super) shared_disks: &'a [SharedDisk],
    /// Those of this guest's disks that are shared ones, and their names.
    pub(super) shared: BTreeMap<usize, String>,
    pub(super) mistakes: &'a mut Collector<'m>,
}

impl<'a, 'm> Reader<'a, 'm> {
    /// For one guest of a lab in the folder `dir`.
    pub(super) fn new(
        scope: Scope<'a>,
        dir: &'a Path,
        shared_disks: &'a [SharedDisk],
        mistakes: &'a mut Collector<'m>,
    ) -> Reader<'a, 'm> {
        Reader { scope, dir, shared_disks, shared: BTreeMap::new(), mistakes }
    }

    /// A string with its expressions replaced.
    pub(super) fn text(&mut self, field: &Field<'_>) -> Option<String> {
        let text = field.text(self.mistakes)?;
        match expand(text, self.scope) {
            Ok(text) => Some(text),
            Err(message) => {
                field.wrong(
                    self.mistakes,
                    message,
                    "known: {name}, {index}, {index+1}; for a brace itself, put a blank behind it, \
                     or write {{",
                );
                None
            }
        }
    }

    /// A path with its expressions replaced, from the lab file's folder.
    pub(super) fn path(&mut self, field: &Field<'_>) -> Option<PathBuf> {
        self.text(field).map(|path| self.dir.join(path))
    }

    /// A path from the lab file's folder.
    pub(super) fn in_folder(&self, path: &Path) -> PathBuf {
        self.dir.join(path)
    }
}

/// Reads a guest. Where there are mistakes, the result is some guest.
pub(super) fn read(fields: &Fields<'_>, reader: &mut Reader<'_, '_>) -> VmSpec {
    let kernel = read_kernel(fields, reader);
    let initrd = fields.get("initrd").and_then(|field| {
        if kernel == Some(KernelSource::Builtin) {
            field.wrong(
                reader.mistakes,
                "the built-in guest takes no initrd",
                "remove it, or name a Linux kernel with the key kernel",
            );
            return None;
        }
        let path = reader.path(&field)?;
        files::check_file(&path, &field, reader.mistakes).then_some(path)
    });
    let cmdline = kernel
        .as_ref()
        .map(|kernel| read_cmdline(fields, *kernel == KernelSource::Builtin, reader));
    let disks = match fields.get("disks") {
        Some(field) => {
            let fields = field.list(reader.mistakes).into_iter().enumerate();
            fields.filter_map(|(number, field)| disk::read(&field, number, reader)).collect()
        }
        None => Vec::new(),
    };
    let pmem = match fields.get("pmem") {
        Some(field) => {
            let fields = field.list(reader.mistakes).into_iter();
            fields.filter_map(|field| pmem::read(&field, reader)).collect()
        }
        None => Vec::new(),
    };
    let shares = match fields.get("shares") {
        Some(field) => share::read_all(&field, reader),
        None => Vec::new(),
    };
    let mistakes = &mut *reader.mistakes;
    let memory = fields.get("memory").and_then(|field| {
        field.text_with_unit(mistakes, |text| parse_memory(text, layout::MEMORY_MIN))
    });
    let cpus = fields.get("cpus").and_then(|field| field.integer(mistakes, 1, CPUS_MAX.into()));
    let cpu_mask = fields.get("cpu-mask").map(|field| {
        let items = field.list(mistakes);
        let named = items.iter().filter_map(|item| {
            let name = item.text(mistakes)?;
            if !features::names().any(|known| known == name) {
                let message = format!("{name:?} is no CPU feature that can be hidden");
                item.wrong(mistakes, message, features::help());
            }
            Some(name.to_owned())
        });
        named.collect()
    });
    let timeout =
        fields.get("timeout").and_then(|field| field.text_with_unit(mistakes, parse_duration));
    VmSpec {
        name: reader.scope.name.to_owned(),
        kernel: kernel.unwrap_or(KernelSource::Builtin),
        initrd,
        cmdline: cmdline.unwrap_or_default(),
        memory: memory.unwrap_or(MEMORY_DEFAULT),
        cpus: cpus.and_then(|cpus| u8::try_from(cpus).ok()).unwrap_or(1),
        cpu_mask: cpu_mask.unwrap_or_default(),
        disks,
        pmem,
        shares,
        // That of the lab, when it runs.
        share_domain: None,
        input: ConsoleInput::Serial,
        timeout,
    }
}

/// The kernel; `None` when the lab does not say which in a way that can be understood.
fn read_kernel(fields: &Fields<'_>, reader: &mut Reader<'_, '_>) -> Option<KernelSource> {
    let Some(field) = fields.get("kernel") else {
        return Some(KernelSource::Builtin);
    };
    if field.text(reader.mistakes)? == "builtin" {
        return Some(KernelSource::Builtin);
    }
    let path = reader.path(&field)?;
    files::check_file(&path, &field, reader.mistakes);
    Some(KernelSource::Path(path))
}

fn read_cmdline(fields: &Fields<'_>, builtin: bool, reader: &mut Reader<'_, '_>) -> String {
    let (right, wrong, help) = if builtin {
        ("script", "cmdline", "the built-in guest runs a script: use the key script")
    } else {
        ("cmdline", "script", "only the built-in guest runs scripts: use the key cmdline")
    };
    if let Some(field) = fields.get(wrong) {
        let message = format!("this guest takes no {wrong}");
        reader.mistakes.add(field.key, &field.path, message, help);
    }
    let Some(field) = fields.get(right) else {
        return if builtin { BUILTIN_SCRIPT.into() } else { LINUX_CMDLINE.into() };
    };
    let text = reader.text(&field).unwrap_or_default();
    let max = layout::CMDLINE_MAX - 1;
    if text.len() as u64 > max {
        let message = format!("{} bytes are too long", text.len());
        field.wrong(reader.mistakes, message, format!("use at most {max} bytes"));
    }
    if text.contains('\0') {
        field.wrong(reader.mistakes, "a NUL character would end it early", "remove it");
    }
    if builtin && let Err(error) = Script::new(&text).check() {
        field.wrong(reader.mistakes, error.to_string(), "README.md lists the commands of scripts");
    }
    text
}

/// Reports disks that two guests would write, or one would write under another that reads it: the
/// second to start would find the image locked.
pub(super) fn refuse_shared_writers(
    lab: &Lab,
    tables: &[(&str, Field<'_>)],
    mistakes: &mut Collector<'_>,
) {
    // By device and inode: the first user's name, and whether one so far writes.
    let mut users: HashMap<(u64, u64), (String, bool)> = HashMap::new();
    for disk in &lab.shared_disks {
        let SharedSource::Path { path, read_only, .. } = &disk.source else { continue };
        let Ok(file) = fs::metadata(path) else { continue };
        let name = format!("shared-disk.{}", disk.name);
        users.insert((file.dev(), file.ino()), (name, !read_only));
    }
    for guest in &lab.guests {
        for disk in &guest.spec.disks {
            let Some((path, writes)) = disk.file() else { continue };
            let Ok(file) = fs::metadata(path) else { continue };
            let Some((first, written)) = users.get_mut(&(file.dev(), file.ino())) else {
                users.insert((file.dev(), file.ino()), (guest.spec.name.clone(), writes));
                continue;
            };
            if writes || *written {
                let Some((_, field)) = tables.iter().find(|(key, _)| *key == guest.table) else {
                    continue;
                };
                mistakes.add(
                    field.key,
                    &format!("{}.disks", field.path),
                    format!(
                        "{} is a disk of {first} and of {}, and not read-only for both",
                        path.display(),
                        guest.spec.name
                    ),
                    "give each guest a file of its own, as in path = \"disk-{index}.img\", set ro = \
                     true for all, or share it by intent: a table [shared-disk.NAME], and { shared \
                     = \"NAME\" } in disks",
                );
            }
            *written |= writes;
        }
    }
}
