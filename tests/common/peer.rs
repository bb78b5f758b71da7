//! The other end of a guest's streams.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::linux::PATIENCE;

/// A stream of which either direction ends on its own.
pub trait Stream: Read + Write + Send + Sized {
    /// The same stream again, with an end to its patience.
    fn patient(&self) -> io::Result<Self>;
    /// No more from this side.
    fn half_close(&self) -> io::Result<()>;
}

macro_rules! streams {
    ($($stream:ty)*) => {
        $(impl Stream for $stream {
            fn patient(&self) -> io::Result<Self> {
                self.set_read_timeout(Some(PATIENCE))?;
                self.set_write_timeout(Some(PATIENCE))?;
                self.try_clone()
            }

            fn half_close(&self) -> io::Result<()> {
                self.shutdown(Shutdown::Write)
            }
        })*
    };
}
streams!(TcpStream UnixStream);

/// Numbers that look random, in bytes.
pub fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

/// FNV-1a of 64 bits, as the guest prints it.
pub fn sum(bytes: &[u8]) -> String {
    let start = 0xcbf2_9ce4_8422_2325_u64;
    let sum = bytes.iter().fold(start, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{sum:016x}")
}

/// Sends back what comes, as it comes, until the other side has half-closed; all that came.
pub fn echo(stream: &impl Stream) -> Vec<u8> {
    let (mut from, mut to) = (stream.patient().unwrap(), stream.patient().unwrap());
    let (mut all, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        let count = from.read(&mut chunk).unwrap();
        if count == 0 {
            break;
        }
        all.extend(&chunk[..count]);
        to.write_all(&chunk[..count]).unwrap();
    }
    to.half_close().unwrap();
    all
}

/// Sends this and half-closes, receives the while and until the other side closes; all that came.
pub fn dial(stream: &impl Stream, bytes: &[u8]) -> Vec<u8> {
    let (mut from, mut to) = (stream.patient().unwrap(), stream.patient().unwrap());
    thread::scope(|scope| {
        scope.spawn(move || {
            to.write_all(bytes).unwrap();
            to.half_close().unwrap();
        });
        let mut all = Vec::new();
        from.read_to_end(&mut all).unwrap();
        all
    })
}

/// Connects to a port of the guest's vsock.
pub fn connect_vsock(uds: &Path, port: u32) -> UnixStream {
    let mut stream = UnixStream::connect(uds).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    stream.write_all(format!("CONNECT {port}\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    while answer.last() != Some(&b'\n') {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    assert!(answer.starts_with(b"OK "), "{}", String::from_utf8_lossy(&answer));
    stream
}
