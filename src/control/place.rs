//! Where machines with names are: their sockets lie in a folder that is the user's alone.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{Error, Server};

/// The end of a socket's file name.
const SUFFIX: &str = ".sock";
/// Longest name: with its folder, it has to fit a socket's address, which has 108 bytes (unix(7)).
const LONGEST: usize = 48;

/// A machine's name: letters, digits, '-', '_' and '.', and a letter or digit first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Name(String);

/// A word that is no name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "'{0}' is no name: give a letter or digit, then letters, digits, '-', '_' and '.', {LONGEST} at most"
)]
pub struct ParseNameError(String);

impl Name {
    /// The name as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Name {
    type Error = ParseNameError;

    fn try_from(word: String) -> Result<Self, Self::Error> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        let begins = word.starts_with(|letter: char| letter.is_ascii_alphanumeric());
        if begins && word.len() <= LONGEST && word.chars().all(plain) {
            Ok(Self(word))
        } else {
            Err(ParseNameError(word))
        }
    }
}

impl FromStr for Name {
    type Err = ParseNameError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        word.to_owned().try_into()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The folder of the sockets of this user's machines: `$XDG_RUNTIME_DIR/bantam` if that variable
/// names a folder of the user's, else `/run/bantam` for root and `/tmp/bantam-UID` for others.
#[derive(Clone, Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder, whether it is there or not.
    fn of_this_user() -> Self {
        let user = rustix::process::geteuid().as_raw();
        let owner = |path: &Path| fs::metadata(path).ok().map(|folder| folder.uid());
        Self(place(env::var_os("XDG_RUNTIME_DIR").as_deref(), user, owner))
    }

    /// The folder, made if it is not there.
    ///
    /// # Errors
    /// It cannot be made, or others than the user can enter it.
    pub fn make() -> Result<Self, Error> {
        let folder = Self::of_this_user();
        match DirBuilder::new().mode(0o700).create(&folder.0) {
            Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
                Err(Error::Folder { path: folder.0, source })
            }
            _ => folder.check(),
        }
    }

    /// The folder, if it is there.
    ///
    /// # Errors
    /// Others than the user can enter it.
    pub fn find() -> Result<Option<Self>, Error> {
        let folder = Self::of_this_user();
        if folder.0.symlink_metadata().is_ok() { folder.check().map(Some) } else { Ok(None) }
    }

    fn check(self) -> Result<Self, Error> {
        let user = rustix::process::geteuid().as_raw();
        let private =
            |folder: &Metadata| folder.is_dir() && folder.uid() == user && folder.mode() & 0o077 == 0;
        match fs::symlink_metadata(&self.0) {
            Ok(folder) if private(&folder) => Ok(self),
            Ok(_) => Err(Error::NotPrivate(self.0)),
            Err(source) => Err(Error::Folder { path: self.0, source }),
        }
    }

    /// The socket of the machine of this name.
    #[must_use]
    pub fn socket(&self, name: &Name) -> PathBuf {
        self.0.join(format!("{name}{SUFFIX}"))
    }

    /// Listens under this name.
    ///
    /// # Errors
    /// Another machine has the name, or the host does not permit it.
    pub fn listen(&self, name: &Name) -> Result<Server, Error> {
        Server::listen(&self.socket(name)).map_err(|error| match error {
            Error::InUse(_) => Error::NameInUse(name.clone()),
            other => other,
        })
    }

    /// The names for which there is a socket, in order; somebody need not listen there any more.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn names(&self) -> Result<Vec<Name>, Error> {
        let failed = |source| Error::Folder { path: self.0.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0).map_err(failed)? {
            let file = entry.map_err(failed)?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(SUFFIX));
            names.extend(name.and_then(|name| name.parse::<Name>().ok()));
        }
        names.sort();
        Ok(names)
    }
}

/// Where the folder of a user is, given who owns a path.
fn place(variable: Option<&OsStr>, user: u32, owner: impl Fn(&Path) -> Option<u32>) -> PathBuf {
    // A variable that has come along with a change of user is not the user's.
    let own = variable.map(Path::new).filter(|path| path.is_absolute() && owner(path) == Some(user));
    match (own, user) {
        (Some(path), _) => path.join("bantam"),
        (None, 0) => PathBuf::from("/run/bantam"),
        (None, user) => PathBuf::from(format!("/tmp/bantam-{user}")),
    }
}

#[cfg(test)]
mod tests;
