//! One guest of a lab: the keys of `[vm.NAME]`.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cohort_guest::script::Script;

use super::Guest;
use super::disk;
use super::expand::{Scope, expand};
use super::fields::{Field, Fields};
use super::files;
use super::mistake::Collector;
use crate::machine::{features, layout};
use crate::spec::{
    BUILTIN_SCRIPT, CPUS_MAX, ConsoleInput, KernelSource, LINUX_CMDLINE, MEMORY_DEFAULT, VmSpec,
};
use crate::units::{parse_duration, parse_memory};

/// The keys of a guest's table.
pub(super) const KEYS: &[&str] = &[
    "count", "kernel", "initrd", "cmdline", "script", "memory", "cpus", "cpu-mask", "disks",
    "timeout", "expect",
];

/// What the strings of one guest are read with.
pub(super) struct Reader<'a, 'm> {
    pub(super) scope: Scope<'a>,
    /// The folder that relative paths start from.
    pub(super) dir: &'a Path,
    pub(super) mistakes: &'a mut Collector<'m>,
}

impl Reader<'_, '_> {
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
}

/// Reads the guest `name`. Where there are mistakes, the result is some guest.
pub(super) fn read(
    fields: &Fields<'_>,
    name: &str,
    index: u32,
    dir: &Path,
    mistakes: &mut Collector<'_>,
) -> VmSpec {
    let mut reader = Reader { scope: Scope { name, index }, dir, mistakes };
    let kernel = read_kernel(fields, &mut reader);
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
        .map(|kernel| read_cmdline(fields, *kernel == KernelSource::Builtin, &mut reader));
    let disks = match fields.get("disks") {
        Some(field) => field
            .list(reader.mistakes)
            .iter()
            .filter_map(|field| disk::read(field, &mut reader))
            .collect(),
        None => Vec::new(),
    };
    let mistakes = reader.mistakes;
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
        name: name.to_owned(),
        kernel: kernel.unwrap_or(KernelSource::Builtin),
        initrd,
        cmdline: cmdline.unwrap_or_default(),
        memory: memory.unwrap_or(MEMORY_DEFAULT),
        cpus: cpus.and_then(|cpus| u8::try_from(cpus).ok()).unwrap_or(1),
        cpu_mask: cpu_mask.unwrap_or_default(),
        disks,
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
    guests: &[Guest],
    tables: &[(&str, Field<'_>)],
    mistakes: &mut Collector<'_>,
) {
    // By device and inode: the first user's name, and whether one so far writes.
    let mut users: HashMap<(u64, u64), (String, bool)> = HashMap::new();
    for guest in guests {
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
                    "give each guest a file of its own, as in path = \"disk-{index}.img\", \
                     or set ro = true for all",
                );
            }
            *written |= writes;
        }
    }
}
