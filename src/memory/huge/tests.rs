use std::fs::File;
use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::super::layers::{Layer, Run};
use super::super::layout::PAGE_SIZE;
use super::super::{discard, image};
use super::*;

const PAGE: u64 = PAGE_SIZE;

/// None where the host has not set aside enough.
fn huge(memory: Result<GuestMemory, Error>) -> Option<GuestMemory> {
    match memory {
        Err(error @ Error::HugePages { .. }) => {
            crate::testing::skip(&error.to_string());
            None
        }
        memory => Some(memory.unwrap()),
    }
}

#[test]
fn huge_pages_that_the_host_does_not_have_are_an_error() {
    let error = allocate_huge(Size::gib(1 << 20)).unwrap_err().to_string();
    assert!(error.contains("536870912 huge pages") && error.contains("nr_hugepages"), "{error}");
    let error = allocate_huge(Size::new((2 << 20) + 4096)).unwrap_err();
    assert!(matches!(error, Error::HugePageSize(_)), "{error}");
}

#[test]
fn a_huge_page_is_zeroes_and_then_what_is_written() {
    let Some(memory) = huge(allocate_huge(Size::mib(8))) else { return };
    let read = |at| memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    assert_eq!(read(3 << 20), 0);
    memory.write_slice(&[7; 3 * 4096], GuestAddress(3 << 20)).unwrap();
    assert_eq!([(3 << 20) - 1, 3 << 20, (3 << 20) + 3 * PAGE].map(read), [0, 7, 0]);
    // Given back, it could be another's when the guest needs it: it stays, cleared.
    let part = memory.get_slice(GuestAddress((3 << 20) + PAGE), 4096).unwrap();
    assert_eq!(discard(&memory, &part).unwrap(), 0);
    assert_eq!([0, 1, 2].map(|page| read((3 << 20) + page * PAGE)), [7, 0, 7]);
    // Its image is one of small pages.
    let to = tempfile::tempfile().unwrap();
    let written = image::write(&memory, None, &to, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(written, 2 * PAGE);
    assert_eq!(host::data(&to, 0..8 << 20).unwrap().len(), 2);
}

#[test]
fn layers_are_copied_into_huge_pages() {
    let file = |filled: &[u64], byte: u8| {
        let file: File = tempfile::tempfile().unwrap();
        file.set_len(8 << 20).unwrap();
        filled.iter().for_each(|page| file.write_all_at(&[byte; 4096], page * PAGE).unwrap());
        file
    };
    let run = |first, count, zero| Run { first, count, zero };
    let layers = vec![
        Layer { file: file(&[0, 1, 2, 3, 2047], 1), runs: None },
        Layer {
            file: file(&[1, 9], 2),
            runs: Some(vec![run(1, 1, false), run(3, 1, true), run(9, 1, false)]),
        },
    ];
    let layers = Layers::new(Size::mib(8), layers).unwrap();
    let Some(memory) = huge(restore_huge(&layers)) else { return };
    let read = |page: u64| memory.read_obj::<u8>(GuestAddress(page * PAGE + 4095)).unwrap();
    assert_eq!([0, 1, 2, 3, 4, 9, 1000, 2047].map(read), [1, 2, 1, 0, 0, 2, 0, 1]);
    let to = tempfile::tempfile().unwrap();
    assert_eq!(
        image::write(&memory, Some(&layers), &to, &mut |_, _| std::ops::ControlFlow::Continue(())).unwrap(),
        5 * PAGE
    );
}
