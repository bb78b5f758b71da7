use super::super::testing::{CANARY, MIB, bytes_at, fill, memory};
use super::*;

#[test]
fn control_characters_are_refused() {
    for (words, message) in [
        ("a\0b", r"the kernel command line has the control character '\0' at byte 1; remove it"),
        ("quiet\n", r"the kernel command line has the control character '\n' at byte 5; remove it"),
        ("é\u{7f}", r"the kernel command line has the control character '\u{7f}' at byte 2; remove it"),
    ] {
        assert_eq!(CommandLine::new(words).unwrap_err().to_string(), message);
    }
    for words in ["", "console=ttyS0 quiet", "a\tb", r#"init="/bin/sh -c" name=é"#] {
        assert_eq!(CommandLine::new(words).unwrap().as_str(), words);
    }
}

#[test]
fn the_longest_line_fits_its_room_with_its_nul() {
    let max = usize::try_from(CMDLINE_MAX).unwrap() - 1;
    let longest = CommandLine::new("x".repeat(max)).unwrap();
    let memory = memory(&[(0, MIB)]);
    fill(&memory);
    longest.write(&memory).unwrap();
    assert_eq!(bytes_at(&memory, CMDLINE + CMDLINE_MAX - 2, 3), [b'x', 0, CANARY]);

    let error = CommandLine::new("x".repeat(max + 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the kernel command line has 65536 bytes, but the machine takes at most 65535; shorten it"
    );
}
