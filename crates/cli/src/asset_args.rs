//! Flags of uploaded assets.

use std::num::TryFromIntError;
use std::time::Duration;

use clap::Args;
use vlmd_server::AssetLimits;

use crate::args::{ByteSize, positive, seconds};

#[derive(Debug, Args)]
pub(crate) struct AssetArgs {
    /// Memory for pictures that clients upload as assets before they ask about them; 0 takes none
    #[arg(
        long,
        env = "VLMD_ASSET_BYTES",
        value_name = "SIZE",
        default_value = "256MiB"
    )]
    asset_bytes: ByteSize,
    /// Of it, for the assets of one API key
    #[arg(
        long,
        env = "VLMD_ASSET_OWNER_BYTES",
        value_name = "SIZE",
        default_value = "128MiB"
    )]
    asset_owner_bytes: ByteSize,
    /// Assets at a time
    #[arg(long, env = "VLMD_ASSET_COUNT", default_value_t = AssetLimits::DEFAULT_COUNT, value_parser = positive)]
    asset_count: usize,
    /// Assets of one API key at a time
    #[arg(long, env = "VLMD_ASSET_OWNER_COUNT", default_value_t = AssetLimits::DEFAULT_OWNER_COUNT, value_parser = positive)]
    asset_owner_count: usize,
    /// Seconds after which an asset is dropped
    #[arg(long, env = "VLMD_ASSET_TTL", default_value = "3600", value_parser = seconds)]
    asset_ttl: Duration,
}

impl AssetArgs {
    /// The limits, with the most bytes that a picture may have.
    pub(crate) fn limits(&self, file_bytes: u64) -> Result<AssetLimits, TryFromIntError> {
        Ok(AssetLimits {
            bytes: usize::try_from(self.asset_bytes.0)?,
            owner_bytes: usize::try_from(self.asset_owner_bytes.0)?,
            count: self.asset_count,
            owner_count: self.asset_owner_count,
            file_bytes: usize::try_from(file_bytes)?,
            ttl: self.asset_ttl,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        assets: AssetArgs,
    }

    #[test]
    fn flags_default_to_the_servers_own_limits() {
        let limits = |line: &[&str]| Line::parse_from(line).assets.limits(9).unwrap();
        let defaults = AssetLimits {
            file_bytes: 9,
            ..AssetLimits::default()
        };
        assert_eq!(limits(&["vlmd"]), defaults);
        let given = limits(&["vlmd", "--asset-bytes", "1MiB", "--asset-ttl", "0.5"]);
        assert_eq!(given.bytes, 1 << 20);
        assert_eq!(given.ttl, Duration::from_millis(500));
    }
}
