use super::*;
use std::ops::ControlFlow;

fn file(len: u64, parts: &[(u64, &[u8])]) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    for (at, bytes) in parts {
        file.write_all_at(bytes, *at).unwrap();
    }
    file
}

/// What the sums are: those of the bytes as anyone reads them.
fn plain(file: &File) -> Vec<u32> {
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes.chunks(1 << 20).map(crc32fast::hash).collect()
}

fn quiet(_: u64, _: u64) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn a_sum_is_that_of_the_bytes_with_holes_as_zeroes() {
    let files = [
        file(0, &[]),
        file(4096, &[]),
        file(3 << 20, &[]),
        // Data over the border of two chunks, at the ends, and in a last chunk that is short.
        file((3 << 20) + 8192, &[((1 << 20) - 4096, &[1; 8192]), ((3 << 20) + 4096, &[2; 4096])]),
        file(5 << 20, &[(0, &vec![3; 4 << 20])]),
        file(5 << 20, &[(4096, &[3; 4096]), (12288, &[4; 4096]), ((4 << 20) + 100, &[1])]),
    ];
    for file in files {
        let sums = checksums(&file, &mut quiet).unwrap();
        assert_eq!(sums, plain(&file));
        assert_eq!(verify(&file, &sums, &mut quiet).unwrap(), None);
    }
}

#[test]
fn the_first_wrong_chunk_is_found() {
    let good = file(4 << 20, &[(1 << 20, &[1; 4096]), (3 << 20, &[1; 4096])]);
    let sums = checksums(&good, &mut quiet).unwrap();
    for (at, chunk) in [(0, 0), ((1 << 20) + 4095, 1), ((2 << 20) - 1, 1), ((4 << 20) - 1, 3)] {
        let mut byte = [0];
        good.read_exact_at(&mut byte, at).unwrap();
        good.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        // A later one is wrong as well.
        good.write_all_at(&[2], (3 << 20) + 9).unwrap();
        assert_eq!(verify(&good, &sums, &mut quiet).unwrap(), Some(chunk));
        good.write_all_at(&byte, at).unwrap();
        good.write_all_at(&[1], (3 << 20) + 9).unwrap();
        assert_eq!(verify(&good, &sums, &mut quiet).unwrap(), None);
    }
}

#[test]
fn a_file_of_another_length_is_wrong_where_it_ends() {
    let good = file(2 << 20, &[]);
    let sums = checksums(&good, &mut quiet).unwrap();
    for (len, chunk) in [(1 << 20, 1), ((2 << 20) - 4096, 1), ((2 << 20) + 4096, 2), (0, 0)] {
        good.set_len(len).unwrap();
        assert_eq!(verify(&good, &sums, &mut quiet).unwrap(), Some(chunk), "{len}");
    }
}

#[test]
fn progress_goes_up_to_the_length() {
    let good = file((2 << 20) + 4096, &[]);
    let mut seen = Vec::new();
    let sums = checksums(&good, &mut |done, total| {
        seen.push((done, total));
        ControlFlow::Continue(())
    })
    .unwrap();
    let total = (2 << 20) + 4096;
    assert_eq!(seen, [(1 << 20, total), (2 << 20, total), (total, total)]);
    let mut again = Vec::new();
    verify(&good, &sums, &mut |done, total| {
        again.push((done, total));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(again, seen);
}
