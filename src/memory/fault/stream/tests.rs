use std::fs::File;
use std::io::{PipeWriter, Seek, Write, pipe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::super::super::{GuestMemory, Layers, discard, image};
use super::super::serve_stream;
use super::*;

const SIZE: Size = Size::new(5 << 19);

/// An image of two chunks and a half: each byte is its page's number, and every fourth page is zeroes.
fn bytes() -> Vec<u8> {
    let byte = |page: u64| if page % 4 == 3 { 0 } else { page.to_le_bytes()[0] | 1 };
    (0..SIZE.bytes()).map(|at| byte(at / PAGE_SIZE)).collect()
}

fn sums(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks(CHUNK.try_into().unwrap()).map(crc32fast::hash).collect()
}

struct Streamed {
    memory: GuestMemory,
    failed: mpsc::Receiver<(u64, String)>,
    given_up: Arc<AtomicBool>,
}

/// None where the host has no userfaultfd for us.
fn streamed(input: impl Read + AsFd + Send + 'static) -> Option<Streamed> {
    let (tell, failed) = mpsc::channel();
    let failed_call = Box::new(move |at, error: io::Error| tell.send((at, error.to_string())).unwrap());
    let given_up = Arc::new(AtomicBool::default());
    let asked = Arc::clone(&given_up);
    let stream = Stream::new(input, SIZE, sums(&bytes()), move || asked.load(Ordering::Relaxed));
    match serve_stream(SIZE, stream, failed_call) {
        Ok(memory) => Some(Streamed { memory, failed, given_up }),
        Err(error) => {
            crate::testing::skip(&error.to_string());
            None
        }
    }
}

fn read(memory: &GuestMemory, at: u64) -> u8 {
    memory.read_obj(GuestAddress(at)).unwrap()
}

impl Streamed {
    fn read(&self, at: u64) -> u8 {
        read(&self.memory, at)
    }

    fn all(&self) -> Vec<u8> {
        let mut all = vec![9; SIZE.bytes().try_into().unwrap()];
        self.memory.read_slice(&mut all, GuestAddress(0)).unwrap();
        all
    }
}

/// The part of the image from one byte to another goes out.
fn send(to: &mut PipeWriter, from: u64, end: u64) {
    to.write_all(&bytes()[from.try_into().unwrap()..end.try_into().unwrap()]).unwrap();
}

#[test]
fn what_has_come_is_there_and_what_has_not_is_waited_for() {
    let (reader, mut writer) = pipe().unwrap();
    let Some(streamed) = streamed(reader) else { return };
    let written = |at: u64| bytes()[usize::try_from(at).unwrap()];
    thread::scope(|scope| {
        let (first, second) = (mpsc::channel(), mpsc::channel());
        let memory = &streamed.memory;
        for (at, tell) in [(CHUNK - 1, first.0), (CHUNK + PAGE_SIZE, second.0)] {
            scope.spawn(move || tell.send(read(memory, at)).unwrap());
        }
        // No page of a chunk is there before the last one has come.
        send(&mut writer, 0, CHUNK - PAGE_SIZE);
        first.1.try_recv().unwrap_err();
        send(&mut writer, CHUNK - PAGE_SIZE, CHUNK + 100);
        assert_eq!(first.1.recv(), Ok(written(CHUNK - 1)));
        assert_eq!(streamed.read(PAGE_SIZE), written(PAGE_SIZE));
        second.1.try_recv().unwrap_err();
        send(&mut writer, CHUNK + 100, SIZE.bytes());
        assert_eq!(second.1.recv(), Ok(written(CHUNK + PAGE_SIZE)));
    });
    assert!(streamed.all() == bytes());
    // Nobody reads on.
    while writer.write_all(&[1]).is_ok() {}
    drop(streamed.memory);
    streamed.failed.recv().unwrap_err();
}

#[test]
fn what_is_written_before_the_rest_of_a_page_has_come_stays() {
    let (reader, mut writer) = pipe().unwrap();
    let Some(streamed) = streamed(reader) else { return };
    thread::scope(|scope| {
        let memory = &streamed.memory;
        // The write waits for the page.
        scope.spawn(|| memory.write_obj(0xaa_u8, GuestAddress(9 * PAGE_SIZE + 100)).unwrap());
        send(&mut writer, 0, SIZE.bytes());
    });
    assert_eq!([100, 101].map(|at| streamed.read(9 * PAGE_SIZE + at)), [0xaa, 9]);
}

#[test]
fn what_is_discarded_before_it_comes_stays_zeroes() {
    let (reader, mut writer) = pipe().unwrap();
    let Some(streamed) = streamed(reader) else { return };
    let part = streamed.memory.get_slice(GuestAddress(4 * PAGE_SIZE), 2 * 4096).unwrap();
    assert_eq!(discard(&streamed.memory, &part).unwrap(), 2 * PAGE_SIZE);
    assert_eq!(streamed.read(4 * PAGE_SIZE), 0);
    streamed.memory.write_obj(7_u8, GuestAddress(5 * PAGE_SIZE)).unwrap();
    send(&mut writer, 0, SIZE.bytes());
    assert_eq!([4, 5, 6].map(|page| streamed.read(page * PAGE_SIZE)), [0, 7, bytes()[6 * 4096]]);
}

#[test]
fn the_image_of_what_has_not_all_come_is_whole() {
    let (reader, mut writer) = pipe().unwrap();
    let Some(streamed) = streamed(reader) else { return };
    let to = tempfile::tempfile().unwrap();
    let memory = &streamed.memory;
    thread::scope(|scope| {
        scope.spawn(|| {
            let layers = Layers::elsewhere(SIZE);
            let go_on = &mut |_, _| std::ops::ControlFlow::Continue(());
            image::write(memory, Some(&layers), &to, go_on).unwrap();
        });
        send(&mut writer, 0, SIZE.bytes());
    });
    let mut written = Vec::new();
    (&to).rewind().unwrap();
    (&to).read_to_end(&mut written).unwrap();
    assert!(written == bytes());
}

#[test]
fn a_file_is_a_stream_too() {
    let mut file: File = tempfile::tempfile().unwrap();
    file.write_all(&bytes()).unwrap();
    file.rewind().unwrap();
    let Some(streamed) = streamed(file) else { return };
    assert!(streamed.all() == bytes());
}

#[test]
fn an_end_before_its_time_and_what_is_not_right_are_told() {
    let (cut, mut wrong) = (bytes()[..(CHUNK + 5).try_into().unwrap()].to_vec(), bytes());
    wrong[usize::try_from(CHUNK).unwrap() + 5000] ^= 1;
    for (sent, expected) in [
        (Vec::new(), "ended after 0 of 2621440 bytes"),
        (cut, "ended after 1048581 of 2621440 bytes"),
        (wrong, "the checksum of the 1048576 bytes from 0x100000 on is wrong"),
    ] {
        let (reader, mut writer) = pipe().unwrap();
        let Some(streamed) = streamed(reader) else { return };
        thread::scope(|scope| {
            scope.spawn(move || writer.write_all(&sent).is_ok());
            let (at, error) = streamed.failed.recv().unwrap();
            assert!(error.contains(expected), "{error}");
            assert_eq!(at % CHUNK, 0);
        });
    }
}

#[test]
fn a_stream_that_nobody_waits_for_any_more_holds_nobody_up() {
    let (reader, mut writer) = pipe().unwrap();
    let Some(streamed) = streamed(reader) else { return };
    send(&mut writer, 0, CHUNK);
    assert_eq!(streamed.read(0), 1);
    let memory = streamed.memory.clone();
    thread::scope(|scope| {
        scope.spawn(move || read(&memory, CHUNK));
        streamed.given_up.store(true, Ordering::Relaxed);
        let (at, error) = streamed.failed.recv().unwrap();
        assert_eq!((at, error.contains("nobody waits")), (CHUNK, true), "{error}");
    });
}
