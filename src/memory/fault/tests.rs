use std::fs::File;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use kvm_bindings::kvm_regs;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::super::layers::{Layer, Run};
use super::super::layout::{HOLE_END, HOLE_START};
use super::super::{discard, image};
use super::*;
use crate::hypervisor::{Exit, KickHandle, KvmVcpu, Seat, Vcpu, Vm};

const PAGE: u64 = PAGE_SIZE;

/// Pages that are each full of a byte, and a note of which were asked for; its end is the channel's.
struct Bytewise {
    asked: Arc<Mutex<Vec<u64>>>,
    broken: Option<u64>,
    _end: mpsc::Sender<()>,
}

/// What page `n` is full of; every fourth is zeroes.
fn byte(page: u64) -> u8 {
    if page % 4 == 3 { 0 } else { page.to_le_bytes()[0] | 1 }
}

impl PageSource for Bytewise {
    fn read(&mut self, offset: u64, page: &mut [u8]) -> io::Result<()> {
        let number = offset / PAGE;
        if self.broken == Some(number) {
            return Err(io::Error::other("the wire is cut"));
        }
        self.asked.lock().unwrap().push(number);
        page.fill(byte(number));
        Ok(())
    }
}

struct Served {
    memory: GuestMemory,
    asked: Arc<Mutex<Vec<u64>>>,
    failed: mpsc::Receiver<(u64, String)>,
    end: mpsc::Receiver<()>,
}

/// None where the host has no userfaultfd for us.
fn served(size: Size, broken: Option<u64>) -> Option<Served> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (alive, end) = mpsc::channel();
    let (tell, failed) = mpsc::channel();
    let source = Bytewise { asked: Arc::clone(&asked), broken, _end: alive };
    let failed_call = Box::new(move |at, error: io::Error| tell.send((at, error.to_string())).unwrap());
    match serve(size, source, failed_call) {
        Ok(memory) => Some(Served { memory, asked, failed, end }),
        Err(error @ Error::Userfaultfd(_)) => {
            crate::testing::skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

impl Served {
    fn first(&self, page: u64) -> u8 {
        self.memory.read_obj(GuestAddress(page * PAGE)).unwrap()
    }
}

#[test]
fn pages_come_when_they_are_touched_and_once() {
    let Some(served) = served(Size::mib(2), None) else { return };
    for page in [5, 3, 5, 511, 3] {
        assert_eq!(served.first(page), byte(page));
    }
    // A part of a page is written before the rest was read.
    served.memory.write_obj(0xaa_u8, GuestAddress(9 * PAGE + 100)).unwrap();
    served.memory.write_obj(0xbb_u8, GuestAddress(7 * PAGE + 100)).unwrap();
    let read = |at| served.memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!([9 * PAGE, 9 * PAGE + 100, 9 * PAGE + 4095].map(read), [9, 0xaa, 9]);
    assert_eq!([7 * PAGE, 7 * PAGE + 100, 7 * PAGE + 4095].map(read), [0, 0xbb, 0]);
    assert_eq!(*served.asked.lock().unwrap(), [5, 3, 511, 9, 7]);
}

#[test]
fn both_sides_of_the_hole_come_from_their_places() {
    let low = HOLE_START / PAGE;
    let Some(served) = served(Size::new(HOLE_START + (2 << 20)), None) else { return };
    let read = |at| served.memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!([HOLE_START - 2 * PAGE, HOLE_END + PAGE].map(read), [byte(low - 2), byte(low + 1)]);
    assert_eq!(*served.asked.lock().unwrap(), [low - 2, low + 1]);
}

#[test]
fn discarded_pages_come_again_as_zeroes() {
    let Some(served) = served(Size::mib(2), None) else { return };
    let pages = || [1, 2, 4, 5, 6].map(|page| served.first(page));
    assert_eq!(served.first(4), byte(4));
    // Page 5 goes before anybody has touched it.
    let part = served.memory.get_slice(GuestAddress(4 * PAGE), 2 * 4096).unwrap();
    assert_eq!(discard(&served.memory, &part).unwrap(), 2 * PAGE);
    assert_eq!(pages(), [byte(1), byte(2), 0, 0, byte(6)]);
    served.memory.write_obj(7_u8, GuestAddress(5 * PAGE)).unwrap();
    assert_eq!(pages(), [byte(1), byte(2), 0, 7, byte(6)]);
    assert_eq!(discard(&served.memory, &part).unwrap(), 2 * PAGE);
    assert_eq!(pages(), [byte(1), byte(2), 0, 0, byte(6)]);
}

#[test]
fn many_can_wait_for_the_same_pages_while_others_go() {
    let Some(served) = served(Size::mib(16), None) else { return };
    let wrong = AtomicUsize::new(0);
    thread::scope(|scope| {
        for step in [1_u64, 1, 7, 4095] {
            let (memory, wrong) = (&served.memory, &wrong);
            scope.spawn(move || {
                for page in (0..4096).map(|n| n * step % 4096).filter(|page| *page < 2048) {
                    if memory.read_obj::<u8>(GuestAddress(page * PAGE)).unwrap() != byte(page) {
                        wrong.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for page in (2048..4096).rev() {
            let part = served.memory.get_slice(GuestAddress(page * PAGE), 4096).unwrap();
            discard(&served.memory, &part).unwrap();
            assert_eq!(served.first(page), 0);
        }
    });
    assert_eq!(wrong.into_inner(), 0);
}

#[test]
fn a_page_that_cannot_be_had_is_told_before_anybody_goes_on() {
    let Some(served) = served(Size::mib(2), Some(8)) else { return };
    assert_eq!(served.first(1), byte(1));
    // It waits until the call has returned, and so finds what that has said.
    assert_eq!(served.first(8), 0);
    assert_eq!(served.failed.try_recv().unwrap(), (8 * PAGE, "the wire is cut".to_owned()));
    assert_eq!([served.first(1), served.first(2)], [byte(1), 0]);
    // Nothing is made of these zeroes.
    assert!(has_failed(&served.memory));
    assert!(!bring(&served.memory, &[]));
    assert!(matches!(fetch(&served.memory), Err(Error::SourceFailed)));
    let to = tempfile::tempfile().unwrap();
    let written = image::write(&served.memory, None, &to, &mut |_, _| std::ops::ControlFlow::Continue(()));
    assert!(matches!(written, Err(Error::SourceFailed)), "{written:?}");
    // The thread is gone.
    served.end.recv().unwrap_err();
}

#[test]
fn what_is_brought_has_come_to_its_last_byte() {
    let Some(served) = served(Size::mib(2), Some(8)) else { return };
    let slices = [(2 * PAGE - 1, 2), (5 * PAGE + 7, 2 * 4096), (9 * PAGE, 0)];
    let slices = slices.map(|(at, len)| served.memory.get_slice(GuestAddress(at), len).unwrap());
    assert!(bring(&served.memory, &slices));
    let mut asked = served.asked.lock().unwrap().clone();
    asked.sort_unstable();
    assert_eq!(asked, [1, 2, 5, 6, 7]);
    let broken = served.memory.get_slice(GuestAddress(7 * PAGE), 4097).unwrap();
    assert!(!bring(&served.memory, &[broken]));
}

#[test]
fn a_source_that_panics_is_one_that_fails() {
    struct Panics;
    impl PageSource for Panics {
        fn read(&mut self, _: u64, _: &mut [u8]) -> io::Result<()> {
            panic!("as it should");
        }
    }
    let (tell, failed) = mpsc::channel();
    let failed_call = Box::new(move |_, error: io::Error| tell.send(error.to_string()).unwrap());
    let Ok(memory) = serve(Size::mib(2), Panics, failed_call) else { return };
    assert_eq!(memory.read_obj::<u8>(GuestAddress(0)).unwrap(), 0);
    assert!(failed.try_recv().unwrap().contains("panicked"));
}

#[test]
fn the_thread_ends_with_the_last_user_of_the_memory() {
    let Some(served) = served(Size::new(HOLE_START + (2 << 20)), None) else { return };
    let Served { memory, end, failed, .. } = served;
    let clone = memory.clone();
    drop(memory);
    assert_eq!(clone.read_obj::<u8>(GuestAddress(PAGE)).unwrap(), byte(1));
    assert_eq!(end.try_recv(), Err(mpsc::TryRecvError::Empty));
    drop(clone);
    end.recv().unwrap_err();
    failed.recv().unwrap_err();
}

fn layers() -> Layers {
    let file = |filled: &[u64], byte: u8| {
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(2 << 20).unwrap();
        filled.iter().for_each(|page| file.write_all_at(&[byte; 4096], page * PAGE).unwrap());
        file
    };
    let run = |first, count, zero| Run { first, count, zero };
    let layers = vec![
        Layer { file: file(&[0, 1, 2, 3, 511], 1), runs: None },
        Layer {
            file: file(&[1, 9], 2),
            runs: Some(vec![run(1, 1, false), run(3, 1, true), run(9, 1, false)]),
        },
    ];
    Layers::new(Size::mib(2), layers).unwrap()
}

#[test]
fn layers_are_a_source_and_their_memory_is_written_whole() {
    let failed: Failed = Box::new(|_, error| panic!("{error}"));
    let Ok(memory) = serve(Size::mib(2), layers(), failed) else { return };
    let read = |page: u64| memory.read_obj::<u8>(GuestAddress(page * PAGE)).unwrap();
    assert_eq!([0, 3, 9, 10].map(read), [1, 0, 2, 0]);
    memory.write_obj(7_u8, GuestAddress(PAGE)).unwrap();
    memory.write_obj(7_u8, GuestAddress(100 * PAGE)).unwrap();
    let to = tempfile::tempfile().unwrap();
    image::write(&memory, Some(&layers()), &to, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    let mut page = [9; 4096];
    for number in 0..512 {
        to.read_exact_at(&mut page, number * PAGE).unwrap();
        let expected = match number {
            0 | 2 | 511 => [1, 1],
            1 => [7, 2],
            9 => [2, 2],
            100 => [7, 0],
            _ => [0, 0],
        };
        assert_eq!([page[0], page[4095]], expected, "page {number}");
    }
}

#[test]
fn all_pages_can_be_fetched() {
    let Some(served) = served(Size::mib(2), None) else { return };
    fetch(&served.memory).unwrap();
    let mut asked = served.asked.lock().unwrap().clone();
    asked.sort_unstable();
    assert_eq!(asked, Vec::from_iter(0..512));
    let to = tempfile::tempfile().unwrap();
    let written =
        image::write(&served.memory, None, &to, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(written, 512 * 3 / 4 * PAGE);
}

/// Code in page 1, and what [`Bytewise`] has elsewhere.
struct Program(&'static [u8], Bytewise);

impl PageSource for Program {
    fn read(&mut self, offset: u64, page: &mut [u8]) -> io::Result<()> {
        self.1.read(offset, page)?;
        if offset == PAGE {
            page[..self.0.len()].copy_from_slice(self.0);
        }
        Ok(())
    }
}

/// A vCPU in real mode at the code, with memory that comes as it touches it; none without KVM.
fn machine(code: &'static [u8], broken: Option<u64>, failed: Failed) -> Option<(GuestMemory, KvmVcpu)> {
    let hypervisor = crate::testing::hypervisor()?;
    let (alive, _) = mpsc::channel();
    let source = Program(code, Bytewise { asked: Arc::default(), broken, _end: alive });
    let memory = serve(Size::mib(2), source, failed).ok()?;
    let vcpu = Vm::new(&hypervisor, memory.clone()).unwrap().create_vcpu(0).unwrap();
    let mut sregs = vcpu.sregs().unwrap();
    (sregs.cs.base, sregs.cs.selector) = (0, 0);
    vcpu.set_registers(&kvm_regs { rip: PAGE, rflags: 2, ..Default::default() }, &sregs).unwrap();
    Some((memory, vcpu))
}

#[test]
fn a_guests_own_touch_brings_its_pages() {
    // mov al, [0x6000]; out 0x42, al; mov [0x5000], al; mov al, [0x5001]; out 0x43, al
    const CODE: &[u8] = &[0xa0, 0, 0x60, 0xe6, 0x42, 0xa2, 0, 0x50, 0xa0, 1, 0x50, 0xe6, 0x43];
    let Some((memory, mut vcpu)) = machine(CODE, None, Box::new(|_, error| panic!("{error}"))) else {
        return;
    };
    for (expected, value) in [(0x42, 7), (0x43, 5)] {
        match vcpu.run() {
            Exit::PortWrite { port, width: 1, data } => assert_eq!((port, data[0]), (expected, value)),
            other => panic!("{other:?}"),
        }
    }
    let read = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!([0x5000, 0x5001].map(read), [7, 5]);
}

#[test]
fn a_guest_whose_page_cannot_be_had_goes_no_further() {
    // mov al, [0x8000]; out 0x42, al
    const CODE: &[u8] = &[0xa0, 0, 0x80, 0xe6, 0x42];
    let kick = Arc::new(KickHandle::default());
    let stop = Arc::clone(&kick);
    let (tell, failed) = mpsc::channel();
    let failed_call = Box::new(move |at, _| {
        stop.kick();
        tell.send(at).unwrap();
    });
    let Some((_memory, mut vcpu)) = machine(CODE, Some(8), failed_call) else { return };
    kick.attach();
    let mut seat = Seat::take(&mut vcpu);
    let exit = seat.run();
    assert!(matches!(exit, Exit::Interrupted), "{exit:?}");
    assert_eq!(failed.recv().unwrap(), 8 * PAGE);
    kick.detach();
}
