//! The format that an upper has, by its marks.

use crate::marks::Format;
use crate::tools::layer::{Layer, LayerDir};
use crate::tools::rewrite::Facts;
use crate::tools::{ToolError, joined};

/// The format that most marks of an upper have; aufs's if there are as many of each, or none.
pub(super) fn common_format(layer: &Layer) -> Result<Format, ToolError> {
    let mut counts = (0, 0);
    count(layer, b"", &mut counts)?;
    Ok(if counts.1 > counts.0 { Format::Overlay } else { Format::Aufs })
}

fn count(layer: &Layer, path: &[u8], counts: &mut (u64, u64)) -> Result<(), ToolError> {
    let dir = layer.read(path)?;
    let facts = Facts::of(&dir).map_err(ToolError::branch(path, "marks"))?;
    counts.0 += u64::from(dir.opaque_file);
    counts.1 += facts.carriers.len() as u64;
    for said in dir.names.values() {
        counts.0 += u64::from(said.file.is_some()) + u64::from(said.marked_device);
        counts.1 += u64::from(said.device) + u64::from(said.xattr);
    }
    let children = subdirectories(&dir, path);
    drop(dir);
    children.iter().try_for_each(|child| count(layer, child, counts))
}

fn subdirectories(dir: &LayerDir, path: &[u8]) -> Vec<Vec<u8>> {
    dir.objects().filter(|(_, said)| said.is_dir()).map(|(name, _)| joined(path, name)).collect()
}
