//! The socket device's configuration.

use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::DeviceConfig;

/// The guest's context ids: those below are the hypervisor's and the host's, the highest is any
/// (VIRTIO 1.2, section 5.10.4).
const CIDS: std::ops::RangeInclusive<u64> = 3..=0xffff_fffe;
/// Most bytes in a Unix socket's path, the closing zero aside: `sun_path` of unix(7).
const PATH_MAX: usize = 107;
/// What a port adds to the path, at the most.
const SUFFIX_MAX: usize = "_4294967295".len();

/// Sockets between the guest and programs on the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vsock {
    /// The guest's context id, 3 to 4294967294.
    pub cid: u64,
    /// The Unix socket where programs ask for a port of the guest's. When the guest asks for port `P` of
    /// the host's, that is the Unix socket with `_P` at the end of this path.
    pub uds: PathBuf,
    /// The device's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The event loop that runs the device, if not the machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iothread: Option<String>,
}

impl DeviceConfig for Vsock {
    const HELP: &'static str = "  cid=N                the guest's context id, 3 to 4294967294
  uds=PATH             a program that connects to this Unix socket and says CONNECT PORT reaches the
                       guest's port; the guest's calls to the host's port P go to the socket PATH_P
  id=NAME, iothread=NAME
  Example: --vsock cid=3,uds=/tmp/vm.vsock";

    const MOST: usize = 1;

    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn iothread(&self) -> Option<&str> {
        self.iothread.as_deref()
    }

    fn check(&self) -> Result<(), String> {
        let (cid, first, last) = (self.cid, CIDS.start(), CIDS.end());
        if !CIDS.contains(&cid) {
            return Err(format!("cid={cid} cannot be a guest's: give {first} to {last}"));
        }
        let path = self.uds.as_os_str().as_bytes();
        if path.is_empty() || path.contains(&0) || path.ends_with(b"/") {
            return Err("uds has to be the path of a Unix socket, for example uds=/tmp/vm.vsock".to_owned());
        }
        let most = PATH_MAX - SUFFIX_MAX;
        if path.len() > most {
            return Err(format!(
                "uds={} has {} bytes, and a Unix socket's path has {PATH_MAX} at the most, here with a \
                 port at its end: give a path of up to {most}",
                self.uds.display(),
                path.len()
            ));
        }
        Ok(())
    }
}
