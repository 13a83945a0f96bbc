//! x
/// x
pub fn demo(_json: Option<&std::path::Path>) -> anyhow::Result<()> { Ok(()) }
