//! Requests of several parts, by a layer that keeps its disk in pieces.

use super::*;

/// What the layer was told at the end of each request.
type Log = Arc<Mutex<Vec<(u64, Outcome)>>>;

/// 4 KiB of file 0, then of file 1, then zeroes, and again from the start, each file packed.
struct Mosaic {
    info: LayerInfo,
    log: Log,
    gap: bool,
}

/// Bytes of a tile.
const LEN: usize = 4096;
const TILE: u64 = LEN as u64;
const SIZE: u64 = 9 * TILE;

impl Mosaic {
    fn tiles(range: DiskRange) -> impl Iterator<Item = (DiskRange, u16, FileOffset)> {
        let mut at = range.start();
        std::iter::from_fn(move || {
            let end = range.end().min((at / TILE + 1) * TILE);
            let part = DiskRange::new(at, end - at).filter(|part| !part.is_empty())?;
            let offset = FileOffset::new(at / (3 * TILE) * TILE + at % TILE)?;
            let tile = u16::try_from(at / TILE % 3).unwrap();
            at = end;
            Some((part, tile, offset))
        })
    }
}

impl Layer for Mosaic {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn resolve_read(&self, range: DiskRange, out: &mut Vec<Extent>) -> Result<Ticket, LayerError> {
        out.extend(Mosaic::tiles(range).map(|(range, tile, offset)| {
            let file = FileId(tile);
            let source = if tile < 2 { Source::Data { file, offset } } else { Source::Zero };
            Extent { range, source }
        }));
        if self.gap {
            out.pop();
        }
        Ok(Ticket::new(range.start()))
    }

    fn resolve_write(
        &self,
        range: DiskRange,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        // Tests leave the tiles of zeroes alone.
        let tiles = Mosaic::tiles(range);
        out.extend(tiles.map(|(range, tile, at)| WriteStep::Store {
            range,
            file: FileId(tile),
            at,
        }));
        Ok(Ticket::new(range.start()))
    }

    fn resolve_erase(
        &self,
        range: DiskRange,
        _how: Erase,
        out: &mut Vec<WriteStep>,
    ) -> Result<Ticket, LayerError> {
        for (part, tile, at) in Mosaic::tiles(range).filter(|(_, tile, _)| *tile < 2) {
            let (file, len) = (FileId(tile), part.len());
            out.push(WriteStep::ZeroFill { file, at, len, unmap: true });
        }
        Ok(Ticket::new(range.start()))
    }

    fn finish(&self, ticket: Ticket, how: Outcome) -> Result<(), LayerError> {
        self.log.lock().unwrap().push((ticket.request(), how));
        Ok(())
    }

    fn flush_metadata(&self) -> Result<(), LayerError> {
        self.log.lock().unwrap().push((u64::MAX, Outcome::Done));
        Ok(())
    }

    fn identity(&self) -> Result<Identity, LayerError> {
        Ok(Identity::fresh())
    }

    fn announce_change(&self) -> Result<(), LayerError> {
        Ok(())
    }

    fn set_parent(&self, _link: &ParentLink) -> Result<(), LayerError> {
        unreachable!("it has none")
    }

    fn close(&self) -> Result<(), LayerError> {
        Ok(())
    }

    fn check(&self, _repair: bool) -> Result<Vec<Finding>, LayerError> {
        Ok(Vec::new())
    }
}

/// The disk, what its layer hears, and its two files, which are not in memory.
fn mosaic(gap: bool, engine: EngineChoice) -> (Disk, Log, [File; 2]) {
    let log = Log::default();
    let info = LayerInfo {
        format: Format::Raw,
        size: SIZE,
        sector: 512,
        granularity: 512,
        read_only: false,
        parent: None,
        traits: None,
    };
    let layer = Mosaic { info, log: Arc::clone(&log), gap };
    let folder = env!("CARGO_MANIFEST_DIR");
    let files = [(), ()].map(|()| tempfile::tempfile_in(folder).unwrap());
    let images = files.each_ref().map(|file| {
        file.set_len(3 * TILE).unwrap();
        Arc::new(ImageFile::new(file.try_clone().unwrap(), Path::new("tile"), true))
    });
    let chain = Chain::of_one(Arc::new(layer));
    let disk = Disk::assemble(chain, &images, &options(engine)).unwrap();
    (disk, log, files)
}

#[test]
fn a_request_over_several_extents_is_answered_once_and_whole() {
    for engine in ENGINES {
        let (disk, log, files) = mosaic(false, engine);
        files[0].write_all_at(&[b'a'; 3 * LEN], 0).unwrap();
        files[1].write_all_at(&[b'b'; 3 * LEN], 0).unwrap();
        let mut queue = disk.queue(4).unwrap();
        let wanted: Vec<u8> =
            (0..SIZE).map(|at| b"ab\0"[usize::try_from(at / TILE % 3).unwrap()]).collect();
        assert!(read(&mut queue, 0, wanted.len()).unwrap() == wanted);
        assert!(read(&mut queue, 512, 13 * 512).unwrap() == wanted[512..512 + 13 * 512]);
        assert_eq!(*log.lock().unwrap(), [(0, Outcome::Done), (512, Outcome::Done)]);

        let data = pattern(3, 2 * LEN - 1024);
        write(&mut queue, 3 * TILE + 512, &data).unwrap();
        let mut back = vec![0; data.len()];
        let half = LEN - 512;
        files[0].read_exact_at(&mut back[..half], TILE + 512).unwrap();
        files[1].read_exact_at(&mut back[half..], TILE).unwrap();
        assert!(back == data);
    }
}

#[test]
fn several_erased_pieces_are_one_answer() {
    for engine in ENGINES {
        let (disk, log, files) = mosaic(false, engine);
        for file in &files {
            file.write_all_at(&[9; 3 * LEN], 0).unwrap();
        }
        let mut queue = disk.queue(4).unwrap();
        let zeroes = Operation::WriteZeroes { unmap: true };
        ask(&mut queue, request(zeroes, 512, SIZE - 512, Buffers::none())).unwrap();
        assert!(read(&mut queue, 512, 9 * LEN - 512).unwrap().iter().all(|&byte| byte == 0));
        assert_eq!(read(&mut queue, 0, 512).unwrap(), [9; 512]);
        assert_eq!(log.lock().unwrap()[0], (512, Outcome::Done));
    }
}

#[test]
fn a_layer_hears_of_failure_once_all_parts_have_ended() {
    let (disk, log, _files) = mosaic(false, EngineChoice::Auto);
    let script = Script::new([Fault::None, Fault::Fail(libc::EIO), Fault::None]);
    let mut queue = disk.queue_on(Faulty::new(&script), 4);
    let memory = filled(&pattern(3, 2 * LEN));
    let buffers = Buffers::whole(&memory);
    assert!(queue.submit(5, request(Operation::Write, 0, 2 * TILE, buffers)).is_none());
    assert!(log.lock().unwrap().is_empty(), "nothing is published before its payload is stored");
    let mut done = Vec::new();
    queue.drain(&mut done);
    assert!(matches!(done[..], [(5, Err(IoError::Host { .. }))]));
    assert_eq!(*log.lock().unwrap(), [(0, Outcome::Abort)]);
}

#[test]
fn a_flush_reaches_the_map_after_the_payload_and_only_then() {
    let (disk, log, _files) = mosaic(false, EngineChoice::Auto);
    let script = Script::new([Fault::Fail(libc::EIO)]);
    let mut queue = disk.queue_on(Faulty::new(&script), 4);
    let flush = || request(Operation::Flush, 0, 0, Buffers::none());
    ask(&mut queue, flush()).unwrap_err();
    assert_eq!(script.seen(), [Action::Sync; 2], "one for each file");
    assert!(log.lock().unwrap().is_empty(), "no metadata after a failed flush of the payload");
    ask(&mut queue, flush()).unwrap();
    assert_eq!(*log.lock().unwrap(), [(u64::MAX, Outcome::Done)]);
}

#[test]
fn a_map_with_a_gap_is_an_error_and_its_ticket_is_redeemed() {
    let (disk, log, _files) = mosaic(true, EngineChoice::Auto);
    let mut queue = disk.queue(4).unwrap();
    let error = read(&mut queue, 0, 2 * LEN).unwrap_err();
    assert!(matches!(error, IoError::Layer(LayerError::Gap { .. })), "{error:?}");
    assert_eq!(*log.lock().unwrap(), [(0, Outcome::Abort)]);
}

#[test]
fn memory_in_many_small_pieces_is_served_as_one() {
    for engine in ENGINES {
        let disk = Disk::scratch(Bytes::new(1 << 20), &options(engine)).unwrap();
        let mut queue = disk.queue(4).unwrap();
        // More pieces than one system call takes.
        let len = 3000 * 64;
        let data = pattern(8, len);
        let memory = filled(&data);
        let store = request(Operation::Write, 512, len as u64, scattered(&memory));
        ask(&mut queue, store).unwrap();
        drop(memory);
        let mut back = Arc::new(AlignedBuffer::new(len));
        ask(&mut queue, request(Operation::Read, 512, len as u64, scattered(&back))).unwrap();
        assert!(Arc::get_mut(&mut back).unwrap().bytes() == data);
    }
}

/// `memory` as a list of pieces of 64 bytes.
#[expect(unsafe_code, reason = "lists of pieces are made of addresses")]
fn scattered(memory: &Arc<AlignedBuffer>) -> Buffers {
    let mut whole = Buffers::whole(memory);
    let mut list = Buffers::new(Arc::clone(memory) as Owner);
    while !whole.is_empty() {
        for piece in whole.split_to(64).iovecs() {
            // SAFETY: a piece of memory that the list's owner keeps.
            unsafe { list.push(piece.iov_base.cast(), piece.iov_len) };
        }
    }
    list
}
