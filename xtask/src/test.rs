//! x
/// x
pub fn all() -> anyhow::Result<()> {
    Ok(())
}
