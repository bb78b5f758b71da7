//! Everything that a snapshot's state file says, to be shown.

use std::fmt::Write;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::{Serialize, Serializer};

use super::folder::{Error, Folder};
use super::manifest::Manifest;

/// What there is to say about a snapshot.
#[derive(Clone, Debug, Serialize)]
pub struct Info {
    /// Its directory.
    pub path: PathBuf,
    /// The version of the format.
    pub format_version: u16,
    /// The length of the state file.
    pub state_bytes: u64,
    /// What the image of memory takes on the disk.
    pub memory_bytes_on_disk: u64,
    /// The length of the recorded working set, if there is one.
    pub working_set_bytes: Option<u64>,
    /// What it says of itself.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// The files elsewhere that the copies of disks lie over, each with the device, the uppermost first.
    pub disks_lie_over: Vec<(String, PathBuf)>,
    /// What the machine's parts have kept.
    pub sections: Vec<Part>,
}

/// A section of the machine's.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Whose it is.
    pub id: String,
    /// What it is.
    pub kind: String,
    /// Which form of it.
    pub version: u16,
    /// The bytes of it; in JSON as hexadecimal digits.
    #[serde(serialize_with = "hexadecimal")]
    pub payload: Vec<u8>,
}

impl Info {
    /// What there is to say about this one.
    ///
    /// # Errors
    /// A file of it cannot be looked at.
    pub fn of(folder: &Folder) -> Result<Self, Error> {
        let failed = |source: io::Error| folder.failed("read", source);
        let working_set = folder.working_set()?.map(|file| file.metadata()).transpose().map_err(failed)?;
        let parts = folder.state().sections().iter().cloned();
        Ok(Self {
            path: folder.path().to_owned(),
            format_version: folder.format_version(),
            state_bytes: folder.state_len(),
            // st_blocks counts 512 bytes each, whatever the file system does.
            memory_bytes_on_disk: folder.memory()?.metadata().map_err(failed)?.blocks() * 512,
            working_set_bytes: working_set.map(|metadata| metadata.len()),
            manifest: folder.manifest().clone(),
            disks_lie_over: folder.stands_on()?,
            sections: parts
                .map(|section| Part {
                    id: section.id,
                    kind: section.kind,
                    version: section.version,
                    payload: section.payload,
                })
                .collect(),
        })
    }
}

fn hexadecimal<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Into a string nothing fails.
        let _ = write!(text, "{byte:02x}");
    }
    serializer.serialize_str(&text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::{manifest, save};

    #[test]
    fn everything_is_in_the_json() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snap");
        let saved = manifest(1);
        save(&path, 1, &saved).unwrap();
        let folder = Folder::open(&path).unwrap();
        std::fs::write(path.join("working-set"), b"pages").unwrap();
        let json = serde_json::to_value(Info::of(&folder).unwrap()).unwrap();
        assert_eq!(json["path"], path.to_str().unwrap());
        assert_eq!(json["format_version"], 1);
        assert_eq!(json["state_bytes"], folder.state_len());
        let on_disk = json["memory_bytes_on_disk"].as_u64().unwrap();
        assert!((1..16 << 20).contains(&on_disk), "{on_disk}");
        assert_eq!(json["working_set_bytes"], 5);
        assert_eq!(json["id"], saved.id.to_string());
        assert_eq!(json["created"], saved.created);
        assert_eq!(json["program"], env!("CARGO_PKG_VERSION"));
        assert_eq!(json["base"], serde_json::Value::Null);
        assert_eq!(json["config"]["memory"], "16M");
        assert_eq!(json["image"]["chunks"].as_array().unwrap().len(), 16);
        assert_eq!(json["host"]["tsc_khz"], 2_500_000);
        assert_eq!(json["disks"], serde_json::json!([]));
        assert_eq!(json["disks_lie_over"], serde_json::json!([]));
        let payload = "61206d616368696e6527732070617274";
        let part = serde_json::json!({"id": "vcpu0", "kind": "registers", "version": 1, "payload": payload});
        assert_eq!(json["sections"], serde_json::json!([part]));
    }
}
