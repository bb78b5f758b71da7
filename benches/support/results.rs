//! Where figures are kept.

use std::fs;
use std::path::Path;

use serde::Serialize;

/// Writes figures to a file of `benches/results`.
pub(crate) fn save(name: &str, results: &impl Serialize) -> anyhow::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/results");
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    fs::write(&path, format!("{}\n", serde_json::to_string_pretty(results)?))?;
    println!("\nwritten to {}", path.display());
    Ok(())
}
