//! What a read does to the guest's memory is noted, whichever way the bytes come.

use super::*;
use crate::memory::dirty;
use crate::virtio::block::config::Overlay;

/// The pages that an operation is noted to have changed.
fn changed(guest: &mut Guest, operation: Operation) -> Vec<(u64, u64)> {
    guest.run(operation).unwrap();
    dirty::take(&guest.memory).runs().collect()
}

#[test]
fn reads_note_the_pages_they_fill_and_writes_none() {
    let folder = folder();
    let base = raw(folder.path(), "base", 1 << 20);
    for engine in ENGINES {
        for (direct, overlay) in [(false, None), (true, None), (false, Some(Overlay::Temp))] {
            let image = match Image::open(&Disk { direct, overlay, ..disk(&base, Format::Auto, engine) }) {
                Err(error) if direct => {
                    skip(&error.to_string());
                    continue;
                }
                image => image.unwrap(),
            };
            let mut guest = Guest::new(&image);
            dirty::track(&guest.memory, true);
            // The second one is where no direct transfer goes: it takes the way around.
            for (at, pages) in [(0x2000, (2, 4)), (0x2208, (2, 5))] {
                let buffers = guest.buffers(at, 0x4000);
                assert_eq!(changed(&mut guest, Operation::Write { offset: 0, buffers }), []);
                let buffers = guest.buffers(at, 0x4000);
                assert_eq!(changed(&mut guest, Operation::Read { offset: 0, buffers }), [pages]);
            }
        }
    }
}
