//! Types at a guest's console and captures what it answers.

use std::io::{PipeWriter, Write, pipe};
use std::sync::mpsc::{Sender, channel};

use bantam::config::MachineConfig;
use bantam::machine::Builder;

/// A writer that hands what it gets to another thread.
struct Capture(Sender<Vec<u8>>);

impl Write for Capture {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // Nobody listens any more: the machine need not care.
        let _ = self.0.send(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (keyboard, mut keys): (_, PipeWriter) = pipe()?;
    let (screen, lines) = channel();
    let config = MachineConfig { cmdline: "echo".into(), ..MachineConfig::default() };
    let machine =
        Builder::new(config).console_input(keyboard).console_output(Capture(screen)).build()?.resume()?;

    keys.write_all(b"hello, guest\nquit\n")?;
    let outcome = machine.wait();
    let text: Vec<u8> = lines.iter().flatten().collect();
    print!("{}", String::from_utf8_lossy(&text));
    println!("-- {}", outcome.reason);
    Ok(())
}
