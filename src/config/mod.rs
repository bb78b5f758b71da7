//! What a machine is made of, as inert data: parsed once, validated once, and the same for the
//! command line, a configuration file and a caller of the library.

mod boot_mode;
mod console;
mod devices;
mod options;
mod rate;
mod size;
mod span;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use boot_mode::{BootMode, ParseBootModeError};
pub use console::{Console, ParseConsoleError};
pub(crate) use devices::with_devices;
pub use devices::{DeviceConfig, Devices, device_name};
pub use options::{ParseOptionsError, parse_options};
pub use rate::{Limit, ParseRateError, Rate};
pub use size::{ParseSizeError, Size};
pub use span::{ParseSpanError, Span};

/// Most vCPUs: 8-bit local APIC ids, of which 255 is the broadcast address.
pub const MAX_CPUS: u32 = 255;
/// Least guest memory that a machine can be built with.
pub const MIN_MEMORY: Size = Size::mib(16);
/// Most guest memory: what fits 46-bit guest-physical addresses, less the hole below 4 GiB.
pub const MAX_MEMORY: Size = Size::gib(32 * 1024);

/// A machine's configuration. Every field has a default; TOML and JSON files use these names.
///
/// ```
/// use bantam::config::{MachineConfig, Size};
///
/// let config = MachineConfig { cpus: 2, memory: Size::mib(256), ..MachineConfig::default() };
/// config.validate()?;
/// # Ok::<(), bantam::config::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    /// Number of vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Guest memory.
    pub memory: Size,
    /// Kernel image: ELF `vmlinux` or `bzImage`. Without one, the embedded guest boots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line; it follows the words that the machine adds itself.
    pub cmdline: String,
    /// Leave out the words that the machine adds itself (console, reboot, devices).
    pub bare_cmdline: bool,
    /// How the kernel is entered.
    pub boot: BootMode,
    /// Where the serial console goes.
    pub console: Console,
    /// The virtio devices.
    #[serde(skip_serializing_if = "Devices::is_empty")]
    pub devices: Devices,
    /// Count exits by kind and port or address, with their time.
    pub stats: bool,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: Size::mib(256),
            kernel: None,
            initrd: None,
            cmdline: String::new(),
            bare_cmdline: false,
            boot: BootMode::Auto,
            console: Console::Stdio,
            devices: Devices::default(),
            stats: false,
        }
    }
}

/// A configuration that cannot become a machine.
#[derive(Debug, Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the configuration {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// The file is not TOML of a machine's configuration.
    #[error("{path} is not a machine configuration in TOML")]
    Toml {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: TomlError,
    },
    /// The file is not JSON of a machine's configuration.
    #[error("{path} is not a machine configuration in JSON")]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Too few or too many vCPUs.
    #[error("{0} vCPUs: give 1 to {MAX_CPUS}")]
    Cpus(u32),
    /// Too little or too much memory.
    #[error("{0} of memory: give {MIN_MEMORY} to {MAX_MEMORY}, for example 512M")]
    Memory(Size),
    /// Memory is not a whole number of pages.
    #[error("{0} of memory is not a multiple of 4K")]
    MemoryPages(Size),
    /// An initrd without a kernel that would use it.
    #[error("an initrd needs a kernel: the embedded guest takes none")]
    InitrdWithoutKernel,
    /// A control character in the command line.
    #[error("the kernel command line has a control character at byte {0}")]
    CmdlineCharacter(usize),
    /// More devices of a kind than a machine can have.
    #[error("more than {most} of the option --{kind}")]
    TooManyDevices {
        /// The name of the option.
        kind: &'static str,
        /// How many there can be.
        most: usize,
    },
    /// A device's name that is not a name.
    #[error("'{0}' is no device's id: give letters, digits, '-', '_' and '.'")]
    DeviceId(String),
    /// Two devices of one name.
    #[error("two devices have the id '{0}'")]
    SameId(String),
    /// A device cannot be as it is configured.
    #[error("{name}: {reason}")]
    Device {
        /// The device.
        name: String,
        /// What is wrong.
        reason: String,
    },
}

/// What is wrong with a TOML text, and where, in one line.
#[derive(Debug, Error)]
#[error("{message} at line {line} column {column}")]
pub struct TomlError {
    /// What is wrong.
    pub message: String,
    /// The line, from 1.
    pub line: usize,
    /// The character in the line, from 1.
    pub column: usize,
}

impl TomlError {
    fn new(error: &toml::de::Error, text: &str) -> Self {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        Self {
            message: error.message().replace('\n', ", "),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
        }
    }
}

impl MachineConfig {
    /// Reads a configuration file: JSON when its name ends in `.json`, otherwise TOML.
    ///
    /// # Errors
    /// The file cannot be read, or is not a configuration; an unknown key is an error.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json")) {
            serde_json::from_str(&text).map_err(|source| Error::Json { path: path.to_owned(), source })
        } else {
            toml::from_str(&text).map_err(|source| Error::Toml {
                path: path.to_owned(),
                source: TomlError::new(&source, &text),
            })
        }
    }

    /// Checks everything that can be checked without looking at the host.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), Error> {
        if !(1..=MAX_CPUS).contains(&self.cpus) {
            return Err(Error::Cpus(self.cpus));
        }
        if !(MIN_MEMORY..=MAX_MEMORY).contains(&self.memory) {
            return Err(Error::Memory(self.memory));
        }
        if !self.memory.bytes().is_multiple_of(4096) {
            return Err(Error::MemoryPages(self.memory));
        }
        if self.initrd.is_some() && self.kernel.is_none() {
            return Err(Error::InitrdWithoutKernel);
        }
        if let Some(at) = self.cmdline.bytes().position(|byte| byte.is_ascii_control()) {
            return Err(Error::CmdlineCharacter(at));
        }
        self.devices.validate(self)
    }
}

#[cfg(test)]
mod tests;
