//! Saved state: what the parts of a machine give to be kept, as sections that say what they are.
//!
//! A part has a plain structure for what it keeps, declared with `saved!`. It goes into a [`State`] under
//! the part's id, and comes out of one again, once; what is left over at the end is an error, as is what
//! is missing.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// A structure that is kept in a snapshot. Its encoding is postcard's.
pub trait Saved: Serialize + DeserializeOwned {
    /// What it is.
    const KIND: &'static str;
    /// Which form of it. It goes up with every change of the fields or of what they mean.
    const VERSION: u16;

    /// Makes one of what an earlier version has kept; none if that version is not known.
    #[must_use]
    fn upgrade(version: u16, payload: &[u8]) -> Option<Self> {
        let _ = (version, payload);
        None
    }
}

/// Why a state does not fit.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such section.
    #[error("there is no state '{kind}' of '{id}'")]
    Missing {
        /// Whose it is.
        id: String,
        /// What it is.
        kind: &'static str,
    },
    /// It is of a version that is not known.
    #[error("the state '{kind}' of '{id}' has version {found}; this program knows {known} and older")]
    Version {
        /// Whose it is.
        id: String,
        /// What it is.
        kind: &'static str,
        /// Its version.
        found: u16,
        /// The newest that is known.
        known: u16,
    },
    /// It is not what it says it is.
    #[error("the state '{kind}' of '{id}' is damaged")]
    Damaged {
        /// Whose it is.
        id: String,
        /// What it should be.
        kind: String,
    },
    /// It is whole, but nothing that the part could have been in.
    #[error("the state of '{id}' cannot be: {reason}")]
    Impossible {
        /// Whose it is.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// Nobody has taken it.
    #[error("there is a state '{kind}' of '{id}', and nothing in this machine that it belongs to")]
    Leftover {
        /// Whose it is.
        id: String,
        /// What it is.
        kind: String,
    },
}

/// What one part of a machine has kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Whose it is: `vcpu0`, `serial`, the name of a device.
    pub id: String,
    /// What it is: [`Saved::KIND`].
    pub kind: String,
    /// Which form of it: [`Saved::VERSION`].
    pub version: u16,
    /// The structure, in postcard.
    pub payload: Vec<u8>,
}

impl Section {
    /// The section of a part's structure.
    ///
    /// # Errors
    /// The structure cannot be encoded.
    pub fn of<T: Saved>(id: &str, state: &T) -> Result<Self, Error> {
        let payload = postcard::to_allocvec(state).map_err(|_| Error::Impossible {
            id: id.to_owned(),
            reason: format!("its '{}' cannot be encoded", T::KIND),
        })?;
        Ok(Self { id: id.to_owned(), kind: T::KIND.to_owned(), version: T::VERSION, payload })
    }

    /// The structure in it. Every byte of the payload has to belong to it.
    ///
    /// # Errors
    /// It is another one, of an unknown version, or damaged.
    pub fn open<T: Saved>(&self) -> Result<T, Error> {
        let damaged = || Error::Damaged { id: self.id.clone(), kind: T::KIND.to_owned() };
        if self.kind != T::KIND {
            return Err(damaged());
        }
        if self.version == T::VERSION {
            return match postcard::take_from_bytes(&self.payload) {
                Ok((state, [])) => Ok(state),
                _ => Err(damaged()),
            };
        }
        T::upgrade(self.version, &self.payload).ok_or_else(|| Error::Version {
            id: self.id.clone(),
            kind: T::KIND,
            found: self.version,
            known: T::VERSION,
        })
    }
}

/// All that a machine has kept, memory aside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    sections: Vec<Section>,
}

impl State {
    /// Keeps a part's structure.
    ///
    /// # Errors
    /// The structure cannot be encoded.
    pub fn put<T: Saved>(&mut self, id: &str, state: &T) -> Result<(), Error> {
        self.sections.push(Section::of(id, state)?);
        Ok(())
    }

    /// Keeps a section.
    pub fn push(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// Whether there is a structure of this type.
    #[must_use]
    pub fn has<T: Saved>(&self, id: &str) -> bool {
        self.position::<T>(id).is_some()
    }

    /// A structure that stays.
    ///
    /// # Errors
    /// It is not there, of an unknown version, or damaged.
    pub fn get<T: Saved>(&self, id: &str) -> Result<T, Error> {
        let missing = || Error::Missing { id: id.to_owned(), kind: T::KIND };
        self.position::<T>(id).and_then(|at| self.sections.get(at)).ok_or_else(missing)?.open()
    }

    /// Takes a part's structure out.
    ///
    /// # Errors
    /// It is not there, of an unknown version, or damaged.
    pub fn take<T: Saved>(&mut self, id: &str) -> Result<T, Error> {
        let missing = || Error::Missing { id: id.to_owned(), kind: T::KIND };
        let at = self.position::<T>(id).ok_or_else(missing)?;
        self.sections.remove(at).open()
    }

    /// Everything has been taken.
    ///
    /// # Errors
    /// Something has not.
    pub fn finish(&self) -> Result<(), Error> {
        match self.sections.first() {
            None => Ok(()),
            Some(Section { id, kind, .. }) => Err(Error::Leftover { id: id.clone(), kind: kind.clone() }),
        }
    }

    /// What there is, in the order in which it was kept.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    fn position<T: Saved>(&self, id: &str) -> Option<usize> {
        self.sections.iter().position(|section| section.kind == T::KIND && section.id == id)
    }
}

impl FromIterator<Section> for State {
    fn from_iter<I: IntoIterator<Item = Section>>(sections: I) -> Self {
        Self { sections: sections.into_iter().collect() }
    }
}

/// A number that changes with the text, whose blanks do not count (32-bit FNV-1a).
#[doc(hidden)]
#[must_use]
#[allow(clippy::indexing_slicing, reason = "runs in the compiler, where an index out of bounds is an error")]
pub const fn fingerprint(text: &str) -> usize {
    let bytes = text.as_bytes();
    let mut hash = 0x811c_9dc5_u32;
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_whitespace() {
            hash = (hash ^ bytes[at] as u32).wrapping_mul(0x0100_0193);
        }
        at += 1;
    }
    hash as usize
}

/// Declares a structure that is kept in snapshots: its kind, its version, and the fingerprint of its fields.
///
/// The build fails when the fields change and the fingerprint does not; the compiler then names the new
/// one. Who changes it raises the version too, keeps the old form readable (`upgraded by` a function of the
/// shape of [`Saved::upgrade`]), and adds a golden snapshot.
macro_rules! saved {
    (
        $kind:literal, version $version:literal, fingerprint $fingerprint:literal
        $(, upgraded by $upgrade:path)?;
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type),*
        }

        impl $crate::state::Saved for $name {
            const KIND: &'static str = $kind;
            const VERSION: u16 = $version;

            $(fn upgrade(version: u16, payload: &[u8]) -> Option<Self> {
                $upgrade(version, payload)
            })?
        }

        const _: [(); $fingerprint] = [(); $crate::state::fingerprint(stringify!($($field: $type),*))];
    };
}
pub(crate) use saved;

#[cfg(test)]
mod tests;
