//! `echo`: sends back what the serial port receives, until Ctrl-D or a line
//! `quit`.

use crate::console::{read_byte, say, write_byte};
use crate::cpu;

const END_OF_TRANSMISSION: u8 = 4;

pub fn run() {
    say!("echo: end with Ctrl-D or a line `quit`");
    // The line's length, and as much of it as `quit` is long.
    let (mut length, mut line) = (0, [0; 4]);
    loop {
        let Some(byte) = read_byte() else {
            cpu::pause();
            continue;
        };
        match byte {
            END_OF_TRANSMISSION => return,
            b'\r' | b'\n' => {
                write_byte(b'\r');
                write_byte(b'\n');
                if length == line.len() && line == *b"quit" {
                    return;
                }
                length = 0;
            }
            _ => {
                write_byte(byte);
                if let Some(slot) = line.get_mut(length) {
                    *slot = byte;
                }
                length += 1;
            }
        }
    }
}
