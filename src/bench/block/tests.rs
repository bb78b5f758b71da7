use super::*;

#[test]
fn a_figure_is_requests_bytes_or_time() {
    let said = Said::parse("blk op=x n=500 bytes=2048000 ns=250000000 errors=0", "blk").unwrap();
    let of = |name: &str| {
        let work = WORKLOADS.iter().find(|work| work.name == name).unwrap();
        value(work, &said).unwrap()
    };
    assert_eq!(of("randread"), 2000.0);
    assert_eq!(of("latency"), 500_000.0);
    assert_eq!(of("seqread"), 8_192_000.0);
}

#[test]
fn an_image_is_as_long_as_it_shall_be_and_no_holes() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let image = Image::make(folder.path(), 3).unwrap();
    image.cached(true).unwrap();
    image.cached(false).unwrap();
    let file = std::fs::metadata(image.path()).unwrap();
    assert_eq!(file.len(), 3 << 20);
    assert!(file.blocks() * 512 >= 3 << 20);
}
